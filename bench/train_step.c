/* tane's side of `make bench`: whole optimizer steps (forward, backward, clipping, AdamW) on random tokens.
 *
 *   build/bench/train_step --layers 12 --width 768 --heads 12 --vocab 50304 --rows 4 --length 1024
 *
 * prints JSON, one object a line: first the plan ("ready"), then a "round" of --steps steps, --rounds times. With
 * --serve a round is made for each line that comes in instead, so that contestants can take turns; --profile adds the
 * time of each op. bench/torch_train.py takes the same options and prints the same lines.
 */
#include <getopt.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/rng.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "train/batch_tape.h"
#include "train/optimizer.h"

typedef struct Options {
    const char *arch, *dtype;
    long layers, width, heads, vocab, context, rows, length, steps, rounds, threads;
    int profile, serve;
} Options;

typedef struct Bench {
    Options o;
    Model *model;
    Optimizer *optimizer;
    BatchTape tape;
    Batch batch;
    void *memory;
    size_t planned; /* bytes */
    long step;
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
            "options: --arch gpt2|llama  --dtype bf16|fp32  --layers N --width N --heads N --vocab N --context N\n"
            "         --rows N --length N --steps N --rounds N --threads N --profile --serve\n", problem);
    exit(2);
}

static void read_options(Options *o, int argc, char **argv) {
    *o = (Options){.arch = "gpt2", .dtype = "bf16", .layers = 6, .width = 512, .heads = 8, .vocab = 35, .rows = 8,
                   .length = 16, .steps = 10, .rounds = 3, .threads = cpu_info()->cores};
    struct {
        const char *name;
        long *number;
    } numbers[] = {{"layers", &o->layers}, {"width", &o->width}, {"heads", &o->heads}, {"vocab", &o->vocab},
                   {"context", &o->context}, {"rows", &o->rows}, {"length", &o->length}, {"steps", &o->steps},
                   {"rounds", &o->rounds}, {"threads", &o->threads}};
    enum { NUMBERS = sizeof numbers / sizeof *numbers, FIRST = 256, ARCH = FIRST + NUMBERS, DTYPE };
    struct option known[NUMBERS + 5] = {{"arch", required_argument, NULL, ARCH},
                                        {"dtype", required_argument, NULL, DTYPE},
                                        {"profile", no_argument, &o->profile, 1}, {"serve", no_argument, &o->serve, 1}};
    for (int i = 0; i < NUMBERS; i++)
        known[4 + i] = (struct option){numbers[i].name, required_argument, NULL, FIRST + i};
    for (int which; (which = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (which == '?') usage("unknown option");
        if (which == ARCH) o->arch = optarg;
        if (which == DTYPE) o->dtype = optarg;
        if (which < FIRST || which >= FIRST + NUMBERS) continue;
        char *end;
        long *number = numbers[which - FIRST].number;
        *number = strtol(optarg, &end, 10);
        if (*end || *number < 1) usage("numbers must be whole and above 0");
    }
    if (optind < argc) usage("words without -- mean nothing here");
    if (strcmp(o->dtype, "bf16") && strcmp(o->dtype, "fp32")) usage("--dtype is bf16 or fp32");
    if (o->context < o->length) o->context = o->length;
}

/* ------------------------------------------------------------------------------------------------------ model */

static Status make_model(Bench *b) {
    const Options *o = &b->o;
    ModelConfig c;
    TRY_RETURN(model_config_init(&c, o->arch));
    bool llama = !strcmp(o->arch, "llama");
    c.vocab_size = o->vocab;
    c.context = o->context;
    c.width = o->width;
    c.layers = o->layers;
    c.heads = o->heads;
    c.tied = true;
    c.rope_theta = llama ? 10000 : 0;
    c.norm_epsilon = llama ? 1e-6 : 1e-5;
    c.activation = llama ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    return model_new(&b->model, &c, strcmp(o->dtype, "bf16") ? DTYPE_F32 : DTYPE_BF16);
}

static Status make_batch(Bench *b) {
    TRY_RETURN(batch_new(&b->batch, b->o.rows, b->o.length));
    Rng rng = {.key = 42};
    int64_t n = b->o.rows * b->o.length;
    for (int64_t i = 0; i < n; i++) {
        b->batch.tokens[i] = (int32_t)rng_below(&rng, (uint64_t)b->o.vocab);
        b->batch.labels[i] = (int32_t)rng_below(&rng, (uint64_t)b->o.vocab);
    }
    b->batch.targets = b->batch.real = n;
    return TANE_OK;
}

/* As the trainer builds it (train/setup.c). */
static Status bench_open(Bench *b) {
    const OptimizerOptions adam = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8,
                                   .max_grad_norm = 1.0};
    omp_set_num_threads((int)b->o.threads);
    TRY_RETURN(make_model(b));
    TRY_RETURN(optimizer_new(&b->optimizer, b->model, &adam, ops_cpu()));
    params_init(&b->model->params, 42, b->optimizer->master);
    optimizer_publish(b->optimizer);
    TRY_RETURN(batch_tape_new(&b->tape, b->model, ops_cpu(), b->o.rows, b->o.length, 0, true));
    size_t tape = tape_bytes(b->tape.tape), elements = b->model->params.elements;
    TRY_RETURN(mem_new(&b->memory, tape, 1));
    TRY_RETURN(tape_bind(b->tape.tape, b->memory));
    b->planned = tape + elements * dtype_size(b->model->dtype) + optimizer_bytes(&b->model->params, b->model->dtype);
    tape_timing(b->tape.tape, b->o.profile);
    tape_timing(b->optimizer->tape, b->o.profile);
    return make_batch(b);
}

