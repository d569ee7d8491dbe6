/* Which device a job runs on: "auto", "cpu", "cuda" or "cuda:N". */
#ifndef OPS_BACKEND_H
#define OPS_BACKEND_H

#include "device/plugin.h"

/* "auto" is the first GPU that works, else the CPU; anything else is that device or an error that says what was found,
 * what is needed, and that device=cpu works. device_close when nothing of it is left. */
Status backend_open(Device **out, const char *name);

/* The CPU's device, with the best kernels or those of an instruction set (NULL if the CPU lacks it): static, never
 * closed in earnest. */
Device *backend_cpu(void);
Device *backend_cpu_isa(const char *isa);

/* libtane_cuda.so, loaded once. TANE_ENOTFOUND: there is none beside the program; TANE_EUNSUPPORTED: it does not load
 * (no driver, another build). */
Status backend_plugin(const Plugin **out);

#endif
