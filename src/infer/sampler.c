/* Settings of a choice: checked, and as op_sample reads them. */
#include "infer/sampler.h"

#include <float.h>
#include <math.h>

Status sampling_check(const Sampling *s) {
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return FAIL(TANE_EINVAL, "temperature %g is not a number >= 0 (0 always takes the most probable token)",
                    s->temperature);
    if (s->top_k < 0) return FAIL(TANE_EINVAL, "top_k %lld is negative; 0 turns it off", (long long)s->top_k);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return FAIL(TANE_EINVAL, "top_p %g is not in (0, 1]; 1 turns it off", s->top_p);
    return TANE_OK;
}

SampleRow sampling_row(const Sampling *s, uint64_t position, int64_t vocab) {
    return (SampleRow){.seed = s->seed,
                       .stream = s->stream,
                       .position = position,
                       .temperature = s->temperature < FLT_MAX ? (float)s->temperature : FLT_MAX,
                       .top_p = (float)s->top_p,
                       .top_k = s->top_k < INT32_MAX ? (int32_t)s->top_k : 0, /* beyond any vocabulary */
                       .vocab = (int32_t)vocab};
}

Status sampling_chosen(const SampleChoice *choice) {
    if (choice->token >= 0) return TANE_OK;
    return FAIL(TANE_ENUMERIC,
                "the model's logits hold NaN, infinity or nothing but -infinity: its weights are damaged, "
                "or training went astray");
}
