/* Attention for training on tensor cores (Dao 2023, "FlashAttention-2"; written for tane): bf16 and fp16, head_dim up
 * to 128 in steps of 16, any T, grouped queries, dropout or softcap, windows, packed documents. Scores and weights are
 * never stored.
 *
 *   forward     a block owns ROWS queries of a head and walks over the tiles of ROWS keys that they see: S = q k^T in
 *               registers, softmax with a running maximum, o += P v with P rounded to the element type
 *   queries     a block owns ROWS queries: P again from the saved log-sum-exp, dq += dS k;  makes delta = do . o
 *   keys        a block owns ROWS keys and walks over the queries that see them, of all heads of the group:
 *               S^T = k q^T, so that P^T and dS^T are already what dv += P^T do and dk += dS^T q multiply by
 *
 * Dropout draws its bits in forward, from the counters that the CPU draws from, and saves them for backward.
 *
 * A warp owns 16 rows; their q, do, k or v stay in registers, and what is walked over comes to shared memory a tile
 * ahead (cp.async). No sum crosses blocks: the result is the same on every run. Where a row fits in one tile, `queries`
 * and `keys` are blocks of one launch, and `keys` makes its own delta.
 */
#ifndef OPS_ATTENTION_FLASH_CUH
#define OPS_ATTENTION_FLASH_CUH

#include "device/cuda/mma.cuh"
#include "ops/attention_cuda.cuh"

enum { FLASH_DIM = 128, FLASH_ROWS = 64, FLASH_SHORT = 16 }; /* ROWS of long and of short sequences */

enum { FLASH_SAVED_KEEP = SAVED_STATS + 1 }; /* with dropout: flash_keep_words of int32 */

/* What the kernels get. Dropout's numbers are unused without it. */
typedef struct Flash {
    const void *qkv, *d_out;
    void *out, *d_qkv;
    float *stats, *delta; /* (B, H, T); stats NULL: not wanted; delta NULL: `keys` makes its own */
    uint32_t *keep;       /* forward's dropout for backward, see flash_keep_word; NULL: not wanted */
    const int32_t *starts;
    const TapeRun *run;
    CudaFault *fault;
    int tokens, heads, kv_heads, head_dim, window, tiles; /* tiles: of ROWS tokens */
    int row, batch, node, mask_row;                       /* row: elements from one token's qkv to the next's */
    unsigned key_blocks;                                  /* in front of `queries`, of a launch of both */
    float scale;                                          /* of products of queries and keys */
    float cap;               /* softcap: scores are held as tanh(cap product); else 0, and they are held as products */
    float score, score_log2; /* what makes exponents of what is held, to base e and 2 */
    float keep_scale;        /* 1 / (1 - p) */
    uint32_t threshold;                                   /* a random word below it: dropped */
} Flash;

/* Dropout together with softcap is left to the plain kernels. */
enum FlashKind { FLASH_BARE, FLASH_DROPOUT, FLASH_SOFTCAP };

/* Blocks that a processor is to hold: what bounds the registers. */
constexpr int flash_resident(int d, int rows) { return (d <= 64 ? 3 : 2) * (rows == FLASH_SHORT ? 4 : 1); }

/* ------------------------------------------------------------------------------------- which keys a query sees */

__device__ static inline int flash_clamp(int start, int i) { return start < 0 ? 0 : start > i ? i : start; }

/* The first key that query i sees, its document beginning at `start`. */
__device__ static inline int flash_first(const Flash &f, int i, int start) {
    int first = f.window && i >= f.window ? i + 1 - f.window : 0;
    return first > start ? first : start;
}
/* The same with the start read from memory; queries past the end see what the last one sees. */
__device__ static inline int flash_first_of(const Flash &f, int b, int i) {
    if (i >= f.tokens) i = f.tokens - 1;
    return flash_first(f, i, f.starts ? flash_clamp(f.starts[(int64_t)b * f.tokens + i], i) : 0);
}

/* Notes starts that are out of range or fall. */
__device__ static inline void flash_check_start(const Flash &f, int b, int i) {
    const int32_t *row = f.starts + (int64_t)b * f.tokens;
    int least = i ? row[i - 1] : 0;
    if (row[i] < least || row[i] > i) report_fault(f.fault, FAULT_STARTS, b, i, row[i], least);
}

/* --------------------------------------------------------------------------------------------------- dropout */

typedef struct FlashMask {
    uint64_t seed, position, node;
    int64_t head; /* b H + h */
} FlashMask;

__device__ static inline FlashMask flash_mask(const Flash &f, int64_t head) {
    return {f.run->seed, f.run->position, (uint64_t)f.node << 44, head};
}

/* Keep bits of keys 4 quad .. 4 quad + 3 of query i: as dropout_mask4. */
__device__ static inline uint32_t flash_keep4(const Flash &f, const FlashMask &m, int i, int quad) {
    uint32_t word[4];
    philox4x32(m.seed, m.position, m.node | (uint64_t)((m.head * f.tokens + i) * (f.mask_row / 4) + quad), word);
    return (uint32_t)(word[0] >= f.threshold) | (uint32_t)(word[1] >= f.threshold) << 1 |
           (uint32_t)(word[2] >= f.threshold) << 2 | (uint32_t)(word[3] >= f.threshold) << 3;
}

