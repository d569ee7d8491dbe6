/* AdamW over flat arrays on CUDA; formulas in adamw.c and ops/update.h. One kernel over all segments, whose table comes
 * with the launch (MOST_SEGMENTS at a time): adamw_update<S, W>, with states of type S = fp32 and weights of type W as
 * copies of the master's, or S = W = bf16 and stochastic rounding. A block finds its segment and takes a tile of it; a
 * thread moves vectors of 16 bytes of each state, or single elements where a segment begins or ends inside of one. */
#include "ops/kernel.cuh"

extern "C" {
#include "ops/update.h"
}

enum { THREADS = 256, MOST_SEGMENTS = 100 };

/* Vectors of each state that a thread has in flight: as many as registers hold. */
template <typename S> static constexpr int VECTORS = sizeof(S) == 4 ? 2 : 1;

typedef struct AdamPart {
    int64_t begin, end;
    float weight_decay, lr_scale;
    int tile; /* the first of its tiles */
} AdamPart;

typedef struct AdamLaunch {
    void *master, *m, *v, *weights; /* master: bf16 states have none, weights are updated themselves */
    const void *grads;
    const float *control, *hyper;
    const TapeRun *run;
    int n, tiles;
    AdamPart part[MOST_SEGMENTS];
} AdamLaunch;
static_assert(sizeof(AdamLaunch) <= 4096, "more than a kernel's arguments can hold");

__device__ static inline const AdamPart *part_of(const AdamLaunch *a, int tile) {
    int low = 0, high = a->n - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (a->part[middle].tile <= tile) low = middle;
        else high = middle - 1;
    }
    return &a->part[low];
}

/* Elements i .. i + 3 of the compute copy. */
__device__ static inline void store_copy(float *to, const float *x) { store16(to, x); }
template <typename W> __device__ static inline void store_copy(W *to, const float *x) {
    uint2 raw;
    W *e = (W *)&raw;
#pragma unroll
    for (int i = 0; i < 4; i++) e[i] = from_float<W>(x[i]);
    *(uint2 *)to = raw;
}

__device__ static inline __nv_bfloat16 rounded(float x, const uint32_t word[4], int64_t i) {
    return __ushort_as_bfloat16(round_stochastic(x, noise_of(word, i)));
}

/* Elements i .. i + 7 of an array, rounded stochastically. */
__device__ static inline void store_rounded(void *to, int array, const float *x, int64_t i, const TapeRun *run) {
    uint32_t word[4];
    int4 raw;
    __nv_bfloat16 *e = (__nv_bfloat16 *)&raw;
    update_noise(word, run->seed, run->position, array, i / 8);
#pragma unroll
    for (int k = 0; k < 8; k++) e[k] = rounded(x[k], word, k);
    *(int4 *)((__nv_bfloat16 *)to + i) = raw;
}

template <typename S, typename W>
__device__ static inline void update_vector(const AdamLaunch *a, const AdamStep *s, int64_t i, int4 w_raw, int4 m_raw,
                                            int4 v_raw, int4 g_raw) {
    constexpr int N = Vec16<S>::N;
    float w[N], m[N], v[N], g[N];
    unpack16<S>(w, w_raw);
    unpack16<S>(m, m_raw);
    unpack16<S>(v, v_raw);
    unpack16<S>(g, g_raw);
#pragma unroll
    for (int e = 0; e < N; e++) adam_element(s, &w[e], &m[e], &v[e], g[e]);
    if constexpr (sizeof(S) == 4) {
        store16((float *)a->master + i, w);
        store16((float *)a->m + i, m);
        store16((float *)a->v + i, v);
        if (a->weights) store_copy((W *)a->weights + i, w);
    } else {
        store_rounded(a->weights, WEIGHTS, w, i, a->run);
        store_rounded(a->m, M, m, i, a->run);
        store_rounded(a->v, V, v, i, a->run);
    }
}

template <typename S, typename W>
__device__ static inline void update_one(const AdamLaunch *a, const AdamStep *s, int64_t i) {
    S *states = (S *)(sizeof(S) == 4 ? a->master : a->weights), *ms = (S *)a->m, *vs = (S *)a->v;
    float w = to_float(states[i]), m = to_float(ms[i]), v = to_float(vs[i]);
    adam_element(s, &w, &m, &v, to_float(((const S *)a->grads)[i]));
    if constexpr (sizeof(S) == 4) {
        states[i] = w, ms[i] = m, vs[i] = v;
        if (a->weights) ((W *)a->weights)[i] = from_float<W>(w);
    } else {
        uint32_t word[4];
        update_noise(word, a->run->seed, a->run->position, WEIGHTS, i / 8);
        states[i] = rounded(w, word, i);
        update_noise(word, a->run->seed, a->run->position, M, i / 8);
        ms[i] = rounded(m, word, i);
        update_noise(word, a->run->seed, a->run->position, V, i / 8);
        vs[i] = rounded(v, word, i);
    }
}

