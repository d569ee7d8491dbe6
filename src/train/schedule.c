/* The factor on the peak rate, by step; formulas of transformers' optimization.py. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

static int64_t share_of(double value, int64_t total) {
    return value < 1 ? (int64_t)ceil(value * (double)total) : (int64_t)value;
}

int64_t schedule_warmup(const TrainOptions *options, int64_t total) { return share_of(options->warmup_steps, total); }

static double least_factor(const TrainOptions *o) {
    return o->min_lr > 0 && o->learning_rate > 0 ? o->min_lr / o->learning_rate : o->min_lr_rate;
}

/* From 1 to `least` along half a cosine. */
static double cosine(double progress, double least) {
    if (progress > 1) progress = 1;
    return least + (1 - least) * 0.5 * (1 + cos(PI * progress));
}

static double factor(const TrainOptions *o, int64_t step, int64_t total) {
    const char *type = o->lr_scheduler_type;
    if (!strcmp(type, "constant")) return 1;
    int64_t warmup = schedule_warmup(o, total), rest = total - warmup > 1 ? total - warmup : 1;
    if (step < warmup) return (double)step / (double)warmup;
    double progress = (double)(step - warmup) / (double)rest;
    if (!strcmp(type, "constant_with_warmup")) return 1;
    if (!strcmp(type, "cosine")) return cosine(progress, 0);
    if (!strcmp(type, "cosine_with_min_lr")) return cosine(progress, least_factor(o));
    if (!strcmp(type, "warmup_stable_decay")) {
        int64_t decay = share_of(o->num_decay_steps, total), begin = total - decay > warmup ? total - decay : warmup;
        if (step < begin) return 1;
        return cosine((double)(step - begin) / (double)(total > begin ? total - begin : 1), least_factor(o));
    }
    return progress < 1 ? 1 - progress : 0; /* linear */
}

double schedule_lr(const TrainOptions *options, int64_t step, int64_t total) {
    return options->learning_rate * factor(options, step, total);
}
