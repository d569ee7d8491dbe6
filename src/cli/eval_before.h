/* An earlier result of `tane eval --json`, to be shown beside a new one. */
#ifndef CLI_EVAL_BEFORE_H
#define CLI_EVAL_BEFORE_H

#include "base/json.h"
#include "eval/exact_match.h"

typedef struct EvalBefore {
    const char *path;
    json_t *json; /* NULL: there is none */
} EvalBefore;

Status eval_before_read(EvalBefore *before, const char *path);
/* It must be about the same questions as `now`: those of each kind are as many. */
Status eval_before_check(const EvalBefore *before, const MatchReport *now);
/* Right answers of the kind; NULL: of all. */
Status eval_before_right(const EvalBefore *before, const MatchCell *kind, int64_t *right);
/* A score by name: "gsm8k_strict". */
Status eval_before_score(const EvalBefore *before, const char *name, double *share);
void eval_before_release(EvalBefore *before);

#endif
