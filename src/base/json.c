/* JSON text to jansson values and back, and the getters for required and optional members.
 *
 * jansson holds the values; the text is parsed here. Its own lexer ignores a token buffer that failed to grow and then
 * reads past it, which an allocator that says no turns into a crash; and here the message can say what to change.
 */
#include "base/json.h"

#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { MAX_DEPTH = 512, MAX_FILE = 1 << 30 };

static locale_t c_locale;

/* Before main(), so before any thread and any other use of jansson: a value is freed by what allocated it, always. */
__attribute__((constructor)) static void json_start(void) {
    json_set_alloc_funcs(mem_alloc, mem_free);
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static Status no_memory(const char *where) { return FAIL(TANE_ENOMEM, "%s: out of memory while reading JSON", where); }

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct Parser {
    const char *where, *text, *p, *end;
    int depth;
    Str stack; /* keys and strings being decoded; each user takes back what it pushed */
} Parser;

/* "<where>:<line>:<column>: ..." for the character at `at`; columns count characters, not bytes. */
__attribute__((format(printf, 3, 4))) static Status bad(const Parser *ps, const char *at, const char *fmt, ...) {
    size_t line = 1, column = 1;
    for (const char *c = ps->text; c < at; c++) {
        if (*c == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            column++;
        }
    }
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return FAIL(TANE_EFORMAT, "%s:%zu:%zu: %s", ps->where, line, column, text);
}

/* How a message shows the character at `at`. */
static const char *shown(const Parser *ps, const char *at, char out[16]) {
    unsigned char c = at < ps->end ? (unsigned char)*at : 0;
    if (at >= ps->end) return "the end of the text";
    if (c < 0x20 || c >= 0x7f) snprintf(out, 16, "the byte 0x%02x", c);
    else snprintf(out, 16, "'%c'", c);
    return out;
}

static void skip_space(Parser *ps) {
    while (ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\r' || *ps->p == '\t')) ps->p++;
}

/* Length of the well-formed UTF-8 character at p (no overlong forms, no surrogates, at most U+10FFFF), or 0. */
static int utf8_length(const char *text, const char *end) {
    const unsigned char *p = (const unsigned char *)text;
    size_t room = (size_t)(end - text);
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    int n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (room < (size_t)n) return 0;
    unsigned char lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi) return 0;
    for (int i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

static Status push_code_point(Parser *ps, uint32_t c) {
    char b[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
    for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (char)(0x80 | (c & 0x3f));
    b[0] = (char)(lead[n] | c);
    return str_add(&ps->stack, b, (size_t)n);
}

/* The four hex digits behind "\u". */
static Status parse_hex4(Parser *ps, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < 4; i++, ps->p++) {
        char c = ps->p < ps->end ? *ps->p : 0, lower = (char)(c | 0x20);
        bool digit = c >= '0' && c <= '9';
        if (!digit && !(lower >= 'a' && lower <= 'f')) return bad(ps, ps->p, "\\u needs four hexadecimal digits");
        *out = *out << 4 | (uint32_t)(digit ? c - '0' : lower - 'a' + 10);
    }
    return TANE_OK;
}

/* What follows a backslash. */
static Status parse_escape(Parser *ps) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *at = ps->p - 1, *name = ps->p < ps->end && *ps->p ? strchr(names, *ps->p) : NULL;
    if (name) {
        ps->p++;
        return str_add(&ps->stack, &values[name - names], 1);
    }
    if (ps->p >= ps->end || *ps->p != 'u')
        return bad(ps, at, "unknown escape; a backslash itself is written \\\\, a newline \\n");
    ps->p++;
    uint32_t c, low;
    TRY_RETURN(parse_hex4(ps, &c));
    if (c == 0) return bad(ps, at, "\\u0000 is not allowed in text; remove it");
    if (c < 0xd800 || c > 0xdfff) return push_code_point(ps, c);
    if (c > 0xdbff || ps->end - ps->p < 2 || ps->p[0] != '\\' || ps->p[1] != 'u')
        return bad(ps, at, "\\u%04x is half of a surrogate pair; write both halves or the character itself", c);
    ps->p += 2;
    TRY_RETURN(parse_hex4(ps, &low));
    if (low < 0xdc00 || low > 0xdfff)
        return bad(ps, at, "\\u%04x\\u%04x is not a surrogate pair; write the character itself", c, low);
    return push_code_point(ps, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
}

/* A string, decoded onto the stack and NUL-terminated there; the opening quote is at p. */
static Status parse_string(Parser *ps, size_t *offset, size_t *length) {
    const char *open = ps->p++;
    *offset = ps->stack.len;
    for (;;) {
        const char *run = ps->p;
        while (ps->p < ps->end && *ps->p != '"' && *ps->p != '\\' && (unsigned char)*ps->p >= 0x20) {
            int n = utf8_length(ps->p, ps->end);
            if (!n) return bad(ps, ps->p, "the byte 0x%02x is not UTF-8; save the text as UTF-8", (unsigned char)*ps->p);
            ps->p += n;
        }
        TRY_RETURN(str_add(&ps->stack, run, (size_t)(ps->p - run)));
        if (ps->p >= ps->end) return bad(ps, open, "this string has no closing quote");
        if (*ps->p == '"') break;
        if (*ps->p == '\n') return bad(ps, open, "this string has no closing quote on its line; a newline is written \\n");
        if (*ps->p != '\\')
            return bad(ps, ps->p, "control character 0x%02x in a string; write it as \\u%04x", *ps->p, *ps->p);
        ps->p++;
        TRY_RETURN(parse_escape(ps));
    }
    ps->p++;
    *length = ps->stack.len - *offset;
    return str_add(&ps->stack, "", 1);
}

static bool skip_digits(Parser *ps) {
    const char *from = ps->p;
    while (ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9') ps->p++;
    return ps->p > from;
}

static Status parse_number(Parser *ps, json_t **out) {
    const char *from = ps->p;
    bool real = false;
    if (*ps->p == '-') ps->p++;
    const char *first = ps->p;
    if (!skip_digits(ps)) return bad(ps, from, "'-' without a number");
    if (*first == '0' && ps->p - first > 1) return bad(ps, from, "a number must not begin with 0; remove the zeros");
    if (ps->p < ps->end && *ps->p == '.') {
        real = true;
        ps->p++;
        if (!skip_digits(ps)) return bad(ps, from, "a digit is missing behind the decimal point");
    }
    if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
        real = true;
        ps->p++;
        if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-')) ps->p++;
        if (!skip_digits(ps)) return bad(ps, from, "a digit is missing in the exponent");
    }
    size_t offset = ps->stack.len;
    TRY_RETURN(str_add(&ps->stack, from, (size_t)(ps->p - from)));
    const char *text = ps->stack.text + offset;
    int shown_length = ps->p - from > 40 ? 40 : (int)(ps->p - from);
    ps->stack.len = offset;
    if (real) {
        double x = strtod_l(text, NULL, c_locale);
        if (x - x != 0) return bad(ps, from, "%.*s is too large for a number", shown_length, from);
        *out = json_real(x);
    } else {
        errno = 0;
        long long x = strtoll(text, NULL, 10);
        if (errno) return bad(ps, from, "%.*s does not fit in 64 bits", shown_length, from);
        *out = json_integer(x);
    }
    return *out ? TANE_OK : no_memory(ps->where);
}

static Status parse_word(Parser *ps, json_t **out) {
    static const struct {
        const char *text;
        json_t *(*make)(void);
    } words[] = {{"true", json_true}, {"false", json_false}, {"null", json_null}};
    size_t n = 0, room = (size_t)(ps->end - ps->p);
    while (n < room && ((ps->p[n] | 0x20) >= 'a' && (ps->p[n] | 0x20) <= 'z')) n++;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].text) != n || memcmp(words[i].text, ps->p, n) != 0) continue;
        ps->p += n;
        *out = words[i].make();
        return TANE_OK;
    }
    char one[16];
    if (n > 0)
        return bad(ps, ps->p, "%.*s is not a JSON value; text goes in double quotes, and the words are true, false, null",
                   n > 40 ? 40 : (int)n, ps->p);
    if (room && *ps->p == '\'') return bad(ps, ps->p, "text goes in double quotes, not in single ones");
    return bad(ps, ps->p, "expected a value, found %s", shown(ps, ps->p, one));
}

