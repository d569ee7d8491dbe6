/* Memory: one injected allocator behind everything, and arenas (many small allocations, one lifetime, one release).
 *
 * Nothing in tane calls malloc directly. A test installs an allocator that fails the Nth call and counts live blocks.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/status.h"

typedef struct Allocator {
    void *(*alloc)(void *ctx, size_t size, size_t align); /* NULL when out of memory; align is a power of two >= 16 */
    void (*free)(void *ctx, void *ptr);                   /* ptr is never NULL */
    void *ctx;
} Allocator;

/* Installs an allocator for the process (NULL: the system's). Only while no tane memory is live. */
void mem_set_allocator(const Allocator *allocator);

/* Raw calls with malloc's shapes, for libraries that take hooks (jansson). */
void *mem_alloc(size_t size);
void mem_free(void *ptr); /* NULL is fine */

/* *out = n*size zeroed bytes aligned to 64 (n == 0 gives a valid pointer). TANE_ENOMEM names the size. */
Status mem_new(void **out, size_t n, size_t size);
/* Grows *ptr from old_n to new_n elements, the new ones zeroed. *ptr may be NULL. */
Status mem_grow(void **ptr, size_t old_n, size_t new_n, size_t size);

#define MEM_NEW(ptr) mem_new((void **)(ptr), 1, sizeof **(ptr))            /* MEM_NEW(&p) */
#define MEM_NEW_ARRAY(ptr, n) mem_new((void **)(ptr), (n), sizeof **(ptr)) /* MEM_NEW_ARRAY(&p, n) */
Status mem_strdup(char **out, const char *text);

/* An arena: allocations live until the arena is released. Not thread-safe. Zero-initialise to create. */
typedef struct ArenaBlock ArenaBlock;
typedef struct Arena {
    ArenaBlock *blocks;
    size_t used; /* bytes handed out, for reports */
} Arena;

Status arena_new(Arena *arena, void **out, size_t n, size_t size); /* zeroed, aligned to 16 */
#define ARENA_NEW(arena, ptr) arena_new((arena), (void **)(ptr), 1, sizeof **(ptr))
#define ARENA_NEW_ARRAY(arena, ptr, n) arena_new((arena), (void **)(ptr), (n), sizeof **(ptr))
Status arena_strdup(Arena *arena, char **out, const char *text);
Status arena_printf(Arena *arena, char **out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void arena_release(Arena *arena);

/* A growing text buffer, always NUL-terminated once written to. Zero-initialise; str_free when done. */
typedef struct Str {
    char *text;
    size_t len, cap;
} Str;
Status str_add(Str *s, const char *bytes, size_t n);
Status str_printf(Str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_free(Str *s);

#endif
