/* Every op on the device that TANE_TEST_DEVICE names beside the CPU: odd, tiny and real shapes, fp32, bf16 and fp16,
 * gradients set and added, the same bits twice; the choice of a token, the update, and whole training steps.
 *
 * The reference is the CPU in fp32 over inputs rounded to the device's type. Every case that fails prints a line, the
 * others go on, and the test fails at its end: one run on a GPU shows everything.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "infer/sampler.h"
#include "rig.h"
#include "train/batch_tape.h"
#include "train/optimizer.h"

static int failures;

static void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void bad(const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    print_error("%s\n", text);
    failures++;
}

static void begin(void) { failures = 0; }

static void finish(int cases) {
    if (failures) fail_msg("%d failures in %d cases", failures, cases);
}

/* ------------------------------------------------------------------------------------------------ the comparison */

/* All within bound of the largest |want|, or of `floor` where that is larger. */
static void compare(const char *title, const char *what, const float *got, const float *want, int64_t n, double bound,
                    double floor) {
    double scale = fmax(rig_scale(want, n), floor), most = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        if (got[i] == want[i] || (isnan(got[i]) && isnan(want[i]))) continue;
        double d = fabs((double)got[i] - (double)want[i]);
        if (isnan(d)) d = INFINITY;
        if (d > most) most = d, at = i;
    }
    if (most <= bound * scale) return;
    bad("%s: %s is off by %.3g (%.2g of the largest, %.1g is allowed) at %lld of %lld: %.7g, on the CPU %.7g", title,
        what, most, most / scale, bound, (long long)at, (long long)n, (double)got[at], (double)want[at]);
}

static void same_bits(const char *title, const char *what, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a)) {
            bad("%s: %s differs from run to run, first at %lld of %lld: %.9g, %.9g", title, what, (long long)i,
                (long long)n, (double)a[i], (double)b[i]);
            return;
        }
}

/* ------------------------------------------------------------------------------------------------------- the ops */

/* Inputs of the reference are rounded as those of the device are. */
static DType rounding;

/* Normal deviates, drawn again and again from a few thousand: making them all would take longer than the ops. */
static float *values(Rig *r, int64_t n, float scale) {
    enum { POOL_BITS = 12 };
    float *x = rig_array(r, n), *pool = rig_normal(r, 1 << POOL_BITS, scale);
    uint64_t draw = rng_next(&rig_rng);
    for (int64_t i = 0; i < n; i++) {
        draw = draw * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        x[i] = pool[draw >> (64 - POOL_BITS)];
        if (rounding == DTYPE_BF16) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
        if (rounding == DTYPE_F16) x[i] = f16_to_f32(f32_to_f16(x[i]));
    }
    return x;
}

static Tensor *activation(Rig *r, const char *name, int64_t b, int64_t t, int64_t c) {
    return rig_activation(r, name, b, t, c, values(r, b * t * c, 1));
}

static Tensor *vector(Rig *r, const char *name, int64_t n) {
    return rig_param(r, name, 1, (int64_t[]){n}, values(r, n, 1), true);
}

static Tensor *matrix(Rig *r, const char *name, int64_t rows, int64_t columns) {
    float scale = 1 / sqrtf((float)columns);
    return rig_param(r, name, 2, (int64_t[]){rows, columns}, values(r, rows * columns, scale), true);
}

static void output(Rig *r, const char *name, Tensor *y) {
    if (!y) fail_msg("no output %s: %s", name, err_message());
    rig_output(r, name, y, values(r, tensor_count(y), 1));
}

enum { PARTS = 9 };

/* Records an op of these sizes; returns the number of terms in its longest sums. */
typedef int64_t (*Build)(Rig *r, const int64_t *p);

typedef struct Op {
    const char *name, *sizes; /* what p holds: "rows K M" */
    Build build;
    double half;       /* the bound in bf16; a quarter of it in fp16, which has 3 more bits */
    bool exact_params; /* parameters' gradients are sums in fp32 of exact products, in any type */
    double floor;      /* see compare: gradients */
} Op;

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t build_linear(Rig *r, const int64_t *p) {
    Tensor *x = activation(r, "x", 1, p[0], p[1]), *w = matrix(r, "w", p[2], p[1]);
    output(r, "y", op_linear(r->tape, x, w, p[3] ? vector(r, "b", p[2]) : NULL));
    return largest(p[0], largest(p[1], p[2]));
}

/* A biased layer and what the tape lets share work with it: an activation (followed 0 GELU, 1 SiLU), or the norm whose
 * branch it is (2 LayerNorm, 3 RMSNorm). */
static int64_t build_pair(Rig *r, const int64_t *p) {
    Tensor *x = activation(r, "x", 1, p[0], p[1]), *w = matrix(r, "w", p[2], p[1]), *sum;
    Tensor *layer = op_linear(r->tape, x, w, vector(r, "b", p[2]));
    if (p[3] < 2) output(r, "y", op_activation(r->tape, layer, p[3] ? ACTIVATION_SILU : ACTIVATION_GELU_TANH));
    else
        output(r, "y",
               op_norm(r->tape, activation(r, "stream", 1, p[0], p[2]), layer, vector(r, "g", p[2]), NULL,
                       p[3] == 2 ? NORM_LAYER : NORM_RMS, 1e-5f, (float)p[4] / 100, &sum));
    return largest(p[0], largest(p[1], p[2]));
}

static int64_t build_norm(Rig *r, const int64_t *p) {
    Tensor *x = activation(r, "x", 1, p[0], p[1]), *delta = p[3] ? activation(r, "delta", 1, p[0], p[1]) : NULL, *sum;
    Tensor *w = vector(r, "w", p[1]), *b = p[4] ? vector(r, "b", p[1]) : NULL;
    Tensor *y = op_norm(r->tape, x, delta, w, b, (NormKind)p[2], 1e-5f, (float)p[5] / 100, &sum);
    output(r, "y", y);
    if (delta) output(r, "sum", sum);
    return largest(p[0], p[1]);
}

/* repeat: tokens are the first so many only. scale: in thousandths; 0 is 1. */
static int64_t build_embedding(Rig *r, const int64_t *p) {
    int64_t n = p[0] * p[1];
    int32_t *ids = (int32_t *)rig_array(r, n), *positions = (int32_t *)rig_array(r, n);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)rng_below(&rig_rng, (uint64_t)(p[5] ? p[5] : p[2]));
        positions[i] = (int32_t)(i % p[1]);
    }
    Tensor *tokens = rig_ints(r, "tokens", 2, p, ids), *at = rig_ints(r, "positions", 2, p, positions);
    Tensor *wte = matrix(r, "wte", p[2], p[3]), *wpe = p[4] ? matrix(r, "wpe", p[1], p[3]) : NULL;
    output(r, "y", op_embedding(r->tape, tokens, at, wte, wpe, p[6] ? (float)p[6] / 1000 : 1));
    return n;
}

