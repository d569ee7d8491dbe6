/* Causal attention on CUDA; the formulas are in ops/attention.c. plan chooses by shape:
 *
 *   cache   over a KV cache: attention_cache.cuh
 *   cuDNN   bf16 and fp16, at least CUDNN_FROM tokens, no dropout, no softcap, no packed documents, where cuDNN has an
 *           engine for it
 *   flash   other bf16 and fp16 on tensor cores, head_dim up to 128 in steps of 16, dropout or softcap but not both:
 *           attention_flash.cuh
 *   plain   every type and any head_dim up to 256, here: fp32 arithmetic, a lane for each of 32 keys (or queries) in
 *           shared memory, then a lane for each element of the sums
 *
 * flash and plain drop the weights that the CPU drops. All are deterministic: no sum crosses blocks.
 */
#include "device/cuda/sdpa.h"
#include "ops/attention_cache.cuh"
#include "ops/attention_flash.cuh"

enum { CUDNN_FROM = 128 };

typedef struct AttentionPath {
    Status (*forward)(const Node *node, const TapeRun *run);
    Status (*backward)(const Node *node, const TapeRun *run);
    size_t (*scratch)(const Node *node);
} AttentionPath;

static const AttentionArgs *attention_args(const Node *node) { return (const AttentionArgs *)node->args; }

/* ------------------------------------------------------------------------------------------------------ cuDNN */

static const Sdpa *cudnn_planned(const Node *node) { return (const Sdpa *)attention_args(node)->plan; }
static float *attention_stats(const Node *node) {
    return node->n_saved ? (float *)node->saved[SAVED_STATS]->data : NULL;
}
static Status cudnn_forward(const Node *node, const TapeRun *) {
    return sdpa_forward(cuda_device(node), cudnn_planned(node), node->in[QKV]->data, node->out[0]->data,
                        attention_stats(node), node->scratch);
}
static Status cudnn_backward(const Node *node, const TapeRun *) {
    return sdpa_backward(cuda_device(node), cudnn_planned(node), node->in[QKV]->data, node->out[0]->data,
                         attention_stats(node), node->out[0]->grad->data, node->in[QKV]->grad->data, node->scratch);
}
static size_t cudnn_scratch(const Node *node) { return sdpa_scratch(cudnn_planned(node)); }

/* ------------------------------------------------------------------------------------------------------ plain */

enum { PLAIN_THREADS = 128, PLAIN_WARPS = PLAIN_THREADS / 32, PLAIN_DIM = 256 };
enum { PLAIN_FORWARD = 4, PLAIN_BACKWARD = 2 }; /* rows a warp owns */

/* Lanes hold E elements of a row; rows in shared memory are 32 E wide, filled up with zeros, and those that lanes read
 * beside each other one more apart. */
#define PLAIN_WIDTH(E) (32 * (E))
#define PLAIN_LD(E)    (PLAIN_WIDTH(E) + 1)

template <typename T, int E>
__device__ static inline void plain_load(float *to, int stride, int n, const T *from, int64_t ld, int rows, int width) {
    for (int c = threadIdx.x; c < n * PLAIN_WIDTH(E); c += PLAIN_THREADS) {
        int r = c / PLAIN_WIDTH(E), e = c % PLAIN_WIDTH(E);
        to[r * stride + e] = r < rows && e < width ? to_float(from[r * ld + e]) : 0.0f;
    }
}
__device__ static inline float plain_dot(const float *a, const float *b, int width) {
    float sum = 0.0f;
    for (int e = 0; e < width; e++) sum += a[e] * b[e];
    return sum;
}
/* sum += the weights of 32 lanes times 32 rows. */
template <int E> __device__ static inline void plain_add(float sum[E], float weight, const float *rows) {
    int lane = threadIdx.x & 31;
#pragma unroll 4
    for (int j = 0; j < 32; j++) {
        float w = __shfl_sync(0xffffffffu, weight, j);
#pragma unroll
        for (int e = 0; e < E; e++) sum[e] += w * rows[j * PLAIN_LD(E) + lane + 32 * e];
    }
}
template <typename T, int E>
__device__ static inline void plain_store(T *to, const float sum[E], float times, int width) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int e = 0; e < E; e++)
        if (lane + 32 * e < width) to[lane + 32 * e] = from_float<T>(sum[e] * times);
}
/* What weight `key` of query i is multiplied by. */
template <bool DROPOUT> __device__ static inline float plain_keep(const Flash &f, const FlashMask &m, int i, int key) {
    if (!DROPOUT) return 1.0f;
    return flash_keep4(f, m, i, key / 4) >> (key & 3) & 1 ? f.keep_scale : 0.0f;
}
__device__ static inline const void *plain_part(const Flash &f, int b, int token, int part, size_t size) {
    int64_t at = ((int64_t)b * f.tokens + token) * f.row + (int64_t)part * f.head_dim;
    return (const char *)f.qkv + at * (int64_t)size;
}