static void bench_close(Bench *b) {
    batch_free(&b->batch);
    batch_tape_free(&b->tape);
    mem_free(b->memory);
    optimizer_free(b->optimizer);
    model_free(b->model);
    gemm_shutdown();
}

/* ------------------------------------------------------------------------------------------------------ rounds */

static Status one_step(Bench *b, double *loss) {
    float norm;
    TapeRun run = {.seed = 42, .position = (uint64_t)b->step, .training = true,
                   .grad_scale = 1.0f / (float)b->batch.targets};
    TRY_RETURN(batch_tape_run(&b->tape, &b->batch, &run, loss));
    *loss /= (double)b->batch.targets;
    TRY_RETURN(optimizer_step(b->optimizer, 1e-4, ++b->step, &norm));
    if (!isfinite(*loss) || !isfinite(norm))
        return FAIL(TANE_ENUMERIC, "step %ld: loss %g, gradient %g", b->step, *loss, (double)norm);
    return TANE_OK;
}

static double peak_mib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static Status one_round(Bench *b) {
    double loss, start = clock_seconds(), least = INFINITY;
    long before = allocations;
    for (long i = 0; i < b->o.steps; i++) {
        double from = clock_seconds();
        TRY_RETURN(one_step(b, &loss));
        least = fmin(least, clock_seconds() - from);
    }
    double seconds = (clock_seconds() - start) / (double)b->o.steps;
    printf("{\"event\": \"round\", \"tokens_per_second\": %.1f, \"step_ms\": %.3f, \"least_step_ms\": %.3f, "
           "\"loss\": %.4f, \"allocations_per_step\": %g, \"peak_mib\": %.1f}\n",
           (double)(b->o.rows * b->o.length) / seconds, seconds * 1e3, least * 1e3, loss,
           (double)(allocations - before) / (double)b->o.steps, peak_mib());
    fflush(stdout);
    return TANE_OK;
}

/* The first step, which touches all memory and makes the products' kernels, is warm-up and gives the first loss. */
static Status warm_up(Bench *b) {
    double loss, start = clock_seconds();
    TRY_RETURN(one_step(b, &loss));
    printf("{\"event\": \"ready\", \"name\": \"tane\", \"version\": \"%s\", \"arch\": \"%s\", \"backend\": \"%s\", ",
           TANE_VERSION, b->o.arch, gemm_backend(b->model->dtype));
    printf("\"threads\": %ld, \"parameters\": %lld, \"flops_per_token\": %.0f, \"planned_mib\": %.1f, "
           "\"first_loss\": %.4f, \"warm_up_s\": %.2f}\n",
           b->o.threads, (long long)params_count(&b->model->params),
           model_train_flops(b->model, b->o.length), (double)b->planned / 1048576, loss, clock_seconds() - start);
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
