/* What stands behind gemm.h: one record per kernel family. For gemm.c, and for the tests and the benchmark, which
 * compare them. */
#ifndef DEVICE_GEMM_BACKEND_H
#define DEVICE_GEMM_BACKEND_H

#include "device/gemm.h"

typedef struct GemmBackend {
    /* False when this machine or build cannot run products of this type here. */
    bool (*supports)(DType type);
    const char *(*name)(DType type);
    size_t (*scratch)(const Gemm *g, int threads); /* m, n, k > 0 */
    /* m, n, k > 0 and the arguments are checked. */
    Status (*run)(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *scratch);
    void (*shutdown)(void);
} GemmBackend;

extern const GemmBackend gemm_amx, gemm_dnnl;

/* gemm_run with the backend given instead of chosen. */
Status gemm_run_on(const GemmBackend *backend, const Gemm *g, const void *a, const void *b, void *c, const void *bias,
                   void *scratch);

#endif
