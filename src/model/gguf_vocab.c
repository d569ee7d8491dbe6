/* A tokenizer as tokenizer.ggml.*: gguf_tokenizer.c the other way round. See gguf_save.h.
 *
 * Byte-level BPE becomes "gpt2", Unigram "t5", SentencePiece's BPE "llama", where a merge's rank becomes the score of
 * the piece that it makes: SentencePiece then merges in the same order. */
#include <stdio.h>
#include <string.h>

#include "model/gguf_save.h"
#include "model/gguf_tokenizer.h"
#include "text/spm_model.h"

static const char space_piece[] = "\xE2\x96\x81";

/* The arrays by id, and what is in them. */
typedef struct Vocabulary {
    Arena arena;
    const Tokenizer *tok;
    const TokenizerSpec *spec; /* NULL: a SentencePiece model */
    int32_t n;
    GgufText *texts;
    int32_t *types;
    float *scores;
    SaveNote note; /* or NULL */
    void *user;
} Vocabulary;

/* ---- tokens ---- */

static Status vocabulary_new(Vocabulary *v, const Tokenizer *tok, int64_t n) {
    v->tok = tok;
    v->spec = tokenizer_spec(tok);
    v->n = (int32_t)n;
    if (tokenizer_vocab_size(tok) > n)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has %d tokens, but the model's vocabulary only %lld: they do not belong "
                    "together",
                    tokenizer_vocab_size(tok), (long long)n);
    TRY_RETURN(ARENA_NEW_ARRAY(&v->arena, &v->texts, (size_t)n));
    TRY_RETURN(ARENA_NEW_ARRAY(&v->arena, &v->types, (size_t)n));
    TRY_RETURN(ARENA_NEW_ARRAY(&v->arena, &v->scores, (size_t)n));
    return TANE_OK;
}

/* U+2581 as the space it stands for: llama.cpp looks for such tokens in the text itself. */
static Status spell_out(Vocabulary *v, GgufText *text) {
    char *copy;
    size_t n = 0;
    TRY_RETURN(arena_new(&v->arena, (void **)&copy, text->n, 1));
    for (size_t i = 0; i < text->n;) {
        bool space = text->n - i >= 3 && !memcmp(text->data + i, space_piece, 3);
        copy[n++] = space ? ' ' : text->data[i];
        i += space ? 3 : 1;
    }
    *text = (GgufText){copy, n};
    return TANE_OK;
}

/* What a token is, by tokenizer_piece's words. */
static int32_t type_of(const char *word) {
    static const char *const words[] = {"normal", "unknown", "control", "user-defined", "unused", "byte"};
    for (int i = 0; i < 6; i++)
        if (!strcmp(words[i], word)) return i + 1;
    return GGUF_TOKEN_UNUSED;
}

static Status list_tokens(Vocabulary *v, bool pieces) {
    for (int32_t i = 0; i < v->n; i++) {
        TokenPiece piece = {"", 0, "unused"};
        char *padding;
        if (i < tokenizer_vocab_size(v->tok)) TRY_RETURN(tokenizer_piece(v->tok, i, &piece));
        v->texts[i] = (GgufText){piece.text, strlen(piece.text)};
        v->types[i] = type_of(piece.type);
        v->scores[i] = piece.score;
        if (pieces && v->types[i] == GGUF_TOKEN_USER_DEFINED) TRY_RETURN(spell_out(v, &v->texts[i]));
        if (v->texts[i].n) continue;
        TRY_RETURN(arena_printf(&v->arena, &padding, "[PAD%d]", i));
        v->texts[i] = (GgufText){padding, strlen(padding)};
        v->types[i] = GGUF_TOKEN_UNUSED;
    }
    return TANE_OK;
}

static Status put_tokens(GgufWriter *w, const Vocabulary *v) {
    TRY_RETURN(gguf_put_texts(w, "tokenizer.ggml.tokens", v->texts, (size_t)v->n));
    return gguf_put_i32s(w, "tokenizer.ggml.token_type", v->types, (size_t)v->n);
}

