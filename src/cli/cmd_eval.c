/* `tane eval`: how many questions of a file a model answers exactly, by kind of problem; the mistakes as new data. */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/eval_before.h"
#include "cli/table.h"
#include "device/cpuinfo.h"
#include "eval/exact_match.h"
#include "infer/open.h"
#include "track/runs.h"

typedef struct EvalConfig {
    StringList data;
    const char *extract, *compare, *tokenizer, *compute_dtype, *device, *db;
    int64_t limit, batch_size, max_new_tokens, threads;
    double at_least;
    bool add_bos, json;
} EvalConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(EvalConfig, field), fallback, choices, lo, hi, group, help}

static const Option rows[] = {
    ROW(data, LIST, NULL, NULL, 0, 0, "Questions", "JSONL files of {\"prompt\", \"completion\"} (required)"),
    ROW(limit, INT, "0", NULL, 0, INFINITY, "Questions", "lines of each file, from its beginning; 0: all"),
    ROW(add_bos, BOOL, "false", NULL, 0, 0, "Questions", "begin each prompt with BOS, as the model was trained"),
    ROW(max_new_tokens, INT, "0", NULL, 0, INFINITY, "Questions",
        "longest answer in tokens; 0: a little more than the longest completion"),
    ROW(extract, STRING, NULL, NULL, 0, 0, "Results",
        "JSONL file for the wrong answers: {\"prompt\", \"completion\": the right one, \"model_said\"}"),
    ROW(compare, STRING, NULL, NULL, 0, 0, "Results",
        "an earlier result of the same questions, made with --json: the table shows both"),
    ROW(at_least, FLOAT, "0", NULL, 0, 1, "Results", "fail (exit code 1) when a smaller share than this is right"),
    ROW(json, BOOL, "false", NULL, 0, 0, "Results", "print JSON instead of a table"),
    ROW(db, STRING, NULL, NULL, 0, 0, "Results",
        "database of runs that gets the score; default: tane.db beside the folder of the model's run"),
    ROW(batch_size, INT, "0", NULL, 0, 65536, "Machine", "questions asked at a time; 0: many"),
    ROW(device, STRING, "auto", NULL, 0, 0, "Machine", "auto, cpu or cuda:N"),
    ROW(compute_dtype, CHOICE, "auto", "auto|fp32|bf16|fp16", 0, 0, "Machine",
        "type of matrix products; auto: bf16 where that is fast"),
    ROW(tokenizer, STRING, NULL, NULL, 0, 0, "Machine", "tokenizer file or folder; default: the model's own"),
    ROW(threads, INT, "0", NULL, 0, 4096, "Machine", "threads to use; 0: all cores this process may use"),
};
#undef ROW

static const OptionTable table = {"tane eval", rows, sizeof rows / sizeof *rows};

/* ---- progress ---- */

static volatile sig_atomic_t interrupted;
static void on_signal(int signal) {
    (void)signal;
    interrupted = 1;
}

static bool show_progress(void *user, int64_t done, int64_t right, int64_t total) {
    bool live = *(const bool *)user;
    if (live)
        fprintf(stderr, "\r%" PRId64 "/%" PRId64 "  %.2f%% right%s", done, total, 100.0 * (double)right / (double)done,
                done == total ? "\r\033[K" : "");
    return interrupted;
}

/* ---- results ---- */

static double percent(int64_t right, int64_t total) { return total ? 100.0 * (double)right / (double)total : 0; }

/* A kind of question, or all of them (kind NULL). */
static Status print_row(Table *t, const MatchReport *r, const MatchCell *kind, const EvalBefore *before) {
    MatchCell all = {.right = r->right, .total = r->total};
    const MatchCell *c = kind ? kind : &all;
    char digits[16] = "", op[] = {c->op, 0};
    if (c->digits) snprintf(digits, sizeof digits, "%d", c->digits);
    TRY_RETURN(table_cell(t, "%s", !kind ? "all" : c->op ? op : "other"));
    TRY_RETURN(table_cell(t, "%s", digits));
    TRY_RETURN(table_cell(t, "%" PRId64, c->right));
    TRY_RETURN(table_cell(t, "%" PRId64, c->total));
    if (before->json) {
        int64_t right;
        TRY_RETURN(eval_before_right(before, kind, &right));
        TRY_RETURN(table_cell(t, "%.2f%%", percent(right, c->total)));
    }
    return table_cell(t, "%.2f%%", percent(c->right, c->total));
}

