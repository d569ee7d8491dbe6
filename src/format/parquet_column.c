/* Pages: their headers, checksums and decompression, their levels, and the dictionary of a chunk. */
#include "format/parquet_column.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/decompress.h"

enum { WHERE = 512 };

/* "data.parquet: column "text", page at byte 1234" */
static const char *where(const PqColumn *c, char out[WHERE]) {
    char name[200];
    snprintf(out, WHERE, "%.250s: column \"%s\", page at byte %zu", c->file->path,
             pq_leaf_name(c->leaf, name, sizeof name), c->page);
    return out;
}

/* Puts in front of an error of the decoders where it happened. */
static Status at_page(const PqColumn *c, Status st) {
    char text[WHERE];
    if (st == TANE_OK || st == TANE_ENOMEM) return st;
    return err_context("%s", where(c, text));
}

#define FAIL_PAGE(c, ...) at_page((c), FAIL(TANE_EFORMAT, __VA_ARGS__))

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static Status charge(PqColumn *c, size_t bytes) {
    PqBudget *b = c->budget;
    if (bytes <= pq_budget_left(b)) {
        b->used += bytes;
        return TANE_OK;
    }
    return FAIL_PAGE(c,
                     "reading these columns takes more than %zu MiB at once, which is too much for a file of its size; "
                     "read fewer columns, or write it with smaller pages",
                     b->limit >> 20);
}

/* What is in it is lost when it grows. */
static Status reserve(PqColumn *c, PqBuffer *b, size_t bytes) {
    if (b->bytes && bytes <= b->cap) return TANE_OK;
    size_t cap = bytes + bytes / 8;
    mem_free(b->bytes);
    b->bytes = NULL;
    c->budget->used -= b->cap;
    b->cap = 0;
    TRY_RETURN(charge(c, cap));
    TRY_RETURN(MEM_NEW_ARRAY(&b->bytes, cap));
    b->cap = cap;
    return TANE_OK;
}

void pq_column_init(PqColumn *c, const ParquetFile *file, const PqLeaf *leaf, PqBudget *budget) {
    *c = (PqColumn){.file = file, .leaf = leaf, .budget = budget};
}

