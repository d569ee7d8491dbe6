/* tane's side of `make bench` and `make gpu-bench`: whole optimizer steps (forward, backward, clipping, AdamW).
 *
 *   build/bench/train_step --layers 12 --width 768 --heads 12 --vocab 50304 --rows 4 --length 1024
 *   build/bench/train_step --device cuda --arch llama --layers 16 --width 2048 --heads 32 --kv-heads 8 --ffn 8192 ...
 *   build/bench/train_step --text input.txt --rounds 8 --steps 250 --lr 1e-3 ...
 *
 * prints JSON, one object a line: first the plan ("ready"), then a "round" of --steps steps, --rounds times. With
 * --serve a round is made for each line that comes in instead, so that contestants can take turns; --profile adds the
 * time of each op. bench/torch_train.py takes the same options and prints the same lines.
 *
 * Tokens are random, or, with --text, windows of a file read as bytes: nine tenths are trained on, and each round ends
 * with the loss of the last tenth. Then the learning rate falls along a cosine to a tenth over all rounds.
 */
#include <getopt.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "ops/backend.h"
#include "train/stepper.h"

typedef struct Options {
    const char *arch, *dtype, *device, *text, *recompute;
    long layers, width, heads, kv_heads, ffn, vocab, context, rows, length, steps, rounds, threads, warmup, windows;
    double lr, dropout, beta2;
    int profile, serve, bf16_states;
} Options;

typedef struct Bench {
    Options o;
    Device *device;
    Model *model;
    Optimizer *optimizer;
    BatchTape tape, eval;
    Stepper *stepper;
    void *memory;
    size_t planned;          /* bytes */
    int32_t *data;           /* all tokens */
    int64_t n_data, n_train; /* those behind n_train are for evaluation */
    Batch eval_batch;
    long step, in_round;
    double loss, norm;
} Bench;

/* ---------------------------------------------------------------------------------------- counted allocations */

static long allocations;

static void *counted_alloc(void *ctx, size_t size, size_t align) {
    (void)ctx;
#pragma omp atomic
    allocations++;
    return aligned_alloc(align, (size + align - 1) / align * align);
}
static void counted_free(void *ctx, void *ptr) {
    (void)ctx;
    free(ptr);
}

/* ---------------------------------------------------------------------------------------------------- options */

static void usage(const char *problem) {
    fprintf(stderr, "train_step: %s\n"
            "options: --device auto|cpu|cuda:N  --arch gpt2|llama  --dtype bf16|fp32|tf32|fp16|fp8|fp8_block\n"
            "         --layers N --width N --heads N --kv-heads N --ffn N --vocab N --context N --dropout P\n"
            "         --rows N --length N --steps N --rounds N --threads N --bf16-states --recompute none|cheap|block\n"
            "         --text FILE --lr R --warmup N --beta2 R --windows N --profile --serve\n", problem);
    exit(2);
}

static void read_options(Options *o, int argc, char **argv) {
    *o = (Options){.arch = "gpt2", .dtype = "bf16", .device = "cpu", .recompute = "none", .layers = 6, .width = 512,
                   .heads = 8, .vocab = 35, .rows = 8, .length = 16, .steps = 10, .rounds = 3, .warmup = 0,
                   .windows = 1024, .threads = cpu_info()->cores, .lr = 1e-4, .beta2 = 0.95};
    struct {
        const char *name;
        long *number;
        double *real;
        const char **word;
        int *flag;
    } known[] = {{"layers", &o->layers, 0, 0, 0}, {"width", &o->width, 0, 0, 0}, {"heads", &o->heads, 0, 0, 0},
                 {"kv-heads", &o->kv_heads, 0, 0, 0}, {"ffn", &o->ffn, 0, 0, 0}, {"vocab", &o->vocab, 0, 0, 0},
                 {"context", &o->context, 0, 0, 0}, {"rows", &o->rows, 0, 0, 0}, {"length", &o->length, 0, 0, 0},
                 {"steps", &o->steps, 0, 0, 0}, {"rounds", &o->rounds, 0, 0, 0}, {"threads", &o->threads, 0, 0, 0},
                 {"warmup", &o->warmup, 0, 0, 0}, {"windows", &o->windows, 0, 0, 0}, {"lr", 0, &o->lr, 0, 0},
                 {"dropout", 0, &o->dropout, 0, 0}, {"beta2", 0, &o->beta2, 0, 0}, {"arch", 0, 0, &o->arch, 0},
                 {"dtype", 0, 0, &o->dtype, 0}, {"device", 0, 0, &o->device, 0}, {"text", 0, 0, &o->text, 0},
                 {"recompute", 0, 0, &o->recompute, 0}, {"profile", 0, 0, 0, &o->profile},
                 {"serve", 0, 0, 0, &o->serve}, {"bf16-states", 0, 0, 0, &o->bf16_states}};
    enum { KNOWN = sizeof known / sizeof *known };
    struct option table[KNOWN + 1] = {0};
    for (int i = 0; i < KNOWN; i++)
        table[i] = (struct option){known[i].name, known[i].flag ? no_argument : required_argument, known[i].flag, 1};
    for (int which, at; (which = getopt_long(argc, argv, "", table, &at)) != -1;) {
        if (which == '?') usage("unknown option");
        char *end = "";
        if (known[at].number) *known[at].number = strtol(optarg, &end, 10);
        if (known[at].real) *known[at].real = strtod(optarg, &end);
        if (known[at].word) *known[at].word = optarg;
        if (*end) usage("a number is not one");
    }
    if (optind < argc) usage("words without -- mean nothing here");
    if (o->layers < 1 || o->width < 1 || o->heads < 1 || o->rows < 1 || o->length < 1 || o->steps < 1)
        usage("sizes and steps must be above 0");
    if (o->context < o->length) o->context = o->length;
    if (o->text) o->vocab = 256;
}

