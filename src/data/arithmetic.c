/* Arithmetic problems: enumeration in O(1), prompts and answers. arithmetic.h describes both formally.
 *
 * Exact division is the one set that is not a product of two ranges: with M the largest magnitude, divisor b has
 * floor(M/b) multiples on each side of zero. floor(M/b) takes only O(sqrt(M)) different values, each on one run of
 * consecutive divisors, so a table of these runs turns an index into a pair by binary search.
 */
#include "data/arithmetic.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "data/working.h"

/* Divisors first .. (next run's first) - 1 have `multiples` positive multiples in range; `before` pairs precede. */
typedef struct DivisorRun {
    int64_t first, multiples;
    uint64_t before;
} DivisorRun;

struct Arithmetic {
    ArithmeticOptions options;
    int64_t largest;  /* M: the largest magnitude, times 10^decimals */
    uint64_t values;  /* how many numbers an operand can be */
    uint64_t count[4], total, drawn, held; /* count[i] belongs to options.ops[i] */
    DivisorRun *runs;
    size_t n_runs;
};

/* Streams of the seed, so that order and holdout are independent. A balanced drawing adds the operator, or each would
 * draw the same operands. */
enum { STREAM_ORDER = 0x61726900, STREAM_HOLDOUT = 0x686f6c00 };

static const int64_t pow10_table[] = {1,      10,      100,      1000,      10000,
                                      100000, 1000000, 10000000, 100000000, 1000000000};

static Status divisor_runs(Arithmetic *set) {
    int64_t m = set->largest;
    uint64_t before = 0;
    size_t cap = 0;
    for (int64_t b = 1; b <= m; b = m / (m / b) + 1) {
        if (set->n_runs == cap) {
            cap = cap ? cap * 2 : 64;
            TRY_RETURN(mem_grow((void **)&set->runs, set->n_runs, cap, sizeof *set->runs));
        }
        int64_t multiples = m / b, last = m / multiples;
        set->runs[set->n_runs++] = (DivisorRun){b, multiples, before};
        uint64_t dividends = (uint64_t)(set->options.negative ? 2 * multiples + 1 : multiples + 1);
        before += dividends * (uint64_t)(last - b + 1);
    }
    set->count[strchr(set->options.ops, '/') - set->options.ops] = set->options.negative ? 2 * before : before;
    return TANE_OK;
}

static Status check_options(const ArithmeticOptions *o) {
    if (o->digits < 1 || o->decimals < 0 || o->digits + o->decimals > ARITHMETIC_MAX_DIGITS)
        return FAIL(TANE_EINVAL, "--digits %lld with --decimals %lld: digits must be 1 or more, and both together at "
                    "most %d", (long long)o->digits, (long long)o->decimals, ARITHMETIC_MAX_DIGITS);
    if (o->places < 0 || o->places > ARITHMETIC_MAX_DIGITS)
        return FAIL(TANE_EINVAL, "--places %lld: must be 0 to %d", (long long)o->places, ARITHMETIC_MAX_DIGITS);
    if (!o->ops[0]) return FAIL(TANE_EINVAL, "--ops: name at least one of + - '*' /");
    for (const char *op = o->ops; *op; op++) {
        if (!strchr("+-*/", *op)) return FAIL(TANE_EINVAL, "--ops: unknown operator \"%c\"; known are + - '*' /", *op);
        if (strchr(op + 1, *op)) return FAIL(TANE_EINVAL, "--ops: %c is named twice", *op);
    }
    if (!(o->holdout >= 0 && o->holdout < 1))
        return FAIL(TANE_EINVAL, "--holdout %g: must be at least 0 and less than 1", o->holdout);
    if (o->balance && !o->samples)
        return FAIL(TANE_EINVAL, "--balance needs --samples N: all problems together cannot be balanced");
    return TANE_OK;
}

