/* What this machine's processor can do and how much of the machine we may use. Asked once, then remembered.
 *
 * A feature counts only when the operating system saves its registers too (XCR0; for AMX the kernel's permission, which
 * asking here also requests for the process). Elsewhere than on x86-64 all features are false.
 */
#ifndef DEVICE_CPUINFO_H
#define DEVICE_CPUINFO_H

#include "base/status.h"

typedef struct CpuInfo {
    bool avx2_fma;     /* AVX2, FMA, F16C, BMI2 */
    bool avx512;       /* AVX-512 F, BW, VL, DQ on top of these */
    bool avx512_bf16;  /* with AVX512_BF16 */
    bool avx512_vnni;
    bool avx512_fp16;
    bool amx_bf16;     /* AMX tiles and AMX-BF16, usable by this process */
    char model[64];    /* "Intel(R) Xeon(R) Platinum 8480+"; "unknown" when the machine does not say */
    int cores_online;  /* logical processors of the machine */
    int cores_allowed; /* of these, in this process's affinity mask */
    double cpu_quota;  /* processors' worth of time the control group allows, 0: no limit */
    int cores;         /* what to use: allowed, and no more than the quota rounded up; >= 1 */
    size_t cache_l1d, cache_l2, cache_l3; /* bytes as seen from one core, 0: unknown */
    uint64_t memory;       /* bytes of the machine */
    uint64_t memory_limit; /* bytes the control group allows, 0: no limit */
} CpuInfo;

const CpuInfo *cpu_info(void); /* never fails; any thread */

/* Bytes that could be allocated now without swapping, within the control group's limit; 0: unknown. */
uint64_t cpu_memory_available(void);
/* Bytes that this process has in memory now; 0: unknown. */
uint64_t cpu_memory_resident(void);

#endif
