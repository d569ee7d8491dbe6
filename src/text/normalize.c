/* Normalizers, one function a kind. Where a byte of the result came from follows Hugging Face's tokenizers: a character
 * that takes another's place comes from there, one that is put in from where its neighbour on the left came. A
 * character that was put together of several comes from all of them.
 */
#include "text/normalize.h"

#include <stdio.h>
#include <string.h>

#include "text/charsmap.h"
#include "text/classes.h"
#include "text/compose.h"
#include "text/finder.h"
#include "text/utf8.h"

typedef struct Step {
    const TokenStep *spec;
    Finder finder;      /* REPLACE */
    Charsmap *charsmap; /* PRECOMPILED */
} Step;

struct Normalizer {
    Step *steps; /* (n) */
    size_t n;
};

/* ---- GPT-2's alphabet: printable characters of Latin-1 are themselves, the others U+0100 and on ---- */

static bool is_own(uint32_t byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

/* The bytes that are not themselves, in order: 0x00-0x20, 0x7F-0xA0, 0xAD. */
uint32_t byte_to_code(uint8_t byte) {
    if (is_own(byte)) return byte;
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xA0 ? 0x21 + (byte - 0x7Fu) : 0x43u);
}

int code_to_byte(uint32_t code) {
    if (code < 0x100) return is_own(code) ? (int)code : -1;
    if (code > 0x143) return -1;
    uint32_t i = code - 0x100;
    return (int)(i <= 0x20 ? i : i < 0x43 ? i - 0x21 + 0x7F : 0xAD);
}

/* ---- one character at a time ---- */

typedef struct Cursor {
    const Pieces *in;
    size_t at, next; /* the character's bytes */
    uint32_t code;
} Cursor;

static bool step(Cursor *c) {
    c->at = c->next;
    size_t len = utf8_decode(c->in->text.text + c->at, c->in->text.len - c->at, &c->code);
    c->next = c->at + len;
    return len > 0;
}

static Origin origin(const Cursor *c) { return pieces_origin(c->in, c->at); }
static Status keep(const Cursor *c, Pieces *out) { return pieces_copy(out, c->in, c->at, c->next); }

/* Rust's to_lowercase: one character becomes two. */
static Status lowercase(const Pieces *in, Pieces *out) {
    for (Cursor c = {.in = in}; step(&c);) {
        if (c.code == 0x130) TRY_RETURN(pieces_put(out, "i\xCC\x87", 3, origin(&c)));
        else TRY_RETURN(pieces_put_code(out, char_lower(c.code), origin(&c)));
    }
    return TANE_OK;
}

static Status drop(const Pieces *in, Pieces *out, bool (*dropped)(uint32_t code)) {
    for (Cursor c = {.in = in}; step(&c);)
        if (!dropped(c.code)) TRY_RETURN(keep(&c, out));
    return TANE_OK;
}

static Status strip(const TokenStep *s, const Pieces *in, Pieces *out) {
    size_t begin = 0, end = in->text.len;
    Cursor c = {.in = in};
    while (s->left && step(&c) && char_is_space(c.code)) begin = c.next;
    if (s->right) {
        c = (Cursor){.in = in, .next = begin};
        for (end = begin; step(&c);)
            if (!char_is_space(c.code)) end = c.next;
    }
    return pieces_copy(out, in, begin, end);
}

static Status replace(const Step *s, const Pieces *in, Pieces *out) {
    const Bytes *content = &s->spec->content;
    for (size_t from = 0, begin, end;; from = end) {
        TRY_RETURN(finder_next(&s->finder, in->text.text, in->text.len, from, &begin, &end));
        TRY_RETURN(pieces_copy(out, in, from, begin));
        if (begin == in->text.len) return TANE_OK;
        TRY_RETURN(pieces_put(out, content->data, content->n, pieces_origin(in, end - 1)));
    }
}

static Status prepend(const TokenStep *s, const Pieces *in, Pieces *out) {
    if (in->text.len == 0) return TANE_OK;
    TRY_RETURN(pieces_put(out, s->content.data, s->content.n, pieces_origin(in, 0)));
    return pieces_copy(out, in, 0, in->text.len);
}

static Status byte_level(const Pieces *in, Pieces *out) {
    for (size_t i = 0; i < in->text.len; i++)
        TRY_RETURN(pieces_put_code(out, byte_to_code((uint8_t)in->text.text[i]),
                                   in->aligned ? in->origin[i] : (Origin){0, 0}));
    return TANE_OK;
}

/* ---- NMT: control characters go, odd spaces become spaces ---- */

static bool nmt_drops(uint32_t c) {
    return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
}

static bool nmt_spaces(uint32_t c) {
    return c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
}

static Status nmt(const Pieces *in, Pieces *out) {
    for (Cursor c = {.in = in}; step(&c);)
        if (!nmt_drops(c.code)) TRY_RETURN(pieces_put_code(out, nmt_spaces(c.code) ? ' ' : c.code, origin(&c)));
    return TANE_OK;
}

/* ---- BERT ---- */

