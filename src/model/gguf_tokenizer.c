/* From tokenizer.ggml.* to a TokenizerSpec: byte-level BPE ("gpt2"), SentencePiece's BPE ("llama") and Unigram ("t5").
 *
 * SentencePiece merges the pair of neighbours whose piece has the highest score, where tokenizers has a list of merges:
 * so every way to put a piece together from two others becomes a merge, those of high score first.
 */
#include "model/gguf_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/gguf_config.h"
#include "text/scan.h"
#include "text/utf8.h"

static const char space_piece[] = "\xE2\x96\x81";

/* ---- splitting expressions ---- */

/* As tokenizer.json files of these models have them. */
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define PREFIX       "[^\\r\\n\\p{L}\\p{N}]?"
#define UPPER        "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SPACES       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char llama3[] = CONTRACTIONS "|" PREFIX "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES;
static const char qwen2[] = CONTRACTIONS "|" PREFIX "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES;
static const char qwen35[] = CONTRACTIONS "|" PREFIX
                                          "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES;
static const char tekken[] = PREFIX UPPER "*" LOWER "+|" PREFIX UPPER "+" LOWER
                                          "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES;

/* The first row of equals is the one that is written. */
static const GgufPre pres[] = {
    {.name = "gpt-2"},
    {.name = "phi-2"},
    {.name = "gigachat"},
    {.name = "a.x-4.0"},
    {.name = "mellum"},
    {.name = "exaone4"},
    {.name = "jais"},
    {.name = "trillion"},
    {.name = "granite-docling"},
    {.name = "smollm", .digits = true},
    {.name = "starcoder", .digits = true},
    {.name = "refact", .digits = true},
    {.name = "codeshell", .digits = true},
    {.name = "exaone", .digits = true},
    {.name = "minerva-7b", .digits = true},
    {.name = "command-r", .digits = true, .nfc = true},
    {.name = "llama-bpe", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "llama3", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "llama-v3", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "falcon3", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "pixtral", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "midm-2.0", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "lfm2", .pattern = llama3, .ignore_merges = true, .bos = true},
    {.name = "smaug-bpe", .pattern = llama3},
    {.name = "dbrx", .pattern = llama3},
    {.name = "chatglm-bpe", .pattern = llama3},
    {.name = "glm4", .pattern = llama3, .ignore_merges = true},
    {.name = "qwen2", .pattern = qwen2, .nfc = true},
    {.name = "megrez", .pattern = qwen2, .nfc = true},
    {.name = "deepseek-r1-qwen", .pattern = qwen2},
    {.name = "stablelm2", .pattern = qwen2},
    {.name = "hunyuan", .pattern = qwen2},
    {.name = "solar-open", .pattern = qwen2},
    {.name = "grok-2", .pattern = qwen2},
    {.name = "qwen35", .pattern = qwen35, .nfc = true},
    {.name = "gpt-4o", .pattern = scan_o200k},
    {.name = "llama4", .pattern = scan_o200k},
    {.name = "kanana2", .pattern = scan_o200k},
    {.name = "minimax-m2", .pattern = scan_o200k},
    {.name = "tekken", .pattern = tekken, .ignore_merges = true, .bos = true},
    {.name = "deepseek-v3", .deepseek = true},
    {.name = "hunyuan-dense", .deepseek = true},
    {.name = "joyai-llm", .deepseek = true},
};
enum { PRES = sizeof pres / sizeof *pres };

const GgufPre *gguf_pre_find(const char *name, size_t n) {
    for (int i = 0; i < PRES; i++)
        if (strlen(pres[i].name) == n && !memcmp(pres[i].name, name, n)) return &pres[i];
    return NULL;
}

static bool is_split(const TokenStep *step, const char *pattern) {
    return step->kind == PRE_SPLIT && step->behavior == SPLIT_ISOLATED && !step->invert && step->regex &&
           scan_same_pattern(pattern, step->pattern.data, step->pattern.n);
}

