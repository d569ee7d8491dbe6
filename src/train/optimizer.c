/* Flat arrays, segments by role, and the recorded update. */
#include "train/optimizer.h"

#include <math.h>

static size_t type_bytes(const Params *params, bool bf16) { return params->elements * (bf16 ? 2 : 4); }

size_t optimizer_grad_bytes(const Params *params, bool bf16_states) { return type_bytes(params, bf16_states); }

size_t optimizer_state_bytes(const Params *params, DType dtype, bool bf16_states) {
    size_t master = bf16_states || dtype == DTYPE_F32 ? 0 : type_bytes(params, false);
    return master + 2 * type_bytes(params, bf16_states);
}

/* Neighbouring parameters with the same decay make one segment. */
static Status make_segments(Optimizer *o) {
    const Params *params = &o->model->params;
    TRY_RETURN(MEM_NEW_ARRAY(&o->segments, (size_t)params->n));
    for (int i = 0; i < params->n; i++) {
        const Param *p = params->items[i];
        bool decays = p->role == ROLE_MATRIX || p->role == ROLE_EMBEDDING;
        float decay = decays ? (float)o->options.weight_decay : 0.0f;
        int64_t begin = (int64_t)p->offset,
                end = i + 1 < params->n ? (int64_t)params->items[i + 1]->offset : (int64_t)params->elements;
        if (o->n_segments && o->segments[o->n_segments - 1].weight_decay == decay)
            o->segments[o->n_segments - 1].end = end;
        else o->segments[o->n_segments++] = (AdamSegment){begin, end, decay, 1.0f};
    }
    return TANE_OK;
}

static Tensor *array(Tape *t, const char *name, DType dtype, int64_t n, void *data) {
    if (!data) return NULL;
    Tensor *x = tape_external(t, name, dtype, 1, &n);
    if (x) x->data = data;
    return x;
}

static Status record(Optimizer *o) {
    const Model *model = o->model;
    TRY_RETURN(tape_new(&o->tape, model->device, false));
    Tape *t = o->tape;
    int64_t n = (int64_t)model->params.elements, hyper[] = {UPDATE_HYPER};
    Tensor *grads = array(t, "grads", o->type, n, o->grads),
           *state = array(t, "state", DTYPE_F32, UPDATE_STATE, o->state);
    Tensor *master = array(t, "master", DTYPE_F32, n, o->master);
    Tensor *weights = o->master == model->weights ? NULL : array(t, "weights", model->dtype, n, model->weights);
    o->hyper = tape_external(t, "hyper", DTYPE_F32, 1, hyper);
    o->control = op_grad_norm(t, grads, o->hyper, state);
    op_adamw(t, master, array(t, "exp_avg", o->type, n, o->m), array(t, "exp_avg_sq", o->type, n, o->v), grads,
             o->control, o->hyper, weights, o->segments, o->n_segments);
    TRY_RETURN(tape_plan(t));
    TRY_RETURN(device_alloc(model->device, &o->memory, tape_bytes(t)));
    return tape_bind(t, o->memory);
}

void optimizer_declare(Model *model, const OptimizerOptions *options) {
    model->trains = true;
    model->grad_dtype = options->bf16_states ? DTYPE_BF16 : DTYPE_F32;
}

