/* School arithmetic, written out: carry and borrow columns, partial products, long division. Magnitudes only. */
#include "data/working.h"

#include <inttypes.h>
#include <stdio.h>

static uint64_t magnitude(int64_t v) { return v < 0 ? -(uint64_t)v : (uint64_t)v; }

int number_text(char out[NUMBER_TEXT], int64_t value, int scale) {
    uint64_t whole = magnitude(value), unit = 1;
    while (scale > 0 && whole % 10 == 0) {
        whole /= 10;
        scale--;
    }
    for (int i = 0; i < scale; i++) unit *= 10;
    const char *sign = value < 0 ? "-" : "";
    if (scale == 0) return snprintf(out, NUMBER_TEXT, "%s%" PRIu64, sign, whole);
    return snprintf(out, NUMBER_TEXT, "%s%" PRIu64 ".%0*" PRIu64, sign, whole / unit, scale, whole % unit);
}

static Status add_columns(uint64_t x, uint64_t y, Str *out) {
    for (unsigned carry = 0; (x && y) || (carry && (x || y)); x /= 10, y /= 10) {
        unsigned p = (unsigned)(x % 10), q = (unsigned)(y % 10), sum = p + q + carry;
        if (x && y)
            TRY_RETURN(str_printf(out, "%u+%u%s=%u;", p, q, carry ? "+1" : "", sum));
        else
            TRY_RETURN(str_printf(out, "%u+1=%u;", p + q, sum));
        carry = sum >= 10;
    }
    return TANE_OK;
}

/* x >= y. A column that borrows shows its ten: 12-7=5; the next one pays: 5-1-1=3. */
static Status subtract_columns(uint64_t x, uint64_t y, Str *out) {
    for (unsigned borrow = 0; y || borrow; x /= 10, y /= 10) {
        unsigned top = (unsigned)(x % 10), take = (unsigned)(y % 10), paid = borrow;
        borrow = top < take + paid;
        if (borrow) top += 10;
        if (y)
            TRY_RETURN(str_printf(out, "%u-%u%s=%u;", top, take, paid ? "-1" : "", top - take - paid));
        else
            TRY_RETURN(str_printf(out, "%u-1=%u;", top, top - 1));
    }
    return TANE_OK;
}

static Status sum_steps(char op, int64_t a, int64_t b, int scale, Str *out) {
    int64_t addend = op == '-' ? -b : b;
    while (scale > 0 && a % 10 == 0 && b % 10 == 0) {
        a /= 10;
        b /= 10;
        addend /= 10;
        scale--;
    }
    bool same = (a < 0) == (addend < 0) || a == 0 || addend == 0;
    uint64_t x = magnitude(a), y = magnitude(addend);
    bool negative = same ? a < 0 || addend < 0 : x >= y ? a < 0 : addend < 0;
    if (!same && x < y) {
        uint64_t swap = x;
        x = y;
        y = swap;
    }
    bool reads_so = a >= 0 && b >= 0 && !negative && (op == '+') == same;
    if (!reads_so && x && y) {
        char first[NUMBER_TEXT], second[NUMBER_TEXT];
        number_text(first, (int64_t)x, scale);
        number_text(second, (int64_t)y, scale);
        TRY_RETURN(str_printf(out, negative ? "-(%s%c%s);" : "%s%c%s;", first, same ? '+' : '-', second));
    }
    return same ? add_columns(x, y, out) : subtract_columns(x, y, out);
}

/* The digits of a number as it is written, without sign and point. */
static uint64_t written_digits(int64_t v, int scale) {
    uint64_t x = magnitude(v);
    for (; scale > 0 && x % 10 == 0; scale--) x /= 10;
    return x;
}

static Status product_steps(int64_t a, int64_t b, int scale, Str *out) {
    uint64_t x = written_digits(a, scale), y = written_digits(b, scale), sum = 0;
    if (!x) return TANE_OK;
    for (uint64_t place = 1; y; y /= 10, place *= 10) {
        uint64_t part = y % 10 * place;
        if (!part) continue;
        TRY_RETURN(str_printf(out, "%" PRIu64 "*%" PRIu64 "=%" PRIu64 ";", x, part, x * part));
        if (sum) TRY_RETURN(str_printf(out, "%" PRIu64 "+%" PRIu64 "=%" PRIu64 ";", sum, x * part, sum + x * part));
        sum += x * part;
    }
    return TANE_OK;
}

static Status divide_step(uint64_t *rest, uint64_t y, Str *out) {
    uint64_t x = *rest;
    *rest = x % y;
    return str_printf(out, "%" PRIu64 "/%" PRIu64 "=%" PRIu64 "r%" PRIu64 ";", x, y, x / y, *rest);
}

static Status quotient_steps(int64_t a, int64_t b, int scale, int places, Str *out) {
    for (; scale > 0 && a % 10 == 0 && b % 10 == 0; scale--) {
        a /= 10;
        b /= 10;
    }
    uint64_t x = magnitude(a), y = magnitude(b), place = 1, rest = 0;
    while (x / place >= 10) place *= 10;
    /* The first step takes as many digits as the divisor needs. */
    for (bool started = false; place; place /= 10) {
        rest = rest * 10 + x / place % 10;
        if (!started && rest < y && place > 1) continue;
        started = true;
        TRY_RETURN(divide_step(&rest, y, out));
    }
    for (int i = 0; i <= places && rest; i++) {
        rest *= 10;
        TRY_RETURN(divide_step(&rest, y, out));
    }
    return TANE_OK;
}

Status working_steps(char op, int64_t a, int64_t b, int scale, int places, Str *out) {
    if (op == '*') return product_steps(a, b, scale, out);
    if (op == '/') return quotient_steps(a, b, scale, places, out);
    return sum_steps(op, a, b, scale, out);
}
