/* Writing GGUF: the keys are collected as the bytes they become, so that the header can begin with its counts; the
 * tensors' data is streamed. The same input gives the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "format/gguf.h"

enum {
    VERSION = 3,
    ALIGNMENT = 32,      /* what readers assume where no key says otherwise */
    MAX_TENSOR_NAME = 63 /* what ggml keeps of a name */
};

typedef struct Entry {
    const char *name;
    const GgmlTypeInfo *type;
    int64_t shape[GGUF_MAX_RANK];
    int rank;
    uint64_t bytes;
} Entry;

struct GgufWriter {
    FileWriter *file;
    Arena arena; /* names and paths */
    char *path, *tmp;
    Str keys; /* as they will stand in the file */
    const char **key_names;
    size_t n_keys, cap_keys;
    Entry *entries;
    size_t n, cap;
    uint64_t size; /* of the finished file */
    bool begun;
    size_t current;   /* the tensor that the next byte belongs to */
    uint64_t written; /* of it */
};

static uint64_t aligned(uint64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

Status gguf_writer_open(GgufWriter **out, const char *path) {
    Status st = TANE_OK;
    GgufWriter *w;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&w));
    TRY(arena_strdup(&w->arena, &w->path, path));
    TRY(arena_printf(&w->arena, &w->tmp, "%s.tmp", path));
    TRY(fw_open(&w->file, w->tmp));
    *out = w;
    return TANE_OK;
out:
    gguf_writer_abort(&w);
    return st;
}

static void release(GgufWriter **handle) {
    GgufWriter *w = *handle;
    *handle = NULL;
    str_free(&w->keys);
    mem_free(w->key_names);
    mem_free(w->entries);
    arena_release(&w->arena);
    mem_free(w);
}

