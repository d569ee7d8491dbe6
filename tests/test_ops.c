/* Every op against PyTorch's values and gradients (tools/golden/ops.py), in each instruction set this machine has, and
 * in bf16 against itself in fp32; dropout and the loss in what golden values do not show. Attention's two kernels and
 * its cache are in test_attention.c, the update in test_update.c, the tape in test_tape.c.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"
#include "rig.h"

typedef struct Case {
    Rig rig;
    const StFile *file;
    char prefix[48]; /* "linear.3" */
    DType round;     /* inputs are rounded to this, also for an fp32 run */
} Case;

static const StTensor *find(const Case *c, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", c->prefix, name);
    return st_find(c->file, full);
}

static float *values(Case *c, const StTensor *x) {
    int64_t n = (int64_t)(x->bytes / sizeof(float));
    float *to = rig_array(&c->rig, n);
    if (n) memcpy(to, x->data, x->bytes);
    for (int64_t i = 0; i < n && c->round != DTYPE_F32; i++)
        to[i] = c->round == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16(to[i])) : f16_to_f32(f32_to_f16(to[i]));
    return to;
}

static float arg(const Case *c, int i) {
    float x;
    memcpy(&x, (const char *)find(c, "args")->data + (size_t)i * sizeof x, sizeof x);
    return x;
}

static Tensor *activation(Case *c, const char *name) {
    const StTensor *x = find(c, name);
    return x ? rig_activation(&c->rig, name, x->shape[0], x->shape[1], x->shape[2], values(c, x)) : NULL;
}

static Tensor *param(Case *c, const char *name) {
    const StTensor *x = find(c, name);
    return x ? rig_param(&c->rig, name, x->rank, x->shape, values(c, x), true) : NULL;
}

static Tensor *ints(Case *c, const char *name) {
    const StTensor *x = find(c, name);
    return x ? rig_ints(&c->rig, name, x->rank, x->shape, x->data) : NULL;
}

static void output(Case *c, const char *name, Tensor *x) {
    char d_name[48];
    snprintf(d_name, sizeof d_name, "d%s", name);
    const StTensor *seed = find(c, d_name);
    rig_output(&c->rig, name, x, seed ? values(c, seed) : NULL);
}

static void build_embedding(Case *c) {
    Tensor *tokens = ints(c, "tokens"), *positions = ints(c, "positions"), *wte = param(c, "wte"),
           *wpe = param(c, "wpe");
    output(c, "y", op_embedding(c->rig.tape, tokens, positions, wte, wpe, arg(c, 0)));
}

static void build_norm(Case *c) {
    Tensor *x = activation(c, "x"), *delta = activation(c, "delta"), *sum;
    Tensor *weight = param(c, "weight"), *bias = param(c, "bias");
    output(c, "y", op_norm(c->rig.tape, x, delta, weight, bias, (NormKind)arg(c, 0), arg(c, 1), 0, &sum));
    if (delta) output(c, "sum", sum);
    else assert_ptr_equal(sum, x);
}

static void build_linear(Case *c) {
    Tensor *x = activation(c, "x"), *w = param(c, "w"), *bias = param(c, "bias");
    output(c, "y", op_linear(c->rig.tape, x, w, bias));
}

static void build_head_norm(Case *c) {
    Tensor *x = activation(c, "x"), *q = param(c, "q_weight"), *k = param(c, "k_weight");
    output(c, "y", op_head_norm(c->rig.tape, x, q, k, (NormKind)arg(c, 3), arg(c, 4), (int)arg(c, 0), (int)arg(c, 1),
                                (int)arg(c, 2)));
}

static void build_rope(Case *c) {
    const StTensor *table = find(c, "cos_sin");
    Tensor *x = activation(c, "x"), *positions = ints(c, "positions");
    Tensor *cos_sin = rig_floats(&c->rig, "cos_sin", 2, table->shape, table->data);
    output(c, "y", op_rope(c->rig.tape, x, positions, cos_sin, (int)arg(c, 0), (int)arg(c, 1), (int)arg(c, 2)));
}

static void build_attention(Case *c) {
    Tensor *x = activation(c, "x"), *starts = ints(c, "starts");
    AttentionShape shape = {.heads = (int)arg(c, 0),
                            .kv_heads = (int)arg(c, 1),
                            .head_dim = (int)arg(c, 2),
                            .scale = arg(c, 3),
                            .window = (int64_t)arg(c, 4),
                            .softcap = arg(c, 5)};
    output(c, "y", op_attention(c->rig.tape, x, &shape, starts, NULL, NULL));
}

static void build_activation(Case *c) {
    output(c, "y", op_activation(c->rig.tape, activation(c, "x"), (ActivationKind)arg(c, 0)));
}

static void build_glu(Case *c) { output(c, "y", op_glu(c->rig.tape, activation(c, "x"), (ActivationKind)arg(c, 0))); }

