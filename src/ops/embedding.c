/* Embedding: x[b, t] = scale wte[token[b, t]] + wpe[position[b, t]].
 *
 * Backward: dwte[token] += scale dx, dwpe[position] += dx, rows in their order, each thread on its own columns: the sum of a
 * row is the same at any number of threads.
 */
#include "ops/embedding.h"
#include "ops/node.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_embedding(Tape *t, Tensor *tokens, Tensor *positions, Tensor *wte, Tensor *wpe, float scale) {
    if (!tape_ok(t)) return NULL;
    if (tokens->rank != 2 || wte->rank != 2 || (wpe && (wpe->rank != 2 || wpe->shape[1] != wte->shape[1])))
        return tape_fail(t, "embedding: tokens must be (B, T), wte (V, C), wpe (P, C)");
    if (wpe && (!positions || tensor_count(positions) != tensor_count(tokens)))
        return tape_fail(t, "embedding: wpe needs positions (B, T)");
    EmbeddingArgs args = {scale};
    int64_t shape[] = {tokens->shape[0], tokens->shape[1], wte->shape[1]};
    Tensor *x = tape_activation(t, "embedding", wte->dtype, 3, shape);
    Tensor *in[] = {tokens, positions, wte, wpe};
    return tape_record(t, OP_embedding, &args, sizeof args, in, 4, &x, 1) ? x : NULL;
}
#endif

static Status plan(Node *node) {
    if (node->in[WPE] && node->in[WPE]->dtype != node->in[WTE]->dtype)
        return FAIL(TANE_EUNSUPPORTED, "embedding: wte and wpe differ in type");
    DType type = node->in[WTE]->dtype;
    if (type != DTYPE_F32 && type != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "embedding: no %s kernel on the CPU; use fp32 or bf16", dtype_name(type));
    return TANE_OK;
}

static Status check_ids(const Tensor *ids, int64_t limit, const char *what) {
    const int32_t *id = ids->data;
    int64_t n = tensor_count(ids);
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= limit)
            return FAIL(TANE_EINVAL,
                        "%s %d at row %lld, place %lld is outside 0..%lld: the data and the model do not fit", what,
                        id[i], (long long)(i / tensor_width(ids)), (long long)(i % tensor_width(ids)),
                        (long long)limit - 1);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *wte = node->in[WTE], *wpe = node->in[WPE], *x = node->out[0];
    TRY_RETURN(check_ids(node->in[TOKENS], wte->shape[0], "token"));
    if (wpe) TRY_RETURN(check_ids(node->in[POSITIONS], wpe->shape[0], "position"));
    const int32_t *token = node->in[TOKENS]->data, *position = wpe ? node->in[POSITIONS]->data : NULL;
    int64_t rows = tensor_rows(x), c = tensor_width(x);
    float scale = ((const EmbeddingArgs *)node->args)->scale;
    DType type = x->dtype;
#pragma omp parallel for schedule(static) if (rows * c > 16384)
    for (int64_t i = 0; i < rows; i++) {
        char *to = row_at_mut(x->data, type, i * c);
        const char *a = row_at(wte->data, type, token[i] * c);
        if (!wpe && scale == 1.0f) {
            memcpy(to, a, (size_t)c * dtype_size(type));
            continue;
        }
        const char *b = wpe ? row_at(wpe->data, type, position[i] * c) : NULL;
        for (int64_t j = 0; j < c; j += 256) {
            float sum[256], other[256] = {0};
            int64_t n = c - j < 256 ? c - j : 256;
            load_row(sum, a + (size_t)j * dtype_size(type), type, n);
            if (b) load_row(other, b + (size_t)j * dtype_size(type), type, n);
            for (int64_t e = 0; e < n; e++) sum[e] = sum[e] * scale + other[e];
            store_row(to + (size_t)j * dtype_size(type), sum, type, n);
        }
    }
    return TANE_OK;
}

static void scatter(const Tensor *dx, const int32_t *index, Tensor *dw, float scale, bool add) {
    float *grad = dw->data;
    int64_t rows = tensor_rows(dx), c = tensor_width(dx);
    if (!add) {
#pragma omp parallel for schedule(static) if (tensor_count(dw) > 65536)
        for (int64_t v = 0; v < dw->shape[0]; v++) memset(grad + v * c, 0, (size_t)c * 4);
    }
    enum { COLUMNS = 128 };
    int64_t slices = (c + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (rows * c > 16384)
    for (int64_t s = 0; s < slices; s++) {
        int64_t from = s * COLUMNS, n = c - from < COLUMNS ? c - from : COLUMNS;
        float row[COLUMNS];
        for (int64_t i = 0; i < rows; i++) {
            load_row(row, row_at(dx->data, dx->dtype, i * c + from), dx->dtype, n);
            float *to = grad + index[i] * c + from;
#pragma omp simd
            for (int64_t e = 0; e < n; e++) to[e] += scale * row[e];
        }
    }
}

static Status backward(const Node *node, const TapeRun *run) {
    const Tensor *dx = node->out[0]->grad;
    float scale = ((const EmbeddingArgs *)node->args)->scale;
    if (node->grad_in[WTE]) scatter(dx, node->in[TOKENS]->data, node->in[WTE]->grad, scale, node_adds(node, WTE, run));
    if (node->in[WPE] && node->grad_in[WPE])
        scatter(dx, node->in[POSITIONS]->data, node->in[WPE]->grad, 1.0f, node_adds(node, WPE, run));
    return TANE_OK;
}

OP_KERNEL(embedding, plan, forward, backward)
