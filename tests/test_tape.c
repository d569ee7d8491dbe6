/* The tape: gradients of whole small models by finite differences, shared memory that never shows, errors that stick,
 * and allocations that fail.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "device/gemm.h"
#include "rig.h"

/* ------------------------------------------------------------------------------------------------ two models */

enum { B = 2, T = 7, C = 12, H = 3, D = 4, F = 20, V = 13 };
static int layers = 2;

static Tensor *matrix(Rig *r, const char *name, int layer, int64_t rows, int64_t cols, float scale) {
    char full[32];
    snprintf(full, sizeof full, "%s%d", name, layer);
    return rig_param(r, full, 2, (int64_t[]){rows, cols}, rig_normal(r, rows * cols, scale / sqrtf((float)cols)), true);
}

static Tensor *vector(Rig *r, const char *name, int layer, int64_t n, float mean) {
    char full[32];
    float *x = rig_normal(r, n, 0.3f);
    for (int64_t i = 0; i < n; i++) x[i] += mean;
    snprintf(full, sizeof full, "%s%d", name, layer);
    return rig_param(r, full, 1, (int64_t[]){n}, x, true);
}

typedef struct Batch {
    Tensor *tokens, *positions, *labels;
} Batch;

static Batch batch(Rig *r) {
    int32_t tokens[B * T], positions[B * T], labels[B * T];
    for (int i = 0; i < B * T; i++) {
        tokens[i] = (int32_t)rng_below(&rig_rng, V);
        positions[i] = i % T;
        labels[i] = i % 5 == 1 ? -100 : (int32_t)rng_below(&rig_rng, V);
    }
    const int64_t shape[] = {B, T};
    return (Batch){rig_ints(r, "tokens", 2, shape, tokens), rig_ints(r, "positions", 2, shape, positions),
                   rig_ints(r, "labels", 2, shape, labels)};
}

static Tensor *attention(Tape *t, Tensor *qkv, int heads, int kv_heads, int d, float dropout, Tensor *cache,
                         Tensor *past) {
    AttentionShape shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = d, .dropout = dropout};
    return op_attention(t, qkv, &shape, NULL, cache, past);
}

/* As GPT-2: LayerNorm, biases, dropout everywhere, the embedding tied to the output. */
static void build_gpt(Rig *r) {
    Tape *t = r->tape;
    Batch in = batch(r);
    const float p = 0.1f;
    Tensor *wte = matrix(r, "wte", 0, V, C, 3), *wpe = matrix(r, "wpe", 0, T, C, 3);
    Tensor *x = op_dropout(t, op_embedding(t, in.tokens, in.positions, wte, wpe, 1), p), *delta = NULL, *h, *hits;
    for (int i = 0; i < layers; i++) {
        tape_block(t);
        h = op_norm(t, x, delta, vector(r, "ln1.w", i, C, 1), vector(r, "ln1.b", i, C, 0), NORM_LAYER, 1e-5f,
                    delta ? p : 0, &x);
        h = op_linear(t, h, matrix(r, "qkv.w", i, 3 * C, C, 1), vector(r, "qkv.b", i, 3 * C, 0));
        h = attention(t, h, H, H, D, p, NULL, NULL);
        delta = op_linear(t, h, matrix(r, "out.w", i, C, C, 1), vector(r, "out.b", i, C, 0));
        h = op_norm(t, x, delta, vector(r, "ln2.w", i, C, 1), vector(r, "ln2.b", i, C, 0), NORM_LAYER, 1e-5f, p, &x);
        h = op_activation(t, op_linear(t, h, matrix(r, "up.w", i, F, C, 1), vector(r, "up.b", i, F, 0)),
                          ACTIVATION_GELU_TANH);
        delta = op_linear(t, h, matrix(r, "down.w", i, C, F, 1), vector(r, "down.b", i, C, 0));
    }
    tape_block(t);
    h = op_norm(t, x, delta, vector(r, "ln.w", 0, C, 1), vector(r, "ln.b", 0, C, 0), NORM_LAYER, 1e-5f, p, NULL);
    rig_output(r, "losses", op_cross_entropy(t, h, wte, in.labels, 0.1f, 0, NULL, &hits), NULL);
}