static int64_t build_head_norm(Rig *r, const int64_t *p) {
    Tensor *x = activation(r, "x", 1, p[0], (p[1] + 2 * p[2]) * p[3]), *q = vector(r, "q", p[3]),
           *k = vector(r, "k", p[3]);
    NormKind kind = p[4] ? NORM_RMS_ONE : NORM_RMS;
    output(r, "y", op_head_norm(r->tape, x, q, k, kind, 1e-6f, (int)p[1], (int)p[2], (int)p[3]));
    return largest(p[0] * largest(p[1], p[2]), p[3]);
}

/* Without gradients, where it works in place. */
static int64_t build_head_norm_alone(Rig *r, const int64_t *p) { return build_head_norm(r, p); }

/* rotated: elements of each head; 0: all. */
static int64_t build_rope(Rig *r, const int64_t *p) {
    int64_t n = p[0] * p[1], d = p[4], rotated = p[5] ? p[5] : d, context = p[1] + 3;
    int32_t *positions = (int32_t *)rig_array(r, n);
    for (int64_t i = 0; i < n; i++) positions[i] = (int32_t)rng_below(&rig_rng, (uint64_t)context);
    Tensor *x = activation(r, "x", p[0], p[1], (p[2] + 2 * p[3]) * d);
    Tensor *table = rig_floats(r, "cos_sin", 2, (int64_t[]){context, rotated}, rig_normal(r, context * rotated, 1));
    output(r, "y", op_rope(r->tape, x, rig_ints(r, "positions", 2, p, positions), table, (int)p[2], (int)p[3], (int)d));
    return 2;
}

static AttentionShape shape_of(const int64_t *p) {
    return (AttentionShape){.heads = (int)p[2], .kv_heads = (int)p[3], .head_dim = (int)p[4], .window = p[5]};
}

static int64_t build_attention(Rig *r, const int64_t *p) {
    AttentionShape shape = shape_of(p);
    shape.dropout = (float)p[7] / 100;
    shape.softcap = (float)p[8];
    Tensor *x = activation(r, "x", p[0], p[1], (p[2] + 2 * p[3]) * p[4]), *starts = NULL;
    if (p[6]) { /* documents of some 40 tokens */
        int32_t *first = (int32_t *)rig_array(r, p[0] * p[1]);
        for (int64_t b = 0; b < p[0]; b++)
            for (int64_t t = 1; t < p[1]; t++)
                first[b * p[1] + t] = rng_below(&rig_rng, 40) ? first[b * p[1] + t - 1] : (int32_t)t;
        starts = rig_ints(r, "starts", 2, p, first);
    }
    output(r, "y", op_attention(r->tape, x, &shape, starts, NULL, NULL));
    return largest(p[1], p[4]);
}

/* p[6]: positions of the cache, all of them filled; the sequences have from 0 to as many as fit. */
static int64_t build_decode(Rig *r, const int64_t *p) {
    AttentionShape shape = shape_of(p);
    shape.softcap = (float)p[7];
    int64_t width = 2 * p[3] * p[4], room = p[6] - p[1];
    Tensor *x = activation(r, "x", p[0], p[1], (p[2] + 2 * p[3]) * p[4]);
    Tensor *cache = rig_buffer(r, "cache", 3, (int64_t[]){p[0], p[6], width});
    int32_t *past = (int32_t *)rig_array(r, p[0]);
    for (int64_t b = 0; b < p[0]; b++)
        past[b] = (int32_t)(b == 0 ? room : b == 1 ? 0 : (int64_t)rng_below(&rig_rng, (uint64_t)room + 1));
    float *filled = values(r, p[0] * p[6] * width, 1);
    uint16_t *half = (uint16_t *)rig_array(r, p[0] * p[6] * width);
    for (int64_t i = 0; i < p[0] * p[6] * width; i++)
        half[i] = cache->dtype == DTYPE_BF16 ? f32_to_bf16(filled[i]) : f32_to_f16(filled[i]);
    rig_upload(r, cache, cache->dtype == DTYPE_F32 ? (void *)filled : half);
    Tensor *at = rig_ints(r, "past", 1, p, past);
    rig_output(r, "y", op_attention(r->tape, x, &shape, NULL, cache, at), NULL);
    rig_output(r, "cache", cache, NULL);
    return largest(p[6], p[4]);
}

static int64_t build_activation(Rig *r, const int64_t *p) {
    output(r, "y", op_activation(r->tape, activation(r, "x", 1, p[0], p[1]), (ActivationKind)p[2]));
    return 1;
}

static int64_t build_glu(Rig *r, const int64_t *p) {
    output(r, "y", op_glu(r->tape, activation(r, "x", 1, p[0], 2 * p[1]), (ActivationKind)p[2]));
    return 1;
}

static int64_t build_dropout(Rig *r, const int64_t *p) {
    output(r, "y", op_dropout(r->tape, activation(r, "x", 1, p[0], p[1]), (float)p[2] / 100));
    return 1;
}

static int64_t build_cross_entropy(Rig *r, const int64_t *p) {
    int32_t *ids = (int32_t *)rig_array(r, p[0]);
    for (int64_t i = 0; i < p[0]; i++)
        ids[i] = (int64_t)rng_below(&rig_rng, 100) < p[4] ? -100 : (int32_t)rng_below(&rig_rng, (uint64_t)p[2]);
    Tensor *x = activation(r, "x", 1, p[0], p[1]), *w = matrix(r, "w", p[2], p[1]), *hits;
    Tensor *labels = rig_ints(r, "labels", 2, (int64_t[]){1, p[0]}, ids);
    Tensor *scale = p[5] ? rig_floats(r, "loss_scale", 1, (int64_t[]){1}, &(float){8}) : NULL;
    rig_output(r, "losses", op_cross_entropy(r->tape, x, w, labels, (float)p[3] / 100, (float)p[6], scale, &hits),
               NULL);
    rig_output(r, "hits", hits, NULL);
    return largest(p[0], largest(p[1], p[2]));
}

static int64_t build_logits(Rig *r, const int64_t *p) {
    int32_t *at = (int32_t *)rig_array(r, p[0]);
    for (int64_t b = 0; b < p[0]; b++) at[b] = (int32_t)rng_below(&rig_rng, (uint64_t)p[1]);
    Tensor *x = activation(r, "x", p[0], p[1], p[2]), *w = matrix(r, "w", p[3], p[2]);
    rig_output(r, "y", op_logits(r->tape, x, w, rig_ints(r, "at", 1, p, at), (float)p[4]), NULL);
    return p[2];
}

/* ---------------------------------------------------------------------------------------------------- one case */

