/* Arithmetic problems: counts by formula or brute force, every answer checked by an independent calculation, holdout
 * disjoint and complete, the same bytes from the same seed, and prompts classified back.
 *
 * The checks start from the printed text, with 128-bit integers or by brute force, never with the code under test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "data/arithmetic.h"

static ArithmeticOptions plain(int64_t digits, bool negative, const char *ops) {
    ArithmeticOptions o = {.digits = digits, .negative = negative, .places = 2, .seed = 42, .shuffle = true};
    snprintf(o.ops, sizeof o.ops, "%s", ops);
    return o;
}

static Arithmetic *make(ArithmeticOptions o) {
    Arithmetic *set;
    if (arithmetic_new(&set, &o) != TANE_OK) fail_msg("%s", err_message());
    return set;
}

static uint64_t total_of(ArithmeticOptions o) {
    o.samples = 1;
    Arithmetic *set = make(o);
    uint64_t n = arithmetic_total(set);
    arithmetic_free(set);
    return n;
}

/* Prompt and completion of one problem, in static buffers. */
typedef struct Row {
    char prompt[256], completion[4096];
} Row;

static Row render(const Arithmetic *set, ArithmeticProblem p) {
    Row row;
    Str text = {0};
    assert_int_equal(arithmetic_prompt(set, &p, &text), TANE_OK);
    assert_true(text.len < sizeof row.prompt);
    strcpy(row.prompt, text.text);
    text.len = 0;
    assert_int_equal(arithmetic_answer(set, &p, &text), TANE_OK);
    assert_true(text.len < sizeof row.completion);
    strcpy(row.completion, text.text);
    str_free(&text);
    return row;
}

static Row solve(ArithmeticOptions o, char op, int64_t a, int64_t b) {
    snprintf(o.ops, sizeof o.ops, "%c", op);
    o.samples = 1;
    Arithmetic *set = make(o);
    Row row = render(set, (ArithmeticProblem){op, a, b});
    arithmetic_free(set);
    return row;
}

#define ASSERT_ROW(o, op, a, b, want_prompt, want_completion)                                                          \
    do {                                                                                                               \
        Row row_ = solve(o, op, a, b);                                                                                 \
        assert_string_equal(row_.prompt, want_prompt);                                                                 \
        assert_string_equal(row_.completion, want_completion);                                                         \
    } while (0)

/* ---- counts ---- */

static uint64_t exact_pairs(int64_t m, bool negative) {
    uint64_t n = 0;
    for (int64_t a = negative ? -m : 0; a <= m; a++)
        for (int64_t b = negative ? -m : 1; b <= m; b++) n += b != 0 && a % b == 0;
    return n;
}

static void counts(void **state) {
    (void)state;
    const char *ops[] = {"+", "-", "*"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(total_of(plain(2, true, ops[i])), 199 * 199);
        assert_int_equal(total_of(plain(2, false, ops[i])), 100 * 100);
        assert_int_equal(total_of(plain(1, true, ops[i])), 19 * 19);
    }
    assert_int_equal(total_of(plain(2, true, "/")), exact_pairs(99, true));
    assert_int_equal(total_of(plain(2, false, "/")), exact_pairs(99, false));
    assert_int_equal(total_of(plain(3, true, "/")), exact_pairs(999, true));
    assert_int_equal(total_of(plain(2, true, "+-*/")), 3 * 199 * 199 + exact_pairs(99, true));
    ArithmeticOptions o = plain(2, true, "/");
    o.division = ARITHMETIC_DECIMAL;
    assert_int_equal(total_of(o), 199 * 198);
    o.division = ARITHMETIC_REMAINDER;
    o.negative = false;
    assert_int_equal(total_of(o), 100 * 99);
    o = plain(1, false, "+");
    o.decimals = 1;
    assert_int_equal(total_of(o), 100 * 100);
    /* The largest sets fit in 64 bits. */
    o = plain(9, true, "+-*/");
    o.division = ARITHMETIC_DECIMAL;
    assert_true(total_of(o) == 4ull * 1999999999ull * 1999999999ull - 1999999999ull);
}

