/* What op_cross_entropy records, as every device's kernels find it in node->args, node->in and node->out. */
#ifndef OPS_CROSS_ENTROPY_H
#define OPS_CROSS_ENTROPY_H

#include "device/gemm.h"
#include "ops/ops.h"

enum { X, W, LABELS, LOSS_SCALE, CROSS_ENTROPY_INPUTS };
enum { LOSSES, HITS, CROSS_ENTROPY_OUTPUTS };

struct Matmul;

/* smoothing is recorded; the device's plan fills in the rest. */
typedef struct CrossEntropyArgs {
    float smoothing;
    int64_t chunk; /* rows whose logits exist at a time */
    union {
        struct {
            Gemm logits, dx, dw;
            size_t gathered, gemm; /* scratch offsets; logits come first */
        } cpu;
        struct {
            int64_t stride; /* elements between rows of logits */
            int64_t kept;   /* elements of a row that stay in shared memory between the sweeps */
            const struct Matmul *logits[2], *dx[2], *dw[2]; /* of a chunk, and of the last one when it is shorter */
            size_t matmul;                                  /* scratch offset; logits come first */
        } cuda;
    };
} CrossEntropyArgs;

#endif
