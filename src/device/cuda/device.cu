/* An NVIDIA GPU as a device (device/device.h): one stream in which everything is queued, graphs recorded from it, and
 * memory that kernels and the host both see for what a kernel finds wrong. */
#include "device/cuda/device.h"

extern "C" {
#include "base/mem.h"
}
#include "device/cuda/matmul.h"
#include "device/cuda/sdpa.h"

/* cuBLASLt asks for 32 MiB on Hopper; the side stream's products are small ones. */
enum { WORKSPACE = 64 << 20, SIDE_WORKSPACE = 32 << 20 };
/* Kernels come into the card's memory when they are first used; cuBLASLt's and cuDNN's are large. */
enum { CODE = 448 << 20 };

struct DeviceGraph {
    cudaGraphExec_t exec;
};
struct DeviceEvent {
    cudaEvent_t event;
};

static CudaDevice *of(Device *d) { return (CudaDevice *)d; }

/* ------------------------------------------------------------------------------------------------- errors */

Status cuda_fail(cudaError_t error, const char *what, const char *file, int line) {
    cudaGetLastError(); /* what can be cleared is cleared */
    Status code = error == cudaErrorMemoryAllocation ? TANE_ENOMEM : TANE_EUNSUPPORTED;
    return err_set(code, file, line, "CUDA: %s (%s)", cudaGetErrorString(error), what);
}

/* What kernels reported since the last time, in the words of the CPU's kernels. */
static Status take_fault(CudaDevice *d) {
    if (*(volatile int *)&d->fault_host->code == FAULT_NONE) return TANE_OK;
    CudaFault f = *d->fault_host;
    memset(d->fault_host, 0, sizeof f);
    switch (f.code) {
    case FAULT_TOKEN:
    case FAULT_POSITION:
        return FAIL(TANE_EINVAL, "%s %d at row %d, place %d is outside 0..%d: the data and the model do not fit",
                    f.code == FAULT_TOKEN ? "token" : "position", f.value, f.row, f.place, f.limit - 1);
    case FAULT_CONTEXT:
        return FAIL(TANE_EINVAL, "position %d is outside the model's context of %d", f.value, f.limit);
    case FAULT_LABEL:
        return FAIL(TANE_EINVAL, "label %d at row %d is outside 0..%d: the data and the model do not fit", f.value, f.row,
                    f.limit - 1);
    case FAULT_CACHE:
        return FAIL(TANE_EINVAL, "attention: %d tokens and %d new ones do not fit a cache of %d", f.value, f.place,
                    f.limit);
    case FAULT_AT:
        return FAIL(TANE_EINVAL, "logits: token %d of row %d is outside 0..%d", f.value, f.row, f.limit - 1);
    default:
        return FAIL(TANE_EINVAL, "attention: row %d, position %d: start %d is not in %d..%d", f.row, f.place, f.value,
                    f.limit, f.place);
    }
}

/* ------------------------------------------------------------------------------------------ memory, copies */

static Status cuda_alloc(Device *base, void **out, size_t bytes) {
    size_t n = bytes ? bytes : 1;
    cudaError_t error = cudaMalloc(out, n);
    if (error != cudaSuccess) {
        size_t free = 0, total = 0;
        *out = NULL;
        cudaGetLastError();
        cudaMemGetInfo(&free, &total);
        if (error != cudaErrorMemoryAllocation) return cuda_fail(error, "cudaMalloc", __FILE__, __LINE__);
        return FAIL(TANE_ENOMEM,
                    "%s has no room for %.2f GiB more: %.2f of its %.2f GiB are free; other programs on it show in "
                    "nvidia-smi",
                    base->name, (double)n / 1073741824.0, (double)free / 1073741824.0, (double)total / 1073741824.0);
    }
    CUDA_TRY(cudaMemsetAsync(*out, 0, n, of(base)->stream));
    return TANE_OK;
}

static void cuda_release(Device *base, void *memory) {
    (void)base;
    cudaFree(memory);
}

static Status cuda_host_alloc(Device *base, void **out, size_t bytes) {
    (void)base;
    CUDA_TRY(cudaHostAlloc(out, bytes ? bytes : 1, cudaHostAllocDefault));
    memset(*out, 0, bytes ? bytes : 1);
    return TANE_OK;
}

