/* bf16 products on Intel AMX tiles (Sapphire Rapids and later), with fp32 accumulation.
 *
 * The tile unit multiplies 16 rows of A by 16 columns of B over 32 values of k in 16 cycles: 1024 flops a cycle. A
 * 32 x 32 block of C lives in four tiles; a step over 32 values of k loads two tiles of A and two of B and multiplies
 * four times. What it takes to keep that fed, measured (docs/speed.md):
 *   - One of the operands must come from L1: L2 gives about half of the 64 bytes a cycle that both would need. So the
 *     panel of B, 32 columns by at most 768 of k (48 KB), is used for all rows of a block of A before the next one.
 *   - A is read with the "streaming" tile load, which leaves the panel of B in L1 alone. A row-major A needs no copy.
 *   - The results of a block leave through a buffer while the next block is multiplied: two rows a step.
 *
 * Nest:  groups of k (only fp32 results: these can add up in C), chunks of B packed by all threads together,
 *        then each thread on its rows: blocks of A that stay in L2 / panels of B / blocks of k / panels of A.
 * When A is small every thread takes columns instead and packs its own panel of B just before use. When M <= 32 and B is
 * stored (N, K) the operands change places, so that B is read as it lies: tokens are generated at the speed of memory.
 *
 * The sum over k: within a block of k as the tile unit does it, then block by block; blocks depend on K alone. So a row
 * of C depends only on its row of A and on B. The tile unit flushes denormals (bf16 inputs and fp32 sums) to zero.
 */
#include "device/gemm_backend.h"

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)

#include <cpuid.h>
#include <immintrin.h>
#include <omp.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define AMX_INLINE AMX static inline __attribute__((always_inline))

enum {
    TILE = 16,             /* rows of a tile, and columns of fp32 */
    STEP = 32,             /* values of k in a tile */
    PANEL = 32,            /* rows of A, or columns of B, worked on at a time */
    STEP_BYTES = 2048,     /* of a packed panel: two tiles */
    BLOCK_STEPS = 24,      /* of k at most between two trips of the sums to memory: 48 KB of B */
    GROUP_STEPS = 64,      /* of k in a group */
    A_BYTES = 1280 * 1024, /* of a block of A, to stay in a 2 MB L2 */
    B_BYTES = 8 << 20,     /* of B packed at a time */
};

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- Is the unit there, and may we use it? ---- */

static pthread_once_t probe_once = PTHREAD_ONCE_INIT;
static bool usable;

static uint64_t read_xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static void probe(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const uint32_t avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, amx_bf16_tile = 1u << 22 | 1u << 24;
    const uint64_t state = 3u << 17 | 7u << 5 | 3u << 1; /* tiles, AVX-512, AVX: saved by the system */
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) return; /* xgetbv itself */
    if ((read_xcr0() & state) != state) return;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    if ((b & avx512_f_dq_bw_vl) != avx512_f_dq_bw_vl || (d & amx_bf16_tile) != amx_bf16_tile) return;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return; /* AVX512_BF16 */
    usable = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static bool supports(DType type) {
    pthread_once(&probe_once, probe);
    return usable && type == DTYPE_BF16;
}

/* ---- Packing ---- */

/* 16 x 16 words of 32 bits. Loading four rows by quarters spares half of the shuffles. */
AMX_INLINE void transpose16(const void *src, int64_t src_stride, void *dst, int64_t dst_stride) {
    for (int quarter = 0; quarter < 4; quarter++) {
        __m512i r[4];
        for (int i = 0; i < 4; i++) {
            const char *p = (const char *)src + i * src_stride + quarter * 16;
            __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
            x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 4 * src_stride)), 1);
            x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 8 * src_stride)), 2);
            r[i] = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 12 * src_stride)), 3);
        }
        __m512i ab_lo = _mm512_unpacklo_epi32(r[0], r[1]), ab_hi = _mm512_unpackhi_epi32(r[0], r[1]);
        __m512i cd_lo = _mm512_unpacklo_epi32(r[2], r[3]), cd_hi = _mm512_unpackhi_epi32(r[2], r[3]);
        char *out = (char *)dst + quarter * 4 * dst_stride;
        _mm512_storeu_si512(out, _mm512_unpacklo_epi64(ab_lo, cd_lo));
        _mm512_storeu_si512(out + dst_stride, _mm512_unpackhi_epi64(ab_lo, cd_lo));
        _mm512_storeu_si512(out + 2 * dst_stride, _mm512_unpacklo_epi64(ab_hi, cd_hi));
        _mm512_storeu_si512(out + 3 * dst_stride, _mm512_unpackhi_epi64(ab_hi, cd_hi));
    }
}

