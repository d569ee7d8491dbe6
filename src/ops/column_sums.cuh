/* Sums of the columns of a matrix (rows, width): gradients of biases and of norms' weights.
 *
 * A first kernel sums over chunks of the rows and writes a partial sum a chunk; add_columns adds these up. Few rows are
 * one chunk, whose sums are the result. Both orders depend on shapes and on the number of processors only.
 *
 * The first kernel is an op's own, where it has the matrix in registers anyway, or sum_columns' for one in memory. */
#ifndef OPS_COLUMN_SUMS_CUH
#define OPS_COLUMN_SUMS_CUH

#include "ops/kernel.cuh"

/* Where sums go: a parameter's gradient (width), fp32 or bf16. */
typedef struct ColumnGrad {
    void *data; /* NULL: not wanted */
    bool bf16, add;
} ColumnGrad;
enum { COLUMN_GRADS = 3 };
typedef struct ColumnGrads {
    ColumnGrad of[COLUMN_GRADS];
} ColumnGrads;

static inline ColumnGrad column_grad(const Tensor *grad, bool add) {
    return ColumnGrad{grad->data, grad->dtype == DTYPE_BF16, add};
}
/* The one that Node.sums asks for. */
static inline ColumnGrad column_grad_shared(const Node *node, int k, const TapeRun *run) {
    return node->sums[k] ? column_grad(node->sums[k], node_sums_add(node, k, run)) : ColumnGrad{NULL, false, false};
}

__device__ static inline void put_column(const ColumnGrad &grad, int64_t c, float sum) {
    if (grad.bf16) {
        __nv_bfloat16 *to = (__nv_bfloat16 *)grad.data + c;
        *to = from_float<__nv_bfloat16>(grad.add ? sum + to_float(*to) : sum);
    } else {
        float *to = (float *)grad.data + c;
        *to = grad.add ? sum + *to : sum;
    }
}

/* parts (n, gridDim.y, width) to grads.of[blockIdx.y]: a block of (32, 32) threads takes 32 columns, a warp every 32nd
 * part of them. */
static __global__ void __launch_bounds__(1024)
    add_columns(const float *parts, int n, int64_t width, const ColumnGrads grads) {
    __shared__ float shared[32][33];
    ColumnGrad grad = blockIdx.y == 0 ? grads.of[0] : blockIdx.y == 1 ? grads.of[1] : grads.of[2];
    if (!grad.data) return;
    int64_t c = blockIdx.x * (int64_t)32 + threadIdx.x;
    float sum = 0.0f;
    if (c < width)
#pragma unroll 4
        for (int i = threadIdx.y; i < n; i += 32) sum += parts[((int64_t)i * gridDim.y + blockIdx.y) * width + c];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(shared[threadIdx.x][threadIdx.y]);
    c = blockIdx.x * (int64_t)32 + threadIdx.y;
    if (threadIdx.x == 0 && c < width) put_column(grad, c, sum);
}

/* ---- strips: how the first kernel goes over a matrix */

enum { COLUMN_THREADS = 256 };

/* A block takes a strip of lanes * vec columns and rows_per_part rows: `lanes` threads read vec elements (16 bytes, or
 * one element) of a row each, the block COLUMN_THREADS / lanes rows at once, in_flight times before it waits. */
typedef struct ColumnPlan {
    int vec, lanes;
    int64_t strips, parts, rows_per_part; /* parts == 1: no add_columns */
} ColumnPlan;

static inline ColumnPlan column_plan(const CudaDevice *d, const Tensor *x, int in_flight) {
    int64_t rows = tensor_rows(x), width = tensor_width(x);
    int per_16 = 16 / (int)dtype_size(x->dtype);
    bool few = rows <= COLUMN_THREADS / 2 * in_flight;
    ColumnPlan p = {width % per_16 ? 1 : per_16, 32, 0, 1, rows};
    if (few && p.vec > 1) p.lanes = 8; /* narrow strips: more blocks, and each has more rows in flight */
    p.strips = cuda_blocks(width, p.lanes * p.vec);
    if (few || !width) return p;
    int64_t at_once = COLUMN_THREADS / p.lanes * in_flight, most = cuda_blocks(16 * (int64_t)d->processors, p.strips);
    p.rows_per_part = cuda_blocks(cuda_blocks(rows, most), at_once) * at_once;
    p.parts = cuda_blocks(rows, p.rows_per_part);
    return p;
}

