/* bf16 products on Intel AMX tiles (Sapphire Rapids and later), with fp32 accumulation.
 *
 * The tile unit multiplies 16 rows of A by 16 columns of B over 32 values of k in 16 cycles: 1024 flops a cycle. A
 * 32 x 32 block of C lives in four tiles; a step over 32 values of k loads two tiles of A and two of B and multiplies
 * four times. What it takes to keep that fed (measurements: docs/speed.md):
 *   - One operand must come from L1, as L2 gives about half of the 64 bytes a cycle that both would need. So a block of
 *     A, 32 rows by at most BLOCK_STEPS steps of k, meets all panels of B in a row before the next one.
 *   - B, packed by all threads together, comes from L2 with the "streaming" tile load, which leaves L1 to A.
 *   - A core waits for at most 16 lines from beyond L1 at a time, and B needs most of them; one that comes from memory
 *     blocks its place for 180 ns. So A is read and C written in the order of memory, where the prefetcher of L2, which
 *     has places of its own, runs ahead: A is fed into a packed copy, and C is drained from sums kept in L2, a piece of
 *     each in every step, while the tile unit works.
 *
 * Nest: groups of k (fp32 results only, which add up in C) / blocks of columns of B that fit L2 / panels of 32 rows /
 * blocks of k / panels of 32 columns. With a long K only a few panels fit L2, and A would pass too often: then a block
 * of rows of A stays there (`by_columns`), and the panels of B pass, packed already. Threads divide the rows, or the
 * columns when there are few rows. When M <= 32 and B is stored (N, K) the operands change places, so that B is read as
 * it lies and once.
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
    TILE = 16,              /* rows of a tile, and columns of fp32 */
    STEP = 32,              /* values of k in a tile */
    PANEL = 32,             /* rows of A, or columns of B, worked on at a time */
    STEP_BYTES = 2048,      /* of a packed panel: two tiles */
    BLOCK_STEPS = 20,       /* of k at most in a block: 40 KB of A */
    GROUP_STEPS = 32,       /* of k in a group */
    L2_BYTES = 1 << 20,     /* of the operand that stays in L2, of 2 MB, with sums and a panel of the other */
    SHARED_BYTES = 8 << 20, /* of an operand that passes, packed by all threads together */
    FEW_PANELS = 12,        /* in L2: with fewer, rather rows of A stay and columns of B pass */
    LEAST_PANELS = 4,       /* packed at a time, however long */
    MOST_PANELS = 64,       /* of columns in a strip */
    PAGE = 4096,            /* where the prefetcher of L2 stops */
    WAKE_BYTES = 256,       /* of a page, fetched by us early so that the prefetcher does the rest */
    REST_STEPS = 4,         /* between two looks at the chores */
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

/* Step `step` of the panel of A that begins at row m0, A stored (K, M). */
AMX static void pack_a(const Gemm *g, const uint16_t *a, int64_t m0, int64_t step, char *dst) {
    int64_t k = min64(STEP, g->k - step * STEP), rows = min64(PANEL, g->m - m0);
    const uint16_t *src = a + step * STEP * g->lda + m0;
    for (int64_t i = 0; i < rows; i += 8, src += 8, dst += 8 * 64) {
        if (k == STEP && rows - i >= 8) {
            transpose_8_columns(src, g->lda, dst);
            continue;
        }
        _Alignas(64) uint16_t piece[STEP * 8];
        __mmask8 mask = rows - i >= 8 ? 0xff : (__mmask8)((1u << (rows - i)) - 1);
        for (int64_t j = 0; j < STEP; j++) {
            __m128i x = j < k ? _mm_maskz_loadu_epi16(mask, src + j * g->lda) : _mm_setzero_si128();
            _mm_store_si128((__m128i *)(piece + j * 8), x);
        }
        transpose_8_columns(piece, 8, dst);
    }
}

/* ---- Feed: a row-major panel of A on its way into tile order, line by line as it lies in memory ---- */

typedef struct Feed {
    const uint16_t *src; /* row 0 of the panel */
    int64_t ld, rows, steps;
    __mmask32 last; /* columns of the last step */
    int64_t row, step;
    char *dst;
} Feed;

