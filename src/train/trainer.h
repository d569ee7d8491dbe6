/* A training run from options to a folder of checkpoints.
 *
 * The library says nothing itself: what happens goes to callbacks, and into OUTPUT_DIR/metrics.jsonl and the database.
 */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "train/options.h"

/* `recipe_path` names the run where the options do not (may be NULL). With options.resume it goes on from the last
 * checkpoint bit for bit; without, an output_dir that already holds checkpoints is an error. */
Status train_run(OptionSet *set, const char *recipe_path, const tane_run_callbacks *callbacks, tane_run_result *result);

/* Only the plan: nothing is trained or written. */
Status train_plan(OptionSet *set, const char *recipe_path, tane_plan *plan);

#endif
