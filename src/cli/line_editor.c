/* libedit behind line_editor.h (its header has a Tokenizer of its own, so that it must stay in a file apart). */
#include "cli/line_editor.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <string.h>

struct LineEditor {
    EditLine *edit;
    History *history;
    const char *prompt;
    Str line;
};

static char *show_prompt(EditLine *edit) {
    LineEditor *e;
    el_get(edit, EL_CLIENTDATA, &e);
    return (char *)e->prompt;
}

Status line_editor_new(LineEditor **out, const char *prompt) {
    TRY_RETURN(MEM_NEW(out));
    LineEditor *e = *out;
    HistEvent event;
    setlocale(LC_CTYPE, ""); /* for text that is not ASCII; numbers stay as they are */
    e->prompt = prompt;
    e->history = history_init();
    e->edit = el_init("tane", stdin, stdout, stderr);
    if (!e->history || !e->edit) {
        line_editor_free(e);
        *out = NULL;
        return FAIL(TANE_ENOMEM, "could not set up line editing on this terminal");
    }
    history(e->history, &event, H_SETSIZE, 1000);
    history(e->history, &event, H_SETUNIQUE, 1);
    el_set(e->edit, EL_CLIENTDATA, e);
    el_set(e->edit, EL_PROMPT, show_prompt);
    el_set(e->edit, EL_EDITOR, "emacs");
    el_set(e->edit, EL_SIGNAL, 1);
    el_set(e->edit, EL_HIST, history, e->history);
    return TANE_OK;
}

void line_editor_free(LineEditor *e) {
    if (!e) return;
    if (e->edit) el_end(e->edit);
    if (e->history) history_end(e->history);
    str_free(&e->line);
    mem_free(e);
}

Status line_editor_read(LineEditor *e, LineEvent *event, const char **line) {
    HistEvent ignored;
    int n = 0;
    errno = 0;
    *line = "";
    const char *text = el_gets(e->edit, &n);
    if (!text || n <= 0) {
        *event = n < 0 && errno == EINTR ? LINE_INTERRUPTED : LINE_END;
        if (*event == LINE_INTERRUPTED) el_reset(e->edit);
        return TANE_OK;
    }
    size_t length = strcspn(text, "\r\n");
    if (length > 0) history(e->history, &ignored, H_ENTER, text);
    e->line.len = 0;
    TRY_RETURN(str_add(&e->line, text, length));
    *event = LINE_TEXT;
    *line = e->line.text;
    return TANE_OK;
}