/* As Llama: RMSNorm, rotary positions, grouped queries, gated units, no bias, untied. */
static void build_llama(Rig *r) {
    Tape *t = r->tape;
    Batch in = batch(r);
    enum { KV = 1 };
    Tensor *x = op_embedding(t, in.tokens, NULL, matrix(r, "embed", 0, V, C, 3), NULL, 1), *delta = NULL, *h, *hits;
    float table[T * D];
    for (int i = 0; i < T; i++)
        for (int j = 0; j < D / 2; j++) {
            table[i * D + j] = cosf((float)i * powf(100, -(float)j / (D / 2)));
            table[i * D + D / 2 + j] = sinf((float)i * powf(100, -(float)j / (D / 2)));
        }
    Tensor *rope = rig_floats(r, "rope", 2, (int64_t[]){T, D}, table);
    for (int i = 0; i < layers; i++) {
        tape_block(t);
        h = op_norm(t, x, delta, vector(r, "n1.w", i, C, 1), NULL, NORM_RMS, 1e-6f, 0, &x);
        h = op_rope(t, op_linear(t, h, matrix(r, "qkv.w", i, (H + 2 * KV) * D, C, 1), NULL), in.positions, rope, H, KV,
                    D);
        h = attention(t, h, H, KV, D, 0, NULL, NULL);
        delta = op_linear(t, h, matrix(r, "o.w", i, C, C, 1), NULL);
        h = op_norm(t, x, delta, vector(r, "n2.w", i, C, 1), NULL, NORM_RMS, 1e-6f, 0, &x);
        h = op_glu(t, op_linear(t, h, matrix(r, "gate_up.w", i, 2 * F, C, 1), NULL), ACTIVATION_SILU);
        delta = op_linear(t, h, matrix(r, "down.w", i, C, F, 1), NULL);
    }
    tape_block(t);
    h = op_norm(t, x, delta, vector(r, "n.w", 0, C, 1), NULL, NORM_RMS, 1e-6f, 0, NULL);
    rig_output(r, "losses", op_cross_entropy(t, h, matrix(r, "head", 0, V, C, 2), in.labels, 0, 0, NULL, &hits), NULL);
}

/* What models do not do: tensors with several consumers, parameters used twice in other orders, residual sums whose
 * parts were recorded the other way round, activation and dropout one after the other on a shared gradient. */
static void build_knots(Rig *r) {
    Tape *t = r->tape;
    Batch in = batch(r);
    Tensor *wte = matrix(r, "wte", 0, V, C, 3), *w = matrix(r, "w", 0, C, C, 1), *b = vector(r, "b", 0, C, 0), *hits,
           *s, *s2;
    Tensor *g = vector(r, "g", 0, C, 1);
    Tensor *e = op_embedding(t, in.tokens, NULL, wte, NULL, 1);
    tape_block(t);
    Tensor *late = op_activation(t, op_linear(t, e, w, b), ACTIVATION_SILU); /* the delta, made before x */
    Tensor *x = op_dropout(t, op_activation(t, op_linear(t, late, w, NULL), ACTIVATION_GELU), 0.2f);
    Tensor *y = op_norm(t, x, op_activation(t, e, ACTIVATION_GELU_TANH), g, NULL, NORM_RMS, 1e-5f, 0, &s);
    tape_block(t);
    Tensor *z = op_dropout(t, op_activation(t, y, ACTIVATION_GELU), 0.1f);
    Tensor *u = op_norm(t, z, s, vector(r, "g2.", 0, C, 1), b, NORM_LAYER, 1e-5f, 0,
                        &s2); /* the sum of one is the delta of the next */
    Tensor *v = op_norm(t, s2, op_linear(t, u, w, NULL), g, vector(r, "c", 0, C, 0), NORM_LAYER, 1e-5f, 0, &s);
    tape_block(t);
    Tensor *n = op_norm(t, op_linear(t, s, w, b), op_dropout(t, op_activation(t, v, ACTIVATION_SILU), 0.1f), g, NULL,
                        NORM_RMS, 1e-5f, 0, &s2);
    Tensor *m = op_norm(t, n, s2, g, b, NORM_LAYER, 1e-5f, 0, NULL);
    rig_output(r, "losses", op_cross_entropy(t, m, wte, in.labels, 0, 0, NULL, &hits), NULL);
}

