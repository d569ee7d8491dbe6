/* Footer and page headers. Everything is checked when the file is opened, but nothing kept that can be read again: a
 * footer is small beside what its contents would take in memory. */
#include "format/parquet_meta.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAGIC = 4, TAIL = 8 };

/* The least bytes that the metadata of a row group takes: a list with one chunk, of five numbers, and the rows. */
enum { MIN_GROUP_BYTES = 18 };

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---- column chunks ---------------------------------------------------------------------------------------------- */

typedef struct ChunkMeta {
    int64_t type, codec, values, bytes, data, dictionary; /* -1: missing */
} ChunkMeta;

static Status read_chunk_meta(Thrift *t, ThriftType type, ChunkMeta *m) {
    ThriftField f = {0};
    TRY_RETURN(thrift_struct(t, type));
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) return TANE_OK;
        switch (f.id) {
        case 1: TRY_RETURN(thrift_int(t, f.type, 0, PQ_TYPES - 1, &m->type)); break;
        case 4: TRY_RETURN(thrift_int(t, f.type, 0, PQ_CODECS - 1, &m->codec)); break;
        case 5: TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &m->values)); break;
        case 7: TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &m->bytes)); break;
        case 9: TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &m->data)); break;
        case 11: TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &m->dictionary)); break;
        default: TRY_RETURN(thrift_skip(t, f.type));
        }
    }
}

__attribute__((format(printf, 3, 4))) static Status bad_chunk(const Thrift *t, const PqLeaf *leaf, const char *fmt,
                                                              ...) {
    char text[256], name[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return FAIL(TANE_EFORMAT, "%s: column \"%s\": %s; the file is damaged", t->where,
                pq_leaf_name(leaf, name, sizeof name), text);
}

static Status check_chunk(const ParquetFile *file, const Thrift *t, const PqLeaf *leaf, const ChunkMeta *m,
                          PqChunk *chunk) {
    if (chunk->encrypted || chunk->external) return TANE_OK; /* told when it is read */
    if (m->type < 0 || m->codec < 0 || m->values < 0 || m->bytes < 0 || m->data < 0)
        return bad_chunk(t, leaf, "the metadata of its bytes is not complete");
    if (m->type != (int64_t)leaf->type)
        return bad_chunk(t, leaf, "it is stored as %s, but the schema says %s", pq_type_name((PqType)m->type),
                         pq_type_name(leaf->type));
    /* Some writers say 0 where there is no dictionary, or, without any row, no data. */
    bool dictionary_first = m->dictionary > 0 && (m->dictionary < m->data || m->data == 0);
    int64_t begin = m->bytes == 0 ? MAGIC : dictionary_first ? m->dictionary : m->data;
    int64_t footer = (int64_t)file->footer;
    if (begin < MAGIC || begin > footer || m->bytes > footer - begin)
        return bad_chunk(t, leaf, "its %lld bytes from byte %lld on do not lie in front of the footer at byte %lld",
                         (long long)m->bytes, (long long)begin, (long long)footer);
    chunk->codec = (PqCodec)m->codec;
    chunk->values = m->values;
    chunk->begin = (size_t)begin;
    chunk->end = (size_t)(begin + m->bytes);
    return TANE_OK;
}

static Status read_chunk(const ParquetFile *file, Thrift *t, const PqLeaf *leaf, PqChunk *chunk) {
    ChunkMeta m = {-1, -1, -1, -1, -1, -1};
    ThriftField f = {0};
    *chunk = (PqChunk){0};
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) return check_chunk(file, t, leaf, &m, chunk);
        if (f.id == 3) {
            TRY_RETURN(read_chunk_meta(t, f.type, &m));
            continue;
        }
        chunk->external = chunk->external || f.id == 1;
        chunk->encrypted = chunk->encrypted || f.id == 8 || f.id == 9;
        TRY_RETURN(thrift_skip(t, f.type));
    }
}

/* ---- row groups ------------------------------------------------------------------------------------------------- */

/* chunks may be NULL: only checked. */
static Status read_chunks(const ParquetFile *file, Thrift *t, ThriftType type, PqChunk *chunks) {
    const PqSchema *schema = &file->schema;
    PqChunk one;
    size_t n;
    TRY_RETURN(thrift_list(t, type, THRIFT_STRUCT, &n));
    if (n != schema->n_leaves)
        return thrift_fail(t, "a row group has %zu columns, the schema %u; the file is damaged", n, schema->n_leaves);
    for (size_t i = 0; i < n; i++) TRY_RETURN(read_chunk(file, t, &schema->leaves[i], chunks ? &chunks[i] : &one));
    return TANE_OK;
}

