/* Logits on CUDA: y[b] = x[b, at[b]] w^T in fp32. See logits.c.
 *
 * gather_rows picks the rows out of x, and the matrix-vector kernel (up to eight rows) or cuBLASLt multiplies them.
 * Where there is a softcap, cap_logits passes over what they wrote. */
#include "ops/kernel.cuh"
#include "device/cuda/matmul.h"

extern "C" {
#include "ops/logits.h"
}

enum { THREADS = 256 };

static MatmulShape product_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = x->shape[0], s.n = w->shape[0], s.k = x->shape[2];
    s.type = x->dtype, s.out_type = DTYPE_F32;
    s.trans_b = s.apart = true;
    s.lda = s.ldb = s.k, s.ldc = s.n;
    return s;
}

static bool by_matvec(const Node *node, const MatmulShape *s) { return node->few_rows && matvec_supports(s); }

/* Row at[b] of x (B, T, units) to row b of picked (B, units); a unit is 16 bytes, or one element. */
template <typename U>
__global__ void gather_rows(U *picked, const U *x, const int32_t *at, int64_t length, int64_t units, CudaFault *fault) {
    let_next_start();
    wait_for_previous();
    int64_t b = blockIdx.x, row = at[b];
    if (row < 0 || row >= length) {
        if (threadIdx.x == 0) report_fault(fault, FAULT_AT, (int)b, 0, (int)row, (int)length);
        row = 0;
    }
    for (int64_t i = threadIdx.x; i < units; i += blockDim.x) picked[b * units + i] = x[(b * length + row) * units + i];
}

/* y (n) = cap tanh(y / cap) */
static __global__ void __launch_bounds__(THREADS) cap_logits(float *y, int64_t n, float cap) {
    let_next_start();
    wait_for_previous();
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n) y[i] = cap * tanh_f32(y[i] / cap);
}

static size_t picked_bytes(const MatmulShape *s) { return cuda_align((size_t)(s->m * s->k) * dtype_size(s->type)); }

static Status plan(Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    if (!cuda_is_float(x->dtype) || w->dtype != x->dtype)
        return FAIL(TANE_EUNSUPPORTED, "logits: no CUDA kernel for %s x %s", dtype_name(x->dtype),
                    dtype_name(w->dtype));
    MatmulShape s = product_shape(node);
    const Matmul *m;
    node->scratch_bytes = picked_bytes(&s);
    if (by_matvec(node, &s)) return TANE_OK;
    TRY_RETURN(matmul_plan(cuda_device(node), &s, &m));
    node->scratch_bytes += matmul_scratch(m);
    return TANE_OK;
}

template <typename U> static Status gather(const Node *node, const MatmulShape *s, size_t unit) {
    const CudaDevice *d = cuda_device(node);
    int64_t units = s->k * (int64_t)dtype_size(s->type) / (int64_t)unit;
    return cuda_launch_early(d, s->m <= CUDA_FEW_ROWS, gather_rows<U>, dim3((unsigned)s->m), THREADS,
                             (U *)node->scratch, (const U *)node->in[X]->data, (const int32_t *)node->in[AT]->data,
                             node->in[X]->shape[1], units, d->fault);
}

static Status product(const Node *node) {
    CudaDevice *d = cuda_device(node);
    MatmulShape s = product_shape(node);
    size_t size = dtype_size(s.type);
    if (s.k * size % 16 == 0) TRY_RETURN(gather<int4>(node, &s, 16));
    else TRY_RETURN(size == 4 ? gather<int32_t>(node, &s, 4) : gather<int16_t>(node, &s, 2));
    const void *w = node->in[W]->data;
    if (by_matvec(node, &s)) return matvec_run(d, &s, node->scratch, w, node->out[0]->data, NULL);
    const Matmul *m;
    TRY_RETURN(matmul_plan(d, &s, &m));
    return matmul_run(d, m, node->scratch, w, node->out[0]->data, NULL, false, false,
                      (char *)node->scratch + picked_bytes(&s));
}

static Status forward(const Node *node, const TapeRun *) {
    float cap = ((const LogitsArgs *)node->args)->softcap;
    Tensor *y = node->out[0];
    int64_t n = tensor_count(y);
    if (!n) return TANE_OK;
    TRY_RETURN(product(node));
    if (cap == 0.0f) return TANE_OK;
    return cuda_launch_early(cuda_device(node), y->shape[0] <= CUDA_FEW_ROWS, cap_logits,
                             dim3((unsigned)cuda_blocks(n, THREADS)), THREADS, (float *)y->data, n, cap);
}

CUDA_KERNEL_NODIFF(logits, plan, forward)
