/* Dropout's coins: element e of a node's mask in a run is a function of (seed, run position, node, e), so that backward
 * and a resumed run see the same mask without storing it. */
#ifndef OPS_DROPOUT_MATH_H
#define OPS_DROPOUT_MATH_H

#include "base/rng.h"
#include "ops/node.h"
#include "ops/simd.h"

/* keep[0..n) = 1 / (1 - p) or 0, for the elements first .. first + n - 1 of the node's mask; first is a multiple of 4.
 */
static inline void dropout_mask(float *keep, int64_t n, int64_t first, float p, const Node *node, const TapeRun *run) {
    float scale = 1.0f / (1.0f - p);
    for (int64_t i = 0; i < n; i += 4) {
        uint32_t word[4];
        philox4x32(run->seed, run->position, (uint64_t)node->index << 44 | (uint64_t)(first + i) >> 2, word);
        for (int64_t e = i; e < n && e < i + 4; e++) keep[e] = rng_u01(word[e - i]) < p ? 0.0f : scale;
    }
}

/* The same from any element on; keep holds n + 3. */
static inline const float *dropout_mask_at(float *keep, int64_t n, int64_t first, float p, const Node *node,
                                           const TapeRun *run) {
    int64_t ahead = first & 3;
    dropout_mask(keep, n + ahead, first - ahead, p, node, run);
    return keep + ahead;
}

#endif
