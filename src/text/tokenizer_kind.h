/* What a kind of tokenizer fills in. tokenizer.c holds what all kinds share; each kind is one table of functions.
 *
 * A kind's loader sets pieces, the special ids and `model`; on failure it leaves the releasing to its `release`.
 */
#ifndef TEXT_TOKENIZER_KIND_H
#define TEXT_TOKENIZER_KIND_H

#include "text/tokenizer.h"

typedef struct TokenizerKind {
    void (*release)(Tokenizer *tok); /* `model` only */
    Status (*encode)(const Tokenizer *tok, const char *text, size_t n, TokenList *out);
    Status (*decode)(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out); /* ids are in range */
    Status (*save)(const Tokenizer *tok, const char *folder);
} TokenizerKind;

struct Tokenizer {
    const TokenizerKind *kind;
    void *model; /* the kind's own */
    TokenPiece *pieces; /* (n_pieces), in `arena` with their texts */
    int32_t n_pieces;
    int32_t bos, eos, pad, unk;
    Arena arena;
};

/* The SentencePiece kind. `data` is the whole file; `where` names it in errors. */
Status spm_model_load(Tokenizer *tok, const char *where, const char *data, size_t n);

#endif
