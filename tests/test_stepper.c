/* The stepper: weights do not depend on when results are taken, on depth or on graphs; a step of fewer micro-batches; a
 * NaN stops the steps queued behind it.
 */
#include "support.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/stepper.h"

enum { VOCAB = 29, ROWS = 3, WIDTH = 11, ACCUMULATION = 3, STEPS = 12 };

typedef struct Bench {
    Model *model;
    Optimizer *optimizer;
    BatchTape tape;
    Stepper *stepper;
    void *memory;
} Bench;

typedef struct Settings {
    const char *family;
    DType dtype;
    bool bf16_states, halt;
    TapeRecompute recompute;
    double dropout;
} Settings;

static void bench_open(Bench *b, const Settings *s) {
    ModelConfig c;
    Device *device = test_device();
    OptimizerOptions options = {.weight_decay = 0.1,
                                .beta1 = 0.9,
                                .beta2 = 0.99,
                                .epsilon = 1e-8,
                                .max_grad_norm = 1,
                                .bf16_states = s->bf16_states,
                                .loss_scale = s->dtype == DTYPE_F16 ? 1024 : 0,
                                .growth_interval = 3,
                                .halt_on_nan = s->halt};
    ParamArray weights[2];
    assert_ok(model_config_init(&c, s->family));
    c.vocab_size = VOCAB;
    c.context = 16;
    c.width = 24;
    c.layers = 3;
    c.heads = 3;
    c.kv_heads = strcmp(s->family, "llama") ? 0 : 1;
    c.activation = strcmp(s->family, "llama") ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    c.dropout = s->dropout;
    c.tied = true;
    assert_ok(model_new(&b->model, &c, s->dtype, device));
    assert_ok(optimizer_new(&b->optimizer, b->model, &options));
    assert_ok(params_init(&b->model->params, 3, weights, optimizer_weights(b->optimizer, weights)));
    BatchTapeOptions tape = {.rows = ROWS, .width = WIDTH, .with_grad = true, .recompute = s->recompute};
    if (s->dtype == DTYPE_F16) tape.loss_scale = b->optimizer->state + STATE_LOSS_SCALE;
    assert_ok(batch_tape_new(&b->tape, b->model, &tape));
    assert_ok(device_alloc(device, &b->memory, tape_bytes(b->tape.tape)));
    assert_ok(tape_bind(b->tape.tape, b->memory));
    assert_ok(stepper_new(&b->stepper, &b->tape, b->optimizer, ACCUMULATION));
}

static void bench_close(Bench *b) {
    Device *device = b->model->device;
    stepper_free(b->stepper);
    batch_tape_free(&b->tape);
    optimizer_free(b->optimizer);
    model_free(b->model);
    device_release(device, b->memory);
}

/* Rows of different lengths; some steps use fewer micro-batches. Everything is a function of the step. */
static int64_t used_in(int64_t step) { return step % 4 == 2 ? 1 : step % 4 == 3 ? 2 : ACCUMULATION; }

static void fill(Batch *batch, int64_t step, int64_t micro) {
    Rng rng = {.key = 7, .stream = (uint64_t)(step * ACCUMULATION + micro)};
    batch->targets = batch->real = 0;
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t t = 0, length = 2 + (int64_t)rng_below(&rng, WIDTH - 1); t < WIDTH; t++) {
            bool real = t < length;
            batch->tokens[r * WIDTH + t] = real ? (int32_t)rng_below(&rng, VOCAB) : 0;
            batch->labels[r * WIDTH + t] = real && t % 3 ? (int32_t)rng_below(&rng, VOCAB) : -100;
            batch->targets += real && t % 3;
            batch->real += real;
        }
}

static void submit(Bench *b, int64_t step, double lr) {
    Batch *batches;
    StepInput input = {.step = step, .used = used_in(step), .seed = 11, .learning_rate = lr};
    stepper_batches(b->stepper, &batches);
    for (int64_t i = 0; i < input.used; i++) fill(&batches[i], step, i);
    assert_ok(stepper_submit(b->stepper, &input));
}

static void take(Bench *b, StepResult *results) {
    StepResult r;
    assert_ok(stepper_take(b->stepper, &r));
    results[r.input.step] = r;
    results[r.input.step].batches = NULL;
}

/* STEPS steps, never more than `late` in flight behind a submit. */
static void train(Bench *b, int late, StepResult *results) {
    for (int64_t step = 0; step < STEPS; step++) {
        while (stepper_in_flight(b->stepper) >= stepper_depth(b->stepper)) take(b, results);
        submit(b, step, 1e-2 / (double)(1 + step));
        while (stepper_in_flight(b->stepper) > late) take(b, results);
    }
    while (stepper_in_flight(b->stepper)) take(b, results);
}