static Rig rig_of(const Op *op, const int64_t *p, Device *device, DType type, DType grads, bool with_grad,
                  int64_t *terms) {
    Rig r;
    rig_rng.counter = 0; /* the same values on both devices */
    rig_new(&r, device, type, with_grad);
    r.grad_dtype = grads;
    *terms = op->build(&r, p);
    return r;
}

static void title_of(char *title, size_t size, const Op *op, const int64_t *p, DType type, DType grads) {
    char names[64];
    int n = snprintf(title, size, "%s %s%s", op->name, dtype_name(type), grads == DTYPE_BF16 ? ", bf16 gradients" : "");
    snprintf(names, sizeof names, "%s", op->sizes);
    for (char *name = strtok(names, " "); name; name = strtok(NULL, " "))
        n += snprintf(title + n, size - (size_t)n, " %s=%lld", name, (long long)*p++);
}

static float *copied(Rig *to, const float *x, int64_t n) {
    float *y = rig_array(to, n);
    memcpy(y, x, (size_t)n * sizeof *x);
    return y;
}

/* Rows of an activation come as a parameter too; their gradient has the op's rounding. */
static bool is_activation(const RigInput *in) { return !strcmp(in->name, "x") || !strcmp(in->name, "delta"); }

/* Gradients are `times` those of the reference. */
static void compare_grads(const Op *op, const char *title, Rig *gpu, Rig *cpu, double exact, double rounded,
                          float times) {
    for (int i = 0; i < cpu->n_in; i++) {
        char what[48];
        if (!cpu->in[i].grad) continue;
        int64_t n = cpu->in[i].n;
        float *want = copied(gpu, cpu->in[i].grad, n);
        for (int64_t k = 0; k < n; k++) want[k] *= times;
        bool tight = op->exact_params && gpu->grad_dtype == DTYPE_F32 && !is_activation(&cpu->in[i]);
        snprintf(what, sizeof what, "d%s%s", cpu->in[i].name, times == 1 ? "" : ", added to,");
        compare(title, what, gpu->in[i].grad, want, n, tight ? exact : rounded, op->floor * times);
    }
}

static void compare_outputs(const char *title, Rig *gpu, Rig *cpu, double rounded) {
    for (int i = 0; i < cpu->n_out; i++) {
        const char *name = cpu->out[i].name;
        double bound = cpu->out[i].tensor->dtype == DTYPE_I32 ? 0 : rounded;
        compare(title, name, rig_values(gpu, name), rig_values(cpu, name), cpu->out[i].n, bound, 0);
    }
}

static void run_twice_and_more(const Op *op, const char *title, Rig *gpu, Rig *cpu, double exact, double rounded) {
    TapeRun run = {.seed = 3, .position = 5, .grad_scale = 0.5f, .training = true};
    rig_run(cpu, &run);
    if (rig_try(gpu, &run) != TANE_OK) {
        bad("%s: %s", title, err_message());
        return;
    }
    compare_outputs(title, gpu, cpu, rounded);
    compare_grads(op, title, gpu, cpu, exact, rounded, 1);
    float *outs[RIG_OUTPUTS], *grads[RIG_INPUTS];
    for (int i = 0; i < gpu->n_out; i++) outs[i] = rig_values(gpu, gpu->out[i].name);
    for (int i = 0; i < gpu->n_in; i++) grads[i] = gpu->in[i].grad ? copied(gpu, gpu->in[i].grad, gpu->in[i].n) : NULL;
    if (rig_try(gpu, &run) != TANE_OK) {
        bad("%s, a second time: %s", title, err_message());
        return;
    }
    for (int i = 0; i < gpu->n_out; i++)
        same_bits(title, gpu->out[i].name, outs[i], rig_values(gpu, gpu->out[i].name), gpu->out[i].n);
    for (int i = 0; i < gpu->n_in; i++)
        if (grads[i]) same_bits(title, gpu->in[i].name, grads[i], gpu->in[i].grad, gpu->in[i].n);
    if (!gpu->with_grad) return;
    run.accumulate = true;
    if (rig_try(gpu, &run) != TANE_OK) bad("%s, adding: %s", title, err_message());
    else compare_grads(op, title, gpu, cpu, exact, rounded, 2);
}

static void check_case(const Op *op, const int64_t *p, DType type, DType grads) {
    char title[256];
    int64_t terms;
    bool with_grad = op->build != build_decode && op->build != build_logits && op->build != build_head_norm_alone;
    title_of(title, sizeof title, op, p, type, grads);
    rounding = type;
    Rig cpu = rig_of(op, p, backend_cpu(), DTYPE_F32, DTYPE_F32, with_grad, &terms),
        gpu = rig_of(op, p, test_device(), type, grads, with_grad, &terms);
    double exact = 1e-5 * fmax(1, sqrt((double)terms) / 16), rounded = type == DTYPE_F32
                                                                           ? grads == DTYPE_F32 ? exact : op->half
                                                                       : type == DTYPE_BF16 ? op->half
                                                                                            : op->half / 4;
    rig_ready(&cpu);
    if (rig_plan(&gpu) != TANE_OK) bad("%s: %s", title, err_message());
    else run_twice_and_more(op, title, &gpu, &cpu, exact, rounded);
    rig_free(&cpu);
    rig_free(&gpu);
}

/* All types; for ops with parameters bf16 gradients as well. */
static void check_cases(const Op *op, const int64_t (*cases)[PARTS], size_t n, bool params) {
    begin();
    for (size_t i = 0; i < n; i++) {
        for (int type = DTYPE_F32; type <= rig_last_type(test_device()); type++)
            check_case(op, cases[i], (DType)type, DTYPE_F32);
        if (params) check_case(op, cases[i], DTYPE_BF16, DTYPE_BF16);
    }
    finish((int)n);
}
#define CHECK(op, cases, params) check_cases(&(op), cases, sizeof cases / sizeof *cases, params)

/* ------------------------------------------------------------------------------------------------------- shapes */

static void linear(void **state) {
    (void)state;
    static const Op op = {"linear", "rows K M bias", build_linear, 2e-2, true, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1},        {3, 5, 7, 1},       {1, 33, 65, 0},       {2, 64, 3, 1},       {17, 31, 129, 1},
        {1, 512, 1536, 1},   {4, 520, 72, 0},    {8, 2048, 512, 0},    {33, 24, 40, 1},     {128, 512, 512, 0},
        {128, 512, 1536, 1}, {1000, 96, 288, 1}, {2048, 384, 1536, 1}, {4100, 768, 768, 1}, {8192, 2048, 512, 0},
    };
    CHECK(op, cases, true);
}

static void pairs(void **state) {
    (void)state;
    static const Op op = {"linear and", "rows K M behind dropout%", build_pair, 3e-2, false, 1};
    static const int64_t cases[][PARTS] = {
        {1, 8, 7, 0, 0},      {1, 8, 16, 0, 0},      {128, 64, 256, 0, 0},   {512, 32, 33, 0, 0},
        {513, 48, 64, 1, 0},  {3000, 64, 512, 0, 0}, {2, 16, 7, 2, 0},       {128, 64, 384, 2, 30},
        {700, 32, 384, 3, 0}, {700, 32, 768, 2, 30}, {300, 64, 1280, 3, 30}, {40, 24, 6152, 2, 0},
    };
    CHECK(op, cases, true);
}

