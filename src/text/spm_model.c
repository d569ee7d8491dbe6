/* SentencePiece models as a kind of tokenizer: loading with all checks, encoding, decoding. */
#include "text/spm_model.h"

#include <string.h>

#include "text/utf8.h"

enum { MAX_TEXT_BYTES = 32 << 20 }; /* the library takes some 200 bytes of memory a token and counts in an int */

enum { SPACE = 0x20, SPACE_PIECE = 0x2581 };

/* ---- loading ---- */

static bool is_known(const SpmModel *m, uint32_t code) { return m->known[code / 64] >> (code % 64) & 1; }
static void set_known(SpmModel *m, uint32_t code) { m->known[code / 64] |= 1ull << code % 64; }

/* The code points of the pieces that text can become. The letters of "<pad>" are not among them: text never becomes a
 * control piece, unless that is a single character. */
static Status mark_known(SpmModel *m) {
    TRY_RETURN(MEM_NEW_ARRAY(&m->known, UTF8_MAX / 64 + 1));
    for (size_t i = 0; i < m->proto.n_pieces; i++) {
        const SpmPiece *piece = &m->proto.pieces[i];
        bool spelled = piece->type == SPM_NORMAL || piece->type == SPM_USER_DEFINED || piece->type == SPM_UNUSED;
        for (size_t at = 0; at < piece->text.n;) {
            uint32_t code = 0;
            size_t len = utf8_decode(piece->text.data + at, piece->text.n - at, &code);
            if (spelled || len == piece->text.n) set_known(m, code);
            at += len;
        }
    }
    /* A space is written as U+2581; where some spaces vanish, which one stands first in a run matters. */
    const SpmNormalizer *norm = &m->proto.normalizer;
    if (norm->remove_extra_whitespaces || (norm->escape_whitespaces && is_known(m, SPACE_PIECE))) set_known(m, SPACE);
    return TANE_OK;
}

static Status set_piece(Tokenizer *tok, int32_t id, Bytes text, float score, const char *type) {
    char *copy;
    TRY_RETURN(arena_new(&tok->arena, (void **)&copy, text.n + 1, 1));
    memcpy(copy, text.data, text.n);
    tok->pieces[id] = (TokenPiece){copy, score, type};
    tok->texts[id] = (Bytes){copy, text.n};
    return TANE_OK;
}

static bool same_text(const SpmBytes *a, const SpmBytes *b) {
    return a->n == b->n && memcmp(a->data, b->data, a->n) == 0;
}

/* Copies the pieces out for tokenizer_piece and finds the special ones. */
static Status list_pieces(Tokenizer *tok, SpmModel *m) {
    const SpmProto *proto = &m->proto;
    const SpmBytes *names[] = {&proto->bos_piece, &proto->eos_piece, &proto->pad_piece};
    int32_t *ids[] = {&tok->bos, &tok->eos, &tok->pad};
    for (int32_t i = 0; i < (int32_t)proto->n_pieces; i++) {
        const SpmPiece *piece = &proto->pieces[i];
        Bytes text = {piece->text.data, piece->text.n};
        TRY_RETURN(set_piece(tok, i, text, piece->score, spm_piece_type_name(piece->type)));
        if (piece->type == SPM_UNKNOWN) tok->unk = i;
        if (piece->type != SPM_CONTROL) continue;
        tok->special[i] = true;
        m->tokens[m->n_tokens++] = (AddedToken){.id = i, .content = tok->texts[i], .special = true};
        for (int k = 0; k < 3; k++)
            if (same_text(&piece->text, names[k])) *ids[k] = i;
    }
    return TANE_OK;
}

/* Tokens that the config adds. Those of the model's own pieces must be the same; the others follow without a gap. */
static Status list_added(Tokenizer *tok, SpmModel *m, const TokenizerConfig *config) {
    int32_t own = (int32_t)m->proto.n_pieces;
    for (size_t i = 0; i < config->n_added; i++) {
        const AddedToken *token = &config->added[i];
        if (token->id < own) {
            Bytes text = tok->texts[token->id];
            if (text.n == token->content.n && memcmp(text.data, token->content.data, text.n) == 0) continue;
            return FAIL(TANE_EFORMAT,
                        "%s: \"%s\" has the id %d there, but that is the model's \"%s\"; the files do not "
                        "belong together",
                        config->where, token->content.data, token->id, text.data);
        }
        if (token->id != tok->n_pieces)
            return FAIL(TANE_EFORMAT, "%s: \"%s\" has the id %d there, but the next free one is %d", config->where,
                        token->content.data, token->id, tok->n_pieces);
        TRY_RETURN(set_piece(tok, token->id, token->content, 0, token->special ? "control" : "user-defined"));
        tok->special[tok->n_pieces++] = token->special;
        m->tokens[m->n_tokens++] = *token;
        m->tokens[m->n_tokens - 1].content = tok->texts[token->id];
    }
    return TANE_OK;
}

