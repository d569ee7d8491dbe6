/* Where a pattern of a tokenizer.json matches: a plain text or a regular expression. */
#ifndef TEXT_FINDER_H
#define TEXT_FINDER_H

#include "text/scan.h"
#include "text/vocab.h"

typedef struct Finder {
    Bytes text;       /* borrowed */
    Scanner *scanner; /* NULL: plain text */
} Finder;

/* `path` is the pattern's place in the file. */
Status finder_init(Finder *f, const char *where, const char *path, Bytes pattern, bool regex);
void finder_free(Finder *f);
/* The next match in text[from..n); *begin == n: none. Never an empty one. */
Status finder_next(const Finder *f, const char *text, size_t n, size_t from, size_t *begin, size_t *end);

#endif
