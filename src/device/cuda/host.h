/* What the plug-in got from the program. */
#ifndef DEVICE_CUDA_HOST_H
#define DEVICE_CUDA_HOST_H

#include "device/plugin.h"

/* False: the program is another build. */
bool cuda_host_set(const PluginHost *host);

#endif
