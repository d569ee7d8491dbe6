/* What the CUDA kernels of ops share on top of device/cuda: the device of a node, the kernel row, dropout's coins, tanh
 * and the activation functions. */
#ifndef OPS_KERNEL_CUH
#define OPS_KERNEL_CUH

#include "device/cuda/math.cuh"

extern "C" {
#include "ops/node.h"
#include "ops/ops.h"
}

static inline CudaDevice *cuda_device(const Node *node) { return (CudaDevice *)node->device; }

/* CUDA's row of an op: `extern "C" const OpKernel cuda_NAME`. CUDA_KERNEL_SHARING also names what it can do for its
 * neighbours (see OpKernel). */
#define CUDA_KERNEL(op, plan_, forward_, backward_) CUDA_KERNEL_RECOMPUTE(op, plan_, forward_, backward_, NULL)
#define CUDA_KERNEL_RECOMPUTE(op, plan_, forward_, backward_, recompute_)                                              \
    CUDA_KERNEL_SHARING(op, plan_, forward_, backward_, recompute_, 0, 0, NULL)
#define CUDA_KERNEL_SHARING(op, plan_, forward_, backward_, recompute_, bias_, sums_in_, can_take_)                    \
    static_assert(OP_DIFF_##op, "ops.def says that " #op " has no gradient");                                          \
    extern "C" const OpKernel cuda_##op;                                                                               \
    const OpKernel cuda_##op = {#op, plan_, forward_, backward_, recompute_, bias_, sums_in_, can_take_};
#define CUDA_KERNEL_NODIFF(op, plan_, forward_)                                                                        \
    static_assert(!OP_DIFF_##op, "ops.def says that " #op " has a gradient");                                          \
    extern "C" const OpKernel cuda_##op;                                                                               \
    const OpKernel cuda_##op = {#op, plan_, forward_, NULL, NULL, 0, 0, NULL};

/* keep[0..4) of elements first .. first + 3 of a node's dropout mask: as src/ops/dropout_math.h. */
__device__ static inline void dropout_mask4(float keep[4], int64_t first, float p, const TapeRun *run, int node) {
    uint32_t word[4], below = (uint32_t)ceilf(p * 0x1p24f); /* rng_u01(word) < p, in whole numbers */
    float scale = 1.0f / (1.0f - p);
    philox4x32(run->seed, run->position, (uint64_t)node << 44 | (uint64_t)first >> 2, word);
#pragma unroll
    for (int i = 0; i < 4; i++) keep[i] = word[i] >> 8 < below ? 0.0f : scale;
}

/* 1 / (1 + e^-x), without the slow path of an exact division. */
__device__ static inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/* (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
__device__ static inline float gelu_tanh_share(float x, float x2) {
    return sigmoid(x * (1.5957691216f + 0.0713548163f * x2));
}

/* tanh x to 3 ulp; tanh.approx has 11 bits only. 1 - 2 / (e^2x + 1), and near 0, where that cancels, an odd polynomial
 * fitted for the least relative error. NaN stays NaN. */
__device__ static inline float tanh_f32(float x) {
    float square = x * x, exponential = exp2_fast(fabsf(x) * 2.885390082f);
    float far = copysignf(1.0f - __fdividef(2.0f, exponential + 1.0f), x);
    float p = fmaf(0.016458468257f, square, -0.052683997661f);
    p = fmaf(p, square, 0.13320939736f);
    p = fmaf(p, square, -0.33332957409f);
    return fabsf(x) < 0.55f ? fmaf(x * square, p, x) : far;
}
/* The slope of tanh where it is t. */
__device__ static inline float tanh_slope(float t) { return fmaf(-t, t, 1.0f); }

/* f(x) and, where wanted, f'(x): the formulas of src/ops/activation_math.h. */
template <int KIND> __device__ static inline float activate(float x) {
    if (KIND == ACTIVATION_GELU_TANH) return x * gelu_tanh_share(x, x * x);
    if (KIND == ACTIVATION_GELU) return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    if (KIND == ACTIVATION_RELU) return x <= 0.0f ? 0.0f : x;
    return x * sigmoid(x);
}
template <int KIND> __device__ static inline float activate_slope(float x, float *y) {
    if (KIND == ACTIVATION_GELU_TANH) {
        float x2 = x * x, share = gelu_tanh_share(x, x2);
        *y = x * share;
        return share + x * (share - share * share) * (1.5957691216f + 0.2140644488f * x2);
    }
    if (KIND == ACTIVATION_GELU) {
        float phi = 0.5f * (1.0f + erff(x * 0.7071067812f));
        *y = x * phi;
        return phi + x * 0.3989422804f * __expf(-0.5f * x * x);
    }
    if (KIND == ACTIVATION_RELU) {
        *y = x <= 0.0f ? 0.0f : x;
        return x > 0.0f ? 1.0f : 0.0f;
    }
    float s = sigmoid(x);
    *y = x * s;
    return s + *y * (1.0f - s);
}

#endif
