/* Rates of matrix products and of memory: the best of several passes, because noise only ever makes a pass slower. */
#include "device/measure.h"

#include <string.h>

#include <omp.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"

enum { LEAST_SIDE = 128, MOST_SIDE = 2048, MOST_COPY = 256 << 20, LEAST_COPY = 16 << 20 };
static const double budget = 0.5; /* seconds */

/* ---- products ---- */

typedef struct Square {
    Gemm gemm;
    void *a, *b, *c, *scratch;
} Square;

static void square_free(Square *s) {
    mem_free(s->a);
    mem_free(s->b);
    mem_free(s->c);
    mem_free(s->scratch);
}

/* Small values of both signs; zeros would be faster on processors that throttle by power. */
static void fill(void *matrix, DType type, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(int)((uint64_t)i * 2654435761u >> 20 & 255) / 256.0f - 0.5f;
        if (type == DTYPE_F32) ((float *)matrix)[i] = x;
        else ((uint16_t *)matrix)[i] = f32_to_bf16(x);
    }
}

static Status square_new(Square *s, DType type, int64_t side) {
    size_t n = (size_t)(side * side);
    *s = (Square){.gemm = {.m = side, .n = side, .k = side, .type = type, .out_type = DTYPE_F32, .trans_b = true,
                           .lda = side, .ldb = side, .ldc = side}};
    TRY_RETURN(mem_new(&s->a, n, dtype_size(type)));
    TRY_RETURN(mem_new(&s->b, n, dtype_size(type)));
    TRY_RETURN(mem_new(&s->c, n, sizeof(float)));
    TRY_RETURN(mem_new(&s->scratch, gemm_scratch(&s->gemm, omp_get_max_threads()), 1));
    fill(s->a, type, (int64_t)n);
    fill(s->b, type, (int64_t)n);
    return TANE_OK;
}

static Status square_time(const Square *s, double *seconds) {
    double start = clock_seconds();
    TRY_RETURN(gemm_run(&s->gemm, s->a, s->b, s->c, NULL, s->scratch));
    *seconds = clock_seconds() - start;
    return TANE_OK;
}

/* The first pass of a shape prepares kernels and is not counted. */
static Status square_best(DType type, int64_t side, double until, double *best) {
    Square s;
    Status st = TANE_OK;
    double seconds;
    TRY(square_new(&s, type, side));
    TRY(square_time(&s, &seconds));
    *best = seconds;
    do {
        TRY(square_time(&s, &seconds));
        if (seconds < *best) *best = seconds;
    } while (clock_seconds() + seconds < until);
out:
    square_free(&s);
    return st;
}

Status measure_gemm(DType type, double *flops) {
    double start = clock_seconds(), best;
    *flops = 0;
    for (int64_t side = LEAST_SIDE; side <= MOST_SIDE; side *= 2) {
        bool last = side == MOST_SIDE;
        TRY_RETURN(square_best(type, side, last ? start + budget : 0, &best));
        double rate = 2.0 * (double)side * (double)side * (double)side / best;
        if (rate > *flops) *flops = rate;
        /* Three passes of twice the side take 24 times as long. */
        if (clock_seconds() - start + 24 * best > 1.5 * budget) break;
    }
    return TANE_OK;
}

/* ---- memory ---- */

static double copy_time(char *to, const char *from, size_t n) {
    double start = clock_seconds();
#pragma omp parallel
    {
        size_t threads = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
        size_t first = n / threads * me, last = me + 1 == threads ? n : n / threads * (me + 1);
        memcpy(to + first, from + first, last - first);
    }
    return clock_seconds() - start;
}

Status measure_memory(double *bytes_per_second) {
    char *from = NULL, *to = NULL;
    Status st = TANE_OK;
    uint64_t available = cpu_memory_available();
    size_t n = MOST_COPY;
    while (available && n > LEAST_COPY && n > available / 8) n /= 2;
    *bytes_per_second = 0;
    TRY(mem_new((void **)&from, n, 1));
    TRY(mem_new((void **)&to, n, 1));
    double start = clock_seconds(), best = copy_time(to, from, n);
    while (clock_seconds() - start + best < budget) {
        double seconds = copy_time(to, from, n);
        if (seconds < best) best = seconds;
    }
    *bytes_per_second = 2.0 * (double)n / best;
out:
    mem_free(from);
    mem_free(to);
    return st;
}
