/* Tokenizers that run from a TokenizerSpec. Encoding:
 *
 *     text -> made valid UTF-8 -> added tokens cut out -> the stretches between them
 *     stretch -> normalizers -> added tokens of normalized text cut out -> pre-tokenizers -> model
 *
 * The usual case takes a short cut: byte-level BPE, text that no normalizer would change, one expression that cuts it.
 * Then a stretch goes to bpe_text as it lies in the input, without a copy.
 */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer_kind.h"
#include "text/unigram.h"
#include "text/utf8.h"
#include "text/wordpiece.h"

enum { MAX_HOLES = 1 << 18 }; /* ids that stand for nothing */

typedef struct Pipeline {
    TokenizerSpec spec;
    Normalizer *normalizer; /* NULL: none */
    PreTokenizer *pre;
    Decoder *decoder;
    AddedSet *raw_added, *normal_added; /* NULL: none */
    Bytes *normal;        /* (spec.n_added) content after the normalizers, data NULL where it is not normalized */
    int32_t *added_at;    /* (n_pieces) place in spec.added, -1: a token of the model */
    BpeToken *bpe_tokens; /* (spec.n_tokens) what the model works on: bytes, or characters */
    Bpe *bpe;
    Unigram *unigram;
    WordPiece *wordpiece;
    const Scanner *scanner; /* the last cut, for bpe_text; NULL: words are cut before the model */
    bool direct;            /* bpe_text can have a stretch as it lies */
} Pipeline;

void tokenizer_spec_release(TokenizerSpec *spec) {
    arena_release(&spec->arena);
    *spec = (TokenizerSpec){0};
}

/* ---- a text's way through ---- */

typedef struct Work {
    const Pipeline *p;
    const char *text; /* valid UTF-8 (n) */
    size_t n;
    const uint8_t *literal; /* (n) or NULL */
    bool parse_special, want_ends, aligned;
    Pieces stretch, part, spare;
    BpeWork *bpe;
    UnigramWork unigram;
    TokenList *out;
    uint32_t *ends; /* (n_ends) */
    size_t n_ends, cap_ends;
    uint32_t *word_ends; /* (cap_word) of the word at hand */
    size_t cap_word;
} Work;

static void work_free(Work *w) {
    if (w->bpe) bpe_give(w->p->bpe, w->bpe);
    pieces_free(&w->stretch);
    pieces_free(&w->part);
    pieces_free(&w->spare);
    unigram_work_free(&w->unigram);
    mem_free(w->ends);
    mem_free(w->word_ends);
}

static Status add_end(Work *w, uint32_t end) {
    if (w->n_ends == w->cap_ends) {
        size_t cap = w->cap_ends ? 2 * w->cap_ends : 64;
        TRY_RETURN(mem_grow((void **)&w->ends, w->n_ends, cap, sizeof *w->ends));
        w->cap_ends = cap;
    }
    w->ends[w->n_ends++] = end;
    return TANE_OK;
}

static Status add_token(Work *w, int32_t id, uint32_t end) {
    TRY_RETURN(token_list_add(w->out, id));
    return w->want_ends ? add_end(w, end) : TANE_OK;
}

/* ---- the model ---- */

static Status model_word(Work *w, const char *word, size_t n, uint32_t *ends) {
    const Pipeline *p = w->p;
    if (p->unigram) return unigram_word(p->unigram, &w->unigram, word, n, w->out, ends);
    if (p->wordpiece) return wordpiece_word(p->wordpiece, word, n, w->out, ends);
    return bpe_word(p->bpe, w->bpe, word, n, w->out, ends);
}

static Status encode_word(Work *w, const Pieces *text, Range piece) {
    const char *word = text->text.text + piece.begin;
    size_t n = piece.end - piece.begin, before = w->out->n;
    if (!w->want_ends)
        return w->p->scanner ? bpe_text(w->p->bpe, w->bpe, w->p->scanner, word, n, w->out)
                             : model_word(w, word, n, NULL);
    if (n > w->cap_word) {
        mem_free(w->word_ends);
        w->word_ends = NULL;
        w->cap_word = 0;
        TRY_RETURN(MEM_NEW_ARRAY(&w->word_ends, 2 * n));
        w->cap_word = 2 * n;
    }
    TRY_RETURN(model_word(w, word, n, w->word_ends));
    for (size_t i = 0; i < w->out->n - before; i++)
        TRY_RETURN(add_end(w, text->origin[piece.begin + w->word_ends[i] - 1].end));
    return TANE_OK;
}

