/* tane's side of the generation rows of `make gpu-bench`: greedy decoding with random weights through the engine.
 *
 *   build/bench/decode --device cuda --layers 16 --width 2048 --heads 32 --kv-heads 8 --head-dim 64 --ffn 8192 \
 *                      --vocab 128256 --batch 256 --prompt 128 --new 256
 *
 * prints a JSON line for each of --rounds rounds: tokens per second of decoding (prompts not counted) and of all.
 */
#include <getopt.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/rng.h"
#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "infer/engine.h"
#include "ops/backend.h"

typedef struct Options {
    const char *device, *dtype;
    long layers, width, heads, kv_heads, head_dim, ffn, vocab, batch, prompt, new_tokens, rounds, threads;
} Options;

typedef struct Bench {
    Options o;
    Device *device;
    Model *model;
    Engine *engine;
    int32_t *prompts;
    long tokens;          /* of this round so far */
    double first, answered; /* when all prompts were answered with one token; when everything was */
} Bench;

static void usage(const char *problem) {
    fprintf(stderr, "decode: %s\noptions: --device D --dtype bf16|fp16|fp32 --layers N --width N --heads N --kv-heads N\n"
                    "         --head-dim N --ffn N --vocab N --batch N --prompt N --new N --rounds N --threads N\n",
            problem);
    exit(2);
}

static void read_options(Options *o, int argc, char **argv) {
    *o = (Options){.device = "cpu", .dtype = "bf16", .layers = 6, .width = 512, .heads = 8, .kv_heads = 8, .ffn = 1408,
                   .vocab = 32000, .batch = 1, .prompt = 16, .new_tokens = 32, .rounds = 3,
                   .threads = cpu_info()->cores};
    struct {
        const char *name;
        long *number;
        const char **word;
    } known[] = {{"layers", &o->layers, 0}, {"width", &o->width, 0}, {"heads", &o->heads, 0},
                 {"kv-heads", &o->kv_heads, 0}, {"head-dim", &o->head_dim, 0}, {"ffn", &o->ffn, 0},
                 {"vocab", &o->vocab, 0}, {"batch", &o->batch, 0}, {"prompt", &o->prompt, 0},
                 {"new", &o->new_tokens, 0}, {"rounds", &o->rounds, 0}, {"threads", &o->threads, 0},
                 {"device", 0, &o->device}, {"dtype", 0, &o->dtype}};
    enum { KNOWN = sizeof known / sizeof *known };
    struct option table[KNOWN + 1] = {0};
    for (int i = 0; i < KNOWN; i++) table[i] = (struct option){known[i].name, required_argument, NULL, 1};
    for (int which, at; (which = getopt_long(argc, argv, "", table, &at)) != -1;) {
        if (which == '?') usage("unknown option");
        char *end = "";
        if (known[at].number) *known[at].number = strtol(optarg, &end, 10);
        else *known[at].word = optarg;
        if (*end) usage("a number is not one");
    }
    if (optind < argc) usage("words without -- mean nothing here");
    if (o->batch < 1 || o->prompt < 1 || o->new_tokens < 2) usage("--batch, --prompt and --new must be above 0");
}

static Status bench_open(Bench *b) {
    const Options *o = &b->o;
    ModelConfig c;
    DType dtype = o->dtype[0] == 'b' ? DTYPE_BF16 : o->dtype[2] == '1' ? DTYPE_F16 : DTYPE_F32;
    omp_set_num_threads((int)o->threads);
    TRY_RETURN(backend_open(&b->device, o->device));
    TRY_RETURN(model_config_init(&c, "llama"));
    c.vocab_size = o->vocab;
    c.context = o->prompt + o->new_tokens;
    c.width = o->width;
    c.layers = o->layers;
    c.heads = o->heads;
    c.kv_heads = o->kv_heads;
    c.head_dim = o->head_dim;
    c.ffn = o->ffn;
    c.tied = true;
    c.rope.theta = 500000;
    c.norm_epsilon = 1e-5;
    c.activation = ACTIVATION_SILU;
    TRY_RETURN(model_new(&b->model, &c, dtype, b->device));
    ParamArray weights = model_weights(b->model);
    TRY_RETURN(params_init(&b->model->params, 42, &weights, 1));
    TRY_RETURN(engine_new(&b->engine, b->model, o->batch, 0));
    TRY_RETURN(MEM_NEW_ARRAY(&b->prompts, (size_t)(o->batch * o->prompt)));
    Rng rng = {.key = 7};
    for (long i = 0; i < o->batch * o->prompt; i++) b->prompts[i] = (int32_t)rng_below(&rng, (uint64_t)o->vocab);
    return TANE_OK;
}

static Status on_token(void *user, const EngineResult *so_far, bool *stop) {
    Bench *b = user;
    (void)so_far;
    (void)stop;
    if (++b->tokens == b->o.batch) b->first = clock_seconds();
    return TANE_OK;
}

static Status one_round(Bench *b) {
    Status st = TANE_OK;
    const Options *o = &b->o;
    Arena arena = {0};
    EngineRequest *requests;
    EngineResult *results;
    TRY(ARENA_NEW_ARRAY(&arena, &requests, (size_t)o->batch));
    TRY(ARENA_NEW_ARRAY(&arena, &results, (size_t)o->batch));
    for (long i = 0; i < o->batch; i++)
        requests[i] = (EngineRequest){.id = (uint64_t)i, .prompt = b->prompts + i * o->prompt, .n_prompt = o->prompt,
                                      .max_new_tokens = o->new_tokens, .sampling = {.top_p = 1}};
    b->tokens = 0;
    double start = clock_seconds();
    TRY(engine_generate(b->engine, requests, (size_t)o->batch, &arena, results, on_token, b));
    double end = clock_seconds();
    printf("{\"event\": \"round\", \"name\": \"tane\", \"device\": \"%s\", \"batch\": %ld, \"tokens_per_second\": %.1f, "
           "\"step_ms\": %.4f, \"prefill_tokens_per_second\": %.0f, \"engine_mib\": %.0f}\n",
           b->device->description, o->batch, (double)(o->batch * (o->new_tokens - 1)) / (end - b->first),
           (end - b->first) / (double)(o->new_tokens - 1) * 1e3, (double)(o->batch * o->prompt) / (b->first - start),
           (double)engine_bytes(b->engine) / 1048576);
    fflush(stdout);
out:
    arena_release(&arena);
    return st;
}

int main(int argc, char **argv) {
    Bench b = {0};
    read_options(&b.o, argc, argv);
    Status st = bench_open(&b);
    for (long i = 0; st == TANE_OK && i < b.o.rounds; i++) st = one_round(&b);
    if (st != TANE_OK) fprintf(stderr, "decode: %s\n", err_message());
    engine_free(b.engine);
    model_free(b.model);
    mem_free(b.prompts);
    device_close(b.device);
    gemm_shutdown();
    return st != TANE_OK;
}