/* Master weights, compute weights, moments and the update's state, one after the other. (mem_free) */
static char *everything(const Bench *b, size_t *bytes) {
    ParamArray array[4];
    size_t elements = b->model->params.elements, at = 0;
    int n = optimizer_weights(b->optimizer, array);
    char *all;
    optimizer_moments(b->optimizer, array + n);
    n += 2;
    assert_ok(MEM_NEW_ARRAY(&all, 4 * 4 * elements + sizeof(float) * UPDATE_STATE));
    for (int i = 0; i < n; i++) {
        size_t size = elements * dtype_size(array[i].dtype);
        assert_ok(device_download(b->model->device, all + at, array[i].flat, size));
        at += size;
    }
    assert_ok(device_download(b->model->device, all + at, b->optimizer->state, sizeof(float) * UPDATE_STATE));
    *bytes = at + sizeof(float) * UPDATE_STATE;
    return all;
}

static void assert_same_results(const StepResult *a, const StepResult *b) {
    for (int i = 0; i < STEPS; i++) {
        assert_memory_equal(&a[i].loss, &b[i].loss, sizeof a[i].loss);
        assert_memory_equal(&a[i].norm, &b[i].norm, sizeof a[i].norm);
        assert_int_equal(a[i].targets, b[i].targets);
        assert_int_equal(a[i].real, b[i].real);
        assert_int_equal(a[i].applied, b[i].applied);
    }
}

static int all_settings(Settings *s) {
    int n = 0;
    s[n++] = (Settings){.family = "gpt2", .dtype = DTYPE_F32, .dropout = 0.1};
    s[n++] = (Settings){.family = "llama", .dtype = DTYPE_BF16};
    s[n++] = (Settings){.family = "gpt2", .dtype = DTYPE_BF16, .recompute = RECOMPUTE_BLOCK, .dropout = 0.1};
    if (!test_device()->has_fp16) return n;
    s[n++] = (Settings){.family = "llama", .dtype = DTYPE_BF16, .bf16_states = true};
    s[n++] = (Settings){.family = "llama", .dtype = DTYPE_F16, .recompute = RECOMPUTE_CHEAP};
    return n;
}

static void weights_do_not_depend_on_when_results_are_taken(void **state) {
    (void)state;
    Settings settings[8];
    for (int i = 0, n = all_settings(settings); i < n; i++) {
        StepResult at_once[STEPS], late[STEPS];
        Bench a, b;
        size_t bytes, other;
        bench_open(&a, &settings[i]);
        bench_open(&b, &settings[i]);
        train(&a, 0, at_once);
        train(&b, STEPS, late);
        assert_same_results(at_once, late);
        char *x = everything(&a, &bytes), *y = everything(&b, &other);
        assert_int_equal(bytes, other);
        assert_memory_equal(x, y, bytes);
        assert_true(isfinite(at_once[0].loss) && at_once[0].applied && at_once[0].norm > 0);
        assert_true(at_once[0].bad_batch == -1 && at_once[0].bad_row == -1);
        mem_free(x);
        mem_free(y);
        bench_close(&a);
        bench_close(&b);
    }
}

/* What the stepper queues ahead, or launches as a graph, gives the bits of the plain calls one by one. */
static void a_step_is_its_micro_batches_and_an_update(void **state) {
    (void)state;
    Settings settings[8];
    for (int i = 0, n = all_settings(settings); i < n; i++) {
        StepResult results[STEPS];
        Bench a, b;
        size_t bytes, other;
        bench_open(&a, &settings[i]);
        bench_open(&b, &settings[i]);
        train(&a, STEPS, results);
        Batch batch[ACCUMULATION];
        for (int k = 0; k < ACCUMULATION; k++) assert_ok(batch_new(&batch[k], ROWS, WIDTH, false));
        for (int64_t step = 0; step < STEPS; step++) {
            int64_t targets = 0;
            double loss = 0, sum;
            float norm;
            for (int64_t k = 0; k < used_in(step); k++) fill(&batch[k], step, k), targets += batch[k].targets;
            for (int64_t k = 0; k < used_in(step); k++) {
                TapeRun run = {.seed = 11,
                               .position = (uint64_t)(step * ACCUMULATION + k),
                               .training = true,
                               .accumulate = k > 0,
                               .grad_scale = (float)(1.0 / (double)targets)};
                assert_ok(batch_tape_run(&b.tape, &batch[k], &run, &sum));
                loss += sum;
            }
            TapeRun update = {.seed = 11, .position = (uint64_t)step};
            assert_ok(optimizer_step(b.optimizer, 1e-2 / (double)(1 + step), &update, &norm));
            assert_true(results[step].loss == loss && results[step].norm == (double)norm);
            assert_int_equal(results[step].targets, targets);
        }
        char *x = everything(&a, &bytes), *y = everything(&b, &other);
        assert_memory_equal(x, y, bytes);
        mem_free(x);
        mem_free(y);
        for (int k = 0; k < ACCUMULATION; k++) batch_free(&batch[k]);
        bench_close(&a);
        bench_close(&b);
    }
}

