/* Declaring, initialising, reading and writing parameters. */
#include "model/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/rng.h"
#include "format/safetensors.h"
#include "model/weights.h"

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

/* ------------------------------------------------------------------------------------ to and from the arrays */

enum { PIECE = 1 << 20 }; /* elements moved at a time */

/* One piece as fp32, and as an array's type. */
typedef struct Piece {
    float *values;
    void *narrow;
} Piece;

static Status piece_new(Piece *piece) {
    *piece = (Piece){0};
    TRY_RETURN(MEM_NEW_ARRAY(&piece->values, PIECE));
    return mem_new(&piece->narrow, PIECE, sizeof(uint16_t));
}

static void piece_free(Piece *piece) {
    mem_free(piece->values);
    mem_free(piece->narrow);
}

static void *element_at(const ParamArray *array, size_t element) {
    return (char *)array->flat + element * dtype_size(array->dtype);
}

/* values[0..n) -> array[at..at + n) */
static Status piece_store(Piece *piece, const ParamArray *array, size_t at, int64_t n) {
    const void *from = piece->values;
    if (array->dtype != DTYPE_F32) {
        uint16_t *h = piece->narrow;
        bool bf16 = array->dtype == DTYPE_BF16;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++) h[i] = bf16 ? f32_to_bf16(piece->values[i]) : f32_to_f16(piece->values[i]);
        from = h;
    }
    return device_upload(array->device, element_at(array, at), from, (size_t)n * dtype_size(array->dtype));
}

static Status piece_load(Piece *piece, const ParamArray *array, size_t at, int64_t n) {
    bool wide = array->dtype == DTYPE_F32, bf16 = array->dtype == DTYPE_BF16;
    const uint16_t *h = piece->narrow;
    TRY_RETURN(device_download(array->device, wide ? piece->values : piece->narrow, element_at(array, at),
                               (size_t)n * dtype_size(array->dtype)));
#pragma omp parallel for schedule(static) if (!wide)
    for (int64_t i = 0; i < (wide ? 0 : n); i++) piece->values[i] = bf16 ? bf16_to_f32(h[i]) : f16_to_f32(h[i]);
    return TANE_OK;
}

static Status zero_array(const Params *set, const ParamArray *array) {
    return device_zero(array->device, array->flat, set->elements * dtype_size(array->dtype));
}

/* ----------------------------------------------------------------------------------------------------- fresh */

/* Elements from .. from + n - 1 of p; from is a multiple of 4. */
static void fresh_values(const Param *p, uint64_t seed, int64_t from, int64_t n, float *to) {
    float std = (float)p->init_std;
    if (p->init_std == 0) {
        for (int64_t e = 0; e < n; e++) to[e] = p->init_ones ? 1.0f : 0.0f;
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t e = 0; e < n; e += 4) {
        uint32_t word[4];
        philox4x32(seed, (uint64_t)p->index, (uint64_t)(from + e) / 4, word);
        for (int pair = 0; pair < 2; pair++) { /* Box-Muller */
            float r = sqrtf(-2.0f * logf(rng_u01_open(word[2 * pair]))),
                  angle = 6.28318530718f * rng_u01(word[2 * pair + 1]);
            if (e + 2 * pair < n) to[e + 2 * pair] = std * r * cosf(angle);
            if (e + 2 * pair + 1 < n) to[e + 2 * pair + 1] = std * r * sinf(angle);
        }
    }
}

Status params_init(const Params *set, uint64_t seed, const ParamArray *arrays, int n) {
    Status st = TANE_OK;
    Piece piece;
    TRY(piece_new(&piece));
    for (int a = 0; a < n; a++) TRY(zero_array(set, &arrays[a]));
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        for (int64_t at = 0, count = param_count(p); at < count; at += PIECE) {
            int64_t m = count - at < PIECE ? count - at : PIECE;
            fresh_values(p, seed, at, m, piece.values);
            for (int a = 0; a < n; a++) TRY(piece_store(&piece, &arrays[a], p->offset + (size_t)at, m));
        }
    }
out:
    piece_free(&piece);
    return st;
}

/* -------------------------------------------------------------------------------------------------- reading */

void params_part_shape(const Param *p, const ParamPart *part, bool transposed, int64_t shape[2]) {
    shape[0] = transposed ? p->shape[1] : part->rows;
    shape[1] = transposed ? part->rows : p->shape[1];
}

static Status check_shape(const Param *p, const ParamPart *part, const Weight *w) {
    int64_t shape[2];
    params_part_shape(p, part, w->transposed, shape);
    if (w->rank == p->rank && w->shape[0] == shape[0] && (p->rank == 1 || w->shape[1] == shape[1])) return TANE_OK;
    char found[64] = "of more than two dimensions", wanted[64];
    if (w->rank == 0) snprintf(found, sizeof found, "[]");
    if (w->rank == 1) snprintf(found, sizeof found, "[%lld]", (long long)w->shape[0]);
    if (w->rank == 2) snprintf(found, sizeof found, "[%lld, %lld]", (long long)w->shape[0], (long long)w->shape[1]);
    snprintf(wanted, sizeof wanted, p->rank == 2 ? "[%lld, %lld]" : "[%lld]", (long long)shape[0], (long long)shape[1]);
    return FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is %s, but the model's configuration makes it %s", w->file, w->name,
                found, wanted);
}

Status params_find(const Param *p, const ParamPart *part, Weights *file, const char *name, Weight *out) {
    bool found;
    TRY_RETURN(weights_find(file, name, out, &found));
    if (!found) return weights_missing(file, name);
    out->transposed |= part->transposed && !out->as_named;
    return check_shape(p, part, out);
}

