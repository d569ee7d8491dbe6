/* The tape: ops record themselves once for a shape; the plan places every tensor; runs replay the same addresses.
 *
 *     Tape *t;  tape_new(&t, device, true);
 *     Tensor *x = op_embedding(t, ...);  ...  Tensor *loss = op_cross_entropy(t, ...);
 *     tape_plan(t);                          // picks kernels, computes lifetimes and offsets; tape_bytes() is known
 *     tape_bind(t, memory);                  // memory of tape_bytes(t) bytes, 64-byte aligned
 *     for each step { fill the inputs; tape_forward(t, &run); tape_backward(t, &run); }
 *
 * Recording errors are sticky: after the first one every op returns NULL, and tape_plan reports it. So model code reads
 * like its formulas. A tape is used by one thread at a time.
 *
 * Memory: an activation lives from the node that writes it to the last node, forward or backward, that reads it;
 * a gradient from its first writer to the backward of its tensor's producer. Tensors whose lives do not overlap share
 * addresses. Parameters and inputs belong to their owners.
 */
#ifndef OPS_TAPE_H
#define OPS_TAPE_H

#include "base/mem.h"
#include "device/device.h"
#include "device/tensor.h"

typedef struct Tape Tape;
typedef struct Node Node;
typedef struct OpKernel OpKernel;

typedef enum OpId {
#define OP(name, diff) OP_##name,
#include "ops/ops.def"
#undef OP
    OP_COUNT
} OpId;

/* What differs from one run to the next. */
typedef struct TapeRun {
    uint64_t seed;     /* of dropout and stochastic rounding */
    uint64_t position; /* their counter: which micro-batch, or update, of the whole training this is */
    float grad_scale;  /* d(objective) / d(sum of the losses): 1 / targets of the whole step */
    bool training;     /* dropout is on */
    bool accumulate;   /* parameter gradients are added to (second and later micro-batches) */
    /* On a GPU: where kernels find seed, position and grad_scale when they run, so that a graph recorded once serves
     * every step; training and accumulate decide which kernels are queued. NULL: the tape uploads them itself. */
    const struct TapeRun *on_device;
} TapeRun;

/* with_grad: record for backward too. The device outlives the tape. */
Status tape_new(Tape **out, Device *device, bool with_grad);
void tape_free(Tape *t); /* NULL is fine */
bool tape_with_grad(const Tape *t);

/* Before recording, for decoding: products of few rows may be computed by kernels that are faster for few, and round
 * otherwise. Without it a row of a product does not depend on how many share its tape (fp32 products on a GPU apart,
 * where the library promises no order). */
void tape_few_rows(Tape *t, bool few);

/* Gradient checkpointing, chosen before recording. A recomputed node runs its forward again right before the backward of
 * its block, and what only that backward reads takes no memory in between. */
typedef enum TapeRecompute {
    RECOMPUTE_NONE,
    RECOMPUTE_CHEAP, /* norms, activations, gates, dropout: memory for a few passes over it */
    RECOMPUTE_BLOCK  /* everything in a block but its inputs */
} TapeRecompute;
void tape_recompute(Tape *t, TapeRecompute which);
/* What is recorded from here on belongs to the next block (a layer). Before the first call and in the last block, which
 * runs backward at once, nothing is recomputed. */
void tape_block(Tape *t);

/* A tensor whose memory belongs to the caller; set ->data before a run. */
Tensor *tape_external(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape);
/* A parameter: ->data and, when grads are wanted, ->grad->data (fp32) are set by its owner. */
Tensor *tape_param(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape, bool trainable);

Status tape_plan(Tape *t);
size_t tape_bytes(const Tape *t);
/* memory is the device's. */
Status tape_bind(Tape *t, void *memory);
Status tape_forward(Tape *t, const TapeRun *run);
/* Backward from the recorded loss, right after tape_forward with the same run. */
Status tape_backward(Tape *t, const TapeRun *run);

/* For reports: bytes of activations kept for backward, of scratch, and the sum without any sharing. */
typedef struct TapeReport {
    size_t planned, scratch, unshared;
    int nodes, tensors;
} TapeReport;
void tape_report(const Tape *t, TapeReport *report);
/* Seconds spent in each op since the tape was made, when timing is on (bench, --profile). */
void tape_timing(Tape *t, bool on);
void tape_times(const Tape *t, double forward[OP_COUNT], double backward[OP_COUNT]);
const char *op_name(OpId op);

#endif
