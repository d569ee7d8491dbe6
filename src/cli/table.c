/* Tables: widths by character, fitting, printing. */
#include "cli/table.h"

#include <stdarg.h>
#include <string.h>

#include "cli/cli.h"

enum { MAX_COLUMNS = 32, LEAST_WIDTH = 6, GAP = 2 };

/* Columns of the character at text, which has *bytes bytes. */
static int character_width(const char *text, size_t *bytes) {
    const unsigned char *u = (const unsigned char *)text;
    size_t n = u[0] < 0xc0 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    uint32_t c = n == 1 ? u[0] : u[0] & (0xffu >> (n + 1));
    for (*bytes = 1; *bytes < n && (u[*bytes] & 0xc0) == 0x80; ++*bytes) c = c << 6 | (u[*bytes] & 0x3fu);
    if (c < 0x20 || (c >= 0x300 && c < 0x370) || (c >= 0x200b && c <= 0x200f)) return 0;
    bool wide = (c >= 0x1100 && c < 0x1160) || (c >= 0x2e80 && c < 0xa4d0) || (c >= 0xac00 && c < 0xd7a4) ||
                (c >= 0xf900 && c < 0xfb00) || (c >= 0xfe30 && c < 0xfe70) || (c >= 0xff00 && c < 0xff61) ||
                (c >= 0xffe0 && c < 0xffe7) || (c >= 0x1f300 && c < 0x1f650) || (c >= 0x1f900 && c < 0x1fa00) ||
                (c >= 0x20000 && c < 0x40000);
    return wide ? 2 : 1;
}

int text_width(const char *text) {
    int width = 0;
    for (size_t bytes; *text; text += bytes) width += character_width(text, &bytes);
    return width;
}

void table_begin(Table *table, const char *align) { *table = (Table){.align = align}; }

Status table_cell(Table *table, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t n = table->n;
    if ((n & (n - 1)) == 0) {
        const char **grown;
        TRY_RETURN(ARENA_NEW_ARRAY(&table->arena, &grown, n ? 2 * n : 1));
        if (n) memcpy(grown, table->cells, n * sizeof *grown);
        table->cells = grown;
    }
    char *copy;
    TRY_RETURN(arena_strdup(&table->arena, &copy, text));
    table->cells[table->n++] = copy;
    return TANE_OK;
}

/* Takes the columns too many from those that may be cut, the widest first. */
static void fit(const char *align, size_t columns, int *width, int room) {
    int total = 0;
    for (size_t c = 0; c < columns; c++) total += width[c] + (c ? GAP : 0);
    for (; total > room; total--) {
        size_t widest = columns;
        for (size_t c = 0; c < columns; c++) {
            bool may = (align[c] == 'L' || align[c] == 'R') && width[c] > LEAST_WIDTH;
            if (may && (widest == columns || width[c] > width[widest])) widest = c;
        }
        if (widest == columns) return;
        width[widest]--;
    }
}

static void print_cell(FILE *stream, const char *text, int width, bool right, bool last) {
    int own = text_width(text), shown = 0;
    if (own > width) { /* cut, with an ellipsis in the last place */
        for (size_t bytes; shown + character_width(text, &bytes) <= width - 1; text += bytes) {
            shown += character_width(text, &bytes);
            fwrite(text, 1, bytes, stream);
        }
        fputs("…", stream);
        fprintf(stream, "%*s", last ? 0 : width - 1 - shown, "");
        return;
    }
    if (right) fprintf(stream, "%*s", width - own, "");
    fputs(text, stream);
    if (!right && !last) fprintf(stream, "%*s", width - own, "");
}

void table_end(Table *table, FILE *stream, const char *indent) {
    int width[MAX_COLUMNS] = {0};
    size_t columns = strlen(table->align);
    if (columns > MAX_COLUMNS) columns = MAX_COLUMNS;
    for (size_t i = 0; i < table->n; i++) {
        int own = text_width(table->cells[i]);
        if (own > width[i % columns]) width[i % columns] = own;
    }
    /* A file or a program behind a pipe gets everything. */
    if (cli_is_terminal(stream)) fit(table->align, columns, width, cli_width(stream) - text_width(indent));
    for (size_t i = 0; i < table->n && table->n > columns; i++) {
        size_t c = i % columns;
        char align = table->align[c];
        fputs(c ? "  " : indent, stream);
        print_cell(stream, table->cells[i], width[c], align == 'r' || align == 'R', c + 1 == columns);
        if (c + 1 == columns) fputc('\n', stream);
    }
    arena_release(&table->arena);
    *table = (Table){0};
}
