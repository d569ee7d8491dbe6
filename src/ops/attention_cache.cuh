/* Attention over a KV cache: cache (B, P, 2 KV D) holds each position's keys, then its values. The new tokens' are
 * written at past[b] + t, and query t sees 0 .. past[b] + t (the last `window` of these).
 *
 *   split   any T, any type. A block serves up to G queries that share a KV head (query heads of its group, and with
 *           T > 1 neighbouring tokens), so keys and values are read once for all of them. Keys are cut at multiples
 *           of a fixed length, short where few sequences must fill the GPU: a row's result does not
 *           depend on who shares its batch.
 *           With T = 1 a block takes one split. Those beyond `past` leave at once, and the last of a row to finish
 *           joins the parts in the order of the keys. With T > 1 a block goes through its splits one by one.
 *
 *   tiles   T >= 16, bf16 or fp16 on tensor cores (compute capability 8.0): 64 queries of a head against tiles of 64
 *           keys, an online softmax between two products (Dao 2023).
 *
 * With T > 1 a small kernel first writes the cache, and keys are read from there; with T = 1 the split kernel does so
 * itself, and takes the new token's from qkv. Exponentials are to base 2: scores come multiplied by log2(e). A softcap
 * is taken from a split's, or a tile's, scores before their maximum.
 */
#ifndef OPS_ATTENTION_CACHE_CUH
#define OPS_ATTENTION_CACHE_CUH

#include "device/cuda/mma.cuh"
#include "ops/attention_cuda.cuh"

enum { CACHE_SPLIT = 256, CACHE_SHORT_SPLIT = 64, CACHE_THREADS = 128, CACHE_WARPS = CACHE_THREADS / 32, CACHE_ROWS = 1 << 16 };
enum { TILE_Q = 64, TILE_K = 64, TILE_FROM = 16 };

/* What the kernels get. A `row` is a sequence's KV head and one chunk of its queries: a block, or one a split. */
typedef struct CacheJob {
    const void *qkv; // (B, T, (H + 2 KV) D)
    void *cache;     // (B, P, 2 KV D)
    const int *past; // (B)
    void *out;       // (B, T, H D)
    float *partial;  // (rows, splits, G (D + 2)): sums of weighted values, maxima, sums of weights
    CudaFault *fault;
    int batch, tokens, positions, heads, kv_heads, dim, window;
    int chunks;    // of a KV head's group * T queries, G in each
    int split;     // keys of a split, at most CACHE_SPLIT
    int splits;    // of P; 1: a block goes through all
    int64_t first; // row of the first block
    float scale;   // times log2(e); with softcap times 1 / softcap
    float cap;     // softcap times log2(e); 0: none
} CacheJob;

/* Blocks of a row that have left their part. The last one sets it back to 0, so no run has to clear it. Launches have
 * at most CACHE_ROWS rows, and one stream runs them. */
static __device__ unsigned cache_arrived[CACHE_ROWS];

/* First key that a query at `position` sees. */
__device__ static inline int cache_first_key(const CacheJob &job, int position) {
    return job.window > 0 && position >= job.window ? position + 1 - job.window : 0;
}
__device__ static inline bool cache_past_is_good(const CacheJob &job, int past) {
    return past >= 0 && past <= job.positions - job.tokens;
}

/* ---------------------------------------------------------------------------------------------- writing the cache */

/* The new keys and values of a token lie in qkv as they do in the cache: one run of 2 KV D elements. */
template <typename T> __global__ static void cache_write_kernel(CacheJob job) {
    int b = blockIdx.x / job.tokens, t = blockIdx.x % job.tokens, past = job.past[b];
    int width = 2 * job.kv_heads * job.dim;
    if (!cache_past_is_good(job, past)) {
        if (threadIdx.x == 0) report_fault(job.fault, FAULT_CACHE, b, job.tokens, past, job.positions);
        return;
    }
    const T *from = (const T *)job.qkv + (int64_t)blockIdx.x * (job.heads * job.dim + width) + job.heads * job.dim;
    T *to = (T *)job.cache + ((int64_t)b * job.positions + past + t) * width;
    constexpr int N = Vec16<T>::N;
    if (job.dim % N == 0)
        for (int i = threadIdx.x; i < width / N; i += blockDim.x) ((int4 *)to)[i] = ((const int4 *)from)[i];
    else
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}

/* ------------------------------------------------------------------------------------------------ the split kernel */

/* How a row of D elements lies in LANES lanes, N elements each: side by side, loaded as 16 bytes (LANES N >= D, D a
 * multiple of N), or with SCATTER every 32nd, loaded one by one (any D <= 32 N). */