static Status read_group(const ParquetFile *file, Thrift *t, PqChunk *chunks, int64_t *rows) {
    ThriftField f = {0};
    bool has_chunks = false;
    *rows = -1;
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) break;
        if (f.id == 1 && has_chunks)
            return thrift_fail(t, "a row group with two lists of columns; the file is damaged");
        if (f.id == 1) TRY_RETURN(read_chunks(file, t, f.type, chunks));
        else if (f.id == 3) TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, rows));
        else TRY_RETURN(thrift_skip(t, f.type));
        has_chunks = has_chunks || f.id == 1;
    }
    if (has_chunks && *rows >= 0) return TANE_OK;
    return thrift_fail(t, "a row group without %s; the file is damaged", has_chunks ? "a number of rows" : "columns");
}

static Status read_groups(ParquetFile *file, Thrift *t, ThriftType type) {
    size_t n;
    int64_t rows;
    TRY_RETURN(thrift_list(t, type, THRIFT_STRUCT, &n));
    if (n > (size_t)(t->end - t->p) / MIN_GROUP_BYTES)
        return thrift_fail(t, "a list of %zu row groups, but the metadata has %zu bytes left; the file is damaged", n,
                           (size_t)(t->end - t->p));
    TRY_RETURN(MEM_NEW_ARRAY(&file->groups, n + 1));
    file->n_groups = n;
    for (size_t i = 0; i < n; i++) {
        PqGroup *group = &file->groups[i];
        group->offset = (size_t)(t->p - t->file);
        TRY_RETURN(read_group(file, t, NULL, &rows));
        if (__builtin_add_overflow(group->first, rows, &group[1].first))
            return thrift_fail(t, "the row groups have more than 2^63 rows; the file is damaged");
    }
    return TANE_OK;
}

Status pq_group_chunks(const ParquetFile *file, size_t group, PqChunk *chunks) {
    const uint8_t *data = file->map.data;
    Thrift t = {file->path, data, data + file->groups[group].offset, data + file->map.size - TAIL};
    int64_t rows;
    return read_group(file, &t, chunks, &rows);
}

/* ---- the footer ------------------------------------------------------------------------------------------------- */

static Status read_footer(ParquetFile *file, Thrift *t) {
    ThriftField f = {0};
    int64_t rows = -1;
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) break;
        bool early = f.id == 4 && !file->schema.n_leaves;
        bool twice = (f.id == 2 && file->schema.n_leaves) || (f.id == 4 && file->groups);
        if (early || twice)
            return thrift_fail(t, "the metadata has its row groups %s; the file is damaged",
                               early ? "in front of the schema" : "or its schema twice");
        switch (f.id) {
        case 2: TRY_RETURN(pq_schema_read(&file->schema, &file->arena, t, f.type)); break;
        case 3: TRY_RETURN(thrift_int(t, f.type, 0, INT64_MAX, &rows)); break;
        case 4: TRY_RETURN(read_groups(file, t, f.type)); break;
        default: TRY_RETURN(thrift_skip(t, f.type));
        }
    }
    if (!file->schema.n_leaves || !file->groups || rows < 0)
        return FAIL(TANE_EFORMAT, "%s: the metadata lacks %s; the file is damaged", file->path,
                    rows < 0                ? "the number of rows"
                    : file->schema.n_leaves ? "its row groups"
                                            : "the schema");
    file->rows = file->groups[file->n_groups].first;
    if (rows != file->rows)
        return FAIL(TANE_EFORMAT, "%s: the metadata says %lld rows, but its row groups have %lld; the file is damaged",
                    file->path, (long long)rows, (long long)file->rows);
    return TANE_OK;
}

static Status copy_names(ParquetFile *file) {
    const PqNode *root = &file->schema.root;
    TRY_RETURN(ARENA_NEW_ARRAY(&file->arena, &file->names, root->n_children));
    for (uint32_t i = 0; i < root->n_children; i++) {
        char *name;
        TRY_RETURN(arena_new(&file->arena, (void **)&name, root->children[i].name_n + 1, 1));
        if (root->children[i].name_n) memcpy(name, root->children[i].name, root->children[i].name_n);
        file->names[i] = name;
    }
    return TANE_OK;
}

