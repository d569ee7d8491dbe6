/* metrics.jsonl: what a run measured, one JSON object a line, {"step": 10, "loss": 2.31, ...}, readable while it grows.
 *
 * Each line reaches the system at once, so that a killed run loses at most the line it was writing. Going on from an
 * earlier step drops the lines behind it: the file is then what an uninterrupted run would have written.
 */
#ifndef TRACK_METRICS_H
#define TRACK_METRICS_H

#include "base/status.h"

typedef struct Metrics Metrics;

typedef struct Metric {
    const char *name; /* letters, digits, '_', '-', '.', '/' */
    double value;     /* NaN and Inf are written as null: JSON has no words for them */
} Metric;

/* from_step < 0 begins the file anew; else it keeps the lines up to that step (a missing file is begun). */
Status metrics_open(Metrics **out, const char *path, int64_t from_step);
Status metrics_write(Metrics *metrics, int64_t step, const Metric *values, size_t n);
Status metrics_close(Metrics **metrics); /* fsynced; *metrics is NULL afterwards, and may be before */

#endif
