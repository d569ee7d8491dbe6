/* Sequential view of Philox and the O(1) permutation. */
#include "base/rng.h"

#include <math.h>

uint32_t rng_next(Rng *rng) {
    /* One block serves four calls; recomputing it is cheaper than a buffer that would have to be saved and restored. */
    uint32_t words[4];
    philox4x32(rng->key, rng->stream, rng->counter >> 2, words);
    return words[rng->counter++ & 3];
}

uint64_t rng_below(Rng *rng, uint64_t n) {
    uint64_t limit = UINT64_MAX - UINT64_MAX % n; /* a multiple of n: values from it on would be biased */
    for (;;) {
        uint64_t hi = rng_next(rng), x = hi << 32 | rng_next(rng);
        if (x < limit) return x % n;
    }
}

float rng_normal(Rng *rng) {
    float u = rng_u01_open(rng_next(rng)), v = rng_u01(rng_next(rng));
    return sqrtf(-2.0f * logf(u)) * cosf(6.28318530718f * v);
}

uint64_t rng_permute(uint64_t key, uint64_t stream, uint64_t n, uint64_t i) {
    int half = 1;
    while (half < 32 && (uint64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    /* A Feistel network permutes [0, 4^half); walking its cycle until the value is below n permutes [0, n). */
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint32_t words[4];
            philox4x32(key, stream, right << 8 | round, words);
            uint64_t mixed = left ^ (words[0] & mask);
            left = right;
            right = mixed;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
