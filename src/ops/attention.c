/* Causal attention with grouped queries, and the same over a KV cache.
 *
 *   S = scale q k^T for the keys that query i sees;  P = softmax(S);  o = (P mask) v
 *   With softcap c: S = c tanh(scale q k^T / c).
 *
 * Query i sees the keys first(i)..i: first is 0, or what hides more of the window's begin, i - window + 1, and
 * starts[i], where the query's document begins. first never falls along a row. With a cache i and the keys count from
 * the row's very beginning.
 *
 * Backward (Dao 2022, section 3.1, without the tiles): with dP = mask (do v^T) and delta_i = do_i . o_i,
 *   dS = scale P (dP - delta), with softcap times 1 - (S / c)^2;  dq = dS k;  dk = dS^T q;  dv = (P mask)^T do;  dk and dv sum over a group's queries.
 *
 * Two kernels, chosen by shape in plan():
 *   direct   one head's keys and values as fp32 in cache, small products in registers: short rows, decoding, dropout
 *   blocked  QUERY_BLOCK queries at a time through the GEMM; a block's scores are whole rows, so softmax is exact
 * A task is one (sequence, KV head); tasks run in parallel and share nothing.
 */
#include "device/gemm.h"
#include "ops/attention.h"
#include "ops/dropout_math.h"

enum { QUERY_BLOCK = 128, BLOCKED_FROM = 64 };

typedef struct CpuAttention {
    AttentionArgs args;
    /* filled in by plan */
    bool blocked;
    int64_t keys;                       /* most keys a query can see */
    size_t per_thread;                  /* scratch bytes */
    Gemm scores, values, d_p, d_q, d_k; /* blocked */
    size_t gemm;                        /* their scratch */
} CpuAttention;

#ifdef OP_FRONT
/* NULL, or what is wrong with the tensors beside qkv. */
static const char *other_inputs(const Tensor *qkv, const AttentionShape *a, const Tensor *starts, const Tensor *cache,
                                const Tensor *past) {
    int64_t b = qkv->shape[0], t = qkv->shape[1];
    if (cache &&
        (!past || cache->rank != 3 || cache->shape[0] != b || cache->shape[2] != 2 * a->kv_heads * a->head_dim ||
         cache->dtype != qkv->dtype || past->dtype != DTYPE_I32 || tensor_count(past) != b))
        return "the cache must be (B, P, 2 KV D) of qkv's type, with past (B) int32";
    if (starts && (starts->dtype != DTYPE_I32 || starts->rank != 2 || starts->shape[0] != b || starts->shape[1] != t))
        return "starts must be (B, T) int32";
    if (starts && cache) return "starts and a cache do not go together";
    return NULL;
}

Tensor *op_attention(Tape *t, Tensor *qkv, const AttentionShape *shape, Tensor *starts, Tensor *cache, Tensor *past) {
    if (!tape_ok(t)) return NULL;
    AttentionShape a = *shape;
    if (qkv->rank != 3 || a.kv_heads < 1 || a.heads < 1 || a.head_dim < 1 || a.heads % a.kv_heads ||
        tensor_width(qkv) != ((int64_t)a.heads + 2 * a.kv_heads) * a.head_dim)
        return tape_fail(t, "attention: qkv must be (B, T, (H + 2 KV) D); got width %lld for H %d, KV %d, D %d",
                         (long long)tensor_width(qkv), a.heads, a.kv_heads, a.head_dim);
    const char *wrong = other_inputs(qkv, &a, starts, cache, past);
    if (wrong) return tape_fail(t, "attention: %s", wrong);
    if (!(a.dropout >= 0.0f && a.dropout < 1.0f))
        return tape_fail(t, "attention: dropout %g is not in [0, 1)", (double)a.dropout);
    if (!(a.scale >= 0.0f && a.scale <= 3.4e38f) || a.window < 0)
        return tape_fail(t, "attention: scale %g and window %lld must not be negative", (double)a.scale,
                         (long long)a.window);
    if (!(a.softcap >= 0.0f)) return tape_fail(t, "attention: softcap %g is negative", (double)a.softcap);
    if (a.scale == 0.0f) a.scale = 1.0f / sqrtf((float)a.head_dim);
    if (a.window >= (cache ? cache : qkv)->shape[1]) a.window = 0;
    CpuAttention args = {.args.shape = a};
    int64_t out_shape[] = {qkv->shape[0], qkv->shape[1], (int64_t)a.heads * a.head_dim};
    Tensor *out = tape_activation(t, "attention", qkv->dtype, 3, out_shape);
    Tensor *in[ATTENTION_INPUTS] = {[QKV] = qkv, [STARTS] = starts, [CACHE] = cache, [PAST] = past};
    return tape_record(t, OP_attention, &args, sizeof args, in, ATTENTION_INPUTS, &out, 1) ? out : NULL;
}
#endif

