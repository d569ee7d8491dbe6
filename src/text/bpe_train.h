/* Learns a byte-level BPE vocabulary: the pair that occurs most often becomes a token, until there are enough. Gives the
 * same vocabulary as Hugging Face's BpeTrainer (ties go to the pair with the smaller ids). */
#ifndef TEXT_BPE_TRAIN_H
#define TEXT_BPE_TRAIN_H

#include "text/tokenizer_spec.h"

typedef struct BpeTrainOptions {
    int64_t vocab_size;    /* special tokens and the 256 bytes included */
    int64_t min_frequency; /* of a pair; 2 */
    const char *pattern;   /* splitting expression; NULL: GPT-2's, through ByteLevel as Hugging Face has it */
    const char *const *special; /* (n_special) ids 0, 1, ...; the first is BOS and EOS unless named below */
    size_t n_special;
    const char *bos, *eos, *pad; /* among `special`, or NULL */
    int64_t threads;
    /* Called now and then with the share that is done; true stops with TANE_ECANCELED. May be NULL. */
    bool (*progress)(void *user, double share);
    void *user;
} BpeTrainOptions;

/* Text comes piece by piece: *more false at the end; the bytes stay valid until the next call. A word never reaches
 * across two pieces. */
typedef Status (*BpeTrainNext)(void *user, const char **text, size_t *n, bool *more);

/* *spec is complete: byte-level BPE, ready for tokenizer_spec_json and tokenizer_from_spec. */
Status bpe_train(TokenizerSpec *spec, const BpeTrainOptions *options, BpeTrainNext next, void *user);

#endif
