/* Slots, tapes by shape, and the loop: fill free slots, compute their prompts, then a token for all, over and over. */
#include "infer/engine.h"

#include <stdlib.h>

enum {
    PREFILL_TOKENS = 4096, /* tokens of prompts computed at once, padding included */
    FEW_SLOTS = 8          /* up to so many rows a GPU has other kernels */
};

/* A recorded forward of `rows` slots and `width` new tokens each, up to the choice of the next ones. */
typedef struct Shape {
    int64_t rows, width;
    Tape *tape;
    Tensor **cache;      /* (layers) (rows, context, 2 KV D) */
    Tensor *choices;     /* (rows) SampleChoice */
    DeviceReplay replay; /* of a decoding step */
} Shape;

typedef struct Slot {
    EngineRequest request;
    int64_t past; /* tokens in the cache */
    int64_t n;    /* tokens of the answer */
    bool finished;
    EngineReason reason;
    int32_t *tokens; /* (context) */
    float *logprobs; /* (context) */
} Slot;

/* What a forward reads, in one block, so that one upload moves it: in ordinary memory, and the device's copy. */
typedef struct Inputs {
    TapeRun *run;       /* zero: nothing is drawn here */
    int32_t *past, *at; /* (slots): tokens in the cache; the token whose logits are wanted */
    SampleRow *rows;    /* (slots) */
    int32_t *tokens;    /* (rows, width), and the positions right behind them */
} Inputs;

struct Engine {
    const Model *model;
    Device *device;
    int64_t slots, context, layers;
    size_t cache_row, cache_layer; /* bytes of a position of a slot, and of a layer */
    char *cache;                   /* (layers, slots, context, 2 KV D) */
    Slot *slot;                    /* those in use come first */
    int64_t active;
    Shape *shapes;
    int n_shapes, cap_shapes;
    void *memory;                          /* of the tapes; the device's, as the cache */
    size_t memory_bytes, input_bytes, ids; /* ids: bytes of the block before the tokens */
    void *block, *device_block;
    Inputs in, there; /* places in these */
    int64_t vocab;    /* tokens that may be chosen */
    int32_t *answers; /* (slots, context) */
    float *logprobs;
    SampleChoice *choices; /* (slots) */
};

/* ------------------------------------------------------------------------------------------------ few shapes */

static int64_t power_below(int64_t n) {
    int64_t p = 1;
    while (2 * p <= n) p *= 2;
    return p;
}

