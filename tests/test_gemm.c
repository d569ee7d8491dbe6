/* Matrix products against double precision: every flag, odd, tiny and real shapes, each backend this machine has.
 *
 * Each matrix ends (or begins) at a page that can't be touched, so that one element read or written outside is a crash,
 * and the gap between the width and the leading dimension holds a pattern that must survive.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "device/gemm_backend.h"
#include "support.h"

typedef struct Matrix {
    int64_t rows, cols, ld;
    DType type;
    uint8_t *map, *data;
    size_t map_size, size;
} Matrix;

static Rng rng = {.key = 20261122};

static const uint16_t PATTERN = 0x7fa5; /* a NaN in bf16, and twice of it a NaN in fp32 */

static double get(const Matrix *m, int64_t i, int64_t j) {
    int64_t at = i * m->ld + j;
    return m->type == DTYPE_F32 ? (double)((float *)m->data)[at] : (double)bf16_to_f32(((uint16_t *)m->data)[at]);
}

static void put(Matrix *m, int64_t i, int64_t j, float x) {
    int64_t at = i * m->ld + j;
    if (m->type == DTYPE_F32) ((float *)m->data)[at] = x;
    else ((uint16_t *)m->data)[at] = f32_to_bf16(x);
}

/* Random values between -1 and 1 and the pattern in the gaps; no byte is accessible past one of the two ends. */
static Matrix matrix(int64_t rows, int64_t cols, int64_t ld, DType type) {
    Matrix m = {.rows = rows, .cols = cols, .ld = ld, .type = type};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    m.size = rows && cols ? (size_t)((rows - 1) * ld + cols) * dtype_size(type) : 0;
    size_t inner = (m.size + page - 1) / page * page;
    m.map_size = inner + 2 * page;
    m.map = mmap(NULL, m.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m.map != MAP_FAILED);
    if (inner) assert_int_equal(mprotect(m.map + page, inner, PROT_READ | PROT_WRITE), 0);
    m.data = m.map + page + (rng_below(&rng, 4) ? inner - m.size : 0);
    for (size_t i = 0; i < m.size / 2; i++) ((uint16_t *)m.data)[i] = PATTERN;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) put(&m, i, j, rng_u01(rng_next(&rng)) * 2 - 1);
    return m;
}

static void matrix_free(Matrix *m) { munmap(m->map, m->map_size); }

static bool gaps_intact(const Matrix *m) {
    int64_t per = (int64_t)dtype_size(m->type) / 2;
    for (int64_t i = 0; m->size && i + 1 < m->rows; i++)
        for (int64_t at = (i * m->ld + m->cols) * per; at < (i + 1) * m->ld * per; at++)
            if (((uint16_t *)m->data)[at] != PATTERN) return false;
    return true;
}

typedef struct Case {
    Gemm g;
    Matrix a, b, c, before, bias;
} Case;

static Case case_new(Gemm g) {
    Case t = {.g = g};
    t.a = matrix(g.trans_a ? g.k : g.m, g.trans_a ? g.m : g.k, g.lda, g.type);
    t.b = matrix(g.trans_b ? g.n : g.k, g.trans_b ? g.k : g.n, g.ldb, g.type);
    t.c = matrix(g.m, g.n, g.ldc, g.out_type);
    t.before = matrix(g.m, g.n, g.ldc, g.out_type);
    if (t.c.size) memcpy(t.before.data, t.c.data, t.c.size);
    t.bias = matrix(1, g.n, g.n, g.type);
    return t;
}

static void case_free(Case *t) {
    matrix_free(&t->a);
    matrix_free(&t->b);
    matrix_free(&t->c);
    matrix_free(&t->before);
    matrix_free(&t->bias);
}

static Status case_run(const GemmBackend *backend, Case *t, void *scratch) {
    return gemm_run_on(backend, &t->g, t->a.data, t->b.data, t->c.data, t->g.bias ? t->bias.data : NULL, scratch);
}

/* NULL when rows i0, i0 + step, ... are right, else what is wrong. */
static const char *case_check(const Case *t, int64_t step, char *text, size_t size) {
    const Gemm *g = &t->g;
    if (!gaps_intact(&t->c)) return "a gap between rows of C was written";
    if (!gaps_intact(&t->a) || !gaps_intact(&t->b)) return "an operand was written";
    for (int64_t i = 0; i < g->m; i = i + step < g->m || i == g->m - 1 ? i + step : g->m - 1)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, magnitude = 0;
            for (int64_t p = 0; p < g->k; p++) {
                double x = g->trans_a ? get(&t->a, p, i) : get(&t->a, i, p);
                x *= g->trans_b ? get(&t->b, j, p) : get(&t->b, p, j);
                sum += x;
                magnitude += fabs(x);
            }
            if (g->bias) sum += get(&t->bias, 0, j), magnitude += fabs(get(&t->bias, 0, j));
            if (g->accumulate) sum += get(&t->before, i, j), magnitude += fabs(get(&t->before, i, j));
            /* fp32 accumulation in any order, then at most one rounding to the type of C. */
            double bound = magnitude * 0x1p-20 + (g->out_type == DTYPE_BF16 ? fabs(sum) * 0x1.01p-8 : 0);
            double got = get(&t->c, i, j);
            if (!(fabs(got - sum) <= bound)) {
                snprintf(text, size, "C[%lld][%lld] is %.9g instead of %.9g", (long long)i, (long long)j, got, sum);
                return text;
            }
        }
    return NULL;
}

