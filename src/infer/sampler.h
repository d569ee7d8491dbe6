/* How a request's tokens are chosen: its settings, and what becomes of them in op_sample (ops/ops.h). The draw is a
 * function of (seed, stream, position) alone: no state, and nothing depends on who shares the batch. */
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

#endif
