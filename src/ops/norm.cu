/* Residual sum and normalisation on the GPU: the formulas of norm.c.
 *
 *   rows          forward, recompute   the row stays in registers between the statistics and the output, in vectors of
 *                                      16 bytes: a warp a row up to 128 vectors (1024 bf16), a block a row up to 4096
 *   rows_back     backward             the same up to 1024 vectors: ds is written once; a block takes many rows and
 *                                      keeps the sums of its columns, dweight and dbias, in registers
 *   any           forward, recompute   every other width: a block a row, which is read again from the cache
 *   any_back, any_columns              backward of these: ds by rows, then sums of columns over chunks of rows
 *   add_columns                        the second stage of both: partial sums to the parameters' gradients
 *
 * Dropout of delta draws its mask again in backward. Where the tape wants the sums of the columns of delta's or x's
 * gradient too (that of the bias in front), rows_back keeps them beside the others, for rows that leave registers for
 * it; else they are made from the gradient that it has written.
 *
 * The number of partial sums depends on shapes and on the number of processors only: the same bits on every run.
 */
#include "ops/column_sums.cuh"

extern "C" {
#include "ops/norm.h"
}

enum { WARPS = 4 }; /* of a block where a warp takes a row */

/* ---- the mask of delta */

typedef struct Coins {
    const TapeRun *run; /* NULL: all ones */
    float p;
    int node;
} Coins;

/* A copy of the run's values, so that they are read once. */
__device__ static inline TapeRun coins_run(const Coins &coins) {
    TapeRun none = {};
    return coins.run ? *coins.run : none;
}

/* Elements first .. first + N - 1 of the mask; first is a multiple of 4. */
template <int N>
__device__ static inline void times_mask(float *x, int64_t first, const Coins &coins, const TapeRun &run) {
#pragma unroll
    for (int e = 0; e < N; e += 4) {
        float keep[4];
        dropout_mask4(keep, first + e, coins.p, &run, coins.node);
#pragma unroll
        for (int i = 0; i < 4; i++) x[e + i] *= keep[i];
    }
}

__device__ static inline float mask_at(int64_t i, const Coins &coins) {
    if (!coins.run) return 1.0f;
    float keep[4];
    dropout_mask4(keep, i & ~(int64_t)3, coins.p, coins.run, coins.node);
    return i & 2 ? (i & 1 ? keep[3] : keep[2]) : (i & 1 ? keep[1] : keep[0]);
}

/* ---- forward */

template <typename T> struct Forward {
    const T *x, *delta, *weight, *bias; /* (rows, width); (width). delta, bias may be NULL */
    T *sum, *y;                         /* sum: NULL without delta */
    float *stats;                       /* (2, rows): mean, r; NULL without backward */
    int64_t rows;
    int width;
    float epsilon, one; /* one: what is added to the weight */
    bool layer, again;  /* again: x is the sum, stats are read */
    Coins coins;
};

/* In these very operations, so that a recomputed y has the same bits. */
__device__ static inline float normed(float s, float mean, float r, float weight, float bias) {
    return __fmaf_rn(__fmul_rn(s - mean, r), weight, bias);
}

template <bool WARP> __device__ static inline float group_sum(float x, float *shared) {
    return WARP ? warp_sum(x) : block_reduce<false>(x, shared);
}

template <typename T> __device__ static inline void unpack(float *to, int4 raw) { load16(to, (const T *)&raw); }

/* Rounded to T. */
template <typename T> __device__ static inline void as_stored(float *x) {
    int4 raw;
    store16((T *)&raw, x);
    unpack<T>(x, raw);
}

template <typename T, int VECS, bool WARP, bool DROP>
static __global__ void __launch_bounds__(WARP ? 32 * WARPS : 1024) rows(const Forward<T> a) {
    let_next_start();
    wait_for_previous();
    constexpr int N = Vec16<T>::N;
    __shared__ float shared[32];
    int threads = WARP ? 32 : blockDim.x, thread = WARP ? threadIdx.x & 31 : threadIdx.x;
    int64_t row = WARP ? (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5) : blockIdx.x;
    if (row >= a.rows) return; /* whole warps; never where a block takes a row */
    TapeRun run = coins_run(a.coins);
    float s[VECS][N];
    int4 raw[VECS], other[VECS];
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * threads + thread) * N;
        raw[v] = other[v] = make_int4(0, 0, 0, 0);
        if (c >= a.width) continue;
        raw[v] = *(const int4 *)(a.x + row * a.width + c);
        if (a.delta) other[v] = *(const int4 *)(a.delta + row * a.width + c);
    }
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * threads + thread) * N;
        unpack<T>(s[v], raw[v]);
        if (!a.delta) continue;
        float d[N];
        unpack<T>(d, other[v]);
        if constexpr (DROP) times_mask<N>(d, row * a.width + c, a.coins, run);