static void describe(const GemmBackend *backend, const Gemm *g, const char *wrong) {
    print_error("%s: m %lld n %lld k %lld %s->%s ta %d tb %d acc %d bias %d ld %lld %lld %lld: %s\n",
                backend->name(g->type), (long long)g->m, (long long)g->n, (long long)g->k, dtype_name(g->type),
                dtype_name(g->out_type), g->trans_a, g->trans_b, g->accumulate, g->bias, (long long)g->lda,
                (long long)g->ldb, (long long)g->ldc, wrong);
}

static void *scratch_new(const GemmBackend *backend, const Gemm *g, int threads) {
    void *scratch;
    size_t size = g->m && g->n && g->k ? backend->scratch(g, threads) : 0;
    assert_int_equal(mem_new(&scratch, size, 1), TANE_OK);
    memset(scratch, 0xff, size); /* NaN */
    return scratch;
}

static void run_and_check(const GemmBackend *backend, Gemm g, int64_t step) {
    Case t = case_new(g);
    char text[160];
    void *scratch = scratch_new(backend, &g, omp_get_max_threads());
    Status st = case_run(backend, &t, scratch);
    const char *wrong = st == TANE_OK ? case_check(&t, step, text, sizeof text) : err_message();
    if (wrong) describe(backend, &g, wrong);
    mem_free(scratch);
    case_free(&t);
    assert_null(wrong);
}

enum { FLAG_TRANS_A = 1, FLAG_TRANS_B = 2, FLAG_ACCUMULATE = 4, FLAG_BIAS = 8, FLAG_BF16 = 16, FLAG_BF16_OUT = 32 };

static Gemm product(int64_t m, int64_t n, int64_t k, int flags, int gap) {
    Gemm g = {.m = m, .n = n, .k = k};
    g.type = flags & FLAG_BF16 ? DTYPE_BF16 : DTYPE_F32;
    g.out_type = flags & FLAG_BF16_OUT ? DTYPE_BF16 : DTYPE_F32;
    g.trans_a = flags & FLAG_TRANS_A;
    g.trans_b = flags & FLAG_TRANS_B;
    g.accumulate = flags & FLAG_ACCUMULATE;
    g.bias = flags & FLAG_BIAS;
    g.lda = (g.trans_a ? m : k) + (int64_t)rng_below(&rng, (uint64_t)gap + 1);
    g.ldb = (g.trans_b ? k : n) + (int64_t)rng_below(&rng, (uint64_t)gap + 1);
    g.ldc = n + (int64_t)rng_below(&rng, (uint64_t)gap + 1);
    return g;
}

/* Backends that can do the type here; the number of them. */
static int available(DType type, const GemmBackend *out[2]) {
    int n = 0;
    if (gemm_amx.supports(type)) out[n++] = &gemm_amx;
    out[n++] = &gemm_dnnl;
    return n;
}

static void every_flag(int64_t m, int64_t n, int64_t k, int gap) {
    for (int flags = 0; flags < 64; flags++) {
        if ((flags & FLAG_BF16_OUT) && !(flags & FLAG_BF16)) continue;
        Gemm g = product(m, n, k, flags, gap);
        const GemmBackend *backend[2];
        for (int i = available(g.type, backend); i-- > 0;) run_and_check(backend[i], g, 1);
    }
}

