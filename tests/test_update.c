/* What follows backward: the sum of the losses, the gradient's norm and what it decides (clipping, loss scale,
 * halting), AdamW with fp32 and with bf16 states.
 */
#include "ops/update.h"

#include <math.h>
#include <string.h>

#include "ops/backend.h"
#include "rig.h"

/* The update's tape over n elements. `weights` is the compute copy, or with bf16 states the weights themselves. */
typedef struct Update {
    Rig rig;
    Tensor *master, *m, *v, *grads, *hyper, *state, *weights;
    float *control;
} Update;

static const AdamSegment one_segment[] = {{0, 64, 0, 1}};

static Tensor *array(Update *u, const char *name, DType type, int64_t n, const float *values) {
    Tensor *x = tape_external(u->rig.tape, name, type, 1, &n);
    assert_non_null(x);
    assert_ok(arena_new(&u->rig.arena, &x->data, 1, tensor_bytes(x)));
    for (int64_t i = 0; i < n && values; i++) {
        if (type == DTYPE_F32) ((float *)x->data)[i] = values[i];
        else ((uint16_t *)x->data)[i] = f32_to_bf16(values[i]);
    }
    return x;
}

static void update_new(Update *u, bool master, DType weights, int64_t n, const float *start,
                       const AdamSegment *segments, int n_segments) {
    static const float hyper[UPDATE_HYPER] = {
        [HYPER_LR] = 1e-2f, [HYPER_BETA1] = 0.9f, [HYPER_BETA2] = 0.95f, [HYPER_EPSILON] = 1e-8f};
    static const float state[UPDATE_STATE] = {[STATE_LOSS_SCALE] = 1};
    DType type = master ? DTYPE_F32 : DTYPE_BF16;
    rig_new(&u->rig, backend_cpu(), DTYPE_F32, false);
    u->master = master ? array(u, "master", type, n, start) : NULL;
    u->m = array(u, "m", type, n, NULL);
    u->v = array(u, "v", type, n, NULL);
    u->grads = array(u, "grads", type, n, NULL);
    u->hyper = array(u, "hyper", DTYPE_F32, UPDATE_HYPER, hyper);
    u->state = array(u, "state", DTYPE_F32, UPDATE_STATE, state);
    u->weights = master && weights == DTYPE_F32 ? NULL : array(u, "weights", weights, n, start);
    Tensor *control = op_grad_norm(u->rig.tape, u->grads, u->hyper, u->state);
    op_adamw(u->rig.tape, u->master, u->m, u->v, u->grads, control, u->hyper, u->weights, segments, n_segments);
    rig_ready(&u->rig);
    assert_non_null(control);
    u->control = control->data;
}

static float *hyper_of(const Update *u) { return u->hyper->data; }
static float *state_of(const Update *u) { return u->state->data; }
static float *grads_of(const Update *u) { return u->grads->data; }

static void fill(const Update *u, float value) {
    for (int64_t i = 0; i < tensor_count(u->grads); i++) {
        if (u->grads->dtype == DTYPE_F32) grads_of(u)[i] = value;
        else ((uint16_t *)u->grads->data)[i] = f32_to_bf16(value);
    }
}

/* ------------------------------------------------------------------------------------------------- the formula */

