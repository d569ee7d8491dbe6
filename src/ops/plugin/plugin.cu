/* The plug-in: the CUDA row of every op, and what the program asks before it opens a GPU. A row of ops.def without a
 * CUDA kernel leaves a symbol undefined, and the plug-in does not link. */
#include "device/cuda/device.h"
#include "device/cuda/libs.h"
#include "device/cuda/matmul.h"

extern "C" {
#include "ops/node.h"
#include "ops/plugin/host.h"
}

#define OP(name, diff) extern "C" const OpKernel cuda_##name;
#include "ops/ops.def"
#undef OP
#define OP(name, diff) &cuda_##name,
static const OpKernel *const kernels[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

/* Any kernel of ours: whether the GPU can run it tells whether this plug-in has code for it. */
__global__ static void probe_kernel(int *out) { *out = 1; }

static Status count(int *n) {
    cudaError_t error = cudaGetDeviceCount(n);
    int driver = 0, runtime = CUDART_VERSION;
    if (error == cudaSuccess) return TANE_OK;
    cudaGetLastError();
    *n = 0;
    (void)cudaDriverGetVersion(&driver);
    if (error == cudaErrorNoDevice) return FAIL(TANE_ENOTFOUND, "the NVIDIA driver finds no GPU on this machine");
    if (driver == 0)
        return FAIL(TANE_EUNSUPPORTED, "there is no NVIDIA driver (libcuda.so.1); install nvidia-driver or your "
                                       "distribution's package, and restart");
    if (error == cudaErrorInsufficientDriver)
        return FAIL(TANE_EUNSUPPORTED,
                    "the NVIDIA driver is for CUDA %d.%d, this tane needs %d.%d: update the driver, or build tane with "
                    "an older CUDA toolkit",
                    driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return FAIL(TANE_EUNSUPPORTED, "CUDA: %s", cudaGetErrorString(error));
}

static Status describe(int index, PluginGpu *out) {
    cudaDeviceProp p;
    cudaFuncAttributes attributes;
    memset(out, 0, sizeof *out);
    CUDA_TRY(cudaGetDeviceProperties(&p, index));
    snprintf(out->name, sizeof out->name, "%.90s", p.name);
    out->major = p.major;
    out->minor = p.minor;
    out->total = p.totalGlobalMem;
    cudaError_t error = cudaSetDevice(index);
    if (error == cudaSuccess) error = cudaMemGetInfo(&out->free, &out->total);
    if (error == cudaErrorMemoryAllocation) { /* not even a context fits: other programs have it all */
        cudaGetLastError();
        out->supported = true;
        return TANE_OK;
    }
    CUDA_TRY(error);
    out->supported = cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess;
    cudaGetLastError();
    return TANE_OK;
}

static Status open_device(Device **out, int index) {
    PluginGpu gpu;
    Status st = describe(index, &gpu);
    if (st != TANE_OK) return st;
    if (!gpu.supported)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s has compute capability %d.%d; this tane was built for %s. Build it again with CUDA_ARCHS=%d%d",
                    gpu.name, gpu.major, gpu.minor, TEXT(CUDA_ARCH_NAMES), gpu.major, gpu.minor);
    if (gpu.free < (size_t)256 << 20)
        return FAIL(TANE_ENOMEM,
                    "%s has %.0f MiB of its %.1f GiB of memory free; at least 256 MiB are needed. `nvidia-smi` shows who "
                    "has them",
                    gpu.name, (double)gpu.free / 1048576.0, (double)gpu.total / 1073741824.0);
    return cuda_device_open(out, index, kernels);
}

static void libraries(char *text, size_t size) {
    const char *path, *why;
    char blas[32] = "";
    int n;
    if (cuda_library_cublaslt(&path, &why)) {
        matmul_version(blas, sizeof blas);
        n = snprintf(text, size, "cuBLASLt %s from %s\n", blas, path);
    } else {
        n = snprintf(text, size, "cuBLASLt: %s\n", why);
    }
    if (n < 0 || (size_t)n >= size) return;
    if (cuda_library_cudnn(&path, &why)) snprintf(text + n, size - (size_t)n, "cuDNN from %s\n", path);
    else snprintf(text + n, size - (size_t)n, "cuDNN: %s\n", why);
}

static const Plugin plugin = {PLUGIN_ABI, "CUDA " TEXT(CUDA_VERSION_NAME) ", " TEXT(CUDA_ARCH_NAMES), count, describe,
                              open_device, libraries};

extern "C" __attribute__((visibility("default"))) const Plugin *tane_plugin(const PluginHost *host);
const Plugin *tane_plugin(const PluginHost *host) { return cuda_host_set(host) ? &plugin : NULL; }