/* Do these steps cut as `pre` says? */
static bool cuts_like(const GgufPre *pre, const TokenSteps *steps) {
    if (steps->n == 0) return false;
    const TokenStep *last = &steps->items[steps->n - 1];
    bool own = !pre->pattern && !pre->deepseek; /* ByteLevel cuts by itself */
    size_t before = pre->deepseek ? 3 : own ? (pre->digits ? 1 : 0) : 1;
    if (last->kind != PRE_BYTE_LEVEL || last->add_prefix_space || last->use_regex != own || steps->n != before + 1)
        return false;
    if (pre->pattern) return is_split(&steps->items[0], pre->pattern);
    for (size_t i = 0; pre->deepseek && i < 3; i++)
        if (!is_split(&steps->items[i], scan_deepseek3_steps[i])) return false;
    return !pre->digits || (steps->items[0].kind == PRE_DIGITS && steps->items[0].individual);
}

const GgufPre *gguf_pre_of(const TokenizerSpec *spec) {
    bool nfc = spec->normalizers.n == 1 && spec->normalizers.items[0].kind == NORMALIZE_NFC;
    if (spec->normalizers.n && !nfc) return NULL;
    for (int exact = 1; exact >= 0; exact--) /* llama.cpp itself normalizes nothing */
        for (int i = 0; i < PRES; i++)
            if (pres[i].ignore_merges == spec->ignore_merges && (!exact || pres[i].nfc == nfc) &&
                cuts_like(&pres[i], &spec->pre_tokenizers))
                return &pres[i];
    return NULL;
}

/* ---- what is read ---- */

typedef struct Reading {
    const GgufFile *file;
    const char *path;
    TokenizerSpec *spec;
    int64_t *types; /* (n) GgufToken */
    bool *merged;   /* (n) some merge needs it */
    Vocab vocab;    /* of all texts */
    int32_t n;
    bool pieces; /* SentencePiece's */
} Reading;

bool gguf_has_tokenizer(const GgufFile *file) {
    return gguf_has(file, "tokenizer.ggml.model") && gguf_has(file, "tokenizer.ggml.tokens");
}

static Status copy_text(TokenizerSpec *spec, GgufText text, Bytes *out) {
    char *copy;
    TRY_RETURN(arena_new(&spec->arena, (void **)&copy, text.n + 1, 1));
    if (text.n) memcpy(copy, text.data, text.n);
    *out = (Bytes){copy, text.n};
    return TANE_OK;
}

/* One spelling of spaces for another. */
static Status respell(TokenizerSpec *spec, Bytes *text, const char *from, const char *to) {
    size_t k = strlen(from), m = strlen(to), n = 0;
    char *copy;
    TRY_RETURN(arena_new(&spec->arena, (void **)&copy, 3 * text->n + 1, 1));
    for (size_t i = 0; i < text->n;) {
        bool match = text->n - i >= k && !memcmp(text->data + i, from, k);
        memcpy(copy + n, match ? to : text->data + i, match ? m : 1);
        n += match ? m : 1;
        i += match ? k : 1;
    }
    *text = (Bytes){copy, n};
    return TANE_OK;
}

/* "[PAD17]" for id 17 and no text at all: what writers fill the vocabulary up with. */
static bool is_padding(const Reading *r, int32_t id) {
    char text[24];
    Bytes t = r->spec->tokens[id].text;
    int n = snprintf(text, sizeof text, "[PAD%d]", id);
    return t.n == 0 || (r->types[id] == GGUF_TOKEN_UNUSED && t.n == (size_t)n && !memcmp(t.data, text, t.n));
}