/* Up to 16 rows of up to 32 values, zero-filled to a tile (64 bytes a row). */
AMX_INLINE void copy_tile(const uint16_t *src, int64_t ld, int64_t rows, int64_t cols, uint16_t *dst) {
    __mmask32 mask = cols >= STEP ? ~0u : cols <= 0 ? 0 : (1u << cols) - 1;
    for (int64_t i = 0; i < TILE; i++) {
        __m512i x = i < rows ? _mm512_maskz_loadu_epi16(mask, src + i * ld) : _mm512_setzero_si512();
        _mm512_store_si512(dst + i * STEP, x);
    }
}

/* Rows of k, up to 32 of them and up to 32 wide, into two tiles of pairs: pairs (k, k + 1) of column j side by side. */
AMX_INLINE void pack_pairs(const uint16_t *src, int64_t ld, int64_t k, int64_t cols, uint16_t *dst) {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); /* so that unpacking leaves columns in order */
    __mmask32 mask = cols >= PANEL ? ~0u : (1u << cols) - 1;
    for (int64_t i = 0; i < STEP; i += 2) {
        __m512i x = i < k ? _mm512_maskz_loadu_epi16(mask, src + i * ld) : _mm512_setzero_si512();
        __m512i y = i + 1 < k ? _mm512_maskz_loadu_epi16(mask, src + (i + 1) * ld) : _mm512_setzero_si512();
        x = _mm512_permutexvar_epi64(order, x);
        y = _mm512_permutexvar_epi64(order, y);
        _mm512_store_si512(dst + i * TILE, _mm512_unpacklo_epi16(x, y));
        _mm512_store_si512(dst + TILE * STEP + i * TILE, _mm512_unpackhi_epi16(x, y));
    }
}

/* Step `step` of the panel of B that begins at column n0. */
AMX static void pack_b(const Gemm *g, const uint16_t *b, int64_t n0, int64_t step, uint16_t *dst) {
    int64_t k0 = step * STEP, cols = min64(PANEL, g->n - n0), k = min64(STEP, g->k - k0);
    if (!g->trans_b) {
        pack_pairs(b + k0 * g->ldb + n0, g->ldb, k, cols, dst);
        return;
    }
    for (int64_t j = 0; j < PANEL; j += TILE, dst += TILE * STEP) {
        const uint16_t *src = b + (n0 + j) * g->ldb + k0;
        if (cols - j >= TILE && k == STEP) {
            transpose16(src, g->ldb * 2, dst, 64);
        } else if (cols > j) {
            _Alignas(64) uint16_t tile[TILE * STEP];
            copy_tile(src, g->ldb, cols - j, k, tile);
            transpose16(tile, 64, dst, 64);
        }
    }
}

/* The same for A stored (K, M): tiles of 16 rows. */
AMX static void pack_a_transposed(const Gemm *g, const uint16_t *a, int64_t m0, int64_t step, uint16_t *dst) {
    _Alignas(64) uint16_t pairs[2 * TILE * STEP];
    int64_t k0 = step * STEP;
    pack_pairs(a + k0 * g->lda + m0, g->lda, min64(STEP, g->k - k0), min64(PANEL, g->m - m0), pairs);
    transpose16(pairs, 64, dst, 64);
    transpose16(pairs + TILE * STEP, 64, dst + TILE * STEP, 64);
}