/* ||out - ref|| / ||ref|| of a product in each mode: near what its mantissa allows, and not nearer. */
static void product_modes(void **state) {
    (void)state;
    static const struct {
        MatmulMode mode;
        DType type;
        const char *name;
        double least, most;
    } modes[] = {{MATMUL_EXACT, DTYPE_F32, "fp32", 0, 1e-6},
                 {MATMUL_TF32, DTYPE_F32, "tf32", 1e-5, 1e-3},
                 {MATMUL_FP8_TENSOR, DTYPE_BF16, "fp8", 1e-2, 6e-2},
                 {MATMUL_FP8_BLOCK, DTYPE_BF16, "fp8_block", 1e-2, 6e-2}};
    static const Op op = {"linear", "rows K M bias", build_linear, 0, false, 0};
    static const int64_t p[PARTS] = {256, 512, 384, 0};
    begin();
    for (int i = 0; i < 4; i++) {
        Device *device = test_device();
        double error = 0, size = 0;
        int64_t terms, n = p[0] * p[2];
        rounding = modes[i].type;
        Rig cpu = rig_of(&op, p, backend_cpu(), DTYPE_F32, DTYPE_F32, true, &terms);
        device->matmul = modes[i].mode;
        Rig gpu = rig_of(&op, p, device, modes[i].type, DTYPE_F32, true, &terms);
        rig_ready(&cpu);
        rig_ready(&gpu);
        device->matmul = MATMUL_EXACT;
        rig_run(&cpu, &(TapeRun){0});
        device->matmul = modes[i].mode; /* plans are looked up by it */
        rig_run(&gpu, &(TapeRun){0});
        device->matmul = MATMUL_EXACT;
        const float *want = rig_values(&cpu, "y"), *got = rig_values(&gpu, "y");
        for (int64_t e = 0; e < n; e++) {
            error += ((double)got[e] - want[e]) * ((double)got[e] - want[e]);
            size += (double)want[e] * want[e];
        }
        double share = sqrt(error / size);
        if (!(share >= modes[i].least && share <= modes[i].most))
            bad("a product in %s is off by %g of its norm; %g to %g is what its mantissa gives", modes[i].name, share,
                modes[i].least, modes[i].most);
        rig_free(&cpu);
        rig_free(&gpu);
    }
    finish(4);
}

static void norm(void **state) {
    (void)state;
    static const Op op = {"norm", "rows C kind delta bias dropout%", build_norm, 1e-2, false, 1};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 0, 0, 0},      {5, 3, 0, 0, 1, 0},      {2, 7, 1, 0, 1, 0},       {37, 12, 0, 0, 0, 0},
        {1, 33, 0, 1, 1, 20},    {37, 33, 1, 1, 0, 20},   {300, 64, 0, 1, 1, 0},    {3, 100, 1, 1, 1, 0},
        {128, 384, 0, 1, 1, 20}, {128, 512, 1, 1, 0, 20}, {1, 512, 0, 0, 1, 0},     {1030, 512, 0, 1, 1, 20},
        {200, 768, 0, 1, 1, 20}, {65, 1000, 1, 0, 0, 0},  {8192, 1024, 0, 1, 1, 0}, {77, 2048, 1, 1, 0, 0},
        {9, 3001, 0, 1, 1, 0},   {40, 4096, 1, 1, 0, 0},  {21, 8192, 0, 1, 1, 0},   {513, 8192, 1, 1, 0, 0},
        {1, 1, 2, 0, 0, 0},      {37, 33, 2, 1, 1, 20},   {1, 640, 2, 1, 0, 0},     {128, 512, 2, 1, 0, 20},
        {1030, 640, 2, 1, 0, 0}, {300, 2304, 2, 1, 0, 0}, {9, 3001, 2, 1, 0, 0},    {40, 8192, 2, 1, 0, 10},
    };
    CHECK(op, cases, true);
}

static void embedding(void **state) {
    (void)state;
    static const Op op = {"embedding", "B T V C wpe repeat scale/1000", build_embedding, 1e-2, true, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1, 0, 0},
        {2, 3, 5, 7, 1, 0},
        {4, 50, 11, 33, 1, 0},
        {4, 50, 11, 33, 0, 1},
        {1, 300, 700, 3, 1, 2},
        {8, 128, 1000, 64, 1, 0},
        {128, 16, 35, 512, 1, 0},
        {32, 512, 50304, 128, 1, 0},
        {8, 1024, 50304, 768, 1, 3},
        {16, 700, 32000, 96, 0, 1},
        {1, 1, 1, 1, 0, 0, 25298},
        {2, 3, 5, 7, 1, 0, 25298},
        {4, 128, 999, 640, 0, 0, 25298},
        {3, 700, 500, 64, 0, 2, 25298},
        {2, 900, 700, 33, 1, 0, 25298},
    };
    CHECK(op, cases, true);
}

static const int64_t head_norms[][PARTS] = {
    {1, 1, 1, 1, 0},      {1, 2, 1, 33, 1},   {7, 3, 1, 64, 0},      {2, 16, 8, 128, 0},  {33, 4, 1, 256, 1},
    {128, 5, 5, 80, 1},   {300, 4, 2, 33, 0}, {1000, 32, 8, 128, 0}, {65, 8, 4, 256, 1},  {200, 1, 1, 64, 1},
    {2050, 14, 2, 64, 0}, {40, 3, 1, 512, 0}, {9, 2, 2, 520, 1},     {20, 2, 1, 1000, 0}, {17, 6, 6, 8, 0},
};

static void head_norm(void **state) {
    (void)state;
    static const Op op = {"head_norm", "rows H KV D one", build_head_norm, 1e-2, false, 1};
    CHECK(op, head_norms, true);
}

static void head_norm_in_place(void **state) {
    (void)state;
    static const Op op = {"head_norm in place", "rows H KV D one", build_head_norm_alone, 1e-2, false, 0};
    CHECK(op, head_norms, false);
}

static void rope(void **state) {
    (void)state;
    static const Op op = {"rope", "B T H KV D rotated", build_rope, 1e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1, 2},       {2, 7, 3, 1, 6},         {3, 33, 4, 2, 32},     {1, 300, 8, 8, 64},
        {2, 65, 5, 5, 10},     {4, 128, 8, 1, 80},      {2, 200, 32, 8, 64},   {2, 200, 8, 2, 128},
        {1, 1, 1, 1, 3, 2},    {2, 7, 3, 1, 9, 4},      {3, 33, 4, 2, 64, 16}, {1, 1, 8, 8, 80, 32},
        {2, 65, 5, 1, 96, 24}, {4, 128, 8, 2, 128, 64}, {2, 9, 2, 1, 256, 2},  {2, 9, 2, 1, 36, 32},
    };
    CHECK(op, cases, false);
}

