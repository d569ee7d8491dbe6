/* Residual sum and normalisation.
 *
 *   s = x + delta                                      (delta optional)
 *   LayerNorm: y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias
 *   RMSNorm:   y = s / sqrt(mean(s^2) + eps) * weight (+ bias), where weight may be stored less one
 *
 * With dropout delta is multiplied by mask / (1 - p), as dropout.c does, in training.
 *
 * Backward, with n = the normalised s, g = dy * weight, r = 1 / sqrt(...):
 *   LayerNorm: ds = r (g - mean(g) - n mean(g n)) + dsum;   RMSNorm: ds = r (g - n mean(g n)) + dsum
 *   dx = ds, ddelta = ds mask / (1 - p) (without dropout one buffer: the residual stream's gradient);
 *   dweight = sum over rows of dy n; dbias = sum of dy.
 */
#include "ops/dropout_math.h"
#include "ops/node.h"
#include "ops/norm.h"
#include "ops/simd.h"

#ifdef OP_FRONT
Tensor *op_norm(Tape *t, Tensor *x, Tensor *delta, Tensor *weight, Tensor *bias, NormKind kind, float epsilon,
                float dropout, Tensor **sum_out) {
    if (!tape_ok(t)) return NULL;
    int64_t c = tensor_width(x);
    if (tensor_count(weight) != c || (bias && tensor_count(bias) != c) ||
        (delta && tensor_count(delta) != tensor_count(x)))
        return tape_fail(t, "norm: x and delta must be (..., C), weight and bias (C) with C = %lld", (long long)c);
    if (x == delta) return tape_fail(t, "norm: x and delta are one tensor; its gradient would count once, not twice");
    if (!(dropout >= 0.0f && dropout < 1.0f)) return tape_fail(t, "norm: dropout %g is not in [0, 1)", (double)dropout);
    if (dropout > 0.0f && !delta)
        return tape_fail(t, "norm: dropout %g is of delta, and there is none; use op_dropout on x", (double)dropout);
    NormArgs args = {kind, epsilon, dropout};
    Tensor *sum = delta ? tape_activation(t, "residual", x->dtype, x->rank, x->shape) : NULL;
    Tensor *y = tape_activation(t, "norm", x->dtype, x->rank, x->shape);
    Tensor *in[] = {x, delta, weight, bias}, *out[] = {sum, y};
    if (!tape_record(t, OP_norm, &args, sizeof args, in, 4, out, 2)) return NULL;
    if (sum_out) *sum_out = delta ? sum : x;
    return y;
}
#endif

static bool drops(const NormArgs *args, const TapeRun *run) { return run->training && args->dropout > 0.0f; }

/* Floats of scratch for each thread: five rows, and the mask's. */
static int64_t own_scratch(int64_t c) { return 6 * c + 3; }

static Status plan(Node *node) {
    Tensor *x = node->in[X];
    int64_t rows = tensor_rows(x), c = tensor_width(x), shape[] = {2, rows};
    for (int k = 0; k < 4; k++)
        if (node->in[k] && node->in[k]->dtype != x->dtype)
            return FAIL(TANE_EUNSUPPORTED, "norm: inputs differ in type (%s, %s)", dtype_name(x->dtype),
                        dtype_name(node->in[k]->dtype));
    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "norm: no %s kernel on the CPU; use fp32 or bf16", dtype_name(x->dtype));
    if (node->live && !node->out[Y]->grad)
        return FAIL(TANE_EUNSUPPORTED, "norm: only the sum is used; a residual sum without its norm has no kernel");
    if (node->live) {
        TRY_RETURN(node_save(node, DTYPE_F32, 2, shape)); /* mean, r */
        node->remakes = 1u << Y;
    }
    if (node->out[SUM]) {
        node->backward_reads_out |= 1u << SUM;
        node->inplace[SUM] = X + 1;
        node->inplace_grad[X] = SUM + 1;
        if (((const NormArgs *)node->args)->dropout == 0.0f) node->inplace_grad[DELTA] = SUM + 1;
        node->passes_grad = true;
    } else {
        node->backward_reads_in |= 1u << X;
    }
    size_t per_thread = (size_t)own_scratch(c) * 4;
    node->scratch_bytes = per_thread * (size_t)omp_get_max_threads() + (size_t)(2 * SUM_BLOCKS * c) * 4;
    return TANE_OK;
}

