/* Rows of data files, whatever the file: JSONL, a JSON array of objects, Parquet, plain text; the text ones also behind
 * gzip or zstd. A row is one JSON object as text, or a document of plain text.
 *
 * Rows come in chunks, so that many of them can be worked on at once and memory stays bounded: a chunk is a few MiB of
 * text, or one row when that is longer; a row has at most JSONL_MAX_LINE bytes. The format is told by the name's ending
 * (.jsonl, .ndjson, .json, .parquet, .txt, also with .gz or .zst behind), and by the first bytes where the ending says
 * nothing; a .json file may hold an array or JSON lines. What is compressed is told by the first bytes, too.
 */
#ifndef DATA_ROWS_H
#define DATA_ROWS_H

#include "data/jsonl.h"

typedef struct RowsOptions {
    /* Of Parquet, only these columns are read (all when the file has none of them); NULL: all. What is not read may be
     * of a type that has no text, as images are. */
    const char *const *columns;
    size_t n_columns;
    /* What ends a document of plain text, e.g. "\n", "\n\n", "<|endoftext|>"; it belongs to none. A line end in it also
     * is one of Windows in a file that has those. Documents of white space only are left out. NULL: a file is one. */
    const char *separator;
    /* Documents longer than this may come in pieces of at least so many bytes: the next one begins behind a single line
     * end and with a letter or digit (what tokenizer_cuts_at_lines is about); if no such place comes within 16 KiB,
     * also with a single space in front of a letter or digit. 0: never. */
    size_t piece;
} RowsOptions;

typedef struct Row {
    JsonlLine line; /* path, text, and number: the line where it begins; Parquet: the row; both from 1 */
    bool plain;     /* a document, not a JSON object; valid UTF-8 or not */
    bool goes_on;   /* the document's next piece is the next row */
} Row;

typedef struct RowReader RowReader;
Status rows_open(RowReader **out, const char *path, const RowsOptions *options);
void rows_close(RowReader *reader); /* NULL is fine */
/* Up to cap rows. *n is 0 behind the last one; a file without any row is an error. Texts are valid until the next call.
 * JSON is not checked here but by jsonl_parse, which may run on many rows at once. */
Status rows_chunk(RowReader *reader, Row *rows, size_t cap, size_t *n);
/* How far the reading has come, from 0 to 1 of the file's bytes. */
double rows_progress(const RowReader *reader);

/* Files that paths and patterns (*, ?, [...], ** for any folders) name, sorted within each pattern, in `arena`. A
 * folder stands for the data files in it, and one with ** behind it for those in the folders below, too: by the endings
 * above, and no names that begin with _ or a dot. A file that is named twice is kept once, at its first place. A
 * pattern that fits nothing, a missing file, and a folder without data files are errors that name it. */
Status rows_files(const char *const *patterns, size_t n, Arena *arena, char ***out, size_t *n_out);

#endif
