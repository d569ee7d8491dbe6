/* Final linear layer and cross-entropy on CUDA; formulas in cross_entropy.c. Logits are made for a chunk of rows by
 * cuBLASLt in the compute type; one kernel turns them into losses and, in place, into dlogits; two products make dx and
 * dw of these. All rows are computed: how many have a label is not known where the work is queued.
 *
 *   loss_rows<T, GRAD, WARP, CAP>    a row is read once, for the maximum and the sum of exponentials together (online
 *       softmax, Milakov & Gimelshein 2018), and stays in shared memory for the second sweep, which writes the
 *       gradient. WARP: a warp a row, for few classes. Else a block a row; what of it shared memory cannot hold is read
 *       again, from L2 for the most part. Without gradients there is no second sweep. CAP: with softcap, which each
 *       sweep takes from the products it reads.
 *   move_gradient<TO, FROM>    adds dx to a gradient that another consumer of x wrote before, or that has another type;
 *       else backward copies it.
 *
 * Exponentials are the hardware's powers of two: p = 2^(log2(e) (z - top)) / total, where top's own is exactly 1.
 */
#include "ops/kernel.cuh"
#include "device/cuda/matmul.h"

extern "C" {
#include "ops/cross_entropy.h"
}

enum { SAVED_DX };
enum { WARP_ROWS = 4, WARP_LOADS = 4, MOST_THREADS = 1024, IN_FLIGHT = 4 };

/* Chunks cost a pass over dw each, logits memory: at most so many bytes of them. */
static const int64_t CHUNK_BYTES = (int64_t)512 << 20;

/* ------------------------------------------------------------------------------------------------- a row's loss */

typedef struct LossRows {
    void *logits;                /* (rows, stride) */
    int64_t rows, stride, first; /* first: row of the op that the chunk begins with */
    int v, kept;
    float smoothing, cap, inverse_cap;
    const int32_t *labels;
    float *losses;
    int32_t *hits;
    const float *loss_scale;
    const TapeRun *run;
    CudaFault *fault;
} LossRows;

__device__ static inline float exp_fast(float x) { return exp2_fast(x * 1.44269504f); }

/* The logit that a product stands for. The same bits wherever it is asked for: nothing may be fused into it. */
template <bool CAP> __device__ static inline float logit_of(const LossRows *a, float product) {
    return CAP ? __fmul_rn(a->cap, tanh_f32(__fmul_rn(product, a->inverse_cap))) : product;
}

/* What is known of a part of a row: the largest logit, total = sum of e^(z - top), sum of z, and whether the label is
 * not the arg max. */
typedef struct RowPart {
    float top, total, sum;
    int beaten;
} RowPart;

/* What to subtract: 0 instead of -Inf, so that -Inf alone gives 0 and not NaN. */
__device__ static inline float reference(float top) { return top == -INFINITY ? 0.0f : top; }

/* Takes in N logits, those of classes i .. i + N - 1, of which classes from v on do not exist. A NaN, or +Inf, makes
 * the total NaN. */
template <int N>
__device__ static inline void take(RowPart *p, float *z, int i, int v, int label, float at_label, bool sums) {
    if (i + N > v) {
#pragma unroll
        for (int e = 0; e < N; e++)
            if (i + e >= v) z[e] = -INFINITY;
    }
    float top = z[0];
#pragma unroll
    for (int e = 1; e < N; e++) top = fmaxf(top, z[e]);
    /* Of equal logits the first is the arg max. */
    p->beaten |= i + N <= label ? top >= at_label : top > at_label;
    if (i <= label && label < i + N) {
#pragma unroll
        for (int e = 0; e < N; e++) p->beaten |= i + e < label && z[e] >= at_label;
    }
    if (top > p->top) {
        p->total *= exp_fast(p->top - top);
        p->top = top;
    }
    top = reference(p->top);
#pragma unroll
    for (int e = 0; e < N; e++) p->total += exp_fast(z[e] - top);
    if (!sums) return;
#pragma unroll
    for (int e = 0; e < N; e++) p->sum += i + e < v ? z[e] : 0.0f;
}

__device__ static inline RowPart warp_join(RowPart p) {
    float top = warp_max(p.top);
    p.total = warp_sum(p.total * exp_fast(p.top - reference(top)));
    p.sum = warp_sum(p.sum);
    p.beaten = __any_sync(0xffffffffu, p.beaten);
    p.top = top;
    return p;
}

