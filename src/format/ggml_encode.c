/* Numbers to blocks. Q8_0 and Q4_0 have the bytes of ggml's reference functions. Q4_K has a search of its own.
 *
 * A number that is not finite makes its whole block NaN (F16 and BF16 keep it), and one too large for the block's scale
 * makes it NaN or Inf: it must show and not become a zero.
 */
#include <math.h>

#include "format/ggml_block.h"

static const uint8_t nan_half[2] = {0x00, 0x7e};

/* The bits of the largest |x|; from 0x7f800000 on some x is Inf or NaN. Whole numbers, because their maximum does not
 * depend on order or on NaN, so it vectorises. */
GGML_INLINE uint32_t largest_bits(const float *x, int n) {
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int i = 0; i < n; i++) {
        uint32_t bits = f32_to_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

/* ---- Q8_0 and Q4_0 ---------------------------------------------------------------------------------------------- */

/* d = max|x| / 127, q = x / d rounded to nearest, halves away from zero. */
GGML_INLINE void encode_q8_0(const float *x, uint8_t *out) {
    uint32_t most = largest_bits(x, SMALL_BLOCK);
    float d = bits_to_f32(most) / 127.0f, inverse = d != 0 ? 1.0f / d : 0;
    int8_t *q = (int8_t *)out + 2;
    store_half(out, d);
    if (most >= 0x7f800000u) memcpy(out, nan_half, 2);
#pragma omp simd
    for (int i = 0; i < SMALL_BLOCK; i++) {
        float y = x[i] * inverse;
        y = fabsf(y) <= 128.0f ? y : 0; /* 1/d overflows where d is no f16 either */
        /* What is below a half by half an ulp, so that 0.49999997 + it is no 1. */
        q[i] = (int8_t)(int)(y + copysignf(0x1.fffffep-2f, y));
    }
}

/* The number of largest magnitude, the first of equals, becomes -8: q = x / d + 8 rounded, at most 15. */
GGML_INLINE void encode_q4_0(const float *x, uint8_t *out) {
    uint32_t most = largest_bits(x, SMALL_BLOCK);
    int first = SMALL_BLOCK - 1;
    uint8_t q[SMALL_BLOCK];
#pragma omp simd reduction(min : first)
    for (int i = 0; i < SMALL_BLOCK; i++) {
        int at = (f32_to_bits(x[i]) & 0x7fffffffu) == most ? i : SMALL_BLOCK;
        first = at < first ? at : first;
    }
    float d = most ? x[first] / -8.0f : -0.0f, inverse = most ? 1.0f / d : 0;
    store_half(out, d);
    if (most >= 0x7f800000u) memcpy(out, nan_half, 2);
#pragma omp simd
    for (int i = 0; i < SMALL_BLOCK; i++) {
        float y = x[i] * inverse + 8.5f;
        y = fabsf(y) <= 17.0f ? y : 0;
        int whole = (int)y;
        q[i] = (uint8_t)(whole < 15 ? whole : 15);
    }
#pragma omp simd
    for (int i = 0; i < 16; i++) out[2 + i] = (uint8_t)(q[i] | q[16 + i] << 4);
}

/* ---- Q4_K ------------------------------------------------------------------------------------------------------- *
 *
 * Wanted are d, dmin, and for each sub-block a scale, a minimum and 32 q that make sum w (x - (d scale q - dmin min))^2
 * small, w = rms + |x| of the sub-block: large weights matter more, but not alone.
 *
 *   1. Each sub-block for itself, with real scale and minimum: q from several guesses of the range, then the line of
 *      least squares through the q, again and again; the best one wins.
 *   2. The largest scale and minimum give d and dmin; each sub-block takes the pair of whole numbers, near its own,
 *      with the least error.
 *   3. With all q fixed, d and dmin by least squares over the block, and the pairs once more; kept if better.
 */

enum { GUESSES = 4, LINES = 3, MAX_SCALE = 63 };
static const float LARGEST = 65504.0f * 63 * 15; /* that the type can hold; its cube is still far from overflow */

typedef struct Sub {
    float x[32], w[32];
    float scale, min; /* real ones: x = scale q - min */
    int si, mi;       /* whole ones, 0 to 63 */
    float error;
} Sub;

/* In one order whatever the width of vectors. */
GGML_INLINE float sum_32(const float *e) {
    float s[8];
#pragma omp simd
    for (int i = 0; i < 8; i++) s[i] = (e[i] + e[8 + i]) + (e[16 + i] + e[24 + i]);
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Smallest and largest of 32 numbers and zero. */
GGML_INLINE void range_of(const float *x, float *low, float *high) {
    float least[8] = {0}, most[8] = {0};
    for (int part = 0; part < 32; part += 8)
#pragma omp simd
        for (int i = 0; i < 8; i++) {
            least[i] = x[part + i] < least[i] ? x[part + i] : least[i];
            most[i] = x[part + i] > most[i] ? x[part + i] : most[i];
        }
    for (int i = 0; i < 8; i++) {
        *low = least[i] < *low ? least[i] : *low;
        *high = most[i] > *high ? most[i] : *high;
    }
}

/* q and the error of a scale and a minimum. */
GGML_INLINE float quantize_sub(const Sub *sub, float scale, float min, float *q) {
    float y[32], e[32], inverse = scale > 0 ? 1.0f / scale : 0;
    inverse = inverse <= 3e38f ? inverse : 0;
#pragma omp simd
    for (int i = 0; i < 32; i++) {
        float to = (sub->x[i] + min) * inverse + 0.5f;
        to = to > 0 ? to : 0;
        y[i] = to < 15.5f ? to : 15.5f;
    }
#pragma omp simd
    for (int i = 0; i < 32; i++) { /* a loop of its own: gcc makes branches of limits that it sees rounded */
        q[i] = (float)(int)y[i];
        float off = sub->x[i] - (scale * q[i] - min);
        e[i] = sub->w[i] * off * off;
    }
    return sum_32(e);
}

/* The least-squares line x = scale q - min through given q, with min >= 0. False where all q are the same. */
GGML_INLINE bool fit_line(const Sub *sub, const float *q, float *scale, float *min) {
    float wq[32], wqq[32], wx[32], wqx[32];
#pragma omp simd
    for (int i = 0; i < 32; i++) {
        wq[i] = sub->w[i] * q[i];
        wqq[i] = wq[i] * q[i];
        wx[i] = sub->w[i] * sub->x[i];
        wqx[i] = wq[i] * sub->x[i];
    }
    float sw = sum_32(sub->w), sq = sum_32(wq), sqq = sum_32(wqq), sx = sum_32(wx), sqx = sum_32(wqx);
    float det = sw * sqq - sq * sq;
    if (!(det > 0)) return false;
    *scale = (sw * sqx - sx * sq) / det;
    *min = (sq * sqx - sqq * sx) / det;
    if (*min < 0) {
        *min = 0;
        *scale = sqx / sqq;
    }
    return *scale > 0;
}

/* Step 1. */
GGML_INLINE void fit_sub(Sub *sub) {
    float q[32], low = 0, high = 0;
    range_of(sub->x, &low, &high);
#pragma omp simd
    for (int i = 0; i < 32; i++) q[i] = sub->x[i] * sub->x[i];
    float rms = sqrtf(sum_32(q) / 32);
#pragma omp simd
    for (int i = 0; i < 32; i++) sub->w[i] = rms + fabsf(sub->x[i]);
    sub->scale = (high - low) / 15;
    sub->min = -low;
    sub->error = quantize_sub(sub, sub->scale, sub->min, q);
    for (int guess = 0; guess < GUESSES; guess++) {
        float scale = (high - low) / (14.25f + 0.5f * (float)guess), min = -low;
        quantize_sub(sub, scale, min, q);
        for (int line = 0; line < LINES && fit_line(sub, q, &scale, &min); line++) {
            float error = quantize_sub(sub, scale, min, q);
            if (error >= sub->error) continue;
            sub->error = error;
            sub->scale = scale;
            sub->min = min;
        }
    }
}

GGML_INLINE int to_scale(float x) {
    return x < 0.5f ? 0 : x < MAX_SCALE ? (int)(x + 0.5f) : MAX_SCALE; /* also of NaN */
}

/* Step 2 for given d and dmin, which are f16: the error of the block. */
GGML_INLINE float choose_pairs(Sub *subs, float d, float dmin) {
    float total = 0, q[32];
    for (int j = 0; j < K_SUBS; j++) {
        Sub *sub = &subs[j];
        int s0 = to_scale(d > 0 ? sub->scale / d : 0), m0 = to_scale(dmin > 0 ? sub->min / dmin : 0);
        sub->error = INFINITY;
        for (int s = s0 - 1; s <= s0 + 1; s++)
            for (int m = m0 - 1; m <= m0 + 1; m++) {
                if (s < 0 || m < 0 || s > MAX_SCALE || m > MAX_SCALE) continue;
                float error = quantize_sub(sub, d * (float)s, dmin * (float)m, q);
                if (error >= sub->error) continue;
                sub->error = error;
                sub->si = s;
                sub->mi = m;
            }
        total += sub->error;
    }
    return total;
}

/* d and dmin by least squares over the block for the q, scales and minima that it has. */
GGML_INLINE bool fit_block(const Sub *subs, float *d, float *dmin) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int j = 0; j < K_SUBS; j++) {
        const Sub *sub = &subs[j];
        float q[32], wq[32], wqq[32], wx[32], wqx[32];
        double s = sub->si, m = sub->mi;
        quantize_sub(sub, *d * (float)sub->si, *dmin * (float)sub->mi, q);
#pragma omp simd
        for (int i = 0; i < 32; i++) {
            wq[i] = sub->w[i] * q[i];
            wqq[i] = wq[i] * q[i];
            wx[i] = sub->w[i] * sub->x[i];
            wqx[i] = wq[i] * sub->x[i];
        }
        aa += s * s * (double)sum_32(wqq);
        ab -= s * m * (double)sum_32(wq);
        bb += m * m * (double)sum_32(sub->w);
        ax += s * (double)sum_32(wqx);
        bx -= m * (double)sum_32(wx);
    }
    double det = aa * bb - ab * ab;
    if (!(det > 0)) return false;
    *d = half_to_f32(f32_to_half((float)((ax * bb - bx * ab) / det)));
    *dmin = half_to_f32(f32_to_half((float)((bx * aa - ax * ab) / det)));
    return *d > 0 && *dmin >= 0 && *d < INFINITY && *dmin < INFINITY;
}