/* ---- stretches ---- */

static Status encode_words(Work *w, Pieces *text, bool at_start) {
    text->n = 0;
    TRY_RETURN(pieces_cut(text, 0, text->text.len));
    TRY_RETURN(pretokenizer_run(w->p->pre, w->want_ends || !w->p->scanner, at_start, text, &w->spare));
    for (size_t i = 0; i < text->n; i++) TRY_RETURN(encode_word(w, text, text->items[i]));
    return TANE_OK;
}

/* A part of the stretch, which no added token touches. */
static Status encode_part(Work *w, size_t begin, size_t end, bool at_start) {
    if (begin >= end) return TANE_OK;
    if (begin == 0 && end == w->stretch.text.len) return encode_words(w, &w->stretch, at_start);
    pieces_clear(&w->part);
    w->part.aligned = w->stretch.aligned;
    TRY_RETURN(pieces_copy(&w->part, &w->stretch, begin, end));
    return encode_words(w, &w->part, at_start && begin == 0);
}

/* What of a normalized text came from literal bytes. */
static Status map_literal(const Work *w, uint8_t **out) {
    *out = NULL;
    if (!w->literal) return TANE_OK;
    TRY_RETURN(MEM_NEW_ARRAY(out, w->stretch.text.len));
    for (size_t i = 0; i < w->stretch.text.len; i++) {
        Origin origin = w->stretch.origin[i];
        for (uint32_t k = origin.begin; k < origin.end; k++) (*out)[i] |= w->literal[k];
    }
    return TANE_OK;
}

/* The stretch, normalized, with the tokens that are looked for in it. */
static Status encode_normalized(Work *w, bool at_start) {
    Status st = TANE_OK;
    uint8_t *literal = NULL;
    const Pieces *s = &w->stretch;
    if (w->p->normal_added) TRY(map_literal(w, &literal));
    AddedScan scan = {w->p->normal_added, s->text.text, s->text.len, w->parse_special, literal, 0, 0};
    const AddedToken *token;
    size_t from = 0, begin;
    for (; (token = added_next(&scan, &begin)); from = scan.done) {
        TRY(encode_part(w, from, begin, at_start));
        TRY(add_token(w, token->id, w->aligned ? s->origin[scan.done - 1].end : 0));
    }
    TRY(encode_part(w, from, s->text.len, at_start));
out:
    mem_free(literal);
    return st;
}

/* text[begin..end), in which no token was found so far. */
static Status encode_stretch(Work *w, size_t begin, size_t end) {
    const Pipeline *p = w->p;
    if (begin >= end) return TANE_OK;
    bool keeps = normalizer_keeps(p->normalizer, w->text + begin, end - begin);
    if (keeps && p->direct && !w->want_ends)
        return bpe_text(p->bpe, w->bpe, p->scanner, w->text + begin, end - begin, w->out);
    pieces_clear(&w->stretch);
    w->stretch.aligned = w->aligned;
    TRY_RETURN(pieces_input(&w->stretch, w->text + begin, end - begin, begin));
    if (!keeps) TRY_RETURN(normalizer_run(p->normalizer, &w->stretch, &w->spare));
    return encode_normalized(w, begin == 0);
}

static Status encode_all(Work *w) {
    AddedScan scan = {w->p->raw_added, w->text, w->n, w->parse_special, w->literal, 0, 0};
    const AddedToken *token;
    size_t from = 0, begin;
    for (; (token = added_next(&scan, &begin)); from = scan.done) {
        TRY_RETURN(encode_stretch(w, from, begin));
        TRY_RETURN(add_token(w, token->id, (uint32_t)scan.done));
    }
    return encode_stretch(w, from, w->n);
}

/* ---- texts that are not UTF-8 ---- */