/* Addresses of one task's parts. q of head h starts at q + h * D; rows are `ld` elements apart. */
typedef struct Task {
    const CpuAttention *plan;
    DType type;
    int64_t b, kv, heads, kv_heads, group, d, t, ld; /* group = query heads of this KV head; t = new tokens */
    float scale, softcap, dropout;
    int64_t window;
    const int32_t *starts; /* of this row's queries; NULL: all 0 */
} Task;

static Task task_at(const Node *node, int64_t index) {
    const CpuAttention *plan = node->args;
    const AttentionShape *a = &plan->args.shape;
    const Tensor *qkv = node->in[QKV], *starts = node->in[STARTS];
    int64_t b = index / a->kv_heads, t = qkv->shape[1];
    return (Task){.plan = plan,
                  .type = qkv->dtype,
                  .b = b,
                  .kv = index % a->kv_heads,
                  .heads = a->heads,
                  .kv_heads = a->kv_heads,
                  .group = a->heads / a->kv_heads,
                  .d = a->head_dim,
                  .t = t,
                  .ld = qkv->shape[2],
                  .scale = a->scale,
                  .softcap = a->softcap,
                  .dropout = a->dropout,
                  .window = a->window,
                  .starts = starts ? (const int32_t *)starts->data + b * t : NULL};
}
static int64_t q_at(const Task *k, int64_t head) { return k->b * k->t * k->ld + head * k->d; }
static int64_t k_at(const Task *k) { return k->b * k->t * k->ld + (k->heads + k->kv) * k->d; }
static int64_t v_at(const Task *k) { return k->b * k->t * k->ld + (k->heads + k->kv_heads + k->kv) * k->d; }
static int64_t o_at(const Task *k, int64_t head) { return (k->b * k->t * k->heads + head) * k->d; }
static int64_t o_ld(const Task *k) { return k->heads * k->d; }
static int64_t stats_at(const Task *k, int64_t head) { return (k->b * k->heads + head) * k->t; }

/* The first key that new query i sees behind `past` cached ones. */
static int64_t first_key(const Task *k, int64_t past, int64_t i) {
    int64_t first = k->window && past + i >= k->window ? past + i + 1 - k->window : 0;
    return k->starts && k->starts[i] > first ? k->starts[i] : first;
}
static int64_t vec_floor(int64_t n) { return n / VEC * VEC; }