GGML_INLINE void pack_q4_k(const Sub *subs, float d, float dmin, uint8_t *out) {
    uint8_t *packed = out + 4;
    float q[2][32];
    store_half(out, d);
    store_half(out + 2, dmin);
    for (int j = 0; j < 4; j++) {
        const Sub *a = &subs[j], *b = &subs[4 + j];
        packed[j] = (uint8_t)(a->si | b->si >> 4 << 6);
        packed[4 + j] = (uint8_t)(a->mi | b->mi >> 4 << 6);
        packed[8 + j] = (uint8_t)((b->si & 15) | (b->mi & 15) << 4);
    }
    for (int j = 0; j < K_SUBS; j += 2) {
        for (int k = 0; k < 2; k++)
            quantize_sub(&subs[j + k], d * (float)subs[j + k].si, dmin * (float)subs[j + k].mi, q[k]);
        for (int i = 0; i < 32; i++) out[16 + 16 * j + i] = (uint8_t)((int)q[0][i] | (int)q[1][i] << 4);
    }
}

GGML_INLINE void encode_q4_k(const float *x, uint8_t *out) {
    Sub subs[K_SUBS], tried[K_SUBS];
    float scale = 0, min = 0;
    memset(out, 0, Q4_K_BYTES);
    memcpy(out, nan_half, 2); /* stays where x is not finite or too large for d */
    if (largest_bits(x, K_BLOCK) > f32_to_bits(LARGEST)) return;
    for (int j = 0; j < K_SUBS; j++) {
        memcpy(subs[j].x, x + 32 * j, sizeof subs[j].x);
        fit_sub(&subs[j]);
        scale = subs[j].scale > scale ? subs[j].scale : scale;
        min = subs[j].min > min ? subs[j].min : min;
    }
    float d = half_to_f32(f32_to_half(scale / MAX_SCALE)), dmin = half_to_f32(f32_to_half(min / MAX_SCALE));
    if (!(d < INFINITY && dmin < INFINITY)) return;
    float error = choose_pairs(subs, d, dmin);
    memcpy(tried, subs, sizeof subs);
    float new_d = d, new_dmin = dmin;
    if (fit_block(tried, &new_d, &new_dmin) && choose_pairs(tried, new_d, new_dmin) < error)
        pack_q4_k(tried, new_d, new_dmin, out);
    else pack_q4_k(subs, d, dmin, out);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

GGML_INLINE void encode_f16(const float *x, int64_t n, uint8_t *out) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) store_half(out + 2 * i, x[i]);
}

