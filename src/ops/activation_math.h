/* The activation functions and their derivatives, shared by op_activation and op_glu. */
#ifndef OPS_ACTIVATION_MATH_H
#define OPS_ACTIVATION_MATH_H

#include "ops/ops.h"
#include "ops/simd.h"

/* y[i] = f(x[i]) */
static inline void activation_rows(ActivationKind kind, const float *restrict x, float *restrict y, int64_t n) {
    switch (kind) {
    case ACTIVATION_GELU_TANH: /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            y[i] = 0.5f * x[i] * (1.0f + tanh_f32(0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
        break;
    case ACTIVATION_GELU: /* x Phi(x) */
        for (int64_t i = 0; i < n; i++) y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.7071067812f));
        break;
    case ACTIVATION_RELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] <= 0.0f ? 0.0f : x[i]; /* NaN stays NaN */
        break;
    default: /* SILU: x sigmoid(x) */
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + exp_f32(-x[i]));
        break;
    }
}

/* y[i] = f(x[i]) and d[i] = f'(x[i]), which share their exponential. */
static inline void activation_slopes(ActivationKind kind, const float *restrict x, float *restrict y, float *restrict d,
                                     int64_t n) {
    switch (kind) {
    case ACTIVATION_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float v = x[i], half = 0.5f * (1.0f + tanh_f32(0.7978845608f * (v + 0.044715f * v * v * v)));
            /* With t = tanh: 0.5 v (1 - t^2) = 2 v half (1 - half). */
            y[i] = v * half;
            d[i] = half + 2.0f * v * half * (1.0f - half) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * v * v);
        }
        break;
    case ACTIVATION_GELU:
        for (int64_t i = 0; i < n; i++) {
            float phi = 0.5f * (1.0f + erff(x[i] * 0.7071067812f));
            y[i] = x[i] * phi;
            d[i] = phi + x[i] * 0.3989422804f * exp_f32(-0.5f * x[i] * x[i]);
        }
        break;
    case ACTIVATION_RELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = x[i] > 0.0f ? x[i] : 0.0f * x[i];
            d[i] = x[i] > 0.0f ? 1.0f : 0.0f;
        }
        break;
    default: /* SILU: s (1 + x (1 - s)) */
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float s = 1.0f / (1.0f + exp_f32(-x[i]));
            y[i] = x[i] * s;
            d[i] = s + y[i] * (1.0f - s);
        }
        break;
    }
}

#endif
