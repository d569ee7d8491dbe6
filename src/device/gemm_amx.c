/* bf16 products on Intel AMX tiles. Not available in this version: oneDNN does all products. */
#include "device/gemm_backend.h"

static bool supports(DType type) {
    (void)type;
    return false;
}
static void shut_down(void) {}

const GemmBackend gemm_amx = {.supports = supports, .shutdown = shut_down};