static bool is_blank(uint32_t c) { return c == '\t' || c == '\n' || c == '\r' || char_is_space(c); }

static bool bert_drops(uint32_t c) {
    return c == 0 || c == 0xFFFD || (c != '\t' && c != '\n' && c != '\r' && char_is_other(c));
}

static bool is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static Status bert_clean(const TokenStep *s, const Pieces *in, Pieces *out) {
    for (Cursor c = {.in = in}; step(&c);) {
        if (s->clean_text && bert_drops(c.code)) continue;
        bool chinese = s->chinese && is_chinese(c.code);
        if (chinese) TRY_RETURN(pieces_put(out, " ", 1, origin(&c)));
        TRY_RETURN(pieces_put_code(out, s->clean_text && is_blank(c.code) ? ' ' : c.code, origin(&c)));
        if (chinese) TRY_RETURN(pieces_put(out, " ", 1, origin(&c)));
    }
    return TANE_OK;
}

/* Moves what was made back in front: what was read becomes the place for the next result. */
static void turn(Pieces *text, Pieces *spare) {
    Pieces made = *spare;
    *spare = *text;
    *text = made;
    pieces_clear(spare);
}

static Status bert(const TokenStep *s, Pieces *text, Pieces *spare) {
    TRY_RETURN(bert_clean(s, text, spare));
    if (s->strip_accents < 0 ? s->lowercase : s->strip_accents) {
        turn(text, spare);
        TRY_RETURN(compose(COMPOSE_NFD, text, spare));
        turn(text, spare);
        TRY_RETURN(drop(text, spare, char_is_nonspacing));
    }
    if (!s->lowercase) return TANE_OK;
    turn(text, spare);
    return lowercase(text, spare);
}

/* ---- all of them ---- */

static Status run_step(const Step *s, Pieces *text, Pieces *spare) {
    switch ((NormalizerKind)s->spec->kind) {
    case NORMALIZE_NFC: return compose(COMPOSE_NFC, text, spare);
    case NORMALIZE_NFD: return compose(COMPOSE_NFD, text, spare);
    case NORMALIZE_NFKC: return compose(COMPOSE_NFKC, text, spare);
    case NORMALIZE_NFKD: return compose(COMPOSE_NFKD, text, spare);
    case NORMALIZE_LOWERCASE: return lowercase(text, spare);
    case NORMALIZE_STRIP: return strip(s->spec, text, spare);
    case NORMALIZE_STRIP_ACCENTS: return drop(text, spare, char_is_mark);
    case NORMALIZE_REPLACE: return replace(s, text, spare);
    case NORMALIZE_PREPEND: return prepend(s->spec, text, spare);
    case NORMALIZE_PRECOMPILED: return charsmap_run(s->charsmap, text, spare);
    case NORMALIZE_BERT: return bert(s->spec, text, spare);
    case NORMALIZE_NMT: return nmt(text, spare);
    case NORMALIZE_BYTE_LEVEL: return byte_level(text, spare);
    }
    return FAIL(TANE_EINTERNAL, "a normalizer of unknown kind %d", s->spec->kind);
}

Status normalizer_run(const Normalizer *n, Pieces *text, Pieces *spare) {
    spare->aligned = text->aligned;
    for (size_t i = 0; n && i < n->n; i++) {
        pieces_clear(spare);
        TRY_RETURN(run_step(&n->steps[i], text, spare));
        turn(text, spare);
    }
    return TANE_OK;
}

bool normalizer_keeps(const Normalizer *n, const char *text, size_t len) {
    for (size_t i = 0; n && i < n->n; i++)
        if (n->steps[i].spec->kind != NORMALIZE_NFC || !is_nfc_quickly(text, len)) return false;
    return true;
}

/* ---- making ---- */

static Status step_init(Step *s, const char *where, const TokenStep *spec, size_t i) {
    char path[64];
    s->spec = spec;
    snprintf(path, sizeof path, "the pattern of normalizer %zu", i);
    if (spec->kind == NORMALIZE_REPLACE) return finder_init(&s->finder, where, path, spec->pattern, spec->regex);
    if (spec->kind == NORMALIZE_PRECOMPILED) return charsmap_new(&s->charsmap, where, spec->content);
    return TANE_OK;
}

Status normalizer_new(Normalizer **out, const char *where, const TokenSteps *steps) {
    Status st = TANE_OK;
    Normalizer *n = NULL;
    *out = NULL;
    if (steps->n == 0) return TANE_OK;
    TRY(MEM_NEW(&n));
    TRY(MEM_NEW_ARRAY(&n->steps, steps->n));
    for (; n->n < steps->n; n->n++) TRY(step_init(&n->steps[n->n], where, &steps->items[n->n], n->n));
    *out = n;
    n = NULL;
out:
    normalizer_free(n);
    return st;
}

void normalizer_free(Normalizer *n) {
    if (!n) return;
    for (size_t i = 0; i < n->n; i++) {
        finder_free(&n->steps[i].finder);
        charsmap_free(n->steps[i].charsmap);
    }
    mem_free(n->steps);
    mem_free(n);
}