static void attention(void **state) {
    (void)state;
    static const Op op = {"attention", "B T H KV D window starts dropout% softcap", build_attention, 2e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1, 1, 0, 0, 0},          {2, 3, 2, 1, 5, 0, 0, 0},         {3, 2, 4, 4, 32, 0, 0, 0},
        {128, 16, 8, 8, 64, 0, 0, 0},      {64, 17, 8, 2, 64, 0, 0, 0},      {2, 15, 3, 3, 80, 0, 0, 0},
        {1, 63, 4, 2, 128, 0, 0, 0},       {2, 64, 8, 8, 64, 0, 0, 0},       {2, 65, 6, 3, 64, 0, 0, 0},
        {1, 127, 5, 1, 32, 0, 0, 0},       {2, 128, 8, 2, 128, 0, 0, 0},     {1, 129, 2, 2, 80, 0, 0, 0},
        {2, 256, 6, 6, 64, 0, 0, 0},       {1, 333, 7, 7, 32, 0, 0, 0},      {1, 511, 4, 1, 64, 0, 0, 0},
        {2, 1024, 8, 8, 64, 0, 0, 0},      {1, 1024, 8, 2, 128, 0, 0, 0},    {1, 1100, 3, 1, 80, 0, 0, 0},
        {2, 70, 4, 2, 7, 9, 0, 0},         {2, 200, 4, 2, 64, 17, 0, 0},     {1, 700, 4, 4, 128, 256, 0, 0},
        {1, 300, 2, 1, 32, 1, 0, 0},       {3, 40, 2, 1, 5, 0, 1, 0},        {3, 200, 4, 2, 64, 0, 1, 0},
        {2, 600, 8, 4, 128, 0, 1, 0},      {2, 300, 4, 2, 32, 33, 1, 0},     {2, 33, 3, 1, 9, 0, 0, 30},
        {4, 128, 6, 6, 64, 0, 0, 20},      {2, 256, 8, 2, 64, 0, 0, 10},     {1, 500, 4, 4, 128, 0, 0, 20},
        {2, 150, 4, 2, 80, 40, 1, 20},     {3, 16, 1, 1, 256, 0, 0, 0},      {1, 1, 1, 1, 1, 0, 0, 0, 2},
        {2, 3, 2, 1, 5, 0, 0, 0, 1},       {128, 16, 8, 8, 64, 0, 0, 0, 2},  {3, 15, 4, 2, 128, 0, 0, 0, 1},
        {2, 64, 8, 4, 64, 0, 0, 0, 50},    {2, 65, 6, 3, 80, 0, 0, 0, 1},    {1, 127, 5, 1, 32, 0, 0, 0, 2},
        {2, 256, 8, 2, 128, 0, 0, 0, 2},   {1, 333, 4, 2, 64, 0, 0, 0, 50},  {2, 1024, 8, 4, 64, 0, 0, 0, 2},
        {1, 700, 4, 2, 128, 256, 0, 0, 2}, {2, 200, 4, 2, 64, 17, 0, 0, 1},  {3, 200, 4, 2, 64, 0, 1, 0, 2},
        {2, 300, 4, 2, 32, 33, 1, 0, 1},   {3, 40, 2, 1, 5, 0, 1, 0, 2},     {2, 33, 3, 1, 9, 0, 0, 30, 2},
        {4, 128, 6, 6, 64, 0, 0, 20, 1},   {2, 150, 4, 2, 80, 40, 1, 20, 2}, {2, 100, 4, 2, 256, 0, 0, 0, 2},
        {1, 130, 2, 1, 256, 40, 0, 0, 50},
    };
    CHECK(op, cases, false);
}

static void attention_over_a_cache(void **state) {
    (void)state;
    static const Op op = {"decode", "B T H KV D window P softcap", build_decode, 2e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1, 1, 0, 1},         {3, 1, 4, 2, 5, 0, 9},          {5, 1, 8, 8, 64, 0, 33},
        {2, 1, 32, 8, 64, 0, 1100},    {8, 1, 8, 1, 128, 0, 700},      {4, 1, 6, 6, 80, 0, 257},
        {64, 1, 12, 12, 64, 0, 300},   {1, 1, 32, 8, 128, 0, 4096},    {3, 1, 4, 2, 64, 50, 600},
        {4, 2, 4, 2, 7, 0, 12},        {3, 5, 6, 2, 32, 0, 64},        {2, 16, 8, 8, 64, 0, 40},
        {2, 100, 8, 2, 64, 0, 300},    {1, 513, 4, 1, 128, 0, 1024},   {3, 70, 4, 4, 80, 20, 200},
        {256, 1, 32, 8, 64, 0, 64},    {2, 33, 3, 1, 9, 5, 60},        {1, 1, 1, 1, 1, 0, 1, 2},
        {3, 1, 4, 2, 5, 0, 9, 1},      {2, 1, 32, 8, 64, 0, 1100, 2},  {4, 1, 8, 4, 256, 0, 257, 50},
        {3, 1, 8, 4, 128, 50, 600, 2}, {1, 1, 8, 1, 80, 0, 4096, 1},   {4, 2, 4, 2, 7, 0, 12, 2},
        {3, 5, 6, 2, 32, 0, 64, 1},    {2, 100, 8, 2, 64, 0, 300, 2},  {1, 513, 4, 1, 128, 0, 1024, 1},
        {3, 70, 4, 4, 80, 20, 200, 2}, {2, 40, 8, 4, 256, 30, 100, 2},
    };
    CHECK(op, cases, false);
}

static void activations(void **state) {
    (void)state;
    static const Op op = {"activation", "rows C kind", build_activation, 1e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 0},     {7, 33, 0}, {50, 512, 0},   {1000, 2048, 0}, {3, 5, 1},   {7, 33, 1},
        {500, 768, 1}, {7, 33, 2}, {129, 1000, 2}, {1, 3, 3},       {65, 65, 3}, {700, 1536, 3},
    };
    CHECK(op, cases, false);
}

static void glu(void **state) {
    (void)state;
    static const Op op = {"glu", "rows F kind", build_glu, 1e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 3}, {7, 33, 3}, {128, 1024, 3}, {1000, 2048, 3}, {3, 5, 0}, {65, 512, 0}, {9, 129, 1}, {50, 64, 2},
    };
    CHECK(op, cases, false);
}

static void dropout(void **state) {
    (void)state;
    static const Op op = {"dropout", "rows C p%", build_dropout, 1e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 50}, {1, 3, 50}, {7, 33, 10}, {5, 6, 90}, {129, 384, 20}, {1000, 1024, 10},
    };
    CHECK(op, cases, false);
}