static inline size_t column_scratch(const ColumnPlan *p, int64_t width) {
    return p->parts > 1 ? (size_t)(p->parts * width) * sizeof(float) : 0;
}

/* The block's threads' sums of their own columns, to parts (part, width), or to grad where parts is NULL. */
template <int VEC, int LANES>
__device__ static inline void finish_strip(const float *sum, int64_t width, float *parts, const ColumnGrad &grad) {
    constexpr int ROWS = COLUMN_THREADS / LANES, STRIP = LANES * VEC;
    __shared__ float shared[ROWS][STRIP];
#pragma unroll
    for (int e = 0; e < VEC; e++) shared[threadIdx.x / LANES][threadIdx.x % LANES * VEC + e] = sum[e];
    __syncthreads();
    int64_t mine = blockIdx.x * (int64_t)STRIP + threadIdx.x;
    if (threadIdx.x >= STRIP || mine >= width) return;
    float total = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++) total += shared[r][threadIdx.x];
    if (parts) parts[blockIdx.y * width + mine] = total;
    else put_column(grad, mine, total);
}

static inline Status finish_columns(const ColumnPlan *p, const float *parts, int64_t width, ColumnGrad grad,
                                    cudaStream_t stream) {
    if (p->parts == 1) return TANE_OK;
    unsigned blocks = (unsigned)cuda_blocks(width, 32);
    add_columns<<<blocks, dim3(32, 32), 0, stream>>>(parts, (int)p->parts, width, ColumnGrads{{grad}});
    CUDA_LAUNCHED();
    return TANE_OK;
}

/* ---- of a matrix in memory */

enum { COLUMN_IN_FLIGHT = 8 };

/* Elements that one load brings. */
template <typename T, int VEC> struct alignas(VEC * sizeof(T)) ColumnPack { T e[VEC]; };

/* Loads past the end read the last row again rather than branch, so that all of them are in flight at once. */
template <typename T, int VEC, int LANES>
static __global__ void __launch_bounds__(COLUMN_THREADS, 4)
    column_sums(const T *x, int64_t rows, int64_t width, int64_t rows_per_part, float *parts, const ColumnGrad grad) {
    constexpr int ROWS = COLUMN_THREADS / LANES, U = COLUMN_IN_FLIGHT;
    int64_t column = (blockIdx.x * (int64_t)LANES + threadIdx.x % LANES) * VEC, begin = blockIdx.y * rows_per_part;
    int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
    float sum[VEC] = {};
    for (int64_t row = begin + threadIdx.x / LANES; row < end && column < width; row += ROWS * U) {
        ColumnPack<T, VEC> v[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            int64_t at = row + u * ROWS;
            v[u] = *(const ColumnPack<T, VEC> *)(x + (at < end ? at : end - 1) * width + column);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (row + u * ROWS >= end) break;
#pragma unroll
            for (int e = 0; e < VEC; e++) sum[e] += to_float(v[u].e[e]);
        }
    }
    finish_strip<VEC, LANES>(sum, width, parts, grad);
}

static inline size_t sum_columns_scratch(const CudaDevice *d, const Tensor *x) {
    ColumnPlan p = column_plan(d, x, COLUMN_IN_FLIGHT);
    return column_scratch(&p, tensor_width(x));
}

/* grad (+)= the sums of x's columns. */
template <typename T>
static Status sum_columns(const CudaDevice *d, const Tensor *x, ColumnGrad grad, void *scratch, cudaStream_t stream) {
    int64_t rows = tensor_rows(x), width = tensor_width(x);
    ColumnPlan p = column_plan(d, x, COLUMN_IN_FLIGHT);
    float *parts = p.parts > 1 ? (float *)scratch : NULL;
    dim3 grid((unsigned)p.strips, (unsigned)p.parts);
    constexpr int N = Vec16<T>::N;
    if (!width) return TANE_OK;
    auto kernel = p.vec == 1 ? column_sums<T, 1, 32> : p.lanes == 8 ? column_sums<T, N, 8> : column_sums<T, N, 32>;
    kernel<<<grid, COLUMN_THREADS, 0, stream>>>((const T *)x->data, rows, width, p.rows_per_part, parts, grad);
    CUDA_LAUNCHED();
    return finish_columns(&p, parts, width, grad, stream);
}

#endif