static void build_cross_entropy(Case *c) {
    Tensor *x = activation(c, "x"), *w = param(c, "w"), *hits;
    output(c, "y", op_cross_entropy(c->rig.tape, x, w, ints(c, "labels"), arg(c, 0), arg(c, 2), NULL, &hits));
    output(c, "hits", hits);
}

static const struct {
    const char *op;
    int cases; /* so that a file with fewer is noticed */
    void (*build)(Case *c);
} ops[] = {
    {"embedding", 6, build_embedding},
    {"norm", 11, build_norm},
    {"linear", 6, build_linear},
    {"head_norm", 4, build_head_norm},
    {"rope", 5, build_rope},
    {"attention", 19, build_attention},
    {"activation", 8, build_activation},
    {"glu", 8, build_glu},
    {"cross_entropy", 9, build_cross_entropy},
};
enum { OPS = sizeof ops / sizeof *ops };

static StFile *golden;
static int open_golden(void **state) {
    (void)state;
    return st_open(&golden, test_data("golden/ops.safetensors")) == TANE_OK ? 0 : -1;
}
static int close_golden(void **state) {
    (void)state;
    st_close(&golden);
    return 0;
}

static Case case_new(int op, int n, Device *device, DType dtype, bool with_grad, DType round) {
    Case c = {.file = golden, .round = round};
    snprintf(c.prefix, sizeof c.prefix, "%s.%d", ops[op].op, n);
    rig_new(&c.rig, device, dtype, with_grad);
    ops[op].build(&c);
    rig_ready(&c.rig);
    return c;
}

static TapeRun run_of(const Case *c) {
    bool loss = !strncmp(c->prefix, "cross_entropy", 13);
    return (TapeRun){.seed = 1, .grad_scale = loss ? arg(c, 1) : NAN};
}

/* ------------------------------------------------------------------------------------------- against PyTorch */

/* Golden values are rounded from double precision. Sums here have at most some hundred terms of fp32, so that 1e-5 of
 * the largest element is about 100 roundings; what is right is usually ten times closer. */
static const double BOUND = 1e-5;

/* Where the problem itself is worse conditioned: one rounding of x moves the result by more. */
static double bound_of(const Case *c) {
    if (!strcmp(c->prefix, "norm.8")) return 30 / 0.1 * 2e-7; /* mean 30, deviation 0.1 */
    return BOUND;
}

static void check(const Case *c, const char *name, const float *got, const StTensor *want, float times) {
    int64_t n = (int64_t)(want->bytes / sizeof(float));
    float *expected = rig_array((Rig *)&c->rig, n);
    for (int64_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, (const char *)want->data + (size_t)i * 4, 4);
        if (want->dtype == DTYPE_I32) {
            int32_t k;
            memcpy(&k, &x, 4);
            x = (float)k;
        }
        expected[i] = times * x;
    }
    double scale = rig_scale(expected, n), distance = rig_distance(got, expected, n);
    if (distance <= bound_of(c) * scale + 1e-8) return; /* 1e-8: terms near 1 that cancel, as in GELU's tail */
    fail_msg("%s: %s is %g from PyTorch's, whose largest element is %g", c->prefix, name, distance, scale);
}

static void check_case(Case *c, float times) {
    for (int i = 0; i < c->rig.n_in; i++) {
        char name[48];
        snprintf(name, sizeof name, "d_%s", c->rig.in[i].name);
        check(c, name, c->rig.in[i].grad, find(c, name), times);
    }
    for (int i = 0; i < c->rig.n_out; i++) {
        const char *name = c->rig.out[i].name;
        check(c, name, rig_values(&c->rig, name), find(c, name), 1);
    }
}

static void golden_of(Device *device) {
    for (int op = 0; op < OPS; op++) {
        int n = 0;
        for (char name[64]; snprintf(name, sizeof name, "%s.%d.y", ops[op].op, n), st_find(golden, name); n++) {
            Case c = case_new(op, n, device, DTYPE_F32, true, DTYPE_F32), plain;
            TapeRun run = run_of(&c);
            rig_run(&c.rig, &run);
            check_case(&c, 1);
            run.accumulate = true; /* a second micro-batch adds */
            rig_run(&c.rig, &run);
            check_case(&c, 2);
            /* without gradients: other lifetimes, same bits */
            plain = case_new(op, n, device, DTYPE_F32, false, DTYPE_F32);
            rig_run(&plain.rig, &run);
            for (int i = 0; i < c.rig.n_out; i++) {
                const char *name = c.rig.out[i].name;
                assert_memory_equal(rig_values(&c.rig, name), rig_values(&plain.rig, name), (size_t)c.rig.out[i].n * 4);
            }
            rig_free(&plain.rig);
            rig_free(&c.rig);
        }
        if (n != ops[op].cases) fail_msg("%s has %d cases, expected %d", ops[op].op, n, ops[op].cases);
    }
}

static void golden_values(void **state) {
    (void)state;
    for (Device *const *device = test_devices(); *device; device++) golden_of(*device);
}

/* ------------------------------------------------------------------------------------------------------ bf16 */

