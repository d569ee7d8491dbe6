/* The options by which `generate` and `chat` choose tokens, and the request they make. */
#ifndef CLI_SAMPLING_H
#define CLI_SAMPLING_H

#include <math.h>

#include "base/option.h"
#include "infer/engine.h"
#include "infer/open.h"

typedef struct SamplingConfig {
    double temperature, top_p;
    int64_t top_k, seed, max_new_tokens;
    StringList stop;
} SamplingConfig;

/* Rows for a config struct with a SamplingConfig called `sampling`. */
#define SAMPLING_ROW(Config, field, type, fallback, lo, hi, help)                                                      \
    {#field, OPTION_##type, offsetof(Config, sampling.field), fallback, NULL, lo, hi, "Sampling", help}
#define SAMPLING_ROWS(Config, warmth)                                                                                  \
    SAMPLING_ROW(Config, temperature, FLOAT, warmth, 0, INFINITY,                                                      \
                 "0: always the most probable token; 1: as the model says; higher: more varied"),                      \
        SAMPLING_ROW(Config, top_k, INT, "0", 0, INFINITY, "choose among so many most probable tokens; 0: all"),       \
        SAMPLING_ROW(Config, top_p, FLOAT, "1", 1e-9, 1,                                                               \
                     "choose among the fewest tokens that have this share of the probability; 1: all"),                \
        SAMPLING_ROW(Config, seed, INT, "42", 0, 9e18, "the same seed gives the same answers"),                        \
        SAMPLING_ROW(Config, max_new_tokens, INT, "256", 1, INFINITY, "longest answer in tokens"),                     \
        SAMPLING_ROW(Config, stop, LIST, NULL, 0, 0, "texts that end the answer, themselves left out")

/* stream tells apart the answers that share the seed. */
static inline EngineRequest sampling_request(const SamplingConfig *c, const TokenList *prompt, const StopTokens *stop,
                                             uint64_t stream) {
    return (EngineRequest){.id = stream, .prompt = prompt->ids, .n_prompt = (int64_t)prompt->n,
                           .max_new_tokens = c->max_new_tokens, .stop = stop->ids, .n_stop = stop->n,
                           .sampling = {.temperature = c->temperature, .top_k = c->top_k, .top_p = c->top_p,
                                        .seed = (uint64_t)c->seed, .stream = stream}};
}

#endif
