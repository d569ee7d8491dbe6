/* JSON lines: one object a line, read in place from the mapped file, strictly and in bounded memory.
 *
 * Why not base/json: a data set may be larger than memory and a line as large as 32 MiB, so nothing is built here. A
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

/* A line that has to be copied, because its file is compressed, lies in a buffer that grows by doubling: with 32 MiB
 * the old and the new one together stay below what a bad file may cost. */
enum { JSONL_MAX_LINE = 32 << 20, JSONL_MAX_DEPTH = 128, JSONL_MAX_KEYS = 1 << 20 };

typedef struct JsonlLine {
    const char *path;
    int64_t number;   /* from 1, empty lines counted */
    const char *text; /* (n), without the line end; valid until jsonl_close, or as rows.h says */
    size_t n;
    bool unended;    /* the file ends here without a line end */
    int64_t element; /* of a JSON array, from 1: it may share its line, or go over several; 0: a line of its own */
} JsonlLine;

/* TANE_EFORMAT "path:7: ...", for elements of an array "path:7: element 3: ...". */
#define jsonl_fail(line, ...) jsonl_fail_at(__FILE__, __LINE__, (line), __VA_ARGS__)
Status jsonl_fail_at(const char *source, int source_line, const JsonlLine *line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

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
    bool escaped; /* a string with a backslash in it */
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

/* The text of a file as far as it is in memory: all of a mapped file, or a stretch of one that is unpacked into a
 * buffer; there `at` is kept when `text` moves. What reads rows from it goes forward from `at`. */
typedef struct TextSpan {
    const char *path, *text; /* (n) */
    size_t n, at;
    bool last;    /* the file ends behind it */
    int64_t line; /* line ends passed */
    bool any;     /* a row was found */
} TextSpan;
/* At the beginning of a file, with 3 bytes or all of it there: passes a byte-order mark; UTF-16 is an error. */
Status text_begin(TextSpan *span);
/* jsonl_line for a span. *more is also false where its rest is no whole line and not the file's last: go on with more
 * text. */
Status jsonl_scan(TextSpan *span, JsonlLine *line, bool *more);

typedef struct JsonlReader JsonlReader;
Status jsonl_open(JsonlReader **out, const char *path);
void jsonl_close(JsonlReader *reader); /* NULL is fine */

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
