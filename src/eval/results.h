/* The results file of an evaluation: a line of settings, then a line for each item (a question, a window of text) as it
 * is done, so that one that was interrupted goes on behind what is there.
 *
 *   {"tane_eval": 1, "model": "runs/math/step-000500", ...}
 *   {"id": 17, "file": "test.jsonl", "line": 18, ..., "said": "..."}
 *
 * Each line goes to the system at once: what was done survives the death of the process, whatever kills it. A last line
 * without its end is dropped. Lines are in the order in which items were done, and sorted when all are.
 */
#ifndef EVAL_RESULTS_H
#define EVAL_RESULTS_H

#include "base/json.h"

typedef struct Results Results;

/* settings: a flat JSON object of all that results depend on. A file that is there must have been begun with the same:
 * else TANE_EINVAL says which one differs. */
Status results_open(Results **out, const char *path, const json_t *settings);
const char *results_path(const Results *results);
/* Settings' value for a file: its size and when it was changed. */
Status results_file_stamp(const char *path, Str *out);

/* What is there already: each item's line, with its id below n_ids. `where` ("results.jsonl:7") begins messages about a
 * line. */
typedef Status (*ResultTake)(void *user, int64_t id, const json_t *line, const char *where);
Status results_read(const Results *results, int64_t n_ids, ResultTake take, void *user);
/* TANE_EFORMAT: the taker has seen this id before. */
Status results_twice(const char *where, int64_t id);

/* Adds {"id": id, ...}, packed by results_set. Takes over `line`; `whole` is false when a results_set was. */
Status results_add(Results *results, json_t *line, bool whole);
/* A member; false when there is no memory for it or for the object. */
static inline bool results_set(json_t *line, const char *key, json_t *value) {
    return !json_object_set_new(line, key, value);
}
/* All items are there: sorts the lines by id. */
Status results_sort(Results *results);
/* What was added is on the disk when this returns TANE_OK. *results is NULL afterwards; NULL is fine. */
Status results_close(Results **results);

#endif