/* The delta's own chain is walked back after that of x: they may not share one gradient. */
static void build_crossed(Rig *r) {
    Tape *t = r->tape;
    Batch in = batch(r);
    Tensor *wte = matrix(r, "wte", 0, V, C, 3), *w = matrix(r, "w", 0, C, C, 1), *g = vector(r, "g", 0, C, 1), *s, *s2,
           *hits;
    Tensor *delta = op_linear(t, op_embedding(t, in.tokens, NULL, wte, NULL, 1), w, NULL);
    Tensor *a = op_linear(t, op_embedding(t, in.positions, NULL, wte, NULL, 1), w, NULL);
    Tensor *c = op_linear(t, op_embedding(t, in.tokens, NULL, wte, NULL, 1), matrix(r, "w2.", 0, C, C, 1), NULL);
    tape_block(t);
    Tensor *y = op_norm(t, a, c, g, NULL, NORM_LAYER, 1e-5f, 0,
                        &s); /* its backward adds to the gradient of s where it lies */
    Tensor *z = op_norm(t, s, delta, g, NULL, NORM_RMS, 1e-5f, 0, &s2);
    Tensor *q = op_norm(t, s2, op_linear(t, z, w, NULL), g, NULL, NORM_RMS, 1e-5f, 0, NULL);
    Tensor *p = op_norm(t, q, y, g, NULL, NORM_LAYER, 1e-5f, 0, NULL);

    /* a delta that is itself a residual sum, recorded after x; and an x that another op reads after delta was made */
    tape_block(t);
    Tensor *early = op_linear(t, p, w, NULL), *s3, *s4, *s5;
    Tensor *twin = matrix(r, "twin", 0, V, C, 1), *both = op_embedding(t, in.tokens, in.positions, twin, twin, 1);
    Tensor *h = op_norm(t, both, op_linear(t, p, w, NULL), g, NULL, NORM_RMS, 1e-5f, 0, &s3);
    Tensor *k = op_norm(t, early, s3, g, NULL, NORM_RMS, 1e-5f, 0, &s4);
    tape_block(t);
    Tensor *d2 = op_linear(t, h, w, NULL), *a2 = op_activation(t, s4, ACTIVATION_SILU);
    Tensor *m = op_norm(t, s4, d2, g, NULL, NORM_LAYER, 1e-5f, 0, &s5);
    m = op_norm(t, m, op_linear(t, a2, w, NULL), g, NULL, NORM_RMS, 1e-5f, 0, NULL);
    m = op_norm(t, s5, op_linear(t, m, w, NULL), g, NULL, NORM_RMS, 1e-5f, 0, &s5);
    tape_block(t);
    m = op_norm(t, m, op_norm(t, k, s5, g, NULL, NORM_LAYER, 1e-5f, 0, NULL), g, NULL, NORM_RMS, 1e-5f, 0, NULL);
    rig_output(r, "losses", op_cross_entropy(t, m, wte, in.labels, 0, 0, NULL, &hits), NULL);
}

static const struct {
    const char *name;
    void (*build)(Rig *r);
} nets[] = {{"gpt", build_gpt}, {"llama", build_llama}, {"knots", build_knots}, {"crossed", build_crossed}};
enum { NETS = sizeof nets / sizeof *nets };

static Rig net_with(int net, Device *device, DType dtype, bool with_grad, TapeRecompute recompute) {
    Rig r;
    rig_rng.counter = 0; /* every time the same */
    rig_new(&r, device, dtype, with_grad);
    tape_recompute(r.tape, recompute);
    nets[net].build(&r);
    rig_ready(&r);
    return r;
}

static Rig net_new(int net, Device *device, DType dtype, bool with_grad) {
    return net_with(net, device, dtype, with_grad, RECOMPUTE_NONE);
}

static const TapeRun train = {.seed = 5, .position = 17, .training = true, .grad_scale = 0.125f};

static double objective(Rig *r) {
    assert_ok(tape_forward(r->tape, &train));
    const float *losses = rig_values(r, "losses");
    double sum = 0;
    for (int i = 0; i < B * T; i++) sum += (double)losses[i];
    return sum * (double)train.grad_scale;
}

/* The derivative along a random direction u (elements +1 and -1) must be the gradient times u, for every parameter.
 *
 * Differences of fourth order, with h = 0.003, where truncation (h^4) and rounding (1/h) are both below a thousandth of
 * the gradient's length: the result stays the same from h = 0.001 to 0.005. A wrong or missing term is of the
 * gradient's own size. */
