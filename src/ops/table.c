/* The CPU's op tables, one an instruction set, and the choice among them. */
#include "ops/ops.h"

#include "device/cpuinfo.h"
#include "ops/node.h"

#define OP(name, diff) extern const OpKernel cpu_##name##_base, cpu_##name##_avx2, cpu_##name##_avx512;
#include "ops/ops.def"
#undef OP

#define OP(name, diff) &cpu_##name##_base,
static const OpKernel *const base_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP
#define OP(name, diff) &cpu_##name##_avx2,
static const OpKernel *const avx2_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP
#define OP(name, diff) &cpu_##name##_avx512,
static const OpKernel *const avx512_table[OP_COUNT] = {
#include "ops/ops.def"
};
#undef OP

const OpKernel *const *ops_cpu_isa(const char *isa) {
    const CpuInfo *cpu = cpu_info();
    if (!strcmp(isa, "avx512") && cpu->avx512) return avx512_table;
    if (!strcmp(isa, "avx2") && cpu->avx2_fma) return avx2_table;
    return strcmp(isa, "base") ? NULL : base_table;
}

const OpKernel *const *ops_cpu(void) {
    const OpKernel *const *best = ops_cpu_isa("avx512");
    if (!best) best = ops_cpu_isa("avx2");
    return best ? best : base_table;
}

const char *op_name(OpId op) { return base_table[op]->name; }
