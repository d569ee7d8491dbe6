/* What op_head_norm records, as every device's kernels find it in node->args and node->in. */
#ifndef OPS_HEAD_NORM_H
#define OPS_HEAD_NORM_H

#include "ops/ops.h"

enum { QKV, Q_WEIGHT, K_WEIGHT };

typedef struct HeadNormArgs {
    NormKind kind;
    float epsilon;
    int heads, kv_heads, head_dim;
} HeadNormArgs;

#endif
