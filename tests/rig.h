/* A test bench for ops: a tape with named inputs and outputs, its memory between pages that cannot be touched.
 *
 * A trainable input comes to the ops as an activation (through an embedding of row numbers) or as a parameter; both have
 * their gradient in fp32 in `grad`. An output's gradient is what the test says (`seed`). Before each run the memory is
 * filled with NaN and integers of -1, so that nobody lives on what an earlier run left.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "base/rng.h"
#include "ops/node.h"
#include "ops/ops.h"
#include "support.h"

enum { RIG_INPUTS = 48, RIG_OUTPUTS = 6 };

typedef struct RigInput {
    char name[32];
    Tensor *param; /* values in ->data, gradient in ->grad->data */
    int64_t n;
    float *grad;   /* NULL: not trainable */
} RigInput;

typedef struct RigOutput {
    char name[32];
    Tensor *tensor, *grad; /* grad is NULL where the tape has none */
    float *seed;
    int64_t n;
} RigOutput;

typedef struct Rig {
    Tape *tape;
    DType dtype;
    bool with_grad;
    Arena arena;
    RigInput in[RIG_INPUTS];
    RigOutput out[RIG_OUTPUTS];
    int n_in, n_out;
    uint8_t *map, *memory;
    size_t map_size, bytes;
} Rig;

void rig_new(Rig *r, const OpKernel *const *kernels, DType dtype, bool with_grad);
void rig_free(Rig *r);

/* Values are copied and rounded to the rig's dtype. */
Tensor *rig_param(Rig *r, const char *name, int rank, const int64_t *shape, const float *values, bool trainable);
/* (B, T, C) as an op's output. */
Tensor *rig_activation(Rig *r, const char *name, int64_t b, int64_t t, int64_t c, const float *values);
Tensor *rig_ints(Rig *r, const char *name, int rank, const int64_t *shape, const int32_t *values);
Tensor *rig_floats(Rig *r, const char *name, int rank, const int64_t *shape, const float *values); /* fp32 in any rig */
/* An empty tensor of the rig's dtype that the test owns: a KV cache. */
Tensor *rig_buffer(Rig *r, const char *name, int rank, const int64_t *shape);

/* Keeps the tensor to the end of the run; seed (may be NULL) is its gradient. */
void rig_output(Rig *r, const char *name, Tensor *x, const float *seed);

void rig_ready(Rig *r); /* plans and binds */
void rig_poison(Rig *r);
Status rig_try(Rig *r, const TapeRun *run); /* poison, forward, seeds, backward */
void rig_run(Rig *r, const TapeRun *run);   /* the same, and it must succeed */

RigInput *rig_input(Rig *r, const char *name);
/* An output's values, or its gradient's, as fp32; in the rig's arena. */
float *rig_values(Rig *r, const char *name);
float *rig_array(Rig *r, int64_t n);
/* Normal deviates from a generator of the test's own. */
float *rig_normal(Rig *r, int64_t n, float scale);
extern Rng rig_rng;

/* The largest |a - b|, and the largest |b|. A NaN on one side only, or in a alone, is infinitely far. */
double rig_distance(const float *a, const float *b, int64_t n);
double rig_scale(const float *a, int64_t n);

#endif
