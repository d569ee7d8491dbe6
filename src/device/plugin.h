/* The border between tane and libtane_cuda.so: what each hands to the other. Both sides are built from one tree, and a
 * plug-in of another build is refused by `abi`.
 *
 * The plug-in has its own small copies of err_set, mem_new, node_save, ... (ops/plugin/host.c), which call back into
 * the program through PluginHost: so that one error object and one allocator serve both, and no symbol of the program
 * has to be exported.
 */
#ifndef DEVICE_PLUGIN_H
#define DEVICE_PLUGIN_H

#include <stdarg.h>

#include "device/device.h"

struct Node;

enum { PLUGIN_ABI = 1 };

typedef struct PluginHost {
    int abi;
    size_t node_size, tensor_size; /* of the structs that cross the border, as the program was compiled */
    int ops;                       /* rows of ops.def */
    Status (*err_vset)(Status code, const char *source_file, int source_line, const char *fmt, va_list args);
    Status (*err_context)(const char *text);
    const char *(*err_message)(void);
    Status (*mem_new)(void **out, size_t n, size_t size);
    void (*mem_free)(void *ptr);
    Status (*node_save)(struct Node *node, DType dtype, int rank, const int64_t *shape);
    const char *(*op_name)(int op);
} PluginHost;

/* A GPU as doctor lists it. */
typedef struct PluginGpu {
    char name[96];
    int major, minor;        /* compute capability */
    size_t free, total;      /* bytes of memory */
    bool supported;          /* this plug-in has code for it */
} PluginGpu;

typedef struct Plugin {
    int abi;
    const char *built_with;   /* "CUDA 13.0, sm_75 sm_80 ... sm_90, PTX compute_90" */
    Status (*count)(int *n);  /* GPUs; errors name the driver's problem */
    Status (*describe)(int index, PluginGpu *out);
    Status (*open)(Device **out, int index);
    /* One line each on the libraries: "cuBLASLt 13.0.2 from /usr/local/cuda/lib64/libcublasLt.so.13", "cuDNN: not
     * found ...". */
    void (*libraries)(char *text, size_t size);
} Plugin;

/* The plug-in's only symbol. NULL when host->abi or a size is not its own. */
#define PLUGIN_ENTRY "tane_plugin"
typedef const Plugin *PluginEntry(const PluginHost *host);

#endif