static size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }
static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static void plan_blocked(Node *node, CpuAttention *a) {
    const Tensor *qkv = node->in[QKV];
    DType type = qkv->dtype;
    int64_t t = qkv->shape[1], ld = qkv->shape[2], d = a->args.shape.head_dim, m = QUERY_BLOCK;
    int64_t ldo = a->args.shape.heads * d;
    int64_t ldp = type == DTYPE_F32 ? t : 2 * t; /* P lies in S's place; bf16 rows fill half of their fp32 rows */
    a->scores = (Gemm){
        .m = m, .n = t, .k = d, .type = type, .out_type = DTYPE_F32, .trans_b = true, .lda = ld, .ldb = ld, .ldc = t};
    a->values = (Gemm){.m = m, .n = d, .k = t, .type = type, .out_type = type, .lda = ldp, .ldb = ld, .ldc = ldo};
    a->d_p = (Gemm){
        .m = m, .n = t, .k = d, .type = type, .out_type = DTYPE_F32, .trans_b = true, .lda = ldo, .ldb = ld, .ldc = t};
    a->d_q = (Gemm){.m = m, .n = d, .k = t, .type = type, .out_type = type, .lda = ldp, .ldb = ld, .ldc = ld};
    /* dk (and dv, with do in q's place): A is dS stored (queries, keys) */
    a->d_k = (Gemm){.m = t,
                    .n = d,
                    .k = m,
                    .type = type,
                    .out_type = DTYPE_F32,
                    .trans_a = true,
                    .lda = ldp,
                    .ldb = most((size_t)ld, (size_t)ldo),
                    .ldc = d,
                    .accumulate = true};
    a->gemm = most(gemm_scratch(&a->scores, 1), gemm_scratch(&a->values, 1));
    size_t scores = round64((size_t)(m * t) * 4);
    a->per_thread = scores;
    if (node->live) {
        a->gemm = most(a->gemm,
                       most(gemm_scratch(&a->d_p, 1), most(gemm_scratch(&a->d_q, 1), gemm_scratch(&a->d_k, 1))));
        a->per_thread += scores + 2 * round64((size_t)(t * d) * 4);
    }
    a->per_thread += round64(a->gemm);
}

static Status plan(Node *node) {
    CpuAttention *a = (CpuAttention *)node->args;
    const AttentionShape *shape = &a->args.shape;
    const Tensor *qkv = node->in[QKV], *cache = node->in[CACHE];
    if (qkv->dtype != DTYPE_F32 && qkv->dtype != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "attention: no %s kernel on the CPU; use fp32 or bf16", dtype_name(qkv->dtype));
    if (node->live && cache) return FAIL(TANE_EUNSUPPORTED, "attention: no gradient through a KV cache");
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "attention: qkv may have one consumer only");
    int64_t t = qkv->shape[1], d = shape->head_dim, dp = vec_round(d);
    a->keys = cache ? cache->shape[1] : t;
    a->blocked = !cache && t >= BLOCKED_FROM && shape->dropout == 0.0f;
    if (node->live) {
        int64_t stats[] = {qkv->shape[0], shape->heads, t};
        TRY_RETURN(node_save(node, DTYPE_F32, 3, stats));
        node->backward_reads_in = 1u << QKV | (node->in[STARTS] ? 1u << STARTS : 0);
        node->backward_reads_out = 1;
    }
    if (a->blocked) {
        plan_blocked(node, a);
    } else {
        int64_t keys = attention_mask_row(a->keys);
        size_t floats = (size_t)(keys * (2 * d + 2 * dp) + t * (2 * dp + 2 * keys)); /* KT, VT, K, V; Q, O; P, mask */
        if (node->live) floats += (size_t)(t * (2 * dp + keys) + 2 * keys * dp);     /* dO, dQ, dP; dK, dV */
        a->per_thread = round64(floats * 4);
    }
    node->scratch_bytes = a->per_thread * (size_t)omp_get_max_threads();
    return TANE_OK;
}

/* A score before its exponential, from the product of query and key. */
static inline float capped(float product, const Task *task) {
    return task->softcap * tanh_f32(product * task->scale / task->softcap);
}

/* P and dS of keys [from, to) of one query, in place of products and (masked) dP. */
static void slopes(const Task *task, float *restrict p, float *restrict d_p, int64_t from, int64_t to, float lse,
                   float delta) {
    float scale = task->scale, inverse = 1.0f / task->softcap;
    if (task->softcap > 0.0f) {
#pragma omp simd
        for (int64_t j = from; j < to; j++) {
            float s = capped(p[j], task), share = s * inverse;
            p[j] = exp_f32(s - lse);
            d_p[j] = scale * (1.0f - share * share) * p[j] * (d_p[j] - delta);
        }
        return;
    }
#pragma omp simd
    for (int64_t j = from; j < to; j++) {
        p[j] = exp_f32(p[j] * scale - lse);
        d_p[j] = scale * p[j] * (d_p[j] - delta);
    }
}

