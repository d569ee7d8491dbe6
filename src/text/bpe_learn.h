/* The merge loop of training a byte-level BPE vocabulary: from words with their counts to tokens and merges. */
#ifndef TEXT_BPE_LEARN_H
#define TEXT_BPE_LEARN_H

#include "text/tokenizer_spec.h"
#include "text/vocab.h"
#include "text/word_count.h"

/* The vocabulary as it grows. */
typedef struct BpeVocab {
    Arena *arena;      /* the tokens' texts */
    SpecToken *tokens; /* (cap) by id, in GPT-2's alphabet */
    int32_t n, cap;
    Vocab index;       /* of the texts */
    int32_t byte[256]; /* their ids */
} BpeVocab;

typedef struct BpeLearnOptions {
    int64_t min_frequency;
    int threads;
    bool (*progress)(void *user, double share); /* may be NULL */
    void *user;
} BpeLearnOptions;

/* Adds tokens until there are vocab->cap of them or no pair occurs often enough. *merges (mem_free) are the *n_merges
 * pairs in the order in which they were joined. */
Status bpe_learn(BpeVocab *vocab, const WordList *words, const BpeLearnOptions *options, SpecMerge **merges,
                 size_t *n_merges);

#endif
