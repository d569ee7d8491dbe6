/* Opening a GPU. */
#ifndef DEVICE_CUDA_DEVICE_H
#define DEVICE_CUDA_DEVICE_H

#include "device/cuda/cuda.h"

Status cuda_device_open(Device **out, int index, const struct OpKernel *const *kernels);

#endif
