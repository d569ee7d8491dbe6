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

enum { PIECE = 1 << 21 }; /* elements moved at a time */

/* Values on their way into arrays: made where they belong in ordinary memory, and in two buffers by turns for a device,
 * so that one is copied while the other is filled. Zero-initialise. */
typedef struct Stage {
    Device *device;      /* the one the buffers are for */
    void *slot[2];
    DeviceEvent *free[2];
    int turn;
} Stage;

static void stage_close(Stage *s) {
    if (s->device) (void)device_sync(s->device);
    for (int i = 0; i < 2; i++) {
        device_event_free(s->device, s->free[i]);
        if (s->device) device_host_release(s->device, s->slot[i]);
    }
    *s = (Stage){0};
}

static Status stage_open(Stage *s, Device *device) {
    if (s->device == device) return TANE_OK;
    stage_close(s);
    s->device = device;
    for (int i = 0; i < 2; i++) {
        TRY_RETURN(device_host_alloc(device, &s->slot[i], PIECE * sizeof(float)));
        TRY_RETURN(device_event_new(device, &s->free[i]));
        TRY_RETURN(device_event_record(device, s->free[i]));
    }
    return TANE_OK;
}

static void *element_at(const ParamArray *array, size_t element) {
    return (char *)array->flat + element * dtype_size(array->dtype);
}

/* Where the values of array[at..at + n), n <= PIECE, are to be written; then stage_send. */
static Status stage_take(Stage *s, const ParamArray *array, size_t at, void **to) {
    if (array->device->host) {
        *to = element_at(array, at);
        return TANE_OK;
    }
    TRY_RETURN(stage_open(s, array->device));
    s->turn = !s->turn;
    *to = s->slot[s->turn];
    return device_event_wait(s->device, s->free[s->turn]);
}

static Status stage_send(Stage *s, const ParamArray *array, size_t at, int64_t n) {
    if (array->device->host) return TANE_OK;
    TRY_RETURN(device_upload(s->device, element_at(array, at), s->slot[s->turn], (size_t)n * dtype_size(array->dtype)));
    return device_event_record(s->device, s->free[s->turn]);
}

/* In parallel. */
static void halves_from(DType type, const float *from, int64_t n, uint16_t *to) {
    enum { PART = 1 << 14 };
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += PART) narrow_f32(type, from + i, n - i < PART ? n - i : PART, to + i);
}

/* The gaps behind parameters; what stands in the parameters is about to be written. */
static Status zero_gaps(const Params *set, const ParamArray *array) {
    for (int i = 0; i < set->n; i++) {
        size_t end = set->items[i]->offset + (size_t)param_count(set->items[i]),
               next = i + 1 < set->n ? set->items[i + 1]->offset : set->elements;
        if (end < next)
            TRY_RETURN(device_zero(array->device, element_at(array, end), (next - end) * dtype_size(array->dtype)));
    }
    return TANE_OK;
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

/* values[0..n) -> array[at..at + n) */
static Status store(Stage *stage, const ParamArray *array, size_t at, const float *values, int64_t n) {
    void *to;
    TRY_RETURN(stage_take(stage, array, at, &to));
    if (array->dtype == DTYPE_F32) memcpy(to, values, (size_t)n * sizeof *values);
    else halves_from(array->dtype, values, n, to);
    return stage_send(stage, array, at, n);
}

Status params_init(const Params *set, uint64_t seed, const ParamArray *arrays, int n) {
    Status st = TANE_OK;
    Stage stage = {0};
    float *values;
    TRY_RETURN(MEM_NEW_ARRAY(&values, PIECE));
    for (int a = 0; a < n; a++) TRY(zero_gaps(set, &arrays[a]));
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        for (int64_t at = 0, count = param_count(p); at < count; at += PIECE) {
            int64_t m = count - at < PIECE ? count - at : PIECE;
            fresh_values(p, seed, at, m, values);
            for (int a = 0; a < n; a++) TRY(store(&stage, &arrays[a], p->offset + (size_t)at, values, m));
        }
    }
out:
    stage_close(&stage);
    mem_free(values);
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

static Status read_part(const Param *p, const ParamPart *part, const Weight *w, const ParamArray *array, Stage *stage) {
    int64_t columns = p->rank == 2 ? p->shape[1] : 1, rows = PIECE / columns;
    for (int64_t row = 0; row < part->rows; row += rows) {
        int64_t m = part->rows - row < rows ? part->rows - row : rows;
        size_t at = p->offset + (size_t)((part->row + row) * columns);
        void *to;
        TRY_RETURN(stage_take(stage, array, at, &to));
        weight_rows(w, row, m, array->dtype, to);
        TRY_RETURN(stage_send(stage, array, at, m * columns));
    }
    return TANE_OK;
}

/* "NAME + suffix", in out (512 bytes hold any: names are under 256). */
static const char *array_name(const ParamPart *part, const ParamArray *array, char out[512]) {
    snprintf(out, 512, "%s%s", part->name, array->suffix);
    return out;
}

static Status read_array(const Params *set, Weights *file, const ParamArray *array, Stage *stage) {
    char name[512];
    for (int i = 0; i < set->n; i++) {
        const Param *p = set->items[i];
        for (int k = 0; k < p->n_parts; k++) {
            Weight w;
            TRY_RETURN(params_find(p, &p->parts[k], file, array_name(&p->parts[k], array, name), &w));
            TRY_RETURN(read_part(p, &p->parts[k], &w, array, stage));
        }
    }
    return TANE_OK;
}

Status params_read(const Params *set, const char *path, const char *prefix, const char *const *ignored,
                   const ParamArray *arrays, int n) {
    Status st = TANE_OK;
    Weights *file = NULL;
    Stage stage = {0};
    const char *unused;
    TRY(weights_open(&file, path, prefix));
    for (int a = 0; a < n; a++) {
        TRY(zero_gaps(set, &arrays[a]));
        TRY(read_array(set, file, &arrays[a], &stage));
    }
    if ((unused = weights_unused(file, ignored)))
        st = FAIL(TANE_EFORMAT, "%s: tensor \"%s\" is no parameter of this model: its configuration describes another one",
                  weights_path(file), unused);
out:
    stage_close(&stage);
    weights_close(&file);
    return st;
}

/* -------------------------------------------------------------------------------------------------- writing */

typedef struct PartRef {
    const Param *param;
    const ParamPart *part;
    const ParamArray *array;
} PartRef;

/* One piece as an array has it, as fp32 and as it is saved. */
typedef struct Piece {
    float *values;
    uint16_t *half;
} Piece;

static Status piece_new(Piece *piece) {
    *piece = (Piece){0};
    TRY_RETURN(MEM_NEW_ARRAY(&piece->values, PIECE));
    return MEM_NEW_ARRAY(&piece->half, PIECE);
}

static void piece_free(Piece *piece) {
    mem_free(piece->values);
    mem_free(piece->half);
}

static Status piece_load(Piece *piece, const ParamArray *array, size_t at, int64_t n) {
    enum { PART = 1 << 14 };
    bool wide = array->dtype == DTYPE_F32;
    TRY_RETURN(device_download(array->device, wide ? (void *)piece->values : piece->half, element_at(array, at),
                               (size_t)n * dtype_size(array->dtype)));
    if (wide) return TANE_OK;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += PART)
        widen_to_f32(array->dtype, piece->half + i, n - i < PART ? n - i : PART, piece->values + i);
    return TANE_OK;
}

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
        halves_from(save, piece->values, m, piece->half);
        TRY(st_writer_write(w, piece->half, (size_t)m * 2));
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
