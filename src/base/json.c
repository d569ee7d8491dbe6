/* JSON text to jansson values and back, and the getters for required and optional members.
 *
 * jansson holds the values; the text is parsed here. Its own lexer ignores a token buffer that failed to grow and then
 * reads past it, which an allocator that says no turns into a crash; and here the message can say what to change.
 */
#include "base/json.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
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

/* "<where>:<line>:<column>: ..." for the character at `at`; columns count characters, not bytes. */
static Status fail_at(const JsonReader *r, const char *at, const char *fmt, va_list args) {
    size_t line = 1, column = 1;
    for (const char *c = r->text; c < at; c++) {
        if (*c == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            column++;
        }
    }
    char text[512];
    vsnprintf(text, sizeof text, fmt, args);
    return FAIL(TANE_EFORMAT, "%s:%zu:%zu: %s", r->where, line, column, text);
}

__attribute__((format(printf, 3, 4))) static Status bad(const JsonReader *r, const char *at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    Status st = fail_at(r, at, fmt, args);
    va_end(args);
    return st;
}

Status json_reader_fail(const JsonReader *r, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    Status st = fail_at(r, r->at, fmt, args);
    va_end(args);
    return st;
}

/* How a message shows the character at `at`. */
static const char *shown(const JsonReader *r, const char *at, char out[16]) {
    unsigned char c = at < r->end ? (unsigned char)*at : 0;
    if (at >= r->end) return "the end of the text";
    if (c < 0x20 || c >= 0x7f) snprintf(out, 16, "the byte 0x%02x", c);
    else snprintf(out, 16, "'%c'", c);
    return out;
}

static void skip_space(JsonReader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t')) r->p++;
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

static Status push_code_point(JsonReader *r, uint32_t c) {
    char b[4];
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
    for (int i = n - 1; i > 0; i--, c >>= 6) b[i] = (char)(0x80 | (c & 0x3f));
    b[0] = (char)(lead[n] | c);
    return str_add(&r->stack, b, (size_t)n);
}

/* The four hex digits behind "\u". */
static Status parse_hex4(JsonReader *r, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < 4; i++, r->p++) {
        char c = r->p < r->end ? *r->p : 0, lower = (char)(c | 0x20);
        bool digit = c >= '0' && c <= '9';
        if (!digit && !(lower >= 'a' && lower <= 'f')) return bad(r, r->p, "\\u needs four hexadecimal digits");
        *out = *out << 4 | (uint32_t)(digit ? c - '0' : lower - 'a' + 10);
    }
    return TANE_OK;
}

/* What follows a backslash. */
static Status parse_escape(JsonReader *r) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *at = r->p - 1, *name = r->p < r->end && *r->p ? strchr(names, *r->p) : NULL;
    if (name) {
        r->p++;
        return str_add(&r->stack, &values[name - names], 1);
    }
    if (r->p >= r->end || *r->p != 'u')
        return bad(r, at, "unknown escape; a backslash itself is written \\\\, a newline \\n");
    r->p++;
    uint32_t c, low;
    TRY_RETURN(parse_hex4(r, &c));
    if (c == 0) return bad(r, at, "\\u0000 is not allowed in text; remove it");
    if (c < 0xd800 || c > 0xdfff) return push_code_point(r, c);
    if (c > 0xdbff || r->end - r->p < 2 || r->p[0] != '\\' || r->p[1] != 'u')
        return bad(r, at, "\\u%04x is half of a surrogate pair; write both halves or the character itself", c);
    r->p += 2;
    TRY_RETURN(parse_hex4(r, &low));
    if (low < 0xdc00 || low > 0xdfff)
        return bad(r, at, "\\u%04x\\u%04x is not a surrogate pair; write the character itself", c, low);
    return push_code_point(r, 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00));
}

/* A string, decoded onto the stack and NUL-terminated there; the opening quote is at p. */
static Status parse_string(JsonReader *r, size_t *offset, size_t *length) {
    const char *open = r->p++;
    *offset = r->stack.len;
    for (;;) {
        const char *run = r->p;
        while (r->p < r->end && *r->p != '"' && *r->p != '\\' && (unsigned char)*r->p >= 0x20) {
            int n = utf8_length(r->p, r->end);
            if (!n) return bad(r, r->p, "the byte 0x%02x is not UTF-8; save the text as UTF-8", (unsigned char)*r->p);
            r->p += n;
        }
        TRY_RETURN(str_add(&r->stack, run, (size_t)(r->p - run)));
        if (r->p >= r->end) return bad(r, open, "this string has no closing quote");
        if (*r->p == '"') break;
        if (*r->p == '\n')
            return bad(r, open, "this string has no closing quote on its line; a newline is written \\n");
        if (*r->p != '\\')
            return bad(r, r->p, "control character 0x%02x in a string; write it as \\u%04x", *r->p, *r->p);
        r->p++;
        TRY_RETURN(parse_escape(r));
    }
    r->p++;
    *length = r->stack.len - *offset;
    return str_add(&r->stack, "", 1);
}

