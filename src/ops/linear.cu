/* Linear on CUDA: y = x w^T + b; dx = dy w, dw = dy^T x, db = the column sums of dy. See linear.c.
 *
 * Forward runs on cuBLASLt with the bias in its epilogue, or, for up to eight rows without a gradient (decoding), on
 * the matrix-vector kernel. Backward's products run on cuBLASLt. In training y and dx go through 8 bits where the
 * device's mode says so; dw never does. Column sums are ours: column_sums alone for few rows, followed by add_parts for
 * many.
 *
 * An activation right behind the layer is made by the product's epilogue where cuBLASLt can (GELU in its tanh form):
 * its input, y, is written beside it, for backward.
 *
 * A small layer does not fill the GPU: there dw and db run on the side stream, beside dx. */
#include "device/cuda/math.cuh"
#include "device/cuda/matmul.h"

enum { X, W, BIAS };

static MatmulShape forward_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = tensor_rows(x), s.n = w->shape[0], s.k = tensor_width(x);
    s.type = s.out_type = x->dtype;
    s.trans_b = true;
    s.lda = s.ldb = s.k, s.ldc = s.n;
    s.epilogue = node->in[BIAS] ? EPILOGUE_BIAS : EPILOGUE_NONE;
    s.fp8 = s.trains = node->live; /* training: what generation returns must not depend on its batch */
    return s;
}

static MatmulShape input_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = tensor_rows(x), s.n = tensor_width(x), s.k = w->shape[0];
    s.type = x->dtype, s.out_type = x->grad->dtype;
    s.lda = s.k, s.ldb = s.ldc = s.n;
    s.fp8 = s.trains = true;
    return s;
}

static MatmulShape weight_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = w->shape[0], s.n = tensor_width(x), s.k = tensor_rows(x);
    s.type = x->dtype, s.out_type = w->grad->dtype;
    s.trans_a = s.trains = true;
    s.lda = s.m, s.ldb = s.ldc = s.n;
    return s;
}

/* ---------------------------------------------------------------------------------------------- column sums */

enum { THREADS = 256, IN_FLIGHT = 8, FEW_ROWS = 1024 };

/* How the columns of dy (rows, width) are summed. A block takes a strip of lanes * vec columns: `lanes` threads read
 * vec elements (16 bytes, or one element) of a row each, the block 256 / lanes rows at once. */
typedef struct SumPlan {
    int vec, lanes;
    int64_t strips, parts, rows_per_part; /* parts == 1: one kernel */
} SumPlan;

static SumPlan sum_plan(const CudaDevice *d, const Tensor *dy) {
    int64_t rows = tensor_rows(dy), width = tensor_width(dy);
    int per_16 = 16 / (int)dtype_size(dy->dtype);
    SumPlan p = {width % per_16 ? 1 : per_16, 32, 0, 1, rows};
    /* Narrow strips of a few rows are more blocks, and each has more rows in flight. */
    if (rows <= FEW_ROWS && p.vec > 1) p.lanes = 8;
    p.strips = cuda_blocks(width, p.lanes * p.vec);
    if (rows <= FEW_ROWS) return p;
    int64_t at_once = THREADS / p.lanes * IN_FLIGHT, most = cuda_blocks(rows, at_once);
    p.parts = cuda_blocks(6 * (int64_t)d->processors, p.strips);
    if (p.parts > most) p.parts = most;
    p.rows_per_part = cuda_blocks(rows, p.parts);
    p.parts = cuda_blocks(rows, p.rows_per_part);
    return p;
}

static size_t sum_scratch(const SumPlan *p, int64_t width) {
    return p->parts > 1 ? (size_t)(p->parts * width) * sizeof(float) : 0;
}

/* Elements that one load brings. */
template <typename T, int VEC> struct alignas(VEC * sizeof(T)) Pack { T e[VEC]; };

