/* Whole models against transformers: logits, loss, every gradient, and 50 steps of AdamW (tools/golden/models.py). */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"
#include "ops/backend.h"
#include "train/batch_tape.h"
#include "train/optimizer.h"

static const char *const NAMES[] = {"gpt2-tied", "gpt2-untied", "llama-tied", "llama-untied", "llama-head-dim",
                                    "llama3-rope", "llama-yarn", "mistral", "qwen2", "qwen3", "gemma2", "gemma3",
                                    "smollm3", "phi3"};
enum { MODELS = sizeof NAMES / sizeof *NAMES };

/* The bound, for numbers about as large as `scale`: fp32 rounding over a few hundred products stays far below.
 */
static const double BOUND = 1e-4;

static const char *model_path(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "golden/models/%s", name);
    return test_data(path);
}

static StFile *open_reference(const char *name) {
    char path[160];
    StFile *file;
    snprintf(path, sizeof path, "golden/models/%s/reference.safetensors", name);
    assert_ok(st_open(&file, test_data(path)));
    return file;
}

/* A tensor's values, copied: files may be unaligned. (mem_free) */
static void *values(const StFile *file, const char *name, size_t *n) {
    const StTensor *t;
    void *copy;
    assert_ok(st_require(file, name, &t));
    assert_ok(mem_new(&copy, t->bytes, 1));
    memcpy(copy, t->data, t->bytes);
    if (n) *n = t->bytes / dtype_size(t->dtype);
    return copy;
}

static void assert_near(const char *what, const float *a, const float *b, size_t n, double bound) {
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) fail_msg("%s: element %zu is not finite", what, i);
        if (fabs((double)b[i]) > scale) scale = fabs((double)b[i]);
        if (fabs((double)a[i] - (double)b[i]) > worst) worst = fabs((double)a[i] - (double)b[i]);
    }
    if (worst > bound * (scale > 1 ? scale : 1)) fail_msg("%s: off by %g, where values reach %g", what, worst, scale);
}

typedef struct Bench {
    Model *model;
    Optimizer *optimizer;
    BatchTape tape;
    void *memory;
} Bench;

static void bench_open(Bench *b, const char *name, int64_t rows, int64_t length, Device *device) {
    OptimizerOptions adam = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1.0};
    BatchTapeOptions options = {.rows = rows, .width = length, .with_grad = true};
    ParamArray weights[2];
    assert_ok(model_open(&b->model, model_path(name), DTYPE_F32, device));
    assert_ok(optimizer_new(&b->optimizer, b->model, &adam));
    assert_int_equal(optimizer_weights(b->optimizer, weights), 1);
    assert_ptr_equal(weights[0].flat, b->model->weights); /* in fp32 the master weights are the model's own */
    assert_ok(batch_tape_new(&b->tape, b->model, &options));
    assert_ok(device_alloc(device, &b->memory, tape_bytes(b->tape.tape)));
    assert_ok(tape_bind(b->tape.tape, b->memory));
}

static void bench_close(Bench *b) {
    Device *device = b->model->device;
    batch_tape_free(&b->tape);
    optimizer_free(b->optimizer);
    model_free(b->model);
    device_release(device, b->memory);
}

/* A tensor's values from the device. (mem_free) */
static void *fetched(Device *device, const Tensor *x) {
    void *to;
    assert_ok(mem_new(&to, tensor_bytes(x), 1));
    assert_ok(device_download(device, to, x->data, tensor_bytes(x)));
    return to;
}

static void place(Device *device, Tensor *x, const void *values) {
    assert_ok(device_alloc(device, &x->data, tensor_bytes(x)));
    assert_ok(device_upload(device, x->data, values, tensor_bytes(x)));
}

