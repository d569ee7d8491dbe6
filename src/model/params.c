/* Declaring, initialising, reading and writing parameters. */
#include "model/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/rng.h"
#include "format/safetensors.h"

enum { ALIGN_ELEMENTS = 32 }; /* 64 bytes in bf16 */

Status params_add(Params *set, Param **out, ParamRole role, int64_t rows, int64_t columns, double init_std) {
    Param *p;
    TRY_RETURN(ARENA_NEW(&set->arena, &p));
    if (set->n == set->cap) {
        int cap = set->cap ? 2 * set->cap : 64;
        TRY_RETURN(mem_grow((void **)&set->items, (size_t)set->cap, (size_t)cap, sizeof(Param *)));
        set->cap = cap;
    }
    p->role = role;
    p->rank = columns ? 2 : 1;
    p->shape[0] = rows;
    p->shape[1] = columns;
    p->init_std = init_std;
    p->index = set->n;
    p->offset = set->elements;
    size_t count = (size_t)param_count(p);
    set->elements += (count + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS;
    set->items[set->n++] = p;
    *out = p;
    return TANE_OK;
}

Status params_part(Params *set, Param *p, int64_t rows, bool transposed, const char *fmt, ...) {
    if (p->n_parts == PARAM_PARTS) return FAIL(TANE_EINTERNAL, "params_part: more than %d parts", PARAM_PARTS);
    char name[256], *copy;
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    TRY_RETURN(arena_strdup(&set->arena, &copy, name));
    int64_t row = p->n_parts ? p->parts[p->n_parts - 1].row + p->parts[p->n_parts - 1].rows : 0;
    p->parts[p->n_parts++] = (ParamPart){copy, row, rows, transposed};
    return TANE_OK;
}

void params_release(Params *set) {
    mem_free(set->items);
    arena_release(&set->arena);
    *set = (Params){0};
}

int64_t params_count(const Params *set) {
    int64_t n = 0;
    for (int i = 0; i < set->n; i++) n += param_count(set->items[i]);
    return n;
}

void params_init(const Params *set, uint64_t seed, float *flat) {
    memset(flat, 0, set->elements * sizeof *flat);
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        float *to = flat + p->offset, std = (float)p->init_std;
        int64_t n = param_count(p);
        if (p->init_ones)
            for (int64_t e = 0; e < n; e++) to[e] = 1.0f;
        if (p->init_std == 0) continue;
#pragma omp parallel for schedule(static)
        for (int64_t e = 0; e < n; e += 4) {
            uint32_t word[4];
            philox4x32(seed, (uint64_t)p->index, (uint64_t)e / 4, word);
            for (int pair = 0; pair < 2; pair++) { /* Box-Muller */
                float r = sqrtf(-2.0f * logf(rng_u01_open(word[2 * pair]))),
                      angle = 6.28318530718f * rng_u01(word[2 * pair + 1]);
                if (e + 2 * pair < n) to[e + 2 * pair] = std * r * cosf(angle);
                if (e + 2 * pair + 1 < n) to[e + 2 * pair + 1] = std * r * sinf(angle);
            }
        }
    }
}

void params_convert(const Params *set, const float *from, void *to, DType dtype) {
    if (dtype == DTYPE_F32) {
        memcpy(to, from, set->elements * sizeof *from);
        return;
    }
    uint16_t *h = to;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < set->elements; i++) h[i] = f32_to_bf16(from[i]);
}

/* -------------------------------------------------------------------------------------------------- reading */

/* The part's shape as the file has it: (rows), (rows, in), or (in, rows) when transposed. */
static void part_shape(const Param *p, const ParamPart *part, int64_t shape[2]) {
    shape[0] = part->transposed ? p->shape[1] : part->rows;
    shape[1] = part->transposed ? part->rows : p->shape[1];
}

static Status element_f32(const StTensor *t, int64_t i, float *out) {
    uint16_t h;
    switch (t->dtype) {
    case DTYPE_F32: memcpy(out, (const char *)t->data + i * 4, 4); return TANE_OK;
    case DTYPE_BF16:
        memcpy(&h, (const char *)t->data + i * 2, 2);
        *out = bf16_to_f32(h);
        return TANE_OK;
    case DTYPE_F16:
        memcpy(&h, (const char *)t->data + i * 2, 2);
        *out = f16_to_f32(h);
        return TANE_OK;
    default:
        return FAIL(TANE_EUNSUPPORTED, "%s: tensor \"%s\" is %s; weights must be F32, BF16 or F16", t->file, t->name,
                    dtype_name(t->dtype));
    }
}

static Status read_part(const Param *p, const ParamPart *part, const StTensor *t, float *flat) {
    int64_t shape[2], rank = p->rank;
    part_shape(p, part, shape);
    if (t->rank != rank || t->shape[0] != shape[0] || (rank == 2 && t->shape[1] != shape[1])) {
        char found[64];
        st_shape_text(t, found, sizeof found);
        return rank == 2 ? FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is %s, but config.json makes it [%lld, %lld]", t->file,
                                t->name, found, (long long)shape[0], (long long)shape[1])
                         : FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is %s, but config.json makes it [%lld]", t->file,
                                t->name, found, (long long)shape[0]);
    }
    float probe;
    TRY_RETURN(element_f32(t, 0, &probe)); /* the type is fine for all elements, or for none */
    int64_t columns = rank == 2 ? p->shape[1] : 1;
    float *to = flat + p->offset + part->row * columns;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t c = 0; c < columns; c++)
            (void)element_f32(t, part->transposed ? c * part->rows + r : r * columns + c, &to[r * columns + c]);
    return TANE_OK;
}