static void cross_entropy(void **state) {
    (void)state;
    static const Op op = {
        "cross_entropy", "rows C V smoothing% ignored% scaled softcap", build_cross_entropy, 2e-2, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 0, 0, 0},
        {3, 7, 5, 0, 0, 0},
        {17, 33, 35, 10, 30, 0},
        {128, 512, 35, 0, 70, 1},
        {64, 96, 65, 0, 0, 0},
        {300, 64, 1000, 10, 50, 1},
        {1030, 384, 65, 0, 10, 0},
        {500, 128, 32000, 0, 0, 1},
        {700, 64, 50257, 5, 10, 0},
        {2100, 96, 50304, 0, 0, 0},
        {40, 768, 50304, 0, 90, 0},
        {9, 24, 50304, 0, 100, 0},
        {1, 1, 1, 0, 0, 0, 30},
        {3, 7, 5, 10, 0, 0, 2},
        {17, 33, 35, 10, 30, 0, 30},
        {300, 64, 1000, 10, 50, 1, 2},
        {1030, 384, 65, 0, 10, 0, 1},
        {700, 64, 50257, 5, 10, 0, 30},
        {40, 96, 256000, 0, 0, 1, 30},
        {9, 24, 50304, 20, 0, 0, 1},
    };
    CHECK(op, cases, true);
}

static void logits(void **state) {
    (void)state;
    /* fp32 from exact products in any type. Tensor cores cut off what they add 16 terms at a time below the 24th bit of
     * the largest, so that up to C / 16 such errors of one sign come together: 64 x 2^-24 for C = 1024. */
    static const Op op = {"logits", "B T C V softcap", build_logits, 1.6e-5, false, 0};
    static const int64_t cases[][PARTS] = {
        {1, 1, 1, 1},         {3, 4, 19, 37},      {1, 1, 512, 35},         {5, 9, 33, 1000},
        {1, 1, 1024, 128256}, {64, 1, 768, 50257}, {8, 100, 384, 65},       {256, 1, 512, 32000},
        {1, 1, 1, 1, 30},     {3, 4, 19, 37, 1},   {1, 1, 640, 262144, 30}, {64, 2, 96, 1001, 2},
    };
    CHECK(op, cases, false);
}

/* ---------------------------------------------------------------------------------------------------- the others */

static void loss_sum(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 33, 1024, 1025, 65536, 300001};
    begin();
    for (int i = 0; i < 7; i++)
        for (int broken = 0; broken < 3; broken++) {
            Rig r[2];
            char title[64];
            int64_t n = sizes[i];
            snprintf(title, sizeof title, "loss_sum n=%lld broken=%d", (long long)n, broken);
            for (int gpu = 0; gpu < 2; gpu++) {
                rig_rng.counter = 0;
                rig_new(&r[gpu], gpu ? test_device() : backend_cpu(), DTYPE_F32, false);
                float *x = rig_normal(&r[gpu], n, 1);
                for (int64_t k = 0; k < n; k++) x[k] = fabsf(x[k]);
                if (broken) x[n - 1] = NAN;
                if (broken > 1) x[n / 2] = INFINITY;
                rig_output(&r[gpu], "sum", op_loss_sum(r[gpu].tape, rig_floats(&r[gpu], "losses", 1, &n, x)), NULL);
                rig_ready(&r[gpu]);
                rig_run(&r[gpu], &(TapeRun){0});
            }
            const float *want = rig_values(&r[0], "sum"), *got = rig_values(&r[1], "sum");
            if (broken) same_bits(title, "the bad loss", got + 1, want + 1, 1);
            else compare(title, "the sum", got, want, 2, 1e-6, 0);
            rig_free(&r[0]);
            rig_free(&r[1]);
        }
    finish(21);
}

enum { ROWS = 96 };

static void sample_on(Device *device, int64_t vocab, const SampleRow *rows, SampleChoice *out) {
    Rig r;
    rig_rng.counter = 0;
    rig_new(&r, device, DTYPE_F32, false);
    Tensor *in = rig_floats(&r, "logits", 2, (int64_t[]){ROWS, vocab}, rig_normal(&r, ROWS * vocab, 2));
    Tensor *how = tape_external(r.tape, "rows", DTYPE_U8, 2, (int64_t[]){ROWS, sizeof *rows});
    rig_place(&r, how);
    rig_upload(&r, how, rows);
    Tensor *choices = op_sample(r.tape, in, how);
    assert_non_null(choices);
    choices->keep = true;
    rig_ready(&r);
    rig_run(&r, &(TapeRun){0});
    memcpy(out, rig_download(&r, choices), ROWS * sizeof *out);
    rig_free(&r);
}

/* A draw may fall on the border of two tokens, and exponentials differ in their last bit: one in a thousand may. */
static void sample(void **state) {
    (void)state;
    static const int64_t vocabs[] = {1, 5, 35, 1000, 1025, 32000, 50257, 128256};
    int draws = 0, others = 0;
    begin();
    for (int i = 0; i < 8; i++) {
        SampleRow rows[ROWS];
        SampleChoice want[ROWS], got[ROWS], again[ROWS];
        for (int k = 0; k < ROWS; k++) {
            Sampling how = {.temperature = (double[]){0, 1, 0.7, 2}[k % 4],
                            .top_p = (double[]){1, 0.9, 0.3}[k / 4 % 3],
                            .top_k = (int64_t[]){0, 1, 5, 40, 1000}[k / 12 % 5],
                            .seed = 9,
                            .stream = (uint64_t)k};
            rows[k] = sampling_row(&how, (uint64_t)(k * 3), k % 7 == 6 && vocabs[i] > 3 ? vocabs[i] - 3 : vocabs[i]);
        }
        sample_on(backend_cpu(), vocabs[i], rows, want);
        sample_on(test_device(), vocabs[i], rows, got);
        sample_on(test_device(), vocabs[i], rows, again);
        if (memcmp(got, again, sizeof got)) bad("sample V=%lld: another choice from run to run", (long long)vocabs[i]);
        for (int k = 0; k < ROWS; k++) {
            bool fixed = rows[k].temperature == 0 || rows[k].top_k == 1;
            draws++;
            if (got[k].token != want[k].token) {
                others++;
                print_message("sample V=%lld temperature=%g top_k=%d top_p=%g: token %d, on the CPU %d\n",
                              (long long)vocabs[i], (double)rows[k].temperature, rows[k].top_k, (double)rows[k].top_p,
                              got[k].token, want[k].token);
                failures += fixed;
            } else if (fabsf(got[k].logprob - want[k].logprob) > 2e-5f) {
                bad("sample V=%lld row %d: log-probability %g, on the CPU %g", (long long)vocabs[i], k,
                    (double)got[k].logprob, (double)want[k].logprob);
            }
        }
    }
    if (others * 1000 > draws) bad("sample: %d of %d choices are others than on the CPU", others, draws);
    finish(8);
}

