/* Element types of tensors, in memory and in files, and the two 16-bit float conversions. */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum DType {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_COUNT
} DType;

static inline size_t dtype_size(DType type) {
    static const uint8_t size[DTYPE_COUNT] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1};
    return size[type];
}

/* "fp32", "bf16", ...: the words of the options and of reports. */
static inline const char *dtype_name(DType type) {
    static const char *const name[DTYPE_COUNT] = {"fp32", "bf16", "fp16", "fp64",  "int64",
                                                  "int32", "int16", "int8", "uint8", "bool"};
    return name[type];
}

static inline float bf16_to_f32(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN (quiet). */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffffu) > 0x7f800000u ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)rounded;
}

float f16_to_f32(uint16_t x);
uint16_t f32_to_f16(float f); /* round to nearest even, overflow to Inf */

/* n values to or from `type`, bf16 or fp16. */
static inline void narrow_f32(DType type, const float *from, int64_t n, uint16_t *to) {
    if (type == DTYPE_BF16)
        for (int64_t i = 0; i < n; i++) to[i] = f32_to_bf16(from[i]);
    else
        for (int64_t i = 0; i < n; i++) to[i] = f32_to_f16(from[i]);
}
static inline void widen_to_f32(DType type, const uint16_t *from, int64_t n, float *to) {
    if (type == DTYPE_BF16)
        for (int64_t i = 0; i < n; i++) to[i] = bf16_to_f32(from[i]);
    else
        for (int64_t i = 0; i < n; i++) to[i] = f16_to_f32(from[i]);
}

#endif
