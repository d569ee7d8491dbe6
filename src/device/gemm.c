/* Matrix products: argument checks, degenerate shapes, and the choice of the kernels (see gemm.h). */
#include "device/gemm.h"

#include "device/gemm_backend.h"

/* In order of preference; the last one takes every type. */
static const GemmBackend *const backends[] = {&gemm_amx, &gemm_dnnl};
enum { BACKENDS = sizeof backends / sizeof *backends };

/* The support test and the choice are one function, so that reports cannot differ from what runs. */
static const GemmBackend *choose(DType type) {
    for (int i = 0; i < BACKENDS - 1; i++)
        if (backends[i]->supports(type)) return backends[i];
    return backends[BACKENDS - 1];
}

const char *gemm_backend(DType type) { return choose(type)->name(type); }

size_t gemm_scratch(const Gemm *g, int threads) {
    if (g->m <= 0 || g->n <= 0 || g->k <= 0) return 0;
    return choose(g->type)->scratch(g, threads < 1 ? 1 : threads);
}

bool gemm_bf16_is_fast(void) {
#if defined(__x86_64__)
    return gemm_amx.supports(DTYPE_BF16) || __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

void gemm_shutdown(void) {
    for (int i = 0; i < BACKENDS; i++) backends[i]->shutdown();
}

static Status check(const Gemm *g, const void *a, const void *b, const void *c, const void *bias) {
    bool types = (g->type == DTYPE_F32 && g->out_type == DTYPE_F32) ||
                 (g->type == DTYPE_BF16 && (g->out_type == DTYPE_F32 || g->out_type == DTYPE_BF16));
    if (!types)
        return FAIL(TANE_EINTERNAL, "gemm: a product of %s into %s does not exist", dtype_name(g->type),
                    dtype_name(g->out_type));
    int64_t width_a = g->trans_a ? g->m : g->k, width_b = g->trans_b ? g->k : g->n;
    if (g->m < 0 || g->n < 0 || g->k < 0 || g->lda < width_a || g->ldb < width_b || g->ldc < g->n)
        return FAIL(TANE_EINTERNAL, "gemm: m %lld, n %lld, k %lld do not fit lda %lld, ldb %lld, ldc %lld",
                    (long long)g->m, (long long)g->n, (long long)g->k, (long long)g->lda, (long long)g->ldb,
                    (long long)g->ldc);
    bool inputs = g->k == 0 || (a && b);
    if (g->m > 0 && g->n > 0 && (!inputs || !c || (g->bias && !bias)))
        return FAIL(TANE_EINTERNAL, "gemm: NULL where a matrix of %lld x %lld x %lld must be", (long long)g->m,
                    (long long)g->n, (long long)g->k);
    return TANE_OK;
}

/* k = 0: the product is zero, what is left is C (+)= bias. */
static void add_bias_alone(const Gemm *g, void *c, const void *bias) {
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            float x = 0;
            if (g->bias) x = g->type == DTYPE_F32 ? ((const float *)bias)[j] : bf16_to_f32(((const uint16_t *)bias)[j]);
            if (g->out_type == DTYPE_F32) {
                float *out = (float *)c + i * g->ldc + j;
                *out = g->accumulate ? *out + x : x;
            } else {
                uint16_t *out = (uint16_t *)c + i * g->ldc + j;
                *out = f32_to_bf16(g->accumulate ? bf16_to_f32(*out) + x : x);
            }
        }
    }
}

Status gemm_run_on(const GemmBackend *backend, const Gemm *g, const void *a, const void *b, void *c, const void *bias,
                   void *scratch) {
    TRY_RETURN(check(g, a, b, c, bias));
    if (g->m == 0 || g->n == 0) return TANE_OK;
    if (g->k == 0) {
        add_bias_alone(g, c, bias);
        return TANE_OK;
    }
    return backend->run(g, a, b, c, bias, scratch);
}

Status gemm_run(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *scratch) {
    return gemm_run_on(choose(g->type), g, a, b, c, bias, scratch);
}