#pragma unroll
        for (int e = 0; e < N; e++) s[v][e] += d[e];
        as_stored<T>(s[v]); /* as backward will see it */
        if (c < a.width) store16(a.sum + row * a.width + c, s[v]);
    }
    float mean = 0.0f, r;
    if (a.again) {
        mean = a.stats[row];
        r = a.stats[a.rows + row];
    } else {
        if (a.layer) {
#pragma unroll
            for (int v = 0; v < VECS; v++)
#pragma unroll
                for (int e = 0; e < N; e++) mean += s[v][e];
            mean = group_sum<WARP>(mean, shared) / (float)a.width;
        }
        float square = 0.0f;
#pragma unroll
        for (int v = 0; v < VECS; v++)
            if ((v * threads + thread) * N < a.width)
#pragma unroll
                for (int e = 0; e < N; e++) square += (s[v][e] - mean) * (s[v][e] - mean);
        r = 1.0f / sqrtf(group_sum<WARP>(square, shared) / (float)a.width + a.epsilon);
        if (a.stats && thread == 0) {
            a.stats[row] = mean;
            a.stats[a.rows + row] = r;
        }
    }
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * threads + thread) * N;
        if (c >= a.width) continue;
        float weight[N], bias[N] = {};
        load16(weight, a.weight + c);
        if (a.bias) load16(bias, a.bias + c);
#pragma unroll
        for (int e = 0; e < N; e++) s[v][e] = normed(s[v][e], mean, r, weight[e] + a.one, bias[e]);
        store16(a.y + row * a.width + c, s[v]);
    }
}

template <typename T> static __global__ void __launch_bounds__(1024) any(const Forward<T> a) {
    let_next_start();
    wait_for_previous();
    __shared__ float shared[32];
    int64_t row = blockIdx.x, first = row * a.width;
    const T *from = a.delta ? a.sum : a.x;
    float mean = 0.0f, square = 0.0f, r;
    for (int c = threadIdx.x; c < a.width && !a.again; c += blockDim.x) {
        float s = to_float(a.x[first + c]);
        if (a.delta) {
            T rounded = from_float<T>(s + to_float(a.delta[first + c]) * mask_at(first + c, a.coins));
            a.sum[first + c] = rounded;
            s = to_float(rounded);
        }
        mean += s;
    }
    if (a.again) {
        mean = a.stats[row];
        r = a.stats[a.rows + row];
    } else {
        mean = a.layer ? block_reduce<false>(mean, shared) / (float)a.width : 0.0f;
        for (int c = threadIdx.x; c < a.width; c += blockDim.x) {
            float d = to_float(from[first + c]) - mean;
            square += d * d;
        }
        r = 1.0f / sqrtf(block_reduce<false>(square, shared) / (float)a.width + a.epsilon);
        if (a.stats && threadIdx.x == 0) {
            a.stats[row] = mean;
            a.stats[a.rows + row] = r;
        }
    }
    for (int c = threadIdx.x; c < a.width; c += blockDim.x)
        a.y[first + c] = from_float<T>(normed(to_float(from[first + c]), mean, r, to_float(a.weight[c]) + a.one,
                                              a.bias ? to_float(a.bias[c]) : 0.0f));
}

/* ---- backward */

template <typename T> struct Backward {
    const T *s, *dy, *dsum, *weight; /* (rows, width); dsum may be NULL, and may be dx or ddelta */
    T *dx, *ddelta;                  /* NULL: not wanted; ddelta also where it is dx */
    const float *stats;              /* (2, rows) */
    /* (blocks, 2, width): sums for dweight and dbias; MORE: (blocks, 3, width), the third of ddelta's columns or,
     * sum_x, dx's. NULL: not wanted */
    float *partial;
    int64_t rows;
    int width;
    float one; /* what is added to the weight */
    bool layer, add_x, add_delta, sum_x;
    Coins coins;
};