template <typename T, int LANES, int N, bool SCATTER> struct CacheRow {
    static constexpr int WIDTH = LANES * N;
    __align__(16) T e[N];
    __device__ static int dim(int lane, int i) { return SCATTER ? lane + LANES * i : lane * N + i; }
    __device__ void load(const T *row, int lane, int d, bool there) {
        if (SCATTER) {
#pragma unroll
            for (int i = 0; i < N; i++) e[i] = there && dim(lane, i) < d ? row[dim(lane, i)] : from_float<T>(0.0f);
        } else {
            *(int4 *)e = there && lane * N < d ? *(const int4 *)(row + lane * N) : make_int4(0, 0, 0, 0);
        }
    }
    __device__ float at(int i) const { return to_float(e[i]); }
};

/* One sequence, KV head and chunk of queries, as all threads of a block see it. Query i is head i % group of the KV
 * head's group and token i / group. */
typedef struct CachePlace {
    int b, kv, query, queries; // first query of the chunk, and how many of G there are
    int group, past;
    int begin, end; // keys that some query of the chunk sees
} CachePlace;

template <int G> __device__ static inline CachePlace cache_place(const CacheJob &job, int64_t row) {
    CachePlace p;
    int per_sequence = job.kv_heads * job.chunks, within = (int)(row % per_sequence);
    p.b = (int)(row / per_sequence);
    p.kv = within / job.chunks;
    p.group = job.heads / job.kv_heads;
    p.query = within % job.chunks * G;
    p.queries = min(G, p.group * job.tokens - p.query);
    p.past = job.past[p.b];
    p.begin = cache_first_key(job, p.past + p.query / p.group);
    p.end = p.past + (p.query + p.queries - 1) / p.group + 1;
    return p;
}

/* Element (query of the chunk, 0) of out, and of q in qkv. */
__device__ static inline int64_t cache_out_at(const CacheJob &job, const CachePlace &p, int g) {
    int i = p.query + g, head = p.kv * p.group + i % p.group;
    return (((int64_t)p.b * job.tokens + i / p.group) * job.heads + head) * job.dim;
}
__device__ static inline int64_t cache_q_at(const CacheJob &job, const CachePlace &p, int g) {
    int i = p.query + g, head = p.kv * p.group + i % p.group;
    return (((int64_t)p.b * job.tokens + i / p.group) * (job.heads + 2 * job.kv_heads) + head) * job.dim;
}

/* A block's shared memory. */
template <int G, int WIDTH> struct CacheShared {
    float weight[CACHE_SPLIT * G];        // scores, then their exponentials, of (key, query)
    float sum[CACHE_WARPS * G * WIDTH];   // of weighted values, a part a warp
    float joined[G * WIDTH];              // T > 1: over the splits so far
    float top[G], total[G];               // of this split
    float joined_top[G], joined_total[G]; // over the splits so far
    bool last;
};

/* Row of keys (0) or values (1) of position j. */
template <typename T>
__device__ static inline const T *cache_row_at(const CacheJob &job, const CachePlace &p, int j, int values) {
    int64_t part = (int64_t)(p.kv + values * job.kv_heads) * job.dim;
    if (job.tokens == 1 && j == p.past)
        return (const T *)job.qkv + (int64_t)p.b * (job.heads + 2 * job.kv_heads) * job.dim + job.heads * job.dim +
               part;
    return (const T *)job.cache + ((int64_t)p.b * job.positions + j) * 2 * job.kv_heads * job.dim + part;
}

/* Maximum over the keys of one split, weights 2^(score - maximum), and their sum: a warp a query. */
template <int G, int WIDTH>
__device__ static void cache_softmax(const CacheJob &job, const CachePlace &p, int start, CacheShared<G, WIDTH> &s) {
    int lane = threadIdx.x & 31;
    for (int g = threadIdx.x >> 5; g < p.queries; g += CACHE_WARPS) {
        int position = p.past + (p.query + g) / p.group, first = max(cache_first_key(job, position) - start, 0);
        int end = min(position + 1 - start, job.split);
        float top = -INFINITY, total = 0;
        for (int j = lane; j < end; j += 32) {
            if (job.cap > 0.0f) s.weight[j * G + g] = job.cap * tanh_f32(s.weight[j * G + g]);
            if (j >= first) top = fmaxf(top, s.weight[j * G + g]);
        }
        top = warp_max(top);
        for (int j = lane; j < CACHE_SPLIT; j += 32) {
            float w = j >= first && j < end ? exp2f(s.weight[j * G + g] - top) : 0.0f;
            s.weight[j * G + g] = w;
            total += w;
        }
        total = warp_sum(total);
        if (lane == 0) {
            s.top[g] = top;
            s.total[g] = total;
        }
    }
}