typedef struct Repaired {
    Str text;
    uint32_t *behind; /* (text.len) the input's byte behind each */
    uint8_t *literal; /* (text.len) or NULL */
} Repaired;

static void repaired_free(Repaired *r) {
    str_free(&r->text);
    mem_free(r->behind);
    mem_free(r->literal);
}

static Status repair(const EncodeInput *input, Repaired *r) {
    TRY_RETURN(decoder_add_bytes(&r->text, input->text, input->n));
    if (!input->want_ends && !input->literal) return TANE_OK;
    TRY_RETURN(MEM_NEW_ARRAY(&r->behind, r->text.len));
    if (input->literal) TRY_RETURN(MEM_NEW_ARRAY(&r->literal, r->text.len));
    for (size_t at = 0, to = 0; at < input->n;) {
        size_t valid = utf8_valid(input->text + at, input->n - at);
        size_t bad = at + valid < input->n ? utf8_bad_length(input->text + at + valid, input->n - at - valid) : 0;
        for (size_t i = 0; i < valid + (bad ? 3 : 0); i++) {
            size_t from = at + (i < valid ? i : valid);
            r->behind[to + i] = (uint32_t)(i < valid ? from + 1 : from + bad);
            if (input->literal) r->literal[to + i] = input->literal[from];
        }
        at += valid + bad;
        to += valid + (bad ? 3 : 0);
    }
    return TANE_OK;
}

static Status encode(const Tokenizer *tok, const EncodeInput *input, TokenList *out, uint32_t **ends) {
    Status st = TANE_OK;
    const Pipeline *p = tok->model;
    Repaired repaired = {0};
    Work w = {.p = p, .text = input->text, .n = input->n, .literal = input->literal, .out = out};
    w.parse_special = input->parse_special;
    w.want_ends = input->want_ends;
    /* Where bytes come from matters also to what asks for the input's beginning, and to literal bytes. */
    w.aligned = w.want_ends || (p->normalizer && pretokenizer_needs_start(p->pre)) || (w.literal && p->normal_added);
    if (utf8_valid(input->text, input->n) < input->n) {
        TRY(repair(input, &repaired));
        w.text = repaired.text.text;
        w.n = repaired.text.len;
        w.literal = repaired.literal;
    }
    if (p->bpe) TRY(bpe_take(p->bpe, &w.bpe));
    TRY(encode_all(&w));
    for (size_t i = 0; repaired.behind && i < w.n_ends; i++) w.ends[i] = w.ends[i] ? repaired.behind[w.ends[i] - 1] : 0;
    /* Marks that normalizing put in order come from places that are not. */
    for (size_t i = 1; i < w.n_ends; i++)
        if (w.ends[i] < w.ends[i - 1]) w.ends[i] = w.ends[i - 1];
    *ends = w.ends;
    w.ends = NULL;
out:
    repaired_free(&repaired);
    work_free(&w);
    return st;
}

/* ---- decoding ---- */

/* An added token that was normalized on its way in goes out the same way. */
static Bytes decode_text(const Tokenizer *tok, int32_t id) {
    const Pipeline *p = tok->model;
    int32_t at = p->added_at[id];
    return at >= 0 && p->normal[at].data ? p->normal[at] : tok->texts[id];
}

/* Raw bytes of a token whose text is in GPT-2's alphabet; of any other its text. */
static Status add_raw(Str *raw, Bytes text) {
    size_t before = raw->len;
    uint32_t code = 0;
    for (size_t at = 0, len; at < text.n; at += len) {
        len = utf8_decode(text.data + at, text.n - at, &code);
        int byte = len ? code_to_byte(code) : -1;
        if (byte < 0) {
            raw->len = before;
            return str_add(raw, text.data, text.n);
        }
        TRY_RETURN(str_add(raw, &(char){(char)byte}, 1));
    }
    return TANE_OK;
}

