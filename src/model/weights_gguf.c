/* Weights out of GGUF, under Hugging Face's names. */
#include <string.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "model/gguf_config.h"
#include "model/weights_source.h"

typedef struct GgufWeights {
    GgufFile *file;
    const GgufArch *arch;
    int64_t head_dim; /* of paired rows */
} GgufWeights;

static Status open_file(Weights *w) {
    GgufWeights *g;
    TRY_RETURN(MEM_NEW(&g));
    w->file = g;
    TRY_RETURN(gguf_open(&g->file, w->path));
    TRY_RETURN(gguf_config_arch(g->file, &g->arch));
    return gguf_config_head_dim(g->file, g->arch, &g->head_dim);
}

static void close_file(Weights *w) {
    GgufWeights *g = w->file;
    if (g) gguf_close(&g->file);
    mem_free(g);
}

static Status find(const Weights *w, const char *name, Weight *out, bool *found) {
    const GgufWeights *g = w->file;
    GgufStored stored;
    const GgufTensor *t = gguf_stored(g->arch, name, &stored) ? gguf_find(g->file, stored.name) : NULL;
    *found = t != NULL;
    if (!t) return TANE_OK;
    if (stored.paired && t->rank == 1 && t->type->block > 1) /* its halves are not whole blocks */
        return FAIL(TANE_EUNSUPPORTED, "%s: tensor \"%s\" is %s; a bias must be F32, F16 or BF16", w->path, t->name,
                    t->type->name);
    *out = (Weight){.name = t->name,
                    .file = w->path,
                    .data = t->data,
                    .type = t->type->type,
                    .rank = t->rank,
                    .as_named = true,
                    .paired_rows = stored.paired ? g->head_dim : 0,
                    .plus = -stored.plus};
    for (int i = 0; i < t->rank && i < 2; i++) out->shape[i] = t->shape[i];
    while (gguf_tensor(g->file, out->index) != t) out->index++;
    return TANE_OK;
}

static Status missing(const Weights *w, const char *name) {
    const GgufWeights *g = w->file;
    GgufStored stored;
    if (!gguf_stored(g->arch, name, &stored))
        return FAIL(TANE_EUNSUPPORTED, "%s: GGUF's architecture \"%s\" has no name for \"%s\"", w->path, g->arch->name,
                    name);
    return FAIL(
        TANE_ENOTFOUND,
        "%s: has no tensor \"%s\" (%s), which its keys promise: the file is incomplete or damaged; get it again",
        w->path, stored.name, name);
}

static size_t count(const Weights *w) { return gguf_tensor_count(((const GgufWeights *)w->file)->file); }

/* Tables of rotary frequencies are the configuration's (gguf_config.c). */
static const char *name_of(const Weights *w, size_t i, bool *needed) {
    const char *name = gguf_tensor(((const GgufWeights *)w->file)->file, i)->name;
    *needed = strncmp(name, "rope_f", 6) && !strstr(name, ".attn_rot_embd");
    return name;
}

const WeightSource weights_gguf = {
    .open = open_file, .close = close_file, .find = find, .missing = missing, .count = count, .name = name_of};