void pq_column_free(PqColumn *c) {
    mem_free(c->dictionary_bytes.bytes);
    mem_free(c->offset_bytes.bytes);
    mem_free(c->page_bytes.bytes);
    pq_values_free(&c->values);
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static Status codec_of(const PqColumn *c, Codec *out) {
    static const char *const names[PQ_CODECS] = {
        [PQ_LZO] = "LZO", [PQ_BROTLI] = "Brotli", [PQ_LZ4] = "LZ4", [PQ_LZ4_RAW] = "LZ4"};
    char name[200];
    switch (c->chunk.codec) {
    case PQ_UNCOMPRESSED: *out = CODEC_NONE; return TANE_OK;
    case PQ_SNAPPY: *out = CODEC_SNAPPY; return TANE_OK;
    case PQ_GZIP: *out = CODEC_GZIP; return TANE_OK;
    case PQ_ZSTD: *out = CODEC_ZSTD; return TANE_OK;
    default: break;
    }
    return FAIL(TANE_EFORMAT,
                "%s: column \"%s\" is compressed with %s, which tane does not read; write the file with zstd, "
                "snappy or gzip",
                c->file->path, pq_leaf_name(c->leaf, name, sizeof name), names[c->chunk.codec]);
}

Status pq_column_start(PqColumn *c, const PqChunk *chunk, int64_t rows) {
    char name[200];
    Codec codec;
    const char *path = c->file->path;
    c->chunk = *chunk;
    c->next = c->page = chunk->begin;
    c->chunk_left = chunk->values;
    c->page_left = 0;
    c->has_dictionary = c->started = false;
    c->at = c->n = 0;
    if (chunk->encrypted)
        return FAIL(TANE_EFORMAT, "%s: column \"%s\" is encrypted; write the file without encryption", path,
                    pq_leaf_name(c->leaf, name, sizeof name));
    if (chunk->external)
        return FAIL(TANE_EFORMAT, "%s: the data of column \"%s\" is in another file; read that file instead", path,
                    pq_leaf_name(c->leaf, name, sizeof name));
    if (c->leaf->max_rep ? chunk->values < rows : chunk->values != rows)
        return FAIL(TANE_EFORMAT, "%s: column \"%s\" has %lld values in a row group of %lld rows; the file is damaged",
                    path, pq_leaf_name(c->leaf, name, sizeof name), (long long)chunk->values, (long long)rows);
    return codec_of(c, &codec);
}

/* The next page's header; *bytes is what follows it, page->stored of them. */
static Status next_header(PqColumn *c, PqPage *page, const uint8_t **bytes) {
    const uint8_t *data = c->file->map.data;
    char text[WHERE], name[200];
    snprintf(text, WHERE, "%.250s: column \"%s\"", c->file->path, pq_leaf_name(c->leaf, name, sizeof name));
    Thrift t = {text, data, data + c->next, data + c->chunk.end};
    c->page = c->next;
    if (c->next == c->chunk.end)
        return FAIL_PAGE(c, "the column's bytes end, but %lld of its %lld values are missing; the file is damaged",
                         (long long)c->chunk_left, (long long)c->chunk.values);
    TRY_RETURN(pq_page_read(page, &t));
    *bytes = t.p;
    c->next = (size_t)(t.p - data) + page->stored;
    return TANE_OK;
}

static Status check_crc(const PqColumn *c, const PqPage *page, const uint8_t *bytes) {
    if (!page->has_crc) return TANE_OK;
    uint32_t crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), bytes, page->stored);
    if (crc == page->crc) return TANE_OK;
    return FAIL_PAGE(c,
                     "the checksum of its bytes is %08x, but should be %08x; the file is damaged: copy or load it "
                     "again",
                     crc, page->crc);
}

/* n bytes of a page as they were before they were compressed, raw of them: in the file where they never were. */
static Status unpack(PqColumn *c, PqBuffer *buffer, bool compressed, const uint8_t *bytes, uint32_t n, uint32_t raw,
                     const uint8_t **out) {
    char text[WHERE];
    Codec codec = CODEC_NONE;
    TRY_RETURN(codec_of(c, &codec));
    *out = bytes;
    if (raw == 0 && n <= 1) return TANE_OK; /* nothing, compressed or not */
    if (codec == CODEC_NONE || !compressed) {
        if (n == raw) return TANE_OK;
        return FAIL_PAGE(c, "%u bytes that are not compressed cannot become %u; the file is damaged", n, raw);
    }
    TRY_RETURN(reserve(c, buffer, raw));
    TRY_RETURN(decompress_block(codec, where(c, text), bytes, n, buffer->bytes, raw));
    *out = buffer->bytes;
    return TANE_OK;
}

static Status open_dictionary(PqColumn *c, const PqPage *page, const uint8_t *bytes) {
    const uint8_t *p;
    PqDictionary *d = &c->dictionary;
    if (c->started) return FAIL_PAGE(c, "a dictionary that is not its column's first page; the file is damaged");
    if (page->encoding != PQ_PLAIN && page->encoding != PQ_PLAIN_DICTIONARY)
        return FAIL_PAGE(c, "a dictionary in encoding %lld; it must be PLAIN", (long long)page->encoding);
    TRY_RETURN(unpack(c, &c->dictionary_bytes, true, bytes, page->stored, page->raw, &p));
    if (!c->leaf->width && page->values > page->raw / 4)
        return FAIL_PAGE(c, "a dictionary of %u values in %u bytes; the file is damaged", page->values, page->raw);
    if (!c->leaf->width) {
        TRY_RETURN(reserve(c, &c->offset_bytes, page->values * sizeof *d->offsets));
        d->offsets = (uint32_t *)(void *)c->offset_bytes.bytes;
    }
    d->n = page->values;
    c->has_dictionary = true;
    return at_page(c, pq_dictionary_start(d, c->leaf, p, p + page->raw));
}

