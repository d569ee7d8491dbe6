/* RMSNorm of each head of queries and keys on the GPU: the formulas of head_norm.c.
 *
 *   heads       forward    a head stays in the registers of 8 to 32 lanes, by D, in vectors of 16 bytes; blockIdx.x is
 *                          the row
 *   heads_back  backward   the same; a block takes many heads and keeps the sums for both weights' gradients in
 *                          registers
 *   any         forward    every other D: a warp a head, which is read again from the cache
 *   any_back    backward   of these; a warp keeps its sums in shared memory
 *   add_columns            the second stage of both: the blocks' sums to the weights' gradients
 *
 * Out of place values are heads too, which are copied. The number of partial sums depends on shapes and on the number
 * of processors only: the same bits on every run.
 */
#include "ops/column_sums.cuh"

extern "C" {
#include "ops/head_norm.h"
}

enum { THREADS = 256, WARPS = THREADS / 32 };
enum { RESIDENTS = 3 };             /* blocks of a backward kernel on a processor */
enum { SHARED = 48 << 10 };         /* what any_back may take, */
enum { ANY_MOST = SHARED / 4 / 2 }; /* and so the largest D */

/* How a head's vectors lie in lanes. */
typedef struct Layout {
    int lanes, vecs; /* vecs: of 16 bytes in each lane; 0: the kernels for any D */
    int warps;       /* of a block of any_back */
} Layout;

/* The sum over a head's lanes, known to all of them. */
template <int LANES> __device__ static inline float lanes_sum(float x) {
#pragma unroll
    for (int lane = LANES / 2; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ static inline float inverse_rms(float square, int dim, float epsilon) {
    return 1.0f / sqrtf(square / (float)dim + epsilon);
}

/* ---- forward */

template <typename T> struct Forward {
    const T *x; /* (rows, row) */
    T *y;       /* may be x */
    const T *q_weight, *k_weight;
    int64_t row;                /* elements */
    int queries, normed, heads; /* heads of a row: with a query's weight, normed at all, to be written */
    int dim;
    float epsilon, one; /* one: what is added to the weight */
};

template <typename T, int LANES, int VECS>
static __global__ void __launch_bounds__(THREADS) heads(const Forward<T> a) {
    constexpr int N = Vec16<T>::N;
    let_next_start();
    int thread = blockIdx.y * blockDim.x + threadIdx.x, lane = threadIdx.x % LANES, head = thread / LANES;
    bool there = head < a.heads, values = head >= a.normed;
    int64_t at = blockIdx.x * a.row + (int64_t)head * a.dim;
    const T *weight = head < a.queries ? a.q_weight : a.k_weight;
    float w[VECS][N], square = 0.0f;
    int4 raw[VECS];
#pragma unroll
    for (int v = 0; v < VECS; v++) { /* no kernel before this one writes weights */
        int c = (v * LANES + lane) * N;
        if (c < a.dim) load16(w[v], weight + c);
    }
    wait_for_previous();
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * LANES + lane) * N;
        float x[N];
        raw[v] = there && c < a.dim ? *(const int4 *)(a.x + at + c) : make_int4(0, 0, 0, 0);
        unpack16<T>(x, raw[v]);
#pragma unroll
        for (int e = 0; e < N; e++) square += x[e] * x[e];
    }
    float r = inverse_rms(lanes_sum<LANES>(square), a.dim, a.epsilon);
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * LANES + lane) * N;
        float x[N];
        if (!there || c >= a.dim) continue;
        unpack16<T>(x, raw[v]);
#pragma unroll
        for (int e = 0; e < N; e++) x[e] = x[e] * r * (w[v][e] + a.one);
        if (values) *(int4 *)(a.y + at + c) = raw[v];
        else store16(a.y + at + c, x);
    }
}

template <typename T> static __global__ void __launch_bounds__(THREADS) any(const Forward<T> a) {
    let_next_start();
    wait_for_previous();
    int lane = threadIdx.x & 31, head = (blockIdx.y * blockDim.x + threadIdx.x) >> 5;
    if (head >= a.heads) return; /* whole warps */
    int64_t at = blockIdx.x * a.row + (int64_t)head * a.dim;
    const T *weight = head < a.queries ? a.q_weight : a.k_weight;
    float square = 0.0f;
    for (int c = lane; c < a.dim; c += 32) {
        float x = to_float(a.x[at + c]);
        square += x * x;
    }
    float r = inverse_rms(warp_sum(square), a.dim, a.epsilon);
    for (int c = lane; c < a.dim; c += 32) {
        T x = a.x[at + c];
        a.y[at + c] = head >= a.normed ? x : from_float<T>(to_float(x) * r * (to_float(weight[c]) + a.one));
    }
}

/* ---- backward */

