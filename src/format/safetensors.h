/* safetensors: weights on disk. A file is mapped and checked whole when it is opened; after that every access is safe.
 *
 *     u64 little-endian n | n bytes of JSON, starting with '{', padded with spaces | data
 *     {"__metadata__": {"format": "pt"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}
 *
 * Checked: the header's length (<= 100 MB and inside the file), its JSON and UTF-8, no name twice, known dtypes, at
 * most 8 dimensions, size = product of the shape x size of the dtype without overflow, and data ranges that follow each
 * other without hole or overlap up to the end of the file. A sharded model is a folder with
 * model.safetensors.index.json.
 */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "base/dtype.h"
#include "base/status.h"

enum { ST_MAX_RANK = 8 };

typedef struct StTensor {
    const char *name;
    const int64_t *shape; /* rank sizes; a scalar has rank 0 */
    const void *data;     /* bytes of it; NULL while writing. Foreign files may be unaligned: use memcpy */
    size_t bytes;
    const char *file;     /* path it comes from or goes to, for messages */
    DType dtype;
    int rank;
    size_t index;         /* reading: place in st_get; writing: how many-th it was added, from 0 */
} StTensor;

/* "[2, 3]" */
void st_shape_text(const StTensor *tensor, char *out, size_t size);
const char *st_dtype_word(DType type); /* "F32", "BF16", ...: the format's own names */

/* ---- reading: everything handed out is owned by the StFile and valid until st_close */
typedef struct StFile StFile;

/* A .safetensors file, a model.safetensors.index.json, or a folder with either (model.safetensors wins). */
Status st_open(StFile **out, const char *path);
void st_close(StFile **file); /* NULL is fine */
size_t st_count(const StFile *file);
const StTensor *st_get(const StFile *file, size_t i); /* sorted by name */
const StTensor *st_find(const StFile *file, const char *name); /* NULL when there is none */
/* Like st_find; a missing tensor is TANE_ENOTFOUND with the nearest name. */
Status st_require(const StFile *file, const char *name, const StTensor **out);
const char *st_metadata(const StFile *file, const char *key); /* NULL when there is none */
size_t st_metadata_count(const StFile *file);
void st_metadata_get(const StFile *file, size_t i, const char **key, const char **value); /* sorted by key */

/* ---- writing: declare everything, then stream the data; the same input gives the same bytes.
 *
 *     TRY(st_writer_open(&w, path));
 *     TRY(st_writer_metadata(w, "format", "pt"));
 *     TRY(st_writer_add(w, "wte.weight", DTYPE_F32, 2, (int64_t[]){vocab, width}));     each tensor, in any order
 *     TRY(st_writer_begin(w));
 *     for (const StTensor *t; (t = st_writer_next(w));)                                 in the order of the file
 *         TRY(st_writer_write(w, data_of[t->index], t->bytes));                         in as many pieces as you like
 *     TRY(st_writer_close(&w, &size, sha256_hex));
 *     out: st_writer_abort(&w);
 *
 * The order on disk is the reference implementation's: larger elements first (so that all data is aligned), then by
 * name. The file is written in place and fsynced by close; whoever needs it atomic writes into a folder that is renamed
 * later. */
typedef struct StWriter StWriter;
Status st_writer_open(StWriter **out, const char *path);
Status st_writer_metadata(StWriter *w, const char *key, const char *value); /* copied */
Status st_writer_add(StWriter *w, const char *name, DType dtype, int rank, const int64_t *shape); /* copied */
Status st_writer_begin(StWriter *w);             /* no more tensors; writes the header */
uint64_t st_writer_size(const StWriter *w);      /* of the finished file; from st_writer_begin on */
const StTensor *st_writer_next(StWriter *w);     /* NULL behind the last one; owned by the writer */
Status st_writer_write(StWriter *w, const void *bytes, size_t n); /* the next n bytes of that tensor */
/* Fails when data is missing. size and sha256_hex (65 bytes) may be NULL. *w is NULL afterwards, also on failure. */
Status st_writer_close(StWriter **w, uint64_t *size, char *sha256_hex);
void st_writer_abort(StWriter **w); /* the file stays, incomplete; NULL is fine */

#endif
