/* Every op against PyTorch's values and gradients (tools/golden/ops.py), in each instruction set this machine has, and
 * in bf16 against itself in fp32; dropout and the loss in what golden values do not show. Attention's two kernels and its
 * cache are in test_attention.c, the tape in test_tape.c.
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
    bool round;      /* inputs are rounded to bf16, also for an fp32 run */
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
    for (int64_t i = 0; i < n && c->round; i++) to[i] = bf16_to_f32(f32_to_bf16(to[i]));
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
    return rig_ints(&c->rig, name, x->rank, x->shape, x->data);
}

static void output(Case *c, const char *name, Tensor *x) {
    char d_name[48];
    snprintf(d_name, sizeof d_name, "d%s", name);
    const StTensor *seed = find(c, d_name);
    rig_output(&c->rig, name, x, seed ? values(c, seed) : NULL);
}

static void build_embedding(Case *c) {
    Tensor *tokens = ints(c, "tokens"), *positions = ints(c, "positions"), *wte = param(c, "wte"), *wpe = param(c, "wpe");
    output(c, "y", op_embedding(c->rig.tape, tokens, positions, wte, wpe));
}

static void build_norm(Case *c) {
    Tensor *x = activation(c, "x"), *delta = activation(c, "delta"), *sum;
    Tensor *weight = param(c, "weight"), *bias = param(c, "bias");
    output(c, "y", op_norm(c->rig.tape, x, delta, weight, bias, (NormKind)arg(c, 0), arg(c, 1), &sum));
    if (delta) output(c, "sum", sum);
    else assert_ptr_equal(sum, x);
}

static void build_linear(Case *c) {
    Tensor *x = activation(c, "x"), *w = param(c, "w"), *bias = param(c, "bias");
    output(c, "y", op_linear(c->rig.tape, x, w, bias));
}

static void build_rope(Case *c) {
    const StTensor *table = find(c, "cos_sin");
    Tensor *x = activation(c, "x"), *positions = ints(c, "positions");
    Tensor *cos_sin = rig_floats(&c->rig, "cos_sin", 2, table->shape, table->data);
    output(c, "y", op_rope(c->rig.tape, x, positions, cos_sin, (int)arg(c, 0), (int)arg(c, 1), (int)arg(c, 2)));
}

static void build_attention(Case *c) {
    Tensor *x = activation(c, "x");
    output(c, "y", op_attention(c->rig.tape, x, (int)arg(c, 0), (int)arg(c, 1), (int)arg(c, 2), 0, NULL, NULL));
}

static void build_activation(Case *c) {
    output(c, "y", op_activation(c->rig.tape, activation(c, "x"), (ActivationKind)arg(c, 0)));
}

static void build_glu(Case *c) { output(c, "y", op_glu(c->rig.tape, activation(c, "x"), (ActivationKind)arg(c, 0))); }

static void build_cross_entropy(Case *c) {
    Tensor *x = activation(c, "x"), *w = param(c, "w"), *hits;
    output(c, "y", op_cross_entropy(c->rig.tape, x, w, ints(c, "labels"), arg(c, 0), &hits));
    output(c, "hits", hits);
}

