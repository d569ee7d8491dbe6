/* What every CUDA file shares: the device, the checks, launching. Included by .cu files only; ops begin from
 * ops/kernel.cuh.
 *
 * A kernel is queued on device->stream with launch-time constants (shapes, addresses) in its arguments; what changes
 * from step to step it reads from device memory (TapeRun, ids, hyper tensors), so that a recorded graph stays true.
 */
#ifndef DEVICE_CUDA_CUDA_H
#define DEVICE_CUDA_CUDA_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

extern "C" {
#include "base/rng.h"
#include "device/device.h"
}

/* What a kernel found wrong, in memory that both sides see: the first finder wins. device_sync turns it into an error. */
enum CudaFaultCode {
    FAULT_NONE,
    FAULT_TOKEN,
    FAULT_POSITION,
    FAULT_CONTEXT,
    FAULT_LABEL,
    FAULT_CACHE,
    FAULT_AT,
    FAULT_STARTS
};
typedef struct CudaFault {
    int code;
    int row, place; /* where in the ids; FAULT_CACHE: place is the number of new tokens */
    int value;      /* what stood there */
    int limit;      /* what it should have been below; FAULT_STARTS: at least */
} CudaFault;

typedef struct CudaDevice {
    Device base; /* first: a Device * is a CudaDevice * */
    int index, major, minor, processors;
    size_t shared_memory;           /* bytes a block can have, opted in */
    size_t l2;                      /* bytes */
    cudaStream_t stream;            /* everything is queued here */
    cudaStream_t side;              /* short forks that join before their op's end; see cuda_fork */
    cudaEvent_t forked, joined;
    void *workspace, *side_workspace; /* of cuBLASLt, one a stream */
    size_t workspace_bytes, side_workspace_bytes;
    struct MatmulCache *matmul_cache; /* matmul.cu's handle and plans */
    struct SdpaState *sdpa;           /* sdpa.cu's */
    CudaFault *fault;               /* as kernels see it */
    CudaFault *fault_host;          /* the same memory as the host sees it */
    bool capturing;
} CudaDevice;

/* Reports a failed call of the runtime. */
#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        cudaError_t cuda_error_ = (call);                                                                              \
        if (cuda_error_ != cudaSuccess) return cuda_fail(cuda_error_, #call, __FILE__, __LINE__);                      \
    } while (0)
Status cuda_fail(cudaError_t error, const char *what, const char *file, int line);

/* After a launch: a wrong configuration shows here, anything later at the next device_sync. */
#define CUDA_LAUNCHED() CUDA_TRY(cudaGetLastError())

/* Work queued on device->side between fork and join runs beside what is queued on device->stream in between. Both must
 * be in one function, the op's: the tape shares memory between ops by their order. */
Status cuda_fork(CudaDevice *d);
Status cuda_join(CudaDevice *d);

/* More than 48 KiB of shared memory for a kernel. */
Status cuda_shared_memory(const void *kernel, size_t bytes);

/* Up to so many rows (sequences that decode) kernels are so short that their start costs as much as their work. */
enum { CUDA_FEW_ROWS = 8 };

/* Launches a kernel that, with `early`, may start while the one queued before it still runs (on Hopper and later). Such
 * a kernel calls wait_for_previous (math.cuh) before it reads or writes anything that kernels before it write or read;
 * weights are free. */
template <typename... Params, typename... Args>
static inline Status cuda_launch_early(const CudaDevice *d, bool early, void (*kernel)(Params...), dim3 grid,
                                       int threads, Args... args) {
    cudaLaunchAttribute overlap = {};
    cudaLaunchConfig_t config = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.stream = d->stream;
    config.attrs = &overlap;
    config.numAttrs = early && d->major >= 9;
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, Params(args)...));
    return TANE_OK;
}

/* Calls f<T>(...) for the element type: expressions in an op's functions, e.g.
 *     return CUDA_BY_TYPE(x->dtype, launch, node, run);
 * Types must have been checked by plan. */
#define CUDA_BY_TYPE(type, f, ...)                                                                                     \
    ((type) == DTYPE_F32 ? f<float>(__VA_ARGS__)                                                                       \
                         : (type) == DTYPE_BF16 ? f<__nv_bfloat16>(__VA_ARGS__) : f<__half>(__VA_ARGS__))
static inline bool cuda_is_float(DType type) { return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16; }

static inline int64_t cuda_blocks(int64_t n, int64_t per_block) { return (n + per_block - 1) / per_block; }
static inline size_t cuda_align(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

#endif
