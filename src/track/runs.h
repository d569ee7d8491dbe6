/* The record of all runs: a SQLite database with each run's recipe, parent, scores and checkpoints.
 *
 * Several processes may write at once (WAL, 10 s of patience for a lock). Lists come back as arrays in the caller's
 * arena.
 */
#ifndef TRACK_RUNS_H
#define TRACK_RUNS_H

#include "base/mem.h"

typedef struct Runs Runs;

/* With `create` the file and its folder are made; without, a missing file is TANE_ENOTFOUND. */
Status runs_open(Runs **out, const char *path, bool create);
void runs_close(Runs *runs); /* NULL is fine */

typedef struct RunStart {
    const char *name, *recipe, *output_dir;
    const char *parent; /* the model folder it starts from, or NULL; the run that wrote it becomes the parent */
} RunStart;
Status run_start(Runs *runs, const RunStart *start, int64_t *id);
/* The latest run in output_dir goes on from `step`: what it recorded behind that is dropped. TANE_ENOTFOUND: none. */
Status run_resume(Runs *runs, const char *output_dir, int64_t step, int64_t *id);
/* "done", "failed" or "stopped" */
Status run_finish(Runs *runs, int64_t id, const char *status);
Status run_score(Runs *runs, int64_t id, int64_t step, const char *name, double value);

typedef struct RunCheckpoint {
    int64_t step;
    const char *path;
    bool is_best, is_last; /* a run has one of each: setting one takes it from the others */
    double eval_loss;      /* NaN: not measured */
} RunCheckpoint;
Status run_checkpoint(Runs *runs, int64_t id, const RunCheckpoint *checkpoint);
Status run_checkpoint_removed(Runs *runs, int64_t id, int64_t step);

typedef struct RunInfo {
    int64_t id, parent_id; /* 0: no parent run */
    const char *name, *status, *created, *finished; /* finished "" while running */
    const char *parent_path;                        /* "" when made from scratch */
    const char *recipe, *output_dir, *version;
    int64_t step; /* the last one with a score or checkpoint, 0: none */
} RunInfo;

/* status is running, done, failed or stopped; interrupted for one that says running, but whose process is gone. */
Status runs_list(Runs *runs, Arena *arena, RunInfo **list, size_t *n); /* oldest first */
/* By name (the latest so called), by number ("3" or "#3"), or by output folder. TANE_ENOTFOUND suggests a near name. */
Status run_find(Runs *runs, Arena *arena, const char *name, RunInfo *out);

typedef struct RunScore {
    int64_t step;
    const char *name;
    double value; /* may be NaN */
} RunScore;
Status run_scores(Runs *runs, Arena *arena, int64_t id, RunScore **list, size_t *n);      /* by step, then name */
Status run_last_scores(Runs *runs, Arena *arena, int64_t id, RunScore **list, size_t *n); /* each name's, by name */
Status run_checkpoints(Runs *runs, Arena *arena, int64_t id, RunCheckpoint **list, size_t *n); /* by step */

#endif
