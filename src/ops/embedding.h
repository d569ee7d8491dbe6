/* What op_embedding records, as every device's kernels find it in node->args and node->in. */
#ifndef OPS_EMBEDDING_H
#define OPS_EMBEDDING_H

#include "ops/ops.h"

enum { TOKENS, POSITIONS, WTE, WPE };

typedef struct EmbeddingArgs {
    float scale; /* of wte's rows */
} EmbeddingArgs;

#endif
