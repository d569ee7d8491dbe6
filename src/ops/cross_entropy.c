/* Final linear layer and cross-entropy as one op: the logits exist for a chunk of rows at a time.
 *
 *   logits = x w^T;  p = softmax(logits);  loss = -(1 - s) log p[label] - s mean_v log p[v]      (s = label smoothing)
 *   dlogits = scale (p - (1 - s) onehot(label) - s / V);  dx = dlogits w;  dw = dlogits^T x
 *   scale = grad_scale, times the loss scale where there is one
 *   With softcap c: logits = c tanh(x w^T / c), and dlogits times 1 - (logits / c)^2 goes on.
 *
 * Since nothing lies behind the loss, its gradients are made in the forward, chunk by chunk, while the logits are there
 * (Hsu et al. 2024, "Liger Kernel"): dw goes to its place at once, dx waits in a saved tensor for backward. Only rows
 * with a label are computed: they are gathered in front of the products.
 */
#include "ops/cross_entropy.h"
#include "ops/node.h"
#include "ops/simd.h"

enum { SAVED_DX, SAVED_ROWS };
enum { PART = 1024 }; /* terms of a sum in fp32 */

/* The logits of a chunk take at most this much. Each chunk reads the weight three times and adds to its gradient once:
 * few large chunks cost less than many small ones. */
static const size_t CHUNK_BYTES = (size_t)256 << 20;
/* Classes of a product for dx. */
enum { SLICE = 4096 };

#ifdef OP_FRONT
Tensor *op_cross_entropy(Tape *t, Tensor *x, Tensor *w, Tensor *labels, float smoothing, float softcap,
                         Tensor *loss_scale, Tensor **hits_out) {
    if (!tape_ok(t)) return NULL;
    if (w->rank != 2 || tensor_width(x) != w->shape[1] || tensor_rows(x) != tensor_count(labels))
        return tape_fail(t, "cross_entropy: x must be (B, T, C), w (V, C), labels (B, T)");
    if (w->shape[0] < 1 || !(smoothing >= 0.0f && smoothing <= 1.0f))
        return tape_fail(
            t, "cross_entropy: %lld classes, label smoothing %g; at least one class and smoothing in [0, 1] are needed",
            (long long)w->shape[0], (double)smoothing);
    if (!(softcap >= 0)) return tape_fail(t, "cross_entropy: softcap %g is negative", (double)softcap);
    if (loss_scale && (loss_scale->dtype != DTYPE_F32 || tensor_count(loss_scale) < 1))
        return tape_fail(t, "cross_entropy: the loss scale must be a number in fp32");
    CrossEntropyArgs args = {.smoothing = smoothing, .softcap = softcap};
    Tensor *losses = tape_activation(t, "losses", DTYPE_F32, labels->rank, labels->shape);
    Tensor *hits = hits_out ? tape_activation(t, "hits", DTYPE_I32, labels->rank, labels->shape) : NULL;
    Tensor *in[] = {x, w, labels, loss_scale}, *out[] = {losses, hits};
    Node *node = tape_record(t, OP_cross_entropy, &args, sizeof args, in, CROSS_ENTROPY_INPUTS, out,
                             CROSS_ENTROPY_OUTPUTS);
    if (!node) return NULL;
    losses->keep = true;
    if (hits) hits->keep = true;
    if (hits_out) *hits_out = hits;
    tape_set_loss(t, node);
    return losses;
}
#endif

static size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* As many rows as CHUNK_BYTES allow, shared out evenly over the chunks; a multiple of 64 but for a single chunk. */
static int64_t chunk_rows(int64_t rows, int64_t v) {
    int64_t most_rows = (int64_t)(CHUNK_BYTES / 4 / (size_t)v) / 64 * 64;
    if (most_rows < 64) most_rows = 64;
    if (rows <= most_rows) return rows > 0 ? rows : 1;
    int64_t chunks = (rows + most_rows - 1) / most_rows;
    return ((rows + chunks - 1) / chunks + 63) / 64 * 64;
}

