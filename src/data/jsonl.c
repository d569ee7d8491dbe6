/* The reader of JSON lines: splitting the mapped file, and a checking scanner for one line. */
#include "data/jsonl.h"

#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"

/* ---- lines ---- */

Status text_begin(TextSpan *span) {
    const uint8_t *b = (const uint8_t *)span->text;
    if (span->n >= 3 && memcmp(b, "\xef\xbb\xbf", 3) == 0) span->at = 3;
    if (span->n >= 2 && ((b[0] == 0xff && b[1] == 0xfe) || (b[0] == 0xfe && b[1] == 0xff)))
        return FAIL(TANE_EFORMAT, "%s:1: the file is UTF-16; save it as UTF-8", span->path);
    return TANE_OK;
}

/* Within an element of an array lines may end. */
static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

Status jsonl_scan(TextSpan *span, JsonlLine *line, bool *more) {
    *more = false;
    while (span->at < span->n) {
        const char *text = span->text + span->at;
        size_t rest = span->n - span->at, limit = (size_t)JSONL_MAX_LINE + 1;
        const char *newline = memchr(text, '\n', rest < limit ? rest : limit);
        if (!newline && rest > JSONL_MAX_LINE)
            return FAIL(TANE_EFORMAT, "%s:%lld: the line is longer than %d MiB; is this JSONL, one object a line?",
                        span->path, (long long)span->line + 1, JSONL_MAX_LINE >> 20);
        if (!newline && !span->last) return TANE_OK;
        size_t n = newline ? (size_t)(newline - text) : rest;
        span->line++;
        span->at += n + (newline ? 1 : 0);
        while (n && is_space(text[n - 1])) n--;
        size_t blank = 0;
        while (blank < n && is_space(text[blank])) blank++;
        if (blank == n) continue;
        span->any = *more = true;
        *line = (JsonlLine){span->path, span->line, text, n, !newline, 0};
        return TANE_OK;
    }
    if (span->any || !span->last) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: the file %s; it needs one JSON object a line", span->path,
                span->line ? "has only empty lines" : "is empty");
}

/* ---- a mapped file ---- */

struct JsonlReader {
    char *path;
    FileMap map;
    TextSpan span;
};

Status jsonl_open(JsonlReader **out, const char *path) {
    Status st = TANE_OK;
    JsonlReader *r = NULL;
    *out = NULL;
    TRY(MEM_NEW(&r));
    TRY(mem_strdup(&r->path, path));
    TRY(file_map(path, &r->map));
    r->span = (TextSpan){.path = r->path, .text = (const char *)r->map.data, .n = r->map.size, .last = true};
    TRY(text_begin(&r->span));
    *out = r;
    return TANE_OK;
out:
    jsonl_close(r);
    return st;
}

void jsonl_close(JsonlReader *r) {
    if (!r) return;
    file_unmap(&r->map);
    mem_free(r->path);
    mem_free(r);
}

Status jsonl_line(JsonlReader *r, JsonlLine *line, bool *more) { return jsonl_scan(&r->span, line, more); }

Status jsonl_next(JsonlReader *r, JsonlLine *line, JsonlField *fields, size_t n, JsonlScratch *scratch, bool *more) {
    TRY_RETURN(jsonl_line(r, line, more));
    return *more ? jsonl_parse(line, fields, n, scratch) : TANE_OK;
}

void jsonl_scratch_free(JsonlScratch *scratch) {
    mem_free(scratch->keys);
    mem_free(scratch->text);
    *scratch = (JsonlScratch){0};
}

/* ---- errors of a line ---- */

typedef struct Parser {
    const JsonlLine *line;
    const char *p, *end;
    int depth;
    JsonlScratch *scratch;
} Parser;

Status jsonl_fail_at(const char *source, int source_line, const JsonlLine *line, const char *fmt, ...) {
    char what[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    long long number = line->number, element = line->element;
    if (!element) return err_set(TANE_EFORMAT, source, source_line, "%s:%lld: %s", line->path, number, what);
    return err_set(TANE_EFORMAT, source, source_line, "%s:%lld: element %lld: %s", line->path, number, element, what);
}

/* "path:7: column 15: <what>"; columns count characters. In an element of an array, which need not begin its line:
 * "path:9: character 15 of element 3: <what>". */
__attribute__((format(printf, 3, 4))) static Status bad(const Parser *ps, const char *at, const char *fmt, ...) {
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    size_t column = 1;
    long long number = ps->line->number, element = ps->line->element;
    for (const char *c = ps->line->text; c < at; c++) {
        column += ((unsigned char)*c & 0xc0) != 0x80;
        number += *c == '\n';
    }
    if (!element) return FAIL(TANE_EFORMAT, "%s:%lld: column %zu: %s", ps->line->path, number, column, what);
    return FAIL(TANE_EFORMAT, "%s:%lld: character %zu of element %lld: %s", ps->line->path, number, column, element,
                what);
}

/* The line is over although something is missing. */
static Status ended(const Parser *ps, const char *missing) {
    if (ps->line->unended)
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: the file ends in the middle of this line, before %s: it looks cut off; get "
                    "it again or remove the line",
                    ps->line->path, (long long)ps->line->number, missing);
    return bad(ps, ps->end, "the line ends before %s; each object must stand on one line", missing);
}

