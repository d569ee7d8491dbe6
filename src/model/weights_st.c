/* Weights out of safetensors: a file, shards, a folder. */
#include <string.h>

#include "format/safetensors.h"
#include "model/weights_source.h"

static Status open_file(Weights *w) {
    StFile *st;
    TRY_RETURN(st_open(&st, w->path));
    w->file = st;
    return TANE_OK;
}

static void close_file(Weights *w) {
    StFile *st = w->file;
    st_close(&st);
}

/* The tensor called `name`, or the same without the family's prefix. */
static const StTensor *find_tensor(const Weights *w, const char *name) {
    const StTensor *t = st_find(w->file, name);
    size_t n = w->prefix ? strlen(w->prefix) : 0;
    return t || !n || strncmp(name, w->prefix, n) ? t : st_find(w->file, name + n);
}

static Status find(const Weights *w, const char *name, Weight *out, bool *found) {
    const StTensor *t = find_tensor(w, name);
    *found = t != NULL;
    if (!t) return TANE_OK;
    if (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16 && t->dtype != DTYPE_F16)
        return FAIL(TANE_EUNSUPPORTED, "%s: tensor \"%s\" is %s; weights must be F32, BF16 or F16", t->file, t->name,
                    st_dtype_word(t->dtype));
    *out = (Weight){.name = t->name,
                    .file = t->file,
                    .data = t->data,
                    .type = t->dtype == DTYPE_F32    ? GGML_F32
                            : t->dtype == DTYPE_BF16 ? GGML_BF16
                                                     : GGML_F16,
                    .rank = t->rank,
                    .index = t->index};
    for (int i = 0; i < t->rank && i < 2; i++) out->shape[i] = t->shape[i];
    return TANE_OK;
}

static Status missing(const Weights *w, const char *name) {
    const StTensor *t;
    return st_require(w->file, name, &t);
}

static size_t count(const Weights *w) { return st_count(w->file); }

static const char *name_of(const Weights *w, size_t i, bool *needed) {
    const char *name = st_get(w->file, i)->name;
    *needed = strcmp(name, "lm_head.weight"); /* a tied model's file may repeat the embedding as the output layer */
    return name;
}

const WeightSource weights_safetensors = {
    .open = open_file, .close = close_file, .find = find, .missing = missing, .count = count, .name = name_of};
