/* Rows of files: what a file is, its text as a span (mapped, or unpacked into a buffer that moves on), and chunks.
 *
 * The buffer of a compressed file is as large as a chunk; only a row that does not fit makes it grow, up to the longest
 * row there may be. What a chunk's rows point into stays until the next one is asked for, so the buffer moves on only
 * when it has no whole row left and none was handed out in this call.
 */
#include "data/rows.h"

#include <string.h>

#include "base/decompress.h"
#include "data/rows_parts.h"
#include "format/parquet.h"

/* Twice the smallest three times is a row of JSONL_MAX_LINE, what tells that it is longer, and a separator. */
enum { CHUNK_BYTES = 4 << 20, FIRST_BUFFER = CHUNK_BYTES + (8 << 10), LARGEST_BUFFER = 8 * FIRST_BUFFER };
_Static_assert(LARGEST_BUFFER > JSONL_MAX_LINE + 2 * MAX_SEPARATOR, "a row that is too long must fit to be noticed");

struct RowReader {
    char *path;
    RowsKind kind;
    FileMap map;
    TextSpan span;
    Decompressor *stream; /* NULL: the span is the map */
    char *buffer;         /* (cap) of a stream or of Parquet */
    size_t cap;
    JsonArray array;
    Documents documents;
    Str separator;
    struct {
        ParquetFile *file;
        ParquetReader *reader;
        Str line;
        bool waiting; /* the line was read, but did not fit into the chunk */
        int64_t rows; /* handed out */
    } parquet;
};

/* ---- what a file is ---- */

static bool take_ending(const char *name, size_t *n, const char *ending) {
    size_t length = strlen(ending);
    if (*n <= length || strncasecmp(name + *n - length, ending, length) != 0) return false;
    *n -= length;
    return true;
}

RowsKind rows_kind_of_name(const char *name, const char **packed) {
    static const struct {
        const char *ending;
        RowsKind kind;
    } kinds[] = {{".jsonl", ROWS_JSONL},
                 {".ndjson", ROWS_JSONL},
                 {".json", ROWS_JSON},
                 {".parquet", ROWS_PARQUET},
                 {".txt", ROWS_TEXT}};
    size_t n = strlen(name);
    *packed = take_ending(name, &n, ".gz") ? "gzip" : take_ending(name, &n, ".zst") ? "zstd" : NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (take_ending(name, &n, kinds[i].ending)) return kinds[i].kind;
    return ROWS_UNKNOWN;
}

/* The first character from `at` on that is no white space; n when there is none. */
static size_t first_of(const char *text, size_t n, size_t at) {
    while (at < n && strchr(" \t\r\n", text[at]) && text[at]) at++;
    return at;
}

static bool is_parquet(const TextSpan *span) { return span->n >= 4 && memcmp(span->text, "PAR1", 4) == 0; }

/* A control character that no text has within its first bytes. */
static bool is_binary(const TextSpan *span) {
    size_t n = span->n < 4096 ? span->n : 4096;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)span->text[i];
        if (c < 0x20 && c != 0x1b && (c < '\t' || c > '\r')) return true;
    }
    return false;
}

/* A file whose name does not say it. Text may begin with a bracket: what follows it must look like JSON, too. */
static Status kind_of_text(const TextSpan *span, RowsKind *kind) {
    const char *dot = strrchr(path_base(span->path), '.');
    if (is_binary(span) || (dot && (!strcasecmp(dot, ".csv") || !strcasecmp(dot, ".tsv"))))
        return FAIL(TANE_EFORMAT, "%s: this is no data file that tane reads; convert it to one of these: %s",
                    span->path, ROWS_ENDINGS);
    size_t at = first_of(span->text, span->n, span->at), next = first_of(span->text, span->n, at + 1);
    char c = at < span->n ? span->text[at] : 0, d = next < span->n ? span->text[next] : 0;
    *kind = c == '{' && d == '"' ? ROWS_JSONL : c == '[' && d == '{' ? ROWS_ARRAY : ROWS_TEXT;
    return TANE_OK;
}

/* A .json file is an array, or JSON lines under another name. */
static Status kind_of_json(const TextSpan *span, RowsKind *kind) {
    size_t at = first_of(span->text, span->n, span->at);
    *kind = at < span->n && span->text[at] == '[' ? ROWS_ARRAY : ROWS_JSONL;
    size_t rest = span->n - at;
    if (*kind == ROWS_ARRAY || !object_over_lines(span->text + at, rest < JSONL_MAX_LINE ? rest : JSONL_MAX_LINE))
        return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "%s:%lld: the object that begins here goes over several lines; a .json file must be an array "
                "of objects, [{...}, {...}], or have one object a line (if the rows are a list inside of this object, "
                "take the list out: jq '.NAME' FILE)",
                span->path, (long long)text_count_lines(span->text, at) + 1);
}

