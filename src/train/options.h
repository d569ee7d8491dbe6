/* The options of a training run: a struct and its table, both made from options.def. */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "base/option.h"
#include "data/dataset.h"

typedef struct TrainOptions {
#define BOOL(name, fallback, group, help) bool name;
#define INT(name, fallback, lo, hi, group, help) int64_t name;
#define NUMBER(name, fallback, lo, hi, group, help) double name;
#define TEXT(name, fallback, group, help) const char *name;
#define CHOICE(name, fallback, choices, group, help) const char *name;
#define LIST(name, fallback, group, help) StringList name;
#include "train/options.def"
#undef BOOL
#undef INT
#undef NUMBER
#undef TEXT
#undef CHOICE
#undef LIST
} TrainOptions;

extern const OptionTable train_options;

/* What a single row cannot check: options against each other, and against what this build can do. */
Status train_options_check(const OptionSet *set);
/* train_files with their fractions and repeats, in `arena`; the paths stay the options'. */
Status train_options_sources(const OptionSet *set, Arena *arena, DataSource **sources, size_t *n);
/* "runs/NAME" and NAME where the user gave none: from the recipe's file name. In `set`. */
Status train_options_name_run(OptionSet *set, const char *recipe_path);
/* Whether a higher metric_for_best_model is the better one. */
bool train_options_greater_is_better(const TrainOptions *options);

#endif
