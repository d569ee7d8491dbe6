/* What op_cross_entropy records, as every device's kernels find it in node->args, node->in and node->out. */
#ifndef OPS_CROSS_ENTROPY_H
#define OPS_CROSS_ENTROPY_H

#include "device/gemm.h"
#include "ops/ops.h"

enum { X, W, LABELS, LOSS_SCALE, CROSS_ENTROPY_INPUTS };
enum { LOSSES, HITS, CROSS_ENTROPY_OUTPUTS };

struct Matmul;

typedef struct CrossEntropyCpu {
    Gemm logits, dx, dw;
    size_t gathered, gemm; /* scratch offsets; logits come first */
} CrossEntropyCpu;

typedef struct CrossEntropyCuda {
    int64_t stride; /* elements between rows of logits */
    int threads, rows,
        kept; /* the kernel over logits: threads and rows of a block, elements of a row in shared memory */
    const struct Matmul *logits[2], *dx[2], *dw[2]; /* of a chunk, and of the last one when that is shorter */
    size_t matmul, side;                            /* scratch offsets; logits come first */
    bool fork;                                      /* dw runs beside dx */
} CrossEntropyCuda;

/* smoothing and softcap are recorded; the device's plan fills in the rest. */
typedef struct CrossEntropyArgs {
    float smoothing, softcap;
    int64_t chunk; /* rows whose logits exist at a time */
    union {
        CrossEntropyCpu cpu;
        CrossEntropyCuda cuda;
    };
} CrossEntropyArgs;

#endif
