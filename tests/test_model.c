/* Whole models against transformers: logits, loss, every gradient, and 50 steps of AdamW (tools/golden/models.py). */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"
#include "train/batch_tape.h"
#include "train/optimizer.h"

static const char *const NAMES[] = {"gpt2-tied", "gpt2-untied", "llama-tied", "llama-untied", "llama-head-dim"};
enum { MODELS = 5 };

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

static void bench_open(Bench *b, const char *name, int64_t rows, int64_t length, const OpKernel *const *kernels) {
    OptimizerOptions adam = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1.0};
    assert_ok(model_open(&b->model, model_path(name), DTYPE_F32));
    assert_ok(optimizer_new(&b->optimizer, b->model, &adam, kernels));
    assert_ok(batch_tape_new(&b->tape, b->model, kernels, rows, length, 0, true));
    assert_ok(mem_new(&b->memory, tape_bytes(b->tape.tape), 1));
    assert_ok(tape_bind(b->tape.tape, b->memory));
}

static void bench_close(Bench *b) {
    batch_tape_free(&b->tape);
    optimizer_free(b->optimizer);
    model_free(b->model);
    mem_free(b->memory);
}

static void check_logits(const char *name, const OpKernel *const *kernels) {
    StFile *file = open_reference(name);
    Model *model;
    Tape *tape;
    int64_t shape[] = {3, 11};
    int32_t positions[33];
    for (int i = 0; i < 33; i++) positions[i] = i % 11;
    assert_ok(model_open(&model, model_path(name), DTYPE_F32));
    assert_ok(tape_new(&tape, kernels, false));
    ModelInput in = {.tokens = tape_external(tape, "tokens", DTYPE_I32, 2, shape),
                     .positions = tape_external(tape, "positions", DTYPE_I32, 2, shape)};
    ModelOutput out;
    in.tokens->data = values(file, "input_ids", NULL);
    in.positions->data = positions;
    model_forward(model, tape, &in, &out);
    Tensor *logits = op_linear(tape, out.hidden, out.head, NULL);
    if (logits) logits->keep = true;
    assert_ok(tape_plan(tape));
    void *memory;
    assert_ok(mem_new(&memory, tape_bytes(tape), 1));
    assert_ok(tape_bind(tape, memory));
    TapeRun run = {0};
    assert_ok(tape_forward(tape, &run));
    size_t n;
    float *expected = values(file, "logits", &n);
    assert_int_equal(n, tensor_count(logits));
    assert_near(name, logits->data, expected, n, BOUND);
    mem_free(expected);
    mem_free(in.tokens->data);
    mem_free(memory);
    tape_free(tape);
    model_free(model);
    st_close(&file);
}

static void each_table(void (*check)(const char *, const OpKernel *const *)) {
    static const char *const isas[] = {"base", "avx2", "avx512"};
    for (int isa = 0; isa < 3; isa++)
        for (int i = 0; i < MODELS && ops_cpu_isa(isas[isa]); i++) check(NAMES[i], ops_cpu_isa(isas[isa]));
}

static void logits_equal_transformers(void **state) {
    (void)state;
    each_table(check_logits);
}

/* Gradients are compared under their Hugging Face names: written as a checkpoint would be, and read back. */
static void check_gradients(const char *name, const OpKernel *const *kernels) {
    StFile *file = open_reference(name), *mine;
    Bench b;
    bench_open(&b, name, 3, 11, kernels);
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
          *losses = values(file, "losses", &n);
    assert_near("loss", &mean, loss, 1, BOUND);
    assert_near("losses", b.tape.losses->data, losses, n, BOUND);
    ParamArray grads = {"", b.optimizer->grads};
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
    mem_free(batch.tokens);
    mem_free(batch.labels);
    bench_close(&b);
    st_close(&file);
}

static void gradients_equal_transformers(void **state) {
    (void)state;
    each_table(check_gradients);
}