static void slopes_of(Rig *r, const char *net, RigInput *in, const float *grad) {
    int64_t n = in->n;
    const float *start = rig_download(r, in->param);
    for (int direction = 0; direction < 3; direction++) {
        float *w = rig_array(r, n), *u = rig_array(r, n);
        double slope = 0, norm = 0, l[4];
        static const double at[4] = {-2, -1, 1, 2};
        const double h = 0.003;
        for (int64_t k = 0; k < n; k++) {
            u[k] = rng_next(&rig_rng) & 1 ? 1 : -1;
            slope += (double)u[k] * (double)grad[k];
            norm += (double)grad[k] * (double)grad[k];
        }
        for (int side = 0; side < 4; side++) {
            for (int64_t k = 0; k < n; k++) w[k] = start[k] + (float)(at[side] * h) * u[k];
            rig_set(r, in, w);
            l[side] = objective(r);
        }
        rig_set(r, in, start);
        double measured = (l[0] - 8 * l[1] + 8 * l[2] - l[3]) / (12 * h), bound = 2e-3 * sqrt(norm) + 2e-4;
        if (!(fabs(measured - slope) <= bound))
            fail_msg("%s: the slope along %s is %g, its gradient says %g", net, in->name, measured, slope);
        assert_true(norm > 0);
    }
}

static void finite_differences(void **state) {
    (void)state;
    for (int net = 0; net < NETS; net++) {
        Rig r = net_new(net, test_device(), DTYPE_F32, true);
        rig_run(&r, &train);
        float *grad[RIG_INPUTS];
        for (int i = 0; i < r.n_in; i++) { /* a forward overwrites what the loss makes of them */
            grad[i] = rig_array(&r, r.in[i].n);
            memcpy(grad[i], r.in[i].grad, (size_t)r.in[i].n * sizeof *grad[i]);
        }
        for (int i = 0; i < r.n_in; i++) slopes_of(&r, nets[net].name, &r.in[i], grad[i]);
        rig_free(&r);
    }
}

/* ------------------------------------------------------------------------------------------------- planning */

/* The memory is full of NaN before each run, so these would show what one run leaves to the next; a tensor that another
 * one overwrites too early would show in finite_differences. */
static void runs_repeat_to_the_bit(void **state) {
    (void)state;
    for (int net = 0; net < NETS; net++)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            Rig r = net_new(net, test_device(), (DType)dtype, true),
                again = net_new(net, test_device(), (DType)dtype, true);
            rig_run(&r, &train);
            float *first[RIG_INPUTS];
            for (int i = 0; i < r.n_in; i++) {
                first[i] = rig_array(&r, r.in[i].n);
                memcpy(first[i], r.in[i].grad, (size_t)r.in[i].n * 4);
                for (int64_t k = 0; k < r.in[i].n; k++) assert_true(isfinite(first[i][k]));
            }
            float *losses = rig_values(&r, "losses");
            rig_run(&r, &train);
            rig_run(&again, &train);
            assert_memory_equal(losses, rig_values(&r, "losses"), B * T * 4);
            assert_memory_equal(losses, rig_values(&again, "losses"), B * T * 4);
            for (int i = 0; i < r.n_in; i++) {
                assert_memory_equal(first[i], r.in[i].grad, (size_t)r.in[i].n * 4);
                assert_memory_equal(first[i], again.in[i].grad, (size_t)r.in[i].n * 4);
            }
            rig_free(&r);
            rig_free(&again);
        }
}

/* Two micro-batches: the second one's gradients are added, in parameters used once, twice and in the loss. */
static void gradients_accumulate(void **state) {
    (void)state;
    for (int net = 0; net < NETS; net++) {
        Rig r = net_new(net, test_device(), DTYPE_F32, true);
        TapeRun second = train;
        second.position++;
        rig_run(&r, &second);
        float *alone[RIG_INPUTS], *sum[RIG_INPUTS];
        for (int i = 0; i < r.n_in; i++) {
            alone[i] = rig_array(&r, r.in[i].n);
            sum[i] = rig_array(&r, r.in[i].n);
            memcpy(alone[i], r.in[i].grad, (size_t)r.in[i].n * 4);
        }
        rig_run(&r, &train);
        for (int i = 0; i < r.n_in; i++)
            for (int64_t k = 0; k < r.in[i].n; k++) sum[i][k] = r.in[i].grad[k] + alone[i][k];
        second.accumulate = true;
        rig_run(&r, &second);
        for (int i = 0; i < r.n_in; i++)
            if (rig_distance(r.in[i].grad, sum[i], r.in[i].n) > 1e-5 * rig_scale(sum[i], r.in[i].n))
                fail_msg("%s: the gradient of %s is not the sum of both", nets[net].name, r.in[i].name);
        rig_free(&r);
    }
}

