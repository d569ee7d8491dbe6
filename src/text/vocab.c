/* Open addressing with linear probing; half of the slots stay free, so that probes are short. */
#include "text/vocab.h"

#include <string.h>

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 32;
}

static uint32_t hash_text(const char *text, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; text += 8, n -= 8) {
        memcpy(&word, text, 8);
        h = mix(h, word);
    }
    if (n) {
        word = 0;
        memcpy(&word, text, n);
        h = mix(h, word);
    }
    return (uint32_t)(mix(h, 0) >> 16);
}

Status vocab_init(Vocab *v, const void *first, size_t stride, size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    *v = (Vocab){first, stride, NULL, slots - 1};
    return MEM_NEW_ARRAY(&v->slots, slots);
}

void vocab_free(Vocab *v) {
    mem_free(v->slots);
    *v = (Vocab){0};
}

static const Bytes *text_of(const Vocab *v, int32_t id) {
    return (const Bytes *)(const void *)((const char *)v->first + (size_t)id * v->stride);
}

/* The slot that holds the text, or the free one where it belongs. */
static size_t probe(const Vocab *v, const char *text, size_t n, uint32_t hash) {
    for (size_t at = hash & v->mask;; at = (at + 1) & v->mask) {
        const VocabSlot *slot = &v->slots[at];
        if (slot->id == 0) return at;
        if (slot->hash != hash) continue;
        const Bytes *known = text_of(v, slot->id - 1);
        if (known->n == n && memcmp(known->data, text, n) == 0) return at;
    }
}

int32_t vocab_add(Vocab *v, int32_t id) {
    const Bytes *text = text_of(v, id);
    uint32_t hash = hash_text(text->data, text->n);
    VocabSlot *slot = &v->slots[probe(v, text->data, text->n, hash)];
    if (slot->id) return slot->id - 1;
    *slot = (VocabSlot){hash, id + 1};
    return -1;
}

int32_t vocab_find(const Vocab *v, const char *text, size_t n) {
    if (!v->slots) return -1;
    return v->slots[probe(v, text, n, hash_text(text, n))].id - 1;
}