/* ---- text that is unpacked ---- */

static Status new_buffer(RowReader *r) {
    TRY_RETURN(MEM_NEW_ARRAY(&r->buffer, FIRST_BUFFER));
    r->cap = FIRST_BUFFER;
    return TANE_OK;
}

/* More text behind what is not read yet, which moves to the front. */
static Status refill(RowReader *r) {
    TextSpan *span = &r->span;
    size_t rest = span->n - span->at;
    if (rest > r->cap / 2 && r->cap < LARGEST_BUFFER) {
        char *larger;
        TRY_RETURN(MEM_NEW_ARRAY(&larger, r->cap * 2));
        memcpy(larger, r->buffer + span->at, rest);
        mem_free(r->buffer);
        r->buffer = larger;
        r->cap *= 2;
    } else {
        memmove(r->buffer, r->buffer + span->at, rest);
    }
    span->text = r->buffer;
    span->n = rest;
    span->at = 0;
    while (span->n < r->cap) {
        size_t n;
        TRY_RETURN(decompressor_read(r->stream, r->buffer + span->n, r->cap - span->n, &n));
        span->n += n;
        span->last = n == 0;
        if (n == 0) break;
    }
    return TANE_OK;
}

static Status open_stream(RowReader *r, Codec codec) {
    TRY_RETURN(decompressor_open(&r->stream, codec, r->path, r->map.data, r->map.size));
    TRY_RETURN(new_buffer(r));
    r->span = (TextSpan){.path = r->path, .text = r->buffer};
    TRY_RETURN(refill(r));
    Codec inner = codec_detect(r->span.text, r->span.n);
    if (inner != CODEC_NONE || is_parquet(&r->span))
        return FAIL(TANE_EFORMAT, "%s: there is %s data inside of the %s data; unpack the file once", r->path,
                    inner != CODEC_NONE ? codec_name(inner) : "Parquet", codec_name(codec));
    return TANE_OK;
}

/* ---- Parquet ---- */

/* The wanted columns that the file has. */
static Status open_columns(RowReader *r, const RowsOptions *options) {
    const ParquetFile *file = r->parquet.file;
    const char **names;
    size_t n = 0, all = parquet_column_count(file);
    TRY_RETURN(MEM_NEW_ARRAY(&names, all));
    for (size_t i = 0; i < all; i++)
        for (size_t k = 0; k < options->n_columns; k++)
            if (strcmp(parquet_column(file, i).name, options->columns[k]) == 0) {
                names[n++] = parquet_column(file, i).name;
                break;
            }
    Status st = parquet_reader_new(&r->parquet.reader, r->parquet.file, n ? names : NULL, n, 0, -1);
    mem_free(names);
    return st;
}

static Status open_parquet(RowReader *r, const RowsOptions *options) {
    file_unmap(&r->map); /* it has its own */
    r->kind = ROWS_PARQUET;
    TRY_RETURN(parquet_open(&r->parquet.file, r->path));
    if (parquet_rows(r->parquet.file) == 0) return FAIL(TANE_EFORMAT, "%s: the table in it has no rows", r->path);
    TRY_RETURN(new_buffer(r));
    return open_columns(r, options);
}

/* Rows come one by one: they are gathered in the buffer. One that is longer than that stays where it is. */
static Status parquet_chunk(RowReader *r, Row *rows, size_t cap, size_t *n) {
    for (size_t used = 0; *n < cap && used < CHUNK_BYTES;) {
        Str *line = &r->parquet.line;
        if (!r->parquet.waiting) {
            line->len = 0;
            TRY_RETURN(parquet_next(r->parquet.reader, line, &r->parquet.waiting));
            if (!r->parquet.waiting) return TANE_OK;
        }
        bool fits = line->len <= r->cap - used;
        if (!fits && *n) return TANE_OK;
        char *text = fits ? r->buffer + used : line->text;
        if (fits) memcpy(text, line->text, line->len);
        rows[(*n)++] = (Row){.line = {r->path, ++r->parquet.rows, text, line->len, false, 0}};
        used += line->len;
        r->parquet.waiting = false;
    }
    return TANE_OK;
}

/* ---- opening ---- */