/* How a block goes through a split: STEP keys at a time, BATCH rows a thread. Two steps are under way at once, so that
 * the next rows come while these are multiplied; behind the last keys come the first values. */
template <typename T, int LANES, int N, bool SCATTER, int G> struct CacheSteps {
    typedef CacheRow<T, LANES, N, SCATTER> Row;
    static constexpr int SLOTS = CACHE_THREADS / LANES; // keys that a block has at once
    static constexpr int BATCH = SCATTER ? 1 : G * N > 32 ? 4 : 8;
    static constexpr int STEP = SLOTS * BATCH;
    static_assert(CACHE_SPLIT % (2 * STEP) == 0, "two steps do not leave their split");
    int start, begin, end; // the split's first key; the keys to see, from there

    /* Row u is of key `at` + u SLOTS + the thread's slot, zeros where it is not to be seen. */
    __device__ void load(Row row[BATCH], const CacheJob &job, const CachePlace &p, int at, int values) const {
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            int j = at + u * SLOTS + threadIdx.x / LANES;
            row[u].load(cache_row_at<T>(job, p, start + j, values), threadIdx.x % LANES, job.dim,
                        j >= begin && j < end);
        }
    }
    /* Scores of a step's keys into `weight`. */
    __device__ static void score(float *weight, const float q[G][N], const Row row[BATCH], int at, float scale) {
#pragma unroll
        for (int u = 0; u < BATCH; u++)
#pragma unroll
            for (int g = 0; g < G; g++) {
                float x = 0;
#pragma unroll
                for (int i = 0; i < N; i++) x += q[g][i] * row[u].at(i);
#pragma unroll
                for (int other = LANES / 2; other > 0; other >>= 1) x += __shfl_xor_sync(0xffffffffu, x, other);
                if (threadIdx.x % LANES == 0) weight[(at + u * SLOTS + threadIdx.x / LANES) * G + g] = x * scale;
            }
    }
    /* sum += the step's weighted values. */
    __device__ static void add(float sum[G][N], const float *weight, const Row row[BATCH], int at, int queries) {
#pragma unroll
        for (int u = 0; u < BATCH; u++)
#pragma unroll
            for (int g = 0; g < G; g++) {
                float w = g < queries ? weight[(at + u * SLOTS + threadIdx.x / LANES) * G + g] : 0.0f;
#pragma unroll
                for (int i = 0; i < N; i++) sum[g][i] += w * row[u].at(i);
            }
    }
};

/* Keys start .. start + CACHE_SPLIT - 1 against the chunk's queries: leaves s.top, s.total and, by warps, s.sum. */
template <typename T, int LANES, int N, bool SCATTER, int G>
__device__ static void cache_attend(const CacheJob &job, const CachePlace &p, int start, CacheShared<G, LANES * N> &s) {
    typedef CacheSteps<T, LANES, N, SCATTER, G> Steps;
    typedef typename Steps::Row Row;
    constexpr int STEP = Steps::STEP;
    const Steps steps = {start, max(p.begin - start, 0), min(p.end - start, job.split)};
    int lane = threadIdx.x % LANES, end = steps.end, from = steps.begin / (2 * STEP) * (2 * STEP);
    Row row[2][Steps::BATCH];
    float q[G][N], sum[G][N] = {};
    steps.load(row[0], job, p, from, 0);
    steps.load(row[1], job, p, from + STEP, 0);
#pragma unroll
    for (int g = 0; g < G; g++) {
        Row r;
        r.load((const T *)job.qkv + (g < p.queries ? cache_q_at(job, p, g) : 0), lane, job.dim, g < p.queries);
#pragma unroll
        for (int i = 0; i < N; i++) q[g][i] = r.at(i);
    }
#pragma unroll 1
    for (int at = from; at < end; at += 2 * STEP) {
        bool more = at + 2 * STEP < end;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (at + h * STEP < end) Steps::score(s.weight, q, row[h], at + h * STEP, job.scale);
            steps.load(row[h], job, p, (more ? at + 2 * STEP : from) + h * STEP, !more);
        }
    }
    __syncthreads();
    cache_softmax(job, p, start, s);
    __syncthreads();
#pragma unroll 1
    for (int at = from; at < end; at += 2 * STEP) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (at + h * STEP < end) Steps::add(sum, s.weight, row[h], at + h * STEP, p.queries);
            if (at + 2 * STEP < end) steps.load(row[h], job, p, at + (2 + h) * STEP, 1);
        }
    }
#pragma unroll
    for (int g = 0; g < G; g++)