GGML_INLINE void encode_bf16(const float *x, int64_t n, uint8_t *out) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint16_t half = f32_to_bf16(x[i]);
        memcpy(out + 2 * i, &half, 2);
    }
}

#define BLOCKS(encode, block, bytes)                                                                                   \
    for (int64_t i = 0; i < n; i += (block), out += (bytes)) encode(x + i, out);                                       \
    break

GGML_INLINE void encode(GgmlType type, const float *x, int64_t n, uint8_t *out) {
    switch (type) {
    case GGML_F32: memcpy(out, x, (size_t)n * 4); break;
    case GGML_F16: encode_f16(x, n, out); break;
    case GGML_BF16: encode_bf16(x, n, out); break;
    case GGML_Q8_0: BLOCKS(encode_q8_0, SMALL_BLOCK, Q8_0_BYTES);
    case GGML_Q4_0: BLOCKS(encode_q4_0, SMALL_BLOCK, Q4_0_BYTES);
    case GGML_Q4_K: BLOCKS(encode_q4_k, K_BLOCK, Q4_K_BYTES);
    case GGML_Q4_1:
    case GGML_Q5_0:
    case GGML_Q5_1:
    case GGML_Q5_K:
    case GGML_Q6_K: break; /* the table says so */
    }
}

#if defined(__x86_64__)
/* The instruction would keep some bits of a NaN. */
GGML_AVX2 static void encode_f16_avx2(const float *x, uint8_t *out) {
    __m256 v = _mm256_loadu_ps(x), sign = _mm256_and_ps(v, _mm256_set1_ps(-0.0f));
    __m256 quiet = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
    v = _mm256_blendv_ps(v, quiet, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

GGML_AVX2 static void encode_avx2(GgmlType type, const float *x, int64_t n, uint8_t *out) {
    for (; type == GGML_F16 && n >= 8; n -= 8, x += 8, out += 16) encode_f16_avx2(x, out);
    encode(type, x, n, out);
}
#endif

void ggml_encode(GgmlType type, const float *x, int64_t n, void *blocks) {
    if (n <= 0) return;
#if defined(__x86_64__)
    if (GGML_HAS_AVX2()) {
        encode_avx2(type, x, n, blocks);
        return;
    }
#endif
    encode(type, x, n, blocks);
}
