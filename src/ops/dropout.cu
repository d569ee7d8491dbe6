/* Dropout on the GPU: the masks of dropout.c, coin by coin. Tensors are read as flat arrays, 16 bytes a thread; four
 * elements share a Philox block. The seed and the counter are read when the kernel runs. */
#include "ops/kernel.cuh"

enum { THREADS = 256 };

/* to (+)= from mask / (1 - p); run NULL: without a mask. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    masked(const T *from, T *to, int64_t n, float p, const TapeRun *run, int node, bool add) {
    constexpr int N = Vec16<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (i >= n) return;
    float keep[N], v[N], old[N] = {};
#pragma unroll
    for (int e = 0; e < N; e += 4) {
        keep[e] = keep[e + 1] = keep[e + 2] = keep[e + 3] = 1.0f;
        if (run) dropout_mask4(&keep[e], i + e, p, run, node);
    }
    if (i + N <= n) {
        load16(v, from + i);
        if (add) load16(old, to + i);
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = v[e] * keep[e] + old[e];
        store16(to + i, v);
        return;
    }
#pragma unroll
    for (int e = 0; e < N; e++)
        if (i + e < n) to[i + e] = from_float<T>(to_float(from[i + e]) * keep[e] + (add ? to_float(to[i + e]) : 0.0f));
}

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (!cuda_is_float(type))
        return FAIL(TANE_EUNSUPPORTED, "dropout: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(type));
    node->inplace[0] = 1;
    node->inplace_grad[0] = 1;
    return TANE_OK;
}

template <typename T> static Status launch(const Node *node, const TapeRun *run, const void *from, void *to, bool add) {
    int64_t n = tensor_count(node->in[0]);
    unsigned blocks = (unsigned)cuda_blocks(n, THREADS * Vec16<T>::N);
    const TapeRun *coins = run->training ? run->on_device : NULL;
    float p = *(const float *)node->args;
    masked<T><<<blocks, THREADS, 0, cuda_device(node)->stream>>>((const T *)from, (T *)to, n, p, coins, node->index,
                                                                 add);
    CUDA_LAUNCHED();
    return TANE_OK;
}

static Status apply(const Node *node, const TapeRun *run, const void *from, void *to, bool add) {
    if (run->training || add) return CUDA_BY_TYPE(node->in[0]->dtype, launch, node, run, from, to, add);
    if (to != from)
        CUDA_TRY(cudaMemcpyAsync(to, from, tensor_bytes(node->in[0]), cudaMemcpyDeviceToDevice,
                                 cuda_device(node)->stream));
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    return apply(node, run, node->in[0]->data, node->out[0]->data, false);
}

static Status backward(const Node *node, const TapeRun *run) {
    if (!node->grad_in[0]) return TANE_OK;
    return apply(node, run, node->out[0]->grad->data, node->in[0]->grad->data, node_adds(node, 0, run));
}

CUDA_KERNEL(dropout, plan, forward, backward)