#pragma unroll
        for (int i = 0; i < N; i++) {
#pragma unroll
            for (int other = LANES; other < 32; other <<= 1)
                sum[g][i] += __shfl_xor_sync(0xffffffffu, sum[g][i], other);
            if ((threadIdx.x & 31) < LANES)
                s.sum[((threadIdx.x >> 5) * G + g) * Row::WIDTH + Row::dim(lane, i)] = sum[g][i];
        }
    __syncthreads();
}

/* Sum over the warps of element d of query g. */
template <int G, int WIDTH> __device__ static inline float cache_summed(const CacheShared<G, WIDTH> &s, int g, int d) {
    float sum = s.sum[g * WIDTH + d];
#pragma unroll
    for (int w = 1; w < CACHE_WARPS; w++) sum += s.sum[(w * G + g) * WIDTH + d];
    return sum;
}

/* 2^(a - b) for maxima, where a = -Inf: no key was seen. */
__device__ static inline float cache_rescale(float a, float b) { return a == -INFINITY ? 0.0f : exp2f(a - b); }

template <typename T> __device__ static void cache_zero_out(const CacheJob &job, const CachePlace &p) {
    for (int g = 0; g < p.queries; g++)
        for (int d = threadIdx.x; d < job.dim; d += CACHE_THREADS)
            ((T *)job.out)[cache_out_at(job, p, g) + d] = from_float<T>(0.0f);
}

