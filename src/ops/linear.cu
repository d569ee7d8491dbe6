/* Linear on CUDA: y = x w^T + b; dx = dy w, dw = dy^T x, db = the column sums of dy. See linear.c.
 *
 * Forward runs on cuBLASLt with the bias in its epilogue, or, for up to eight rows without a gradient (decoding), on
 * the matrix-vector kernel. Backward's products run on cuBLASLt. In training y and dx go through 8 bits where the
 * device's mode says so; dw never does. Column sums are ours (column_sums.cuh), where what writes dy does not make them
 * on the way.
 *
 * An activation right behind the layer is made by the product's epilogue where cuBLASLt can (GELU in its tanh form):
 * its input, y, is written beside it, for backward.
 *
 * A small layer does not fill the GPU: there dw and db run on the side stream, beside dx. */
#include "device/cuda/matmul.h"
#include "ops/column_sums.cuh"

enum { X, W, BIAS };

static MatmulShape forward_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = tensor_rows(x), s.n = w->shape[0], s.k = tensor_width(x);
    s.type = s.out_type = x->dtype;
    s.trans_b = true;
    s.lda = s.ldb = s.k, s.ldc = s.n;
    s.epilogue = node->in[BIAS] ? EPILOGUE_BIAS : EPILOGUE_NONE;
    s.apart = true;
    s.fp8 = s.tune = node->live; /* training: 8 bits have one scale for all rows, and so for a request's company */
    return s;
}

static MatmulShape input_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = tensor_rows(x), s.n = tensor_width(x), s.k = w->shape[0];
    s.type = x->dtype, s.out_type = x->grad->dtype;
    s.lda = s.k, s.ldb = s.ldc = s.n;
    s.fp8 = s.tune = true;
    return s;
}

static MatmulShape weight_shape(const Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    MatmulShape s = {};
    s.m = w->shape[0], s.n = tensor_width(x), s.k = tensor_rows(x);
    s.type = x->dtype, s.out_type = w->grad->dtype;
    s.trans_a = s.tune = true;
    s.lda = s.m, s.ldb = s.ldc = s.n;
    return s;
}

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
        bytes = matmul_scratch(m) * (node->in[BIAS] ? 2 : 1); /* an epilogue may store two results */
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
    if (node->live && node->in[BIAS] && node->grad_in[BIAS]) at->bytes += sum_columns_scratch(d, node->out[0]);
    return TANE_OK;
}

static Status plan(Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W], *bias = node->in[BIAS];
    if (!cuda_is_float(x->dtype) || w->dtype != x->dtype || (bias && bias->dtype != x->dtype))
        return FAIL(TANE_EUNSUPPORTED, "linear %s: no CUDA kernel for %s x %s", w->name ? w->name : "",
                    dtype_name(x->dtype), dtype_name(w->dtype));
    MatmulShape s = forward_shape(node);
    if (!node->live && node->few_rows && matvec_supports(&s)) node->variant = &by_matvec;
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
    if (node->variant || !node->in[BIAS] || x->dtype == DTYPE_F32 || node->device->matmul != MATMUL_EXACT) return false;
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
        return matmul_run_gelu(d, m, x, w, node->out[0]->data, node->takes->out[0]->data, bias, node->scratch);
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
    if (node->in[BIAS] && node->grad_in[BIAS]) {
        ColumnGrad db = column_grad(node->in[BIAS]->grad, node_adds(node, BIAS, run));
        TRY_RETURN(CUDA_BY_TYPE(dy->dtype, sum_columns, d, dy, db, scratch + at->sums, side ? d->side : d->stream));
    }
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