static Status decode_bytes(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out) {
    const Pipeline *p = tok->model;
    Status st = TANE_OK;
    Str raw = {0};
    for (size_t i = 0; i < n; i++) {
        int32_t id = ids[i];
        if (!special && tok->special[id]) continue;
        const BpeToken *token = id < p->spec.n_tokens && p->added_at[id] < 0 && p->bpe_tokens ? &p->bpe_tokens[id]
                                                                                              : NULL;
        if (token && token->bytes) TRY(str_add(&raw, token->bytes, token->n));
        else if (tok->texts[id].data) TRY(add_raw(&raw, decode_text(tok, id)));
    }
    TRY(decoder_add_bytes(out, raw.text, raw.len));
out:
    str_free(&raw);
    return st;
}

static Status decode_steps(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out) {
    const Pipeline *p = tok->model;
    Status st = TANE_OK;
    Pieces tokens = {0}, spare = {0};
    TRY(MEM_NEW_ARRAY(&tokens.items, n));
    tokens.cap = n;
    for (size_t i = 0; i < n; i++) {
        Bytes text = tok->texts[ids[i]].data ? decode_text(tok, ids[i]) : (Bytes){NULL, 0};
        if (!text.data || (!special && tok->special[ids[i]])) continue;
        tokens.items[tokens.n++] = (Range){tokens.text.len, tokens.text.len + text.n};
        TRY(pieces_put(&tokens, text.data, text.n, (Origin){0, 0}));
    }
    if (tokens.n) TRY(decoder_run(p->decoder, &tokens, &spare, out));
out:
    pieces_free(&tokens);
    pieces_free(&spare);
    return st;
}

static Status decode(const Tokenizer *tok, const int32_t *ids, size_t n, bool special, Str *out) {
    const Pipeline *p = tok->model;
    bool bytes = decoder_is_bytes(p->decoder) && pretokenizer_is_bytes(p->pre);
    return (bytes ? decode_bytes : decode_steps)(tok, ids, n, special, out);
}

/* ---- making: the model ---- */

/* Tokens as bytes: those of GPT-2's alphabet. What has another character is no token of the model. */
static Status spell_bytes(Tokenizer *tok, Pipeline *p) {
    const TokenizerSpec *spec = &p->spec;
    for (int32_t id = 0; id < spec->n_tokens; id++) {
        Bytes text = spec->tokens[id].text;
        char *raw;
        size_t n = 0, len = 1;
        if (!text.data) continue;
        TRY_RETURN(arena_new(&tok->arena, (void **)&raw, text.n + 1, 1));
        uint32_t code = 0;
        for (size_t at = 0; at < text.n && len; at += len) {
            len = utf8_decode(text.data + at, text.n - at, &code);
            int byte = len ? code_to_byte(code) : -1;
            if (byte < 0) len = 0;
            else raw[n++] = (char)byte;
        }
        if (len) p->bpe_tokens[id] = (BpeToken){raw, n};
    }
    return TANE_OK;
}

static void spell_chars(Pipeline *p) {
    for (int32_t id = 0; id < p->spec.n_tokens; id++)
        p->bpe_tokens[id] = (BpeToken){p->spec.tokens[id].text.data, p->spec.tokens[id].text.n};
}

static void find_byte_tokens(const Vocab *vocab, int32_t byte_token[256]) {
    char text[8];
    for (int byte = 0; byte < 256; byte++) {
        int n = snprintf(text, sizeof text, "<0x%02X>", byte);
        byte_token[byte] = vocab_find(vocab, text, (size_t)n);
    }
}

static bool has_token(const TokenizerSpec *spec, int32_t id) {
    return id >= 0 && id < spec->n_tokens && spec->tokens[id].text.data;
}

/* What each merge makes. */
static Status find_results(const TokenizerSpec *spec, const Vocab *vocab, const char *where, BpeMerge *merges) {
    Status st = TANE_OK;
    Str text = {0};
    for (size_t i = 0; i < spec->n_merges; i++) {
        int32_t left = spec->merges[i].left, right = spec->merges[i].right;
        if (!has_token(spec, left) || !has_token(spec, right))
            TRY(FAIL(TANE_EFORMAT, "%s: merge %zu is of the ids %d and %d, which are no tokens of the model", where, i,
                     left, right));
        text.len = 0;
        TRY(str_add(&text, spec->tokens[left].text.data, spec->tokens[left].text.n));
        TRY(str_add(&text, spec->tokens[right].text.data, spec->tokens[right].text.n));
        int32_t result = vocab_find(vocab, text.text, text.len);
        if (result < 0)
            TRY(FAIL(TANE_EFORMAT, "%s: merge %zu makes \"%.*s\", which is not in the vocabulary", where, i,
                     (int)(text.len < 80 ? text.len : 80), text.text));
        merges[i] = (BpeMerge){left, right, result};
    }
out:
    str_free(&text);
    return st;
}