/* Some updates of n elements in two segments. */
typedef struct Update {
    float *master, *m, *v, *weights, *control, *state;
} Update;

static Tensor *flat(Rig *r, const char *name, DType type, int64_t n, const float *x) {
    Tensor *t = tape_external(r->tape, name, type, 1, &n);
    assert_non_null(t);
    rig_place(r, t);
    rig_fill(r, t, 0);
    if (!x) return t;
    uint16_t *half = (uint16_t *)rig_array(r, n);
    for (int64_t i = 0; i < n; i++) half[i] = type == DTYPE_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
    rig_upload(r, t, type == DTYPE_F32 ? (const void *)x : half);
    return t;
}

static float *wide(Rig *keep, Rig *r, const Tensor *t) {
    if (!t) return NULL;
    int64_t n = tensor_count(t);
    float *to = rig_array(keep, n);
    const void *x = rig_download(r, t);
    for (int64_t i = 0; i < n; i++)
        to[i] = t->dtype == DTYPE_F32    ? ((const float *)x)[i]
                : t->dtype == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)x)[i])
                                         : f16_to_f32(((const uint16_t *)x)[i]);
    return to;
}

static Update update_on(Rig *keep, Device *device, int64_t n, bool bf16_states, DType weights, bool halt_in_between) {
    Rig r;
    DType type = bf16_states ? DTYPE_BF16 : DTYPE_F32;
    const AdamSegment segments[] = {{0, n / 3, 0.1f, 1}, {n / 3, n, 0, 0.5f}};
    const float hyper[UPDATE_HYPER] = {1e-2f, 0.9f, 0.95f, 1e-8f, 1, 0, weights == DTYPE_F16 ? 2 : 0},
                state[UPDATE_STATE] = {[STATE_LOSS_SCALE] = weights == DTYPE_F16 ? 64 : 1};
    rig_rng.counter = 0;
    rig_new(&r, device, DTYPE_F32, false);
    float *start = rig_normal(&r, n, 1);
    Tensor *master = bf16_states ? NULL : flat(&r, "master", DTYPE_F32, n, start), *m = flat(&r, "m", type, n, NULL),
           *v = flat(&r, "v", type, n, NULL), *g = flat(&r, "g", type, n, start);
    Tensor *at = flat(&r, "hyper", DTYPE_F32, UPDATE_HYPER, hyper),
           *s = flat(&r, "state", DTYPE_F32, UPDATE_STATE, state);
    Tensor *w = weights == DTYPE_F32 ? NULL : flat(&r, "weights", weights, n, start);
    Tensor *control = op_grad_norm(r.tape, g, at, s);
    op_adamw(r.tape, master, m, v, g, control, at, w, segments, 2);
    if (control) control->keep = true;
    rig_ready(&r);
    for (uint64_t step = 0; step < 4; step++) {
        float *grads = rig_normal(&r, n, step == 1 ? 1e-3f : 1);
        if (halt_in_between && step == 2) grads[n - 1] = INFINITY;
        uint16_t *half = (uint16_t *)rig_array(&r, n);
        for (int64_t i = 0; i < n; i++) half[i] = f32_to_bf16(grads[i]);
        rig_upload(&r, g, type == DTYPE_F32 ? (void *)grads : half);
        rig_run(&r, &(TapeRun){.seed = 4, .position = step});
    }
    Update u = {wide(keep, &r, master), wide(keep, &r, m),       wide(keep, &r, v),
                wide(keep, &r, w),      wide(keep, &r, control), wide(keep, &r, s)};
    rig_free(&r);
    return u;
}

static void update(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 31, 64, 1000, 65537, 1000003};
    static const struct {
        bool bf16_states;
        DType weights;
    } kinds[] = {{false, DTYPE_F32}, {false, DTYPE_BF16}, {false, DTYPE_F16}, {true, DTYPE_BF16}};
    begin();
    for (int i = 0; i < 6; i++)
        for (int kind = 0; kind < 4; kind++)
            for (int halt = 0; halt < 2; halt++) {
                Rig keep;
                char title[96];
                int64_t n = sizes[i];
                bool bf16 = kinds[kind].bf16_states;
                DType weights = kinds[kind].weights;
                if (weights == DTYPE_F16) continue; /* the CPU has none: see fp16_weights_are_rounded_masters */
                snprintf(title, sizeof title, "adamw n=%lld weights=%s%s%s", (long long)n, dtype_name(weights),
                         bf16 ? ", bf16 states" : "", halt ? ", an infinite gradient" : "");
                rig_new(&keep, backend_cpu(), DTYPE_F32, false);
                Update want = update_on(&keep, backend_cpu(), n, bf16, weights, halt),
                       got = update_on(&keep, test_device(), n, bf16, weights, halt),
                       again = update_on(&keep, test_device(), n, bf16, weights, halt);
                /* Stochastic rounding has the same noise; where the last bit of fp32 differs it may fall otherwise. */
                double bound = bf16 ? 1.0 / 128 : 2e-5;
                if (!bf16) compare(title, "master", got.master, want.master, n, bound, 0);
                if (!bf16) same_bits(title, "master", got.master, again.master, n);
                compare(title, "m", got.m, want.m, n, bound, 0);
                compare(title, "v", got.v, want.v, n, bound, 0);
                compare(title, "control", got.control, want.control, UPDATE_CONTROL, 2e-6, 0);
                compare(title, "state", got.state, want.state, UPDATE_STATE, 0, 0);
                if (weights != DTYPE_F32) compare(title, "weights", got.weights, want.weights, n, 1.0 / 128, 0);
                if (weights != DTYPE_F32) same_bits(title, "weights", got.weights, again.weights, n);
                if (weights == DTYPE_BF16 && !bf16)
                    for (int64_t k = 0; k < n; k++)
                        if (got.weights[k] != bf16_to_f32(f32_to_bf16(got.master[k]))) {
                            bad("%s: weight %lld is not its master rounded", title, (long long)k);
                            break;
                        }
                if (bf16) { /* not merely near: nearly all the same */
                    int64_t differ = 0;
                    for (int64_t k = 0; k < n; k++) differ += got.weights[k] != want.weights[k];
                    if (differ * 100 > n + 100) bad("%s: %lld weights differ from the CPU's", title, (long long)differ);
                }
                rig_free(&keep);
            }
    finish(36);
}

