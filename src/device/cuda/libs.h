/* cuBLASLt and cuDNN, found at run time: beside the plug-in's own search path, in the CUDA toolkit's folders, or inside
 * a Python installation that has PyTorch. So the plug-in loads wherever there is a driver, and says what is missing. */
#ifndef DEVICE_CUDA_LIBS_H
#define DEVICE_CUDA_LIBS_H

#include "device/cuda/cuda.h"

/* A handle for dlsym, or NULL with *why saying where was looked. The path it came from is in *path. Loaded once. */
void *cuda_library_cublaslt(const char **path, const char **why);
void *cuda_library_cudnn(const char **path, const char **why);

#endif
