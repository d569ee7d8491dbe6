/* The engine: against a full forward for every token, alone and in company, at the context's end, bad requests, bad
 * weights, memory that runs out. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/rng.h"
#include "infer/engine.h"
#include "ops/backend.h"
#include "support.h"

enum { VOCAB = 61, CONTEXT = 48 };

/* A model of random weights, larger than usual so that its answers vary. */
static Model *tiny(const char *family, DType dtype) {
    ModelConfig c;
    Model *m;
    assert_ok(model_config_init(&c, family));
    c.vocab_size = VOCAB;
    c.context = CONTEXT;
    c.width = 48;
    c.layers = 2;
    c.heads = 4;
    c.kv_heads = strcmp(family, "llama") ? 0 : 2;
    c.init_std = 0.15;
    c.tied = true;
    c.activation = strcmp(family, "llama") ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    assert_ok(model_new(&m, &c, dtype, test_device()));
    ParamArray weights = model_weights(m);
    assert_ok(params_init(&m->params, 11, &weights, 1));
    return m;
}

typedef struct Prompts {
    int32_t ids[80][CONTEXT];
    EngineRequest request[80];
    int n;
} Prompts;

/* Lengths from 1 to 20, different limits, every third sampled in its own way. */
static void make_prompts(Prompts *p, int n) {
    Rng rng = {.key = 5};
    static const int32_t stop[] = {3, 14, 25, 36};
    p->n = n;
    for (int i = 0; i < n; i++) {
        int length = 1 + (int)rng_below(&rng, 20);
        for (int t = 0; t < length; t++) p->ids[i][t] = (int32_t)rng_below(&rng, VOCAB);
        p->request[i] = (EngineRequest){.id = 1000 + (uint64_t)i, .prompt = p->ids[i], .n_prompt = length,
                                        .max_new_tokens = 1 + (int64_t)rng_below(&rng, 20), .stop = stop, .n_stop = 4,
                                        .sampling = {.temperature = i % 3 ? 0.9 : 0, .top_p = i % 3 == 2 ? 0.9 : 1,
                                                     .top_k = i % 6 == 1 ? 10 : 0, .seed = 77, .stream = (uint64_t)i}};
    }
}

/* ---- against the plain way: the whole sequence through the model for every token, no cache, no batch */

/* int32 values on the test's device. (device_release) */
static void place(Tensor *x, const int32_t *values) {
    assert_ok(device_alloc(test_device(), &x->data, tensor_bytes(x)));
    assert_ok(device_upload(test_device(), x->data, values, tensor_bytes(x)));
}

static void forward_once(const Model *m, const int32_t *ids, int64_t n, float *logits) {
    Tape *t;
    Device *device = m->device;
    int64_t shape[] = {1, n};
    int32_t positions[CONTEXT], at = (int32_t)n - 1;
    for (int i = 0; i < n; i++) positions[i] = i;
    assert_ok(tape_new(&t, device, false));
    Tensor *in_tokens = tape_external(t, "tokens", DTYPE_I32, 2, shape);
    Tensor *in_at = tape_external(t, "at", DTYPE_I32, 1, (int64_t[]){1});
    Tensor *in_positions = tape_external(t, "positions", DTYPE_I32, 2, shape);
    place(in_tokens, ids);
    place(in_positions, positions);
    place(in_at, &at);
    ModelOutput out;
    model_forward(m, t, &(ModelInput){.tokens = in_tokens, .positions = in_positions}, &out);
    Tensor *y = op_logits(t, out.hidden, out.head, in_at, 0);
    assert_ok(tape_plan(t));
    void *memory;
    assert_ok(device_alloc(device, &memory, tape_bytes(t)));
    assert_ok(tape_bind(t, memory));
    assert_ok(tape_forward(t, &(TapeRun){0}));
    assert_ok(device_download(device, logits, y->data, VOCAB * sizeof *logits));
    device_release(device, memory);
    device_release(device, in_tokens->data);
    device_release(device, in_positions->data);
    device_release(device, in_at->data);
    tape_free(t);
}

