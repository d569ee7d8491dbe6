/* The test bench for ops; see rig.h. */
#include "rig.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

Rng rig_rng = {.key = 20261122};

void rig_new(Rig *r, Device *device, DType dtype, bool with_grad) {
    *r = (Rig){.device = device, .dtype = dtype, .with_grad = with_grad};
    assert_ok(tape_new(&r->tape, device, with_grad));
}

void rig_free(Rig *r) {
    tape_free(r->tape);
    for (RigBlock *block = r->blocks; block; block = block->next) device_release(r->device, block->memory);
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

/* ---- to and from the device */

/* x[0..n) as another type, in the rig's arena. */
static void *narrowed(Rig *r, DType dtype, const float *x, int64_t n) {
    if (dtype == DTYPE_F32) return copy(r, x, (size_t)n, sizeof *x);
    uint16_t *to = copy(r, NULL, (size_t)n, sizeof *to);
    for (int64_t i = 0; i < n; i++) to[i] = dtype == DTYPE_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
    return to;
}

static void widen(DType dtype, const void *from, float *to, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i] = dtype == DTYPE_F32    ? ((const float *)from)[i]
                : dtype == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)from)[i])
                : dtype == DTYPE_F16  ? f16_to_f32(((const uint16_t *)from)[i])
                                      : (float)((const int32_t *)from)[i];
}

static void *device_block(Rig *r, size_t bytes) {
    RigBlock *block;
    assert_ok(ARENA_NEW(&r->arena, &block));
    assert_ok(device_alloc(r->device, &block->memory, bytes));
    block->next = r->blocks;
    r->blocks = block;
    return block->memory;
}

/* On the CPU exactly as long as it must be, so that sanitizers see what lies behind it. */
void rig_place(Rig *r, Tensor *x) {
    x->data = r->device->host ? copy(r, NULL, 1, tensor_bytes(x)) : device_block(r, tensor_bytes(x));
}

void rig_upload(Rig *r, Tensor *x, const void *from) {
    assert_ok(device_upload(r->device, x->data, from, tensor_bytes(x)));
}

/* The first bytes from here, the rest from each other. */
static void fill(Device *d, void *to, int byte, size_t bytes) {
    char first[65536];
    memset(first, byte, sizeof first);
    size_t done = bytes < sizeof first ? bytes : sizeof first;
    assert_ok(device_upload(d, to, first, done));
    for (size_t n; done < bytes; done += n) {
        n = bytes - done < done ? bytes - done : done;
        assert_ok(device_copy(d, (char *)to + done, to, n));
    }
}

void rig_fill(Rig *r, Tensor *x, int byte) { fill(r->device, x->data, byte, tensor_bytes(x)); }

void *rig_download(Rig *r, const Tensor *x) {
    void *to = copy(r, NULL, 1, tensor_bytes(x));
    assert_ok(device_download(r->device, to, x->data, tensor_bytes(x)));
    return to;
}

void rig_set(Rig *r, RigInput *in, const float *values) {
    rig_upload(r, in->param, narrowed(r, in->param->dtype, values, in->n));
}

/* ---- recording */

static Tensor *external(Rig *r, const char *name, DType dtype, int rank, const int64_t *shape) {
    Tensor *x = tape_external(r->tape, name, dtype, rank, shape);
    if (x) rig_place(r, x);
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
    rig_place(r, w);
    rig_set(r, in, values);
    if (!w->grad) return w;
    in->grad = rig_array(r, in->n);
    w->grad->dtype = r->grad_dtype;
    if (r->device->host) w->grad->data = in->grad;
    else rig_place(r, w->grad);
    return w;
}

Tensor *rig_ints(Rig *r, const char *name, int rank, const int64_t *shape, const int32_t *values) {
    Tensor *x = external(r, name, DTYPE_I32, rank, shape);
    rig_upload(r, x, values);
    return x;
}

Tensor *rig_floats(Rig *r, const char *name, int rank, const int64_t *shape, const float *values) {
    Tensor *x = external(r, name, DTYPE_F32, rank, shape);
    rig_upload(r, x, values);
    return x;
}

Tensor *rig_buffer(Rig *r, const char *name, int rank, const int64_t *shape) {
    return external(r, name, r->dtype, rank, shape);
}

Tensor *rig_activation(Rig *r, const char *name, int64_t b, int64_t t, int64_t c, const float *values) {
    int32_t *row = copy(r, NULL, (size_t)(b * t), sizeof *row);
    for (int64_t i = 0; i < b * t; i++) row[i] = (int32_t)i;
    Tensor *table = rig_param(r, name, 2, (int64_t[]){b * t, c}, values, true);
    return op_embedding(r->tape, rig_ints(r, "rows", 2, (int64_t[]){b, t}, row), NULL, table, NULL, 1);
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
    out->grad = tape_seed(r->tape, x);
    assert_non_null(out->grad);
    out->seed = narrowed(r, out->grad->dtype, seed, out->n);
}

Status rig_plan(Rig *r) {
    TRY_RETURN(tape_plan(r->tape));
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner;
    r->bytes = tape_bytes(r->tape);
    if (!r->device->host) {
        r->memory = device_block(r, r->bytes);
        return tape_bind(r->tape, r->memory);
    }
    inner = (r->bytes + page - 1) / page * page;
    r->map_size = inner + 2 * page;
    r->map = mmap(NULL, r->map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(r->map != MAP_FAILED);
    if (inner) assert_int_equal(mprotect(r->map + page, inner, PROT_READ | PROT_WRITE), 0);
    r->memory = r->map + page + (inner - r->bytes);
    return tape_bind(r->tape, r->memory);
}

void rig_ready(Rig *r) { assert_ok(rig_plan(r)); }

void rig_poison(Rig *r) { fill(r->device, r->memory, 0xff, r->bytes); } /* NaN in every float type */

static void fetch_grads(Rig *r) {
    for (int i = 0; i < r->n_in; i++) {
        const Tensor *grad = r->in[i].param->grad;
        if (!r->in[i].grad || grad->data == r->in[i].grad) continue;
        widen(grad->dtype, rig_download(r, grad), r->in[i].grad, r->in[i].n);
    }
}

Status rig_try(Rig *r, const TapeRun *run) {
    rig_poison(r);
    for (int i = 0; i < r->n_in && !run->accumulate; i++)
        if (r->in[i].grad) rig_fill(r, r->in[i].param->grad, 0xff);
    TRY_RETURN(tape_forward(r->tape, run));
    for (int i = 0; i < r->n_out; i++)
        if (r->out[i].grad) rig_upload(r, r->out[i].grad, r->out[i].seed);
    if (r->with_grad) TRY_RETURN(tape_backward(r->tape, run));
    TRY_RETURN(device_sync(r->device));
    fetch_grads(r);
    return TANE_OK;
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
        widen(out->tensor->dtype, rig_download(r, out->tensor), x, out->n);
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
