/* The table of training options, and the checks that need more than one of them. */
#include "train/options.h"

#include <math.h>
#include <string.h>

#include "base/file.h"

#define MODEL         "Model"
#define DATA          "Data"
#define TRAINING      "Training"
#define EVALUATION    "Evaluation"
#define OUTPUT        "Output"
#define MACHINE       "Machine"
#define OPTION_STRUCT TrainOptions

static const Option rows[] = {
#include "base/option_rows.h"
#include "train/options.def"
#include "base/option_end.h"
};

const OptionTable train_options = {"tane train", rows, sizeof rows / sizeof *rows};

/* "recipe.yaml:12" or "default": what an error about option `name` begins with. */
static const char *origin(const OptionSet *set, const char *name) {
    for (size_t i = 0; i < set->table->n; i++) {
        if (strcmp(set->table->rows[i].name, name) == 0 && set->origin[i]) return set->origin[i];
    }
    return "default";
}

/* ---- data ---- */

/* Number k of a list with one entry a file, one for all, or none. */
static Status list_number(const OptionSet *set, const char *name, const StringList *list, size_t files, size_t k,
                          double lo, double hi, double *out) {
    if (list->n == 0) return TANE_OK;
    if (list->n != 1 && list->n != files)
        return FAIL(TANE_EINVAL,
                    "%s: \"%s\" has %zu numbers for %zu files of \"train_files\"; give one a file, or one "
                    "for all",
                    origin(set, name), name, list->n, files);
    return option_number(name, list->items[list->n == 1 ? 0 : k], origin(set, name), lo, hi, out);
}

Status train_options_sources(const OptionSet *set, Arena *arena, DataSource **sources, size_t *n) {
    const TrainOptions *o = set->config;
    *sources = NULL;
    *n = 0;
    if (!o->train_files.n)
        return FAIL(TANE_EINVAL, "no data to train on; set \"train_files\" in the recipe or on the command line");
    TRY_RETURN(ARENA_NEW_ARRAY(arena, sources, o->train_files.n));
    for (size_t k = 0; k < o->train_files.n; k++) {
        DataSource *s = &(*sources)[k];
        *s = (DataSource){.path = o->train_files.items[k], .fraction = 1, .repeat = 1};
        TRY_RETURN(list_number(set, "train_fraction", &o->train_fraction, o->train_files.n, k, 1e-6, 1, &s->fraction));
        TRY_RETURN(list_number(set, "train_repeat", &o->train_repeat, o->train_files.n, k, 1, 1e6, &s->repeat));
    }
    *n = o->train_files.n;
    return TANE_OK;
}

DataOptions train_options_data(const TrainOptions *o) {
    return (DataOptions){
#define COPY(name)                                   .name = o->name,
#define BOOL(name, fallback, group, help)            COPY(name)
#define INT(name, fallback, lo, hi, group, help)     COPY(name)
#define TEXT(name, fallback, group, help)            COPY(name)
#define CHOICE(name, fallback, choices, group, help) COPY(name)
#include "data/options.def"
#include "base/option_end.h"
    };
}

static Status check_data(const OptionSet *set) {
    Arena arena = {0};
    DataSource *sources;
    size_t n;
    DataOptions data = train_options_data(set->config);
    TRY_RETURN(data_options_check(&data));
    Status st = train_options_sources(set, &arena, &sources, &n);
    arena_release(&arena);
    return st;
}

/* ---- the new model ---- */

static Status check_model(const OptionSet *set) {
    const TrainOptions *o = set->config;
    int64_t heads = o->num_attention_heads, kv = o->num_key_value_heads ? o->num_key_value_heads : heads;
    bool llama = strcmp(o->architecture, "llama") == 0;
    if (o->model) return TANE_OK;
    if (!o->tokenizer)
        return FAIL(TANE_EINVAL, "no \"tokenizer\"; a new model needs one (make it with `tane tokenizer train`)");
    if (o->hidden_size % heads)
        return FAIL(TANE_EINVAL, "%s: \"hidden_size\" is %lld, not a multiple of \"num_attention_heads\" (%lld)",
                    origin(set, "hidden_size"), (long long)o->hidden_size, (long long)heads);
    if (llama && o->hidden_size / heads % 2)
        return FAIL(TANE_EINVAL,
                    "%s: heads of width %lld (hidden_size / num_attention_heads) cannot be rotated in "
                    "pairs; llama needs an even width",
                    origin(set, "hidden_size"), (long long)(o->hidden_size / heads));
    if (heads % kv)
        return FAIL(TANE_EINVAL,
                    "%s: \"num_attention_heads\" is %lld, not a multiple of \"num_key_value_heads\" "
                    "(%lld)",
                    origin(set, "num_key_value_heads"), (long long)heads, (long long)kv);
    if (!llama && kv != heads)
        return FAIL(TANE_EINVAL, "%s: \"num_key_value_heads\" is for architecture llama; gpt2 has as many as heads",
                    origin(set, "num_key_value_heads"));
    if (o->max_length > o->max_position_embeddings)
        return FAIL(TANE_EINVAL, "%s: \"max_length\" (%lld) is more than \"max_position_embeddings\" (%lld)",
                    origin(set, option_is_set(set, "max_length") ? "max_length" : "max_position_embeddings"),
                    (long long)o->max_length, (long long)o->max_position_embeddings);
    return TANE_OK;
}