static bool skip_digits(JsonReader *r) {
    const char *from = r->p;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') r->p++;
    return r->p > from;
}

typedef struct Number {
    bool is_real;
    double real;
    int64_t integer;
} Number;

static bool is_number_start(char c) { return c == '-' || (c >= '0' && c <= '9'); }

/* How much of a long token a message shows. */
static int clip(ptrdiff_t n) { return n > 40 ? 40 : (int)n; }

static Status parse_number(JsonReader *r, Number *out) {
    const char *from = r->p;
    out->is_real = false;
    if (*r->p == '-') r->p++;
    const char *first = r->p;
    if (!skip_digits(r)) return bad(r, from, "'-' without a number");
    if (*first == '0' && r->p - first > 1) return bad(r, from, "a number must not begin with 0; remove the zeros");
    if (r->p < r->end && *r->p == '.') {
        out->is_real = true;
        r->p++;
        if (!skip_digits(r)) return bad(r, from, "a digit is missing behind the decimal point");
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        out->is_real = true;
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-')) r->p++;
        if (!skip_digits(r)) return bad(r, from, "a digit is missing in the exponent");
    }
    /* The text need not end here with a NUL: a copy on the stack does. */
    size_t offset = r->stack.len;
    TRY_RETURN(str_add(&r->stack, from, (size_t)(r->p - from)));
    r->stack.len = offset;
    errno = 0;
    if (out->is_real) out->real = strtod_l(r->stack.text + offset, NULL, c_locale);
    else out->integer = strtoll(r->stack.text + offset, NULL, 10);
    if (!out->is_real && errno && r->round) {
        out->is_real = true;
        out->real = strtod_l(r->stack.text + offset, NULL, c_locale);
    }
    int n = clip(r->p - from);
    if (out->is_real && isinf(out->real)) return bad(r, from, "%.*s is too large for a number", n, from);
    if (!out->is_real && errno) return bad(r, from, "%.*s does not fit in 64 bits", n, from);
    return TANE_OK;
}

static Status parse_word(JsonReader *r, json_t **out) {
    static const struct {
        const char *text;
        json_t *(*make)(void);
    } words[] = {{"true", json_true}, {"false", json_false}, {"null", json_null}};
    size_t n = 0, room = (size_t)(r->end - r->p);
    while (n < room && ((r->p[n] | 0x20) >= 'a' && (r->p[n] | 0x20) <= 'z')) n++;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].text) != n || memcmp(words[i].text, r->p, n) != 0) continue;
        r->p += n;
        *out = words[i].make();
        return TANE_OK;
    }
    char one[16];
    if (n > 0)
        return bad(r, r->p, "%.*s is not a JSON value; text goes in double quotes, words are true, false and null",
                   clip((ptrdiff_t)n), r->p);
    if (room && *r->p == '\'') return bad(r, r->p, "text goes in double quotes, not in single ones");
    return bad(r, r->p, "expected a value, found %s", shown(r, r->p, one));
}

Status json_begin(JsonReader *r, char bracket) {
    char one[16];
    skip_space(r);
    r->at = r->p;
    if (r->p >= r->end || *r->p != bracket)
        return bad(r, r->p, "expected '%c', found %s", bracket, shown(r, r->p, one));
    if (r->depth == MAX_DEPTH) return bad(r, r->p, "nested deeper than %d levels", MAX_DEPTH);
    r->depth++;
    r->p++;
    r->fresh = true;
    return TANE_OK;
}

Status json_more(JsonReader *r, char bracket, bool *more) {
    char one[16];
    bool first = r->fresh;
    skip_space(r);
    r->fresh = false;
    *more = true;
    if (r->p < r->end && *r->p == bracket) {
        r->p++;
        r->depth--;
        *more = false;
        return TANE_OK;
    }
    if (first) return TANE_OK; /* what follows is looked at by whoever reads it */
    if (r->p >= r->end || *r->p != ',')
        return bad(r, r->p, "expected ',' or '%c', found %s", bracket, shown(r, r->p, one));
    const char *comma = r->p++;
    skip_space(r);
    if (r->p < r->end && *r->p == bracket) return bad(r, comma, "remove this comma: nothing follows it");
    return TANE_OK;
}

/* A key, left on the stack. */
static Status parse_key(JsonReader *r, size_t *offset, size_t *n) {
    char one[16];
    skip_space(r);
    r->at = r->p;
    if (r->p >= r->end || *r->p != '"')
        return bad(r, r->p, "expected a key in double quotes, found %s", shown(r, r->p, one));
    TRY_RETURN(parse_string(r, offset, n));
    skip_space(r);
    if (r->p >= r->end || *r->p != ':')
        return bad(r, r->p, "expected ':' behind the key \"%.80s\", found %s", r->stack.text + *offset,
                   shown(r, r->p, one));
    r->p++;
    return TANE_OK;
}