/* A separator with line ends must be found in files of Windows, too: their first line end says which those are. */
static Status set_separator(RowReader *r, const char *separator) {
    size_t n = r->span.n < CHUNK_BYTES ? r->span.n : CHUNK_BYTES; /* the same, compressed or not */
    const char *newline = n ? memchr(r->span.text, '\n', n) : NULL;
    bool crlf = newline && newline > r->span.text && newline[-1] == '\r' && !strchr(separator, '\r');
    if (strlen(separator) > MAX_SEPARATOR / 2)
        return FAIL(TANE_EINVAL, "the separator of documents is %zu bytes long; it may have %d", strlen(separator),
                    MAX_SEPARATOR / 2);
    for (const char *c = separator; *c; c++) {
        if (*c == '\n' && crlf) TRY_RETURN(str_add(&r->separator, "\r", 1));
        TRY_RETURN(str_add(&r->separator, c, 1));
    }
    r->documents.separator = r->separator.text;
    r->documents.separator_n = r->separator.len;
    return TANE_OK;
}

static Status open_text(RowReader *r, RowsKind kind, const RowsOptions *options) {
    if (kind == ROWS_PARQUET)
        return FAIL(TANE_EFORMAT, "%s: its name says Parquet, but there is something else in it; rename it", r->path);
    TRY_RETURN(text_begin(&r->span));
    if (kind == ROWS_UNKNOWN) TRY_RETURN(kind_of_text(&r->span, &kind));
    if (kind == ROWS_JSON) TRY_RETURN(kind_of_json(&r->span, &kind));
    r->kind = kind;
    r->documents.piece = options->piece;
    if (kind == ROWS_TEXT && options->separator) TRY_RETURN(set_separator(r, options->separator));
    return TANE_OK;
}

static Status open_rows(RowReader *r, const RowsOptions *options) {
    const char *packed;
    RowsKind kind = rows_kind_of_name(path_base(r->path), &packed);
    TRY_RETURN(file_map(r->path, &r->map));
    r->span = (TextSpan){.path = r->path, .text = (const char *)r->map.data, .n = r->map.size, .last = true};
    Codec codec = codec_detect(r->map.data, r->map.size);
    if (packed && codec == CODEC_NONE && r->map.size)
        return FAIL(TANE_EFORMAT,
                    "%s: its name says %s, but there is no %s data in it; if it is not compressed, rename it", r->path,
                    packed, packed);
    if (codec == CODEC_NONE && (kind == ROWS_PARQUET || (kind == ROWS_UNKNOWN && is_parquet(&r->span))))
        return open_parquet(r, options);
    if (codec != CODEC_NONE) TRY_RETURN(open_stream(r, codec));
    return open_text(r, kind, options);
}

Status rows_open(RowReader **out, const char *path, const RowsOptions *options) {
    Status st = TANE_OK;
    RowReader *r = NULL;
    *out = NULL;
    TRY(MEM_NEW(&r));
    TRY(mem_strdup(&r->path, path));
    TRY(open_rows(r, options));
    *out = r;
    return TANE_OK;
out:
    rows_close(r);
    return st;
}

void rows_close(RowReader *r) {
    if (!r) return;
    parquet_reader_close(r->parquet.reader);
    parquet_close(r->parquet.file);
    str_free(&r->parquet.line);
    decompressor_close(r->stream);
    file_unmap(&r->map);
    mem_free(r->buffer);
    mem_free(r->path);
    str_free(&r->separator);
    mem_free(r);
}

/* ---- reading ---- */

static Status scan(RowReader *r, Row *row, bool *more) {
    *row = (Row){0};
    switch (r->kind) {
    case ROWS_TEXT: return document_scan(&r->span, &r->documents, row, more);
    case ROWS_ARRAY: return array_scan(&r->span, &r->array, &row->line, more);
    default: return jsonl_scan(&r->span, &row->line, more);
    }
}

Status rows_chunk(RowReader *r, Row *rows, size_t cap, size_t *n) {
    size_t bytes = 0;
    *n = 0;
    if (r->kind == ROWS_PARQUET) return parquet_chunk(r, rows, cap, n);
    while (*n < cap && bytes < CHUNK_BYTES) {
        bool more;
        TRY_RETURN(scan(r, &rows[*n], &more));
        if (more) bytes += rows[(*n)++].line.n;
        else if (*n || r->span.last) break;
        else TRY_RETURN(refill(r));
    }
    return TANE_OK;
}

double rows_progress(const RowReader *r) {
    if (r->kind == ROWS_PARQUET) return (double)r->parquet.rows / (double)parquet_rows(r->parquet.file);
    size_t at = r->stream ? decompressor_position(r->stream) : r->span.at;
    return r->map.size ? (double)at / (double)r->map.size : 1;
}