/* Softmax of the scores [first, seen) of a row, the others up to `width` zero; returns log(sum(exp)). */
static float softmax_row(float *restrict s, int64_t first, int64_t seen, int64_t width, const Task *task) {
    float top = -INFINITY, sum = 0, scale = task->scale;
    if (task->softcap > 0.0f) {
#pragma omp simd
        for (int64_t j = first; j < seen; j++) s[j] = capped(s[j], task);
        scale = 1.0f;
    }
    int64_t m = vec_floor(first),
            n = vec_round(seen) < width ? vec_round(seen) : width; /* whole vectors: e^-Inf is 0 */
    for (int64_t j = m; j < first; j++) s[j] = -INFINITY;
    for (int64_t j = seen; j < n; j++) s[j] = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t j = m; j < n; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = m; j < n; j++) {
        s[j] = exp_f32((s[j] - top) * scale);
        sum += s[j];
    }
    float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t j = m; j < n; j++) s[j] *= inverse;
    for (int64_t j = 0; j < m; j++) s[j] = 0.0f;
    for (int64_t j = n; j < width; j++) s[j] = 0.0f;
    return logf(sum) + top * scale;
}

/* ---------------------------------------------------------------------------------------------- direct kernel */

/* A thread's scratch, cut up. Rows of heads are dp wide, rows over keys `keys` wide, both padded with zeros. */
typedef struct Direct {
    int64_t keys, dp;
    float *kt, *vt, *k, *v, *q, *o, *p, *mask, *d_o, *d_q, *d_p, *d_k, *d_v;
} Direct;

static Direct direct_scratch(const Node *node) {
    const CpuAttention *a = node->args;
    int64_t t = node->in[QKV]->shape[1], d = a->args.shape.head_dim;
    Direct s = {.keys = attention_mask_row(a->keys), .dp = vec_round(d)};
    float *at = (float *)((char *)node->scratch + a->per_thread * (size_t)omp_get_thread_num());
    s.kt = at;
    s.vt = s.kt + s.keys * d;
    s.k = s.vt + s.keys * d;
    s.v = s.k + s.keys * s.dp;
    s.q = s.v + s.keys * s.dp;
    s.o = s.q + t * s.dp;
    s.p = s.o + t * s.dp;
    s.mask = s.p + t * s.keys;
    s.d_o = s.mask + t * s.keys;
    s.d_q = s.d_o + t * s.dp;
    s.d_p = s.d_q + t * s.dp;
    s.d_k = s.d_p + t * s.keys;
    s.d_v = s.d_k + s.keys * s.dp;
    return s;
}

/* rows x d elements, ld apart, to fp32 rows dp wide with zeros behind. */
static void load_head(float *to, int64_t dp, const void *from, DType type, int64_t first, int64_t ld, int64_t rows,
                      int64_t d) {
    for (int64_t i = 0; i < rows; i++) {
        load_row(to + i * dp, row_at(from, type, first + i * ld), type, d);
        for (int64_t j = d; j < dp; j++) to[i * dp + j] = 0.0f;
    }
}

static void store_head(void *to, DType type, int64_t first, int64_t ld, const float *from, int64_t dp, int64_t rows,
                       int64_t d) {
    for (int64_t i = 0; i < rows; i++) store_row(row_at_mut(to, type, first + i * ld), from + i * dp, type, d);
}

/* (rows, d) -> (d, rows), zeros up to the next multiple of a vector. */
static void transpose_head(float *restrict to, int64_t keys, const float *restrict from, int64_t dp, int64_t rows,
                           int64_t d) {
    int64_t end = vec_round(rows);
    for (int64_t j = 0; j < d; j++) {
        for (int64_t i = 0; i < rows; i++) to[j * keys + i] = from[i * dp + j];
        for (int64_t i = rows; i < end; i++) to[j * keys + i] = 0.0f;
    }
}

