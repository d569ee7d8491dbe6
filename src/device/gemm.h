/* Matrix products on the CPU: C (+)= op(A) op(B) (+ bias), row-major with leading dimensions.
 *
 * bf16 inputs accumulate in fp32. Chosen at run time: our AMX kernel where the CPU has AMX-BF16, else oneDNN.
 * Called outside a parallel region a product uses all threads; inside one it runs on the calling thread alone.
 * On the AMX path a row of C depends only on its row of A and on B, never on M or on the row's place.
 */
#ifndef DEVICE_GEMM_H
#define DEVICE_GEMM_H

#include "base/dtype.h"
#include "base/status.h"

typedef struct Gemm {
    int64_t m, n, k;
    DType type;         /* of A and B: DTYPE_F32 or DTYPE_BF16 */
    DType out_type;     /* of C: DTYPE_F32, or DTYPE_BF16 when type is */
    bool trans_a;       /* false: A is (M, K); true: A is stored (K, M) */
    bool trans_b;       /* false: B is (K, N); true: B is stored (N, K), as nn.Linear's weight */
    int64_t lda, ldb, ldc; /* elements between rows as stored */
    bool accumulate;    /* C += instead of C = */
    bool bias;          /* adds a bias (N) of `type` to every row */
} Gemm;

/* Bytes of scratch gemm_run needs for this shape with this many threads (0 is possible). 64-byte aligned. */
size_t gemm_scratch(const Gemm *g, int threads);
/* m, n and k may be smaller than they were for gemm_scratch. bias is NULL when g->bias is false. */
Status gemm_run(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *scratch);

/* "amx-bf16", "onednn avx512_core_bf16", ...: what a product of this type runs on, for doctor and reports. */
const char *gemm_backend(DType type);
/* True where bf16 products are faster than fp32 ones on this machine. */
bool gemm_bf16_is_fast(void);
/* Releases cached oneDNN primitives and the engine (at exit, so that leak checks stay clean). */
void gemm_shutdown(void);

#endif
