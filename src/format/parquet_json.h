/* Parquet's values as JSON text, within bounds. */
#ifndef FORMAT_PARQUET_JSON_H
#define FORMAT_PARQUET_JSON_H

#include "format/parquet_schema.h"

/* What a reader may take altogether: a header of a few bytes can claim gigabytes, and a line be as long as you like,
 * since a few bytes repeat a text. `used` is what columns hold; the line that is being written counts three times,
 * because a Str that grows is there twice, the second time with room to double. */
enum { PQ_MAX_LINE = 32 << 20 };
typedef struct PqBudget {
    size_t used, limit;
    const Str *line;
    size_t before; /* bytes of line that are not this row's */
} PqBudget;

/* The line that is being written, and what errors say of it. */
typedef struct PqLine {
    const char *path;
    int64_t row; /* from 1 */
    Str *out;
    const PqBudget *budget;
} PqLine;

size_t pq_budget_left(const PqBudget *budget);
Status pq_put(PqLine *line, const char *text, size_t n);
Status pq_put_text(PqLine *line, const uint8_t *text, size_t n); /* valid UTF-8, as a JSON string */
/* A value of a leaf as its column stores it: n bytes, little-endian. */
Status pq_put_value(PqLine *line, const PqLeaf *leaf, const uint8_t *bytes, size_t n);
/* TANE_EFORMAT "<path>: row N: column "messages[].content": ..." */
Status pq_value_fail(const PqLine *line, const PqLeaf *leaf, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

size_t pq_utf8_valid(const uint8_t *text, size_t n); /* how many bytes are, from the start */

#endif
