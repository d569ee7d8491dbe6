/* Plain texts by memmem, expressions by a scanner. */
#include "text/finder.h"

#include <string.h>

Status finder_init(Finder *f, const char *where, const char *path, Bytes pattern, bool regex) {
    *f = (Finder){pattern, NULL};
    if (pattern.n == 0) return FAIL(TANE_EFORMAT, "%s: %s is empty; it would match nothing", where, path);
    if (!regex) return TANE_OK;
    Status st = scanner_new(&f->scanner, where, pattern.data, pattern.n, true);
    return st == TANE_OK ? st : err_context("%s", path);
}

void finder_free(Finder *f) {
    scanner_free(f->scanner);
    *f = (Finder){0};
}

Status finder_next(const Finder *f, const char *text, size_t n, size_t from, size_t *begin, size_t *end) {
    if (f->scanner) return scanner_next(f->scanner, text, n, from, begin, end);
    const char *found = from < n ? memmem(text + from, n - from, f->text.data, f->text.n) : NULL;
    *begin = found ? (size_t)(found - text) : n;
    *end = found ? *begin + f->text.n : n;
    return TANE_OK;
}