/* Keys and values of a task in scratch: from qkv, or from the cache after the new ones are written there. */
static int64_t load_keys(const Node *node, const Task *task, Direct *s) {
    const void *qkv = node->in[QKV]->data;
    Tensor *cache = node->in[CACHE];
    int64_t d = task->d, rows = task->t;
    if (cache) {
        int64_t past = ((const int32_t *)node->in[PAST]->data)[task->b], ld = tensor_width(cache);
        int64_t first = task->b * cache->shape[1] * ld + task->kv * d, v_first = first + task->kv_heads * d;
        size_t bytes = (size_t)d * dtype_size(task->type);
        for (int64_t i = 0; i < task->t; i++) {
            memcpy(row_at_mut(cache->data, task->type, first + (past + i) * ld),
                   row_at(qkv, task->type, k_at(task) + i * task->ld), bytes);
            memcpy(row_at_mut(cache->data, task->type, v_first + (past + i) * ld),
                   row_at(qkv, task->type, v_at(task) + i * task->ld), bytes);
        }
        rows += past;
        load_head(s->k, s->dp, cache->data, task->type, first, ld, rows, d);
        load_head(s->v, s->dp, cache->data, task->type, v_first, ld, rows, d);
    } else {
        load_head(s->k, s->dp, qkv, task->type, k_at(task), task->ld, rows, d);
        load_head(s->v, s->dp, qkv, task->type, v_at(task), task->ld, rows, d);
    }
    transpose_head(s->kt, s->keys, s->k, s->dp, rows, d);
    return rows;
}

static void mask_head(const Node *node, const TapeRun *run, const Task *task, int64_t head, const Direct *s) {
    dropout_mask(s->mask, task->t * s->keys, stats_at(task, head) * s->keys, task->dropout, node, run);
}

static void direct_forward(const Node *node, const TapeRun *run, int64_t index) {
    Task task = task_at(node, index);
    Direct s = direct_scratch(node);
    int64_t rows = load_keys(node, &task, &s), past = rows - task.t, seen = vec_round(rows), d = task.d;
    bool dropout = run->training && task.dropout > 0.0f;
    float *stats = node->n_saved ? node->saved[SAVED_STATS]->data : NULL;
    for (int64_t g = 0; g < task.group; g++) {
        int64_t head = task.kv * task.group + g;
        load_head(s.q, s.dp, node->in[QKV]->data, task.type, q_at(&task, head), task.ld, task.t, d);
        small_product(task.t, seen, d, s.q, s.dp, 1, s.kt, s.keys, s.p, s.keys, false);
        if (dropout) mask_head(node, run, &task, head, &s);
        for (int64_t i = 0; i < task.t; i++) {
            int64_t first = first_key(&task, past, i);
            float lse = softmax_row(s.p + i * s.keys, first, past + i + 1, seen, &task);
            if (stats) stats[stats_at(&task, head) + i] = lse;
            if (dropout)
                for (int64_t j = first; j <= past + i; j++) s.p[i * s.keys + j] *= s.mask[i * s.keys + j];
        }
        small_product(task.t, s.dp, rows, s.p, s.keys, 1, s.v, s.dp, s.o, s.dp, false);
        store_head(node->out[0]->data, task.type, o_at(&task, head), o_ld(&task), s.o, s.dp, task.t, d);
    }
}

/* P mask and dS of one query, in place of its scores and dP; 0 where it sees no key. */
static void direct_slopes(const Task *task, const Direct *s, int64_t i, int64_t first, float lse, bool dropout) {
    float *restrict p = s->p + i * s->keys, *restrict d_p = s->d_p + i * s->keys, delta = 0;
    const float *restrict mask = s->mask + i * s->keys, *o = s->o + i * s->dp, *d_o = s->d_o + i * s->dp;
#pragma omp simd reduction(+ : delta)
    for (int64_t j = 0; j < s->dp; j++) delta += o[j] * d_o[j];
    if (dropout)
        for (int64_t j = first; j <= i; j++) d_p[j] *= mask[j];
    /* whole vectors where that may be; what lies outside goes below */
    int64_t from = dropout ? first : vec_floor(first), to = dropout ? i + 1 : vec_round(i + 1);
    slopes(task, p, d_p, from, to, lse, delta);
    if (dropout)
        for (int64_t j = first; j <= i; j++) p[j] *= mask[j];
    for (int64_t j = 0; j < first; j++) p[j] = d_p[j] = 0.0f;
    for (int64_t j = i + 1; j < s->keys; j++) p[j] = d_p[j] = 0.0f;
}