/* Blocks of rows_back on a processor: what its registers allow; MORE: a third sum, and dropout. Where a block takes a
 * row, threads in all. */
__host__ __device__ constexpr int warp_residents(int vecs, bool more) {
    return vecs == 4 ? (more ? 2 : 3) : vecs == 3 ? (more ? 3 : 4) : vecs == 2 ? (more ? 4 : 5) : 5;
}
__host__ __device__ constexpr int back_threads(bool more) { return more ? 384 : 512; }

/* Both sums over a block at once; shared: 64 floats. */
template <bool WARP> __device__ static inline float2 group_sum2(float x, float y, float *shared) {
    x = warp_sum(x);
    y = warp_sum(y);
    if (WARP) return make_float2(x, y);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    __syncthreads();
    if (lane == 0) {
        shared[warp] = x;
        shared[32 + warp] = y;
    }
    __syncthreads();
    return make_float2(warp_sum(lane < warps ? shared[lane] : 0.0f), warp_sum(lane < warps ? shared[32 + lane] : 0.0f));
}

template <typename T> __device__ static inline void put16(T *to, const float *ds, bool add) {
    float out[Vec16<T>::N];
    if (add) load16(out, to);
#pragma unroll
    for (int e = 0; e < Vec16<T>::N; e++) out[e] = add ? out[e] + ds[e] : ds[e];
    store16(to, out);
}

/* Makes the compiler unpack again what it has unpacked before: held across the sums, packed rows take half the
 * registers. */
template <int VECS> __device__ static inline void stay_packed(int4 (&raw)[VECS]) {
#pragma unroll
    for (int v = 0; v < VECS; v++) asm volatile("" : "+r"(raw[v].x), "+r"(raw[v].y), "+r"(raw[v].z), "+r"(raw[v].w));
}

/* The warps' sums of columns, one warp after the other, to the block's place in `partial`. */
template <int KINDS, int VECS, int N>
__device__ static inline void join_warps(float *out, const float (*sums)[VECS][N], int width, float *shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int turn = 0; turn < WARPS; turn++) {
        if (turn == warp)
#pragma unroll
            for (int v = 0; v < VECS; v++) {
                int c = (v * 32 + lane) * N;
                if (c >= width) continue;
#pragma unroll
                for (int k = 0; k < KINDS; k++)
#pragma unroll
                    for (int e = 0; e < N; e++) {
                        float *to = &shared[k * width + c + e];
                        *to = turn ? *to + sums[k][v][e] : sums[k][v][e];
                    }
            }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < KINDS * width; i += blockDim.x) out[i] = shared[i];
}

template <typename T, int VECS, bool WARP, bool MORE>
static __global__ void __launch_bounds__(WARP ? 32 * WARPS : back_threads(MORE), WARP ? warp_residents(VECS, MORE) : 1)
    rows_back(const Backward<T> a) {
    constexpr int N = Vec16<T>::N, KINDS = MORE ? 3 : 2;
    extern __shared__ float shared[]; /* WARP: (KINDS, width); else 64 */
    int threads = WARP ? 32 : blockDim.x, thread = WARP ? threadIdx.x & 31 : threadIdx.x;
    int64_t row = WARP ? (int64_t)blockIdx.x * WARPS + (threadIdx.x >> 5) : blockIdx.x;
    int64_t step = WARP ? (int64_t)gridDim.x * WARPS : gridDim.x;
    float columns[KINDS][VECS][N] = {}; /* dweight, dbias, and MORE */
    TapeRun run = coins_run(a.coins);
    int4 weight[VECS];
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * threads + thread) * N;
        weight[v] = c < a.width ? *(const int4 *)(a.weight + c) : make_int4(0, 0, 0, 0);
    }
    for (; row < a.rows; row += step) {
        int4 s_raw[VECS], dy_raw[VECS], dsum_raw[VECS]; /* past the width: 0, which adds nothing to any sum */
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            int c = (v * threads + thread) * N;
            s_raw[v] = dy_raw[v] = dsum_raw[v] = make_int4(0, 0, 0, 0);
            if (c >= a.width) continue;
            s_raw[v] = *(const int4 *)(a.s + row * a.width + c);
            dy_raw[v] = *(const int4 *)(a.dy + row * a.width + c);
            if (a.dsum) dsum_raw[v] = *(const int4 *)(a.dsum + row * a.width + c);
        }
        float mean = a.stats[row], r = a.stats[a.rows + row], sum_g = 0.0f, sum_gn = 0.0f;
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            float s[N], dy[N], w[N];
            unpack<T>(s, s_raw[v]);
            unpack<T>(dy, dy_raw[v]);
            unpack<T>(w, weight[v]);