Status json_next_key(JsonReader *r, const char **key, size_t *n) {
    size_t offset;
    r->stack.len = 0;
    TRY_RETURN(parse_key(r, &offset, n));
    *key = r->stack.text + offset;
    return TANE_OK;
}

Status json_next_text(JsonReader *r, const char **text, size_t *n) {
    char one[16];
    size_t offset;
    r->stack.len = 0;
    skip_space(r);
    r->at = r->p;
    if (r->p >= r->end || *r->p != '"')
        return bad(r, r->p, "expected text in double quotes, found %s", shown(r, r->p, one));
    TRY_RETURN(parse_string(r, &offset, n));
    *text = r->stack.text + offset;
    return TANE_OK;
}

Status json_next_int(JsonReader *r, int64_t *value) {
    char one[16];
    Number number;
    skip_space(r);
    r->at = r->p;
    if (r->p >= r->end || !is_number_start(*r->p))
        return bad(r, r->p, "expected a whole number, found %s", shown(r, r->p, one));
    TRY_RETURN(parse_number(r, &number));
    if (number.is_real) return bad(r, r->at, "expected a whole number, found %.*s", clip(r->p - r->at), r->at);
    *value = number.integer;
    return TANE_OK;
}

Status json_next_double(JsonReader *r, double *value) {
    char one[16];
    Number number;
    skip_space(r);
    r->at = r->p;
    if (r->p >= r->end || !is_number_start(*r->p))
        return bad(r, r->p, "expected a number, found %s", shown(r, r->p, one));
    TRY_RETURN(parse_number(r, &number));
    *value = number.is_real ? number.real : (double)number.integer;
    return TANE_OK;
}

char json_peek(JsonReader *r) {
    skip_space(r);
    return r->p < r->end ? *r->p : 0;
}

Status json_end(JsonReader *r) {
    char one[16];
    skip_space(r);
    if (r->p < r->end) return bad(r, r->p, "expected nothing more behind the value, found %s", shown(r, r->p, one));
    return TANE_OK;
}

void json_reader_init(JsonReader *r, const char *where, const char *text, size_t n) {
    *r = (JsonReader){.where = where, .text = text, .p = text, .end = text + n, .at = text};
}

void json_reader_free(JsonReader *r) { str_free(&r->stack); }

/* ---- trees ------------------------------------------------------------------------------------------------------ */

static Status parse_value(JsonReader *r, json_t **out);

static Status parse_array(JsonReader *r, json_t *array) {
    TRY_RETURN(json_begin(r, '['));
    for (;;) {
        bool more;
        json_t *value;
        TRY_RETURN(json_more(r, ']', &more));
        if (!more) return TANE_OK;
        TRY_RETURN(parse_value(r, &value));
        if (json_array_append_new(array, value)) return no_memory(r->where);
    }
}

static Status parse_object(JsonReader *r, json_t *object) {
    TRY_RETURN(json_begin(r, '{'));
    for (;;) {
        bool more;
        size_t offset, n;
        json_t *value;
        TRY_RETURN(json_more(r, '}', &more));
        if (!more) return TANE_OK;
        TRY_RETURN(parse_key(r, &offset, &n));
        if (json_object_get(object, r->stack.text + offset))
            return json_reader_fail(r, "the key \"%.80s\" is there twice; keep one of them", r->stack.text + offset);
        TRY_RETURN(parse_value(r, &value));
        if (json_object_set_new_nocheck(object, r->stack.text + offset, value)) return no_memory(r->where);
        r->stack.len = offset;
    }
}

static Status parse_container(JsonReader *r, bool object, json_t **out) {
    json_t *value = object ? json_object() : json_array();
    if (!value) return no_memory(r->where);
    Status st = object ? parse_object(r, value) : parse_array(r, value);
    if (st == TANE_OK) *out = value;
    else json_decref(value);
    return st;
}

static Status parse_scalar(JsonReader *r, json_t **out) {
    size_t offset, n;
    Number number;
    if (r->p < r->end && *r->p == '"') {
        TRY_RETURN(parse_string(r, &offset, &n));
        *out = json_stringn_nocheck(r->stack.text + offset, n);
        r->stack.len = offset;
    } else if (r->p < r->end && is_number_start(*r->p)) {
        TRY_RETURN(parse_number(r, &number));
        *out = number.is_real ? json_real(number.real) : json_integer(number.integer);
    } else {
        TRY_RETURN(parse_word(r, out));
    }
    return *out ? TANE_OK : no_memory(r->where);
}