template <typename S, typename W>
__global__ void __launch_bounds__(THREADS, 4) adamw_update(const __grid_constant__ AdamLaunch a) {
    constexpr int N = Vec16<S>::N;
    const AdamPart *part = part_of(&a, (int)blockIdx.x);
    int64_t begin = part->begin, end = part->end;
    int64_t first = begin / N * N + ((int64_t)((int)blockIdx.x - part->tile) * THREADS * VECTORS<S> + threadIdx.x) * N;
    const S *ws = (const S *)(sizeof(S) == 4 ? a.master : a.weights);
    int4 w[VECTORS<S>], m[VECTORS<S>], v[VECTORS<S>], g[VECTORS<S>];
#pragma unroll
    for (int u = 0; u < VECTORS<S>; u++) { /* on their way before anything else is looked at */
        int64_t i = first + u * THREADS * N;
        if (i < begin || i + N > end) continue;
        w[u] = *(const int4 *)(ws + i);
        m[u] = *(const int4 *)((const S *)a.m + i);
        v[u] = *(const int4 *)((const S *)a.v + i);
        g[u] = *(const int4 *)((const S *)a.grads + i);
    }
    if (a.control[CONTROL_APPLY] == 0.0f) return;
    AdamStep s = adam_step(a.hyper, a.control, part->weight_decay, part->lr_scale);
#pragma unroll
    for (int u = 0; u < VECTORS<S>; u++) {
        int64_t i = first + u * THREADS * N;
        if (i >= begin && i + N <= end) update_vector<S, W>(&a, &s, i, w[u], m[u], v[u], g[u]);
        else
#pragma unroll 1
            for (int64_t e = i; e < i + N; e++)
                if (e >= begin && e < end) update_one<S, W>(&a, &s, e);
    }
}

static Status plan(Node *node) {
    const Tensor *weights = node->in[WEIGHTS];
    if (weights && !cuda_is_float(weights->dtype))
        return FAIL(TANE_EUNSUPPORTED, "adamw: no CUDA kernel for %s weights", dtype_name(weights->dtype));
    return TANE_OK;
}

static Status launch(const Node *node, const AdamLaunch *a) {
    cudaStream_t stream = cuda_device(node)->stream;
    DType type = node->in[WEIGHTS] ? node->in[WEIGHTS]->dtype : DTYPE_F32;
    if (!a->tiles) return TANE_OK;
    if (!node->in[MASTER]) adamw_update<__nv_bfloat16, __nv_bfloat16><<<a->tiles, THREADS, 0, stream>>>(*a);
    else if (type == DTYPE_F32) adamw_update<float, float><<<a->tiles, THREADS, 0, stream>>>(*a);
    else if (type == DTYPE_BF16) adamw_update<float, __nv_bfloat16><<<a->tiles, THREADS, 0, stream>>>(*a);
    else adamw_update<float, __half><<<a->tiles, THREADS, 0, stream>>>(*a);
    CUDA_LAUNCHED();
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    const AdamArgs *args = (const AdamArgs *)node->args;
    const Tensor *const *in = node->in;
    AdamLaunch a = {};
    a.master = in[MASTER] ? in[MASTER]->data : NULL;
    a.m = in[M]->data, a.v = in[V]->data, a.grads = in[GRADS]->data;
    a.weights = in[WEIGHTS] ? in[WEIGHTS]->data : NULL;
    a.control = (const float *)in[CONTROL]->data, a.hyper = (const float *)in[HYPER]->data;
    a.run = run->on_device;
    int64_t n = in[MASTER] ? Vec16<float>::N : Vec16<__nv_bfloat16>::N;
    int64_t tile = n * THREADS * (in[MASTER] ? VECTORS<float> : VECTORS<__nv_bfloat16>);
    for (int i = 0; i < args->n; i++) {
        const AdamSegment *s = &args->segments[i];
        if (s->begin == s->end) continue;
        if (a.n == MOST_SEGMENTS) {
            TRY_RETURN(launch(node, &a));
            a.n = a.tiles = 0;
        }
        AdamPart part = {s->begin, s->end, s->weight_decay, s->lr_scale, a.tiles};
        a.part[a.n++] = part;
        a.tiles += (int)cuda_blocks(s->end - s->begin / n * n, tile);
    }
    return launch(node, &a);
}

CUDA_KERNEL_NODIFF(adamw, plan, forward)
