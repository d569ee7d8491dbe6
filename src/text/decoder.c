/* Decoders, one function a kind, as Hugging Face's tokenizers defines them: each makes a list of texts of one. */
#include "text/decoder.h"

#include <stdio.h>
#include <string.h>

#include "text/finder.h"
#include "text/normalize.h"
#include "text/utf8.h"

typedef struct Step {
    const TokenStep *spec;
    Finder finder; /* REPLACE */
} Step;

struct Decoder {
    Step *steps; /* (n) */
    size_t n;
};

Status decoder_add_bytes(Str *out, const char *bytes, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t valid = utf8_valid(bytes + at, n - at);
        TRY_RETURN(str_add(out, bytes + at, valid));
        at += valid;
        if (at == n) break;
        TRY_RETURN(str_add(out, "\xEF\xBF\xBD", 3));
        at += utf8_bad_length(bytes + at, n - at);
    }
    return TANE_OK;
}

/* ---- lists of texts: each token is put together at the end of `out` ---- */

static Bytes token_at(const Pieces *in, size_t i) {
    if (!in->text.text) return (Bytes){"", 0};
    return (Bytes){in->text.text + in->items[i].begin, in->items[i].end - in->items[i].begin};
}

static Status put(Pieces *out, const char *bytes, size_t n) { return str_add(&out->text, bytes, n); }

/* The token that began at `begin` is complete. Empty ones count. */
static Status done(Pieces *out, size_t begin) {
    if (out->n == out->cap) {
        size_t cap = out->cap ? 2 * out->cap : 64;
        TRY_RETURN(mem_grow((void **)&out->items, out->n, cap, sizeof *out->items));
        out->cap = cap;
    }
    out->items[out->n++] = (Range){begin, out->text.len};
    return TANE_OK;
}

static Status put_token(Pieces *out, Bytes token) {
    size_t begin = out->text.len;
    TRY_RETURN(put(out, token.data, token.n));
    return done(out, begin);
}

/* text with each `from` as `to`. */
static Status put_replaced(Pieces *out, Bytes text, Bytes from, const char *to) {
    for (size_t at = 0;;) {
        const char *found = from.n ? memmem(text.data + at, text.n - at, from.data, from.n) : NULL;
        size_t end = found ? (size_t)(found - text.data) : text.n;
        TRY_RETURN(put(out, text.data + at, end - at));
        if (!found) return TANE_OK;
        TRY_RETURN(put(out, to, strlen(to)));
        at = end + from.n;
    }
}

/* ---- the kinds ---- */

/* All tokens as one; a token with a character outside GPT-2's alphabet stands for itself. */
static Status byte_level(const Pieces *in, Pieces *out, Str *raw) {
    for (size_t i = 0; i < in->n; i++) {
        Bytes token = token_at(in, i);
        size_t before = raw->len;
        uint32_t code = 0;
        for (size_t at = 0, len; at < token.n; at += len) {
            len = utf8_decode(token.data + at, token.n - at, &code);
            int byte = len ? code_to_byte(code) : -1;
            char c = (char)byte;
            if (byte >= 0) {
                TRY_RETURN(str_add(raw, &c, 1));
                continue;
            }
            raw->len = before;
            TRY_RETURN(str_add(raw, token.data, token.n));
            break;
        }
    }
    TRY_RETURN(decoder_add_bytes(&out->text, raw->text, raw->len));
    return done(out, 0);
}

/* Spaces for the replacement; in the first token nothing at all, where one was put in front. */
static Status metaspace(const TokenStep *s, const Pieces *in, Pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        size_t begin = out->text.len;
        const char *space = i == 0 && s->prepend != PREPEND_NEVER ? "" : " ";
        TRY_RETURN(put_replaced(out, token_at(in, i), s->content, space));
        TRY_RETURN(done(out, begin));
    }
    return TANE_OK;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* "<0x41>" is the byte 0x41; -1: something else. */
static int byte_of(Bytes t) {
    if (t.n != 6 || memcmp(t.data, "<0x", 3) != 0 || t.data[5] != '>') return -1;
    int high = hex_digit(t.data[3]), low = hex_digit(t.data[4]);
    if (t.data[3] == '+') return low; /* Rust reads a sign too */
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* A run of bytes is one text if it is UTF-8, else a U+FFFD for each. */
static Status flush_bytes(Pieces *out, Str *run) {
    if (run->len == 0) return TANE_OK;
    bool valid = utf8_valid(run->text, run->len) == run->len;
    if (valid) TRY_RETURN(put_token(out, (Bytes){run->text, run->len}));
    for (size_t i = 0; i < run->len && !valid; i++) TRY_RETURN(put_token(out, (Bytes){"\xEF\xBF\xBD", 3}));
    run->len = 0;
    return TANE_OK;
}

static Status byte_fallback(const Pieces *in, Pieces *out, Str *run) {
    for (size_t i = 0; i < in->n; i++) {
        int byte = byte_of(token_at(in, i));
        char c = (char)byte;
        if (byte >= 0) {
            TRY_RETURN(str_add(run, &c, 1));
            continue;
        }
        TRY_RETURN(flush_bytes(out, run));
        TRY_RETURN(put_token(out, token_at(in, i)));
    }
    return flush_bytes(out, run);
}

static Status fuse(const Pieces *in, Pieces *out) {
    for (size_t i = 0; i < in->n; i++) TRY_RETURN(put(out, token_at(in, i).data, token_at(in, i).n));
    return done(out, 0);
}

static bool ends_in(Bytes t, Bytes end) { return t.n >= end.n && memcmp(t.data + t.n - end.n, end.data, end.n) == 0; }

static Status strip(const TokenStep *s, const Pieces *in, Pieces *out) {
    Bytes c = s->content;
    for (size_t i = 0; i < in->n; i++) {
        Bytes t = token_at(in, i);
        for (int64_t k = 0; k < s->start && t.n >= c.n && memcmp(t.data, c.data, c.n) == 0; k++)
            t = (Bytes){t.data + c.n, t.n - c.n};
        for (int64_t k = 0; k < s->stop && t.n && ends_in(t, c); k++) t.n -= c.n;
        TRY_RETURN(put_token(out, t));
    }
    return TANE_OK;
}

static Status replace(const Step *s, const Pieces *in, Pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        Bytes t = token_at(in, i);
        size_t first = out->text.len;
        for (size_t from = 0, begin, end; from < t.n; from = end) {
            TRY_RETURN(finder_next(&s->finder, t.data, t.n, from, &begin, &end));
            TRY_RETURN(put(out, t.data + from, begin - from));
            if (begin < t.n) TRY_RETURN(put(out, s->spec->content.data, s->spec->content.n));
        }
        TRY_RETURN(done(out, first));
    }
    return TANE_OK;
}