/* T = 1: leaves this split's part; the last block of the row joins them all, in the order of the keys. */
template <typename T, int G, int WIDTH>
__device__ static void cache_join(const CacheJob &job, const CachePlace &p, int64_t row, int split, int first, int last,
                                  CacheShared<G, WIDTH> &s) {
    int d = job.dim, stride = G * (d + 2), n = p.queries * d;
    T *out = (T *)job.out;
    if (first == last) {
        for (int e = threadIdx.x; e < n; e += CACHE_THREADS)
            out[cache_out_at(job, p, e / d) + e % d] = from_float<T>(cache_summed(s, e / d, e % d) / s.total[e / d]);
        return;
    }
    float *parts = job.partial + row * job.splits * stride, *mine = parts + (int64_t)split * stride;
    for (int e = threadIdx.x; e < n; e += CACHE_THREADS) mine[e] = cache_summed(s, e / d, e % d);
    if (threadIdx.x < p.queries) {
        mine[G * d + threadIdx.x] = s.top[threadIdx.x];
        mine[G * d + G + threadIdx.x] = s.total[threadIdx.x];
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        s.last = atomicAdd(&cache_arrived[blockIdx.x], 1u) == (unsigned)(last - first);
        if (s.last) cache_arrived[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!s.last) return;
    __threadfence();
    for (int e = threadIdx.x; e < n; e += CACHE_THREADS) {
        const float *tops = parts + G * d + e / d;
        float top = -INFINITY, total = 0, sum = 0;
#pragma unroll 8
        for (int i = first; i <= last; i++) top = fmaxf(top, __ldcg(tops + (int64_t)i * stride));
#pragma unroll 8
        for (int i = first; i <= last; i++) {
            float scale = exp2f(__ldcg(tops + (int64_t)i * stride) - top);
            total += scale * __ldcg(tops + G + (int64_t)i * stride);
            sum += scale * __ldcg(parts + (int64_t)i * stride + e);
        }
        out[cache_out_at(job, p, e / d) + e % d] = from_float<T>(sum / total);
    }
}

/* Blocks on a multiprocessor at once: loads under way against registers, by what a thread holds of the queries. */
template <int HELD> constexpr int CACHE_RESIDENT = HELD <= 8 ? 4 : 3;

/* T = 1. Grid (rows, splits). */
template <typename T, int LANES, int N, bool SCATTER, int G>
__global__ static void __launch_bounds__(CACHE_THREADS, CACHE_RESIDENT<G * N>) cache_split_kernel(CacheJob job) {
    __shared__ CacheShared<G, LANES * N> s;
    let_next_start();
    wait_for_previous();
    int64_t row = job.first + blockIdx.x;
    int split = blockIdx.y;
    CachePlace p = cache_place<G>(job, row);
    if (!cache_past_is_good(job, p.past)) {
        if (split > 0) return;
        if (threadIdx.x == 0) report_fault(job.fault, FAULT_CACHE, p.b, job.tokens, p.past, job.positions);
        cache_zero_out<T>(job, p);
        return;
    }
    int first = p.begin / job.split, last = (p.end - 1) / job.split;
    if (split < first || split > last) return;
    if (split == last && p.query == 0) { /* nobody reads these from the cache in this launch */
        int64_t to = ((int64_t)p.b * job.positions + p.past) * 2 * job.kv_heads * job.dim + p.kv * job.dim;
        for (int values = 0; values < 2; values++, to += job.kv_heads * job.dim) {
            const T *from = cache_row_at<T>(job, p, p.past, values);
            for (int d = threadIdx.x; d < job.dim; d += CACHE_THREADS) ((T *)job.cache)[to + d] = from[d];
        }
    }
    cache_attend<T, LANES, N, SCATTER, G>(job, p, split * job.split, s);
    cache_join<T, G, LANES * N>(job, p, row, split, first, last, s);
}

/* T > 1. Grid (rows). The joined parts stay in shared memory. */
template <typename T, int LANES, int N, bool SCATTER, int G>
__global__ static void __launch_bounds__(CACHE_THREADS, CACHE_RESIDENT<G * N>) cache_serial_kernel(CacheJob job) {
    constexpr int WIDTH = LANES * N;
    __shared__ CacheShared<G, WIDTH> s;
    CachePlace p = cache_place<G>(job, job.first + blockIdx.x);
    if (!cache_past_is_good(job, p.past)) {
        cache_zero_out<T>(job, p);
        return;
    }
    int d = job.dim, n = p.queries * d;
    if (threadIdx.x < G) {
        s.joined_top[threadIdx.x] = -INFINITY;
        s.joined_total[threadIdx.x] = 0;
    }
    for (int e = threadIdx.x; e < G * WIDTH; e += CACHE_THREADS) s.joined[e] = 0;
    for (int start = p.begin / job.split * job.split; start < p.end; start += job.split) {
        cache_attend<T, LANES, N, SCATTER, G>(job, p, start, s);
        for (int e = threadIdx.x; e < n; e += CACHE_THREADS) {
            int g = e / d, at = g * WIDTH + e % d;
            float top = fmaxf(s.joined_top[g], s.top[g]);
            s.joined[at] = s.joined[at] * cache_rescale(s.joined_top[g], top) +
                           cache_summed(s, g, e % d) * cache_rescale(s.top[g], top);
        }
        __syncthreads();
        if (threadIdx.x < p.queries) {
            int g = threadIdx.x;
            float top = fmaxf(s.joined_top[g], s.top[g]);
            s.joined_total[g] = s.joined_total[g] * cache_rescale(s.joined_top[g], top) +
                                s.total[g] * cache_rescale(s.top[g], top);
            s.joined_top[g] = top;
        }
        __syncthreads();
    }
    for (int e = threadIdx.x; e < n; e += CACHE_THREADS)
        ((T *)job.out)[cache_out_at(job, p, e / d) + e % d] = from_float<T>(s.joined[e / d * WIDTH + e % d] /
                                                                            s.joined_total[e / d]);
}

/* ------------------------------------------------------------------------------------------------ the tiles kernel */

/* Rows of a tile lie 16 bytes further apart than they are long: eight neighbours fall into different banks. */
template <int D> constexpr int TILE_PITCH = D + 8;

#ifdef CUDA_HAS_MMA

/* 64 rows of `dim` elements, `stride` apart, zeros behind and from row `rows` on. */
template <typename T, int D>
__device__ static inline void tile_load(T *to, const T *from, int64_t stride, int rows, int dim) {
    for (int i = threadIdx.x; i < 64 * (D / 8); i += CACHE_THREADS) {
        int r = i / (D / 8), e = i % (D / 8) * 8;
        bool there = r < rows && e < dim;
        copy16_async(to + r * TILE_PITCH<D> + e, there ? from + r * stride + e : from, there);
    }
}

/* One warp's 16 queries against 64 keys: s[n] holds, of keys 8 n + 2 (lane % 4) + {0, 1}, the scores of queries
 * lane / 4 (0, 1) and lane / 4 + 8 (2, 3). CAP: tanh(scale score) in their place. */
template <typename T, int D, bool CAP>
__device__ static inline void tile_scores(float s[8][4], const uint32_t q[D / 16][4], const T *keys, float scale) {
    int lane = threadIdx.x & 31, row = (lane & 7) + (lane >> 4) * 8, column = (lane >> 3 & 1) * 8;
#pragma unroll
    for (int n = 0; n < 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t b[4];
            mma_load(b, keys + (n * 16 + row) * TILE_PITCH<D> + k * 16 + column);
            mma<T>(s[2 * n], q[k], b[0], b[1]);
            mma<T>(s[2 * n + 1], q[k], b[2], b[3]);
        }
#pragma unroll
    for (int e = 0; CAP && e < 32; e++) s[e / 4][e % 4] = tanh_f32(s[e / 4][e % 4] * scale);
}

/* o += P V for the 64 keys whose weights are in s. */
template <typename T, int D>
__device__ static inline void tile_values(float o[D / 8][4], const float s[8][4], const T *values) {
    int lane = threadIdx.x & 31, row = lane & 15, column = (lane >> 4) * 8;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t p[4] = {mma_pack<T>(s[2 * k][0], s[2 * k][1]), mma_pack<T>(s[2 * k][2], s[2 * k][3]),
                         mma_pack<T>(s[2 * k + 1][0], s[2 * k + 1][1]), mma_pack<T>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            mma_load_transposed(b, values + (k * 16 + row) * TILE_PITCH<D> + n * 16 + column);
            mma<T>(o[2 * n], p, b[0], b[1]);
            mma<T>(o[2 * n + 1], p, b[2], b[3]);
        }
    }
}

