/* Values as JSON: numbers with as many digits as they need to come back the same, times as ISO 8601, decimals as text.
 * JSON has no NaN and no infinity: they become null. */
#include "format/parquet_json.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"

Status pq_value_fail(const PqLine *line, const PqLeaf *leaf, const char *fmt, ...) {
    char text[256], name[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return FAIL(TANE_EFORMAT, "%s: row %lld: column \"%s\": %s", line->path, (long long)line->row,
                pq_leaf_name(leaf, name, sizeof name), text);
}

size_t pq_budget_left(const PqBudget *b) {
    size_t line = b->line ? 3 * (b->line->len - b->before) : 0;
    return b->used + line < b->limit ? b->limit - b->used - line : 0;
}

Status pq_put(PqLine *line, const char *text, size_t n) {
    size_t length = line->out->len - line->budget->before;
    if (n > PQ_MAX_LINE - length || n > pq_budget_left(line->budget) / 3)
        return FAIL(TANE_EFORMAT, "%s: row %lld is too long for a line of JSON; read fewer columns or split the row",
                    line->path, (long long)line->row);
    return str_add(line->out, text, n);
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* Length of the character at p, which is not ASCII: no overlong forms, no surrogates, at most U+10FFFF. 0: none. */
static size_t character(const uint8_t *p, size_t room) {
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (room < n) return 0;
    uint8_t lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* Bit 7 of each byte of eight: not ASCII, or to be escaped (below 0x20, a quote, a backslash). Zero: none. A byte above
 * one that is marked may be marked wrongly, since differences borrow: the answer is only whether there is any. */
static uint64_t special_bytes(const uint8_t *p) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t x;
    memcpy(&x, p, 8);
    uint64_t quote = x ^ ones * '"', backslash = x ^ ones * '\\';
    return (x | (x - ones * 0x20) | (quote - ones) | (backslash - ones)) & tops;
}

/* How many bytes from the start need neither escape nor change; stops at bytes that are not UTF-8 too. */
static size_t plain_run(const uint8_t *text, size_t n) {
    size_t at = 0;
    for (;;) {
        while (n - at >= 8 && !special_bytes(text + at)) at += 8;
        for (size_t end = n - at > 8 ? at + 8 : n; at < end;) {
            if (text[at] < 0x20 || text[at] == '"' || text[at] == '\\') return at;
            size_t length = text[at] < 0x80 ? 1 : character(text + at, n - at);
            if (!length) return at;
            at += length;
        }
        if (at >= n) return n;
    }
}

size_t pq_utf8_valid(const uint8_t *text, size_t n) {
    for (size_t at = 0;;) {
        if (at < n) at += plain_run(text + at, n - at);
        if (at >= n || text[at] >= 0x80) return at;
        at++;
    }
}

static Status put_escape(PqLine *line, uint8_t c) {
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* pairs: character, what stands behind the backslash */
    char text[8];
    for (size_t i = 0; i + 1 < sizeof names; i += 2)
        if ((uint8_t)names[i] == c) return pq_put(line, (char[]){'\\', names[i + 1]}, 2);
    snprintf(text, sizeof text, "\\u%04x", c);
    return pq_put(line, text, 6);
}

/* *valid: how many bytes were UTF-8; less than n means that the text was not written whole. */
static Status put_text(PqLine *line, const uint8_t *text, size_t n, size_t *valid) {
    TRY_RETURN(pq_put(line, "\"", 1));
    for (*valid = 0; *valid < n; ++*valid) {
        const uint8_t *from = text + *valid;
        size_t run = plain_run(from, n - *valid);
        TRY_RETURN(pq_put(line, (const char *)from, run));
        *valid += run;
        if (*valid == n) break;
        if (text[*valid] >= 0x80) return TANE_OK;
        TRY_RETURN(put_escape(line, text[*valid]));
    }
    return pq_put(line, "\"", 1);
}

Status pq_put_text(PqLine *line, const uint8_t *text, size_t n) {
    size_t valid;
    return put_text(line, text, n, &valid);
}

static Status put_string(PqLine *line, const PqLeaf *leaf, const uint8_t *text, size_t n) {
    size_t valid;
    TRY_RETURN(put_text(line, text, n, &valid));
    if (valid == n) return TANE_OK;
    if (leaf->kind == PQ_KIND_BINARY)
        return pq_value_fail(line, leaf, "it holds bytes that are not text; read the other columns without it");
    return pq_value_fail(line, leaf, "byte %zu of the text, 0x%02x, is not UTF-8; write the column as UTF-8", valid + 1,
                         text[valid]);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static Status put_format(PqLine *line, const char *fmt, ...) {
    char text[128];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return pq_put(line, text, (size_t)n);
}

/* Written backwards, ending in front of p; returns where the first digit is. */
static char *print_backwards(char *p, uint64_t x, int at_least) {
    for (; x || at_least > 0; x /= 10, at_least--) *--p = (char)('0' + x % 10);
    return p;
}

static Status put_integer(PqLine *line, uint64_t magnitude, bool negative) {
    char text[24], *end = text + sizeof text, *p = print_backwards(end, magnitude, 1);
    if (negative) *--p = '-';
    return pq_put(line, p, (size_t)(end - p));
}

/* Most numbers that people write have few digits: then x is a whole number of less than 10^15 over a power of ten, and
 * that division, being correctly rounded, gives x again. What printf would print, several times as fast. */
static bool print_short(double x, char **from, char *end) {
    double magnitude = fabs(x), scale = 1;
    if (magnitude < 1e-4 || magnitude >= 1e15) return false;
    for (int digits = 0; digits < 19 && magnitude * scale < 1e15; digits++, scale *= 10) {
        double whole = rint(magnitude * scale);
        if (whole / scale != magnitude) continue;
        uint64_t n = (uint64_t)whole, unit = (uint64_t)scale;
        char *p = print_backwards(end, n % unit, digits ? digits : 1);
        *--p = '.';
        p = print_backwards(p, n / unit, 1);
        if (x < 0) *--p = '-';
        *from = p;
        return true;
    }
    return false;
}

/* printf's number as JSON has it: a point whatever the locale says, and one at all, so that it stays a float. */
static Status put_printed(PqLine *line, const char *printed) {
    char text[48];
    size_t n = 0;
    bool real = false;
    for (const char *p = printed; *p; p++) {
        bool digit = (*p >= '0' && *p <= '9') || *p == '-' || *p == '+' || *p == 'e';
        if (digit) text[n++] = *p;
        else if (!real) text[n++] = '.';
        real = real || !digit || *p == 'e';
    }
    if (!real) n += (size_t)snprintf(text + n, 3, ".0");
    return pq_put(line, text, n);
}

static Status put_double(PqLine *line, double x) {
    char text[48], *from, *end = text + sizeof text;
    if (!isfinite(x)) return pq_put(line, "null", 4);
    if (print_short(x, &from, end)) return pq_put(line, from, (size_t)(end - from));
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    return put_printed(line, text);
}

/* As few digits as make the same float again: 0.1, not 0.10000000149011612. */
static Status put_float(PqLine *line, float x) {
    char text[40];
    if (!isfinite(x)) return pq_put(line, "null", 4);
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    return put_printed(line, text);
}

/* A number of up to 64 bytes, big-endian, two's complement, as text with `scale` digits behind the point. */
static Status put_decimal(PqLine *line, const PqLeaf *leaf, const uint8_t *bytes, size_t n) {
    enum { MAX_BYTES = 64, BILLION = 1000000000 };
    uint32_t parts[20] = {0}; /* base 10^9, the lowest first: 18 hold 512 bits */
    char digits[20 * 9 + 1];
    size_t n_parts = 1, at = 0;
    if (n == 0 || n > MAX_BYTES)
        return pq_value_fail(line, leaf, "a decimal number of %zu bytes; it must have 1 to %d", n, MAX_BYTES);
    bool negative = bytes[0] & 0x80;
    for (size_t i = 0; i < n; i++) { /* of a negative number -x - 1, and one more below */
        uint64_t carry = negative ? (uint8_t)~bytes[i] : bytes[i];
        for (size_t k = 0; k < n_parts; k++, carry /= BILLION) {
            carry += (uint64_t)parts[k] << 8;
            parts[k] = (uint32_t)(carry % BILLION);
        }
        if (carry) parts[n_parts++] = (uint32_t)carry;
    }
    for (size_t k = 0; negative && ++parts[k] == BILLION; k++) {
        parts[k] = 0;
        if (k + 1 == n_parts) n_parts++;
    }
    for (size_t k = n_parts; k-- > 0;) at += (size_t)snprintf(digits + at, 10, "%09u", parts[k]);
    const char *first = digits;
    while (at > (size_t)leaf->scale + 1 && *first == '0') first++, at--;
    /* Fewer digits than the scale: zeros in front. */
    size_t zeros = at <= leaf->scale ? leaf->scale + 1u - at : 0, whole = at + zeros - leaf->scale;
    TRY_RETURN(pq_put(line, "\"-", negative ? 2 : 1));
    for (size_t i = 0; i < at + zeros; i++) {
        if (i == whole) TRY_RETURN(pq_put(line, ".", 1));
        TRY_RETURN(pq_put(line, i < zeros ? "0" : &first[i - zeros], 1));
    }
    return pq_put(line, "\"", 1);
}

/* ---- times ------------------------------------------------------------------------------------------------------ */

typedef struct Date {
    int64_t year;
    int month, day;
} Date;

/* The Gregorian calendar, also before it was made. A year begins in March here, so that the leap day is its last: then
 * days before a month are (153 month + 2) / 5, and 400 years have 146097 days. */
static Date date_of(int64_t days) {
    days += 719468; /* from 0000-03-01 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097, of_era = days - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    int day = (int)(of_year - (153 * month + 2) / 5 + 1);
    return (Date){year + era * 400 + (month >= 10), (int)(month < 10 ? month + 3 : month - 9), day};
}

/* Years before 0 and behind 9999 get a sign, as ISO 8601 wants it. */
static int print_date(char *out, size_t size, int64_t days) {
    Date d = date_of(days);
    const char *fmt = d.year < 0 ? "-%04lld-%02d-%02d" : d.year > 9999 ? "+%04lld-%02d-%02d" : "%04lld-%02d-%02d";
    return snprintf(out, size, fmt, (long long)llabs(d.year), d.month, d.day);
}

static const int64_t units[] = {[3] = 1000, [6] = 1000000, [9] = 1000000000};

enum { CLOCK = 32 };

/* ticks of a day: "13:05:09", and with a fraction where there is one. */
static void print_clock(char out[CLOCK], int64_t ticks, int digits) {
    unsigned seconds = (unsigned)(ticks / units[digits]);
    int64_t fraction = ticks % units[digits];
    int n = snprintf(out, CLOCK, "%02u:%02u:%02u", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    if (!fraction) return;
    out[n] = '.';
    for (int i = digits; i > 0; i--, fraction /= 10) out[n + i] = (char)('0' + fraction % 10);
    out[n + 1 + digits] = 0;
}

static Status put_timestamp(PqLine *line, int64_t days, int64_t ticks, int digits, bool utc) {
    char date[32], clock[CLOCK];
    print_date(date, sizeof date, days);
    print_clock(clock, ticks, digits);
    return put_format(line, "\"%sT%s%s\"", date, clock, utc ? "Z" : "");
}

static Status put_time(PqLine *line, const PqLeaf *leaf, int64_t ticks) {
    char clock[CLOCK];
    if (ticks < 0 || ticks >= 86400 * units[leaf->digits])
        return pq_value_fail(line, leaf, "%lld is no time of a day", (long long)ticks);
    print_clock(clock, ticks, leaf->digits);
    return put_format(line, "\"%s\"", clock);
}

/* 8 bytes nanoseconds of the day, 4 bytes Julian day; 2440588 is 1970-01-01. */
static Status put_int96(PqLine *line, const PqLeaf *leaf, const uint8_t *bytes) {
    int64_t nanos;
    uint32_t day;
    memcpy(&nanos, bytes, 8);
    memcpy(&day, bytes + 8, 4);
    if (nanos < 0 || nanos >= 86400 * units[9])
        return pq_value_fail(line, leaf, "%lld nanoseconds are no time of a day", (long long)nanos);
    return put_timestamp(line, (int64_t)day - 2440588, nanos, 9, false);
}

static Status put_uuid(PqLine *line, const uint8_t *b) {
    return put_format(line, "\"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\"", b[0], b[1],
                      b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static uint64_t load_unsigned(const uint8_t *bytes, size_t n) {
    uint64_t x = 0;
    memcpy(&x, bytes, n < 8 ? n : 8);
    return x;
}
static int64_t load_signed(const uint8_t *bytes, size_t n) {
    uint64_t x = load_unsigned(bytes, n);
    return n == 4 ? (int32_t)(uint32_t)x : (int64_t)x;
}

static Status put_stored_decimal(PqLine *line, const PqLeaf *leaf, const uint8_t *bytes, size_t n) {
    uint8_t turned[8];
    if (leaf->type == PQ_FIXED || leaf->type == PQ_BYTE_ARRAY) return put_decimal(line, leaf, bytes, n);
    for (size_t i = 0; i < n && i < 8; i++) turned[i] = bytes[n - 1 - i];
    return put_decimal(line, leaf, turned, n);
}

Status pq_put_value(PqLine *line, const PqLeaf *leaf, const uint8_t *bytes, size_t n) {
    int64_t x = load_signed(bytes, n);
    float f;
    double d;
    switch (leaf->kind) {
    case PQ_KIND_BOOL: return bytes[0] ? pq_put(line, "true", 4) : pq_put(line, "false", 5);
    case PQ_KIND_INT: return put_integer(line, x < 0 ? 0 - (uint64_t)x : (uint64_t)x, x < 0);
    case PQ_KIND_UINT: return put_integer(line, load_unsigned(bytes, n), false);
    case PQ_KIND_FLOAT: return memcpy(&f, bytes, 4), put_float(line, f);
    case PQ_KIND_DOUBLE: return memcpy(&d, bytes, 8), put_double(line, d);
    case PQ_KIND_HALF: return put_float(line, f16_to_f32((uint16_t)load_unsigned(bytes, 2)));
    case PQ_KIND_TEXT:
    case PQ_KIND_BINARY: return put_string(line, leaf, bytes, n);
    case PQ_KIND_DECIMAL: return put_stored_decimal(line, leaf, bytes, n);
    case PQ_KIND_TIME: return put_time(line, leaf, x);
    case PQ_KIND_INT96: return put_int96(line, leaf, bytes);
    case PQ_KIND_UUID: return put_uuid(line, bytes);
    case PQ_KIND_DATE: {
        char date[32];
        print_date(date, sizeof date, x);
        return put_format(line, "\"%s\"", date);
    }
    case PQ_KIND_TIMESTAMP: {
        int64_t day = 86400 * units[leaf->digits], days = x / day, ticks = x % day;
        return put_timestamp(line, ticks < 0 ? days - 1 : days, ticks < 0 ? ticks + day : ticks, leaf->digits,
                             leaf->utc);
    }
    case PQ_KIND_NULL:
    case PQ_KINDS: break;
    }
    return pq_put(line, "null", 4);
}
