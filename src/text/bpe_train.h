/* Learns a byte-level BPE vocabulary: the pair that occurs most often becomes a token, until there are enough. Gives
 * the same ids and merges as Hugging Face's BpeTrainer with the 256 bytes as initial alphabet (of pairs that occur
 * equally often the one with the smaller ids is first), whatever the number of threads.
 *
 * Memory goes by the different words: a table of those that each thread met while reading, then some 40 bytes for each
 * byte of them. The text itself is never kept; 8 MiB of it wait at a time (text/word_count.h). */
#ifndef TEXT_BPE_TRAIN_H
#define TEXT_BPE_TRAIN_H

#include "text/tokenizer_spec.h"

typedef struct BpeTrainOptions {
    int64_t vocab_size;         /* special tokens and the 256 bytes included */
    int64_t min_frequency;      /* of a pair; 0 (Hugging Face's own default) is the same as 1 */
    const char *pattern;        /* splitting expression; NULL: GPT-2's, through ByteLevel as Hugging Face has it */
    const char *const *special; /* (n_special) ids 0, 1, ...; the first is BOS and EOS unless named below */
    size_t n_special;
    const char *bos, *eos, *pad; /* among `special`, or NULL */
    int64_t threads;             /* 0: all */
    /* Called now and then with the share of the vocabulary that is learned, which is 0 while text is read; true stops
     * with TANE_ECANCELED. May be NULL. */
    bool (*progress)(void *user, double share);
    void *user;
} BpeTrainOptions;

/* Text comes piece by piece, in UTF-8: *more false at the end; the bytes stay valid until the next call. A word never
 * reaches across two pieces. Large pieces are worked on by all threads. */
typedef Status (*BpeTrainNext)(void *user, const char **text, size_t *n, bool *more);

/* *spec is complete: byte-level BPE, ready for tokenizer_spec_json and tokenizer_from_spec. It has fewer tokens than
 * vocab_size when there are no more pairs that occur min_frequency times. Empty on failure; bytes that are not UTF-8
 * are TANE_EFORMAT with the number of the piece. */
Status bpe_train(TokenizerSpec *spec, const BpeTrainOptions *options, BpeTrainNext next, void *user);

#endif