/* ---- merges ---- */

/* "a b" for each. */
static Status put_merges(GgufWriter *w, Vocabulary *v) {
    const TokenizerSpec *spec = v->spec;
    GgufText *texts;
    TRY_RETURN(ARENA_NEW_ARRAY(&v->arena, &texts, spec->n_merges));
    for (size_t i = 0; i < spec->n_merges; i++) {
        Bytes left = spec->tokens[spec->merges[i].left].text, right = spec->tokens[spec->merges[i].right].text;
        char *text;
        TRY_RETURN(arena_new(&v->arena, (void **)&text, left.n + 1 + right.n, 1));
        memcpy(text, left.data, left.n);
        text[left.n] = ' ';
        memcpy(text + left.n + 1, right.data, right.n);
        texts[i] = (GgufText){text, left.n + 1 + right.n};
    }
    return gguf_put_texts(w, "tokenizer.ggml.merges", texts, spec->n_merges);
}

/* The first merge that makes a piece says how early it comes. */
static Status score_pieces(Vocabulary *v) {
    Status st = TANE_OK;
    const TokenizerSpec *spec = v->spec;
    Vocab vocab = {0};
    Str text = {0};
    for (int32_t i = 0; i < v->n; i++) v->scores[i] = v->types[i] == GGUF_TOKEN_NORMAL ? -1e6f : 0;
    TRY(vocab_init(&vocab, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    for (int32_t i = 0; i < spec->n_tokens; i++)
        if (spec->tokens[i].text.data) vocab_add(&vocab, i);
    for (size_t i = spec->n_merges; i-- > 0;) {
        Bytes left = spec->tokens[spec->merges[i].left].text, right = spec->tokens[spec->merges[i].right].text;
        text.len = 0;
        TRY(str_add(&text, left.data, left.n));
        TRY(str_add(&text, right.data, right.n));
        int32_t made = vocab_find(&vocab, text.text, text.len);
        if (made >= 0) v->scores[made] = -(float)i;
    }
out:
    vocab_free(&vocab);
    str_free(&text);
    return st;
}

/* ---- SentencePiece's ways ---- */

static bool is_text(Bytes bytes, const char *text) {
    return bytes.n == strlen(text) && !memcmp(bytes.data, text, bytes.n);
}

/* Do these steps turn spaces into U+2581, perhaps with one in front, and nothing else? */
static bool marks_spaces(const TokenizerSpec *spec, bool *prefix) {
    bool marks = false;
    *prefix = false;
    for (size_t i = 0; i < spec->normalizers.n; i++) {
        const TokenStep *s = &spec->normalizers.items[i];
        bool prepend = s->kind == NORMALIZE_PREPEND && (is_text(s->content, space_piece) || is_text(s->content, " "));
        bool replace = s->kind == NORMALIZE_REPLACE && !s->regex && is_text(s->pattern, " ") &&
                       is_text(s->content, space_piece);
        if (!prepend && !replace) return false;
        *prefix |= prepend;
        marks |= replace;
    }
    for (size_t i = 0; i < spec->pre_tokenizers.n; i++) {
        const TokenStep *s = &spec->pre_tokenizers.items[i];
        /* Gemma's: there are no spaces any more. */
        bool nothing = s->kind == PRE_SPLIT && !s->regex && is_text(s->pattern, " ") && marks;
        if (!nothing && (s->kind != PRE_METASPACE || s->split || !is_text(s->content, space_piece))) return false;
        if (nothing) continue;
        *prefix |= s->prepend != PREPEND_NEVER;
        marks = true;
    }
    return marks;
}

/* llama.cpp spells a character that it has no piece for with byte tokens, and stops the program where there are none.
 */
static void note_bytes(const Vocabulary *v) {
    for (int32_t i = 0; i < v->n; i++)
        if (v->types[i] == GGUF_TOKEN_BYTE) return;
    if (v->note)
        v->note(v->user,
                "this tokenizer has no byte tokens: llama.cpp ends with an error on characters that have no token");
}

static Status put_pieces(GgufWriter *w, Vocabulary *v, const char *model, bool prefix) {
    if (!strcmp(model, "llama")) note_bytes(v);
    TRY_RETURN(gguf_put_text(w, "tokenizer.ggml.model", model, strlen(model)));
    TRY_RETURN(gguf_put_text(w, "tokenizer.ggml.pre", "default", 7));
    TRY_RETURN(put_tokens(w, v));
    TRY_RETURN(gguf_put_f32s(w, "tokenizer.ggml.scores", v->scores, (size_t)v->n));
    /* llama.cpp goes by the scores; a list that leaves ways to make a piece out is kept for those that read it. */
    if (v->spec && v->spec->merges) TRY_RETURN(put_merges(w, v));
    return gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
}

static Status no_name(const char *what) {
    return FAIL(TANE_EUNSUPPORTED,
                "llama.cpp has no name for the way this tokenizer %s; --no-tokenizer writes the model without it",
                what);
}

static Status put_spm(GgufWriter *w, Vocabulary *v) {
    const SpmProto *proto = &((const SpmModel *)v->tok->model)->proto;
    if (proto->type != SPM_BPE && proto->type != SPM_CHAR) return no_name("finds pieces (not BPE)");
    if (proto->normalizer.charsmap.n || proto->normalizer.remove_extra_whitespaces || proto->treat_whitespace_as_suffix)
        return no_name("normalizes text");
    TRY_RETURN(list_tokens(v, true));
    return put_pieces(w, v, "llama", proto->normalizer.add_dummy_prefix);
}

/* What readers of GGUF will do otherwise. */
static void note_losses(const Vocabulary *v) {
    size_t n = 0;
    char text[256];
    for (size_t i = 0; i < v->spec->n_added; i++)
        n += v->spec->added[i].lstrip || v->spec->added[i].rstrip || v->spec->added[i].single_word;
    if (!n || !v->note) return;
    snprintf(
        text, sizeof text,
        "GGUF has no place for it that %zu special tokens take the spaces beside them, or count only as whole words%s",
        n, "; llama.cpp knows it of models with \"phi-3\" in their name");
    v->note(v->user, text);
}

static Status put_bpe(GgufWriter *w, Vocabulary *v) {
    const GgufPre *pre = gguf_pre_of(v->spec);
    bool prefix;
    if (!v->spec->merges) return no_name("merges (by rank, as tiktoken does)");
    note_losses(v);
    if (!pre && marks_spaces(v->spec, &prefix)) {
        TRY_RETURN(list_tokens(v, true));
        TRY_RETURN(score_pieces(v));
        return put_pieces(w, v, "llama", prefix);
    }
    if (!pre) return no_name("cuts text into words");
    TRY_RETURN(list_tokens(v, false));
    for (int32_t i = 0; i < v->n; i++) /* every byte has a token: the unknown one is a control token like others */
        if (v->types[i] == GGUF_TOKEN_UNKNOWN) v->types[i] = GGUF_TOKEN_CONTROL;
    TRY_RETURN(gguf_put_text(w, "tokenizer.ggml.model", "gpt2", 4));
    TRY_RETURN(gguf_put_text(w, "tokenizer.ggml.pre", pre->name, strlen(pre->name)));
    TRY_RETURN(put_tokens(w, v));
    return put_merges(w, v);
}

static Status put_unigram(GgufWriter *w, Vocabulary *v) {
    bool prefix;
    if (!marks_spaces(v->spec, &prefix)) return no_name("normalizes text");
    if (v->spec->byte_fallback) return no_name("spells unknown characters (Unigram with byte fallback)");
    note_losses(v);
    TRY_RETURN(list_tokens(v, true));
    for (int32_t i = 0; i < v->spec->n_tokens; i++) v->scores[i] = (float)v->spec->tokens[i].score;
    return put_pieces(w, v, "t5", prefix);
}

/* ---- special tokens ---- */

static Status put_id(GgufWriter *w, const char *name, int64_t id) {
    char key[64];
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name);
    return id < 0 ? TANE_OK : gguf_put_u32(w, key, (uint32_t)id);
}

/* EOS, and up to two more tokens that end an answer. */
static Status put_ends(GgufWriter *w, int64_t eos, const ModelConfig *c) {
    static const char *const names[] = {"eot", "eom"};
    int n = 0;
    TRY_RETURN(put_id(w, "eos", eos));
    if (c->eos >= 0 && c->eos != eos) TRY_RETURN(put_id(w, names[n++], c->eos));
    for (int i = 0; i < c->n_more_eos && n < 2; i++)
        if (c->more_eos[i] != eos) TRY_RETURN(put_id(w, names[n++], c->more_eos[i]));
    return TANE_OK;
}

static int64_t either(int64_t first, int64_t second) { return first >= 0 ? first : second; }

/* What is put around a text: at most BOS before and EOS behind it. *told is false where it is something else. */
static void ends_of(const Tokenizer *tok, int32_t *before, int32_t *behind, bool *told) {
    bool seen = tok->n_post == 0;
    *before = *behind = -1;
    *told = true;
    for (size_t i = 0; i < tok->n_post; i++) {
        int32_t *to = seen ? behind : before;
        if (tok->post[i] == POST_SEQUENCE) {
            seen = true;
            continue;
        }
        *told &= *to < 0;
        *to = tok->post[i];
    }
    *told &= (*before < 0 || tok->bos < 0 || *before == tok->bos) &&
             (*behind < 0 || tok->eos < 0 || *behind == tok->eos);
}

static Status put_special(GgufWriter *w, const Vocabulary *v, const ModelConfig *c) {
    const Tokenizer *tok = v->tok;
    int32_t before, behind;
    bool told;
    ends_of(tok, &before, &behind, &told);
    if (!told && v->note)
        v->note(v->user, "GGUF can only say that a tokenizer adds BOS and EOS; this one adds something else to a text");
    TRY_RETURN(put_id(w, "bos", told && before >= 0 ? before : either(tok->bos, c->bos)));
    TRY_RETURN(put_ends(w, told && behind >= 0 ? behind : either(tok->eos, c->eos), c));
    TRY_RETURN(put_id(w, "padding", either(tok->pad, c->pad)));
    TRY_RETURN(put_id(w, "unknown", tok->unk));
    TRY_RETURN(gguf_put_bool(w, "tokenizer.ggml.add_bos_token", told && before >= 0));
    return gguf_put_bool(w, "tokenizer.ggml.add_eos_token", told && behind >= 0);
}

Status gguf_put_tokenizer(GgufWriter *w, const Tokenizer *tok, const ModelConfig *config, SaveNote note, void *user) {
    Status st = TANE_OK;
    Vocabulary v = {.note = note, .user = user};
    if (!tok) {
        TRY_RETURN(gguf_put_text(w, "tokenizer.ggml.model", "no_vocab", 8));
        TRY_RETURN(put_id(w, "bos", config->bos));
        TRY_RETURN(put_ends(w, config->eos, config));
        return put_id(w, "padding", config->pad);
    }
    TRY(vocabulary_new(&v, tok, config->vocab_size));
    if (!v.spec) TRY(put_spm(w, &v));
    else if (v.spec->model == TOKEN_BPE) TRY(put_bpe(w, &v));
    else if (v.spec->model == TOKEN_UNIGRAM) TRY(put_unigram(w, &v));
    else TRY(no_name("finds pieces (neither BPE nor Unigram)"));
    TRY(put_special(w, &v, config));
out:
    arena_release(&v.arena);
    return st;
}
