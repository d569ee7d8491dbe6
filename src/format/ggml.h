/* ggml's tensor types: blocks of numbers with a shared scale, as GGUF files hold them. The layouts
 * stand in ggml_block.h. */
#ifndef FORMAT_GGML_H
#define FORMAT_GGML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

/* The numbers of the format. */
typedef enum GgmlType {
    GGML_F32 = 0,
    GGML_F16 = 1,
    GGML_Q4_0 = 2,
    GGML_Q4_1 = 3,
    GGML_Q5_0 = 6,
    GGML_Q5_1 = 7,
    GGML_Q8_0 = 8,
    GGML_Q4_K = 12,
    GGML_Q5_K = 13,
    GGML_Q6_K = 14,
    GGML_BF16 = 30
} GgmlType;

typedef struct GgmlTypeInfo {
    GgmlType type;
    const char *name; /* "Q4_K" */
    int64_t block;    /* numbers in a block: 1, 32 or 256; a row is whole blocks */
    size_t bytes;     /* of a block */
    bool writes;      /* ggml_encode can make it */
} GgmlTypeInfo;

const GgmlTypeInfo *ggml_type_info(int64_t type);     /* NULL: a number that tane does not know */
const GgmlTypeInfo *ggml_type_find(const char *name); /* "Q4_K", "q4_k", "bf16"; NULL if unknown */
const char *ggml_type_names(bool writes);             /* "F32, F16, ..." for messages */
/* The type's name for numbers tane cannot read ("IQ2_XS"), or NULL. */
const char *ggml_type_foreign_name(int64_t type);
size_t ggml_row_bytes(const GgmlTypeInfo *info, int64_t n);

/* n numbers (whole blocks) out of and into blocks; one thread, any alignment. Results are the same on every machine:
 * those of ggml's reference functions bit for bit, but for the encoder of Q4_K, which is our own and closer to x. A
 * number that is not finite makes its block NaN (F32, F16 and BF16 keep it), one too large for the type NaN or Inf.
 * Encoding is for types that have `writes`. */
void ggml_decode(GgmlType type, const void *blocks, int64_t n, float *out);
void ggml_encode(GgmlType type, const float *x, int64_t n, void *blocks);

#endif