static Status check_token(Reading *r, int32_t id) {
    Bytes text = r->spec->tokens[id].text;
    int shown = (int)(text.n < 80 ? text.n : 80);
    if (r->types[id] < GGUF_TOKEN_NORMAL || r->types[id] > GGUF_TOKEN_BYTE)
        return FAIL(TANE_EFORMAT, "%s: tokenizer.ggml.token_type of token %d is %lld; it must be from 1 to 6", r->path,
                    id, (long long)r->types[id]);
    if (utf8_valid(text.data, text.n) < text.n)
        return FAIL(TANE_EFORMAT, "%s: the text of token %d in tokenizer.ggml.tokens is not UTF-8", r->path, id);
    if (is_padding(r, id)) {
        r->spec->tokens[id].text = (Bytes){NULL, 0};
        return TANE_OK;
    }
    int32_t other = vocab_add(&r->vocab, id);
    if (other >= 0)
        return FAIL(TANE_EFORMAT, "%s: tokenizer.ggml.tokens has \"%.*s\" twice, as token %d and %d", r->path, shown,
                    text.data, other, id);
    return TANE_OK;
}

static Status read_tokens(Reading *r) {
    Status st = TANE_OK;
    GgufText *texts = NULL;
    GgufKind kind;
    int64_t rows;
    size_t n;
    TokenizerSpec *spec = r->spec;
    TRY_RETURN(gguf_config_vocab(r->file, &rows));
    TRY_RETURN(gguf_array(r->file, "tokenizer.ggml.tokens", true, &kind, &n));
    if (n != (size_t)rows || n > INT32_MAX / 2)
        return FAIL(TANE_EFORMAT, "%s: tokenizer.ggml.tokens has %zu tokens, but the embedding has %lld rows", r->path,
                    n, (long long)rows);
    r->n = spec->n_tokens = (int32_t)n;
    TRY(MEM_NEW_ARRAY(&texts, n));
    TRY(MEM_NEW_ARRAY(&r->types, n));
    TRY(MEM_NEW_ARRAY(&r->merged, n));
    TRY(ARENA_NEW_ARRAY(&spec->arena, &spec->tokens, n));
    TRY(vocab_init(&r->vocab, spec->tokens, sizeof *spec->tokens, n));
    TRY(gguf_array_texts(r->file, "tokenizer.ggml.tokens", texts, n));
    for (size_t i = 0; i < n; i++) r->types[i] = GGUF_TOKEN_NORMAL;
    if (gguf_has(r->file, "tokenizer.ggml.token_type"))
        TRY(gguf_array_ints(r->file, "tokenizer.ggml.token_type", r->types, n));
    for (size_t i = 0; i < n; i++) {
        Bytes *text = &spec->tokens[i].text;
        TRY(copy_text(spec, texts[i], text));
        /* Spaces of user-defined pieces are written as spaces. */
        if (r->pieces && r->types[i] == GGUF_TOKEN_USER_DEFINED && memchr(text->data, ' ', text->n))
            TRY(respell(spec, text, " ", space_piece));
        TRY(check_token(r, (int32_t)i));
    }
out:
    mem_free(texts);
    return st;
}

/* Also the words that some writers use for none. */
static Status token_id(const Reading *r, const char *key, int64_t usual, int32_t *out) {
    int64_t id = usual < r->n ? usual : -1;
    TRY_RETURN(gguf_int(r->file, key, false, -1, UINT32_MAX, &id));
    if (id == UINT32_MAX) id = -1;
    if (id >= r->n)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %lld, but there are only %d tokens", r->path, key,
                    (long long)id, r->n);
    *out = id >= 0 && r->spec->tokens[id].text.data ? (int32_t)id : -1;
    return TANE_OK;
}