/* Every token of the answer is the one the plain way gives (greedy: up to a tie within the tolerance), with its
 * log-probability. */
static void check_answer(const Model *m, const EngineRequest *r, const EngineResult *a, double tolerance) {
    int32_t ids[2 * CONTEXT];
    float logits[VOCAB];
    memcpy(ids, r->prompt, (size_t)r->n_prompt * 4);
    for (int64_t i = 0; i < a->n; i++) {
        forward_once(m, ids, r->n_prompt + i, logits);
        double top = -INFINITY, total = 0;
        for (int v = 0; v < VOCAB; v++) top = logits[v] > top ? logits[v] : top;
        for (int v = 0; v < VOCAB; v++) total += exp(logits[v] - top);
        double logprob = logits[a->tokens[i]] - top - log(total);
        assert_true(fabs(logprob - a->logprobs[i]) < tolerance);
        if (r->sampling.temperature == 0) assert_true(logits[a->tokens[i]] > top - tolerance);
        ids[r->n_prompt + i] = a->tokens[i];
    }
}

static void check_against_plain(const char *family, DType dtype, double tolerance) {
    static Prompts p;
    static EngineResult result[80];
    Arena arena = {0};
    Engine *e;
    Model *m = tiny(family, dtype);
    make_prompts(&p, 24);
    assert_ok(engine_new(&e, m, 8, 0));
    assert_ok(engine_generate(e, p.request, 24, &arena, result, NULL, NULL));
    int stopped = 0, different = 0;
    for (int i = 0; i < 24; i++) {
        const EngineRequest *r = &p.request[i];
        assert_int_equal(result[i].id, r->id);
        assert_true(result[i].n >= 1 && result[i].n <= r->max_new_tokens);
        check_answer(m, r, &result[i], tolerance);
        bool stop = result[i].tokens[result[i].n - 1] % 11 == 3 && result[i].tokens[result[i].n - 1] < 40;
        assert_int_equal(result[i].reason, stop ? ENGINE_STOP : ENGINE_LENGTH);
        if (!stop) assert_int_equal(result[i].n, r->max_new_tokens);
        for (int64_t t = 0; t + 1 < result[i].n; t++)
            assert_true(result[i].tokens[t] % 11 != 3 || result[i].tokens[t] > 40);
        stopped += stop;
        different += i > 0 && result[i].tokens[0] != result[0].tokens[0];
    }
    assert_true(stopped > 0 && stopped < 24); /* or else the test would not see stop tokens */
    assert_true(different > 10);
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

static void test_equals_a_full_forward(void **state) {
    (void)state;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* hundreds of tiny forwards */
    check_against_plain("gpt2", DTYPE_F32, 1e-4);
    check_against_plain("llama", DTYPE_F32, 1e-4);
    check_against_plain("gpt2", DTYPE_BF16, 0.15); /* rounding differs where attention takes another kernel */
    check_against_plain("llama", DTYPE_BF16, 0.15);
    omp_set_num_threads(threads);
}

/* ---- company */

static void assert_same(const EngineResult *a, const EngineResult *b) {
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->reason, b->reason);
    assert_memory_equal(a->tokens, b->tokens, (size_t)a->n * 4);
    assert_memory_equal(a->logprobs, b->logprobs, (size_t)a->n * 4); /* bit for bit */
}

static void check_company(const char *family, DType dtype) {
    static Prompts p;
    static EngineResult alone[80], together[80];
    static const int64_t slots[] = {64, 13};
    Arena arena = {0};
    Engine *e;
    Model *m = tiny(family, dtype);
    make_prompts(&p, 64);
    /* A GPU promises it within engines of many slots, and within those of few. */
    assert_ok(engine_new(&e, m, m->device->host ? 1 : 20, 0));
    for (int i = 0; i < 64; i++) assert_ok(engine_generate(e, &p.request[i], 1, &arena, &alone[i], NULL, NULL));
    engine_free(e);
    for (int k = 0; k < 2; k++) {
        assert_ok(engine_new(&e, m, slots[k], CONTEXT - k));
        assert_ok(engine_generate(e, p.request, 64, &arena, together, NULL, NULL));
        for (int i = 0; i < 64; i++) assert_same(&alone[i], &together[i]);
        /* and again on the same engine, whose cache is full of other things */
        assert_ok(engine_generate(e, p.request + 9, 31, &arena, together, NULL, NULL));
        for (int i = 0; i < 31; i++) assert_same(&alone[i + 9], &together[i]);
        engine_free(e);
    }
    model_free(m);
    arena_release(&arena);
}