/* Scores to weights of the running softmax, for the two queries of a thread at positions at[0], at[1]; `first` are the
 * first keys that they see, `key` is this thread's first key of the tile. Rescales what was summed before. */
template <int D>
__device__ static inline void tile_softmax(float s[8][4], float o[D / 8][4], float top[2], float total[2], int key,
                                           const int at[2], const int first[2], bool masked, float scale) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = top[h];
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                int j = key + 8 * n + (e & 1);
                s[n][e] = masked && (j > at[h] || j < first[h]) ? -INFINITY : s[n][e] * scale;
                most = fmaxf(most, s[n][e]);
            }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        float rescale = cache_rescale(top[h], most), base = most == -INFINITY ? 0.0f : most;
        total[h] *= rescale;
        top[h] = most;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                s[n][e] = exp2_fast(s[n][e] - base);
                total[h] += s[n][e];
            }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            o[n][2 * h] *= rescale;
            o[n][2 * h + 1] *= rescale;
        }
    }
}
#endif

/* A block: 64 queries of a head, 16 a warp. Grid (tiles B H), the longest first. Shared: two stages of keys and values,
 * each a tile; the queries pass through the last of them. */
template <typename T, int D, bool CAP>
__global__ static void __launch_bounds__(CACHE_THREADS) cache_tiles_kernel(CacheJob job) {
#ifdef CUDA_HAS_MMA
    extern __shared__ int4 tiles_shared[];
    constexpr int TILE = 64 * TILE_PITCH<D>;
    T *stage = (T *)tiles_shared;
    int per_tile = job.batch * job.heads, tiles = (job.tokens + TILE_Q - 1) / TILE_Q;
    int query = (tiles - 1 - (int)(blockIdx.x / per_tile)) * TILE_Q, b = blockIdx.x % per_tile / job.heads;
    int head = blockIdx.x % job.heads, rows = min((int)TILE_Q, job.tokens - query), past = job.past[b];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, pair = lane % 4 * 2;
    T *out = (T *)job.out + (((int64_t)b * job.tokens + query) * job.heads + head) * job.dim;
    int64_t out_stride = (int64_t)job.heads * job.dim;
    if (!cache_past_is_good(job, past)) { /* cache_write_kernel has reported it */
        for (int i = threadIdx.x; i < rows * job.dim; i += CACHE_THREADS)
            out[i / job.dim * out_stride + i % job.dim] = from_float<T>(0.0f);
        return;
    }
    int64_t q_stride = (int64_t)(job.heads + 2 * job.kv_heads) * job.dim, kv_stride = 2 * job.kv_heads * job.dim;
    const T *queries = (const T *)job.qkv + ((int64_t)b * job.tokens + query) * q_stride + head * job.dim;
    const T *keys = (const T *)job.cache + (int64_t)b * job.positions * kv_stride +
                    head / (job.heads / job.kv_heads) * job.dim;
    const T *values = keys + job.kv_heads * job.dim;
    int end = past + query + rows, start = cache_first_key(job, past + query) / TILE_K * TILE_K;

    tile_load<T, D>(stage + 3 * TILE, queries, q_stride, rows, job.dim);
    tile_load<T, D>(stage, keys + start * kv_stride, kv_stride, end - start, job.dim);
    tile_load<T, D>(stage + TILE, values + start * kv_stride, kv_stride, end - start, job.dim);
    copy_wait();
    __syncthreads();
    uint32_t q[D / 16][4];
    const T *q_row = stage + 3 * TILE + (warp * 16 + (lane & 15)) * TILE_PITCH<D> + (lane >> 4) * 8;
#pragma unroll
    for (int k = 0; k < D / 16; k++) mma_load(q[k], q_row + k * 16);

    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    int low = past + query + warp * 16, at[2] = {low + lane / 4, low + lane / 4 + 8};
    int first[2] = {cache_first_key(job, at[0]), cache_first_key(job, at[1])};
    for (int side = 0; start < end; start += TILE_K, side ^= 1) {
        int next = start + TILE_K;
        copy_wait();
        __syncthreads(); /* this stage is there, and nobody reads the other one any more */
        if (next < end) {
            T *to = stage + (side ^ 1) * 2 * TILE;
            tile_load<T, D>(to, keys + next * kv_stride, kv_stride, end - next, job.dim);
            tile_load<T, D>(to + TILE, values + next * kv_stride, kv_stride, end - next, job.dim);
        }
        float s[8][4];
        const T *here = stage + side * 2 * TILE;
        bool masked = next > low + 1 || start < cache_first_key(job, low + 15);
        tile_scores<T, D, CAP>(s, q, here, job.scale);
        tile_softmax<D>(s, o, top, total, start + pair, at, first, masked, CAP ? job.cap : job.scale);
        tile_values<T, D>(o, s, here + TILE);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
        int r = warp * 16 + lane / 4 + 8 * h;
        if (r >= rows) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            if (8 * n + pair < job.dim)
                *(uint32_t *)(out + r * out_stride + 8 * n + pair) = mma_pack<T>(o[n][2 * h] / total[h],
                                                                                 o[n][2 * h + 1] / total[h]);
    }
#else
    (void)job; /* never launched */
#endif
}