AMX_INLINE void feed_some(Feed *f, int64_t lines) {
    while (lines > 0 && f->row < f->rows) {
        int64_t to = f->step + lines < f->steps ? f->step + lines : f->steps;
        const uint16_t *src = f->src + f->row * f->ld;
        char *dst = f->dst + f->row * 64;
        lines -= to - f->step;
        for (int64_t s = f->step; s < to; s++) {
            __mmask32 mask = s < f->steps - 1 ? ~0u : f->last;
            const char *line = (const char *)(src + s * STEP);
            _mm512_store_si512(dst + s * STEP_BYTES, _mm512_maskz_loadu_epi16(mask, line));
            if (((uintptr_t)line & (PAGE - 1)) < WAKE_BYTES) _mm_prefetch(line + PAGE, _MM_HINT_T1);
        }
        f->step = to == f->steps ? 0 : to;
        f->row += to == f->steps;
    }
}

/* ---- Result: the sums of a 32 x 32 block on their way from the tiles to C, row by row ---- */

typedef struct Result {
    _Alignas(64) float sum[PANEL * PANEL];
    float bias[PANEL];
    const float *add; /* sums of earlier blocks of k, or C */
    int64_t add_ld;   /* 0 when add points to zeros */
    void *dst;
    int64_t ld;
    int64_t row, rows;
    __mmask32 columns;
    bool narrow;     /* dst is bf16 */
    bool accumulate; /* ... and is added to */
    bool plain;      /* bf16, whole, and nothing to add */
} Result;

AMX_INLINE __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

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
        x = _mm512_add_ps(x, widen(_mm512_castsi512_si256(old)));
        y = _mm512_add_ps(y, widen(_mm512_extracti64x4_epi64(old, 1)));
    }
    _mm512_mask_storeu_epi16(dst, r->columns, (__m512i)_mm512_cvtne2ps_pbh(y, x));
}

AMX_INLINE void result_row_plain(const Result *r, int64_t i) {
    const float *sum = r->sum + i * PANEL;
    __m512bh x = _mm512_cvtne2ps_pbh(_mm512_load_ps(sum + TILE), _mm512_load_ps(sum));
    _mm512_storeu_si512((uint16_t *)r->dst + i * r->ld, (__m512i)x);
}

AMX_INLINE void result_some(Result *r, int64_t rows) {
    if (r->row == r->rows) return; /* nothing waits; before the first block the rest is not filled in yet */
    int64_t to = r->row + rows < r->rows ? r->row + rows : r->rows;
    if (r->plain)
        for (int64_t i = r->row; i < to; i++) result_row_plain(r, i);
    else
        for (int64_t i = r->row; i < to; i++) result_row(r, i);
    r->row = to;
}

/* ---- The kernel ---- */

typedef struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* What a thread does while it multiplies: a piece of each every REST_STEPS steps. */
typedef struct Chores {
    Feed feed;
    int64_t feed_lines, result_rows;
    Result *result;
} Chores;

AMX_INLINE void do_chores(Chores *c) {
    result_some(c->result, c->result_rows);
    feed_some(&c->feed, c->feed_lines);
}

/* One step. Tiles: 0 1 / 2 3 sums, 4 5 of A, 6 7 of B. The operand that comes from L2 is loaded with `stream`. */
#define MULTIPLY(load_a, load_b, a, b)                                                                                 \
    do {                                                                                                               \
        load_a(4, (a), 64);                                                                                            \
        load_b(6, (b), 64);                                                                                            \
        if (tiles_n == 2) load_b(7, (b) + 1024, 64);                                                                   \
        if (tiles_m == 2) load_a(5, (a) + 1024, 64);                                                                   \
        _tile_dpbf16ps(0, 4, 6);                                                                                       \
        if (tiles_n == 2) _tile_dpbf16ps(1, 4, 7);                                                                     \
        if (tiles_m == 2) _tile_dpbf16ps(2, 5, 6);                                                                     \
        if (tiles_m == 2 && tiles_n == 2) _tile_dpbf16ps(3, 5, 7);                                                     \
    } while (0)