/* tane has BPE without them. */
static Status refuse_affix(const char *where, const char *name, Bytes affix) {
    if (affix.n == 0) return TANE_OK;
    return FAIL(TANE_EUNSUPPORTED, "%s: model.%s is \"%.*s\"; tane has BPE without prefixes and suffixes only", where,
                name, (int)affix.n, affix.data);
}

static Status make_bpe(Tokenizer *tok, Pipeline *p, const Vocab *vocab, const char *where) {
    Status st = TANE_OK;
    const TokenizerSpec *spec = &p->spec;
    BpeMerge *merges = NULL;
    int32_t byte_token[256];
    TRY_RETURN(refuse_affix(where, "continuing_subword_prefix", spec->continuing_subword_prefix));
    TRY_RETURN(refuse_affix(where, "end_of_word_suffix", spec->end_of_word_suffix));
    bool chars = !pretokenizer_is_bytes(p->pre);
    TRY(ARENA_NEW_ARRAY(&tok->arena, &p->bpe_tokens, spec->n_tokens));
    if (chars) spell_chars(p);
    else TRY(spell_bytes(tok, p));
    if (spec->merges) {
        TRY(MEM_NEW_ARRAY(&merges, spec->n_merges));
        TRY(find_results(spec, vocab, where, merges));
    }
    find_byte_tokens(vocab, byte_token);
    BpeSpec bpe = {.tokens = p->bpe_tokens,
                   .n_tokens = spec->n_tokens,
                   .merges = merges,
                   .n_merges = spec->n_merges,
                   .chars = chars,
                   .ignore_merges = spec->ignore_merges,
                   .unk = has_token(spec, spec->unk) ? spec->unk : -1,
                   .fuse_unk = spec->fuse_unk,
                   .byte_token = chars && spec->byte_fallback ? byte_token : NULL};
    TRY(bpe_new(&p->bpe, &bpe, where));
out:
    mem_free(merges);
    return st;
}

static Status check_unk(const TokenizerSpec *spec, const char *where) {
    if (has_token(spec, spec->unk)) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: model.unk_token is not in the vocabulary; words that have no tokens need it", where);
}