static Status read_special(Reading *r, bool pieces, bool bos, bool eos) {
    TokenizerSpec *spec = r->spec;
    int32_t *post;
    GgufText text = {NULL, 0};
    TRY_RETURN(token_id(r, "tokenizer.ggml.bos_token_id", pieces ? 1 : -1, &spec->bos));
    TRY_RETURN(token_id(r, "tokenizer.ggml.eos_token_id", pieces ? 2 : -1, &spec->eos));
    TRY_RETURN(token_id(r, "tokenizer.ggml.padding_token_id", -1, &spec->pad));
    TRY_RETURN(token_id(r, "tokenizer.ggml.unknown_token_id", pieces ? 0 : -1, &spec->unk));
    TRY_RETURN(gguf_bool(r->file, "tokenizer.ggml.add_bos_token", false, &bos));
    TRY_RETURN(gguf_bool(r->file, "tokenizer.ggml.add_eos_token", false, &eos));
    bos &= spec->bos >= 0;
    eos &= spec->eos >= 0;
    if (bos || eos) {
        TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &post, 3));
        spec->post = post;
        if (bos) post[spec->n_post++] = spec->bos;
        post[spec->n_post++] = POST_SEQUENCE;
        if (eos) post[spec->n_post++] = spec->eos;
    }
    TRY_RETURN(gguf_text(r->file, "tokenizer.chat_template", false, &text));
    if (!text.data) return TANE_OK;
    Bytes copy;
    TRY_RETURN(copy_text(spec, text, &copy));
    if (memchr(copy.data, 0, copy.n) || utf8_valid(copy.data, copy.n) < copy.n)
        return FAIL(TANE_EFORMAT, "%s: tokenizer.chat_template is not UTF-8 text", r->path);
    spec->chat_template = copy.data;
    return TANE_OK;
}

/* GGUF has no place for a token's manners. llama.cpp knows those of Phi-3, by the model's name: its control tokens take
 * the spaces behind them. */
static bool takes_spaces_behind(const Reading *r, int32_t id) {
    static const char *const names[] = {"phi-3", "phi3"}, *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    GgufText name = {"", 0};
    bool phi3 = false;
    (void)gguf_text(r->file, "general.name", false, &name);
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(names[i]);
        for (size_t at = 0; at + n <= name.n; at++) phi3 |= !strncasecmp(name.data + at, names[i], n);
    }
    for (int i = 0; i < 3; i++) phi3 &= strcmp(r->spec->tokens[id].text.data, plain[i]) != 0;
    return phi3;
}

static bool is_special(const Reading *r, int32_t id) {
    bool unknown = r->types[id] == GGUF_TOKEN_UNKNOWN || (r->pieces && id == r->spec->unk);
    return unknown || r->types[id] == GGUF_TOKEN_CONTROL;
}

static bool is_added(const Reading *r, int32_t id) {
    return r->spec->tokens[id].text.data && (r->types[id] == GGUF_TOKEN_USER_DEFINED || is_special(r, id));
}

/* Control tokens, and words that are always found whole. They leave the model's vocabulary where no merge needs them.
 * normalized: pieces of spaces are found also where the text spells them as pieces do. */
static Status read_added(Reading *r, bool normalized) {
    TokenizerSpec *spec = r->spec;
    size_t n = 0;
    for (int32_t i = 0; i < r->n; i++) n += is_added(r, i);
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->added, n));
    for (int32_t i = 0; i < r->n; i++) {
        bool special = is_special(r, i), own = !special;
        if (!is_added(r, i)) continue;
        spec->added[spec->n_added++] = (AddedToken){.id = i,
                                                    .content = spec->tokens[i].text,
                                                    .special = special,
                                                    .rstrip = special && takes_spaces_behind(r, i),
                                                    .normalized = own && normalized};
        /* Among raw text it is found as it is spelled there. */
        if (r->pieces && own && !normalized && !r->merged[i])
            TRY_RETURN(respell(spec, &spec->added[spec->n_added - 1].content, space_piece, " "));
        if (i != spec->unk && !r->merged[i]) spec->tokens[i].text = (Bytes){NULL, 0};
    }
    while (spec->n_tokens > 0 && !spec->tokens[spec->n_tokens - 1].text.data) spec->n_tokens--;
    return TANE_OK;
}

