/* Parquet files, row by row, as JSON: what a row of JSONL would be, so that everything behind it is the same.
 *
 *     {"messages": [{"role": "user", "content": "What is a seed?"}, ...], "score": 0.5, "day": "2026-11-22"}
 *
 * All columns of any nesting are read: numbers, text, booleans, dates and times (ISO 8601), decimals and UUIDs (as
 * text), structs (objects), lists (arrays), maps (objects where the keys are text, else arrays of pairs), nulls. Every
 * encoding of the format; uncompressed, snappy, gzip, zstd. docs/parquet.md has the rules.
 *
 * A file is mapped and its metadata checked when it is opened. Pages are checked, with their checksums where they have
 * them, when they are read. A reader holds one page and one dictionary a column, together with the line at most the
 * file's size and 56 MiB; a line has at most 32 MiB. Errors name the file, the column and the page's place or the row.
 */
#ifndef FORMAT_PARQUET_H
#define FORMAT_PARQUET_H

#include "base/mem.h"

typedef struct ParquetFile ParquetFile;

Status parquet_open(ParquetFile **out, const char *path);
void parquet_close(ParquetFile *file); /* NULL is fine */
int64_t parquet_rows(const ParquetFile *file);

typedef struct ParquetColumn {
    const char *name;
    const char *type; /* "text", "int", "float", "bool", "list", "struct", "map", "timestamp", "binary", ... */
} ParquetColumn;
size_t parquet_column_count(const ParquetFile *file); /* at the top level */
ParquetColumn parquet_column(const ParquetFile *file, size_t i);

/* Row groups: what readers of several threads best divide among them. */
size_t parquet_group_count(const ParquetFile *file);
void parquet_group(const ParquetFile *file, size_t i, int64_t *first_row, int64_t *rows);

typedef struct ParquetReader ParquetReader;

/* Rows first_row, first_row + 1, ...: `rows` of them, or all that follow if it is -1. columns: names of n top-level
 * ones, in the order in which they shall stand in the lines; NULL: all. Readers of one file are independent of each
 * other; the file must outlive them. Beginning inside a row group takes reading what is in front of it there. */
Status parquet_reader_new(ParquetReader **out, const ParquetFile *file, const char *const *columns, size_t n,
                          int64_t first_row, int64_t rows);
void parquet_reader_close(ParquetReader *reader); /* NULL is fine */
/* Appends the next row to `line`, as JSON in one line without a line end; *more is false, and nothing appended, behind
 * the last one. After an error, which leaves `line` as it was, the reader is at its end. */
Status parquet_next(ParquetReader *reader, Str *line, bool *more);

#endif