#pragma unroll
            for (int e = 0; e < N; e++) {
                float n = (s[e] - mean) * r, g = dy[e] * (w[e] + a.one);
                columns[0][v][e] += dy[e] * n;
                columns[1][v][e] += dy[e];
                sum_g += g;
                sum_gn += g * n;
            }
        }
        float2 sums = group_sum2<WARP>(sum_g, sum_gn, shared);
        float mean_g = a.layer ? sums.x / (float)a.width : 0.0f, mean_gn = sums.y / (float)a.width;
        stay_packed(s_raw);
        stay_packed(dy_raw);
        stay_packed(weight);
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            int c = (v * threads + thread) * N;
            if (c >= a.width) continue;
            float s[N], dy[N], w[N], ds[N];
            unpack<T>(s, s_raw[v]);
            unpack<T>(dy, dy_raw[v]);
            unpack<T>(w, weight[v]);
            unpack<T>(ds, dsum_raw[v]);
#pragma unroll
            for (int e = 0; e < N; e++) ds[e] += r * (dy[e] * (w[e] + a.one) - mean_g - (s[e] - mean) * r * mean_gn);
            if (a.dx) put16(a.dx + row * a.width + c, ds, a.add_x);
            if (MORE && a.coins.run && !a.sum_x) times_mask<N>(ds, row * a.width + c, a.coins, run);
            if constexpr (MORE) {
                float stored[N];
#pragma unroll
                for (int e = 0; e < N; e++) stored[e] = ds[e];
                as_stored<T>(stored);
#pragma unroll
                for (int e = 0; e < N; e++) columns[2][v][e] += stored[e];
            }
            if (MORE && a.coins.run && a.sum_x) times_mask<N>(ds, row * a.width + c, a.coins, run);
            if (a.ddelta) put16(a.ddelta + row * a.width + c, ds, a.add_delta);
        }
    }
    if (!a.partial) return;
    float *out = a.partial + (int64_t)blockIdx.x * KINDS * a.width;
    if constexpr (WARP) {
        join_warps<KINDS>(out, columns, a.width, shared);
    } else {
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            int c = (v * threads + thread) * N;
            if (c >= a.width) continue;
#pragma unroll
            for (int k = 0; k < KINDS; k++)
#pragma unroll
                for (int e = 0; e < N; e += 4) store16(out + k * a.width + c + e, &columns[k][v][e]);
        }
    }
}

template <typename T> static __global__ void __launch_bounds__(1024) any_back(const Backward<T> a) {
    __shared__ float shared[64];
    int64_t row = blockIdx.x, first = row * a.width;
    float mean = a.stats[row], r = a.stats[a.rows + row], sum_g = 0.0f, sum_gn = 0.0f;
    for (int c = threadIdx.x; c < a.width; c += blockDim.x) {
        float g = to_float(a.dy[first + c]) * (to_float(a.weight[c]) + a.one);
        sum_g += g;
        sum_gn += g * (to_float(a.s[first + c]) - mean) * r;
    }
    float2 sums = group_sum2<false>(sum_g, sum_gn, shared);
    float mean_g = a.layer ? sums.x / (float)a.width : 0.0f, mean_gn = sums.y / (float)a.width;
    for (int c = threadIdx.x; c < a.width; c += blockDim.x) {
        float g = to_float(a.dy[first + c]) * (to_float(a.weight[c]) + a.one);
        float ds = r * (g - mean_g - (to_float(a.s[first + c]) - mean) * r * mean_gn);
        if (a.dsum) ds += to_float(a.dsum[first + c]);
        if (a.dx) a.dx[first + c] = from_float<T>(a.add_x ? ds + to_float(a.dx[first + c]) : ds);
        if (!a.ddelta) continue;
        ds *= mask_at(first + c, a.coins);
        a.ddelta[first + c] = from_float<T>(a.add_delta ? ds + to_float(a.ddelta[first + c]) : ds);
    }
}

