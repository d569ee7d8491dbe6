/* The scores of `tane eval` in the record of runs. */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/eval_config.h"
#include "track/runs.h"

static bool same_folder(const char *a, const char *b) {
    char real_a[PATH_MAX], real_b[PATH_MAX];
    return realpath(a, real_a) && realpath(b, real_b) && strcmp(real_a, real_b) == 0;
}

/* "runs/math/step-000500" -> "runs/math" and 500; false for a folder that is no checkpoint of a run. */
static bool split_checkpoint(const char *folder, char *run, size_t size, int64_t *step) {
    const char *base = path_base(folder);
    char *end;
    if (strncmp(base, "step-", 5) != 0 || base[5] < '0' || base[5] > '9') return false;
    *step = strtoll(base + 5, &end, 10);
    if (*end || snprintf(run, size, "%.*s", (int)(base - folder), folder) >= (int)size) return false;
    size_t n = strlen(run);
    while (n > 1 && run[n - 1] == '/') run[--n] = 0;
    if (n == 0) snprintf(run, size, ".");
    return true;
}

static Status add_scores(Runs *runs, const char *db, const RunInfo *run, int64_t step, const EvalScore *scores,
                         size_t n) {
    for (size_t i = 0; i < n; i++) TRY_RETURN(run_score(runs, run->id, step, scores[i].name, scores[i].value));
    fprintf(stderr, "recorded in %s: run %s, step %" PRId64 "\n", db, run->name, step);
    return TANE_OK;
}

/* The run in this folder, if the database has it. */
static Status record_folder(const char *db, const char *folder, int64_t step, const EvalScore *scores, size_t n) {
    Status st = TANE_OK;
    Runs *runs = NULL;
    Arena arena = {0};
    RunInfo *list;
    size_t count, i;
    TRY(runs_open(&runs, db, false));
    TRY(runs_list(runs, &arena, &list, &count));
    for (i = count; i > 0 && !same_folder(list[i - 1].output_dir, folder); i--) {
    }
    if (i > 0) TRY(add_scores(runs, db, &list[i - 1], step, scores, n));
out:
    runs_close(runs);
    arena_release(&arena);
    return st;
}

/* The run that the user names: at the step of its own checkpoint; a model from elsewhere, such as the one that it
 * started from, at step 0, before its training. folder: of the run that the model is a checkpoint of, NULL: of none. */
static Status record_named(const char *db, const char *name, const char *folder, int64_t step, const EvalScore *scores,
                           size_t n) {
    Status st = TANE_OK;
    Runs *runs = NULL;
    Arena arena = {0};
    RunInfo run;
    TRY(runs_open(&runs, db, false));
    TRY(run_find(runs, &arena, name, &run));
    TRY(add_scores(runs, db, &run, folder && same_folder(run.output_dir, folder) ? step : 0, scores, n));
out:
    runs_close(runs);
    arena_release(&arena);
    return st;
}

Status eval_record(const Evaluation *e, const EvalScore *scores, size_t n) {
    const EvalConfig *c = e->config;
    char run[PATH_MAX], beside[PATH_MAX + 16];
    int64_t step = 0;
    bool checkpoint = split_checkpoint(e->open.folder, run, sizeof run, &step);
    if (c->run) return record_named(c->db ? c->db : "runs/tane.db", c->run, checkpoint ? run : NULL, step, scores, n);
    if (!checkpoint) return TANE_OK;
    snprintf(beside, sizeof beside, "%s/../tane.db", run);
    const char *slash = strrchr(run, '/');
    if (slash) snprintf(beside, sizeof beside, "%.*s/tane.db", (int)(slash - run), run);
    if (!c->db && !file_exists(beside)) return TANE_OK;
    return record_folder(c->db ? c->db : beside, run, step, scores, n);
}
