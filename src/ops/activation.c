/* Activation: y = f(x), elementwise. Backward: dx = dy f'(x), in place of dy where the tape allows. */
#include "ops/activation_math.h"
#include "ops/node.h"

enum { BLOCK = 512 };

#ifdef OP_FRONT
Tensor *op_activation(Tape *t, Tensor *x, ActivationKind kind) {
    if (!tape_ok(t)) return NULL;
    Tensor *y = tape_activation(t, "activation", x->dtype, x->rank, x->shape);
    return tape_record(t, OP_activation, &kind, sizeof kind, &x, 1, &y, 1) ? y : NULL;
}
#endif

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (type != DTYPE_F32 && type != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "activation: no %s kernel on the CPU", dtype_name(type));
    node->backward_reads_in = 1;
    node->inplace[0] = 1;
    node->inplace_grad[0] = 1;
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    ActivationKind kind = *(const ActivationKind *)node->args;
    const Tensor *x = node->in[0], *y = node->out[0];
    int64_t n = tensor_count(x);
    DType type = x->dtype;
#pragma omp parallel for schedule(static) if (n > 16384)
    for (int64_t i = 0; i < n; i += BLOCK) {
        float a[BLOCK], b[BLOCK];
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        load_row(a, row_at(x->data, type, i), type, m);
        activation_rows(kind, a, b, m);
        store_row(row_at_mut(y->data, type, i), b, type, m);
    }
    return TANE_OK;
}

static Status backward(const Node *node, const TapeRun *run) {
    ActivationKind kind = *(const ActivationKind *)node->args;
    const Tensor *x = node->in[0], *dy = node->out[0]->grad, *dx = x->grad;
    if (!node->grad_in[0]) return TANE_OK;
    int64_t n = tensor_count(x);
    DType type = x->dtype;
    bool add = node_adds(node, 0, run);
#pragma omp parallel for schedule(static) if (n > 16384)
    for (int64_t i = 0; i < n; i += BLOCK) {
        float a[BLOCK], g[BLOCK], d[BLOCK], y[BLOCK];
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        load_row(a, row_at(x->data, type, i), type, m);
        load_row(g, row_at(dy->data, type, i), type, m);
        activation_slopes(kind, a, y, d, m);
#pragma omp simd
        for (int64_t e = 0; e < m; e++) d[e] *= g[e];
        store_row_add(row_at_mut(dx->data, type, i), d, type, m, add, g);
    }
    return TANE_OK;
}

OP_KERNEL(activation, plan, forward, backward)