static Status plan(Node *node) {
    CrossEntropyArgs *a = (CrossEntropyArgs *)node->args;
    const Tensor *x = node->in[X], *w = node->in[W];
    DType type = x->dtype;
    if ((type != DTYPE_F32 && type != DTYPE_BF16) || w->dtype != type)
        return FAIL(TANE_EUNSUPPORTED, "cross_entropy: no CPU kernel for %s x %s", dtype_name(type),
                    dtype_name(w->dtype));
    if (node->grad_in[W] && w->grad->dtype != DTYPE_F32)
        return FAIL(TANE_EUNSUPPORTED, "cross_entropy: %s gradients need a GPU; on the CPU they are fp32",
                    dtype_name(w->grad->dtype));
    int64_t rows = tensor_rows(x), c = tensor_width(x), v = w->shape[0];
    int threads = omp_get_max_threads();
    a->chunk = chunk_rows(rows, v);
    a->cpu.logits = (Gemm){.m = a->chunk,
                           .n = v,
                           .k = c,
                           .type = type,
                           .out_type = DTYPE_F32,
                           .trans_b = true,
                           .lda = c,
                           .ldb = c,
                           .ldc = v};
    /* dlogits lie in their logits' place: in bf16 each row fills the first half of its fp32 row. */
    int64_t ld = type == DTYPE_F32 ? v : 2 * v;
    a->cpu.dx = (Gemm){.m = a->chunk,
                       .n = c,
                       .k = v < SLICE ? v : SLICE,
                       .type = type,
                       .out_type = DTYPE_F32,
                       .lda = ld,
                       .ldb = c,
                       .ldc = c,
                       .accumulate = true};
    a->cpu.dw = (Gemm){.m = v,
                       .n = c,
                       .k = a->chunk,
                       .type = type,
                       .out_type = DTYPE_F32,
                       .trans_a = true,
                       .lda = ld,
                       .ldb = c,
                       .ldc = c,
                       .accumulate = true};
    a->cpu.gathered = round64((size_t)(a->chunk * v) * 4);
    a->cpu.gemm = a->cpu.gathered + round64((size_t)(a->chunk * c) * dtype_size(type));
    size_t gemm = gemm_scratch(&a->cpu.logits, threads);
    int64_t shape[] = {rows, c}, count[] = {rows + 1};
    if (node->live) {
        Gemm first_dx = a->cpu.dx, first_dw = a->cpu.dw;
        first_dx.accumulate = first_dw.accumulate = false;
        gemm = most(gemm, most(gemm_scratch(&a->cpu.dx, threads), gemm_scratch(&first_dx, threads)));
        gemm = most(gemm, most(gemm_scratch(&a->cpu.dw, threads), gemm_scratch(&first_dw, threads)));
        TRY_RETURN(node_save(node, DTYPE_F32, 2, shape));
    } else {
        TRY_RETURN(node_save(node, DTYPE_F32, 0, NULL));
    }
    TRY_RETURN(node_save(node, DTYPE_I32, 1, count)); /* rows that have a label; the last element counts them */
    node->scratch_bytes = a->cpu.gemm + gemm;
    return TANE_OK;
}

/* One row of logits: its loss, whether the arg max is right, and (want_grad) dlogits in the row's own place. */
static float loss_row(float *restrict z, int64_t v, int32_t label, float smoothing, float softcap, bool want_grad,
                      float scale, DType type, int32_t *hit) {
    float top = -INFINITY;
    double total = 0, sum_z = 0; /* of parts in fp32: as exact for 250,000 classes as for 1000 */
    if (softcap > 0.0f) softcap_row(z, v, softcap);
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < v; i++) top = z[i] > top ? z[i] : top;
    for (int64_t from = 0; from < v; from += PART) {
        int64_t to = v - from < PART ? v : from + PART;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = from; i < to; i++) part += z[i];
        sum_z += (double)part;
    }
    bool nan = sum_z != sum_z || top == INFINITY;
    float at_label = z[label];
    if (hit) {
        /* The first of equal maxima counts, as arg max has it. */
        int64_t first = 0;
        while (first < label && z[first] != top) first++;
        *hit = !nan && at_label == top && first == label;
    }
    for (int64_t from = 0; from < v; from += PART) {
        int64_t to = v - from < PART ? v : from + PART;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = from; i < to; i++) {
            float e = exp_f32(z[i] - top);
            z[i] = softcap > 0.0f ? z[i] : e; /* the logits themselves are not needed any more */
            part += e;
        }
        total += (double)part;
    }
    float log_total = logf((float)total) + top, loss = (1.0f - smoothing) * (log_total - at_label);
    if (smoothing > 0.0f) loss += smoothing * (log_total - (float)(sum_z / (double)v));
    if (nan) loss = NAN;
    if (!want_grad) return loss;
    float inverse = scale / (float)total, uniform = scale * smoothing / (float)v;
    if (softcap > 0.0f) {
        float y = at_label / softcap, c = 1.0f / softcap;
#pragma omp simd
        for (int64_t i = 0; i < v; i++)
            z[i] = (exp_f32(z[i] - top) * inverse - uniform) * (1.0f - z[i] * c * z[i] * c);
        z[label] -= scale * (1.0f - smoothing) * (1.0f - y * y);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < v; i++) z[i] = z[i] * inverse - uniform;
        z[label] -= scale * (1.0f - smoothing);
    }
    if (type != DTYPE_F32) {
        /* In place: element i of bf16 is written over the fp32 elements i/2, which have been read by then. */
        Half *h = (Half *)z;
        float block[256];
        for (int64_t i = 0; i < v; i += 256) {
            int64_t n = v - i < 256 ? v - i : 256;
            memcpy(block, z + i, (size_t)n * 4);
            store_row(h + i, block, type, n);
        }
    }
    return loss;
}