/* Keeps the error that is being reported. */
void gguf_writer_abort(GgufWriter **handle) {
    GgufWriter *w = *handle;
    ErrorCopy reported;
    if (!w) return;
    if (w->file) {
        fw_abort(&w->file);
        err_save(&reported);
        (void)file_unlink(w->tmp);
        (void)err_restore(&reported);
    }
    release(handle);
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static Status put(GgufWriter *w, const void *bytes, size_t n) { return str_add(&w->keys, bytes, n); }
static Status put_u32(GgufWriter *w, uint32_t value) { return put(w, &value, 4); }
static Status put_u64(GgufWriter *w, uint64_t value) { return put(w, &value, 8); }
static Status put_counted(GgufWriter *w, const char *text, size_t n) {
    TRY_RETURN(put_u64(w, n));
    return put(w, text, n);
}

static Status grow(void **array, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return TANE_OK;
    size_t grown = *cap ? 2 * *cap : 32;
    TRY_RETURN(mem_grow(array, *cap, grown, size));
    *cap = grown;
    return TANE_OK;
}

static Status begin_key(GgufWriter *w, const char *key, GgufKind kind) {
    char *kept;
    if (w->begun) return FAIL(TANE_EINVAL, "%s: the key \"%s\" comes behind the header", w->path, key);
    if (!*key) return FAIL(TANE_EINVAL, "%s: a key cannot be empty", w->path);
    TRY_RETURN(grow((void **)&w->key_names, w->n_keys, &w->cap_keys, sizeof *w->key_names));
    TRY_RETURN(arena_strdup(&w->arena, &kept, key));
    w->key_names[w->n_keys++] = kept;
    TRY_RETURN(put_counted(w, key, strlen(key)));
    return put_u32(w, kind);
}

static Status begin_array(GgufWriter *w, const char *key, GgufKind element, size_t n) {
    TRY_RETURN(begin_key(w, key, GGUF_ARRAY));
    TRY_RETURN(put_u32(w, element));
    return put_u64(w, n);
}

Status gguf_put_u32(GgufWriter *w, const char *key, uint32_t value) {
    TRY_RETURN(begin_key(w, key, GGUF_U32));
    return put_u32(w, value);
}

Status gguf_put_f32(GgufWriter *w, const char *key, float value) {
    TRY_RETURN(begin_key(w, key, GGUF_F32));
    return put(w, &value, 4);
}

Status gguf_put_bool(GgufWriter *w, const char *key, bool value) {
    uint8_t byte = value;
    TRY_RETURN(begin_key(w, key, GGUF_BOOL));
    return put(w, &byte, 1);
}

Status gguf_put_text(GgufWriter *w, const char *key, const char *text, size_t n) {
    TRY_RETURN(begin_key(w, key, GGUF_STRING));
    return put_counted(w, text, n);
}

Status gguf_put_texts(GgufWriter *w, const char *key, const GgufText *texts, size_t n) {
    TRY_RETURN(begin_array(w, key, GGUF_STRING, n));
    for (size_t i = 0; i < n; i++) TRY_RETURN(put_counted(w, texts[i].data, texts[i].n));
    return TANE_OK;
}

Status gguf_put_f32s(GgufWriter *w, const char *key, const float *values, size_t n) {
    TRY_RETURN(begin_array(w, key, GGUF_F32, n));
    return put(w, values, 4 * n);
}

Status gguf_put_i32s(GgufWriter *w, const char *key, const int32_t *values, size_t n) {
    TRY_RETURN(begin_array(w, key, GGUF_I32, n));
    return put(w, values, 4 * n);
}

Status gguf_put_copy(GgufWriter *w, const GgufFile *file, size_t i) {
    GgufKind kind;
    size_t n;
    const char *key = gguf_key(file, i, &kind);
    const void *bytes = gguf_key_bytes(file, i, &n);
    TRY_RETURN(begin_key(w, key, kind));
    return put(w, bytes, n);
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

static Status check_shape(const GgufWriter *w, const char *name, Entry *e) {
    if (e->rank < 1 || e->rank > GGUF_MAX_RANK)
        return FAIL(TANE_EINVAL, "%s: tensor \"%s\" has %d dimensions; GGUF takes 1 to %d", w->path, name, e->rank,
                    GGUF_MAX_RANK);
    int64_t row = e->shape[e->rank - 1];
    e->bytes = e->type->bytes;
    for (int i = 0; i < e->rank; i++) {
        uint64_t factor = (uint64_t)(i == e->rank - 1 ? row / e->type->block : e->shape[i]);
        if (e->shape[i] < 1 || __builtin_mul_overflow(e->bytes, factor, &e->bytes) || e->bytes > INT64_MAX / 2)
            return FAIL(TANE_EINVAL, "%s: tensor \"%s\": size %lld of dimension %d cannot be written", w->path, name,
                        (long long)e->shape[i], i);
    }
    if (row % e->type->block)
        return FAIL(TANE_EINVAL, "%s: tensor \"%s\" has rows of %lld numbers, but %s takes multiples of %lld", w->path,
                    name, (long long)row, e->type->name, (long long)e->type->block);
    return TANE_OK;
}

Status gguf_add(GgufWriter *w, const char *name, GgmlType type, int rank, const int64_t *shape) {
    Entry e = {.type = ggml_type_info(type), .rank = rank};
    char *kept;
    if (w->begun) return FAIL(TANE_EINVAL, "%s: tensor \"%s\" comes behind the header", w->path, name);
    if (!e.type) return FAIL(TANE_EINVAL, "%s: tensor \"%s\" has the unknown type %d", w->path, name, (int)type);
    if (!*name || strlen(name) > MAX_TENSOR_NAME)
        return FAIL(TANE_EINVAL, "%s: \"%.200s\" cannot be the name of a tensor: GGUF takes 1 to %d bytes", w->path,
                    name, MAX_TENSOR_NAME);
    for (int i = 0; i < rank && i < GGUF_MAX_RANK; i++) e.shape[i] = shape[i];
    TRY_RETURN(check_shape(w, name, &e));
    TRY_RETURN(grow((void **)&w->entries, w->n, &w->cap, sizeof *w->entries));
    TRY_RETURN(arena_strdup(&w->arena, &kept, name));
    e.name = kept;
    w->entries[w->n++] = e;
    return TANE_OK;
}

/* ---- the header ------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static Status check_twice(const GgufWriter *w, const char *what, const char **names, size_t n) {
    if (n) qsort(names, n, sizeof *names, by_text);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            return FAIL(TANE_EINVAL, "%s: %s \"%s\" was added twice", w->path, what, names[i]);
    return TANE_OK;
}

static Status check_names(GgufWriter *w) {
    const char **names;
    TRY_RETURN(check_twice(w, "the key", w->key_names, w->n_keys)); /* their order stands in w->keys */
    TRY_RETURN(MEM_NEW_ARRAY(&names, w->n));
    for (size_t i = 0; i < w->n; i++) names[i] = w->entries[i].name;
    Status st = check_twice(w, "tensor", names, w->n);
    mem_free(names);
    return st;
}

/* Appends the tensors' descriptions to the keys, and sums up the data. */
static Status put_entries(GgufWriter *w, uint64_t *data) {
    uint64_t offset = 0;
    *data = 0;
    for (size_t i = 0; i < w->n; i++) {
        const Entry *e = &w->entries[i];
        TRY_RETURN(put_counted(w, e->name, strlen(e->name)));
        TRY_RETURN(put_u32(w, (uint32_t)e->rank));
        for (int d = e->rank - 1; d >= 0; d--) TRY_RETURN(put_u64(w, (uint64_t)e->shape[d]));
        TRY_RETURN(put_u32(w, e->type->type));
        TRY_RETURN(put_u64(w, offset));
        offset += aligned(e->bytes);
        if (offset > INT64_MAX / 2)
            return FAIL(TANE_EINVAL, "%s: all tensors together are too large for a file", w->path);
    }
    *data = offset;
    return TANE_OK;
}

static Status write_zeros(GgufWriter *w, uint64_t n) {
    static const char zeros[ALIGNMENT] = {0};
    return fw_write(w->file, zeros, (size_t)n);
}

Status gguf_begin(GgufWriter *w) {
    uint32_t version = VERSION;
    uint64_t counts[2] = {w->n, w->n_keys}, data;
    if (w->begun) return FAIL(TANE_EINVAL, "%s: the header is already written", w->path);
    w->begun = true;
    TRY_RETURN(check_names(w));
    TRY_RETURN(put_entries(w, &data));
    uint64_t header = 4 + sizeof version + sizeof counts + w->keys.len;
    w->size = aligned(header) + data;
    TRY_RETURN(fw_write(w->file, "GGUF", 4));
    TRY_RETURN(fw_write(w->file, &version, sizeof version));
    TRY_RETURN(fw_write(w->file, counts, sizeof counts));
    TRY_RETURN(fw_write(w->file, w->keys.text, w->keys.len));
    return write_zeros(w, aligned(header) - header);
}

/* ---- the data --------------------------------------------------------------------------------------------------- */

uint64_t gguf_writer_size(const GgufWriter *w) { return w->size; }

Status gguf_write(GgufWriter *w, const void *bytes, size_t n) {
    const char *from = bytes;
    if (!w->begun) return FAIL(TANE_EINVAL, "%s: data comes before the header", w->path);
    while (n > 0) {
        if (w->current == w->n) return FAIL(TANE_EINVAL, "%s: %zu bytes come behind the last tensor", w->path, n);
        const Entry *e = &w->entries[w->current];
        size_t now = n < e->bytes - w->written ? n : (size_t)(e->bytes - w->written);
        TRY_RETURN(fw_write(w->file, from, now));
        w->written += now;
        from += now;
        n -= now;
        if (w->written < e->bytes) continue;
        TRY_RETURN(write_zeros(w, aligned(e->bytes) - e->bytes));
        w->current++;
        w->written = 0;
    }
    return TANE_OK;
}

static Status fsync_folder(GgufWriter *w) {
    char *folder;
    size_t n = (size_t)(path_base(w->path) - w->path);
    TRY_RETURN(arena_printf(&w->arena, &folder, "%.*s", n ? (int)n : 1, n ? w->path : "."));
    return dir_fsync(folder);
}

Status gguf_writer_close(GgufWriter **handle) {
    GgufWriter *w = *handle;
    Status st = TANE_OK;
    if (!w->begun) TRY(FAIL(TANE_EINVAL, "%s: closed before its header was written", w->path));
    if (w->current < w->n)
        TRY(FAIL(TANE_EINVAL, "%s: tensor \"%s\" lacks %llu of its bytes", w->path, w->entries[w->current].name,
                 (unsigned long long)(w->entries[w->current].bytes - w->written)));
    st = fw_close(&w->file, NULL, NULL);
    if (st == TANE_OK) st = file_rename(w->tmp, w->path);
    if (st != TANE_OK) {
        ErrorCopy reported;
        err_save(&reported);
        (void)file_unlink(w->tmp);
        (void)err_restore(&reported);
    }
    if (st == TANE_OK) st = fsync_folder(w);
out:
    gguf_writer_abort(handle);
    return st;
}
