/* The SentencePiece kind of tokenizer, as spm_model.c (encode, decode) and spm_export.c (save) share it. */
#ifndef TEXT_SPM_MODEL_H
#define TEXT_SPM_MODEL_H

#include "text/added.h"
#include "text/spm.h"
#include "text/spm_proto.h"
#include "text/tokenizer_kind.h"

typedef struct SpmModel {
    Spm *spm;
    char *bytes; /* the file as it was (n_bytes): what save writes, and what `proto` points into */
    size_t n_bytes;
    SpmProto proto;
    /* One bit a code point: it occurs in some piece. NULL when every character has to pass (see spm_encode_text). */
    uint64_t *known;
    /* Control pieces, and tokens that tokenizer_config.json adds: what is cut out of a text before the model sees it. */
    AddedToken *tokens; /* (n_tokens) */
    size_t n_tokens;
    AddedSet *added;
} SpmModel;

/* tokenizer.model, tokenizer.json, tokenizer_config.json, special_tokens_map.json. */
Status spm_model_save(const Tokenizer *tok, const char *folder);

#endif
