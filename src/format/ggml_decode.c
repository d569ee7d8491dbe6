/* Blocks to numbers: the same bits as ggml's reference functions. Each product of a scale and a quantized number is
 * exact in fp32 or rounded once, so there is one right answer. */
#include "format/ggml_block.h"

/* ---- blocks of 32 ----------------------------------------------------------------------------------------------- */

GGML_INLINE void decode_q4_0(const uint8_t *in, float *out) {
    const uint8_t *q = in + 2;
    float d = load_half(in);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[i] = d * (float)((q[i] & 15) - 8);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)((q[i] >> 4) - 8);
}

GGML_INLINE void decode_q4_1(const uint8_t *in, float *out) {
    const uint8_t *q = in + 4;
    float d = load_half(in), m = load_half(in + 2);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[i] = d * (float)(q[i] & 15) + m;
#pragma omp simd
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)(q[i] >> 4) + m;
}

GGML_INLINE void decode_q5_0(const uint8_t *in, float *out) {
    const uint8_t *q = in + 6;
    float d = load_half(in);
    uint32_t high;
    memcpy(&high, in + 2, 4);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[i] = d * (float)(((q[i] & 15) | (int)(high >> i & 1) << 4) - 16);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)((q[i] >> 4 | (int)(high >> (16 + i) & 1) << 4) - 16);
}

GGML_INLINE void decode_q5_1(const uint8_t *in, float *out) {
    const uint8_t *q = in + 8;
    float d = load_half(in), m = load_half(in + 2);
    uint32_t high;
    memcpy(&high, in + 4, 4);
#pragma omp simd
    for (int i = 0; i < 16; i++) out[i] = d * (float)((q[i] & 15) | (int)(high >> i & 1) << 4) + m;
#pragma omp simd
    for (int i = 0; i < 16; i++) out[16 + i] = d * (float)(q[i] >> 4 | (int)(high >> (16 + i) & 1) << 4) + m;
}

GGML_INLINE void decode_q8_0(const uint8_t *in, float *out) {
    const int8_t *q = (const int8_t *)in + 2;
    float d = load_half(in);
#pragma omp simd
    for (int i = 0; i < SMALL_BLOCK; i++) out[i] = d * (float)q[i];
}

/* ---- blocks of 256 ---------------------------------------------------------------------------------------------- */

/* Scales 0-3 and minima 0-3 are the low six bits of bytes 0-3 and 4-7. Of 4-7 the low four bits are the halves of bytes
 * 8-11, and the high two stand above scales and minima 0-3. */
GGML_INLINE void unpack_scales(const uint8_t *p, uint8_t scales[K_SUBS], uint8_t minima[K_SUBS]) {
    for (int j = 0; j < 4; j++) {
        scales[j] = p[j] & 63;
        minima[j] = p[4 + j] & 63;
        scales[4 + j] = (uint8_t)((p[8 + j] & 15) | p[j] >> 6 << 4);
        minima[4 + j] = (uint8_t)(p[8 + j] >> 4 | p[4 + j] >> 6 << 4);
    }
}

GGML_INLINE void decode_q4_k(const uint8_t *in, float *out) {
    uint8_t scales[K_SUBS], minima[K_SUBS];
    float d = load_half(in), dmin = load_half(in + 2);
    unpack_scales(in + 4, scales, minima);
    for (int j = 0; j < K_SUBS; j += 2) {
        const uint8_t *q = in + 16 + 16 * j;
        float *to = out + 32 * j;
        float scale = d * (float)scales[j], min = dmin * (float)minima[j];
#pragma omp simd
        for (int i = 0; i < 32; i++) to[i] = scale * (float)(q[i] & 15) - min;
        scale = d * (float)scales[j + 1], min = dmin * (float)minima[j + 1];
#pragma omp simd
        for (int i = 0; i < 32; i++) to[32 + i] = scale * (float)(q[i] >> 4) - min;
    }
}

