/* Recording and running a micro-batch. */
#include "train/batch_tape.h"

static Status make_positions(BatchTape *b) {
    Status st = TANE_OK;
    int64_t n = b->rows * b->width;
    int32_t *positions;
    TRY_RETURN(MEM_NEW_ARRAY(&positions, (size_t)n));
    for (int64_t i = 0; i < n; i++) positions[i] = (int32_t)(i % b->width);
    TRY(device_alloc(b->device, (void **)&b->positions, (size_t)n * sizeof *positions));
    TRY(device_upload(b->device, b->positions, positions, (size_t)n * sizeof *positions));
out:
    mem_free(positions);
    return st;
}

Status batch_tape_new(BatchTape *b, const Model *model, const BatchTapeOptions *o) {
    Status st = TANE_OK;
    int64_t shape[] = {o->rows, o->width}, one[] = {1};
    static const char *const names[BATCH_ARRAYS] = {"tokens", "labels", "positions", "starts"};
    *b = (BatchTape){.device = model->device, .rows = o->rows, .width = o->width, .n_in = batch_arrays(o->packed)};
    if (!o->packed) TRY(make_positions(b));
    TRY(tape_new(&b->tape, model->device, o->with_grad));
    tape_recompute(b->tape, o->recompute);
    for (int i = 0; i < b->n_in; i++) b->in[i] = tape_external(b->tape, names[i], DTYPE_I32, 2, shape);
    Tensor *positions = o->packed ? b->in[2] : tape_external(b->tape, names[2], DTYPE_I32, 2, shape), *scale = NULL;
    if (positions && !o->packed) positions->data = b->positions;
    if (o->loss_scale) scale = tape_external(b->tape, "loss_scale", DTYPE_F32, 1, one);
    if (scale) scale->data = o->loss_scale;
    ModelInput in = {.tokens = b->in[0], .positions = positions, .starts = b->in[3]};
    ModelOutput out;
    model_forward(model, b->tape, &in, &out);
    b->losses = op_cross_entropy(b->tape, out.hidden, out.head, b->in[1], (float)o->label_smoothing, out.softcap,
                                 scale, NULL);
    b->sum = op_loss_sum(b->tape, b->losses);
    TRY(tape_plan(b->tape));
out:
    if (st != TANE_OK) batch_tape_free(b);
    return st;
}

void batch_tape_free(BatchTape *b) {
    tape_free(b->tape);
    device_release(b->device, b->positions);
    device_release(b->device, b->input);
    *b = (BatchTape){0};
}

Status batch_tape_queue(BatchTape *b, const TapeRun *run) {
    TRY_RETURN(tape_forward(b->tape, run));
    return tape_with_grad(b->tape) ? tape_backward(b->tape, run) : TANE_OK;
}

Status batch_tape_run(BatchTape *b, const Batch *batch, const TapeRun *run, double *loss_sum) {
    size_t n = (size_t)(b->rows * b->width), bytes = n * sizeof *b->input;
    float sum[2];
    if (!b->input) TRY_RETURN(device_alloc(b->device, (void **)&b->input, (size_t)b->n_in * bytes));
    for (int i = 0; i < b->n_in; i++) {
        b->in[i]->data = b->input + (size_t)i * n;
        TRY_RETURN(device_upload(b->device, b->in[i]->data, batch->array[i], bytes));
    }
    TRY_RETURN(batch_tape_queue(b, run));
    TRY_RETURN(device_download(b->device, sum, b->sum->data, sizeof sum));
    *loss_sum = sum[0];
    return TANE_OK;
}
