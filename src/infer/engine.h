/* The engine: many requests through one model at a time, with a KV cache.
 *
 * A request takes one of `slots` slots until it is answered; then the next one gets the slot (continuous batching).
 * Slots in use are always the first ones, so that the forward of a step covers no more rows than there are requests.
 * Prompts are computed several at a time, padded on the right to a common length.
 *
 * Tapes are recorded once a shape and kept; they share one piece of memory. The engine reads the model's weights where
 * they are: between two calls they may change, as in training.
 *
 * What a request returns does not depend on who shares its batch: every op computes a row from that row alone, the
 * matrix products included (AMX by construction; oneDNN's by its choice of kernels, which tests/test_engine.c checks on
 * the machine it runs on; on a GPU by choosing only algorithms that agree with each other, in bf16 and fp16, for engines of
 * more than 8 slots and, with other roundings, for those of up to 8), and a request draws its random numbers from its own
 * stream.
 */
#ifndef INFER_ENGINE_H
#define INFER_ENGINE_H

#include "infer/sampler.h"
#include "model/model.h"

typedef struct Engine Engine;

typedef struct EngineRequest {
    uint64_t id;             /* the caller's own; handed back */
    const int32_t *prompt;   /* (n_prompt), n_prompt >= 1; stays the caller's, until the request is done */
    int64_t n_prompt;
    int64_t max_new_tokens;  /* >= 1 */
    const int32_t *stop;     /* (n_stop) tokens that end the answer */
    int64_t n_stop;
    Sampling sampling;
} EngineRequest;

typedef enum EngineReason {
    ENGINE_STOP,    /* a stop token, which is the last one of the answer */
    ENGINE_LENGTH,  /* max_new_tokens */
    ENGINE_CONTEXT, /* the context is full: n tokens of context hold prompt and answer but for its last token */
    ENGINE_CALLER   /* the token callback said so */
} EngineReason;
const char *engine_reason_name(EngineReason reason); /* "stop", "length", "context", "stop" */

typedef struct EngineResult {
    uint64_t id;
    const int32_t *tokens;  /* (n), the stop token included */
    const float *logprobs;  /* (n), see SampleChoice */
    int64_t n;
    EngineReason reason;
} EngineResult;

/* Who asks. Everything is called on the thread of engine_run; an error ends the run and is its result. */
typedef struct EngineClient {
    void *user;
    /* The next request; *more = false when there is none any more (it is not asked again). Prompts of similar length
     * behind each other waste the least. */
    Status (*next)(void *user, EngineRequest *request, bool *more);
    /* Each token as it comes, the answer so far; *stop = true ends this answer. May be NULL. */
    Status (*token)(void *user, const EngineResult *so_far, bool *stop);
    /* The whole answer; the arrays are the engine's and go to the next request. */
    Status (*done)(void *user, const EngineResult *result);
} EngineClient;

/* context: tokens of the cache, at most the model's context; 0: that. The model is borrowed. */
Status engine_new(Engine **out, const Model *model, int64_t slots, int64_t context);
void engine_free(Engine *engine); /* NULL is fine */
/* Only tokens below `vocab` are chosen: a model's vocabulary may be padded beyond its tokenizer's. */
void engine_set_vocab(Engine *engine, int64_t vocab);
int64_t engine_slots(const Engine *engine);
int64_t engine_context(const Engine *engine);
/* Cache, activations and bookkeeping. */
size_t engine_bytes(const Engine *engine);
/* Slots, at most `most`, whose cache and logits take no more than `bytes`; at least 1. context as in engine_new. */
int64_t engine_slots_within(const Model *model, int64_t context, size_t bytes, int64_t most);

/* TANE_EINVAL for a request that this engine cannot take; a prompt that does not fit names both numbers. */
Status engine_check(const Engine *engine, const EngineRequest *request);

/* Answers everything that `client` asks. NaN logits are TANE_ENUMERIC. After an error the engine is usable. */
Status engine_run(Engine *engine, const EngineClient *client);

/* The same for an array: results[i] is the answer to requests[i], its arrays in `arena`. `token` may be NULL; its
 * so_far->id is the request's index, whatever the request's own id is. */
Status engine_generate(Engine *engine, const EngineRequest *requests, size_t n, Arena *arena, EngineResult *results,
                       Status (*token)(void *user, const EngineResult *so_far, bool *stop), void *user);

#endif