__device__ static inline void put(void *to, DType type, int64_t i, float value, bool add) {
    if (type == DTYPE_F32) ((float *)to)[i] = (add ? ((float *)to)[i] : 0.0f) + value;
    else if (type == DTYPE_BF16) {
        __nv_bfloat16 *at = (__nv_bfloat16 *)to + i;
        *at = from_float<__nv_bfloat16>((add ? to_float(*at) : 0.0f) + value);
    } else {
        __half *at = (__half *)to + i;
        *at = from_float<__half>((add ? to_float(*at) : 0.0f) + value);
    }
}

/* A thread's own columns over its rows of [begin, end), in order. Loads past the end read the last row again rather
 * than branch, so that all of them are in flight at once. */
template <typename T, int VEC, int LANES>
__device__ static inline void sum_own(float *sum, const T *dy, int64_t width, int64_t begin, int64_t end) {
    constexpr int ROWS = THREADS / LANES;
    for (int64_t row = begin + threadIdx.x / LANES; row < end; row += ROWS * IN_FLIGHT) {
        Pack<T, VEC> x[IN_FLIGHT];
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            int64_t at = row + u * ROWS;
            x[u] = *(const Pack<T, VEC> *)(dy + (at < end ? at : end - 1) * width);
        }
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            if (row + u * ROWS >= end) break;
#pragma unroll
            for (int e = 0; e < VEC; e++) sum[e] += to_float(x[u].e[e]);
        }
    }
}

/* Block (strip, part) sums its columns over its rows. PARTS: into parts (part, width); else into db itself. */
template <typename T, int VEC, int LANES, bool PARTS>
__global__ void __launch_bounds__(THREADS, 4)
    column_sums(const T *dy, int64_t rows, int64_t width, int64_t rows_per_part, float *parts, void *db, DType db_type,
                bool add) {
    constexpr int ROWS = THREADS / LANES, STRIP = LANES * VEC;
    __shared__ float shared[ROWS][STRIP];
    int lane = threadIdx.x % LANES, own = threadIdx.x / LANES;
    int64_t first = blockIdx.x * (int64_t)STRIP, column = first + lane * VEC, begin = blockIdx.y * rows_per_part;
    int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
    float sum[VEC];
#pragma unroll
    for (int e = 0; e < VEC; e++) sum[e] = 0.0f;
    if (column < width) sum_own<T, VEC, LANES>(sum, dy + column, width, begin, end);
#pragma unroll
    for (int e = 0; e < VEC; e++) shared[own][lane * VEC + e] = sum[e];
    __syncthreads();
    int64_t mine = first + threadIdx.x;
    if (threadIdx.x >= STRIP || mine >= width) return;
    float total = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; r++) total += shared[r][threadIdx.x];
    if (PARTS) parts[blockIdx.y * width + mine] = total;
    else put(db, db_type, mine, total, add);
}

/* db = the sum of the parts: 32 columns a block, each warp every eighth part. */
__global__ void __launch_bounds__(THREADS)
    add_parts(const float *parts, int64_t n_parts, int64_t width, void *db, DType db_type, bool add) {
    __shared__ float shared[THREADS / 32][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int64_t column = blockIdx.x * (int64_t)32 + lane;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 8
        for (int64_t p = warp; p < n_parts; p += THREADS / 32) sum += parts[p * width + column];
    }
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= width) return;
    float total = 0.0f;
#pragma unroll
    for (int r = 0; r < THREADS / 32; r++) total += shared[r][lane];
    put(db, db_type, column, total, add);
}

template <typename T, int VEC, int LANES>
static void launch_sums(const SumPlan *p, const Tensor *dy, Tensor *db, bool add, float *parts, cudaStream_t stream) {
    dim3 grid((unsigned)p->strips, (unsigned)p->parts);
    int64_t rows = tensor_rows(dy), width = tensor_width(dy);
    const T *data = (const T *)dy->data;
    if (p->parts > 1)
        column_sums<T, VEC, LANES, true>
            <<<grid, THREADS, 0, stream>>>(data, rows, width, p->rows_per_part, parts, NULL, db->dtype, false);
    else
        column_sums<T, VEC, LANES, false>
            <<<grid, THREADS, 0, stream>>>(data, rows, width, p->rows_per_part, NULL, db->data, db->dtype, add);
}

