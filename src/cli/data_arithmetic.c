/* `tane data arithmetic`: problems with answers as training data. */
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/data_commands.h"
#include "data/arithmetic.h"

typedef struct ArithmeticConfig {
    const char *out, *holdout_out, *division, *answers;
    StringList ops;
    int64_t digits, decimals, places, samples, seed;
    double holdout;
    bool negative, shuffle, balance;
} ArithmeticConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    { #field, OPTION_##type, offsetof(ArithmeticConfig, field), fallback, choices, lo, hi, group, help }

static const Option arithmetic_rows[] = {
    ROW(out, STRING, NULL, NULL, 0, 0, "Files",
        "JSONL file to write, one problem a line; - is standard output (required)"),
    ROW(holdout, FLOAT, "0", NULL, 0, 1, "Files",
        "share of the problems that goes to a second file instead, never into the first"),
    ROW(holdout_out, STRING, NULL, NULL, 0, 0, "Files", "that second file; default: OUT with .holdout before .jsonl"),
    ROW(digits, INT, "2", NULL, 1, 9, "Problems", "operands have up to so many digits before the point"),
    ROW(negative, BOOL, "false", NULL, 0, 0, "Problems", "negative operands too"),
    ROW(decimals, INT, "0", NULL, 0, 8, "Problems",
        "operands have up to so many digits behind the point; digits and decimals together at most 9"),
    ROW(ops, LIST, "+,-,*,/", NULL, 0, 0, "Problems", "operators: any of + - '*' / (quote the star)"),
    ROW(division, CHOICE, "exact", "exact|decimal|remainder", 0, 0, "Problems",
        "exact: only problems whose quotient is whole; decimal: rounded, halves away from zero; remainder: 7r2, "
        "the quotient cut toward zero and the remainder with the dividend's sign"),
    ROW(places, INT, "2", NULL, 0, 9, "Problems",
        "digits behind the point of a decimal quotient; zeros at the end are dropped"),
    ROW(answers, CHOICE, "plain", "plain|reversed|working|latex", 0, 0, "Problems",
        "reversed: last digit first, sign in front; working: steps, then =ANSWER; latex: $12 \\times (-34)=$"),
    ROW(samples, INT, "0", NULL, 0, 9e18, "Selection",
        "draw so many different problems, holdout included; 0: every problem once"),
    ROW(balance, BOOL, "false", NULL, 0, 0, "Selection", "with samples: every operator equally often"),
    ROW(shuffle, BOOL, "true", NULL, 0, 0, "Selection",
        "random order, so that any first part is a fair sample; a sample is always in random order"),
    ROW(seed, INT, "42", NULL, 0, 9e18, "Selection", "another seed: another order, sample and holdout"),
};
#undef ROW

static const OptionTable arithmetic_table = {"tane data arithmetic", arithmetic_rows,
                                             sizeof arithmetic_rows / sizeof *arithmetic_rows};

/* A file being written beside its final name, so that a failure leaves an older one as it was; or standard output. */
typedef struct Output {
    const char *path; /* NULL: not wanted */
    Str tmp;
    FileWriter *file;
    uint64_t rows;
} Output;

static Status output_open(Output *o, const char *path) {
    o->path = path;
    if (!path || strcmp(path, "-") == 0) return TANE_OK;
    TRY_RETURN(str_printf(&o->tmp, "%s.tmp", path));
    return fw_open(&o->file, o->tmp.text);
}

static Status output_line(Output *o, const Str *line) {
    o->rows++;
    if (o->file) return fw_write(o->file, line->text, line->len);
    if (fwrite(line->text, 1, line->len, stdout) != line->len) return FAIL(TANE_EIO, "cannot write to standard output");
    return TANE_OK;
}

static Status output_close(Output *o) { return o->file ? fw_close(&o->file, NULL, NULL) : TANE_OK; }
static Status output_publish(const Output *o) { return o->tmp.text ? file_rename(o->tmp.text, o->path) : TANE_OK; }

/* After success there is nothing left to do but freeing; otherwise the unfinished file goes, and the error stays. */
static void output_release(Output *o, bool failed) {
    fw_abort(&o->file);
    if (failed && o->tmp.text) {
        ErrorCopy reason;
        err_save(&reason);
        (void)file_unlink(o->tmp.text);
        (void)err_restore(&reason);
    }
    str_free(&o->tmp);
}

static Status read_ops(const StringList *words, char ops[5]) {
    size_t n = 0;
    for (size_t i = 0; i < words->n; i++) {
        const char *word = words->items[i];
        if (strlen(word) != 1 || !strchr("+-*/", *word))
            return FAIL(TANE_EINVAL,
                        "--ops: unknown operator \"%s\"; known are + - '*' / (without the quotes the "
                        "shell puts file names in the place of *)",
                        word);
        if (memchr(ops, *word, n)) return FAIL(TANE_EINVAL, "--ops: %s is named twice", word);
        ops[n++] = *word;
    }
    ops[n] = 0;
    return TANE_OK;
}

static Status read_config(const Command *self, const ArithmeticConfig *c, ArithmeticOptions *o) {
    if (!c->out) return cli_usage(self, "--out FILE.jsonl is missing (- writes to standard output)");
    *o = (ArithmeticOptions){
        .digits = c->digits,
        .decimals = c->decimals,
        .negative = c->negative,
        .division = strcmp(c->division, "exact") == 0     ? ARITHMETIC_EXACT
                    : strcmp(c->division, "decimal") == 0 ? ARITHMETIC_DECIMAL
                                                          : ARITHMETIC_REMAINDER,
        .places = c->places,
        .answers = strcmp(c->answers, "plain") == 0      ? ARITHMETIC_PLAIN
                   : strcmp(c->answers, "reversed") == 0 ? ARITHMETIC_REVERSED
                   : strcmp(c->answers, "working") == 0  ? ARITHMETIC_WORKING
                                                         : ARITHMETIC_LATEX,
        .samples = (uint64_t)c->samples,
        .seed = (uint64_t)c->seed,
        .holdout = c->holdout,
        .shuffle = c->shuffle,
        .balance = c->balance,
    };
    return read_ops(&c->ops, o->ops);
}

/* "data.jsonl" -> "data.holdout.jsonl"; another ending is kept in front. */
static Status holdout_path(const ArithmeticConfig *c, Str *out) {
    if (c->holdout_out) return str_printf(out, "%s", c->holdout_out);
    size_t n = strlen(c->out);
    if (n > 6 && strcmp(c->out + n - 6, ".jsonl") == 0) n -= 6;
    return str_printf(out, "%.*s.holdout.jsonl", (int)n, c->out);
}

static Status write_problems(const Arithmetic *set, Output *main_file, Output *held_file) {
    Status st = TANE_OK;
    Str line = {0};
    for (uint64_t k = 0; k < arithmetic_drawn(set); k++) {
        ArithmeticProblem problem;
        bool held;
        arithmetic_draw(set, k, &problem, &held);
        line.len = 0;
        TRY(arithmetic_line(set, &problem, &line));
        TRY(output_line(held ? held_file : main_file, &line));
    }
out:
    str_free(&line);
    return st;
}

static Status make_arithmetic(const Command *self, const ArithmeticConfig *c) {
    Status st = TANE_OK;
    ArithmeticOptions options;
    Arithmetic *set = NULL;
    Output main_file = {0}, held_file = {0};
    Str held_path = {0};
    TRY(read_config(self, c, &options));
    if (c->holdout > 0 && strcmp(c->out, "-") == 0 && !c->holdout_out)
        TRY(cli_usage(self, "--holdout with --out - needs --holdout-out FILE.jsonl for the second file"));
    if (c->holdout_out && !(c->holdout > 0)) TRY(cli_usage(self, "--holdout-out needs --holdout, e.g. --holdout 0.05"));
    TRY(arithmetic_new(&set, &options));
    TRY(holdout_path(c, &held_path));
    if (strcmp(held_path.text, c->out) == 0) TRY(cli_usage(self, "--holdout-out and --out are the same file"));
    TRY(output_open(&main_file, c->out));
    TRY(output_open(&held_file, c->holdout > 0 ? held_path.text : NULL));
    TRY(write_problems(set, &main_file, &held_file));
    TRY(output_close(&main_file));
    TRY(output_close(&held_file));
    TRY(output_publish(&held_file));
    TRY(output_publish(&main_file));
    fprintf(stderr, "%s: %llu problems", strcmp(c->out, "-") ? c->out : "standard output",
            (unsigned long long)main_file.rows);
    if (held_file.path) fprintf(stderr, "; %s: %llu held out", held_file.path, (unsigned long long)held_file.rows);
    fprintf(stderr, "\n");
out:
    output_release(&main_file, st != TANE_OK);
    output_release(&held_file, st != TANE_OK);
    str_free(&held_path);
    arithmetic_free(set);
    return st;
}

static Status run_arithmetic(const Command *self, int argc, char **argv) {
    ArithmeticConfig config;
    OptionSet set;
    StringList words;
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = option_parse_args(&set, argc, argv, &words);
    if (st == TANE_OK && words.n)
        st = cli_usage(self, "unexpected word \"%s\"; every setting has a name, see --help", words.items[0]);
    if (st == TANE_OK) st = make_arithmetic(self, &config);
    option_release(&set);
    return st;
}

const Command cmd_data_arithmetic = {
    .name = "arithmetic",
    .summary = "arithmetic problems with answers, as prompt-completion JSONL",
    .usage = "tane data arithmetic --out FILE.jsonl [options]",
    .examples = "  tane data arithmetic --digits 2 --negative --out math.jsonl            every problem once\n"
                "  tane data arithmetic --digits 1 --ops + - '*' --out - | head           look at some\n"
                "  tane data arithmetic --digits 3 --samples 500000 --balance --holdout 0.05 --out math3.jsonl\n"
                "  tane data arithmetic --digits 2 --ops / --division remainder --answers working --out long.jsonl\n",
    .options = &arithmetic_table,
    .details =
        "A line looks like {\"prompt\":\"12+(-34)=\",\"completion\":\"-22\"}: a negative second operand stands in\n"
        "parentheses. Every answer is computed exactly, in whole numbers.\n"
        "\n"
        "Working: steps, each ended by ';', then '=' and the answer. Signs and points are left out of the steps.\n"
        "  58+67=   8+7=15;5+6+1=12;=125              columns from the right, +1 is the carry\n"
        "  12-34=   -(34-12);4-2=2;3-1=2;=-22         first rewritten so that the larger number comes first\n"
        "  12*34=   12*4=48;12*30=360;48+360=408;=408\n"
        "  408/12=  40/12=3r4;48/12=4r0;=34\n",
    .run = run_arithmetic,
};