/* The same inputs, rounded to bf16 or fp16, in fp32 and in that type. One rounding to bf16 is 2^-8 of the element (half a
 * unit in the last of 8 bits). The bound counts roundings of intermediate results, each of at most the largest element:
 * outputs are rounded once (attention: the weights too; norm: the sum before it), gradients behind up to three rounded
 * values. */
static void near_half(const Case *c, const char *name, const float *got,
                                                                    const float *want, int64_t n, int roundings) {
    double scale = rig_scale(want, n), distance = rig_distance(got, want, n);
    if (distance <= roundings * scale / 256) return;
    fail_msg("%s: %s in 16 bits is %g from fp32, whose largest element is %g: more than %d roundings", c->prefix, name,
             distance, scale, roundings);
}

static void half_is_rounded_fp32(void **state) {
    (void)state;
    for (Device *const *device = test_devices(); *device; device++)
        for (int op = 0; op < OPS; op++)
            for (int n = 0, cases = ops[op].cases; n < cases * (rig_last_type(*device) - DTYPE_F32); n++) {
                DType type = (DType)(DTYPE_BF16 + n / cases);
                Case exact = case_new(op, n % cases, *device, DTYPE_F32, true, type);
                Case half = case_new(op, n % cases, *device, type, true, type);
                TapeRun run = run_of(&exact);
                rig_run(&exact.rig, &run);
                rig_run(&half.rig, &run);
                for (int i = 0; i < exact.rig.n_in; i++)
                    near_half(&exact, exact.rig.in[i].name, half.rig.in[i].grad, exact.rig.in[i].grad,
                              exact.rig.in[i].n, 4);
                for (int i = 0; i < exact.rig.n_out; i++) {
                    const char *name = exact.rig.out[i].name;
                    near_half(&exact, name, rig_values(&half.rig, name), rig_values(&exact.rig, name),
                              exact.rig.out[i].n, 2);
                }
                rig_free(&exact.rig);
                rig_free(&half.rig);
            }
}

/* --------------------------------------------------------------------------------------------------- threads */

/* Inputs large enough for every parallel region. Products are the GEMM's affair: compared within rounding. */
enum { B = 3, T = 70, C = 96 };

static void threads_case(Rig *r, int which, Device *device, DType dtype) {
    rig_rng.counter = 0; /* the same values each time */
    rig_new(r, device, dtype, true);
    Tape *t = r->tape;
    int64_t width = which == 3 ? 3 * C : C, out = which == 4 ? C / 2 : which == 6 ? 2 * C : which == 3 ? C : width;
    Tensor *x = rig_activation(r, "x", B, T, width, rig_normal(r, B * T * width, 1)), *y = NULL;
    int32_t position[B * T];
    for (int i = 0; i < B * T; i++) position[i] = (i * 7) % T;
    switch (which) {
    case 0:
        y = op_norm(t, x, rig_activation(r, "delta", B, T, C, rig_normal(r, B * T * C, 1)),
                    rig_param(r, "w", 1, (int64_t[]){C}, rig_normal(r, C, 1), true),
                    rig_param(r, "b", 1, (int64_t[]){C}, rig_normal(r, C, 1), true), NORM_LAYER, 1e-5f, 0, NULL);
        break;
    case 1: y = op_activation(t, x, ACTIVATION_GELU_TANH); break;
    case 2: y = op_dropout(t, x, 0.3f); break;
    case 3:
        y = op_attention(t, x, &(AttentionShape){.heads = 6, .kv_heads = 6, .head_dim = C / 6, .dropout = 0.2f}, NULL,
                         NULL, NULL);
        break;
    case 4: y = op_glu(t, x, ACTIVATION_SILU); break;
    case 5:
        y = op_rope(t, x, rig_ints(r, "positions", 2, (int64_t[]){B, T}, position),
                    rig_floats(r, "cos_sin", 2, (int64_t[]){T, 16}, rig_normal(r, T * 16, 1)), 4, 1, 16);
        break;
    case 6:
        y = op_linear(t, x, rig_param(r, "w", 2, (int64_t[]){out, C}, rig_normal(r, out * C, 1), true),
                      rig_param(r, "b", 1, (int64_t[]){out}, rig_normal(r, out, 1), true));
        break;
    default: y = op_activation(t, x, ACTIVATION_SILU); break;
    }
    rig_output(r, "y", y, rig_normal(r, B * T * out, 1));
    rig_ready(r);
}