/* Up to the next quarter of a power of two: four shapes an octave, at most a quarter computed in vain. */
static int64_t round_up(int64_t n) {
    if (n <= 4) return n;
    int64_t step = power_below(n - 1) / 4;
    return (n + step - 1) / step * step;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t prefill_width(const Engine *e, int64_t n) { return smaller(round_up(n), e->context); }
static int64_t prefill_rows(const Engine *e, int64_t width) {
    return power_below(smaller(e->slots, width < PREFILL_TOKENS ? PREFILL_TOKENS / width : 1));
}

/* ----------------------------------------------------------------------------------------- tapes, made once */

static void shape_release(Engine *e, Shape *s) {
    device_replay_free(e->device, &s->replay);
    tape_free(s->tape);
    mem_free(s->cache);
}

static Tensor *input(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape, void *data) {
    Tensor *x = tape_external(t, name, dtype, rank, shape);
    if (x) x->data = data;
    return x;
}

static Status shape_record(Engine *e, Shape *s) {
    const ModelConfig *c = &e->model->config;
    int64_t ids[] = {s->rows, s->width}, cache[] = {s->rows, e->context, 2 * c->kv_heads * c->head_dim},
            sampling[] = {s->rows, sizeof(SampleRow)};
    TRY_RETURN(MEM_NEW_ARRAY(&s->cache, (size_t)e->layers));
    TRY_RETURN(tape_new(&s->tape, e->device, false));
    Tape *t = s->tape;
    /* What a request gets must not depend on its company. So prompts are always computed as if there were many, and so
     * are answers in an engine of many slots; an engine of few slots always decodes as with few, which is faster. */
    tape_few_rows(t, s->width == 1 && e->slots <= FEW_SLOTS);
    Tensor *at = input(t, "at", DTYPE_I32, 1, ids, e->there.at);
    Tensor *rows = input(t, "sampling", DTYPE_U8, 2, sampling, e->there.rows);
    for (int64_t l = 0; l < e->layers; l++) s->cache[l] = tape_external(t, "cache", e->model->dtype, 3, cache);
    ModelInput in = {.tokens = input(t, "tokens", DTYPE_I32, 2, ids, e->there.tokens),
                     .positions = input(t, "positions", DTYPE_I32, 2, ids, e->there.tokens + s->rows * s->width),
                     .past = input(t, "past", DTYPE_I32, 1, ids, e->there.past),
                     .cache = s->cache};
    ModelOutput out;
    model_forward(e->model, t, &in, &out);
    s->choices = op_sample(t, op_logits(t, out.hidden, out.head, at, out.softcap), rows);
    return tape_plan(t);
}

/* Room for the largest tape; the others lie in the same memory, since nothing in it outlives a forward. */
static Status reserve(Engine *e, size_t bytes) {
    if (bytes <= e->memory_bytes) return TANE_OK;
    void *memory;
    TRY_RETURN(device_alloc(e->device, &memory, bytes));
    TRY_RETURN(device_sync(e->device));
    device_release(e->device, e->memory);
    e->memory = memory;
    e->memory_bytes = bytes;
    for (int i = 0; i < e->n_shapes; i++) { /* graphs hold the old addresses */
        device_replay_free(e->device, &e->shapes[i].replay);
        TRY_RETURN(tape_bind(e->shapes[i].tape, memory));
    }
    return TANE_OK;
}

static Status shape_get(Engine *e, int64_t rows, int64_t width, Shape **out) {
    for (int i = 0; i < e->n_shapes; i++) {
        *out = &e->shapes[i];
        if ((*out)->rows == rows && (*out)->width == width) return TANE_OK;
    }
    Status st = TANE_OK;
    Shape s = {.rows = rows, .width = width};
    if (e->n_shapes == e->cap_shapes) {
        int cap = e->cap_shapes ? 2 * e->cap_shapes : 16;
        TRY_RETURN(mem_grow((void **)&e->shapes, (size_t)e->cap_shapes, (size_t)cap, sizeof *e->shapes));
        e->cap_shapes = cap;
    }
    TRY(shape_record(e, &s));
    TRY(reserve(e, tape_bytes(s.tape)));
    TRY(tape_bind(s.tape, e->memory));
    e->shapes[e->n_shapes] = s;
    *out = &e->shapes[e->n_shapes++];
out:
    if (st != TANE_OK) shape_release(e, &s);
    return st;
}

/* ------------------------------------------------------------------------------------------- making an engine */

static size_t cache_row_bytes(const Model *m) {
    return (size_t)(2 * m->config.kv_heads * m->config.head_dim) * dtype_size(m->dtype);
}

int64_t engine_slots_within(const Model *m, int64_t context, size_t bytes, int64_t most) {
    if (context == 0) context = m->config.context;
    size_t slot = cache_row_bytes(m) * (size_t)m->config.layers * (size_t)context + (size_t)m->config.vocab_size * 4;
    size_t fit = bytes / slot;
    return fit < 1 ? 1 : fit < (size_t)most ? (int64_t)fit : most;
}

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

/* The places of the inputs in a block for `ids` tokens. */
static Inputs inputs_in(const Engine *e, char *block) {
    size_t slots = (size_t)e->slots, ints = align64(slots * sizeof(int32_t));
    char *past = block + align64(sizeof(TapeRun));
    return (Inputs){.run = (TapeRun *)block,
                    .past = (int32_t *)past,
                    .at = (int32_t *)(past + ints),
                    .rows = (SampleRow *)(past + 2 * ints),
                    .tokens = (int32_t *)(block + e->ids)};
}

static Status allocate(Engine *e) {
    int64_t ids = e->slots > PREFILL_TOKENS ? e->slots : PREFILL_TOKENS;
    if (e->context > ids) ids = e->context;
    size_t slots = (size_t)e->slots, answers = slots * (size_t)e->context;
    e->ids = align64(sizeof(TapeRun)) + 2 * align64(slots * sizeof(int32_t)) + align64(slots * sizeof(SampleRow));
    size_t block = e->ids + 2 * (size_t)ids * sizeof(int32_t);
    TRY_RETURN(device_alloc(e->device, (void **)&e->cache, (size_t)e->layers * e->cache_layer));
    TRY_RETURN(device_host_alloc(e->device, &e->block, block));
    TRY_RETURN(device_alloc(e->device, &e->device_block, block));
    TRY_RETURN(device_host_alloc(e->device, (void **)&e->choices, slots * sizeof *e->choices));
    TRY_RETURN(MEM_NEW_ARRAY(&e->slot, slots));
    TRY_RETURN(MEM_NEW_ARRAY(&e->answers, answers));
    TRY_RETURN(MEM_NEW_ARRAY(&e->logprobs, answers));
    e->in = inputs_in(e, e->block);
    e->there = inputs_in(e, e->device_block);
    for (int64_t i = 0; i < e->slots; i++) {
        e->slot[i].tokens = e->answers + i * e->context;
        e->slot[i].logprobs = e->logprobs + i * e->context;
    }
    engine_set_vocab(e, e->model->config.vocab_size);
    e->input_bytes = block + slots * (sizeof *e->slot + sizeof *e->choices) + 8 * answers;
    return TANE_OK;
}

/* The shapes that need most memory: all slots at once, the longest prompts, the most prompts. */
static Status plan_memory(Engine *e) {
    Shape *shape;
    TRY_RETURN(shape_get(e, e->slots, 1, &shape));
    TRY_RETURN(shape_get(e, prefill_rows(e, e->context), e->context, &shape));
    int64_t width = prefill_width(e, PREFILL_TOKENS / e->slots > 1 ? PREFILL_TOKENS / e->slots : 1);
    return shape_get(e, prefill_rows(e, width), width, &shape);
}

Status engine_new(Engine **out, const Model *model, int64_t slots, int64_t context) {
    Status st = TANE_OK;
    if (context == 0) context = model->config.context;
    if (slots < 1 || slots > 65536) return FAIL(TANE_EINVAL, "a batch of %lld is not in 1..65536", (long long)slots);
    if (context < 1 || context > model->config.context)
        return FAIL(TANE_EINVAL, "a context of %lld tokens is not in 1..%lld, the model's own", (long long)context,
                    (long long)model->config.context);
    TRY_RETURN(MEM_NEW(out));
    Engine *e = *out;
    e->model = model;
    e->slots = slots;
    e->context = context;
    e->layers = model->config.layers;
    e->device = model->device;
    e->cache_row = cache_row_bytes(model);
    e->cache_layer = e->cache_row * (size_t)context * (size_t)slots;
    TRY(allocate(e));
    TRY(plan_memory(e));
out:
    if (st != TANE_OK) {
        engine_free(e);
        *out = NULL;
    }
    return st;
}

void engine_free(Engine *e) {
    if (!e) return;
    Device *d = e->device;
    for (int i = 0; i < e->n_shapes; i++) shape_release(e, &e->shapes[i]);
    device_release(d, e->cache);
    device_release(d, e->memory);
    device_release(d, e->device_block);
    device_host_release(d, e->block);
    device_host_release(d, e->choices);
    void *const all[] = {e->slot, e->answers, e->logprobs, e->shapes, e};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

void engine_set_vocab(Engine *e, int64_t vocab) { e->vocab = smaller(vocab, e->model->config.vocab_size); }

int64_t engine_slots(const Engine *e) { return e->slots; }
int64_t engine_context(const Engine *e) { return e->context; }
size_t engine_bytes(const Engine *e) { return (size_t)e->layers * e->cache_layer + e->memory_bytes + e->input_bytes; }

const char *engine_reason_name(EngineReason reason) {
    static const char *const names[] = {"stop", "length", "context", "stop"};
    return names[reason];
}

Status engine_check(const Engine *e, const EngineRequest *r) {
    TRY_RETURN(sampling_check(&r->sampling));
    if (r->n_prompt < 1) return FAIL(TANE_EINVAL, "the prompt is empty: there is nothing to go on from");
    if (r->n_prompt > e->context)
        return FAIL(TANE_EINVAL, "the prompt has %lld tokens, but the context is %lld; shorten the prompt",
                    (long long)r->n_prompt, (long long)e->context);
    if (r->max_new_tokens < 1)
        return FAIL(TANE_EINVAL, "max_new_tokens %lld is not positive", (long long)r->max_new_tokens);
    return TANE_OK;
}

/* ---------------------------------------------------------------------------------------------------- the loop */

static bool stops(const EngineRequest *r, int32_t token) {
    for (int64_t i = 0; i < r->n_stop; i++)
        if (r->stop[i] == token) return true;
    return false;
}

static EngineResult result_of(const Slot *s) {
    return (EngineResult){s->request.id, s->tokens, s->logprobs, s->n, s->reason};
}

/* What queue_work gets. */
typedef struct Queued {
    Engine *engine;
    Shape *shape;
} Queued;

static Status queue_work(void *user) {
    const Queued *q = user;
    return tape_forward(q->shape->tape, &(TapeRun){.on_device = q->engine->there.run});
}

/* Decoding steps are launched as graphs, since their slots are always the first ones; prompts lie anywhere. */
static Status queue(Engine *e, Shape *shape) {
    Queued q = {e, shape};
    return shape->width == 1 ? device_replay(e->device, &shape->replay, queue_work, &q) : queue_work(&q);
}

/* One forward over slots first .. first + shape->rows - 1, of which `rows` are real, and their choices. */
static Status forward(Engine *e, Shape *shape, int64_t first, int64_t rows) {
    for (int64_t i = 0; i < shape->rows; i++) {
        const Slot *s = &e->slot[first + (i < rows ? i : 0)];
        Sampling how = s->request.sampling;
        if (i >= rows) how.temperature = 0; /* computed in vain */
        e->in.rows[i] = sampling_row(&how, (uint64_t)(s->request.n_prompt + s->n), e->vocab);
    }
    for (int64_t l = 0; l < e->layers; l++)
        shape->cache[l]->data = e->cache + (size_t)l * e->cache_layer + (size_t)(first * e->context) * e->cache_row;
    size_t used = e->ids + 2 * (size_t)(shape->rows * shape->width) * sizeof(int32_t);
    TRY_RETURN(device_upload(e->device, e->device_block, e->block, used));
    TRY_RETURN(queue(e, shape));
    TRY_RETURN(device_download(e->device, e->choices, shape->choices->data, (size_t)rows * sizeof *e->choices));
    for (int64_t i = 0; i < rows; i++) TRY_RETURN(sampling_chosen(&e->choices[i]));
    return TANE_OK;
}

/* Takes the choices of slots first .. first + rows - 1 into their answers. */
static Status take_choices(Engine *e, const EngineClient *client, int64_t first, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        Slot *s = &e->slot[first + i];
        s->tokens[s->n] = e->choices[i].token;
        s->logprobs[s->n++] = e->choices[i].logprob;
        s->finished = true;
        if (stops(&s->request, e->choices[i].token)) s->reason = ENGINE_STOP;
        else if (s->n >= s->request.max_new_tokens) s->reason = ENGINE_LENGTH;
        else if (s->past >= e->context) s->reason = ENGINE_CONTEXT;
        else s->finished = false;
        if (!client->token) continue;
        bool stop = false;
        EngineResult so_far = result_of(s);
        TRY_RETURN(client->token(client->user, &so_far, &stop));
        if (stop && !s->finished) {
            s->finished = true;
            s->reason = ENGINE_CALLER;
        }
    }
    return TANE_OK;
}

/* New requests into the free slots, from e->active on; *n of them. */
static Status fill(Engine *e, const EngineClient *client, bool *more, int64_t *n) {
    for (*n = 0; *more && e->active + *n < e->slots; ++*n) {
        Slot *s = &e->slot[e->active + *n];
        TRY_RETURN(client->next(client->user, &s->request, more));
        if (!*more) break;
        TRY_RETURN(engine_check(e, &s->request));
        s->past = s->n = 0;
        s->finished = false;
    }
    return TANE_OK;
}

/* Prompts of the next `n` slots, neighbours of similar length together, a power of two at a time. */
static Status prefill(Engine *e, const EngineClient *client, int64_t n) {
    for (int64_t end = e->active + n, rows; e->active < end; e->active += rows) {
        Slot *s = &e->slot[e->active];
        int64_t width = prefill_width(e, s->request.n_prompt), most = prefill_rows(e, width);
        for (rows = 1; rows < most && e->active + rows < end; rows++)
            if (prefill_width(e, s[rows].request.n_prompt) != width) break;
        rows = power_below(rows);
        Shape *shape;
        TRY_RETURN(shape_get(e, rows, width, &shape));
        int32_t *tokens = e->in.tokens, *positions = tokens + rows * width;
        memset(tokens, 0, (size_t)(rows * width) * sizeof *tokens);
        for (int64_t i = 0; i < rows; i++) {
            memcpy(tokens + i * width, s[i].request.prompt, (size_t)s[i].request.n_prompt * sizeof *tokens);
            for (int64_t t = 0; t < width; t++) positions[i * width + t] = (int32_t)t;
            e->in.past[i] = 0;
            e->in.at[i] = (int32_t)s[i].request.n_prompt - 1;
            s[i].past = s[i].request.n_prompt;
        }
        TRY_RETURN(forward(e, shape, e->active, rows));
        TRY_RETURN(take_choices(e, client, e->active, rows));
    }
    return TANE_OK;
}

/* One more token for every slot in use. Rows behind these are computed in vain, in free slots. */
static Status decode(Engine *e, const EngineClient *client) {
    int64_t rows = smaller(round_up(e->active), e->slots);
    Shape *shape;
    TRY_RETURN(shape_get(e, rows, 1, &shape));
    for (int64_t i = 0; i < rows; i++) {
        bool used = i < e->active;
        Slot *s = &e->slot[i];
        e->in.tokens[i] = used ? s->tokens[s->n - 1] : 0;
        e->in.past[i] = e->in.tokens[rows + i] = used ? (int32_t)s->past++ : 0;
        e->in.at[i] = 0;
    }
    TRY_RETURN(forward(e, shape, 0, e->active));
    return take_choices(e, client, 0, e->active);
}

/* Slot `from` takes the place of `to`, which is free. */
static Status move_slot(Engine *e, int64_t to, int64_t from) {
    if (to == from) return TANE_OK;
    Slot free_slot = e->slot[to];
    e->slot[to] = e->slot[from];
    e->slot[from] = free_slot;
    size_t stride = (size_t)e->context * e->cache_row, used = (size_t)e->slot[to].past * e->cache_row;
    for (int64_t l = 0; l < e->layers; l++) {
        char *layer = e->cache + (size_t)l * e->cache_layer;
        TRY_RETURN(device_copy(e->device, layer + (size_t)to * stride, layer + (size_t)from * stride, used));
    }
    return TANE_OK;
}

/* Hands out finished answers and closes the gaps they leave. */
static Status sweep(Engine *e, const EngineClient *client) {
    for (int64_t i = e->active - 1; i >= 0; i--) {
        if (!e->slot[i].finished) continue;
        EngineResult result = result_of(&e->slot[i]);
        TRY_RETURN(client->done(client->user, &result));
        TRY_RETURN(move_slot(e, i, --e->active));
    }
    return TANE_OK;
}

Status engine_run(Engine *e, const EngineClient *client) {
    bool more = true;
    e->active = 0;
    while (more || e->active > 0) {
        /* Not for each slot that falls free: prompts are cheaper computed together. */
        int64_t n = 0, free_slots = e->slots - e->active;
        if (more && (4 * free_slots >= e->slots)) TRY_RETURN(fill(e, client, &more, &n));
        if (n > 0) TRY_RETURN(prefill(e, client, n));
        else if (e->active > 0) TRY_RETURN(decode(e, client));
        TRY_RETURN(sweep(e, client));
    }
    return TANE_OK;
}

/* -------------------------------------------------------------------------------------------------- an array */

typedef struct ByLength {
    int64_t length;
    size_t index;
} ByLength;

typedef struct ArrayClient {
    const EngineRequest *requests;
    const ByLength *order;
    size_t n, next;
    Arena *arena;
    EngineResult *results;
    Status (*token)(void *user, const EngineResult *so_far, bool *stop);
    void *user;
} ArrayClient;

static int by_length(const void *a, const void *b) {
    const ByLength *x = a, *y = b;
    return x->length != y->length ? (x->length > y->length) - (x->length < y->length)
                                  : (x->index > y->index) - (x->index < y->index);
}

static Status array_next(void *user, EngineRequest *request, bool *more) {
    ArrayClient *c = user;
    *more = c->next < c->n;
    if (!*more) return TANE_OK;
    size_t index = c->order[c->next++].index;
    *request = c->requests[index];
    request->id = index;
    return TANE_OK;
}

static Status array_token(void *user, const EngineResult *so_far, bool *stop) {
    ArrayClient *c = user;
    return c->token(c->user, so_far, stop);
}

static Status array_done(void *user, const EngineResult *result) {
    ArrayClient *c = user;
    EngineResult *to = &c->results[result->id];
    int32_t *tokens;
    float *logprobs;
    TRY_RETURN(ARENA_NEW_ARRAY(c->arena, &tokens, (size_t)result->n));
    TRY_RETURN(ARENA_NEW_ARRAY(c->arena, &logprobs, (size_t)result->n));
    memcpy(tokens, result->tokens, (size_t)result->n * sizeof *tokens);
    memcpy(logprobs, result->logprobs, (size_t)result->n * sizeof *logprobs);
    *to = *result;
    to->id = c->requests[result->id].id;
    to->tokens = tokens;
    to->logprobs = logprobs;
    return TANE_OK;
}

Status engine_generate(Engine *e, const EngineRequest *requests, size_t n, Arena *arena, EngineResult *results,
                       Status (*token)(void *user, const EngineResult *so_far, bool *stop), void *user) {
    Status st = TANE_OK;
    ByLength *order = NULL;
    TRY_RETURN(MEM_NEW_ARRAY(&order, n));
    for (size_t i = 0; i < n; i++) {
        TRY(engine_check(e, &requests[i]));
        order[i] = (ByLength){requests[i].n_prompt, i};
    }
    qsort(order, n, sizeof *order, by_length);
    ArrayClient array = {requests, order, n, 0, arena, results, token, user};
    EngineClient client = {&array, array_next, token ? array_token : NULL, array_done};
    TRY(engine_run(e, &client));
out:
    mem_free(order);
    return st;
}
