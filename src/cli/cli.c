/* What all subcommands share: wrong-usage errors, exit codes, and what the streams are connected to. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool wrong_usage;

Status cli_usage(const Command *self, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    wrong_usage = true;
    return FAIL(TANE_EINVAL, "%s\nusage: %s", text, self->usage);
}

int cli_exit_code(Status status) {
    if (status == TANE_OK) return 0;
    bool options = strncmp(err_message(), OPTION_COMMAND_LINE ": ", sizeof OPTION_COMMAND_LINE + 1) == 0;
    return status == TANE_EINVAL && (wrong_usage || options) ? 2 : 1;
}

bool cli_is_terminal(FILE *stream) { return isatty(fileno(stream)); }

bool cli_colour(FILE *stream) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return cli_is_terminal(stream) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

int cli_width(FILE *stream) {
    struct winsize size;
    bool known = cli_is_terminal(stream) && ioctl(fileno(stream), TIOCGWINSZ, &size) == 0;
    return known && size.ws_col >= 20 ? size.ws_col : 80;
}