static Status set_steps(TokenizerSpec *spec, TokenSteps *steps, const TokenStep *items, size_t n) {
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &steps->items, n));
    memcpy(steps->items, items, n * sizeof *items);
    steps->n = n;
    return TANE_OK;
}

static Bytes literal(const char *text) { return (Bytes){text, strlen(text)}; }

/* ---- byte-level BPE ---- */

/* "Ġ t": cut at the first space behind the first byte, as no token of GPT-2's alphabet has one. */
static Status read_merge(Reading *r, GgufText text, size_t i, SpecMerge *out) {
    const char *space = text.n > 2 ? memchr(text.data + 1, ' ', text.n - 2) : NULL;
    int shown = (int)(text.n < 80 ? text.n : 80);
    if (!space)
        return FAIL(TANE_EFORMAT,
                    "%s: tokenizer.ggml.merges has \"%.*s\" as number %zu; a merge is two tokens with a space "
                    "between them",
                    r->path, shown, text.data, i);
    size_t left = (size_t)(space - text.data), right = text.n - left - 1;
    char joined[1024];
    *out = (SpecMerge){vocab_find(&r->vocab, text.data, left), vocab_find(&r->vocab, space + 1, right)};
    bool fits = left + right <= sizeof joined;
    if (fits) {
        memcpy(joined, text.data, left);
        memcpy(joined + left, space + 1, right);
    }
    int32_t result = fits ? vocab_find(&r->vocab, joined, left + right) : -1;
    if (out->left < 0 || out->right < 0 || result < 0)
        return FAIL(TANE_EFORMAT,
                    "%s: tokenizer.ggml.merges has \"%.*s\" as number %zu, of which %s is not in "
                    "tokenizer.ggml.tokens",
                    r->path, shown, text.data, i,
                    out->left < 0    ? "the first token"
                    : out->right < 0 ? "the second token"
                                     : "the result");
    r->merged[out->left] = r->merged[out->right] = r->merged[result] = true;
    return TANE_OK;
}

static Status read_merges(Reading *r) {
    Status st = TANE_OK;
    GgufText *texts = NULL;
    GgufKind kind;
    size_t n;
    TRY_RETURN(gguf_array(r->file, "tokenizer.ggml.merges", true, &kind, &n));
    TRY(MEM_NEW_ARRAY(&texts, n));
    TRY(gguf_array_texts(r->file, "tokenizer.ggml.merges", texts, n));
    TRY(ARENA_NEW_ARRAY(&r->spec->arena, &r->spec->merges, n));
    r->spec->n_merges = n;
    for (size_t i = 0; i < n; i++) TRY(read_merge(r, texts[i], i, &r->spec->merges[i]));
out:
    mem_free(texts);
    return st;
}

/* Files of before April 2024 do not name it: then it is that of the architecture, where there is one. */
static Status find_pre(const Reading *r, const GgufPre **out) {
    const GgufArch *arch;
    GgufText name = {"", 0};
    TRY_RETURN(gguf_text(r->file, "tokenizer.ggml.pre", false, &name));
    TRY_RETURN(gguf_config_arch(r->file, &arch));
    bool unnamed = name.n == 0 || (name.n == 7 && !memcmp(name.data, "default", 7));
    const char *usual = !strcmp(arch->name, "gpt2") ? "gpt-2" : !strncmp(arch->name, "qwen", 4) ? "qwen2" : NULL;
    *out = unnamed ? (usual ? gguf_pre_find(usual, strlen(usual)) : NULL) : gguf_pre_find(name.data, name.n);
    if (*out) return TANE_OK;
    if (unnamed)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: no tokenizer.ggml.pre says how the tokenizer cuts text into words: the file was "
                    "made by a llama.cpp of before April 2024; get a newer one",
                    r->path);
    return FAIL(TANE_EUNSUPPORTED,
                "%s: tokenizer.ggml.pre is \"%.*s\", a way to cut text into words that tane does not know", r->path,
                (int)(name.n < 64 ? name.n : 64), name.data);
}

