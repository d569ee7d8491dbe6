/* A tokenizer, whatever file it came from. Text in and out is UTF-8; ids are 0..vocab_size-1.
 *
 * A Tokenizer is immutable once loaded: any number of threads may use it at once.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/mem.h"

typedef struct Tokenizer Tokenizer;

/* A file, or a folder that holds one: tokenizer.json (Hugging Face), *.tiktoken (ranks), *.model (SentencePiece), in this
 * order. In a folder, tokenizer_config.json and special_tokens_map.json name the special tokens. Validates what it reads;
 * never crashes on a broken file. */
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
    uint32_t *ends; /* NULL, or for each id the byte of the input behind its text */
    size_t n, cap;
} TokenList;
Status token_list_add(TokenList *list, int32_t id); /* without an end */
void token_list_free(TokenList *list);

/* Text to be cut into tokens. Invalid UTF-8 counts as U+FFFD, one for each maximal part of a character (as Python's
 * errors="replace" has it; SentencePiece models: as SentencePiece does). */
typedef struct EncodeInput {
    const char *text;
    size_t n;
    /* Special tokens spelled out in the text become these tokens; else they are text like any other. (Added tokens that
     * are not special always count.) */
    bool parse_special;
    /* (n) or NULL: where it is not 0, bytes come from a user and no special token may cover them. */
    const uint8_t *literal;
    bool add_special; /* BOS, EOS as the tokenizer's own post-processor adds them; never a second BOS */
    bool want_ends;   /* fill TokenList.ends */
} EncodeInput;
/* Appends the ids. */
Status tokenizer_encode_input(const Tokenizer *tok, const EncodeInput *input, TokenList *out);
/* The same for plain text: nothing parsed, nothing added. */
Status tokenizer_encode(const Tokenizer *tok, const char *text, size_t n, TokenList *out);
/* Many texts at once, on `threads` threads: lists[i] gets the ids of inputs[i]. */
Status tokenizer_encode_many(const Tokenizer *tok, const EncodeInput *inputs, size_t n, int threads, TokenList *lists);
/* Is a text's list of ids that of its pieces behind each other, when it is cut behind a single newline and in front of a letter
 * or digit? Then long texts can be tokenized in parallel. */
bool tokenizer_cuts_at_lines(const Tokenizer *tok);
/* The id of a token by its text as the vocabulary spells it, -1 when there is none. */
int32_t tokenizer_find(const Tokenizer *tok, const char *text, size_t n);
/* Appends the text of ids[0..n). Special tokens (BOS, EOS, pad, <|im_end|>) give nothing, with `special` their text. An
 * id out of range is TANE_EINVAL. */
Status tokenizer_decode(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out);
Status tokenizer_decode_all(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out);

typedef struct TokenPiece {
    const char *text; /* as stored, owned by the tokenizer */
    float score;
    const char *type; /* "normal", "unknown", "control", "user-defined", "byte", "unused" */
} TokenPiece;
Status tokenizer_piece(const Tokenizer *tok, int32_t id, TokenPiece *out);

/* Writes the tokenizer's files into a model folder, fsynced, as transformers wants them: tokenizer.json (or
 * tokenizer.model), tokenizer_config.json, special_tokens_map.json; a chat template that it came with too. */
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

/* SentencePiece: trains on sentences and writes PREFIX.model and PREFIX.vocab (atomically). Ids: 0 <unk>, 1 <s>, 2 </s>, 3 <pad>.
 * A vocabulary too large or too small for the data is TANE_EINVAL naming the largest (smallest) possible. */
Status tokenizer_train(const char *const *sentences, size_t n, const TokenizerTrainOptions *options, const char *prefix);

#endif