/* ---- Results on their way from the tiles to C ---- */

typedef struct Result {
    _Alignas(64) float sum[PANEL * PANEL];
    float bias[PANEL];
    const float *add; /* sums of earlier blocks of k, or C */
    int64_t add_ld;   /* 0 when add points to zeros */
    void *dst;
    int64_t ld;
    int row, rows;    /* rows from..to are still to be written */
    uint32_t columns; /* a bit for each column that is */
    bool narrow;      /* dst is bf16 */
    bool accumulate;  /* ... and is added to */
} Result;

AMX_INLINE void result_row(const Result *r, int64_t i) {
    __mmask16 low = (__mmask16)r->columns, high = (__mmask16)(r->columns >> 16);
    const float *sum = r->sum + i * PANEL, *add = r->add + i * r->add_ld;
    __m512 x = _mm512_add_ps(_mm512_load_ps(sum), _mm512_load_ps(r->bias));
    __m512 y = _mm512_add_ps(_mm512_load_ps(sum + TILE), _mm512_load_ps(r->bias + TILE));
    x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(low, add));
    y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(high, add + TILE));
    if (!r->narrow) {
        float *dst = (float *)r->dst + i * r->ld;
        _mm512_mask_storeu_ps(dst, low, x);
        _mm512_mask_storeu_ps(dst + TILE, high, y);
        return;
    }
    uint16_t *dst = (uint16_t *)r->dst + i * r->ld;
    if (r->accumulate) {
        __m512i old = _mm512_maskz_loadu_epi16(r->columns, dst);
        __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(old));
        __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(old, 1));
        x = _mm512_add_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(first, 16)));
        y = _mm512_add_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(second, 16)));
    }
    _mm512_mask_storeu_epi16(dst, r->columns, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}

AMX_INLINE void result_rows(Result *r, int count) {
    int to = r->row + count < r->rows ? r->row + count : r->rows;
    for (int i = r->row; i < to; i++) result_row(r, i);
    r->row = to;
}

/* ---- The kernel ---- */

typedef struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* Where a panel of A lies: packed, or in the matrix, then with its last, partial step aside. */
typedef struct PanelA {
    const char *data;
    int64_t stride, second, step; /* bytes between rows, to the second tile, and between steps */
    const char *tail;             /* the last step when K is no multiple of 32: two tiles, 64 bytes a row */
} PanelA;

/* Tiles: 0 1 / 2 3 sums, 4 5 of A, 6 7 of B. */
#define MULTIPLY(load_a, a, stride, second, b)                                                                         \
    do {                                                                                                               \
        load_a(4, (a), (stride));                                                                                      \
        _tile_loadd(6, (b), 64);                                                                                       \
        if (tiles_n == 2) _tile_loadd(7, (b) + 1024, 64);                                                              \
        if (tiles_m == 2) load_a(5, (a) + (second), (stride));                                                         \
        _tile_dpbf16ps(0, 4, 6);                                                                                       \
        if (tiles_n == 2) _tile_dpbf16ps(1, 4, 7);                                                                     \
        if (tiles_m == 2) _tile_dpbf16ps(2, 5, 6);                                                                     \
        if (tiles_m == 2 && tiles_n == 2) _tile_dpbf16ps(3, 5, 7);                                                     \
    } while (0)