/* ---------------------------------------------------------------------------------------------------- choosing */

typedef struct CacheChoice {
    bool tiles, scatter;
    int lanes, queries; // of the split kernel: LANES, G
    int chunks, split, splits;
    int64_t rows;
} CacheChoice;

static CacheChoice cache_choose(const Node *node) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const Tensor *qkv = node->in[QKV];
    const CudaDevice *d = cuda_device(node);
    int64_t t = qkv->shape[1], n = a->heads / a->kv_heads * t, bytes = a->head_dim * (int64_t)dtype_size(qkv->dtype);
    CacheChoice c = {};
    c.tiles = t >= TILE_FROM && qkv->dtype != DTYPE_F32 && d->major >= 8 && a->head_dim % 8 == 0 && a->head_dim <= 128;
    c.scatter = bytes % 16 != 0 || bytes > 512;
    c.lanes = c.scatter || bytes > 256 ? 32 : bytes > 128 ? 16 : 8;
    if (c.scatter) c.queries = a->head_dim > 256 ? 1 : 4;
    else if (t > 1) c.queries = c.lanes == 32 ? 4 : 8;
    else c.queries = n == 1 ? 1 : n <= 4 || c.lanes == 32 ? 4 : 8;
    c.chunks = (int)cuda_blocks(n, c.queries);
    c.split = t == 1 && node->few_rows ? CACHE_SHORT_SPLIT : CACHE_SPLIT;
    c.splits = t == 1 ? (int)cuda_blocks(node->in[CACHE]->shape[1], c.split) : 1;
    c.rows = qkv->shape[0] * a->kv_heads * c.chunks;
    return c;
}

static bool attention_cache_supports(const Node *node) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    return cuda_is_float(node->in[QKV]->dtype) && a->head_dim <= 1024 &&
           node->in[CACHE]->shape[1] <= (int64_t)CACHE_SHORT_SPLIT * 65535;
}

static size_t attention_cache_scratch(const Node *node) {
    CacheChoice c = cache_choose(node);
    int dim = ((const AttentionArgs *)node->args)->shape.head_dim;
    return c.splits == 1 ? 0 : (size_t)(c.rows * c.splits * c.queries * (dim + 2)) * sizeof(float);
}

/* At most CACHE_ROWS rows at once. T > 1 goes with the largest G alone. */
template <typename T, int LANES, int N, bool SCATTER, int G, bool SERIAL>
static Status cache_launch_split(CudaDevice *d, CacheJob job, const CacheChoice &c) {
    for (job.first = 0; job.first < c.rows; job.first += CACHE_ROWS) {
        int64_t left = c.rows - job.first, rows = left < (int64_t)CACHE_ROWS ? left : (int64_t)CACHE_ROWS;
        dim3 grid((unsigned)rows, (unsigned)c.splits);
        if constexpr (SERIAL) cache_serial_kernel<T, LANES, N, SCATTER, G><<<grid, CACHE_THREADS, 0, d->stream>>>(job);
        else
            TRY_RETURN(cuda_launch_early(d, job.batch <= CUDA_FEW_ROWS, cache_split_kernel<T, LANES, N, SCATTER, G>, grid,
                                         CACHE_THREADS, job));
        CUDA_LAUNCHED();
    }
    return TANE_OK;
}