static void direct_backward(const Node *node, const TapeRun *run, int64_t index) {
    Task task = task_at(node, index);
    Direct s = direct_scratch(node);
    int64_t t = task.t, d = task.d;
    load_keys(node, &task, &s);
    transpose_head(s.vt, s.keys, s.v, s.dp, t, d);
    bool dropout = run->training && task.dropout > 0.0f;
    const float *stats = node->saved[SAVED_STATS]->data;
    void *d_qkv = node->in[QKV]->grad->data;
    for (int64_t g = 0; g < task.group; g++) {
        int64_t head = task.kv * task.group + g;
        load_head(s.q, s.dp, node->in[QKV]->data, task.type, q_at(&task, head), task.ld, t, d);
        load_head(s.o, s.dp, node->out[0]->data, task.type, o_at(&task, head), o_ld(&task), t, d);
        load_head(s.d_o, s.dp, node->out[0]->grad->data, task.type, o_at(&task, head), o_ld(&task), t, d);
        small_product(t, s.keys, d, s.q, s.dp, 1, s.kt, s.keys, s.p, s.keys, false);
        small_product(t, s.keys, d, s.d_o, s.dp, 1, s.vt, s.keys, s.d_p, s.keys, false);
        if (dropout) mask_head(node, run, &task, head, &s);
        for (int64_t i = 0; i < t; i++)
            direct_slopes(&task, &s, i, first_key(&task, 0, i), stats[stats_at(&task, head) + i], dropout);
        small_product(t, s.dp, t, s.d_p, s.keys, 1, s.k, s.dp, s.d_q, s.dp, false);
        small_product(t, s.dp, t, s.d_p, 1, s.keys, s.q, s.dp, s.d_k, s.dp, g > 0);
        small_product(t, s.dp, t, s.p, 1, s.keys, s.d_o, s.dp, s.d_v, s.dp, g > 0);
        store_head(d_qkv, task.type, q_at(&task, head), task.ld, s.d_q, s.dp, t, d);
    }
    store_head(d_qkv, task.type, k_at(&task), task.ld, s.d_k, s.dp, t, d);
    store_head(d_qkv, task.type, v_at(&task), task.ld, s.d_v, s.dp, t, d);
}

/* --------------------------------------------------------------------------------------------- blocked kernel */

/* fp32 rows `ld` apart become rows of `type` in their own place (bf16: first half of the row). */
static void narrow_rows(float *s, int64_t ld, int64_t rows, int64_t n, DType type) {
    if (type == DTYPE_F32) return;
    float block[256];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j += 256) {
            int64_t m = n - j < 256 ? n - j : 256;
            memcpy(block, s + i * ld + j, (size_t)m * 4);
            store_row((Half *)(s + i * ld) + j, block, type, m);
        }
}