/* out->sum = panel of A times `steps` steps of a packed panel of B. Meanwhile writes what is left of `before`. */
AMX_INLINE void multiply_block(const int tiles_m, const int tiles_n, const PanelA *a, const char *b, int64_t steps,
                               Result *out, Result *before) {
    __asm__ volatile("" ::: "memory"); /* compilers may take tile loads for no reads: packing is before them */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const char *pa = a->data;
    int64_t whole = a->tail ? steps - 1 : steps, s = 0;
    int rows = steps >= 16 ? 2 : 4;
    for (; s < whole && before->row < before->rows; s++, pa += a->step, b += STEP_BYTES) {
        MULTIPLY(_tile_stream_loadd, pa, a->stride, a->second, b);
        result_rows(before, rows);
    }
    for (; s < whole; s++, pa += a->step, b += STEP_BYTES) MULTIPLY(_tile_stream_loadd, pa, a->stride, a->second, b);
    if (a->tail) MULTIPLY(_tile_loadd, a->tail, 64, 1024, b);
    result_rows(before, PANEL);
    _tile_stored(0, out->sum, 128);
    if (tiles_n == 2) _tile_stored(1, out->sum + TILE, 128);
    if (tiles_m == 2) _tile_stored(2, out->sum + TILE * PANEL, 128);
    if (tiles_m == 2 && tiles_n == 2) _tile_stored(3, out->sum + TILE * PANEL + TILE, 128);
}

AMX static void multiply(int tiles_m, int tiles_n, const PanelA *a, const char *b, int64_t steps, Result *out,
                         Result *before) {
    if (tiles_m == 2 && tiles_n == 2) multiply_block(2, 2, a, b, steps, out, before);
    else if (tiles_m == 2) multiply_block(2, 1, a, b, steps, out, before);
    else if (tiles_n == 2) multiply_block(1, 2, a, b, steps, out, before);
    else multiply_block(1, 1, a, b, steps, out, before);
}

/* ---- Plan: how a product is cut ---- */

typedef struct Plan {
    Gemm g; /* operands exchanged when `swapped` */
    const uint16_t *a, *b, *bias;
    void *c;
    bool swapped;      /* g computes the transpose of C */
    bool private_b;    /* threads take columns, each packs its own panels */
    int64_t steps;     /* of k */
    int64_t block;     /* steps a block of k */
    int64_t group;     /* steps a group, a multiple of `block` */
    int64_t panels_m, panels_n;
    int64_t block_m;   /* panels of A in a block */
    int64_t chunk_n;   /* panels of B packed at a time */
    int threads;
    uint8_t *packed_b; /* shared; a panel for each thread when private_b */
    uint8_t *own;      /* `own_bytes` for each thread */
    size_t own_bytes;
} Plan;

/* A thread's part of the scratch memory. */
typedef struct Worker {
    Result result[2];
    float zeros[PANEL];
    int turn;       /* result[turn] is the one to fill next */
    float *partial; /* sums of a block of A by one panel of B, between blocks of k */
    char *packed_a; /* a block of A, or the last steps of its panels */
} Worker;

/* How K is cut: by K and the type of C alone. */
static void plan_k(Plan *p) {
    p->steps = ceil_div(p->g.k, STEP);
    p->block = ceil_div(p->steps, ceil_div(p->steps, BLOCK_STEPS));
    p->group = p->g.out_type == DTYPE_F32 ? GROUP_STEPS / p->block * p->block : p->steps;
    p->group = min64(p->group, ceil_div(p->steps, p->block) * p->block);
}

static int64_t block_m_limit(const Plan *p) { return max64(2, A_BYTES / (p->group * STEP_BYTES)); }

/* A bound for every m up to g->m: the shape may also run with its operands exchanged. */
static void plan_memory(Plan *p, const Gemm *g, int threads) {
    int64_t panels_m = ceil_div(g->m, PANEL), panels_n = ceil_div(g->n, PANEL);
    int64_t rows = min64(max64(panels_m, panels_n), block_m_limit(p));
    int64_t packed_a = g->trans_a ? p->group * STEP_BYTES : STEP_BYTES;
    size_t own = sizeof(Worker) + (size_t)rows * (size_t)(packed_a + PANEL * PANEL * (int64_t)sizeof(float));
    p->own_bytes = (own + 4095) & ~(size_t)4095;
    p->chunk_n = max64(1, min64(panels_n, B_BYTES / (p->group * STEP_BYTES)));
    p->chunk_n = max64(p->chunk_n, threads);
}

static size_t scratch(const Gemm *g, int threads) {
    Plan p = {.g = *g};
    plan_k(&p);
    plan_memory(&p, g, threads);
    return (size_t)(p.chunk_n * p.group) * STEP_BYTES + (size_t)threads * p.own_bytes;
}

