/* bf16 products on Intel AMX tiles (Sapphire Rapids and later), with fp32 accumulation.
 *
 * The tile unit multiplies 16 rows of A by 16 columns of B over 32 values of k in 16 cycles: 1024 flops a cycle. A
 * 32 x 32 block of C lives in four tiles; a step over 32 values of k loads two tiles of A and two of B and multiplies
 * four times. What it takes to keep that fed (measurements: docs/speed.md):
 *   - One operand must come from L1, as L2 gives about half of the 64 bytes a cycle that both would need. So a block of
 *     A, 32 rows by at most BLOCK_STEPS steps of k, is copied into tile order and meets all panels of B in a row.
 *   - B, packed once by all threads together, comes from L2 with the "streaming" tile load, which leaves L1 to A.
 *   - C is written row by row, in the order of memory, so that the prefetchers know what comes next.
 *   - What isn't multiplying hides behind multiplying: each step also writes two rows of the block of C before and
 *     copies a piece of the block of A to come.
 *
 * Nest: groups of k (fp32 results only, which add up in C) / blocks of columns of B that fit L2 / panels of 32 rows /
 * blocks of k / panels of 32 columns. Threads divide the rows, or the columns when there are few rows. When M <= 32 and
 * B is stored (N, K) the operands change places, so that B is read as it lies and once.
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
    TILE = 16,            /* rows of a tile, and columns of fp32 */
    STEP = 32,            /* values of k in a tile */
    PANEL = 32,           /* rows of A, or columns of B, worked on at a time */
    STEP_BYTES = 2048,    /* of a packed panel: two tiles */
    BLOCK_STEPS = 24,     /* of k at most in a block: 48 KB of A */
    GROUP_STEPS = 32,     /* of k in a group */
    B_BYTES = 1536 << 10, /* of B packed at a time, to stay in a 2 MB L2 */
    FEED_LINES = 4,       /* copied at a time */
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

