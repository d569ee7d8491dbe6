/* Recording and running a micro-batch. */
#include "train/batch_tape.h"

#include <math.h>

Status batch_tape_new(BatchTape *b, const Model *model, const OpKernel *const *kernels, int64_t rows, int64_t width,
                      double label_smoothing, bool with_grad) {
    Status st = TANE_OK;
    int64_t shape[] = {rows, width};
    *b = (BatchTape){.rows = rows, .width = width};
    TRY(MEM_NEW_ARRAY(&b->positions, (size_t)(rows * width)));
    for (int64_t i = 0; i < rows * width; i++) b->positions[i] = (int32_t)(i % width);
    TRY(tape_new(&b->tape, kernels, with_grad));
    b->tokens = tape_external(b->tape, "tokens", DTYPE_I32, 2, shape);
    b->labels = tape_external(b->tape, "labels", DTYPE_I32, 2, shape);
    Tensor *positions = tape_external(b->tape, "positions", DTYPE_I32, 2, shape);
    if (positions) positions->data = b->positions;
    ModelInput in = {.tokens = b->tokens, .positions = positions};
    ModelOutput out;
    model_forward(model, b->tape, &in, &out);
    b->losses = op_cross_entropy(b->tape, out.hidden, out.head, b->labels, (float)label_smoothing, NULL);
    TRY(tape_plan(b->tape));
out:
    if (st != TANE_OK) batch_tape_free(b);
    return st;
}

void batch_tape_free(BatchTape *b) {
    tape_free(b->tape);
    mem_free(b->positions);
    *b = (BatchTape){0};
}

Status batch_tape_run(BatchTape *b, const Batch *batch, const TapeRun *run, double *loss_sum) {
    b->tokens->data = batch->tokens;
    b->labels->data = batch->labels;
    TRY_RETURN(tape_forward(b->tape, run));
    if (tape_with_grad(b->tape)) TRY_RETURN(tape_backward(b->tape, run));
    const float *losses = b->losses->data;
    *loss_sum = 0;
    for (int64_t i = 0; i < b->rows * b->width; i++) *loss_sum += losses[i];
    return TANE_OK;
}

int64_t batch_tape_bad_row(const BatchTape *b) {
    const float *losses = b->losses->data;
    for (int64_t i = 0; i < b->rows * b->width; i++)
        if (!isfinite(losses[i])) return i / b->width;
    return -1;
}
