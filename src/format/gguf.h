/* GGUF, versions 2 and 3, little-endian: a model in one file. Mapped, and checked whole when opened; after that every
 * access is safe.
 *
 *     "GGUF" | u32 version | u64 tensors | u64 keys | keys: name, type, value |
 *     tensors: name, rank, dims, type, offset | padding to general.alignment | data
 *
 * Checked: every count and length against what is left of the file, names (not empty, not twice), types that tane
 * reads, shapes (1 to 4 sizes of at least 1, whole blocks in a row, no overflow), the alignment (a power of two, 8 to
 * 65536), and tensors that follow each other in order, each aligned, without hole or overlap, up to the end of the
 * file.
 *
 * Dimensions in the file run from the fastest; here shapes are C's: (rows, columns), slowest first.
 */
#ifndef FORMAT_GGUF_H
#define FORMAT_GGUF_H

#include "format/ggml.h"

enum { GGUF_MAX_RANK = 4 };

typedef enum GgufKind {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_KINDS
} GgufKind;

const char *gguf_kind_name(GgufKind kind); /* "u32", "text", "array", ... */

typedef struct GgufText {
    const char *data; /* in the file; not NUL-terminated */
    size_t n;
} GgufText;

typedef struct GgufTensor {
    const char *name;
    int64_t shape[GGUF_MAX_RANK]; /* `rank` of them */
    int rank;
    const GgmlTypeInfo *type;
    const void *data; /* aligned to general.alignment in its file */
    size_t bytes;
} GgufTensor;

typedef struct GgufFile GgufFile;

/* One file; a split model ("-00001-of-00003.gguf") is opened by its first part, whose keys are the model's. */
Status gguf_open(GgufFile **out, const char *path);
void gguf_close(GgufFile **file); /* NULL is fine */
const char *gguf_path(const GgufFile *file);
size_t gguf_tensor_count(const GgufFile *file);
const GgufTensor *gguf_tensor(const GgufFile *file, size_t i);       /* in the file's order */
const GgufTensor *gguf_find(const GgufFile *file, const char *name); /* NULL when there is none */

size_t gguf_key_count(const GgufFile *file);
const char *gguf_key(const GgufFile *file, size_t i, GgufKind *kind); /* in the file's order */
/* The key's value as it stands in the file (n bytes), for gguf_put_copy. */
const void *gguf_key_bytes(const GgufFile *file, size_t i, size_t *n);
bool gguf_has(const GgufFile *file, const char *key);
/* Values by key. A missing key leaves *out as it is and is TANE_OK with `required` false, else TANE_EFORMAT naming it;
 * a wrong type or a number outside [lo, hi] is TANE_EFORMAT. Integers of any width are read. */
Status gguf_int(const GgufFile *file, const char *key, bool required, int64_t lo, int64_t hi, int64_t *out);
Status gguf_double(const GgufFile *file, const char *key, bool required, double *out);
Status gguf_bool(const GgufFile *file, const char *key, bool required, bool *out);
Status gguf_text(const GgufFile *file, const char *key, bool required, GgufText *out);
/* An array's elements: *n of them (0 and TANE_OK when missing and not required), then each by place, which must be one
 * of them and of the kind that is asked for. */
Status gguf_array(const GgufFile *file, const char *key, bool required, GgufKind *element, size_t *n);
GgufText gguf_array_text(const GgufFile *file, const char *key, size_t i);
double gguf_array_number(const GgufFile *file, const char *key, size_t i);
/* The whole array at once: texts[0..n) (each points into the file), numbers as int64 or double. The key must be there,
 * with n elements of a fitting kind. */
Status gguf_array_texts(const GgufFile *file, const char *key, GgufText *texts, size_t n);
Status gguf_array_ints(const GgufFile *file, const char *key, int64_t *values, size_t n);
Status gguf_array_doubles(const GgufFile *file, const char *key, double *values, size_t n);

/* ---- writing: keys and tensors are declared in the order in which they will stand, then the tensors' bytes come in
 * that order, in as many pieces as you like.
 *
 *     TRY(gguf_writer_open(&w, path));
 *     TRY(gguf_put_text(w, "general.architecture", "llama", 5));
 *     TRY(gguf_add(w, "output.weight", GGML_Q8_0, 2, (int64_t[]){vocab, width}));
 *     TRY(gguf_begin(w));
 *     TRY(gguf_write(w, blocks, bytes));
 *     TRY(gguf_writer_close(&w));
 *     out: gguf_writer_abort(&w);
 *
 * Written is path.tmp, version 3, alignment 32; close makes sure that it is on the disk and renames it. Everything
 * handed in is copied. */
typedef struct GgufWriter GgufWriter;
Status gguf_writer_open(GgufWriter **out, const char *path);
Status gguf_put_u32(GgufWriter *w, const char *key, uint32_t value);
Status gguf_put_f32(GgufWriter *w, const char *key, float value);
Status gguf_put_bool(GgufWriter *w, const char *key, bool value);
Status gguf_put_text(GgufWriter *w, const char *key, const char *text, size_t n);
Status gguf_put_texts(GgufWriter *w, const char *key, const GgufText *texts, size_t n);
Status gguf_put_f32s(GgufWriter *w, const char *key, const float *values, size_t n);
Status gguf_put_i32s(GgufWriter *w, const char *key, const int32_t *values, size_t n);
/* Key i of a file that is open for reading, as it stands there. */
Status gguf_put_copy(GgufWriter *w, const GgufFile *file, size_t i);
Status gguf_add(GgufWriter *w, const char *name, GgmlType type, int rank, const int64_t *shape); /* C's order */
Status gguf_begin(GgufWriter *w);                              /* no more keys or tensors; writes the header */
uint64_t gguf_writer_size(const GgufWriter *w);                /* of the finished file; from gguf_begin on */
Status gguf_write(GgufWriter *w, const void *bytes, size_t n); /* the next n bytes of all tensors' data; padding between
                                                                * tensors is written by itself */
Status gguf_writer_close(GgufWriter **w); /* fails when data is missing; *w is NULL afterwards, also on failure */
void gguf_writer_abort(GgufWriter **w);   /* removes path.tmp; NULL is fine */

#endif
