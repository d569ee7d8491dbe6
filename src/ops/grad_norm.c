/* Global norm of a flat gradient, and what follows from it for the update (ops/update.h): norm = sqrt(sum of g^2) /
 * loss scale, summed in fixed blocks in fp64. Not finite when any element is not: the update is then left out. */
#include "ops/node.h"
#include "ops/simd.h"
#include "ops/update.h"

enum { PART = 1024 }; /* terms of a sum in fp32 */

#ifdef OP_FRONT
Tensor *op_grad_norm(Tape *t, Tensor *grads, Tensor *hyper, Tensor *state) {
    if (!tape_ok(t)) return NULL;
    if (grads->dtype != DTYPE_F32 && grads->dtype != DTYPE_BF16)
        return tape_fail(t, "grad_norm: gradients must be fp32 or bf16, these are %s", dtype_name(grads->dtype));
    if (hyper->dtype != DTYPE_F32 || tensor_count(hyper) != UPDATE_HYPER || state->dtype != DTYPE_F32 ||
        tensor_count(state) != UPDATE_STATE)
        return tape_fail(t, "grad_norm: hyper must be %d values in fp32 and state %d", UPDATE_HYPER, UPDATE_STATE);
    int64_t shape[] = {UPDATE_CONTROL};
    Tensor *control = tape_activation(t, "control", DTYPE_F32, 1, shape), *in[] = {grads, hyper, state};
    if (control) control->keep = true;
    return tape_record(t, OP_grad_norm, NULL, 0, in, 3, &control, 1) ? control : NULL;
}
#endif

static Status plan(Node *node) {
    node->scratch_bytes = SUM_BLOCKS * sizeof(double);
    return TANE_OK;
}

static double sum_of_squares(const Tensor *grads, int64_t from, int64_t to) {
    double sum = 0;
    for (int64_t i = from; i < to; i += PART) {
        int64_t n = to - i < PART ? to - i : PART;
        float g[PART], part = 0;
        load_row(g, row_at(grads->data, grads->dtype, i), grads->dtype, n);
#pragma omp simd reduction(+ : part)
        for (int64_t j = 0; j < n; j++) part += g[j] * g[j];
        sum += (double)part;
    }
    return sum;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *grads = node->in[0];
    double *partial = node->scratch, total = 0;
    int64_t n = tensor_count(grads);
#pragma omp parallel for schedule(static)
    for (int block = 0; block < SUM_BLOCKS; block++)
        partial[block] = sum_of_squares(grads, block_begin(n, block), block_begin(n, block + 1));
    for (int block = 0; block < SUM_BLOCKS; block++) total += partial[block];
    update_control(total, node->in[1]->data, node->in[2]->data, node->out[0]->data);
    return TANE_OK;
}

OP_KERNEL_NODIFF(grad_norm, plan, forward)