static Status print_table(const EvalBefore *before, const MatchReport *r) {
    Status st = TANE_OK;
    Table t;
    bool both = before->json != NULL;
    const char *const heading[] = {"operator", "digits", "right", "total", both ? "before" : "percent", "after"};
    if (both) TRY_RETURN(eval_before_check(before, r));
    table_begin(&t, both ? "lrrrrr" : "lrrrr");
    for (int i = 0; i < (both ? 6 : 5); i++) TRY(table_cell(&t, "%s", heading[i]));
    for (size_t i = 0; i < r->n_cells; i++) TRY(print_row(&t, r, &r->cells[i], before));
    TRY(print_row(&t, r, NULL, before));
out:
    table_end(&t, stdout, "");
    return st;
}

static Status print_json(const OpenModel *open, const EvalConfig *c, const MatchReport *r) {
    Status st = TANE_OK;
    Str text = {0};
    json_t *data = json_array(), *cells = json_array();
    for (size_t i = 0; data && i < c->data.n; i++) json_array_append_new(data, json_string(c->data.items[i]));
    for (size_t i = 0; cells && i < r->n_cells; i++) {
        const MatchCell *cell = &r->cells[i];
        char op[] = {cell->op, 0};
        json_array_append_new(cells, json_pack("{s:s, s:i, s:I, s:I}", "operator", cell->op ? op : "other", "digits",
                                               cell->digits, "right", (json_int_t)cell->right, "total",
                                               (json_int_t)cell->total));
    }
    json_t *root =
        json_pack("{s:s, s:o, s:s, s:I, s:I, s:f, s:o, s:f, s:f, s:I}", "model", open->folder, "data", data,
                  "compute_dtype", dtype_name(open->model->dtype), "right", (json_int_t)r->right, "total",
                  (json_int_t)r->total, "exact_match", (double)r->right / (double)r->total, "cells", cells, "seconds",
                  r->seconds, "problems_per_second", (double)r->total / r->seconds, "memory", (json_int_t)r->bytes);
    if (!root) {
        st = FAIL(TANE_ENOMEM, "out of memory while writing the result");
        goto out;
    }
    TRY(json_write_str(&text, root));
    printf("%s\n", text.text);
out:
    json_decref(root);
    str_free(&text);
    return st;
}

static Status write_wrong(const char *path, const MatchReport *r) {
    Status st = TANE_OK;
    Str text = {0};
    for (size_t i = 0; i < r->n_wrong; i++) {
        const WrongAnswer *w = &r->wrong[i];
        TRY(str_printf(&text, "{\"prompt\":"));
        TRY(json_write_text(&text, w->prompt.text, w->prompt.n));
        TRY(str_printf(&text, ",\"completion\":"));
        TRY(json_write_text(&text, w->completion.text, w->completion.n));
        TRY(str_printf(&text, ",\"model_said\":"));
        TRY(json_write_text(&text, w->said.text, w->said.n));
        TRY(str_add(&text, "}\n", 2));
    }
    TRY(file_write_atomic(path, text.len ? text.text : "", text.len));
    fprintf(stderr, "%s: %zu wrong answers\n", path, r->n_wrong);
out:
    str_free(&text);
    return st;
}

/* ---- the run's record ---- */

static bool same_folder(const char *a, const char *b) {
    char real_a[PATH_MAX], real_b[PATH_MAX];
    return realpath(a, real_a) && realpath(b, real_b) && strcmp(real_a, real_b) == 0;
}

/* "runs/math/step-000500" -> "runs/math" and 500; false for a folder that is no checkpoint of a run. */
static bool split_checkpoint(const char *folder, char *run, size_t size, int64_t *step) {
    const char *base = path_base(folder);
    char *end;
    if (strncmp(base, "step-", 5) != 0 || base[5] < '0' || base[5] > '9') return false;
    *step = strtoll(base + 5, &end, 10);
    if (*end || snprintf(run, size, "%.*s", (int)(base - folder), folder) >= (int)size) return false;
    size_t n = strlen(run);
    while (n > 1 && run[n - 1] == '/') run[--n] = 0;
    if (n == 0) snprintf(run, size, ".");
    return true;
}

static Status record_score(const char *db, const char *run_folder, int64_t step, double score) {
    Status st = TANE_OK;
    Runs *runs = NULL;
    Arena arena = {0};
    RunInfo *list;
    size_t n, i;
    TRY(runs_open(&runs, db, false));
    TRY(runs_list(runs, &arena, &list, &n));
    for (i = n; i > 0 && !same_folder(list[i - 1].output_dir, run_folder); i--) {}
    if (i == 0) goto out;
    TRY(run_score(runs, list[i - 1].id, step, "exact_match", score));
    fprintf(stderr, "recorded in %s: run %s, step %" PRId64 "\n", db, list[i - 1].name, step);
out:
    runs_close(runs);
    arena_release(&arena);
    return st;
}