Status pq_meta_read(ParquetFile *file) {
    const uint8_t *data = file->map.data;
    size_t size = file->map.size;
    if (size < MAGIC || memcmp(data, "PAR1", MAGIC) != 0)
        return FAIL(TANE_EFORMAT, "%s: this is no Parquet file: it does not begin with PAR1", file->path);
    if (size < MAGIC + TAIL || memcmp(data + size - MAGIC, "PAR1", MAGIC) != 0) {
        bool encrypted = size >= MAGIC + TAIL && memcmp(data + size - MAGIC, "PARE", MAGIC) == 0;
        if (encrypted) return FAIL(TANE_EFORMAT, "%s: the file is encrypted; write it without encryption", file->path);
        return FAIL(TANE_EFORMAT,
                    "%s: the file does not end with PAR1, so it was cut off: copy or load it again (%zu "
                    "bytes are there)",
                    file->path, size);
    }
    uint32_t length = load_u32(data + size - TAIL);
    if (length > size - MAGIC - TAIL)
        return FAIL(TANE_EFORMAT,
                    "%s: the metadata is said to have %u bytes, but the file has only %zu; the file is "
                    "damaged or was cut off",
                    file->path, length, size);
    file->footer = size - TAIL - length;
    Thrift t = {file->path, data, data + file->footer, data + size - TAIL};
    TRY_RETURN(read_footer(file, &t));
    return copy_names(file);
}

/* ---- page headers ----------------------------------------------------------------------------------------------- */

static Status read_u32(Thrift *t, ThriftType type, uint32_t *out) {
    int64_t x;
    TRY_RETURN(thrift_int(t, type, 0, INT32_MAX, &x));
    *out = (uint32_t)x;
    return TANE_OK;
}

/* DataPageHeader, DictionaryPageHeader and DataPageHeaderV2 number their fields differently. */
static Status read_page_fields(PqPage *page, Thrift *t, ThriftType type, PqPageKind kind) {
    ThriftField f = {0};
    TRY_RETURN(thrift_struct(t, type));
    bool v2 = kind == PQ_PAGE_DATA_V2, v1 = kind == PQ_PAGE_DATA;
    bool has_values = false, has_encoding = false;
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) break;
        bool is_encoding = f.id == (v2 ? 4 : 2);
        if (f.id == 1) TRY_RETURN(read_u32(t, f.type, &page->values));
        else if (is_encoding) TRY_RETURN(thrift_int(t, f.type, 0, INT32_MAX, &page->encoding));
        else if (v1 && f.id == 3) TRY_RETURN(thrift_int(t, f.type, 0, INT32_MAX, &page->def_encoding));
        else if (v1 && f.id == 4) TRY_RETURN(thrift_int(t, f.type, 0, INT32_MAX, &page->rep_encoding));
        else if (v2 && f.id == 5) TRY_RETURN(read_u32(t, f.type, &page->def_bytes));
        else if (v2 && f.id == 6) TRY_RETURN(read_u32(t, f.type, &page->rep_bytes));
        else if (v2 && f.id == 7) TRY_RETURN(thrift_bool(t, f.type, &page->compressed));
        else TRY_RETURN(thrift_skip(t, f.type));
        has_values = has_values || f.id == 1;
        has_encoding = has_encoding || is_encoding;
    }
    if (has_values && has_encoding) return TANE_OK;
    return thrift_fail(t, "a page's header without %s; the file is damaged",
                       has_values ? "an encoding" : "a number of values");
}

Status pq_page_read(PqPage *page, Thrift *t) {
    static const struct {
        int16_t field;
        PqPageKind kind;
    } headers[] = {{5, PQ_PAGE_DATA}, {7, PQ_PAGE_DICTIONARY}, {8, PQ_PAGE_DATA_V2}};
    ThriftField f = {0};
    int64_t kind = -1, x;
    unsigned seen = 1u << PQ_PAGE_INDEX; /* nothing of an index page is needed */
    *page = (PqPage){.compressed = true};
    for (;;) {
        TRY_RETURN(thrift_field(t, &f));
        if (f.type == THRIFT_STOP) break;
        switch (f.id) {
        case 1: TRY_RETURN(thrift_int(t, f.type, 0, PQ_PAGE_KINDS - 1, &kind)); break;
        case 2: TRY_RETURN(read_u32(t, f.type, &page->raw)); break;
        case 3: TRY_RETURN(read_u32(t, f.type, &page->stored)); break;
        case 4:
            TRY_RETURN(thrift_int(t, f.type, INT32_MIN, INT32_MAX, &x));
            page->crc = (uint32_t)x;
            page->has_crc = true;
            break;
        case 5:
        case 7:
        case 8:
            for (size_t i = 0; i < 3; i++)
                if (headers[i].field == f.id) {
                    TRY_RETURN(read_page_fields(page, t, f.type, headers[i].kind));
                    seen |= 1u << headers[i].kind;
                }
            break;
        default: TRY_RETURN(thrift_skip(t, f.type));
        }
    }
    if (kind < 0 || !(seen & 1u << kind)) return thrift_fail(t, "a page's header is not complete; the file is damaged");
    page->kind = (PqPageKind)kind;
    if (page->stored > (size_t)(t->end - t->p))
        return thrift_fail(t, "a page of %u bytes, but its column has %zu left; the file is damaged", page->stored,
                           (size_t)(t->end - t->p));
    return TANE_OK;
}