/* Bit e: is element e of a C tile kept, whose rows are queries from `query` on and columns keys from `key` on? A lane
 * draws the four keys of which it holds two, of the upper or the lower row, and its neighbour the other row's. */
__device__ static inline uint32_t flash_keep_by_query(const Flash &f, const FlashMask &m, int query, int key) {
    int lane = threadIdx.x & 31, odd = lane & 1;
    uint32_t mine = flash_keep4(f, m, query + (lane >> 2) + odd * 8, key / 4 + (lane >> 1 & 1));
    uint32_t other = __shfl_xor_sync(0xffffffffu, mine, 1);
    return odd ? other >> 2 | (mine >> 2) << 2 : (mine & 3) | (other & 3) << 2;
}

/* Where a tile's keep bits lie: a word for each of the 2 ROWS threads of `forward` and `queries`, four bits for each of
 * its C tiles from left to right. Element (i, j) of a tile is in the word of warp i / 16, lane i % 8 * 4 + j % 8 / 2,
 * at bit j / 8 * 4 + i % 16 / 8 * 2 + j % 2. Tiles above the diagonal are not there. */
__device__ static inline int64_t flash_keep_word(const Flash &f, int64_t head, int query_tile, int key_tile, int rows) {
    int64_t before = (int64_t)query_tile * (query_tile + 1) / 2, tiles = (int64_t)f.tiles * (f.tiles + 1) / 2;
    return (head * tiles + before + key_tile) * 2 * rows;
}

/* ------------------------------------------------------------------------------- tiles and products of a warp */

/* Rows in shared memory are 16 bytes longer than D, so that ldmatrix meets no bank twice. */
#define FLASH_LD(D) ((D) + 8)

/* ROWS x D of which `rows` x `width` exist, the rest zero. */
template <typename T, int D, int ROWS>
__device__ static inline void flash_load_tile(T *to, const T *from, int ld, int rows, int width) {
    for (int c = threadIdx.x; c < ROWS * (D / 8); c += 2 * ROWS) {
        int r = c / (D / 8), e = c % (D / 8) * 8;
        bool valid = r < rows && e < width;
        copy16_async(to + r * FLASH_LD(D) + e, valid ? from + r * ld + e : from, valid);
    }
}

/* 16 rows x D as A matrices; of the rows from `from` on `rows` exist (or none). */
template <typename T, int D>
__device__ static inline void flash_load_rows(uint32_t a[][4], const T *from, int ld, int rows, int width) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = (lane >> 2) + (i & 1) * 8, e = k * 16 + (lane & 3) * 2 + (i >> 1) * 8;
            a[k][i] = r < rows && k * 16 < width ? *(const uint32_t *)(from + r * ld + e) : 0;
        }
}

/* c (16 x 16) = A (16 x D) B^T, B being 16 rows of a tile. */
template <typename T, int D>
__device__ static inline void flash_product(float c[2][4], const uint32_t a[][4], const T *rows) {
    int lane = threadIdx.x & 31;
    const T *from = rows + ((lane & 7) + (lane >> 4) * 8) * FLASH_LD(D) + (lane >> 3 & 1) * 8;
#pragma unroll
    for (int e = 0; e < 4; e++) c[0][e] = c[1][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t b[4];
        mma_load(b, from + k * 16);
        mma<T>(c[0], a[k], b[0], b[1]);
        mma<T>(c[1], a[k], b[2], b[3]);
    }
}

/* The same for queries and keys: what is held of a score. */
template <typename T, int D, FlashKind KIND>
__device__ static inline void flash_scores(const Flash &f, float c[2][4], const uint32_t a[][4], const T *rows) {
    flash_product<T, D>(c, a, rows);
    if (KIND == FLASH_SOFTCAP)
#pragma unroll
        for (int e = 0; e < 8; e++) c[e / 4][e % 4] = tanh_f32(c[e / 4][e % 4] * f.cap);
}

/* c (16 x D) += A (16 x 16) B, B being 16 rows of a tile, and A two C tiles. */
template <typename T, int D>
__device__ static inline void flash_add(float c[][4], const float weights[2][4], const T *rows) {
    int lane = threadIdx.x & 31;
    const T *from = rows + ((lane & 7) + (lane >> 3 & 1) * 8) * FLASH_LD(D) + (lane >> 4) * 8;
    const uint32_t a[4] = {mma_pack<T>(weights[0][0], weights[0][1]), mma_pack<T>(weights[0][2], weights[0][3]),
                           mma_pack<T>(weights[1][0], weights[1][1]), mma_pack<T>(weights[1][2], weights[1][3])};
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
        uint32_t b[4];
        mma_load_transposed(b, from + n * 16);
        mma<T>(c[2 * n], a, b[0], b[1]);
        mma<T>(c[2 * n + 1], a, b[2], b[3]);
    }
}

