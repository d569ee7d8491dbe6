/* Prints docs/options.md: the options of every command, from the tables that the program itself reads. `make docs`. */
#include "cli/cli.h"

static const Command *const commands[] = {&cmd_train,    &cmd_eval, &cmd_generate, &cmd_chat, &cmd_data,
                                          &cmd_tokenizer, &cmd_runs, &cmd_doctor,   NULL};

static Status add_command(const Command *c, const char *parent, Str *out) {
    Str name = {0};
    Status st = TANE_OK;
    TRY(str_printf(&name, "%s %s", parent, c->name));
    for (const Command *const *sub = c->sub; sub && *sub; sub++) TRY(add_command(*sub, name.text, out));
    if (c->sub || !c->options) goto out;
    TRY(str_printf(out, "\n## %s\n\n%c%s.\n\n    %s\n\n", name.text, c->summary[0] - ('a' - 'A'), c->summary + 1, c->usage));
    TRY(option_help(c->options, true, out));
out:
    str_free(&name);
    return st;
}

int main(void) {
    Str text = {0};
    Status st = str_printf(&text, "# Options\n\nMade by `make docs` from the tables that the program itself reads. An option is a "
                                  "`--flag` (with `-` for `_`) or a `key=value` word; those of `tane train` are the keys of a "
                                  "recipe too.\n");
    for (const Command *const *c = commands; *c && st == TANE_OK; c++) st = add_command(*c, "tane", &text);
    if (st == TANE_OK) fputs(text.text, stdout);
    else fprintf(stderr, "options_doc: %s\n", err_message());
    str_free(&text);
    return st == TANE_OK ? 0 : 1;
}