/* A block owns PLAIN_WARPS * PLAIN_FORWARD queries of a head. */
template <typename T, int E, bool DROPOUT>
__global__ void __launch_bounds__(PLAIN_THREADS) attention_plain_forward(Flash f) {
    constexpr int N = PLAIN_FORWARD, ROWS = PLAIN_WARPS * N;
    extern __shared__ float plain_shared[];
    float *q = plain_shared, *kv = q + ROWS * PLAIN_WIDTH(E); /* keys, then values */
    int heads = f.batch * f.heads, head = (int)(blockIdx.x % heads), b = head / f.heads, h = head % f.heads;
    int begin = (f.tiles - 1 - (int)(blockIdx.x / heads)) * ROWS, from = begin + (threadIdx.x >> 5) * N;
    int lane = threadIdx.x & 31, part = f.heads + h / (f.heads / f.kv_heads);
    int last = begin + ROWS < f.tokens ? begin + ROWS - 1 : f.tokens - 1;
    FlashMask mask = {};
    if (DROPOUT) mask = flash_mask(f, head);
    plain_load<T, E>(q, PLAIN_WIDTH(E), ROWS, (const T *)plain_part(f, b, begin, h, sizeof(T)), f.row, f.tokens - begin,
                     f.head_dim);
    float o[N][E] = {}, top[N], sum[N] = {};
    int first[N];
    for (int r = 0; r < N; r++) {
        top[r] = -INFINITY;
        first[r] = flash_first_of(f, b, from + r);
    }
    for (int key0 = flash_first_of(f, b, begin) / 32 * 32; key0 <= last; key0 += 32) {
        float p[N];
        __syncthreads();
        plain_load<T, E>(kv, PLAIN_LD(E), 32, (const T *)plain_part(f, b, key0, part, sizeof(T)), f.row,
                         f.tokens - key0, f.head_dim);
        __syncthreads();
        int key = key0 + lane;
#pragma unroll
        for (int r = 0; r < N; r++) {
            float s = plain_dot(q + (from - begin + r) * PLAIN_WIDTH(E), kv + lane * PLAIN_LD(E), f.head_dim);
            if (f.cap > 0.0f) s = tanh_f32(s * f.cap);
            if (key > from + r || key < first[r]) s = -INFINITY;
            float high = fmaxf(top[r], warp_max(s)), base = high == -INFINITY ? 0.0f : high;
            float shrink = expf((top[r] - base) * f.score);
            p[r] = expf((s - base) * f.score);
            sum[r] = sum[r] * shrink + p[r];
            top[r] = high;
            for (int e = 0; e < E; e++) o[r][e] *= shrink;
            p[r] *= plain_keep<DROPOUT>(f, mask, from + r, key);
        }
        __syncthreads();
        plain_load<T, E>(kv, PLAIN_LD(E), 32, (const T *)plain_part(f, b, key0, part + f.kv_heads, sizeof(T)), f.row,
                         f.tokens - key0, f.head_dim);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < N; r++) plain_add<E>(o[r], p[r], kv);
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        float total = warp_sum(sum[r]);
        int i = from + r;
        if (i >= f.tokens) continue;
        T *out = (T *)f.out + (((int64_t)b * f.tokens + i) * f.heads + h) * f.head_dim;
        plain_store<T, E>(out, o[r], 1.0f / total, f.head_dim);
        if (lane) continue;
        if (f.stats) f.stats[(int64_t)head * f.tokens + i] = top[r] * f.score + logf(total);
        if (f.starts && h == 0) flash_check_start(f, b, i);
    }
}

