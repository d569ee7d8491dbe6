/* What op_attention records, as every device's kernels find it in node->args and node->in. */
#ifndef OPS_ATTENTION_H
#define OPS_ATTENTION_H

#include "ops/ops.h"

enum { QKV, STARTS, CACHE, PAST, ATTENTION_INPUTS };
enum { SAVED_STATS }; /* (B, H, T) fp32: log of the sum of exponentials */

/* First in what the devices keep there. */
typedef struct AttentionArgs {
    AttentionShape shape; /* scale is filled in; window is 0 where it hides nothing */
    const void *plan;     /* the device's: what cuDNN planned */
} AttentionArgs;

/* Elements between rows of the dropout mask: element ((b H + h) T + i) * row + j is what weight j of query i is
 * multiplied by. A multiple of the CPU's vectors and of Philox's four words. */
static inline int64_t attention_mask_row(int64_t keys) { return (keys + 15) / 16 * 16; }

#endif
