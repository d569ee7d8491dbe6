/* Regular expressions that stand in tokenizer files, on PCRE2 with its JIT compiler.
 *
 * tokenizers runs them on Oniguruma (Ruby's syntax), tiktoken on Rust's fancy-regex. Where PCRE2 means something else
 * by the same text, the expression is rewritten: \s (Unicode's White_Space), \w, \h, \p{Han} and other scripts,
 * \u3042, classes in classes and their intersection ([\p{L}&&[^\p{Han}]]). ^ and $ are those of lines.
 */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include "base/mem.h"

typedef struct Regex Regex;

/* `where` begins errors. TANE_EUNSUPPORTED for what PCRE2 does not compile or what would mean something else. */
Status regex_new(Regex **out, const char *where, const char *pattern, size_t n);
void regex_free(Regex *re); /* NULL is fine */

/* The next match that is not empty in text[from..n), valid UTF-8; *begin == *end == n when there is none. A match that
 * takes more than a bounded number of steps is TANE_EUNSUPPORTED. Any number of threads may ask at once. */
Status regex_next(const Regex *re, const char *text, size_t n, size_t from, size_t *begin, size_t *end);
/* As scanner_cut. */
Status regex_cut(const Regex *re, const char *text, size_t n, size_t from, size_t *ends, size_t max, size_t *count);

#endif