static void same_bits_on_any_number_of_threads(void **state) {
    (void)state;
    test_cpu_only("it has no threads to choose");
    int before = omp_get_max_threads();
    TapeRun run = {.seed = 3, .position = 5, .training = true};
    for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++)
        for (int which = 0; which < 7; which++) {
            Rig many, one;
            omp_set_num_threads(3);
            threads_case(&many, which, test_device(), (DType)dtype);
            rig_run(&many, &run);
            omp_set_num_threads(1);
            threads_case(&one, which, test_device(), (DType)dtype);
            rig_run(&one, &run);
            for (int i = 0; i < one.n_in; i++) {
                const RigInput *a = &many.in[i], *b = &one.in[i];
                if (which == 6 && strcmp(a->name, "b")) {
                    double step = dtype == DTYPE_F32 ? 1e-6 : 1.0 / 256;
                    assert_true(rig_distance(a->grad, b->grad, a->n) <= step * rig_scale(b->grad, b->n));
                } else if (memcmp(a->grad, b->grad, (size_t)a->n * 4)) {
                    fail_msg("case %d (%s): the gradient of %s depends on the number of threads", which,
                             dtype_name((DType)dtype), a->name);
                }
            }
            const Tensor *y = many.out[0].tensor;
            if (which != 6 && memcmp(y->data, one.out[0].tensor->data, tensor_bytes(y)))
                fail_msg("case %d (%s): the output depends on the number of threads", which, dtype_name((DType)dtype));
            rig_free(&many);
            rig_free(&one);
        }
    omp_set_num_threads(before);
}

static void more_threads_than_planned_are_refused(void **state) {
    (void)state;
    test_cpu_only("it has no threads to choose");
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    Rig r;
    threads_case(&r, 0, test_device(), DTYPE_F32);
    omp_set_num_threads(2);
    assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINTERNAL, "planned for 1 threads");
    omp_set_num_threads(before);
    rig_free(&r);
}

/* --------------------------------------------------------------------------------------------------- dropout */

/* x = dropout(1): the mask itself, and the gradient of a seed of ones: the mask that backward used. `before` ops are
 * recorded in front, so that the node has another number. */
static float *dropout_mask_of(Rig *keep, int64_t n, float p, const TapeRun *run, int before, float **backward) {
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, true);
    float *ones = rig_array(&r, n);
    for (int64_t i = 0; i < n; i++) ones[i] = 1;
    Tensor *x = rig_activation(&r, "x", 1, 1, n, ones);
    for (int i = 0; i < before; i++) x = op_activation(r.tape, x, ACTIVATION_RELU);
    rig_output(&r, "y", op_dropout(r.tape, x, p), ones);
    rig_ready(&r);
    rig_run(&r, run);
    float *mask = rig_array(keep, n);
    memcpy(mask, rig_values(&r, "y"), (size_t)n * sizeof *mask);
    *backward = rig_array(keep, n);
    memcpy(*backward, rig_input(&r, "x")->grad, (size_t)n * sizeof *mask);
    rig_free(&r);
    return mask;
}

static void dropout_is_a_fair_coin_and_the_same_in_backward(void **state) {
    (void)state;
    enum { N = 40003 };
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, false);
    static const float ps[] = {0.1f, 0.5f, 0.9f};
    for (int i = 0; i < 3; i++) {
        TapeRun run = {.seed = 7, .position = 9, .training = true};
        float p = ps[i], *other, *backward, *mask = dropout_mask_of(&r, N, p, &run, 0, &backward);
        double kept = 0;
        for (int e = 0; e < N; e++) {
            assert_true(mask[e] == 0 || mask[e] == 1 / (1 - p));
            kept += mask[e] != 0;
        }
        double want = (1 - (double)p) * N, deviation = sqrt(N * (double)p * (1 - (double)p));
        assert_true(fabs(kept - want) < 4 * deviation);
        assert_memory_equal(mask, backward, N * sizeof *mask);
        /* neighbours are independent: pairs kept are the square of what is kept */
        double pairs = 0;
        for (int e = 0; e + 1 < N; e++) pairs += mask[e] != 0 && mask[e + 1] != 0;
        assert_true(fabs(pairs / N - (1 - (double)p) * (1 - (double)p)) < 0.02);
        assert_memory_equal(mask, dropout_mask_of(&r, N, p, &run, 0, &backward), N * sizeof *mask);
        for (int what = 0; what < 3; what++) {
            TapeRun changed = run;
            if (what == 0) changed.seed++;
            if (what == 1) changed.position++;
            other = dropout_mask_of(&r, N, p, &changed, what == 2, &backward);
            double same = 0, agree = (double)p * (double)p + (1 - (double)p) * (1 - (double)p);
            for (int e = 0; e < N; e++) same += (mask[e] == 0) == (other[e] == 0);
            assert_true(fabs(same / N - agree) < 0.02); /* independent, not merely different */
        }
        run.training = false;
        mask = dropout_mask_of(&r, N, p, &run, 0, &backward);
        for (int e = 0; e < N; e++) assert_true(mask[e] == 1 && backward[e] == 1);
    }
    rig_free(&r);
}

/* Dropout inside norm: x + dropout(delta). A mask depends on the node's number, so `apart` puts op_dropout where the
 * other tape has its norm. */
