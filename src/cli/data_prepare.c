/* `tane data prepare`: rows to tokens, once. */
#include <math.h>
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/data_commands.h"
#include "data/prepared.h"

typedef struct PrepareConfig {
    const char *tokenizer, *out, *write;
    int64_t shard_tokens;
    double holdout;
    DataOptions rows;
} PrepareConfig;

#define OPTION_STRUCT PrepareConfig
static const Option prepare_rows[] = {
#include "base/option_rows.h"
    TEXT(tokenizer, NULL, "Prepare", "tokenizer model, or a model folder that has one (required)")
        TEXT(out, NULL, "Prepare", "folder for the tokens (required)")
            CHOICE(write, "tane", "tane|llmc|nanogpt", "Prepare",
                   "tane: shards with documents and loss masks; llmc: train_000001.bin ... and val_000000.bin; "
                   "nanogpt: train.bin and "
                   "val.bin; these two hold tokens only")
                INT(shard_tokens, 0, 0, ANY, "Prepare", "tokens of a shard; 0: 33,554,432 (llmc: 100,000,000)")
                    NUMBER(holdout, 0, 0, 0.9, "Prepare",
                           "llmc and nanogpt: the last tokens, this share of all, go to the val file")
#include "base/option_end.h"
#define OPTION_MEMBER rows
#include "base/option_rows.h"
#include "data/options.def"
#include "base/option_end.h"
};

static const OptionTable prepare_table = {"tane data prepare", prepare_rows,
                                          sizeof prepare_rows / sizeof *prepare_rows};

static volatile sig_atomic_t interrupted;
static void on_signal(int signal) {
    (void)signal;
    interrupted = 1;
}

typedef struct Progress {
    double start;
    bool live;
} Progress;

static bool progress(void *user, const char *file, size_t i, size_t n, double done, const TokenizeCounts *c) {
    const Progress *p = user;
    double seconds = clock_seconds() - p->start;
    if (p->live)
        fprintf(stderr, "\r\033[K%s (%zu/%zu)  %.0f%%  %.1fM tokens  %.0f MB/s", path_base(file), i + 1, n, 100 * done,
                (double)c->tokens / 1e6, (double)c->bytes / seconds / 1e6);
    return interrupted;
}

static void report_tokens(const char *folder, const PrepareReport *r, double seconds) {
    if (r->reused) {
        fprintf(stderr, "%s: nothing has changed, the tokens are used as they are: %lld tokens in %zu shards\n", folder,
                (long long)r->counts.tokens, r->shards);
        return;
    }
    fprintf(stderr, "%s: %lld documents, %lld tokens in %zu shards from %zu files, %.1f s, %.0f MB/s of text%s\n",
            folder, (long long)r->counts.documents, (long long)r->counts.tokens, r->shards, r->files, seconds,
            (double)r->counts.bytes / seconds / 1e6, r->resumed ? " (went on where it had stopped)" : "");
    if (r->counts.unknown)
        fprintf(stderr, "warning: %lld tokens are unknown to the tokenizer; was it made for other data?\n",
                (long long)r->counts.unknown);
}

static Status export_tokens(const DataInput *in, const PrepareConfig *c, const char *folder) {
    ExportOptions o = {.format = strcmp(c->write, "llmc") == 0 ? SHARD_LLMC : SHARD_NANOGPT,
                       .holdout = c->holdout,
                       .shard_tokens = c->shard_tokens};
    ExportReport r;
    TRY_RETURN(prepared_export(folder, in->tokenizer, c->out, &o, &r));
    fprintf(stderr, "%s: %zu files of %s, %lld tokens to train on, %lld held out\n", c->out, r.files, c->write,
            (long long)r.train, (long long)r.val);
    return TANE_OK;
}

static Status prepare_all(const DataInput *in, const PrepareConfig *c, const StringList *patterns) {
    Status st = TANE_OK;
    Arena arena = {0};
    char **files, *settings, *folder = NULL;
    size_t n;
    bool bare = strcmp(c->write, "tane") != 0;
    Progress p = {clock_seconds(), cli_is_terminal(stderr)};
    PrepareOptions o = {.tokenize = {.format = in->options.format,
                                     .text_separator = in->options.text_separator,
                                     .shard_tokens = bare ? 0 : c->shard_tokens},
                        .tokenizer = c->tokenizer,
                        .progress = progress,
                        .user = &p};
    PrepareReport r;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    TRY(rows_files(patterns->items, patterns->n, &arena, &files, &n));
    TRY(data_options_settings(&in->options, &arena, &settings));
    o.settings = settings;
    if (bare) TRY(path_join(&folder, c->out, "tokens"));
    else TRY(mem_strdup(&folder, c->out));
    st = prepare(folder, (const char *const *)files, n, &o, &r);
    if (p.live) fprintf(stderr, "\r\033[K");
    if (st == TANE_ECANCELED)
        st = FAIL(TANE_ECANCELED,
                  "stopped; what is done is kept, the same command goes on behind its last whole shard");
    TRY(st);
    report_tokens(folder, &r, clock_seconds() - p.start);
    if (bare) TRY(export_tokens(in, c, folder));
out:
    mem_free(folder);
    arena_release(&arena);
    return st;
}

static Status run_prepare(const Command *self, int argc, char **argv) {
    PrepareConfig config;
    OptionSet set;
    StringList files;
    DataInput in = {0};
    Status st = TANE_OK;
    TRY_RETURN(option_init(&set, self->options, &config));
    TRY(option_parse_args(&set, argc, argv, &files));
    if (!config.out) TRY(cli_usage(self, "--out FOLDER is missing"));
    if (config.holdout > 0 && strcmp(config.write, "tane") == 0)
        TRY(cli_usage(self, "--holdout is for --write llmc and nanogpt; tane's own training takes --eval-files"));
    TRY(data_input_open(&in, self, config.tokenizer, &config.rows, &files));
    TRY(prepare_all(&in, &config, &files));
out:
    data_input_close(&in);
    option_release(&set);
    return st;
}

const Command cmd_data_prepare = {
    .name = "prepare",
    .summary = "tokenize files once, into shards that training maps",
    .usage = "tane data prepare FILE... --tokenizer MODEL --out FOLDER [options]",
    .examples =
        "  tane data prepare 'books/*.txt.gz' --tokenizer SmolLM2-135M --out tokens\n"
        "  tane data prepare chats.parquet --tokenizer SmolLM2-135M-Instruct --assistant-only-loss --out chats\n"
        "  tane data prepare input.txt --tokenizer chars.model --write nanogpt --holdout 0.1 --no-add-eos --out data\n",
    .options = &prepare_table,
    .details =
        "Interrupted, the same command goes on behind the last whole shard; when files, tokenizer and options are the\n"
        "same as before, nothing is done again. max_length, truncation and layout are training's affair and have no\n"
        "effect here. `tane train train_files=FOLDER` uses the tokens; it checks every shard against its checksum.\n",
    .run = run_prepare,
};
