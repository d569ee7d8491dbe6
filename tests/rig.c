/* The test bench for ops; see rig.h. */
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>


Rng rig_rng = {.key = 20261122};

void rig_new(Rig *r, const OpKernel *const *kernels, DType dtype, bool with_grad) {
    *r = (Rig){.dtype = dtype, .with_grad = with_grad};
    assert_ok(tape_new(&r->tape, kernels, with_grad));
}

void rig_free(Rig *r) {
    tape_free(r->tape);
    arena_release(&r->arena);
    if (r->map) munmap(r->map, r->map_size);
    *r = (Rig){0};
}

static void *copy(Rig *r, const void *from, size_t n, size_t size) {
    void *to;
    assert_ok(arena_new(&r->arena, &to, n, size));
    if (from) memcpy(to, from, n * size);
    return to;
}

float *rig_array(Rig *r, int64_t n) { return copy(r, NULL, (size_t)n, sizeof(float)); }

float *rig_normal(Rig *r, int64_t n, float scale) {
    float *x = rig_array(r, n);
    for (int64_t i = 0; i < n; i++) x[i] = scale * rng_normal(&rig_rng);
    return x;
}

static void store(DType dtype, void *to, const float *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (dtype == DTYPE_BF16) ((uint16_t *)to)[i] = f32_to_bf16(from[i]);
        else ((float *)to)[i] = from[i];
    }
}

/* The caller's own data is exactly as long as it must be, so that sanitizers see what lies behind it. */
static Tensor *external(Rig *r, const char *name, DType dtype, int rank, const int64_t *shape) {
    Tensor *x = tape_external(r->tape, name, dtype, rank, shape);
    if (x) x->data = copy(r, NULL, 1, tensor_bytes(x));
    return x;
}

Tensor *rig_param(Rig *r, const char *name, int rank, const int64_t *shape, const float *values, bool trainable) {
    Tensor *w = tape_param(r->tape, name, r->dtype, rank, shape, trainable);
    assert_non_null(w);
    assert_true(r->n_in < RIG_INPUTS);
    RigInput *in = &r->in[r->n_in++];
    snprintf(in->name, sizeof in->name, "%s", name);
    in->param = w;
    in->n = tensor_count(w);
    w->data = copy(r, NULL, 1, tensor_bytes(w));
    store(r->dtype, w->data, values, in->n);
    if (w->grad) w->grad->data = in->grad = rig_array(r, in->n);
    return w;
}

Tensor *rig_ints(Rig *r, const char *name, int rank, const int64_t *shape, const int32_t *values) {
    Tensor *x = external(r, name, DTYPE_I32, rank, shape);
    memcpy(x->data, values, tensor_bytes(x));
    return x;
}

Tensor *rig_floats(Rig *r, const char *name, int rank, const int64_t *shape, const float *values) {
    Tensor *x = external(r, name, DTYPE_F32, rank, shape);
    memcpy(x->data, values, tensor_bytes(x));
    return x;
}

Tensor *rig_buffer(Rig *r, const char *name, int rank, const int64_t *shape) {
    return external(r, name, r->dtype, rank, shape);
}

Tensor *rig_activation(Rig *r, const char *name, int64_t b, int64_t t, int64_t c, const float *values) {
    int32_t *row = copy(r, NULL, (size_t)(b * t), sizeof *row);
    for (int64_t i = 0; i < b * t; i++) row[i] = (int32_t)i;
    Tensor *table = rig_param(r, name, 2, (int64_t[]){b * t, c}, values, true);
    return op_embedding(r->tape, rig_ints(r, "rows", 2, (int64_t[]){b, t}, row), NULL, table, NULL);
}

void rig_output(Rig *r, const char *name, Tensor *x, const float *seed) {
    if (!x) fail_msg("no output %s: %s", name, err_message());
    assert_true(r->n_out < RIG_OUTPUTS);
    RigOutput *out = &r->out[r->n_out++];
    snprintf(out->name, sizeof out->name, "%s", name);
    out->tensor = x;
    out->n = tensor_count(x);
    x->keep = true;
    if (!seed || !r->with_grad) return;
    out->seed = copy(r, seed, (size_t)out->n, sizeof *seed);
    out->grad = tape_seed(r->tape, x);
    assert_non_null(out->grad);
}

void rig_ready(Rig *r) {
    assert_ok(tape_plan(r->tape));
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner;
    r->bytes = tape_bytes(r->tape);
    inner = (r->bytes + page - 1) / page * page;
    r->map_size = inner + 2 * page;
    r->map = mmap(NULL, r->map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(r->map != MAP_FAILED);
    if (inner) assert_int_equal(mprotect(r->map + page, inner, PROT_READ | PROT_WRITE), 0);
    r->memory = r->map + page + (inner - r->bytes);
    assert_ok(tape_bind(r->tape, r->memory));
}

void rig_poison(Rig *r) { memset(r->memory, 0xff, r->bytes); } /* NaN in every float type */

Status rig_try(Rig *r, const TapeRun *run) {
    rig_poison(r);
    if (!run->accumulate)
        for (int i = 0; i < r->n_in; i++)
            if (r->in[i].grad) memset(r->in[i].grad, 0xff, (size_t)r->in[i].n * sizeof(float));
    TRY_RETURN(tape_forward(r->tape, run));
    for (int i = 0; i < r->n_out; i++)
        if (r->out[i].grad) store(r->out[i].grad->dtype, r->out[i].grad->data, r->out[i].seed, r->out[i].n);
    return r->with_grad ? tape_backward(r->tape, run) : TANE_OK;
}

void rig_run(Rig *r, const TapeRun *run) { assert_ok(rig_try(r, run)); }

RigInput *rig_input(Rig *r, const char *name) {
    for (int i = 0; i < r->n_in; i++)
        if (!strcmp(r->in[i].name, name)) return &r->in[i];
    fail_msg("the test has no input %s", name);
    return NULL;
}

float *rig_values(Rig *r, const char *name) {
    for (int i = 0; i < r->n_out; i++) {
        const RigOutput *out = &r->out[i];
        if (strcmp(out->name, name)) continue;
        float *x = rig_array(r, out->n);
        for (int64_t e = 0; e < out->n; e++) {
            const void *data = out->tensor->data;
            DType type = out->tensor->dtype;
            x[e] = type == DTYPE_F32    ? ((const float *)data)[e]
                   : type == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)data)[e])
                                        : (float)((const int32_t *)data)[e];
        }
        return x;
    }
    fail_msg("the test has no output %s", name);
    return NULL;
}

double rig_distance(const float *a, const float *b, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (a[i] == b[i] || (isnan(a[i]) && isnan(b[i]))) continue;
        if (!(d <= most)) most = isnan(d) ? INFINITY : d;
    }
    return most;
}

double rig_scale(const float *a, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs((double)a[i]) > most) most = fabs((double)a[i]);
    return most;
}