/* out (32 x 32) = a block of A times a block of B, both packed. */
AMX_INLINE void multiply_block(const int tiles_m, const int tiles_n, const bool stream_a, const char *a, const char *b,
                               int64_t steps, float *out, Chores *chores) {
    __asm__ volatile("" ::: "memory"); /* compilers may take tile loads for no reads: packing is before them */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    while (steps > 0) {
        int64_t some = steps < REST_STEPS ? steps : REST_STEPS;
        for (int64_t s = 0; s < some; s++, a += STEP_BYTES, b += STEP_BYTES) {
            if (stream_a) MULTIPLY(_tile_stream_loadd, _tile_loadd, a, b);
            else MULTIPLY(_tile_loadd, _tile_stream_loadd, a, b);
        }
        do_chores(chores);
        steps -= some;
    }
    _tile_stored(0, out, 128);
    if (tiles_n == 2) _tile_stored(1, out + TILE, 128);
    if (tiles_m == 2) _tile_stored(2, out + TILE * PANEL, 128);
    if (tiles_m == 2 && tiles_n == 2) _tile_stored(3, out + TILE * PANEL + TILE, 128);
}

AMX static void multiply(int64_t rows, int64_t cols, bool stream_a, const char *a, const char *b, int64_t steps,
                         float *out, Chores *chores) {
    if (rows > TILE && cols > TILE && stream_a) multiply_block(2, 2, true, a, b, steps, out, chores);
    else if (rows > TILE && cols > TILE) multiply_block(2, 2, false, a, b, steps, out, chores);
    else if (rows > TILE) multiply_block(2, 1, stream_a, a, b, steps, out, chores);
    else if (cols > TILE) multiply_block(1, 2, stream_a, a, b, steps, out, chores);
    else multiply_block(1, 1, stream_a, a, b, steps, out, chores);
}

/* ---- Plan: how a product is cut ---- */

typedef struct Plan {
    Gemm g; /* operands exchanged when `swapped` */
    const uint16_t *a, *b, *bias;
    void *c;
    bool swapped;    /* g computes the transpose of C */
    bool by_columns; /* a block of A stays in L2 and panels of B pass, instead of the reverse */
    int64_t steps;   /* of k */
    int64_t block;   /* steps in a block of k */
    int64_t group;   /* steps in a group, a multiple of `block` */
    int64_t panels_m, panels_n;
    int64_t block_n; /* most panels of B packed at a time */
    int64_t block_m; /* most panels of A packed at a time, by all threads (A stored (K, M)) or by each (by_columns) */
    int threads;
    uint8_t *packed_a, *packed_b; /* shared */
    uint8_t *own;                 /* `own_bytes` for each thread */
    size_t own_bytes;
    int64_t own_panels; /* of these: bytes of packed panels of A */
    int64_t sums;       /* ... and floats of the sums of a strip */
    size_t bytes;       /* of scratch, all in all */
} Plan;

/* A thread's part of the scratch memory. */
typedef struct Worker {
    Result result[2]; /* being made and on its way to C, in turn */
    float zeros[PANEL];
    int turn;
    Chores chores;
    char *panels; /* packed panels of A, over a group: the one at work and the next, or the block that stays */
    float *sums;  /* of a strip, blocks of 32 x 32: where bf16 results wait for the next block of k */
} Worker;

/* How K is cut: by K and the type of C alone. */
static void plan_k(Plan *p) {
    p->steps = ceil_div(p->g.k, STEP);
    p->block = ceil_div(p->steps, ceil_div(p->steps, BLOCK_STEPS));
    p->group = p->g.out_type == DTYPE_F32 ? GROUP_STEPS / p->block * p->block : p->steps;
    p->group = min64(p->group, p->steps);
}

/* Lays out the scratch memory, enough for every product that is no larger in m, n and k: all bounds are in bytes and of
 * the longest group, because with a shorter one more panels are packed at a time. */
