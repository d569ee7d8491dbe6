/* What op_norm records, as every device's kernels find it in node->args, node->in and node->out. */
#ifndef OPS_NORM_H
#define OPS_NORM_H

#include "ops/ops.h"

enum { X, DELTA, WEIGHT, BIAS };
enum { SUM, Y };

typedef struct NormArgs {
    NormKind kind;
    float epsilon, dropout;
} NormArgs;

#endif