/* c (16 x D), its halves' rows times `upper` and `lower`, to rows of which `rows` exist. */
template <typename T, int D>
__device__ static inline void flash_store_rows(T *to, int ld, int rows, int width, const float c[][4], float upper,
                                               float lower) {
    int lane = threadIdx.x & 31, r = lane >> 2;
    T *at = to + r * ld + (lane & 3) * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        if (n * 8 >= width) break;
        if (r < rows) *(uint32_t *)(at + n * 8) = mma_pack<T>(c[n][0] * upper, c[n][1] * upper);
        if (r + 8 < rows) *(uint32_t *)(at + 8 * ld + n * 8) = mma_pack<T>(c[n][2] * lower, c[n][3] * lower);
    }
}

/* Sum or maximum over the four lanes that share a C tile's row. */
__device__ static inline float flash_row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ static inline float flash_row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* Where a warp's 16 queries stand, and what its lanes' two see: keys first[.]..at[.]. */
typedef struct FlashQueries {
    int begin, at[2], first[2];
    int first_low, first_high; /* of the warp's first and last query */
} FlashQueries;

__device__ static inline FlashQueries flash_queries(const Flash &f, int b, int begin) {
    FlashQueries q;
    int lane = threadIdx.x & 31;
    q.begin = begin;
    q.at[0] = begin + (lane >> 2);
    q.at[1] = q.at[0] + 8;
    q.first[0] = flash_first_of(f, b, q.at[0]);
    q.first[1] = flash_first_of(f, b, q.at[1]);
    q.first_low = flash_first_of(f, b, begin);
    q.first_high = flash_first_of(f, b, begin + 15);
    return q;
}
/* Do the queries see any, and do they see all, of n keys from `key` on? */
__device__ static inline bool flash_any(const FlashQueries &q, int key, int n) {
    return key <= q.begin + 15 && key + n > q.first_low;
}
__device__ static inline bool flash_all(const FlashQueries &q, int key, int n) {
    return key + n - 1 <= q.begin && key >= q.first_high;
}

/* -------------------------------------------------------------------------------------------------- forward */

/* One tile of keys for one warp: top and sum are the rows' running maximum and the lane's part of their sum. */
template <typename T, int D, int ROWS, FlashKind KIND>
__device__ static inline void flash_forward_tile(const Flash &f, const FlashMask &mask, const FlashQueries &at,
                                                 int key0, const uint32_t q[][4], const T *k, const T *v, float o[][4],
                                                 float top[2], float sum[2]) {
    int lane = threadIdx.x & 31;
    uint32_t keep = 0; /* four bits for each C tile */
    if (KIND == FLASH_DROPOUT)
#pragma unroll 1 /* one draw's registers at a time */
        for (int n = 0; n < ROWS / 8; n++)
            if (flash_any(at, key0 + n * 8, 8)) keep |= flash_keep_by_query(f, mask, at.begin, key0 + n * 8) << 4 * n;
    if (KIND == FLASH_DROPOUT && f.keep)
        f.keep[flash_keep_word(f, mask.head, at.begin / ROWS, key0 / ROWS, ROWS) + threadIdx.x] = keep;
    float s[ROWS / 8][4], base[2];
#pragma unroll
    for (int c = 0; c < ROWS / 16; c++)
        if (flash_any(at, key0 + c * 16, 16)) flash_scores<T, D, KIND>(f, s + 2 * c, q, k + c * 16 * FLASH_LD(D));
    if (!flash_all(at, key0, ROWS))
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = key0 + n * 8 + (lane & 3) * 2 + (e & 1);
                if (key > at.at[e >> 1] || key < at.first[e >> 1]) s[n][e] = -INFINITY;
            }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float high = top[r];
#pragma unroll
        for (int n = 0; n < ROWS / 8; n++) high = fmaxf(high, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        high = flash_row_max(high);
        base[r] = high == -INFINITY ? 0.0f : high * f.score_log2; /* a row that sees nothing of this tile, or so far */
        float shrink = exp2_fast(top[r] * f.score_log2 - base[r]);
        top[r] = high;
        sum[r] *= shrink;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            o[n][2 * r] *= shrink;
            o[n][2 * r + 1] *= shrink;
        }
    }
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = exp2_fast(s[n][e] * f.score_log2 - base[e >> 1]);
            sum[e >> 1] += s[n][e];
        }
#pragma unroll
    for (int c = 0; c < ROWS / 16; c++) {
        if (!flash_any(at, key0 + c * 16, 16)) continue;
        if (KIND == FLASH_DROPOUT)
#pragma unroll
            for (int e = 0; e < 8; e++) s[2 * c + e / 4][e % 4] = keep >> (8 * c + e) & 1 ? s[2 * c + e / 4][e % 4] : 0;
        flash_add<T, D>(o, s + 2 * c, v + c * 16 * FLASH_LD(D));
    }
}

