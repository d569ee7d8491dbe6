/* The options of a training run: a struct and its table, both made from options.def. */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "base/option.h"
#include "data/options.h"

typedef struct TrainOptions {
#include "base/option_fields.h"
#include "train/options.def"
#include "base/option_end.h"
} TrainOptions;

extern const OptionTable train_options;

/* What a single row cannot check: options against each other, and against what this build can do. */
Status train_options_check(const OptionSet *set);
/* train_files with their fractions and repeats, in `arena`; the paths stay the options'. */
Status train_options_sources(const OptionSet *set, Arena *arena, DataSource **sources, size_t *n);
/* The options of rows and layouts among them. */
DataOptions train_options_data(const TrainOptions *options);
/* "runs/NAME" and NAME where the user gave none: from the recipe's file name. In `set`. */
Status train_options_name_run(OptionSet *set, const char *recipe_path);
/* Whether a higher metric_for_best_model is the better one. */
bool train_options_greater_is_better(const TrainOptions *options);

#endif