/* What "cleanup" takes back, in this order, each in the result of the one before. */
static Status put_clean(Pieces *out, Bytes token, Str spare[2]) {
    static const char *const pairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    int now = 0;
    spare[0].len = 0;
    TRY_RETURN(str_add(&spare[0], token.data, token.n));
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++, now = !now) {
        Pieces to = {.text = spare[!now]};
        to.text.len = 0;
        Status st = put_replaced(&to, (Bytes){spare[now].text, spare[now].len},
                                 (Bytes){pairs[k][0], strlen(pairs[k][0])}, pairs[k][1]);
        spare[!now] = to.text;
        TRY_RETURN(st);
    }
    return put(out, spare[now].text, spare[now].len);
}

static Status wordpiece(const TokenStep *s, const Pieces *in, Pieces *out) {
    Status st = TANE_OK;
    Str spare[2] = {{0}}, word = {0};
    for (size_t i = 0; i < in->n; i++) {
        Bytes t = token_at(in, i), prefix = s->content;
        size_t begin = out->text.len;
        bool continues = i && t.n >= prefix.n && memcmp(t.data, prefix.data, prefix.n) == 0;
        word.len = 0;
        TRY(str_add(&word, " ", i && !continues));
        TRY(continues ? str_add(&word, t.data + prefix.n, t.n - prefix.n) : str_add(&word, t.data, t.n));
        if (s->cleanup) TRY(put_clean(out, (Bytes){word.text, word.len}, spare));
        else TRY(put(out, word.text, word.len));
        TRY(done(out, begin));
    }
out:
    str_free(&spare[0]);
    str_free(&spare[1]);
    str_free(&word);
    return st;
}

static Status bpe(const TokenStep *s, const Pieces *in, Pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        size_t begin = out->text.len;
        TRY_RETURN(put_replaced(out, token_at(in, i), s->content, i + 1 == in->n ? "" : " "));
        TRY_RETURN(done(out, begin));
    }
    return TANE_OK;
}

static Status run_step(const Step *s, const Pieces *in, Pieces *out, Str *run) {
    switch ((DecoderKind)s->spec->kind) {
    case DECODE_BYTE_LEVEL: return byte_level(in, out, run);
    case DECODE_METASPACE: return metaspace(s->spec, in, out);
    case DECODE_BYTE_FALLBACK: return byte_fallback(in, out, run);
    case DECODE_FUSE: return fuse(in, out);
    case DECODE_STRIP: return strip(s->spec, in, out);
    case DECODE_REPLACE: return replace(s, in, out);
    case DECODE_WORDPIECE: return wordpiece(s->spec, in, out);
    case DECODE_BPE: return bpe(s->spec, in, out);
    }
    return FAIL(TANE_EINTERNAL, "a decoder of unknown kind %d", s->spec->kind);
}

Status decoder_run(const Decoder *d, Pieces *tokens, Pieces *spare, Str *out) {
    Status st = TANE_OK;
    Str run = {0};
    for (size_t i = 0; i < d->n; i++) {
        pieces_clear(spare);
        run.len = 0;
        TRY(run_step(&d->steps[i], tokens, spare, &run));
        Pieces made = *spare;
        *spare = *tokens;
        *tokens = made;
    }
    /* Without a decoder tokens are words. */
    for (size_t i = 0; i < tokens->n; i++) {
        if (d->n == 0 && i) TRY(str_add(out, " ", 1));
        TRY(str_add(out, token_at(tokens, i).data, token_at(tokens, i).n));
    }
out:
    str_free(&run);
    return st;
}

bool decoder_is_bytes(const Decoder *d) { return d->n == 1 && d->steps[0].spec->kind == DECODE_BYTE_LEVEL; }

Status decoder_new(Decoder **out, const char *where, const TokenSteps *steps) {
    Status st = TANE_OK;
    Decoder *d;
    char path[64];
    *out = NULL;
    TRY_RETURN(MEM_NEW(&d));
    TRY(MEM_NEW_ARRAY(&d->steps, steps->n));
    for (; d->n < steps->n; d->n++) {
        const TokenStep *spec = &steps->items[d->n];
        d->steps[d->n].spec = spec;
        snprintf(path, sizeof path, "the pattern of decoder %zu", d->n);
        if (spec->kind == DECODE_REPLACE)
            TRY(finder_init(&d->steps[d->n].finder, where, path, spec->pattern, spec->regex));
    }
    *out = d;
    d = NULL;
out:
    decoder_free(d);
    return st;
}

void decoder_free(Decoder *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n; i++) finder_free(&d->steps[i].finder);
    mem_free(d->steps);
    mem_free(d);
}
