/* Learning-rate schedules, as transformers has them. */
#ifndef TRAIN_SCHEDULE_H
#define TRAIN_SCHEDULE_H

#include "train/options.h"

/* Warm-up steps of a run of `total`: the option itself, or its share of total, rounded up. */
int64_t schedule_warmup(const TrainOptions *options, int64_t total);

/* The rate with which step `step` (0-based) updates, of `total`. */
double schedule_lr(const TrainOptions *options, int64_t step, int64_t total);

#endif
