/* Which of a row's keys mean what: the formats, the columns that an option maps, and which format a row is of. */
#ifndef DATA_ROW_COLUMNS_H
#define DATA_ROW_COLUMNS_H

#include "data/jsonl.h"

typedef enum RowKey {
    KEY_TEXT,
    KEY_PROMPT,
    KEY_COMPLETION,
    KEY_MESSAGES,
    KEY_CONVERSATIONS,
    KEY_INSTRUCTION,
    KEY_INPUT,
    KEY_OUTPUT,
    KEY_QUESTION,
    KEY_ANSWER,
    KEY_TOOLS,
    KEY_SYSTEM,
    N_KEYS
} RowKey;

typedef enum RowKind {
    ROW_PROMPT,
    ROW_TEXT,
    ROW_MESSAGES,
    ROW_SHAREGPT,
    ROW_ALPACA,
    ROW_QUESTION,
    N_KINDS,
    ROW_AUTO = N_KINDS
} RowKind;

const char *row_kind_name(RowKind kind); /* "sharegpt" */

typedef struct RowColumns {
    Arena arena;
    const char *names[N_KEYS]; /* the file's key for each of ours; NULL: another of ours has taken that key */
    RowKind kind;              /* ROW_AUTO: each row tells its own */
} RowColumns;

/* format and columns as in RowFormatOptions. */
Status row_columns_init(RowColumns *columns, const char *format, const char *spec);
/* The file's keys that mean something: names (N_KEYS) and how many. */
size_t row_columns_names(const RowColumns *columns, const char *names[N_KEYS]);
void row_columns_free(RowColumns *columns);

/* Checks the row's JSON, finds the fields (N_KEYS) and tells the kind. All that it needs is there, of whatever type. */
Status row_columns_read(const RowColumns *columns, const JsonlLine *line, JsonlField *fields, JsonlScratch *scratch,
                        RowKind *kind);
/* TANE_EFORMAT: a field is not what it must be ("text"). */
Status row_columns_wrong(const RowColumns *columns, const JsonlLine *line, RowKind kind, const JsonlField *field,
                         const char *wanted);

#endif