static Status blocked_forward(const Node *node, const TapeRun *run, int64_t index) {
    (void)run;
    Task task = task_at(node, index);
    const CpuAttention *a = task.plan;
    float *s = (float *)((char *)node->scratch + a->per_thread * (size_t)omp_get_thread_num());
    void *gemm = (char *)s + a->per_thread - round64(a->gemm);
    float *stats = node->n_saved ? node->saved[SAVED_STATS]->data : NULL;
    const void *qkv = node->in[QKV]->data;
    for (int64_t head = task.kv * task.group; head < (task.kv + 1) * task.group; head++)
        for (int64_t from = 0; from < task.t; from += QUERY_BLOCK) {
            int64_t m = task.t - from < QUERY_BLOCK ? task.t - from : QUERY_BLOCK;
            int64_t low = vec_floor(first_key(&task, 0, from)), seen = from + m - low; /* the block's keys */
            Gemm g = a->scores;
            g.m = m;
            g.n = seen;
            TRY_RETURN(gemm_run(&g, row_at(qkv, task.type, q_at(&task, head) + from * task.ld),
                                row_at(qkv, task.type, k_at(&task) + low * task.ld), s, NULL, gemm));
            for (int64_t i = from; i < from + m; i++) {
                float lse =
                    softmax_row(s + (i - from) * task.t, first_key(&task, 0, i) - low, i + 1 - low, seen, &task);
                if (stats) stats[stats_at(&task, head) + i] = lse;
            }
            narrow_rows(s, task.t, m, seen, task.type);
            g = a->values;
            g.m = m;
            g.k = seen;
            TRY_RETURN(gemm_run(&g, s, row_at(qkv, task.type, v_at(&task) + low * task.ld),
                                row_at_mut(node->out[0]->data, task.type, o_at(&task, head) + from * o_ld(&task)), NULL,
                                gemm));
        }
    return TANE_OK;
}

/* P and dS of m queries over the keys from `low` on, in place of scores and dP. */
static void block_slopes(const Node *node, const Task *task, int64_t head, int64_t from, int64_t m, int64_t low,
                         float *p, float *d_p) {
    const float *stats = (const float *)node->saved[SAVED_STATS]->data + stats_at(task, head);
    const void *o = node->out[0]->data, *d_o = node->out[0]->grad->data;
    float a[256], b[256];
    for (int64_t i = from; i < from + m; i++) {
        float delta = 0, lse = stats[i];
        for (int64_t j = 0; j < task->d; j += 256) {
            int64_t n = task->d - j < 256 ? task->d - j : 256, at = o_at(task, head) + i * o_ld(task) + j;
            load_row(a, row_at(o, task->type, at), task->type, n);
            load_row(b, row_at(d_o, task->type, at), task->type, n);
#pragma omp simd reduction(+ : delta)
            for (int64_t e = 0; e < n; e++) delta += a[e] * b[e];
        }
        float *restrict pi = p + (i - from) * task->t, *restrict di = d_p + (i - from) * task->t;
        int64_t first = first_key(task, 0, i) - low;
        for (int64_t j = 0; j < first; j++) pi[j] = di[j] = 0.0f;
        slopes(task, pi, di, first, i + 1 - low, lse, delta);
        for (int64_t j = i + 1 - low; j < from + m - low; j++) pi[j] = di[j] = 0.0f;
    }
}