static void residual_case(Rig *r, int64_t c, float p, bool apart) {
    enum { ROWS = 6 };
    rig_rng.counter = 0; /* the same values each time */
    rig_new(r, test_device(), DTYPE_F32, true);
    Tensor *x = rig_activation(r, "x", 2, ROWS / 2, c, rig_normal(r, ROWS * c, 1));
    Tensor *delta = rig_activation(r, "delta", 2, ROWS / 2, c, rig_normal(r, ROWS * c, 1)), *sum;
    Tensor *w = rig_param(r, "w", 1, &c, rig_normal(r, c, 1), true);
    Tensor *b = rig_param(r, "b", 1, &c, rig_normal(r, c, 1), true);
    if (apart) delta = op_dropout(r->tape, delta, p);
    Tensor *y = op_norm(r->tape, x, delta, w, b, NORM_LAYER, 1e-5f, apart ? 0 : p, &sum);
    rig_output(r, "y", y, rig_normal(r, ROWS * c, 1));
    rig_output(r, "sum", sum, rig_normal(r, ROWS * c, 1));
    rig_ready(r);
}

static void near(const char *what, const float *got, const float *want, int64_t n) {
    double distance = rig_distance(got, want, n), scale = rig_scale(want, n);
    if (!(distance <= 1e-5 * scale)) fail_msg("%s is %g apart, and the largest element is %g", what, distance, scale);
}

static void residual_dropout_is_dropout_and_norm(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 7, 16, 130};
    for (int i = 0; i < 4; i++)
        for (int training = 0; training < 2; training++) {
            TapeRun run = {.seed = 3, .position = 8, .training = training};
            Rig one, two;
            residual_case(&one, widths[i], 0.4f, false);
            residual_case(&two, widths[i], 0.4f, true);
            rig_run(&one, &run);
            rig_run(&two, &run);
            for (int k = 0; k < one.n_in; k++) near(one.in[k].name, one.in[k].grad, two.in[k].grad, one.in[k].n);
            for (int k = 0; k < one.n_out; k++) {
                const char *name = one.out[k].name;
                near(name, rig_values(&one, name), rig_values(&two, name), one.out[k].n);
            }
            rig_free(&one);
            rig_free(&two);
        }
}

/* What the outputs' seeds are the gradient of. */
static double objective(Rig *r, const TapeRun *run) {
    double total = 0;
    rig_run(r, run);
    for (int k = 0; k < r->n_out; k++) {
        const float *y = rig_values(r, r->out[k].name), *seed = r->out[k].seed;
        for (int64_t i = 0; i < r->out[k].n; i++) total += (double)y[i] * seed[i];
    }
    return total;
}

static void residual_dropout_has_the_gradient_of_differences(void **state) {
    (void)state;
    enum { C = 7, N = 6 * C };
    const float step = 0.01f;
    TapeRun run = {.seed = 3, .position = 8, .training = true};
    Rig r;
    residual_case(&r, C, 0.4f, false);
    for (int which = 0; which < 2; which++) { /* x, delta; in the order residual_case draws their values */
        rig_rng.counter = 0;
        float *value = rig_normal(&r, N, 1), *grad = rig_array(&r, N);
        if (which) value = rig_normal(&r, N, 1);
        RigInput *in = rig_input(&r, which ? "delta" : "x");
        rig_run(&r, &run);
        memcpy(grad, in->grad, N * sizeof *grad);
        int dropped = 0;
        for (int i = 0; i < N; i++) {
            float at = value[i];
            value[i] = at + step;
            rig_set(&r, in, value);
            double up = objective(&r, &run);
            value[i] = at - step;
            rig_set(&r, in, value);
            double slope = (up - objective(&r, &run)) / (2 * (double)step);
            value[i] = at;
            if (fabs(slope - grad[i]) > 0.02 * (1 + fabs(slope)))
                fail_msg("%s[%d]: the gradient is %g, differences say %g", in->name, i, (double)grad[i], slope);
            dropped += grad[i] == 0;
        }
        rig_set(&r, in, value);
        assert_true(which ? dropped > N / 5 && dropped < N * 3 / 5 : dropped == 0);
    }
    rig_free(&r);
}

static void dropout_of_nothing_records_nothing(void **state) {
    (void)state;
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, false);
    Tensor *x = rig_activation(&r, "x", 1, 1, 4, (float[]){1, 2, 3, 4});
    assert_ptr_equal(op_dropout(r.tape, x, 0), x);
    static const float bad[] = {1, -0.1f, 1.5f, NAN};
    for (int i = 0; i < 4; i++) {
        assert_null(op_dropout(r.tape, x, bad[i]));
        assert_error(tape_plan(r.tape), TANE_EINVAL, "[0, 1)");
        rig_free(&r);
        rig_new(&r, test_device(), DTYPE_F32, false);
        x = rig_activation(&r, "x", 1, 1, 12, rig_normal(&r, 12, 1));
        AttentionShape shape = {.heads = 1, .kv_heads = 1, .head_dim = 4, .dropout = bad[i]};
        assert_null(op_attention(r.tape, x, &shape, NULL, NULL, NULL));
        assert_error(tape_plan(r.tape), TANE_EINVAL, "[0, 1)");
        rig_free(&r);
        rig_new(&r, test_device(), DTYPE_F32, false);
        x = rig_activation(&r, "x", 1, 1, 4, rig_normal(&r, 4, 1));
        Tensor *w = rig_param(&r, "w", 1, (int64_t[]){4}, rig_normal(&r, 4, 1), false);
        assert_null(op_norm(r.tape, x, NULL, w, NULL, NORM_RMS, 1e-5f, i ? bad[i] : 0.1f, NULL));
        assert_error(tape_plan(r.tape), TANE_EINVAL, i ? "[0, 1)" : "of delta, and there is none");
        rig_free(&r);
        rig_new(&r, test_device(), DTYPE_F32, false);
        x = rig_activation(&r, "x", 1, 1, 4, (float[]){1, 2, 3, 4});
    }
    rig_free(&r);
}