static void one_forward_for_training_and_evaluation(void **state) {
    (void)state;
    for (int net = 0; net < NETS; net++)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            TapeRun run = train;
            run.training = false;
            Rig r = net_new(net, test_device(), (DType)dtype, true),
                plain = net_new(net, test_device(), (DType)dtype, false);
            rig_run(&r, &run);
            rig_run(&plain, &run);
            assert_memory_equal(rig_values(&r, "losses"), rig_values(&plain, "losses"), B * T * 4);
            assert_error(tape_backward(plain.tape, &run), TANE_EINTERNAL, "without gradients");
            assert_true(tape_bytes(plain.tape) < tape_bytes(r.tape));
            rig_free(&r);
            rig_free(&plain);
        }
}

static void memory_is_shared(void **state) {
    (void)state;
    for (int net = 0; net < 2; net++) {
        Rig r = net_new(net, test_device(), DTYPE_F32, true);
        TapeReport report;
        tape_report(r.tape, &report);
        assert_true(report.planned < report.unshared * 2 / 3);
        assert_true(tape_bytes(r.tape) >= report.planned + report.scratch);
        rig_free(&r);
    }
}

/* All instruction sets agree: a second opinion on every kernel at once. */
static void instruction_sets_agree(void **state) {
    (void)state;
    test_cpu_only("it compares the CPU's instruction sets");
    Device *const tables[] = {backend_cpu_isa("avx2"), backend_cpu_isa("avx512")};
    for (int net = 0; net < NETS; net++)
        for (int isa = 0; isa < 2; isa++) {
            if (!tables[isa]) continue;
            Rig a = net_new(net, backend_cpu_isa("base"), DTYPE_F32, true),
                b = net_new(net, tables[isa], DTYPE_F32, true);
            rig_run(&a, &train);
            rig_run(&b, &train);
            for (int i = 0; i < a.n_in; i++)
                assert_true(rig_distance(a.in[i].grad, b.in[i].grad, a.in[i].n) <=
                            2e-5 * rig_scale(a.in[i].grad, a.in[i].n));
            rig_free(&a);
            rig_free(&b);
        }
}

/* ---------------------------------------------------------------------------------------------- recomputation */

/* What is computed a second time has the bits of the first time, so the gradients have, too; in a second micro-batch
 * as well, and over memory that was poisoned in between. */
static void check_recompute(int net, DType dtype, TapeRecompute which, size_t *planned, size_t *planned_less) {
    TapeRun second = train;
    second.position++;
    second.accumulate = true;
    const TapeRun *const runs[] = {&train, &train, &second};
    Rig whole = net_new(net, test_device(), dtype, true), less = net_with(net, test_device(), dtype, true, which);
    for (int k = 0; k < 3; k++) {
        rig_run(&whole, runs[k]);
        rig_run(&less, runs[k]);
        if (memcmp(rig_values(&whole, "losses"), rig_values(&less, "losses"), B * T * 4))
            fail_msg("%s, %s: other losses with recomputation %d", nets[net].name, dtype_name(dtype), which);
        for (int i = 0; i < whole.n_in; i++) {
            if (!memcmp(whole.in[i].grad, less.in[i].grad, (size_t)whole.in[i].n * 4)) continue;
            fail_msg("%s, %s, run %d: with recomputation %d the gradient of %s differs by %g", nets[net].name,
                     dtype_name(dtype), k, which, whole.in[i].name,
                     rig_distance(less.in[i].grad, whole.in[i].grad, whole.in[i].n));
        }
    }
    TapeReport report;
    tape_report(whole.tape, &report);
    *planned = report.planned;
    tape_report(less.tape, &report);
    *planned_less = report.planned;
    rig_free(&whole);
    rig_free(&less);
}

static void recomputing_changes_no_bit(void **state) {
    (void)state;
    layers = 4;
    for (int net = 0; net < NETS; net++)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            size_t none, cheap, block;
            check_recompute(net, (DType)dtype, RECOMPUTE_CHEAP, &none, &cheap);
            check_recompute(net, (DType)dtype, RECOMPUTE_BLOCK, &none, &block);
            if (net < 2 && !(cheap < none && block < cheap))
                fail_msg("%s, %s: %zu bytes, %zu without what is cheap, %zu without blocks", nets[net].name,
                         dtype_name((DType)dtype), none, cheap, block);
        }
    layers = 2;
}

