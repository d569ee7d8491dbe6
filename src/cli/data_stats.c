/* `tane data stats`: lengths, what max_length would do, packing, duplicates. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "cli/data_commands.h"
#include "cli/table.h"

typedef struct StatsConfig {
    const char *tokenizer;
    bool json;
    DataOptions rows;
} StatsConfig;

#define OPTION_STRUCT StatsConfig
static const Option stats_rows[] = {
#include "base/option_rows.h"
    TEXT(tokenizer, NULL, "Stats", "tokenizer model, or a model folder that has one (required)")
        BOOL(json, false, "Stats", "print JSON instead of tables")
#include "base/option_end.h"
#define OPTION_MEMBER rows
#include "base/option_rows.h"
#include "data/options.def"
#include "base/option_end.h"
};

static const OptionTable stats_table = {"tane data stats", stats_rows, sizeof stats_rows / sizeof *stats_rows};

/* A copy of an earlier document. */
typedef struct Hashed {
    uint64_t hash;
    int64_t index;
} Hashed;

typedef struct Stats {
    int64_t rows, tokens, trained, longer, kept, duplicates, units, width, unknown;
    int64_t twin[2];  /* the first two documents that are the same; -1: none */
    int32_t *lengths; /* (rows), rising */
} Stats;

static int by_hash(const void *a, const void *b) {
    const Hashed *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static int by_length(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void find_duplicates(Hashed *hashed, Stats *s) {
    qsort(hashed, (size_t)s->rows, sizeof *hashed, by_hash);
    s->twin[0] = s->twin[1] = -1;
    for (int64_t i = 1; i < s->rows; i++) {
        if (hashed[i].hash != hashed[i - 1].hash) continue;
        if (s->twin[1] < 0 || hashed[i].index < s->twin[1]) {
            s->twin[0] = hashed[i - 1].index;
            s->twin[1] = hashed[i].index;
        }
        s->duplicates++;
    }
}

/* What packing makes of the rows that max_length lets through (cut ones count as cut). */
static Status count_units(Stats *s, const DataOptions *o) {
    Status st = TANE_OK;
    int64_t n = 0, *unit_of = NULL;
    int32_t *lengths;
    bool cut = strcmp(o->truncation, "cut") == 0;
    TRY_RETURN(MEM_NEW_ARRAY(&lengths, (size_t)s->rows));
    for (int64_t i = 0; i < s->rows; i++) {
        bool longer = s->lengths[i] > o->max_length;
        if (!longer || cut) lengths[n++] = (longer ? (int32_t)o->max_length : s->lengths[i]) - 1;
    }
    TRY(MEM_NEW_ARRAY(&unit_of, (size_t)n));
    s->width = o->max_length;
    TRY(layout_best_fit(s->width, n, lengths, unit_of, &s->units));
    for (int64_t i = 0; i < n; i++) s->kept += lengths[i];
out:
    mem_free(unit_of);
    mem_free(lengths);
    return st;
}

static Status collect(const Dataset *set, const DataOptions *o, Stats *s) {
    Status st = TANE_OK;
    Hashed *hashed = NULL;
    *s = (Stats){.rows = dataset_rows(set), .tokens = dataset_tokens(set), .unknown = dataset_unknown(set)};
    TRY(MEM_NEW_ARRAY(&s->lengths, (size_t)s->rows));
    TRY(MEM_NEW_ARRAY(&hashed, (size_t)s->rows));
    for (int64_t i = 0; i < s->rows; i++) {
        DatasetRow row;
        dataset_row(set, i, &row);
        uint64_t h = HASH_START;
        for (int64_t t = 0; t < row.n; t++) {
            h = hash_word(h, (uint64_t)row_token(&row, t));
            s->trained += row_trained(&row, t);
        }
        hashed[i] = (Hashed){h, i};
        s->lengths[i] = (int32_t)row.n;
        s->longer += row.n > o->max_length;
    }
    find_duplicates(hashed, s);
    qsort(s->lengths, (size_t)s->rows, sizeof *s->lengths, by_length);
    TRY(count_units(s, o));
out:
    mem_free(hashed);
    return st;
}

static int32_t quantile(const Stats *s, double q) { return s->lengths[(int64_t)(q * (double)(s->rows - 1) + 0.5)]; }
static double share(int64_t part, int64_t all) { return all ? (double)part / (double)all : 0; }

/* How full the rows of each layout are. */
static double packed_share(const Stats *s) { return share(s->kept, s->units * s->width); }
static double padded_share(const Stats *s) {
    return share(s->tokens - s->rows, s->rows * ((int64_t)s->lengths[s->rows - 1] - 1));
}

static const double quantiles[] = {0, 0.1, 0.5, 0.9, 0.99, 1};
static const char *const quantile_names[] = {"min", "p10", "median", "p90", "p99", "max"};
enum { QUANTILES = 6 };

static Status print_json(const Stats *s, const DataOptions *o) {
    Status st = TANE_OK;
    Str text = {0};
    json_t *lengths = json_object(),
           *root = json_pack("{s:I, s:I, s:I, s:I, s:O, s:I, s:I, s:{s:I, s:f}, s:{s:f}, s:I}", "rows",
                             (json_int_t)s->rows, "tokens", (json_int_t)s->tokens, "trained", (json_int_t)s->trained,
                             "unknown", (json_int_t)s->unknown, "lengths", lengths, "max_length",
                             (json_int_t)o->max_length, "longer", (json_int_t)s->longer, "packing", "rows",
                             (json_int_t)s->units, "full", packed_share(s), "padding", "full", padded_share(s),
                             "duplicates", (json_int_t)s->duplicates);
    for (int i = 0; i < QUANTILES; i++)
        json_object_set_new(lengths, quantile_names[i], json_integer(quantile(s, quantiles[i])));
    json_object_set_new(lengths, "mean", json_real(share(s->tokens, s->rows)));
    if (!root) TRY(FAIL(TANE_ENOMEM, "out of memory while writing the result"));
    TRY(json_write_str(&text, root));
    printf("%s\n", text.text);
out:
    json_decref(lengths);
    json_decref(root);
    str_free(&text);
    return st;
}

static Status print_lengths(const Stats *s) {
    Status st = TANE_OK;
    Table t;
    table_begin(&t, "rrrrrrr");
    for (int i = 0; i < QUANTILES; i++) TRY(table_cell(&t, "%s", quantile_names[i]));
    TRY(table_cell(&t, "mean"));
    for (int i = 0; i < QUANTILES; i++) TRY(table_cell(&t, "%d", quantile(s, quantiles[i])));
    TRY(table_cell(&t, "%.1f", share(s->tokens, s->rows)));
out:
    table_end(&t, stdout, "  ");
    return st;
}

static Status print_text(const Dataset *set, const Stats *s, const DataOptions *o) {
    printf("%lld rows, %lld tokens, %.1f%% of them trained on", (long long)s->rows, (long long)s->tokens,
           100 * share(s->trained, s->tokens));
    if (s->unknown) printf(", %lld unknown to the tokenizer", (long long)s->unknown);
    printf("\n\nlength in tokens\n");
    TRY_RETURN(print_lengths(s));
    printf("\nmax_length %lld: %lld rows (%.2f%%) are longer\n", (long long)o->max_length, (long long)s->longer,
           100 * share(s->longer, s->rows));
    printf("layout padding: rows are %.1f%% full\n", 100 * padded_share(s));
    printf("layout packing: %lld rows of %lld, %.2f%% full\n", (long long)s->units, (long long)s->width,
           100 * packed_share(s));
    printf("%lld rows are copies of earlier ones", (long long)s->duplicates);
    if (s->duplicates) {
        DatasetRow a, b;
        dataset_row(set, s->twin[0], &a);
        dataset_row(set, s->twin[1], &b);
        printf(", the first is %s:%lld (as %s:%lld)", b.source, (long long)b.line, a.source, (long long)a.line);
    }
    printf("\n");
    return TANE_OK;
}

static Status stats(const Command *self, const StatsConfig *c, const StringList *files) {
    Status st = TANE_OK;
    DataInput in;
    Dataset *set = NULL;
    Stats s = {0};
    TRY_RETURN(data_input_open(&in, self, c->tokenizer, &c->rows, files));
    in.options.max_length = 0; /* what it would do is the question */
    TRY(dataset_load(&set, in.sources, in.n_sources, &in.options, 0));
    TRY(collect(set, &c->rows, &s));
    TRY(c->json ? print_json(&s, &c->rows) : print_text(set, &s, &c->rows));
out:
    mem_free(s.lengths);
    dataset_free(set);
    data_input_close(&in);
    return st;
}

static Status run_stats(const Command *self, int argc, char **argv) {
    StatsConfig config;
    OptionSet set;
    StringList files;
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = option_parse_args(&set, argc, argv, &files);
    if (st == TANE_OK) st = stats(self, &config, &files);
    option_release(&set);
    return st;
}

const Command cmd_data_stats = {
    .name = "stats",
    .summary = "lengths, truncation, packing and duplicates of a data set",
    .usage = "tane data stats FILE... --tokenizer MODEL [options]",
    .examples = "  tane data stats train.jsonl --tokenizer SmolLM2-135M --max-length 1024\n"
                "  tane data stats 'shards/*.parquet' --tokenizer SmolLM2-135M --json\n",
    .options = &stats_table,
    .run = run_stats,
};
