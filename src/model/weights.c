/* Weights by name: out of safetensors files and folders. See weights.h. */
#include "model/weights.h"

#include <string.h>

#include "base/mem.h"
#include "format/safetensors.h"

struct Weights {
    StFile *st;
    const char *prefix;
    char *path;
    bool *used; /* by the tensor's index */
};

Status weights_open(Weights **out, const char *path, const char *prefix) {
    Status st = TANE_OK;
    Weights *w;
    TRY_RETURN(MEM_NEW(out));
    w = *out;
    w->prefix = prefix;
    TRY(mem_strdup(&w->path, path));
    TRY(st_open(&w->st, path));
    TRY(MEM_NEW_ARRAY(&w->used, st_count(w->st)));
out:
    if (st != TANE_OK) weights_close(out);
    return st;
}

void weights_close(Weights **weights) {
    Weights *w = *weights;
    if (!w) return;
    st_close(&w->st);
    mem_free(w->used);
    mem_free(w->path);
    mem_free(w);
    *weights = NULL;
}

const char *weights_path(const Weights *w) { return w->path; }

/* ---- by name ---- */

/* The tensor called `name`, or the same without the family's prefix. */
static const StTensor *find_tensor(const Weights *w, const char *name) {
    const StTensor *t = st_find(w->st, name);
    size_t n = w->prefix ? strlen(w->prefix) : 0;
    return t || !n || strncmp(name, w->prefix, n) ? t : st_find(w->st, name + n);
}

Status weights_find(Weights *w, const char *name, Weight *out, bool *found) {
    const StTensor *t = find_tensor(w, name);
    *found = t != NULL;
    if (!t) return TANE_OK;
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16 && t->dtype != DTYPE_F16)
        return FAIL(TANE_EUNSUPPORTED, "%s: tensor \"%s\" is %s; weights must be F32, BF16 or F16", t->file, t->name,
                    st_dtype_word(t->dtype));
    w->used[t->index] = true;
    *out = (Weight){.name = t->name,
                    .file = t->file,
                    .data = t->data,
                    .type = t->dtype == DTYPE_F32 ? GGML_F32 : t->dtype == DTYPE_BF16 ? GGML_BF16 : GGML_F16,
                    .rank = t->rank,
                    .index = t->index};
    for (int i = 0; i < t->rank && i < 2; i++) out->shape[i] = t->shape[i];
    return TANE_OK;
}

Status weights_missing(const Weights *w, const char *name) {
    const StTensor *t;
    return st_require(w->st, name, &t);
}

static bool ends_in_one_of(const char *name, const char *const *endings) {
    size_t n = strlen(name);
    for (; endings && *endings; endings++) {
        size_t m = strlen(*endings);
        if (n >= m && !strcmp(name + n - m, *endings)) return true;
    }
    return false;
}

const char *weights_unused(const Weights *w, const char *const *ignored) {
    for (size_t i = 0; i < st_count(w->st); i++) {
        const char *name = st_get(w->st, i)->name;
        /* A tied model's file may repeat the embedding as the output layer. */
        if (!w->used[i] && !ends_in_one_of(name, ignored) && strcmp(name, "lm_head.weight")) return name;
    }
    return NULL;
}

/* ---- values ---- */

/* n values from element `at` of what is stored on. */
static void decode(const Weight *w, int64_t at, int64_t n, float *out) {
    const GgmlTypeInfo *info = ggml_type_info(w->type);
    ggml_decode(w->type, (const char *)w->data + at / info->block * (int64_t)info->bytes, n, out);
    if (w->plus != 0)
        for (int64_t i = 0; i < n; i++) out[i] += w->plus;
}

/* Which row of the file is row `row` of the matrix. */
static int64_t stored_row(const Weight *w, int64_t row) {
    if (!w->paired_rows) return row;
    int64_t d = w->paired_rows, head = row / d, i = row % d;
    return head * d + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

/* Stored (in, out): each thread takes a run of inputs and writes columns. */
static void transposed_rows(const Weight *w, int64_t row, int64_t n, float *out) {
    int64_t in = w->shape[0];
    enum { RUN = 256 };
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < in; k++) {
        float run[RUN];
        for (int64_t r = 0; r < n; r += RUN) {
            int64_t m = n - r < RUN ? n - r : RUN;
            decode(w, k * w->shape[1] + row + r, m, run);
            for (int64_t i = 0; i < m; i++) out[(r + i) * in + k] = run[i];
        }
    }
}

void weight_rows(const Weight *w, int64_t row, int64_t n, float *out) {
    if (w->transposed) {
        transposed_rows(w, row, n, out);
        return;
    }
    enum { PART = 16384 };
    int64_t c = w->rank == 2 ? w->shape[1] : 1;
    if (w->rank == 2 && (w->paired_rows || c >= PART)) {
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < n; r++) decode(w, stored_row(w, row + r) * c, c, out + r * c);
        return;
    }
    /* Rows lie behind each other: cut at whole blocks, which a multiple of PART is. */
    int64_t count = n * c;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += PART)
        decode(w, row * c + at, count - at < PART ? count - at : PART, out + at);
}