static void check_logits(const char *name, Device *device) {
    StFile *file = open_reference(name);
    Model *model;
    Tape *tape;
    int64_t shape[] = {3, 11};
    int32_t positions[33], last[3] = {10, 10, 10};
    for (int i = 0; i < 33; i++) positions[i] = i % 11;
    assert_ok(model_open(&model, model_path(name), DTYPE_F32, device));
    assert_ok(tape_new(&tape, device, false));
    Tensor *at = tape_external(tape, "at", DTYPE_I32, 1, shape);
    ModelInput in = {.tokens = tape_external(tape, "tokens", DTYPE_I32, 2, shape),
                     .positions = tape_external(tape, "positions", DTYPE_I32, 2, shape)};
    ModelOutput out;
    int32_t *tokens = values(file, "input_ids", NULL);
    place(device, in.tokens, tokens);
    place(device, in.positions, positions);
    place(device, at, last);
    model_forward(model, tape, &in, &out);
    Tensor *logits = op_linear(tape, out.hidden, out.head, NULL);
    Tensor *next = op_logits(tape, out.hidden, out.head, at, out.softcap);
    if (logits) logits->keep = true;
    assert_ok(tape_plan(tape));
    void *memory;
    assert_ok(device_alloc(device, &memory, tape_bytes(tape)));
    assert_ok(tape_bind(tape, memory));
    TapeRun run = {0};
    assert_ok(tape_forward(tape, &run));
    size_t n;
    float *expected = values(file, "logits", &n), *found = fetched(device, logits);
    float *of_last = fetched(device, next);
    size_t v = (size_t)model->config.vocab_size;
    assert_int_equal(n, tensor_count(logits));
    for (size_t i = 0; out.softcap > 0 && i < n; i++) found[i] = out.softcap * tanhf(found[i] / out.softcap);
    assert_near(name, found, expected, n, BOUND);
    for (size_t b = 0; b < 3; b++) assert_near(name, of_last + b * v, expected + (b * 11 + 10) * v, v, BOUND);
    mem_free(of_last);
    mem_free(expected);
    mem_free(found);
    mem_free(tokens);
    device_release(device, in.tokens->data);
    device_release(device, in.positions->data);
    device_release(device, at->data);
    device_release(device, memory);
    tape_free(tape);
    model_free(model);
    st_close(&file);
}

static void each_device(void (*check)(const char *, Device *)) {
    for (Device *const *device = test_devices(); *device; device++)
        for (int i = 0; i < MODELS; i++) check(NAMES[i], *device);
}

static void logits_equal_transformers(void **state) {
    (void)state;
    each_device(check_logits);
}

/* Gradients are compared under their Hugging Face names: written as a checkpoint would be, and read back. */
static void check_gradients(const char *name, Device *device) {
    StFile *file = open_reference(name), *mine;
    Bench b;
    bench_open(&b, name, 3, 11, device);
    size_t n;
    Batch batch = {
        .rows = 3, .width = 11, .tokens = values(file, "input_ids", NULL), .labels = values(file, "targets", &n)};
    int64_t targets = 0;
    for (size_t i = 0; i < n; i++) targets += batch.labels[i] != -100;
    TapeRun run = {.training = true, .grad_scale = 1.0f / (float)targets};
    double sum;
    for (int again = 0; again < 2; again++)
        assert_ok(batch_tape_run(&b.tape, &batch, &run, &sum)); /* same addresses, same values */
    float *loss = values(file, "loss", NULL), mean = (float)(sum / (double)targets),
          *losses = values(file, "losses", &n), *found_losses = fetched(device, b.tape.losses);
    assert_near("loss", &mean, loss, 1, BOUND);
    assert_near("losses", found_losses, losses, n, BOUND);
    ParamArray grads = {"", b.optimizer->grads, b.optimizer->type, device};
    const char *path = test_path("%s.safetensors", name);
    assert_ok(params_write(&b.model->params, &grads, 1, DTYPE_F32, path, NULL, NULL));
    assert_ok(st_open(&mine, path));
    assert_true(st_count(mine) > 10);
    for (size_t i = 0; i < st_count(mine); i++) {
        const StTensor *t = st_get(mine, i);
        char key[256];
        size_t m;
        snprintf(key, sizeof key, "grad.%s", t->name);
        float *expected = values(file, key, &m), *found = values(mine, t->name, NULL);
        assert_int_equal(m * 4, t->bytes);
        assert_near(key, found, expected, m, BOUND);
        mem_free(expected);
        mem_free(found);
    }
    st_close(&mine);
    mem_free(loss);
    mem_free(losses);
    mem_free(found_losses);
    mem_free(batch.tokens);
    mem_free(batch.labels);
    bench_close(&b);
    st_close(&file);
}

