/* How fast weights come from a file into a device's memory: bench/load FOLDER|FILE.gguf [cpu|cuda:N] [fp32|bf16|fp16]
 *
 * Prints the bytes of the file, seconds of each reading and GB/s of the file. The first reading may come from the disk,
 * the others come from the system's cache. Peer: bench/load.py (safetensors' load_file to the same device).
 */
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "device/cpuinfo.h"
#include "model/model.h"
#include "ops/backend.h"
#include "tane.h"

static Status load_once(const char *path, const char *where, DType type) {
    Status st = TANE_OK;
    Device *device = NULL;
    Model *model = NULL;
    TRY_RETURN(backend_open(&device, where));
    for (int i = 0; i < 4; i++) {
        double start = clock_seconds();
        TRY(model_open(&model, path, type, device));
        TRY(device_sync(device));
        double seconds = clock_seconds() - start,
               bytes = (double)params_count(&model->params) * (double)dtype_size(type);
        printf("%s -> %s %s: %.2f GB in memory, %.3f s, %.2f GB/s\n", path, device->name, dtype_name(type), bytes / 1e9,
               seconds, bytes / seconds / 1e9);
        model_free(model);
        model = NULL;
    }
out:
    model_free(model);
    device_close(device);
    return st;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: load FOLDER|FILE.gguf [cpu|cuda:N] [fp32|bf16|fp16]\n");
        return 2;
    }
    const char *where = argc > 2 ? argv[2] : "cpu", *name = argc > 3 ? argv[3] : "bf16";
    DType type = !strcmp(name, "fp32") ? DTYPE_F32 : !strcmp(name, "fp16") ? DTYPE_F16 : DTYPE_BF16;
    omp_set_num_threads(cpu_info()->cores);
    if (load_once(argv[1], where, type) == TANE_OK) return 0;
    fprintf(stderr, "%s\n", tane_error_message());
    return 1;
}