static Status parse_value(Parser *ps, json_t **out);

/* Behind an element: true when another one follows, false behind the closing bracket. */
static Status parse_comma(Parser *ps, char close, bool *more) {
    char one[16];
    skip_space(ps);
    *more = ps->p < ps->end && *ps->p == ',';
    if (!*more && (ps->p >= ps->end || *ps->p != close))
        return bad(ps, ps->p, "expected ',' or '%c', found %s", close, shown(ps, ps->p, one));
    const char *comma = ps->p++;
    if (!*more) return TANE_OK;
    skip_space(ps);
    if (ps->p < ps->end && *ps->p == close) return bad(ps, comma, "remove this comma: nothing follows it");
    return TANE_OK;
}

static Status parse_array(Parser *ps, json_t *array) {
    ps->p++;
    skip_space(ps);
    bool more = ps->p >= ps->end || *ps->p != ']';
    if (!more) ps->p++;
    while (more) {
        json_t *value;
        TRY_RETURN(parse_value(ps, &value));
        if (json_array_append_new(array, value)) return no_memory(ps->where);
        TRY_RETURN(parse_comma(ps, ']', &more));
    }
    return TANE_OK;
}

static Status parse_object(Parser *ps, json_t *object) {
    char one[16];
    ps->p++;
    skip_space(ps);
    bool more = ps->p >= ps->end || *ps->p != '}';
    if (!more) ps->p++;
    while (more) {
        size_t offset, length;
        json_t *value;
        const char *at = ps->p;
        if (ps->p >= ps->end || *ps->p != '"')
            return bad(ps, ps->p, "expected a key in double quotes, found %s", shown(ps, ps->p, one));
        TRY_RETURN(parse_string(ps, &offset, &length));
        if (json_object_get(object, ps->stack.text + offset))
            return bad(ps, at, "the key \"%.80s\" is there twice; keep one of them", ps->stack.text + offset);
        skip_space(ps);
        if (ps->p >= ps->end || *ps->p != ':')
            return bad(ps, ps->p, "expected ':' behind the key \"%.80s\", found %s", ps->stack.text + offset,
                       shown(ps, ps->p, one));
        ps->p++;
        TRY_RETURN(parse_value(ps, &value));
        if (json_object_set_new_nocheck(object, ps->stack.text + offset, value)) return no_memory(ps->where);
        ps->stack.len = offset;
        TRY_RETURN(parse_comma(ps, '}', &more));
    }
    return TANE_OK;
}

