/* The optimizer: master weights, AdamW moments and gradients in flat arrays, and the update as a tape.
 *
 * Two layouts. fp32: master weights, moments and gradients in fp32, beside compute weights of the model's type (18 bytes
 * a parameter with bf16 weights). bf16: weights, moments and gradients in bf16 and no master (8 bytes); what a step adds
 * is rounded stochastically, so that it is not lost on average.
 */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "model/model.h"

typedef struct OptimizerOptions {
    double weight_decay; /* on matrices and embeddings; never on biases and norms */
    double beta1, beta2, epsilon;
    double max_grad_norm;     /* 0: no clipping */
    bool bf16_states;         /* see above; the model's type must be bf16 */
    double loss_scale;        /* to begin with; 0: none (anything but fp16) */
    int64_t growth_interval;  /* good updates after which the loss scale doubles */
    bool halt_on_nan;         /* after an update that is not finite none is applied any more */
} OptimizerOptions;

/* The state that goes on from update to update, as a checkpoint keeps it. */
typedef struct OptimizerState {
    double updates, loss_scale, good;
} OptimizerState;

typedef struct Optimizer {
    Model *model;
    OptimizerOptions options;
    void *master;    /* fp32; the model's own weights when these are fp32, NULL with bf16 states */
    void *m, *v;     /* first and second moments */
    void *grads;     /* also model->grads */
    DType type;      /* of moments and gradients */
    float *state;    /* (UPDATE_STATE), on the device as all of these */
    AdamSegment *segments;
    int n_segments;
    Tape *tape;
    Tensor *hyper;   /* ->data: (UPDATE_HYPER), set before the tape runs */
    Tensor *control; /* (UPDATE_CONTROL) what the last update was */
    void *memory;
} Optimizer;

/* Bytes of gradients, and of all else that optimizer_new takes beside the model's weights. */
size_t optimizer_grad_bytes(const Params *params, bool bf16_states);
size_t optimizer_state_bytes(const Params *params, DType dtype, bool bf16_states);

/* Says on the model that it trains, and with what gradients: enough to plan a tape. */
void optimizer_declare(Model *model, const OptimizerOptions *options);
/* Gives the model its gradients. Everything is zero: fill the arrays of optimizer_weights. */
Status optimizer_new(Optimizer **out, Model *model, const OptimizerOptions *options);
void optimizer_free(Optimizer *o); /* NULL is fine */

/* The arrays that hold the weights: the master first, then the compute copy where there is one. Returns their number. */
int optimizer_weights(const Optimizer *o, ParamArray out[2]);
/* Both moments, named as PyTorch names them. */
void optimizer_moments(const Optimizer *o, ParamArray out[2]);

Status optimizer_read_state(const Optimizer *o, OptimizerState *state);
Status optimizer_write_state(Optimizer *o, const OptimizerState *state);

/* The hyper values of an update with rate lr. */
void optimizer_hyper(const Optimizer *o, double lr, float hyper[UPDATE_HYPER]);
/* Queues an update: o->hyper->data must hold its values. run: seed and the update's position. */
Status optimizer_queue(Optimizer *o, const TapeRun *run);
/* The whole of it at once, for small programs and tests; *norm: the gradient's before clipping. */
Status optimizer_step(Optimizer *o, double lr, const TapeRun *run, float *norm);

#endif