static Status make_model(Tokenizer *tok, Pipeline *p, const char *where) {
    Status st = TANE_OK;
    TokenizerSpec *spec = &p->spec;
    Vocab vocab = {0};
    int32_t byte_token[256];
    if (spec->model != TOKEN_BPE && pretokenizer_is_bytes(p->pre))
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: the pre-tokenizer ByteLevel before a model that is not BPE; tane lacks that", where);
    TRY(vocab_init(&vocab, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    for (int32_t id = 0; id < spec->n_tokens; id++)
        if (spec->tokens[id].text.data) vocab_add(&vocab, id);
    find_byte_tokens(&vocab, byte_token);
    if (spec->model == TOKEN_BPE) {
        TRY(make_bpe(tok, p, &vocab, where));
    } else if (spec->model == TOKEN_UNIGRAM) {
        TRY(unigram_new(&p->unigram, spec->tokens, spec->n_tokens, spec->unk, spec->byte_fallback ? byte_token : NULL));
    } else {
        TRY(check_unk(spec, where));
        TRY(wordpiece_new(&p->wordpiece, spec));
    }
    p->scanner = p->bpe ? pretokenizer_scanner(p->pre) : NULL;
    p->direct = p->scanner && !p->normal_added && pretokenizer_only_scans(p->pre);
    /* No known expression has a match that goes on with a letter or digit behind a newline. */
    tok->cuts_at_lines = p->direct && !p->normalizer && p->bpe && strcmp(scanner_name(p->scanner), "pcre2") != 0;
out:
    vocab_free(&vocab);
    return st;
}

/* ---- making: added tokens and the list of all ---- */

static Status normalize_content(Tokenizer *tok, const Pipeline *p, Bytes content, Bytes *out) {
    Status st = TANE_OK;
    Pieces text = {0}, spare = {0};
    char *copy;
    TRY(pieces_input(&text, content.data, content.n, 0));
    TRY(normalizer_run(p->normalizer, &text, &spare));
    TRY(arena_new(&tok->arena, (void **)&copy, text.text.len + 1, 1));
    if (text.text.len) memcpy(copy, text.text.text, text.text.len);
    *out = (Bytes){copy, text.text.len};
out:
    pieces_free(&text);
    pieces_free(&spare);
    return st;
}

static Status make_added(Tokenizer *tok, Pipeline *p, const char *where) {
    Status st = TANE_OK;
    const TokenizerSpec *spec = &p->spec;
    Bytes *raw = NULL;
    size_t n_raw = 0, n_normal = 0;
    TRY(MEM_NEW_ARRAY(&raw, spec->n_added));
    TRY(ARENA_NEW_ARRAY(&tok->arena, &p->normal, spec->n_added));
    for (size_t i = 0; i < spec->n_added; i++) {
        const AddedToken *token = &spec->added[i];
        if (utf8_valid(token->content.data, token->content.n) < token->content.n)
            TRY(FAIL(TANE_EFORMAT, "%s: added token %d is not UTF-8", where, token->id));
        if (token->normalized) TRY(normalize_content(tok, p, token->content, &p->normal[i]));
        else raw[i] = token->content;
        n_normal += token->normalized;
        n_raw += !token->normalized;
    }
    if (n_raw) TRY(added_new(&p->raw_added, where, spec->added, raw, spec->n_added));
    if (n_normal) TRY(added_new(&p->normal_added, where, spec->added, p->normal, spec->n_added));
    /* Without normalizers both would look at the same text, one after the other; that is what is meant. */
out:
    mem_free(raw);
    return st;
}

static Status check_ids(const TokenizerSpec *spec, const char *where) {
    int64_t limit = (int64_t)spec->n_tokens + (int64_t)spec->n_added + MAX_HOLES;
    for (size_t i = 0; i < spec->n_added; i++)
        if (spec->added[i].id < 0 || spec->added[i].id >= limit)
            return FAIL(TANE_EFORMAT, "%s: added token \"%.*s\" has the id %d, far from the vocabulary's %d ids", where,
                        (int)spec->added[i].content.n, spec->added[i].content.data, spec->added[i].id, spec->n_tokens);
    return TANE_OK;
}

static bool is_byte_token(Bytes t) { return t.n == 6 && memcmp(t.data, "<0x", 3) == 0 && t.data[5] == '>'; }

static Status set_piece(Tokenizer *tok, int32_t id, Bytes text, double score, const char *type) {
    char *copy;
    TRY_RETURN(arena_new(&tok->arena, (void **)&copy, text.n + 1, 1));
    if (text.n) memcpy(copy, text.data, text.n);
    tok->texts[id] = (Bytes){copy, text.n};
    tok->pieces[id] = (TokenPiece){copy, (float)score, type};
    return TANE_OK;
}

static Status list_pieces(Tokenizer *tok, Pipeline *p) {
    const TokenizerSpec *spec = &p->spec;
    tok->n_pieces = spec->n_tokens;
    for (size_t i = 0; i < spec->n_added; i++)
        if (spec->added[i].id >= tok->n_pieces) tok->n_pieces = spec->added[i].id + 1;
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &tok->pieces, tok->n_pieces));
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &tok->texts, tok->n_pieces));
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &tok->special, tok->n_pieces));
    TRY_RETURN(ARENA_NEW_ARRAY(&tok->arena, &p->added_at, tok->n_pieces));
    for (int32_t id = 0; id < tok->n_pieces; id++) {
        p->added_at[id] = -1;
        tok->pieces[id] = (TokenPiece){"", 0, "unused"};
        if (id >= spec->n_tokens || !spec->tokens[id].text.data) continue;
        const SpecToken *token = &spec->tokens[id];
        const char *type = id == spec->unk                                     ? "unknown"
                           : spec->byte_fallback && is_byte_token(token->text) ? "byte"
                                                                               : "normal";
        TRY_RETURN(set_piece(tok, id, token->text, token->score, type));
    }
    for (size_t i = 0; i < spec->n_added; i++) {
        const AddedToken *token = &spec->added[i];
        const char *type = token->id == spec->unk ? "unknown" : token->special ? "control" : "user-defined";
        TRY_RETURN(set_piece(tok, token->id, token->content, 0, type));
        tok->special[token->id] = token->special;
        p->added_at[token->id] = (int32_t)i;
    }
    return TANE_OK;
}

