/* The table of ggml's types: those that tane reads, and the names of the others for messages. */
#include "format/ggml.h"

#include <strings.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "format/ggml_block.h"

#if defined(__x86_64__)
bool ggml_cpu_avx2;

/* Before main(), because asking for F16C costs a trap in a virtual machine. AVX2 counts only when the system saves its
 * registers; F16C uses the same ones. */
__attribute__((constructor)) static void ask_cpu(void) {
    unsigned a, b, c, d;
    __builtin_cpu_init();
    ggml_cpu_avx2 = __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static const GgmlTypeInfo types[] = {
    {GGML_F32, "F32", 1, 4, true},
    {GGML_F16, "F16", 1, 2, true},
    {GGML_BF16, "BF16", 1, 2, true},
    {GGML_Q8_0, "Q8_0", SMALL_BLOCK, Q8_0_BYTES, true},
    {GGML_Q4_0, "Q4_0", SMALL_BLOCK, Q4_0_BYTES, true},
    {GGML_Q4_1, "Q4_1", SMALL_BLOCK, Q4_1_BYTES, false},
    {GGML_Q5_0, "Q5_0", SMALL_BLOCK, Q5_0_BYTES, false},
    {GGML_Q5_1, "Q5_1", SMALL_BLOCK, Q5_1_BYTES, false},
    {GGML_Q4_K, "Q4_K", K_BLOCK, Q4_K_BYTES, true},
    {GGML_Q5_K, "Q5_K", K_BLOCK, Q5_K_BYTES, false},
    {GGML_Q6_K, "Q6_K", K_BLOCK, Q6_K_BYTES, false},
};
enum { N_TYPES = sizeof types / sizeof *types };

const GgmlTypeInfo *ggml_type_info(int64_t type) {
    for (int i = 0; i < N_TYPES; i++)
        if ((int64_t)types[i].type == type) return &types[i];
    return NULL;
}

const GgmlTypeInfo *ggml_type_find(const char *name) {
    for (int i = 0; i < N_TYPES; i++)
        if (!strcasecmp(types[i].name, name)) return &types[i];
    return NULL;
}

const char *ggml_type_names(bool writes) {
    return writes ? "F32, F16, BF16, Q8_0, Q4_0, Q4_K"
                  : "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";
}

const char *ggml_type_foreign_name(int64_t type) {
    static const char *const names[] = {
        [9] = "Q8_1",     [10] = "Q2_K",  [11] = "Q3_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS",
        [24] = "I8",      [25] = "I16",   [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",
        [34] = "TQ1_0",   [35] = "TQ2_0", [39] = "MXFP4",  [40] = "NVFP4", [41] = "Q1_0",    [42] = "Q2_0",
    };
    return type >= 0 && type < (int64_t)(sizeof names / sizeof *names) ? names[type] : NULL;
}

size_t ggml_row_bytes(const GgmlTypeInfo *info, int64_t n) { return (size_t)(n / info->block) * info->bytes; }
