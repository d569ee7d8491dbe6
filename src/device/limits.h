/* This machine's limits, measured: what a matrix product and a copy reach. The yardstick of progress reports. */
#ifndef DEVICE_LIMITS_H
#define DEVICE_LIMITS_H

#include "base/dtype.h"
#include "base/status.h"

/* Floating-point operations a second of a 1024 x 1024 x 1024 product with inputs of `type`, the best of a few runs. Takes about
 * a tenth of a second. */
Status limits_matmul(DType type, double *flops_per_second);
/* Bytes a second, read plus written, of a copy larger than the caches. Takes about a tenth of a second. */
Status limits_copy(double *bytes_per_second);

#endif