template <typename T> struct Backward {
    const T *x, *dy; /* (rows, row) */
    T *dx;           /* may be dy; NULL: not wanted */
    const T *q_weight, *k_weight;
    float *partial; /* (blocks, 2, dim): sums for both weights' gradients; NULL: not wanted */
    int64_t row, rows;
    int queries, normed, heads, dim;
    float epsilon, one;
};

/* The heads of all rows in turn, `step` of them at a time, without a division for each. */
typedef struct Walk {
    int64_t row, rows;
    int head, heads;
} Walk;
template <typename T> __device__ static inline Walk walk_from(const Backward<T> &a, int64_t n) {
    return Walk{n / a.heads, 0, (int)(n % a.heads), 0};
}
template <typename T> __device__ static inline void walk_on(const Backward<T> &a, Walk *w) {
    w->row += w->rows;
    w->head += w->heads;
    if (w->head >= a.heads) {
        w->head -= a.heads;
        w->row++;
    }
}

template <typename T, int LANES, int VECS>
static __global__ void __launch_bounds__(THREADS, VECS == 1 ? RESIDENTS : 2) heads_back(const Backward<T> a) {
    constexpr int N = Vec16<T>::N, GROUPS = THREADS / LANES;
    extern __shared__ float shared[]; /* (WARPS, 2, dim) */
    int lane = threadIdx.x % LANES, warp = threadIdx.x >> 5, group = threadIdx.x / LANES;
    float columns[2][VECS][N] = {}; /* dq_weight, dk_weight */
    int4 q_weight[VECS], k_weight[VECS];
#pragma unroll
    for (int v = 0; v < VECS; v++) {
        int c = (v * LANES + lane) * N;
        q_weight[v] = c < a.dim ? *(const int4 *)(a.q_weight + c) : make_int4(0, 0, 0, 0);
        k_weight[v] = c < a.dim ? *(const int4 *)(a.k_weight + c) : make_int4(0, 0, 0, 0);
    }
    int64_t all = a.rows * a.heads, step = (int64_t)gridDim.x * GROUPS, first = (int64_t)blockIdx.x * GROUPS;
    Walk at = walk_from(a, first + group), by = walk_from(a, step);
    at.rows = by.row;
    at.heads = by.head;
    /* a warp goes on while its first group has a head: all its lanes take part in the sums */
    for (int64_t n = first + warp * (32 / LANES); n < all; n += step, walk_on(a, &at)) {
        int64_t place = at.row * a.row + (int64_t)at.head * a.dim;
        bool there = at.row < a.rows, values = at.head >= a.normed, key = at.head >= a.queries;
        int4 x_raw[VECS], dy_raw[VECS];
        float square = 0.0f, sum = 0.0f;
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            int c = (v * LANES + lane) * N;
            bool real = there && c < a.dim;
            float x[N], dy[N], w[N];
            x_raw[v] = real ? *(const int4 *)(a.x + place + c) : make_int4(0, 0, 0, 0);
            dy_raw[v] = real ? *(const int4 *)(a.dy + place + c) : make_int4(0, 0, 0, 0);
            unpack16<T>(x, x_raw[v]);
            unpack16<T>(dy, dy_raw[v]);
            unpack16<T>(w, key ? k_weight[v] : q_weight[v]);
#pragma unroll
            for (int e = 0; e < N; e++) {
                square += x[e] * x[e];
                sum += dy[e] * (w[e] + a.one) * x[e];
            }
        }
        float r = inverse_rms(lanes_sum<LANES>(square), a.dim, a.epsilon);
        float mean = lanes_sum<LANES>(sum) * r / (float)a.dim;
#pragma unroll
        for (int v = 0; v < VECS; v++) {
            int c = (v * LANES + lane) * N;
            float x[N], dy[N], w[N];
            if (!there || c >= a.dim) continue;
            if (values) {
                if (a.dx) *(int4 *)(a.dx + place + c) = dy_raw[v];
                continue;
            }
            unpack16<T>(x, x_raw[v]);
            unpack16<T>(dy, dy_raw[v]);
            unpack16<T>(w, key ? k_weight[v] : q_weight[v]);
#pragma unroll
            for (int e = 0; e < N; e++) {
                float n = x[e] * r;
                if (key) columns[1][v][e] += dy[e] * n;
                else columns[0][v][e] += dy[e] * n;
                dy[e] = r * (dy[e] * (w[e] + a.one) - n * mean);
            }
            if (a.dx) store16(a.dx + place + c, dy);
        }
    }
    if (!a.partial) return;
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
        for (int v = 0; v < VECS; v++)
