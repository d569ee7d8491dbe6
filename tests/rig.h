/* A test bench for ops: a tape with named inputs and outputs, on the CPU between pages that cannot be touched.
 *
 * A trainable input comes to the ops as an activation (through an embedding of row numbers) or as a parameter; after a
 * run both have their gradient in fp32 in `grad`. An output's gradient is what the test says (`seed`). Before each run
 * the memory is filled with NaN and integers of -1, so that nobody lives on what an earlier run left.
 *
 * Tensors' data is the device's memory: rig_upload and rig_download move it, whatever the device.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "base/rng.h"
#include "ops/backend.h"
#include "ops/node.h"
#include "ops/ops.h"
#include "support.h"

enum { RIG_INPUTS = 64, RIG_OUTPUTS = 6 };

typedef struct RigInput {
    char name[32];
    Tensor *param;
    int64_t n;
    float *grad; /* of the last run, in ordinary memory; NULL: not trainable */
} RigInput;

typedef struct RigOutput {
    char name[32];
    Tensor *tensor, *grad; /* grad is NULL where the tape has none */
    void *seed; /* of the gradient's type */
    int64_t n;
} RigOutput;

typedef struct RigBlock {
    struct RigBlock *next;
    void *memory; /* on a device that is not the host */
} RigBlock;

typedef struct Rig {
    Device *device;
    Tape *tape;
    DType dtype;
    DType grad_dtype; /* of parameters' gradients: fp32, unless the test says otherwise after rig_new */
    bool with_grad;
    Arena arena;
    RigBlock *blocks;
    RigInput in[RIG_INPUTS];
    RigOutput out[RIG_OUTPUTS];
    int n_in, n_out;
    uint8_t *map, *memory;
    size_t map_size, bytes;
} Rig;

void rig_new(Rig *r, Device *device, DType dtype, bool with_grad);
void rig_free(Rig *r);

/* The types that a device computes in are fp32, bf16 and, not on all, fp16. */
static inline int rig_last_type(const Device *device) { return device->has_fp16 ? DTYPE_F16 : DTYPE_BF16; }

/* Values are copied and rounded to the rig's dtype: fp32, bf16 or fp16. */
Tensor *rig_param(Rig *r, const char *name, int rank, const int64_t *shape, const float *values, bool trainable);
/* (B, T, C) as an op's output. */
Tensor *rig_activation(Rig *r, const char *name, int64_t b, int64_t t, int64_t c, const float *values);
Tensor *rig_ints(Rig *r, const char *name, int rank, const int64_t *shape, const int32_t *values);
Tensor *rig_floats(Rig *r, const char *name, int rank, const int64_t *shape, const float *values); /* fp32 in any rig */
/* An empty tensor of the rig's dtype that the test owns: a KV cache. */
Tensor *rig_buffer(Rig *r, const char *name, int rank, const int64_t *shape);

/* Keeps the tensor to the end of the run; seed (may be NULL) is its gradient. */
void rig_output(Rig *r, const char *name, Tensor *x, const float *seed);

Status rig_plan(Rig *r); /* plans and binds */
void rig_ready(Rig *r);  /* the same, and it must succeed */
void rig_poison(Rig *r);
Status rig_try(Rig *r, const TapeRun *run); /* poison, forward, seeds, backward */
void rig_run(Rig *r, const TapeRun *run);   /* the same, and it must succeed */

/* Memory of the device for a tensor that the test owns, until rig_free. */
void rig_place(Rig *r, Tensor *x);
/* Fills the whole tensor with the bytes of `from`, or with one byte. */
void rig_upload(Rig *r, Tensor *x, const void *from);
void rig_fill(Rig *r, Tensor *x, int byte);
/* A copy of the tensor's bytes in the rig's arena. */
void *rig_download(Rig *r, const Tensor *x);

RigInput *rig_input(Rig *r, const char *name);
/* Other values of an input, rounded as the first ones were. */
void rig_set(Rig *r, RigInput *in, const float *values);
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