/* ---- every answer, by another road ---- */

/* Reads "-12.5" as an integer times 10^scale. */
static __int128 scaled(const char **s, int scale) {
    bool negative = **s == '-', point = false;
    __int128 v = 0;
    if (negative) ++*s;
    assert_true(**s >= '0' && **s <= '9');
    for (; (**s >= '0' && **s <= '9') || (**s == '.' && !point); ++*s) {
        if (**s == '.') {
            point = true;
            continue;
        }
        v = v * 10 + (**s - '0');
        if (point) scale--;
    }
    assert_true(scale >= 0);
    for (; scale > 0; scale--) v *= 10;
    return negative ? -v : v;
}

static void parse_prompt(const char *s, int scale, __int128 *a, char *op, __int128 *b) {
    *a = scaled(&s, scale);
    *op = *s++;
    bool open = *s == '(';
    if (open) s++;
    *b = scaled(&s, scale);
    assert_true((*b < 0) == open);
    if (open) assert_int_equal(*s++, ')');
    assert_string_equal(s, "=");
}

/* Is `answer` right for `prompt`? `scale`: decimals of the operands. */
static void check_answer(const ArithmeticOptions *o, const char *prompt, const char *answer) {
    enum { WIDE = 9 };
    __int128 a, b, unit = 1;
    char op;
    parse_prompt(prompt, WIDE, &a, &op, &b);
    for (int i = 0; i < WIDE; i++) unit *= 10;
    __int128 first = scaled(&answer, op == '*' ? 2 * WIDE : WIDE);
    if (op == '+') assert_true(first == a + b);
    else if (op == '-') assert_true(first == a - b);
    else if (op == '*') assert_true(first == a * b);
    else if (o->division == ARITHMETIC_EXACT) assert_true(first * b == a * unit && first % unit == 0);
    else if (o->division == ARITHMETIC_REMAINDER) {
        assert_int_equal(*answer++, 'r');
        __int128 rest = scaled(&answer, WIDE), divisor = b < 0 ? -b : b;
        assert_true(first % unit == 0 && first / unit * b + rest == a);
        assert_true((rest < 0 ? -rest : rest) < divisor);
        assert_true(rest == 0 || (rest < 0) == (a < 0));
    } else {
        /* |first - a/b| <= half a unit of the last place, and a tie went away from zero. */
        __int128 place = unit;
        for (int i = 0; i < o->places; i++) place /= 10;
        assert_true(first % place == 0);
        __int128 error = first * b - a * unit, half = place * b;
        if (error < 0) error = -error;
        if (half < 0) half = -half;
        assert_true(2 * error <= half);
        if (2 * error == half) {
            __int128 size = first < 0 ? -first : first, exact = a * unit / b;
            assert_true(size > (exact < 0 ? -exact : exact));
        }
    }
    assert_string_equal(answer, "");
}

static void check_all(ArithmeticOptions o) {
    Arithmetic *set = make(o);
    for (uint64_t k = 0; k < arithmetic_drawn(set); k++) {
        ArithmeticProblem p;
        bool held;
        arithmetic_draw(set, k, &p, &held);
        Row row = render(set, p);
        assert_null(strstr(row.completion, "-0r"));
        assert_string_not_equal(row.completion, "-0");
        check_answer(&o, row.prompt, row.completion);
    }
    arithmetic_free(set);
}

static void every_answer_is_right(void **state) {
    (void)state;
    check_all(plain(2, true, "+-*/"));
    for (int division = ARITHMETIC_DECIMAL; division <= ARITHMETIC_REMAINDER; division++) {
        ArithmeticOptions o = plain(2, true, "/");
        o.division = (ArithmeticDivision)division;
        check_all(o);
    }
}

static void every_decimal_answer_is_right(void **state) {
    (void)state;
    for (int division = ARITHMETIC_EXACT; division <= ARITHMETIC_REMAINDER; division++) {
        for (int places = 0; places <= 3; places++) {
            ArithmeticOptions o = plain(1, true, "+-*/");
            o.decimals = 2;
            o.division = (ArithmeticDivision)division;
            o.places = places;
            o.samples = 5000;
            check_all(o);
        }
    }
    /* The widest numbers: nothing overflows. */
    for (int division = ARITHMETIC_EXACT; division <= ARITHMETIC_REMAINDER; division++) {
        ArithmeticOptions o = plain(9, true, "+-*/");
        o.division = (ArithmeticDivision)division;
        o.places = 9;
        o.samples = 5000;
        check_all(o);
    }
}

