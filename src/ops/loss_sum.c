/* The sum of the losses of a micro-batch, and the first that is not finite: all that the host reads of a step.
 * Summed in order, in fp64. */
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_loss_sum(Tape *t, Tensor *losses) {
    if (!tape_ok(t)) return NULL;
    if (losses->dtype != DTYPE_F32)
        return tape_fail(t, "loss_sum: losses must be fp32, these are %s", dtype_name(losses->dtype));
    int64_t shape[] = {2};
    Tensor *sum = tape_activation(t, "loss_sum", DTYPE_F32, 1, shape);
    if (sum) sum->keep = true;
    return tape_record(t, OP_loss_sum, NULL, 0, &losses, 1, &sum, 1) ? sum : NULL;
}
#endif

static Status plan(Node *node) {
    (void)node;
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const float *losses = node->in[0]->data;
    float *out = node->out[0]->data;
    int64_t n = tensor_count(node->in[0]), bad = -1;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)losses[i];
        if (bad < 0 && !isfinite(losses[i])) bad = i;
    }
    out[0] = (float)sum;
    out[1] = (float)bad;
    return TANE_OK;
}

OP_KERNEL_NODIFF(loss_sum, plan, forward)
