/* One leaf of a Parquet file, read as a stream of triples (repetition level, definition level, value): page after page,
 * one in memory at a time beside the dictionary. */
#ifndef FORMAT_PARQUET_COLUMN_H
#define FORMAT_PARQUET_COLUMN_H

#include "format/parquet_encoding.h"
#include "format/parquet_json.h"
#include "format/parquet_meta.h"

typedef struct PqBuffer {
    uint8_t *bytes;
    size_t cap;
} PqBuffer;

typedef struct PqColumn {
    const ParquetFile *file;
    const PqLeaf *leaf;
    PqBudget *budget;
    PqChunk chunk;
    size_t next;        /* where the next page's header begins */
    size_t page;        /* where this page's does */
    int64_t chunk_left; /* triples in pages that follow */
    uint64_t page_left; /* triples of this page whose levels were not read */
    bool has_dictionary, started;
    PqDictionary dictionary;
    PqBuffer dictionary_bytes, offset_bytes, page_bytes;
    size_t text_charge; /* of the budget, for values that are put together */
    PqRle def_levels, rep_levels;
    PqValues values;
    uint32_t defs[PQ_BATCH], reps[PQ_BATCH];
    size_t at, n; /* in the batch of levels */
} PqColumn;

void pq_column_init(PqColumn *c, const ParquetFile *file, const PqLeaf *leaf, PqBudget *budget);
void pq_column_free(PqColumn *c);
/* Begins at a chunk; `rows` is what its row group has. */
Status pq_column_start(PqColumn *c, const PqChunk *chunk, int64_t rows);
/* Passes over the triples of so many rows, from the beginning of one to the beginning of one (or the end). */
Status pq_column_skip(PqColumn *c, int64_t rows);

Status pq_column_load(PqColumn *c, bool *more);
/* Makes sure that there is a triple, whose levels are then pq_def and pq_rep; *more is false behind the chunk's last.
 */
static inline Status pq_column_peek(PqColumn *c, bool *more) {
    *more = true;
    return c->at < c->n ? TANE_OK : pq_column_load(c, more);
}
static inline uint32_t pq_def(const PqColumn *c) { return c->defs[c->at]; }
static inline uint32_t pq_rep(const PqColumn *c) { return c->reps[c->at]; }
/* The triple's value, to be asked for once and only where pq_def is the leaf's max_def. */
Status pq_column_value(PqColumn *c, const uint8_t **bytes, size_t *n);
static inline void pq_column_step(PqColumn *c) { c->at++; }

#endif