static void plan_memory(Plan *p, const Gemm *g, int threads, uint8_t *memory) {
    int64_t panels_m = ceil_div(g->m, PANEL), panels_n = ceil_div(g->n, PANEL), steps = ceil_div(g->k, STEP);
    int64_t panel = (g->out_type == DTYPE_F32 ? min64(steps, GROUP_STEPS) : steps) * STEP_BYTES;
    p->by_columns = !g->trans_a && L2_BYTES / panel < FEW_PANELS && panels_m > FEW_PANELS;
    int64_t shared = max64(LEAST_PANELS * panel, p->by_columns ? SHARED_BYTES : L2_BYTES);
    int64_t stays = p->by_columns ? min64(panels_m * panel, max64(LEAST_PANELS * panel, L2_BYTES)) : 2 * panel;
    p->sums = g->out_type == DTYPE_F32 ? 0 : min64(max64(panels_n, FEW_PANELS), MOST_PANELS) * PANEL * PANEL;
    p->own_panels = g->trans_a ? 0 : stays;
    p->own_bytes = sizeof(Worker) + (size_t)p->own_panels + (size_t)p->sums * sizeof(float);
    p->own_bytes = (p->own_bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    p->packed_a = memory;
    p->packed_b = p->packed_a + (g->trans_a ? min64(panels_m * panel, max64(threads * panel, SHARED_BYTES)) : 0);
    /* Threads that divide columns have buffers of their own; those that divide rows share two. */
    p->own = p->packed_b + min64(threads * shared, (threads > 1 ? 2 : 1) * (panels_n + threads) * panel);
    p->bytes = (size_t)(p->own - memory) + (size_t)threads * p->own_bytes;
}

/* How many panels are packed at a time. */
static void plan_blocks(Plan *p) {
    int64_t panel = p->group * STEP_BYTES;
    p->block_n = max64(LEAST_PANELS, (p->by_columns ? SHARED_BYTES : L2_BYTES) / panel);
    if (!p->by_columns) p->block_n = min64(p->block_n, MOST_PANELS);
    p->block_m = 1;
    if (p->g.trans_a) p->block_m = max64(p->threads, SHARED_BYTES / panel);
    else if (p->by_columns) p->block_m = max64(LEAST_PANELS, L2_BYTES / panel);
}

static size_t scratch(const Gemm *g, int threads) {
    Plan p = {.g = *g};
    plan_k(&p);
    plan_memory(&p, g, threads, NULL);
    return p.bytes;
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
    plan_memory(&p, g, p.threads, memory);
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
    plan_blocks(&p);
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

/* Panels m..m_to of rows by n..n_to of columns over steps k..k_to, by one thread. */
typedef struct Area {
    int64_t m, m_to, n, n_to, k, k_to;
    const char *packed_a; /* from panel m on; NULL: A is row-major and fed */
    const char *packed_b; /* from panel n on */
} Area;

static Feed feed_panel(const Plan *p, const Area *area, int64_t panel, char *dst) {
    const Gemm *g = &p->g;
    int64_t row = panel * PANEL, k = area->k * STEP, rest = g->k - (area->k_to - 1) * STEP;
    return (Feed){.src = p->a + row * g->lda + k, .ld = g->lda, .rows = min64(PANEL, g->m - row),
                  .steps = area->k_to - area->k, .last = rest >= STEP ? ~0u : (1u << rest) - 1, .dst = dst};
}

/* Part of an area: one panel of rows by all columns, or one panel of columns by a block of rows. */
typedef struct Strip {
    int64_t m, m_to, n, n_to;
    const char *a, *b; /* from panels m and n on */
} Strip;

/* Where the sums of a block go after steps k..k_to; the coordinates are those of C as stored. fp32 adds up in C itself,
 * bf16 in `sums`, where the first block of k is already. */
AMX static void result_start(const Plan *p, const Worker *w, Result *r, int64_t row, int64_t rows, int64_t col,
                             int64_t cols, float *sums, int64_t k, int64_t k_to) {
    const Gemm *g = &p->g;
    bool first = k == 0, last = k_to == p->steps, wide = g->out_type == DTYPE_F32;
    r->row = 0;
    r->rows = wide || last || !first ? rows : 0;
    r->columns = cols == PANEL ? ~0u : (1u << cols) - 1;
    r->narrow = !wide && last;
    r->accumulate = g->accumulate;
    bool biased = p->bias && (wide ? first : last), adds = wide ? g->accumulate || !first : !first;
    __m512i bias = biased ? _mm512_maskz_loadu_epi16(r->columns, p->bias + col) : _mm512_setzero_si512();
    _mm512_store_ps(r->bias, widen(_mm512_castsi512_si256(bias)));
    _mm512_store_ps(r->bias + TILE, widen(_mm512_extracti64x4_epi64(bias, 1)));
    if (wide || last) {
        r->dst = (char *)p->c + (row * g->ldc + col) * (int64_t)dtype_size(g->out_type);
        r->ld = g->ldc;
    } else {
        r->dst = sums;
        r->ld = PANEL;
    }
    r->add = !adds ? w->zeros : wide ? r->dst : sums;
    r->add_ld = !adds ? 0 : wide ? g->ldc : PANEL;
    r->plain = r->narrow && cols == PANEL && !biased && !adds && !g->accumulate;
}

AMX_INLINE void transpose_block(float *sum) {
    _Alignas(64) float t[PANEL * PANEL];
    for (int q = 0; q < 4; q++)
        transpose16(sum + (q / 2 * PANEL + q % 2) * TILE, 128, t + (q % 2 * PANEL + q / 2) * TILE, 128);
    memcpy(sum, t, sizeof t);
}

AMX static void multiply_strip(const Plan *p, Worker *w, const Area *area, const Strip *s) {
    int64_t steps = area->k_to - area->k, panel_bytes = steps * STEP_BYTES;
    for (int64_t k = 0; k < steps; k += p->block) {
        int64_t from = area->k + k, to = min64(from + p->block, area->k_to);
        bool waits = p->g.out_type == DTYPE_BF16 && from == 0 && to < p->steps;
        float *sums = w->sums;
        for (int64_t i = s->m; i < s->m_to; i++)
            for (int64_t j = s->n; j < s->n_to; j++, sums += PANEL * PANEL, w->turn = !w->turn) {
                Result *r = &w->result[w->turn];
                const char *a = s->a + (i - s->m) * panel_bytes + k * STEP_BYTES;
                const char *b = s->b + (j - s->n) * panel_bytes + k * STEP_BYTES;
                int64_t row = i * PANEL, rows = min64(PANEL, p->g.m - row);
                int64_t col = j * PANEL, cols = min64(PANEL, p->g.n - col);
                float *out = waits ? sums : r->sum;
                w->chores.result = &w->result[!w->turn];
                multiply(rows, cols, p->by_columns, a, b, to - from, out, &w->chores);
                result_some(w->chores.result, PANEL);
                if (p->swapped) {
                    transpose_block(out);
                    result_start(p, w, r, col, cols, row, rows, sums, from, to);
                } else {
                    result_start(p, w, r, row, rows, col, cols, sums, from, to);
                }
            }
    }
}

AMX static void work(const Plan *p, Worker *w, const Area *area) {
    if (area->m >= area->m_to || area->n >= area->n_to) return;
    Chores *c = &w->chores;
    int64_t steps = area->k_to - area->k, panel_bytes = steps * STEP_BYTES;
    int64_t high = p->by_columns ? p->block_m : 1, wide = p->by_columns ? 1 : area->n_to - area->n;
    int64_t at_a_time = min64(REST_STEPS, p->block);
    bool fed = !area->packed_a && !p->by_columns;
    int turn = 0;
    *c = (Chores){.result_rows = ceil_div(PANEL, ceil_div(p->block, REST_STEPS))};
    if (fed) c->feed = feed_panel(p, area, area->m, w->panels);
    feed_some(&c->feed, INT64_MAX);
    for (int64_t i = area->m; i < area->m_to; i += high) {
        Strip s = {.m = i, .m_to = min64(i + high, area->m_to), .b = area->packed_b};
        s.a = area->packed_a ? area->packed_a + (i - area->m) * panel_bytes : w->panels;
        if (fed) s.a += turn * panel_bytes;
        turn = !turn;
        for (int64_t q = i; p->by_columns && q < s.m_to; q++) {
            c->feed = feed_panel(p, area, q, w->panels + (q - i) * panel_bytes);
            feed_some(&c->feed, INT64_MAX);
        }
        if (fed && i + 1 < area->m_to) c->feed = feed_panel(p, area, i + 1, w->panels + turn * panel_bytes);
        c->feed_lines = ceil_div(c->feed.rows * c->feed.steps * at_a_time, steps * wide);
        for (s.n = area->n; s.n < area->n_to; s.n += wide, s.b += wide * panel_bytes) {
            s.n_to = s.n + wide;
            multiply_strip(p, w, area, &s);
        }
        feed_some(&c->feed, INT64_MAX);
    }
    result_some(&w->result[!w->turn], PANEL);
}

/* Member `member` of `members` packs its share of the panels of B, in the order of memory. */
AMX static void share_packing_b(const Plan *p, const Area *area, int member, int members, char *dst) {
    int64_t steps = area->k_to - area->k, panels = area->n_to - area->n, units = panels * steps;
    for (int64_t u = units * member / members; u < units * (member + 1) / members; u++) {
        int64_t panel = p->g.trans_b ? u / steps : u % panels, step = p->g.trans_b ? u % steps : u / panels;
        char *at = dst + (panel * steps + step) * STEP_BYTES;
        pack_b(&p->g, p->b, (area->n + panel) * PANEL, area->k + step, (uint16_t *)at);
    }
}

/* The same for A stored (K, M), in the order of memory: all columns of 32 rows, then the next. */
AMX static void share_packing_a(const Plan *p, int64_t m, int64_t m_to, int64_t k, int64_t k_to, int member,
                                int members, char *dst) {
    int64_t panels = m_to - m, steps = k_to - k, units = panels * steps;
    for (int64_t u = units * member / members; u < units * (member + 1) / members; u++)
        pack_a(&p->g, p->a, (m + u % panels) * PANEL, k + u / panels,
               dst + (u % panels * steps + u / panels) * STEP_BYTES);
}

AMX static void configure_tiles(const Plan *p) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        int64_t rows = i == 2 || i == 3 || i == 5 ? p->g.m - TILE : p->g.m; /* 6 and 7, of B, are always whole */
        config.rows[i] = (uint8_t)(i >= 6 ? TILE : max64(1, min64(TILE, rows)));
        config.row_bytes[i] = 64;
    }
    /* gcc 12's _tile_loadconfig says that it reads 8 bytes of the 64: without this the other stores may be dropped. */
    __asm__ volatile("" ::"m"(config));
    _tile_loadconfig(&config);
}