static void name_piece(const Tokenizer *tok, const char *text, int32_t *id) {
    for (int32_t i = 0; text && i < tok->n_pieces; i++)
        if (strcmp(tok->pieces[i].text, text) == 0) *id = i;
}

/* What add_special adds: what the config says, else BOS where there is a config at all, as transformers has it for
 * models that come as a .model file; nothing for a bare file. */
static Status set_post(Tokenizer *tok, const TokenizerConfig *config) {
    bool bos = config->add_bos < 0 ? config->present : config->add_bos == 1;
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &tok->post, 3));
    if (bos && tok->bos >= 0) tok->post[tok->n_post++] = tok->bos;
    tok->post[tok->n_post++] = POST_SEQUENCE;
    if (config->add_eos == 1 && tok->eos >= 0) tok->post[tok->n_post++] = tok->eos;
    return TANE_OK;
}

static Status list_tokens(Tokenizer *tok, SpmModel *m, const char *where, const TokenizerConfig *config) {
    Status st = TANE_OK;
    Bytes *patterns = NULL;
    size_t room = m->proto.n_pieces + config->n_added;
    TRY(ARENA_NEW_ARRAY(&tok->arena, &tok->pieces, room));
    TRY(ARENA_NEW_ARRAY(&tok->arena, &tok->texts, room));
    TRY(ARENA_NEW_ARRAY(&tok->arena, &tok->special, room));
    TRY(ARENA_NEW_ARRAY(&tok->arena, &m->tokens, room));
    tok->n_pieces = (int32_t)m->proto.n_pieces;
    TRY(list_pieces(tok, m));
    TRY(list_added(tok, m, config));
    name_piece(tok, config->bos, &tok->bos);
    name_piece(tok, config->eos, &tok->eos);
    name_piece(tok, config->pad, &tok->pad);
    TRY(set_post(tok, config));
    TRY(MEM_NEW_ARRAY(&patterns, m->n_tokens));
    for (size_t i = 0; i < m->n_tokens; i++) patterns[i] = m->tokens[i].content;
    if (m->n_tokens) st = added_new(&m->added, where, m->tokens, patterns, m->n_tokens);
out:
    mem_free(patterns);
    return st;
}

static void release(Tokenizer *tok) {
    SpmModel *m = tok->model;
    if (!m) return;
    spm_close(m->spm);
    added_free(m->added);
    spm_proto_free(&m->proto);
    mem_free(m->known);
    mem_free(m->bytes);
    mem_free(m);
}

/* ---- encoding ---- */

/* Makes the text valid UTF-8 (each invalid byte becomes U+FFFD, as SentencePiece itself does) and keeps only the first
 * of a run of characters that occur in no piece: together they become one <unk>, and the library takes quadratic time
 * to join them. */
typedef struct Tidied {
    Str text;
    uint32_t *behind; /* (text.len) for each byte, when wanted: the input's byte behind the character it came from */
    size_t cap;
} Tidied;

static Status tidied_add(Tidied *t, const char *bytes, size_t n, size_t end, bool map) {
    if (map && t->text.len + n > t->cap) {
        size_t cap = 2 * (t->text.len + n);
        TRY_RETURN(mem_grow((void **)&t->behind, t->text.len, cap, sizeof *t->behind));
        t->cap = cap;
    }
    for (size_t i = 0; map && i < n; i++) t->behind[t->text.len + i] = (uint32_t)end;
    return str_add(&t->text, bytes, n);
}

static Status tidy(const SpmModel *m, const char *text, size_t n, bool map, Tidied *out) {
    const char replacement[] = "\xEF\xBF\xBD";
    bool after_unknown = false;
    size_t from = 0, at = 0; /* text[from..at) is to be copied */
    while (at < n) {
        uint32_t code = UTF8_REPLACEMENT;
        size_t len = utf8_decode(text + at, n - at, &code), step = len ? len : 1;
        bool unknown = m->known && !is_known(m, code), drop = unknown && after_unknown;
        if (drop || !len || map) {
            TRY_RETURN(tidied_add(out, text + from, at - from, at, map));
            if (!drop && !len) TRY_RETURN(tidied_add(out, replacement, 3, at + 1, map));
            from = drop || !len ? at + step : at;
            if (drop && map) out->behind[out->text.len - 1] = (uint32_t)(at + step);
        }
        after_unknown = unknown;
        at += step;
    }
    return tidied_add(out, text + from, at - from, at, map);
}

