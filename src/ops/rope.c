/* Rotary position embedding of queries and keys, half-split form:
 *
 *   (a, b) = (x[i], x[i + R/2])  ->  (a cos - b sin, b cos + a sin)   with cos, sin of position * frequency[i]
 *
 * R, the width of the table, may be less than the head's D: elements from R on pass through, as values do. Backward
 * rotates the other way. Works in place where the tape allows.
 */
#include "ops/node.h"
#include "ops/rope.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_rope(Tape *t, Tensor *qkv, Tensor *positions, Tensor *cos_sin, int heads, int kv_heads, int head_dim) {
    if (!tape_ok(t)) return NULL;
    if (tensor_width(qkv) != (heads + 2 * kv_heads) * head_dim || cos_sin->shape[1] % 2 ||
        cos_sin->shape[1] > head_dim || tensor_count(positions) != tensor_rows(qkv))
        return tape_fail(t, "rope: qkv is (..., %lld), which is not (%d + 2 x %d) heads of %d, %lld of them rotated",
                         (long long)tensor_width(qkv), heads, kv_heads, head_dim, (long long)cos_sin->shape[1]);
    RopeArgs args = {heads, kv_heads, head_dim};
    Tensor *out = tape_activation(t, "rope", qkv->dtype, qkv->rank, qkv->shape);
    Tensor *in[] = {qkv, positions, cos_sin};
    return tape_record(t, OP_rope, &args, sizeof args, in, 3, &out, 1) ? out : NULL;
}
#endif

static Status plan(Node *node) {
    if (node->in[QKV]->dtype != DTYPE_F32 && node->in[QKV]->dtype != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "rope: no %s kernel on the CPU", dtype_name(node->in[QKV]->dtype));
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "rope: qkv may have one consumer only");
    node->inplace[0] = QKV + 1;
    node->inplace_grad[QKV] = 1;
    node->scratch_bytes = (size_t)omp_get_max_threads() * (size_t)tensor_width(node->in[QKV]) * 4;
    return TANE_OK;
}

static Status rotate(const Node *node, const void *from, void *to, float direction) {
    const RopeArgs *args = node->args;
    const Tensor *qkv = node->in[QKV], *table = node->in[COS_SIN];
    const int32_t *position = node->in[POSITIONS]->data;
    int64_t rows = tensor_rows(qkv), width = tensor_width(qkv), half = table->shape[1] / 2;
    int64_t rotated = (int64_t)(args->heads + args->kv_heads) * args->head_dim, n = from == to ? rotated : width;
    DType type = qkv->dtype;
    for (int64_t i = 0; i < rows; i++)
        if (position[i] < 0 || position[i] >= table->shape[0])
            return FAIL(TANE_EINVAL, "position %d is outside the model's context of %lld", position[i],
                        (long long)table->shape[0]);
#pragma omp parallel if (rows * width > 16384)
    {
        float *x = (float *)node->scratch + omp_get_thread_num() * width;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            const float *cs = (const float *)table->data + position[i] * 2 * half, *sn = cs + half;
            load_row(x, row_at(from, type, i * width), type, n);
            for (int64_t h = 0; h < rotated; h += args->head_dim) {
                float *restrict a = x + h, *restrict b = x + h + half;
#pragma omp simd
                for (int64_t j = 0; j < half; j++) {
                    float u = a[j], v = b[j], s = direction * sn[j];
                    a[j] = u * cs[j] - v * s;
                    b[j] = v * cs[j] + u * s;
                }
            }
            store_row(row_at_mut(to, type, i * width), x, type, n);
        }
    }
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    return rotate(node, node->in[QKV]->data, node->out[0]->data, 1.0f);
}

static Status backward(const Node *node, const TapeRun *run) {
    (void)run;
    return rotate(node, node->out[0]->grad->data, node->in[QKV]->grad->data, -1.0f);
}

OP_KERNEL(rope, plan, forward, backward)