static void test_answers_do_not_depend_on_company(void **state) {
    (void)state;
    int threads = omp_get_max_threads();
    omp_set_num_threads(1); /* the number of threads has its own test */
    for (int type = test_device()->host ? DTYPE_F32 : DTYPE_BF16; type <= DTYPE_BF16; type++) { /* see tape_few_rows */
        check_company("gpt2", (DType)type);
        check_company("llama", (DType)type);
    }
    omp_set_num_threads(threads);
}

static void test_answers_do_not_depend_on_threads(void **state) {
    (void)state;
    test_cpu_only("it has no threads to choose");
    static Prompts p;
    static EngineResult one[80], two[80];
    Arena arena = {0};
    Engine *e;
    Model *m = tiny("gpt2", DTYPE_F32);
    int threads = omp_get_max_threads();
    make_prompts(&p, 30);
    for (int n = 1; n <= 2; n++) {
        omp_set_num_threads(n);
        assert_ok(engine_new(&e, m, 16, 0));
        assert_ok(engine_generate(e, p.request, 30, &arena, n == 1 ? one : two, NULL, NULL));
        engine_free(e);
    }
    omp_set_num_threads(threads);
    for (int i = 0; i < 30; i++) assert_same(&one[i], &two[i]);
    model_free(m);
    arena_release(&arena);
}

/* ---- limits */