template <typename T, int D, int ROWS, FlashKind KIND>
__global__ void __launch_bounds__(2 * ROWS, flash_resident(D, ROWS)) attention_flash_forward(Flash f) {
#ifdef CUDA_HAS_MMA
    constexpr int TILE = ROWS * FLASH_LD(D), STAGES = ROWS == FLASH_SHORT ? 1 : 2;
    extern __shared__ uint4 flash_shared[];
    T *shared = (T *)flash_shared; /* STAGES of (k, v) */
    int heads = f.batch * f.heads, head = (int)(blockIdx.x % heads), b = head / f.heads, h = head % f.heads;
    int begin = (f.tiles - 1 - (int)(blockIdx.x / heads)) * ROWS; /* the longest first */
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, kv = h / (f.heads / f.kv_heads);
    const T *row = (const T *)f.qkv + (int64_t)b * f.tokens * f.row;
    const T *k = row + (f.heads + kv) * f.head_dim, *v = k + f.kv_heads * f.head_dim;
    int tile = flash_first_of(f, b, begin) / ROWS, last = begin / ROWS;

    auto load = [&](int which, int stage) {
        T *to = shared + stage * 2 * TILE;
        int64_t from = (int64_t)which * ROWS * f.row;
        flash_load_tile<T, D, ROWS>(to, k + from, f.row, f.tokens - which * ROWS, f.head_dim);
        flash_load_tile<T, D, ROWS>(to + TILE, v + from, f.row, f.tokens - which * ROWS, f.head_dim);
    };
    load(tile, 0);
    FlashQueries at = flash_queries(f, b, begin + warp * 16);
    FlashMask mask = {};
    if (KIND == FLASH_DROPOUT) mask = flash_mask(f, head);
    uint32_t q[D / 16][4];
    flash_load_rows<T, D>(q, row + (int64_t)at.begin * f.row + h * f.head_dim, f.row, f.tokens - at.begin, f.head_dim);
    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int stage = 0; tile <= last; tile++) {
        copy_wait();
        __syncthreads();
        if (STAGES > 1 && tile < last) load(tile + 1, stage ^ 1);
        const T *now = shared + stage * 2 * TILE;
        if (at.begin < f.tokens && flash_any(at, tile * ROWS, ROWS))
            flash_forward_tile<T, D, ROWS, KIND>(f, mask, at, tile * ROWS, q, now, now + TILE, o, top, sum);
        if (STAGES > 1) stage ^= 1;
    }
    float keep = KIND == FLASH_DROPOUT ? f.keep_scale : 1.0f;
    sum[0] = flash_row_sum(sum[0]);
    sum[1] = flash_row_sum(sum[1]);
    T *out = (T *)f.out + (((int64_t)b * f.tokens + at.begin) * f.heads + h) * f.head_dim;
    flash_store_rows<T, D>(out, f.heads * f.head_dim, f.tokens - at.begin, f.head_dim, o, keep / sum[0], keep / sum[1]);
    for (int r = 0; r < 2 && (lane & 3) == 0; r++) {
        if (at.at[r] >= f.tokens) break;
        if (f.stats) f.stats[(int64_t)head * f.tokens + at.at[r]] = top[r] * f.score + logf(sum[r]);
        if (f.starts && h == 0) flash_check_start(f, b, at.at[r]);
    }
#endif
}

/* ------------------------------------------------------------------------------------- backward of the queries */

constexpr float FLASH_LOG2E = 1.4426950408889634f;

/* delta of a lane's two rows: do . o. */
template <typename T, int D>
__device__ static inline void flash_delta(float delta[2], const uint32_t d_o[][4], const uint32_t o[][4]) {
    delta[0] = delta[1] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            delta[i & 1] += mma_low<T>(d_o[k][i]) * mma_low<T>(o[k][i]) + mma_high<T>(d_o[k][i]) * mma_high<T>(o[k][i]);
    delta[0] = flash_row_sum(delta[0]);
    delta[1] = flash_row_sum(delta[1]);
}

/* 16 keys for one warp: dq += dS k. */
template <typename T, int D, FlashKind KIND>
__device__ static inline void flash_queries_step(const Flash &f, uint32_t keep, const FlashQueries &at, int key0,
                                                 const uint32_t q[][4], const uint32_t d_o[][4], const float lse[2],
                                                 const float delta[2], const T *k, const T *v, float d_q[][4]) {
    int lane = threadIdx.x & 31;

    float s[2][4], d_p[2][4];
    flash_scores<T, D, KIND>(f, s, q, k);
    flash_product<T, D>(d_p, d_o, v);
    bool edge = !flash_all(at, key0, 16);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int r = e >> 1, key = key0 + n * 8 + (lane & 3) * 2 + (e & 1);
            float p = exp2_fast(s[n][e] * f.score_log2 - lse[r]), g = d_p[n][e];
            if (edge && (key > at.at[r] || key < at.first[r])) p = 0.0f;
            if (KIND == FLASH_DROPOUT) g = keep >> (4 * n + e) & 1 ? g * f.keep_scale : 0.0f;
            g = p * (g - delta[r]);
            s[n][e] = KIND == FLASH_SOFTCAP ? g * tanh_slope(s[n][e]) : g;
        }
    flash_add<T, D>(d_q, s, k);
}

