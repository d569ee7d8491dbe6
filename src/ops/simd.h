/* Building blocks of the CPU kernels: rows to and from fp32, vectors of 16, exp, small products.
 *
 * Everything here is `static inline` and compiled with the flags of the including kernel's instruction set. A vector is
 * GCC's generic 64-byte one: one register with AVX-512, two with AVX2, four with SSE.
 */
#ifndef OPS_SIMD_H
#define OPS_SIMD_H

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/dtype.h"

typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
enum { VEC = 16 };

/* A macro, not a function: a function that passes wide vectors has another ABI in each instruction set. */
#define VEC_AT(p) (*(Vec *)(p))
static inline int64_t vec_round(int64_t n) { return (n + VEC - 1) / VEC * VEC; }

/* Rows are reinterpreted in place: fp32 as its bits, an fp32 row as the bf16 row it becomes. */
typedef uint32_t Bits __attribute__((may_alias));
typedef uint16_t Half __attribute__((may_alias));

/* n elements of bf16 or fp32 to fp32 and back. */
static inline void load_row(float *restrict to, const void *from, DType type, int64_t n) {
    if (type == DTYPE_F32) {
        memcpy(to, from, (size_t)n * 4);
        return;
    }
    const Half *restrict h = from;
    Bits *restrict bits = (Bits *)to;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) bits[i] = (uint32_t)h[i] << 16;
}

static inline void store_row(void *to, const float *restrict from, DType type, int64_t n) {
    if (type == DTYPE_F32) {
        memcpy(to, from, (size_t)n * 4);
        return;
    }
    Half *restrict h = to;
    const Bits *restrict bits = (const Bits *)from;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t b = bits[i], rounded = (b + 0x7fffu + (b >> 16 & 1)) >> 16;
        h[i] = (uint16_t)((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40 : rounded);
    }
}

/* to (+)= from, with `add` as node_adds says; tmp holds n floats. */
static inline void store_row_add(void *to, float *restrict from, DType type, int64_t n, bool add, float *restrict tmp) {
    if (add) {
        load_row(tmp, to, type, n);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) from[i] += tmp[i];
    }
    store_row(to, from, type, n);
}

static inline const void *row_at(const void *base, DType type, int64_t element) {
    return (const char *)base + (size_t)element * dtype_size(type);
}
static inline void *row_at_mut(void *base, DType type, int64_t element) {
    return (char *)base + (size_t)element * dtype_size(type);
}

/* e^x for finite x, about 1 ulp: 2^n * p(r), r in [-ln2/2, ln2/2]; below -87 gives 0, above 88 gives Inf. NaN stays
 * NaN. */
static inline float exp_f32(float x) {
    float clamped = x < -87.33655f ? -87.33655f : x > 88.72284f ? 88.72284f : x;
    float shifted = clamped * 1.44269504f + 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer in the low bits */
    int32_t n;
    memcpy(&n, &shifted, 4);
    n -= 0x4b400000;
    float f = shifted - 12582912.0f;
    float r = clamped - f * 0.693359375f + f * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    /* 2^n in two factors, since n = 128 does not fit an exponent */
    int32_t half = n >> 1;
    uint32_t bits_a = (uint32_t)(half + 127) << 23, bits_b = (uint32_t)(n - half + 127) << 23;
    float a, b;
    memcpy(&a, &bits_a, 4);
    memcpy(&b, &bits_b, 4);
    float y = p * a * b;
    y = x < -87.33655f ? 0.0f : y;
    y = x > 88.72284f ? INFINITY : y;
    return x != x ? x : y;
}

static inline float tanh_f32(float x) {
    float e = exp_f32(2.0f * (x > 20.0f ? 20.0f : x < -20.0f ? -20.0f : x));
    float y = 1.0f - 2.0f / (e + 1.0f);
    return x != x ? x : y;
}

/* x = cap tanh(x / cap) */
static inline void softcap_row(float *restrict x, int64_t n, float cap) {
    float inverse = 1.0f / cap;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = cap * tanh_f32(x[i] * inverse);
}

/* C (m, n) (+)= A (m, k) B (k, n) in fp32, for products too small for a call into the GEMM. A is read with strides
 * (am, ak), so it may be transposed; B and C rows are contiguous and n is a multiple of VEC. */
static inline void small_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t am, int64_t ak, float *b,
                                 int64_t ldb, float *c, int64_t ldc, bool accumulate) {
    int64_t i = 0;
    for (; i + 4 <= m; i += 4)
        for (int64_t j = 0; j < n; j += VEC) {
            Vec acc0 = {0}, acc1 = {0}, acc2 = {0}, acc3 = {0};
            const float *row = a + i * am;
            for (int64_t p = 0; p < k; p++) {
                Vec bv = VEC_AT(b + p * ldb + j);
                acc0 += row[p * ak] * bv;
                acc1 += row[am + p * ak] * bv;
                acc2 += row[2 * am + p * ak] * bv;
                acc3 += row[3 * am + p * ak] * bv;
            }
            float *out = c + i * ldc + j;
            if (accumulate) {
                acc0 += VEC_AT(out);
                acc1 += VEC_AT(out + ldc);
                acc2 += VEC_AT(out + 2 * ldc);
                acc3 += VEC_AT(out + 3 * ldc);
            }
            VEC_AT(out) = acc0;
            VEC_AT(out + ldc) = acc1;
            VEC_AT(out + 2 * ldc) = acc2;
            VEC_AT(out + 3 * ldc) = acc3;
        }
    for (; i < m; i++)
        for (int64_t j = 0; j < n; j += VEC) {
            Vec acc = {0};
            for (int64_t p = 0; p < k; p++) acc += a[i * am + p * ak] * VEC_AT(b + p * ldb + j);
            if (accumulate) acc += VEC_AT(c + i * ldc + j);
            VEC_AT(c + i * ldc + j) = acc;
        }
}

/* Sums over rows are made in this many fixed blocks, so that they do not depend on the number of threads. */
enum { SUM_BLOCKS = 32 };
static inline int64_t block_begin(int64_t rows, int block) { return rows * block / SUM_BLOCKS; }

/* to (n) fp32 (+)= the sum of SUM_BLOCKS rows of partial sums. */
static inline void sum_blocks(float *restrict to, const float *restrict partial, int64_t n, bool add) {
    for (int block = 0; block < SUM_BLOCKS; block++) {
        const float *restrict p = partial + block * n;
        if (block == 0 && !add) memcpy(to, p, (size_t)n * 4);
        else
#pragma omp simd
            for (int64_t i = 0; i < n; i++) to[i] += p[i];
    }
}

#endif