static void decimal_rounding(void **state) {
    (void)state;
    ArithmeticOptions o = plain(3, true, "/");
    o.division = ARITHMETIC_DECIMAL;
    ASSERT_ROW(o, '/', 1, 3, "1/3=", "0.33");
    ASSERT_ROW(o, '/', 2, 3, "2/3=", "0.67");
    ASSERT_ROW(o, '/', -2, 3, "-2/3=", "-0.67");
    ASSERT_ROW(o, '/', 1, 8, "1/8=", "0.13"); /* 0.125: the half goes away from zero */
    ASSERT_ROW(o, '/', -1, 8, "-1/8=", "-0.13");
    ASSERT_ROW(o, '/', 1, -8, "1/(-8)=", "-0.13");
    ASSERT_ROW(o, '/', -1, -8, "-1/(-8)=", "0.13");
    ASSERT_ROW(o, '/', 1, 2, "1/2=", "0.5");
    ASSERT_ROW(o, '/', 6, 3, "6/3=", "2");
    ASSERT_ROW(o, '/', -1, 999, "-1/999=", "0"); /* never "-0" */
    ASSERT_ROW(o, '/', 199, 200, "199/200=", "1"); /* 0.995 carries through both places */
    o.places = 0;
    ASSERT_ROW(o, '/', 5, 2, "5/2=", "3");
    ASSERT_ROW(o, '/', -5, 2, "-5/2=", "-3");
}

/* ---- the four ways to write an answer ---- */

static void notation(void **state) {
    (void)state;
    ArithmeticOptions o = plain(2, true, "+");
    ASSERT_ROW(o, '+', 12, -34, "12+(-34)=", "-22");
    ASSERT_ROW(o, '+', -12, 34, "-12+34=", "22");
    ASSERT_ROW(o, '-', -12, -34, "-12-(-34)=", "22");
    ASSERT_ROW(o, '*', 12, 0, "12*0=", "0");
    ASSERT_ROW(o, '*', -12, 0, "-12*0=", "0");
    o.division = ARITHMETIC_REMAINDER;
    ASSERT_ROW(o, '/', 7, 2, "7/2=", "3r1");
    ASSERT_ROW(o, '/', -7, 2, "-7/2=", "-3r-1");
    ASSERT_ROW(o, '/', 7, -2, "7/(-2)=", "-3r1");
    ASSERT_ROW(o, '/', 6, 2, "6/2=", "3r0");
    o.decimals = 2;
    ASSERT_ROW(o, '+', 1250, -5, "12.5+(-0.05)=", "12.45");
    ASSERT_ROW(o, '*', 150, 50, "1.5*0.5=", "0.75");
    ASSERT_ROW(o, '/', 750, 200, "7.5/2=", "3r1.5");
}

static void reversed_answers(void **state) {
    (void)state;
    ArithmeticOptions o = plain(3, true, "+");
    o.answers = ARITHMETIC_REVERSED;
    ASSERT_ROW(o, '+', 400, 8, "400+8=", "804");
    ASSERT_ROW(o, '-', 8, 30, "8-30=", "-22");
    ASSERT_ROW(o, '-', 8, 128, "8-128=", "-021");
    o.division = ARITHMETIC_REMAINDER;
    ASSERT_ROW(o, '/', -251, 20, "-251/20=", "-21r-11");
    o.decimals = 2;
    ASSERT_ROW(o, '-', 0, 125, "0-1.25=", "-52.1");
}

