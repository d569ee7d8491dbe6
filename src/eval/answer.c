/* The rules of answer.h, each a scan over the text from its beginning, as the regular expressions are applied. */
#include "eval/answer.h"

#include <string.h>

enum { CLIP = 300 }; /* verl looks at so many characters */

static const char mark[] = "#### ";
enum { MARK = sizeof mark - 1 };

const char *answer_rule_name(AnswerRule rule) {
    static const char *const names[ANSWER_RULES] = {"exact_match", "gsm8k_strict", "gsm8k_flexible", "harness_strict",
                                                    "harness_flexible"};
    return names[rule];
}

void answer_scratch_free(AnswerScratch *scratch) {
    str_free(&scratch->said);
    str_free(&scratch->right);
}

/* ---- matches ---- */

static AnswerText part(AnswerText t, size_t from, size_t to) { return (AnswerText){t.text + from, to - from}; }

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_number(char c) { return is_digit(c) || c == '.' || c == ','; }
static bool is_amount(char c) { return is_number(c) || c == '$'; }

/* How many characters of this class stand at `at`. */
static size_t run(AnswerText t, size_t at, bool (*is)(char)) {
    size_t end = at;
    while (end < t.n && is(t.text[end])) end++;
    return end - at;
}

/* Where a match of -?[0-9.,]+ at `at` ends; `at` itself when there is none. */
static size_t number_end(AnswerText t, size_t at) {
    size_t digits = at + (at < t.n && t.text[at] == '-'), n = run(t, digits, is_number);
    return n ? digits + n : at;
}

/* The same of -?[$0-9.,]{2,}|-?[0-9]+ */
static size_t amount_end(AnswerText t, size_t at) {
    size_t digits = at + (at < t.n && t.text[at] == '-'), n = run(t, digits, is_amount);
    if (n < 2) n = run(t, digits, is_digit);
    return n ? digits + n : at;
}

/* The same of #### (-?[0-9.,]+), whose number begins MARK behind `at`. */
static size_t marked_end(AnswerText t, size_t at) {
    if (t.n - at < MARK || memcmp(t.text + at, mark, MARK) != 0) return at;
    size_t end = number_end(t, at + MARK);
    return end > at + MARK ? end : at;
}

typedef size_t (*MatchEnd)(AnswerText t, size_t at);

/* The next match from *at on, which goes behind it; n is 0 when there is none. */
static AnswerText next_match(AnswerText t, MatchEnd match, size_t *at) {
    for (; *at < t.n; ++*at) {
        size_t from = *at, end = match(t, from);
        if (end == from) continue;
        *at = end;
        return part(t, match == marked_end ? from + MARK : from, end);
    }
    return (AnswerText){0};
}

static AnswerText first_match(AnswerText t, MatchEnd match) {
    size_t at = 0;
    return next_match(t, match, &at);
}

static AnswerText last_match(AnswerText t, MatchEnd match) {
    size_t at = 0;
    AnswerText last = {0};
    for (AnswerText m; (m = next_match(t, match, &at)).n;) last = m;
    return last;
}

/* The last number that is not "."; when all are, the first, as verl's loop ends there. */
static AnswerText last_number(AnswerText t) {
    size_t at = 0;
    AnswerText last = {0};
    for (AnswerText m; (m = next_match(t, number_end, &at)).n;)
        if (!last.n || m.n > 1 || *m.text != '.') last = m;
    return last;
}

static bool begins_character(char c) { return ((unsigned char)c & 0xC0) != 0x80; }

/* The last CLIP characters. */
static AnswerText clipped(AnswerText t) {
    size_t at = t.n, n = 0;
    while (at > 0 && n < CLIP) n += begins_character(t.text[--at]);
    return part(t, at, t.n);
}

/* ---- as they are compared ---- */

static Status add_without(Str *out, AnswerText t, const char *unwanted) {
    TRY_RETURN(str_add(out, "", 0));
    for (size_t i = 0; i < t.n; i++)
        if (!t.text[i] || !strchr(unwanted, t.text[i])) TRY_RETURN(str_add(out, t.text + i, 1));
    return TANE_OK;
}

/* The harness's own: without , and $, behind the last mark, without the full stop at the end (of the last line). */
static Status add_bare(Str *out, AnswerText t) {
    TRY_RETURN(add_without(out, t, ",$"));
    for (size_t at = out->len; at-- > 0;) {
        if (out->len - at < MARK || memcmp(out->text + at, mark, MARK) != 0) continue;
        out->len -= at + MARK;
        memmove(out->text, out->text + at + MARK, out->len);
        break;
    }
    size_t end = out->len - (out->len && out->text[out->len - 1] == '\n');
    if (end && out->text[end - 1] == '.') {
        memmove(out->text + end - 1, out->text + end, out->len - end);
        out->len--;
    }
    out->text[out->len] = 0;
    return TANE_OK;
}

Status answer_extract(AnswerRule rule, AnswerText said, Str *out, bool *found) {
    AnswerText match = said;
    out->len = 0;
    switch (rule) {
    case ANSWER_GSM8K_STRICT: match = last_match(clipped(said), marked_end); break;
    case ANSWER_GSM8K_FLEXIBLE: match = last_number(clipped(said)); break;
    case ANSWER_HARNESS_STRICT: match = first_match(said, marked_end); break;
    case ANSWER_HARNESS_FLEXIBLE: match = last_match(said, amount_end); break;
    default: break;
    }
    *found = rule == ANSWER_EXACT || match.n > 0;
    if (!*found) return TANE_OK;
    if (rule == ANSWER_HARNESS_STRICT || rule == ANSWER_HARNESS_FLEXIBLE) return add_bare(out, match);
    return add_without(out, match, rule == ANSWER_GSM8K_STRICT ? "," : "");
}

Status answer_expected(AnswerRule rule, AnswerText right, Str *out, bool *found) {
    out->len = 0;
    *found = rule == ANSWER_EXACT;
    if (rule == ANSWER_EXACT) return add_without(out, right, "");
    AnswerText match = first_match(right, marked_end);
    *found = match.n > 0;
    if (!*found) return TANE_OK;
    if (rule == ANSWER_HARNESS_STRICT || rule == ANSWER_HARNESS_FLEXIBLE) return add_bare(out, right);
    return add_without(out, match, ",");
}

Status answer_is_right(AnswerRule rule, AnswerText said, AnswerText right, AnswerScratch *scratch, bool *yes) {
    bool is_there, is_known;
    TRY_RETURN(answer_extract(rule, said, &scratch->said, &is_there));
    TRY_RETURN(answer_expected(rule, right, &scratch->right, &is_known));
    *yes = is_there && is_known && scratch->said.len == scratch->right.len &&
           (scratch->said.len == 0 || memcmp(scratch->said.text, scratch->right.text, scratch->said.len) == 0);
    return TANE_OK;
}