static Status parse_container(Parser *ps, bool object, json_t **out) {
    if (ps->depth == MAX_DEPTH) return bad(ps, ps->p, "nested deeper than %d levels", MAX_DEPTH);
    json_t *value = object ? json_object() : json_array();
    if (!value) return no_memory(ps->where);
    ps->depth++;
    Status st = object ? parse_object(ps, value) : parse_array(ps, value);
    ps->depth--;
    if (st == TANE_OK) *out = value;
    else json_decref(value);
    return st;
}

static Status parse_value(Parser *ps, json_t **out) {
    *out = NULL;
    skip_space(ps);
    char c = ps->p < ps->end ? *ps->p : 0;
    if (c == '{' || c == '[') return parse_container(ps, c == '{', out);
    if (c == '-' || (c >= '0' && c <= '9')) return parse_number(ps, out);
    if (c != '"') return parse_word(ps, out);
    size_t offset, length;
    TRY_RETURN(parse_string(ps, &offset, &length));
    *out = json_stringn_nocheck(ps->stack.text + offset, length);
    ps->stack.len = offset;
    return *out ? TANE_OK : no_memory(ps->where);
}

Status json_read_text(const char *where, const char *text, size_t n, json_t **out) {
    Parser ps = {.where = where, .text = text, .p = text, .end = text + n};
    char one[16];
    *out = NULL;
    skip_space(&ps);
    if (ps.p == ps.end) return FAIL(TANE_EFORMAT, "%s: empty, but a JSON value is needed", where);
    Status st = parse_value(&ps, out);
    if (st == TANE_OK) {
        skip_space(&ps);
        if (ps.p < ps.end) st = bad(&ps, ps.p, "expected nothing more behind the value, found %s", shown(&ps, ps.p, one));
    }
    if (st != TANE_OK) {
        json_decref(*out);
        *out = NULL;
    }
    str_free(&ps.stack);
    return st;
}