static void latex_answers(void **state) {
    (void)state;
    ArithmeticOptions o = plain(3, true, "*");
    o.answers = ARITHMETIC_LATEX;
    ASSERT_ROW(o, '*', 12, -34, "$12 \\times (-34)=$", "$-408$");
    ASSERT_ROW(o, '+', 12, 34, "$12 + 34=$", "$46$");
    o.division = ARITHMETIC_REMAINDER;
    ASSERT_ROW(o, '/', -7, 2, "$-7 \\div 2=$", "$-3 \\text{ r } -1$");
    o.samples = 1;
    Arithmetic *set = make(o);
    Str line = {0};
    assert_int_equal(arithmetic_line(set, &(ArithmeticProblem){'*', 2, 3}, &line), TANE_OK);
    assert_string_equal(line.text, "{\"prompt\":\"$2 \\\\times 3=$\",\"completion\":\"$6$\"}\n");
    str_free(&line);
    arithmetic_free(set);
}

static void worked_answers(void **state) {
    (void)state;
    ArithmeticOptions o = plain(3, true, "+");
    o.answers = ARITHMETIC_WORKING;
    ASSERT_ROW(o, '+', 58, 67, "58+67=", "8+7=15;5+6+1=12;=125");
    ASSERT_ROW(o, '+', 123, 9, "123+9=", "3+9=12;2+1=3;=132");
    ASSERT_ROW(o, '+', 55, 55, "55+55=", "5+5=10;5+5+1=11;=110");
    ASSERT_ROW(o, '+', 0, 5, "0+5=", "=5");
    ASSERT_ROW(o, '-', 52, 17, "52-17=", "12-7=5;5-1-1=3;=35");
    ASSERT_ROW(o, '-', 100, 1, "100-1=", "10-1=9;10-1=9;1-1=0;=99");
    ASSERT_ROW(o, '-', 12, 34, "12-34=", "-(34-12);4-2=2;3-1=2;=-22");
    ASSERT_ROW(o, '+', -12, -34, "-12+(-34)=", "-(12+34);2+4=6;1+3=4;=-46");
    ASSERT_ROW(o, '-', 12, -34, "12-(-34)=", "12+34;2+4=6;1+3=4;=46");
    ASSERT_ROW(o, '*', 12, 34, "12*34=", "12*4=48;12*30=360;48+360=408;=408");
    ASSERT_ROW(o, '*', -12, 100, "-12*100=", "12*100=1200;=-1200");
    ASSERT_ROW(o, '/', 408, 12, "408/12=", "40/12=3r4;48/12=4r0;=34");
    o.division = ARITHMETIC_DECIMAL;
    ASSERT_ROW(o, '/', 2, -3, "2/(-3)=", "2/3=0r2;20/3=6r2;20/3=6r2;20/3=6r2;=-0.67");
    o.decimals = 1;
    ASSERT_ROW(o, '+', 15, 20, "1.5+2=", "5+0=5;1+2=3;=3.5");
}

static long long step_value(const char *s, const char *end) {
    long long sum = 0, term = 0, sign = 1;
    char pending = '+';
    for (const char *p = s; p < end; p++) {
        char *next;
        term = strtoll(p, &next, 10);
        sum = pending == '*' ? sum * term : pending == '/' ? sum / term : sum + sign * term;
        p = next;
        pending = *p;
        sign = pending == '-' ? -1 : 1;
    }
    return sum;
}

/* Column k of a sum or difference of whole numbers ends in digit k of the answer. */
static void check_columns(const Row *row, const char *answer) {
    unsigned long long rest = strtoull(answer + (*answer == '-'), NULL, 10);
    const char *s = row->completion;
    for (const char *end; (end = strchr(s, ';')); s = end + 1) {
        const char *equals = memchr(s, '=', (size_t)(end - s));
        if (!equals) continue;
        assert_int_equal(end[-1] - '0', rest % 10);
        rest /= 10;
    }
}