/* A part into every array with the given one's suffix. */
static Status read_part(const Param *p, const ParamPart *part, const Weight *w, const ParamArray *arrays, int n,
                        const char *suffix, Piece *piece) {
    int64_t columns = p->rank == 2 ? p->shape[1] : 1, rows = PIECE / columns;
    for (int64_t row = 0; row < part->rows; row += rows) {
        int64_t m = part->rows - row < rows ? part->rows - row : rows;
        weight_rows(w, row, m, piece->values);
        for (int a = 0; a < n; a++)
            if (!strcmp(arrays[a].suffix, suffix))
                TRY_RETURN(piece_store(piece, &arrays[a], p->offset + (size_t)((part->row + row) * columns),
                                       m * columns));
    }
    return TANE_OK;
}

/* "NAME + suffix", in out (512 bytes hold any: names are under 256). */
static const char *array_name(const ParamPart *part, const ParamArray *array, char out[512]) {
    snprintf(out, 512, "%s%s", part->name, array->suffix);
    return out;
}

static Status read_arrays(const Params *set, Weights *file, const ParamArray *arrays, int n, const ParamArray *of,
                          Piece *piece) {
    char name[512];
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        for (int k = 0; k < p->n_parts; k++) {
            Weight w;
            TRY_RETURN(params_find(p, &p->parts[k], file, array_name(&p->parts[k], of, name), &w));
            TRY_RETURN(read_part(p, &p->parts[k], &w, arrays, n, of->suffix, piece));
        }
    }
    return TANE_OK;
}

/* Does an earlier array have its suffix? Then they are read together. */
static bool read_before(const ParamArray *arrays, int a) {
    for (int b = 0; b < a; b++)
        if (!strcmp(arrays[b].suffix, arrays[a].suffix)) return true;
    return false;
}

Status params_read(const Params *set, const char *path, const char *prefix, const char *const *ignored,
                   const ParamArray *arrays, int n) {
    Status st = TANE_OK;
    Weights *file = NULL;
    Piece piece = {0};
    const char *unused;
    TRY(weights_open(&file, path, prefix));
    TRY(piece_new(&piece));
    for (int a = 0; a < n; a++) TRY(zero_array(set, &arrays[a]));
    for (int a = 0; a < n; a++)
        if (!read_before(arrays, a)) TRY(read_arrays(set, file, arrays, n, &arrays[a], &piece));
    if ((unused = weights_unused(file, ignored)))
        st = FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is no parameter of this model: its configuration describes another one",
                  weights_path(file), unused);
out:
    piece_free(&piece);
    weights_close(&file);
    return st;
}

/* -------------------------------------------------------------------------------------------------- writing */

typedef struct PartRef {
    const Param *param;
    const ParamPart *part;
    const ParamArray *array;
} PartRef;

/* One part's data in the file's order and type. What the file has transposed is loaded whole. */
static Status write_part(StWriter *w, PartRef ref, DType save, Piece *piece) {
    Status st = TANE_OK;
    const Param *p = ref.param;
    int64_t columns = p->rank == 2 ? p->shape[1] : 1, n = ref.part->rows * columns;
    size_t from = p->offset + (size_t)(ref.part->row * columns);
    float *whole = NULL;
    if (ref.part->transposed) {
        TRY_RETURN(MEM_NEW_ARRAY(&whole, (size_t)n));
        for (int64_t at = 0; at < n; at += PIECE) {
            int64_t m = n - at < PIECE ? n - at : PIECE;
            TRY(piece_load(piece, ref.array, from + (size_t)at, m));
            for (int64_t i = 0; i < m; i++)
                whole[(at + i) % columns * ref.part->rows + (at + i) / columns] = piece->values[i];
        }
    }
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t m = n - at < PIECE ? n - at : PIECE;
        if (whole) memcpy(piece->values, whole + at, (size_t)m * sizeof *whole);
        else TRY(piece_load(piece, ref.array, from + (size_t)at, m));
        if (save == DTYPE_F32) {
            TRY(st_writer_write(w, piece->values, (size_t)m * 4));
            continue;
        }
        uint16_t *h = piece->narrow;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < m; i++)
            h[i] = save == DTYPE_BF16 ? f32_to_bf16(piece->values[i]) : f32_to_f16(piece->values[i]);
        TRY(st_writer_write(w, h, (size_t)m * 2));
    }
out:
    mem_free(whole);
    return st;
}

Status params_write(const Params *set, const ParamArray *arrays, int n, DType save, const char *path, uint64_t *size,
                    char *sha256_hex) {
    Status st = TANE_OK;
    StWriter *w = NULL;
    PartRef *refs = NULL;
    int n_refs = 0;
    Piece piece;
    TRY(piece_new(&piece));
    TRY(MEM_NEW_ARRAY(&refs, (size_t)set->n * PARAM_PARTS * (size_t)n));
    TRY(st_writer_open(&w, path));
    TRY(st_writer_metadata(w, "format", "pt"));
    for (int a = 0; a < n; a++)
        for (int i = 0; i < set->n; i++)
            for (int k = 0; k < set->items[i]->n_parts; k++) {
                PartRef ref = {set->items[i], &set->items[i]->parts[k], &arrays[a]};
                char name[512];
                int64_t shape[2];
                params_part_shape(ref.param, ref.part, ref.part->transposed, shape);
                TRY(st_writer_add(w, array_name(ref.part, ref.array, name), save, ref.param->rank, shape));
                refs[n_refs++] = ref;
            }
    TRY(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) TRY(write_part(w, refs[t->index], save, &piece));
    TRY(st_writer_close(&w, size, sha256_hex));
out:
    st_writer_abort(&w);
    piece_free(&piece);
    mem_free(refs);
    return st;
}
