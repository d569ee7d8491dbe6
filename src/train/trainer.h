/* A training run from options to a folder of checkpoints.
 *
 * The library says nothing itself: what happens goes to callbacks, and into OUTPUT_DIR/metrics.jsonl and the database.
 */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "base/dtype.h"
#include "train/options.h"

/* What the run is and what it takes, known before the first step. Bytes. */
typedef struct TrainPlan {
    const char *output_dir, *backend, *model_type;
    DType compute_dtype;
    int threads;
    int64_t parameters, rows, tokens, width, vocab_size;
    int64_t steps_per_epoch, total_steps, first_step;
    size_t weights, gradients, optimizer, activations, scratch, data, total, available;
    double limit_flops; /* measured rate of matrix products, 0 without a progress callback */
} TrainPlan;

typedef struct TrainProgress {
    int64_t step, total_steps;
    double epoch, loss, learning_rate, grad_norm;
    double tokens_per_second, seconds_left, limit_share; /* tokens: without padding */
    double best; /* of metric_for_best_model, NaN before the first evaluation */
} TrainProgress;

typedef struct TrainEvaluation {
    int64_t step;
    double loss;        /* NaN: no eval_files */
    double exact_match; /* NaN: no eval_exact_match_files */
    bool is_best;
} TrainEvaluation;

typedef enum MessageLevel { MESSAGE_INFO, MESSAGE_WARNING } MessageLevel;

/* Any of them may be NULL. */
typedef struct TrainCallbacks {
    void *user;
    void (*plan)(void *user, const TrainPlan *plan);
    void (*progress)(void *user, const TrainProgress *progress); /* every step */
    void (*evaluation)(void *user, const TrainEvaluation *evaluation);
    void (*saved)(void *user, const char *folder, int64_t step, bool is_best);
    void (*message)(void *user, MessageLevel level, const char *text);
    bool (*stop)(void *user); /* true: save, and end with TANE_ECANCELED */
} TrainCallbacks;

typedef struct TrainResult {
    int64_t step;
    double train_loss;      /* of the last logged steps */
    double eval_loss, exact_match; /* of the last evaluation; NaN: none */
    double seconds, tokens_per_second, limit_share;
    size_t peak_memory;     /* of the process */
    char folder[512];       /* the last checkpoint */
} TrainResult;

/* `recipe_path` names the run where the options do not (may be NULL). With options.resume it goes on from the last
 * checkpoint bit for bit; without, an output_dir that already holds checkpoints is an error. */
Status train_run(OptionSet *set, const char *recipe_path, const TrainCallbacks *callbacks, TrainResult *result);

/* Only the plan: nothing is trained or written. */
Status train_plan(OptionSet *set, const char *recipe_path, TrainPlan *plan);

#endif
