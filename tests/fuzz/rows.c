/* Rows of files: what is handed out lies inside the file, lines are counted forward, and text that arrives in parts
 * gives the same rows as all of it at once. The first byte chooses separator, piece and the size of the parts; the rest
 * is the file, which may be gzip or zstd. */
#include <assert.h>
#include <string.h>

#include "data/rows_parts.h"
#include "fuzz.h"

static void read_file(const char *path, const RowsOptions *options) {
    enum { ROWS = 37 };
    RowReader *reader;
    Row rows[ROWS];
    JsonlScratch scratch = {0};
    int64_t line = 1, element = 0;
    size_t n;
    if (rows_open(&reader, path, options) != TANE_OK) {
        assert(!reader);
        return;
    }
    while (rows_chunk(reader, rows, ROWS, &n) == TANE_OK && n > 0) {
        for (size_t i = 0; i < n; i++) {
            const JsonlLine *l = &rows[i].line;
            assert(l->n > 0 && l->n <= JSONL_MAX_LINE && l->number >= line);
            assert(l->element == 0 || l->element == ++element);
            assert(!rows[i].goes_on || (rows[i].plain && l->n >= options->piece));
            fuzz_touch(l->text, l->n);
            if (!rows[i].plain) (void)jsonl_parse(l, NULL, 0, &scratch);
            line = l->number;
        }
        assert(rows_progress(reader) >= 0 && rows_progress(reader) <= 1);
    }
    jsonl_scratch_free(&scratch);
    rows_close(reader);
}

typedef struct Scan {
    TextSpan span;
    JsonArray array;
    Documents documents;
    bool plain;
} Scan;

/* The next row, with `part` bytes more whenever what is there does not do. */
static Status next(Scan *s, size_t n, size_t part, Row *row, bool *more) {
    for (;;) {
        *row = (Row){0};
        Status st = s->plain ? document_scan(&s->span, &s->documents, row, more)
                             : array_scan(&s->span, &s->array, &row->line, more);
        if (st != TANE_OK || *more || s->span.last) return st;
        s->span.n = n - s->span.n > part ? s->span.n + part : n;
        s->span.last = s->span.n == n;
    }
}

static void scan_in_parts(const char *text, size_t n, bool plain, const RowsOptions *options, size_t part) {
    Scan whole = {.span = {.path = "x", .text = text}, .plain = plain}, parts;
    if (options->separator) whole.documents.separator_n = strlen(options->separator);
    whole.documents.separator = options->separator;
    whole.documents.piece = options->piece;
    parts = whole;
    for (bool more = true; more;) {
        Row a, b;
        Status st = next(&whole, n, n, &a, &more), same = next(&parts, n, part, &b, &more);
        assert(st == same);
        if (st != TANE_OK) return;
        assert(a.line.text == b.line.text && a.line.n == b.line.n && a.line.number == b.line.number);
        assert(a.line.element == b.line.element && a.goes_on == b.goes_on);
    }
    assert(whole.span.at == n && parts.span.at == n);
}

void fuzz_rows(const uint8_t *data, size_t n) {
    static const RowsOptions options[] = {
        {0}, {.separator = "\n"}, {.separator = "\n\n", .piece = 9}, {.piece = 1}, {.separator = "ab", .piece = 3}};
    if (n == 0) return;
    size_t which = data[0] % 5, part = 1 + data[0] / 5;
    const char *text = (const char *)data + 1;
    read_file(fuzz_file(data + 1, n - 1), &options[which]);
    if (n / part > 4096) part = n / 4096; /* each part is scanned from its row's beginning on */
    scan_in_parts(text, n - 1, true, &options[which], part);
    scan_in_parts(text, n - 1, false, &options[which], part);
}