static void gradients_equal_transformers(void **state) {
    (void)state;
    each_device(check_gradients);
}

/* 50 steps, two unequal micro-batches each: loss and gradient norm step by step, then the weights. */
static void check_training(const char *name, Device *device) {
    enum { STEPS = 50, CELLS = 2 * 9 };
    StFile *file = open_reference(name), *mine;
    Bench b;
    bench_open(&b, name, 2, 9, device);
    int32_t *tokens = values(file, "train.input_ids", NULL), *labels = values(file, "train.targets", NULL);
    float *lr = values(file, "train.lr", NULL), *loss = values(file, "train.loss", NULL),
          *norms = values(file, "train.grad_norm", NULL);
    for (int step = 0; step < STEPS; step++) {
        int64_t targets = 0;
        double total = 0;
        for (int i = 0; i < 2 * CELLS; i++) targets += labels[step * 2 * CELLS + i] != -100;
        for (int micro = 0; micro < 2; micro++) {
            Batch batch = {.rows = 2,
                           .width = 9,
                           .tokens = tokens + (step * 2 + micro) * CELLS,
                           .labels = labels + (step * 2 + micro) * CELLS};
            TapeRun run = {.training = true, .accumulate = micro > 0, .grad_scale = 1.0f / (float)targets};
            double sum;
            assert_ok(batch_tape_run(&b.tape, &batch, &run, &sum));
            total += sum;
        }
        float norm;
        assert_ok(optimizer_step(b.optimizer, (double)lr[step], &(TapeRun){.position = (uint64_t)step}, &norm));
        double mean = total / (double)targets;
        if (fabs(mean - (double)loss[step]) > 1e-3 * (double)loss[step])
            fail_msg("%s: the loss of step %d is %g, PyTorch's %g", name, step, mean, (double)loss[step]);
        if (fabs((double)norm - (double)norms[step]) > 1e-3 * (double)norms[step])
            fail_msg("%s: the gradient norm of step %d is %g, PyTorch's %g", name, step, (double)norm,
                     (double)norms[step]);
    }
    ParamArray weights = model_weights(b.model);
    const char *path = test_path("%s.safetensors", name);
    assert_ok(params_write(&b.model->params, &weights, 1, DTYPE_F32, path, NULL, NULL));
    assert_ok(st_open(&mine, path));
    for (size_t i = 0; i < st_count(mine); i++) {
        const StTensor *t = st_get(mine, i);
        char key[256];
        size_t m;
        snprintf(key, sizeof key, "train.final.%s", t->name);
        float *expected = values(file, key, &m), *found = values(mine, t->name, NULL);
        /* The keys' bias has no gradient but rounding, of which Adam makes steps: see models.py. */
        if (!strstr(key, "c_attn.bias")) assert_near(key, found, expected, m, 1e-4);
        mem_free(expected);
        mem_free(found);
    }
    st_close(&mine);
    mem_free(tokens);
    mem_free(labels);
    mem_free(lr);
    mem_free(loss);
    mem_free(norms);
    bench_close(&b);
    st_close(&file);
}

static void training_equals_pytorch(void **state) {
    (void)state;
    each_device(check_training);
}

/* The weights as fp32. (mem_free) */
static float *all_weights(const Model *m) {
    size_t n = m->params.elements;
    float *wide;
    void *flat;
    assert_ok(MEM_NEW_ARRAY(&wide, n));
    assert_ok(mem_new(&flat, n, dtype_size(m->dtype)));
    assert_ok(device_download(m->device, flat, m->weights, n * dtype_size(m->dtype)));
    for (size_t e = 0; e < n; e++)
        wide[e] = m->dtype == DTYPE_F32    ? ((float *)flat)[e]
                  : m->dtype == DTYPE_BF16 ? bf16_to_f32(((uint16_t *)flat)[e])
                                           : f16_to_f32(((uint16_t *)flat)[e]);
    mem_free(flat);
    return wide;
}

/* A model saved and opened again has the same weights, in fp32 to the bit; in bf16 and fp16 the nearest, whether they
 * were rounded when it was saved or when it was opened. */