/* "NAME + suffix", in out (512 bytes hold any: names are under 256). */
static const char *array_name(const ParamPart *part, const ParamArray *array, char out[512]) {
    snprintf(out, 512, "%s%s", part->name, array->suffix);
    return out;
}

/* The tensor called `name`, or the same without the family's prefix. */
static const StTensor *find_tensor(const StFile *file, const char *name, const char *prefix) {
    const StTensor *t = st_find(file, name);
    size_t n = prefix ? strlen(prefix) : 0;
    return t || !n || strncmp(name, prefix, n) ? t : st_find(file, name + n);
}

static bool is_ignored(const char *name, const char *const *ignored) {
    size_t n = strlen(name);
    for (; ignored && *ignored; ignored++) {
        size_t m = strlen(*ignored);
        if (n >= m && !strcmp(name + n - m, *ignored)) return true;
    }
    return false;
}

static Status read_array(const Params *set, const StFile *file, const char *prefix, const ParamArray *array,
                         bool *used) {
    char name[512];
    memset(array->flat, 0, set->elements * sizeof(float));
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        for (int k = 0; k < p->n_parts; k++) {
            const StTensor *t = find_tensor(file, array_name(&p->parts[k], array, name), prefix);
            if (!t) TRY_RETURN(st_require(file, name, &t)); /* the error with the nearest name */
            TRY_RETURN(read_part(p, &p->parts[k], t, array->flat));
            used[t->index] = true;
        }
    }
    return TANE_OK;
}

Status params_read(const Params *set, const char *path, const char *prefix, const char *const *ignored,
                   const ParamArray *arrays, int n) {
    Status st = TANE_OK;
    StFile *file = NULL;
    bool *used = NULL;
    TRY(st_open(&file, path));
    size_t count = st_count(file);
    TRY(MEM_NEW_ARRAY(&used, count));
    for (int a = 0; a < n; a++) TRY(read_array(set, file, prefix, &arrays[a], used));
    for (size_t i = 0; i < count; i++) {
        const StTensor *t = st_get(file, i);
        /* A tied model's file may repeat the embedding as the output layer. */
        if (used[i] || is_ignored(t->name, ignored) || !strcmp(t->name, "lm_head.weight")) continue;
        st = FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is no parameter of this model: config.json describes another one",
                  t->file, t->name);
        goto out;
    }
out:
    mem_free(used);
    st_close(&file);
    return st;
}

/* -------------------------------------------------------------------------------------------------- writing */

typedef struct PartRef {
    const Param *param;
    const ParamPart *part;
    const ParamArray *array;
} PartRef;

/* One part's data in the file's order and type, in pieces. */
static Status write_part(StWriter *w, PartRef ref, DType save) {
    enum { PIECE = 16384 };
    float piece[PIECE];
    uint16_t narrow[PIECE];
    const Param *p = ref.param;
    int64_t columns = p->rank == 2 ? p->shape[1] : 1, n = ref.part->rows * columns;
    const float *from = ref.array->flat + p->offset + ref.part->row * columns;
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t m = n - at < PIECE ? n - at : PIECE;
        for (int64_t i = 0; i < m; i++) {
            int64_t e = at + i;
            piece[i] = from[ref.part->transposed ? e % ref.part->rows * columns + e / ref.part->rows : e];
        }
        if (save == DTYPE_F32) {
            TRY_RETURN(st_writer_write(w, piece, (size_t)m * 4));
            continue;
        }
        for (int64_t i = 0; i < m; i++) narrow[i] = save == DTYPE_BF16 ? f32_to_bf16(piece[i]) : f32_to_f16(piece[i]);
        TRY_RETURN(st_writer_write(w, narrow, (size_t)m * 2));
    }
    return TANE_OK;
}

Status params_write(const Params *set, const ParamArray *arrays, int n, DType save, const char *path, uint64_t *size,
                    char *sha256_hex) {
    Status st = TANE_OK;
    StWriter *w = NULL;
    PartRef *refs = NULL;
    int n_refs = 0;
    TRY(MEM_NEW_ARRAY(&refs, (size_t)set->n * PARAM_PARTS * (size_t)n));
    TRY(st_writer_open(&w, path));
    TRY(st_writer_metadata(w, "format", "pt"));
    for (int a = 0; a < n; a++)
        for (int i = 0; i < set->n; i++)
            for (int k = 0; k < set->items[i]->n_parts; k++) {
                PartRef ref = {set->items[i], &set->items[i]->parts[k], &arrays[a]};
                char name[512];
                int64_t shape[2];
                part_shape(ref.param, ref.part, shape);
                TRY(st_writer_add(w, array_name(ref.part, ref.array, name), save, ref.param->rank, shape));
                refs[n_refs++] = ref;
            }
    TRY(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) TRY(write_part(w, refs[t->index], save));
    TRY(st_writer_close(&w, size, sha256_hex));
out:
    st_writer_abort(&w);
    mem_free(refs);
    return st;
}
