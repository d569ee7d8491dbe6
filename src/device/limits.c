/* Measuring the limits. */
#include "device/limits.h"

#include <omp.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/gemm.h"

Status limits_matmul(DType type, double *flops_per_second) {
    Status st = TANE_OK;
    enum { N = 1024, RUNS = 8 };
    Gemm g = {.m = N, .n = N, .k = N, .type = type, .out_type = type, .trans_b = true, .lda = N, .ldb = N, .ldc = N};
    size_t bytes = (size_t)N * N * dtype_size(type);
    void *a = NULL, *b = NULL, *c = NULL, *scratch = NULL;
    double best = 1e30;
    TRY(mem_new(&a, bytes, 1));
    TRY(mem_new(&b, bytes, 1));
    TRY(mem_new(&c, bytes, 1));
    TRY(mem_new(&scratch, gemm_scratch(&g, omp_get_max_threads()), 1));
    for (size_t i = 0; i < (size_t)N * N; i++) { /* zeros would flatter some processors */
        float x = (float)(i % 251) / 251.0f - 0.5f;
        if (type == DTYPE_F32)
            ((float *)a)[i] = ((float *)b)[i] = x;
        else
            ((uint16_t *)a)[i] = ((uint16_t *)b)[i] = f32_to_bf16(x);
    }
    for (int run = 0; run < RUNS; run++) {
        double start = clock_seconds();
        TRY(gemm_run(&g, a, b, c, NULL, scratch));
        double seconds = clock_seconds() - start;
        if (run && seconds < best) best = seconds; /* the first one warms up */
    }
    *flops_per_second = 2.0 * N * N * N / best;
out:
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(scratch);
    return st;
}

Status limits_copy(double *bytes_per_second) {
    Status st = TANE_OK;
    const size_t bytes = (size_t)256 << 20;
    char *from = NULL, *to = NULL;
    double best = 1e30;
    TRY(MEM_NEW_ARRAY(&from, bytes));
    TRY(MEM_NEW_ARRAY(&to, bytes));
    for (int run = 0; run < 3; run++) {
        double start = clock_seconds();
#pragma omp parallel
        {
            size_t n = (size_t)omp_get_num_threads(), i = (size_t)omp_get_thread_num();
            size_t begin = bytes / n * i, end = i + 1 == n ? bytes : bytes / n * (i + 1);
            memcpy(to + begin, from + begin, end - begin);
        }
        double seconds = clock_seconds() - start;
        if (seconds < best) best = seconds;
    }
    *bytes_per_second = 2.0 * (double)bytes / best;
out:
    mem_free(from);
    mem_free(to);
    return st;
}
