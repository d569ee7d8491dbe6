/* Rounding matrices to e4m3 for fp8 products. The 8-bit copy always has K running fastest; scales are what the values
 * are multiplied by to get the originals back: largest magnitude / 448. */
#ifndef DEVICE_CUDA_QUANTIZE_H
#define DEVICE_CUDA_QUANTIZE_H

#include "device/cuda/cuda.h"

typedef enum QuantizeMode { QUANTIZE_NONE, QUANTIZE_TENSOR, QUANTIZE_BLOCK } QuantizeMode;

enum { QUANTIZE_BLOCK_SIZE = 128, QUANTIZE_PARTIALS = 256 };

typedef struct QuantizeInput {
    const void *data; /* (rows, cols) of `type`: bf16 or fp16, 16-byte aligned */
    DType type;
    int64_t rows, cols, ld; /* cols a multiple of 16, ld of 8 */
    bool transpose;         /* the copy is (cols, rows); rows a multiple of 16 */
} QuantizeInput;

/* One scale for the whole matrix. partial: QUANTIZE_PARTIALS floats of scratch. Two kernels. */
Status quantize_tensor(const QuantizeInput *in, void *out, float *scale, float *partial, cudaStream_t stream);

/* One scale for every 128 elements of a row (cols a multiple of 128): scale (cols / 128, rows). No transposing. */
Status quantize_rows(const QuantizeInput *in, void *out, float *scale, cudaStream_t stream);

/* One scale for every 128 x 128 tile of the copy (n, k), both multiples of 128: scale (n / 128, k / 128), its rows
 * padded to a multiple of 4 as cuBLASLt reads them. */
Status quantize_tiles(const QuantizeInput *in, void *out, float *scale, cudaStream_t stream);

/* Number of scales of the first and the second kind for a mode. */
static inline size_t quantize_rows_scales(QuantizeMode mode, int64_t m, int64_t k) {
    return mode == QUANTIZE_BLOCK ? (size_t)(m * (k / QUANTIZE_BLOCK_SIZE)) : 1;
}
static inline int64_t quantize_tiles_stride(int64_t k) { return (k / QUANTIZE_BLOCK_SIZE + 3) / 4 * 4; }
static inline size_t quantize_tiles_scales(QuantizeMode mode, int64_t n, int64_t k) {
    return mode == QUANTIZE_BLOCK ? (size_t)(n / QUANTIZE_BLOCK_SIZE * quantize_tiles_stride(k)) : 1;
}

#endif