/* Each step's equation holds, and what stands behind the last '=' is the plain answer. */
static void check_working(ArithmeticOptions o) {
    Arithmetic *plain_set = make(o);
    o.answers = ARITHMETIC_WORKING;
    Arithmetic *set = make(o);
    for (uint64_t k = 0; k < o.samples; k++) {
        ArithmeticProblem p;
        bool held;
        arithmetic_draw(set, k, &p, &held);
        Row row = render(set, p), want = render(plain_set, p);
        assert_string_equal(strrchr(row.completion, '=') + 1, want.completion);
        if (o.decimals == 0 && strchr("+-", p.op)) check_columns(&row, want.completion);
        char *s = row.completion;
        for (char *end; (end = strchr(s, ';')); s = end + 1) {
            char *equals = memchr(s, '=', (size_t)(end - s));
            if (equals) assert_int_equal(step_value(s, equals), strtoll(equals + 1, NULL, 10));
            else assert_ptr_equal(s, row.completion); /* the rewrite: first step only */
        }
        assert_int_equal(*s, '='); /* behind the last step only the answer */
    }
    arithmetic_free(set);
    arithmetic_free(plain_set);
}

static void every_step_is_right(void **state) {
    (void)state;
    for (int division = ARITHMETIC_EXACT; division <= ARITHMETIC_REMAINDER; division++) {
        for (int decimals = 0; decimals < 2; decimals++) {
            ArithmeticOptions o = plain(4 - 2 * decimals, true, "+-*/");
            o.division = (ArithmeticDivision)division;
            o.decimals = decimals;
            o.samples = 4000;
            o.balance = true;
            check_working(o);
        }
    }
}

/* ---- drawing ---- */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

typedef struct Drawing {
    char **kept, **held;
    size_t n_kept, n_held;
    Str bytes; /* all lines, in order */
} Drawing;

static Drawing draw(ArithmeticOptions o) {
    Arithmetic *set = make(o);
    size_t n = (size_t)arithmetic_drawn(set);
    Drawing d = {.kept = calloc(n, sizeof(char *)), .held = calloc(n, sizeof(char *))};
    for (uint64_t k = 0; k < n; k++) {
        ArithmeticProblem p;
        bool held;
        arithmetic_draw(set, k, &p, &held);
        size_t from = d.bytes.len;
        assert_int_equal(arithmetic_line(set, &p, &d.bytes), TANE_OK);
        char *line = strdup(d.bytes.text + from);
        if (held) d.held[d.n_held++] = line;
        else d.kept[d.n_kept++] = line;
    }
    assert_int_equal(d.n_held, arithmetic_held(set));
    arithmetic_free(set);
    return d;
}

static void drawing_free(Drawing *d) {
    for (size_t i = 0; i < d->n_kept; i++) free(d->kept[i]);
    for (size_t i = 0; i < d->n_held; i++) free(d->held[i]);
    free(d->kept);
    free(d->held);
    str_free(&d->bytes);
}

static void assert_distinct(char **lines, size_t n) {
    qsort(lines, n, sizeof *lines, by_text);
    for (size_t i = 1; i < n; i++) assert_string_not_equal(lines[i - 1], lines[i]);
}

static void holdout_is_disjoint_and_complete(void **state) {
    (void)state;
    ArithmeticOptions o = plain(1, true, "+-*/");
    o.holdout = 0.05;
    Drawing d = draw(o);
    size_t total = 3 * 19 * 19 + (size_t)exact_pairs(9, true);
    assert_int_equal(d.n_kept + d.n_held, total);
    assert_int_equal(d.n_held, (size_t)((double)total * 0.05 + 0.5));
    size_t n = d.n_kept;
    char **all = calloc(total, sizeof *all);
    memcpy(all, d.kept, n * sizeof *all);
    memcpy(all + n, d.held, d.n_held * sizeof *all);
    assert_distinct(all, total);
    free(all);
    /* The same problems are held out when the order is the natural one. */
    o.shuffle = false;
    Drawing natural = draw(o);
    assert_string_not_equal(natural.bytes.text, d.bytes.text);
    assert_int_equal(natural.n_held, d.n_held);
    qsort(d.held, d.n_held, sizeof *d.held, by_text);
    qsort(natural.held, d.n_held, sizeof *d.held, by_text);
    for (size_t i = 0; i < d.n_held; i++) assert_string_equal(d.held[i], natural.held[i]);
    drawing_free(&d);
    drawing_free(&natural);
}

