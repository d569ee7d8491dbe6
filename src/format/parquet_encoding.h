/* Parquet's encodings, decoded step by step: what is decoded never takes more memory than a few hundred numbers and one
 * text, whatever a page claims to hold. Errors say what is wrong with the page; callers put in front where it is.
 */
#ifndef FORMAT_PARQUET_ENCODING_H
#define FORMAT_PARQUET_ENCODING_H

#include "format/parquet_schema.h"

/* The numbers of the format. */
typedef enum PqEncoding {
    PQ_PLAIN = 0,
    PQ_PLAIN_DICTIONARY = 2,
    PQ_RLE = 3,
    PQ_BIT_PACKED = 4,
    PQ_DELTA_BINARY_PACKED = 5,
    PQ_DELTA_LENGTH_BYTE_ARRAY = 6,
    PQ_DELTA_BYTE_ARRAY = 7,
    PQ_RLE_DICTIONARY = 8,
    PQ_BYTE_STREAM_SPLIT = 9
} PqEncoding;

enum { PQ_BATCH = 128, PQ_MINI = 32 };

/* Numbers of `width` bits in runs: equal ones, or packed into groups of 8. Levels, dictionary indices, booleans. */
typedef struct PqRle {
    const uint8_t *p, *end;
    uint32_t width;
    uint64_t run; /* numbers left in this run */
    bool packed;
    bool high_first;        /* the old BIT_PACKED: one run, bits from the highest */
    uint32_t value;         /* of the run, when it is not packed */
    uint64_t bit;           /* packed: of the next number, from p on */
    const uint8_t *run_end; /* packed */
} PqRle;

void pq_rle_start(PqRle *r, const uint8_t *p, const uint8_t *end, uint32_t width);
void pq_bit_packed_start(PqRle *r, const uint8_t *p, const uint8_t *end, uint32_t width, uint64_t values);
/* Up to cap numbers; *n is less only where the data ends. */
Status pq_rle_read(PqRle *r, uint32_t *out, size_t cap, size_t *n);

/* DELTA_BINARY_PACKED: differences to the number before, packed in blocks of miniblocks. */
typedef struct PqDelta {
    const uint8_t *p, *end;
    uint64_t left; /* numbers that were not handed out */
    uint64_t last, least;
    uint32_t block_minis, per_mini;
    const uint8_t *widths;        /* of the miniblocks of this block that follow */
    uint32_t minis_left, in_mini; /* in this block; numbers left in this miniblock */
    uint32_t width;
    bool first;
    uint64_t buffer[PQ_MINI];
    uint32_t at, n;
} PqDelta;

Status pq_delta_start(PqDelta *d, const uint8_t *p, const uint8_t *end);
Status pq_delta_next(PqDelta *d, int64_t *out);
Status pq_delta_end(const PqDelta *d, const uint8_t **end); /* where the bytes behind it begin; nothing was read yet */

/* A dictionary page's entries. */
typedef struct PqDictionary {
    const uint8_t *p;
    uint32_t n, width;
    uint32_t *offsets; /* (n) of entries that say their length; else NULL */
} PqDictionary;

/* The caller has set n and offsets. */
Status pq_dictionary_start(PqDictionary *d, const PqLeaf *leaf, const uint8_t *p, const uint8_t *end);

/* The values of a data page. */
typedef struct PqValues {
    PqEncoding encoding;
    PqType type;
    uint32_t width;
    const uint8_t *p, *end;
    bool empty; /* no bytes at all, as pages of nulls have it */
    const PqDictionary *dictionary;
    uint64_t at;     /* PLAIN booleans: which bit; BYTE_STREAM_SPLIT: which value */
    uint64_t stride; /* BYTE_STREAM_SPLIT: values in the page */
    PqRle rle;       /* dictionary indices, booleans */
    uint32_t batch[PQ_BATCH];
    size_t batch_at, batch_n;
    PqDelta *prefix, *length; /* DELTA_*; kept from page to page */
    Str text;                 /* DELTA_BYTE_ARRAY: the value before; BYTE_STREAM_SPLIT: this one, if it is long */
    uint8_t number[8];
} PqValues;

/* Zero-initialise v before the first page; pq_values_free in the end. */
Status pq_values_start(PqValues *v, const PqLeaf *leaf, int64_t encoding, const uint8_t *p, const uint8_t *end,
                       const PqDictionary *dictionary);
/* The next value, valid until the next call. */
Status pq_values_next(PqValues *v, const uint8_t **bytes, size_t *n);
void pq_values_free(PqValues *v);

#endif
