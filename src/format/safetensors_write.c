/* Writing safetensors: tensors are declared, sorted into the reference implementation's order, and streamed.
 *
 * Larger elements come first, so that with the header padded to 8 bytes every tensor is aligned for its type; among
 * equal types the order is by name. Metadata is sorted by key. So equal input gives equal bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/safetensors.h"

enum { LENGTH_BYTES = 8, ALIGNMENT = 8, MAX_HEADER = 100 * 1000 * 1000 };

typedef struct Pair {
    const char *key, *value;
} Pair;

struct StWriter {
    FileWriter *file;
    Arena arena; /* names, shapes, metadata, path */
    char *path;
    StTensor *tensors; /* from st_writer_begin on in the order of the file */
    size_t n, cap;
    Pair *metadata;
    size_t n_metadata, cap_metadata;
    uint64_t size;    /* of the finished file */
    bool begun;
    size_t next;      /* tensors handed out by st_writer_next */
    size_t remaining; /* bytes of the current one still to come */
};

Status st_writer_open(StWriter **out, const char *path) {
    Status st = TANE_OK;
    StWriter *w;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&w));
    TRY(arena_strdup(&w->arena, &w->path, path));
    TRY(fw_open(&w->file, path));
    *out = w;
    return TANE_OK;
out:
    st_writer_abort(&w);
    return st;
}

void st_writer_abort(StWriter **handle) {
    StWriter *w = *handle;
    *handle = NULL;
    if (!w) return;
    fw_abort(&w->file);
    mem_free(w->tensors);
    mem_free(w->metadata);
    arena_release(&w->arena);
    mem_free(w);
}

static Status grow(void **array, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return TANE_OK;
    size_t grown = *cap ? 2 * *cap : 32;
    TRY_RETURN(mem_grow(array, *cap, grown, size));
    *cap = grown;
    return TANE_OK;
}

Status st_writer_metadata(StWriter *w, const char *key, const char *value) {
    char *kept_key, *kept_value;
    if (w->begun) return FAIL(TANE_EINVAL, "%s: metadata \"%s\" comes behind the header", w->path, key);
    TRY_RETURN(grow((void **)&w->metadata, w->n_metadata, &w->cap_metadata, sizeof *w->metadata));
    TRY_RETURN(arena_strdup(&w->arena, &kept_key, key));
    TRY_RETURN(arena_strdup(&w->arena, &kept_value, value));
    w->metadata[w->n_metadata++] = (Pair){kept_key, kept_value};
    return TANE_OK;
}

Status st_writer_add(StWriter *w, const char *name, DType dtype, int rank, const int64_t *shape) {
    StTensor t = {.file = w->path, .dtype = dtype, .rank = rank, .index = w->n, .bytes = dtype_size(dtype)};
    char *kept_name;
    int64_t *kept_shape;
    if (w->begun) return FAIL(TANE_EINVAL, "%s: tensor \"%s\" comes behind the header", w->path, name);
    if (!*name || !strcmp(name, "__metadata__"))
        return FAIL(TANE_EINVAL, "%s: \"%s\" cannot be the name of a tensor", w->path, name);
    if (rank < 0 || rank > ST_MAX_RANK)
        return FAIL(TANE_EINVAL, "%s: tensor \"%s\" has %d dimensions; at most %d can be written", w->path, name, rank,
                    ST_MAX_RANK);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(t.bytes, (size_t)shape[i], &t.bytes) || t.bytes > INT64_MAX)
            return FAIL(TANE_EINVAL, "%s: tensor \"%s\": size %lld of dimension %d cannot be written", w->path, name,
                        (long long)shape[i], i);
    TRY_RETURN(grow((void **)&w->tensors, w->n, &w->cap, sizeof *w->tensors));
    TRY_RETURN(arena_strdup(&w->arena, &kept_name, name));
    TRY_RETURN(ARENA_NEW_ARRAY(&w->arena, &kept_shape, (size_t)rank));
    if (rank) memcpy(kept_shape, shape, (size_t)rank * sizeof *shape);
    t.name = kept_name;
    t.shape = kept_shape;
    w->tensors[w->n++] = t;
    return TANE_OK;
}

/* ---- the header ------------------------------------------------------------------------------------------------- */

/* The reference implementation writes its dtypes from the last to the first. */
static int place_of(DType type) {
    static const DType order[DTYPE_COUNT] = {DTYPE_I64, DTYPE_F64, DTYPE_F32, DTYPE_I32, DTYPE_BF16,
                                             DTYPE_F16, DTYPE_I16, DTYPE_I8,  DTYPE_U8,  DTYPE_BOOL};
    int i = 0;
    while (order[i] != type) i++;
    return i;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const StTensor *)a)->name, ((const StTensor *)b)->name);
}

static int by_place(const void *a, const void *b) {
    int x = place_of(((const StTensor *)a)->dtype), y = place_of(((const StTensor *)b)->dtype);
    return x != y ? x - y : by_name(a, b);
}

static int by_key(const void *a, const void *b) { return strcmp(((const Pair *)a)->key, ((const Pair *)b)->key); }

