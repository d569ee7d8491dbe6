/* What words became, for bpe.c: two tables of fixed size.
 *
 * Short words (up to 15 bytes and 3 tokens, nearly all of a usual text) lie in a table of 32-byte slots, two of which
 * share a cache line and are looked at together: their bytes are two 64-bit words, so that finding one is two compares
 * and no loop. Others go by a hash of their bytes to a slot that says where in a buffer their bytes and ids are; when
 * the buffer is full the table begins anew.
 */
#ifndef TEXT_BPE_CACHE_H
#define TEXT_BPE_CACHE_H

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

enum {
    SHORT_BYTES = 15,
    SHORT_IDS = 3,
    SHORT_BITS = 16,          /* of the number of sets */
    LONG_BITS = 15,
    LONG_BYTES = 512,         /* longer words are not remembered */
    LONG_BUFFER = 1536 << 10
};

/* A word's bytes with zeros behind them; the last byte is how many they are, so never 0, and whether it is
 * PART_OF_WORD. */
typedef struct WordKey {
    uint64_t lo, hi;
} WordKey;

typedef struct ShortSlot {
    WordKey key;
    int32_t ids[SHORT_IDS];
    uint32_t n;
} ShortSlot;

typedef struct LongSlot {
    uint64_t hash;
    uint32_t at; /* in the buffer: ids, then bytes */
    uint16_t n_bytes, n_ids;
} LongSlot;

typedef struct WordCache {
    ShortSlot (*sets)[2];
    LongSlot *slots;
    uint8_t *buffer;
    size_t used;
} WordCache;

static inline Status word_cache_init(WordCache *c) {
    Status st = TANE_OK;
    TRY(MEM_NEW_ARRAY(&c->sets, (size_t)1 << SHORT_BITS));
    TRY(MEM_NEW_ARRAY(&c->slots, (size_t)1 << LONG_BITS));
    TRY(MEM_NEW_ARRAY(&c->buffer, LONG_BUFFER));
out:
    return st;
}

static inline void word_cache_free(WordCache *c) {
    mem_free(c->sets);
    mem_free(c->slots);
    mem_free(c->buffer);
}

static const uint64_t PART_OF_WORD = (uint64_t)1 << 63;

static inline uint64_t low_bytes(size_t n) { return n >= 8 ? ~(uint64_t)0 : ((uint64_t)1 << 8 * n) - 1; }

/* 1 <= n <= SHORT_BYTES; `readable` bytes may be read from `word` on. */
static inline WordKey word_key(const char *word, size_t n, size_t readable) {
    WordKey key = {0, 0};
    if (readable >= 16) {
        memcpy(&key, word, 16);
        key.lo &= low_bytes(n);
        key.hi &= n > 8 ? low_bytes(n - 8) : 0;
    } else {
        memcpy(&key, word, n);
    }
    key.hi |= (uint64_t)n << 56;
    return key;
}

static inline uint32_t word_key_set(WordKey key) {
    uint64_t h = key.lo * 0x9E3779B97F4A7C15u + key.hi * 0xC2B2AE3D27D4EB4Fu;
    h ^= h >> 32;
    return (uint32_t)(h * 0x9E3779B97F4A7C15u >> (64 - SHORT_BITS));
}

static inline bool same_key(WordKey a, WordKey b) { return ((a.lo ^ b.lo) | (a.hi ^ b.hi)) == 0; }

/* A word found in second place moves to the first: so frequent words stay, and rare ones push each other out. */
static inline const ShortSlot *short_find(WordCache *c, WordKey key, uint32_t set) {
    ShortSlot *slot = c->sets[set], found;
    if (__builtin_expect(same_key(slot[0].key, key), 1)) return &slot[0];
    if (!same_key(slot[1].key, key)) return NULL;
    found = slot[1];
    slot[1] = slot[0];
    slot[0] = found;
    return &slot[0];
}

static inline void short_put(WordCache *c, WordKey key, uint32_t set, const int32_t *ids, size_t n) {
    ShortSlot *slot = c->sets[set];
    if (slot[0].key.hi) slot++; /* no key has 0 there */
    *slot = (ShortSlot){.key = key, .n = (uint32_t)n};
    memcpy(slot->ids, ids, n * sizeof *ids);
}

/* Of any bytes: multiplied 8 at a time. */
static inline uint64_t bytes_hash(const char *bytes, size_t n) {
    uint64_t h = n * 0x9E3779B97F4A7C15u, part;
    for (; n >= 8; bytes += 8, n -= 8) {
        memcpy(&part, bytes, 8);
        h = (h ^ part) * 0xC2B2AE3D27D4EB4Fu;
        h ^= h >> 29;
    }
    if (n) {
        part = 0;
        memcpy(&part, bytes, n);
        h = (h ^ part) * 0xC2B2AE3D27D4EB4Fu;
        h ^= h >> 29;
    }
    h *= 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static inline const int32_t *long_find(const WordCache *c, const char *word, size_t n, uint64_t hash, size_t *n_ids) {
    const LongSlot *slot = &c->slots[hash >> (64 - LONG_BITS)];
    const uint8_t *entry = c->buffer + slot->at;
    if (slot->hash != hash || slot->n_bytes != n || memcmp(entry + slot->n_ids * sizeof(int32_t), word, n) != 0)
        return NULL;
    *n_ids = slot->n_ids;
    return (const int32_t *)entry;
}

/* n <= LONG_BYTES, and there are no more ids than bytes. */
static inline void long_put(WordCache *c, const char *word, size_t n, uint64_t hash, const int32_t *ids, size_t n_ids) {
    size_t size = (n_ids * sizeof *ids + n + 3) & ~(size_t)3;
    if (LONG_BUFFER - c->used < size) {
        memset(c->slots, 0, sizeof *c->slots << LONG_BITS);
        c->used = 0;
    }
    uint8_t *entry = c->buffer + c->used;
    memcpy(entry, ids, n_ids * sizeof *ids);
    memcpy(entry + n_ids * sizeof *ids, word, n);
    c->slots[hash >> (64 - LONG_BITS)] = (LongSlot){hash, (uint32_t)c->used, (uint16_t)n, (uint16_t)n_ids};
    c->used += size;
}

#endif
