/* What a kind of tokenizer fills in. tokenizer.c holds what all kinds share; each kind is one table of functions:
 * SentencePiece models (spm_model.c), and everything that comes as a TokenizerSpec (pipeline.c).
 *
 * A kind's loader sets pieces, texts, the special ids and `model`; on failure it leaves the releasing to its `release`.
 */
#ifndef TEXT_TOKENIZER_KIND_H
#define TEXT_TOKENIZER_KIND_H

#include "text/tokenizer_config.h"

typedef struct TokenizerKind {
    void (*release)(Tokenizer *tok); /* `model` only */
    /* Appends the ids of input->text, n >= 1, without what add_special adds. `out` has no ends; with input->want_ends
     * *ends gets one for each new id (mem_free; NULL when there are none). */
    Status (*encode)(const Tokenizer *tok, const EncodeInput *input, TokenList *out, uint32_t **ends);
    Status (*decode)(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out); /* ids are in range */
    /* The tokenizer's own files and the two small ones, for one that came without them. */
    Status (*save)(const Tokenizer *tok, const char *folder);
} TokenizerKind;

struct Tokenizer {
    const TokenizerKind *kind;
    void *model;        /* the kind's own */
    TokenPiece *pieces; /* (n_pieces), in `arena` with their texts */
    Bytes *texts;       /* (n_pieces) the same texts with their lengths; data NULL: this id stands for nothing */
    bool *special;      /* (n_pieces) decoding leaves it out */
    int32_t n_pieces;
    Vocab vocab; /* over texts */
    int32_t bos, eos, pad, unk;
    bool cuts_at_lines; /* see tokenizer_cuts_at_lines */
    int32_t *post; /* (n_post) what add_special adds around POST_SEQUENCE */
    size_t n_post;
    TokenizerFiles files; /* what it was read from, to be written back as it was */
    Arena arena;
};

/* The SentencePiece kind. `data` is the whole file; `where` names it in errors. */
Status spm_model_load(Tokenizer *tok, const char *where, const char *data, size_t n, const TokenizerConfig *config);
/* Everything else. Takes the spec over, also on failure. */
Status pipeline_load(Tokenizer *tok, const char *where, TokenizerSpec *spec);

/* Is this a list of ranks, whatever the file is called? */
bool tiktoken_recognise(const char *data, size_t n);

/* Room for `more` ids behind those that are there. */
Status token_list_reserve(TokenList *list, size_t more);

#endif