static Status blocked_backward(const Node *node, const TapeRun *run, int64_t index) {
    (void)run;
    Task task = task_at(node, index);
    const CpuAttention *a = task.plan;
    int64_t t = task.t, d = task.d;
    char *at = (char *)node->scratch + a->per_thread * (size_t)omp_get_thread_num();
    float *p = (float *)at, *d_p = p + round64((size_t)(QUERY_BLOCK * t) * 4) / 4;
    float *d_k = d_p + round64((size_t)(QUERY_BLOCK * t) * 4) / 4, *d_v = d_k + round64((size_t)(t * d) * 4) / 4;
    void *gemm = at + a->per_thread - round64(a->gemm);
    const void *qkv = node->in[QKV]->data, *d_o = node->out[0]->grad->data;
    void *d_qkv = node->in[QKV]->grad->data;
    memset(d_k, 0, (size_t)(t * d) * 4);
    memset(d_v, 0, (size_t)(t * d) * 4);
    for (int64_t head = task.kv * task.group; head < (task.kv + 1) * task.group; head++)
        for (int64_t from = 0; from < t; from += QUERY_BLOCK) {
            int64_t m = t - from < QUERY_BLOCK ? t - from : QUERY_BLOCK;
            int64_t low = vec_floor(first_key(&task, 0, from)), seen = from + m - low;
            const void *k = row_at(qkv, task.type, k_at(&task) + low * task.ld);
            const void *v = row_at(qkv, task.type, v_at(&task) + low * task.ld);
            const void *q_block = row_at(qkv, task.type, q_at(&task, head) + from * task.ld);
            const void *d_o_block = row_at(d_o, task.type, o_at(&task, head) + from * o_ld(&task));
            Gemm g = a->scores;
            g.m = m;
            g.n = seen;
            TRY_RETURN(gemm_run(&g, q_block, k, p, NULL, gemm));
            g = a->d_p;
            g.m = m;
            g.n = seen;
            TRY_RETURN(gemm_run(&g, d_o_block, v, d_p, NULL, gemm));
            block_slopes(node, &task, head, from, m, low, p, d_p);
            narrow_rows(p, t, m, seen, task.type);
            narrow_rows(d_p, t, m, seen, task.type);
            g = a->d_q;
            g.m = m;
            g.k = seen;
            TRY_RETURN(
                gemm_run(&g, d_p, k, row_at_mut(d_qkv, task.type, q_at(&task, head) + from * task.ld), NULL, gemm));
            g = a->d_k;
            g.m = seen;
            g.k = m;
            g.ldb = task.ld;
            TRY_RETURN(gemm_run(&g, d_p, q_block, d_k + low * d, NULL, gemm));
            g.ldb = o_ld(&task);
            TRY_RETURN(gemm_run(&g, p, d_o_block, d_v + low * d, NULL, gemm));
        }
    store_head(d_qkv, task.type, k_at(&task), task.ld, d_k, d, t, d);
    store_head(d_qkv, task.type, v_at(&task), task.ld, d_v, d, t, d);
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------------------ */

static Status check_past(const Node *node) {
    const Tensor *cache = node->in[CACHE];
    if (!cache) return TANE_OK;
    const int32_t *past = node->in[PAST]->data;
    int64_t t = node->in[QKV]->shape[1];
    for (int64_t b = 0; b < cache->shape[0]; b++)
        if (past[b] < 0 || past[b] + t > cache->shape[1])
            return FAIL(TANE_EINVAL, "attention: %d tokens and %lld new ones do not fit a cache of %lld", past[b],
                        (long long)t, (long long)cache->shape[1]);
    return TANE_OK;
}

static Status check_starts(const Node *node) {
    const Tensor *starts = node->in[STARTS];
    if (!starts) return TANE_OK;
    for (int64_t b = 0; b < starts->shape[0]; b++) {
        const int32_t *row = (const int32_t *)starts->data + b * starts->shape[1];
        for (int64_t i = 0; i < starts->shape[1]; i++)
            if (row[i] < (i ? row[i - 1] : 0) || row[i] > i)
                return FAIL(TANE_EINVAL, "attention: row %lld, position %lld: start %d is not in %d..%lld",
                            (long long)b, (long long)i, row[i], i ? row[i - 1] : 0, (long long)i);
    }
    return TANE_OK;
}

/* Runs all tasks; the first error of any thread is the result. */
static Status run_tasks(const Node *node, const TapeRun *run, bool is_backward) {
    const CpuAttention *a = node->args;
    int64_t tasks = node->in[QKV]->shape[0] * a->args.shape.kv_heads;
    ErrorCopy error = {0};
#pragma omp parallel for schedule(static) if (tasks > 1)
    for (int64_t i = 0; i < tasks; i++) {
        Status st = TANE_OK;
        if (a->blocked) st = is_backward ? blocked_backward(node, run, i) : blocked_forward(node, run, i);
        else if (is_backward) direct_backward(node, run, i);
        else direct_forward(node, run, i);
        if (st != TANE_OK)
#pragma omp critical(attention_error)
            err_save(&error);
    }
    return error.code == TANE_OK ? TANE_OK : err_restore(&error);
}

static Status forward(const Node *node, const TapeRun *run) {
    TRY_RETURN(check_past(node));
    TRY_RETURN(check_starts(node));
    return run_tasks(node, run, false);
}

static Status backward(const Node *node, const TapeRun *run) {
    return node->grad_in[QKV] ? run_tasks(node, run, true) : TANE_OK;
}

OP_KERNEL(attention, plan, forward, backward)
