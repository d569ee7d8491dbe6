/* Building a trie from sorted texts, a level at a time: a node is a range of texts that agree so far. */
#include "text/trie.h"

#include <stdlib.h>
#include <string.h>

typedef struct Entry {
    const char *data;
    uint32_t n;
    int32_t value;
} Entry;

static int compare(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    int order = memcmp(x->data, y->data, x->n < y->n ? x->n : y->n);
    if (order) return order;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

static Status list_entries(const void *first, size_t stride, size_t n, Entry **out, size_t *count) {
    TRY_RETURN(MEM_NEW_ARRAY(out, n));
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        const Bytes *text = (const Bytes *)(const void *)((const char *)first + i * stride);
        if (!text->data || text->n == 0) continue;
        (*out)[(*count)++] = (Entry){text->data, (uint32_t)text->n, (int32_t)i};
    }
    if (*count) qsort(*out, *count, sizeof **out, compare);
    return TANE_OK;
}

typedef struct Range {
    uint32_t lo, hi; /* entries of a node */
} Range;

typedef struct Builder {
    Trie *trie;
    Range *ranges; /* beside the nodes */
    size_t cap;
} Builder;

static Status add_node(Builder *b, uint8_t byte, uint32_t lo) {
    Trie *trie = b->trie;
    if (trie->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 1024;
        TRY_RETURN(mem_grow((void **)&trie->nodes, trie->n, cap, sizeof *trie->nodes));
        TRY_RETURN(mem_grow((void **)&b->ranges, trie->n, cap, sizeof *b->ranges));
        b->cap = cap;
    }
    trie->nodes[trie->n] = (TrieNode){.value = -1, .byte = byte};
    b->ranges[trie->n++] = (Range){lo, lo};
    return TANE_OK;
}

/* The children of a node whose texts agree in their first `depth` bytes. */
static Status add_children(Builder *b, size_t node, const Entry *entries, size_t depth) {
    Range r = b->ranges[node];
    for (; r.lo < r.hi && entries[r.lo].n == depth; r.lo++) b->trie->nodes[node].value = entries[r.lo].value;
    uint32_t first = (uint32_t)b->trie->n;
    for (uint32_t i = r.lo; i < r.hi; i++) {
        uint8_t byte = (uint8_t)entries[i].data[depth];
        if (i == r.lo || b->trie->nodes[b->trie->n - 1].byte != byte) TRY_RETURN(add_node(b, byte, i));
        b->ranges[b->trie->n - 1].hi = i + 1;
    }
    b->trie->nodes[node].first = first;
    b->trie->nodes[node].children = (uint16_t)(b->trie->n - first);
    return TANE_OK;
}

Status trie_build(Trie *trie, const void *first, size_t stride, size_t n) {
    Status st = TANE_OK;
    Entry *entries = NULL;
    size_t count;
    Builder b = {.trie = trie};
    *trie = (Trie){0};
    TRY(list_entries(first, stride, n, &entries, &count));
    TRY(add_node(&b, 0, 0));
    b.ranges[0].hi = (uint32_t)count;
    size_t depth = 0, level_end = 1;
    for (size_t node = 0; node < trie->n; node++) {
        if (node == level_end) {
            depth++;
            level_end = trie->n;
        }
        TRY(add_children(&b, node, entries, depth));
    }
    for (uint32_t i = 0; i < trie->nodes[0].children; i++)
        trie->root[trie->nodes[trie->nodes[0].first + i].byte] = trie->nodes[0].first + i;
out:
    mem_free(b.ranges);
    mem_free(entries);
    if (st != TANE_OK) trie_free(trie);
    return st;
}

void trie_free(Trie *trie) {
    mem_free(trie->nodes);
    *trie = (Trie){0};
}