#pragma unroll
            for (int e = 0; e < N; e++) {
                int c = (v * LANES + lane) * N + e;
                float sum = columns[k][v][e];
#pragma unroll
                for (int other = LANES; other < 32; other <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, other);
                if ((threadIdx.x & 31) < LANES && c < a.dim) shared[(warp * 2 + k) * a.dim + c] = sum;
            }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * a.dim; i += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += shared[w * 2 * a.dim + i];
        a.partial[(int64_t)blockIdx.x * 2 * a.dim + i] = sum;
    }
}

template <typename T> static __global__ void __launch_bounds__(THREADS) any_back(const Backward<T> a) {
    extern __shared__ float shared[]; /* (warps, 2, dim); NULL partial: none */
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int i = threadIdx.x; a.partial && i < warps * 2 * a.dim; i += blockDim.x) shared[i] = 0.0f;
    __syncthreads();
    Walk at = walk_from(a, (int64_t)blockIdx.x * warps + warp), by = walk_from(a, (int64_t)gridDim.x * warps);
    at.rows = by.row;
    at.heads = by.head;
    for (; at.row < a.rows; walk_on(a, &at)) {
        int64_t place = at.row * a.row + (int64_t)at.head * a.dim;
        bool key = at.head >= a.queries;
        const T *weight = key ? a.k_weight : a.q_weight, *from = a.x + place, *dy = a.dy + place;
        float *columns = shared + (warp * 2 + key) * a.dim, square = 0.0f, sum = 0.0f;
        if (at.head >= a.normed) {
            for (int c = lane; a.dx && c < a.dim; c += 32) a.dx[place + c] = dy[c];
            continue;
        }
        for (int c = lane; c < a.dim; c += 32) {
            float x = to_float(from[c]);
            square += x * x;
            sum += to_float(dy[c]) * (to_float(weight[c]) + a.one) * x;
        }
        float r = inverse_rms(warp_sum(square), a.dim, a.epsilon), mean = warp_sum(sum) * r / (float)a.dim;
        for (int c = lane; c < a.dim; c += 32) {
            float n = to_float(from[c]) * r, g = to_float(dy[c]);
            if (a.partial) columns[c] += g * n;
            if (a.dx) a.dx[place + c] = from_float<T>(r * (g * (to_float(weight[c]) + a.one) - n * mean));
        }
    }
    if (!a.partial) return;
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * a.dim; i += blockDim.x) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += shared[w * 2 * a.dim + i];
        a.partial[(int64_t)blockIdx.x * 2 * a.dim + i] = sum;
    }
}

/* ---- choice and launch */

static Layout layout_of(const Node *node) {
    int dim = ((const HeadNormArgs *)node->args)->head_dim, per_16 = 16 / (int)dtype_size(node->in[QKV]->dtype);
    int vectors = dim / per_16;
    if (dim % per_16 || vectors > 64) {
        int warps = SHARED / 4 / 2 / dim;
        return Layout{32, 0, warps < WARPS ? warps : WARPS};
    }
    return Layout{vectors <= 8 ? 8 : vectors <= 16 ? 16 : 32, vectors <= 32 ? 1 : 2, WARPS};
}

/* Heads that are written: values only where they do not lie there already. */
static int heads_of(const Node *node, bool in_place) {
    const HeadNormArgs *args = (const HeadNormArgs *)node->args;
    return args->heads + (in_place ? 1 : 2) * args->kv_heads;
}

/* Of backward, before it is known whether it will work in place. */
static int64_t back_blocks(const Node *node, Layout l) {
    int groups = l.vecs ? THREADS / l.lanes : l.warps;
    int64_t most = (int64_t)cuda_device(node)->processors * RESIDENTS;
    int64_t blocks = cuda_blocks(tensor_rows(node->in[QKV]) * heads_of(node, true), groups);
    return blocks < most ? blocks : most;
}

static Status plan(Node *node) {
    const HeadNormArgs *args = (const HeadNormArgs *)node->args;
    DType type = node->in[QKV]->dtype;
    if (!cuda_is_float(type))
        return FAIL(TANE_EUNSUPPORTED, "head_norm: no %s kernel on the GPU; use fp32, bf16 or fp16", dtype_name(type));
    if (node->in[Q_WEIGHT]->dtype != type || node->in[K_WEIGHT]->dtype != type)
        return FAIL(TANE_EUNSUPPORTED, "head_norm: qkv and the weights differ in type");
    if (node->grad_in[QKV] == GRAD_ADD) return FAIL(TANE_EUNSUPPORTED, "head_norm: qkv may have one consumer only");
    if (args->head_dim > ANY_MOST)
        return FAIL(TANE_EUNSUPPORTED, "head_norm: heads of %d elements; on the GPU they have at most %d",
                    args->head_dim, ANY_MOST);
    node->inplace_grad[QKV] = 1;
    if (node->live) node->backward_reads_in |= 1u << QKV;
    else node->inplace[0] = QKV + 1;
    if (node->grad_in[Q_WEIGHT] || node->grad_in[K_WEIGHT])
        node->scratch_bytes = (size_t)(back_blocks(node, layout_of(node)) * 2 * args->head_dim) * sizeof(float);
    return TANE_OK;
}