static Status take_special(Tokenizer *tok, const TokenizerSpec *spec, const char *where) {
    const int32_t ids[] = {spec->bos, spec->eos, spec->pad, spec->unk};
    int32_t *const to[] = {&tok->bos, &tok->eos, &tok->pad, &tok->unk};
    for (int i = 0; i < 4; i++) {
        if (ids[i] < -1 || ids[i] >= tok->n_pieces)
            return FAIL(TANE_EFORMAT, "%s: the special token id %d is out of range; there are %d ids", where, ids[i],
                        tok->n_pieces);
        *to[i] = ids[i];
    }
    for (size_t i = 0; i < spec->n_post; i++)
        if (spec->post[i] != POST_SEQUENCE && (spec->post[i] < 0 || spec->post[i] >= tok->n_pieces))
            return FAIL(TANE_EFORMAT, "%s: post_processor adds the id %d, which is out of range; there are %d ids",
                        where, spec->post[i], tok->n_pieces);
    tok->post = spec->post;
    tok->n_post = spec->n_post;
    return TANE_OK;
}

/* ---- the kind ---- */

static void release(Tokenizer *tok) {
    Pipeline *p = tok->model;
    if (!p) return;
    bpe_free(p->bpe);
    unigram_free(p->unigram);
    wordpiece_free(p->wordpiece);
    added_free(p->raw_added);
    added_free(p->normal_added);
    normalizer_free(p->normalizer);
    pretokenizer_free(p->pre);
    decoder_free(p->decoder);
    tokenizer_spec_release(&p->spec);
    mem_free(p);
}

static Status write_spec(const Tokenizer *tok, const TokenizerSpec *spec, const char *folder) {
    Status st = TANE_OK;
    Str json = {0};
    char *path = NULL;
    if (tokenizer_files_find(&tok->files, "tokenizer.json")) return TANE_OK;
    TRY(path_join(&path, folder, "tokenizer.json"));
    TRY(tokenizer_spec_json(spec, &json));
    TRY(file_write_atomic(path, json.text, json.len));
out:
    mem_free(path);
    str_free(&json);
    return st;
}

static Status save(const Tokenizer *tok, const char *folder) {
    const TokenizerSpec *spec = tokenizer_spec(tok);
    TRY_RETURN(write_spec(tok, spec, folder));
    return tokenizer_config_write(spec, tok->texts, folder);
}

static const TokenizerKind pipeline_kind = {release, encode, decode, save};

const TokenizerSpec *tokenizer_spec(const Tokenizer *tok) {
    return tok->kind == &pipeline_kind ? &((const Pipeline *)tok->model)->spec : NULL;
}

Status pipeline_load(Tokenizer *tok, const char *where, TokenizerSpec *spec) {
    Pipeline *p;
    Status st = MEM_NEW(&p);
    if (st != TANE_OK) {
        tokenizer_spec_release(spec);
        return st;
    }
    p->spec = *spec;
    *spec = (TokenizerSpec){0};
    tok->kind = &pipeline_kind;
    tok->model = p;
    TRY_RETURN(check_ids(&p->spec, where));
    TRY_RETURN(normalizer_new(&p->normalizer, where, &p->spec.normalizers));
    TRY_RETURN(pretokenizer_new(&p->pre, where, &p->spec.pre_tokenizers));
    TRY_RETURN(decoder_new(&p->decoder, where, &p->spec.decoders));
    TRY_RETURN(make_added(tok, p, where));
    TRY_RETURN(list_pieces(tok, p));
    TRY_RETURN(take_special(tok, &p->spec, where));
    return make_model(tok, p, where);
}