/* ---- levels ----------------------------------------------------------------------------------------------------- */

static uint32_t bits_for(uint32_t max) { return max ? 32 - (uint32_t)__builtin_clz(max) : 0; }

/* The levels in front of a V1 page's values: RLE with its length in front, or bits. */
static Status start_levels(PqColumn *c, PqRle *r, uint32_t max, int64_t encoding, uint32_t values, const uint8_t **p,
                           const uint8_t *end) {
    size_t room = (size_t)(end - *p);
    uint32_t width = bits_for(max);
    if (max == 0) return TANE_OK;
    if (encoding == PQ_BIT_PACKED) {
        uint64_t bytes = ((uint64_t)values * width + 7) / 8;
        if (bytes > room)
            return FAIL_PAGE(c, "%llu bytes of levels, but the page has %zu; the file is damaged",
                             (unsigned long long)bytes, room);
        pq_bit_packed_start(r, *p, *p + bytes, width, values);
        *p += bytes;
        return TANE_OK;
    }
    if (encoding != PQ_RLE)
        return FAIL_PAGE(c, "levels in encoding %lld; they must be RLE or BIT_PACKED", (long long)encoding);
    uint32_t bytes = 0;
    if (room >= 4) memcpy(&bytes, *p, 4);
    if (room < 4 || bytes > room - 4)
        return FAIL_PAGE(c, "%u bytes of levels, but the page has %zu left; the file is damaged", bytes, room);
    pq_rle_start(r, *p + 4, *p + 4 + bytes, width);
    *p += 4 + bytes;
    return TANE_OK;
}

static Status start_values(PqColumn *c, const PqPage *page, const uint8_t *p, const uint8_t *end) {
    /* A value that is put together is at most as long as the page; its buffer may double while it grows. */
    size_t text = page->encoding == PQ_DELTA_BYTE_ARRAY || page->encoding == PQ_BYTE_STREAM_SPLIT
                      ? 3 * (size_t)(end - p) + 2 * sizeof(PqDelta)
                      : 0;
    if (text > c->text_charge) {
        TRY_RETURN(charge(c, text - c->text_charge));
        c->text_charge = text;
    }
    return at_page(
        c, pq_values_start(&c->values, c->leaf, page->encoding, p, end, c->has_dictionary ? &c->dictionary : NULL));
}

static Status open_v1(PqColumn *c, const PqPage *page, const uint8_t *bytes) {
    const uint8_t *p, *end;
    TRY_RETURN(unpack(c, &c->page_bytes, true, bytes, page->stored, page->raw, &p));
    end = p + page->raw;
    TRY_RETURN(start_levels(c, &c->rep_levels, c->leaf->max_rep, page->rep_encoding, page->values, &p, end));
    TRY_RETURN(start_levels(c, &c->def_levels, c->leaf->max_def, page->def_encoding, page->values, &p, end));
    return start_values(c, page, p, end);
}

/* Levels are never compressed here, and their lengths stand in the header. */
static Status open_v2(PqColumn *c, const PqPage *page, const uint8_t *bytes) {
    const uint8_t *p = bytes;
    uint64_t levels = (uint64_t)page->rep_bytes + page->def_bytes;
    if (levels > page->stored || levels > page->raw)
        return FAIL_PAGE(c, "%llu bytes of levels in a page of %u; the file is damaged", (unsigned long long)levels,
                         page->stored);
    uint32_t n = page->stored - (uint32_t)levels, raw = page->raw - (uint32_t)levels;
    pq_rle_start(&c->rep_levels, p, p + page->rep_bytes, bits_for(c->leaf->max_rep));
    p += page->rep_bytes;
    pq_rle_start(&c->def_levels, p, p + page->def_bytes, bits_for(c->leaf->max_def));
    p += page->def_bytes;
    TRY_RETURN(unpack(c, &c->page_bytes, page->compressed, p, n, raw, &p));
    return start_values(c, page, p, p + raw);
}