static Status count_problems(Arithmetic *set) {
    const ArithmeticOptions *o = &set->options;
    set->largest = pow10_table[o->digits + o->decimals] - 1;
    set->values = (uint64_t)(o->negative ? 2 * set->largest + 1 : set->largest + 1);
    for (size_t i = 0; o->ops[i]; i++) {
        if (o->ops[i] != '/')
            set->count[i] = set->values * set->values;
        else if (o->division != ARITHMETIC_EXACT)
            set->count[i] = set->values * (set->values - 1);
        else
            TRY_RETURN(divisor_runs(set));
        set->total += set->count[i]; /* at most 4 * (2*10^9)^2 < 2^64 */
    }
    return TANE_OK;
}

/* How many are drawn and how many of those are held out. */
static Status plan_draw(Arithmetic *set) {
    const ArithmeticOptions *o = &set->options;
    if (!o->samples && set->total > ARITHMETIC_MAX_ALL)
        return FAIL(TANE_EINVAL, "these options describe %llu problems, too many to write all of them (the limit is "
                    "%d); draw some with --samples N", (unsigned long long)set->total, ARITHMETIC_MAX_ALL);
    if (o->samples > set->total)
        return FAIL(TANE_EINVAL, "--samples %llu is more than the %llu distinct problems that these options describe; "
                    "leave --samples out for all of them, or raise --digits",
                    (unsigned long long)o->samples, (unsigned long long)set->total);
    set->drawn = o->samples ? o->samples : set->total;
    uint64_t kinds = strlen(o->ops);
    for (uint64_t i = 0; o->balance && i < kinds; i++) {
        uint64_t need = set->drawn / kinds + (i < set->drawn % kinds);
        if (need > set->count[i])
            return FAIL(TANE_EINVAL, "--balance with --samples %llu needs %llu problems with %c, but there are only "
                        "%llu; use --samples %llu or fewer", (unsigned long long)o->samples, (unsigned long long)need,
                        o->ops[i], (unsigned long long)set->count[i], (unsigned long long)(set->count[i] * kinds));
    }
    set->held = (uint64_t)((double)set->drawn * o->holdout + 0.5);
    if (o->holdout > 0 && set->held == 0) set->held = 1;
    if (set->held >= set->drawn)
        return FAIL(TANE_EINVAL, "--holdout %g of %llu problems leaves none to train on; hold out less or draw more",
                    o->holdout, (unsigned long long)set->drawn);
    return TANE_OK;
}

Status arithmetic_new(Arithmetic **out, const ArithmeticOptions *options) {
    Status st = TANE_OK;
    Arithmetic *set = NULL;
    *out = NULL;
    TRY(check_options(options));
    TRY(MEM_NEW(&set));
    set->options = *options;
    TRY(count_problems(set));
    TRY(plan_draw(set));
    *out = set;
    return TANE_OK;
out:
    arithmetic_free(set);
    return st;
}

void arithmetic_free(Arithmetic *set) {
    if (!set) return;
    mem_free(set->runs);
    mem_free(set);
}

uint64_t arithmetic_total(const Arithmetic *set) { return set->total; }
uint64_t arithmetic_drawn(const Arithmetic *set) { return set->drawn; }
uint64_t arithmetic_held(const Arithmetic *set) { return set->held; }

/* Pair `index` of exact division, in the order of divisors. */
static void exact_pair(const Arithmetic *set, uint64_t index, int64_t *a, int64_t *b) {
    const bool negative = set->options.negative;
    uint64_t half = set->count[strchr(set->options.ops, '/') - set->options.ops] / 2;
    bool flip = negative && index >= half; /* the second half has the negative divisors */
    if (flip) index -= half;
    size_t lo = 0, hi = set->n_runs;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (set->runs[mid].before <= index)
            lo = mid;
        else
            hi = mid;
    }
    const DivisorRun *run = &set->runs[lo];
    uint64_t within = index - run->before;
    uint64_t dividends = (uint64_t)(negative ? 2 * run->multiples + 1 : run->multiples + 1);
    int64_t divisor = run->first + (int64_t)(within / dividends);
    *a = divisor * ((int64_t)(within % dividends) - (negative ? run->multiples : 0));
    *b = flip ? -divisor : divisor;
}

