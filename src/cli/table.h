/* Aligned tables on a terminal: columns as wide as their widest cell, cut where the terminal is too narrow. */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include <stdio.h>

#include "base/mem.h"

typedef struct Table {
    Arena arena;
    const char *align; /* one letter a column: l left, r right; L and R may be cut to fit the terminal */
    const char **cells;
    size_t n;
} Table;

void table_begin(Table *table, const char *align);
/* The next cell; the first row is the heading. */
Status table_cell(Table *table, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints and releases it; without rows behind the heading it prints nothing. */
void table_end(Table *table, FILE *stream, const char *indent);

/* Columns that UTF-8 text takes on a terminal (East Asian wide characters take two). */
int text_width(const char *text);

#endif
