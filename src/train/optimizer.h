/* The optimizer: fp32 master weights, AdamW moments and gradients in flat arrays, and the update as a tape. */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "model/model.h"

typedef struct OptimizerOptions {
    double weight_decay; /* on matrices and embeddings; never on biases and norms */
    double beta1, beta2, epsilon;
    double max_grad_norm; /* 0: no clipping */
} OptimizerOptions;

typedef struct Optimizer {
    Model *model;
    float *master;   /* fp32 weights; the model's own array when it computes in fp32 */
    float *m, *v;    /* first and second moments */
    float *grads;    /* also model->grads */
    OptimizerOptions options;
    AdamSegment *segments;
    int n_segments;
    Tape *tape;
    Tensor *norm;
    float hyper[ADAM_HYPER];
    void *memory;
} Optimizer;

/* Bytes that optimizer_new takes beside the model's weights. */
size_t optimizer_bytes(const Params *params, DType dtype);

/* Gives the model its gradients. Master weights start from the model's; moments from zero. */
Status optimizer_new(Optimizer **out, Model *model, const OptimizerOptions *options, const OpKernel *const *kernels);
void optimizer_free(Optimizer *o); /* NULL is fine */

/* After master was filled in from outside: rounds it into the model's weights. */
void optimizer_publish(Optimizer *o);

/* Update number `step` (from 1) with rate lr. *norm_out: the gradient's norm before clipping; when it is not finite,
 * nothing has changed. */
Status optimizer_step(Optimizer *o, double lr, int64_t step, float *norm_out);

#endif