template <typename T, int D, int ROWS, FlashKind KIND>
__device__ static inline void flash_backward_queries(const Flash &f, unsigned block, T *shared) {
    constexpr int TILE = ROWS * FLASH_LD(D), STAGES = ROWS == FLASH_SHORT ? 1 : 2;
    int heads = f.batch * f.heads, head = (int)(block % heads), b = head / f.heads, h = head % f.heads;
    int begin = (f.tiles - 1 - (int)(block / heads)) * ROWS;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, kv = h / (f.heads / f.kv_heads);
    const T *row = (const T *)f.qkv + (int64_t)b * f.tokens * f.row;
    const T *k = row + (f.heads + kv) * f.head_dim, *v = k + f.kv_heads * f.head_dim;
    int tile = flash_first_of(f, b, begin) / ROWS, last = begin / ROWS;

    auto load = [&](int which, int stage) {
        T *to = shared + stage * 2 * TILE;
        int64_t from = (int64_t)which * ROWS * f.row;
        flash_load_tile<T, D, ROWS>(to, k + from, f.row, f.tokens - which * ROWS, f.head_dim);
        flash_load_tile<T, D, ROWS>(to + TILE, v + from, f.row, f.tokens - which * ROWS, f.head_dim);
    };
    load(tile, 0);
    FlashQueries at = flash_queries(f, b, begin + warp * 16);
    auto keep_of = [&](int which) { return f.keep[flash_keep_word(f, head, last, which, ROWS) + threadIdx.x]; };
    uint32_t next_keep = KIND == FLASH_DROPOUT ? keep_of(tile) : 0;
    int64_t out_at = (((int64_t)b * f.tokens + at.begin) * f.heads + h) * f.head_dim;
    int64_t q_at = (int64_t)at.begin * f.row + h * f.head_dim;
    int out_row = f.heads * f.head_dim;
    int rows = f.tokens - at.begin;
    uint32_t q[D / 16][4], d_o[D / 16][4];
    float lse[2], delta[2], d_q[D / 8][4] = {};
    flash_load_rows<T, D>(d_o, (const T *)f.d_out + out_at, out_row, rows, f.head_dim);
    flash_load_rows<T, D>(q, (const T *)f.out + out_at, out_row, rows, f.head_dim); /* o; q comes in its place */
    flash_delta<T, D>(delta, d_o, q);
    flash_load_rows<T, D>(q, row + q_at, f.row, rows, f.head_dim);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bool real = at.at[r] < f.tokens;
        int64_t where = (int64_t)head * f.tokens + at.at[r];
        lse[r] = real ? f.stats[where] * FLASH_LOG2E : 0.0f;
        if (f.delta && real && (lane & 3) == 0) f.delta[where] = delta[r];
    }
    for (int stage = 0; tile <= last; tile++) {
        copy_wait();
        __syncthreads();
        if (STAGES > 1 && tile < last) load(tile + 1, stage ^ 1);
        uint32_t keep = next_keep;
        if (KIND == FLASH_DROPOUT && tile < last) next_keep = keep_of(tile + 1);
        const T *now = shared + stage * 2 * TILE;
#pragma unroll 1
        for (int c = 0; c < ROWS; c += 16)
            if (rows > 0 && flash_any(at, tile * ROWS + c, 16))
                flash_queries_step<T, D, KIND>(f, keep >> c / 2, at, tile * ROWS + c, q, d_o, lse, delta,
                                                  now + c * FLASH_LD(D), now + TILE + c * FLASH_LD(D), d_q);
        if (STAGES > 1) stage ^= 1;
    }
    T *to = (T *)f.d_qkv + (int64_t)b * f.tokens * f.row + q_at;
    flash_store_rows<T, D>(to, f.row, rows, f.head_dim, d_q, f.scale, f.scale);
}

/* ---------------------------------------------------------------------------------------- backward of the keys */

/* A stage of `keys` in shared memory: q and do of ROWS queries, and what belongs to each. */
template <typename T, int D, int ROWS> struct FlashStage {
    T q[ROWS * FLASH_LD(D)], d_o[ROWS * FLASH_LD(D)];
    uint32_t keep[2 * ROWS];
    float lse[ROWS], delta[ROWS];
    int start[ROWS];
};

/* Two threads a query: do . o. */
template <typename T, int D, int ROWS>
__device__ static inline void flash_own_delta(const Flash &f, float *delta, const T *d_o, const T *o, int rows) {
    int r = threadIdx.x >> 1, half = threadIdx.x & 1;
    float sum = 0.0f;
    if (r < rows)
        for (int e = half * 8; e < f.head_dim; e += 16) {
            float x[8], y[8];
            load16(x, d_o + (int64_t)r * f.heads * f.head_dim + e);
            load16(y, o + (int64_t)r * f.heads * f.head_dim + e);
#pragma unroll
            for (int i = 0; i < 8; i++) sum += x[i] * y[i];
        }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (half == 0) delta[r] = sum;
}