static Status unexpected(const Parser *ps, const char *wanted) {
    if (ps->p >= ps->end) return ended(ps, wanted);
    unsigned char c = (unsigned char)*ps->p;
    if (c < 0x20 || c >= 0x7f) return bad(ps, ps->p, "expected %s, found the byte 0x%02x", wanted, c);
    return bad(ps, ps->p, "expected %s, found '%c'", wanted, c);
}

/* ---- strings ---- */

static void skip_space(Parser *ps) {
    while (ps->p < ps->end && is_space(*ps->p)) ps->p++;
}

/* Four hex digits at s, or -1. */
static int32_t hex4(const char *s, const char *end) {
    int32_t v = 0;
    if (end - s < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = s[i], lower = (char)(c | 0x20);
        if (c >= '0' && c <= '9') v = v << 4 | (c - '0');
        else if (lower >= 'a' && lower <= 'f') v = v << 4 | (lower - 'a' + 10);
        else return -1;
    }
    return v;
}

/* p is at a backslash. */
static Status scan_escape(Parser *ps) {
    const char *at = ps->p++;
    if (ps->p >= ps->end) return ended(ps, "the closing quote of a string");
    if (*ps->p != 'u') {
        if (!memchr("\"\\/bfnrt", *ps->p, 8))
            return bad(ps, at, "unknown escape; a backslash itself is written \\\\, a line break \\n");
        ps->p++;
        return TANE_OK;
    }
    int32_t code = hex4(ps->p + 1, ps->end);
    if (code < 0) return bad(ps, at, "\\u needs four hexadecimal digits");
    ps->p += 5;
    if (code < 0xd800 || code > 0xdfff) return TANE_OK;
    bool pair = code < 0xdc00 && ps->end - ps->p >= 6 && ps->p[0] == '\\' && ps->p[1] == 'u';
    int32_t low = pair ? hex4(ps->p + 2, ps->end) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return bad(ps, at, "\\u%04x is half of a surrogate pair; write both halves or the character itself",
                   (unsigned)code);
    ps->p += 6;
    return TANE_OK;
}

/* Behind ASCII that stands for itself in a string, eight bytes at a time: the high bits of `stop` are set from the
 * first byte on that is below 0x20, a quote, a backslash or not ASCII. (Borrows only reach bytes behind it.) */
static const char *skip_plain(const char *p, const char *end) {
    static const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    for (uint64_t word; end - p >= 8; p += 8) {
        memcpy(&word, p, 8);
        word = le64toh(word);
        uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
        uint64_t stop = ((((word - ones * 0x20) | (quote - ones) | (slash - ones)) & ~word) | word) & high;
        if (stop) return p + __builtin_ctzll(stop) / 8;
    }
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\') p++;
    return p;
}

/* p is at the opening quote; *key gets the inside. */
static Status scan_string(Parser *ps, JsonlKey *key, bool *escaped) {
    key->text = ++ps->p;
    *escaped = false;
    for (;;) {
        ps->p = skip_plain(ps->p, ps->end);
        if (ps->p >= ps->end) return ended(ps, "the closing quote of a string");
        unsigned char c = (unsigned char)*ps->p;
        if (c == '"') break;
        if (c == '\\') {
            *escaped = true;
            TRY_RETURN(scan_escape(ps));
        } else if (c < 0x20) {
            return bad(ps, ps->p, "control character 0x%02x in a string; write it as \\u%04x", c, c);
        } else {
            uint32_t code;
            size_t n = utf8_decode(ps->p, (size_t)(ps->end - ps->p), &code);
            if (!n) return bad(ps, ps->p, "the byte 0x%02x is not valid UTF-8 here; save the file as UTF-8", c);
            ps->p += n;
        }
    }
    key->n = (size_t)(ps->p++ - key->text);
    return TANE_OK;
}