/* A block of (32, 8) threads: 32 columns of chunk blockIdx.y of the rows. */
template <typename T> static __global__ void __launch_bounds__(256) any_columns(const Backward<T> a) {
    __shared__ float shared[2][8][32];
    int c = blockIdx.x * 32 + threadIdx.x;
    int64_t begin = a.rows * blockIdx.y / gridDim.y, end = a.rows * (blockIdx.y + 1) / gridDim.y;
    float dw = 0.0f, db = 0.0f;
    if (c < a.width)
        for (int64_t row = begin + threadIdx.y; row < end; row += 8) {
            float dy = to_float(a.dy[row * a.width + c]);
            dw += dy * (to_float(a.s[row * a.width + c]) - a.stats[row]) * a.stats[a.rows + row];
            db += dy;
        }
    shared[0][threadIdx.y][threadIdx.x] = dw;
    shared[1][threadIdx.y][threadIdx.x] = db;
    __syncthreads();
    if (threadIdx.y > 1 || c >= a.width) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += shared[threadIdx.y][i][threadIdx.x];
    a.partial[((int64_t)blockIdx.y * 2 + threadIdx.y) * a.width + c] = sum;
}

/* ---- choice and launch */

typedef struct Layout {
    int vecs; /* 16-byte vectors of a row in each thread; 0: the kernels for any width */
    bool warp;
    bool more; /* backward: a third sum, and dropout */
    int threads;
    int64_t blocks;
    size_t shared;
} Layout;

static float weight_offset(NormKind kind) { return kind == NORM_RMS_ONE ? 1.0f : 0.0f; }
static float dropout_of(const Node *node) { return ((const NormArgs *)node->args)->dropout; }

static int whole_warps(int64_t threads) { return (int)cuda_blocks(threads, 32) * 32; }

static Layout forward_layout(const Tensor *x, bool drop) {
    int64_t rows = tensor_rows(x), width = tensor_width(x), per_vector = 16 / (int64_t)dtype_size(x->dtype);
    int64_t vectors = width / per_vector;
    if (width % per_vector || vectors > (drop ? 2048 : 4096))
        return Layout{0, false, false, width < 1024 ? whole_warps(width) : 1024, rows, 0};
    if (vectors <= 128)
        return Layout{(int)cuda_blocks(vectors, 32), true, false, 32 * WARPS, cuda_blocks(rows, WARPS), 0};
    int vecs = vectors <= 2048 ? 2 : 4;
    return Layout{vecs, false, false, whole_warps(cuda_blocks(vectors, vecs)), rows, 0};
}

/* blocks: partial sums of the columns. */
static Layout backward_layout(const Node *node) {
    const CudaDevice *d = cuda_device(node);
    const Tensor *x = node->in[X];
    int64_t rows = tensor_rows(x), width = tensor_width(x), per_vector = 16 / (int64_t)dtype_size(x->dtype);
    int64_t vectors = width / per_vector, blocks, most;
    bool drop = dropout_of(node) > 0.0f, fits = vectors <= 2 * back_threads(true);
    bool more = drop || ((node->sums[DELTA] || node->sums[X]) && fits);
    if (width % per_vector || vectors > 2 * back_threads(false) || (drop && !fits)) {
        blocks = cuda_blocks(rows, 64);
        return Layout{0, false, false, width < 1024 ? whole_warps(width) : 1024, blocks < 64 ? blocks : 64, 0};
    }
    if (vectors <= 128) {
        int vecs = (int)cuda_blocks(vectors, 32);
        blocks = cuda_blocks(rows, WARPS);
        most = (int64_t)d->processors * warp_residents(vecs, more);
        size_t shared = (size_t)width * (more ? 3 : 2) * sizeof(float);
        return Layout{vecs, true, more, 32 * WARPS, blocks < most ? blocks : most, shared};
    }
    int threads = whole_warps(cuda_blocks(vectors, 2));
    most = (int64_t)d->processors * (back_threads(more) / threads);
    return Layout{2, false, more, threads, rows < most ? rows : most, 64 * sizeof(float)};
}

/* The input of whose gradient rows_back sums the columns on the way; -1: none. */
static int summed_on_the_way(const Node *node, Layout l) {
    if (!l.more) return -1;
    return node->sums[DELTA] ? DELTA : node->sums[X] ? X : -1;
}