/* delta = do . o: a warp for each query of each head. */
template <typename T> __global__ void __launch_bounds__(PLAIN_THREADS) attention_plain_delta(Flash f) {
    int64_t row = (int64_t)blockIdx.x * PLAIN_WARPS + (threadIdx.x >> 5), rows = (int64_t)f.batch * f.tokens * f.heads;
    if (row >= rows) return;
    float sum = 0.0f;
    for (int e = threadIdx.x & 31; e < f.head_dim; e += 32)
        sum += to_float(((const T *)f.d_out)[row * f.head_dim + e]) *
               to_float(((const T *)f.out)[row * f.head_dim + e]);
    sum = warp_sum(sum);
    int64_t token = row / f.heads, b = token / f.tokens, h = row % f.heads;
    if ((threadIdx.x & 31) == 0) f.delta[(b * f.heads + h) * f.tokens + token % f.tokens] = sum;
}

/* A block owns queries (k and v pass by; dq) or, with KEYS, keys (q and do of the group's heads pass by; dk and dv). */
template <typename T, int E, bool DROPOUT, bool KEYS>
__global__ void __launch_bounds__(PLAIN_THREADS) attention_plain_backward(Flash f) {
    constexpr int N = PLAIN_BACKWARD, ROWS = PLAIN_WARPS * N;
    extern __shared__ float plain_shared[];
    float *own1 = plain_shared, *own2 = own1 + ROWS * PLAIN_WIDTH(E);               /* q, do; KEYS: k, v */
    float *pass1 = own2 + ROWS * PLAIN_WIDTH(E), *pass2 = pass1 + 32 * PLAIN_LD(E); /* k, v; KEYS: q, do */
    int parts = KEYS ? f.kv_heads : f.heads, group = f.heads / f.kv_heads, rows = f.batch * parts;
    int b = (int)(blockIdx.x % rows) / parts, part = (int)(blockIdx.x % rows) % parts, kv = KEYS ? part : part / group;
    int begin = (int)(blockIdx.x / rows) * ROWS, from = begin + (threadIdx.x >> 5) * N, lane = threadIdx.x & 31;
    int end = begin + ROWS < f.tokens ? begin + ROWS : f.tokens;
    int64_t out_row = (int64_t)f.heads * f.head_dim;
    auto load_own = [&](float *to, int which) {
        plain_load<T, E>(to, PLAIN_WIDTH(E), ROWS, (const T *)plain_part(f, b, begin, which, sizeof(T)), f.row,
                         f.tokens - begin, f.head_dim);
    };
    auto load_pass = [&](float *to, int which, int at) {
        plain_load<T, E>(to, PLAIN_LD(E), 32, (const T *)plain_part(f, b, at, which, sizeof(T)), f.row, f.tokens - at,
                         f.head_dim);
    };
    auto d_out_at = [&](int i, int h) {
        return (const T *)f.d_out + (((int64_t)b * f.tokens + i) * f.heads + h) * f.head_dim;
    };
    load_own(own1, KEYS ? f.heads + kv : part);
    if (KEYS) load_own(own2, f.heads + f.kv_heads + kv);
    else plain_load<T, E>(own2, PLAIN_WIDTH(E), ROWS, d_out_at(begin, part), out_row, f.tokens - begin, f.head_dim);
    float sum1[N][E] = {}, sum2[N][E] = {};
    for (int h = KEYS ? kv * group : part; h < (KEYS ? (kv + 1) * group : part + 1); h++) {
        int64_t stat = ((int64_t)b * f.heads + h) * f.tokens;
        FlashMask mask = {};
        if (DROPOUT) mask = flash_mask(f, (int64_t)b * f.heads + h);
        int at = (KEYS ? begin : flash_first_of(f, b, begin)) / 32 * 32;
        for (; at < (KEYS ? f.tokens : end); at += 32) {
            if (KEYS && flash_first_of(f, b, at) >= end) break; /* and so do all later queries */
            __syncthreads();
            load_pass(pass1, KEYS ? h : f.heads + kv, at);
            if (KEYS) plain_load<T, E>(pass2, PLAIN_LD(E), 32, d_out_at(at, h), out_row, f.tokens - at, f.head_dim);
            else load_pass(pass2, f.heads + f.kv_heads + kv, at);
            __syncthreads();
#pragma unroll
            for (int r = 0; r < N; r++) {
                int own = (from - begin + r) * PLAIN_WIDTH(E), i = KEYS ? at + lane : from + r;
                int key = KEYS ? from + r : at + lane;
                float p = 0.0f, slope = 0.0f;
                if (i < f.tokens && key <= i && key >= flash_first_of(f, b, i)) {
                    float s = plain_dot(own1 + own, pass1 + lane * PLAIN_LD(E), f.head_dim);
                    if (f.cap > 0.0f) s = tanh_f32(s * f.cap);
                    p = expf(s * f.score - f.stats[stat + i]);
                    float keep = plain_keep<DROPOUT>(f, mask, i, key);
                    slope = p *
                            (keep * plain_dot(own2 + own, pass2 + lane * PLAIN_LD(E), f.head_dim) - f.delta[stat + i]);
                    if (f.cap > 0.0f) slope *= tanh_slope(s);
                    p *= keep;
                }
                plain_add<E>(sum1[r], slope, pass1);
                if (KEYS) plain_add<E>(sum2[r], p, pass2);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < N; r++) {
        if (from + r >= f.tokens) continue;
        T *to = (T *)f.d_qkv + ((int64_t)b * f.tokens + from + r) * f.row;
        plain_store<T, E>(to + (KEYS ? f.heads + kv : part) * f.head_dim, sum1[r], f.scale, f.head_dim);
        if (KEYS) plain_store<T, E>(to + (f.heads + f.kv_heads + kv) * f.head_dim, sum2[r], 1.0f, f.head_dim);
    }
}

/* Lanes' elements for a head_dim, and the bytes of shared memory. */
static int plain_elements(int head_dim) { return head_dim <= 32 ? 1 : head_dim <= 64 ? 2 : head_dim <= 128 ? 4 : 8; }
static size_t plain_shared_bytes(int e, bool backward) {
    int own = PLAIN_WARPS * (backward ? 2 * PLAIN_BACKWARD : PLAIN_FORWARD), pass = backward ? 64 : 32;
    return (size_t)(own * PLAIN_WIDTH(e) + pass * PLAIN_LD(e)) * sizeof(float);
}
static bool plain_supports(const Node *node) {
    const AttentionShape *a = &attention_args(node)->shape;
    const Tensor *qkv = node->in[QKV];
    int64_t blocks = qkv->shape[0] * a->heads * cuda_blocks(qkv->shape[1], PLAIN_WARPS * PLAIN_BACKWARD);
    return cuda_is_float(qkv->dtype) && a->head_dim <= PLAIN_DIM && blocks <= INT32_MAX &&
           plain_shared_bytes(plain_elements(a->head_dim), node->live) <= cuda_device(node)->shared_memory;
}
static size_t plain_scratch(const Node *node) {
    const int64_t *shape = node->in[QKV]->shape;
    return node->live ? (size_t)(shape[0] * shape[1] * attention_args(node)->shape.heads) * sizeof(float) : 0;
}

static Status plain_launch(const Node *node, void (*kernel)(Flash), const Flash &f, int64_t blocks, size_t shared) {
    if (shared > 48 * 1024) TRY_RETURN(cuda_shared_memory((const void *)kernel, shared));
    kernel<<<(unsigned)blocks, PLAIN_THREADS, shared, cuda_device(node)->stream>>>(f);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T, int E, bool DROPOUT> static Status plain_run_as(const Node *node, Flash f, bool backward) {
    size_t shared = plain_shared_bytes(E, backward);
    f.tiles = (int)cuda_blocks(f.tokens, PLAIN_WARPS * (backward ? PLAIN_BACKWARD : PLAIN_FORWARD));
    int64_t tiles = (int64_t)f.tiles * f.batch, rows = (int64_t)f.batch * f.tokens * f.heads;
    if (!backward) return plain_launch(node, attention_plain_forward<T, E, DROPOUT>, f, tiles * f.heads, shared);
    f.delta = (float *)node->scratch;
    TRY_RETURN(plain_launch(node, attention_plain_delta<T>, f, cuda_blocks(rows, PLAIN_WARPS), 0));
    TRY_RETURN(plain_launch(node, attention_plain_backward<T, E, DROPOUT, false>, f, tiles * f.heads, shared));
    return plain_launch(node, attention_plain_backward<T, E, DROPOUT, true>, f, tiles * f.kv_heads, shared);
}

template <typename T, int E> static Status plain_run_elements(const Node *node, const TapeRun *run, bool backward) {
    Flash f = flash_of(node, run, backward);
    return run->training && attention_args(node)->shape.dropout > 0.0f ? plain_run_as<T, E, true>(node, f, backward)
                                                                       : plain_run_as<T, E, false>(node, f, backward);
}

template <typename T> static Status plain_run(const Node *node, const TapeRun *run, bool backward) {
    switch (plain_elements(attention_args(node)->shape.head_dim)) {
    case 1: return plain_run_elements<T, 1>(node, run, backward);
    case 2: return plain_run_elements<T, 2>(node, run, backward);
    case 4: return plain_run_elements<T, 4>(node, run, backward);
    default: return plain_run_elements<T, 8>(node, run, backward);
    }
}
static Status plain_forward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[QKV]->dtype, plain_run, node, run, false);
}
static Status plain_backward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[QKV]->dtype, plain_run, node, run, true);
}

