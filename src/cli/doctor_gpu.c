/* Looking for GPUs: on the bus, through the driver, through the plug-in. See doctor_gpu.h. */
#include "cli/doctor_gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "ops/backend.h"

static bool file_starts_with(const char *path, const char *text) {
    char *content;
    size_t n;
    if (file_read(path, 4096, &content, &n) != TANE_OK) return false;
    bool yes = !strncmp(content, text, strlen(text));
    mem_free(content);
    return yes;
}

static bool look_at_bus(void) {
    static const char folder[] = "/sys/bus/pci/devices";
    DirList list = {0};
    bool found = false;
    if (dir_list(folder, &list) != TANE_OK) return false;
    for (size_t i = 0; i < list.n; i++) {
        char vendor[512], class[512];
        snprintf(vendor, sizeof vendor, "%s/%s/vendor", folder, list.names[i]);
        snprintf(class, sizeof class, "%s/%s/class", folder, list.names[i]);
        found |= file_starts_with(vendor, "0x10de") && file_starts_with(class, "0x03"); /* display, 3D */
    }
    dir_list_free(&list);
    return found;
}

/* Of the driver's own library; the CUDA toolkit is not needed for that. */
static int driver_version(void) {
    int version = 0;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    int (*get)(int *) = (int (*)(int *))dlsym(library, "cuDriverGetVersion");
    if (!get || get(&version) != 0) version = 0;
    dlclose(library);
    return version;
}

static Status try_device(DoctorGpus *g, bool measure) {
    Device *d;
    TRY_RETURN(backend_open(&d, "cuda:0"));
    Status st = measure ? device_measure(d, DTYPE_BF16, &g->list[0].bf16_flops, &g->list[0].bandwidth) : TANE_OK;
    device_close(d);
    return st;
}

void doctor_gpus_look(DoctorGpus *g, bool measure) {
    const Plugin *p;
    int n = 0;
    *g = (DoctorGpus){.on_bus = look_at_bus(), .driver = driver_version()};
    g->plugin = backend_plugin(&p) == TANE_OK;
    if (g->plugin) {
        g->built_with = p->built_with;
        if (p->count(&n) == TANE_OK)
            for (; g->n < n && g->n < DOCTOR_GPUS; g->n++)
                if (p->describe(g->n, &g->list[g->n].gpu) != TANE_OK) break;
        if (g->n) p->libraries(g->libraries, sizeof g->libraries);
        g->used = g->n && try_device(g, measure) == TANE_OK;
    }
    if (!g->used) snprintf(g->why_not, sizeof g->why_not, "%.511s", err_message());
    err_clear();
}

static void tell_lines(const char *name, const char *lines) {
    for (const char *end; *lines; lines = *end ? end + 1 : end, name = "") {
        end = lines + strcspn(lines, "\n");
        printf("  %-13s %.*s\n", name, (int)(end - lines), lines);
    }
}

void doctor_gpus_tell(const DoctorGpus *g) {
    for (int i = 0; i < g->n; i++) {
        const DoctorGpu *d = &g->list[i];
        char name[24];
        snprintf(name, sizeof name, "cuda:%d", i);
        printf("  %-13s %s, compute capability %d.%d, %.1f of %.1f GiB free%s\n", name, d->gpu.name, d->gpu.major,
               d->gpu.minor, (double)d->gpu.free / 0x1p30, (double)d->gpu.total / 0x1p30,
               d->gpu.supported ? "" : " (this build has no code for it)");
        if (d->bf16_flops > 0)
            printf("  %-13s bf16 products %.0f TFLOP/s, memory %.2f TB/s\n", "", d->bf16_flops / 1e12,
                   d->bandwidth / 1e12);
    }
    if (!g->n) printf("  NVIDIA GPU    %s\n", g->on_bus ? "there, but not usable" : "none");
    if (g->driver) printf("  driver        CUDA %d.%d\n", g->driver / 1000, g->driver % 1000 / 10);
    if (g->plugin) printf("  plug-in       libtane_cuda.so, %s\n", g->built_with);
    if (g->n) tell_lines("", g->libraries);
}

json_t *doctor_gpus_json(const DoctorGpus *g) {
    json_t *list = json_array();
    for (int i = 0; i < g->n; i++) {
        const DoctorGpu *d = &g->list[i];
        json_array_append_new(list, json_pack("{ss si si sI sI sb sf sf}", "name", d->gpu.name, "major", d->gpu.major,
                                              "minor", d->gpu.minor, "free", (json_int_t)d->gpu.free, "total",
                                              (json_int_t)d->gpu.total, "supported", d->gpu.supported, "bf16_flops",
                                              d->bf16_flops, "memory_bytes_per_second", d->bandwidth));
    }
    return list;
}

const char *doctor_gpus_advice(const DoctorGpus *g, const char **what) {
    if (!g->on_bus && !g->driver) return NULL;
    *what = g->why_not;
    if (!g->plugin) return "install the CUDA toolkit (nvcc), then run `make` again";
    if (g->used) {
        *what = "cuDNN is not found: attention runs on tane's own, slower kernels";
        return strstr(g->libraries, "cuDNN from") ? NULL : "install libcudnn9, or `pip install nvidia-cudnn-cu13`";
    }
    return g->driver ? "nvidia-smi    # shows what the driver says"
                     : "sudo apt install nvidia-driver    # then restart";
}
