/* Documents of plain text: what stands between separators, whole or in pieces.
 *
 * A piece is to give the same tokens as its text does inside the whole document, so it ends where tokenizers end a word
 * anyway: behind a newline, when no white space follows. (A newline and the spaces behind it may be one token; the last
 * of these spaces may belong to the next word.) A line of JSONL_MAX_LINE has no such place; there it is in front of a
 * single space.
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

static int64_t count_lines(const char *text, size_t n) {
    int64_t lines = 0;
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    return lines;
}

/* Where a piece of at least `piece` bytes ends behind a newline in text[0..n); n when nowhere. *sure is false when more
 * than the text[0..have) that is there, have >= n, is needed to tell. */
static size_t newline_cut(const char *text, size_t n, size_t have, bool last, size_t piece, bool *sure) {
    enum { LONGEST_CHARACTER = 4 };
    *sure = true;
    for (size_t at = piece - 1; at < n; at++) {
        const char *newline = memchr(text + at, '\n', n - at);
        if (!newline) return n;
        at = (size_t)(newline - text);
        size_t rest = have - at - 1;
        *sure = rest >= LONGEST_CHARACTER || last;
        uint32_t code = 0;
        if (!*sure || (rest > 0 && (utf8_decode(newline + 1, rest, &code) == 0 || !char_is_space(code)))) return at + 1;
    }
    return n;
}

/* The same in front of a single space. */
static size_t space_cut(const char *text, size_t n, size_t piece) {
    for (size_t at = piece; at < n; at++) {
        const char *space = memchr(text + at, ' ', n - at);
        if (!space || space + 1 == text + n) return n;
        at = (size_t)(space - text);
        if (!is_space(space[-1]) && !is_space(space[1])) return at;
    }
    return n;
}

typedef struct Extent {
    size_t n, taken; /* of the document or piece; and with its separator. taken = 0: more text is needed */
    bool goes_on;
} Extent;

/* text[from..to) at most has the separator's beginning; `to` may lie behind the end. */
static const char *find_separator(const TextSpan *span, const Documents *d, size_t from, size_t to) {
    const char *text = span->text + span->at;
    size_t rest = span->n - span->at;
    to = to + d->separator_n <= rest ? to + d->separator_n : rest;
    return d->separator_n && from < to ? memmem(text + from, to - from, d->separator, d->separator_n) : NULL;
}

static Status too_long(const TextSpan *span, const Documents *d) {
    return FAIL(TANE_EFORMAT, "%s:%lld: the document that begins here is longer than %d MiB%s", span->path,
                (long long)span->line + 1, JSONL_MAX_LINE >> 20,
                d->piece ? " and has neither a line end nor a space in it; is this text?"
                : d->separator_n ? "; is the separator the right one?"
                : "; name the separator of its documents, or let it come in pieces");
}

/* The document, or its next piece, at span->at. */
static Status document_end(const TextSpan *span, const Documents *d, Extent *out) {
    const char *text = span->text + span->at, *separator;
    size_t rest = span->n - span->at, limit = JSONL_MAX_LINE, reach = rest < limit ? rest : limit;
    size_t first = d->piece && d->piece < reach ? d->piece : reach, cut = reach;
    bool sure = true;
    separator = find_separator(span, d, 0, first);
    if (!separator && first < reach) {
        cut = newline_cut(text, reach, rest, span->last, first, &sure);
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
    if (cut == reach && d->piece) cut = space_cut(text, reach, first);
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
        span->line += count_lines(text, found.taken);
        if (blank) continue;
        span->any = *more = true;
        return TANE_OK;
    }
    if (span->any || !span->last) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: the file %s; it needs text", span->path,
                span->at ? "has only white space and separators" : "is empty");
}
