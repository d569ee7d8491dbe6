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
    *b = (BatchTape){.device = model->device, .rows = o->rows, .width = o->width};
    TRY(make_positions(b));
    TRY(tape_new(&b->tape, model->device, o->with_grad));
    tape_recompute(b->tape, o->recompute);
    b->tokens = tape_external(b->tape, "tokens", DTYPE_I32, 2, shape);
    b->labels = tape_external(b->tape, "labels", DTYPE_I32, 2, shape);
    Tensor *positions = tape_external(b->tape, "positions", DTYPE_I32, 2, shape), *scale = NULL;
    if (positions) positions->data = b->positions;
    if (o->loss_scale) scale = tape_external(b->tape, "loss_scale", DTYPE_F32, 1, one);
    if (scale) scale->data = o->loss_scale;
    ModelInput in = {.tokens = b->tokens, .positions = positions};
    ModelOutput out;
    model_forward(model, b->tape, &in, &out);
    b->losses = op_cross_entropy(b->tape, out.hidden, out.head, b->labels, (float)o->label_smoothing, out.softcap,
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
    if (!b->input) TRY_RETURN(device_alloc(b->device, (void **)&b->input, 2 * bytes));
    b->tokens->data = b->input;
    b->labels->data = b->input + n;
    TRY_RETURN(device_upload(b->device, b->tokens->data, batch->tokens, bytes));
    TRY_RETURN(device_upload(b->device, b->labels->data, batch->labels, bytes));
    TRY_RETURN(batch_tape_queue(b, run));
    TRY_RETURN(device_download(b->device, sum, b->sum->data, sizeof sum));
    *loss_sum = sum[0];
    return TANE_OK;
}