/* ------------------------------------------------------------------------------------------------------------ */

static const AttentionPath cache_path = {attention_cache_forward, NULL, attention_cache_scratch};
static const AttentionPath cudnn_path = {cudnn_forward, cudnn_backward, cudnn_scratch};
static const AttentionPath flash_path = {flash_forward, flash_backward, flash_scratch};
static const AttentionPath plain_path = {plain_forward, plain_backward, plain_scratch};

/* Plans cuDNN's attention where it is wanted and to be had; *out is NULL otherwise. */
static Status plan_cudnn(const Node *node, const Sdpa **out) {
    const AttentionShape *a = &attention_args(node)->shape;
    const Tensor *qkv = node->in[QKV];
    *out = NULL;
    if ((qkv->dtype != DTYPE_BF16 && qkv->dtype != DTYPE_F16) || qkv->shape[1] < CUDNN_FROM || a->dropout > 0.0f ||
        a->softcap > 0.0f || node->in[STARTS])
        return TANE_OK;
    SdpaShape shape = {};
    shape.batch = qkv->shape[0];
    shape.tokens = qkv->shape[1];
    shape.heads = a->heads;
    shape.kv_heads = a->kv_heads;
    shape.head_dim = a->head_dim;
    shape.type = qkv->dtype;
    shape.scale = a->scale;
    shape.window = a->window;
    shape.backward = node->live;
    return sdpa_plan(cuda_device(node), &shape, out);
}