static void save_and_open(void **state) {
    (void)state;
    static const DType types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < MODELS; i++) {
        Model *a, *b;
        assert_ok(model_open(&a, model_path(NAMES[i]), DTYPE_F32, test_device()));
        assert_ok(dir_make(test_path("%s", NAMES[i])));
        ParamArray weights = model_weights(a);
        float *want = all_weights(a);
        for (int save = 0; save < 3; save++)
            for (int open = 0; open < 3; open++) {
                assert_ok(model_save(a, &weights, types[save], test_path("%s", NAMES[i])));
                assert_ok(model_open(&b, test_path("%s", NAMES[i]), types[open], test_device()));
                assert_int_equal(a->config.tied, b->config.tied);
                assert_int_equal(a->config.head_dim, b->config.head_dim);
                float *found = all_weights(b);
                for (size_t e = 0; e < a->params.elements; e++) {
                    float x = want[e];
                    for (int k = 0; k < 2; k++) {
                        DType type = types[k ? open : save];
                        if (type == DTYPE_BF16) x = bf16_to_f32(f32_to_bf16(x));
                        if (type == DTYPE_F16) x = f16_to_f32(f32_to_f16(x));
                    }
                    assert_true(x == found[e]);
                }
                mem_free(found);
                model_free(b);
            }
        mem_free(want);
        model_free(a);
    }
}

/* Master weights and compute weights are filled from one value each, not one from the other. */
static void fresh_weights(void **state) {
    (void)state;
    Model *a, *b;
    assert_ok(model_open(&a, model_path("gpt2-tied"), DTYPE_F32, test_device()));
    assert_ok(model_open(&b, model_path("gpt2-tied"), DTYPE_BF16, test_device()));
    ParamArray both[] = {model_weights(a), model_weights(b)};
    assert_ok(params_init(&a->params, 7, both, 2));
    float *wide = all_weights(a), *narrow = all_weights(b);
    double square = 0;
    for (size_t e = 0; e < a->params.elements; e++) {
        assert_true(bf16_to_f32(f32_to_bf16(wide[e])) == narrow[e]);
        square += (double)wide[e] * (double)wide[e];
    }
    assert_true(square > 1);
    mem_free(wide);
    mem_free(narrow);
    model_free(a);
    model_free(b);
}