static void fp16_weights_are_rounded_masters(void **state) {
    (void)state;
    begin();
    for (int halt = 0; halt < 2; halt++) {
        Rig keep;
        int64_t n = 10007, k = 0;
        rig_new(&keep, backend_cpu(), DTYPE_F32, false);
        Update u = update_on(&keep, test_device(), n, false, DTYPE_F16, halt);
        while (k < n && u.weights[k] == f16_to_f32(f32_to_f16(u.master[k]))) k++;
        if (k < n)
            bad("adamw fp16: weight %lld is %g, its master %g", (long long)k, (double)u.weights[k],
                (double)u.master[k]);
        /* 64, doubled behind every second update: 4 good ones; or good good bad good */
        float scale = halt ? 64 : 256, updates = halt ? 3 : 4;
        if (u.state[STATE_LOSS_SCALE] != scale || u.state[STATE_UPDATES] != updates)
            bad("adamw fp16: scale %g after %g updates", (double)u.state[STATE_LOSS_SCALE],
                (double)u.state[STATE_UPDATES]);
        rig_free(&keep);
    }
    finish(2);
}

/* --------------------------------------------------------------------------------------------------- whole models */

enum { STEPS = 6, VOCAB = 67, B = 4, T = 40 };

typedef struct Curve {
    double loss[STEPS];
    float norm[STEPS];
} Curve;

static Curve train_on(Device *device, const char *family, DType type, TapeRecompute recompute) {
    ModelConfig c;
    Model *model;
    Optimizer *o;
    BatchTape tape;
    Batch batch;
    Curve curve;
    void *memory;
    ParamArray weights[2];
    bool llama = !strcmp(family, "llama");
    assert_ok(model_config_init(&c, family));
    c.vocab_size = VOCAB;
    c.context = 64;
    c.width = 128;
    c.layers = 3;
    c.heads = 4;
    c.kv_heads = llama ? 2 : 0;
    c.activation = llama ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    c.dropout = 0.1;
    c.tied = !llama;
    assert_ok(model_new(&model, &c, type, device));
    OptimizerOptions adam = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .max_grad_norm = 1};
    assert_ok(optimizer_new(&o, model, &adam));
    assert_ok(params_init(&model->params, 5, weights, optimizer_weights(o, weights)));
    assert_ok(batch_tape_new(&tape, model,
                             &(BatchTapeOptions){.rows = B, .width = T, .with_grad = true, .recompute = recompute}));
    assert_ok(device_alloc(device, &memory, tape_bytes(tape.tape)));
    assert_ok(tape_bind(tape.tape, memory));
    assert_ok(batch_new(&batch, B, T, false));
    for (int step = 0; step < STEPS; step++) {
        Rng rng = {.key = 3, .stream = (uint64_t)step};
        for (int i = 0; i < B * T; i++) batch.tokens[i] = (int32_t)rng_below(&rng, VOCAB);
        for (int i = 0; i < B * T; i++) batch.labels[i] = i % 7 == 3 ? -100 : (batch.tokens[i] * 5 + 1) % VOCAB;
        TapeRun run = {.seed = 8, .position = (uint64_t)step, .training = true, .grad_scale = 1.0f / 138};
        assert_ok(batch_tape_run(&tape, &batch, &run, &curve.loss[step]));
        assert_ok(optimizer_step(o, 3e-3, &run, &curve.norm[step]));
    }
    batch_free(&batch);
    batch_tape_free(&tape);
    optimizer_free(o);
    model_free(model);
    device_release(device, memory);
    return curve;
}

/* Losses and gradient norms of training steps, dropout included, beside the CPU's in fp32. */
static void training_follows_the_cpu(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2", "llama"};
    begin();
    for (int family = 0; family < 2; family++) {
        Curve want = train_on(backend_cpu(), families[family], DTYPE_F32, RECOMPUTE_NONE);
        for (int type = DTYPE_F32; type <= DTYPE_BF16; type++) {
            Curve first;
            /* GELU in the epilogue of a product sees fp32; where it is computed again it sees what is stored. */
            bool fused = family == 0 && type == DTYPE_BF16;
            for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCK; recompute++) {
                Curve got = train_on(test_device(), families[family], (DType)type, (TapeRecompute)recompute);
                if (recompute == RECOMPUTE_NONE) first = got;
                else if (memcmp(&first, &got, sizeof got) && !fused)
                    bad("%s %s: recomputation %d changes losses or norms (last loss %.9g, %.9g)", families[family],
                        dtype_name((DType)type), recompute, first.loss[STEPS - 1], got.loss[STEPS - 1]);
            }
            double bound = type == DTYPE_F32 ? 2e-4 : 3e-2;
            for (int step = 0; step < STEPS; step++) {
                double loss = fabs(first.loss[step] / want.loss[step] - 1),
                       norm = fabs((double)first.norm[step] / (double)want.norm[step] - 1);
                if (!(loss <= bound) || !(norm <= bound * 3))
                    bad("%s %s, step %d: loss %g and norm %g, on the CPU %g and %g", families[family],
                        dtype_name((DType)type), step, first.loss[step], (double)first.norm[step], want.loss[step],
                        (double)want.norm[step]);
            }
        }
    }
    finish(4);
}

/* ------------------------------------------------------------------------------------------------- what is wrong */

/* An id out of range is an error of this run alone, in the CPU's words (test_ops.c and test_attention.c have them all).
 */
static void a_device_works_on_after_a_bad_id(void **state) {
    (void)state;
    begin();
    for (int broken = 1; broken >= 0; broken--) {
        Rig r;
        int32_t ids[] = {0, 1, 2, 3, broken ? 9 : 4, 5};
        rig_new(&r, test_device(), DTYPE_F32, true);
        Tensor *tokens = rig_ints(&r, "tokens", 2, (int64_t[]){2, 3}, ids);
        output(&r, "y", op_embedding(r.tape, tokens, NULL, matrix(&r, "wte", 7, 4), NULL, 1));
        rig_ready(&r);
        Status st = rig_try(&r, &(TapeRun){0});
        if (broken) assert_error(st, TANE_EINVAL, "token 9 at row 1, place 1 is outside 0..6");
        else assert_ok(st);
        rig_free(&r);
    }
}

static void no_device(void **state) {
    (void)state;
    print_message("TANE_TEST_DEVICE names no device to be tested beside the CPU\n");
    skip();
}

int main(void) {
    const struct CMUnitTest none[] = {TEST(no_device)};
    if (test_on_cpu()) return cmocka_run_group_tests(none, NULL, NULL);
    const struct CMUnitTest tests[] = {
        TEST(linear),
        TEST(pairs),
        TEST(product_modes),
        TEST(norm),
        TEST(embedding),
        TEST(head_norm),
        TEST(head_norm_in_place),
        TEST(rope),
        TEST(attention),
        TEST(attention_over_a_cache),
        TEST(activations),
        TEST(glu),
        TEST(dropout),
        TEST(cross_entropy),
        TEST(logits),
        TEST(loss_sum),
        TEST(sample),
        TEST(update),
        TEST(fp16_weights_are_rounded_masters),
        TEST(training_follows_the_cpu),
        TEST(a_device_works_on_after_a_bad_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
