/* `tane doctor`: the GPUs, and what keeps tane from using them. */
#ifndef CLI_DOCTOR_GPU_H
#define CLI_DOCTOR_GPU_H

#include <jansson.h>

#include "device/plugin.h"

enum { DOCTOR_GPUS = 16 };

typedef struct DoctorGpu {
    PluginGpu gpu;
    double bf16_flops, bandwidth; /* 0: not measured */
} DoctorGpu;

typedef struct DoctorGpus {
    bool on_bus;                  /* an NVIDIA display device, with or without driver */
    int driver;                   /* CUDA version of the driver, e.g. 12040; 0: no driver */
    bool plugin;                  /* libtane_cuda.so is there and loads */
    const char *built_with;
    char libraries[1024];         /* lines on cuBLASLt and cuDNN */
    DoctorGpu list[DOCTOR_GPUS];
    int n;                        /* that the plug-in sees */
    bool used;                    /* device=auto takes the first one */
    char why_not[512];            /* when not used though there is one; or what keeps cuDNN away */
} DoctorGpus;

/* measure: also the rates of the first GPU (half a second). */
void doctor_gpus_look(DoctorGpus *g, bool measure);
void doctor_gpus_tell(const DoctorGpus *g);
json_t *doctor_gpus_json(const DoctorGpus *g);
/* What to do, or NULL: the matter in *what. */
const char *doctor_gpus_advice(const DoctorGpus *g, const char **what);

#endif