template <typename T, int LANES>
static Status cache_launch_lanes(CudaDevice *d, const CacheJob &job, const CacheChoice &c) {
    constexpr int N = Vec16<T>::N, MOST = LANES == 32 ? 4 : 8;
    if (job.tokens > 1) return cache_launch_split<T, LANES, N, false, MOST, true>(d, job, c);
    if (c.queries == 1) return cache_launch_split<T, LANES, N, false, 1, false>(d, job, c);
    if (c.queries == 4) return cache_launch_split<T, LANES, N, false, 4, false>(d, job, c);
    return cache_launch_split<T, LANES, N, false, MOST, false>(d, job, c);
}

template <typename T> static Status cache_launch_scatter(CudaDevice *d, const CacheJob &job, const CacheChoice &c) {
    bool serial = job.tokens > 1;
    if (c.queries == 1)
        return serial ? cache_launch_split<T, 32, 32, true, 1, true>(d, job, c)
                      : cache_launch_split<T, 32, 32, true, 1, false>(d, job, c);
    return serial ? cache_launch_split<T, 32, 8, true, 4, true>(d, job, c)
                  : cache_launch_split<T, 32, 8, true, 4, false>(d, job, c);
}

template <typename T, int D, bool CAP> static Status cache_launch_tiles_of(CudaDevice *d, const CacheJob &job) {
    size_t bytes = 4 * 64 * TILE_PITCH<D> * sizeof(T);
    unsigned blocks = (unsigned)(cuda_blocks(job.tokens, TILE_Q) * job.batch * job.heads);
    TRY_RETURN(cuda_shared_memory((const void *)cache_tiles_kernel<T, D, CAP>, bytes));
    cache_tiles_kernel<T, D, CAP><<<blocks, CACHE_THREADS, bytes, d->stream>>>(job);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T, int D> static Status cache_launch_tiles(CudaDevice *d, const CacheJob &job) {
    return job.cap > 0.0f ? cache_launch_tiles_of<T, D, true>(d, job) : cache_launch_tiles_of<T, D, false>(d, job);
}

/* fp32 never goes to the tensor cores: training's fp32 products do not either. */
template <typename T> static Status cache_launch_wide(CudaDevice *d, const CacheJob &job) {
    return job.dim <= 64 ? cache_launch_tiles<T, 64>(d, job) : cache_launch_tiles<T, 128>(d, job);
}
template <> Status cache_launch_wide<float>(CudaDevice *d, const CacheJob &job) {
    (void)d, (void)job;
    return FAIL(TANE_EUNSUPPORTED, "attention: no fp32 kernel on tensor cores");
}

template <typename T> static Status cache_launch(CudaDevice *d, const CacheJob &job, const CacheChoice &c) {
    if (job.tokens > 1) {
        cache_write_kernel<T><<<(unsigned)(job.batch * job.tokens), CACHE_THREADS, 0, d->stream>>>(job);
        CUDA_LAUNCHED();
    }
    if (c.tiles) return cache_launch_wide<T>(d, job);
    if (c.scatter) return cache_launch_scatter<T>(d, job, c);
    if (c.lanes == 8) return cache_launch_lanes<T, 8>(d, job, c);
    if (c.lanes == 16) return cache_launch_lanes<T, 16>(d, job, c);
    return cache_launch_lanes<T, 32>(d, job, c);
}

static Status attention_cache_forward(const Node *node, const TapeRun *run) {
    (void)run;
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const Tensor *qkv = node->in[QKV];
    CudaDevice *d = cuda_device(node);
    CacheChoice c = cache_choose(node);
    CacheJob job = {};
    job.qkv = qkv->data;
    job.cache = node->in[CACHE]->data;
    job.past = (const int *)node->in[PAST]->data;
    job.out = node->out[0]->data;
    job.partial = (float *)node->scratch;
    job.fault = d->fault;
    job.batch = (int)qkv->shape[0];
    job.tokens = (int)qkv->shape[1];
    job.positions = (int)node->in[CACHE]->shape[1];
    job.heads = a->heads;
    job.kv_heads = a->kv_heads;
    job.dim = a->head_dim;
    job.window = a->window < job.positions ? (int)a->window : 0;
    job.chunks = c.chunks;
    job.split = c.split;
    job.splits = c.splits;
    job.cap = a->softcap * 1.4426950408889634f;
    job.scale = a->softcap > 0.0f ? a->scale / a->softcap : a->scale * 1.4426950408889634f;
    return CUDA_BY_TYPE(qkv->dtype, cache_launch, d, job, c);
}

#endif
