/* Building blocks of CUDA kernels: 16-byte vectors of any element type to and from fp32, sums over warps and blocks in a
 * fixed order. */
#ifndef DEVICE_CUDA_MATH_CUH
#define DEVICE_CUDA_MATH_CUH

#include "device/cuda/cuda.h"

/* For cuda_launch_early. From `let_next_start` on the next kernel may be started, if all blocks have got there; it will
 * see nothing of this one before `wait_for_previous`, which waits for the whole of it. */
__device__ static inline void let_next_start(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}
__device__ static inline void wait_for_previous(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/* Elements of 16 bytes: 4 fp32, 8 bf16 or fp16. */
template <typename T> struct Vec16 {
    static constexpr int N = 16 / sizeof(T);
};

__device__ static inline float to_float(float x) { return x; }
__device__ static inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ static inline float to_float(__half x) { return __half2float(x); }
template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline __half from_float<__half>(float x) { return __float2half_rn(x); }

/* Two at once: one instruction. */
__device__ static inline void round2(float *to, const float *from) { to[0] = from[0], to[1] = from[1]; }
__device__ static inline void round2(__nv_bfloat16 *to, const float *from) {
    *(__nv_bfloat162 *)to = __floats2bfloat162_rn(from[0], from[1]);
}
__device__ static inline void round2(__half *to, const float *from) {
    *(__half2 *)to = __floats2half2_rn(from[0], from[1]);
}

/* 16 bytes to Vec16<T>::N floats; the same from p (16-byte aligned), and back. */
template <typename T> __device__ static inline void unpack16(float *to, int4 raw) {
    const T *e = (const T *)&raw;
#pragma unroll
    for (int i = 0; i < Vec16<T>::N; i++) to[i] = to_float(e[i]);
}
template <typename T> __device__ static inline void load16(float *to, const T *p) {
    unpack16<T>(to, *(const int4 *)p);
}
template <typename T> __device__ static inline void store16(T *p, const float *from) {
    int4 raw;
    T *e = (T *)&raw;
#pragma unroll
    for (int i = 0; i < Vec16<T>::N; i += 2) round2(e + i, from + i);
    *(int4 *)p = raw;
}

/* 2^x in one instruction (on every GPU), 2 ulp; 2^-Inf is 0. */
__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ static inline float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ static inline float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

/* The same in fp64: for sums of millions. block_sum's result is thread 0's alone; `shared` holds 32 numbers. */
__device__ static inline double warp_sum(double x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ static inline double block_sum(double x, double *shared) {
    x = warp_sum(x);
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    for (int warp = 1; threadIdx.x == 0 && warp < (int)(blockDim.x >> 5); warp++) x += shared[warp];
    return x;
}

/* Sum or maximum over a block of up to 1024 threads (a multiple of 32), the same in every thread. `shared` holds 32
 * floats; it may be used again at once. */
template <bool MAX> __device__ static inline float block_reduce(float x, float *shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = MAX ? warp_max(x) : warp_sum(x);
    if (warps == 1) return x;
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : MAX ? -INFINITY : 0.0f;
    return MAX ? warp_max(x) : warp_sum(x);
}

/* Notes what is wrong, if nobody did before. */
__device__ static inline void report_fault(CudaFault *fault, int code, int row, int place, int value, int limit) {
    if (atomicCAS(&fault->code, FAULT_NONE, code) != FAULT_NONE) return;
    fault->row = row;
    fault->place = place;
    fault->value = value;
    fault->limit = limit;
}

#endif
