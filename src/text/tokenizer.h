/* A tokenizer, whatever file it came from. Text in and out is UTF-8; ids are 0..vocab_size-1.
 *
 * A Tokenizer is immutable once loaded: any number of threads may use it at once.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/mem.h"

typedef struct Tokenizer Tokenizer;

/* A model file (SentencePiece .model), or a folder that holds one under any name its tokenizer kind writes
 * (tokenizer.model, or *.model when there is just one). Validates the file; never crashes on a broken one. */
Status tokenizer_load(Tokenizer **out, const char *path);
void tokenizer_free(Tokenizer *tok); /* NULL is fine */

int32_t tokenizer_vocab_size(const Tokenizer *tok);
/* Ids of the special tokens, -1 where the tokenizer has none. */
int32_t tokenizer_bos(const Tokenizer *tok);
int32_t tokenizer_eos(const Tokenizer *tok);
int32_t tokenizer_pad(const Tokenizer *tok);
int32_t tokenizer_unk(const Tokenizer *tok);

typedef struct TokenList {
    int32_t *ids;
    size_t n, cap;
} TokenList;
void token_list_free(TokenList *list);

/* Appends the ids of text[0..n) to `out`. Adds no BOS or EOS; special pieces spelled out in the text stay plain text.
 * Invalid UTF-8 is replaced by U+FFFD as SentencePiece does. */
Status tokenizer_encode(const Tokenizer *tok, const char *text, size_t n, TokenList *out);
/* Appends the text of ids[0..n). Control tokens (BOS, EOS, pad) give nothing. An id out of range is TANE_EINVAL. */
Status tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out);

typedef struct TokenPiece {
    const char *text; /* as stored, owned by the tokenizer */
    float score;
    const char *type; /* "normal", "unknown", "control", "user-defined", "byte", "unused" */
} TokenPiece;
Status tokenizer_piece(const Tokenizer *tok, int32_t id, TokenPiece *out);

/* Copies the tokenizer's files into a model folder (tokenizer.model + tokenizer_config.json and
 * special_tokens_map.json as transformers wants them), through base/file so that they are fsynced. */
Status tokenizer_save(const Tokenizer *tok, const char *folder);

typedef struct TokenizerTrainOptions {
    const char *model_type;     /* "unigram", "bpe", "char" */
    int64_t vocab_size;
    double character_coverage;  /* 1.0 */
    bool byte_fallback;
    bool split_digits;
    bool add_dummy_prefix;      /* SentencePiece's default is true; for arithmetic false */
    int64_t threads;
} TokenizerTrainOptions;

/* Trains on sentences and writes PREFIX.model and PREFIX.vocab (atomically). Ids: 0 <unk>, 1 <s>, 2 </s>, 3 <pad>.
 * A vocabulary too large or too small for the data is TANE_EINVAL naming the largest (smallest) possible. */
Status tokenizer_train(const char *const *sentences, size_t n, const TokenizerTrainOptions *options, const char *prefix);

#endif
