/* Splitting expressions of byte-level BPE tokenizers: where the next word of a text ends.
 *
 * The expressions that real tokenizers use (GPT-2's, cl100k_base / Llama 3, o200k_base, Qwen2, and the smaller ones listed
 * in scan.c) are known by their text and have scanners written by hand, which look at each byte about once. Any other goes
 * to PCRE2 with its JIT compiler and a match limit. Text is valid UTF-8. Unicode classes are utf8proc's.
 */
#ifndef TEXT_SCAN_H
#define TEXT_SCAN_H

#include "base/mem.h"

typedef struct Scanner Scanner;

/* GPT-2's own expression, which ByteLevel(use_regex) means, and the one tiktoken ranks default to. */
extern const char scan_gpt2[], scan_cl100k[], scan_o200k[];

/* TANE_EUNSUPPORTED with the expression and PCRE2's reason and place when it cannot be compiled. `where` is what the error
 * begins with. by_hand false: PCRE2 always, as an oracle for tests. */
Status scanner_new(Scanner **out, const char *where, const char *pattern, size_t n, bool by_hand);
void scanner_free(Scanner *s);                /* NULL is fine */
const char *scanner_name(const Scanner *s);   /* "gpt2", "cl100k", ..., "pcre2" */

/* The next match in text[from..n): *begin <= *end, both >= from, begin == end == n when there is none. Never an empty
 * match. Fails only with a PCRE2 expression that needs more steps than allowed (TANE_EUNSUPPORTED). Any number of threads
 * may scan at once. */
Status scanner_next(const Scanner *s, const char *text, size_t n, size_t from, size_t *begin, size_t *end);

#endif