/* Queries from `begin` on of head h, a tile of them, to a stage. */
template <typename T, int D, int ROWS, FlashKind KIND>
__device__ static inline void flash_load_queries(const Flash &f, FlashStage<T, D, ROWS> *to, int b, int h, int begin,
                                                 int key_tile) {
    int64_t token = (int64_t)b * f.tokens + begin;
    int64_t out_at = (token * f.heads + h) * f.head_dim, stat = ((int64_t)b * f.heads + h) * f.tokens + begin;
    int rows = f.tokens - begin, i = threadIdx.x;
    flash_load_tile<T, D, ROWS>(to->q, (const T *)f.qkv + token * f.row + h * f.head_dim, f.row, rows, f.head_dim);
    flash_load_tile<T, D, ROWS>(to->d_o, (const T *)f.d_out + out_at, f.heads * f.head_dim, rows, f.head_dim);
    if (i < ROWS) {
        bool real = i < rows;
        int there = real ? i : 0;
        copy4_async(to->lse + i, f.stats + stat + there, real);
        if (f.delta) copy4_async(to->delta + i, f.delta + stat + there, real);
        if (f.starts) copy4_async(to->start + i, f.starts + token + there, real);
    }
    if (KIND == FLASH_DROPOUT && i < ROWS / 2) {
        int64_t head = (int64_t)b * f.heads + h;
        copy16_async(to->keep + i * 4, f.keep + flash_keep_word(f, head, begin / ROWS, key_tile, ROWS) + i * 4, true);
    }
    if (!f.delta)
        flash_own_delta<T, D, ROWS>(f, to->delta, (const T *)f.d_out + out_at, (const T *)f.out + out_at, rows);
}

/* 16 queries from place c of a stage on for one warp of keys from key0 on: dv += P^T do, dk += dS^T q. */
template <typename T, int D, int ROWS, FlashKind KIND>
__device__ static inline void flash_keys_step(const Flash &f, const FlashStage<T, D, ROWS> *now, int begin, int c,
                                              int key0, const uint32_t k[][4], const uint32_t v[][4], float d_k[][4],
                                              float d_v[][4]) {
    int lane = threadIdx.x & 31, query0 = begin + c, last = query0 + 15 < f.tokens ? query0 + 15 : f.tokens - 1;
    auto first_of = [&](int i) { return flash_first(f, i, f.starts ? flash_clamp(now->start[i - begin], i) : 0); };
    if (query0 >= f.tokens || last < key0 || first_of(query0) > key0 + 15) return;
    bool edge = query0 < key0 + 15 || query0 + 15 > last || first_of(last) > key0;
    uint32_t keep[2] = {}; /* of the even and the odd query: bits 4 (e / 2) + 2 n */
    if (KIND == FLASH_DROPOUT) {
        const uint32_t *word = now->keep + c * 2 + (lane & 3) * 8 + (lane >> 3);
        int shift = key0 % ROWS / 2 + (lane >> 2 & 1);
        keep[0] = word[0] >> shift;
        keep[1] = word[4] >> shift;
    }
    float s[2][4], d_p[2][4];
    flash_scores<T, D, KIND>(f, s, k, now->q + c * FLASH_LD(D));
    flash_product<T, D>(d_p, v, now->d_o + c * FLASH_LD(D));
#pragma unroll
    for (int n = 0; n < 2; n++) {
        int place = c + n * 8 + (lane & 3) * 2; /* of the lane's two queries */
        float2 lse = *(const float2 *)(now->lse + place), delta = *(const float2 *)(now->delta + place);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int i = begin + place + (e & 1), key = key0 + (lane >> 2) + (e >> 1) * 8;
            float p = exp2_fast(s[n][e] * f.score_log2 - (e & 1 ? lse.y : lse.x) * FLASH_LOG2E), g = d_p[n][e];
            if (edge && (i >= f.tokens || key > i || key < first_of(i))) p = 0.0f;
            bool kept = KIND != FLASH_DROPOUT || (keep[e & 1] >> (e / 2 * 4 + 2 * n) & 1);
            if (KIND == FLASH_DROPOUT) g = kept ? g * f.keep_scale : 0.0f;
            d_p[n][e] = p * (g - (e & 1 ? delta.y : delta.x));
            if (KIND == FLASH_SOFTCAP) d_p[n][e] *= tanh_slope(s[n][e]);
            s[n][e] = kept ? p : 0.0f;
        }
    }
    flash_add<T, D>(d_v, s, now->d_o + c * FLASH_LD(D));
    flash_add<T, D>(d_k, d_p, now->q + c * FLASH_LD(D));
}

/* Tiles of queries from `begin` on of which at least one query sees a key up to `last`. */
template <int ROWS> __device__ static inline int flash_seeing(const Flash &f, int b, int begin, int last) {
    int n = f.tiles - begin / ROWS;
    if (!f.starts && !f.window) return n;
    int seeing = 0; /* what a tile's first query sees begins later and later */
    for (int from = 0; from < n; from += 2 * ROWS) {
        int tile = from + threadIdx.x;
        seeing += __syncthreads_count(tile < n && flash_first_of(f, b, begin + tile * ROWS) <= last);
    }
    return seeing > 0 ? seeing : 1;
}