/* Refuses names and keys that are there twice, and puts everything in its order. */
static Status arrange(StWriter *w) {
    if (w->n) qsort(w->tensors, w->n, sizeof *w->tensors, by_name);
    for (size_t i = 1; i < w->n; i++)
        if (!by_name(&w->tensors[i - 1], &w->tensors[i]))
            return FAIL(TANE_EINVAL, "%s: tensor \"%s\" was added twice", w->path, w->tensors[i].name);
    if (w->n) qsort(w->tensors, w->n, sizeof *w->tensors, by_place);
    if (w->n_metadata) qsort(w->metadata, w->n_metadata, sizeof *w->metadata, by_key);
    for (size_t i = 1; i < w->n_metadata; i++)
        if (!by_key(&w->metadata[i - 1], &w->metadata[i]))
            return FAIL(TANE_EINVAL, "%s: metadata \"%s\" was added twice", w->path, w->metadata[i].key);
    return TANE_OK;
}

static Status write_entry(Str *out, const StTensor *t, uint64_t begin) {
    TRY_RETURN(json_write_text(out, t->name, strlen(t->name)));
    TRY_RETURN(str_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_word(t->dtype)));
    for (int i = 0; i < t->rank; i++) TRY_RETURN(str_printf(out, "%s%lld", i ? "," : "", (long long)t->shape[i]));
    return str_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                      (unsigned long long)(begin + t->bytes));
}

/* The header's text, padded; *data_size becomes the sum of all tensors. */
static Status write_header(const StWriter *w, Str *out, uint64_t *data_size) {
    *data_size = 0;
    TRY_RETURN(str_add(out, "{", 1));
    if (w->n_metadata) TRY_RETURN(str_printf(out, "\"__metadata__\":{"));
    for (size_t i = 0; i < w->n_metadata; i++) {
        const Pair *pair = &w->metadata[i];
        if (i) TRY_RETURN(str_add(out, ",", 1));
        TRY_RETURN(json_write_text(out, pair->key, strlen(pair->key)));
        TRY_RETURN(str_add(out, ":", 1));
        TRY_RETURN(json_write_text(out, pair->value, strlen(pair->value)));
    }
    if (w->n_metadata) TRY_RETURN(str_printf(out, w->n ? "}," : "}"));
    for (size_t i = 0; i < w->n; i++) {
        if (i) TRY_RETURN(str_add(out, ",", 1));
        TRY_RETURN(write_entry(out, &w->tensors[i], *data_size));
        if (__builtin_add_overflow(*data_size, w->tensors[i].bytes, data_size) || *data_size > INT64_MAX)
            return FAIL(TANE_EINVAL, "%s: all tensors together are too large for a file", w->path);
    }
    TRY_RETURN(str_add(out, "}", 1));
    while (out->len % ALIGNMENT) TRY_RETURN(str_add(out, " ", 1));
    if (out->len > MAX_HEADER)
        return FAIL(TANE_EINVAL, "%s: %zu tensors need a header of %zu bytes; at most %d are allowed, so write shards",
                    w->path, w->n, out->len, MAX_HEADER);
    return TANE_OK;
}

Status st_writer_begin(StWriter *w) {
    Status st = TANE_OK;
    Str header = {0};
    uint64_t data_size;
    uint8_t length[LENGTH_BYTES];
    if (w->begun) return FAIL(TANE_EINVAL, "%s: the header is already written", w->path);
    w->begun = true;
    TRY(arrange(w));
    TRY(write_header(w, &header, &data_size));
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (uint8_t)((uint64_t)header.len >> 8 * i);
    w->size = LENGTH_BYTES + header.len + data_size;
    TRY(fw_write(w->file, length, sizeof length));
    TRY(fw_write(w->file, header.text, header.len));
out:
    str_free(&header);
    return st;
}

/* ---- the data --------------------------------------------------------------------------------------------------- */

uint64_t st_writer_size(const StWriter *w) { return w->size; }

const StTensor *st_writer_next(StWriter *w) {
    if (!w->begun || w->remaining || w->next == w->n) return NULL; /* an unfinished tensor: st_writer_close says so */
    const StTensor *t = &w->tensors[w->next++];
    w->remaining = t->bytes;
    return t;
}

Status st_writer_write(StWriter *w, const void *bytes, size_t n) {
    if (n > w->remaining)
        return FAIL(TANE_EINVAL, "%s: %zu bytes are too many for tensor \"%s\", which takes %zu more", w->path, n,
                    w->next ? w->tensors[w->next - 1].name : "(none)", w->remaining);
    w->remaining -= n;
    return fw_write(w->file, bytes, n);
}

Status st_writer_close(StWriter **handle, uint64_t *size, char *sha256_hex) {
    StWriter *w = *handle;
    Status st = TANE_OK;
    if (!w->begun) TRY(FAIL(TANE_EINVAL, "%s: closed before its header was written", w->path));
    if (w->remaining)
        TRY(FAIL(TANE_EINVAL, "%s: tensor \"%s\" lacks %zu of its bytes", w->path, w->tensors[w->next - 1].name,
                 w->remaining));
    while (w->next < w->n && w->tensors[w->next].bytes == 0) w->next++;
    if (w->next < w->n) TRY(FAIL(TANE_EINVAL, "%s: tensor \"%s\" was not written", w->path, w->tensors[w->next].name));
    TRY(fw_close(&w->file, size, sha256_hex));
out:
    st_writer_abort(handle);
    return st;
}
