/* What this machine reaches in practice, measured in under a second each: the limits that reports compare with. */
#ifndef DEVICE_MEASURE_H
#define DEVICE_MEASURE_H

#include "base/dtype.h"
#include "base/status.h"

/* Floating-point operations per second (2 M N K a product) of large square products of `type` on all threads. */
Status measure_gemm(DType type, double *flops);
/* Bytes per second moved by copying large blocks on all threads (read + written). */
Status measure_memory(double *bytes_per_second);

#endif