/* 32 rows of k by 8 columns, into 8 rows of 32 values of k (64 bytes apart). */
AMX_INLINE void transpose_8_columns(const uint16_t *src, int64_t ld, void *dst) {
    __m512i r[8], t[8];
    for (int i = 0; i < 8; i++) {
        const uint16_t *p = src + i * ld;
        __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
        x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 8 * ld)), 1);
        x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 16 * ld)), 2);
        r[i] = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 24 * ld)), 3);
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi32(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi32(t[i + j], t[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        _mm512_store_si512((char *)dst + j * 128, _mm512_unpacklo_epi64(r[j], r[j + 4]));
        _mm512_store_si512((char *)dst + j * 128 + 64, _mm512_unpackhi_epi64(r[j], r[j + 4]));
    }
}

/* Copies a block of A, 32 rows by `steps` steps of k, into tile order, piece by piece while others are multiplied. */
typedef struct Feed {
    const uint16_t *src; /* element (0, 0) of the block as stored */
    int64_t ld;
    int64_t rows, k;    /* what the matrix has of the block */
    int64_t steps;
    int64_t ahead;      /* elements from here to the block after this one: prefetched */
    int64_t row, step;  /* next piece; columns in eights instead of rows when transposed */
    bool transposed;
    bool done;
    char *dst;
} Feed;

AMX_INLINE void feed_transposed(Feed *f) {
    int64_t k = f->k - f->step * STEP, columns = f->rows - f->row;
    const uint16_t *src = f->src + f->step * STEP * f->ld + f->row;
    char *dst = f->dst + f->step * STEP_BYTES + f->row * 64;
    if (k >= STEP && columns >= 8) {
        transpose_8_columns(src, f->ld, dst);
    } else {
        _Alignas(64) uint16_t piece[STEP * 8];
        __mmask8 mask = columns >= 8 ? 0xff : (__mmask8)((1u << columns) - 1);
        for (int64_t i = 0; i < STEP; i++) {
            __m128i x = i < k ? _mm_maskz_loadu_epi16(mask, src + i * f->ld) : _mm_setzero_si128();
            _mm_store_si128((__m128i *)(piece + i * 8), x);
        }
        transpose_8_columns(piece, 8, dst);
    }
    for (int64_t i = f->row / 8; i < STEP; i += PANEL / 8)
        _mm_prefetch((const char *)(src - f->row + f->ahead + i * f->ld), _MM_HINT_T1);
    f->row += 8;
    if (f->row < f->rows) return;
    f->row = 0;
    f->done = ++f->step == f->steps;
}

AMX_INLINE void feed_rows(Feed *f) {
    const uint16_t *src = f->src + f->row * f->ld + f->step * STEP;
    char *dst = f->dst + f->row * 64 + f->step * STEP_BYTES;
    int64_t to = f->step + FEED_LINES < f->steps ? f->step + FEED_LINES : f->steps;
    for (; f->step < to; f->step++, src += STEP, dst += STEP_BYTES) {
        int64_t k = f->k - f->step * STEP;
        __mmask32 mask = k >= STEP ? ~0u : (1u << k) - 1;
        _mm512_store_si512(dst, _mm512_maskz_loadu_epi16(mask, src));
        _mm_prefetch((const char *)(src + f->ahead), _MM_HINT_T1);
    }
    if (f->step < f->steps) return;
    f->step = 0;
    f->done = ++f->row == f->rows;
}

AMX_INLINE void feed_some(Feed *f, int64_t pieces) {
    for (; pieces > 0 && !f->done; pieces--) {
        if (f->transposed) feed_transposed(f);
        else feed_rows(f);
    }
}

static int64_t feed_pieces(const Feed *f) {
    return f->transposed ? f->steps * ceil_div(f->rows, 8) : f->rows * ceil_div(f->steps, FEED_LINES);
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

/* Tiles: 0 1 / 2 3 sums, 4 5 of A, 6 7 of B. */
#define MULTIPLY(a, b)                                                                                                 \
    do {                                                                                                               \
        _tile_loadd(4, (a), 64);                                                                                       \
        _tile_stream_loadd(6, (b), 64);                                                                                \
        if (tiles_n == 2) _tile_stream_loadd(7, (b) + 1024, 64);                                                       \
        if (tiles_m == 2) _tile_loadd(5, (a) + 1024, 64);                                                              \
        _tile_dpbf16ps(0, 4, 6);                                                                                       \
        if (tiles_n == 2) _tile_dpbf16ps(1, 4, 7);                                                                     \
        if (tiles_m == 2) _tile_dpbf16ps(2, 5, 6);                                                                     \
        if (tiles_m == 2 && tiles_n == 2) _tile_dpbf16ps(3, 5, 7);                                                     \
    } while (0)

/* out->sum = a block of A times a panel of B. Meanwhile writes what is left of `before` and advances the feed. */
AMX_INLINE void multiply_block(const int tiles_m, const int tiles_n, const char *a, const char *b, int64_t steps,
                               Result *out, Result *before, Feed *feed, int64_t pieces) {
    __asm__ volatile("" ::: "memory"); /* compilers may take tile loads for no reads: packing is before them */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    int rows = steps >= 16 ? 2 : steps >= 8 ? 4 : 8;
    for (int64_t s = 0; s < steps; s++, a += STEP_BYTES, b += STEP_BYTES) {
        MULTIPLY(a, b);
        result_rows(before, rows);
        feed_some(feed, pieces);
    }
    result_rows(before, PANEL);
    _tile_stored(0, out->sum, 128);
    if (tiles_n == 2) _tile_stored(1, out->sum + TILE, 128);
    if (tiles_m == 2) _tile_stored(2, out->sum + TILE * PANEL, 128);
    if (tiles_m == 2 && tiles_n == 2) _tile_stored(3, out->sum + TILE * PANEL + TILE, 128);
}

AMX static void multiply(int tiles_m, int tiles_n, const char *a, const char *b, int64_t steps, Result *out,
                         Result *before, Feed *feed, int64_t pieces) {
    if (tiles_m == 2 && tiles_n == 2) multiply_block(2, 2, a, b, steps, out, before, feed, pieces);
    else if (tiles_m == 2) multiply_block(2, 1, a, b, steps, out, before, feed, pieces);
    else if (tiles_n == 2) multiply_block(1, 2, a, b, steps, out, before, feed, pieces);
    else multiply_block(1, 1, a, b, steps, out, before, feed, pieces);
}

/* ---- Plan: how a product is cut ---- */

typedef struct Plan {
    Gemm g; /* operands exchanged when `swapped` */
    const uint16_t *a, *b, *bias;
    void *c;
    bool swapped;    /* g computes the transpose of C */
    int64_t steps;   /* of k */
    int64_t block;   /* steps in a block of k */
    int64_t group;   /* steps in a group, a multiple of `block` */
    int64_t panels_m, panels_n;
    int64_t block_n; /* panels of B packed at a time */
    int threads;
    uint8_t *packed_b;
    uint8_t *own; /* `own_bytes` for each thread */
    size_t own_bytes;
} Plan;

/* A thread's part of the scratch memory. */
typedef struct Worker {
    Result result[2];
    float zeros[PANEL];
    char packed_a[2][BLOCK_STEPS * STEP_BYTES]; /* the block of A at work and the next one */
    int turn;                                   /* result[turn] is the one to fill next */
    _Alignas(64) float partial[];               /* sums of a panel of A by a block of B, between blocks of k */
} Worker;

/* How K is cut: by K and the type of C alone. */
static void plan_k(Plan *p) {
    p->steps = ceil_div(p->g.k, STEP);
    p->block = ceil_div(p->steps, ceil_div(p->steps, BLOCK_STEPS));
    p->group = p->g.out_type == DTYPE_F32 ? GROUP_STEPS / p->block * p->block : p->steps;
    p->group = min64(p->group, ceil_div(p->steps, p->block) * p->block);
}

/* Panels of B packed at a time. */
static int64_t block_n_limit(const Plan *p) { return max64(4, B_BYTES / (p->group * STEP_BYTES)); }

/* A bound for every m up to g->m: with few rows threads take columns, and operands may change places. */
static void plan_memory(Plan *p, int64_t n, int threads) {
    int64_t panels = ceil_div(n, PANEL), limit = min64(panels, block_n_limit(p));
    int64_t packed = min64(max64(threads, 2) * limit, 2 * (panels + threads));
    p->own_bytes = (sizeof(Worker) + (size_t)limit * PANEL * PANEL * sizeof(float) + 4095) & ~(size_t)4095;
    p->own = p->packed_b + (size_t)(packed * p->group) * STEP_BYTES;
}

/* Enough for smaller products too. A shorter k has shorter groups, and then more panels of B are packed at a time: the
 * bound takes the longest group together with the most panels. */
static size_t scratch(const Gemm *g, int threads) {
    int64_t panels = ceil_div(g->n, PANEL), steps = ceil_div(g->k, STEP), limit = B_BYTES / STEP_BYTES;
    int64_t group = g->out_type == DTYPE_F32 && steps > BLOCK_STEPS ? GROUP_STEPS : steps;
    int64_t packed = min64(max64(threads, 2) * min64(panels * group, max64(4 * group, limit)), 2 * (panels + threads) * group);
    size_t own = (sizeof(Worker) + (size_t)min64(panels, limit) * PANEL * PANEL * sizeof(float) + 4095) & ~(size_t)4095;
    return (size_t)packed * STEP_BYTES + (size_t)threads * own;
}

/* Starting the other threads costs some microseconds. */
static bool worth_threads(const Gemm *g) {
    double flops = 2.0 * (double)g->m * (double)g->n * (double)g->k;
    double bytes = 2.0 * (double)g->k * (double)(g->m + g->n);
    return flops / 2e6 + bytes / 2e4 > 10; /* microseconds */
}

static Plan plan_make(const Gemm *g, const void *a, const void *b, void *c, const void *bias, void *memory) {
    Plan p = {.g = *g, .a = a, .b = b, .bias = bias, .c = c, .packed_b = memory};
    plan_k(&p);
    p.threads = omp_get_level() == 0 && worth_threads(g) ? omp_get_max_threads() : 1;
    plan_memory(&p, g->n, p.threads);
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
    return p;
}

/* Threads form a grid over rows and columns; returns how many share the rows, so that the slowest is done soonest. */
static int choose_grid(const Plan *p, int threads) {
    enum { MULTIPLY_CYCLES = 64, FEED_CYCLES = 64, BARRIER_CYCLES = 6000 };
    int best = threads;
    int64_t least = INT64_MAX;
    for (int m = threads; m >= 1; m--) {
        if (threads % m) continue;
        int64_t rows = ceil_div(p->panels_m, m), columns = ceil_div(p->panels_n, threads / m);
        int64_t cycles = rows * p->steps * (MULTIPLY_CYCLES * columns + FEED_CYCLES) + (m > 1 ? BARRIER_CYCLES : 0);
        if (cycles < least) least = cycles, best = m;
    }
    return best;
}

/* ---- Work ---- */

/* Makes the feed ready to copy the block of A at this panel and step. */
static void feed_start(const Plan *p, Feed *f, int64_t panel, int64_t step, int64_t steps, int64_t ahead, char *dst) {
    const Gemm *g = &p->g;
    int64_t row = panel * PANEL, k = step * STEP;
    *f = (Feed){.src = p->a + (g->trans_a ? k * g->lda + row : row * g->lda + k), .ld = g->lda,
                .rows = min64(PANEL, g->m - row), .k = g->k - k, .steps = steps, .ahead = ahead,
                .transposed = g->trans_a, .dst = dst};
}

/* Says where the sums of a block go. The coordinates are those of C as stored. */
AMX static void direct(const Plan *p, Worker *w, Result *r, int64_t row, int64_t rows, int64_t col, int64_t cols,
                       float *partial, bool first, bool last) {
    const Gemm *g = &p->g;
    for (int64_t j = 0; j < PANEL; j++) r->bias[j] = p->bias && first && j < cols ? bf16_to_f32(p->bias[col + j]) : 0;
    r->row = 0;
    r->rows = (int)rows;
    r->columns = cols == PANEL ? ~0u : (1u << cols) - 1;
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

/* A block of A (panel pm) by one panel of B. */
AMX static void multiply_panels(const Plan *p, Worker *w, const char *a, const char *b, int64_t steps, int64_t pm,
                                int64_t pn, float *partial, bool first, bool last, Feed *feed, int64_t pieces) {
    Result *r = &w->result[w->turn], *before = &w->result[!w->turn];
    int64_t row = pm * PANEL, rows = min64(PANEL, p->g.m - row), col = pn * PANEL, cols = min64(PANEL, p->g.n - col);
    multiply(rows > TILE ? 2 : 1, cols > TILE ? 2 : 1, a, b, steps, r, before, feed, pieces);
    if (p->swapped) {
        _Alignas(64) float t[PANEL * PANEL];
        for (int q = 0; q < 4; q++)
            transpose16(r->sum + (q / 2 * PANEL + q % 2) * TILE, 128, t + (q % 2 * PANEL + q / 2) * TILE, 128);
        memcpy(r->sum, t, sizeof t);
        direct(p, w, r, col, cols, row, rows, partial, first, last);
    } else {
        direct(p, w, r, row, rows, col, cols, partial, first, last);
    }
    w->turn = !w->turn;
}

/* Panels m..m_to by n..n_to over one group of k. `packed` begins with panel n. */
AMX static void work(const Plan *p, Worker *w, int64_t m, int64_t m_to, int64_t n, int64_t n_to, const uint8_t *packed,
                     int64_t group) {
    if (m >= m_to || n >= n_to) return;
    int64_t group_to = min64(group + p->group, p->steps), count = n_to - n;
    int64_t blocks = ceil_div(group_to - group, p->block), total = (m_to - m) * blocks;
    Feed feed;
    feed_start(p, &feed, m, group, min64(p->block, group_to - group), 0, w->packed_a[0]);
    feed_some(&feed, INT64_MAX);
    for (int64_t t = 0; t < total; t++) {
        int64_t i = m + t / blocks, s = group + t % blocks * p->block, steps = min64(p->block, group_to - s);
        int64_t pieces = 0;
        if (t + 1 < total) {
            int64_t next_s = group + (t + 1) % blocks * p->block, next_steps = min64(p->block, group_to - next_s);
            int64_t ahead = PANEL * (p->g.trans_a ? 1 : p->g.lda);
            feed_start(p, &feed, m + (t + 1) / blocks, next_s, next_steps, ahead, w->packed_a[(t + 1) % 2]);
            pieces = ceil_div(feed_pieces(&feed), count * steps);
        }
        for (int64_t j = 0; j < count; j++) {
            const char *b = (const char *)packed + (j * (group_to - group) + s - group) * STEP_BYTES;
            multiply_panels(p, w, w->packed_a[t % 2], b, steps, i, n + j, w->partial + j * PANEL * PANEL, s == 0,
                            s + steps == p->steps, &feed, pieces);
        }
    }
    result_rows(&w->result[!w->turn], PANEL);
}

/* Member `member` of `members` packs its share of the panels n..n_to of B. */
AMX static void pack_share(const Plan *p, int64_t n, int64_t n_to, int64_t group, int member, int members,
                           uint8_t *packed) {
    int64_t steps = min64(p->group, p->steps - group), units = (n_to - n) * steps;
    for (int64_t u = units * member / members; u < units * (member + 1) / members; u++)
        pack_b(&p->g, p->b, (n + u / steps) * PANEL, group + u % steps, (uint16_t *)(packed + u * STEP_BYTES));
}

static void configure_tiles(const Plan *p) __attribute__((target("amx-tile")));
static void configure_tiles(const Plan *p) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        int64_t rows = i == 2 || i == 3 || i == 5 ? p->g.m - TILE : p->g.m; /* 6 and 7, of B, are always whole */
        config.rows[i] = (uint8_t)(i >= 6 ? TILE : max64(1, min64(TILE, rows)));
        config.row_bytes[i] = 64;
    }
    _tile_loadconfig(&config);
}

AMX static void run_thread(const Plan *p, int thread, int threads) {
    Worker *w = (Worker *)(p->own + (size_t)thread * p->own_bytes);
    memset(w->result, 0, sizeof w->result);
    memset(w->zeros, 0, sizeof w->zeros);
    w->turn = 0;
    configure_tiles(p);
    int grid_m = choose_grid(p, threads), grid_n = threads / grid_m, at_m = thread / grid_n, at_n = thread % grid_n;
    int64_t m = p->panels_m * at_m / grid_m, m_to = p->panels_m * (at_m + 1) / grid_m;
    int64_t n = p->panels_n * at_n / grid_n, n_to = p->panels_n * (at_n + 1) / grid_n;
    int64_t most = ceil_div(p->panels_n, grid_n), rounds = ceil_div(most, block_n_limit(p));
    int64_t block_n = ceil_div(most, rounds); /* the same number of rounds for all, because of the barrier */
    size_t block_bytes = (size_t)(block_n * p->group) * STEP_BYTES;
    int buffers = grid_m > 1 ? 2 : 1, turn = 0;
    for (int64_t k = 0; k < p->steps; k += p->group)
        for (int64_t r = 0; r < rounds; r++, turn++) {
            int64_t from = min64(n + r * block_n, n_to), to = min64(from + block_n, n_to);
            uint8_t *packed = p->packed_b + block_bytes * (size_t)(at_n * buffers + turn % buffers);
            pack_share(p, from, to, k, at_m, grid_m, packed);
            /* Not for one alone: it may be inside a parallel region of the caller's. */
            if (grid_m > 1) {
#pragma omp barrier
            }
            work(p, w, m, m_to, from, to, packed, k);
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
