/* `tane eval`: its options, and what its parts have in common. */
#ifndef CLI_EVAL_CONFIG_H
#define CLI_EVAL_CONFIG_H

#include "base/json.h"
#include "cli/cli.h"
#include "cli/eval_before.h"
#include "data/options.h"
#include "eval/exact_match.h"
#include "eval/metric.h"
#include "eval/perplexity.h"
#include "infer/open.h"

typedef struct EvalConfig {
    StringList data;
    const char *metric, *extract, *compare, *out, *tokenizer, *compute_dtype, *device, *db, *run;
    int64_t limit, batch_size, max_new_tokens, context, stride, threads;
    double at_least;
    bool json;
    DataOptions rows; /* those that concern questions and texts; the others have their defaults */
} EvalConfig;

extern const OptionTable eval_options;

/* A job: what is measured on which model with which files. */
typedef struct Evaluation {
    const EvalConfig *config;
    OpenModel open;
    Metric metric;
    char **files; /* what the patterns of --data name, in `arena` */
    size_t n_files;
    RowFormatOptions format; /* texts in `arena` */
    const char *separator;   /* of documents */
    Arena arena;
} Evaluation;

/* All that results depend on, for a results file. *out is a new reference. */
Status eval_settings(const Evaluation *e, json_t **out);

/* ---- reports: a table or JSON on stdout, a line on stderr */
Status eval_print_match(const Evaluation *e, const EvalBefore *before, const MatchReport *report);
Status eval_print_perplexity(const Evaluation *e, const PerplexityReport *report);
/* The wrong answers with what the model said, as rows like those asked. */
Status eval_write_wrong(const char *path, const MatchReport *report);

/* ---- runs */
typedef struct EvalScore {
    const char *name;
    double value;
} EvalScore;
/* Scores go to the run that --run names, or that the model belongs to; a model without one is fine. */
Status eval_record(const Evaluation *e, const EvalScore *scores, size_t n);

#endif
