/* The program: finds the subcommand, prints help, reports errors, and leaves the streams as they should be. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "device/gemm.h"

static const Command *const commands[] = {&cmd_data, &cmd_tokenizer, &cmd_train, &cmd_eval,    &cmd_generate,
                                          &cmd_chat, &cmd_runs,      &cmd_show,  &cmd_convert, &cmd_doctor, NULL};

static const Command tane = {
    .name = "tane",
    .summary = "the whole life of a language model",
    .usage = "tane COMMAND [options]",
    .examples =
        "  tane doctor                                       what this machine can do\n"
        "  tane data arithmetic --digits 2 --out data.jsonl  a data set to learn from\n"
        "  tane train recipes/math/quickstart.yaml           train a model on it\n"
        "  tane chat runs/quickstart/best                    ask it questions\n"
        "  tane runs list                                    what was trained, and how well it did\n",
    .sub = commands,
    .details = "`tane help COMMAND` tells more about one of them; `tane --version` prints the version.\n"
               "Data goes to standard output, messages to standard error.\n"
               "Exit codes: 0 done, 1 failed, 2 wrong usage.\n",
};

/* ---- finding ---- */

static const Command *find(const Command *parent, const char *name) {
    for (const Command *const *c = parent->sub; c && *c; c++) {
        if (strcmp((*c)->name, name) == 0) return *c;
    }
    return NULL;
}

static Status unknown_command(const Command *parent, const char *name) {
    const char *names[64] = {"help"};
    size_t n = parent == &tane ? 1 : 0;
    for (const Command *const *c = parent->sub; c && *c && n < 64; c++) names[n++] = (*c)->name;
    const char *near = err_nearest(name, names, n);
    const char *prefix = parent == &tane ? "" : parent->name, *gap = parent == &tane ? "" : " ";
    if (near)
        return cli_usage(parent, "unknown command \"%s%s%s\"; did you mean \"%s%s%s\"?", prefix, gap, name, prefix, gap,
                         near);
    return cli_usage(parent, "unknown command \"%s%s%s\"; `tane help%s%s` lists what there is", prefix, gap, name, gap,
                     prefix);
}

static bool asks_for_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    }
    return false;
}

/* ---- help ---- */

static Status add_commands(const Command *parent, Str *out) {
    int widest = 0;
    for (const Command *const *c = parent->sub; *c; c++) {
        int n = (int)strlen((*c)->name);
        if (n > widest) widest = n;
    }
    TRY_RETURN(str_printf(out, "\nCommands:\n"));
    for (const Command *const *c = parent->sub; *c; c++)
        TRY_RETURN(str_printf(out, "  %-*s  %s\n", widest, (*c)->name, (*c)->summary));
    return TANE_OK;
}

static Status add_help(const Command *c, const char *title, Str *out) {
    TRY_RETURN(str_printf(out, "%s: %s\n", title, c->summary));
    if (c->examples) TRY_RETURN(str_printf(out, "\nExamples:\n%s", c->examples));
    if (c->usage) TRY_RETURN(str_printf(out, "\nUsage: %s\n", c->usage));
    if (c->sub) TRY_RETURN(add_commands(c, out));
    if (c->options) {
        TRY_RETURN(str_add(out, "\n", 1));
        TRY_RETURN(option_help(c->options, false, out));
    }
    return c->details ? str_printf(out, "\n%s", c->details) : TANE_OK;
}

/* words: the command and subcommand asked about, none for tane itself. */
static Status print_help(FILE *stream, int n, char *const *words) {
    Status st = TANE_OK;
    Str text = {0}, title = {0};
    const Command *c = &tane;
    TRY(str_printf(&title, "tane"));
    for (int i = 0; i < n; i++) {
        const Command *next = find(c, words[i]);
        if (!next) TRY(unknown_command(c, words[i]));
        TRY(str_printf(&title, " %s", next->name));
        c = next;
        if (!c->sub) break;
    }
    TRY(add_help(c, title.text, &text));
    fputs(text.text, stream);
out:
    str_free(&text);
    str_free(&title);
    return st;
}

/* ---- running ---- */

static Status run(int argc, char **argv) {
    const Command *c = &tane;
    int at = 1;
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        printf("tane %s\n", TANE_VERSION);
        return TANE_OK;
    }
    if (argc > 1 && strcmp(argv[1], "help") == 0) return print_help(stdout, argc - 2, argv + 2);
    while (c->sub) {
        if (at >= argc) {
            TRY_RETURN(print_help(stderr, at - 1, argv + 1));
            return cli_usage(c, "which command?");
        }
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) break;
        const Command *next = find(c, argv[at]);
        if (!next) return unknown_command(c, argv[at]);
        c = next;
        at++;
    }
    if (asks_for_help(argc - at, argv + at)) return print_help(stdout, at - 1, argv + 1);
    return c->run(c, argc - at, argv + at);
}

/* A file opened later must not land on descriptor 0, 1 or 2 and receive messages meant for the terminal. */
static void open_standard_streams(void) {
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2) close(fd);
}

/* A reader that has gone away (`tane runs list | head`) is no failure; a full disk is. */
static Status close_output(Status st) {
    errno = 0;
    bool failed = fflush(stdout) != 0;
    int reason = errno;
    struct pollfd pipe = {.fd = STDOUT_FILENO, .events = POLLOUT};
    bool gone = reason == EPIPE || (poll(&pipe, 1, 0) == 1 && (pipe.revents & POLLERR));
    if (st != TANE_OK || gone || !(failed || ferror(stdout))) return st;
    return FAIL(reason == ENOSPC ? TANE_ENOSPC : TANE_EIO, "could not write to standard output%s%s",
                reason ? ": " : "", reason ? strerror(reason) : "");
}

/* Threads that wait for each other spin before they sleep. By libgomp's own choice they spin about a millisecond, which
 * on a machine that has other work to do made training forty times slower (docs/speed.md); a few microseconds serve
 * as well. It reads its environment before main: hence once more from the start. */
static void spin_briefly(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "1000", 1) == 0) execv("/proc/self/exe", argv); /* if it fails, as it was */
}

int main(int argc, char **argv) {
    spin_briefly(argv);
    signal(SIGPIPE, SIG_IGN);
    open_standard_streams();
    Status st = close_output(run(argc, argv));
    int code = cli_exit_code(st);
    if (st != TANE_OK) fprintf(stderr, "tane: %s\n", err_message());
    gemm_shutdown();
    return code;
}