static Status plan(Node *node) {
    Tensor *x = node->in[X];
    int64_t shape[] = {2, tensor_rows(x)};
    for (int k = 0; k < 4; k++)
        if (node->in[k] && node->in[k]->dtype != x->dtype)
            return FAIL(TANE_EUNSUPPORTED, "norm: inputs differ in type (%s, %s)", dtype_name(x->dtype),
                        dtype_name(node->in[k]->dtype));
    if (!cuda_is_float(x->dtype))
        return FAIL(TANE_EUNSUPPORTED, "norm: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(x->dtype));
    if (tensor_width(x) > INT32_MAX / 2)
        return FAIL(TANE_EUNSUPPORTED, "norm: the width %lld is too large", (long long)tensor_width(x));
    if (node->live && !node->out[Y]->grad)
        return FAIL(TANE_EUNSUPPORTED, "norm: only the sum is used; a residual sum without its norm has no kernel");
    if (node->out[SUM]) {
        node->backward_reads_out |= 1u << SUM;
        node->inplace[SUM] = X + 1;
        node->inplace_grad[X] = SUM + 1;
        if (dropout_of(node) == 0.0f) node->inplace_grad[DELTA] = SUM + 1;
        node->passes_grad = true;
    } else {
        node->backward_reads_in |= 1u << X;
    }
    if (!node->live) return TANE_OK;
    TRY_RETURN(node_save(node, DTYPE_F32, 2, shape)); /* mean, r */
    node->remakes = 1u << Y;
    Layout l = backward_layout(node);
    if (node->grad_in[WEIGHT] || node->grad_in[BIAS] || summed_on_the_way(node, l) >= 0)
        node->scratch_bytes = (size_t)(l.blocks * (l.more ? 3 : 2) * tensor_width(x)) * sizeof(float);
    size_t after = node->sums[X] || node->sums[DELTA] ? sum_columns_scratch(cuda_device(node), x) : 0;
    if (after > node->scratch_bytes) node->scratch_bytes = after;
    return TANE_OK;
}

template <typename T, bool DROP> static void (*forward_kernel(Layout l))(const Forward<T>) {
    if (l.vecs == 0) return any<T>;
    if (!l.warp) return DROP || l.vecs == 2 ? rows<T, 2, false, DROP> : rows<T, 4, false, false>;
    switch (l.vecs) {
    case 1: return rows<T, 1, true, DROP>;
    case 2: return rows<T, 2, true, DROP>;
    case 3: return rows<T, 3, true, DROP>;
    default: return rows<T, 4, true, DROP>;
    }
}

static Coins coins_of(const Node *node, const TapeRun *run) {
    float p = dropout_of(node);
    return Coins{run->training && p > 0.0f ? run->on_device : NULL, p, node->index};
}

template <typename T> static Status launch_forward(const Node *node, const TapeRun *run, bool again) {
    const NormArgs *args = (const NormArgs *)node->args;
    const Tensor *x = again && node->out[SUM] ? node->out[SUM] : node->in[X], *delta = again ? NULL : node->in[DELTA];
    const Tensor *bias = node->in[BIAS];
    Forward<T> a = {};
    a.x = (const T *)x->data;
    a.delta = delta ? (const T *)delta->data : NULL;
    a.weight = (const T *)node->in[WEIGHT]->data;
    a.bias = bias ? (const T *)bias->data : NULL;
    a.sum = delta ? (T *)node->out[SUM]->data : NULL;
    a.y = (T *)node->out[Y]->data;
    a.stats = node->n_saved ? (float *)node->saved[0]->data : NULL;
    a.rows = tensor_rows(x);
    a.width = (int)tensor_width(x);
    a.epsilon = args->epsilon;
    a.one = weight_offset(args->kind);
    a.layer = args->kind == NORM_LAYER;
    a.again = again;
    a.coins = coins_of(node, run);
    bool drop = delta && a.coins.run;
    Layout l = forward_layout(x, drop);
    auto kernel = drop ? forward_kernel<T, true>(l) : forward_kernel<T, false>(l);
    return cuda_launch_early(cuda_device(node), a.rows <= CUDA_FEW_ROWS, kernel, dim3((unsigned)l.blocks),
                             (int)l.threads, a);
}

static Status forward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[X]->dtype, launch_forward, node, run, false);
}