/* -------------------------------------------------------------------------------------------------- the loss */

typedef struct Loss {
    Rig rig;
    int rows, c, v;
    float *x, *w;
    int32_t *labels;
} Loss;

static Loss loss_new(int rows, int c, int v, DType dtype, bool with_grad) {
    Loss l = {.rows = rows, .c = c, .v = v};
    rig_new(&l.rig, test_device(), dtype, with_grad);
    l.x = rig_normal(&l.rig, (int64_t)rows * c, 1);
    l.w = rig_normal(&l.rig, (int64_t)v * c, 1);
    l.labels = (int32_t *)rig_array(&l.rig, rows);
    for (int i = 0; i < rows; i++) l.labels[i] = (int32_t)rng_below(&rig_rng, (uint64_t)v);
    return l;
}

static void loss_record(Loss *l, float smoothing) {
    Tensor *x = rig_activation(&l->rig, "x", 1, l->rows, l->c, l->x), *hits;
    Tensor *w = rig_param(&l->rig, "w", 2, (int64_t[]){l->v, l->c}, l->w, true);
    Tensor *labels = rig_ints(&l->rig, "labels", 2, (int64_t[]){1, l->rows}, l->labels);
    rig_output(&l->rig, "losses", op_cross_entropy(l->rig.tape, x, w, labels, smoothing, 0, NULL, &hits), NULL);
    rig_output(&l->rig, "hits", hits, NULL);
    rig_ready(&l->rig);
}

/* So many classes that the logits of 150 rows come in three chunks of 64, 64 and 22, against double precision. */
static void loss_in_chunks(void **state) {
    (void)state;
    enum { ROWS = 160, WIDTH = 3, CLASSES = 540000 };
    const double smoothing = 0.1, scale = 0.125;
    Loss l = loss_new(ROWS, WIDTH, CLASSES, DTYPE_F32, true);
    for (int i = 0; i < ROWS; i += 16) l.labels[i] = -100;
    loss_record(&l, (float)smoothing);
    size_t whole = (size_t)ROWS * CLASSES * sizeof(float);
    assert_true(tape_bytes(l.rig.tape) < whole); /* never whole in memory */
    rig_run(&l.rig, &(TapeRun){.grad_scale = (float)scale});
    const float *losses = rig_values(&l.rig, "losses"), *dx = rig_input(&l.rig, "x")->grad,
                *dw = rig_input(&l.rig, "w")->grad;
    double *z, *want_dw;
    assert_ok(MEM_NEW_ARRAY(&z, CLASSES));
    assert_ok(MEM_NEW_ARRAY(&want_dw, CLASSES * WIDTH));
    for (int i = 0; i < ROWS; i++) {
        double total = 0, sum = 0, want_dx[WIDTH] = {0};
        if (l.labels[i] == -100) {
            assert_true(losses[i] == 0);
            for (int e = 0; e < WIDTH; e++) assert_true(dx[i * WIDTH + e] == 0);
            continue;
        }
        for (int k = 0; k < CLASSES; k++) {
            z[k] = 0;
            for (int e = 0; e < WIDTH; e++) z[k] += (double)l.x[i * WIDTH + e] * (double)l.w[k * WIDTH + e];
            total += exp(z[k]);
            sum += z[k];
        }
        double want = log(total) - (1 - smoothing) * z[l.labels[i]] - smoothing * sum / CLASSES;
        assert_true(fabs((double)losses[i] - want) < 1e-5 * want);
        for (int k = 0; k < CLASSES; k++) {
            double d = scale * (exp(z[k]) / total - smoothing / CLASSES - (k == l.labels[i] ? 1 - smoothing : 0));
            for (int e = 0; e < WIDTH; e++) {
                want_dx[e] += d * (double)l.w[k * WIDTH + e];
                want_dw[k * WIDTH + e] += d * (double)l.x[i * WIDTH + e];
            }
        }
        for (int e = 0; e < WIDTH; e++) assert_true(fabs((double)dx[i * WIDTH + e] - want_dx[e]) < 1e-5);
    }
    double most = 0;
    for (int k = 0; k < CLASSES * WIDTH; k++) most = fmax(most, fabs((double)dw[k] - want_dw[k]));
    assert_true(most < 1e-6);
    mem_free(z);
    mem_free(want_dw);
    rig_free(&l.rig);
}

