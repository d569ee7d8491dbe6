/* The texts of a vocabulary by hash: text to id. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include "base/mem.h"

typedef struct Bytes {
    const char *data;
    size_t n;
} Bytes;

typedef struct VocabSlot {
    uint32_t hash;
    int32_t id; /* + 1; 0: free */
} VocabSlot;

/* The texts stay the caller's: id's is at (char *)first + id * stride. */
typedef struct Vocab {
    const void *first;
    size_t stride;
    VocabSlot *slots;
    size_t mask; /* slots - 1; 0: empty vocabulary */
} Vocab;

/* Room for n texts. */
Status vocab_init(Vocab *v, const void *first, size_t stride, size_t n);
void vocab_free(Vocab *v);
/* Puts id in, unless its text is there: then that id comes back and the vocabulary stays as it is. -1: was new. */
int32_t vocab_add(Vocab *v, int32_t id);
int32_t vocab_find(const Vocab *v, const char *text, size_t n); /* -1: not there */

#endif
