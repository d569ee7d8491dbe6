/* Activation on the GPU: y = f(x), backward dx = dy f'(x), both in place where the tape allows. A thread takes 16
 * bytes, the last one what is left over: tensors are read as flat arrays, so every width is a good one. */
#include "device/cuda/math.cuh"

enum { THREADS = 256 };

template <typename T, int KIND>
static __global__ void __launch_bounds__(THREADS) values(const T *x, T *y, int64_t n) {
    constexpr int N = Vec16<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (i + N <= n) {
        float v[N];
        load16(v, x + i);
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = activate<KIND>(v[e]);
        store16(y + i, v);
        return;
    }
    for (; i < n; i++) y[i] = from_float<T>(activate<KIND>(to_float(x[i])));
}

template <typename T, int KIND>
static __global__ void __launch_bounds__(THREADS) slopes(const T *x, const T *dy, T *dx, int64_t n, bool add) {
    constexpr int N = Vec16<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float y;
    if (i + N <= n) {
        float v[N], g[N], old[N] = {};
        load16(v, x + i);
        load16(g, dy + i);
        if (add) load16(old, dx + i);
#pragma unroll
        for (int e = 0; e < N; e++) g[e] = g[e] * activate_slope<KIND>(v[e], &y) + old[e];
        store16(dx + i, g);
        return;
    }
    for (; i < n; i++) {
        float d = to_float(dy[i]) * activate_slope<KIND>(to_float(x[i]), &y);
        dx[i] = from_float<T>(add ? d + to_float(dx[i]) : d);
    }
}

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (!cuda_is_float(type))
        return FAIL(TANE_EUNSUPPORTED, "activation: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(type));
    node->backward_reads_in = 1;
    node->inplace[0] = 1;
    node->inplace_grad[0] = 1;
    return TANE_OK;
}

template <typename T> static Status launch_forward(const Node *node) {
    const Tensor *x = node->in[0];
    cudaStream_t stream = cuda_device(node)->stream;
    const T *from = (const T *)x->data;
    T *to = (T *)node->out[0]->data;
    int64_t n = tensor_count(x);
    unsigned blocks = (unsigned)cuda_blocks(n, THREADS * Vec16<T>::N);
    switch (*(const ActivationKind *)node->args) {
    case ACTIVATION_GELU_TANH: values<T, ACTIVATION_GELU_TANH><<<blocks, THREADS, 0, stream>>>(from, to, n); break;
    case ACTIVATION_GELU: values<T, ACTIVATION_GELU><<<blocks, THREADS, 0, stream>>>(from, to, n); break;
    case ACTIVATION_RELU: values<T, ACTIVATION_RELU><<<blocks, THREADS, 0, stream>>>(from, to, n); break;
    case ACTIVATION_SILU: values<T, ACTIVATION_SILU><<<blocks, THREADS, 0, stream>>>(from, to, n); break;
    }
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T> static Status launch_backward(const Node *node, bool add) {
    const Tensor *x = node->in[0];
    cudaStream_t stream = cuda_device(node)->stream;
    const T *from = (const T *)x->data, *dy = (const T *)node->out[0]->grad->data;
    T *dx = (T *)x->grad->data;
    int64_t n = tensor_count(x);
    unsigned blocks = (unsigned)cuda_blocks(n, THREADS * Vec16<T>::N);
    switch (*(const ActivationKind *)node->args) {
    case ACTIVATION_GELU_TANH:
        slopes<T, ACTIVATION_GELU_TANH><<<blocks, THREADS, 0, stream>>>(from, dy, dx, n, add);
        break;
    case ACTIVATION_GELU: slopes<T, ACTIVATION_GELU><<<blocks, THREADS, 0, stream>>>(from, dy, dx, n, add); break;
    case ACTIVATION_RELU: slopes<T, ACTIVATION_RELU><<<blocks, THREADS, 0, stream>>>(from, dy, dx, n, add); break;
    case ACTIVATION_SILU: slopes<T, ACTIVATION_SILU><<<blocks, THREADS, 0, stream>>>(from, dy, dx, n, add); break;
    }
    CUDA_LAUNCHED();
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *) {
    return CUDA_BY_TYPE(node->in[0]->dtype, launch_forward, node);
}

static Status backward(const Node *node, const TapeRun *run) {
    if (!node->grad_in[0]) return TANE_OK;
    return CUDA_BY_TYPE(node->in[0]->dtype, launch_backward, node, node_adds(node, 0, run));
}

CUDA_KERNEL(activation, plan, forward, backward)
