/* Gated linear unit: x = gate | up,  y = f(gate) * up.
 *
 * Backward: dgate = dy up f'(gate);  dup = dy f(gate).
 */
#include "ops/activation_math.h"
#include "ops/node.h"

enum { BLOCK = 512 };

#ifdef OP_FRONT
Tensor *op_glu(Tape *t, Tensor *x, ActivationKind kind) {
    if (!tape_ok(t)) return NULL;
    int64_t width = tensor_width(x), shape[TENSOR_RANK];
    if (width % 2) return tape_fail(t, "glu: the width %lld is odd", (long long)width);
    for (int i = 0; i < x->rank; i++) shape[i] = x->shape[i];
    shape[x->rank - 1] = width / 2;
    Tensor *y = tape_activation(t, "glu", x->dtype, x->rank, shape);
    return tape_record(t, OP_glu, &kind, sizeof kind, &x, 1, &y, 1) ? y : NULL;
}
#endif

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (type != DTYPE_F32 && type != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "glu: no %s kernel on the CPU", dtype_name(type));
    node->backward_reads_in = 1;
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    ActivationKind kind = *(const ActivationKind *)node->args;
    const Tensor *x = node->in[0], *y = node->out[0];
    int64_t rows = tensor_rows(y), f = tensor_width(y);
    DType type = x->dtype;
#pragma omp parallel for schedule(static) if (rows * f > 16384)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < f; j += BLOCK) {
            float gate[BLOCK], up[BLOCK], value[BLOCK];
            int64_t m = f - j < BLOCK ? f - j : BLOCK;
            load_row(gate, row_at(x->data, type, i * 2 * f + j), type, m);
            load_row(up, row_at(x->data, type, i * 2 * f + f + j), type, m);
            activation_rows(kind, gate, value, m);
#pragma omp simd
            for (int64_t e = 0; e < m; e++) value[e] *= up[e];
            store_row(row_at_mut(y->data, type, i * f + j), value, type, m);
        }
    return TANE_OK;
}

static Status backward(const Node *node, const TapeRun *run) {
    ActivationKind kind = *(const ActivationKind *)node->args;
    const Tensor *x = node->in[0], *dy = node->out[0]->grad, *dx = x->grad;
    if (!node->grad_in[0]) return TANE_OK;
    int64_t rows = tensor_rows(dy), f = tensor_width(dy);
    DType type = x->dtype;
    bool add = node_adds(node, 0, run);
#pragma omp parallel for schedule(static) if (rows * f > 16384)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < f; j += BLOCK) {
            float gate[BLOCK], up[BLOCK], value[BLOCK], slope[BLOCK], g[BLOCK], tmp[BLOCK];
            int64_t m = f - j < BLOCK ? f - j : BLOCK;
            load_row(gate, row_at(x->data, type, i * 2 * f + j), type, m);
            load_row(up, row_at(x->data, type, i * 2 * f + f + j), type, m);
            load_row(g, row_at(dy->data, type, i * f + j), type, m);
            activation_slopes(kind, gate, value, slope, m);
#pragma omp simd
            for (int64_t e = 0; e < m; e++) {
                slope[e] *= g[e] * up[e];
                value[e] *= g[e];
            }
            store_row_add(row_at_mut(dx->data, type, i * 2 * f + j), slope, type, m, add, tmp);
            store_row_add(row_at_mut(dx->data, type, i * 2 * f + f + j), value, type, m, add, tmp);
        }
    return TANE_OK;
}

OP_KERNEL(glu, plan, forward, backward)