/* 50 steps, two unequal micro-batches each: loss and gradient norm step by step, then the weights. */
static void check_training(const char *name, const OpKernel *const *kernels) {
    enum { STEPS = 50, CELLS = 2 * 9 };
    StFile *file = open_reference(name), *mine;
    Bench b;
    bench_open(&b, name, 2, 9, kernels);
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
        assert_ok(optimizer_step(b.optimizer, (double)lr[step], step + 1, &norm));
        double mean = total / (double)targets;
        if (fabs(mean - (double)loss[step]) > 1e-3 * (double)loss[step])
            fail_msg("%s: the loss of step %d is %g, PyTorch's %g", name, step, mean, (double)loss[step]);
        if (fabs((double)norm - (double)norms[step]) > 1e-3 * (double)norms[step])
            fail_msg("%s: the gradient norm of step %d is %g, PyTorch's %g", name, step, (double)norm,
                     (double)norms[step]);
    }
    ParamArray weights = {"", b.optimizer->master};
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
    each_table(check_training);
}

/* A model saved and opened again has the same weights, in fp32 to the bit; and in bf16 the nearest. */
static void save_and_open(void **state) {
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        Model *a, *b;
        assert_ok(model_open(&a, model_path(NAMES[i]), DTYPE_F32));
        assert_ok(dir_make(test_path("%s", NAMES[i])));
        assert_ok(model_save(a, a->weights, DTYPE_F32, test_path("%s", NAMES[i])));
        assert_ok(model_open(&b, test_path("%s", NAMES[i]), DTYPE_F32));
        assert_memory_equal(a->weights, b->weights, a->params.elements * 4);
        assert_int_equal(a->config.tied, b->config.tied);
        assert_int_equal(a->config.head_dim, b->config.head_dim);
        model_free(b);
        assert_ok(model_save(a, a->weights, DTYPE_BF16, test_path("%s", NAMES[i])));
        assert_ok(model_open(&b, test_path("%s", NAMES[i]), DTYPE_BF16));
        for (size_t e = 0; e < a->params.elements; e++)
            assert_int_equal(f32_to_bf16(((float *)a->weights)[e]), ((uint16_t *)b->weights)[e]);
        model_free(a);
        model_free(b);
    }
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
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": 64", "config.json makes it"},
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": \"48\"", "hidden_size"},
        {"llama-tied", "\"hidden_size\": 48", "\"hidden_size\": -1", "hidden_size"},
        {"llama-tied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "is no parameter of this model"},
        {"llama-tied", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2"},
        {"llama-tied", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "rope_type \"yarn\""},
        {"gpt2-tied", "\"n_head\": 4", "\"n_head\": 5", "not a multiple of 5 heads"},
        {"gpt2-tied", "\"n_embd\": 48,", "", "n_embd"},
        {"gpt2-tied", "\"vocab_size\": 61", "\"vocab_size\": 62", "config.json makes it [62, 48]"},
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
        assert_error_contains(model_open(&model, test_path("m%zu", i), DTYPE_F32), cases[i].message);
    }
    Model *model;
    assert_error(model_open(&model, test_path("nowhere"), DTYPE_F32), TANE_ENOTFOUND, "nowhere");
    assert_error(model_open(&model, test_dir(), DTYPE_F32), TANE_ENOTFOUND, "config.json");
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
    TRY(model_open(&model, model_path("llama-tied"), DTYPE_BF16));
    TRY(optimizer_new(&optimizer, model, &adam, ops_cpu()));
    TRY(batch_tape_new(&tape, model, ops_cpu(), 2, 5, 0, true));
    TRY(mem_new(&memory, tape_bytes(tape.tape), 1));
    TRY(tape_bind(tape.tape, memory));
    TRY(batch_new(&batch, 2, 5));
    TRY(batch_tape_run(&tape, &batch, &run, &sum));
    TRY(optimizer_step(optimizer, 1e-3, 1, &norm));
    TRY(model_save(model, optimizer->master, DTYPE_F32, test_path("life")));
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
    assert_ok(dir_make(test_path("life")));
    assert_true(test_fail_allocations(one_life, NULL) > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(logits_equal_transformers),
        TEST(gradients_equal_transformers),
        TEST(training_equals_pytorch),
        TEST(save_and_open),
        TEST(bad_folders),
        TEST(allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
