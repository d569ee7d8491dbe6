/* What a person at the screen would notice, told once: a loss that does not fall, a run that takes days. */
#ifndef TRAIN_WATCH_H
#define TRAIN_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Watch {
    /* set before the first step */
    bool fresh;       /* the model starts from random weights: its loss must fall */
    bool may_be_slow; /* on the CPU because no GPU was found */
    int64_t patience; /* steps, warm-up included, after which a loss that has not fallen is strange */
    double learning_rate;
    /* its own */
    int64_t steps;
    double first, recent; /* mean loss of the first steps, and a running one */
} Watch;

/* After each step, with the mean loss and the seconds that are left. True: `text` says something worth a warning. */
bool watch_step(Watch *w, double loss, double seconds_left, char *text, size_t size);

#endif