Status json_read_file(const char *path, json_t **out) {
    char *text;
    size_t n;
    *out = NULL;
    TRY_RETURN(file_read(path, MAX_FILE, &text, &n));
    size_t bom = n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* some editors of Windows write one */
    Status st = json_read_text(path, text + bom, n - bom, out);
    mem_free(text);
    return st;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static Status write_text(Str *out, const char *text, size_t n) {
    TRY_RETURN(str_add(out, "\"", 1));
    for (size_t i = 0, run = 0;; i++) {
        unsigned char c = i < n ? (unsigned char)text[i] : 0;
        if (i < n && c >= 0x20 && c != '"' && c != '\\') continue;
        TRY_RETURN(str_add(out, text + run, i - run));
        if (i == n) break;
        run = i + 1;
        if (c == '"' || c == '\\') TRY_RETURN(str_printf(out, "\\%c", c));
        else if (c == '\n') TRY_RETURN(str_add(out, "\\n", 2));
        else if (c == '\t') TRY_RETURN(str_add(out, "\\t", 2));
        else if (c == '\r') TRY_RETURN(str_add(out, "\\r", 2));
        else TRY_RETURN(str_printf(out, "\\u%04x", c));
    }
    return str_add(out, "\"", 1);
}

/* The shortest decimal that reads back as the same number, always with a sign of being a real. */
static Status write_real(Str *out, double x) {
    char text[40];
    locale_t before = uselocale(c_locale);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod_l(text, NULL, c_locale) == x) break;
    }
    uselocale(before);
    return str_printf(out, strpbrk(text, ".e") ? "%s" : "%s.0", text);
}

static Status new_line(Str *out, int indent) { return indent < 0 ? TANE_OK : str_printf(out, "\n%*s", 2 * indent, ""); }

/* indent < 0: all on one line. */
static Status write_value(Str *out, const json_t *value, int indent) {
    int inner = indent < 0 ? -1 : indent + 1;
    size_t i = 0;
    switch (json_typeof(value)) {
    case JSON_NULL: return str_add(out, "null", 4);
    case JSON_TRUE: return str_add(out, "true", 4);
    case JSON_FALSE: return str_add(out, "false", 5);
    case JSON_INTEGER: return str_printf(out, "%lld", (long long)json_integer_value(value));
    case JSON_REAL: return write_real(out, json_real_value(value));
    case JSON_STRING: return write_text(out, json_string_value(value), json_string_length(value));
    case JSON_ARRAY:
        TRY_RETURN(str_add(out, "[", 1));
        for (; i < json_array_size(value); i++) {
            if (i) TRY_RETURN(str_add(out, ",", 1));
            TRY_RETURN(new_line(out, inner));
            TRY_RETURN(write_value(out, json_array_get(value, i), inner));
        }
        if (i) TRY_RETURN(new_line(out, indent));
        return str_add(out, "]", 1);
    case JSON_OBJECT:
        TRY_RETURN(str_add(out, "{", 1));
        for (void *it = json_object_iter((json_t *)(uintptr_t)value); it;
             it = json_object_iter_next((json_t *)(uintptr_t)value, it), i++) {
            const char *key = json_object_iter_key(it);
            if (i) TRY_RETURN(str_add(out, ",", 1));
            TRY_RETURN(new_line(out, inner));
            TRY_RETURN(write_text(out, key, strlen(key)));
            TRY_RETURN(str_add(out, ": ", indent < 0 ? 1 : 2));
            TRY_RETURN(write_value(out, json_object_iter_value(it), inner));
        }
        if (i) TRY_RETURN(new_line(out, indent));
        return str_add(out, "}", 1);
    }
    return FAIL(TANE_EINTERNAL, "a JSON value of unknown type");
}

Status json_write_str(Str *out, const json_t *root) { return write_value(out, root, -1); }

