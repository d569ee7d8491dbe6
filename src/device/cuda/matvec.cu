/* y (M, N) = x (M, K) w (N, K)^T + bias for M <= 8: decoding, where the time is that of reading w once.
 *
 * A warp takes four rows of w and a slice of K. Each lane loads 16 bytes of every row, twice, before it uses any: eight
 * loads in flight a lane, of memory that is read once and so passes by the L1 cache. x is small, is read by all, and
 * stays in L1. A block of eight warps holds 8 / S groups of four rows, each in S slices of K, so that few rows still
 * fill the GPU; S follows from the shape of w alone.
 *
 * The kernel may start before the one in front of it has ended (cuda_launch_early): its first weights are loaded then,
 * since nobody writes weights while a model answers.
 *
 * The order of every sum is fixed: a lane adds its elements in the order of K, lanes are added as a tree, then the
 * slices in order. It does not depend on M: what a row gives is the same in every batch. */
#include "device/cuda/math.cuh"
#include "device/cuda/matmul.h"

enum { MATVEC_ROWS = 8, WARPS = 8, GROUP = 4, UNROLL = 2 };

/* 16 bytes that are read once, or zeros. One instruction: a branch around it would part the loads. */
__device__ static inline int4 load_once(const void *p, bool wanted) {
    int4 v;
    asm volatile("{\n"
                 "    .reg .pred wanted;\n"
                 "    setp.ne.b32 wanted, %5, 0;\n"
                 "    mov.b32 %0, 0;\n"
                 "    mov.b32 %1, 0;\n"
                 "    mov.b32 %2, 0;\n"
                 "    mov.b32 %3, 0;\n"
                 "    @wanted ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                 "}"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
                 : "l"(p), "r"((int)wanted));
    return v;
}

/* Four of the elements in memory or in registers. */
template <typename T> struct alignas(4 * sizeof(T)) Four {
    T e[4];
};

/* Sums V values (a power of two up to 32) over the warp, all in the same tree; lane gets value lane * V / 32. While
 * there are several values left, each exchange halves them: a lane keeps one half and gives the other away. */
template <int V, int MASK = 16> __device__ static inline float warp_sums(float *v, int lane) {
    if constexpr (V > 1) {
        bool upper = lane & MASK;
#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            float give = upper ? v[i] : v[i + V / 2], keep = upper ? v[i + V / 2] : v[i];
            v[i] = keep + __shfl_xor_sync(0xffffffffu, give, MASK);
        }
        return warp_sums<V / 2, MASK / 2>(v, lane);
    } else if constexpr (MASK > 0) {
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], MASK);
        return warp_sums<1, MASK / 2>(v, lane);
    } else return v[0];
}