/* The next character of a string that was scanned before; *s < end. */
static uint32_t next_code(const char **s, const char *end) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t code = 0;
    if (**s != '\\') {
        *s += utf8_decode(*s, (size_t)(end - *s), &code);
        return code;
    }
    if ((*s)[1] != 'u') {
        code = (uint32_t)values[strchr(names, (*s)[1]) - names];
        *s += 2;
        return code;
    }
    code = (uint32_t)hex4(*s + 2, end);
    *s += 6;
    if (code < 0xd800 || code > 0xdfff) return code;
    code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(*s + 2, end) - 0xdc00);
    *s += 6;
    return code;
}

Status jsonl_text(const JsonlField *field, JsonlScratch *scratch, const char **text, size_t *n) {
    *text = field->text;
    *n = field->n;
    if (!field->escaped) return TANE_OK;
    if (scratch->cap_text < field->n) { /* decoding never lengthens */
        mem_free(scratch->text);
        scratch->text = NULL;
        scratch->cap_text = 0;
        TRY_RETURN(MEM_NEW_ARRAY(&scratch->text, field->n));
        scratch->cap_text = field->n;
    }
    const char *s = field->text, *end = s + field->n;
    char *to = scratch->text;
    while (s < end) {
        const char *escape = memchr(s, '\\', (size_t)(end - s));
        size_t plain = (size_t)((escape ? escape : end) - s);
        memcpy(to, s, plain);
        s += plain;
        to += plain;
        if (escape) to += utf8_encode(next_code(&s, end), to);
    }
    *text = scratch->text;
    *n = (size_t)(to - scratch->text);
    return TANE_OK;
}

/* ---- keys ---- */

/* By decoded characters: "a" and "\u0061" are the same key. */
static int compare_keys(const void *a, const void *b) {
    const JsonlKey *x = a, *y = b;
    const char *s = x->text, *t = y->text, *s_end = s + x->n, *t_end = t + y->n;
    while (s < s_end && t < t_end) {
        uint32_t c = next_code(&s, s_end), d = next_code(&t, t_end);
        if (c != d) return c < d ? -1 : 1;
    }
    return (s < s_end) - (t < t_end);
}

static Status push_key(Parser *ps, JsonlKey key) {
    JsonlScratch *sc = ps->scratch;
    if (sc->n_keys == JSONL_MAX_KEYS)
        return bad(ps, ps->p, "more than %d keys are open at once; split the line", JSONL_MAX_KEYS);
    if (sc->n_keys == sc->cap_keys) {
        size_t cap = sc->cap_keys ? sc->cap_keys * 2 : 16;
        TRY_RETURN(mem_grow((void **)&sc->keys, sc->n_keys, cap, sizeof *sc->keys));
        sc->cap_keys = cap;
    }
    sc->keys[sc->n_keys++] = key;
    return TANE_OK;
}

/* Among the keys from `first` on. */
static Status check_duplicates(const Parser *ps, size_t first) {
    size_t n = ps->scratch->n_keys - first;
    if (n < 2) return TANE_OK;
    JsonlKey *keys = ps->scratch->keys + first;
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&keys[i - 1], &keys[i]) != 0) continue;
        const JsonlKey *later = keys[i].text > keys[i - 1].text ? &keys[i] : &keys[i - 1];
        return bad(ps, later->text - 1, "the key \"%.*s\" is there twice; keep one of them",
                   later->n < 80 ? (int)later->n : 80, later->text);
    }
    return TANE_OK;
}

/* ---- values ---- */

static bool skip_digits(Parser *ps) {
    const char *from = ps->p;
    while (ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9') ps->p++;
    return ps->p > from;
}

static Status scan_number(Parser *ps) {
    const char *from = ps->p;
    if (*ps->p == '-') ps->p++;
    const char *first = ps->p;
    if (!skip_digits(ps)) return unexpected(ps, "a digit");
    if (*first == '0' && ps->p - first > 1) return bad(ps, from, "a number must not begin with 0; remove the zeros");
    if (ps->p < ps->end && *ps->p == '.') {
        ps->p++;
        if (!skip_digits(ps)) return unexpected(ps, "a digit behind the point");
    }
    if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
        ps->p++;
        if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-')) ps->p++;
        if (!skip_digits(ps)) return unexpected(ps, "a digit of the exponent");
    }
    return TANE_OK;
}

static Status scan_word(Parser *ps, JsonlKind *kind) {
    static const struct {
        const char *text;
        JsonlKind kind;
    } words[] = {{"true", JSONL_BOOL}, {"false", JSONL_BOOL}, {"null", JSONL_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i].text), room = (size_t)(ps->end - ps->p);
        size_t shared = n < room ? n : room;
        if (shared == 0 || memcmp(ps->p, words[i].text, shared) != 0) continue;
        if (shared < n) return ended(ps, "the end of a word");
        ps->p += n;
        *kind = words[i].kind;
        return TANE_OK;
    }
    if (ps->p < ps->end && *ps->p == '\'') return bad(ps, ps->p, "text goes in double quotes, not in single ones");
    return unexpected(ps, "a value");
}