/* The parts of a team's threads as one, known to all of them. */
template <bool WARP> __device__ static inline RowPart team_join(RowPart p) {
    p = warp_join(p);
    if (WARP) {
        __syncwarp();
        return p;
    }
    __shared__ RowPart parts[32];
    int lane = threadIdx.x & 31;
    if (lane == 0) parts[threadIdx.x >> 5] = p;
    __syncthreads();
    RowPart none = {-INFINITY, 0.0f, 0.0f, 0};
    return warp_join(lane < (int)(blockDim.x >> 5) ? parts[lane] : none);
}

/* First sweep: a thread's own vectors of the row, several loads in flight, kept where there is room. */
template <typename T, bool GRAD, bool CAP>
__device__ static inline RowPart read_row(const LossRows *a, const T *z, int4 *keep, int own, int step, int label,
                                          float at_label) {
    constexpr int N = Vec16<T>::N;
    RowPart p = {-INFINITY, 0.0f, 0.0f, 0};
    bool sums = a->smoothing > 0.0f;
    for (int i = own; i < a->v; i += IN_FLIGHT * step) {
        int4 raw[IN_FLIGHT];
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++)
            if (i + u * step < a->v) raw[u] = *(const int4 *)(z + i + u * step);
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            int at = i + u * step;
            if (at >= a->v) break;
            if (GRAD && at < a->kept) keep[at / N] = raw[u];
            float x[N];
            unpack16<T>(x, raw[u]);
#pragma unroll
            for (int e = 0; e < N; e++) x[e] = logit_of<CAP>(a, x[e]);
            take<N>(&p, x, at, a->v, label, at_label, sums);
        }
    }
    return p;
}

/* Second sweep, over the same vectors: scale (p - (1 - s) onehot(label) - s / V), times the cap's slope. */
template <typename T, bool CAP>
__device__ static inline void write_gradient(const LossRows *a, T *z, const int4 *keep, int own, int step, int label,
                                             RowPart row) {
    constexpr int N = Vec16<T>::N;
    float scale = a->run->grad_scale * (a->loss_scale ? *a->loss_scale : 1.0f);
    float top = reference(row.top), inverse = scale / row.total, uniform = scale * a->smoothing / (float)a->v;
    float target = scale * (1.0f - a->smoothing);
#pragma unroll 2
    for (int i = own; i < a->v; i += step) {
        float x[N], slope[N];
        unpack16<T>(x, i < a->kept ? keep[i / N] : *(const int4 *)(z + i));
#pragma unroll
        for (int e = 0; e < N; e++) {
            float z = logit_of<CAP>(a, x[e]);
            if (CAP) slope[e] = tanh_slope(z * a->inverse_cap);
            x[e] = fmaf(exp_fast(z - top), inverse, -uniform);
        }
        if (i <= label && label < i + N) {
#pragma unroll
            for (int e = 0; e < N; e++)
                if (i + e == label) x[e] -= target;
        }
#pragma unroll
        for (int e = 0; CAP && e < N; e++) x[e] *= slope[e];
        store16(z + i, x);
    }
}

/* A row without a label: no loss, no gradient. */
template <typename T, bool GRAD>
__device__ static inline void skip_row(const LossRows *a, T *z, int64_t row, int own, int step, int label) {
    if (own == 0) {
        if (label != -100) report_fault(a->fault, FAULT_LABEL, (int)row, 0, label, a->v);
        a->losses[row] = 0.0f;
        if (a->hits) a->hits[row] = 0;
    }
    for (int i = own; GRAD && i < a->v; i += step) *(int4 *)(z + i) = make_int4(0, 0, 0, 0);
}

/* A row's padding up to whole vectors is read and written, its values are nowhere used. */
template <typename T, bool GRAD, bool WARP, bool CAP>
__global__ void __launch_bounds__(WARP ? WARP_ROWS * 32 : MOST_THREADS) loss_rows(LossRows a) {
    constexpr int N = Vec16<T>::N;
    extern __shared__ int4 shared[];
    int warp = threadIdx.x >> 5, own = (WARP ? threadIdx.x & 31 : threadIdx.x) * N, step = (WARP ? 32 : blockDim.x) * N;
    int64_t in_chunk = WARP ? blockIdx.x * (int64_t)WARP_ROWS + warp : blockIdx.x;
    if (in_chunk >= a.rows) return;
    in_chunk = a.rows - 1 - in_chunk; /* the last rows first: the product that wrote them has left them in L2 */
    int64_t row = a.first + in_chunk;
    T *z = (T *)a.logits + in_chunk * a.stride;
    int4 *keep = shared + (WARP ? warp * (a.kept / N) : 0);
    int label = a.labels[row];
    if (label < 0 || label >= a.v) {
        skip_row<T, GRAD>(&a, z, row, own, step, label);
        return;
    }
    float at_label = logit_of<CAP>(&a, to_float(z[label]));
    RowPart p = team_join<WARP>(read_row<T, GRAD, CAP>(&a, z, keep, own, step, label, at_label));
    if (own == 0) {
        float log_total = logf(p.total), loss = (1.0f - a.smoothing) * (log_total + (p.top - at_label));
        if (a.smoothing > 0.0f) loss += a.smoothing * (log_total + (p.top - p.sum / (float)a.v));
        a.losses[row] = loss;
        if (a.hits) a.hits[row] = !p.beaten && p.total == p.total;
    }
    if (GRAD) write_gradient<T, CAP>(&a, z, keep, own, step, label, p);
}