/* Evaluation has nothing to compute twice. */
static void recomputing_needs_gradients(void **state) {
    (void)state;
    Rig plain = net_new(0, test_device(), DTYPE_F32, false),
        block = net_with(0, test_device(), DTYPE_F32, false, RECOMPUTE_BLOCK);
    assert_int_equal(tape_bytes(plain.tape), tape_bytes(block.tape));
    rig_run(&plain, &train);
    rig_run(&block, &train);
    assert_memory_equal(rig_values(&plain, "losses"), rig_values(&block, "losses"), B * T * 4);
    rig_free(&plain);
    rig_free(&block);
}

/* --------------------------------------------------------------------------------------------------- freezing */

/* A frozen parameter gets no gradient and stops none: only the last norm's weight is trained. */
static void frozen_parameters_cost_nothing(void **state) {
    (void)state;
    size_t bytes[2];
    float *grad[2];
    Rig r[2];
    for (int frozen = 0; frozen < 2; frozen++) {
        rig_rng.counter = 0;
        rig_new(&r[frozen], test_device(), DTYPE_F32, true);
        Tape *t = r[frozen].tape;
        Batch in = batch(&r[frozen]);
        Tensor *wte = rig_param(&r[frozen], "wte", 2, (int64_t[]){V, C}, rig_normal(&r[frozen], V * C, 1), !frozen),
               *hits;
        Tensor *w = rig_param(&r[frozen], "w", 2, (int64_t[]){C, C}, rig_normal(&r[frozen], C * C, 1), !frozen);
        Tensor *g = vector(&r[frozen], "g", 0, C, 1);
        Tensor *h = op_activation(t, op_linear(t, op_embedding(t, in.tokens, NULL, wte, NULL, 1), w, NULL),
                                  ACTIVATION_SILU);
        h = op_norm(t, h, NULL, g, NULL, NORM_LAYER, 1e-5f, 0, NULL);
        rig_output(&r[frozen], "losses", op_cross_entropy(t, h, wte, in.labels, 0, 0, NULL, &hits), NULL);
        rig_ready(&r[frozen]);
        rig_run(&r[frozen], &train);
        bytes[frozen] = tape_bytes(t);
        grad[frozen] = rig_input(&r[frozen], "g0")->grad;
        assert_true((rig_input(&r[frozen], "w")->grad == NULL) == frozen);
    }
    assert_memory_equal(grad[0], grad[1], C * 4);
    assert_true(bytes[1] <= bytes[0]);
    rig_free(&r[0]);
    rig_free(&r[1]);
}

/* ----------------------------------------------------------------------------------------------------- errors */

static void the_first_error_sticks(void **state) {
    (void)state;
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, true);
    Tape *t = r.tape;
    Tensor *x = rig_activation(&r, "x", 1, 2, 6, rig_normal(&r, 12, 1)), *hits, *sum;
    Tensor *w = rig_param(&r, "up.weight", 2, (int64_t[]){4, 5}, rig_normal(&r, 20, 1), true);
    Tensor *labels = rig_ints(&r, "labels", 2, (int64_t[]){1, 2}, (int32_t[]){0, 1});
    Tensor *y = op_linear(t, x, w, NULL);
    assert_null(y);
    /* every op goes on with NULL in hand */
    y = op_activation(t, y, ACTIVATION_RELU);
    y = op_norm(t, y, NULL, w, NULL, NORM_RMS, 1e-5f, 0, &sum);
    y = op_glu(t, op_dropout(t, y, 0.1f), ACTIVATION_SILU);
    y = attention(t, op_rope(t, y, NULL, NULL, 1, 1, 2), 1, 1, 2, 0, NULL, NULL);
    y = op_embedding(t, NULL, NULL, NULL, NULL, 1);
    assert_null(op_cross_entropy(t, y, w, labels, 0, 0, NULL, &hits));
    assert_null(tape_external(t, "late", DTYPE_F32, 1, (int64_t[]){1}));
    for (int twice = 0; twice < 2; twice++)
        assert_error(tape_plan(t), TANE_EINVAL, "linear up.weight: x is (..., 6), but the weight takes 5 inputs");
    assert_error(tape_bind(t, NULL), TANE_EINTERNAL, "not planned");
    rig_free(&r);
}

