/* Strings as Python's str treats them; see jinja_text.h. */
#include "text/jinja_text.h"

#include <string.h>
#include <utf8proc.h>

#include "text/utf8.h"

/* ---- characters ------------------------------------------------------------------------------------------------- */

size_t text_encode(uint32_t code, char out[4]) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

size_t text_length(const JStr *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
    return n;
}

size_t text_offset(const JStr *s, size_t i) {
    size_t at = 0;
    while (i-- && at < s->n) at += text_char(s->data + at);
    return at;
}

bool text_is_space(uint32_t c) {
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static uint32_t code_at(const char *text, size_t n) {
    uint32_t code = UTF8_REPLACEMENT;
    utf8_decode(text, n, &code);
    return code;
}

/* Where the character that ends at `end` begins. */
static size_t before(const char *text, size_t end) {
    do end--;
    while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80);
    return end;
}

size_t text_space_before(const char *text, size_t n) {
    size_t at = 0;
    while (at < n && text_is_space(code_at(text + at, n - at))) at += text_char(text + at);
    return at;
}

size_t text_space_behind(const char *text, size_t n) {
    size_t end = n;
    while (end > 0) {
        size_t at = before(text, end);
        if (!text_is_space(code_at(text + at, end - at))) break;
        end = at;
    }
    return n - end;
}