/* to (n) (+)= from, eight elements a thread. */
template <typename TO, typename FROM>
__global__ void __launch_bounds__(256) move_gradient(TO *to, const FROM *from, int64_t n, bool add) {
    int64_t i = (blockIdx.x * (int64_t)256 + threadIdx.x) * 8;
    if (i + 8 > n) {
        for (; i < n; i++) to[i] = from_float<TO>(to_float(from[i]) + (add ? to_float(to[i]) : 0.0f));
        return;
    }
    float x[8], y[8];
#pragma unroll
    for (int e = 0; e < 8; e += Vec16<FROM>::N) load16(x + e, from + i + e);
    if (add) {
#pragma unroll
        for (int e = 0; e < 8; e += Vec16<TO>::N) load16(y + e, to + i + e);
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] += y[e];
    }
#pragma unroll
    for (int e = 0; e < 8; e += Vec16<TO>::N) store16(to + i + e, x + e);
}

/* -------------------------------------------------------------------------------------------------- planning */

/* As many rows as CHUNK_BYTES allow, shared out evenly over the chunks. A multiple of 128 but for a single chunk: so
 * that every chunk's rows begin where whole tensors may begin. */
static int64_t chunk_rows(int64_t rows, int64_t row_bytes) {
    int64_t most = CHUNK_BYTES / row_bytes / 128 * 128;
    if (most < 128) most = 128;
    if (rows <= most) return rows > 0 ? rows : 1;
    int64_t chunks = cuda_blocks(rows, most);
    return cuda_blocks(cuda_blocks(rows, chunks), 128) * 128;
}

typedef void (*LossKernel)(LossRows);

template <typename T, bool CAP> static LossKernel loss_kernel_of(bool grad, bool warp) {
    if (warp) return grad ? loss_rows<T, true, true, CAP> : loss_rows<T, false, true, CAP>;
    return grad ? loss_rows<T, true, false, CAP> : loss_rows<T, false, false, CAP>;
}
template <typename T> static LossKernel loss_kernel(bool grad, bool warp, bool cap) {
    return cap ? loss_kernel_of<T, true>(grad, warp) : loss_kernel_of<T, false>(grad, warp);
}

static LossKernel kernel_of(const Node *node, const CrossEntropyCuda *c) {
    bool cap = ((const CrossEntropyArgs *)node->args)->softcap > 0.0f;
    return CUDA_BY_TYPE(node->in[X]->dtype, loss_kernel, node->live, c->rows > 1, cap);
}

/* The kernel over the logits: a warp a row, or a block with some eight vectors of 16 bytes a thread. With two blocks on
 * a processor one's loads hide behind the other's arithmetic; a row too large for that gets a larger block, alone. */
static Status plan_rows(Node *node, CrossEntropyCuda *c) {
    const CudaDevice *d = cuda_device(node);
    int size = (int)dtype_size(node->in[X]->dtype), per_16 = 16 / size;
    int64_t v = node->in[W]->shape[0], vectors = cuda_blocks(v, per_16);
    int64_t room = ((int64_t)d->shared_memory - (int64_t)sizeof(RowPart) * 32) / 16;
    c->stride = cuda_blocks(v * size, 128) * 128 / size;
    c->rows = vectors <= 32 * WARP_LOADS ? WARP_ROWS : 1;
    c->threads = WARP_ROWS * 32;
    c->kept = node->live ? (int)((vectors < room ? vectors : room) * per_16) : 0;
    if (c->rows > 1) return TANE_OK;
    while (c->threads < 512 && c->threads * 8 < vectors) c->threads *= 2;
    if (!c->kept) return TANE_OK;
    if (vectors > room / 2) c->threads = MOST_THREADS;
    const void *kernel = (const void *)kernel_of(node, c);
    TRY_RETURN(cuda_shared_memory(kernel, (size_t)room * 16)); /* not `kept`: another tape may want more */
    CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
    return TANE_OK;
}