/* Problem `index` (of all with ops[kind], in natural order). */
static ArithmeticProblem problem_at(const Arithmetic *set, size_t kind, uint64_t index) {
    ArithmeticProblem p = {.op = set->options.ops[kind]};
    if (p.op == '/' && set->options.division == ARITHMETIC_EXACT) {
        exact_pair(set, index, &p.a, &p.b);
        return p;
    }
    int64_t least = set->options.negative ? -set->largest : 0;
    uint64_t seconds = p.op == '/' ? set->values - 1 : set->values;
    p.a = least + (int64_t)(index / seconds);
    p.b = least + (int64_t)(index % seconds);
    if (p.op == '/' && p.b >= 0) p.b++; /* divisors skip zero */
    return p;
}

void arithmetic_draw(const Arithmetic *set, uint64_t k, ArithmeticProblem *problem, bool *held_out) {
    const ArithmeticOptions *o = &set->options;
    const bool everything = set->drawn == set->total && !o->balance;
    size_t kind = 0;
    uint64_t index, member = k;
    if (o->balance) {
        uint64_t kinds = strlen(o->ops);
        kind = k % kinds;
        index = rng_permute(o->seed, STREAM_ORDER + (uint64_t)o->ops[kind], set->count[kind], k / kinds);
    } else {
        index = everything && !o->shuffle ? k : rng_permute(o->seed, STREAM_ORDER, set->total, k);
        if (everything) member = index;
        while (index >= set->count[kind]) index -= set->count[kind++];
    }
    *problem = problem_at(set, kind, index);
    *held_out = set->held && rng_permute(o->seed, STREAM_HOLDOUT, set->drawn, member) < set->held;
}

static Status add_number(Str *out, int64_t value, int scale, bool reversed) {
    char text[NUMBER_TEXT];
    int n = number_text(text, value, scale);
    for (int i = text[0] == '-', j = n - 1; reversed && i < j; i++, j--) {
        char swap = text[i];
        text[i] = text[j];
        text[j] = swap;
    }
    return str_add(out, text, (size_t)n);
}

Status arithmetic_prompt(const Arithmetic *set, const ArithmeticProblem *p, Str *out) {
    const bool latex = set->options.answers == ARITHMETIC_LATEX;
    const int scale = (int)set->options.decimals;
    char a[NUMBER_TEXT], b[NUMBER_TEXT];
    number_text(a, p->a, scale);
    number_text(b, p->b, scale);
    const char *open = p->b < 0 ? "(" : "", *close = p->b < 0 ? ")" : "";
    if (!latex) return str_printf(out, "%s%c%s%s%s=", a, p->op, open, b, close);
    const char *op = p->op == '*' ? "\\times" : p->op == '/' ? "\\div" : p->op == '+' ? "+" : "-";
    return str_printf(out, "$%s %s %s%s%s=$", a, op, open, b, close);
}

/* round(a / b * 10^places), halves away from zero. */
static int64_t rounded_quotient(int64_t a, int64_t b, int64_t places) {
    int64_t n = a * pow10_table[places], q = n / b, rest = n % b;
    uint64_t twice = 2 * (uint64_t)(rest < 0 ? -rest : rest), divisor = (uint64_t)(b < 0 ? -b : b);
    if (twice >= divisor) q += (a < 0) == (b < 0) ? 1 : -1;
    return q;
}

/* The answer as plain, reversed or LaTeX text without the dollar signs. */
static Status add_answer(const Arithmetic *set, const ArithmeticProblem *p, Str *out) {
    const ArithmeticOptions *o = &set->options;
    const bool reversed = o->answers == ARITHMETIC_REVERSED;
    const int scale = (int)o->decimals;
    if (p->op == '+') return add_number(out, p->a + p->b, scale, reversed);
    if (p->op == '-') return add_number(out, p->a - p->b, scale, reversed);
    if (p->op == '*') return add_number(out, p->a * p->b, 2 * scale, reversed);
    if (o->division == ARITHMETIC_DECIMAL)
        return add_number(out, rounded_quotient(p->a, p->b, o->places), (int)o->places, reversed);
    TRY_RETURN(add_number(out, p->a / p->b, 0, reversed));
    if (o->division == ARITHMETIC_EXACT) return TANE_OK;
    TRY_RETURN(str_printf(out, o->answers == ARITHMETIC_LATEX ? " \\text{ r } " : "r"));
    return add_number(out, p->a % p->b, scale, reversed);
}

