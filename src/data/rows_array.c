/* A JSON array of objects, taken apart without being parsed: an element is found by its brackets and strings alone and
 * handed out as it stands in the file. jsonl_parse checks it later, on any thread. */
#include <stdio.h>
#include <string.h>

#include "data/rows_parts.h"

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* ---- the end of an object ---- */

/* Behind a string whose inside begins at p; NULL when it does not end. A quote is escaped when an odd number of
 * backslashes stands before it. */
static const char *string_end(const char *p, const char *end) {
    for (const char *from = p;; from = p) {
        const char *quote = memchr(p, '"', (size_t)(end - p)), *slash = quote;
        if (!quote) return NULL;
        while (slash > from && slash[-1] == '\\') slash--;
        p = quote + 1;
        if ((quote - slash) % 2 == 0) return p;
    }
}

typedef enum ObjectEnd { OBJECT_WHOLE, OBJECT_OPEN, OBJECT_WRONG_BRACKET, OBJECT_TOO_DEEP } ObjectEnd;

/* text[0] is '{'. *n: behind the object, or at the bracket that is wrong or one too many. */
static ObjectEnd object_end(const char *text, size_t size, size_t *n) {
    char closing[JSONL_MAX_DEPTH + 1];
    size_t depth = 0;
    const char *p = text, *end = text + size;
    for (; p < end; p++) {
        char c = *p;
        *n = (size_t)(p - text);
        if (c == '"') {
            p = string_end(p + 1, end);
            if (!p) break;
            p--;
        } else if (c == '{' || c == '[') {
            if (depth == sizeof closing) return OBJECT_TOO_DEEP;
            closing[depth++] = c == '{' ? '}' : ']';
        } else if (c == '}' || c == ']') {
            if (closing[--depth] != c) return OBJECT_WRONG_BRACKET;
            if (depth > 0) continue;
            ++*n;
            return OBJECT_WHOLE;
        }
    }
    return OBJECT_OPEN;
}

bool object_over_lines(const char *text, size_t n) {
    size_t length, begin = 0;
    while (begin < n && is_space(text[begin])) begin++;
    if (begin == n || text[begin] != '{') return false;
    const char *newline = memchr(text + begin, '\n', n - begin);
    return newline && object_end(text + begin, (size_t)(newline - text) - begin, &length) == OBJECT_OPEN;
}

/* ---- the array ---- */

/* "path:7: behind element 3: expected <what>, found 'x'" at span->at. */
static Status unexpected(const TextSpan *span, const JsonArray *array, const char *wanted) {
    char found[32], where[48] = "";
    unsigned char c = (unsigned char)span->text[span->at];
    snprintf(found, sizeof found, c < 0x20 || c >= 0x7f ? "the byte 0x%02x" : "'%c'", c);
    if (array->elements) snprintf(where, sizeof where, "behind element %lld: ", (long long)array->elements);
    return FAIL(TANE_EFORMAT, "%s:%lld: %sexpected %s, found %s", span->path, (long long)span->line + 1, where, wanted,
                found);
}

/* The file is over, and only white space was left. */
static Status ended(const TextSpan *span, const JsonArray *array) {
    if (array->state == ARRAY_BEGIN) return FAIL(TANE_EFORMAT, "%s: the file is empty; it needs rows", span->path);
    if (array->state != ARRAY_END)
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: the file ends behind element %lld without the closing ']' of its array: it "
                    "looks cut off; get it again or add the bracket",
                    span->path, (long long)span->line + 1, (long long)array->elements);
    if (!span->any) return FAIL(TANE_EFORMAT, "%s: the array in it is empty; it needs objects {...}", span->path);
    return TANE_OK;
}

/* An element that is no whole object in the `size` bytes looked at. */
static Status bad_element(const TextSpan *span, const JsonArray *array, ObjectEnd how, size_t at) {
    const char *text = span->text + span->at;
    JsonlLine line = {span->path, span->line + 1, text, 0, false, array->elements + 1};
    if (how == OBJECT_OPEN && span->n - span->at > JSONL_MAX_LINE)
        return jsonl_fail(&line, "it is longer than %d MiB; is a bracket or a quote missing in it?",
                          JSONL_MAX_LINE >> 20);
    if (how == OBJECT_OPEN)
        return jsonl_fail(&line,
                          "it begins here and has no end: the file is cut off, or a bracket or a quote is missing");
    line.number += text_count_lines(text, at);
    if (how == OBJECT_TOO_DEEP) return jsonl_fail(&line, "nested deeper than %d levels", JSONL_MAX_DEPTH);
    return jsonl_fail(&line, "this '%c' closes a bracket that was opened by '%c'", text[at],
                      text[at] == ']' ? '{' : '[');
}

static Status element_scan(TextSpan *span, JsonArray *array, JsonlLine *line, bool *more) {
    const char *text = span->text + span->at;
    size_t rest = span->n - span->at, n;
    if (*text != '{') return unexpected(span, array, "an object {...}");
    ObjectEnd how = object_end(text, rest < JSONL_MAX_LINE ? rest : JSONL_MAX_LINE, &n);
    if (how == OBJECT_OPEN && rest <= JSONL_MAX_LINE && !span->last) return TANE_OK;
    if (how != OBJECT_WHOLE) return bad_element(span, array, how, n);
    *line = (JsonlLine){span->path, span->line + 1, text, n, false, ++array->elements};
    array->state = ARRAY_BEHIND;
    span->at += n;
    span->line += text_count_lines(text, n);
    span->any = *more = true;
    return TANE_OK;
}

static void skip_space(TextSpan *span) {
    for (; span->at < span->n && is_space(span->text[span->at]); span->at++) span->line += span->text[span->at] == '\n';
}

Status array_scan(TextSpan *span, JsonArray *array, JsonlLine *line, bool *more) {
    *more = false;
    for (;; span->at++) {
        skip_space(span);
        if (span->at == span->n) return span->last ? ended(span, array) : TANE_OK;
        char c = span->text[span->at];
        switch (array->state) {
        case ARRAY_BEGIN:
            if (c != '[') return unexpected(span, array, "an array [{...}, ...]");
            array->state = ARRAY_FIRST;
            break;
        case ARRAY_FIRST:
            if (c != ']') return element_scan(span, array, line, more);
            array->state = ARRAY_END;
            break;
        case ARRAY_BEHIND:
            if (c != ',' && c != ']') return unexpected(span, array, "',' or ']'");
            array->state = c == ',' ? ARRAY_COMMA : ARRAY_END;
            array->comma_line = span->line + 1;
            break;
        case ARRAY_COMMA:
            if (c != ']') return element_scan(span, array, line, more);
            return FAIL(TANE_EFORMAT, "%s:%lld: remove the comma behind element %lld: nothing follows it", span->path,
                        (long long)array->comma_line, (long long)array->elements);
        case ARRAY_END: return unexpected(span, array, "nothing more behind the array's ']'");
        }
    }
}