static Status scan_value(Parser *ps, JsonlField *value);

/* Behind an element: true when another follows, false behind the closing bracket. */
static Status scan_comma(Parser *ps, char close, bool *more) {
    skip_space(ps);
    *more = ps->p < ps->end && *ps->p == ',';
    if (!*more && (ps->p >= ps->end || *ps->p != close))
        return unexpected(ps, close == '}' ? "',' or '}'" : "',' or ']'");
    const char *comma = ps->p++;
    skip_space(ps);
    if (*more && ps->p < ps->end && *ps->p == close) return bad(ps, comma, "remove this comma: nothing follows it");
    return TANE_OK;
}

static Status scan_array(Parser *ps) {
    ps->p++;
    skip_space(ps);
    bool more = ps->p >= ps->end || *ps->p != ']';
    if (!more) ps->p++;
    while (more) {
        JsonlField value;
        TRY_RETURN(scan_value(ps, &value));
        TRY_RETURN(scan_comma(ps, ']', &more));
    }
    return TANE_OK;
}

/* The members named by fields are kept; the others are only checked. */
static Status scan_object(Parser *ps, JsonlField *fields, size_t n_fields) {
    size_t first = ps->scratch->n_keys;
    ps->p++;
    skip_space(ps);
    bool more = ps->p >= ps->end || *ps->p != '}';
    if (!more) ps->p++;
    while (more) {
        JsonlKey key;
        JsonlField value;
        if (ps->p >= ps->end || *ps->p != '"') return unexpected(ps, "a key in double quotes");
        TRY_RETURN(scan_string(ps, &key, &value.escaped));
        TRY_RETURN(push_key(ps, key));
        skip_space(ps);
        if (ps->p >= ps->end || *ps->p != ':') return unexpected(ps, "':' behind a key");
        ps->p++;
        TRY_RETURN(scan_value(ps, &value));
        for (size_t i = 0; i < n_fields; i++) {
            value.key = fields[i].key;
            if (key.n && *key.text != '\\' && *key.text != *value.key) continue; /* nearly always */
            if (compare_keys(&key, &(JsonlKey){value.key, strlen(value.key)}) == 0) fields[i] = value;
        }
        TRY_RETURN(scan_comma(ps, '}', &more));
    }
    TRY_RETURN(check_duplicates(ps, first));
    ps->scratch->n_keys = first;
    return TANE_OK;
}

static Status scan_value(Parser *ps, JsonlField *value) {
    skip_space(ps);
    char c = ps->p < ps->end ? *ps->p : 0;
    *value = (JsonlField){.text = ps->p};
    if (c == '"') {
        JsonlKey inside;
        TRY_RETURN(scan_string(ps, &inside, &value->escaped));
        value->kind = JSONL_STRING;
        value->text = inside.text;
        value->n = inside.n;
        return TANE_OK;
    }
    if (c == '{' || c == '[') {
        if (++ps->depth > JSONL_MAX_DEPTH) return bad(ps, ps->p, "nested deeper than %d levels", JSONL_MAX_DEPTH);
        value->kind = c == '{' ? JSONL_OBJECT : JSONL_ARRAY;
        TRY_RETURN(c == '{' ? scan_object(ps, NULL, 0) : scan_array(ps));
        ps->depth--;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        value->kind = JSONL_NUMBER;
        TRY_RETURN(scan_number(ps));
    } else {
        TRY_RETURN(scan_word(ps, &value->kind));
    }
    value->n = (size_t)(ps->p - value->text);
    return TANE_OK;
}

Status jsonl_parse(const JsonlLine *line, JsonlField *fields, size_t n, JsonlScratch *scratch) {
    Parser ps = {line, line->text, line->text + line->n, 0, scratch};
    scratch->n_keys = 0;
    for (size_t i = 0; i < n; i++) fields[i] = (JsonlField){.key = fields[i].key};
    skip_space(&ps);
    char c = ps.p < ps.end ? *ps.p : 0;
    if (c == '[') return bad(&ps, ps.p, "found an array; each line must be one object {...}, without [ ] around them");
    if (c != '{') return unexpected(&ps, "an object {...}");
    TRY_RETURN(scan_object(&ps, fields, n));
    skip_space(&ps);
    if (ps.p < ps.end) return bad(&ps, ps.p, "expected nothing more behind the object; one object a line");
    return TANE_OK;
}

const char *jsonl_kind_name(JsonlKind kind) {
    static const char *const names[] = {"missing", "text",     "a number", "true or false",
                                        "null",    "an array", "an object"};
    return names[kind];
}