Status arithmetic_answer(const Arithmetic *set, const ArithmeticProblem *p, Str *out) {
    const ArithmeticOptions *o = &set->options;
    const char *around = o->answers == ARITHMETIC_LATEX ? "$" : "";
    if (o->answers == ARITHMETIC_WORKING) {
        int places = o->division == ARITHMETIC_DECIMAL ? (int)o->places : -1;
        TRY_RETURN(working_steps(p->op, p->a, p->b, (int)o->decimals, places, out));
        TRY_RETURN(str_add(out, "=", 1));
    }
    TRY_RETURN(str_add(out, around, strlen(around)));
    TRY_RETURN(add_answer(set, p, out));
    return str_add(out, around, strlen(around));
}

/* What was appended to `out` behind `from` becomes the inside of a JSON string: only LaTeX's backslash needs care. */
static Status escape_from(Str *out, size_t from) {
    for (size_t i = from; i < out->len; i++) {
        if (out->text[i] != '\\') continue;
        TRY_RETURN(str_add(out, " ", 1));
        memmove(out->text + i + 1, out->text + i, out->len - 1 - i);
        i++;
    }
    return TANE_OK;
}

Status arithmetic_line(const Arithmetic *set, const ArithmeticProblem *problem, Str *out) {
    TRY_RETURN(str_printf(out, "{\"prompt\":\""));
    size_t from = out->len;
    TRY_RETURN(arithmetic_prompt(set, problem, out));
    TRY_RETURN(escape_from(out, from));
    TRY_RETURN(str_printf(out, "\",\"completion\":\""));
    from = out->len;
    TRY_RETURN(arithmetic_answer(set, problem, out));
    TRY_RETURN(escape_from(out, from));
    return str_printf(out, "\"}\n");
}

static const char *skip_space(const char *s) {
    while (*s == ' ' || *s == '\t') s++;
    return s;
}

/* A number, perhaps in parentheses; the position behind it, or NULL. Raises *digits to its digits before the point. */
static const char *parse_operand(const char *s, int *digits) {
    s = skip_space(s);
    const bool open = *s == '(';
    if (open) s = skip_space(s + 1);
    if (*s == '-') s++;
    int n = 0;
    for (; *s >= '0' && *s <= '9'; s++) n++;
    if (!n) return NULL;
    if (*s == '.') {
        if (s[1] < '0' || s[1] > '9') return NULL;
        for (s++; *s >= '0' && *s <= '9'; s++) {}
    }
    if (n > *digits) *digits = n;
    s = skip_space(s);
    if (!open) return s;
    return *s == ')' ? skip_space(s + 1) : NULL;
}

static const char *parse_operator(const char *s, char *op) {
    static const struct {
        const char *text;
        char op;
    } names[] = {{"+", '+'}, {"-", '-'}, {"*", '*'}, {"/", '/'}, {"\\times", '*'}, {"\\div", '/'}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i].text);
        if (strncmp(s, names[i].text, n) != 0) continue;
        *op = names[i].op;
        return s + n;
    }
    return NULL;
}

bool arithmetic_classify(const char *prompt, char *op, int *digits) {
    char found = 0;
    int longest = 0;
    const char *s = skip_space(prompt);
    const bool latex = *s == '$';
    if (latex) s++;
    if (!(s = parse_operand(s, &longest)) || !(s = parse_operator(s, &found)) || !(s = parse_operand(s, &longest)))
        return false;
    if (*s++ != '=') return false;
    s = skip_space(s);
    if (latex && *s++ != '$') return false;
    if (*skip_space(s)) return false;
    *op = found;
    *digits = longest;
    return true;
}
