/* Warnings about runs that go wrong quietly. See watch.h. */
#include "train/watch.h"

#include <math.h>
#include <stdio.h>

enum { FIRST_STEPS = 20, TIMED_STEPS = 20, LONG_HOURS = 3 };
static const double MUST_FALL = 0.02; /* share of the first loss */

static bool loss_is_stuck(Watch *w, char *text, size_t size) {
    if (!w->fresh || w->steps != w->patience || w->recent < (1 - MUST_FALL) * w->first) return false;
    snprintf(
        text, size,
        "the loss does not fall: %.3f in the first steps, %.3f after %lld. Is learning_rate=%g too small (or so large "
        "that it jumps), are many rows the same, do `tane data show`'s tokens make sense?",
        w->first, w->recent, (long long)w->steps, w->learning_rate);
    return true;
}

static bool takes_long(Watch *w, double seconds_left, char *text, size_t size) {
    if (!w->may_be_slow || w->steps != TIMED_STEPS || seconds_left < 3600.0 * LONG_HOURS) return false;
    snprintf(
        text, size,
        "about %.0f hours to go on this CPU: a run like this is for a GPU. `tane doctor` says why none is used here; a "
        "smaller model, max_length or max_steps makes it shorter",
        seconds_left / 3600);
    return true;
}

bool watch_step(Watch *w, double loss, double seconds_left, char *text, size_t size) {
    if (!isfinite(loss)) return false;
    w->steps++;
    if (w->steps <= FIRST_STEPS) w->first += (loss - w->first) / (double)w->steps;
    w->recent = w->steps <= FIRST_STEPS ? w->first : w->recent + (loss - w->recent) / FIRST_STEPS;
    return loss_is_stuck(w, text, size) || takes_long(w, seconds_left, text, size);
}