/* sum[r * M + i] += 16 bytes of row r of w times those of row i of x. */
template <typename T, int M>
__device__ static inline void add_products(float *sum, const int4 *w, const T *x, const int *x_at) {
#pragma unroll
    for (int e0 = 0; e0 < Vec16<T>::N; e0 += 4) {
        float a[GROUP][4];
#pragma unroll
        for (int r = 0; r < GROUP; r++)
#pragma unroll
            for (int e = 0; e < 4; e++) a[r][e] = to_float(((const T *)&w[r])[e0 + e]);
#pragma unroll
        for (int i = 0; i < M; i++) {
            Four<T> four = *(const Four<T> *)(x + x_at[i] + e0);
            float b[4] = {to_float(four.e[0]), to_float(four.e[1]), to_float(four.e[2]), to_float(four.e[3])};
#pragma unroll
            for (int r = 0; r < GROUP; r++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[r * M + i] = fmaf(a[r][e], b[e], sum[r * M + i]);
        }
    }
}

/* UNROLL times 16 bytes of each of the group's rows, from element `at` on; zeros from `end` on. */
template <typename T>
__device__ static inline void load_rows(int4 raw[UNROLL][GROUP], const T *const w[GROUP], int at, int end) {
    constexpr int STEP = 32 * Vec16<T>::N;
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
#pragma unroll
        for (int r = 0; r < GROUP; r++) raw[u][r] = load_once(w[r] + at + u * STEP, at + u * STEP < end);
}

typedef struct MatvecArgs {
    const void *x, *w, *bias;
    void *y;
    int64_t ldx, ldw, ldy;
    int m, n, k, slices; /* slices: 1, 2, 4 or 8 */
} MatvecArgs;

/* M: rows of x, rounded up to a power of two; the rows beyond args.m repeat the last one and are not written. */
template <typename T, typename O, int M>
__global__ void __launch_bounds__(32 * WARPS, M == 1 ? 4 : M == 2 ? 3 : 2) matvec_kernel(MatvecArgs g) {
    constexpr int N16 = Vec16<T>::N, STEP = 32 * N16;
    __shared__ float part[WARPS][GROUP * M];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, slice = warp % g.slices, group = warp / g.slices;
    int first = (blockIdx.x * (WARPS / g.slices) + group) * GROUP; /* the warp's first row of w */
    int per_slice = (g.k + STEP * g.slices - 1) / (STEP * g.slices) * STEP;
    int begin = slice * per_slice, end = min(begin + per_slice, g.k);
    const T *w[GROUP], *x = (const T *)g.x;
    int x_at[M];
#pragma unroll
    for (int r = 0; r < GROUP; r++) w[r] = (const T *)g.w + min(first + r, g.n - 1) * g.ldw;
#pragma unroll
    for (int i = 0; i < M; i++) x_at[i] = min(i, g.m - 1) * (int)g.ldx;
    float sum[GROUP * M];
#pragma unroll
    for (int i = 0; i < GROUP * M; i++) sum[i] = 0.0f;

    int at = begin + lane * N16;
    int4 raw[UNROLL][GROUP];
    load_rows<T>(raw, w, at, end);
    let_next_start();
    wait_for_previous(); /* for x; the first weights are under way */
    for (; at < end; at += UNROLL * STEP) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            if (at + u * STEP < end) add_products<T, M>(sum, raw[u], x + at + u * STEP, x_at);
        load_rows<T>(raw, w, at + UNROLL * STEP, end);
    }

    float total = warp_sums<GROUP * M>(sum, lane);
    constexpr int SHARE = 32 / (GROUP * M); /* lanes that hold the same value */
    if (lane % SHARE == 0) part[warp][lane / SHARE] = total;
    __syncthreads();
    int t = threadIdx.x, value = t % (GROUP * M), from = t / (GROUP * M);
    if (from >= WARPS / g.slices) return;
    int row = (blockIdx.x * (WARPS / g.slices) + from) * GROUP + value / M, i = value % M;
    if (row >= g.n || i >= g.m) return;
    float y = 0.0f;
    for (int s = 0; s < g.slices; s++) y += part[from * g.slices + s][value];
    if (g.bias) y += to_float(((const T *)g.bias)[row]);
    ((O *)g.y)[i * g.ldy + row] = from_float<O>(y);
}

/* Slices of K: enough that the GPU is full, as long as every warp has something to load. */
static int choose_slices(const CudaDevice *d, const MatmulShape *s) {
    int step = 32 * 16 / (int)dtype_size(s->type), slices = 1;
    while (slices < WARPS && s->n * slices < 60 * d->processors && s->k > (int64_t)slices * step) slices *= 2;
    return slices;
}

bool matvec_supports(const MatmulShape *s) {
    int64_t unit = 16 / (int64_t)dtype_size(s->type);
    return cuda_is_float(s->type) && (s->out_type == DTYPE_F32 || s->out_type == s->type) && !s->trans_a &&
           s->trans_b && s->m > 0 && s->m <= MATVEC_ROWS && s->n > 0 && s->n <= 1 << 28 && s->k > 0 &&
           s->k <= 1 << 28 && s->lda <= 1 << 27 && s->k % unit == 0 && s->lda % unit == 0 && s->ldb % unit == 0;
}

template <typename T, typename O> static Status launch(CudaDevice *d, const MatvecArgs *g) {
    void (*kernel)(MatvecArgs) = g->m == 1   ? matvec_kernel<T, O, 1>
                                 : g->m == 2 ? matvec_kernel<T, O, 2>
                                 : g->m <= 4 ? matvec_kernel<T, O, 4>
                                             : matvec_kernel<T, O, 8>;
    unsigned blocks = (unsigned)cuda_blocks(g->n, GROUP * WARPS / g->slices);
    return cuda_launch_early(d, true, kernel, dim3(blocks), 32 * WARPS, *g);
}

template <typename T> static Status launch_for(CudaDevice *d, const MatvecArgs *g, DType out_type) {
    return out_type == DTYPE_F32 ? launch<T, float>(d, g) : launch<T, T>(d, g);
}

Status matvec_run(CudaDevice *d, const MatmulShape *s, const void *x, const void *w, void *y, const void *bias) {
    if (((uintptr_t)x | (uintptr_t)w) % 16)
        return FAIL(TANE_EINTERNAL, "matvec: x at %p and w at %p must be aligned to 16 bytes", x, w);
    MatvecArgs g = {x, w, s->epilogue == EPILOGUE_BIAS ? bias : NULL, y, s->lda, s->ldb, s->ldc, (int)s->m, (int)s->n,
                    (int)s->k, choose_slices(d, s)};
    return CUDA_BY_TYPE(s->type, launch_for, d, &g, s->out_type);
}
