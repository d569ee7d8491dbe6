/* Weights by name, whatever the format, and their values. See weights.h. */
#include <string.h>

#include "base/mem.h"
#include "model/gguf_names.h"
#include "model/weights_source.h"

Status weights_open(Weights **out, const char *path, const char *prefix) {
    Status st = TANE_OK;
    Weights *w;
    TRY_RETURN(MEM_NEW(out));
    w = *out;
    w->source = gguf_is_path(path) ? &weights_gguf : &weights_safetensors;
    w->prefix = prefix;
    TRY(mem_strdup(&w->path, path));
    TRY(w->source->open(w));
    TRY(MEM_NEW_ARRAY(&w->used, w->source->count(w)));
out:
    if (st != TANE_OK) weights_close(out);
    return st;
}

void weights_close(Weights **weights) {
    Weights *w = *weights;
    if (!w) return;
    w->source->close(w);
    mem_free(w->used);
    mem_free(w->path);
    mem_free(w);
    *weights = NULL;
}

const char *weights_path(const Weights *w) { return w->path; }

/* ---- by name ---- */

Status weights_find(Weights *w, const char *name, Weight *out, bool *found) {
    TRY_RETURN(w->source->find(w, name, out, found));
    if (*found) w->used[out->index] = true;
    return TANE_OK;
}

Status weights_missing(const Weights *w, const char *name) { return w->source->missing(w, name); }

static bool ends_in_one_of(const char *name, const char *const *endings) {
    size_t n = strlen(name);
    for (; endings && *endings; endings++) {
        size_t k = strlen(*endings);
        if (n >= k && !strcmp(name + n - k, *endings)) return true;
    }
    return false;
}

const char *weights_unused(const Weights *w, const char *const *ignored) {
    for (size_t i = 0; i < w->source->count(w); i++) {
        bool needed;
        const char *name = w->source->name(w, i, &needed);
        if (!w->used[i] && needed && !ends_in_one_of(name, ignored)) return name;
    }
    return NULL;
}

/* ---- values ---- */

enum { RUN = 4096 }; /* values decoded at a time: whole blocks of every type, and small enough for the first cache */

static bool same_type(GgmlType stored, DType type) {
    return (stored == GGML_F32 && type == DTYPE_F32) || (stored == GGML_BF16 && type == DTYPE_BF16) ||
           (stored == GGML_F16 && type == DTYPE_F16);
}

static void decode_f32(const Weight *w, const void *from, int64_t n, float *out) {
    ggml_decode(w->type, from, n, out);
    if (w->plus != 0)
        for (int64_t i = 0; i < n; i++) out[i] += w->plus;
}

/* n values from element `at` of what is stored on. What has the wanted type already is copied. */
static void decode(const Weight *w, int64_t at, int64_t n, DType type, void *out) {
    const GgmlTypeInfo *info = ggml_type_info(w->type);
    const char *from = (const char *)w->data + at / info->block * (int64_t)info->bytes;
    if (w->plus == 0 && same_type(w->type, type)) {
        memcpy(out, from, (size_t)n * dtype_size(type));
        return;
    }
    if (type == DTYPE_F32) {
        decode_f32(w, from, n, out);
        return;
    }
    float run[RUN];
    uint16_t *half = out;
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t m = n - i < RUN ? n - i : RUN;
        decode_f32(w, from + i / info->block * (int64_t)info->bytes, m, run);
        narrow_f32(type, run, m, half + i);
    }
}

/* Which row of the file is row `row` of the matrix. */
static int64_t stored_row(const Weight *w, int64_t row) {
    if (!w->paired_rows) return row;
    int64_t d = w->paired_rows, head = row / d, i = row % d;
    return head * d + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

/* Stored (in, out): each thread takes a run of inputs and writes columns. */
static void transposed_rows(const Weight *w, int64_t row, int64_t n, DType type, void *out) {
    int64_t in = w->shape[0];
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < in; k++) {
        uint32_t run[RUN]; /* of either size */
        for (int64_t r = 0; r < n; r += RUN) {
            int64_t m = n - r < RUN ? n - r : RUN;
            decode(w, k * w->shape[1] + row + r, m, type, run);
            if (type == DTYPE_F32)
                for (int64_t i = 0; i < m; i++) ((uint32_t *)out)[(r + i) * in + k] = run[i];
            else
                for (int64_t i = 0; i < m; i++) ((uint16_t *)out)[(r + i) * in + k] = ((const uint16_t *)run)[i];
        }
    }
}

void weight_rows(const Weight *w, int64_t row, int64_t n, DType type, void *out) {
    if (w->transposed) {
        transposed_rows(w, row, n, type, out);
        return;
    }
    enum { PART = 16 * RUN };
    size_t size = dtype_size(type);
    int64_t c = w->rank == 2 ? w->shape[1] : 1;
    if (w->paired_rows || c >= PART) {
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < n; r++)
            decode(w, stored_row(w, row + r) * c, c, type, (char *)out + (size_t)(r * c) * size);
        return;
    }
    /* Rows lie behind each other: cut at whole blocks, which a multiple of PART is. */
    int64_t count = n * c;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += PART)
        decode(w, row * c + at, count - at < PART ? count - at : PART, type, (char *)out + (size_t)at * size);
}