/* ---- evaluation ---- */

static Status check_evaluation(const OptionSet *set) {
    const TrainOptions *o = set->config;
    bool evaluates = strcmp(o->eval_strategy, "no") != 0, asks = o->eval_exact_match_files.n > 0;
    if (evaluates && !o->eval_files.n && !asks)
        return FAIL(TANE_EINVAL,
                    "%s: \"eval_strategy\" is %s, but there is nothing to evaluate; set \"eval_files\" or "
                    "\"eval_exact_match_files\"",
                    origin(set, "eval_strategy"), o->eval_strategy);
    if (o->early_stopping_patience && !evaluates)
        return FAIL(TANE_EINVAL,
                    "%s: \"early_stopping_patience\" needs evaluations; set \"eval_strategy\" to steps or "
                    "epoch",
                    origin(set, "early_stopping_patience"));
    if (o->early_stopping_patience && !o->eval_files.n && !strcmp(o->metric_for_best_model, "eval_loss"))
        return FAIL(TANE_EINVAL,
                    "%s: \"early_stopping_patience\" watches eval_loss, which needs \"eval_files\"; "
                    "set these, or \"metric_for_best_model\"",
                    origin(set, "early_stopping_patience"));
    if (o->target_exact_match > 0 && !(evaluates && asks))
        return FAIL(TANE_EINVAL, "%s: \"target_exact_match\" needs \"eval_exact_match_files\" and an \"eval_strategy\"",
                    origin(set, "target_exact_match"));
    if (!strcmp(o->metric_for_best_model, "eval_exact_match") && !(evaluates && asks))
        return FAIL(TANE_EINVAL,
                    "%s: \"metric_for_best_model\" is eval_exact_match; that needs "
                    "\"eval_exact_match_files\" and an \"eval_strategy\"",
                    origin(set, "metric_for_best_model"));
    return TANE_OK;
}

bool train_options_greater_is_better(const TrainOptions *options) {
    return strcmp(options->metric_for_best_model, "eval_exact_match") == 0;
}

/* ---- schedule, machine ---- */

static Status check_training(const OptionSet *set) {
    const TrainOptions *o = set->config;
    if (o->min_lr > 0 && o->min_lr_rate > 0)
        return FAIL(TANE_EINVAL, "%s: \"min_lr\" and \"min_lr_rate\" are both set; keep one", origin(set, "min_lr"));
    if (o->min_lr > o->learning_rate)
        return FAIL(TANE_EINVAL, "%s: \"min_lr\" (%g) is more than \"learning_rate\" (%g)", origin(set, "min_lr"),
                    o->min_lr, o->learning_rate);
    if (o->max_steps < 0 && o->num_train_epochs == 0)
        return FAIL(TANE_EINVAL, "%s: \"num_train_epochs\" is 0 and \"max_steps\" is not set: nothing to train",
                    origin(set, "num_train_epochs"));
    if (o->resume && o->resume_from_checkpoint)
        return FAIL(TANE_EINVAL, "%s: \"resume\" and \"resume_from_checkpoint\" are both set; keep one",
                    origin(set, "resume_from_checkpoint"));
    return TANE_OK;
}

static Status check_machine(const OptionSet *set) {
    const TrainOptions *o = set->config;
    if (!o->device)
        return FAIL(TANE_EINVAL, "%s: \"device\" is empty; it must be auto, cpu or cuda:N", origin(set, "device"));
    if (o->fp16 && o->bf16)
        return FAIL(TANE_EINVAL, "%s: \"fp16\" and \"bf16\" are both set; choose one", origin(set, "fp16"));
    const char *half = o->bf16 ? "bf16" : o->fp16 ? "fp16" : NULL;
    if (half && strcmp(o->compute_dtype, "auto") && strcmp(o->compute_dtype, half))
        return FAIL(TANE_EINVAL, "%s: \"%s\" is true, but \"compute_dtype\" is %s; keep one", origin(set, half), half,
                    o->compute_dtype);
    return TANE_OK;
}

Status train_options_check(const OptionSet *set) {
    TRY_RETURN(check_data(set));
    TRY_RETURN(check_model(set));
    TRY_RETURN(check_training(set));
    TRY_RETURN(check_evaluation(set));
    return check_machine(set);
}

/* ---- the run's name ---- */

Status train_options_name_run(OptionSet *set, const char *recipe_path) {
    TrainOptions *o = set->config;
    char *name, *folder;
    if (!o->run_name) {
        TRY_RETURN(arena_strdup(&set->arena, &name, recipe_path ? path_base(recipe_path) : "run"));
        char *dot = strrchr(name, '.');
        if (dot && dot != name) *dot = 0;
        o->run_name = name;
    }
    if (strchr(o->run_name, '/') || o->run_name[0] == '.')
        return FAIL(TANE_EINVAL,
                    "%s: \"run_name\" is \"%s\"; it must be a plain name, without \"/\" and not beginning "
                    "with \".\"",
                    origin(set, "run_name"), o->run_name);
    if (!o->output_dir) {
        TRY_RETURN(arena_printf(&set->arena, &folder, "runs/%s", o->run_name));
        o->output_dir = folder;
    }
    return TANE_OK;
}
