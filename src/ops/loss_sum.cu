/* The sum of the losses and the first that is not finite, on CUDA. One block: a million losses are 4 MB, which one
 * processor reads in the time that a second kernel would take to start. */
#include "ops/kernel.cuh"

enum { THREADS = 1024, PER_THREAD = 16 };

/* Each thread sums 16 losses in fp32 and these sums in fp64, in order; then the block, in a fixed order. */
__global__ void __launch_bounds__(THREADS) sum_losses(const float *losses, int64_t n, float *out) {
    __shared__ double sums[32];
    __shared__ long long first[32];
    long long bad = INT64_MAX;
    double sum = 0;
    for (int64_t from = 0; from < n; from += THREADS * PER_THREAD) {
        float x[PER_THREAD], part = 0.0f;
#pragma unroll
        for (int u = 0; u < PER_THREAD; u++) {
            int64_t i = from + u * THREADS + threadIdx.x;
            x[u] = i < n ? losses[i] : 0.0f;
        }
#pragma unroll
        for (int u = 0; u < PER_THREAD; u++) {
            part += x[u];
            if (!(x[u] - x[u] == 0.0f)) bad = min(bad, (long long)(from + u * THREADS + threadIdx.x));
        }
        sum += (double)part;
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) bad = min(bad, __shfl_xor_sync(0xffffffffu, bad, lane));
    if ((threadIdx.x & 31) == 0) first[threadIdx.x >> 5] = bad;
    sum = block_sum(sum, sums);
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < THREADS / 32; warp++) bad = min(bad, first[warp]);
    out[0] = (float)sum;
    out[1] = bad == INT64_MAX ? -1.0f : (float)bad;
}

static Status plan(Node *node) {
    (void)node;
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    sum_losses<<<1, THREADS, 0, cuda_device(node)->stream>>>((const float *)node->in[0]->data,
                                                             tensor_count(node->in[0]), (float *)node->out[0]->data);
    CUDA_LAUNCHED();
    return TANE_OK;
}

CUDA_KERNEL_NODIFF(loss_sum, plan, forward)
