/* Weights as files hold them, whatever the format: safetensors of Hugging Face (one file, shards, a folder) or GGUF.
 * Asked for by their Hugging Face names. Files are mapped; values are converted straight from the map.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "base/dtype.h"
#include "format/ggml.h"

typedef struct Weights Weights;

typedef struct Weight {
    const char *name, *file; /* as the file calls it; for messages */
    const void *data;
    GgmlType type;
    int rank;
    int64_t shape[2];    /* as stored, slowest first */
    bool transposed;     /* stored (in, out) */
    bool as_named;       /* stored (out, in), also where Hugging Face's file has it transposed */
    int64_t paired_rows; /* > 0: rows of each head, which the file has in pairs (0, D/2, 1, D/2 + 1, ...) */
    float plus;          /* to be added to each value */
    size_t index;        /* of the file's tensors, for weights_unused */
} Weight;

/* prefix (may be NULL) may be missing from the names in safetensors. */
Status weights_open(Weights **out, const char *path, const char *prefix);
void weights_close(Weights **weights); /* NULL is fine */
/* False when there is none. Types other than floating point are TANE_EUNSUPPORTED. */
Status weights_find(Weights *weights, const char *name, Weight *out, bool *found);
/* The error for a name that must be there: TANE_ENOTFOUND with the nearest one. */
Status weights_missing(const Weights *weights, const char *name);
/* A tensor that was never found by weights_find and does not end in one of `ignored` (NULL-terminated, may be NULL).
 * NULL: none. */
const char *weights_unused(const Weights *weights, const char *const *ignored);
const char *weights_path(const Weights *weights);

/* Rows [row, row + n) of a matrix, elements of a vector, as (out, in) of `type` (fp32, bf16 or fp16; rounded to
 * nearest): in parallel, straight from the file's map. */
void weight_rows(const Weight *w, int64_t row, int64_t n, DType type, void *out);
static inline int64_t weight_count(const Weight *w) { return w->rank == 2 ? w->shape[0] * w->shape[1] : w->shape[0]; }

#endif
