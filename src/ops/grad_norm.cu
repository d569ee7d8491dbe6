/* Global norm of a flat gradient on CUDA, and what follows from it (ops/update.h). sum_squares: each block a part of
 * the sum, over vectors of 16 bytes; decide: one block adds the parts and moves the update's state on. Sixteen or 32
 * squares are added in fp32, the rest in fp64. Who adds what depends on n alone. */
#include "ops/kernel.cuh"

extern "C" {
#include "ops/update.h"
}

enum { THREADS = 256, IN_FLIGHT = 4, MOST_PARTS = 1024 };

template <typename T> __global__ void __launch_bounds__(THREADS) sum_squares(const T *g, int64_t n, double *parts) {
    constexpr int N = Vec16<T>::N;
    __shared__ double shared[32];
    int64_t step = (int64_t)gridDim.x * THREADS * N;
    double sum = 0;
    for (int64_t i = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * N; i < n; i += IN_FLIGHT * step) {
        float x[IN_FLIGHT][N], part = 0.0f;
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            int64_t at = i + u * step;
            if (at + N <= n) {
                load16(x[u], g + at);
                continue;
            }
#pragma unroll
            for (int e = 0; e < N; e++) x[u][e] = at + e < n ? to_float(g[at + e]) : 0.0f;
        }
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++)
#pragma unroll
            for (int e = 0; e < N; e++) part = fmaf(x[u][e], x[u][e], part);
        sum += (double)part;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS)
    decide(const double *parts, int n, const float *hyper, float *state, float *control) {
    __shared__ double shared[32];
    double sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) sum += parts[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) update_control(sum, hyper, state, control);
}

static int parts_of(const Tensor *grads) {
    int64_t per_block = THREADS * IN_FLIGHT * (16 / (int64_t)dtype_size(grads->dtype));
    int64_t parts = cuda_blocks(tensor_count(grads), per_block);
    return parts < 1 ? 1 : parts < MOST_PARTS ? (int)parts : MOST_PARTS;
}

static Status plan(Node *node) {
    node->scratch_bytes = (size_t)parts_of(node->in[0]) * sizeof(double);
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *grads = node->in[0];
    cudaStream_t stream = cuda_device(node)->stream;
    double *parts = (double *)node->scratch;
    int64_t n = tensor_count(grads);
    int blocks = parts_of(grads);
    if (grads->dtype == DTYPE_F32) sum_squares<<<blocks, THREADS, 0, stream>>>((const float *)grads->data, n, parts);
    else sum_squares<<<blocks, THREADS, 0, stream>>>((const __nv_bfloat16 *)grads->data, n, parts);
    CUDA_LAUNCHED();
    decide<<<1, THREADS, 0, stream>>>(parts, blocks, (const float *)node->in[1]->data, (float *)node->in[2]->data,
                                      (float *)node->out[0]->data);
    CUDA_LAUNCHED();
    return TANE_OK;
}

CUDA_KERNEL_NODIFF(grad_norm, plan, forward)
