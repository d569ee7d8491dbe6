/* Dropout (Srivastava et al. 2014), inverted: y = x mask / (1 - p). Backward: dx = dy mask / (1 - p). */
#include "ops/dropout_math.h"
#include "ops/ops.h"

enum { BLOCK = 512 };

#ifdef OP_FRONT
Tensor *op_dropout(Tape *t, Tensor *x, float p) {
    if (!tape_ok(t) || p == 0.0f) return tape_ok(t) ? x : NULL;
    if (!(p > 0.0f && p < 1.0f)) return tape_fail(t, "dropout: p = %g is not in [0, 1)", (double)p);
    Tensor *y = tape_activation(t, "dropout", x->dtype, x->rank, x->shape);
    return tape_record(t, OP_dropout, &p, sizeof p, &x, 1, &y, 1) ? y : NULL;
}
#endif

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (type != DTYPE_F32 && type != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "dropout: no %s kernel on the CPU", dtype_name(type));
    node->inplace[0] = 1;
    node->inplace_grad[0] = 1;
    return TANE_OK;
}

static void apply(const Node *node, const TapeRun *run, const void *from, void *to, bool add) {
    float p = *(const float *)node->args;
    int64_t n = tensor_count(node->in[0]);
    DType type = node->in[0]->dtype;
    if (!run->training && !add) {
        if (to != from) memcpy(to, from, tensor_bytes(node->in[0]));
        return;
    }
#pragma omp parallel for schedule(static) if (n > 16384)
    for (int64_t i = 0; i < n; i += BLOCK) {
        float a[BLOCK], keep[BLOCK];
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        load_row(a, row_at(from, type, i), type, m);
        if (run->training) {
            dropout_mask(keep, m, i, p, node, run);
            for (int64_t e = 0; e < m; e++) a[e] *= keep[e];
        }
        store_row_add(row_at_mut(to, type, i), a, type, m, add, keep);
    }
}

static Status forward(const Node *node, const TapeRun *run) {
    apply(node, run, node->in[0]->data, node->out[0]->data, false);
    return TANE_OK;
}

static Status backward(const Node *node, const TapeRun *run) {
    if (node->grad_in[0]) apply(node, run, node->out[0]->grad->data, node->in[0]->grad->data, node_adds(node, 0, run));
    return TANE_OK;
}

OP_KERNEL(dropout, plan, forward, backward)
