/* The injected allocator, arenas and the text buffer. */
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* From this size on memory comes in huge pages where the system has them to give: a matrix product that walks down a
 * column touches one page a row, and would miss the TLB at each of them. */
static const size_t HUGE_FROM = (size_t)4 << 20, HUGE_PAGE = (size_t)2 << 20;

static void *system_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
    bool huge = size >= HUGE_FROM && align <= HUGE_PAGE;
    if (huge) align = HUGE_PAGE;
    size_t rounded = (size + align - 1) / align * align; /* aligned_alloc wants a multiple */
    void *ptr = rounded < size ? NULL : aligned_alloc(align, rounded);
#ifdef MADV_HUGEPAGE
    if (huge && ptr) (void)madvise(ptr, rounded, MADV_HUGEPAGE); /* a wish: without it everything still works */
#endif
    return ptr;
}
static void system_free(void *ctx, void *ptr) {
    (void)ctx;
    free(ptr);
}
static const Allocator system_allocator = {system_alloc, system_free, NULL};
static Allocator current = {system_alloc, system_free, NULL};

void mem_set_allocator(const Allocator *allocator) { current = allocator ? *allocator : system_allocator; }

void *mem_alloc(size_t size) { return current.alloc(current.ctx, size ? size : 1, 16); }
void mem_free(void *ptr) {
    if (ptr) current.free(current.ctx, ptr);
}

static Status no_memory(size_t n, size_t size) {
    return FAIL(TANE_ENOMEM, "out of memory: could not get %zu x %zu bytes (%.1f MiB)", n, size,
                (double)n * (double)size / 1048576.0);
}

/* Fresh pages come from the system one fault at a time: for gigabytes, all cores ask for theirs. */
static void clear(char *bytes, size_t n) {
    enum { LARGE = 64 << 20, PART = 4 << 20 };
    if (n < LARGE) {
        memset(bytes, 0, n);
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < n; at += PART) memset(bytes + at, 0, n - at < PART ? n - at : PART);
}

Status mem_new(void **out, size_t n, size_t size) {
    *out = NULL;
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > PTRDIFF_MAX) return no_memory(n, size);
    *out = current.alloc(current.ctx, bytes ? bytes : 1, 64);
    if (!*out) return no_memory(n, size);
    clear(*out, bytes);
    return TANE_OK;
}

Status mem_grow(void **ptr, size_t old_n, size_t new_n, size_t size) {
    void *grown;
    TRY_RETURN(mem_new(&grown, new_n, size));
    if (*ptr) {
        memcpy(grown, *ptr, (old_n < new_n ? old_n : new_n) * size);
        mem_free(*ptr);
    }
    *ptr = grown;
    return TANE_OK;
}

Status mem_strdup(char **out, const char *text) {
    size_t n = strlen(text) + 1;
    TRY_RETURN(mem_new((void **)out, n, 1));
    memcpy(*out, text, n);
    return TANE_OK;
}

struct ArenaBlock {
    ArenaBlock *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

Status arena_new(Arena *arena, void **out, size_t n, size_t size) {
    *out = NULL;
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > PTRDIFF_MAX - 64) return no_memory(n, size);
    bytes = (bytes + 15) & ~(size_t)15;
    ArenaBlock *block = arena->blocks;
    if (!block || block->cap - block->used < bytes) {
        size_t cap = bytes > 16384 ? bytes : 16384;
        block = current.alloc(current.ctx, sizeof *block + cap, 64);
        if (!block) return no_memory(n, size);
        block->used = 0;
        block->cap = cap;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    *out = block->bytes + block->used;
    block->used += bytes;
    arena->used += bytes;
    memset(*out, 0, bytes);
    return TANE_OK;
}

Status arena_strdup(Arena *arena, char **out, const char *text) {
    size_t n = strlen(text) + 1;
    TRY_RETURN(arena_new(arena, (void **)out, n, 1));
    memcpy(*out, text, n);
    return TANE_OK;
}

Status arena_printf(Arena *arena, char **out, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    Status st = arena_new(arena, (void **)out, (size_t)n + 1, 1);
    if (st == TANE_OK) vsnprintf(*out, (size_t)n + 1, fmt, again);
    va_end(again);
    return st;
}

void arena_release(Arena *arena) {
    for (ArenaBlock *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        current.free(current.ctx, block);
    }
    *arena = (Arena){0};
}

static Status str_reserve(Str *s, size_t extra) {
    size_t need;
    if (__builtin_add_overflow(s->len, extra + 1, &need)) return no_memory(extra, 1);
    if (need <= s->cap) return TANE_OK;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < need) cap *= 2;
    char *text = current.alloc(current.ctx, cap, 16);
    if (!text) return no_memory(cap, 1);
    if (s->text) {
        memcpy(text, s->text, s->len);
        current.free(current.ctx, s->text);
    }
    text[s->len] = 0;
    s->text = text;
    s->cap = cap;
    return TANE_OK;
}

Status str_add(Str *s, const char *bytes, size_t n) {
    TRY_RETURN(str_reserve(s, n));
    if (n) memcpy(s->text + s->len, bytes, n);
    s->len += n;
    s->text[s->len] = 0;
    return TANE_OK;
}

Status str_printf(Str *s, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    Status st = str_reserve(s, (size_t)n);
    if (st == TANE_OK) {
        vsnprintf(s->text + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    }
    va_end(again);
    return st;
}

void str_free(Str *s) {
    mem_free(s->text);
    *s = (Str){0};
}