static Status parse_value(JsonReader *r, json_t **out) {
    *out = NULL;
    skip_space(r);
    char c = r->p < r->end ? *r->p : 0;
    return c == '{' || c == '[' ? parse_container(r, c == '{', out) : parse_scalar(r, out);
}

Status json_next_value(JsonReader *r, json_t **out) {
    *out = NULL;
    r->stack.len = 0;
    skip_space(r);
    r->at = r->p;
    const char *at = r->p;
    Status st = parse_value(r, out);
    if (st != TANE_OK) {
        json_decref(*out);
        *out = NULL;
    }
    r->at = at;
    return st;
}

/* Without recursion: what closes the brackets that are open. */
Status json_skip(JsonReader *r) {
    char closing[MAX_DEPTH];
    int depth = 0;
    do {
        char c = json_peek(r);
        bool more = false;
        json_t *scalar = NULL;
        r->stack.len = 0;
        if (c == '{' || c == '[') {
            TRY_RETURN(json_begin(r, c));
            closing[depth++] = c == '{' ? '}' : ']';
        } else {
            r->at = r->p;
            TRY_RETURN(parse_scalar(r, &scalar));
            json_decref(scalar);
        }
        while (depth > 0 && !more) {
            TRY_RETURN(json_more(r, closing[depth - 1], &more));
            if (!more) depth--;
        }
        const char *key;
        size_t n;
        if (more && closing[depth - 1] == '}') TRY_RETURN(json_next_key(r, &key, &n));
    } while (depth > 0);
    return TANE_OK;
}

static Status read_text(const char *where, const char *text, size_t n, bool round, json_t **out) {
    JsonReader r;
    *out = NULL;
    json_reader_init(&r, where, text, n);
    r.round = round;
    skip_space(&r);
    if (r.p == r.end) return FAIL(TANE_EFORMAT, "%s: empty, but a JSON value is needed", where);
    Status st = parse_value(&r, out);
    if (st == TANE_OK) st = json_end(&r);
    if (st != TANE_OK) {
        json_decref(*out);
        *out = NULL;
    }
    json_reader_free(&r);
    return st;
}

Status json_read_text(const char *where, const char *text, size_t n, json_t **out) {
    return read_text(where, text, n, false, out);
}

/* Some editors of Windows write one in front. */
static size_t byte_order_mark(const char *text, size_t n) { return n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; }

Status json_read_config(const char *where, const char *text, size_t n, json_t **out) {
    size_t bom = byte_order_mark(text, n);
    return read_text(where, text + bom, n - bom, true, out);
}

Status json_read_file(const char *path, json_t **out) {
    char *text;
    size_t n;
    *out = NULL;
    TRY_RETURN(file_read(path, MAX_FILE, &text, &n));
    size_t bom = byte_order_mark(text, n);
    Status st = json_read_text(path, text + bom, n - bom, out);
    mem_free(text);
    return st;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

Status json_write_text(Str *out, const char *text, size_t n) {
    const char *run = text, *end = text + n;
    TRY_RETURN(str_add(out, "\"", 1));
    for (const char *p = text; p < end;) {
        unsigned char c = (unsigned char)*p;
        int length = utf8_length(p, end);
        if (!length) return FAIL(TANE_EINVAL, "\"%.*s\": the byte 0x%02x is not UTF-8", clip(p - text), text, c);
        if (c >= 0x20 && c != '"' && c != '\\') {
            p += length;
            continue;
        }
        TRY_RETURN(str_add(out, run, (size_t)(p - run)));
        run = ++p;
        if (c == '"' || c == '\\') TRY_RETURN(str_printf(out, "\\%c", c));
        else if (c == '\n') TRY_RETURN(str_add(out, "\\n", 2));
        else if (c == '\t') TRY_RETURN(str_add(out, "\\t", 2));
        else if (c == '\r') TRY_RETURN(str_add(out, "\\r", 2));
        else TRY_RETURN(str_printf(out, "\\u%04x", c));
    }
    TRY_RETURN(str_add(out, run, (size_t)(end - run)));
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
    case JSON_STRING: return json_write_text(out, json_string_value(value), json_string_length(value));
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
            TRY_RETURN(json_write_text(out, key, strlen(key)));
            TRY_RETURN(str_add(out, ": ", indent < 0 ? 1 : 2));
            TRY_RETURN(write_value(out, json_object_iter_value(it), inner));
        }
        if (i) TRY_RETURN(new_line(out, indent));
        return str_add(out, "}", 1);
    }
    return FAIL(TANE_EINTERNAL, "a JSON value of unknown type");
}

Status json_write_str(Str *out, const json_t *root) { return write_value(out, root, -1); }
Status json_write_indented(Str *out, const json_t *root, int indent) { return write_value(out, root, indent); }

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