/* Each wrong call alone, and the words of its message. */
static void wrong_shapes_are_refused(void **state) {
    (void)state;
    for (int which = 0;; which++) {
        Rig r;
        rig_new(&r, test_device(), DTYPE_F32, false);
        Tape *t = r.tape;
        Tensor *x = rig_activation(&r, "x", 1, 2, 6, rig_normal(&r, 12, 1)), *hits;
        Tensor *odd = rig_activation(&r, "odd", 1, 2, 5, rig_normal(&r, 10, 1));
        Tensor *five = rig_param(&r, "five", 1, (int64_t[]){5}, rig_normal(&r, 5, 1), false);
        Tensor *six = rig_param(&r, "six", 1, (int64_t[]){6}, rig_normal(&r, 6, 1), false);
        Tensor *w = rig_param(&r, "w", 2, (int64_t[]){4, 6}, rig_normal(&r, 24, 1), false);
        Tensor *two = rig_ints(&r, "two", 2, (int64_t[]){1, 2}, (int32_t[]){0, 1});
        Tensor *three = rig_ints(&r, "three", 2, (int64_t[]){1, 3}, (int32_t[]){0, 1, 2});
        Tensor *past = rig_ints(&r, "past", 1, (int64_t[]){1}, (int32_t[]){0});
        Tensor *table = rig_floats(&r, "table", 2, (int64_t[]){3, 2}, (float[6]){0});
        Tensor *cache = rig_buffer(&r, "cache", 3, (int64_t[]){1, 3, 4}),
               *wide = rig_buffer(&r, "wide", 3, (int64_t[]){2, 3, 4});
        const char *message = NULL;
        Tensor *y = NULL;
        switch (which) {
        case 0: message = "norm:", y = op_norm(t, x, NULL, five, NULL, NORM_RMS, 1e-5f, 0, NULL); break;
        case 1: message = "norm:", y = op_norm(t, x, NULL, six, five, NORM_LAYER, 1e-5f, 0, NULL); break;
        case 2: message = "norm:", y = op_norm(t, x, odd, six, NULL, NORM_LAYER, 1e-5f, 0, NULL); break;
        case 3:
            message = "norm: x and delta are one tensor", y = op_norm(t, x, x, six, NULL, NORM_LAYER, 1e-5f, 0, NULL);
            break;
        case 4: message = "linear", y = op_linear(t, odd, w, NULL); break;
        case 5: message = "linear", y = op_linear(t, x, w, six); break;
        case 6: message = "linear", y = op_linear(t, x, six, NULL); break;
        case 7: message = "rope:", y = op_rope(t, x, two, table, 2, 1, 2); break;
        case 8: message = "rope:", y = op_rope(t, x, three, table, 1, 1, 2); break;
        case 9: message = "attention:", y = attention(t, x, 2, 1, 2, 0, NULL, NULL); break;
        case 10: message = "attention:", y = attention(t, x, 0, 0, 2, 0, NULL, NULL); break;
        case 11: message = "cache", y = attention(t, x, 1, 1, 2, 0, cache, NULL); break;
        case 12: message = "cache", y = attention(t, x, 1, 1, 2, 0, wide, past); break;
        case 13: message = "cache", y = attention(t, x, 1, 1, 2, 0, cache, two); break;
        case 14: message = "glu: the width 5 is odd", y = op_glu(t, odd, ACTIVATION_SILU); break;
        case 15: message = "cross_entropy:", y = op_cross_entropy(t, odd, w, two, 0, 0, NULL, &hits); break;
        case 16: message = "cross_entropy:", y = op_cross_entropy(t, x, w, three, 0, 0, NULL, &hits); break;
        case 17: message = "smoothing 1.5", y = op_cross_entropy(t, x, w, two, 1.5f, 0, NULL, &hits); break;
        case 18: message = "embedding:", y = op_embedding(t, past, NULL, w, NULL, 1); break;
        case 19: message = "positions", y = op_embedding(t, two, NULL, w, w, 1); break;
        case 20: message = "positions", y = op_embedding(t, two, three, w, w, 1); break;
        default: break;
        }
        if (message) {
            if (y) fail_msg("wrong call %d was recorded", which);
            assert_error(tape_plan(t), TANE_EINVAL, message);
        }
        rig_free(&r);
        if (!message) break;
    }
}

