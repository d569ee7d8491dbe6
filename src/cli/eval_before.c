/* Reading and searching an earlier result. See eval_before.h. */
#include "cli/eval_before.h"

#include <inttypes.h>
#include <string.h>

/* The member of "cells" for this kind, with its total; *total is 0 when there is none. */
static Status find(const EvalBefore *before, const MatchCell *kind, const json_t **found, int64_t *total) {
    const json_t *cells = json_object_get(before->json, "cells");
    size_t n = json_array_size(cells);
    const char wanted[] = {kind->op, 0};
    *found = NULL;
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *cell = json_array_get(cells, i);
        const char *op;
        int64_t digits;
        TRY_RETURN(json_get_string(cell, before->path, "operator", &op));
        TRY_RETURN(json_get_int(cell, before->path, "digits", 0, INT64_MAX, &digits));
        if (strcmp(op, kind->op ? wanted : "other") != 0 || digits != kind->digits) continue;
        *found = cell;
        return json_get_int(cell, before->path, "total", 0, INT64_MAX, total);
    }
    return TANE_OK;
}

Status eval_before_read(EvalBefore *before, const char *path) {
    Status st = TANE_OK;
    *before = (EvalBefore){.path = path};
    TRY(json_read_file(path, &before->json));
    if (!json_is_object(before->json) || !json_is_array(json_object_get(before->json, "cells")))
        TRY(FAIL(TANE_EFORMAT, "%s is not a result of `tane eval --json`: it has no \"cells\"", path));
out:
    if (st != TANE_OK) eval_before_release(before);
    return st;
}

Status eval_before_check(const EvalBefore *before, const MatchReport *now) {
    int64_t total;
    TRY_RETURN(json_get_int(before->json, before->path, "total", 0, INT64_MAX, &total));
    bool same = total == now->total;
    for (size_t i = 0; i < now->n_cells && same; i++) {
        const json_t *cell;
        TRY_RETURN(find(before, &now->cells[i], &cell, &total));
        same = total == now->cells[i].total;
    }
    if (same) return TANE_OK;
    return FAIL(TANE_EINVAL, "%s is about other questions; measure both models with the same --data and --limit",
                before->path);
}

Status eval_before_right(const EvalBefore *before, const MatchCell *kind, int64_t *right) {
    const json_t *cell = before->json;
    int64_t total;
    if (kind) TRY_RETURN(find(before, kind, &cell, &total));
    return json_get_int(cell, before->path, "right", 0, INT64_MAX, right);
}

Status eval_before_score(const EvalBefore *before, const char *name, double *share) {
    return json_get_double(before->json, before->path, name, share);
}

void eval_before_release(EvalBefore *before) {
    json_decref(before->json);
    *before = (EvalBefore){0};
}