/* Steps of AdamW over two segments against double precision; with a gradient that is not finite nothing moves. */
static void adamw_follows_its_formula(void **state) {
    (void)state;
    enum { N = 12345, STEPS = 5, FIRST = 10000 };
    static const AdamSegment segments[] = {{0, FIRST, 0.1f, 1}, {FIRST, N, 0, 0.5f}};
    const double lr = 1e-2, b1 = 0.9, b2 = 0.95, eps = 1e-8, most = 1.0;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Update u;
        double *w, *m, *v;
        float start[N];
        assert_ok(MEM_NEW_ARRAY(&w, N));
        assert_ok(MEM_NEW_ARRAY(&m, N));
        assert_ok(MEM_NEW_ARRAY(&v, N));
        for (int i = 0; i < N; i++) w[i] = (double)(start[i] = rng_normal(&rig_rng));
        update_new(&u, true, (DType)dtype, N, start, segments, 2);
        hyper_of(&u)[HYPER_MAX_NORM] = (float)most;
        const float *master = u.master->data, *control = u.control;
        float *g = grads_of(&u);
        for (int step = 1; step <= STEPS; step++) {
            double square = 0;
            for (int i = 0; i < N; i++) {
                g[i] = rng_normal(&rig_rng) * (step == 2 ? 1e-4f : 1); /* clipped, and not */
                square += (double)g[i] * (double)g[i];
            }
            rig_run(&u.rig, &(TapeRun){0});
            double scale = fmin(1, most / (sqrt(square) + 1e-6));
            assert_true(state_of(&u)[STATE_UPDATES] == (float)step && control[CONTROL_APPLY] == 1);
            assert_true(fabs((double)control[CONTROL_NORM] - sqrt(square)) < 1e-6 * sqrt(square));
            assert_true(fabs((double)control[CONTROL_SCALE] - scale) < 1e-6 * scale);
            assert_true(fabs((double)control[CONTROL_STEP] * (1 - pow(b1, step)) - 1) < 1e-6);
            assert_true(fabs((double)control[CONTROL_ROOT] * sqrt(1 - pow(b2, step)) - 1) < 1e-6);
            for (int i = 0; i < N; i++) {
                const AdamSegment *s = &segments[i >= FIRST];
                double gi = (double)g[i] * scale, rate = lr * (double)s->lr_scale;
                m[i] = b1 * m[i] + (1 - b1) * gi;
                v[i] = b2 * v[i] + (1 - b2) * gi * gi;
                w[i] -= rate * (double)s->weight_decay * w[i];
                w[i] -= rate * (m[i] / (1 - pow(b1, step))) / (sqrt(v[i] / (1 - pow(b2, step))) + eps);
                assert_true(fabs((double)master[i] - w[i]) < 2e-6);
                if (dtype == DTYPE_BF16) assert_int_equal(((uint16_t *)u.weights->data)[i], f32_to_bf16(master[i]));
            }
        }
        for (int bad = 0; bad < 2; bad++) {
            float before[8];
            memcpy(before, master + N - 8, sizeof before);
            g[77] = bad ? INFINITY : NAN;
            rig_run(&u.rig, &(TapeRun){0});
            assert_true(!isfinite(control[CONTROL_NORM]) && control[CONTROL_APPLY] == 0);
            assert_true(state_of(&u)[STATE_UPDATES] == STEPS && state_of(&u)[STATE_HALTED] == 0);
            assert_memory_equal(before, master + N - 8, sizeof before);
            assert_true(isfinite(((float *)u.m->data)[77]) && isfinite(((float *)u.v->data)[77]));
        }
        mem_free(w);
        mem_free(m);
        mem_free(v);
        rig_free(&u.rig);
    }
}

/* ------------------------------------------------------------------------------------------- what a norm decides */

/* A loss scale of 2^k changes no bit of the update, clipped or not: it goes in with the gradients and comes out again.
 */
static void a_loss_scale_comes_out_again(void **state) {
    (void)state;
    for (int clipped = 0; clipped < 2; clipped++) {
        Update plain, scaled;
        float start[64];
        for (int i = 0; i < 64; i++) start[i] = rng_normal(&rig_rng);
        update_new(&plain, true, DTYPE_F32, 64, start, one_segment, 1);
        update_new(&scaled, true, DTYPE_F32, 64, start, one_segment, 1);
        hyper_of(&plain)[HYPER_MAX_NORM] = hyper_of(&scaled)[HYPER_MAX_NORM] = clipped ? 0.5f : 0;
        state_of(&scaled)[STATE_LOSS_SCALE] = 1024;
        hyper_of(&scaled)[HYPER_SCALE_GROWTH] = 1000;
        for (int i = 0; i < 64; i++) grads_of(&scaled)[i] = 1024 * (grads_of(&plain)[i] = rng_normal(&rig_rng));
        rig_run(&plain.rig, &(TapeRun){0});
        rig_run(&scaled.rig, &(TapeRun){0});
        assert_true(plain.control[CONTROL_NORM] == scaled.control[CONTROL_NORM]);
        assert_memory_equal(plain.master->data, scaled.master->data, sizeof start);
        assert_memory_equal(plain.v->data, scaled.v->data, sizeof start);
        rig_free(&plain.rig);
        rig_free(&scaled.rig);
    }
}