template <typename T> static void (*forward_kernel(Layout l))(const Forward<T>) {
    if (l.vecs == 0) return any<T>;
    if (l.vecs == 2) return heads<T, 32, 2>;
    return l.lanes == 8 ? heads<T, 8, 1> : l.lanes == 16 ? heads<T, 16, 1> : heads<T, 32, 1>;
}

template <typename T> static Status launch_forward(const Node *node) {
    const HeadNormArgs *args = (const HeadNormArgs *)node->args;
    const Tensor *qkv = node->in[QKV];
    Layout l = layout_of(node);
    Forward<T> a = {};
    a.x = (const T *)qkv->data;
    a.y = (T *)node->out[0]->data;
    a.q_weight = (const T *)node->in[Q_WEIGHT]->data;
    a.k_weight = (const T *)node->in[K_WEIGHT]->data;
    a.row = tensor_width(qkv);
    a.queries = args->heads;
    a.normed = heads_of(node, true);
    a.heads = heads_of(node, a.x == a.y);
    a.dim = args->head_dim;
    a.epsilon = args->epsilon;
    a.one = args->kind == NORM_RMS_ONE ? 1.0f : 0.0f;
    int64_t lanes = (int64_t)a.heads * l.lanes, threads = cuda_blocks(lanes, 32) * 32;
    if (threads > THREADS) threads = THREADS;
    dim3 grid((unsigned)tensor_rows(qkv), (unsigned)cuda_blocks(lanes, threads));
    return cuda_launch_early(cuda_device(node), grid.x <= CUDA_FEW_ROWS, forward_kernel<T>(l), grid, (int)threads, a);
}

static Status forward(const Node *node, const TapeRun *) {
    return CUDA_BY_TYPE(node->in[QKV]->dtype, launch_forward, node);
}

template <typename T> static void (*backward_kernel(Layout l))(const Backward<T>) {
    if (l.vecs == 0) return any_back<T>;
    if (l.vecs == 2) return heads_back<T, 32, 2>;
    return l.lanes == 8 ? heads_back<T, 8, 1> : l.lanes == 16 ? heads_back<T, 16, 1> : heads_back<T, 32, 1>;
}

static ColumnGrad weight_grad(const Node *node, int k, const TapeRun *run) {
    if (!node->grad_in[k]) return ColumnGrad{NULL, false, false};
    return column_grad(node->in[k]->grad, node_adds(node, k, run));
}

template <typename T> static Status launch_backward(const Node *node, const TapeRun *run) {
    const HeadNormArgs *args = (const HeadNormArgs *)node->args;
    const Tensor *qkv = node->in[QKV];
    CudaDevice *d = cuda_device(node);
    Layout l = layout_of(node);
    ColumnGrads grads = {{weight_grad(node, Q_WEIGHT, run), weight_grad(node, K_WEIGHT, run)}};
    Backward<T> a = {};
    a.x = (const T *)qkv->data;
    a.dy = (const T *)node->out[0]->grad->data;
    a.dx = node->grad_in[QKV] ? (T *)qkv->grad->data : NULL;
    a.q_weight = (const T *)node->in[Q_WEIGHT]->data;
    a.k_weight = (const T *)node->in[K_WEIGHT]->data;
    a.partial = grads.of[0].data || grads.of[1].data ? (float *)node->scratch : NULL;
    a.row = tensor_width(qkv);
    a.rows = tensor_rows(qkv);
    a.queries = args->heads;
    a.normed = heads_of(node, true);
    a.heads = heads_of(node, !a.dx || a.dx == a.dy);
    a.dim = args->head_dim;
    a.epsilon = args->epsilon;
    a.one = args->kind == NORM_RMS_ONE ? 1.0f : 0.0f;
    unsigned blocks = (unsigned)back_blocks(node, l), columns = (unsigned)cuda_blocks(a.dim, 32);
    size_t shared = a.partial ? (size_t)(l.warps * 2 * a.dim) * sizeof(float) : 0;
    backward_kernel<T>(l)<<<blocks, l.warps * 32, shared, d->stream>>>(a);
    CUDA_LAUNCHED();
    if (!a.partial) return TANE_OK;
    add_columns<<<dim3(columns, 2), dim3(32, 32), 0, d->stream>>>(a.partial, (int)blocks, a.dim, grads);
    CUDA_LAUNCHED();
    return TANE_OK;
}

static Status backward(const Node *node, const TapeRun *run) {
    return CUDA_BY_TYPE(node->in[QKV]->dtype, launch_backward, node, run);
}

CUDA_KERNEL(head_norm, plan, forward, backward)
