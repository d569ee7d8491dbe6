/* Building blocks of tensor-core kernels: m16n8k16 products of bf16 and fp16 with fp32 sums (mma.sync), matrices from
 * shared memory to the lanes that multiply them (ldmatrix), copies that run beside the computation (cp.async). sm_80
 * and later; callers are not launched on what came before.
 *
 * Who holds what, with g = lane / 4 and t = lane % 4, two elements a register:
 *   A (16 x 16)  a0 row g, columns 2t 2t+1;  a1 row g + 8;  a2 row g, columns 2t+8 2t+9;  a3 row g + 8, the same
 *   B (16 x 8)   b0 rows 2t 2t+1, column g;  b1 rows 2t+8 2t+9
 *   C (16 x 8)   c0 c1 row g, columns 2t 2t+1;  c2 c3 row g + 8
 * So two C tiles side by side, rounded, are an A.
 */
#ifndef DEVICE_CUDA_MMA_CUH
#define DEVICE_CUDA_MMA_CUH

#include "device/cuda/math.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define CUDA_HAS_MMA 1
#endif

/* Two floats as one register of T, the first in the low half. */
template <typename T> __device__ inline uint32_t mma_pack(float low, float high);
template <> __device__ inline uint32_t mma_pack<__nv_bfloat16>(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&v;
}
template <> __device__ inline uint32_t mma_pack<__half>(float low, float high) {
    __half2 v = __floats2half2_rn(low, high);
    return *(uint32_t *)&v;
}
template <typename T> __device__ static inline float mma_low(uint32_t v) { return to_float(*(const T *)&v); }
template <typename T> __device__ static inline float mma_high(uint32_t v) { return to_float(((const T *)&v)[1]); }

/* Before sm_80 what follows is empty: the kernels that call it have their bodies inside #ifdef CUDA_HAS_MMA. */
#ifdef CUDA_HAS_MMA
#define MMA_ASM(...)          asm(__VA_ARGS__)
#define MMA_ASM_VOLATILE(...) asm volatile(__VA_ARGS__)
#else
#define MMA_ASM(...)
#define MMA_ASM_VOLATILE(...)
#endif

/* c += A B */
template <typename T> __device__ inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <> __device__ inline void mma<__nv_bfloat16>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    MMA_ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ inline void mma<__half>(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    MMA_ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ static inline uint32_t mma_address(const void *shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

/* Four 8 x 8 matrices of 2-byte elements: lane l gives the 16-byte aligned address of row l % 8 of matrix l / 8, and
 * gets of each matrix row g, columns 2t 2t+1; transposed: rows 2t 2t+1 of column g. */
__device__ static inline void mma_load(uint32_t r[4], const void *row) {
    MMA_ASM_VOLATILE("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(mma_address(row))
                     : "memory");
}
__device__ static inline void mma_load_transposed(uint32_t r[4], const void *row) {
    MMA_ASM_VOLATILE("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(mma_address(row))
                     : "memory");
}

/* 16 or 4 bytes from global to shared memory, zeros when !valid (`from` must be an address all the same). Done after
 * this thread's copy_wait; seen by others after a barrier behind it. */
__device__ static inline void copy16_async(void *to, const void *from, bool valid) {
    MMA_ASM_VOLATILE("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :
                     : "r"(mma_address(to)), "l"(from), "r"(valid ? 16 : 0)
                     : "memory");
}
__device__ static inline void copy4_async(void *to, const void *from, bool valid) {
    MMA_ASM_VOLATILE("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                     :
                     : "r"(mma_address(to)), "l"(from), "r"(valid ? 4 : 0)
                     : "memory");
}
__device__ static inline void copy_wait(void) { MMA_ASM_VOLATILE("cp.async.wait_all;" : : : "memory"); }

#endif