/* The products over m rows; *scratch and *side grow to what they need. */
static Status plan_products(Node *node, CrossEntropyCuda *c, int which, int64_t m, size_t *scratch, size_t *side) {
    CudaDevice *d = cuda_device(node);
    const Tensor *x = node->in[X], *w = node->in[W];
    int64_t v = w->shape[0], width = w->shape[1];
    MatmulShape s = {};
    s.m = m, s.n = v, s.k = width;
    s.type = s.out_type = x->dtype;
    s.trans_b = true;
    s.apart = true;
    s.tune = node->live;
    s.lda = s.ldb = width, s.ldc = c->stride;
    TRY_RETURN(matmul_plan(d, &s, &c->logits[which]));
    if (matmul_scratch(c->logits[which]) > *scratch) *scratch = matmul_scratch(c->logits[which]);
    s.n = width;
    s.lda = c->stride, s.ldb = s.ldc = width;
    s.trans_b = s.apart = false;
    if (node->live && node->grad_in[X]) {
        s.k = v;
        TRY_RETURN(matmul_plan(d, &s, &c->dx[which]));
        if (matmul_scratch(c->dx[which]) > *scratch) *scratch = matmul_scratch(c->dx[which]);
    }
    if (node->live && node->grad_in[W]) {
        s.m = v, s.k = m;
        s.trans_a = true;
        s.out_type = w->grad->dtype;
        TRY_RETURN(matmul_plan(d, &s, &c->dw[which]));
        if (matmul_scratch(c->dw[which]) > *side) *side = matmul_scratch(c->dw[which]);
    }
    return TANE_OK;
}

/* Do dx and dw together leave processors idle, with one 128 x 128 tile of results on each? */
static bool worth_forking(const Node *node, int64_t chunk) {
    if (!node->live || !node->grad_in[X] || !node->grad_in[W]) return false;
    int64_t m = cuda_blocks(chunk, 128), n = cuda_blocks(node->in[W]->shape[0], 128);
    return (m + n) * cuda_blocks(node->in[W]->shape[1], 128) <= cuda_device(node)->processors;
}

static Status plan(Node *node) {
    CrossEntropyArgs *a = (CrossEntropyArgs *)node->args;
    CrossEntropyCuda *c = &a->cuda;
    const Tensor *x = node->in[X], *w = node->in[W];
    if (!cuda_is_float(x->dtype) || w->dtype != x->dtype)
        return FAIL(TANE_EUNSUPPORTED, "cross_entropy: no CUDA kernel for %s x %s", dtype_name(x->dtype),
                    dtype_name(w->dtype));
    if (node->grad_in[W] && w->grad->dtype != DTYPE_F32 && w->grad->dtype != x->dtype)
        return FAIL(TANE_EUNSUPPORTED, "cross_entropy: %s gradients of %s weights have no CUDA kernel; use fp32 ones",
                    dtype_name(w->grad->dtype), dtype_name(w->dtype));
    if (w->shape[0] > INT32_MAX / 2)
        return FAIL(TANE_EUNSUPPORTED, "cross_entropy: %lld classes; the CUDA kernel counts to %d",
                    (long long)w->shape[0], INT32_MAX / 2);
    TRY_RETURN(plan_rows(node, c));
    int64_t rows = tensor_rows(x), shape[] = {rows, tensor_width(x)};
    size_t row_bytes = (size_t)c->stride * dtype_size(x->dtype), scratch = 0, side = 0;
    a->chunk = chunk_rows(rows, (int64_t)row_bytes);
    TRY_RETURN(plan_products(node, c, 0, a->chunk, &scratch, &side));
    if (rows % a->chunk) TRY_RETURN(plan_products(node, c, 1, rows % a->chunk, &scratch, &side));
    c->fork = worth_forking(node, a->chunk);
    c->matmul = cuda_align((size_t)a->chunk * row_bytes);
    c->side = c->matmul + cuda_align(scratch);
    node->scratch_bytes = c->side + side;
    if (node->live && node->grad_in[X]) TRY_RETURN(node_save(node, x->dtype, 2, shape));
    return TANE_OK;
}

/* --------------------------------------------------------------------------------------------------- running */