static const struct {
    const char *op;
    int cases; /* so that a file with fewer is noticed */
    void (*build)(Case *c);
} ops[] = {
    {"embedding", 4, build_embedding}, {"norm", 9, build_norm},
    {"linear", 6, build_linear},       {"rope", 3, build_rope},
    {"attention", 10, build_attention}, {"activation", 8, build_activation},
    {"glu", 8, build_glu},             {"cross_entropy", 7, build_cross_entropy},
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

static Case case_new(int op, int n, const OpKernel *const *kernels, DType dtype, bool with_grad, bool round) {
    Case c = {.file = golden, .round = round};
    snprintf(c.prefix, sizeof c.prefix, "%s.%d", ops[op].op, n);
    rig_new(&c.rig, kernels, dtype, with_grad);
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

static void golden_of(const char *isa) {
    const OpKernel *const *kernels = ops_cpu_isa(isa);
    if (!kernels) {
        print_message("this CPU has no %s\n", isa);
        skip();
    }
    for (int op = 0; op < OPS; op++) {
        int n = 0;
        for (char name[64]; snprintf(name, sizeof name, "%s.%d.y", ops[op].op, n), st_find(golden, name); n++) {
            Case c = case_new(op, n, kernels, DTYPE_F32, true, false), plain;
            TapeRun run = run_of(&c);
            rig_run(&c.rig, &run);
            check_case(&c, 1);
            run.accumulate = true; /* a second micro-batch adds */
            rig_run(&c.rig, &run);
            check_case(&c, 2);
            /* without gradients: other lifetimes, same bits */
            plain = case_new(op, n, kernels, DTYPE_F32, false, false);
            rig_run(&plain.rig, &run);
            for (int i = 0; i < c.rig.n_out; i++) {
                const RigOutput *a = &c.rig.out[i], *b = &plain.rig.out[i];
                assert_memory_equal(a->tensor->data, b->tensor->data, (size_t)a->n * 4);
            }
            rig_free(&plain.rig);
            rig_free(&c.rig);
        }
        if (n != ops[op].cases) fail_msg("%s has %d cases, expected %d", ops[op].op, n, ops[op].cases);
    }
}

static void golden_base(void **state) {
    (void)state;
    golden_of("base");
}
static void golden_avx2(void **state) {
    (void)state;
    golden_of("avx2");
}
static void golden_avx512(void **state) {
    (void)state;
    golden_of("avx512");
}

/* ------------------------------------------------------------------------------------------------------ bf16 */

/* The same inputs, rounded to bf16, in both types. One rounding to bf16 is 2^-8 of the element (half a unit in the last
 * of 8 bits). The bound counts roundings of intermediate results, each of at most the largest element: outputs are
 * rounded once (attention: the weights too; norm: the sum before it), gradients behind up to three rounded values. */
static void near_bf16(const Case *c, const char *name, const float *got, const float *want, int64_t n, int roundings) {
    double scale = rig_scale(want, n), distance = rig_distance(got, want, n);
    if (distance <= roundings * scale / 256) return;
    fail_msg("%s: %s in bf16 is %g from fp32, whose largest element is %g: more than %d roundings", c->prefix, name, distance,
             scale, roundings);
}

static void bf16_is_rounded_fp32(void **state) {
    (void)state;
    const OpKernel *const *tables[] = {ops_cpu_isa("base"), ops_cpu_isa("avx2"), ops_cpu_isa("avx512")};
    for (int isa = 0; isa < 3; isa++)
        for (int op = 0; op < OPS && tables[isa]; op++)
            for (int n = 0; n < ops[op].cases; n++) {
                Case exact = case_new(op, n, tables[isa], DTYPE_F32, true, true);
                Case half = case_new(op, n, tables[isa], DTYPE_BF16, true, true);
                TapeRun run = run_of(&exact);
                rig_run(&exact.rig, &run);
                rig_run(&half.rig, &run);
                for (int i = 0; i < exact.rig.n_in; i++)
                    near_bf16(&exact, exact.rig.in[i].name, half.rig.in[i].grad, exact.rig.in[i].grad, exact.rig.in[i].n, 4);
                for (int i = 0; i < exact.rig.n_out; i++) {
                    const char *name = exact.rig.out[i].name;
                    near_bf16(&exact, name, rig_values(&half.rig, name), rig_values(&exact.rig, name), exact.rig.out[i].n, 2);
                }
                rig_free(&exact.rig);
                rig_free(&half.rig);
            }
}

/* --------------------------------------------------------------------------------------------------- threads */

/* Inputs large enough for every parallel region. Products are the GEMM's affair: compared within rounding. */
enum { B = 3, T = 70, C = 96 };

static void threads_case(Rig *r, int which, const OpKernel *const *kernels, DType dtype) {
    rig_rng.counter = 0; /* the same values each time */
    rig_new(r, kernels, dtype, true);
    Tape *t = r->tape;
    int64_t width = which == 3 ? 3 * C : C, out = which == 4 ? C / 2 : which == 6 ? 2 * C : which == 3 ? C : width;
    Tensor *x = rig_activation(r, "x", B, T, width, rig_normal(r, B * T * width, 1)), *y = NULL;
    int32_t position[B * T];
    for (int i = 0; i < B * T; i++) position[i] = (i * 7) % T;
    switch (which) {
    case 0:
        y = op_norm(t, x, rig_activation(r, "delta", B, T, C, rig_normal(r, B * T * C, 1)),
                    rig_param(r, "w", 1, (int64_t[]){C}, rig_normal(r, C, 1), true),
                    rig_param(r, "b", 1, (int64_t[]){C}, rig_normal(r, C, 1), true), NORM_LAYER, 1e-5f, NULL);
        break;
    case 1: y = op_activation(t, x, ACTIVATION_GELU_TANH); break;
    case 2: y = op_dropout(t, x, 0.3f); break;
    case 3: y = op_attention(t, x, 6, 6, C / 6, 0.2f, NULL, NULL); break;
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
    int before = omp_get_max_threads();
    TapeRun run = {.seed = 3, .position = 5, .training = true};
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int which = 0; which < 7; which++) {
            Rig many, one;
            omp_set_num_threads(3);
            threads_case(&many, which, ops_cpu(), (DType)dtype);
            rig_run(&many, &run);
            omp_set_num_threads(1);
            threads_case(&one, which, ops_cpu(), (DType)dtype);
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
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    Rig r;
    threads_case(&r, 0, ops_cpu(), DTYPE_F32);
    omp_set_num_threads(2);
    assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINTERNAL, "planned for 1 threads");
    omp_set_num_threads(before);
    rig_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(golden_base),
        TEST(golden_avx2),
        TEST(golden_avx512),
        TEST(bf16_is_rounded_fp32),
        TEST(same_bits_on_any_number_of_threads),
        TEST(more_threads_than_planned_are_refused),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