/* Starting the other threads costs some microseconds. */
static bool worth_threads(const Gemm *g) {
    double flops = 2.0 * (double)g->m * (double)g->n * (double)g->k;
    double bytes = 2.0 * (double)g->k * (double)(g->m + g->n);
    return flops / 2e6 + bytes / 2e4 > 10; /* microseconds */
}

static Plan plan_make(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *memory) {
    Plan p = {.g = *g, .a = a, .b = b, .bias = bias, .c = c};
    plan_k(&p);
    p.threads = omp_get_level() == 0 && worth_threads(g) ? omp_get_max_threads() : 1;
    plan_memory(&p, g, p.threads);
    p.packed_b = memory;
    p.own = p.packed_b + (size_t)(p.chunk_n * p.group) * STEP_BYTES;
    p.swapped = g->m <= PANEL && g->trans_b && !g->trans_a;
    if (p.swapped) {
        p.a = b;
        p.b = a;
        p.g.m = g->n;
        p.g.n = g->m;
        p.g.lda = g->ldb;
        p.g.ldb = g->lda;
    }
    p.panels_m = ceil_div(p.g.m, PANEL);
    p.panels_n = ceil_div(p.g.n, PANEL);
    p.block_m = p.swapped ? 1 : min64(p.panels_m, block_m_limit(&p));
    bool alone = p.threads == 1;
    p.private_b = !p.swapped && p.panels_m <= p.block_m && (alone || (!g->trans_a && p.panels_n >= 2 * p.threads));
    return p;
}

/* ---- Work ---- */

/* The last panel of rows ends with the matrix and may overlap the one before, whose rows it does not write again. */
static int64_t panel_row(const Plan *p, int64_t panel) { return max64(0, min64(panel * PANEL, p->g.m - PANEL)); }

/* Copies what can't be used where it lies: all of a transposed A, or the partial last step. */
AMX static void prepare_a(const Plan *p, Worker *w, int64_t panel, int64_t panel_to, int64_t step, int64_t step_to) {
    const Gemm *g = &p->g;
    int64_t rest = g->k % STEP;
    if (g->trans_a) {
        uint16_t *dst = (uint16_t *)w->packed_a;
        for (; panel < panel_to; panel++)
            for (int64_t s = step; s < step_to; s++, dst += STEP_BYTES / 2)
                pack_a_transposed(g, p->a, panel_row(p, panel), s, dst);
    } else if (rest && step_to == p->steps) {
        uint16_t *dst = (uint16_t *)w->packed_a;
        for (; panel < panel_to; panel++, dst += STEP_BYTES / 2) {
            int64_t row = panel_row(p, panel), rows = min64(PANEL, g->m - row);
            const uint16_t *src = p->a + row * g->lda + g->k - rest;
            copy_tile(src, g->lda, rows, rest, dst);
            copy_tile(src + TILE * g->lda, g->lda, rows - TILE, rest, dst + TILE * STEP);
        }
    }
}

/* Steps step..step_to of a panel; the block of A begins with panel `first`, the group with step `group`. */
static PanelA panel_a(const Plan *p, const Worker *w, int64_t panel, int64_t first, int64_t step, int64_t step_to,
                      int64_t group) {
    const Gemm *g = &p->g;
    if (g->trans_a) {
        int64_t steps = min64(p->group, p->steps - group);
        const char *data = w->packed_a + ((panel - first) * steps + step - group) * STEP_BYTES;
        return (PanelA){data, 64, 1024, STEP_BYTES, NULL};
    }
    const char *data = (const char *)(p->a + panel_row(p, panel) * g->lda + step * STEP);
    bool tail = g->k % STEP && step_to == p->steps;
    return (PanelA){data, g->lda * 2, TILE * g->lda * 2, STEP * 2,
                    tail ? w->packed_a + (panel - first) * STEP_BYTES : NULL};
}

