/* Rounding to e4m3; see quantize.h.
 *
 *     scale = max |x| / 448 (1 where all are 0),   q = round(x / scale),   x ~ q * scale
 *
 * A NaN stays one, and an infinity makes some: what trains on them notices. Maxima do not depend on an order, so
 * everything here is deterministic. Transposing goes through shared memory in tiles. */
#include "device/cuda/quantize.h"

#include <cuda_fp8.h>

#include "device/cuda/math.cuh"

enum { THREADS = 256 };

/* Not so small that 1 / scale overflows. */
__device__ static inline float scale_of(float largest) {
    return largest > 0.0f ? fmaxf(largest / 448.0f, 1.2e-38f) : 1.0f;
}

/* Where the i-th group of eight elements lies; 64-bit divisions only where rows have gaps. */
__device__ static inline int64_t group_at(int64_t i, int64_t cols, int64_t ld) {
    if (cols == ld) return i * 8;
    return i / (cols / 8) * ld + i % (cols / 8) * 8;
}

__device__ static inline uint8_t round_e4m3(float x) {
    return (uint8_t)__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}

__device__ static inline float largest8(const float *x) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

__device__ static inline uint2 round8(const float *x, float inverse) {
    uint8_t q[8];
#pragma unroll
    for (int i = 0; i < 8; i++) q[i] = round_e4m3(x[i] * inverse);
    return make_uint2(q[0] | q[1] << 8 | q[2] << 16 | (unsigned)q[3] << 24,
                      q[4] | q[5] << 8 | q[6] << 16 | (unsigned)q[7] << 24);
}

/* ------------------------------------------------------------------------------------------- the whole matrix */

/* partial[block] = the largest magnitude among the block's elements. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    largest_kernel(const T *x, int64_t rows, int64_t cols, int64_t ld, float *partial) {
    __shared__ float shared[32];
    float largest = 0.0f, v[8];
    int64_t n = rows * (cols / 8), stride = gridDim.x * (int64_t)THREADS;
#pragma unroll 4
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n; i += stride) {
        load16(v, x + group_at(i, cols, ld));
        largest = fmaxf(largest, largest8(v));
    }
    largest = block_reduce<true>(largest, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = largest;
}

/* Every block finds the scale from the partial maxima; the first one writes it down. */
__device__ static inline float find_scale(const float *partial, int n_partial, float *scale, float *shared) {
    float largest = (int)threadIdx.x < n_partial ? partial[threadIdx.x] : 0.0f;
    float found = scale_of(block_reduce<true>(largest, shared));
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = found;
    return found;
}

/* q (rows, cols) = x / scale. */
template <typename T>
__global__ void __launch_bounds__(THREADS) round_kernel(const T *x, int64_t rows, int64_t cols, int64_t ld,
                                                        const float *partial, int n_partial, float *scale, uint8_t *q) {
    __shared__ float shared[32];
    float inverse = 1.0f / find_scale(partial, n_partial, scale, shared), v[8];
    int64_t n = rows * (cols / 8), stride = gridDim.x * (int64_t)THREADS;
#pragma unroll 4
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < n; i += stride) {
        load16(v, x + group_at(i, cols, ld));
        *(uint2 *)(q + i * 8) = round8(v, inverse);
    }
}

/* q (cols, rows) = x^T / scale, in tiles of 64 x 64: a thread reads 16 elements of a row and writes 16 of a column. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    round_transposed_kernel(const T *x, int64_t rows, int64_t cols, int64_t ld, const float *partial, int n_partial,
                            float *scale, uint8_t *q) {
    enum { SIDE = 64, PITCH = SIDE + 16 };
    __shared__ float shared[32];
    __shared__ alignas(16) uint8_t tile[SIDE * PITCH]; /* column by column of x */
    float inverse = 1.0f / find_scale(partial, n_partial, scale, shared);
    int64_t across = (cols + SIDE - 1) / SIDE, row0 = blockIdx.x / across * SIDE, col0 = blockIdx.x % across * SIDE;
    int line = threadIdx.x / 4, part = threadIdx.x % 4 * 16;
    if (row0 + line < rows && col0 + part < cols) {
        const T *from = x + (row0 + line) * ld + col0 + part;
        float v[16];
        load16(v, from);
        load16(v + 8, from + 8);
#pragma unroll
        for (int i = 0; i < 16; i++) tile[(part + i) * PITCH + line] = round_e4m3(v[i] * inverse);
    }
    __syncthreads();
    if (col0 + line < cols && row0 + part < rows)
        *(int4 *)(q + (col0 + line) * rows + row0 + part) = *(const int4 *)(tile + line * PITCH + part);
}

template <typename T>
static Status round_tensor(const QuantizeInput *in, uint8_t *q, float *scale, float *partial, cudaStream_t stream) {
    const T *x = (const T *)in->data;
    int64_t blocks = cuda_blocks(in->rows * in->cols, THREADS * 8 * 4);
    int n_partial = blocks < QUANTIZE_PARTIALS ? (int)blocks : (int)QUANTIZE_PARTIALS;
    largest_kernel<T><<<n_partial, THREADS, 0, stream>>>(x, in->rows, in->cols, in->ld, partial);
    CUDA_LAUNCHED();
    if (in->transpose) {
        blocks = cuda_blocks(in->rows, 64) * cuda_blocks(in->cols, 64);
        round_transposed_kernel<T>
            <<<(unsigned)blocks, THREADS, 0, stream>>>(x, in->rows, in->cols, in->ld, partial, n_partial, scale, q);
    } else
        round_kernel<T>
            <<<(unsigned)blocks, THREADS, 0, stream>>>(x, in->rows, in->cols, in->ld, partial, n_partial, scale, q);
    CUDA_LAUNCHED();
    return TANE_OK;
}

