/* Scaled dot-product attention through cuDNN's graph API (its C backend), forward and backward. cuDNN is loaded at run
 * time; without it, or where it refuses a shape, ops/attention.cu has kernels of its own. */
#ifndef DEVICE_CUDA_SDPA_H
#define DEVICE_CUDA_SDPA_H

#include "device/cuda/cuda.h"

typedef struct SdpaShape {
    int64_t batch, tokens; /* B, T */
    int heads, kv_heads, head_dim;
    DType type;            /* bf16 or fp16 */
    float scale;           /* of the scores */
    int64_t window;        /* keys a query sees, its own included; 0: all up to its own */
    bool backward;         /* plan the backward pass too */
} SdpaShape;

typedef struct Sdpa Sdpa;

/* *out = NULL, and TANE_OK, when cuDNN is not there or has no engine for this shape: the caller takes its own kernels.
 * The same shape is planned once; plans are freed with the device. */
Status sdpa_plan(CudaDevice *d, const SdpaShape *shape, const Sdpa **out);
/* Why this thread's last sdpa_plan gave NULL; "" when it did not. */
const char *sdpa_refusal(void);
/* Bytes of scratch for forward and for backward; that of backward grows with the square of the tokens. */
size_t sdpa_scratch(const Sdpa *s);
/* qkv (B, T, (H + 2 KV) D), out (B, T, H D), stats (B, H, T) fp32: log of the sum of exponentials. stats may be NULL
 * when the plan has no backward. */
Status sdpa_forward(CudaDevice *d, const Sdpa *s, const void *qkv, void *out, float *stats, void *scratch);
/* d_qkv gets the gradient (all of it is written). */
Status sdpa_backward(CudaDevice *d, const Sdpa *s, const void *qkv, const void *out, const float *stats,
                     const void *d_out, void *d_qkv, void *scratch);
void sdpa_close(CudaDevice *d);

#endif
