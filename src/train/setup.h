/* Everything a run holds, from its options to its memory. */
#ifndef TRAIN_SETUP_H
#define TRAIN_SETUP_H

#include "eval/exact_match.h"
#include "train/stepper.h"
#include "train/trainer.h"

typedef struct Trainer {
    OptionSet *set;
    const TrainOptions *o;
    const tane_run_callbacks *cb;
    Device *device;
    Tokenizer *tokenizer;
    ChatTemplate *chat;         /* of the rows; NULL: none */
    Dataset *train, *eval;      /* eval: NULL without eval_files */
    Layout *layout, *eval_layout;
    Questions *questions;       /* of eval_exact_match_files, or NULL */
    bool gsm8k;                 /* their answers end in "#### NUMBER": that number is compared */
    Model *model;
    Optimizer *optimizer;
    BatchTape step_tape, eval_tape;
    Stepper *stepper;
    Batch eval_batch;
    void *memory;               /* of both tapes: they never run at once; the device's */
    tane_plan plan;
    int32_t pad;
    char fingerprint[17];       /* of the training rows */
} Trainer;

/* Loads data and model, records the tapes, and fills in plan; then trainer_allocate takes the memory. */
Status trainer_prepare(Trainer *t, OptionSet *set, const char *recipe_path, const tane_run_callbacks *callbacks);
Status trainer_allocate(Trainer *t);
void trainer_release(Trainer *t);

/* Share of eval_exact_match_files' questions that the model, as it is now, answers exactly. */
Status trainer_exact_match(Trainer *t, double *share);

void trainer_message(const Trainer *t, tane_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
