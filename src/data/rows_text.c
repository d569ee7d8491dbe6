/* Documents of plain text: what stands between separators, whole or in pieces.
 *
 * A piece is to give the same tokens as its text does inside the whole document, so the next one begins where
 * tokenizers begin a word anyway, whatever stands before and behind: with a letter or digit behind a single line end.
 * (Of several white spaces some of them take all but the last as one word.) If there is no such place soon, a single
 * space in front of a letter or digit does, too, because they take it into the word; and to come to an end, any line
 * that does not begin with white space.
 */
#include <string.h>

#include "data/rows_parts.h"
#include "text/classes.h"
#include "text/utf8.h"

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool is_blank(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && is_space(text[i])) i++;
    return i == n;
}

int64_t text_count_lines(const char *text, size_t n) {
    enum { BLOCK = 255 }; /* what a byte can count: so the inner loop is one of bytes */
    int64_t lines = 0;
    while (n > 0) {
        size_t m = n < BLOCK ? n : BLOCK;
        uint8_t found = 0;
        for (size_t i = 0; i < m; i++) found += text[i] == '\n';
        lines += found;
        text += m;
        n -= m;
    }
    return lines;
}

static bool is_alnum(uint32_t code) { return char_is_word(code) && !char_is_mark(code) && !char_is_punctuation(code); }

/* Where a piece of at least `piece` bytes ends in text[0..n); n when nowhere. *sure is false when more than the
 * text[0..have) that is there, have >= n, is needed to tell. */
static size_t find_cut(const char *text, size_t n, size_t have, bool last, size_t piece, bool *sure) {
    enum { SOON = 1 << 14, LONGEST_BEGINNING = 5 }; /* a space and a character */
    size_t soon = n - piece > SOON ? piece + SOON : n, at = piece;
    *sure = true;
    for (; at < n; at++) {
        if (at < soon) {
            const char *newline = memchr(text + at - 1, '\n', soon - at);
            at = newline ? (size_t)(newline + 1 - text) : soon;
            if (at >= n) break;
        }
        bool line = text[at - 1] == '\n', space = text[at] == ' ' && !is_space(text[at - 1]);
        bool single = space || (line && at > 1 && !is_space(text[at - 2]));
        if (at < soon ? !line || !single : !line && !space) continue;
        *sure = last || have - at >= LONGEST_BEGINNING;
        if (!*sure) return at;
        uint32_t c = UTF8_REPLACEMENT;
        utf8_decode(text + at + space, have - at - space, &c);
        if ((single && is_alnum(c)) || (at >= soon && line && !char_is_space(c))) return at;
    }
    return n;
}

typedef struct Extent {
    size_t n, taken; /* of the document or piece; and with its separator. taken = 0: more text is needed */
    bool goes_on;
} Extent;

/* The first separator that begins in text[from..to], which may reach beyond what is there. */
static const char *find_separator(const TextSpan *span, const Documents *d, size_t from, size_t to) {
    const char *text = span->text + span->at, *p = text + from;
    size_t rest = span->n - span->at, n = d->separator_n;
    if (n == 0 || rest < n) return NULL;
    if (to > rest - n) to = rest - n;
    /* Mostly the first byte is rare, or the first place is the right one: faster than memmem. */
    for (; p <= text + to; p++) {
        p = memchr(p, d->separator[0], (size_t)(text + to - p) + 1);
        if (!p || memcmp(p, d->separator, n) == 0) return p;
    }
    return NULL;
}

static Status too_long(const TextSpan *span, const Documents *d) {
    return FAIL(TANE_EFORMAT, "%s:%lld: the document that begins here is longer than %d MiB%s", span->path,
                (long long)span->line + 1, JSONL_MAX_LINE >> 20,
                d->piece         ? " and has neither a line end nor a space in it; is this text?"
                : d->separator_n ? "; is text_separator the right one?"
                                 : "; say with text_separator what ends its documents, e.g. a line end");
}

/* The document, or its next piece, at span->at. */
static Status document_end(const TextSpan *span, const Documents *d, Extent *out) {
    const char *text = span->text + span->at, *separator;
    size_t rest = span->n - span->at, limit = JSONL_MAX_LINE, reach = rest < limit ? rest : limit;
    size_t first = d->piece && d->piece < reach ? d->piece : reach, cut = reach;
    bool sure = true;
    separator = find_separator(span, d, 0, first);
    if (!separator && first < reach) {
        cut = find_cut(text, reach, rest, span->last, first, &sure);
        separator = find_separator(span, d, first, cut);
    }
    *out = (Extent){0};
    if (separator) {
        *out = (Extent){.n = (size_t)(separator - text)};
        out->taken = out->n + d->separator_n;
        return TANE_OK;
    }
    /* A separator may begin at the cut, and not be there as a whole yet. */
    if (!sure || (!span->last && rest < cut + d->separator_n)) return TANE_OK;
    if (cut == reach && rest <= limit) {
        if (span->last) *out = (Extent){rest, rest, false};
        return TANE_OK;
    }
    if (cut == reach) return too_long(span, d);
    *out = (Extent){cut, cut, true};
    return TANE_OK;
}

Status document_scan(TextSpan *span, Documents *d, Row *row, bool *more) {
    *more = false;
    while (span->at < span->n) {
        const char *text = span->text + span->at;
        Extent found;
        TRY_RETURN(document_end(span, d, &found));
        if (!found.taken) return TANE_OK;
        bool blank = !d->inside && !found.goes_on && is_blank(text, found.n);
        *row = (Row){{span->path, span->line + 1, text, found.n, false, 0}, true, found.goes_on};
        d->inside = found.goes_on;
        span->at += found.taken;
        span->line += text_count_lines(text, found.taken);
        if (blank) continue;
        span->any = *more = true;
        return TANE_OK;
    }
    if (span->any || !span->last) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: the file %s; it needs text", span->path,
                span->at ? "has only white space and separators" : "is empty");
}
