/* Linear: y = x w^T + b,  x (N, K), w (M, K), b (M).
 *
 * Backward: dx = dy w;  dw = dy^T x;  db = sum over rows of dy. dw and db are fp32.
 */
#include "device/gemm.h"
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/simd.h"

enum { X, W, BIAS };

typedef struct LinearVariant {
    Gemm forward, input, weight; /* y, dx, dw */
} LinearVariant;

#ifdef OP_FRONT
Tensor *op_linear(Tape *t, Tensor *x, Tensor *w, Tensor *bias) {
    if (!tape_ok(t)) return NULL;
    if (w->rank != 2 || tensor_width(x) != w->shape[1] || (bias && tensor_count(bias) != w->shape[0]))
        return tape_fail(t, "linear %s: x is (..., %lld), but the weight takes %lld inputs", w->name ? w->name : "",
                         (long long)tensor_width(x), (long long)w->shape[1]);
    int64_t shape[TENSOR_RANK];
    for (int i = 0; i < x->rank; i++) shape[i] = x->shape[i];
    shape[x->rank - 1] = w->shape[0];
    Tensor *y = tape_activation(t, w->name, x->dtype, x->rank, shape);
    Tensor *in[] = {x, w, bias};
    LinearVariant variant = {0}; /* filled in by plan, which alone knows whether backward runs */
    return tape_record(t, OP_linear, &variant, sizeof variant, in, 3, &y, 1) ? y : NULL;
}
#endif

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static Status plan(Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W], *bias = node->in[BIAS];
    DType type = x->dtype;
    if ((type != DTYPE_F32 && type != DTYPE_BF16) || w->dtype != type || (bias && bias->dtype != type))
        return FAIL(TANE_EUNSUPPORTED, "linear %s: no CPU kernel for %s x %s", w->name ? w->name : "", dtype_name(type),
                    dtype_name(w->dtype));
    LinearVariant *v = (LinearVariant *)node->args;
    int64_t n = tensor_rows(x), k = tensor_width(x), m = w->shape[0];
    int threads = omp_get_max_threads();
    v->forward = (Gemm){.m = n,
                        .n = m,
                        .k = k,
                        .type = type,
                        .out_type = type,
                        .trans_b = true,
                        .lda = k,
                        .ldb = k,
                        .ldc = m,
                        .bias = bias != NULL};
    node->scratch_bytes = gemm_scratch(&v->forward, threads);
    if (!node->live) return TANE_OK;
    node->backward_reads_in = 1u << X | 1u << W;
    v->input = (Gemm){.m = n,
                      .n = k,
                      .k = m,
                      .type = type,
                      .out_type = type,
                      .lda = m,
                      .ldb = k,
                      .ldc = k,
                      .accumulate = node->grad_in[X] == GRAD_ADD};
    v->weight = (Gemm){
        .m = m, .n = k, .k = n, .type = type, .out_type = DTYPE_F32, .trans_a = true, .lda = m, .ldb = k, .ldc = k};
    if (node->grad_in[X]) node->scratch_bytes = most(node->scratch_bytes, gemm_scratch(&v->input, threads));
    if (node->grad_in[W]) {
        Gemm added = v->weight;
        added.accumulate = true;
        node->scratch_bytes = most(node->scratch_bytes, gemm_scratch(&v->weight, threads));
        node->scratch_bytes = most(node->scratch_bytes, gemm_scratch(&added, threads));
    }
    if (bias && node->grad_in[BIAS])
        node->scratch_bytes = most(node->scratch_bytes, (size_t)(SUM_BLOCKS * m + threads * m) * 4);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const LinearVariant *v = node->args;
    const Tensor *bias = node->in[BIAS];
    return gemm_run(&v->forward, node->in[X]->data, node->in[W]->data, node->out[0]->data, bias ? bias->data : NULL,
                    node->scratch);
}

static void bias_gradient(const Tensor *dy, float *db, bool add, float *scratch) {
    int64_t rows = tensor_rows(dy), m = tensor_width(dy);
#pragma omp parallel if (rows * m > 16384)
    {
        float *row = scratch + SUM_BLOCKS * m + omp_get_thread_num() * m;
#pragma omp for schedule(static)
        for (int block = 0; block < SUM_BLOCKS; block++) {
            float *sum = scratch + block * m;
            memset(sum, 0, (size_t)m * 4);
            for (int64_t i = block_begin(rows, block); i < block_begin(rows, block + 1); i++) {
                load_row(row, row_at(dy->data, dy->dtype, i * m), dy->dtype, m);
#pragma omp simd
                for (int64_t j = 0; j < m; j++) sum[j] += row[j];
            }
        }
    }
    sum_blocks(db, scratch, m, add);
}

static Status backward(const Node *node, const TapeRun *run) {
    const LinearVariant *v = node->args;
    const Tensor *dy = node->out[0]->grad;
    if (node->in[BIAS] && node->grad_in[BIAS])
        bias_gradient(dy, node->in[BIAS]->grad->data, node_adds(node, BIAS, run), node->scratch);
    if (node->grad_in[W]) {
        Gemm g = v->weight;
        g.accumulate = node_adds(node, W, run);
        TRY_RETURN(gemm_run(&g, dy->data, node->in[X]->data, node->in[W]->grad->data, NULL, node->scratch));
    }
    if (node->grad_in[X])
        TRY_RETURN(gemm_run(&v->input, dy->data, node->in[W]->data, node->in[X]->grad->data, NULL, node->scratch));
    return TANE_OK;
}

OP_KERNEL(linear, plan, forward, backward)
