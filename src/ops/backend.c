/* Devices with their kernels: the CPU's op tables by instruction set, and the plug-in with the GPU's. */
#include "ops/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "ops/node.h"

/* ------------------------------------------------------------------------------------------------- the CPU */

#define OP(name, diff) extern const OpKernel cpu_##name##_base, cpu_##name##_avx2, cpu_##name##_avx512;
#include "ops/ops.def"
#undef OP

#define OP(name, diff) &cpu_##name##_base,
static const OpKernel *const base_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP
#define OP(name, diff) &cpu_##name##_avx2,
static const OpKernel *const avx2_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP
#define OP(name, diff) &cpu_##name##_avx512,
static const OpKernel *const avx512_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP

const char *op_name(OpId op) { return base_table[op]->name; }

enum { ISAS = 3 };
static Device cpus[ISAS];
static const char *const isa_names[ISAS] = {"avx512", "avx2", "base"}; /* the best first */
static pthread_once_t cpus_once = PTHREAD_ONCE_INIT;

static void make_cpus(void) {
    static const OpKernel *const *const tables[ISAS] = {avx512_table, avx2_table, base_table};
    const CpuInfo *cpu = cpu_info();
    const bool there[ISAS] = {cpu->avx512, cpu->avx2_fma, true};
    for (int i = 0; i < ISAS; i++) {
        if (!there[i]) continue;
        Device *d = &cpus[i];
        *d = (Device){.api = &device_cpu_api, .kernels = tables[i], .host = true};
        d->bf16_is_fast = gemm_bf16_is_fast();
        snprintf(d->name, sizeof d->name, "cpu");
        snprintf(d->description, sizeof d->description, "%s", cpu->model);
        snprintf(d->products, sizeof d->products, "%s", gemm_backend(d->bf16_is_fast ? DTYPE_BF16 : DTYPE_F32));
    }
}

Device *backend_cpu_isa(const char *isa) {
    pthread_once(&cpus_once, make_cpus);
    for (int i = 0; i < ISAS; i++)
        if (!strcmp(isa, isa_names[i])) return cpus[i].api ? &cpus[i] : NULL;
    return NULL;
}

Device *backend_cpu(void) {
    pthread_once(&cpus_once, make_cpus);
    for (int i = 0; i < ISAS - 1; i++)
        if (cpus[i].api) return &cpus[i];
    return &cpus[ISAS - 1];
}

/* --------------------------------------------------------------------------------------------- the plug-in */

static Status host_err_vset(Status code, const char *file, int line, const char *fmt, va_list args) {
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    return err_set(code, file, line, "%s", text);
}

static Status host_err_context(const char *text) { return err_context("%s", text); }
static const char *host_op_name(int op) { return op_name((OpId)op); }

static const PluginHost host = {.abi = PLUGIN_ABI,
                                .node_size = sizeof(Node),
                                .tensor_size = sizeof(Tensor),
                                .ops = OP_COUNT,
                                .err_vset = host_err_vset,
                                .err_context = host_err_context,
                                .err_message = err_message,
                                .mem_new = mem_new,
                                .mem_free = mem_free,
                                .node_save = node_save,
                                .op_name = host_op_name};

static pthread_once_t plugin_once = PTHREAD_ONCE_INIT;
static const Plugin *plugin;
static ErrorCopy plugin_error;

static Status load_from(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return FAIL(TANE_EUNSUPPORTED, "%s does not load: %s", path, dlerror());
    PluginEntry *entry = (PluginEntry *)dlsym(library, PLUGIN_ENTRY);
    plugin = entry ? entry(&host) : NULL;
    if (plugin) return TANE_OK;
    dlclose(library);
    return FAIL(TANE_EUNSUPPORTED, "%s belongs to another build of tane; build both together, with `make`", path);
}

/* Beside the program, or where a bundle and the build folder have it. */
static void load_plugin(void) {
    static const char *const places[] = {"", "../lib/", "../../lib/", "../", "../../"};
    char program[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash) slash[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%slibtane_cuda.so", program, places[i]);
        if (access(path, R_OK) != 0) continue;
        if (load_from(path) != TANE_OK) err_save(&plugin_error);
        return;
    }
    FAIL(
        TANE_ENOTFOUND,
        "this tane was built without CUDA (there is no libtane_cuda.so in %s); install the CUDA toolkit and run `make` "
        "again",
        program);
    err_save(&plugin_error);
}

Status backend_plugin(const Plugin **out) {
    pthread_once(&plugin_once, load_plugin);
    *out = plugin;
    return plugin ? TANE_OK : err_restore(&plugin_error);
}

/* ------------------------------------------------------------------------------------------------ by name */

static Status open_gpu(Device **out, int index) {
    const Plugin *p;
    int n;
    TRY_RETURN(backend_plugin(&p));
    TRY_RETURN(p->count(&n));
    if (n == 0) return FAIL(TANE_ENOTFOUND, "the driver sees no GPU");
    if (index >= n)
        return FAIL(TANE_ENOTFOUND, "there is no cuda:%d: this machine has %d GPU%s, cuda:0%s%d", index, n,
                    n > 1 ? "s" : "", n > 1 ? " to cuda:" : "", n > 1 ? n - 1 : 0);
    return p->open(out, index);
}

Status backend_open(Device **out, const char *name) {
    *out = NULL;
    if (!strcmp(name, "cpu")) {
        *out = backend_cpu();
        return TANE_OK;
    }
    if (!strcmp(name, "auto")) {
        if (open_gpu(out, 0) == TANE_OK) return TANE_OK;
        err_clear();
        *out = backend_cpu();
        return TANE_OK;
    }
    const char *number = !strncmp(name, "cuda:", 5) ? name + 5 : !strcmp(name, "cuda") ? "0" : "";
    if (!*number || strspn(number, "0123456789") != strlen(number) || strlen(number) > 3)
        return FAIL(TANE_EINVAL, "device=%s: a device is auto, cpu, cuda or cuda:N, as in cuda:0", name);
    if (open_gpu(out, atoi(number)) == TANE_OK) return TANE_OK;
    Status st = err_context("device=%s", name);
    ErrorCopy error;
    err_save(&error);
    (void)st;
    return FAIL(error.code, "%s; device=cpu works now", error.text);
}