static void cuda_host_release(Device *base, void *memory) {
    (void)base;
    cudaFreeHost(memory);
}

static Status cuda_upload(Device *base, void *to, const void *from, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, of(base)->stream));
    return TANE_OK;
}

static Status cuda_sync(Device *base) {
    CUDA_TRY(cudaStreamSynchronize(of(base)->stream));
    return take_fault(of(base));
}

static Status cuda_download_later(Device *base, void *to, const void *from, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, of(base)->stream));
    return TANE_OK;
}

static Status cuda_download(Device *base, void *to, const void *from, size_t bytes) {
    Status st = cuda_download_later(base, to, from, bytes);
    return st == TANE_OK ? cuda_sync(base) : st;
}

static Status cuda_copy(Device *base, void *to, const void *from, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, of(base)->stream));
    return TANE_OK;
}

static Status cuda_zero(Device *base, void *to, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemsetAsync(to, 0, bytes, of(base)->stream));
    return TANE_OK;
}

static Status cuda_memory(Device *base, size_t *free, size_t *total) {
    (void)base;
    CUDA_TRY(cudaMemGetInfo(free, total));
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------ graphs, events */

static Status cuda_graph_begin(Device *base) {
    CudaDevice *d = of(base);
    /* Relaxed: a kernel that is used for the first time may have to be loaded while recording. */
    CUDA_TRY(cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeRelaxed));
    d->capturing = true;
    return TANE_OK;
}

static Status cuda_graph_end(Device *base, DeviceGraph **out, bool keep) {
    CudaDevice *d = of(base);
    cudaGraph_t graph = NULL;
    *out = NULL;
    d->capturing = false;
    cudaError_t error = cudaStreamEndCapture(d->stream, &graph);
    if (error == cudaSuccess && keep) {
        Status st = mem_new((void **)out, 1, sizeof **out);
        if (st != TANE_OK) {
            cudaGraphDestroy(graph);
            return st;
        }
        error = cudaGraphInstantiate(&(*out)->exec, graph, 0);
        if (error == cudaSuccess) error = cudaGraphUpload((*out)->exec, d->stream);
        if (error != cudaSuccess) {
            mem_free(*out);
            *out = NULL;
        }
    }
    if (graph) cudaGraphDestroy(graph);
    if (error != cudaSuccess && keep) return cuda_fail(error, "recording a graph", __FILE__, __LINE__);
    cudaGetLastError();
    return TANE_OK;
}

static Status cuda_graph_launch(Device *base, DeviceGraph *graph) {
    CUDA_TRY(cudaGraphLaunch(graph->exec, of(base)->stream));
    return TANE_OK;
}

static void cuda_graph_free(Device *base, DeviceGraph *graph) {
    (void)base;
    cudaGraphExecDestroy(graph->exec);
    mem_free(graph);
}

static Status cuda_event_new(Device *base, DeviceEvent **out) {
    (void)base;
    Status st = mem_new((void **)out, 1, sizeof **out);
    if (st != TANE_OK) return st;
    cudaError_t error = cudaEventCreate(&(*out)->event);
    if (error == cudaSuccess) return TANE_OK;
    mem_free(*out);
    *out = NULL;
    return cuda_fail(error, "cudaEventCreate", __FILE__, __LINE__);
}

static Status cuda_event_record(Device *base, DeviceEvent *event) {
    CUDA_TRY(cudaEventRecord(event->event, of(base)->stream));
    return TANE_OK;
}

static Status cuda_event_wait(Device *base, DeviceEvent *event) {
    CUDA_TRY(cudaEventSynchronize(event->event));
    return take_fault(of(base));
}

static Status cuda_event_seconds(Device *base, DeviceEvent *from, DeviceEvent *to, double *seconds) {
    (void)base;
    float ms;
    CUDA_TRY(cudaEventElapsedTime(&ms, from->event, to->event));
    *seconds = ms * 1e-3;
    return TANE_OK;
}

static void cuda_event_free(Device *base, DeviceEvent *event) {
    (void)base;
    cudaEventDestroy(event->event);
    mem_free(event);
}