static bool is(const char *a, const char *b) { return !strcmp(a, b); }

/* ------------------------------------------------------------------------------------------------------ model */

static Status make_model(Bench *b) {
    const Options *o = &b->o;
    ModelConfig c;
    TRY_RETURN(model_config_init(&c, o->arch));
    bool llama = is(o->arch, "llama");
    DType dtype = is(o->dtype, "fp32") || is(o->dtype, "tf32") ? DTYPE_F32 : is(o->dtype, "fp16") ? DTYPE_F16 : DTYPE_BF16;
    b->device->matmul = is(o->dtype, "tf32")        ? MATMUL_TF32
                        : is(o->dtype, "fp8")       ? MATMUL_FP8_TENSOR
                        : is(o->dtype, "fp8_block") ? MATMUL_FP8_BLOCK
                                                    : MATMUL_EXACT;
    c.vocab_size = o->vocab;
    c.context = o->context;
    c.width = o->width;
    c.layers = o->layers;
    c.heads = o->heads;
    c.kv_heads = o->kv_heads;
    c.ffn = o->ffn;
    c.tied = true;
    c.dropout = o->dropout;
    c.rope.theta = llama ? 10000 : 0;
    c.norm_epsilon = llama ? 1e-6 : 1e-5;
    c.activation = llama ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    return model_new(&b->model, &c, dtype, b->device);
}

static Status read_text(Bench *b) {
    char *text;
    size_t n;
    TRY_RETURN(file_read(b->o.text, (size_t)1 << 30, &text, &n));
    b->n_data = (int64_t)n;
    b->n_train = b->n_data * 9 / 10;
    Status st = MEM_NEW_ARRAY(&b->data, n);
    for (size_t i = 0; st == TANE_OK && i < n; i++) b->data[i] = (unsigned char)text[i];
    mem_free(text);
    return st == TANE_OK && b->n_data - b->n_train <= b->o.length ? FAIL(TANE_EINVAL, "%s is too short", b->o.text) : st;
}

static Status make_data(Bench *b) {
    if (b->o.text) return read_text(b);
    Rng rng = {.key = 42};
    b->n_data = b->n_train = 64 * b->o.rows * b->o.length + b->o.length + 1;
    TRY_RETURN(MEM_NEW_ARRAY(&b->data, (size_t)b->n_data));
    for (int64_t i = 0; i < b->n_data; i++) b->data[i] = (int32_t)rng_below(&rng, (uint64_t)b->o.vocab);
    return TANE_OK;
}

/* Rows of `length` tokens, each from a place that (key, stream, row) decides, in data [begin, end). */
static void fill_batch(Bench *b, Batch *batch, uint64_t stream, int64_t begin, int64_t end) {
    int64_t length = b->o.length;
    for (int64_t r = 0; r < batch->rows; r++) {
        Rng rng = {.key = 1337, .stream = stream, .counter = (uint64_t)r * 64};
        const int32_t *from = b->data + begin + (int64_t)rng_below(&rng, (uint64_t)(end - begin - length));
        memcpy(batch->tokens + r * length, from, (size_t)length * sizeof *from);
        memcpy(batch->labels + r * length, from + 1, (size_t)length * sizeof *from);
    }
    batch->targets = batch->real = batch->rows * length;
}