/* Ends a line for str.splitlines. */
static bool is_line_end(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

/* ---- searching -------------------------------------------------------------------------------------------------- */

Status text_find(JRun *r, const JStr *s, const JStr *needle, size_t from, size_t to, size_t *at) {
    *at = SIZE_MAX;
    if (from > to || to - from < needle->n) return TANE_OK;
    TRY_RETURN(j_work(r, needle->n + 8));
    const char *found = needle->n ? memmem(s->data + from, to - from, needle->data, needle->n) : s->data + from;
    if (found) *at = (size_t)(found - s->data);
    return j_work(r, found ? *at - from : to - from);
}

Status text_rfind(JRun *r, const JStr *s, const JStr *needle, size_t from, size_t to, size_t *at) {
    *at = SIZE_MAX;
    if (from > to || to - from < needle->n) return TANE_OK;
    for (size_t i = to - needle->n + 1; i-- > from;) {
        bool candidate = needle->n == 0 || s->data[i] == needle->data[0];
        TRY_RETURN(j_work(r, candidate ? needle->n + 1 : 1));
        if (!candidate || memcmp(s->data + i, needle->data, needle->n)) continue;
        *at = i;
        break;
    }
    return TANE_OK;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

static bool strips(const JStr *chars, const char *text, size_t n) {
    if (!chars) return text_is_space(code_at(text, n));
    for (size_t i = 0; i < chars->n; i += text_char(chars->data + i))
        if (text_char(chars->data + i) == n && memcmp(chars->data + i, text, n) == 0) return true;
    return false;
}

Status text_strip(JRun *r, const JStr *s, const JStr *chars, int sides, JVal *out) {
    size_t from = 0, to = s->n;
    while ((sides & STRIP_LEFT) && from < to) {
        size_t len = text_char(s->data + from);
        if (!strips(chars, s->data + from, len)) break;
        from += len;
    }
    while ((sides & STRIP_RIGHT) && to > from) {
        size_t at = before(s->data, to);
        if (!strips(chars, s->data + at, to - at)) break;
        to = at;
    }
    TRY_RETURN(j_work(r, (s->n - (to - from)) * (1 + (chars ? chars->n : 0))));
    return j_part(r, s, from, to, out);
}

/* A list of parts whose number is not known before. */
typedef struct Parts {
    JVal *items;
    size_t n, cap;
} Parts;

static Status add_part(JRun *r, Parts *parts, const JStr *s, size_t from, size_t to) {
    if (parts->n == parts->cap) {
        size_t cap = parts->cap ? 2 * parts->cap : 8;
        JVal *items;
        TRY_RETURN(J_NEW(r, &items, cap));
        if (parts->n) memcpy(items, parts->items, parts->n * sizeof *items);
        parts->items = items;
        parts->cap = cap;
    }
    return j_part(r, s, from, to, &parts->items[parts->n++]);
}

static Status list_of_parts(JRun *r, Parts *parts, bool backwards, JVal *out) {
    TRY_RETURN(j_seq(r, J_LIST, parts->n, out));
    for (size_t i = 0; i < parts->n; i++) out->seq->items[i] = parts->items[backwards ? parts->n - 1 - i : i];
    return TANE_OK;
}

static Status split_space(JRun *r, const JStr *s, int64_t most, Parts *parts) {
    size_t at = text_space_before(s->data, s->n);
    while (at < s->n) {
        if (most >= 0 && (int64_t)parts->n == most) return add_part(r, parts, s, at, s->n);
        size_t end = at;
        while (end < s->n && !text_is_space(code_at(s->data + end, s->n - end))) end += text_char(s->data + end);
        TRY_RETURN(add_part(r, parts, s, at, end));
        at = end + text_space_before(s->data + end, s->n - end);
    }
    return TANE_OK;
}

static Status rsplit_space(JRun *r, const JStr *s, int64_t most, Parts *parts) {
    size_t end = s->n - text_space_behind(s->data, s->n);
    while (end > 0) {
        if (most >= 0 && (int64_t)parts->n == most) return add_part(r, parts, s, 0, end);
        size_t at = end;
        while (at > 0) {
            size_t previous = before(s->data, at);
            if (text_is_space(code_at(s->data + previous, at - previous))) break;
            at = previous;
        }
        TRY_RETURN(add_part(r, parts, s, at, end));
        end = at - text_space_behind(s->data, at);
    }
    return TANE_OK;
}

Status text_split(JRun *r, const JStr *s, const JStr *sep, int64_t most, bool from_right, JVal *out) {
    Parts parts = {0};
    TRY_RETURN(j_work(r, s->n));
    if (!sep) {
        TRY_RETURN(from_right ? rsplit_space(r, s, most, &parts) : split_space(r, s, most, &parts));
        return list_of_parts(r, &parts, from_right, out);
    }
    if (sep->n == 0) return j_fail(r, TANE_EINVAL, "empty separator: split() wants at least one character");
    size_t from = 0, to = s->n;
    for (; most < 0 || (int64_t)parts.n < most;) {
        size_t at;
        TRY_RETURN(from_right ? text_rfind(r, s, sep, 0, to, &at) : text_find(r, s, sep, from, s->n, &at));
        if (at == SIZE_MAX) break;
        TRY_RETURN(from_right ? add_part(r, &parts, s, at + sep->n, to) : add_part(r, &parts, s, from, at));
        from = at + sep->n;
        to = at;
    }
    TRY_RETURN(from_right ? add_part(r, &parts, s, 0, to) : add_part(r, &parts, s, from, s->n));
    return list_of_parts(r, &parts, from_right, out);
}

Status text_split_lines(JRun *r, const JStr *s, bool keep_ends, JVal *out) {
    Parts parts = {0};
    TRY_RETURN(j_work(r, s->n));
    for (size_t from = 0; from < s->n;) {
        size_t end = from, len = 0;
        while (end < s->n && !is_line_end(code_at(s->data + end, s->n - end))) end += text_char(s->data + end);
        if (end < s->n)
            len = s->data[end] == '\r' && end + 1 < s->n && s->data[end + 1] == '\n' ? 2 : text_char(s->data + end);
        TRY_RETURN(add_part(r, &parts, s, from, keep_ends ? end + len : end));
        from = end + len;
    }
    return list_of_parts(r, &parts, false, out);
}

Status text_slice(JRun *r, const JStr *s, int64_t start, int64_t step, size_t n, JVal *out) {
    TRY_RETURN(j_work(r, s->n));
    if (step == 1 || n <= 1) {
        size_t from = text_offset(s, (size_t)start), to = from;
        for (size_t i = 0; i < n; i++) to += text_char(s->data + to);
        return j_part(r, s, n ? from : 0, n ? to : 0, out);
    }
    /* The places of all characters, since steps may be large and go backwards. */
    size_t length = text_length(s), *offsets;
    JBuilder b = {0};
    TRY_RETURN(J_NEW(r, &offsets, length + 1));
    for (size_t i = 0, at = 0; i <= length; i++) {
        offsets[i] = at;
        if (i < length) at += text_char(s->data + at);
    }
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)(start + (int64_t)i * step);
        TRY_RETURN(jb_add_part(r, &b, s, offsets[at], offsets[at + 1]));
    }
    return jb_finish(r, &b, out);
}

