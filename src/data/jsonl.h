/* JSON lines: one object a line, read in place from the mapped file, strictly and in bounded memory.
 *
 * Why not base/json: a data set may be larger than memory and a line as large as 64 MiB, so nothing is built here. A
 * line is checked completely (grammar, UTF-8, surrogates, duplicate keys at any depth) and the wanted members are found
 * in it; a text is decoded only when asked for, and only if it has an escape. Beside the mapping a reader needs at most
 * 16 bytes for each key that is open at once and one decoded text.
 *
 * A byte-order mark at the beginning, CRLF line ends and empty lines are accepted, and so is a last line without a line
 * end if it is complete. Errors begin with "path:line: ".
 */
#ifndef DATA_JSONL_H
#define DATA_JSONL_H

#include "base/file.h"
#include "base/mem.h"

enum { JSONL_MAX_LINE = 64 << 20, JSONL_MAX_DEPTH = 128, JSONL_MAX_KEYS = 1 << 20 };

typedef struct JsonlLine {
    const char *path;
    int64_t number;   /* from 1, empty lines counted */
    const char *text; /* (n), without the line end; valid until jsonl_close */
    size_t n;
    bool unended;     /* the file ends here without a line end */
} JsonlLine;

typedef enum JsonlKind {
    JSONL_ABSENT,
    JSONL_STRING,
    JSONL_NUMBER,
    JSONL_BOOL,
    JSONL_NULL,
    JSONL_ARRAY,
    JSONL_OBJECT
} JsonlKind;

/* A member of the line's object: the caller sets key, parsing the rest. */
typedef struct JsonlField {
    const char *key;
    JsonlKind kind;
    const char *text; /* (n) as it stands in the line; a string's inside without the quotes */
    size_t n;
    bool escaped;     /* a string with a backslash in it */
} JsonlField;

/* Working memory of parsing, one a thread. Zero-initialise; jsonl_scratch_free when done. */
typedef struct JsonlKey {
    const char *text;
    size_t n;
} JsonlKey;
typedef struct JsonlScratch {
    JsonlKey *keys; /* of the objects that are open */
    size_t n_keys, cap_keys;
    char *text;
    size_t cap_text;
} JsonlScratch;
void jsonl_scratch_free(JsonlScratch *scratch);

typedef struct JsonlReader JsonlReader;
Status jsonl_open(JsonlReader **out, const char *path);
void jsonl_close(JsonlReader *reader); /* NULL is fine */
void jsonl_rewind(JsonlReader *reader);

/* The next line that is not empty, unchecked. *more is false behind the last one; a file without any is an error. */
Status jsonl_line(JsonlReader *reader, JsonlLine *line, bool *more);
/* Checks a line and fills in the fields. May run on many lines at once, each thread with its own scratch. */
Status jsonl_parse(const JsonlLine *line, JsonlField *fields, size_t n, JsonlScratch *scratch);
/* Both. */
Status jsonl_next(JsonlReader *reader, JsonlLine *line, JsonlField *fields, size_t n, JsonlScratch *scratch,
                  bool *more);

/* A string field decoded: in place, or in scratch until the next call with it. */
Status jsonl_text(const JsonlField *field, JsonlScratch *scratch, const char **text, size_t *n);
/* "a number", "an array", ...: for messages about a field that is not what it should be. */
const char *jsonl_kind_name(JsonlKind kind);

#endif
