/* What a tokenizer is, whatever file it came from: tokenizer.json, tiktoken ranks, a GGUF file, training. The loaders
 * fill in a spec; tokenizer_from_spec makes it run (text/pipeline.c); tokenizer_spec_json writes it as the
 * tokenizer.json that Hugging Face's tokenizers opens.
 *
 * The model of the world is that of tokenizers (docs: https://huggingface.co/docs/tokenizers/pipeline):
 *
 *     text -> added tokens cut out -> normalizers -> pre-tokenizers -> model -> post-processor
 *     ids -> token texts -> decoders -> text
 *
 * Names of kinds and fields are those of tokenizer.json. All memory is in the spec's arena.
 */
#ifndef TEXT_TOKENIZER_SPEC_H
#define TEXT_TOKENIZER_SPEC_H

#include "text/tokenizer.h"
#include "text/vocab.h"

typedef enum TokenModel { TOKEN_BPE, TOKEN_UNIGRAM, TOKEN_WORDPIECE, TOKEN_WORDLEVEL } TokenModel;

/* A token of the vocabulary, text as tokenizer.json spells it (byte-level ones in GPT-2's alphabet). text.data NULL:
 * this id stands for nothing (a hole in the numbering) unless an added token has it. */
typedef struct SpecToken {
    Bytes text;
    double score; /* Unigram's log-probability */
} SpecToken;

typedef struct SpecMerge {
    int32_t left, right; /* ids; rank = place in the list */
} SpecMerge;

typedef struct AddedToken {
    int32_t id;
    Bytes content;
    bool special, lstrip, rstrip, single_word, normalized;
} AddedToken;

typedef enum NormalizerKind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP, /* left, right */
    NORMALIZE_STRIP_ACCENTS,
    NORMALIZE_REPLACE,     /* pattern (regex?), content */
    NORMALIZE_PREPEND,     /* content */
    NORMALIZE_PRECOMPILED, /* content: SentencePiece's charsmap */
    NORMALIZE_BERT,        /* clean_text, chinese, strip_accents (-1 as lowercase), lowercase */
    NORMALIZE_NMT,
    NORMALIZE_BYTE_LEVEL
} NormalizerKind;

typedef enum PreTokenizerKind {
    PRE_SPLIT,      /* pattern (regex?), behavior, invert */
    PRE_BYTE_LEVEL, /* add_prefix_space, use_regex */
    PRE_METASPACE,  /* content: the replacement; prepend, split */
    PRE_WHITESPACE,
    PRE_WHITESPACE_SPLIT,
    PRE_DIGITS,      /* individual */
    PRE_PUNCTUATION, /* behavior */
    PRE_BERT,
    PRE_CHAR_DELIMITER /* content */
} PreTokenizerKind;

typedef enum SplitBehavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
} SplitBehavior;

typedef enum PrependScheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } PrependScheme;

typedef enum DecoderKind {
    DECODE_BYTE_LEVEL,
    DECODE_METASPACE, /* content, prepend */
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,     /* content (one character), start, stop */
    DECODE_REPLACE,   /* pattern (regex?), content */
    DECODE_WORDPIECE, /* content: prefix; cleanup */
    DECODE_BPE        /* content: suffix */
} DecoderKind;

/* A step of any of the three sequences; which fields count stands beside the kinds. */
typedef struct TokenStep {
    int kind;
    Bytes pattern, content;
    bool regex; /* pattern is a regular expression (Oniguruma's, as tokenizers has it), not a plain text */
    SplitBehavior behavior;
    PrependScheme prepend;
    int64_t start, stop;
    bool invert, add_prefix_space, use_regex, split, individual, left, right, cleanup;
    bool clean_text, chinese, lowercase;
    int strip_accents;
} TokenStep;

typedef struct TokenSteps {
    TokenStep *items;
    size_t n;
} TokenSteps;

enum { POST_SEQUENCE = -1 }; /* in `post`: where the text's own tokens go */

typedef struct TokenizerSpec {
    Arena arena;
    TokenModel model;
    SpecToken *tokens; /* (n_tokens) by id: the model's vocabulary without added tokens that are not in it */
    int32_t n_tokens;
    SpecMerge *merges; /* BPE (n_merges); NULL: by rank, as tiktoken does (a pair merges into the token that it spells,
                        * tokens of low id first) */
    size_t n_merges;
    bool ignore_merges, byte_fallback, fuse_unk;
    Bytes continuing_subword_prefix, end_of_word_suffix; /* BPE; WordPiece's prefix ("##") */
    int64_t max_input_chars_per_word;                    /* WordPiece: 100 */
    AddedToken *added; /* (n_added) */
    size_t n_added;
    TokenSteps normalizers, pre_tokenizers, decoders;
    int32_t *post; /* (n_post) special ids and POST_SEQUENCE, for one sequence; n_post 0: nothing is added */
    size_t n_post;
    int32_t bos, eos, pad, unk; /* -1: none. unk is the model's own unk_token */
    const char *chat_template;  /* as tokenizer_config.json or GGUF has it, or NULL */
} TokenizerSpec;

void tokenizer_spec_release(TokenizerSpec *spec);

/* From tokenizer.json's bytes; `where` names the file in errors. A construct that tane lacks is TANE_EUNSUPPORTED and
 * names it with its path in the file. */
Status tokenizer_spec_read_json(TokenizerSpec *spec, const char *where, const char *text, size_t n);
/* From a tiktoken rank file ("base64 rank" a line). `pattern` is the splitting expression, and `special` (n) the
 * special tokens, which such a file lacks: pattern NULL means cl100k_base's, and no special tokens then. */
Status tokenizer_spec_read_tiktoken(TokenizerSpec *spec, const char *where, const char *text, size_t n,
                                    const char *pattern, const AddedToken *special, size_t n_special);
/* tokenizer.json as Hugging Face writes it (indented). */
Status tokenizer_spec_json(const TokenizerSpec *spec, Str *out);

/* Takes the spec over, also on failure. */
Status tokenizer_from_spec(Tokenizer **out, TokenizerSpec *spec, const char *where);
/* The spec of a tokenizer that came from one, NULL for SentencePiece's own. */
const TokenizerSpec *tokenizer_spec(const Tokenizer *tok);

#endif