/* Every way a folder can be wrong names the file, and what to do about it. */
static void bad_folders(void **state) {
    (void)state;
    static const struct {
        const char *from, *find, *replace, *message;
    } cases[] = {
        {"llama-tied", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", "\"mamba\" is not one tane knows"},
        {"llama-tied", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"swoosh\"", "activation function \"swoosh\""},
        {"llama-tied", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
         "4 attention heads cannot share 3 KV heads"},
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": 64", "configuration makes it [61, 64]"},
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": \"48\"", "hidden_size"},
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": -1", "hidden_size"},
        {"llama-tied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "is no parameter of this model"},
        {"llama-tied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2"},
        {"llama-tied", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "the rope's factor 0 must be above 0"},
        {"llama-tied", "\"rope_type\": \"default\"", "\"rope_type\": \"spiral\"", "rope_type \"spiral\" is not one of"},
        {"llama-tied", "\"rope_type\": \"default\"", "\"twist\": 2", "does not know \"twist\" among the rope parameters"},
        {"llama-tied", "\"hidden_size\": 48", "\"logit_scale\": 0.5, \"hidden_size\": 48",
         "does not know the option \"logit_scale\" of model_type \"llama\""},
        {"llama-tied", "\"hidden_size\": 48", "\"quantization_config\": {}, \"hidden_size\": 48", "quantized"},
        {"llama-tied", "\"rope_theta\": 10000.0", "\"rope_theta\": -1", "rope_theta -1 must be above 0"},
        {"llama3-rope", "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0", "high_freq_factor 1 must be above"},
        {"gemma3", "\"full_attention\",", "\"half_attention\",", "layer_types[1] is \"half_attention\""},
        {"gemma3", "\"full_attention\",", "", "must be a list of 3 texts"},
        {"gemma2", "\"use_bidirectional_attention\": null", "\"use_bidirectional_attention\": true", "encoder"},
        {"gemma2", "\"query_pre_attn_scalar\": 12", "\"query_pre_attn_scalar\": 0", "is not positive"},
        {"smollm3", "\"no_rope_layers\": [", "\"no_rope_layers\": [1,", "must be a list of 2 numbers"},
        {"phi3", "\"long_factor\": [", "\"long_factor\": [1.0,", "short_factor has 6 numbers and long_factor 7"},
        {"phi3", "\"resid_pdrop\": 0.0", "\"resid_pdrop\": 0.1", "resid_pdrop"},
        {"gpt2-tied", "\"n_head\": 4", "\"n_head\": 5", "not a multiple of 5 heads"},
        {"gpt2-tied", "\"n_embd\": 48,", "", "n_embd"},
        {"gpt2-tied", "\"vocab_size\": 61", "\"vocab_size\": 62", "configuration makes it [62, 48]"},
        {"gpt2-tied", "\"resid_pdrop\": 0.0", "\"resid_pdrop\": 0.5", "resid_pdrop"},
        {"gpt2-tied", "{", "[", "config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[160], changed[4096];
        Model *model;
        snprintf(name, sizeof name, "golden/models/%s/config.json", cases[i].from);
        char *text = test_read(test_data(name), NULL), *at = strstr(text, cases[i].find);
        if (!at) fail_msg("case %zu: %s is not in the file", i, cases[i].find);
        snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, cases[i].replace,
                 at + strlen(cases[i].find));
        assert_ok(dir_make(test_path("m%zu", i)));
        snprintf(name, sizeof name, "golden/models/%s/model.safetensors", cases[i].from);
        assert_ok(file_copy(test_data(name), test_path("m%zu/model.safetensors", i)));
        test_write(test_path("m%zu/config.json", i), changed);
        assert_error_contains(model_open(&model, test_path("m%zu", i), DTYPE_F32, test_device()), cases[i].message);
    }
    Model *model;
    assert_error(model_open(&model, test_path("nowhere"), DTYPE_F32, test_device()), TANE_ENOTFOUND, "nowhere");
    assert_error(model_open(&model, test_dir(), DTYPE_F32, test_device()), TANE_ENOTFOUND, "config.json");
}

/* One whole life with every allocation failing in turn: open, record, plan, a step, save. */
static Status one_life(void *ctx) {
    (void)ctx;
    Status st = TANE_OK;
    Model *model = NULL;
    Optimizer *optimizer = NULL;
    BatchTape tape = {0};
    Batch batch = {0};
    void *memory = NULL;
    OptimizerOptions adam = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
    TapeRun run = {.training = true, .grad_scale = 1};
    double sum;
    float norm;
    BatchTapeOptions options = {.rows = 2, .width = 5, .with_grad = true};
    ParamArray weights[2];
    TRY(model_open(&model, model_path("llama-tied"), DTYPE_BF16, backend_cpu()));
    TRY(optimizer_new(&optimizer, model, &adam));
    (void)optimizer_weights(optimizer, weights);
    TRY(batch_tape_new(&tape, model, &options));
    TRY(mem_new(&memory, tape_bytes(tape.tape), 1));
    TRY(tape_bind(tape.tape, memory));
    TRY(batch_new(&batch, 2, 5, false));
    TRY(batch_tape_run(&tape, &batch, &run, &sum));
    TRY(optimizer_step(optimizer, 1e-3, &run, &norm));
    TRY(model_save(model, &weights[0], DTYPE_F32, test_path("life")));
out:
    batch_free(&batch);
    batch_tape_free(&tape);
    optimizer_free(optimizer);
    model_free(model);
    mem_free(memory);
    return st;
}

static void allocations_fail(void **state) {
    (void)state;
    test_cpu_only("a driver's own allocations cannot be made to fail");
    assert_ok(dir_make(test_path("life")));
    assert_true(test_fail_allocations(one_life, NULL) > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(logits_equal_transformers),
        TEST(gradients_equal_transformers),
        TEST(training_equals_pytorch),
        TEST(save_and_open),
        TEST(fresh_weights),
        TEST(bad_folders),
        TEST(allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