/* As torch.amp.GradScaler with growth_factor 2, backoff_factor 0.5, growth_interval 2; never below 1 or above 2^24. */
static void the_loss_scale_grows_and_shrinks(void **state) {
    (void)state;
    static const struct {
        bool good;
        float scale, in_a_row, updates, halted; /* afterwards */
    } steps[] = {
        {true, 4, 1, 1, 0}, {true, 8, 0, 2, 0},  {true, 8, 1, 3, 0},  {false, 4, 0, 3, 0},
        {true, 4, 1, 4, 0}, {false, 2, 0, 4, 0}, {false, 1, 0, 4, 0}, {true, 1, 1, 5, 0},
        {true, 2, 0, 6, 0}, {false, 1, 0, 6, 0}, {false, 1, 0, 6, 1}, /* nothing left to halve: the gradient itself is
                                                                         not finite */
        {true, 1, 0, 6, 1},
    };
    Update u;
    update_new(&u, true, DTYPE_F32, 64, (float[64]){0}, one_segment, 1);
    hyper_of(&u)[HYPER_SCALE_GROWTH] = 2;
    hyper_of(&u)[HYPER_HALT] = 1;
    const float *s = state_of(&u);
    state_of(&u)[STATE_LOSS_SCALE] = 4;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        fill(&u, 1);
        if (!steps[i].good) grads_of(&u)[i] = i % 2 ? NAN : INFINITY;
        rig_run(&u.rig, &(TapeRun){0});
        if (s[STATE_LOSS_SCALE] != steps[i].scale || s[STATE_GOOD] != steps[i].in_a_row ||
            s[STATE_UPDATES] != steps[i].updates || s[STATE_HALTED] != steps[i].halted)
            fail_msg("step %zu: scale %g, %g in a row, %g updates, halted %g", i, (double)s[STATE_LOSS_SCALE],
                     (double)s[STATE_GOOD], (double)s[STATE_UPDATES], (double)s[STATE_HALTED]);
        assert_true(u.control[CONTROL_APPLY] == (steps[i].good && !steps[i].halted));
    }
    fill(&u, 1);
    state_of(&u)[STATE_HALTED] = 0;
    state_of(&u)[STATE_LOSS_SCALE] = 0x1p23f;
    for (int i = 0; i < 4; i++) rig_run(&u.rig, &(TapeRun){0});
    assert_true(s[STATE_LOSS_SCALE] == 0x1p24f);
    rig_free(&u.rig);
}

/* Without loss scaling: halted for good, or only left out once. */
static void a_halted_run_stays_halted(void **state) {
    (void)state;
    for (int halt = 0; halt < 2; halt++) {
        Update u;
        float start[64], after[64];
        for (int i = 0; i < 64; i++) start[i] = rng_normal(&rig_rng);
        update_new(&u, true, DTYPE_F32, 64, start, one_segment, 1);
        hyper_of(&u)[HYPER_HALT] = (float)halt;
        fill(&u, 1);
        rig_run(&u.rig, &(TapeRun){0});
        memcpy(after, u.master->data, sizeof after);
        assert_memory_not_equal(start, after, sizeof after);
        grads_of(&u)[63] = NAN;
        rig_run(&u.rig, &(TapeRun){0});
        assert_memory_equal(after, u.master->data, sizeof after);
        fill(&u, 2);
        rig_run(&u.rig, &(TapeRun){0});
        assert_true(u.control[CONTROL_NORM] == 16); /* the norm is told all the same */
        assert_true(state_of(&u)[STATE_HALTED] == (float)halt && state_of(&u)[STATE_UPDATES] == (halt ? 1 : 2));
        assert_int_equal(memcmp(after, u.master->data, sizeof after) == 0, halt);
        rig_free(&u.rig);
    }
}