static void same_seed_same_bytes(void **state) {
    (void)state;
    ArithmeticOptions o = plain(2, true, "+-*/");
    o.samples = 1000;
    o.holdout = 0.1;
    Drawing a = draw(o), b = draw(o);
    assert_string_equal(a.bytes.text, b.bytes.text);
    assert_int_equal(a.n_held, 100);
    o.seed++;
    Drawing c = draw(o);
    assert_string_not_equal(a.bytes.text, c.bytes.text);
    drawing_free(&a);
    drawing_free(&b);
    drawing_free(&c);
}

static void samples_do_not_repeat(void **state) {
    (void)state;
    ArithmeticOptions o = plain(1, true, "+-*");
    o.samples = 3 * 19 * 19; /* all of them, as a sample */
    Drawing d = draw(o);
    assert_distinct(d.kept, d.n_kept);
    assert_int_equal(d.n_kept, 3 * 19 * 19);
    drawing_free(&d);
    o.samples = 500;
    d = draw(o);
    assert_distinct(d.kept, d.n_kept);
    drawing_free(&d);
}

/* Every exact division in range comes up once: distinct, inside the range, and as many as brute force counts. */
static void exact_divisions_are_complete(void **state) {
    (void)state;
    for (int negative = 0; negative < 2; negative++) {
        Arithmetic *set = make(plain(2, negative, "/"));
        static char seen[199][199];
        memset(seen, 0, sizeof seen);
        for (uint64_t k = 0; k < arithmetic_drawn(set); k++) {
            ArithmeticProblem p;
            bool held;
            arithmetic_draw(set, k, &p, &held);
            assert_in_range(p.a + 99, negative ? 0 : 99, 198);
            assert_in_range(p.b + 99, negative ? 0 : 99, 198);
            assert_true(p.b != 0 && p.a % p.b == 0);
            assert_int_equal(seen[p.a + 99][p.b + 99]++, 0);
        }
        assert_int_equal(arithmetic_drawn(set), exact_pairs(99, negative));
        arithmetic_free(set);
    }
}

static void balance_draws_operators_equally(void **state) {
    (void)state;
    ArithmeticOptions o = plain(2, true, "+-*/");
    o.samples = 1002;
    o.balance = true;
    Arithmetic *set = make(o);
    int count[256] = {0}, same_operands = 0;
    ArithmeticProblem p, before = {0};
    bool held;
    for (uint64_t k = 0; k < o.samples; k++, before = p) {
        arithmetic_draw(set, k, &p, &held);
        count[(unsigned char)p.op]++;
        same_operands += p.a == before.a && p.b == before.b;
    }
    assert_int_equal(count['+'], 251);
    assert_int_equal(count['-'], 251);
    assert_int_equal(count['*'], 250);
    assert_int_equal(count['/'], 250);
    assert_true(same_operands < 10); /* the operators draw independently */
    arithmetic_free(set);
}

/* A prefix is a fair sample: the first tenth has about a tenth of each operator. */
static void shuffled_prefix_is_fair(void **state) {
    (void)state;
    Arithmetic *set = make(plain(2, true, "+-*"));
    int count[256] = {0};
    uint64_t n = arithmetic_drawn(set) / 10;
    for (uint64_t k = 0; k < n; k++) {
        ArithmeticProblem p;
        bool held;
        arithmetic_draw(set, k, &p, &held);
        count[(unsigned char)p.op]++;
    }
    for (const char *op = "+-*"; *op; op++) {
        /* 5 standard deviations of a binomial(n, 1/3) */
        assert_in_range(count[(unsigned char)*op], n / 3 - 260, n / 3 + 260);
    }
    arithmetic_free(set);
}

/* ---- wrong options ---- */

static void assert_refused(ArithmeticOptions o, const char *part) {
    Arithmetic *set;
    assert_int_equal(arithmetic_new(&set, &o), TANE_EINVAL);
    assert_null(set);
    if (!strstr(err_message(), part)) fail_msg("\"%s\" is not in: %s", part, err_message());
}