/* ---- putting together ------------------------------------------------------------------------------------------- */

static void set_markup(JVal *v, bool markup) {
    if (markup) ((JStr *)(uintptr_t)v->str)->markup = true; /* made a moment ago, nobody else has it */
}

Status text_replace(JRun *r, const JStr *s, const JStr *old, const JStr *new, int64_t most, JVal *out) {
    JBuilder b = {0};
    size_t from = 0, at;
    if (old->n == 0) { /* between all characters */
        for (int64_t done = 0; most < 0 || done < most; done++) {
            TRY_RETURN(jb_add_str(r, &b, new));
            if (from == s->n) break;
            size_t len = text_char(s->data + from);
            TRY_RETURN(jb_add_part(r, &b, s, from, from + len));
            from += len;
        }
    }
    for (int64_t done = 0; old->n && (most < 0 || done < most); done++) {
        TRY_RETURN(text_find(r, s, old, from, s->n, &at));
        if (at == SIZE_MAX) break;
        TRY_RETURN(jb_add_part(r, &b, s, from, at));
        TRY_RETURN(jb_add_str(r, &b, new));
        from = at + old->n;
    }
    if (from == 0 && b.n == 0) return j_part(r, s, 0, s->n, out);
    TRY_RETURN(jb_add_part(r, &b, s, from, s->n));
    TRY_RETURN(jb_finish(r, &b, out));
    set_markup(out, s->markup);
    return TANE_OK;
}

Status text_join(JRun *r, const JStr *sep, JVal items, bool strings_only, JVal *out) {
    JIter it;
    JBuilder b = {0};
    TRY_RETURN(j_walk(r, items, &it));
    for (size_t i = 0; i < it.n; i++) {
        JVal item = j_iter_at(&it, i);
        if (strings_only && item.type != J_STR)
            return j_fail(r, TANE_EINVAL, "sequence item %zu: expected str instance, %s found", i, j_type_name(item));
        if (i) TRY_RETURN(jb_add_str(r, &b, sep));
        TRY_RETURN(jb_add_value(r, &b, item));
    }
    return jb_finish(r, &b, out);
}

Status text_repeat(JRun *r, const JStr *s, int64_t times, JVal *out) {
    JBuilder b = {0};
    size_t bytes;
    if (times > 0 && (__builtin_mul_overflow(s->n, (size_t)times, &bytes) || bytes > r->memory))
        return j_fail(r, TANE_EINVAL, "a text of %zu bytes is to be repeated %lld times: too long for a template", s->n,
                      (long long)times);
    for (int64_t i = 0; s->n && i < times; i++) TRY_RETURN(jb_add_str(r, &b, s));
    TRY_RETURN(jb_finish(r, &b, out));
    set_markup(out, s->markup);
    return TANE_OK;
}