/* ------------------------------------------------------------------------------------------------- bf16 states */

/* Over many seeds the mean of what was rounded stochastically is what fp32 computes, and each value is one of its two
 * neighbours: also where the update is far below half a unit, and would be lost by rounding to nearest. */
static void bf16_states_are_right_on_average(void **state) {
    (void)state;
    enum { N = 67, SEEDS = 4000 };
    static const AdamSegment segments[] = {{0, 40, 0.1f, 1}, {40, N, 0, 1}};
    Update exact, half;
    float start[N], value[3][N];
    double mean[3][N] = {{0}};
    for (int i = 0; i < N; i++) start[i] = bf16_to_f32(f32_to_bf16(rng_normal(&rig_rng)));
    update_new(&exact, true, DTYPE_F32, N, start, segments, 2);
    update_new(&half, false, DTYPE_BF16, N, start, segments, 2);
    hyper_of(&exact)[HYPER_LR] = hyper_of(&half)[HYPER_LR] = 1e-4f;
    for (int i = 0; i < N; i++) {
        uint16_t g = f32_to_bf16(rng_normal(&rig_rng));
        grads_of(&exact)[i] = bf16_to_f32(g);
        ((uint16_t *)half.grads->data)[i] = g;
    }
    rig_run(&exact.rig, &(TapeRun){0});
    const Tensor *want[] = {exact.master, exact.m, exact.v}, *got[] = {half.weights, half.m, half.v};
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        state_of(&half)[STATE_UPDATES] = 0;
        for (int i = 0; i < N; i++) ((uint16_t *)half.weights->data)[i] = f32_to_bf16(start[i]);
        memset(half.m->data, 0, N * 2);
        memset(half.v->data, 0, N * 2);
        rig_run(&half.rig, &(TapeRun){.seed = seed, .position = 3});
        assert_true(half.control[CONTROL_NORM] == exact.control[CONTROL_NORM]);
        for (int a = 0; a < 3; a++)
            for (int i = 0; i < N; i++)
                mean[a][i] += (double)(value[a][i] = bf16_to_f32(((uint16_t *)got[a]->data)[i]));
        for (int a = 0; a < 3; a++)
            for (int i = 0; i < N; i++) {
                float x = ((float *)want[a]->data)[i], unit = ldexpf(1, ilogbf(x) - 7);
                assert_true(fabsf(value[a][i] - x) < unit * 1.001f);
            }
    }
    for (int a = 0; a < 3; a++)
        for (int i = 0; i < N; i++) {
            double x = (double)((float *)want[a]->data)[i], unit = ldexp(1, ilogb(x) - 7);
            /* a coin's deviation is at most half a unit; 201 of them: five deviations */
            if (fabs(mean[a][i] / SEEDS - x) > 5 * 0.5 * unit / sqrt(SEEDS))
                fail_msg("array %d, element %d: %g on average, %g is right, a unit is %g", a, i, mean[a][i] / SEEDS, x,
                         unit);
        }
    rig_free(&exact.rig);
    rig_free(&half.rig);
}