/* The rows of x that have a label, behind each other: x's own memory where they lie so, else copied to `to`. */
static const void *gather(const Tensor *x, const int32_t *which, int64_t n, void *to) {
    size_t bytes = (size_t)tensor_width(x) * dtype_size(x->dtype);
    if (which[n - 1] - which[0] == n - 1) return (const char *)x->data + (size_t)which[0] * bytes;
#pragma omp parallel for schedule(static) if (n > 256)
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)to + (size_t)i * bytes, (const char *)x->data + (size_t)which[i] * bytes, bytes);
    return to;
}

/* dx of rows from .. from + m - 1 = dlogits w, summed over slices of the vocabulary: a product as long as the
 * vocabulary would read dlogits from memory again for each block of columns (three times slower at V = 50304). */
static Status input_gradient(const Node *node, const float *z, int64_t from, int64_t m, void *gemm) {
    const CrossEntropyArgs *a = node->args;
    const Tensor *w = node->in[W];
    int64_t v = w->shape[0], c = w->shape[1];
    Gemm g = a->cpu.dx;
    g.m = m;
    for (int64_t k = 0; k < v; k += SLICE) {
        g.k = v - k < SLICE ? v - k : SLICE;
        g.accumulate = k > 0;
        TRY_RETURN(gemm_run(&g, row_at(z, w->dtype, k), row_at(w->data, w->dtype, k * c),
                            (float *)node->saved[SAVED_DX]->data + from * c, NULL, gemm));
    }
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    const CrossEntropyArgs *a = node->args;
    const Tensor *x = node->in[X], *w = node->in[W];
    const int32_t *labels = node->in[LABELS]->data;
    float *losses = node->out[LOSSES]->data, *z = node->scratch;
    int32_t *hits = node->out[HITS] ? node->out[HITS]->data : NULL, *which = node->saved[SAVED_ROWS]->data;
    char *scratch = node->scratch;
    void *gathered = scratch + a->cpu.gathered, *gemm = scratch + a->cpu.gemm;
    int64_t rows = tensor_rows(x), v = w->shape[0];
    const Tensor *loss_scale = node->in[LOSS_SCALE];
    float scale = run->grad_scale * (loss_scale ? *(const float *)loss_scale->data : 1.0f);
    bool want_dx = node->live && node->grad_in[X], want_dw = node->live && node->grad_in[W];
    int32_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        losses[i] = 0.0f;
        if (hits) hits[i] = 0;
        if (labels[i] == -100) continue;
        if (labels[i] < 0 || labels[i] >= v)
            return FAIL(TANE_EINVAL, "label %d at row %lld is outside 0..%lld: the data and the model do not fit",
                        labels[i], (long long)i, (long long)v - 1);
        which[n++] = (int32_t)i;
    }
    which[rows] = n;
    if (want_dw && n == 0 && !node_adds(node, W, run))
        memset(node->in[W]->grad->data, 0, tensor_bytes(node->in[W]->grad));
    for (int64_t from = 0; from < n; from += a->chunk) {
        int64_t m = n - from < a->chunk ? n - from : a->chunk;
        const void *inputs = gather(x, which + from, m, gathered);
        Gemm g = a->cpu.logits;
        g.m = m;
        TRY_RETURN(gemm_run(&g, inputs, w->data, z, NULL, gemm));
#pragma omp parallel for schedule(static) if (m * v > 4096)
        for (int64_t i = 0; i < m; i++) {
            int64_t row = which[from + i];
            losses[row] = loss_row(z + i * v, v, labels[row], a->smoothing, a->softcap, want_dx || want_dw, scale,
                                   x->dtype, hits ? hits + row : NULL);
        }
        if (want_dw) {
            g = a->cpu.dw;
            g.k = m;
            g.accumulate = from > 0 || node_adds(node, W, run);
            TRY_RETURN(gemm_run(&g, z, inputs, node->in[W]->grad->data, NULL, gemm));
        }
        if (want_dx) TRY_RETURN(input_gradient(node, z, from, m, gemm));
    }
    return TANE_OK;
}

/* dx of the labelled rows goes back to their places; the others have none. */
static Status backward(const Node *node, const TapeRun *run) {
    if (!node->grad_in[X]) return TANE_OK;
    const Tensor *dx = node->in[X]->grad;
    const int32_t *which = node->saved[SAVED_ROWS]->data;
    int64_t rows = tensor_rows(dx), c = tensor_width(dx), n = which[rows];
    DType type = dx->dtype;
    bool add = node_adds(node, X, run);
    if (!add) memset(dx->data, 0, tensor_bytes(dx));
#pragma omp parallel for schedule(static) if (n * c > 16384)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j += 256) {
            float a[256], tmp[256];
            int64_t m = c - j < 256 ? c - j : 256;
            memcpy(a, (const float *)node->saved[SAVED_DX]->data + i * c + j, (size_t)m * 4);
            store_row_add(row_at_mut(dx->data, type, which[i] * c + j), a, type, m, add, tmp);
        }
    return TANE_OK;
}

OP_KERNEL(cross_entropy, plan, forward, backward)