/* ----------------------------------------------------------------------------------------- for kernel files */

Status cuda_fork(CudaDevice *d) {
    CUDA_TRY(cudaEventRecord(d->forked, d->stream));
    CUDA_TRY(cudaStreamWaitEvent(d->side, d->forked, 0));
    return TANE_OK;
}

Status cuda_join(CudaDevice *d) {
    CUDA_TRY(cudaEventRecord(d->joined, d->side));
    CUDA_TRY(cudaStreamWaitEvent(d->stream, d->joined, 0));
    return TANE_OK;
}

Status cuda_shared_memory(const void *kernel, size_t bytes) {
    if (bytes <= (48u << 10)) return TANE_OK;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------ measuring */

__global__ static void fill_kernel(__nv_bfloat16 *h, float *f, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t bits = (uint32_t)i * 2654435761u; /* all bits of the mantissa differ: even data is faster than odd */
        bits = (bits ^ bits >> 15) * 2246822519u;
        float x = (float)(bits ^ bits >> 13) * 0x1p-32f - 0.5f;
        if (h) h[i] = __float2bfloat16(x);
        else f[i] = x;
    }
}

enum { SIDE = 8192, MEASURED = 12 };

static Status measure_product(CudaDevice *d, DType type, char *memory, cudaEvent_t begin, cudaEvent_t end,
                              double *flops) {
    size_t n = (size_t)SIDE * SIDE, size = n * dtype_size(type);
    MatmulShape shape = {};
    shape.m = shape.n = shape.k = shape.lda = shape.ldb = shape.ldc = SIDE;
    shape.type = shape.out_type = type;
    shape.trans_b = true;
    const Matmul *product;
    Status st = matmul_plan(d, &shape, &product);
    if (st != TANE_OK) return st;
    bool wide = type == DTYPE_F32;
    fill_kernel<<<1024, 256, 0, d->stream>>>(wide ? NULL : (__nv_bfloat16 *)memory, (float *)memory, 2 * n);
    CUDA_LAUNCHED();
    for (int i = 0; i < MEASURED; i++) {
        if (i == 2) CUDA_TRY(cudaEventRecord(begin, d->stream));
        st = matmul_run(d, product, memory, memory + size, memory + 2 * size, NULL, false, false, NULL);
        if (st != TANE_OK) return st;
    }
    CUDA_TRY(cudaEventRecord(end, d->stream));
    CUDA_TRY(cudaEventSynchronize(end));
    float ms;
    CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
    *flops = 2.0 * SIDE * SIDE * SIDE * (MEASURED - 2) / (ms * 1e-3);
    return TANE_OK;
}

static Status measure_copy(CudaDevice *d, char *memory, size_t bytes, cudaEvent_t begin, cudaEvent_t end, double *rate) {
    for (int i = 0; i < MEASURED; i++) {
        if (i == 2) CUDA_TRY(cudaEventRecord(begin, d->stream));
        CUDA_TRY(cudaMemcpyAsync(memory, memory + bytes / 2, bytes / 2, cudaMemcpyDeviceToDevice, d->stream));
    }
    CUDA_TRY(cudaEventRecord(end, d->stream));
    CUDA_TRY(cudaEventSynchronize(end));
    float ms;
    CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
    *rate = (double)bytes * (MEASURED - 2) / (ms * 1e-3);
    return TANE_OK;
}

/* Skipped, with rates of 0, where the card has no room for it now: a run must not fail because of a report. */
static Status cuda_measure(Device *base, DType type, double *flops, double *bytes_per_second) {
    CudaDevice *d = of(base);
    size_t bytes = (size_t)SIDE * SIDE * 3 * dtype_size(type);
    char *memory = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    *flops = 0;
    if (bytes_per_second) *bytes_per_second = 0;
    if (cudaMalloc(&memory, bytes) != cudaSuccess) {
        cudaGetLastError();
        return TANE_OK;
    }
    Status st = TANE_OK;
    if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess)
        st = cuda_fail(cudaGetLastError(), "cudaEventCreate", __FILE__, __LINE__);
    if (st == TANE_OK) st = measure_product(d, type, memory, begin, end, flops);
    if (st == TANE_OK && bytes_per_second) st = measure_copy(d, memory, bytes, begin, end, bytes_per_second);
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    cudaFree(memory);
    return st;
}