/* Not for one thread: it may be inside a parallel region of the caller's. */
static void wait_for_others(int threads) {
    if (threads > 1) {
#pragma omp barrier
    }
}

/* Panels m..m_to of all threads over a group of k. */
AMX static void run_group(const Plan *p, Worker *w, int thread, int threads, int64_t m, int64_t m_to, int64_t k) {
    int grid_m = choose_grid(p, threads), grid_n = threads / grid_m, at_m = thread / grid_n, at_n = thread % grid_n;
    int64_t k_to = min64(k + p->group, p->steps), panel_bytes = p->group * STEP_BYTES, rows = m_to - m;
    int64_t n = p->panels_n * at_n / grid_n, n_to = p->panels_n * (at_n + 1) / grid_n;
    int64_t most = ceil_div(p->panels_n, grid_n), rounds = ceil_div(most, p->block_n);
    int64_t block_n = ceil_div(most, rounds); /* the same number of rounds for all, because of the barrier */
    int64_t first = rows * at_m / grid_m;
    int buffers = grid_m > 1 ? 2 : 1;
    if (p->g.trans_a) {
        wait_for_others(threads); /* for those who still use what was packed before */
        share_packing_a(p, m, m_to, k, k_to, thread, threads, (char *)p->packed_a);
    }
    for (int64_t r = 0; r < rounds; r++) {
        char *packed = (char *)p->packed_b + (at_n * buffers + r % buffers) * block_n * panel_bytes;
        Area area = {m + first, m + rows * (at_m + 1) / grid_m, min64(n + r * block_n, n_to), 0, k, k_to, NULL, packed};
        area.n_to = min64(area.n + block_n, n_to);
        if (p->g.trans_a) area.packed_a = (char *)p->packed_a + first * (k_to - k) * STEP_BYTES;
        share_packing_b(p, &area, at_m, grid_m, packed);
        if (grid_m > 1 || (p->g.trans_a && r == 0)) wait_for_others(threads);
        work(p, w, &area);
    }
    /* The buffer of the last round may be the one of the next group's first. */
    if (grid_m > 1 && rounds % 2) wait_for_others(threads);
}

AMX static void run_thread(const Plan *p, int thread, int threads) {
    Worker *w = (Worker *)(p->own + (size_t)thread * p->own_bytes);
    w->panels = (char *)(w + 1);
    w->sums = (float *)(w->panels + p->own_panels);
    w->turn = 0;
    memset(w->zeros, 0, sizeof w->zeros);
    for (int i = 0; i < 2; i++) w->result[i].row = w->result[i].rows = 0;
    configure_tiles(p);
    int64_t block_m = p->g.trans_a ? p->block_m : p->panels_m;
    for (int64_t m = 0; m < p->panels_m; m += block_m)
        for (int64_t k = 0; k < p->steps; k += p->group)
            run_group(p, w, thread, threads, m, min64(m + block_m, p->panels_m), k);
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
