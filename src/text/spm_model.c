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

/* Copies the pieces out for tokenizer_piece and finds the special ones. */
static Status list_pieces(Tokenizer *tok, const SpmProto *proto) {
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &tok->pieces, proto->n_pieces));
    tok->n_pieces = (int32_t)proto->n_pieces;
    const SpmBytes *names[] = {&proto->bos_piece, &proto->eos_piece, &proto->pad_piece};
    int32_t *ids[] = {&tok->bos, &tok->eos, &tok->pad};
    for (int32_t i = 0; i < tok->n_pieces; i++) {
        const SpmPiece *piece = &proto->pieces[i];
        char *text;
        TRY_RETURN(arena_new(&tok->arena, (void **)&text, piece->text.n + 1, 1));
        memcpy(text, piece->text.data, piece->text.n);
        tok->pieces[i] = (TokenPiece){text, piece->score, spm_piece_type_name(piece->type)};
        if (piece->type == SPM_UNKNOWN) tok->unk = i;
        for (int k = 0; piece->type == SPM_CONTROL && k < 3; k++)
            if (piece->text.n == names[k]->n && memcmp(text, names[k]->data, names[k]->n) == 0) *ids[k] = i;
    }
    return TANE_OK;
}

static void release(Tokenizer *tok) {
    SpmModel *m = tok->model;
    if (!m) return;
    spm_close(m->spm);
    spm_proto_free(&m->proto);
    mem_free(m->known);
    mem_free(m->bytes);
    mem_free(m);
}

/* ---- encoding ---- */

/* Makes the text valid UTF-8 (each invalid byte becomes U+FFFD, as SentencePiece itself does) and keeps only the first
 * of a run of characters that occur in no piece: together they become one <unk>, and the library takes quadratic time
 * to join them. */
static Status tidy(const SpmModel *m, const char *text, size_t n, Str *out) {
    const char replacement[] = "\xEF\xBF\xBD";
    bool after_unknown = false;
    size_t from = 0, at = 0; /* text[from..at) is to be copied */
    while (at < n) {
        uint32_t code = UTF8_REPLACEMENT;
        size_t len = utf8_decode(text + at, n - at, &code), step = len ? len : 1;
        bool unknown = m->known && !is_known(m, code), drop = unknown && after_unknown;
        if (drop || !len) {
            TRY_RETURN(str_add(out, text + from, at - from));
            if (!drop) TRY_RETURN(str_add(out, replacement, 3));
            from = at + step;
        }
        after_unknown = unknown;
        at += step;
    }
    return str_add(out, text + from, at - from);
}

static Status encode(const Tokenizer *tok, const char *text, size_t n, TokenList *out) {
    const SpmModel *m = tok->model;
    if (n > MAX_TEXT_BYTES)
        return FAIL(TANE_EINVAL, "a text of %zu bytes is too long to encode at once (at most %d); split it", n,
                    MAX_TEXT_BYTES);
    Status st = TANE_OK;
    Str tidied = {0};
    TRY(tidy(m, text, n, &tidied));
    TRY(spm_encode(m->spm, tidied.text, tidied.len, out));
out:
    str_free(&tidied);
    return st;
}

static Status decode(const Tokenizer *tok, const int32_t *ids, size_t n, Str *out) {
    const SpmModel *m = tok->model;
    return spm_decode(m->spm, ids, n, out);
}

static const TokenizerKind spm_kind = {release, encode, decode, spm_model_save};

Status spm_model_load(Tokenizer *tok, const char *where, const char *data, size_t n) {
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
    TRY(list_pieces(tok, &m->proto));
    /* Bytes stand for unknown characters one by one, and a character map may turn an unknown one into known ones. */
    if (!m->proto.byte_fallback && m->proto.normalizer.charsmap.n == 0) TRY(mark_known(m));
    TRY(spm_proto_write(&m->proto, &message));
    st = spm_open(&m->spm, message.text, message.len);
    if (st != TANE_OK) err_context("%s", where);
out:
    str_free(&message);
    return st;
}