Status optimizer_new(Optimizer **out, Model *model, const OptimizerOptions *options) {
    Status st = TANE_OK;
    Optimizer *o;
    Device *d = model->device;
    bool bf16 = options->bf16_states;
    if (bf16 && model->dtype != DTYPE_BF16)
        return FAIL(TANE_EINVAL, "bf16 optimizer states need compute_dtype=bf16, not %s", dtype_name(model->dtype));
    TRY_RETURN(MEM_NEW(out));
    o = *out;
    o->model = model;
    o->options = *options;
    optimizer_declare(model, options);
    o->type = model->grad_dtype;
    size_t bytes = type_bytes(&model->params, bf16);
    TRY(device_alloc(d, &o->m, bytes));
    TRY(device_alloc(d, &o->v, bytes));
    TRY(device_alloc(d, &o->grads, bytes));
    TRY(device_alloc(d, (void **)&o->state, UPDATE_STATE * sizeof *o->state));
    if (!bf16) {
        if (model->dtype == DTYPE_F32) o->master = model->weights;
        else TRY(device_alloc(d, &o->master, bytes));
    }
    model->grads = o->grads;
    TRY(optimizer_write_state(o, &(OptimizerState){.loss_scale = options->loss_scale > 0 ? options->loss_scale : 1}));
    TRY(make_segments(o));
    TRY(record(o));
out:
    if (st != TANE_OK) {
        optimizer_free(o);
        *out = NULL;
    }
    return st;
}

void optimizer_free(Optimizer *o) {
    if (!o) return;
    Device *d = o->model->device;
    if (o->model->grads == o->grads) o->model->grads = NULL;
    o->model->trains = false;
    tape_free(o->tape);
    if (o->master != o->model->weights) device_release(d, o->master);
    void *const arrays[] = {o->m, o->v, o->grads, o->state, o->memory};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) device_release(d, arrays[i]);
    mem_free(o->segments);
    mem_free(o);
}

int optimizer_weights(const Optimizer *o, ParamArray out[2]) {
    int n = 0;
    if (o->master) out[n++] = (ParamArray){"", o->master, DTYPE_F32, o->model->device};
    if (o->master != o->model->weights) out[n++] = model_weights(o->model);
    return n;
}

void optimizer_moments(const Optimizer *o, ParamArray out[2]) {
    out[0] = (ParamArray){".exp_avg", o->m, o->type, o->model->device};
    out[1] = (ParamArray){".exp_avg_sq", o->v, o->type, o->model->device};
}

Status optimizer_read_state(const Optimizer *o, OptimizerState *state) {
    float s[UPDATE_STATE];
    TRY_RETURN(device_download(o->model->device, s, o->state, sizeof s));
    *state = (OptimizerState){s[STATE_UPDATES], s[STATE_LOSS_SCALE], s[STATE_GOOD]};
    return TANE_OK;
}

Status optimizer_write_state(Optimizer *o, const OptimizerState *state) {
    float s[UPDATE_STATE] = {(float)state->updates, (float)state->loss_scale, (float)state->good, 0};
    return device_upload(o->model->device, o->state, s, sizeof s);
}

void optimizer_hyper(const Optimizer *o, double lr, float hyper[UPDATE_HYPER]) {
    const OptimizerOptions *options = &o->options;
    hyper[HYPER_LR] = (float)lr;
    hyper[HYPER_BETA1] = (float)options->beta1;
    hyper[HYPER_BETA2] = (float)options->beta2;
    hyper[HYPER_EPSILON] = (float)options->epsilon;
    hyper[HYPER_MAX_NORM] = (float)options->max_grad_norm;
    hyper[HYPER_HALT] = options->halt_on_nan;
    hyper[HYPER_SCALE_GROWTH] = options->loss_scale > 0 ? (float)options->growth_interval : 0.0f;
}

Status optimizer_queue(Optimizer *o, const TapeRun *run) { return tape_forward(o->tape, run); }

Status optimizer_step(Optimizer *o, double lr, const TapeRun *run, float *norm) {
    Status st = TANE_OK;
    Device *d = o->model->device;
    float hyper[UPDATE_HYPER], control[UPDATE_CONTROL];
    void *there;
    TRY_RETURN(device_alloc(d, &there, sizeof hyper));
    optimizer_hyper(o, lr, hyper);
    TRY(device_upload(d, there, hyper, sizeof hyper));
    o->hyper->data = there;
    TRY(optimizer_queue(o, run));
    TRY(device_download(d, control, o->control->data, sizeof control));
    *norm = control[CONTROL_NORM];
out:
    device_release(d, there);
    return st;
}
