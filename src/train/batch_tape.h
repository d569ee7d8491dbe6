/* One micro-batch on a tape: tokens and labels in, losses out, gradients into the model's. */
#ifndef TRAIN_BATCH_TAPE_H
#define TRAIN_BATCH_TAPE_H

#include "data/batch.h"
#include "model/model.h"

typedef struct BatchTapeOptions {
    int64_t rows, width;
    bool packed; /* rows hold several documents: positions and starts come with each batch */
    double label_smoothing;
    bool with_grad; /* model->grads must be set */
    TapeRecompute recompute;
    float *loss_scale; /* fp32 in the device's memory, or NULL */
} BatchTapeOptions;

typedef struct BatchTape {
    Device *device;
    Tape *tape;
    int64_t rows, width;
    Tensor *in[BATCH_ARRAYS]; /* tokens, labels, and when packed positions, starts: ->data is set before a run */
    int n_in;
    Tensor *losses;
    Tensor *sum;        /* (2): op_loss_sum; ->data may be set elsewhere before a run */
    int32_t *positions; /* on the device, when not packed: 0, 1, 2, ... in each row */
    int32_t *input;     /* (n_in, rows, width) for batch_tape_run, made at its first call */
} BatchTape;

/* Records the model and its loss for batches of (rows, width). */
Status batch_tape_new(BatchTape *b, const Model *model, const BatchTapeOptions *options);
void batch_tape_free(BatchTape *b);

/* Queues forward and, when the tape has gradients, backward. */
Status batch_tape_queue(BatchTape *b, const TapeRun *run);
/* The same for a batch in ordinary memory, and waits. Sum of the batch's losses. */
Status batch_tape_run(BatchTape *b, const Batch *batch, const TapeRun *run, double *loss_sum);

#endif