template <typename T>
static Status sum_columns(const CudaDevice *d, const Tensor *dy, Tensor *db, bool add, void *scratch,
                          cudaStream_t stream) {
    SumPlan p = sum_plan(d, dy);
    float *parts = (float *)scratch;
    int64_t width = tensor_width(dy);
    if (!width) return TANE_OK;
    if (p.vec == 1) launch_sums<T, 1, 32>(&p, dy, db, add, parts, stream);
    else if (p.lanes == 8) launch_sums<T, Vec16<T>::N, 8>(&p, dy, db, add, parts, stream);
    else launch_sums<T, Vec16<T>::N, 32>(&p, dy, db, add, parts, stream);
    CUDA_LAUNCHED();
    if (p.parts == 1) return TANE_OK;
    unsigned blocks = (unsigned)cuda_blocks(width, 32);
    add_parts<<<blocks, THREADS, 0, stream>>>(parts, p.parts, width, db->data, db->dtype, add);
    CUDA_LAUNCHED();
    return TANE_OK;
}

/* --------------------------------------------------------------------------------------------------- the op */

static const char by_matvec = 0; /* node->variant: forward runs on the matrix-vector kernel */

/* Where things lie in scratch: forward and dx use the first part, dw and db may run beside dx. */
typedef struct LinearScratch {
    size_t weight, sums, bytes;
} LinearScratch;

static Status plan_products(const Node *node, LinearScratch *at) {
    CudaDevice *d = cuda_device(node);
    const Matmul *m;
    MatmulShape s = forward_shape(node);
    size_t bytes = 0;
    memset(at, 0, sizeof *at);
    if (node->variant != &by_matvec) {
        TRY_RETURN(matmul_plan(d, &s, &m));
        bytes = matmul_scratch(m);
    }
    if (node->live && node->grad_in[X]) {
        s = input_shape(node);
        TRY_RETURN(matmul_plan(d, &s, &m));
        if (matmul_scratch(m) > bytes) bytes = matmul_scratch(m);
    }
    at->weight = at->sums = cuda_align(bytes);
    if (node->live && node->grad_in[W]) {
        s = weight_shape(node);
        TRY_RETURN(matmul_plan(d, &s, &m));
        at->sums += cuda_align(matmul_scratch(m));
    }
    at->bytes = at->sums;
    if (node->live && node->in[BIAS] && node->grad_in[BIAS]) {
        SumPlan p = sum_plan(d, node->out[0]);
        at->bytes += sum_scratch(&p, tensor_width(node->out[0]));
    }
    return TANE_OK;
}

static Status plan(Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W], *bias = node->in[BIAS];
    if (!cuda_is_float(x->dtype) || w->dtype != x->dtype || (bias && bias->dtype != x->dtype))
        return FAIL(TANE_EUNSUPPORTED, "linear %s: no CUDA kernel for %s x %s", w->name ? w->name : "",
                    dtype_name(x->dtype), dtype_name(w->dtype));
    MatmulShape s = forward_shape(node);
    if (!node->live && !node->many_rows && matvec_supports(&s)) node->variant = &by_matvec;
    if (node->live) node->backward_reads_in = 1u << X | 1u << W;
    LinearScratch at;
    TRY_RETURN(plan_products(node, &at));
    node->scratch_bytes = at.bytes;
    return TANE_OK;
}

static MatmulShape gelu_shape(const Node *node) {
    MatmulShape s = forward_shape(node);
    s.epilogue = EPILOGUE_BIAS_GELU;
    s.fp8 = false;
    return s;
}