/* The score goes to the run that the model belongs to; a model without one is fine. */
static Status record(const EvalConfig *c, const char *folder, const MatchReport *r) {
    char run[PATH_MAX], beside[PATH_MAX + 16];
    int64_t step;
    if (!split_checkpoint(folder, run, sizeof run, &step)) return TANE_OK;
    snprintf(beside, sizeof beside, "%s/../tane.db", run);
    const char *slash = strrchr(run, '/');
    if (slash) snprintf(beside, sizeof beside, "%.*s/tane.db", (int)(slash - run), run);
    if (!c->db && !file_exists(beside)) return TANE_OK;
    return record_score(c->db ? c->db : beside, run, step, (double)r->right / (double)r->total);
}

/* ---- the command ---- */

static Status evaluate(const EvalConfig *c, const EvalBefore *before, const OpenModel *open, const Questions *q) {
    Status st = TANE_OK;
    MatchReport r = {0};
    bool live = cli_is_terminal(stderr);
    ExactMatchOptions options = {.slots = c->batch_size,
                                 .max_new_tokens = c->max_new_tokens,
                                 .keep_wrong = c->extract != NULL,
                                 .progress = show_progress,
                                 .user = &live};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    st = exact_match(q, open->model, &options, &r);
    if (st != TANE_OK) {
        if (live) fputc('\n', stderr);
        return st;
    }
    if (c->json)
        TRY(print_json(open, c, &r));
    else
        TRY(print_table(before, &r));
    fprintf(stderr, "%s: %" PRId64 " of %" PRId64 " right (%.2f%%) in %.1f s, %.0f problems/s, %s, memory %.0f MiB\n",
            open->folder, r.right, r.total, percent(r.right, r.total), r.seconds, (double)r.total / r.seconds,
            dtype_name(open->model->dtype), (double)r.bytes / 1048576.0);
    if (c->extract) TRY(write_wrong(c->extract, &r));
    TRY(record(c, open->folder, &r));
    if ((double)r.right < c->at_least * (double)r.total)
        st = FAIL(TANE_EINVAL, "%s: %.2f%% right, less than the %.2f%% that --at-least asks for", open->folder,
                  percent(r.right, r.total), 100 * c->at_least);
out:
    match_report_free(&r);
    return st;
}

static Status run(const Command *self, int argc, char **argv) {
    EvalConfig config;
    OptionSet set;
    StringList words;
    OpenModel open = {0};
    Questions *q = NULL;
    EvalBefore before = {0};
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = TANE_OK;
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n != 1)
        TRY(cli_usage(self, words.n ? "one model at a time, please" : "which model? It comes in front of --data"));
    if (config.data.n == 0) TRY(cli_usage(self, "--data FILE.jsonl is missing"));
    if (config.compare) TRY(eval_before_read(&before, config.compare));
    omp_set_num_threads(config.threads ? (int)config.threads : cpu_info()->cores);
    TRY(open_model(&open, words.items[0], config.compute_dtype, config.device, config.tokenizer));
    TRY(questions_load(&q, config.data.items, config.data.n, open.tokenizer, config.limit, config.add_bos));
    TRY(evaluate(&config, &before, &open, q));
out:
    eval_before_release(&before);
    questions_free(q);
    open_model_close(&open);
    option_release(&set);
    return st;
}

const Command cmd_eval = {
    .name = "eval",
    .summary = "ask a model the questions of a file and count the exact answers",
    .usage = "tane eval MODEL --data FILE.jsonl [options]",
    .examples =
        "  tane eval quickstart --data math.jsonl                          the run's best model, on every problem\n"
        "  tane eval runs/math/last --data math.jsonl --extract wrong.jsonl  keep the mistakes, to train on them\n"
        "  tane eval quickstart --data math.jsonl --limit 1000 --json      a quick look, for a program\n"
        "  tane eval quickstart --data math.jsonl --json > before.json\n"
        "  tane eval finetune --data math.jsonl --compare before.json      both in one table\n",
    .options = &table,
    .details =
        "MODEL is a model folder, a run's folder (its best checkpoint, else its last), or the name of a run in runs/.\n"
        "An answer is right when it is the completion, byte for byte, and ends there.\n",
    .run = run,
};
