/* Optimizer steps through a device's queue.
 *
 * A step goes in as batches in ordinary memory and comes out as a StepResult a few steps later: while the device works
 * on one step, the next ones are already queued, and nobody waits for a loss. On a device with graphs the work of a step
 * (all its micro-batches and the update) is recorded once and launched as one graph.
 *
 *     stepper_batches(s, &batches);  fill `used` of them;  stepper_submit(s, &input);
 *     while (stepper_in_flight(s) >= stepper_depth(s)) stepper_take(s, &result);
 *
 * Weights, losses and their order do not depend on when results are taken.
 */
#ifndef TRAIN_STEPPER_H
#define TRAIN_STEPPER_H

#include "train/batch_tape.h"
#include "train/optimizer.h"

typedef struct Stepper Stepper;

typedef struct StepInput {
    int64_t step;        /* 0-based: the counter of all randomness in it */
    int64_t used;        /* micro-batches that are filled, 1 .. accumulation */
    uint64_t seed;
    double learning_rate;
} StepInput;

typedef struct StepResult {
    StepInput input;
    const Batch *batches; /* as they were submitted; until the next call of stepper_batches */
    double loss;          /* sum over all targets */
    int64_t targets, real;
    double norm;          /* of the gradient, before clipping */
    bool applied;         /* false: something was not finite, and nothing was changed */
    int64_t bad_batch, bad_row; /* where the first loss that is not finite stands; -1: all are finite */
    double seconds;       /* since the result before */
} StepResult;

/* The tape's memory must be bound before the first step, and stay where it is. */
Status stepper_new(Stepper **out, BatchTape *tape, Optimizer *optimizer, int64_t accumulation);
void stepper_free(Stepper *s); /* NULL is fine; waits for what is queued */
size_t stepper_bytes(const BatchTape *tape, int64_t accumulation); /* of the device's memory */

int stepper_depth(const Stepper *s);
int stepper_in_flight(const Stepper *s);
/* The batches of the next step (accumulation), to be filled. Fewer than stepper_depth may be in flight. */
void stepper_batches(Stepper *s, Batch **batches);
Status stepper_submit(Stepper *s, const StepInput *input);
/* The oldest step in flight; waits for it. */
Status stepper_take(Stepper *s, StepResult *result);

#endif