/* As the trainer builds it (train/setup.c). */
static Status bench_open(Bench *b) {
    const Options *o = &b->o;
    const OptimizerOptions adam = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = o->beta2, .epsilon = 1e-8,
                                   .max_grad_norm = 1.0, .bf16_states = o->bf16_states,
                                   .loss_scale = is(o->dtype, "fp16") ? 65536 : 0, .growth_interval = 2000};
    ParamArray weights[2];
    omp_set_num_threads((int)o->threads);
    TRY_RETURN(backend_open(&b->device, o->device));
    TRY_RETURN(make_model(b));
    TRY_RETURN(optimizer_new(&b->optimizer, b->model, &adam));
    int n = optimizer_weights(b->optimizer, weights);
    TRY_RETURN(params_init(&b->model->params, 42, weights, n));
    BatchTapeOptions options = {.rows = o->rows, .width = o->length, .with_grad = true,
                                .recompute = is(o->recompute, "block")   ? RECOMPUTE_BLOCK
                                             : is(o->recompute, "cheap") ? RECOMPUTE_CHEAP
                                                                         : RECOMPUTE_NONE,
                                .loss_scale = adam.loss_scale > 0 ? b->optimizer->state + STATE_LOSS_SCALE : NULL};
    TRY_RETURN(batch_tape_new(&b->tape, b->model, &options));
    size_t tape = tape_bytes(b->tape.tape);
    if (o->text) {
        TRY_RETURN(batch_tape_new(&b->eval, b->model, &(BatchTapeOptions){.rows = o->rows, .width = o->length}));
        TRY_RETURN(batch_new(&b->eval_batch, o->rows, o->length, false));
        if (tape_bytes(b->eval.tape) > tape) tape = tape_bytes(b->eval.tape);
    }
    TRY_RETURN(device_alloc(b->device, &b->memory, tape));
    TRY_RETURN(tape_bind(b->tape.tape, b->memory));
    if (o->text) TRY_RETURN(tape_bind(b->eval.tape, b->memory));
    TRY_RETURN(stepper_new(&b->stepper, &b->tape, b->optimizer, 1));
    const Params *params = &b->model->params;
    b->planned = tape + params->elements * dtype_size(b->model->dtype) + stepper_bytes(&b->tape, 1) +
                 optimizer_grad_bytes(params, o->bf16_states) +
                 optimizer_state_bytes(params, b->model->dtype, o->bf16_states) +
                 (b->device->host ? 0 : b->device->reserved);
    tape_timing(b->tape.tape, o->profile);
    tape_timing(b->optimizer->tape, o->profile);
    if (o->profile) b->device->graphs = false; /* each op is waited for */
    return make_data(b);
}

static void bench_close(Bench *b) {
    stepper_free(b->stepper);
    batch_free(&b->eval_batch);
    batch_tape_free(&b->tape);
    batch_tape_free(&b->eval);
    if (b->device) device_release(b->device, b->memory);
    optimizer_free(b->optimizer);
    model_free(b->model);
    mem_free(b->data);
    device_close(b->device);
    gemm_shutdown();
}

/* ------------------------------------------------------------------------------------------------------ rounds */

static double learning_rate(const Options *o, long step) {
    if (!o->text) return o->lr;
    if (step < o->warmup) return o->lr * (double)(step + 1) / (double)(o->warmup + 1);
    double share = (double)(step - o->warmup) / (double)(o->steps * o->rounds - o->warmup);
    return 0.1 * o->lr + 0.45 * o->lr * (1 + cos(3.14159265358979 * fmin(share, 1)));
}

static Status take(Bench *b) {
    StepResult r;
    TRY_RETURN(stepper_take(b->stepper, &r));
    b->loss = r.loss / (double)r.targets;
    b->norm = r.norm;
    if (!r.applied && !is(b->o.dtype, "fp16"))
        return FAIL(TANE_ENUMERIC, "step %ld: loss %g, gradient %g", (long)r.input.step, b->loss, b->norm);
    return TANE_OK;
}

static Status queue_step(Bench *b) {
    Batch *batch;
    StepInput input = {.step = b->step, .used = 1, .seed = 42, .learning_rate = learning_rate(&b->o, b->step)};
    stepper_batches(b->stepper, &batch);
    fill_batch(b, batch, (uint64_t)b->step++, 0, b->n_train);
    TRY_RETURN(stepper_submit(b->stepper, &input));
    while (stepper_in_flight(b->stepper) >= stepper_depth(b->stepper)) TRY_RETURN(take(b));
    return TANE_OK;
}

