/* Lines from a terminal, with editing and history. */
#ifndef CLI_LINE_EDITOR_H
#define CLI_LINE_EDITOR_H

#include "base/mem.h"

typedef struct LineEditor LineEditor;

Status line_editor_new(LineEditor **out, const char *prompt); /* prompt is borrowed */
void line_editor_free(LineEditor *editor);                    /* NULL is fine */

typedef enum LineEvent {
    LINE_TEXT,
    LINE_INTERRUPTED, /* a signal (Ctrl-C) came; what was typed is gone */
    LINE_END          /* Ctrl-D, or the terminal is gone */
} LineEvent;

/* *line, without its end, is valid until the next call. */
Status line_editor_read(LineEditor *editor, LineEvent *event, const char **line);

#endif
