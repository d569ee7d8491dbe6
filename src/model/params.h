/* Parameters: declared once with a role, kept in one flat array, read and written under their Hugging Face names.
 *
 * Every array over parameters (weights, gradients, master weights, optimizer moments) has the same layout: `elements`
 * values, parameter p at [p.offset, p.offset + count). Offsets are multiples of 32, the gaps stay zero.
 */
#ifndef MODEL_PARAMS_H
#define MODEL_PARAMS_H

#include "base/mem.h"
#include "device/device.h"
#include "device/tensor.h"
#include "model/weights.h"

/* What a parameter is for. Weight decay, freezing and learning-rate groups go by this, never by name or index. */
typedef enum ParamRole { ROLE_EMBEDDING, ROLE_MATRIX, ROLE_BIAS, ROLE_NORM } ParamRole;

/* A stretch of a parameter's rows as it stands in a file: fused projections are stored apart. */
typedef struct ParamPart {
    const char *name;   /* e.g. "model.layers.0.self_attn.q_proj.weight" */
    int64_t row, rows;  /* of the parameter's first dimension */
    bool transposed;    /* the file has (in, out): GPT-2's Conv1D */
} ParamPart;

enum { PARAM_PARTS = 3 };

typedef struct Param {
    ParamRole role;
    int rank;
    int64_t shape[2];   /* rank 1: (n), rank 2: (out, in) */
    ParamPart parts[PARAM_PARTS];
    int n_parts;
    double init_std;    /* normal; 0: zeros, or ones for a norm's weight (init_ones) */
    bool init_ones;
    size_t offset;
    int index;
} Param;

typedef struct Params {
    Param **items;
    int n, cap;
    size_t elements;
    Arena arena;
} Params;

/* Declares a parameter of one part; more parts are added to a matrix or bias by params_part. NULL-safe chaining is not
 * needed: errors are statuses. `name` is copied. */
Status params_add(Params *set, Param **out, ParamRole role, int64_t rows, int64_t columns, double init_std);
Status params_part(Params *set, Param *p, int64_t rows, bool transposed, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
void params_release(Params *set);

static inline int64_t param_count(const Param *p) { return p->rank == 2 ? p->shape[0] * p->shape[1] : p->shape[0]; }
int64_t params_count(const Params *set); /* without gaps */

/* A flat array, in a device's memory, and its name in a file: every parameter's tensor is called NAME + suffix. */
typedef struct ParamArray {
    const char *suffix; /* "" for the weights themselves */
    void *flat;
    DType dtype; /* fp32, bf16 or fp16 */
    Device *device;
} ParamArray;

/* Fresh values into each of the arrays, rounded to its type: element e of parameter i is a function of (seed, i, e). */
Status params_init(const Params *set, uint64_t seed, const ParamArray *arrays, int n);

/* The part's shape as a file has it: (rows), (rows, in), or (in, rows) when transposed. */
void params_part_shape(const Param *p, const ParamPart *part, bool transposed, int64_t shape[2]);
/* The part's weight in a file, where it is called `name`, of the right shape. */
Status params_find(const Param *p, const ParamPart *part, Weights *file, const char *name, Weight *out);

/* Reads path (a file, or a folder with model.safetensors or its shards) into the arrays, rounded to their types; several
 * may have one suffix. Missing, unknown or misshapen tensors
 * are errors that name them; names that end in one of `ignored` (NULL-terminated, may be NULL) are passed over; `prefix`
 * (may be NULL) may be missing from the names. */
Status params_read(const Params *set, const char *path, const char *prefix, const char *const *ignored,
                   const ParamArray *arrays, int n);
/* Writes the arrays as `save` (fp32, bf16 or fp16) to path; size and hash as fw_close gives them. */
Status params_write(const Params *set, const ParamArray *arrays, int n, DType save, const char *path, uint64_t *size,
                    char *sha256_hex);

#endif
