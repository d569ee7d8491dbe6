/* The update's formulas, the same on every device: what the gradient's norm decides, one AdamW step of an element, and
 * stochastic rounding. */
#ifndef OPS_UPDATE_H
#define OPS_UPDATE_H

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "ops/ops.h"

/* op_adamw's inputs, and what it records. */
enum { MASTER, M, V, GRADS, CONTROL, HYPER, WEIGHTS, ADAMW_INPUTS };
typedef struct AdamArgs {
    const AdamSegment *segments;
    int n;
} AdamArgs;

/* From the sum of the squares of the gradient as it was accumulated: fills control, moves state on. The loss scale
 * follows torch.amp's GradScaler: doubled after so many good updates in a row, halved by a bad one. */
RNG_EVERYWHERE static inline void update_control(double squares, const float *hyper, float *state, float *control) {
    const float most_scale = 16777216.0f; /* 2^24 */
    float loss_scale = state[STATE_LOSS_SCALE], growth = hyper[HYPER_SCALE_GROWTH], most = hyper[HYPER_MAX_NORM];
    float norm = (float)(sqrt(squares) / (double)loss_scale);
    bool finite = norm - norm == 0.0f, halted = state[STATE_HALTED] != 0.0f;
    for (int i = 0; i < UPDATE_CONTROL; i++) control[i] = 0.0f;
    control[CONTROL_NORM] = norm;
    if (halted) return;
    if (!finite) {
        bool smaller = growth > 0.0f && loss_scale > 1.0f; /* the scale may have been the reason */
        if (smaller) state[STATE_LOSS_SCALE] = fmaxf(loss_scale * 0.5f, 1.0f);
        else if (hyper[HYPER_HALT] != 0.0f) state[STATE_HALTED] = 1.0f;
        state[STATE_GOOD] = 0.0f;
        return;
    }
    float updates = state[STATE_UPDATES] += 1.0f, clip = most > 0.0f && norm + 1e-6f > most ? most / (norm + 1e-6f) : 1;
    control[CONTROL_APPLY] = 1.0f;
    control[CONTROL_SCALE] = clip / loss_scale;
    control[CONTROL_STEP] = (float)(1.0 / (1.0 - pow((double)hyper[HYPER_BETA1], (double)updates)));
    control[CONTROL_ROOT] = (float)(1.0 / sqrt(1.0 - pow((double)hyper[HYPER_BETA2], (double)updates)));
    if (growth > 0.0f && (state[STATE_GOOD] += 1.0f) >= growth) {
        state[STATE_LOSS_SCALE] = fminf(loss_scale * 2.0f, most_scale);
        state[STATE_GOOD] = 0.0f;
    }
}

/* What a segment's elements have in common. */
typedef struct AdamStep {
    float beta1, beta2, epsilon, scale, step, root, keep;
} AdamStep;

RNG_EVERYWHERE static inline AdamStep adam_step(const float *hyper, const float *control, float weight_decay,
                                                float lr_scale) {
    float lr = hyper[HYPER_LR] * lr_scale;
    AdamStep s;
    s.beta1 = hyper[HYPER_BETA1];
    s.beta2 = hyper[HYPER_BETA2];
    s.epsilon = hyper[HYPER_EPSILON];
    s.scale = control[CONTROL_SCALE];
    s.step = lr * control[CONTROL_STEP];
    s.root = control[CONTROL_ROOT];
    s.keep = 1.0f - lr * weight_decay;
    return s;
}

/* m / (sqrt(v) root + eps). On a GPU to a few units in the last place: correct rounding would cost more instructions
 * than all the rest of an element. */
RNG_EVERYWHERE static inline float adam_direction(const AdamStep *s, float m, float v) {
#ifdef __CUDA_ARCH__
    float root_v, inverse;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root_v) : "f"(v));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(root_v * s->root + s->epsilon));
    return m * inverse;
#else
    return m / (sqrtf(v) * s->root + s->epsilon);
#endif
}

RNG_EVERYWHERE static inline void adam_element(const AdamStep *s, float *w, float *m, float *v, float grad) {
    float g = grad * s->scale;
    *m = s->beta1 * *m + (1.0f - s->beta1) * g;
    *v = s->beta2 * *v + (1.0f - s->beta2) * g * g;
    *w = *w * s->keep - s->step * adam_direction(s, *m, *v);
}

/* x to bf16, up with the probability of its distance from the lower neighbour: x + noise in [0, 1) of a unit in the
 * last place, cut off. noise has 16 bits. Finite stays finite, NaN stays NaN. */
RNG_EVERYWHERE static inline uint16_t round_stochastic(float x, uint32_t noise) {
    const float largest = 0x1.fep127f; /* of bf16 */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (fabsf(x) < largest) return (uint16_t)((bits + noise) >> 16);
    return (uint16_t)(bits >> 16 | (x != x ? 0x40u : 0u));
}

/* The noise of elements 8 group .. 8 group + 7 of an array (WEIGHTS, M or V): element i has noise_of(word, i). The
 * counter's place where dropout has a node's index holds numbers that no node has. */
RNG_EVERYWHERE static inline void update_noise(uint32_t word[4], uint64_t seed, uint64_t position, int array,
                                               int64_t group) {
    philox4x32(seed, position, (uint64_t)(0xffff0 + array) << 44 | (uint64_t)group, word);
}
RNG_EVERYWHERE static inline uint32_t noise_of(const uint32_t word[4], int64_t i) {
    return word[(i & 7) >> 1] >> (i & 1) * 16 & 0xffffu;
}

#endif
