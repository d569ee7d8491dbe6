/* Arithmetic problems as training rows: which problems there are, in which order, and how each one is written.
 *
 * Operands. A number is an integer multiple of 10^-decimals with at most `digits` digits in front of the point, so
 * |value| < 10^digits; without `negative`, value >= 0. Each is written in one way only: no leading zeros, no zeros at
 * the end of the fraction, no point without a fraction, no "-0". digits + decimals <= 9 keeps every intermediate
 * result exact in an int64_t; floating point is never used.
 *
 * Problems. All pairs (a, b) for + - *; for / all pairs with b != 0, and with division "exact" only those whose
 * quotient is a whole number (both a and b in the operands' range). Different problems have different prompts.
 *
 * Text, as a grammar (plain, reversed and working answers share the prompt):
 *
 *     prompt     = number op second "="              12+34=   -12+34=   12+(-34)=
 *     second     = number | "(" number ")"           in parentheses exactly when negative
 *     op         = "+" | "-" | "*" | "/"
 *     plain      = number | number "r" number        -22   0.33   7r2   -3r-1
 *     reversed   = plain, the characters of each number behind its sign in reverse order: 408 -> 804, -1.25 -> -52.1
 *     working    = { step ";" } "=" plain            the answer is what stands behind the last "="
 *     step       = rewrite | expression "=" result   described below
 *     latex      = "$12 \times (-34)=$" and "$-408$" op is + - \times \div; remainder "7 \text{ r } 2"
 *
 * Answers of / by `division`:
 *     exact      the whole quotient
 *     decimal    correctly rounded to `places` digits behind the point, halves away from zero, zeros at the end dropped
 *     remainder  quotient "r" remainder, as / and % in C: the quotient is cut toward zero, the remainder has the
 *                dividend's sign (7/2 = 3r1, -7/2 = -3r-1, 6/2 = 3r0)
 *
 * Working, written on magnitudes and without points (sign and point return in the answer):
 *     a+b, a-b   first, unless the problem reads so already, the problem as x+y, x-y (x >= y), -(x+y) or -(x-y); then
 *                columns from the right, the carry or borrow as a third term: 58+67= 8+7=15;5+6+1=12;=125
 *                52-17= 12-7=5;5-1-1=3;=35. Columns end where the rest is copied unchanged.
 *     a*b        a times each digit of b that is not 0, from the right, and running sums:
 *                12*34= 12*4=48;12*30=360;48+360=408;=408
 *     a/b        long division, quotient digit and rest per step: 408/12= 40/12=3r4;48/12=4r0;=34. With "decimal" it
 *                goes on for one digit more than the answer keeps, which says how to round.
 *
 * Order. Problem k of a drawing is a function of (options, k): no list is kept, and any number of problems costs the
 * same memory (exact division keeps a table of O(sqrt(10^(digits + decimals))) entries).
 */
#ifndef DATA_ARITHMETIC_H
#define DATA_ARITHMETIC_H

#include "base/mem.h"

enum { ARITHMETIC_MAX_DIGITS = 9, ARITHMETIC_MAX_ALL = 20000000 };

typedef enum ArithmeticDivision { ARITHMETIC_EXACT, ARITHMETIC_DECIMAL, ARITHMETIC_REMAINDER } ArithmeticDivision;
typedef enum ArithmeticAnswers {
    ARITHMETIC_PLAIN,
    ARITHMETIC_REVERSED,
    ARITHMETIC_WORKING,
    ARITHMETIC_LATEX
} ArithmeticAnswers;

typedef struct ArithmeticOptions {
    int64_t digits, decimals; /* digits >= 1, decimals >= 0, together <= 9 */
    bool negative;
    char ops[5];              /* a string of + - * /, each at most once */
    ArithmeticDivision division;
    int64_t places;           /* 0..9, of decimal division */
    ArithmeticAnswers answers;
    uint64_t samples;         /* problems drawn without repeats; 0: all of them */
    uint64_t seed;
    double holdout;           /* share of what is drawn that is held out, 0 <= holdout < 1 */
    bool shuffle;             /* false: in natural order; a sample smaller than everything is always shuffled */
    bool balance;             /* with samples: every operator equally often */
} ArithmeticOptions;

typedef struct ArithmeticProblem {
    char op;
    int64_t a, b; /* times 10^decimals */
} ArithmeticProblem;

typedef struct Arithmetic Arithmetic;

/* TANE_EINVAL, naming the command's option, for options that make no sense, more samples than problems, or no samples
 * and more than ARITHMETIC_MAX_ALL problems. */
Status arithmetic_new(Arithmetic **out, const ArithmeticOptions *options);
void arithmetic_free(Arithmetic *set); /* NULL is fine */

uint64_t arithmetic_total(const Arithmetic *set); /* distinct problems that the options describe */
uint64_t arithmetic_drawn(const Arithmetic *set); /* of them, drawn: samples, or all */
uint64_t arithmetic_held(const Arithmetic *set);  /* of the drawn, held out */

/* The k-th drawn problem, k < arithmetic_drawn, and whether it belongs to the held-out set. Which problems are held out
 * of a complete set depends on the seed and on what the set consists of, not on `shuffle`. */
void arithmetic_draw(const Arithmetic *set, uint64_t k, ArithmeticProblem *problem, bool *held_out);

/* Append the two texts; and the JSONL line, newline included. */
Status arithmetic_prompt(const Arithmetic *set, const ArithmeticProblem *problem, Str *out);
Status arithmetic_answer(const Arithmetic *set, const ArithmeticProblem *problem, Str *out);
Status arithmetic_line(const Arithmetic *set, const ArithmeticProblem *problem, Str *out);

/* Reads a prompt back: its operator and how many digits the longer operand has in front of its point. False for what
 * is no arithmetic prompt of the grammar above; blanks between parts and either operand in parentheses are fine. */
bool arithmetic_classify(const char *prompt, char *op, int *digits);

#endif
