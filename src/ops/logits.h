/* What op_logits records, as every device's kernels find it in node->args and node->in. */
#ifndef OPS_LOGITS_H
#define OPS_LOGITS_H

#include "ops/ops.h"

enum { X, W, AT };

/* First in what the devices keep there. */
typedef struct LogitsArgs {
    float softcap; /* 0: none */
} LogitsArgs;

#endif