/* The noise is a function of seed, position, array and element, whatever the segments are. */
static void the_noise_depends_on_the_place_alone(void **state) {
    (void)state;
    enum { N = 8000, PARTS = 251 };
    static const AdamSegment whole[] = {{0, N, 0, 1}};
    AdamSegment parts[PARTS];
    for (int i = 0; i < PARTS; i++) parts[i] = (AdamSegment){i ? parts[i - 1].end : 0, (i + 1) * N / PARTS, 0, 1};
    static const TapeRun runs[] = {
        {.seed = 1, .position = 1}, {.seed = 1, .position = 1}, {.seed = 1, .position = 2}, {.seed = 2, .position = 1}};
    float start[N];
    uint16_t first[N];
    for (int i = 0; i < N; i++) start[i] = rng_normal(&rig_rng);
    for (int k = 0; k < 4; k++) {
        Update u;
        update_new(&u, false, DTYPE_BF16, N, start, k == 1 ? parts : whole, k == 1 ? PARTS : 1);
        fill(&u, 0.37f);
        rig_run(&u.rig, &runs[k]);
        if (k == 0) memcpy(first, u.weights->data, sizeof first);
        assert_int_equal(memcmp(first, u.weights->data, sizeof first) == 0, k <= 1);
        rig_free(&u.rig);
    }
}