GGML_INLINE void decode_q5_k(const uint8_t *in, float *out) {
    uint8_t scales[K_SUBS], minima[K_SUBS];
    const uint8_t *high = in + 16;
    float d = load_half(in), dmin = load_half(in + 2);
    unpack_scales(in + 4, scales, minima);
    for (int j = 0; j < K_SUBS; j += 2) { /* bit j of high[i] belongs to number i of sub-block j */
        const uint8_t *q = in + 48 + 16 * j;
        float *to = out + 32 * j;
        float scale = d * (float)scales[j], min = dmin * (float)minima[j];
#pragma omp simd
        for (int i = 0; i < 32; i++) to[i] = scale * (float)((q[i] & 15) | (high[i] >> j & 1) << 4) - min;
        scale = d * (float)scales[j + 1], min = dmin * (float)minima[j + 1];
#pragma omp simd
        for (int i = 0; i < 32; i++) to[32 + i] = scale * (float)(q[i] >> 4 | (high[i] >> (j + 1) & 1) << 4) - min;
    }
}

/* Each half of the block, 128 numbers, has 64 bytes of low and 32 bytes of high bits; its four quarters of 32 numbers
 * are the low halves of the first and second 32 bytes, then the high ones, and bits 0-1, 2-3, 4-5 and 6-7. */
GGML_INLINE void decode_q6_k(const uint8_t *in, float *out) {
    const int8_t *scales = (const int8_t *)in + 192;
    float d = load_half(in + 208);
    for (int sub = 0; sub < 16; sub++) {
        int quarter = sub / 2 % 4, from = sub % 2 * 16;
        const uint8_t *low = in + sub / 8 * 64 + quarter % 2 * 32 + from;
        const uint8_t *high = in + 128 + sub / 8 * 32 + from;
        int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
        float scale = d * (float)scales[sub];
#pragma omp simd
        for (int i = 0; i < 16; i++)
            out[16 * sub + i] = scale * (float)(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

GGML_INLINE void decode_f16(const uint8_t *in, int64_t n, float *out) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = load_half(in + 2 * i);
}

GGML_INLINE void decode_bf16(const uint8_t *in, int64_t n, float *out) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = bits_to_f32((uint32_t)in[2 * i] << 16 | (uint32_t)in[2 * i + 1] << 24);
}

#define BLOCKS(decode, block, bytes)                                                                                   \
    for (int64_t i = 0; i < n; i += (block), in += (bytes)) decode(in, out + i);                                       \
    break

GGML_INLINE void decode(GgmlType type, const uint8_t *in, int64_t n, float *out) {
    switch (type) {
    case GGML_F32: memcpy(out, in, (size_t)n * 4); break;
    case GGML_F16: decode_f16(in, n, out); break;
    case GGML_BF16: decode_bf16(in, n, out); break;
    case GGML_Q4_0: BLOCKS(decode_q4_0, SMALL_BLOCK, Q4_0_BYTES);
    case GGML_Q4_1: BLOCKS(decode_q4_1, SMALL_BLOCK, Q4_1_BYTES);
    case GGML_Q5_0: BLOCKS(decode_q5_0, SMALL_BLOCK, Q5_0_BYTES);
    case GGML_Q5_1: BLOCKS(decode_q5_1, SMALL_BLOCK, Q5_1_BYTES);
    case GGML_Q8_0: BLOCKS(decode_q8_0, SMALL_BLOCK, Q8_0_BYTES);
    case GGML_Q4_K: BLOCKS(decode_q4_k, K_BLOCK, Q4_K_BYTES);
    case GGML_Q5_K: BLOCKS(decode_q5_k, K_BLOCK, Q5_K_BYTES);
    case GGML_Q6_K: BLOCKS(decode_q6_k, K_BLOCK, Q6_K_BYTES);
    }
}

#if defined(__x86_64__)
GGML_AVX2 static void decode_avx2(GgmlType type, const uint8_t *in, int64_t n, float *out) {
    for (; type == GGML_F16 && n >= 8; n -= 8, in += 16, out += 8)
        _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)in)));
    decode(type, in, n, out);
}
#endif

void ggml_decode(GgmlType type, const void *blocks, int64_t n, float *out) {
    if (n <= 0) return;
#if defined(__x86_64__)
    if (GGML_HAS_AVX2()) {
        decode_avx2(type, blocks, n, out);
        return;
    }
#endif
    decode(type, blocks, n, out);
}
