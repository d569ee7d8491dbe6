/* Speed of matrix products: oneDNN beside our own kernels, in one run, against the peak measured in the same run.
 *
 *   build/bench/gemm            all shapes
 *   build/bench/gemm 1024 512 2048 [f|d|w]   one shape: forward (B as (N, K)), dgrad (B as (K, N)), wgrad (A as (K, M))
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "device/gemm_backend.h"

typedef struct Shape {
    const char *what;
    int64_t m, n, k;
    char kind; /* f, d, w as above; s: a product f on each thread at once; p: the same with d */
    DType type;
} Shape;

static const Shape shapes[] = {
    {"GPT-2 fc, forward", 4096, 3072, 768, 'f', DTYPE_BF16},
    {"GPT-2 fc, dgrad", 4096, 768, 3072, 'd', DTYPE_BF16},
    {"GPT-2 fc, wgrad", 3072, 768, 4096, 'w', DTYPE_BF16},
    {"GPT-2 proj, forward", 4096, 768, 3072, 'f', DTYPE_BF16},
    {"GPT-2 proj, dgrad", 4096, 3072, 768, 'd', DTYPE_BF16},
    {"GPT-2 proj, wgrad", 768, 3072, 4096, 'w', DTYPE_BF16},
    {"GPT-2 qkv, forward", 4096, 2304, 768, 'f', DTYPE_BF16},
    {"GPT-2 out, forward", 4096, 768, 768, 'f', DTYPE_BF16},
    {"GPT-2 out, dgrad", 4096, 768, 768, 'd', DTYPE_BF16},
    {"GPT-2 out, wgrad", 768, 768, 4096, 'w', DTYPE_BF16},
    {"GPT-2 logits, forward", 1024, 50304, 768, 'f', DTYPE_BF16},
    {"seed fc, forward", 8192, 2048, 512, 'f', DTYPE_BF16},
    {"seed fc, dgrad", 8192, 512, 2048, 'd', DTYPE_BF16},
    {"seed fc, wgrad", 2048, 512, 8192, 'w', DTYPE_BF16},
    {"seed out, forward", 8192, 512, 512, 'f', DTYPE_BF16},
    {"seed out, wgrad", 512, 512, 8192, 'w', DTYPE_BF16},
    {"1024 tokens, fc", 1024, 2048, 512, 'f', DTYPE_BF16},
    {"1024 tokens, fc dgrad", 1024, 512, 2048, 'd', DTYPE_BF16},
    {"1024 tokens, fc wgrad", 2048, 512, 1024, 'w', DTYPE_BF16},
    {"128 tokens, out", 128, 512, 512, 'f', DTYPE_BF16},
    {"128 tokens, fc", 128, 2048, 512, 'f', DTYPE_BF16},
    {"128 tokens, fc dgrad", 128, 512, 2048, 'd', DTYPE_BF16},
    {"128 tokens, fc wgrad", 2048, 512, 128, 'w', DTYPE_BF16},
    {"decode 1, fc", 1, 3072, 768, 'f', DTYPE_BF16},
    {"decode 8, fc", 8, 3072, 768, 'f', DTYPE_BF16},
    {"decode 32, fc", 32, 3072, 768, 'f', DTYPE_BF16},
    {"decode 1, logits", 1, 50304, 768, 'f', DTYPE_BF16},
    {"attention q k^T, per thread", 128, 512, 64, 's', DTYPE_BF16},
    {"attention p v, per thread", 128, 64, 512, 'p', DTYPE_BF16},
    {"attention q k^T, per thread", 512, 512, 64, 's', DTYPE_BF16},
    {"attention p v, per thread", 512, 64, 512, 'p', DTYPE_BF16},
    {"GPT-2 fc, forward", 4096, 3072, 768, 'f', DTYPE_F32},
    {"GPT-2 fc, wgrad", 3072, 768, 4096, 'w', DTYPE_F32},
    {"seed fc, forward", 1024, 2048, 512, 'f', DTYPE_F32},
};

static void *filled(size_t n, DType type) {
    void *p;
    if (mem_new(&p, n, dtype_size(type)) != TANE_OK) {
        fprintf(stderr, "%s\n", err_message());
        exit(1);
    }
    Rng rng = {.key = n};
    uint32_t word = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 64 == 0) word = rng_next(&rng);
        word = word * 1664525u + 1013904223u;
        float x = rng_u01(word) * 2 - 1;
        if (type == DTYPE_F32) ((float *)p)[i] = x;
        else ((uint16_t *)p)[i] = f32_to_bf16(x);
    }
    return p;
}

typedef struct Job {
    Gemm g;
    void *a, *b, *c, *scratch;
    bool alone;
} Job;

static Job job_new(const Shape *s, const GemmBackend *backend) {
    Job j = {.alone = s->kind == 's' || s->kind == 'p'};
    bool wgrad = s->kind == 'w';
    j.g = (Gemm){.m = s->m, .n = s->n, .k = s->k, .type = s->type, .trans_a = wgrad, .accumulate = wgrad};
    j.g.out_type = wgrad ? DTYPE_F32 : s->type;
    j.g.trans_b = s->kind == 'f' || s->kind == 's';
    j.g.lda = j.g.trans_a ? s->m : s->k;
    j.g.ldb = j.g.trans_b ? s->k : s->n;
    j.g.ldc = s->n;
    j.a = filled((size_t)(s->m * s->k), s->type);
    j.b = filled((size_t)(s->k * s->n), s->type);
    j.c = filled((size_t)(s->m * s->n), j.g.out_type);
    if (mem_new(&j.scratch, backend->scratch(&j.g, j.alone ? 1 : omp_get_max_threads()), 1) != TANE_OK) exit(1);
    return j;
}