template <typename T, int D, int ROWS, FlashKind KIND>
__device__ static inline void flash_backward_keys(const Flash &f, unsigned block, FlashStage<T, D, ROWS> *stages) {
    constexpr int STAGES = ROWS == FLASH_SHORT ? 1 : 2;
    int rows_kv = f.batch * f.kv_heads, b = (int)(block % rows_kv) / f.kv_heads,
        kv = (int)(block % rows_kv) % f.kv_heads;
    int begin = (int)(block / rows_kv) * ROWS, group = f.heads / f.kv_heads, key0 = begin + (threadIdx.x >> 5) * 16;
    int last = (begin + ROWS < f.tokens ? begin + ROWS : f.tokens) - 1;
    int tiles = flash_seeing<ROWS>(f, b, begin, last), end = begin + tiles * ROWS;
    int next_h = kv * group, next = begin; /* the tile of queries that is loaded next */

    auto load = [&](int stage) {
        flash_load_queries<T, D, ROWS, KIND>(f, stages + stage, b, next_h, next, begin / ROWS);
        next += ROWS;
        if (next == end) {
            next = begin;
            next_h++;
        }
    };
    load(0);
    int64_t k_at = ((int64_t)b * f.tokens + key0) * f.row + (f.heads + kv) * f.head_dim;
    int64_t v_at = k_at + f.kv_heads * f.head_dim;
    int rows = f.tokens - key0;
    uint32_t k[D / 16][4], v[D / 16][4];
    flash_load_rows<T, D>(k, (const T *)f.qkv + k_at, f.row, rows, f.head_dim);
    flash_load_rows<T, D>(v, (const T *)f.qkv + v_at, f.row, rows, f.head_dim);
    float d_k[D / 8][4] = {}, d_v[D / 8][4] = {};
    for (int steps = group * tiles, now = begin, stage = 0; steps > 0; steps--) {
        copy_wait();
        __syncthreads();
        if (STAGES > 1 && steps > 1) load(stage ^ 1);
#pragma unroll 1
        for (int c = 0; c < ROWS; c += 16)
            flash_keys_step<T, D, ROWS, KIND>(f, stages + stage, now, c, key0, k, v, d_k, d_v);
        now = now + ROWS == end ? begin : now + ROWS;
        if (STAGES > 1) {
            stage ^= 1;
        } else if (steps > 1) {
            __syncthreads();
            load(0);
        }
    }
    float keep = KIND == FLASH_DROPOUT ? f.keep_scale : 1.0f;
    flash_store_rows<T, D>((T *)f.d_qkv + k_at, f.row, rows, f.head_dim, d_k, f.scale, f.scale);
    flash_store_rows<T, D>((T *)f.d_qkv + v_at, f.row, rows, f.head_dim, d_v, keep, keep);
}

enum FlashPart { FLASH_QUERIES, FLASH_KEYS, FLASH_BOTH };
template <typename T, int D, int ROWS, FlashKind KIND, FlashPart PART>
__global__ void __launch_bounds__(2 * ROWS, flash_resident(D, ROWS)) attention_flash_backward(Flash f) {
#ifdef CUDA_HAS_MMA
    extern __shared__ uint4 flash_shared[];
    if (PART == FLASH_KEYS || (PART == FLASH_BOTH && blockIdx.x < f.key_blocks))
        flash_backward_keys<T, D, ROWS, KIND>(f, blockIdx.x, (FlashStage<T, D, ROWS> *)flash_shared);
    else flash_backward_queries<T, D, ROWS, KIND>(f, blockIdx.x - f.key_blocks, (T *)flash_shared);
#endif
}

/* ------------------------------------------------------------------------------------------------- the host */

static bool flash_supports(const Node *node) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const Tensor *qkv = node->in[QKV];
    int64_t tiles = cuda_blocks(qkv->shape[1], FLASH_ROWS);
    if (a->dropout > 0.0f && a->softcap > 0.0f) return false;
    return cuda_device(node)->major >= 8 && (qkv->dtype == DTYPE_BF16 || qkv->dtype == DTYPE_F16) &&
           a->head_dim % 16 == 0 && a->head_dim <= FLASH_DIM && qkv->shape[0] * a->heads * tiles <= INT32_MAX;
}
static int flash_rows(const Node *node) { return node->in[QKV]->shape[1] <= FLASH_SHORT ? FLASH_SHORT : FLASH_ROWS; }
/* Words for the keep bits: what flash_keep_word counts; 0 without dropout or backward. */
static int64_t flash_keep_words(const Node *node) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const int64_t *shape = node->in[QKV]->shape;
    int64_t rows = flash_rows(node), tiles = cuda_blocks(shape[1], rows);
    return node->live && a->dropout > 0.0f ? shape[0] * a->heads * (tiles * (tiles + 1) / 2) * 2 * rows : 0;
}
/* Bytes for delta. */
static size_t flash_scratch(const Node *node) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const int64_t *shape = node->in[QKV]->shape;
    if (!node->live || shape[1] <= flash_rows(node)) return 0;
    return (size_t)(shape[0] * a->heads * shape[1]) * sizeof(float);
}

