/* The tokenizer inside a GGUF file. */
#ifndef MODEL_GGUF_TOKENIZER_H
#define MODEL_GGUF_TOKENIZER_H

#include "format/gguf.h"
#include "text/tokenizer_spec.h"

/* Kinds of tokens in tokenizer.ggml.token_type. */
typedef enum GgufToken {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN = 2,
    GGUF_TOKEN_CONTROL = 3,
    GGUF_TOKEN_USER_DEFINED = 4,
    GGUF_TOKEN_UNUSED = 5,
    GGUF_TOKEN_BYTE = 6
} GgufToken;

/* How text is cut before byte-level BPE, by llama.cpp's name for it (tokenizer.ggml.pre): the steps of a tokenizer.json
 * that do the same. */
typedef struct GgufPre {
    const char *name;
    const char *pattern; /* of one Split; NULL: ByteLevel's own expression */
    bool digits;         /* Digits goes before */
    bool deepseek;       /* the three Splits of DeepSeek-V3 */
    bool nfc;            /* normalized before */
    bool ignore_merges;
    bool bos; /* added where the file does not say */
} GgufPre;
const GgufPre *gguf_pre_find(const char *name, size_t n); /* NULL: not one that tane knows */
/* The name of what a tokenizer does; NULL: llama.cpp has none. */
const GgufPre *gguf_pre_of(const TokenizerSpec *spec);

/* Does the file hold a tokenizer at all? */
bool gguf_has_tokenizer(const GgufFile *file);
/* Everything copied into the spec: the file may be closed. tokenizer_spec_release, also after an error. */
Status gguf_tokenizer_spec(const GgufFile *file, TokenizerSpec *spec);

/* A tokenizer from whatever has one: tokenizer_load, or the one inside a .gguf file. */
Status model_tokenizer_load(Tokenizer **out, const char *path);

#endif