static void test_every_flag(void **state) {
    (void)state;
    static const int shape[][3] = {{1, 1, 1},    {1, 1, 2},    {2, 3, 1},     {16, 16, 32},  {32, 32, 32}, {17, 33, 31},
                                   {31, 15, 65}, {1, 100, 64}, {100, 1, 130}, {65, 127, 96}, {0, 5, 3},    {5, 0, 3},
                                   {5, 7, 0},    {0, 0, 0},    {48, 64, 33}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        every_flag(shape[i][0], shape[i][1], shape[i][2], i % 2 ? 9 : 0);
}

static void test_random_shapes(void **state) {
    (void)state;
    for (int i = 0; i < test_rounds(400); i++) {
        int64_t m = 1 + (int64_t)rng_below(&rng, 90), n = 1 + (int64_t)rng_below(&rng, 150);
        int64_t k = 1 + (int64_t)rng_below(&rng, i % 8 ? 200 : 2500);
        int flags = (int)rng_below(&rng, 16) | FLAG_BF16 | (rng_below(&rng, 2) ? FLAG_BF16_OUT : 0);
        if (i % 4 == 0) flags &= 15;
        Gemm g = product(m, n, k, flags, i % 3 * 20);
        const GemmBackend *backend[2];
        int count = available(g.type, backend);
        run_and_check(backend[i % 8 ? 0 : count - 1], g, i % 8 ? 1 : 13);
    }
}

/* The layers of real models; a few rows of each are checked. */
static void test_real_shapes(void **state) {
    (void)state;
    static const int shape[][3] = {{1024, 2304, 768}, {1030, 768, 3072}, {128, 512, 2048}, {1024, 512, 2048},
                                   {8, 5000, 768},    {2100, 530, 520},  {512, 512, 4100}};
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int flags = 0; flags < 4; flags++) {
            int more = flags == 1 ? FLAG_ACCUMULATE : flags == 2 ? FLAG_BIAS | FLAG_BF16_OUT : FLAG_BF16_OUT;
            Gemm g = product(shape[i][0], shape[i][1], shape[i][2], flags | FLAG_BF16 | more, 0);
            const GemmBackend *backend[2];
            for (int b = available(g.type, backend); b-- > 0;) run_and_check(backend[b], g, 401);
        }
    run_and_check(&gemm_dnnl, product(512, 768, 768, FLAG_TRANS_B | FLAG_BIAS, 0), 101);
}

/* A row of C has the same bits whatever M is, wherever the row stands, and with any number of threads. */
static void test_row_invariance(void **state) {
    (void)state;
    if (!gemm_amx.supports(DTYPE_BF16)) skip();
    static const int shape[][2] = {{512, 512}, {300, 1000}, {70, 5000}, {2304, 768}, {64, 64}};
    static const int rows[] = {1, 7, 33, 128, 1000};
    int threads = omp_get_max_threads();
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int trans = 0; trans < 4; trans++) {
            Gemm g = product(1000, shape[s][0], shape[s][1], trans | FLAG_BF16 | FLAG_BIAS, 0);
            Case t = case_new(g);
            void *scratch = scratch_new(&gemm_amx, &g, 4);
            assert_int_equal(case_run(&gemm_amx, &t, scratch), TANE_OK);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                Gemm part = g;
                part.m = rows[r];
                int64_t first = (int64_t)rng_below(&rng, (uint64_t)(g.m - part.m) + 1);
                const uint16_t *a = (uint16_t *)t.a.data + (g.trans_a ? first : first * g.lda);
                omp_set_num_threads(1 + (int)(r + s) % 4);
                Status st = gemm_run_on(&gemm_amx, &part, a, t.b.data, t.before.data, t.bias.data, scratch);
                omp_set_num_threads(threads);
                assert_int_equal(st, TANE_OK);
                assert_memory_equal(t.before.data, (float *)t.c.data + first * g.ldc, (size_t)(part.m * g.n) * 4);
            }
            mem_free(scratch);
            case_free(&t);
        }
}

/* Attention's products: many small ones, each on the thread that asks for it. */
static void test_inside_a_parallel_region(void **state) {
    (void)state;
    enum { JOBS = 24 };
    static const int shape[][3] = {{128, 512, 64}, {128, 64, 512}, {37, 90, 64}};
    const GemmBackend *backend[2];
    for (int b = available(DTYPE_BF16, backend); b-- > 0;) {
        Case t[JOBS];
        void *scratch[JOBS];
        Status st[JOBS];
        for (int i = 0; i < JOBS; i++) {
            const int *s = shape[i % 3];
            t[i] = case_new(product(s[0], s[1], s[2], FLAG_BF16 | (i % 3 ? FLAG_BF16_OUT : FLAG_TRANS_B), i));
            scratch[i] = scratch_new(backend[b], &t[i].g, 1);
        }
#pragma omp parallel for num_threads(4) schedule(dynamic, 1)
        for (int i = 0; i < JOBS; i++) st[i] = case_run(backend[b], &t[i], scratch[i]);
        for (int i = 0; i < JOBS; i++) {
            char text[160];
            assert_int_equal(st[i], TANE_OK);
            const char *wrong = case_check(&t[i], 1, text, sizeof text);
            if (wrong) describe(backend[b], &t[i].g, wrong);
            assert_null(wrong);
            mem_free(scratch[i]);
            case_free(&t[i]);
        }
    }
}