static void stochastic_rounding_keeps_what_is_finite(void **state) {
    (void)state;
    static const struct {
        uint32_t bits, noise;
        uint16_t want;
    } cases[] = {
        {0x3f800000, 0xffff, 0x3f80}, /* 1 is a bf16 number: no noise moves it */
        {0x3f808000, 0x7fff, 0x3f80}, {0x3f808000, 0x8000, 0x3f81}, {0xbf808000, 0x8000, 0xbf81},
        {0x3f80ffff, 0x0001, 0x3f81}, {0x3f800001, 0xfffe, 0x3f80}, {0x3f800001, 0xffff, 0x3f81},
        {0x7f7fffff, 0xffff, 0x7f7f}, /* the largest stays finite */
        {0xff7fffff, 0xffff, 0xff7f}, {0x7f800000, 0xffff, 0x7f80}, {0xff800000, 0xffff, 0xff80},
        {0x7f800001, 0xffff, 0x7fc0}, /* a NaN whose bits are all cut off */
        {0x00000000, 0xffff, 0x0000}, {0x80000000, 0xffff, 0x8000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float x;
        memcpy(&x, &cases[i].bits, 4);
        assert_int_equal(round_stochastic(x, cases[i].noise), cases[i].want);
    }
}

/* -------------------------------------------------------------------------------------------------- the loss */

static void loss_sum_finds_the_first_bad_loss(void **state) {
    (void)state;
    enum { N = 1031 };
    static const struct {
        int nan, infinite;
        float bad;
    } cases[] = {{-1, -1, -1}, {1030, -1, 1030}, {500, 499, 499}, {0, 1030, 0}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Rig r;
        float losses[N];
        double sum = 0;
        rig_new(&r, backend_cpu(), DTYPE_F32, false);
        for (int i = 0; i < N; i++) sum += (double)(losses[i] = fabsf(rng_normal(&rig_rng)));
        if (cases[k].nan >= 0) losses[cases[k].nan] = NAN;
        if (cases[k].infinite >= 0) losses[cases[k].infinite] = INFINITY;
        Tensor *in = rig_floats(&r, "losses", 1, (int64_t[]){N}, losses);
        rig_output(&r, "sum", op_loss_sum(r.tape, in), NULL);
        rig_ready(&r);
        rig_run(&r, &(TapeRun){0});
        const float *out = rig_values(&r, "sum");
        assert_true(out[1] == cases[k].bad);
        if (k == 0) assert_true(fabs((double)out[0] - sum) < 1e-7 * sum);
        else assert_false(isfinite(out[0]));
        rig_free(&r);
    }
}

static void the_loss_scale_reaches_gradients_only(void **state) {
    (void)state;
    enum { ROWS = 5, C = 4, V = 7 };
    static const int32_t labels[ROWS] = {3, -100, 0, 6, 2};
    float x[ROWS * C], w[V * C], losses[2][ROWS], dx[2][ROWS * C], dw[2][V * C], scale = 8;
    for (int i = 0; i < ROWS * C; i++) x[i] = rng_normal(&rig_rng);
    for (int i = 0; i < V * C; i++) w[i] = rng_normal(&rig_rng);
    for (int scaled = 0; scaled < 2; scaled++) {
        Rig r;
        rig_new(&r, backend_cpu(), DTYPE_F32, true);
        Tensor *in = rig_activation(&r, "x", 1, ROWS, C, x), *head = rig_param(&r, "w", 2, (int64_t[]){V, C}, w, true);
        Tensor *targets = rig_ints(&r, "labels", 2, (int64_t[]){1, ROWS}, labels);
        Tensor *by = scaled ? rig_floats(&r, "loss_scale", 1, (int64_t[]){1}, &scale) : NULL;
        rig_output(&r, "losses", op_cross_entropy(r.tape, in, head, targets, 0.1f, 0, by, NULL), NULL);
        rig_ready(&r);
        rig_run(&r, &(TapeRun){.grad_scale = 0.25f});
        memcpy(losses[scaled], rig_values(&r, "losses"), sizeof losses[scaled]);
        memcpy(dx[scaled], rig_input(&r, "x")->grad, sizeof dx[scaled]);
        memcpy(dw[scaled], rig_input(&r, "w")->grad, sizeof dw[scaled]);
        rig_free(&r);
    }
    assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
    for (int i = 0; i < ROWS * C; i++) assert_true(dx[1][i] == 8 * dx[0][i]);
    for (int i = 0; i < V * C; i++) assert_true(dw[1][i] == 8 * dw[0][i]);
}

static void arrays_that_do_not_fit_are_errors(void **state) {
    (void)state;
    for (int which = 0; which < 5; which++) {
        Rig r;
        rig_new(&r, backend_cpu(), DTYPE_F32, true);
        Tape *t = r.tape;
        int64_t n = 8, hypers = UPDATE_HYPER, states = UPDATE_STATE, controls = UPDATE_CONTROL, rows[] = {1, 2, 4};
        Tensor *f32 = tape_external(t, "array", DTYPE_F32, 1, &n), *bf16 = tape_external(t, "half", DTYPE_BF16, 1, &n),
               *f16 = tape_external(t, "fp16", DTYPE_F16, 1, &n), *hyper = tape_external(t, "h", DTYPE_F32, 1, &hypers),
               *state_ = tape_external(t, "s", DTYPE_F32, 1, &states),
               *control = tape_external(t, "c", DTYPE_F32, 1, &controls);
        const char *message = NULL;
        switch (which) {
        case 0: message = "these are fp16", op_grad_norm(t, f16, hyper, state_); break;
        case 1: message = "hyper must be", op_grad_norm(t, f32, state_, state_); break;
        case 2: message = "half is bf16", op_adamw(t, f32, f32, f32, bf16, control, hyper, NULL, one_segment, 0); break;
        case 3:
            message = "array is fp32", op_adamw(t, NULL, bf16, f32, bf16, control, hyper, bf16, one_segment, 0);
            break;
        default: {
            float values[16] = {0};
            Tensor *x = rig_activation(&r, "x", 1, 2, 4, values), *w = rig_param(&r, "w", 2, rows + 1, values, true);
            w->grad->dtype = DTYPE_BF16;
            op_cross_entropy(t, x, w, rig_ints(&r, "labels", 2, rows, (int32_t[]){0, 1}), 0, 0, NULL, NULL);
            assert_error(tape_plan(t), TANE_EUNSUPPORTED, "bf16 gradients need a GPU");
        }
        }
        if (message) assert_error(tape_plan(t), TANE_EINVAL, message);
        rig_free(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(adamw_follows_its_formula),
        TEST(a_loss_scale_comes_out_again),
        TEST(the_loss_scale_grows_and_shrinks),
        TEST(a_halted_run_stays_halted),
        TEST(bf16_states_are_right_on_average),
        TEST(the_noise_depends_on_the_place_alone),
        TEST(stochastic_rounding_keeps_what_is_finite),
        TEST(loss_sum_finds_the_first_bad_loss),
        TEST(the_loss_scale_reaches_gradients_only),
        TEST(arrays_that_do_not_fit_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
