/* Gated linear unit on the GPU: the formulas of glu.c. blockIdx.x is the row, a thread takes V elements of both halves:
 * 16 bytes where half a row is made of whole vectors, else 1 element. */
#include "ops/kernel.cuh"

enum { THREADS = 256 };

template <typename T, int V> __device__ static inline void load(float *to, const T *p) {
    if constexpr (V == 1) *to = to_float(*p);
    else load16(to, p);
}
template <typename T, int V> __device__ static inline void store(T *p, const float *from) {
    if constexpr (V == 1) *p = from_float<T>(*from);
    else store16(p, from);
}

template <typename T, int KIND, int V>
static __global__ void __launch_bounds__(THREADS) values(const T *x, T *y, int width) {
    let_next_start();
    wait_for_previous();
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= width) return;
    float gate[V], up[V];
    const T *from = x + (int64_t)blockIdx.x * 2 * width + c;
    load<T, V>(gate, from);
    load<T, V>(up, from + width);
#pragma unroll
    for (int e = 0; e < V; e++) up[e] *= activate<KIND>(gate[e]);
    store<T, V>(y + (int64_t)blockIdx.x * width + c, up);
}

template <typename T, int KIND, int V>
static __global__ void __launch_bounds__(THREADS) slopes(const T *x, const T *dy, T *dx, int width, bool add) {
    int c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    if (c >= width) return;
    float gate[V], up[V], g[V], old_gate[V] = {}, old_up[V] = {};
    int64_t at = (int64_t)blockIdx.x * 2 * width + c;
    load<T, V>(gate, x + at);
    load<T, V>(up, x + at + width);
    load<T, V>(g, dy + (int64_t)blockIdx.x * width + c);
    if (add) {
        load<T, V>(old_gate, dx + at);
        load<T, V>(old_up, dx + at + width);
    }
#pragma unroll
    for (int e = 0; e < V; e++) {
        float value, slope = activate_slope<KIND>(gate[e], &value);
        gate[e] = g[e] * up[e] * slope + old_gate[e];
        up[e] = g[e] * value + old_up[e];
    }
    store<T, V>(dx + at, gate);
    store<T, V>(dx + at + width, up);
}

static Status plan(Node *node) {
    DType type = node->in[0]->dtype;
    if (!cuda_is_float(type))
        return FAIL(TANE_EUNSUPPORTED, "glu: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(type));
    node->backward_reads_in = 1;
    return TANE_OK;
}

typedef struct Job {
    const void *x, *dy; /* dy NULL: forward */
    void *to;           /* y or dx */
    int width;
    bool add;
    dim3 grid;
    unsigned threads;
    CudaDevice *device;
} Job;

template <typename T, int KIND, int V> static Status launch_one(const Job *j) {
    if (!j->dy)
        return cuda_launch_early(j->device, j->grid.x <= CUDA_FEW_ROWS, values<T, KIND, V>, j->grid, (int)j->threads,
                                 (const T *)j->x, (T *)j->to, j->width);
    slopes<T, KIND, V><<<j->grid, j->threads, 0, j->device->stream>>>((const T *)j->x, (const T *)j->dy, (T *)j->to,
                                                                      j->width, j->add);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T, int V> static Status launch_kind(Job *j, ActivationKind kind, int64_t rows) {
    int64_t n = cuda_blocks(j->width, V), threads = cuda_blocks(n, 32) * 32;
    if (threads > THREADS) threads = THREADS;
    j->threads = (unsigned)threads;
    j->grid = dim3((unsigned)rows, (unsigned)cuda_blocks(n, threads));
    switch (kind) {
    case ACTIVATION_GELU_TANH: return launch_one<T, ACTIVATION_GELU_TANH, V>(j);
    case ACTIVATION_GELU: return launch_one<T, ACTIVATION_GELU, V>(j);
    case ACTIVATION_RELU: return launch_one<T, ACTIVATION_RELU, V>(j);
    default: return launch_one<T, ACTIVATION_SILU, V>(j);
    }
}

template <typename T> static Status launch(const Node *node, const void *dy, void *to, bool add) {
    ActivationKind kind = *(const ActivationKind *)node->args;
    Job j = {node->in[0]->data, dy, to, (int)tensor_width(node->out[0]), add, dim3(), 0, cuda_device(node)};
    int64_t rows = tensor_rows(node->out[0]);
    if (j.width % Vec16<T>::N == 0) return launch_kind<T, Vec16<T>::N>(&j, kind, rows);
    return launch_kind<T, 1>(&j, kind, rows);
}

static Status forward(const Node *node, const TapeRun *) {
    return CUDA_BY_TYPE(node->in[0]->dtype, launch, node, NULL, node->out[0]->data, false);
}

static Status backward(const Node *node, const TapeRun *run) {
    if (!node->grad_in[0]) return TANE_OK;
    return CUDA_BY_TYPE(node->in[0]->dtype, launch, node, node->out[0]->grad->data, node->in[0]->grad->data,
                        node_adds(node, 0, run));
}

CUDA_KERNEL(glu, plan, forward, backward)
