/* Rotary position embedding on the GPU: the formula of rope.c, in place where the tape allows.
 *
 * blockIdx.x is the row; a thread rotates V pairs of one head (16 bytes of each half where a head and half of what is
 * rotated of it are made of whole vectors, else 1 element) or, out of place, copies V elements of the values or of what
 * the table leaves of a head. A position outside the table is reported and taken for 0.
 */
#include "ops/kernel.cuh"

extern "C" {
#include "ops/rope.h"
}

enum { THREADS = 256 };

template <typename T> struct Rotation {
    const T *from;
    T *to;                    /* (rows, width); may be `from` */
    const int32_t *positions; /* (rows) */
    const float *cos_sin;     /* (limit, 2 half) */
    CudaFault *fault;
    int limit, t;         /* positions are (rows / t, t) */
    int width;            /* elements of a row */
    int heads, dim, half; /* heads of queries and keys in it; elements of one, of which 2 half are rotated */
    int items;            /* of a row: heads * half / V pairs, then copies */
    float direction;
};

/* Where copy k of a row lies: what the table leaves of the heads, then the values. */
template <typename T> __device__ static inline int copied_at(const Rotation<T> &r, int k, int v) {
    int left = r.dim - 2 * r.half, per_head = left / v;
    if (k >= r.heads * per_head) return r.heads * r.dim + (k - r.heads * per_head) * v;
    return k / per_head * r.dim + 2 * r.half + k % per_head * v;
}

template <typename T, int V> __device__ static inline void load(float *to, const T *p) {
    if constexpr (V == 1) {
        *to = to_float(*p);
    } else {
#pragma unroll
        for (int e = 0; e < V; e += Vec16<T>::N) load16(to + e, p + e);
    }
}
template <typename T, int V> __device__ static inline void store(T *p, const float *from) {
    if constexpr (V == 1) *p = from_float<T>(*from);
    else store16(p, from);
}

template <typename T, int V> static __global__ void __launch_bounds__(THREADS) rotate(const Rotation<T> r) {
    let_next_start();
    wait_for_previous();
    int item = blockIdx.y * blockDim.x + threadIdx.x, pairs = r.heads * (r.half / V);
    if (item >= r.items) return;
    int64_t row = (int64_t)blockIdx.x * r.width;
    float a[V], b[V], cs[V], sn[V];
    if (item >= pairs) {
        int c = copied_at(r, item - pairs, V);
        load<T, V>(a, r.from + row + c);
        store<T, V>(r.to + row + c, a);
        return;
    }
    int position = r.positions[blockIdx.x];
    if (position < 0 || position >= r.limit) {
        if (item == 0) report_fault(r.fault, FAULT_CONTEXT, blockIdx.x / r.t, blockIdx.x % r.t, position, r.limit);
        position = 0;
    }
    int per_head = r.half / V, head = item / per_head, j = (item - head * per_head) * V;
    const float *table = r.cos_sin + (int64_t)position * 2 * r.half + j;
    int64_t at = row + (int64_t)head * r.dim + j;
    load<T, V>(a, r.from + at);
    load<T, V>(b, r.from + at + r.half);
    load<float, V>(cs, table);
    load<float, V>(sn, table + r.half);
#pragma unroll
    for (int e = 0; e < V; e++) {
        float u = a[e], v = b[e], s = r.direction * sn[e];
        a[e] = u * cs[e] - v * s;
        b[e] = v * cs[e] + u * s;
    }
    store<T, V>(r.to + at, a);
    store<T, V>(r.to + at + r.half, b);
}

static Status plan(Node *node) {
    if (!cuda_is_float(node->in[QKV]->dtype))
        return FAIL(TANE_EUNSUPPORTED, "rope: no %s kernel on the GPU; use fp32, bf16 or fp16",
                    dtype_name(node->in[QKV]->dtype));
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "rope: qkv may have one consumer only");
    node->inplace[0] = QKV + 1;
    node->inplace_grad[QKV] = 1;
    return TANE_OK;
}

template <typename T, int V> static Status launch_vectors(const Node *node, Rotation<T> r) {
    r.items = r.heads * (r.half / V) + (r.from == r.to ? 0 : (r.width - r.heads * 2 * r.half) / V);
    if (!r.items) return TANE_OK;
    unsigned threads = (unsigned)cuda_blocks(r.items, 32) * 32;
    if (threads > THREADS) threads = THREADS;
    dim3 grid((unsigned)tensor_rows(node->in[QKV]), (unsigned)cuda_blocks(r.items, threads));
    return cuda_launch_early(cuda_device(node), grid.x <= CUDA_FEW_ROWS, rotate<T, V>, grid, (int)threads, r);
}

template <typename T> static Status launch(const Node *node, const void *from, void *to, float direction) {
    const RopeArgs *args = (const RopeArgs *)node->args;
    const Tensor *table = node->in[COS_SIN];
    Rotation<T> r = {};
    r.from = (const T *)from;
    r.to = (T *)to;
    r.positions = (const int32_t *)node->in[POSITIONS]->data;
    r.cos_sin = (const float *)table->data;
    r.fault = cuda_device(node)->fault;
    r.limit = (int)table->shape[0];
    r.t = (int)tensor_width(node->in[POSITIONS]);
    r.width = (int)tensor_width(node->in[QKV]);
    r.heads = args->heads + args->kv_heads;
    r.dim = args->head_dim;
    r.half = (int)table->shape[1] / 2;
    r.direction = direction;
    constexpr int N = Vec16<T>::N;
    return r.half % N == 0 && r.dim % N == 0 ? launch_vectors<T, N>(node, r) : launch_vectors<T, 1>(node, r);
}

static Status forward(const Node *node, const TapeRun *) {
    return CUDA_BY_TYPE(node->in[QKV]->dtype, launch, node, node->in[QKV]->data, node->out[0]->data, 1.0f);
}

static Status backward(const Node *node, const TapeRun *) {
    if (!node->grad_in[QKV]) return TANE_OK;
    return CUDA_BY_TYPE(node->in[QKV]->dtype, launch, node, node->out[0]->grad->data, node->in[QKV]->grad->data, -1.0f);
}

CUDA_KERNEL(rope, plan, forward, backward)
