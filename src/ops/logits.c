/* Logits of one token of each row, for generation: y[b] = x[b, at[b]] w^T in fp32, whatever the type of x and w; with
 * softcap c > 0, c tanh(y / c).
 *
 * No gradient: training uses cross_entropy, which never holds the logits whole.
 */
#include "device/gemm.h"
#include "ops/logits.h"
#include "ops/node.h"
#include "ops/simd.h"

typedef struct CpuLogits {
    LogitsArgs args;
    Gemm gemm;       /* filled in by plan */
    size_t gathered; /* bytes of the rows picked out of x; the product's scratch lies behind them */
} CpuLogits;

#ifdef OP_FRONT
Tensor *op_logits(Tape *t, Tensor *x, Tensor *w, Tensor *at, float softcap) {
    if (!tape_ok(t)) return NULL;
    if (x->rank != 3 || w->rank != 2 || x->shape[2] != w->shape[1] || at->rank != 1 || at->shape[0] != x->shape[0])
        return tape_fail(t, "logits: x must be (B, T, C), w (V, C), at (B)");
    if (!(softcap >= 0)) return tape_fail(t, "logits: softcap %g is negative", (double)softcap);
    int64_t shape[] = {x->shape[0], w->shape[0]};
    Tensor *y = tape_activation(t, "logits", DTYPE_F32, 2, shape), *in[] = {x, w, at};
    CpuLogits args = {.args.softcap = softcap};
    if (!tape_record(t, OP_logits, &args, sizeof args, in, 3, &y, 1)) return NULL;
    y->keep = true;
    return y;
}
#endif

static Status plan(Node *node) {
    const Tensor *x = node->in[X], *w = node->in[W];
    DType type = x->dtype;
    if ((type != DTYPE_F32 && type != DTYPE_BF16) || w->dtype != type)
        return FAIL(TANE_EUNSUPPORTED, "logits: no CPU kernel for %s x %s", dtype_name(type), dtype_name(w->dtype));
    CpuLogits *a = (CpuLogits *)node->args;
    int64_t rows = x->shape[0], c = x->shape[2], v = w->shape[0];
    a->gemm = (Gemm){
        .m = rows, .n = v, .k = c, .type = type, .out_type = DTYPE_F32, .trans_b = true, .lda = c, .ldb = c, .ldc = v};
    a->gathered = ((size_t)(rows * c) * dtype_size(type) + 63) & ~(size_t)63;
    node->scratch_bytes = a->gathered + gemm_scratch(&a->gemm, omp_get_max_threads());
    return TANE_OK;
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const CpuLogits *a = node->args;
    const Tensor *x = node->in[X];
    const int32_t *at = node->in[AT]->data;
    int64_t rows = x->shape[0], length = x->shape[1], c = x->shape[2];
    size_t bytes = (size_t)c * dtype_size(x->dtype);
    char *picked = node->scratch;
    for (int64_t b = 0; b < rows; b++) {
        if (at[b] < 0 || at[b] >= length)
            return FAIL(TANE_EINVAL, "logits: token %d of row %lld is outside 0..%lld", at[b], (long long)b,
                        (long long)length - 1);
        memcpy(picked + (size_t)b * bytes, row_at(x->data, x->dtype, (b * length + at[b]) * c), bytes);
    }
    TRY_RETURN(gemm_run(&a->gemm, picked, node->in[W]->data, node->out[0]->data, NULL, picked + a->gathered));
    if (a->args.softcap > 0.0f) softcap_row(node->out[0]->data, tensor_count(node->out[0]), a->args.softcap);
    return TANE_OK;
}

OP_KERNEL_NODIFF(logits, plan, forward)