static void wrong_options_are_refused(void **state) {
    (void)state;
    ArithmeticOptions o = plain(4, true, "+");
    assert_refused(o, "399960001 problems"); /* 19999^2 */
    assert_refused(o, "--samples");
    o.samples = 399960002;
    assert_refused(o, "399960001 distinct");
    assert_refused(plain(0, false, "+"), "--digits 0");
    assert_refused(plain(10, false, "+"), "--digits 10");
    assert_refused(plain(2, false, ""), "--ops");
    assert_refused(plain(2, false, "+%"), "\"%\"");
    assert_refused(plain(2, false, "++"), "+ is named twice");
    o = plain(2, false, "+");
    o.decimals = 8;
    assert_refused(o, "--decimals 8");
    o.decimals = 0;
    o.holdout = 1;
    assert_refused(o, "--holdout 1");
    o.holdout = 0.9;
    o.samples = 1;
    assert_refused(o, "leaves none to train on");
    o = plain(2, false, "+");
    o.balance = true;
    assert_refused(o, "--balance needs --samples");
    o = plain(1, false, "+/");
    o.balance = true;
    o.samples = 90;
    assert_refused(o, "problems with /");
}

/* ---- reading prompts back ---- */

static void assert_class(const char *prompt, char want_op, int want_digits) {
    char op = 0;
    int digits = 0;
    if (!arithmetic_classify(prompt, &op, &digits)) fail_msg("not recognised: %s", prompt);
    assert_int_equal(op, want_op);
    assert_int_equal(digits, want_digits);
}

static void classify(void **state) {
    (void)state;
    assert_class("1+2=", '+', 1);
    assert_class("12-3=", '-', 2);
    assert_class("3-12=", '-', 2);
    assert_class("-12*(-345)=", '*', 3);
    assert_class("0/7=", '/', 1);
    assert_class("12.75+3.5=", '+', 2);
    assert_class("$12 \\times (-34)=$", '*', 2);
    assert_class("$-120 \\div 4=$", '/', 3);
    assert_class(" 12 + 34 = ", '+', 2);
    const char *others[] = {"", "=", "12", "12=", "12+=", "+12=", "12+34", "12+34=46", "1+2+3=", "12+(34=", "12%5=",
                            "a+b=", "12.+3=", "$12+3=", "12+3=$", "What is 2+2?", "12 \\frac 3=", "1 2+3="};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char op;
        int digits;
        if (arithmetic_classify(others[i], &op, &digits)) fail_msg("taken for a problem: %s", others[i]);
    }
}

static void classify_knows_every_prompt(void **state) {
    (void)state;
    for (int answers = ARITHMETIC_PLAIN; answers <= ARITHMETIC_LATEX; answers++) {
        ArithmeticOptions o = plain(4, true, "+-*/");
        o.answers = (ArithmeticAnswers)answers;
        o.decimals = 2;
        o.samples = 2000;
        Arithmetic *set = make(o);
        for (uint64_t k = 0; k < o.samples; k++) {
            ArithmeticProblem p;
            bool held;
            arithmetic_draw(set, k, &p, &held);
            int64_t a = llabs(p.a), b = llabs(p.b);
            char whole[32];
            int digits = snprintf(whole, sizeof whole, "%lld", (long long)((a > b ? a : b) / 100));
            assert_class(render(set, p).prompt, p.op, digits);
        }
        arithmetic_free(set);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts),
        cmocka_unit_test(every_answer_is_right),
        cmocka_unit_test(every_decimal_answer_is_right),
        cmocka_unit_test(decimal_rounding),
        cmocka_unit_test(notation),
        cmocka_unit_test(reversed_answers),
        cmocka_unit_test(latex_answers),
        cmocka_unit_test(worked_answers),
        cmocka_unit_test(every_step_is_right),
        cmocka_unit_test(holdout_is_disjoint_and_complete),
        cmocka_unit_test(same_seed_same_bytes),
        cmocka_unit_test(samples_do_not_repeat),
        cmocka_unit_test(exact_divisions_are_complete),
        cmocka_unit_test(balance_draws_operators_equally),
        cmocka_unit_test(shuffled_prefix_is_fair),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(classify),
        cmocka_unit_test(classify_knows_every_prompt),
    };
    return cmocka_run_group_tests_name("arithmetic", tests, NULL, NULL);
}
