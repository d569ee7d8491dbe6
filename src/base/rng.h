/* Randomness without hidden state: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 *
 * A number is a function of (key, counter). Code that needs "the next one" keeps an Rng, which is only a counter.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

#ifdef __CUDACC__ /* the same function serves CUDA kernels */
#define RNG_EVERYWHERE __host__ __device__
#else
#define RNG_EVERYWHERE
#endif

/* Four independent uniform 32-bit words for a 64-bit key and a 128-bit counter. */
RNG_EVERYWHERE static inline void philox4x32(uint64_t key, uint64_t counter_hi, uint64_t counter_lo, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32);
    uint32_t c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* [0, 1) with 24 bits, and (0, 1] for logarithms. */
RNG_EVERYWHERE static inline float rng_u01(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }
RNG_EVERYWHERE static inline float rng_u01_open(uint32_t word) { return (float)((word >> 8) + 1) * 0x1p-24f; }

typedef struct Rng {
    uint64_t key, stream, counter;
} Rng;

uint32_t rng_next(Rng *rng);
uint64_t rng_below(Rng *rng, uint64_t n); /* uniform in [0, n), n > 0, without modulo bias */
float rng_normal(Rng *rng);               /* mean 0, variance 1 (Box-Muller) */

/* Element i of a pseudo-random permutation of 0..n-1 in O(1): a Feistel network over Philox with cycle walking. */
uint64_t rng_permute(uint64_t key, uint64_t stream, uint64_t n, uint64_t i);

#endif