static void test_the_context_ends(void **state) {
    (void)state;
    static int32_t ids[CONTEXT + 1] = {1, 2, 3};
    Arena arena = {0};
    EngineResult result;
    Engine *e;
    Model *m = tiny("gpt2", DTYPE_F32);
    assert_ok(engine_new(&e, m, 2, 0));
    for (int64_t n = 1; n <= CONTEXT; n += CONTEXT - 1) { /* prompts of 1 and of all the context */
        EngineRequest r = {.prompt = ids, .n_prompt = n, .max_new_tokens = 1000, .sampling = {.top_p = 1}};
        assert_ok(engine_generate(e, &r, 1, &arena, &result, NULL, NULL));
        assert_int_equal(result.reason, ENGINE_CONTEXT);
        assert_int_equal(result.n, CONTEXT - n + 1);
        check_answer(m, &r, &result, 1e-4);
        r.max_new_tokens = CONTEXT - n + 1;
        assert_ok(engine_generate(e, &r, 1, &arena, &result, NULL, NULL));
        assert_int_equal(result.reason, ENGINE_LENGTH);
    }
    EngineRequest r = {.prompt = ids, .n_prompt = CONTEXT + 1, .max_new_tokens = 1, .sampling = {.top_p = 1}};
    assert_error(engine_generate(e, &r, 1, &arena, &result, NULL, NULL), TANE_EINVAL,
                 "49 tokens, but the context is 48");
    engine_free(e);
    assert_ok(engine_new(&e, m, 2, 10)); /* a smaller one by choice */
    r.n_prompt = 7;
    r.max_new_tokens = 100;
    assert_ok(engine_generate(e, &r, 1, &arena, &result, NULL, NULL));
    assert_int_equal(result.reason, ENGINE_CONTEXT);
    assert_int_equal(result.n, 4);
    r.n_prompt = 11;
    assert_error(engine_check(e, &r), TANE_EINVAL, "11 tokens, but the context is 10");
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

static void test_bad_requests(void **state) {
    (void)state;
    static int32_t ids[4] = {1, 2, VOCAB, 4};
    Arena arena = {0};
    EngineResult result[2];
    Engine *e;
    Model *m = tiny("gpt2", DTYPE_F32);
    assert_error(engine_new(&e, m, 0, 0), TANE_EINVAL, "batch of 0");
    assert_error(engine_new(&e, m, 1, CONTEXT + 1), TANE_EINVAL, "49 tokens is not in 1..48");
    assert_ok(engine_new(&e, m, 2, 0));
    EngineRequest r = {.prompt = ids, .n_prompt = 0, .max_new_tokens = 4, .sampling = {.top_p = 1}};
    assert_error(engine_check(e, &r), TANE_EINVAL, "empty");
    r.n_prompt = 2;
    r.max_new_tokens = 0;
    assert_error(engine_check(e, &r), TANE_EINVAL, "max_new_tokens 0");
    r.max_new_tokens = 4;
    r.sampling.top_p = 7;
    assert_error(engine_check(e, &r), TANE_EINVAL, "top_p 7");
    r.sampling.top_p = 1;
    EngineRequest both[] = {r, r};
    both[1].n_prompt = 4;
    assert_error(engine_generate(e, both, 2, &arena, result, NULL, NULL), TANE_EINVAL, "token 61");
    both[1].n_prompt = 2; /* the engine goes on after an error */
    assert_ok(engine_generate(e, both, 2, &arena, result, NULL, NULL));
    assert_same(&result[0], &result[1]);
    assert_ok(engine_generate(e, both, 0, &arena, result, NULL, NULL)); /* nothing to do */
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

static void test_nan_weights(void **state) {
    (void)state;
    static Prompts p;
    static EngineResult result[80];
    Arena arena = {0};
    Engine *e;
    Model *m = tiny("llama", DTYPE_F32);
    make_prompts(&p, 20);
    assert_ok(engine_new(&e, m, 8, 0));
    float *w = (float *)m->weights + VOCAB * 48 + 100, kept, broken = NAN;
    assert_ok(device_download(m->device, &kept, w, sizeof kept));
    /* in the first layer, behind the embedding: every row meets it */
    assert_ok(device_upload(m->device, w, &broken, sizeof broken));
    assert_error(engine_generate(e, p.request, 20, &arena, result, NULL, NULL), TANE_ENUMERIC, "NaN");
    /* The engine reads the weights where they are. */
    assert_ok(device_upload(m->device, w, &kept, sizeof kept));
    assert_ok(engine_generate(e, p.request, 20, &arena, result, NULL, NULL));
    check_answer(m, &p.request[5], &result[5], 1e-4);
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

static void test_tokens_beyond_the_tokenizer_are_not_chosen(void **state) {
    (void)state;
    static Prompts p;
    static EngineResult result[80];
    Arena arena = {0};
    Engine *e;
    Model *m = tiny("gpt2", DTYPE_F32);
    make_prompts(&p, 30);
    assert_ok(engine_new(&e, m, 8, 0));
    for (int limit = 20; limit <= VOCAB; limit += VOCAB - 20) {
        int32_t largest = 0;
        engine_set_vocab(e, limit);
        assert_ok(engine_generate(e, p.request, 30, &arena, result, NULL, NULL));
        for (int i = 0; i < 30; i++)
            for (int64_t t = 0; t < result[i].n; t++)
                largest = result[i].tokens[t] > largest ? result[i].tokens[t] : largest;
        assert_true(limit == 20 ? largest < 20 : largest > 20);
    }
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

/* ---- tokens as they come */

typedef struct Seen {
    int32_t ids[4][CONTEXT];
    int64_t n[4];
    int stop_after, fail_after, calls;
} Seen;

static Status see(void *user, const EngineResult *so_far, bool *stop) {
    Seen *seen = user;
    assert_int_equal(so_far->n, ++seen->n[so_far->id]);
    seen->ids[so_far->id][so_far->n - 1] = so_far->tokens[so_far->n - 1];
    *stop = so_far->id == 1 && so_far->n == seen->stop_after;
    return ++seen->calls == seen->fail_after ? FAIL(TANE_ECANCELED, "enough") : TANE_OK;
}

static void test_tokens_come_one_by_one(void **state) {
    (void)state;
    static Prompts p;
    Arena arena = {0};
    EngineResult result[4];
    Engine *e;
    Model *m = tiny("gpt2", DTYPE_F32);
    make_prompts(&p, 4);
    for (int i = 0; i < 4; i++) {
        p.request[i].max_new_tokens = 9;
        p.request[i].n_stop = 0;
    }
    assert_ok(engine_new(&e, m, 4, 0));
    Seen seen = {.stop_after = 5};
    assert_ok(engine_generate(e, p.request, 4, &arena, result, see, &seen));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(result[i].n, i == 1 ? 5 : 9);
        assert_int_equal(result[i].reason, i == 1 ? ENGINE_CALLER : ENGINE_LENGTH);
        assert_int_equal(seen.n[i], result[i].n);
        assert_memory_equal(seen.ids[i], result[i].tokens, (size_t)result[i].n * 4);
    }
    Seen canceled = {.fail_after = 7};
    assert_error(engine_generate(e, p.request, 4, &arena, result, see, &canceled), TANE_ECANCELED, "enough");
    assert_int_equal(canceled.calls, 7);
    engine_free(e);
    model_free(m);
    arena_release(&arena);
}

/* ---- memory */

static void test_engine_bytes_is_what_it_takes(void **state) {
    (void)state;
    test_cpu_only("a driver's own allocations cannot be counted");
    static Prompts p;
    Arena arena = {0};
    static EngineResult result[80];
    TestAllocator allocator = {0};
    test_allocator_install(&allocator);
    Model *m = tiny("gpt2", DTYPE_F32);
    size_t before = allocator.live_bytes;
    Engine *e;
    assert_ok(engine_new(&e, m, 64, 0));
    size_t planned = engine_bytes(e);
    assert_true(engine_slots_within(m, 0, planned, 1000) > 64); /* activations, too */
    assert_int_equal(engine_slots_within(m, 0, 1, 1000), 1);
    assert_int_equal(engine_slots_within(m, 0, planned, 7), 7);
    make_prompts(&p, 80);
    assert_ok(engine_generate(e, p.request, 80, &arena, result, NULL, NULL));
    assert_int_equal(engine_bytes(e), planned); /* nothing was larger than foreseen */
    double held = (double)(allocator.live_bytes - before - arena.used);
    assert_true(held > 0.9 * (double)planned && held < 1.1 * (double)planned + 4e6); /* the tapes' own records */
    engine_free(e);
    model_free(m);
    arena_release(&arena);
    test_allocator_remove();
}

static Status load_and_generate(void *ctx) {
    const char *folder = ctx;
    Status st = TANE_OK;
    Model *m = NULL;
    Engine *e = NULL;
    Arena arena = {0};
    static int32_t ids[] = {5, 6, 7, 8, 9};
    EngineRequest r[2] = {{.prompt = ids, .n_prompt = 5, .max_new_tokens = 3, .sampling = {.top_p = 1}},
                          {.prompt = ids, .n_prompt = 2, .max_new_tokens = 3, .sampling = {.top_p = 1}}};
    EngineResult result[2];
    TRY(model_open(&m, folder, DTYPE_F32, backend_cpu()));
    TRY(engine_new(&e, m, 2, 0));
    TRY(engine_generate(e, r, 2, &arena, result, NULL, NULL));
    assert_int_equal(result[0].n, 3);
out:
    engine_free(e);
    model_free(m);
    arena_release(&arena);
    return st;
}

static void test_memory_runs_out(void **state) {
    (void)state;
    test_cpu_only("a driver's own allocations cannot be made to fail");
    Model *m = tiny("gpt2", DTYPE_F32);
    ParamArray weights = model_weights(m);
    assert_ok(model_save(m, &weights, DTYPE_F32, test_dir()));
    model_free(m);
    omp_set_num_threads(1);
    assert_true(test_fail_allocations(load_and_generate, (void *)test_dir()) > 50);
}

/* ---- the op, on every device */

static void check_logits_op(Device *device, DType type) {
    enum { B = 5, T = 3, C = 37, V = 19 };
    float x[B * T * C], w[V * C], y[B * V];
    uint16_t xh[B * T * C], wh[V * C];
    int32_t at_data[B] = {0, 2, 1, 2, 0};
    Rng rng = {.key = 9};
    for (int k = 0; k < B * T * C; k++) x[k] = bf16_to_f32(xh[k] = f32_to_bf16(rng_normal(&rng)));
    for (int k = 0; k < V * C; k++) w[k] = bf16_to_f32(wh[k] = f32_to_bf16(rng_normal(&rng)));
    Tape *t;
    assert_ok(tape_new(&t, device, false));
    Tensor *in[] = {tape_external(t, "x", type, 3, (int64_t[]){B, T, C}),
                    tape_external(t, "w", type, 2, (int64_t[]){V, C}),
                    tape_external(t, "at", DTYPE_I32, 1, (int64_t[]){B})};
    const void *values[] = {type == DTYPE_BF16 ? (void *)xh : x, type == DTYPE_BF16 ? (void *)wh : w, at_data};
    for (int i = 0; i < 3; i++) {
        assert_ok(device_alloc(device, &in[i]->data, tensor_bytes(in[i])));
        assert_ok(device_upload(device, in[i]->data, values[i], tensor_bytes(in[i])));
    }
    Tensor *out = op_logits(t, in[0], in[1], in[2], 0);
    assert_ok(tape_plan(t));
    void *memory;
    assert_ok(device_alloc(device, &memory, tape_bytes(t)));
    assert_ok(tape_bind(t, memory));
    assert_ok(tape_forward(t, &(TapeRun){0}));
    assert_ok(device_download(device, y, out->data, sizeof y));
    for (int b = 0; b < B; b++)
        for (int v = 0; v < V; v++) {
            double sum = 0;
            for (int c = 0; c < C; c++) sum += (double)x[(b * T + at_data[b]) * C + c] * (double)w[v * C + c];
            assert_float_equal(y[b * V + v], sum, 1e-4);
        }
    at_data[3] = T;
    assert_ok(device_upload(device, in[2]->data, at_data, sizeof at_data));
    Status st = tape_forward(t, &(TapeRun){0});
    assert_error(st == TANE_OK ? device_sync(device) : st, TANE_EINVAL, "token 3 of row 3");
    device_release(device, memory);
    for (int i = 0; i < 3; i++) device_release(device, in[i]->data);
    tape_free(t);
}

static void test_logits_op(void **state) {
    (void)state;
    for (Device *const *device = test_devices(); *device; device++) {
        check_logits_op(*device, DTYPE_F32);
        check_logits_op(*device, DTYPE_BF16);
    }
}

static void test_logits_op_checks_shapes(void **state) {
    (void)state;
    Tape *t;
    assert_ok(tape_new(&t, test_device(), false));
    Tensor *x = tape_external(t, "x", DTYPE_F32, 3, (int64_t[]){2, 3, 8});
    Tensor *w = tape_external(t, "w", DTYPE_F32, 2, (int64_t[]){5, 9});
    Tensor *at = tape_external(t, "at", DTYPE_I32, 1, (int64_t[]){2});
    assert_null(op_logits(t, x, w, at, 0));
    assert_error(tape_plan(t), TANE_EINVAL, "logits");
    tape_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_logits_op),
        TEST(test_logits_op_checks_shapes),
        TEST(test_equals_a_full_forward),
        TEST(test_answers_do_not_depend_on_company),
        TEST(test_answers_do_not_depend_on_threads),
        TEST(test_the_context_ends),
        TEST(test_bad_requests),
        TEST(test_nan_weights),
        TEST(test_tokens_beyond_the_tokenizer_are_not_chosen),
        TEST(test_tokens_come_one_by_one),
        TEST(test_engine_bytes_is_what_it_takes),
        TEST(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
