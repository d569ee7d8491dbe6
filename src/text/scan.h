/* Splitting expressions of byte-level BPE tokenizers: where the next word of a text ends.
 *
 * The expressions that real tokenizers use (GPT-2's, cl100k_base / Llama 3, o200k_base, Qwen2, and the smaller ones
 * listed in scan.c) are known by their text and have scanners written by hand, which look at each byte about once.
 * Any other goes to PCRE2 (text/regex.h). Text is valid UTF-8.
 *
 * Hand-written scanners know Unicode 16, as tiktoken 0.14 and tokenizers 0.23 do. PCRE2 knows the version that it was
 * built with (Debian 12: 14), so that an expression that is not known by hand may cut characters younger than that
 * differently.
 */
#ifndef TEXT_SCAN_H
#define TEXT_SCAN_H

#include "base/mem.h"

typedef struct Scanner Scanner;

/* GPT-2's own expression, which ByteLevel(use_regex) means, and tiktoken's own of cl100k_base and o200k_base. */
extern const char scan_gpt2[], scan_cl100k[], scan_o200k[];
/* cl100k_base's as a tokenizer.json has to spell it. */
extern const char scan_cl100k_json[];
/* Sequences of pre-tokenizers as one expression: Digits(individual_digits) then ByteLevel (StarCoder, SmolLM), and the
 * three Splits of DeepSeek-V3, in this order. */
extern const char scan_digits_gpt2[], scan_deepseek3[];
extern const char *const scan_deepseek3_steps[3];
/* Whether pattern[0..n) is the text `known` (in which \r and \n may stand as escapes or as themselves). */
bool scan_same_pattern(const char *known, const char *pattern, size_t n);

/* TANE_EUNSUPPORTED with the expression and PCRE2's reason and place when it cannot be compiled. `where` is what the
 * error begins with. by_hand false: PCRE2 always, as an oracle for tests. */
Status scanner_new(Scanner **out, const char *where, const char *pattern, size_t n, bool by_hand);
void scanner_free(Scanner *s);                /* NULL is fine */
const char *scanner_name(const Scanner *s);   /* "gpt2", "cl100k", ..., "pcre2" */

/* The next match in text[from..n): *begin <= *end, both >= from, begin == end == n when there is none. Never an empty
 * match. Fails only with a PCRE2 expression that needs more steps than allowed (TANE_EUNSUPPORTED). Any number of
 * threads may scan at once. */
Status scanner_next(const Scanner *s, const char *text, size_t n, size_t from, size_t *begin, size_t *end);

/* Many words at once, for the hot loop: text[from..) is cut into the matches and what lies between them, and
 * ends[0..*count) says where each word ends. At least one and at most max (>= 2) of them; all of the text when it
 * returns fewer than max - 1. */
Status scanner_cut(const Scanner *s, const char *text, size_t n, size_t from, size_t *ends, size_t max, size_t *count);

#endif