static bool can_take(const Node *node, const Node *next) {
    const Tensor *x = node->in[X];
    const Matmul *m;
    if (next->op != OP_activation || *(const ActivationKind *)next->args != ACTIVATION_GELU_TANH) return false;
    if (!node->live || !node->in[BIAS] || x->dtype == DTYPE_F32 || node->device->matmul != MATMUL_EXACT) return false;
    if (tensor_width(x) % 8 || tensor_width(node->out[0]) % 8) return false;
    MatmulShape s = gelu_shape(node);
    return matmul_plan(cuda_device(node), &s, &m) == TANE_OK && matmul_is_native(m);
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    CudaDevice *d = cuda_device(node);
    const void *x = node->in[X]->data, *w = node->in[W]->data, *bias = node->in[BIAS] ? node->in[BIAS]->data : NULL;
    const Matmul *m;
    MatmulShape s = node->takes ? gelu_shape(node) : forward_shape(node);
    if (node->takes) {
        TRY_RETURN(matmul_plan(d, &s, &m));
        return matmul_run_gelu(d, m, x, w, node->out[0]->data, node->takes->out[0]->data, bias);
    }
    if (node->variant == &by_matvec) return matvec_run(d, &s, x, w, node->out[0]->data, bias);
    TRY_RETURN(matmul_plan(d, &s, &m));
    return matmul_run(d, m, x, w, node->out[0]->data, bias, false, false, node->scratch);
}

/* dw and db, on the main stream or on the side one. */
static Status parameter_gradients(const Node *node, const TapeRun *run, const LinearScratch *at, bool side) {
    CudaDevice *d = cuda_device(node);
    const Tensor *dy = node->out[0]->grad;
    char *scratch = (char *)node->scratch;
    if (node->in[BIAS] && node->grad_in[BIAS])
        TRY_RETURN(CUDA_BY_TYPE(dy->dtype, sum_columns, d, dy, node->in[BIAS]->grad, node_adds(node, BIAS, run),
                                scratch + at->sums, side ? d->side : d->stream));
    if (!node->grad_in[W]) return TANE_OK;
    const Matmul *m;
    MatmulShape s = weight_shape(node);
    TRY_RETURN(matmul_plan(d, &s, &m));
    return matmul_run(d, m, dy->data, node->in[X]->data, node->in[W]->grad->data, NULL, node_adds(node, W, run), side,
                      scratch + at->weight);
}

static Status input_gradient(const Node *node, const TapeRun *run) {
    CudaDevice *d = cuda_device(node);
    const Matmul *m;
    MatmulShape s = input_shape(node);
    TRY_RETURN(matmul_plan(d, &s, &m));
    return matmul_run(d, m, node->out[0]->grad->data, node->in[W]->data, node->in[X]->grad->data, NULL,
                      node_adds(node, X, run), false, node->scratch);
}

/* Do dx and dw together leave processors idle, with one 128 x 128 tile of results on each? */
static bool worth_forking(const Node *node) {
    if (!node->grad_in[X] || !(node->grad_in[W] || (node->in[BIAS] && node->grad_in[BIAS]))) return false;
    int64_t m = cuda_blocks(tensor_rows(node->in[X]), 128), n = cuda_blocks(node->in[W]->shape[0], 128);
    int64_t k = cuda_blocks(tensor_width(node->in[X]), 128);
    return m * k + n * k <= cuda_device(node)->processors;
}

static Status backward(const Node *node, const TapeRun *run) {
    CudaDevice *d = cuda_device(node);
    LinearScratch at;
    TRY_RETURN(plan_products(node, &at));
    if (!worth_forking(node)) {
        TRY_RETURN(parameter_gradients(node, run, &at, false));
        return node->grad_in[X] ? input_gradient(node, run) : TANE_OK;
    }
    TRY_RETURN(cuda_fork(d));
    TRY_RETURN(parameter_gradients(node, run, &at, true));
    TRY_RETURN(input_gradient(node, run));
    return cuda_join(d);
}

CUDA_KERNEL_SHARING(linear, plan, forward, backward, NULL, BIAS + 1, 0, can_take)