/* y from the sum and its statistics: what backward keeps. */
static Status recompute(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[X]->dtype, launch_forward, node, run, true);
}

template <typename T, bool MORE> static void (*backward_kernel(Layout l))(const Backward<T>) {
    if (!l.warp) return rows_back<T, 2, false, MORE>;
    switch (l.vecs) {
    case 1: return rows_back<T, 1, true, MORE>;
    case 2: return rows_back<T, 2, true, MORE>;
    case 3: return rows_back<T, 3, true, MORE>;
    default: return rows_back<T, 4, true, MORE>;
    }
}

static ColumnGrad parameter_grad(const Node *node, int k, const TapeRun *run) {
    if (!node->in[k] || !node->grad_in[k]) return ColumnGrad{NULL, false, false};
    return column_grad(node->in[k]->grad, node_adds(node, k, run));
}

/* The sums that were not made on the way. */
template <typename T> static Status sum_after(const Node *node, const TapeRun *run, int done) {
    const CudaDevice *d = cuda_device(node);
    for (int k = X; k <= DELTA; k++) {
        ColumnGrad grad = column_grad_shared(node, k, run);
        if (grad.data && k != done) TRY_RETURN(sum_columns<T>(d, node->in[k]->grad, grad, node->scratch, d->stream));
    }
    return TANE_OK;
}

template <typename T> static Status launch_backward(const Node *node, const TapeRun *run) {
    const NormArgs *args = (const NormArgs *)node->args;
    CudaDevice *d = cuda_device(node);
    const Tensor *s = node->out[SUM] ? node->out[SUM] : node->in[X];
    const Tensor *dsum = node->out[SUM] ? node->out[SUM]->grad : NULL;
    Layout l = backward_layout(node);
    int on_the_way = summed_on_the_way(node, l);
    ColumnGrads grads = {{parameter_grad(node, WEIGHT, run), parameter_grad(node, BIAS, run)}};
    if (on_the_way >= 0) grads.of[2] = column_grad_shared(node, on_the_way, run);
    Backward<T> a = {};
    a.s = (const T *)s->data;
    a.dy = (const T *)node->out[Y]->grad->data;
    a.dsum = dsum ? (const T *)dsum->data : NULL;
    a.weight = (const T *)node->in[WEIGHT]->data;
    a.dx = node->grad_in[X] ? (T *)node->in[X]->grad->data : NULL;
    a.ddelta = node->grad_in[DELTA] ? (T *)node->in[DELTA]->grad->data : NULL;
    if (a.ddelta == a.dx) a.ddelta = NULL;
    a.stats = (const float *)node->saved[0]->data;
    a.partial = grads.of[0].data || grads.of[1].data || grads.of[2].data ? (float *)node->scratch : NULL;
    a.rows = tensor_rows(s);
    a.width = (int)tensor_width(s);
    a.one = weight_offset(args->kind);
    a.layer = args->kind == NORM_LAYER;
    a.add_x = node_adds(node, X, run);
    a.add_delta = node_adds(node, DELTA, run);
    a.sum_x = on_the_way == X;
    a.coins = coins_of(node, run);
    unsigned columns = (unsigned)cuda_blocks(a.width, 32);
    if (l.vecs) {
        auto kernel = l.more ? backward_kernel<T, true>(l) : backward_kernel<T, false>(l);
        kernel<<<(unsigned)l.blocks, l.threads, l.shared, d->stream>>>(a);
    } else {
        if (a.partial) any_columns<T><<<dim3(columns, (unsigned)l.blocks), dim3(32, 8), 0, d->stream>>>(a);
        if (a.dx || a.ddelta) any_back<T><<<(unsigned)a.rows, l.threads, 0, d->stream>>>(a);
    }
    CUDA_LAUNCHED();
    if (a.partial) {
        dim3 grid(columns, l.more ? 3 : 2);
        add_columns<<<grid, dim3(32, 32), 0, d->stream>>>(a.partial, (int)l.blocks, a.width, grads);
        CUDA_LAUNCHED();
    }
    return sum_after<T>(node, run, on_the_way);
}

static Status backward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[X]->dtype, launch_backward, node, run);
}

CUDA_KERNEL_SHARING(norm, plan, forward, backward, recompute, 0, 1u << X | 1u << DELTA, NULL)
