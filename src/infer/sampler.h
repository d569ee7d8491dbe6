/* Choosing the next token from a row of logits.
 *
 *   p = softmax(logits / temperature), cut to the top_k most probable tokens, then to the fewest of these that have the
 *   share top_p (Holtzman et al. 2020, "nucleus sampling"); equal logits rank by id. Temperature 0 takes the most
 *   probable token.
 *
 * The draw is a function of (seed, stream, position) alone: no state, and nothing depends on who shares the batch.
 */
#ifndef INFER_SAMPLER_H
#define INFER_SAMPLER_H

#include "base/mem.h"
#include "ops/ops.h"

typedef struct Sampling {
    double temperature; /* 0: greedy */
    double top_p;       /* (0, 1]; 1: off */
    int64_t top_k;      /* 0: off */
    uint64_t seed;
    uint64_t stream;    /* tells apart the requests that share a seed */
} Sampling;

/* TANE_EINVAL, naming the setting. */
Status sampling_check(const Sampling *sampling);

/* What op_sample draws a row's token by. position: how many tokens stand in front of it; vocab: only tokens below. */
SampleRow sampling_row(const Sampling *sampling, uint64_t position, int64_t vocab);
/* TANE_ENUMERIC where op_sample found no token to choose. */
Status sampling_chosen(const SampleChoice *choice);

/* Working memory for rows of `vocab` logits, for one thread. */
typedef struct SamplerRank {
    float logit;
    int32_t id;
} SamplerRank;
typedef struct Sampler {
    SamplerRank *heap;
    int64_t vocab;
} Sampler;
Status sampler_new(Sampler *sampler, int64_t vocab);
void sampler_free(Sampler *sampler);

typedef struct Choice {
    int32_t token;
    float logprob; /* log softmax(logits)[token]: of the model itself, without temperature and cuts */
} Choice;

/* logits (vocab); position: how many tokens stand in front of the one to choose. NaN, +Inf or nothing but -Inf is
 * TANE_ENUMERIC. Allocates nothing. */
Status sampler_choose(Sampler *sampler, const Sampling *sampling, const float *logits, uint64_t position, Choice *out);

#endif