Status text_pad(JRun *r, const JStr *s, int64_t width, const JStr *fill, char side, JVal *out) {
    static const JStr space = {.data = " ", .n = 1};
    JBuilder b = {0};
    if (!fill) fill = &space;
    if (text_length(fill) != 1) return j_fail(r, TANE_EINVAL, "The fill character must be exactly one character long");
    int64_t n = (int64_t)text_length(s), extra = width > n ? width - n : 0;
    if (extra > (int64_t)r->memory) return j_fail(r, TANE_EINVAL, "a width of %lld is too much", (long long)width);
    /* Python puts the odd one of "center" on the left when the width is odd. */
    int64_t left = side == 'l' ? 0 : side == 'r' ? extra : extra / 2 + (extra & width & 1);
    for (int64_t i = 0; i < left; i++) TRY_RETURN(jb_add_str(r, &b, fill));
    TRY_RETURN(jb_add_str(r, &b, s));
    for (int64_t i = left; i < extra; i++) TRY_RETURN(jb_add_str(r, &b, fill));
    TRY_RETURN(jb_finish(r, &b, out));
    set_markup(out, s->markup);
    return TANE_OK;
}

Status text_escape(JRun *r, const JStr *s, JVal *out) {
    JBuilder b = {0};
    if (s->markup) {
        *out = j_from_str(s);
        return TANE_OK;
    }
    for (size_t i = 0; i < s->n; i++) {
        char c = s->data[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '"'  ? "&#34;"
                             : c == '\'' ? "&#39;"
                                         : NULL;
        if (entity) TRY_RETURN(jb_add(r, &b, entity, strlen(entity), j_mark_at(s, i)));
        else TRY_RETURN(jb_add_part(r, &b, s, i, i + 1));
    }
    TRY_RETURN(jb_finish(r, &b, out));
    set_markup(out, true);
    return TANE_OK;
}

/* ---- letter case ------------------------------------------------------------------------------------------------ */

typedef struct Expansion {
    uint32_t code;
    const char *upper, *title;
} Expansion;
static const Expansion expansions[] = {
#define CASE(code, upper, title) {code, upper, title},
#include "text/case_expand.def"
#undef CASE
};

static const Expansion *expansion(uint32_t code) {
    size_t lo = 0, hi = sizeof expansions / sizeof *expansions;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (expansions[mid].code == code) return &expansions[mid];
        if (expansions[mid].code < code) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

static bool is_lower(uint32_t c) {
    return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_LL || utf8proc_islower((int32_t)c);
}
static bool is_upper(uint32_t c) {
    return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_LU || utf8proc_isupper((int32_t)c);
}
static bool is_cased(uint32_t c) {
    return is_lower(c) || is_upper(c) || utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_LT;
}

/* Passed over when a final sigma is looked for: Unicode's Case_Ignorable. */
static bool is_case_ignorable(uint32_t c) {
    switch (utf8proc_category((int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
    }
    static const uint16_t inside_words[] = {'\'',   '.',    ':',    0xB7,   0x387,  0x55F,  0x5F4,  0x2018, 0x2019,
                                            0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < sizeof inside_words / sizeof *inside_words; i++)
        if (inside_words[i] == c) return true;
    return false;
}

/* Is the capital sigma in at..end the last letter of a word? */
static bool sigma_is_final(const JStr *s, size_t at, size_t end) {
    uint32_t c = 0;
    bool cased = false;
    for (size_t i = at; i > 0 && !cased;) {
        size_t p = before(s->data, i);
        c = code_at(s->data + p, i - p);
        if (!is_case_ignorable(c)) {
            cased = is_cased(c);
            break;
        }
        i = p;
    }
    if (!cased) return false;
    for (size_t i = end; i < s->n; i += text_char(s->data + i)) {
        c = code_at(s->data + i, s->n - i);
        if (!is_case_ignorable(c)) return !is_cased(c);
    }
    return true;
}

enum { CAPITAL_SIGMA = 0x3A3, FINAL_SIGMA = 0x3C2, CAPITAL_I_DOT = 0x130, DOT_ABOVE = 0x307 };

static Status add_lower(JRun *r, JBuilder *b, const JStr *s, size_t at, size_t len, uint32_t c) {
    uint8_t mark = j_mark_at(s, at);
    if (c == CAPITAL_SIGMA && sigma_is_final(s, at, at + len)) return jb_add_code(r, b, FINAL_SIGMA, mark);
    if (c == CAPITAL_I_DOT) {
        TRY_RETURN(jb_add_code(r, b, 'i', mark));
        return jb_add_code(r, b, DOT_ABOVE, mark);
    }
    return jb_add_code(r, b, (uint32_t)utf8proc_tolower((int32_t)c), mark);
}

static Status add_raised(JRun *r, JBuilder *b, uint32_t c, bool title, uint8_t mark) {
    const Expansion *e = expansion(c);
    if (e) return jb_add(r, b, title ? e->title : e->upper, strlen(title ? e->title : e->upper), mark);
    return jb_add_code(r, b, (uint32_t)(title ? utf8proc_totitle((int32_t)c) : utf8proc_toupper((int32_t)c)), mark);
}

/* What Jinja's |title begins a new word behind. */
static bool begins_word(uint32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || text_is_space(c);
}

Status text_case(JRun *r, const JStr *s, TextCase to, JVal *out) {
    JBuilder b = {0};
    bool start = true; /* of the text or of a word */
    for (size_t i = 0; i < s->n;) {
        size_t len = text_char(s->data + i);
        uint32_t c = code_at(s->data + i, len);
        bool raise = to == CASE_UPPER || (to == CASE_SWAP && is_lower(c)) ||
                     (start && (to == CASE_TITLE || to == CASE_CAPITALIZE || to == CASE_JINJA_TITLE));
        if (raise) TRY_RETURN(add_raised(r, &b, c, to == CASE_TITLE || to == CASE_CAPITALIZE, j_mark_at(s, i)));
        else if (to == CASE_SWAP && !is_upper(c)) TRY_RETURN(jb_add_part(r, &b, s, i, i + len));
        else TRY_RETURN(add_lower(r, &b, s, i, len, c));
        start = to == CASE_TITLE ? !is_cased(c) : to == CASE_JINJA_TITLE && begins_word(c);
        i += len;
    }
    TRY_RETURN(jb_finish(r, &b, out));
    set_markup(out, s->markup);
    return TANE_OK;
}

static bool is_letter(uint32_t c) {
    int k = utf8proc_category((int32_t)c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
static bool is_decimal(uint32_t c) { return utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_ND; }
static bool is_numeric(uint32_t c) {
    int k = utf8proc_category((int32_t)c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}
static bool is_alnum(uint32_t c) { return is_letter(c) || is_numeric(c); }
static bool is_ascii(uint32_t c) { return c < 0x80; }

/* "upper" and "lower": some character has a case, and none has the other. */
static bool is_all_case(const JStr *s, bool upper) {
    bool some = false;
    for (size_t i = 0; i < s->n; i += text_char(s->data + i)) {
        uint32_t c = code_at(s->data + i, s->n - i);
        if (upper ? is_lower(c) : is_upper(c)) return false;
        if (utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_LT) return false;
        some = some || (upper ? is_upper(c) : is_lower(c));
    }
    return some;
}

bool text_is(const JStr *s, const char *what) {
    static const struct {
        const char *name;
        bool (*test)(uint32_t code);
    } tests[] = {{"alpha", is_letter}, {"digit", is_decimal},    {"decimal", is_decimal}, {"numeric", is_numeric},
                 {"alnum", is_alnum},  {"space", text_is_space}, {"ascii", is_ascii}};
    if (!strcmp(what, "upper") || !strcmp(what, "lower")) return is_all_case(s, *what == 'u');
    for (size_t k = 0; k < sizeof tests / sizeof *tests; k++) {
        if (strcmp(what, tests[k].name)) continue;
        for (size_t i = 0; i < s->n; i += text_char(s->data + i))
            if (!tests[k].test(code_at(s->data + i, s->n - i))) return false;
        return s->n > 0 || tests[k].test == is_ascii;
    }
    return false;
}
