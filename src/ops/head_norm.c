/* RMSNorm of each head of queries and keys; values pass through.
 *
 *   y = x r w   with r = 1 / sqrt(mean(x^2) + eps) over the D elements of a head; w is the queries' or the keys' weight
 *   (D), which may be stored less one
 *
 * Backward, with n = x r, g = dy w: dx = r (g - n mean(g n)); dw = sum over rows and heads of dy n. It reads x; r is
 * computed again, as that is cheaper than keeping it.
 */
#include "ops/head_norm.h"
#include "ops/node.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_head_norm(Tape *t, Tensor *qkv, Tensor *q_weight, Tensor *k_weight, NormKind kind, float epsilon, int heads,
                     int kv_heads, int head_dim) {
    if (!tape_ok(t)) return NULL;
    if (kind == NORM_LAYER) return tape_fail(t, "head_norm: only RMSNorm is there, not LayerNorm");
    if (tensor_width(qkv) != (heads + 2 * kv_heads) * head_dim || tensor_count(q_weight) != head_dim ||
        tensor_count(k_weight) != head_dim)
        return tape_fail(t, "head_norm: qkv is (..., %lld), which is not (%d + 2 x %d) heads of %d; weights are (D)",
                         (long long)tensor_width(qkv), heads, kv_heads, head_dim);
    if (q_weight == k_weight)
        return tape_fail(t, "head_norm: one weight for queries and keys; its gradient would count once, not twice");
    HeadNormArgs args = {kind, epsilon, heads, kv_heads, head_dim};
    Tensor *out = tape_activation(t, "head_norm", qkv->dtype, qkv->rank, qkv->shape);
    Tensor *in[] = {qkv, q_weight, k_weight};
    return tape_record(t, OP_head_norm, &args, sizeof args, in, 3, &out, 1) ? out : NULL;
}
#endif

/* Floats of scratch for each thread: a row of x and one of dy. */
static size_t own_scratch(const Node *node) { return 2 * (size_t)tensor_width(node->in[QKV]); }

static Status plan(Node *node) {
    const HeadNormArgs *args = node->args;
    DType type = node->in[QKV]->dtype;
    if (type != DTYPE_F32 && type != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "head_norm: no %s kernel on the CPU; use fp32 or bf16", dtype_name(type));
    if (node->in[Q_WEIGHT]->dtype != type || node->in[K_WEIGHT]->dtype != type)
        return FAIL(TANE_EUNSUPPORTED, "head_norm: qkv and the weights differ in type");
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "head_norm: qkv may have one consumer only");
    if (node->live) node->backward_reads_in |= 1u << QKV;
    else node->inplace[0] = QKV + 1;
    node->inplace_grad[QKV] = 1;
    /* threads' rows | both weights | partial sums of both weights' gradients */
    node->scratch_bytes = 4 * (own_scratch(node) * (size_t)omp_get_max_threads() +
                               (size_t)args->head_dim * 2 * (1 + (node->live ? SUM_BLOCKS : 0)));
    return TANE_OK;
}

/* Both weights in fp32, as the formula has them: queries' first. */
static float *load_weights(const Node *node) {
    const HeadNormArgs *args = node->args;
    float *w = (float *)node->scratch + own_scratch(node) * (size_t)omp_get_max_threads();
    int64_t d = args->head_dim;
    for (int k = 0; k < 2; k++)
        load_row(w + k * d, node->in[Q_WEIGHT + k]->data, node->in[Q_WEIGHT + k]->dtype, d);
    for (int64_t j = 0; args->kind == NORM_RMS_ONE && j < 2 * d; j++) w[j] += 1.0f;
    return w;
}

static float inverse_rms(const float *restrict x, int64_t d, float epsilon) {
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < d; j++) square += x[j] * x[j];
    return 1.0f / sqrtf(square / (float)d + epsilon);
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const HeadNormArgs *args = node->args;
    const Tensor *qkv = node->in[QKV];
    int64_t rows = tensor_rows(qkv), width = tensor_width(qkv), d = args->head_dim, heads = args->heads;
    int64_t n = qkv->data == node->out[0]->data ? (heads + args->kv_heads) * d : width;
    const float *weights = load_weights(node);
#pragma omp parallel for schedule(static) if (rows * width > 16384)
    for (int64_t i = 0; i < rows; i++) {
        float *row = (float *)node->scratch + own_scratch(node) * (size_t)omp_get_thread_num();
        load_row(row, row_at(qkv->data, qkv->dtype, i * width), qkv->dtype, n);
        for (int64_t h = 0; h < heads + args->kv_heads; h++) {
            float *restrict x = row + h * d, r = inverse_rms(x, d, args->epsilon);
            const float *restrict w = weights + (h < heads ? 0 : d);
#pragma omp simd
            for (int64_t j = 0; j < d; j++) x[j] = x[j] * r * w[j];
        }
        store_row(row_at_mut(node->out[0]->data, qkv->dtype, i * width), row, qkv->dtype, n);
    }
    return TANE_OK;
}

/* dy becomes dx; dw gets its part. */
static void backward_head(const float *restrict x, float *restrict dy, const float *restrict w, float *restrict dw,
                          int64_t d, float epsilon) {
    float r = inverse_rms(x, d, epsilon), sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; j++) {
        float n = x[j] * r;
        dw[j] += dy[j] * n;
        sum += dy[j] * w[j] * n;
    }
    float mean = sum / (float)d;
#pragma omp simd
    for (int64_t j = 0; j < d; j++) dy[j] = r * (dy[j] * w[j] - x[j] * r * mean);
}

static Status backward(const Node *node, const TapeRun *run) {
    const HeadNormArgs *args = node->args;
    const Tensor *qkv = node->in[QKV], *dy = node->out[0]->grad, *dx = node->grad_in[QKV] ? qkv->grad : NULL;
    int64_t rows = tensor_rows(qkv), width = tensor_width(qkv), d = args->head_dim, heads = args->heads;
    const float *weights = load_weights(node);
    float *partial = (float *)weights + 2 * d; /* (2, SUM_BLOCKS, D) */
#pragma omp parallel for schedule(static) if (rows * width > 16384)
    for (int block = 0; block < SUM_BLOCKS; block++) {
        float *x = (float *)node->scratch + own_scratch(node) * (size_t)omp_get_thread_num(), *g = x + width;
        for (int k = 0; k < 2; k++) memset(partial + (k * SUM_BLOCKS + block) * d, 0, (size_t)d * 4);
        for (int64_t i = block_begin(rows, block); i < block_begin(rows, block + 1); i++) {
            load_row(x, row_at(qkv->data, qkv->dtype, i * width), qkv->dtype, width);
            load_row(g, row_at(dy->data, qkv->dtype, i * width), qkv->dtype, width);
            for (int64_t h = 0; h < heads + args->kv_heads; h++) {
                int k = h >= heads;
                backward_head(x + h * d, g + h * d, weights + k * d, partial + (k * SUM_BLOCKS + block) * d, d,
                              args->epsilon);
            }
            if (dx) store_row(row_at_mut(dx->data, qkv->dtype, i * width), g, qkv->dtype, width);
        }
    }
    for (int k = 0; k < 2; k++)
        if (node->grad_in[Q_WEIGHT + k])
            sum_blocks(node->in[Q_WEIGHT + k]->grad->data, partial + k * SUM_BLOCKS * d, d,
                       node_adds(node, Q_WEIGHT + k, run));
    return TANE_OK;
}

OP_KERNEL(head_norm, plan, forward, backward)