static Status open_page(PqColumn *c, const PqPage *page, const uint8_t *bytes) {
    TRY_RETURN(check_crc(c, page, bytes));
    if (page->kind == PQ_PAGE_INDEX) return TANE_OK;
    if (page->kind == PQ_PAGE_DICTIONARY) {
        TRY_RETURN(open_dictionary(c, page, bytes));
        c->started = true;
        return TANE_OK;
    }
    TRY_RETURN(page->kind == PQ_PAGE_DATA ? open_v1(c, page, bytes) : open_v2(c, page, bytes));
    c->page_left = page->values;
    c->started = true;
    return TANE_OK;
}

/* The next page that holds triples, or whatever comes before it. `skip`: whole pages of so many rows need not be
 * opened; it becomes less by those that were not. */
static Status advance(PqColumn *c, int64_t *skip) {
    PqPage page;
    const uint8_t *bytes = NULL;
    TRY_RETURN(next_header(c, &page, &bytes));
    bool data = page.kind == PQ_PAGE_DATA || page.kind == PQ_PAGE_DATA_V2;
    if (data) {
        if (page.values > c->chunk_left)
            return FAIL_PAGE(c, "%u values, but the column has only %lld left; the file is damaged", page.values,
                             (long long)c->chunk_left);
        c->chunk_left -= page.values;
    }
    if (data && c->leaf->max_rep == 0 && (int64_t)page.values <= *skip) {
        *skip -= page.values;
        c->started = true;
        return TANE_OK;
    }
    return open_page(c, &page, bytes);
}

static Status read_levels(PqColumn *c, PqRle *r, uint32_t max, uint32_t *out, size_t n, const char *what) {
    size_t got;
    if (max == 0) {
        memset(out, 0, n * sizeof *out);
        return TANE_OK;
    }
    TRY_RETURN(at_page(c, pq_rle_read(r, out, n, &got)));
    if (got < n) return FAIL_PAGE(c, "its %s levels end too early; the file is damaged", what);
    for (size_t i = 0; i < n; i++)
        if (out[i] > max)
            return FAIL_PAGE(c, "the %s level %u; the column's are at most %u: the file is damaged", what, out[i], max);
    return TANE_OK;
}

static Status load(PqColumn *c, int64_t *skip, bool *more) {
    *more = true;
    while (c->page_left == 0) {
        if (c->chunk_left == 0) {
            *more = false;
            return TANE_OK;
        }
        TRY_RETURN(advance(c, skip));
    }
    size_t n = c->page_left < PQ_BATCH ? (size_t)c->page_left : PQ_BATCH;
    TRY_RETURN(read_levels(c, &c->rep_levels, c->leaf->max_rep, c->reps, n, "repetition"));
    TRY_RETURN(read_levels(c, &c->def_levels, c->leaf->max_def, c->defs, n, "definition"));
    c->page_left -= n;
    c->at = 0;
    c->n = n;
    return TANE_OK;
}

Status pq_column_load(PqColumn *c, bool *more) {
    int64_t nothing = 0;
    return load(c, &nothing, more);
}

Status pq_column_value(PqColumn *c, const uint8_t **bytes, size_t *n) {
    return at_page(c, pq_values_next(&c->values, bytes, n));
}

Status pq_column_skip(PqColumn *c, int64_t rows) {
    const uint8_t *bytes;
    size_t n;
    for (bool begun = false;;) {
        bool more = true;
        if (c->at == c->n) TRY_RETURN(load(c, &rows, &more));
        if (!more && rows > 0) return FAIL_PAGE(c, "the column has fewer rows than its row group; the file is damaged");
        if (!more) return TANE_OK;
        /* A row ends where the next begins. */
        if (pq_rep(c) == 0 && rows == 0) return TANE_OK;
        if (pq_rep(c) == 0) rows--;
        else if (!begun) return FAIL_PAGE(c, "it begins in the middle of a row; the file is damaged");
        begun = true;
        if (pq_def(c) == c->leaf->max_def) TRY_RETURN(pq_column_value(c, &bytes, &n));
        pq_column_step(c);
    }
}