/* *out: the kernels for this node, NULL when there are none. */
static Status choose(const Node *node, const Sdpa **sdpa, const AttentionPath **out) {
    *out = NULL;
    *sdpa = NULL;
    if (node->in[CACHE]) {
        if (attention_cache_supports(node)) *out = &cache_path;
        return TANE_OK;
    }
    TRY_RETURN(plan_cudnn(node, sdpa));
    if (*sdpa) *out = &cudnn_path;
    else if (flash_supports(node)) *out = &flash_path;
    else if (plain_supports(node)) *out = &plain_path;
    return TANE_OK;
}

static Status plan(Node *node) {
    AttentionArgs *args = (AttentionArgs *)node->args;
    const AttentionPath *path;
    const Sdpa *sdpa;
    const Tensor *qkv = node->in[QKV];
    if (node->live && node->in[CACHE]) return FAIL(TANE_EUNSUPPORTED, "attention: no gradient through a KV cache");
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "attention: qkv may have one consumer only");
    TRY_RETURN(choose(node, &sdpa, &path));
    if (!path)
        return FAIL(TANE_EUNSUPPORTED,
                    "attention: no kernel for %s with head_dim %d on this GPU (compute capability %d.%d); head_dim up "
                    "to 128 always works, and so does device=cpu",
                    dtype_name(qkv->dtype), args->shape.head_dim, cuda_device(node)->major, cuda_device(node)->minor);
    if (node->live) {
        int64_t stats[] = {qkv->shape[0], args->shape.heads, qkv->shape[1]};
        TRY_RETURN(node_save(node, DTYPE_F32, 3, stats));
        int64_t keep = path == &flash_path ? flash_keep_words(node) : 0;
        if (keep) TRY_RETURN(node_save(node, DTYPE_I32, 1, &keep));
        node->backward_reads_in = 1u << QKV | (node->in[STARTS] ? 1u << STARTS : 0);
        node->backward_reads_out = 1;
    }
    args->plan = sdpa;
    node->variant = path;
    node->scratch_bytes = path->scratch(node);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    return ((const AttentionPath *)node->variant)->forward(node, run);
}
static Status backward(const Node *node, const TapeRun *run) {
    return node->grad_in[QKV] ? ((const AttentionPath *)node->variant)->backward(node, run) : TANE_OK;
}

CUDA_KERNEL(attention, plan, forward, backward)