static Flash flash_of(const Node *node, const TapeRun *run, bool backward) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    const Tensor *qkv = node->in[QKV], *starts = node->in[STARTS];
    int rows = flash_rows(node);
    Flash f = {};
    f.qkv = qkv->data;
    f.out = node->out[0]->data;
    f.d_out = backward ? node->out[0]->grad->data : NULL;
    f.d_qkv = backward ? qkv->grad->data : NULL;
    f.stats = node->n_saved ? (float *)node->saved[SAVED_STATS]->data : NULL;
    f.keep = node->n_saved > FLASH_SAVED_KEEP ? (uint32_t *)node->saved[FLASH_SAVED_KEEP]->data : NULL;
    f.tokens = (int)qkv->shape[1];
    f.delta = backward && f.tokens > rows ? (float *)node->scratch : NULL;
    f.starts = starts ? (const int32_t *)starts->data : NULL;
    f.run = run->on_device;
    f.fault = cuda_device(node)->fault;
    f.heads = a->heads;
    f.kv_heads = a->kv_heads;
    f.head_dim = a->head_dim;
    f.window = (int)a->window;
    f.tiles = (int)cuda_blocks(f.tokens, rows);
    f.row = (int)qkv->shape[2];
    f.batch = (int)qkv->shape[0];
    f.node = node->index;
    f.mask_row = (int)attention_mask_row(f.tokens);
    f.scale = a->scale;
    f.cap = a->softcap > 0.0f ? a->scale / a->softcap : 0.0f;
    f.score = a->softcap > 0.0f ? a->softcap : a->scale;
    f.score_log2 = f.score * FLASH_LOG2E;
    f.keep_scale = 1.0f / (1.0f - a->dropout);
    f.threshold = (uint32_t)ceilf(a->dropout * 0x1p24f) << 8; /* word >> 8 below p 2^24: as rng_u01(word) < p */
    return f;
}

static Status flash_launch(const Node *node, void (*kernel)(Flash), const Flash &f, unsigned blocks, int rows,
                           size_t shared) {
    if (!blocks) return TANE_OK;
    if (shared > 48 * 1024) TRY_RETURN(cuda_shared_memory((const void *)kernel, shared));
    kernel<<<blocks, 2 * rows, shared, cuda_device(node)->stream>>>(f);
    CUDA_LAUNCHED();
    return TANE_OK;
}

template <typename T, int D, int ROWS, FlashKind KIND>
static Status flash_run_as(const Node *node, Flash f, bool backward) {
    constexpr int STAGES = ROWS == FLASH_SHORT ? 1 : 2;
    size_t tiles = (size_t)STAGES * 2 * ROWS * FLASH_LD(D) * sizeof(T),
           stages = STAGES * sizeof(FlashStage<T, D, ROWS>);
    unsigned query_blocks = (unsigned)(f.tiles * f.batch * f.heads);
    if (!backward)
        return flash_launch(node, attention_flash_forward<T, D, ROWS, KIND>, f, query_blocks, ROWS, tiles);
    unsigned key_blocks = (unsigned)(f.tiles * f.batch * f.kv_heads);
    if constexpr (ROWS != FLASH_SHORT) /* more than one tile */
        if (f.delta) {
            TRY_RETURN(flash_launch(node, attention_flash_backward<T, D, ROWS, KIND, FLASH_QUERIES>, f, query_blocks,
                                    ROWS, tiles));
            return flash_launch(node, attention_flash_backward<T, D, ROWS, KIND, FLASH_KEYS>, f, key_blocks, ROWS,
                                stages);
        }
    f.key_blocks = key_blocks;
    return flash_launch(node, attention_flash_backward<T, D, ROWS, KIND, FLASH_BOTH>, f, key_blocks + query_blocks,
                        ROWS, stages);
}

template <typename T, int D, int ROWS>
static Status flash_run_rows(const Node *node, const TapeRun *run, bool backward) {
    const AttentionShape *a = &((const AttentionArgs *)node->args)->shape;
    Flash f = flash_of(node, run, backward);
    if (a->softcap > 0.0f) return flash_run_as<T, D, ROWS, FLASH_SOFTCAP>(node, f, backward);
    if (run->training && a->dropout > 0.0f) return flash_run_as<T, D, ROWS, FLASH_DROPOUT>(node, f, backward);
    return flash_run_as<T, D, ROWS, FLASH_BARE>(node, f, backward);
}

template <typename T, int D> static Status flash_run_dim(const Node *node, const TapeRun *run, bool backward) {
    return flash_rows(node) == FLASH_SHORT ? flash_run_rows<T, D, FLASH_SHORT>(node, run, backward)
                                           : flash_run_rows<T, D, FLASH_ROWS>(node, run, backward);
}

template <typename T> static Status flash_run_type(const Node *node, const TapeRun *run, bool backward) {
    int d = ((const AttentionArgs *)node->args)->shape.head_dim;
    return d <= 32   ? flash_run_dim<T, 32>(node, run, backward)
           : d <= 64 ? flash_run_dim<T, 64>(node, run, backward)
                     : flash_run_dim<T, 128>(node, run, backward);
}

static Status flash_run(const Node *node, const TapeRun *run, bool backward) {
    return node->in[QKV]->dtype == DTYPE_BF16 ? flash_run_type<__nv_bfloat16>(node, run, backward)
                                              : flash_run_type<__half>(node, run, backward);
}
static Status flash_forward(const Node *node, const TapeRun *run) { return flash_run(node, run, false); }
static Status flash_backward(const Node *node, const TapeRun *run) { return flash_run(node, run, true); }

#endif
