/* The machine's limits, measured: what the shares in `make bench` are shares of. One JSON object.
 *
 *   bf16_tiles    AMX TDPBF16PS in registers        bf16_vectors  AVX-512 VDPBF16PS in registers
 *   fp32_vectors  AVX-512 or AVX2 FMA in registers  gemm_*        4096 x 3072 x 768 through gemm_run
 *   copy          bytes read and written by copying large blocks
 *
 * Rates are of all threads together, the best of several passes (noise only makes a pass slower); 0: the CPU lacks it.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "device/measure.h"

enum { PASSES = 5, CHAINS = 12 };

/* A loop returns the operations one thread did; its results are kept in registers by empty asm statements. */
typedef double Loop(void);

#if defined(__x86_64__)
#define KEEP(x)                                                                                                        \
    __asm__ volatile("" : "+v"(x[0]), "+v"(x[1]), "+v"(x[2]), "+v"(x[3]), "+v"(x[4]), "+v"(x[5]));                     \
    __asm__ volatile("" : "+v"(x[6]), "+v"(x[7]), "+v"(x[8]), "+v"(x[9]), "+v"(x[10]), "+v"(x[11]))

__attribute__((target("avx2,fma"))) static double fma_256(void) {
    enum { TURNS = 2000000 };
    __m256 x[CHAINS], y = _mm256_set1_ps(0.999f);
    for (int i = 0; i < CHAINS; i++) x[i] = _mm256_set1_ps((float)i);
    for (int t = 0; t < TURNS; t++) {
        for (int i = 0; i < CHAINS; i++) x[i] = _mm256_fmadd_ps(x[i], y, y);
        KEEP(x);
    }
    return TURNS * (double)CHAINS * 8 * 2;
}

__attribute__((target("avx512f"))) static double fma_512(void) {
    enum { TURNS = 2000000 };
    __m512 x[CHAINS], y = _mm512_set1_ps(0.999f);
    for (int i = 0; i < CHAINS; i++) x[i] = _mm512_set1_ps((float)i);
    for (int t = 0; t < TURNS; t++) {
        for (int i = 0; i < CHAINS; i++) x[i] = _mm512_fmadd_ps(x[i], y, y);
        KEEP(x);
    }
    return TURNS * (double)CHAINS * 16 * 2;
}

__attribute__((target("avx512f,avx512bf16"))) static double dot_bf16_512(void) {
    enum { TURNS = 1000000 };
    __m512 x[CHAINS];
    __m512bh y = (__m512bh)_mm512_set1_epi16(0x3f00);
    for (int i = 0; i < CHAINS; i++) x[i] = _mm512_set1_ps((float)i);
    for (int t = 0; t < TURNS; t++) {
        for (int i = 0; i < CHAINS; i++) x[i] = _mm512_dpbf16_ps(x[i], y, y);
        KEEP(x);
    }
    return TURNS * (double)CHAINS * 32 * 2;
}

__attribute__((target("amx-tile,amx-bf16"))) static double dot_bf16_tiles(void) {
    enum { TURNS = 1000000 };
    /* Static: GCC's _tile_loadconfig says that it reads 8 bytes of the 64, so stores to a local one may be dropped. */
    static const struct {
        uint8_t palette, reserved[15];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, {0}, {64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int t = 0; t < TURNS; t++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return TURNS * 4.0 * 16 * 16 * 32 * 2;
}

static Loop *fp32_loop(const CpuInfo *cpu) { return cpu->avx512 ? fma_512 : cpu->avx2_fma ? fma_256 : NULL; }
static Loop *bf16_loop(const CpuInfo *cpu) { return cpu->avx512_bf16 ? dot_bf16_512 : NULL; }
static Loop *tile_loop(const CpuInfo *cpu) { return cpu->amx_bf16 ? dot_bf16_tiles : NULL; }
#else
static Loop *fp32_loop(const CpuInfo *cpu) { return (void)cpu, NULL; }
static Loop *bf16_loop(const CpuInfo *cpu) { return (void)cpu, NULL; }
static Loop *tile_loop(const CpuInfo *cpu) { return (void)cpu, NULL; }
#endif

static double loop_rate(Loop *loop) {
    double best = 0;
    for (int pass = 0; loop && pass < PASSES; pass++) {
        double done = 0, start = clock_seconds();
#pragma omp parallel reduction(+ : done)
        done += loop();
        double rate = done / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

/* Values in [-0.5, 0.5): neither zeros nor denormals, which have a speed of their own. */
static void fill(void *matrix, DType type, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = (float)((uint64_t)i * 2654435761u >> 20 & 255) / 256.0f - 0.5f;
        if (type == DTYPE_F32) ((float *)matrix)[i] = x;
        else ((uint16_t *)matrix)[i] = f32_to_bf16(x);
    }
}

/* The product of GPT-2's first MLP layer. */
static Status gemm_rate(DType type, double *rate) {
    Status st = TANE_OK;
    Gemm g = {.m = 4096, .n = 3072, .k = 768, .type = type, .out_type = type, .trans_b = true,
              .lda = 768, .ldb = 768, .ldc = 3072};
    char *a = NULL, *b = NULL, *c = NULL, *scratch = NULL;
    double best = 0;
    TRY(mem_new((void **)&a, (size_t)(g.m * g.k), dtype_size(type)));
    TRY(mem_new((void **)&b, (size_t)(g.n * g.k), dtype_size(type)));
    TRY(mem_new((void **)&c, (size_t)(g.m * g.n), dtype_size(type)));
    TRY(mem_new((void **)&scratch, gemm_scratch(&g, omp_get_max_threads()), 1));
    fill(a, type, g.m * g.k);
    fill(b, type, g.n * g.k);
    for (int pass = 0; pass < 4 * PASSES; pass++) {
        double start = clock_seconds();
        TRY(gemm_run(&g, a, b, c, NULL, scratch));
        double now = 2.0 * (double)g.m * (double)g.n * (double)g.k / (clock_seconds() - start);
        if (now > best) best = now;
    }
    *rate = best;
out:
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(scratch);
    return st;
}

int main(int argc, char **argv) {
    const CpuInfo *cpu = cpu_info();
    int threads = argc > 1 ? atoi(argv[1]) : cpu->cores;
    double gemm_bf16, gemm_fp32, copy;
    Status st = TANE_OK;
    omp_set_num_threads(threads < 1 ? 1 : threads);
    TRY(gemm_rate(DTYPE_BF16, &gemm_bf16));
    TRY(gemm_rate(DTYPE_F32, &gemm_fp32));
    TRY(measure_memory(&copy));
    printf("{\"event\": \"peak\", \"cpu\": \"%s\", \"threads\": %d, ", cpu->model, omp_get_max_threads());
    printf("\"bf16_tiles\": %.4g, ", loop_rate(tile_loop(cpu)));
    printf("\"bf16_vectors\": %.4g, ", loop_rate(bf16_loop(cpu)));
    printf("\"fp32_vectors\": %.4g, ", loop_rate(fp32_loop(cpu)));
    printf("\"gemm_bf16\": %.4g, \"gemm_fp32\": %.4g, \"gemm_backend\": \"%s\", \"copy\": %.4g}\n", gemm_bf16,
           gemm_fp32, gemm_backend(DTYPE_BF16), copy);
out:
    if (st != TANE_OK) fprintf(stderr, "peak: %s\n", err_message());
    gemm_shutdown();
    return st != TANE_OK;
}