static void job_free(Job *j) {
    mem_free(j->a);
    mem_free(j->b);
    mem_free(j->c);
    mem_free(j->scratch);
}

static void job_run(Job *j, const GemmBackend *backend) {
    if (gemm_run_on(backend, &j->g, j->a, j->b, j->c, NULL, j->scratch) != TANE_OK) {
        fprintf(stderr, "%s\n", err_message());
        exit(1);
    }
}

/* Seconds a product, the best of several rounds. */
static double measure_job(Job *j, const GemmBackend *backend, double flops) {
    double best = 1e9;
    int times = 1 + (int)(2e10 / (flops + 1e7));
    if (times > 2000) times = 2000;
    job_run(j, backend);
    for (int round = 0; round < 7; round++) {
        double start = clock_seconds();
        for (int i = 0; i < times; i++) job_run(j, backend);
        double took = (clock_seconds() - start) / times;
        if (took < best) best = took;
    }
    return best;
}

/* Gflop/s of all threads together. */
static double measure(const Shape *s, const GemmBackend *backend) {
    double flops = 2.0 * (double)s->m * (double)s->n * (double)s->k, sum = 0;
    if (s->kind == 's' || s->kind == 'p') {
#pragma omp parallel reduction(+ : sum)
        {
            Job j = job_new(s, backend);
#pragma omp barrier
            sum += flops / measure_job(&j, backend, flops) * 1e-9;
            job_free(&j);
        }
        return sum;
    }
    Job j = job_new(s, backend);
    sum = flops / measure_job(&j, backend, flops) * 1e-9;
    job_free(&j);
    return sum;
}

#if defined(__x86_64__)
/* Twelve chains of multiply-adds in registers: the most that fp32 can do. */
__attribute__((target("avx512f"))) static double peak_fma512(void) {
    __m512 x[12];
    for (int i = 0; i < 12; i++) x[i] = _mm512_set1_ps((float)i);
    __m512 y = _mm512_set1_ps(0.999f);
    enum { TURNS = 2000000 };
    double start = clock_seconds();
    for (int t = 0; t < TURNS; t++) {
        for (int i = 0; i < 12; i++) x[i] = _mm512_fmadd_ps(x[i], y, y);
        __asm__ volatile("" : "+v"(x[0]), "+v"(x[1]), "+v"(x[2]), "+v"(x[3]), "+v"(x[4]), "+v"(x[5]));
        __asm__ volatile("" : "+v"(x[6]), "+v"(x[7]), "+v"(x[8]), "+v"(x[9]), "+v"(x[10]), "+v"(x[11]));
    }
    return TURNS * 12.0 * 32.0 / (clock_seconds() - start) * 1e-9;
}

__attribute__((target("amx-tile,amx-bf16"))) static double peak_amx(void) {
    struct {
        uint8_t palette, reserved[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    enum { TURNS = 1000000 };
    double start = clock_seconds();
    for (int t = 0; t < TURNS; t++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    double took = clock_seconds() - start;
    _tile_release();
    return TURNS * 4.0 * 16 * 16 * 64 / took * 1e-9;
}

static double peak(DType type) {
    double sum = 0;
    if (type == DTYPE_F32 && !__builtin_cpu_supports("avx512f")) return 0;
    if (type == DTYPE_BF16 && !gemm_amx.supports(type)) return 0;
#pragma omp parallel reduction(+ : sum)
    sum += type == DTYPE_F32 ? peak_fma512() : peak_amx();
    return sum;
}
#else
static double peak(DType type) {
    (void)type;
    return 0;
}
#endif

static void report(const Shape *s, const double top[2]) {
    double dnnl = measure(s, &gemm_dnnl), best = top[s->type == DTYPE_BF16];
    printf("%-28s %5lld %5lld %5lld  %c %s  oneDNN %6.0f", s->what, (long long)s->m, (long long)s->n, (long long)s->k,
           s->kind, dtype_name(s->type), dnnl);
    if (best > 0) printf(" %4.0f%%", 100 * dnnl / best);
    if (gemm_amx.supports(s->type)) {
        double ours = measure(s, &gemm_amx);
        printf("   ours %6.0f %4.0f%%   ratio %.2f", ours, 100 * ours / best, ours / dnnl);
        if (s->m <= 32) printf("   %.1f GB/s of B", ours / (double)s->m);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    double top[2] = {peak(DTYPE_F32), peak(DTYPE_BF16)};
    printf("%d threads; peak measured: fp32 %.0f, bf16 tiles %.0f Gflop/s; fp32 on %s, bf16 on %s\n",
           omp_get_max_threads(), top[0], top[1], gemm_backend(DTYPE_F32), gemm_backend(DTYPE_BF16));
    printf("%-28s     m     n     k  (Gflop/s, share of the peak; best of 7)\n", "");
    if (argc >= 4) {
        Shape s = {"given", atoll(argv[1]), atoll(argv[2]), atoll(argv[3]), argc > 4 ? argv[4][0] : 'f', DTYPE_BF16};
        report(&s, top);
    } else {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) report(&shapes[i], top);
    }
    gemm_shutdown();
    return 0;
}
