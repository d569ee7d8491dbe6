/* One micro-batch on a tape: tokens and labels in, losses out, gradients into the model's. */
#ifndef TRAIN_BATCH_TAPE_H
#define TRAIN_BATCH_TAPE_H

#include "data/dataset.h"
#include "model/model.h"

typedef struct BatchTape {
    Tape *tape;
    int64_t rows, width;
    Tensor *tokens, *labels, *losses;
    int32_t *positions;
} BatchTape;

/* Records the model and its loss for batches of (rows, width). model->grads must be set when with_grad. */
Status batch_tape_new(BatchTape *b, const Model *model, const OpKernel *const *kernels, int64_t rows, int64_t width,
                      double label_smoothing, bool with_grad);
void batch_tape_free(BatchTape *b);

/* Sum of the batch's losses; gradients too when the tape has them. */
Status batch_tape_run(BatchTape *b, const Batch *batch, const TapeRun *run, double *loss_sum);
/* The first row whose loss is not finite, or -1. After batch_tape_run. */
int64_t batch_tape_bad_row(const BatchTape *b);

#endif
