/* What the files of rows.h share: which names are data files, and the scanners of arrays and documents.
 *
 * A scanner works on a TextSpan, like jsonl_scan: it goes forward from span->at, and where what is there is not yet a
 * whole row it leaves `at` at its beginning and says *more = false, to be called again with more text.
 */
#ifndef DATA_ROWS_PARTS_H
#define DATA_ROWS_PARTS_H

#include "data/rows.h"

typedef enum RowsKind { ROWS_UNKNOWN, ROWS_JSONL, ROWS_JSON, ROWS_ARRAY, ROWS_TEXT, ROWS_PARQUET } RowsKind;
/* By a name's ending; *packed is what a .gz or .zst behind it says, or NULL. ROWS_JSON may be lines or an array. */
RowsKind rows_kind_of_name(const char *name, const char **packed);
/* The endings, for messages. */
#define ROWS_ENDINGS ".jsonl, .ndjson, .json, .parquet, .txt, also with .gz or .zst behind"

/* Line ends in text[0..n). */
int64_t text_count_lines(const char *text, size_t n);

/* Reading a JSON array of objects. Zero-initialise. */
typedef struct JsonArray {
    enum { ARRAY_BEGIN, ARRAY_FIRST, ARRAY_BEHIND, ARRAY_COMMA, ARRAY_END } state; /* what was passed last */
    int64_t elements, comma_line;
} JsonArray;
Status array_scan(TextSpan *span, JsonArray *array, JsonlLine *line, bool *more);
/* The first line of text[0..n) is not the end of the object that begins in it. */
bool object_over_lines(const char *text, size_t n);

/* Reading documents of plain text. */
typedef struct Documents {
    const char *separator; /* (separator_n), at most MAX_SEPARATOR; 0: none */
    size_t separator_n, piece;
    bool inside; /* the next text goes on with the document before */
} Documents;
enum { MAX_SEPARATOR = 4096 };
Status document_scan(TextSpan *span, Documents *documents, Row *row, bool *more);

#endif