/* After a good step a weight becomes NaN: the next step is not applied, nor are those queued behind it before anybody
 * has seen its loss, nor a later one that would be fine. */
static void nothing_is_applied_after_a_nan(void **state) {
    (void)state;
    Bench b;
    StepResult r[STEPS];
    size_t bytes, other;
    bench_open(&b, &(Settings){.family = "gpt2", .dtype = DTYPE_F32, .halt = true});
    submit(&b, 0, 1e-2);
    take(&b, r);
    assert_true(r[0].applied);
    /* One weight of the embedding's row 0, which every padded row reads. */
    float kept, broken = NAN;
    assert_ok(device_download(b.model->device, &kept, b.model->weights, sizeof kept));
    assert_ok(device_upload(b.model->device, b.model->weights, &broken, sizeof broken));
    char *before = everything(&b, &bytes);
    int queued = 0;
    for (int64_t step = 1; queued < stepper_depth(b.stepper); step++, queued++) submit(&b, step, 1e-2);
    for (int k = 0; k < queued; k++) {
        take(&b, r);
        assert_false(r[1 + k].applied);
        assert_false(isfinite(r[1 + k].loss));
        assert_true(r[1 + k].bad_batch >= 0 && r[1 + k].bad_batch < used_in(1 + k));
        assert_true(r[1 + k].bad_row >= 0 && r[1 + k].bad_row < ROWS);
    }
    /* The data is fine again, but the run has halted. */
    assert_ok(device_upload(b.model->device, b.model->weights, &kept, sizeof kept));
    submit(&b, 6, 1e-2);
    take(&b, r);
    assert_true(isfinite(r[6].loss) && !r[6].applied && r[6].bad_batch == -1);
    assert_ok(device_upload(b.model->device, b.model->weights, &broken, sizeof broken));
    char *after = everything(&b, &other);
    size_t states = bytes - sizeof(float) * UPDATE_STATE;
    assert_int_equal(bytes, other);
    assert_memory_equal(before, after, states);
    assert_true(((float *)(after + states))[STATE_HALTED] == 1);
    assert_true(((float *)(after + states))[STATE_UPDATES] == 1);
    mem_free(before);
    mem_free(after);
    bench_close(&b);
}

/* A step of fewer micro-batches, at the end of an epoch, is that of a stepper that never has more. */
static void fewer_micro_batches(void **state) {
    (void)state;
    Bench b;
    StepResult r[STEPS];
    Settings s = {.family = "llama", .dtype = DTYPE_F32};
    double loss[2];
    for (int other = 0; other < 2; other++) { /* what the third batch held before does not matter */
        bench_open(&b, &s);
        Batch *batches;
        stepper_batches(b.stepper, &batches);
        for (int k = 0; k < ACCUMULATION; k++) fill(&batches[k], 2, k + (other && k >= 1 ? 50 : 0));
        assert_ok(stepper_submit(b.stepper, &(StepInput){.step = 2, .used = 1, .seed = 1, .learning_rate = 1e-2}));
        take(&b, r);
        loss[other] = r[2].loss;
        int64_t targets = r[2].targets;
        stepper_batches(b.stepper, &batches);
        fill(&batches[0], 2, 0);
        assert_int_equal(targets, batches[0].targets);
        bench_close(&b);
    }
    assert_true(loss[0] == loss[1]);
}

static void taking_without_a_step_is_an_error(void **state) {
    (void)state;
    Bench b;
    StepResult r;
    bench_open(&b, &(Settings){.family = "gpt2", .dtype = DTYPE_F32});
    assert_error(stepper_take(b.stepper, &r), TANE_EINTERNAL, "no step is in flight");
    bench_close(&b);
    stepper_free(NULL);
}

/* A token that the model does not have: the step's error, on a GPU when its result is taken. */
static void bad_tokens_are_errors(void **state) {
    (void)state;
    Bench b;
    StepResult r;
    Batch *batches;
    bench_open(&b, &(Settings){.family = "gpt2", .dtype = DTYPE_F32});
    stepper_batches(b.stepper, &batches);
    fill(&batches[0], 0, 0);
    batches[0].tokens[WIDTH + 4] = VOCAB;
    Status st = stepper_submit(b.stepper, &(StepInput){.used = 1, .seed = 1, .learning_rate = 1e-2});
    if (st == TANE_OK) st = stepper_take(b.stepper, &r);
    assert_error(st, TANE_EINVAL, "token 29 at row 1, place 4 is outside 0..28");
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(weights_do_not_depend_on_when_results_are_taken),
        TEST(a_step_is_its_micro_batches_and_an_update),
        TEST(nothing_is_applied_after_a_nan),
        TEST(fewer_micro_batches),
        TEST(taking_without_a_step_is_an_error),
        TEST(bad_tokens_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