/* The weight as the formulas have it. */
static void load_weight(float *w, const Node *node, int64_t c) {
    const NormArgs *args = node->args;
    load_row(w, node->in[WEIGHT]->data, node->in[WEIGHT]->dtype, c);
    if (args->kind == NORM_RMS_ONE)
#pragma omp simd
        for (int64_t j = 0; j < c; j++) w[j] += 1.0f;
}

/* y = (s - mean) r w (+ b) */
static void affine_row(float *restrict y, const float *restrict s, float mean, float r, const float *restrict w,
                       const float *restrict b, int64_t c) {
#pragma omp simd
    for (int64_t j = 0; j < c; j++) y[j] = (s[j] - mean) * r * w[j];
    if (b)
#pragma omp simd
        for (int64_t j = 0; j < c; j++) y[j] += b[j];
}

static void times_row(float *restrict x, const float *restrict keep, int64_t c) {
#pragma omp simd
    for (int64_t j = 0; j < c; j++) x[j] *= keep[j];
}

static Status forward(const Node *node, const TapeRun *run) {
    const NormArgs *args = node->args;
    const Tensor *x = node->in[X], *delta = node->in[DELTA], *bias = node->in[BIAS], *sum = node->out[SUM];
    int64_t rows = tensor_rows(x), c = tensor_width(x);
    DType type = x->dtype;
    float *stats = node->n_saved ? node->saved[0]->data : NULL;
#pragma omp parallel if (rows * c > 16384)
    {
        float *s = (float *)node->scratch + own_scratch(c) * omp_get_thread_num(), *tmp = s + c, *w = s + 2 * c;
        float *b = s + 3 * c, *keep = s + 5 * c;
        load_weight(w, node, c);
        if (bias) load_row(b, bias->data, type, c);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            load_row(s, row_at(x->data, type, i * c), type, c);
            if (delta) {
                load_row(tmp, row_at(delta->data, type, i * c), type, c);
                if (drops(args, run)) times_row(tmp, dropout_mask_at(keep, c, i * c, args->dropout, node, run), c);
#pragma omp simd
                for (int64_t j = 0; j < c; j++) s[j] += tmp[j];
                store_row(row_at_mut(sum->data, type, i * c), s, type, c);
                if (type != DTYPE_F32)
                    load_row(s, row_at(sum->data, type, i * c), type, c); /* as backward will see it */
            }
            float mean = 0, square = 0;
            if (args->kind == NORM_LAYER) {
#pragma omp simd reduction(+ : mean)
                for (int64_t j = 0; j < c; j++) mean += s[j];
                mean /= (float)c;
            }
#pragma omp simd reduction(+ : square)
            for (int64_t j = 0; j < c; j++) square += (s[j] - mean) * (s[j] - mean);
            float r = 1.0f / sqrtf(square / (float)c + args->epsilon);
            affine_row(tmp, s, mean, r, w, bias ? b : NULL, c);
            store_row(row_at_mut(node->out[Y]->data, type, i * c), tmp, type, c);
            if (stats) {
                stats[i] = mean;
                stats[rows + i] = r;
            }
        }
    }
    return TANE_OK;
}

/* y once more, from the sum and its statistics: what backward keeps. */
static Status recompute(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *s_from = node->out[SUM] ? node->out[SUM] : node->in[X], *bias = node->in[BIAS];
    int64_t rows = tensor_rows(s_from), c = tensor_width(s_from);
    DType type = s_from->dtype;
    const float *stats = node->saved[0]->data;
#pragma omp parallel if (rows * c > 16384)
    {
        float *s = (float *)node->scratch + own_scratch(c) * omp_get_thread_num(), *y = s + c, *w = s + 2 * c;
        float *b = s + 3 * c;
        load_weight(w, node, c);
        if (bias) load_row(b, bias->data, type, c);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            load_row(s, row_at(s_from->data, type, i * c), type, c);
            affine_row(y, s, stats[i], stats[rows + i], w, bias ? b : NULL, c);
            store_row(row_at_mut(node->out[Y]->data, type, i * c), y, type, c);
        }
    }
    return TANE_OK;
}

