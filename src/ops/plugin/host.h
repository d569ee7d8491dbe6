/* What the plug-in got from the program. */
#ifndef OPS_PLUGIN_HOST_H
#define OPS_PLUGIN_HOST_H

#include "device/plugin.h"

/* False: the program is another build. */
bool cuda_host_set(const PluginHost *host);

#endif
