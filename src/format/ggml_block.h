/* The layout of ggml's blocks, and what decoding and encoding share. Blocks lie at any address, in little-endian order.
 *
 *     Q4_0  d f16 | 16 bytes: number i in the low, i + 16 in the high halves              x = d (q - 8)
 *     Q4_1  d f16, m f16 | 16 bytes                                                       x = d q + m
 *     Q5_0  d f16 | u32: fifth bits | 16 bytes                                            x = d (q - 16)
 *     Q5_1  d f16, m f16 | u32 | 16 bytes                                                 x = d q + m
 *     Q8_0  d f16 | 32 signed bytes                                                       x = d q
 *     Q4_K  d f16, dmin f16 | 12 bytes: 8 scales and 8 minima of 6 bits | 128 bytes       x = d scale q - dmin min
 *     Q5_K  d f16, dmin f16 | 12 bytes | 32 bytes: fifth bits | 128 bytes                 the same
 *     Q6_K  128 bytes: low 4 bits | 64 bytes: high 2 | 16 signed scales | d f16           x = d scale (q - 32)
 *
 * The K types hold 256 numbers: 8 sub-blocks of 32 (Q6_K: 16 of 16). Bytes of 4 bits hold two neighbouring sub-blocks.
 */
#ifndef FORMAT_GGML_BLOCK_H
#define FORMAT_GGML_BLOCK_H

#include <stdint.h>
#include <string.h>

#include "format/ggml.h"

enum {
    SMALL_BLOCK = 32,
    K_BLOCK = 256,
    K_SUBS = 8, /* of Q4_K and Q5_K */
    Q4_0_BYTES = 2 + 16,
    Q4_1_BYTES = 4 + 16,
    Q5_0_BYTES = 2 + 4 + 16,
    Q5_1_BYTES = 4 + 4 + 16,
    Q8_0_BYTES = 2 + 32,
    Q4_K_BYTES = 4 + 12 + 128,
    Q5_K_BYTES = 4 + 12 + 32 + 128,
    Q6_K_BYTES = 128 + 64 + 16 + 2
};

/* A function of this kind is compiled once for plain x86-64 and once for AVX2, as part of whoever calls it. Never with
 * FMA: so the results are the same on every machine. */
#define GGML_INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#include <immintrin.h>
#define GGML_AVX2 __attribute__((target("avx2,f16c")))
extern bool ggml_cpu_avx2; /* this processor has AVX2 and F16C */
#ifndef GGML_HAS_AVX2      /* a test says no */
#define GGML_HAS_AVX2() ggml_cpu_avx2
#endif
#endif

GGML_INLINE float bits_to_f32(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
GGML_INLINE uint32_t f32_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* f16_to_f32 and f32_to_f16 of base/dtype.h without branches, so that loops over them become vector code. */
GGML_INLINE float half_to_f32(uint16_t half) {
    uint32_t exponent = half & 0x7c00u, magnitude = half & 0x7fffu;
    uint32_t normal = (magnitude << 13) + (112u << 23) + (exponent == 0x7c00u ? 112u << 23 : 0);
    uint32_t subnormal = f32_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    return bits_to_f32((exponent ? normal : subnormal) | (half & 0x8000u) << 16);
}
GGML_INLINE uint16_t f32_to_half(float f) {
    uint32_t bits = f32_to_bits(f), magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    uint32_t subnormal = f32_to_bits(bits_to_f32(magnitude) + 0.5f) & 0xffffu; /* rounds to multiples of 2^-24 */
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half; /* rounds to 65536 or more */
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

GGML_INLINE float load_half(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, 2);
    return half_to_f32(half);
}
GGML_INLINE void store_half(uint8_t *p, float f) {
    uint16_t half = f32_to_half(f);
    memcpy(p, &half, 2);
}

#endif