static Status run_rows(const Node *node, const TapeRun *run, int64_t from, int64_t m) {
    CudaDevice *d = cuda_device(node);
    const CrossEntropyArgs *a = (const CrossEntropyArgs *)node->args;
    const CrossEntropyCuda *c = &a->cuda;
    LossRows r = {};
    r.logits = node->scratch;
    r.rows = m, r.stride = c->stride, r.first = from;
    r.v = (int)node->in[W]->shape[0], r.kept = c->kept;
    r.smoothing = a->smoothing;
    r.cap = a->softcap, r.inverse_cap = 1.0f / a->softcap;
    r.labels = (const int32_t *)node->in[LABELS]->data;
    r.losses = (float *)node->out[LOSSES]->data;
    r.hits = node->out[HITS] ? (int32_t *)node->out[HITS]->data : NULL;
    r.loss_scale = node->in[LOSS_SCALE] ? (const float *)node->in[LOSS_SCALE]->data : NULL;
    r.run = run->on_device;
    r.fault = d->fault;
    size_t shared = (size_t)c->rows * (size_t)c->kept * dtype_size(node->in[X]->dtype);
    kernel_of(node, c)<<<(unsigned)cuda_blocks(m, c->rows), (unsigned)c->threads, shared, d->stream>>>(r);
    CUDA_LAUNCHED();
    return TANE_OK;
}

/* dw (+)= dlogits^T x and dx = dlogits w of rows from .. from + m - 1. */
static Status products(const Node *node, const TapeRun *run, int which, int64_t from) {
    CudaDevice *d = cuda_device(node);
    const CrossEntropyCuda *c = &((const CrossEntropyArgs *)node->args)->cuda;
    const Tensor *x = node->in[X], *w = node->in[W];
    char *scratch = (char *)node->scratch;
    size_t at = (size_t)(from * tensor_width(x)) * dtype_size(x->dtype);
    if (c->fork) TRY_RETURN(cuda_fork(d));
    if (node->grad_in[W])
        TRY_RETURN(matmul_run(d, c->dw[which], scratch, (const char *)x->data + at, w->grad->data, NULL,
                              from > 0 || node_adds(node, W, run), c->fork, scratch + c->side));
    if (node->grad_in[X])
        TRY_RETURN(matmul_run(d, c->dx[which], scratch, w->data, (char *)node->saved[SAVED_DX]->data + at, NULL, false,
                              false, scratch + c->matmul));
    return c->fork ? cuda_join(d) : TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    const CrossEntropyArgs *a = (const CrossEntropyArgs *)node->args;
    const Tensor *x = node->in[X];
    char *scratch = (char *)node->scratch;
    int64_t rows = tensor_rows(x);
    for (int64_t from = 0; from < rows; from += a->chunk) {
        int64_t m = rows - from < a->chunk ? rows - from : a->chunk;
        int which = m < a->chunk;
        const char *input = (const char *)x->data + (size_t)(from * tensor_width(x)) * dtype_size(x->dtype);
        TRY_RETURN(matmul_run(cuda_device(node), a->cuda.logits[which], input, node->in[W]->data, scratch, NULL, false,
                              false, scratch + a->cuda.matmul));
        TRY_RETURN(run_rows(node, run, from, m));
        if (node->live) TRY_RETURN(products(node, run, which, from));
    }
    return TANE_OK;
}

template <typename TO, typename FROM> static Status move_from(const Node *node, bool add) {
    const Tensor *to = node->in[X]->grad;
    int64_t n = tensor_count(to);
    if (n == 0) return TANE_OK;
    move_gradient<<<(unsigned)cuda_blocks(n, 8 * 256), 256, 0, cuda_device(node)->stream>>>(
        (TO *)to->data, (const FROM *)node->saved[SAVED_DX]->data, n, add);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename TO> static Status move_to(const Node *node, bool add) {
    DType type = node->saved[SAVED_DX]->dtype;
    if (type == DTYPE_F32) return move_from<TO, float>(node, add);
    return type == DTYPE_BF16 ? move_from<TO, __nv_bfloat16>(node, add) : move_from<TO, __half>(node, add);
}

static Status backward(const Node *node, const TapeRun *run) {
    if (!node->grad_in[X]) return TANE_OK;
    const Tensor *from = node->saved[SAVED_DX], *to = node->in[X]->grad;
    bool add = node_adds(node, X, run);
    if (add || to->dtype != from->dtype) return CUDA_BY_TYPE(to->dtype, move_to, node, add);
    if (to->data != from->data)
        CUDA_TRY(cudaMemcpyAsync(to->data, from->data, tensor_bytes(to), cudaMemcpyDeviceToDevice,
                                 cuda_device(node)->stream));
    return TANE_OK;
}

CUDA_KERNEL(cross_entropy, plan, forward, backward)
