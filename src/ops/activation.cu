/* Activation on the GPU: y = f(x), backward dx = dy f'(x), both in place where the tape allows.
 *
 *   values, slopes   forward, backward   a thread takes 16 bytes, the last one what is left over: tensors are read as
 *                                        flat arrays, so every width is a good one
 *   slopes_summed    backward            where the tape wants the sums of dx's columns too (the gradient of the bias in
 *                                        front): over strips of columns, as column_sums.cuh has them
 *
 * Where rows are not whole vectors of 16 bytes, the sums are made from the dx that slopes has written. */
#include "ops/column_sums.cuh"

enum { THREADS = 256, IN_FLIGHT = 4 };

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

/* Past the end x and dy are 0, which adds nothing. What is summed is dx as it is stored. */
template <typename T, int KIND, int LANES>
static __global__ void __launch_bounds__(COLUMN_THREADS, 4)
    slopes_summed(const T *x, const T *dy, T *dx, int64_t rows, int64_t width, int64_t rows_per_part, float *parts,
                  const ColumnGrad grad) {
    constexpr int N = Vec16<T>::N, ROWS = COLUMN_THREADS / LANES;
    int64_t column = (blockIdx.x * (int64_t)LANES + threadIdx.x % LANES) * N, begin = blockIdx.y * rows_per_part;
    int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
    float sum[N] = {};
    for (int64_t row = begin + threadIdx.x / LANES; row < end && column < width; row += ROWS * IN_FLIGHT) {
        int4 x_raw[IN_FLIGHT], dy_raw[IN_FLIGHT];
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            int64_t at = row + u * ROWS;
            x_raw[u] = dy_raw[u] = make_int4(0, 0, 0, 0);
            if (at >= end) continue;
            x_raw[u] = *(const int4 *)(x + at * width + column);
            dy_raw[u] = *(const int4 *)(dy + at * width + column);
        }
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            float v[N], g[N], y;
            unpack16<T>(v, x_raw[u]);
            unpack16<T>(g, dy_raw[u]);
#pragma unroll
            for (int e = 0; e < N; e++) g[e] *= activate_slope<KIND>(v[e], &y);
            store16((T *)&dy_raw[u], g);
            unpack16<T>(g, dy_raw[u]);
#pragma unroll
            for (int e = 0; e < N; e++) sum[e] += g[e];
            if (row + u * ROWS < end) *(int4 *)(dx + (row + u * ROWS) * width + column) = dy_raw[u];
        }
    }
    finish_strip<N, LANES>(sum, width, parts, grad);
}

/* Is there a kernel that makes dx and the sums of its columns in one pass? */
static bool sums_on_the_way(const Node *node) {
    const Tensor *x = node->in[0];
    return node->sums[0] && tensor_width(x) % (16 / (int64_t)dtype_size(x->dtype)) == 0;
}

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (!cuda_is_float(type))
        return FAIL(TANE_EUNSUPPORTED, "activation: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(type));
    node->backward_reads_in = 1;
    node->inplace[0] = 1;
    node->inplace_grad[0] = 1;
    if (!node->sums[0]) return TANE_OK;
    const Tensor *x = node->in[0];
    ColumnPlan p = column_plan(cuda_device(node), x, IN_FLIGHT);
    node->scratch_bytes = sums_on_the_way(node) ? column_scratch(&p, tensor_width(x))
                                                : sum_columns_scratch(cuda_device(node), x);
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

template <typename T, int KIND> static void launch_summed(const Node *node, const ColumnPlan *p, ColumnGrad grad) {
    const Tensor *x = node->in[0];
    cudaStream_t stream = cuda_device(node)->stream;
    const T *from = (const T *)x->data, *dy = (const T *)node->out[0]->grad->data;
    T *dx = (T *)x->grad->data;
    int64_t rows = tensor_rows(x), width = tensor_width(x);
    float *parts = p->parts > 1 ? (float *)node->scratch : NULL;
    dim3 grid((unsigned)p->strips, (unsigned)p->parts);
    auto kernel = p->lanes == 8 ? slopes_summed<T, KIND, 8> : slopes_summed<T, KIND, 32>;
    kernel<<<grid, COLUMN_THREADS, 0, stream>>>(from, dy, dx, rows, width, p->rows_per_part, parts, grad);
}

template <typename T> static Status backward_summed(const Node *node, ColumnGrad grad) {
    const Tensor *x = node->in[0];
    const CudaDevice *d = cuda_device(node);
    ColumnPlan p = column_plan(d, x, IN_FLIGHT);
    switch (*(const ActivationKind *)node->args) {
    case ACTIVATION_GELU_TANH: launch_summed<T, ACTIVATION_GELU_TANH>(node, &p, grad); break;
    case ACTIVATION_GELU: launch_summed<T, ACTIVATION_GELU>(node, &p, grad); break;
    case ACTIVATION_RELU: launch_summed<T, ACTIVATION_RELU>(node, &p, grad); break;
    case ACTIVATION_SILU: launch_summed<T, ACTIVATION_SILU>(node, &p, grad); break;
    }
    CUDA_LAUNCHED();
    return finish_columns(&p, (const float *)node->scratch, tensor_width(x), grad, d->stream);
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
    DType type = node->in[0]->dtype;
    ColumnGrad grad = column_grad_shared(node, 0, run);
    if (sums_on_the_way(node)) return CUDA_BY_TYPE(type, backward_summed, node, grad);
    TRY_RETURN(CUDA_BY_TYPE(type, launch_backward, node, node_adds(node, 0, run)));
    if (!grad.data) return TANE_OK;
    const CudaDevice *d = cuda_device(node);
    return CUDA_BY_TYPE(type, sum_columns, d, node->in[0]->grad, grad, node->scratch, d->stream);
}

CUDA_KERNEL_SHARING(activation, plan, forward, backward, NULL, 0, 1, NULL)
