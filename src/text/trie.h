/* A trie over byte strings, built once: which of many texts a text begins with. */
#ifndef TEXT_TRIE_H
#define TEXT_TRIE_H

#include "text/vocab.h"

/* A node's children lie side by side, their bytes ascending. */
typedef struct TrieNode {
    uint32_t first; /* child */
    int32_t value;  /* of the text that ends here, -1: none does */
    uint16_t children;
    uint8_t byte; /* that led here */
} TrieNode;

typedef struct Trie {
    TrieNode *nodes; /* (n), the root first */
    size_t n;
    uint32_t root[256]; /* the root's children; 0: none */
} Trie;

/* texts (n) get the values 0..n-1; of equal texts the last one counts, empty ones and those with data NULL are left
 * out. */
Status trie_build(Trie *trie, const void *first, size_t stride, size_t n);
void trie_free(Trie *trie);

/* The child by a byte, 0: none. */
static inline uint32_t trie_step(const Trie *trie, uint32_t node, uint8_t byte) {
    if (node == 0) return trie->root[byte];
    const TrieNode *at = &trie->nodes[node], *child = trie->nodes + at->first;
    size_t lo = 0, hi = at->children;
    while (hi - lo > 8) {
        size_t mid = (lo + hi) / 2;
        if (child[mid].byte <= byte) lo = mid;
        else hi = mid;
    }
    for (; lo < hi; lo++)
        if (child[lo].byte == byte) return at->first + (uint32_t)lo;
    return 0;
}

#endif
