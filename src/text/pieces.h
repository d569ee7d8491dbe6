/* A text on its way through the steps of a tokenizer: its bytes, where each came from, and the pieces it is cut into.
 */
#ifndef TEXT_PIECES_H
#define TEXT_PIECES_H

#include "base/mem.h"

/* Bytes of the input. */
typedef struct Origin {
    uint32_t begin, end;
} Origin;

typedef struct Range {
    size_t begin, end;
} Range;

typedef struct Pieces {
    Str text;
    bool aligned;
    Origin *origin; /* (text.len), only when aligned: of each byte, from its character's begin to the byte's own end */
    size_t origin_cap;
    Range *items; /* (n) pieces of the text, in its order */
    size_t n, cap;
} Pieces;

void pieces_clear(Pieces *p); /* keeps memory and `aligned` */
void pieces_free(Pieces *p);
/* Appends bytes that all came from one place. */
Status pieces_put(Pieces *p, const char *bytes, size_t n, Origin origin);
Status pieces_put_code(Pieces *p, uint32_t code, Origin origin);
/* Appends text[begin..end) of another one as it is. */
Status pieces_copy(Pieces *p, const Pieces *from, size_t begin, size_t end);
/* Appends bytes of the input itself, which lie there from `at` on. */
Status pieces_input(Pieces *p, const char *bytes, size_t n, size_t at);
/* A piece; empty ones are left out. */
Status pieces_cut(Pieces *p, size_t begin, size_t end);

/* Where the character at `at` came from. */
static inline Origin pieces_origin(const Pieces *p, size_t at) {
    if (!p->aligned || at >= p->text.len) return (Origin){0, 0};
    size_t last = at;
    while (last + 1 < p->text.len && ((unsigned char)p->text.text[last + 1] & 0xC0) == 0x80) last++;
    return (Origin){p->origin[at].begin, p->origin[last].end};
}

#endif
