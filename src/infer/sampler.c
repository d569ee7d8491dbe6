/* Greedy choice, and sampling by the inverse of the cumulative distribution over the tokens that are left. */
#include "infer/sampler.h"

#include <float.h>
#include <math.h>

#include "base/rng.h"

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

Status sampler_new(Sampler *s, int64_t vocab) {
    s->vocab = vocab;
    return MEM_NEW_ARRAY(&s->heap, (size_t)vocab);
}

void sampler_free(Sampler *s) {
    mem_free(s->heap);
    *s = (Sampler){0};
}

/* [0, 1) with 53 bits. */
static double uniform(const Sampling *s, uint64_t position) {
    uint32_t word[4];
    philox4x32(s->seed, s->stream, position, word);
    return (double)(((uint64_t)word[0] << 32 | word[1]) >> 11) * 0x1p-53;
}

/* ---- ranking: a heap with the most probable token on top; what is popped lies behind it, in order from the end */

static bool before(SamplerRank a, SamplerRank b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static void sift_down(SamplerRank *heap, int64_t at, int64_t n) {
    SamplerRank moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static SamplerRank pop(SamplerRank *heap, int64_t n) {
    SamplerRank top = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, 0, n - 1);
    return heap[n - 1] = top;
}

static double weight(float logit, float top, double temperature) { return exp((double)(logit - top) / temperature); }

/* The token whose stretch of the cumulative weights holds u * total. */
static int32_t draw_all(const float *logits, int64_t n, float top, double temperature, double u) {
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += weight(logits[i], top, temperature);
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = weight(logits[i], top, temperature);
        sum += w;
        if (sum > u * total) return (int32_t)i;
        if (w > 0) last = i; /* for a sum that rounding has left short of the total */
    }
    return (int32_t)last;
}

static int32_t draw_ranked(Sampler *s, const Sampling *how, const float *logits, float top, double u) {
    int64_t n = s->vocab, k = how->top_k > 0 && how->top_k < n ? how->top_k : n, kept = 0;
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) s->heap[i] = (SamplerRank){logits[i], (int32_t)i};
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift_down(s->heap, i, n);
    if (k == n)
        for (int64_t i = 0; i < n; i++) total += weight(logits[i], top, how->temperature);
    else
        while (kept < k) total += weight(pop(s->heap, n - kept++).logit, top, how->temperature);
    /* The nucleus: the fewest, at least one, with the share top_p. */
    int64_t nucleus = 0;
    while (nucleus < k && (nucleus == 0 || sum < how->top_p * total)) {
        if (nucleus == kept) pop(s->heap, n - kept++);
        sum += weight(s->heap[n - 1 - nucleus++].logit, top, how->temperature);
    }
    double at = u * sum, seen = 0;
    for (int64_t i = 0; i < nucleus; i++) {
        seen += weight(s->heap[n - 1 - i].logit, top, how->temperature);
        if (seen > at) return s->heap[n - 1 - i].id;
    }
    return s->heap[n - 1].id;
}

Status sampler_choose(Sampler *s, const Sampling *how, const float *logits, uint64_t position, Choice *out) {
    int64_t n = s->vocab, best = 0;
    bool nan = false;
    for (int64_t i = 0; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
        nan |= logits[i] != logits[i];
    }
    float top = logits[best];
    if (nan || isinf(top))
        return FAIL(TANE_ENUMERIC, "the model's logits hold %s: its weights are damaged, or training went astray",
                    nan       ? "NaN"
                    : top > 0 ? "infinity"
                              : "nothing but -infinity");
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += (double)expf(logits[i] - top);
    int64_t token = best;
    if (how->temperature > 0) {
        bool all = how->top_p >= 1 && (how->top_k <= 0 || how->top_k >= n);
        double u = uniform(how, position);
        token = all ? draw_all(logits, n, top, how->temperature, u) : draw_ranked(s, how, logits, top, u);
    }
    *out = (Choice){(int32_t)token, (float)((double)(logits[token] - top) - log(total))};
    return TANE_OK;
}