static Status set_byte_level_steps(TokenizerSpec *spec, const GgufPre *pre) {
    TokenStep steps[4];
    size_t n = 0;
    bool own = !pre->pattern && !pre->deepseek;
    if (pre->digits) steps[n++] = (TokenStep){.kind = PRE_DIGITS, .individual = true};
    for (int i = 0; pre->deepseek && i < 3; i++)
        steps[n++] = (TokenStep){
            .kind = PRE_SPLIT, .pattern = literal(scan_deepseek3_steps[i]), .regex = true, .behavior = SPLIT_ISOLATED};
    if (pre->pattern)
        steps[n++] = (TokenStep){
            .kind = PRE_SPLIT, .pattern = literal(pre->pattern), .regex = true, .behavior = SPLIT_ISOLATED};
    steps[n++] = (TokenStep){.kind = PRE_BYTE_LEVEL, .use_regex = own};
    TRY_RETURN(set_steps(spec, &spec->pre_tokenizers, steps, n));
    if (pre->nfc) TRY_RETURN(set_steps(spec, &spec->normalizers, &(TokenStep){.kind = NORMALIZE_NFC}, 1));
    return set_steps(spec, &spec->decoders, &(TokenStep){.kind = DECODE_BYTE_LEVEL}, 1);
}

static Status read_byte_level(Reading *r) {
    const GgufPre *pre;
    TRY_RETURN(find_pre(r, &pre));
    TRY_RETURN(read_merges(r));
    TRY_RETURN(read_special(r, false, pre->bos, false));
    r->spec->ignore_merges = pre->ignore_merges;
    TRY_RETURN(read_added(r, false));
    return set_byte_level_steps(r->spec, pre);
}

/* ---- SentencePiece ---- */

/* A way to put a piece together. */
typedef struct Join {
    double score;
    int32_t piece, left, right;
    uint32_t left_chars, right_chars;
} Join;

typedef struct Joins {
    Join *items;
    size_t n, cap;
} Joins;

/* High scores first; of one piece those with the longer left side first, as tokenizers' own converter has it. */
static int compare_joins(const void *a, const void *b) {
    const Join *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->left_chars != y->left_chars) return x->left_chars < y->left_chars ? 1 : -1;
    if (x->right_chars != y->right_chars) return x->right_chars < y->right_chars ? 1 : -1;
    return (x->piece > y->piece) - (x->piece < y->piece);
}

static Status add_join(Joins *joins, Join join) {
    if (joins->n == joins->cap) {
        size_t cap = joins->cap ? 2 * joins->cap : 4096;
        TRY_RETURN(mem_grow((void **)&joins->items, joins->n, cap, sizeof *joins->items));
        joins->cap = cap;
    }
    joins->items[joins->n++] = join;
    return TANE_OK;
}

/* Text becomes normal pieces only. */
static int32_t find_piece(const Reading *r, const char *text, size_t n) {
    int32_t id = vocab_find(&r->vocab, text, n);
    return id >= 0 && r->types[id] == GGUF_TOKEN_NORMAL ? id : -1;
}

static Status join_piece(const Reading *r, int32_t id, Joins *joins) {
    enum { LONGEST = 4096 }; /* bytes; the work grows with their square */
    Bytes text = r->spec->tokens[id].text;
    uint32_t chars = 0, at_char = 0;
    if (text.n > LONGEST)
        return FAIL(TANE_EUNSUPPORTED, "%s: token %d has %zu bytes; pieces of more than %d are not supported", r->path,
                    id, text.n, LONGEST);
    for (size_t i = 0; i < text.n; i++) chars += ((unsigned char)text.data[i] & 0xC0) != 0x80;
    for (size_t at = 1; at < text.n; at++) {
        if (((unsigned char)text.data[at] & 0xC0) == 0x80) continue;
        at_char++;
        int32_t left = find_piece(r, text.data, at);
        int32_t right = left >= 0 ? find_piece(r, text.data + at, text.n - at) : -1;
        if (right < 0) continue;
        TRY_RETURN(add_join(joins, (Join){r->spec->tokens[id].score, id, left, right, at_char, chars - at_char}));
    }
    return TANE_OK;
}