/* ---------------------------------------------------------------------------------------- opening, closing */

static void cuda_close(Device *base) {
    CudaDevice *d = of(base);
    cudaStreamSynchronize(d->stream);
    sdpa_close(d);
    matmul_close(d);
    cudaFree(d->workspace);
    cudaFree(d->side_workspace);
    if (d->fault_host) cudaFreeHost(d->fault_host);
    if (d->forked) cudaEventDestroy(d->forked);
    if (d->joined) cudaEventDestroy(d->joined);
    if (d->side) cudaStreamDestroy(d->side);
    if (d->stream) cudaStreamDestroy(d->stream);
    mem_free(d);
}

static const DeviceApi api = {cuda_close,         cuda_alloc,       cuda_release,      cuda_host_alloc,
                              cuda_host_release,  cuda_upload,      cuda_download,     cuda_download_later,
                              cuda_copy,          cuda_zero,        cuda_sync,         cuda_memory,
                              cuda_graph_begin,   cuda_graph_end,   cuda_graph_launch, cuda_graph_free,
                              cuda_event_new,     cuda_event_record, cuda_event_wait,  cuda_event_seconds,
                              cuda_event_free,    cuda_measure};

static Status open_streams(CudaDevice *d) {
    CUDA_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaStreamCreateWithFlags(&d->side, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&d->forked, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&d->joined, cudaEventDisableTiming));
    CUDA_TRY(cudaHostAlloc(&d->fault_host, sizeof *d->fault_host, cudaHostAllocMapped));
    memset(d->fault_host, 0, sizeof *d->fault_host);
    CUDA_TRY(cudaHostGetDevicePointer((void **)&d->fault, d->fault_host, 0));
    CUDA_TRY(cudaMalloc(&d->workspace, WORKSPACE));
    CUDA_TRY(cudaMalloc(&d->side_workspace, SIDE_WORKSPACE));
    d->workspace_bytes = WORKSPACE;
    d->side_workspace_bytes = SIDE_WORKSPACE;
    return matmul_open(d);
}

static Status fill_in(CudaDevice *d, const struct OpKernel *const *kernels) {
    cudaDeviceProp p;
    int runtime;
    char blas[32];
    CUDA_TRY(cudaGetDeviceProperties(&p, d->index));
    CUDA_TRY(cudaRuntimeGetVersion(&runtime));
    d->major = p.major;
    d->minor = p.minor;
    d->processors = p.multiProcessorCount;
    d->shared_memory = p.sharedMemPerBlockOptin;
    d->l2 = (size_t)p.l2CacheSize;
    d->base.api = &api;
    d->base.kernels = kernels;
    d->base.graphs = true;
    d->base.bf16_is_fast = p.major >= 8;
    d->base.has_fp16 = true;
    snprintf(d->base.name, sizeof d->base.name, "cuda:%d", d->index);
    snprintf(d->base.description, sizeof d->base.description, "%.60s, compute capability %d.%d", p.name, p.major,
             p.minor);
    matmul_version(blas, sizeof blas);
    snprintf(d->base.products, sizeof d->base.products, "cuBLASLt %s", blas);
    return TANE_OK;
}

Status cuda_device_open(Device **out, int index, const struct OpKernel *const *kernels) {
    size_t before = 0, after = 0, total;
    CudaDevice *d;
    *out = NULL;
    CUDA_TRY(cudaSetDevice(index));
    CUDA_TRY(cudaMemGetInfo(&before, &total));
    Status st = mem_new((void **)&d, 1, sizeof *d);
    if (st != TANE_OK) return st;
    d->index = index;
    st = open_streams(d);
    if (st == TANE_OK) st = fill_in(d, kernels);
    if (st != TANE_OK) {
        cuda_close(&d->base);
        return st;
    }
    if (cudaMemGetInfo(&after, &total) == cudaSuccess && after < before) d->base.taken = before - after;
    d->base.reserved = d->base.taken + CODE;
    *out = &d->base;
    return TANE_OK;
}