static Status settle(Bench *b) {
    while (stepper_in_flight(b->stepper)) TRY_RETURN(take(b));
    return TANE_OK;
}

/* Over the same --windows windows each time. */
static Status evaluate(Bench *b, double *loss) {
    double total = 0;
    long batches = (b->o.windows + b->o.rows - 1) / b->o.rows;
    for (long i = 0; i < batches; i++) {
        double sum;
        fill_batch(b, &b->eval_batch, (uint64_t)1 << 40 | (uint64_t)i, b->n_train, b->n_data);
        TRY_RETURN(batch_tape_run(&b->eval, &b->eval_batch, &(TapeRun){0}, &sum));
        total += sum / (double)b->eval_batch.targets;
    }
    *loss = total / (double)batches;
    return TANE_OK;
}

static double peak_mib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static Status one_round(Bench *b) {
    double start = clock_seconds(), eval = NAN;
    long before = allocations;
    for (long i = 0; i < b->o.steps; i++) TRY_RETURN(queue_step(b));
    TRY_RETURN(settle(b));
    double seconds = clock_seconds() - start, each = seconds / (double)b->o.steps;
    printf("{\"event\": \"round\", \"tokens_per_second\": %.1f, \"step_ms\": %.3f, \"steps_per_second\": %.2f, "
           "\"loss\": %.4f, \"allocations_per_step\": %g, \"peak_mib\": %.1f",
           (double)(b->o.rows * b->o.length) / each, each * 1e3, 1 / each, b->loss,
           (double)(allocations - before) / (double)b->o.steps, peak_mib());
    if (b->o.text) {
        start = clock_seconds();
        TRY_RETURN(evaluate(b, &eval));
        printf(", \"eval_loss\": %.4f, \"eval_s\": %.3f", eval, clock_seconds() - start);
    }
    puts("}");
    fflush(stdout);
    return TANE_OK;
}

/* The first two steps, which touch all memory, make the products' kernels and record the graph, are warm-up. */
static Status warm_up(Bench *b) {
    double start = clock_seconds();
    TRY_RETURN(queue_step(b));
    TRY_RETURN(settle(b));
    double first = b->loss;
    TRY_RETURN(queue_step(b));
    TRY_RETURN(settle(b));
    printf("{\"event\": \"ready\", \"name\": \"tane\", \"version\": \"%s\", \"arch\": \"%s\", \"device\": \"%s\", "
           "\"backend\": \"%s\", ", TANE_VERSION, b->o.arch, b->device->description, b->device->products);
    printf("\"threads\": %ld, \"parameters\": %lld, \"flops_per_token\": %.0f, \"planned_mib\": %.1f, "
           "\"first_loss\": %.4f, \"warm_up_s\": %.2f}\n",
           b->o.threads, (long long)params_count(&b->model->params),
           model_train_flops(b->model, b->o.length), (double)b->planned / 1048576, first, clock_seconds() - start);
    fflush(stdout);
    return TANE_OK;
}

static void print_profile(const Bench *b, long steps) {
    const Tape *tapes[] = {b->tape.tape, b->optimizer->tape};
    for (int t = 0; t < 2; t++) {
        double forward[OP_COUNT], backward[OP_COUNT];
        tape_times(tapes[t], forward, backward);
        for (int op = 0; op < OP_COUNT; op++)
            if (forward[op] + backward[op] > 0)
                printf("{\"event\": \"op\", \"op\": \"%s\", \"forward_ms\": %.3f, \"backward_ms\": %.3f}\n",
                       op_name((OpId)op), forward[op] / (double)steps * 1e3, backward[op] / (double)steps * 1e3);
    }
}

static Status run(Bench *b) {
    char line[64];
    TRY_RETURN(bench_open(b));
    TRY_RETURN(warm_up(b));
    if (b->o.serve)
        while (fgets(line, sizeof line, stdin) && strcmp(line, "quit\n")) TRY_RETURN(one_round(b));
    else
        for (long i = 0; i < b->o.rounds; i++) TRY_RETURN(one_round(b));
    if (b->o.profile) print_profile(b, b->step);
    return TANE_OK;
}

int main(int argc, char **argv) {
    Bench b = {0};
    const Allocator counted = {counted_alloc, counted_free, NULL};
    mem_set_allocator(&counted);
    read_options(&b.o, argc, argv);
    Status st = run(&b);
    if (st != TANE_OK) fprintf(stderr, "train_step: %s\n", err_message());
    bench_close(&b);
    return st != TANE_OK;
}