static Status join_pieces(Reading *r) {
    Status st = TANE_OK;
    TokenizerSpec *spec = r->spec;
    Joins joins = {0};
    for (int32_t i = 0; i < r->n; i++)
        if (spec->tokens[i].text.data && r->types[i] == GGUF_TOKEN_NORMAL) TRY(join_piece(r, i, &joins));
    if (joins.n) qsort(joins.items, joins.n, sizeof *joins.items, compare_joins);
    TRY(ARENA_NEW_ARRAY(&spec->arena, &spec->merges, joins.n));
    for (size_t i = 0; i < joins.n; i++) spec->merges[i] = (SpecMerge){joins.items[i].left, joins.items[i].right};
    spec->n_merges = joins.n;
out:
    mem_free(joins.items);
    return st;
}

static Status read_scores(Reading *r) {
    Status st = TANE_OK;
    double *scores;
    TRY_RETURN(MEM_NEW_ARRAY(&scores, (size_t)r->n));
    TRY(gguf_array_doubles(r->file, "tokenizer.ggml.scores", scores, (size_t)r->n));
    for (int32_t i = 0; i < r->n; i++) {
        if (!(scores[i] == scores[i]))
            TRY(FAIL(TANE_EFORMAT, "%s: tokenizer.ggml.scores of token %d is no number", r->path, i));
        r->spec->tokens[i].score = scores[i];
    }
out:
    mem_free(scores);
    return st;
}

/* A space is U+2581, and one goes in front where the file says so. */
static Status set_piece_steps(TokenizerSpec *spec, bool prefix) {
    Bytes mark = literal(space_piece);
    TokenStep before[] = {{.kind = NORMALIZE_PREPEND, .content = mark},
                          {.kind = NORMALIZE_REPLACE, .pattern = literal(" "), .content = mark}};
    TokenStep behind[] = {{.kind = DECODE_REPLACE, .pattern = mark, .content = literal(" ")},
                          {.kind = DECODE_BYTE_FALLBACK},
                          {.kind = DECODE_FUSE},
                          {.kind = DECODE_STRIP, .content = literal(" "), .start = 1}};
    TRY_RETURN(set_steps(spec, &spec->normalizers, prefix ? before : before + 1, prefix ? 2 : 1));
    return set_steps(spec, &spec->decoders, behind, prefix ? 4 : 3);
}

/* What SentencePiece does to a text first, as far as tane has it here. */
static Status read_spaces(const Reading *r, bool *prefix) {
    bool extra = false;
    *prefix = true;
    TRY_RETURN(gguf_bool(r->file, "tokenizer.ggml.add_space_prefix", false, prefix));
    TRY_RETURN(gguf_bool(r->file, "tokenizer.ggml.remove_extra_whitespaces", false, &extra));
    if (gguf_has(r->file, "tokenizer.ggml.precompiled_charsmap"))
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: there is a tokenizer.ggml.precompiled_charsmap; tane lacks that for tokenizers inside GGUF",
                    r->path);
    if (extra)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: tokenizer.ggml.remove_extra_whitespaces is true; tane lacks that for tokenizers "
                    "inside GGUF",
                    r->path);
    return TANE_OK;
}

static Status read_pieces(Reading *r) {
    bool prefix;
    TRY_RETURN(read_spaces(r, &prefix));
    if (gguf_has(r->file, "tokenizer.ggml.scores")) TRY_RETURN(read_scores(r));
    for (int32_t i = 0; i < r->n; i++) r->spec->byte_fallback |= r->types[i] == GGUF_TOKEN_BYTE;
    r->spec->fuse_unk = true;
    /* Some files come with their merges. */
    TRY_RETURN(gguf_has(r->file, "tokenizer.ggml.merges") ? read_merges(r) : join_pieces(r));
    TRY_RETURN(read_special(r, true, true, false));
    TRY_RETURN(read_added(r, !prefix));
    return set_piece_steps(r->spec, prefix);
}

