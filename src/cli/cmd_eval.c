/* `tane eval`: what a model gets right of a question set, or how well it predicts texts. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <string.h>

#include "cli/eval_config.h"
#include "device/cpuinfo.h"

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    { #field, OPTION_##type, offsetof(EvalConfig, field), fallback, choices, lo, hi, group, help }
/* One that has its name and meaning from data/options.def. */
#define DATA_ROW(field, type, fallback, choices, help)                                                                 \
    { #field, OPTION_##type, offsetof(EvalConfig, rows.field), fallback, choices, 0, 0, "Rows", help }

static const Option rows[] = {
    ROW(data, LIST, NULL, NULL, 0, 0, "Questions",
        "files, patterns (\"data/*.jsonl\") or folders of questions or texts (required)"),
    ROW(metric, CHOICE, "auto", "auto|exact_match|gsm8k|perplexity", 0, 0, "Questions",
        "what to measure; auto: perplexity of texts, gsm8k where right answers end with \"#### NUMBER\", else "
        "exact_match"),
    ROW(limit, INT, "0", NULL, 0, INFINITY, "Questions", "rows of each file, from its beginning; 0: all"),
    ROW(max_new_tokens, INT, "0", NULL, 0, INFINITY, "Questions",
        "longest answer in tokens; 0: a little more than the longest right one, for gsm8k at least 256"),
    ROW(context, INT, "0", NULL, 0, INFINITY, "Questions",
        "perplexity: tokens of a window; 0: the model's context, at most 4096"),
    ROW(stride, INT, "0", NULL, 0, INFINITY, "Questions",
        "perplexity: tokens from window to window, each scored once; 0: context, which is fastest; fewer give more "
        "context"),
    DATA_ROW(format, CHOICE, "auto", "auto|text|prompt|alpaca|question", "what the rows are; auto: told by their keys"),
    DATA_ROW(columns, STRING, NULL, NULL, "other names of the keys, e.g. prompt=query,completion=reply"),
    DATA_ROW(text_separator, STRING, NULL, NULL,
             "what ends a document in plain text files, e.g. \"\\n\\n\" or <|endoftext|>; without it a file is one "
             "document"),
    DATA_ROW(chat_template, STRING, NULL, NULL, "file of a chat template (Jinja) in place of the model's own"),
    DATA_ROW(system_prompt, STRING, NULL, NULL, "system message for conversations that have none"),
    DATA_ROW(chat_prompts, BOOL, "false", NULL, "prompts and questions through the chat template, as what a user says"),
    DATA_ROW(prompt_suffix, STRING, NULL, NULL, "text behind each prompt or question"),
    DATA_ROW(prompt_separator, STRING, NULL, NULL,
             "text between prompt and completion, e.g. \"\\n\"; part of the prompt"),
    DATA_ROW(add_bos, BOOL, "false", NULL, "begin each prompt and text with BOS, as the model was trained"),
    ROW(extract, STRING, NULL, NULL, 0, 0, "Results",
        "JSONL file for the questions that were answered wrongly, each with what the model said as \"model_said\""),
    ROW(compare, STRING, NULL, NULL, 0, 0, "Results",
        "an earlier result of the same questions, made with --json: the table shows both"),
    ROW(out, STRING, NULL, NULL, 0, 0, "Results",
        "JSONL file that gets each answer, or window of text, as it is done; the same command goes on behind what is "
        "there"),
    ROW(at_least, FLOAT, "0", NULL, 0, 1, "Results",
        "fail (exit code 1) when a smaller share than this is right; of gsm8k strictly"),
    ROW(json, BOOL, "false", NULL, 0, 0, "Results", "print JSON instead of a table"),
    ROW(db, STRING, NULL, NULL, 0, 0, "Results",
        "database of runs that gets the scores; default: tane.db beside the folder of the model's run"),
    ROW(run, STRING, NULL, NULL, 0, 0, "Results",
        "run that gets the scores; those of a model that is no checkpoint of it at step 0 (default of --db: "
        "runs/tane.db)"),
    ROW(batch_size, INT, "0", NULL, 0, 65536, "Machine", "questions asked, or windows computed, at a time; 0: many"),
    ROW(device, STRING, "auto", NULL, 0, 0, "Machine", "auto, cpu or cuda:N"),
    ROW(compute_dtype, CHOICE, "auto", "auto|fp32|bf16|fp16", 0, 0, "Machine",
        "type of matrix products; auto: bf16 where that is fast"),
    ROW(tokenizer, STRING, NULL, NULL, 0, 0, "Machine", "tokenizer file or folder; default: the model's own"),
    ROW(threads, INT, "0", NULL, 0, 4096, "Machine", "threads to use; 0: all cores this process may use"),
};
#undef ROW
#undef DATA_ROW

const OptionTable eval_options = {"tane eval", rows, sizeof rows / sizeof *rows};

/* All options of rows, for the defaults of those that are about training. */
#define OPTION_STRUCT DataOptions
static const Option data_rows[] = {
#include "base/option_rows.h"
#include "data/options.def"
#include "base/option_end.h"
};
static const OptionTable data_table = {"tane eval", data_rows, sizeof data_rows / sizeof *data_rows};

/* ---- progress ---- */

static volatile sig_atomic_t interrupted;
static void on_signal(int signal) {
    (void)signal;
    interrupted = 1;
}

static bool show_answers(void *user, int64_t done, int64_t right, int64_t total) {
    bool live = *(const bool *)user;
    if (live)
        fprintf(stderr, "\r%" PRId64 "/%" PRId64 "  %.2f%% right%s", done, total, 100.0 * (double)right / (double)done,
                done == total ? "\r\033[K" : "");
    return interrupted;
}

static bool show_text(void *user, double share, int64_t tokens) {
    bool live = *(const bool *)user;
    if (live) fprintf(stderr, "\r%3.0f%%  %" PRId64 " tokens%s", 100 * share, tokens, share < 1 ? "" : "\r\033[K");
    return interrupted;
}

/* ---- the two kinds of jobs ---- */

static Status finish_line(Status st, bool live) {
    if (st != TANE_OK && live) fputc('\n', stderr);
    return st;
}

static Status ask_questions(const Evaluation *e, const EvalBefore *before, Results *results) {
    const EvalConfig *c = e->config;
    Status st = TANE_OK;
    bool live = cli_is_terminal(stderr);
    Questions *q = NULL;
    MatchReport r = {0};
    StopTokens stop = stop_tokens(&e->open);
    QuestionOptions reading = {.format = &e->format, .limit = c->limit, .keep_rows = c->extract != NULL};
    ExactMatchOptions options = {.gsm8k = e->metric == METRIC_GSM8K,
                                 .slots = c->batch_size,
                                 .max_new_tokens = c->max_new_tokens,
                                 .stop = stop.ids,
                                 .n_stop = stop.n,
                                 .keep_wrong = c->extract != NULL,
                                 .results = results,
                                 .progress = show_answers,
                                 .user = &live};
    EvalScore scores[ANSWER_RULES];
    size_t n = 0;
    TRY(questions_open(&q, (const char *const *)e->files, e->n_files, &reading));
    TRY(finish_line(exact_match(q, e->open.model, &options, &r), live));
    TRY(eval_print_match(e, before, &r));
    if (c->extract) TRY(eval_write_wrong(c->extract, &r));
    for (AnswerRule rule = r.first; rule < r.end; rule++)
        scores[n++] = (EvalScore){answer_rule_name(rule), (double)r.scores[rule] / (double)r.total};
    TRY(eval_record(e, scores, n));
    if ((double)r.right < c->at_least * (double)r.total)
        st = FAIL(TANE_EINVAL, "%s: %.2f%% right, less than the %.2f%% that --at-least asks for", e->open.folder,
                  100.0 * (double)r.right / (double)r.total, 100 * c->at_least);
out:
    match_report_free(&r);
    questions_free(q);
    return st;
}

static Status measure_texts(const Evaluation *e, Results *results) {
    const EvalConfig *c = e->config;
    Status st = TANE_OK;
    bool live = cli_is_terminal(stderr);
    PerplexityReport r = {0};
    PerplexityOptions options = {.tokenizer = e->open.tokenizer,
                                 .format = c->rows.format,
                                 .columns = c->rows.columns,
                                 .separator = e->separator,
                                 .add_bos = c->rows.add_bos,
                                 .limit = c->limit,
                                 .context = c->context,
                                 .stride = c->stride,
                                 .rows = c->batch_size,
                                 .results = results,
                                 .progress = show_text,
                                 .user = &live};
    TRY(finish_line(perplexity((const char *const *)e->files, e->n_files, e->open.model, &options, &r), live));
    TRY(eval_print_perplexity(e, &r));
    EvalScore scores[] = {{"perplexity", perplexity_of(&r.all)}, {"bits_per_byte", perplexity_bits_per_byte(&r.all)}};
    TRY(eval_record(e, scores, 2));
out:
    perplexity_report_free(&r);
    return st;
}

/* ---- the command ---- */

/* Options that would do nothing are wrong usage. */
static Status check_options(const Command *self, const Evaluation *e, const EvalBefore *before) {
    const EvalConfig *c = e->config;
    if (e->metric != METRIC_PERPLEXITY) {
        if (c->context || c->stride)
            return cli_usage(self, "--%s is about perplexity, and %s has questions", c->stride ? "stride" : "context",
                             e->files[0]);
        return TANE_OK;
    }
    const char *only = before->json        ? "compare"
                       : c->extract        ? "extract"
                       : c->at_least > 0   ? "at-least"
                       : c->max_new_tokens ? "max-new-tokens"
                                           : NULL;
    return only ? cli_usage(self, "--%s is about questions, and %s has texts, whose perplexity is measured", only,
                            e->files[0])
                : TANE_OK;
}

static Status prepare(Evaluation *e, const Command *self, const char *model, const EvalBefore *before) {
    const EvalConfig *c = e->config;
    DatasetOptions data;
    TRY_RETURN(rows_files(c->data.items, c->data.n, &e->arena, &e->files, &e->n_files));
    TRY_RETURN(data_options_dataset(&c->rows, NULL, NULL, &e->arena, &data));
    e->separator = data.text_separator;
    for (e->metric = 0; e->metric < METRICS && strcmp(metric_name(e->metric), c->metric) != 0;) e->metric++;
    if (e->metric == METRICS)
        TRY_RETURN(metric_of_file(&e->metric, e->files[0], c->rows.format, c->rows.columns, e->separator));
    TRY_RETURN(check_options(self, e, before));
    TRY_RETURN(open_model(&e->open, model, c->compute_dtype, c->device, c->tokenizer));
    if (c->rows.chat_template) {
        chat_template_free(e->open.chat);
        e->open.chat = NULL;
        TRY_RETURN(
            open_template(&e->open.chat, c->rows.chat_template, NULL, e->open.tokenizer, &e->open.chat_error));
    }
    if (c->rows.chat_prompts && e->open.chat_error.code != TANE_OK && !e->open.chat)
        return err_restore(&e->open.chat_error);
    e->format = data.format;
    e->format.tokenizer = e->open.tokenizer;
    e->format.chat = e->open.chat;
    return TANE_OK;
}

static Status evaluate(const Evaluation *e, const EvalBefore *before) {
    Status st = TANE_OK;
    Results *results = NULL;
    json_t *settings = NULL;
    if (e->config->out) {
        TRY(eval_settings(e, &settings));
        TRY(results_open(&results, e->config->out, settings));
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    TRY(e->metric == METRIC_PERPLEXITY ? measure_texts(e, results) : ask_questions(e, before, results));
    TRY(results_close(&results));
out:
    json_decref(settings);
    results_close(&results);
    return st;
}

static Status run(const Command *self, int argc, char **argv) {
    EvalConfig config;
    OptionSet defaults, set;
    StringList words;
    Evaluation e = {.config = &config};
    EvalBefore before = {0};
    Status st = TANE_OK;
    TRY_RETURN(option_init(&defaults, &data_table, &config.rows));
    TRY(option_init(&set, self->options, &config));
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n != 1)
        TRY(cli_usage(self, words.n ? "one model at a time, please" : "which model? It comes in front of --data"));
    if (config.data.n == 0) TRY(cli_usage(self, "--data FILE.jsonl is missing"));
    if (config.compare) TRY(eval_before_read(&before, config.compare));
    omp_set_num_threads(config.threads ? (int)config.threads : cpu_info()->cores);
    TRY(prepare(&e, self, words.items[0], &before));
    TRY(evaluate(&e, &before));
out:
    eval_before_release(&before);
    open_model_close(&e.open);
    arena_release(&e.arena);
    option_release(&set);
    option_release(&defaults);
    return st;
}

const Command cmd_eval = {
    .name = "eval",
    .summary = "count a model's right answers to questions, or measure its perplexity on texts",
    .usage = "tane eval MODEL --data FILE [options]",
    .examples =
        "  tane eval quickstart --data math.jsonl                          the run's best model, on every problem\n"
        "  tane eval runs/math/last --data math.jsonl --extract wrong.jsonl  keep the mistakes, to train on them\n"
        "  tane eval quickstart --data math.jsonl --limit 1000 --json      a quick look, for a program\n"
        "  tane eval quickstart --data math.jsonl --json > before.json\n"
        "  tane eval finetune --data math.jsonl --compare before.json      both in one table\n"
        "  tane eval gsm8k-sft --data gsm8k/test.jsonl --out answers.jsonl  goes on after an interruption\n"
        "  tane eval gpt --data wiki.txt --context 1024 --stride 512       perplexity and bits per byte\n",
    .options = &eval_options,
    .details =
        "MODEL is a model folder, a run's folder (its best checkpoint, else its last), or the name of a run in runs/.\n"
        "exact_match: an answer is right when it is the completion, byte for byte, and ends there.\n"
        "gsm8k: the number in the answer counts, by the rules of verl and of lm-evaluation-harness.\n"
        "perplexity: of texts, in windows. docs/evaluation.md has the rules.\n",
    .run = run,
};