Status json_write_file(const char *path, const json_t *root) {
    Str text = {0};
    Status st = write_value(&text, root, 0);
    if (st == TANE_OK) st = str_add(&text, "\n", 1);
    if (st == TANE_OK) st = file_write_atomic(path, text.text, text.len);
    str_free(&text);
    return st;
}

/* ---- members ---------------------------------------------------------------------------------------------------- */

/* The member, or NULL when it is absent or null and not required. */
static Status find(const json_t *object, const char *where, const char *key, bool required, const char *wanted,
                   json_t **out) {
    *out = NULL;
    if (!json_is_object(object))
        return FAIL(TANE_EFORMAT, "%s: expected an object {...} with \"%s\" in it", where, key);
    *out = json_object_get(object, key);
    if (!required && json_is_null(*out)) *out = NULL;
    if (required && !*out) return FAIL(TANE_EFORMAT, "%s: \"%s\" is missing; it must be %s", where, key, wanted);
    return TANE_OK;
}

static Status wrong(const json_t *value, const char *where, const char *key, const char *wanted) {
    Str text = {0};
    TRY_RETURN(json_write_str(&text, value));
    Status st = FAIL(TANE_EFORMAT, "%s: \"%s\" is %.60s%s; it must be %s", where, key, text.text,
                     text.len > 60 ? "..." : "", wanted);
    str_free(&text);
    return st;
}

static Status get_int(const json_t *object, const char *where, const char *key, bool required, int64_t lo, int64_t hi,
                      int64_t *out) {
    char wanted[96] = "a whole number";
    if (hi != INT64_MAX)
        snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)lo, (long long)hi);
    else if (lo != INT64_MIN) snprintf(wanted, sizeof wanted, "a whole number of at least %lld", (long long)lo);
    json_t *value;
    TRY_RETURN(find(object, where, key, required, wanted, &value));
    if (!value) return TANE_OK;
    if (!json_is_integer(value) || json_integer_value(value) < lo || json_integer_value(value) > hi)
        return wrong(value, where, key, wanted);
    *out = json_integer_value(value);
    return TANE_OK;
}

static Status get_double(const json_t *object, const char *where, const char *key, bool required, double *out) {
    json_t *value;
    TRY_RETURN(find(object, where, key, required, "a number", &value));
    if (!value) return TANE_OK;
    if (!json_is_number(value)) return wrong(value, where, key, "a number");
    *out = json_number_value(value);
    return TANE_OK;
}

static Status get_bool(const json_t *object, const char *where, const char *key, bool required, bool *out) {
    json_t *value;
    TRY_RETURN(find(object, where, key, required, "true or false", &value));
    if (!value) return TANE_OK;
    if (!json_is_boolean(value)) return wrong(value, where, key, "true or false");
    *out = json_is_true(value);
    return TANE_OK;
}

static Status get_string(const json_t *object, const char *where, const char *key, bool required, const char **out) {
    json_t *value;
    TRY_RETURN(find(object, where, key, required, "a string", &value));
    if (!value) return TANE_OK;
    if (!json_is_string(value)) return wrong(value, where, key, "a string");
    *out = json_string_value(value);
    return TANE_OK;
}

Status json_get_int(const json_t *object, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out) {
    return get_int(object, where, key, true, lo, hi, out);
}
Status json_get_double(const json_t *object, const char *where, const char *key, double *out) {
    return get_double(object, where, key, true, out);
}
Status json_get_bool(const json_t *object, const char *where, const char *key, bool *out) {
    return get_bool(object, where, key, true, out);
}
Status json_get_string(const json_t *object, const char *where, const char *key, const char **out) {
    return get_string(object, where, key, true, out);
}
Status json_opt_int(const json_t *object, const char *where, const char *key, int64_t lo, int64_t hi, int64_t *out) {
    return get_int(object, where, key, false, lo, hi, out);
}
Status json_opt_double(const json_t *object, const char *where, const char *key, double *out) {
    return get_double(object, where, key, false, out);
}
Status json_opt_bool(const json_t *object, const char *where, const char *key, bool *out) {
    return get_bool(object, where, key, false, out);
}
Status json_opt_string(const json_t *object, const char *where, const char *key, const char **out) {
    return get_string(object, where, key, false, out);
}
