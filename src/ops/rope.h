/* What op_rope records, as every device's kernels find it in node->args and node->in. */
#ifndef OPS_ROPE_H
#define OPS_ROPE_H

#include "ops/ops.h"

enum { QKV, POSITIONS, COS_SIN };

typedef struct RopeArgs {
    int heads, kv_heads, head_dim;
} RopeArgs;

#endif