/* Few labels among many rows and classes: products far smaller than the largest that was planned for. */
static void loss_with_few_labels_stays_in_its_memory(void **state) {
    (void)state;
    for (int labelled = 0; labelled <= 33; labelled += 3)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            Loss l = loss_new(640, 64, 24576, (DType)dtype, true);
            for (int i = labelled; i < l.rows; i++) l.labels[i] = -100;
            loss_record(&l, 0);
            rig_run(&l.rig, &(TapeRun){.grad_scale = 1});
            const float *losses = rig_values(&l.rig, "losses");
            for (int i = 0; i < l.rows; i++) assert_true(i < labelled ? losses[i] > 0 : losses[i] == 0);
            rig_free(&l.rig);
        }
}

static void hits_are_the_first_of_equal_maxima(void **state) {
    (void)state;
    /* logits of row i are twice row i of x; one overflows, and infinity is no hit */
    enum { ROWS = 6 };
    static const float x[ROWS][4] = {{1, 3, 3, 0},     {1, 3, 3, 0}, {2, 2, 2, 2},
                                     {-1, -2, -3, -4}, {0, 0, 0, 9}, {0, 3e38f, 0, 0}};
    static const int32_t labels[ROWS] = {1, 2, 0, 3, -100, 1}, hit[ROWS] = {1, 0, 1, 0, 0, 0};
    Loss l = loss_new(ROWS, 4, 4, DTYPE_F32, false);
    memcpy(l.x, x, sizeof x);
    memcpy(l.labels, labels, sizeof labels);
    for (int i = 0; i < 16; i++) l.w[i] = i % 5 == 0 ? 2 : 0;
    loss_record(&l, 0);
    rig_run(&l.rig, &(TapeRun){0});
    const float *got = rig_values(&l.rig, "hits");
    for (int i = 0; i < ROWS; i++) assert_int_equal((int)got[i], hit[i]);
    assert_true(isnan(rig_values(&l.rig, "losses")[5]));
    rig_free(&l.rig);
}

static void bad_ids_are_errors(void **state) {
    (void)state;
    static const int32_t bad[] = {7, -1, -99, -101, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char message[64];
        Loss l = loss_new(3, 2, 7, DTYPE_F32, true);
        l.labels[1] = bad[i];
        loss_record(&l, 0);
        snprintf(message, sizeof message, "label %d at row 1 is outside 0..6", bad[i]);
        assert_error(rig_try(&l.rig, &(TapeRun){.grad_scale = 1}), TANE_EINVAL, message);
        rig_free(&l.rig);
        Rig r;
        for (int position = 0; position < 2; position++) {
            rig_new(&r, test_device(), DTYPE_F32, false);
            int32_t ids[6] = {0, 1, 2, 3, 4, 5}, other[6] = {0};
            ids[4] = bad[i] == -100 ? 7 : bad[i];
            Tensor *good = rig_ints(&r, "good", 2, (int64_t[]){2, 3}, other),
                   *wrong = rig_ints(&r, "wrong", 2, (int64_t[]){2, 3}, ids);
            Tensor *wte = rig_param(&r, "wte", 2, (int64_t[]){7, 2}, rig_normal(&r, 14, 1), false);
            Tensor *wpe = rig_param(&r, "wpe", 2, (int64_t[]){7, 2}, rig_normal(&r, 14, 1), false);
            rig_output(&r, "y", op_embedding(r.tape, position ? good : wrong, position ? wrong : good, wte, wpe, 1), NULL);
            rig_ready(&r);
            snprintf(message, sizeof message, "%s %d at row 1, place 1 is outside 0..6",
                     position ? "position" : "token", ids[4]);
            assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINVAL, message);
            rig_free(&r);
        }
        rig_new(&r, test_device(), DTYPE_F32, false);
        int32_t ids[2] = {0, bad[i]};
        Tensor *x = rig_activation(&r, "x", 1, 2, 6, rig_normal(&r, 12, 1));
        Tensor *table = rig_floats(&r, "cos_sin", 2, (int64_t[]){7, 2}, rig_normal(&r, 14, 1));
        rig_output(&r, "y", op_rope(r.tape, x, rig_ints(&r, "positions", 2, (int64_t[]){1, 2}, ids), table, 1, 1, 2),
                   NULL);
        rig_ready(&r);
        assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINVAL, "outside the model's context of 7");
        rig_free(&r);
    }
}

