/* Matrix products on the GPU through cuBLASLt: C (+)= op(A) op(B) (+ bias), row-major, as device/gemm.h has them on the
 * CPU. The algorithm is chosen when the product is planned: the first that the library's heuristic names for exactly these
 * shapes or, where that is worth the search, the fastest among those that compute the same bits as the first. So two runs
 * on one GPU model compute the same, whatever a stopwatch says. All algorithms are deterministic. */
#ifndef DEVICE_CUDA_MATMUL_H
#define DEVICE_CUDA_MATMUL_H

#include "device/cuda/cuda.h"

typedef enum MatmulEpilogue { EPILOGUE_NONE, EPILOGUE_BIAS, EPILOGUE_BIAS_GELU } MatmulEpilogue;

typedef struct MatmulShape {
    int64_t m, n, k;
    DType type;            /* of A and B: fp32, bf16, fp16 */
    DType out_type;        /* of C: fp32, or `type` */
    bool trans_a;          /* false: A is stored (M, K); true: (K, M) */
    bool trans_b;          /* false: B is stored (K, N); true: (N, K), as nn.Linear's weight */
    int64_t lda, ldb, ldc; /* elements between rows as stored */
    MatmulEpilogue epilogue; /* BIAS: adds a bias (N) of `type`; then GELU (tanh), C being what it is given */
    bool fp8;              /* A and B are rounded to e4m3 on the way, where the device's mode and shapes allow */
    bool apart;            /* forward products: a row of C does not depend on M, but for fp32, where cuBLASLt's kernels add
                            * in orders of their own */
    bool tune;             /* runs in every step of a training: worth a search for the fastest algorithm */
} MatmulShape;

typedef struct Matmul Matmul; /* a planned product */

/* The plan lives in `arena`-less memory of the device and is freed with it; the same shape is planned once. */
Status matmul_plan(CudaDevice *d, const MatmulShape *shape, const Matmul **out);
/* Bytes of scratch that matmul_run wants beside the device's workspace (fp8 copies; else 0). */
size_t matmul_scratch(const Matmul *m);
/* C = (accumulate ? C : 0) + op(A) op(B) + bias. side: on the device's side stream, with its own workspace. */
Status matmul_run(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, const void *bias,
                  bool accumulate, bool side, void *scratch);

/* With EPILOGUE_BIAS_GELU: C = op(A) op(B) + bias, gelu = GELU(C before it is rounded). Only where matmul_is_native. */
Status matmul_run_gelu(CudaDevice *d, const Matmul *m, const void *a, const void *b, void *c, void *gelu,
                       const void *bias, void *scratch);
/* cuBLASLt has an algorithm for it, in the type itself. */
bool matmul_is_native(const Matmul *m);

/* What shapes with few rows (decoding) run on instead of cuBLASLt: y (M, N) = x (M, K) w (N, K)^T + bias, M <= 8. */
bool matvec_supports(const MatmulShape *shape);
Status matvec_run(CudaDevice *d, const MatmulShape *shape, const void *x, const void *w, void *y, const void *bias);

/* Opens and closes the library's handles. */
Status matmul_open(CudaDevice *d);
void matmul_close(CudaDevice *d);
/* Release of cuBLASLt: "13.0.2". */
void matmul_version(char *text, size_t size);

#endif