/* Says where the sums of a block go. The coordinates are those of C as stored. */
AMX static void direct(const Plan *p, Worker *w, Result *r, int64_t row, int64_t rows, int64_t skip_rows, int64_t col,
                       int64_t cols, int64_t skip_cols, float *partial, bool first, bool last) {
    const Gemm *g = &p->g;
    for (int64_t j = 0; j < PANEL; j++) r->bias[j] = p->bias && first && j < cols ? bf16_to_f32(p->bias[col + j]) : 0;
    r->row = (int)skip_rows;
    r->rows = (int)rows;
    r->columns = (cols == PANEL ? ~0u : (1u << cols) - 1) & (~0u << skip_cols);
    r->narrow = g->out_type == DTYPE_BF16 && last;
    r->accumulate = g->accumulate;
    bool add;
    if (g->out_type == DTYPE_F32) {
        r->dst = (float *)p->c + row * g->ldc + col;
        r->ld = g->ldc;
        add = g->accumulate || !first;
        r->add = r->dst;
    } else {
        r->dst = last ? (void *)((uint16_t *)p->c + row * g->ldc + col) : partial;
        r->ld = last ? g->ldc : PANEL;
        add = !first;
        r->add = partial;
    }
    r->add_ld = g->out_type == DTYPE_F32 ? g->ldc : PANEL;
    if (!add) {
        r->add = w->zeros;
        r->add_ld = 0;
    }
}

AMX static void multiply_panels(const Plan *p, Worker *w, const PanelA *a, const char *b, int64_t steps, int64_t pm,
                                int64_t pn, float *partial, bool first, bool last) {
    Result *r = &w->result[w->turn], *before = &w->result[!w->turn];
    int64_t row = panel_row(p, pm), rows = min64(PANEL, p->g.m), skip = pm * PANEL - row;
    int64_t col = pn * PANEL, cols = min64(PANEL, p->g.n - col);
    multiply(rows > TILE ? 2 : 1, cols > TILE ? 2 : 1, a, b, steps, r, before);
    if (p->swapped) {
        _Alignas(64) float t[PANEL * PANEL];
        for (int q = 0; q < 4; q++)
            transpose16(r->sum + (q / 2 * PANEL + q % 2) * TILE, 128, t + (q % 2 * PANEL + q / 2) * TILE, 128);
        memcpy(r->sum, t, sizeof t);
        direct(p, w, r, col, cols, 0, row, rows, skip, partial, first, last);
    } else {
        direct(p, w, r, row, rows, skip, col, cols, 0, partial, first, last);
    }
    w->turn = !w->turn;
}

/* Panels m..m_to by n..n_to over one group of k. `packed` begins with panel n. */
AMX static void work(const Plan *p, Worker *w, int64_t m, int64_t m_to, int64_t n, int64_t n_to, const uint8_t *packed,
                     int64_t group) {
    int64_t group_to = min64(group + p->group, p->steps);
    for (int64_t first = m; first < m_to; first += p->block_m) {
        int64_t end = min64(first + p->block_m, m_to);
        prepare_a(p, w, first, end, group, group_to);
        for (int64_t j = n; j < n_to; j++)
            for (int64_t s = group; s < group_to; s += p->block) {
                int64_t s_to = min64(s + p->block, group_to);
                const char *b = (const char *)packed + ((j - n) * (group_to - group) + s - group) * STEP_BYTES;
                for (int64_t i = first; i < end; i++) {
                    PanelA a = panel_a(p, w, i, first, s, s_to, group);
                    float *partial = w->partial + (i - first) * PANEL * PANEL;
                    multiply_panels(p, w, &a, b, s_to - s, i, j, partial, s == 0, s_to == p->steps);
                }
            }
    }
    result_rows(&w->result[!w->turn], PANEL);
}

/* This thread's share of packing the panels n..n_to of B. */
AMX static void pack_share(const Plan *p, int64_t n, int64_t n_to, int64_t group, int thread, int threads,
                           uint8_t *packed) {
    int64_t steps = min64(p->group, p->steps - group), units = (n_to - n) * steps;
    for (int64_t u = units * thread / threads; u < units * (thread + 1) / threads; u++)
        pack_b(&p->g, p->b, (n + u / steps) * PANEL, group + u % steps, (uint16_t *)(packed + u * STEP_BYTES));
}