/* A stretch without added tokens, which begins at byte `base` of the input. */
static Status encode_text(const SpmModel *m, const char *text, size_t n, size_t base, TokenList *out, uint32_t **ends) {
    Status st = TANE_OK;
    Tidied tidied = {0};
    size_t before = out->n;
    TRY(tidy(m, text, n, ends != NULL, &tidied));
    TRY(spm_encode(m->spm, tidied.text.text, tidied.text.len, out, ends));
    for (size_t i = 0; ends && i < out->n - before; i++) {
        uint32_t *end = &(*ends)[i];
        *end = (uint32_t)base + (*end ? tidied.behind[*end - 1] : 0);
    }
out:
    mem_free(tidied.behind);
    str_free(&tidied.text);
    return st;
}

typedef struct Ends {
    uint32_t *items;
    size_t n, cap;
} Ends;

static Status ends_add(Ends *ends, const uint32_t *more, size_t n) {
    if (ends->n + n > ends->cap) {
        size_t cap = 2 * (ends->n + n);
        TRY_RETURN(mem_grow((void **)&ends->items, ends->n, cap, sizeof *ends->items));
        ends->cap = cap;
    }
    memcpy(ends->items + ends->n, more, n * sizeof *more);
    ends->n += n;
    return TANE_OK;
}

static Status encode_stretch(const SpmModel *m, const EncodeInput *input, size_t begin, size_t end, TokenList *out,
                             Ends *ends) {
    if (begin >= end) return TANE_OK;
    uint32_t *more = NULL;
    size_t before = out->n;
    Status st = encode_text(m, input->text + begin, end - begin, begin, out, input->want_ends ? &more : NULL);
    if (st == TANE_OK && more) st = ends_add(ends, more, out->n - before);
    mem_free(more);
    return st;
}

static Status encode(const Tokenizer *tok, const EncodeInput *input, TokenList *out, uint32_t **out_ends) {
    const SpmModel *m = tok->model;
    if (input->n > MAX_TEXT_BYTES)
        return FAIL(TANE_EINVAL, "a text of %zu bytes is too long to encode at once (at most %d); split it", input->n,
                    MAX_TEXT_BYTES);
    Status st = TANE_OK;
    Ends ends = {0};
    AddedScan scan = {m->added, input->text, input->n, input->parse_special, input->literal, 0, 0};
    const AddedToken *token;
    size_t from = 0, begin;
    for (; (token = added_next(&scan, &begin)); from = scan.done) {
        uint32_t end = (uint32_t)scan.done;
        TRY(encode_stretch(m, input, from, begin, out, &ends));
        TRY(token_list_add(out, token->id));
        if (input->want_ends) TRY(ends_add(&ends, &end, 1));
    }
    TRY(encode_stretch(m, input, from, input->n, out, &ends));
    *out_ends = ends.items;
    return TANE_OK;
out:
    mem_free(ends.items);
    return st;
}

/* Runs of the model's own pieces go to SentencePiece, which leaves control pieces out; the rest is written here. */
static Status decode(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out) {
    const SpmModel *m = tok->model;
    int32_t own = (int32_t)m->proto.n_pieces;
    for (size_t from = 0, at = 0; from < n; from = at) {
        while (at < n && ids[at] < own && !(special && tok->special[ids[at]])) at++;
        if (at > from) TRY_RETURN(spm_decode(m->spm, ids + from, at - from, out));
        for (; at < n && (ids[at] >= own || (special && tok->special[ids[at]])); at++)
            if (special || !tok->special[ids[at]])
                TRY_RETURN(str_add(out, tok->texts[ids[at]].data, tok->texts[ids[at]].n));
    }
    return TANE_OK;
}

static const TokenizerKind spm_kind = {release, encode, decode, spm_model_save};

Status spm_model_load(Tokenizer *tok, const char *where, const char *data, size_t n, const TokenizerConfig *config) {
    Status st = TANE_OK;
    Str message = {0};
    SpmModel *m;
    TRY(MEM_NEW(&m));
    tok->kind = &spm_kind;
    tok->model = m;
    TRY(MEM_NEW_ARRAY(&m->bytes, n));
    memcpy(m->bytes, data, n);
    m->n_bytes = n;
    TRY(spm_proto_parse(&m->proto, where, m->bytes, n));
    TRY(spm_proto_check(&m->proto, where));
    TRY(list_tokens(tok, m, where, config));
    /* Bytes stand for unknown characters one by one, and a character map may turn an unknown one into known ones. */
    if (!m->proto.byte_fallback && m->proto.normalizer.charsmap.n == 0) TRY(mark_known(m));
    const SpmNormalizer *norm = &m->proto.normalizer;
    tok->cuts_at_lines = m->proto.type == SPM_CHAR && norm->charsmap.n == 0 && !norm->add_dummy_prefix &&
                         !norm->remove_extra_whitespaces;
    TRY(spm_proto_write(&m->proto, &message));
    st = spm_open(&m->spm, message.text, message.len);
    if (st != TANE_OK) err_context("%s", where);
out:
    str_free(&message);
    return st;
}
