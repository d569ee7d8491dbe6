/* Flat arrays, segments by role, and the recorded update. */
#include "train/optimizer.h"

#include <math.h>

size_t optimizer_bytes(const Params *params, DType dtype) {
    return params->elements * sizeof(float) * (dtype == DTYPE_F32 ? 3 : 4);
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

static Status record(Optimizer *o, const OpKernel *const *kernels) {
    TRY_RETURN(tape_new(&o->tape, kernels, false));
    Tape *t = o->tape;
    int64_t n[] = {(int64_t)o->model->params.elements}, h[] = {ADAM_HYPER};
    struct {
        const char *name;
        void *data;
    } arrays[] = {{"master", o->master}, {"exp_avg", o->m}, {"exp_avg_sq", o->v}, {"grads", o->grads}};
    Tensor *x[4], *hyper = tape_external(t, "hyper", DTYPE_F32, 1, h), *weights = NULL;
    for (int i = 0; i < 4; i++) {
        x[i] = tape_external(t, arrays[i].name, DTYPE_F32, 1, n);
        if (x[i]) x[i]->data = arrays[i].data;
    }
    if (hyper) hyper->data = o->hyper;
    if (o->model->dtype != DTYPE_F32) {
        weights = tape_external(t, "weights", o->model->dtype, 1, n);
        if (weights) weights->data = o->model->weights;
    }
    o->norm = op_grad_norm(t, x[3]);
    op_adamw(t, x[0], x[1], x[2], x[3], o->norm, hyper, weights, o->segments, o->n_segments);
    TRY_RETURN(tape_plan(t));
    TRY_RETURN(mem_new(&o->memory, tape_bytes(t), 1));
    return tape_bind(t, o->memory);
}

Status optimizer_new(Optimizer **out, Model *model, const OptimizerOptions *options, const OpKernel *const *kernels) {
    Status st = TANE_OK;
    Optimizer *o;
    TRY_RETURN(MEM_NEW(out));
    o = *out;
    o->model = model;
    o->options = *options;
    size_t n = model->params.elements;
    TRY(MEM_NEW_ARRAY(&o->m, n));
    TRY(MEM_NEW_ARRAY(&o->v, n));
    TRY(MEM_NEW_ARRAY(&o->grads, n));
    if (model->dtype == DTYPE_F32) {
        o->master = model->weights;
    } else {
        TRY(MEM_NEW_ARRAY(&o->master, n));
        model_weights_f32(model, o->master);
    }
    model->grads = o->grads;
    TRY(make_segments(o));
    TRY(record(o, kernels));
out:
    if (st != TANE_OK) {
        optimizer_free(o);
        *out = NULL;
    }
    return st;
}

void optimizer_free(Optimizer *o) {
    if (!o) return;
    if (o->model->grads == o->grads) o->model->grads = NULL;
    if (o->master != o->model->weights) mem_free(o->master);
    mem_free(o->m);
    mem_free(o->v);
    mem_free(o->grads);
    mem_free(o->segments);
    tape_free(o->tape);
    mem_free(o->memory);
    mem_free(o);
}

void optimizer_publish(Optimizer *o) {
    if (o->master != o->model->weights)
        params_convert(&o->model->params, o->master, o->model->weights, o->model->dtype);
}

Status optimizer_step(Optimizer *o, double lr, int64_t step, float *norm_out) {
    const OptimizerOptions *options = &o->options;
    o->hyper[ADAM_LR] = (float)lr;
    o->hyper[ADAM_BETA1] = (float)options->beta1;
    o->hyper[ADAM_BETA2] = (float)options->beta2;
    o->hyper[ADAM_EPSILON] = (float)options->epsilon;
    o->hyper[ADAM_MAX_NORM] = (float)options->max_grad_norm;
    o->hyper[ADAM_CORRECTION1] = (float)(1 - pow(options->beta1, (double)step));
    o->hyper[ADAM_CORRECTION2] = (float)(1 - pow(options->beta2, (double)step));
    TapeRun run = {0};
    TRY_RETURN(tape_forward(o->tape, &run));
    *norm_out = *(const float *)o->norm->data;
    return TANE_OK;
}