static void other_mistakes_are_refused(void **state) {
    (void)state;
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, true);
    assert_error(tape_plan(r.tape), TANE_EINTERNAL, "no loss");
    rig_free(&r);

    rig_new(&r, test_device(), DTYPE_F32, true); /* two losses: the first would be forgotten */
    Tensor *x = rig_activation(&r, "x", 1, 2, 6, rig_normal(&r, 12, 1)), *hits;
    Tensor *w = rig_param(&r, "w", 2, (int64_t[]){4, 6}, rig_normal(&r, 24, 1), true);
    Tensor *labels = rig_ints(&r, "labels", 2, (int64_t[]){1, 2}, (int32_t[]){0, 1});
    op_cross_entropy(r.tape, x, w, labels, 0, 0, NULL, &hits);
    op_cross_entropy(r.tape, x, w, labels, 0, 0, NULL, &hits);
    assert_error(tape_plan(r.tape), TANE_EINVAL, "one loss");
    rig_free(&r);

    if (!test_device()->has_fp16) {
        rig_new(&r, test_device(), DTYPE_F16, false);
        x = tape_activation(r.tape, "x", DTYPE_F16, 3, (int64_t[]){1, 2, 6});
        op_activation(r.tape, x, ACTIVATION_RELU);
        assert_error(tape_plan(r.tape), TANE_EUNSUPPORTED, "no fp16 kernel");
        rig_free(&r);
    }

    r = net_new(0, test_device(), DTYPE_F32, true);
    assert_error(tape_plan(r.tape), TANE_EINTERNAL, "already planned");
    rig_free(&r);
}

/* --------------------------------------------------------------------------------------------- out of memory */

/* Records, plans, binds and runs without any of the helpers that insist on success. */
static Status whole_life(void *ctx) {
    (void)ctx;
    Status st = TANE_OK;
    Tape *t = NULL;
    void *memory = NULL;
    static float wte[5 * 8], w[24 * 8], g[8], d_wte[5 * 8], d_w[24 * 8], d_g[8];
    static int32_t ids[6] = {0, 1, 2, 3, 4, 0};
    TRY(tape_new(&t, test_device(), true));
    Tensor *tokens = tape_external(t, "tokens", DTYPE_I32, 2, (int64_t[]){2, 3});
    Tensor *e = tape_param(t, "wte", DTYPE_F32, 2, (int64_t[]){5, 8}, true);
    Tensor *q = tape_param(t, "w", DTYPE_F32, 2, (int64_t[]){24, 8}, true);
    Tensor *n = tape_param(t, "g", DTYPE_F32, 1, (int64_t[]){8}, true);
    Tensor *x = op_embedding(t, tokens, NULL, e, NULL, 1), *sum = NULL, *hits = NULL, *h;
    for (int i = 0; i < 40; i++) { /* enough for every array to grow */
        h = op_norm(t, x, i ? sum : NULL, n, NULL, NORM_RMS, 1e-5f, 0, i ? &x : NULL);
        sum = op_dropout(t, attention(t, op_linear(t, h, q, NULL), 1, 1, 8, 0, NULL, NULL), 0.1f);
    }
    h = op_norm(t, x, sum, n, NULL, NORM_RMS, 1e-5f, 0, NULL);
    op_cross_entropy(t, h, e, tokens, 0, 0, NULL, &hits);
    TRY(tape_plan(t));
    TRY(mem_new(&memory, tape_bytes(t), 1));
    TRY(tape_bind(t, memory));
    tokens->data = ids;
    e->data = wte;
    q->data = w;
    n->data = g;
    e->grad->data = d_wte;
    q->grad->data = d_w;
    n->grad->data = d_g;
    for (int i = 0; i < 8; i++) g[i] = 1;
    for (int i = 0; i < 5 * 8; i++) wte[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 24 * 8; i++) w[i] = (float)(i % 5 - 2) / 4;
    TRY(tape_forward(t, &train));
    TRY(tape_backward(t, &train));
out:
    tape_free(t);
    mem_free(memory);
    gemm_shutdown(); /* what products keep for the next one is not a leak */
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    test_cpu_only("a driver's own allocations cannot be made to fail");
    gemm_shutdown();
    assert_ok(whole_life(NULL));
    assert_true(test_fail_allocations(whole_life, NULL) > 10);
    tape_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(finite_differences),
        TEST(runs_repeat_to_the_bit),
        TEST(gradients_accumulate),
        TEST(one_forward_for_training_and_evaluation),
        TEST(memory_is_shared),
        TEST(instruction_sets_agree),
        TEST(recomputing_changes_no_bit),
        TEST(recomputing_needs_gradients),
        TEST(frozen_parameters_cost_nothing),
        TEST(the_first_error_sticks),
        TEST(wrong_shapes_are_refused),
        TEST(other_mistakes_are_refused),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