Status quantize_tensor(const QuantizeInput *in, void *out, float *scale, float *partial, cudaStream_t stream) {
    uint8_t *q = (uint8_t *)out;
    return in->type == DTYPE_BF16 ? round_tensor<__nv_bfloat16>(in, q, scale, partial, stream)
                                  : round_tensor<__half>(in, q, scale, partial, stream);
}

/* ----------------------------------------------------------------------------------------------------- blocks */

/* Sixteen lanes take 128 elements of a row. scale (cols / 128, rows). */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    round_rows_kernel(const T *x, int64_t rows, int64_t cols, int64_t ld, float *scale, uint8_t *q) {
    int64_t across = cols / QUANTIZE_BLOCK_SIZE, n = rows * across;
    int64_t i = blockIdx.x * (int64_t)(THREADS / 16) + threadIdx.x / 16;
    bool inside = i < n;
    if (!inside) i = n - 1; /* the warp's exchanges need every lane */
    int64_t row = i / across, block = i % across, at = block * QUANTIZE_BLOCK_SIZE + threadIdx.x % 16 * 8;
    float v[8];
    load16(v, x + row * ld + at);
    float largest = largest8(v);
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lane));
    float own = scale_of(largest);
    if (!inside) return;
    if (threadIdx.x % 16 == 0) scale[block * rows + row] = own;
    *(uint2 *)(q + row * cols + at) = round8(v, 1.0f / own);
}

template <typename T> static Status round_rows(const QuantizeInput *in, uint8_t *q, float *scale, cudaStream_t stream) {
    int64_t blocks = cuda_blocks(in->rows * (in->cols / QUANTIZE_BLOCK_SIZE), THREADS / 16);
    round_rows_kernel<T>
        <<<(unsigned)blocks, THREADS, 0, stream>>>((const T *)in->data, in->rows, in->cols, in->ld, scale, q);
    CUDA_LAUNCHED();
    return TANE_OK;
}

Status quantize_rows(const QuantizeInput *in, void *out, float *scale, cudaStream_t stream) {
    return in->type == DTYPE_BF16 ? round_rows<__nv_bfloat16>(in, (uint8_t *)out, scale, stream)
                                  : round_rows<__half>(in, (uint8_t *)out, scale, stream);
}

/* A block takes a tile of 128 x 128, a thread 8 columns of 8 rows, which lie 16 rows apart. scale (n / 128, stride). */
template <typename T, bool TRANSPOSE>
__global__ void __launch_bounds__(THREADS)
    round_tiles_kernel(const T *x, int64_t rows, int64_t cols, int64_t ld, float *scale, int64_t stride, uint8_t *q) {
    enum { SIDE = QUANTIZE_BLOCK_SIZE, PITCH = SIDE + 16, EACH = 8 };
    __shared__ float shared[32];
    __shared__ alignas(16) uint8_t tile[TRANSPOSE ? SIDE * PITCH : 16];
    int64_t across = cols / SIDE, down = blockIdx.x / across, right = blockIdx.x % across;
    int line = threadIdx.x / 16, part = threadIdx.x % 16 * 8;
    const T *from = x + (down * SIDE + line) * ld + right * SIDE + part;
    float v[EACH][8], largest = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) load16(v[i], from + i * 16 * ld);
#pragma unroll
    for (int i = 0; i < EACH; i++) largest = fmaxf(largest, largest8(v[i]));
    float own = scale_of(block_reduce<true>(largest, shared)), inverse = 1.0f / own;
    if (threadIdx.x == 0) scale[TRANSPOSE ? right * stride + down : down * stride + right] = own;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        uint2 rounded = round8(v[i], inverse);
        if (TRANSPOSE) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                tile[(part + e) * PITCH + line + 16 * i] = (uint8_t)((e < 4 ? rounded.x : rounded.y) >> 8 * (e % 4));
        } else *(uint2 *)(q + (down * SIDE + line + 16 * i) * cols + right * SIDE + part) = rounded;
    }
    if (!TRANSPOSE) return;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++) { /* 8 times 16 bytes a line, 32 lines at once */
        int column = threadIdx.x / 8 + 32 * i, bytes = threadIdx.x % 8 * 16;
        *(int4 *)(q + (right * SIDE + column) * rows + down * SIDE + bytes) = *(const int4 *)(tile + column * PITCH +
                                                                                              bytes);
    }
}

template <typename T>
static Status round_tiles(const QuantizeInput *in, uint8_t *q, float *scale, cudaStream_t stream) {
    const T *x = (const T *)in->data;
    int64_t stride = quantize_tiles_stride(in->transpose ? in->rows : in->cols);
    unsigned blocks = (unsigned)(in->rows / QUANTIZE_BLOCK_SIZE * (in->cols / QUANTIZE_BLOCK_SIZE));
    if (in->transpose)
        round_tiles_kernel<T, true><<<blocks, THREADS, 0, stream>>>(x, in->rows, in->cols, in->ld, scale, stride, q);
    else round_tiles_kernel<T, false><<<blocks, THREADS, 0, stream>>>(x, in->rows, in->cols, in->ld, scale, stride, q);
    CUDA_LAUNCHED();
    return TANE_OK;
}

Status quantize_tiles(const QuantizeInput *in, void *out, float *scale, cudaStream_t stream) {
    return in->type == DTYPE_BF16 ? round_tiles<__nv_bfloat16>(in, (uint8_t *)out, scale, stream)
                                  : round_tiles<__half>(in, (uint8_t *)out, scale, stream);
}
