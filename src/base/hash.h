/* FNV-1a (Fowler, Noll, Vo): a quick hash to notice changes and find what is the same. Not against somebody who means
 * harm. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_START 0xcbf29ce484222325u

/* A whole word is taken at a time where numbers are hashed. */
static inline uint64_t hash_word(uint64_t h, uint64_t word) { return (h ^ word) * 0x100000001b3u; }

static inline uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n) {
    const uint8_t *p = (const uint8_t *)bytes;
    for (size_t i = 0; i < n; i++) h = hash_word(h, p[i]);
    return h;
}

#endif