/* The vocabulary of a Unigram model has all tokens, as tokenizer.json lists them. */
static Status read_unigram(Reading *r) {
    bool prefix;
    TRY_RETURN(read_spaces(r, &prefix));
    TRY_RETURN(read_scores(r));
    r->spec->model = TOKEN_UNIGRAM;
    memset(r->merged, true, (size_t)r->n);
    TRY_RETURN(read_special(r, true, false, true));
    TRY_RETURN(read_added(r, !prefix));
    return set_piece_steps(r->spec, prefix);
}

/* ---- all of it ---- */

/* Keys beside these may change what the tokenizer does. */
static Status check_keys(const GgufFile *file) {
    static const char prefix[] = "tokenizer.ggml.";
    static const char *const known[] = {"model",
                                        "pre",
                                        "tokens",
                                        "token_type",
                                        "scores",
                                        "merges",
                                        "add_bos_token",
                                        "add_eos_token",
                                        "add_sep_token",
                                        "add_space_prefix",
                                        "remove_extra_whitespaces",
                                        "token_type_count",
                                        "precompiled_charsmap"};
    size_t n = sizeof prefix - 1;
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        const char *key = gguf_key(file, i, NULL);
        if (strncmp(key, prefix, n)) continue;
        const char *name = key + n;
        size_t length = strlen(name);
        bool fine = length > 9 && !strcmp(name + length - 9, "_token_id"); /* ids of tokens that tane may not need */
        fine |= length > 10 && !strcmp(name + length - 10, "_token_ids");
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) fine |= !strcmp(name, known[k]);
        if (!fine)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: tane does not know the key \"%.200s\", which may change how text becomes "
                        "tokens",
                        gguf_path(file), key);
    }
    return TANE_OK;
}

Status gguf_tokenizer_spec(const GgufFile *file, TokenizerSpec *spec) {
    Status st = TANE_OK;
    GgufText model;
    Reading r = {.file = file, .path = gguf_path(file), .spec = spec};
    *spec = (TokenizerSpec){.model = TOKEN_BPE, .bos = -1, .eos = -1, .pad = -1, .unk = -1};
    TRY(gguf_text(file, "tokenizer.ggml.model", true, &model));
    static const char *const models[] = {"gpt2", "llama", "t5"};
    static Status (*const readers[])(Reading *) = {read_byte_level, read_pieces, read_unigram};
    int kind = 0;
    while (kind < 3 && (strlen(models[kind]) != model.n || memcmp(models[kind], model.data, model.n))) kind++;
    if (kind == 3)
        TRY(FAIL(
            TANE_EUNSUPPORTED,
            "%s: tokenizer.ggml.model is \"%.*s\"; tane knows gpt2, llama and t5. Another tokenizer can be given with "
            "--tokenizer",
            r.path, (int)(model.n < 64 ? model.n : 64), model.data));
    r.pieces = kind > 0;
    TRY(check_keys(file));
    TRY(read_tokens(&r));
    TRY(readers[kind](&r));
out:
    vocab_free(&r.vocab);
    mem_free(r.types);
    mem_free(r.merged);
    return st;
}

Status model_tokenizer_load(Tokenizer **out, const char *path) {
    Status st = TANE_OK;
    GgufFile *file = NULL;
    TokenizerSpec spec = {0};
    if (!gguf_is_path(path)) return tokenizer_load(out, path);
    *out = NULL;
    TRY(gguf_open(&file, path));
    st = gguf_tokenizer_spec(file, &spec);
    if (st == TANE_OK) st = tokenizer_from_spec(out, &spec, path);
    else tokenizer_spec_release(&spec);
out:
    gguf_close(&file);
    return st;
}
