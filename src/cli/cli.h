/* What a subcommand is. Each cmd_*.c defines one `const Command`; main.c lists them.
 *
 * Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdio.h>

#include "base/option.h"

typedef struct Command Command;
struct Command {
    const char *name;            /* "train" */
    const char *summary;         /* one line for `tane help` */
    const char *examples;        /* help leads with these, two spaces of indent, newline-terminated */
    const char *usage;           /* "tane train RECIPE.yaml [key=value ...]" */
    const OptionTable *options;  /* NULL: none */
    const char *details;         /* text behind the options; may be NULL */
    /* argv[0] is the first word behind the command's name. TANE_EINVAL raised by cli_usage gives exit code 2. */
    Status (*run)(const Command *self, int argc, char **argv);
    const Command *const *sub;   /* NULL-terminated subcommands instead of run, or NULL */
};

extern const Command cmd_data, cmd_tokenizer, cmd_train, cmd_eval, cmd_generate, cmd_chat, cmd_runs, cmd_show,
    cmd_convert, cmd_doctor;

/* Records "wrong usage" (the message, then how to get help) for exit code 2. */
Status cli_usage(const Command *self, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* 0 for TANE_OK, 2 for wrong usage (cli_usage, or an error of option_parse_args), else 1. */
int cli_exit_code(Status status);

/* stderr is a terminal / stdout is a terminal and NO_COLOR is not set. */
bool cli_is_terminal(FILE *stream);
bool cli_colour(FILE *stream);
/* Columns of the terminal (80 when unknown). */
int cli_width(FILE *stream);

#endif