static void nan_and_infinity_show_in_the_loss(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++)
        for (int i = 0; i < 3; i++)
            for (int in_w = 0; in_w < 2; in_w++) {
                Loss l = loss_new(4, 3, 5, (DType)dtype, true);
                l.labels[0] = l.labels[1] = l.labels[2] = 1;
                l.labels[3] = -100;
                if (in_w) l.w[3 * 3] = bad[i]; /* a class that is nobody's label */
                else l.x[1 * 3] = bad[i];
                loss_record(&l, 0);
                rig_run(&l.rig, &(TapeRun){.grad_scale = 1});
                const float *losses = rig_values(&l.rig, "losses"), *dw = rig_input(&l.rig, "w")->grad;
                const float *hits = rig_values(&l.rig, "hits");
                for (int k = 0; k < 3; k++) assert_true(isfinite(losses[k]) || hits[k] == 0);
                bool any = false, grad = false;
                for (int k = 0; k < 3; k++) any |= !isfinite(losses[k]);
                for (int k = 0; k < 15; k++) grad |= !isfinite(dw[k]);
                if (in_w &&
                    i > 0) { /* the sign of x decides whether the logit is +inf (no loss) or -inf (never chosen) */
                    for (int k = 0; k < 3; k++) {
                        float z = l.x[k * 3] * bad[i];
                        assert_true(z > 0 ? isnan(losses[k]) : isfinite(losses[k]));
                    }
                } else {
                    assert_true(any);
                    assert_true(grad);
                    if (!in_w) assert_true(isfinite(losses[0]) && isfinite(losses[2]));
                }
                assert_true(losses[3] == 0);
                rig_free(&l.rig);
            }
}

/* A scale of zero is an objective of zero, and not a wish for no gradients. */
static void a_scale_of_zero_gives_zero_gradients(void **state) {
    (void)state;
    Loss l = loss_new(4, 3, 5, DTYPE_F32, true);
    loss_record(&l, 0.1f);
    rig_run(&l.rig, &(TapeRun){.grad_scale = 0});
    for (int i = 0; i < 15; i++) assert_true(rig_input(&l.rig, "w")->grad[i] == 0);
    for (int i = 0; i < 12; i++) assert_true(rig_input(&l.rig, "x")->grad[i] == 0);
    rig_free(&l.rig);
}

/* Evaluation needs neither a place for dx nor the products that make it. */
static void loss_without_gradients_takes_less_memory(void **state) {
    (void)state;
    size_t bytes[2];
    for (int with_grad = 0; with_grad < 2; with_grad++) {
        Loss l = loss_new(64, 128, 16, DTYPE_F32, with_grad);
        loss_record(&l, 0);
        bytes[with_grad] = tape_bytes(l.rig.tape);
        rig_free(&l.rig);
    }
    assert_true(bytes[0] + 63 * 128 * sizeof(float) <= bytes[1]); /* but for some alignment */
}

/* -------------------------------------------------------------------------------------------------- generation */

static void logits_are_those_of_the_chosen_tokens(void **state) {
    (void)state;
    enum { ROWS = 3, LEN = 4, WIDTH = 19, CLASSES = 37 };
    for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
        Rig r;
        rig_new(&r, test_device(), (DType)dtype, false);
        float *x = rig_normal(&r, ROWS * LEN * WIDTH, 1), *w = rig_normal(&r, CLASSES * WIDTH, 1), want[ROWS * CLASSES];
        for (int i = 0; i < ROWS * LEN * WIDTH; i++) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
        for (int i = 0; i < CLASSES * WIDTH; i++) w[i] = bf16_to_f32(f32_to_bf16(w[i]));
        static const int32_t at[ROWS] = {3, 0, 2};
        for (int b = 0; b < ROWS; b++)
            for (int v = 0; v < CLASSES; v++) {
                double sum = 0;
                for (int e = 0; e < WIDTH; e++)
                    sum += (double)x[(b * LEN + at[b]) * WIDTH + e] * (double)w[v * WIDTH + e];
                want[b * CLASSES + v] = (float)sum;
            }
        Tensor *in = rig_activation(&r, "x", ROWS, LEN, WIDTH, x);
        Tensor *head = rig_param(&r, "w", 2, (int64_t[]){CLASSES, WIDTH}, w, false),
               *which = rig_ints(&r, "at", 1, (int64_t[]){ROWS}, at);
        rig_output(&r, "y", op_logits(r.tape, in, head, which, 0), NULL);
        rig_ready(&r);
        rig_run(&r, &(TapeRun){0});
        /* exact products, fp32 sums of 19: also in bf16, since the logits are fp32 */
        assert_true(rig_distance(rig_values(&r, "y"), want, ROWS * CLASSES) <= 2e-6 * rig_scale(want, ROWS * CLASSES));
        rig_upload(&r, which, (int32_t[ROWS]){3, LEN, 2});
        assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINVAL, "token 4 of row 1 is outside 0..3");
        rig_free(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(golden_values),
        TEST(half_is_rounded_fp32),
        TEST(same_bits_on_any_number_of_threads),
        TEST(more_threads_than_planned_are_refused),
        TEST(dropout_is_a_fair_coin_and_the_same_in_backward),
        TEST(residual_dropout_is_dropout_and_norm),
        TEST(residual_dropout_has_the_gradient_of_differences),
        TEST(dropout_of_nothing_records_nothing),
        TEST(loss_in_chunks),
        TEST(loss_with_few_labels_stays_in_its_memory),
        TEST(hits_are_the_first_of_equal_maxima),
        TEST(bad_ids_are_errors),
        TEST(nan_and_infinity_show_in_the_loss),
        TEST(a_scale_of_zero_gives_zero_gradients),
        TEST(loss_without_gradients_takes_less_memory),
        TEST(logits_are_those_of_the_chosen_tokens),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