/* Threads in a grid over rows and columns, `grid_m` by threads / grid_m, so that the busiest has the least to do. */
static int choose_grid(const Plan *p, int threads) {
    int best = threads;
    int64_t least = INT64_MAX;
    for (int m = threads; m >= 1; m--) {
        if (threads % m) continue;
        int64_t load = ceil_div(p->panels_m, m) * ceil_div(min64(p->chunk_n, p->panels_n), threads / m);
        if (load < least) least = load, best = m;
    }
    return best;
}

/* Not a bare barrier: alone, this thread may be inside a parallel region of the caller's. */
static void wait_for(int threads) {
    if (threads > 1) {
#pragma omp barrier
    }
}

AMX static void run_thread(const Plan *p, int thread, int threads) {
    Worker *w = (Worker *)(p->own + (size_t)thread * p->own_bytes);
    *w = (Worker){0};
    w->partial = (float *)(w + 1);
    w->packed_a = (char *)(w->partial + p->block_m * PANEL * PANEL);
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        int64_t rows = i == 2 || i == 3 || i == 5 ? p->g.m - TILE : p->g.m; /* 6 and 7, of B, are always whole */
        config.rows[i] = (uint8_t)(i >= 6 ? TILE : max64(1, min64(TILE, rows)));
        config.row_bytes[i] = 64;
    }
    _tile_loadconfig(&config);
    if (p->private_b) {
        uint8_t *packed = p->packed_b + (size_t)(thread * p->group) * STEP_BYTES;
        for (int64_t k = 0; k < p->steps; k += p->group)
            for (int64_t j = p->panels_n * thread / threads; j < p->panels_n * (thread + 1) / threads; j++) {
                pack_share(p, j, j + 1, k, 0, 1, packed);
                work(p, w, 0, p->panels_m, j, j + 1, packed, k);
            }
    } else {
        int grid_m = choose_grid(p, threads), grid_n = threads / grid_m;
        int at_m = thread / grid_n, at_n = thread % grid_n;
        for (int64_t k = 0; k < p->steps; k += p->group)
            for (int64_t j = 0; j < p->panels_n; j += p->chunk_n) {
                int64_t j_to = min64(j + p->chunk_n, p->panels_n), count = j_to - j;
                int64_t steps = min64(p->group, p->steps - k), from = count * at_n / grid_n;
                pack_share(p, j, j_to, k, thread, threads, p->packed_b);
                wait_for(threads);
                work(p, w, p->panels_m * at_m / grid_m, p->panels_m * (at_m + 1) / grid_m, j + from,
                     j + count * (at_n + 1) / grid_n, p->packed_b + from * steps * STEP_BYTES, k);
                wait_for(threads);
            }
    }
    _tile_release(); /* oneDNN and the next task switch find the unit unused */
}

static Status run(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *memory) {
    Plan p = plan_make(g, a, b, c, g->bias ? bias : NULL, memory);
    if (p.threads == 1) run_thread(&p, 0, 1);
    else {
#pragma omp parallel num_threads(p.threads)
        run_thread(&p, omp_get_thread_num(), omp_get_num_threads());
    }
    return TANE_OK;
}

#else

static bool supports(DType type) {
    (void)type;
    return false;
}
static size_t scratch(const Gemm *g, int threads) {
    (void)g;
    (void)threads;
    return 0;
}
static Status run(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *memory) {
    (void)g, (void)a, (void)b, (void)c, (void)bias, (void)memory;
    return FAIL(TANE_EINTERNAL, "gemm: AMX was chosen in a build without it");
}

#endif

static const char *name(DType type) {
    (void)type;
    return "amx-bf16";
}
static void shut_down(void) {}

const GemmBackend gemm_amx = {supports, name, scratch, run, shut_down};