/* One row: ds into `s` (which holds the row of s on entry), and the row's part of dweight and dbias. */
static void backward_row(const NormArgs *args, int64_t c, float mean, float r, const float *restrict w,
                         const float *restrict dy, float *restrict s, float *restrict dw, float *restrict db) {
    float sum_g = 0, sum_gn = 0;
#pragma omp simd reduction(+ : sum_g, sum_gn)
    for (int64_t j = 0; j < c; j++) {
        float n = (s[j] - mean) * r, g = dy[j] * w[j];
        dw[j] += dy[j] * n;
        db[j] += dy[j];
        sum_g += g;
        sum_gn += g * n;
    }
    float mean_g = args->kind == NORM_LAYER ? sum_g / (float)c : 0.0f, mean_gn = sum_gn / (float)c;
#pragma omp simd
    for (int64_t j = 0; j < c; j++) s[j] = r * (dy[j] * w[j] - mean_g - (s[j] - mean) * r * mean_gn);
}

static Status backward(const Node *node, const TapeRun *run) {
    const NormArgs *args = node->args;
    const Tensor *s_from = node->out[SUM] ? node->out[SUM] : node->in[X],
                 *dsum = node->out[SUM] ? node->out[SUM]->grad : NULL;
    const Tensor *dy = node->out[Y]->grad, *dx = node->grad_in[X] ? node->in[X]->grad : NULL;
    const Tensor *ddelta = node->grad_in[DELTA] ? node->in[DELTA]->grad : NULL;
    int64_t rows = tensor_rows(s_from), c = tensor_width(s_from);
    DType type = s_from->dtype;
    const float *stats = node->saved[0]->data;
    float *partial = (float *)node->scratch + own_scratch(c) * omp_get_max_threads(); /* (2, SUM_BLOCKS, C) */
    bool add_x = node_adds(node, X, run), add_delta = node_adds(node, DELTA, run);
#pragma omp parallel if (rows * c > 16384)
    {
        float *s = (float *)node->scratch + own_scratch(c) * omp_get_thread_num(), *g = s + c, *w = s + 2 * c;
        float *tmp = s + 3 * c, *copy = s + 4 * c, *keep = s + 5 * c;
        load_weight(w, node, c);
#pragma omp for schedule(static)
        for (int block = 0; block < SUM_BLOCKS; block++) {
            float *dw = partial + block * c, *db = partial + (SUM_BLOCKS + block) * c;
            memset(dw, 0, (size_t)c * 4);
            memset(db, 0, (size_t)c * 4);
            for (int64_t i = block_begin(rows, block); i < block_begin(rows, block + 1); i++) {
                load_row(s, row_at(s_from->data, type, i * c), type, c);
                load_row(g, row_at(dy->data, type, i * c), type, c);
                backward_row(args, c, stats[i], stats[rows + i], w, g, s, dw, db);
                if (dsum) {
                    load_row(tmp, row_at(dsum->data, type, i * c), type, c);
#pragma omp simd
                    for (int64_t j = 0; j < c; j++) s[j] += tmp[j];
                }
                if (ddelta && (!dx || ddelta->data != dx->data)) {
                    memcpy(copy, s, (size_t)c * 4);
                    if (drops(args, run)) times_row(copy, dropout_mask_at(keep, c, i * c, args->dropout, node, run), c);
                    store_row_add(row_at_mut(ddelta->data, type, i * c), copy, type, c, add_delta, tmp);
                }
                if (dx) store_row_add(row_at_mut(dx->data, type, i * c), s, type, c, add_x, tmp);
            }
        }
    }
    if (node->grad_in[WEIGHT]) sum_blocks(node->in[WEIGHT]->grad->data, partial, c, node_adds(node, WEIGHT, run));
    if (node->in[BIAS] && node->grad_in[BIAS])
        sum_blocks(node->in[BIAS]->grad->data, partial + SUM_BLOCKS * c, c, node_adds(node, BIAS, run));
    return TANE_OK;
}

OP_KERNEL_RECOMPUTE(norm, plan, forward, backward, recompute)
