/* Global norm of a flat gradient: norm = sqrt(sum of g^2), summed in fixed blocks in fp64. Not finite when any element
 * is not: op_adamw then leaves everything as it is. */
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_grad_norm(Tape *t, Tensor *grads) {
    if (!tape_ok(t)) return NULL;
    if (grads->dtype != DTYPE_F32) return tape_fail(t, "grad_norm: gradients must be fp32");
    int64_t shape[] = {1};
    Tensor *norm = tape_activation(t, "grad_norm", DTYPE_F32, 1, shape);
    if (norm) norm->keep = true;
    return tape_record(t, OP_grad_norm, NULL, 0, &grads, 1, &norm, 1) ? norm : NULL;
}
#endif

static Status plan(Node *node) {
    node->scratch_bytes = SUM_BLOCKS * sizeof(double);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const float *g = node->in[0]->data;
    double *partial = node->scratch, total = 0;
    int64_t n = tensor_count(node->in[0]);
#pragma omp parallel for schedule(static)
    for (int block = 0; block < SUM_BLOCKS; block++) {
        double sum = 0;
        for (int64_t i = block_begin(n, block), end = block_begin(n, block + 1); i < end; i += 1024) {
            int64_t stop = end - i < 1024 ? end : i + 1024;
            float part = 0;
#pragma omp simd reduction(+ : part)
            for (int64_t j = i; j < stop; j++) part += g[j] * g[j];
            sum += part;
        }
        partial[block] = sum;
    }
    for (int block = 0; block < SUM_BLOCKS; block++) total += partial[block];
    *(float *)node->out[0]->data = (float)sqrt(total);
    return TANE_OK;
}

OP_KERNEL_NODIFF(grad_norm, plan, forward)
