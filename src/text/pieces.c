/* Growing texts with origins and pieces. */
#include "text/pieces.h"

#include <string.h>

#include "text/utf8.h"

void pieces_clear(Pieces *p) { p->text.len = p->n = 0; }

void pieces_free(Pieces *p) {
    str_free(&p->text);
    mem_free(p->origin);
    mem_free(p->items);
    *p = (Pieces){0};
}

static Status reserve_origins(Pieces *p, size_t n) {
    if (p->text.len + n <= p->origin_cap) return TANE_OK;
    size_t cap = 2 * (p->text.len + n);
    TRY_RETURN(mem_grow((void **)&p->origin, p->text.len, cap, sizeof *p->origin));
    p->origin_cap = cap;
    return TANE_OK;
}

Status pieces_put(Pieces *p, const char *bytes, size_t n, Origin origin) {
    if (p->aligned) {
        TRY_RETURN(reserve_origins(p, n));
        for (size_t i = 0; i < n; i++) p->origin[p->text.len + i] = origin;
    }
    return str_add(&p->text, bytes, n);
}

Status pieces_put_code(Pieces *p, uint32_t code, Origin origin) {
    char bytes[4];
    return pieces_put(p, bytes, utf8_encode(code, bytes), origin);
}

Status pieces_copy(Pieces *p, const Pieces *from, size_t begin, size_t end) {
    if (end <= begin) return TANE_OK;
    if (p->aligned) {
        TRY_RETURN(reserve_origins(p, end - begin));
        memcpy(p->origin + p->text.len, from->origin + begin, (end - begin) * sizeof *p->origin);
    }
    return str_add(&p->text, from->text.text + begin, end - begin);
}

Status pieces_input(Pieces *p, const char *bytes, size_t n, size_t at) {
    if (p->aligned) {
        TRY_RETURN(reserve_origins(p, n));
        for (size_t i = 0, next; i < n; i = next) {
            next = i + 1;
            while (next < n && ((uint8_t)bytes[next] & 0xC0) == 0x80) next++;
            for (size_t k = i; k < next; k++)
                p->origin[p->text.len + k] = (Origin){(uint32_t)(at + i), (uint32_t)(at + k + 1)};
        }
    }
    return str_add(&p->text, bytes, n);
}

Status pieces_cut(Pieces *p, size_t begin, size_t end) {
    if (begin >= end) return TANE_OK;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        TRY_RETURN(mem_grow((void **)&p->items, p->n, cap, sizeof *p->items));
        p->cap = cap;
    }
    p->items[p->n++] = (Range){begin, end};
    return TANE_OK;
}