/* More shapes than the table of primitives has slots, twice, and across a shutdown. */
static void test_many_shapes(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i <= 300; i++) run_and_check(&gemm_dnnl, product(1 + i % 3, i, 5, FLAG_TRANS_B, 0), 1);
        gemm_shutdown();
    }
}

static void test_scratch_grows_with_m(void **state) {
    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        size_t last = 0;
        for (int64_t m = 0; m < 3000; m += 1 + m / 7) {
            Gemm g = product(m, 1000, 700, flags | FLAG_BF16, 0);
            size_t size = gemm_scratch(&g, 2);
            assert_true(size >= last);
            last = size;
        }
    }
}

static void test_wrong_arguments(void **state) {
    (void)state;
    float x[4] = {0};
    Gemm g = product(2, 2, 2, 0, 0), bad;
#define REFUSED(change)                                                                                                \
    bad = g;                                                                                                           \
    change;                                                                                                            \
    assert_int_equal(gemm_run(&bad, x, x, x, x, NULL), TANE_EINTERNAL)
    REFUSED(bad.m = -1);
    REFUSED(bad.lda = 1);
    REFUSED(bad.ldb = 1);
    REFUSED(bad.ldc = 1);
    REFUSED(bad.out_type = DTYPE_BF16);
    REFUSED(bad.type = DTYPE_F16);
    assert_int_equal(gemm_run(&g, x, NULL, x, x, NULL), TANE_EINTERNAL);
    g.bias = true;
    assert_int_equal(gemm_run(&g, x, x, x, NULL, NULL), TANE_EINTERNAL);
    assert_int_equal(gemm_run(&g, x, x, x, x, NULL), TANE_OK);
}

static void test_backend_names(void **state) {
    (void)state;
    print_message("fp32: %s; bf16: %s; bf16 is %s\n", gemm_backend(DTYPE_F32), gemm_backend(DTYPE_BF16),
                  gemm_bf16_is_fast() ? "fast" : "not fast");
    assert_string_equal(gemm_backend(DTYPE_F32), gemm_dnnl.name(DTYPE_F32));
    if (gemm_amx.supports(DTYPE_BF16)) assert_string_equal(gemm_backend(DTYPE_BF16), "amx-bf16");
}

/* The loss and attention plan their scratch for the largest product and then run smaller ones, in n and k too. */
static void test_scratch_serves_smaller_products(void **state) {
    (void)state;
    Gemm most[] = {
        {.m = 32, .n = 256, .k = 2048, .out_type = DTYPE_F32, .trans_a = true},    /* dw of the loss: k = rows with a label */
        {.m = 32, .n = 4096, .k = 1024, .out_type = DTYPE_F32, .trans_a = true},
        {.m = 50304, .n = 768, .k = 640, .out_type = DTYPE_F32, .trans_a = true},
        {.m = 128, .n = 256, .k = 4096, .out_type = DTYPE_BF16},                   /* attention: k = keys seen */
        {.m = 128, .n = 4096, .k = 64, .out_type = DTYPE_F32, .trans_b = true},    /* n = keys seen */
        {.m = 4096, .n = 128, .k = 128, .out_type = DTYPE_F32, .trans_a = true},
    };
    for (size_t i = 0; i < sizeof most / sizeof *most; i++)
        for (int threads = 1; threads <= 64; threads *= 4) {
            Gemm g = most[i];
            g.type = DTYPE_BF16;
            g.lda = g.ldb = g.ldc = 50304;
            size_t planned = gemm_scratch(&g, threads);
            for (Gemm s = g; s.k > 0; s.k -= s.k < 64 ? 1 : 31) assert_true(gemm_scratch(&s, threads) <= planned);
            for (Gemm s = g; s.n > 0; s.n -= s.n < 64 ? 1 : 31) assert_true(gemm_scratch(&s, threads) <= planned);
            for (Gemm s = g; s.m > 0; s.m -= s.m < 64 ? 1 : 31) assert_true(gemm_scratch(&s, threads) <= planned);
        }
}

static int shut_down(void **state) {
    (void)state;
    gemm_shutdown();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backend_names),        cmocka_unit_test(test_every_flag),
        cmocka_unit_test(test_random_shapes),        cmocka_unit_test(test_real_shapes),
        cmocka_unit_test(test_row_invariance),       cmocka_unit_test(test_inside_a_parallel_region),
        cmocka_unit_test(test_many_shapes),          cmocka_unit_test(test_scratch_grows_with_m),
        cmocka_unit_test(test_wrong_arguments),      cmocka_unit_test(test_scratch_serves_smaller_products),
    };
    return cmocka_run_group_tests(tests, NULL, shut_down);
}
