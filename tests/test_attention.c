/* Attention against a plain computation in double precision: both kernels, grouped queries, windows, packed documents,
 * dropout with the mask that the op used, and the KV cache against the forward of the whole sequence.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

typedef struct Shape {
    int b, t, h, kv, d;
    int window;   /* 0: none */
    double scale; /* 0: 1 / sqrt(d) */
    double softcap; /* 0: none */
} Shape;

static int width(Shape s) { return (s.h + 2 * s.kv) * s.d; }

static Tensor *attention(Rig *r, Tensor *x, Shape s, float dropout, Tensor *starts, Tensor *cache, Tensor *past) {
    AttentionShape shape = {.heads = s.h,
                            .kv_heads = s.kv,
                            .head_dim = s.d,
                            .scale = (float)s.scale,
                            .dropout = dropout,
                            .softcap = (float)s.softcap,
                            .window = s.window};
    return op_attention(r->tape, x, &shape, starts, cache, past);
}

/* y and, when dy is given, dx. mask (B, H, T, T) may be NULL: what each weight is multiplied by; starts (B, T) too. */
static void naive_packed(Shape s, const float *x, const int32_t *starts, const float *mask, const float *dy, float *y,
                         float *dx) {
    int w = width(s), group = s.h / s.kv;
    double p[512], dp[512], slope[512], scale = s.scale > 0 ? s.scale : 1 / sqrt(s.d);
    assert_true(s.t <= 512);
    double *sums = calloc((size_t)(s.b * s.t * w), sizeof *sums);
    for (int b = 0; b < s.b; b++)
        for (int h = 0; h < s.h; h++)
            for (int i = 0; i < s.t; i++) {
                const float *q = x + (b * s.t + i) * w + h * s.d;
                const float *k = x + b * s.t * w + (s.h + h / group) * s.d, *v = k + s.kv * s.d;
                const float *m = mask ? mask + ((b * s.h + h) * s.t + i) * s.t : NULL;
                int first = s.window && i >= s.window ? i + 1 - s.window : 0;
                if (starts && starts[b * s.t + i] > first) first = starts[b * s.t + i];
                double top = -INFINITY, total = 0, delta = 0;
                for (int j = first; j <= i; j++) {
                    p[j] = 0;
                    for (int e = 0; e < s.d; e++) p[j] += scale * (double)q[e] * (double)k[j * w + e];
                    if (s.softcap > 0) p[j] = s.softcap * tanh(p[j] / s.softcap);
                    slope[j] = s.softcap > 0 ? scale * (1 - p[j] * p[j] / s.softcap / s.softcap) : scale;
                    if (p[j] > top) top = p[j];
                }
                for (int j = first; j <= i; j++) total += p[j] = exp(p[j] - top);
                for (int j = first; j <= i; j++) p[j] /= total;
                for (int e = 0; e < s.d; e++) {
                    double o = 0;
                    for (int j = first; j <= i; j++) o += p[j] * (m ? (double)m[j] : 1) * (double)v[j * w + e];
                    y[((b * s.t + i) * s.h + h) * s.d + e] = (float)o;
                }
                if (!dy) continue;
                const float *go = dy + ((b * s.t + i) * s.h + h) * s.d;
                double *gq = sums + (b * s.t + i) * w + h * s.d;
                double *gk = sums + b * s.t * w + (s.h + h / group) * s.d, *gv = gk + s.kv * s.d;
                for (int j = first; j <= i; j++) {
                    double keep = m ? (double)m[j] : 1;
                    dp[j] = 0;
                    for (int e = 0; e < s.d; e++) {
                        dp[j] += keep * (double)go[e] * (double)v[j * w + e];
                        gv[j * w + e] += keep * p[j] * (double)go[e];
                    }
                    delta += p[j] * dp[j];
                }
                for (int j = first; j <= i; j++)
                    for (int e = 0; e < s.d; e++) {
                        gq[e] += slope[j] * p[j] * (dp[j] - delta) * (double)k[j * w + e];
                        gk[j * w + e] += slope[j] * p[j] * (dp[j] - delta) * (double)q[e];
                    }
            }
    for (int i = 0; dy && i < s.b * s.t * w; i++) dx[i] = (float)sums[i];
    free(sums);
}

static void naive(Shape s, const float *x, const float *mask, const float *dy, float *y, float *dx) {
    naive_packed(s, x, NULL, mask, dy, y, dx);
}

static void rounded(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

static void near(Shape s, const char *what, const float *got, const float *want, int64_t n, double bound) {
    double distance = rig_distance(got, want, n), scale = rig_scale(want, n);
    if (distance <= bound * scale) return;
    fail_msg("B %d, T %d, H %d, KV %d, D %d: %s is %g from the plain computation, whose largest element is %g", s.b,
             s.t, s.h, s.kv, s.d, what, distance, scale);
}

/* T < 64: direct; from 64 on: blocked, 128 queries at a time. */
static const Shape shapes[] = {
    {1, 1, 1, 1, .d = 1},
    {2, 3, 2, 1, .d = 5},
    {1, 63, 2, 2, .d = 16},
    {1, 64, 4, 2, .d = 16},
    {2, 65, 3, 1, .d = 7},
    {1, 127, 2, 1, .d = 32},
    {1, 128, 1, 1, .d = 9},
    {2, 129, 4, 2, .d = 8},
    {1, 200, 6, 2, .d = 5},
    {1, 257, 2, 1, .d = 64},
    {3, 16, 1, 1, .d = 300},
    {2, 50, 2, 1, 8, .window = 1},
    {1, 60, 2, 2, 8, .window = 17},
    {1, 300, 4, 2, 8, .window = 33},
    {2, 150, 1, 1, 8, .window = 140, .scale = 0.2},
    {2, 40, 1, 1, 8, .window = 40, .scale = 1.5},
    {2, 40, 2, 1, 8, .softcap = 2},
    {1, 200, 2, 1, 16, .window = 50, .softcap = 3, .scale = 0.5},
};

static void both_kernels(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (Device *const *device = test_devices(); *device; device++)
            for (int dtype = DTYPE_F32; dtype <= rig_last_type(*device); dtype++) {
                Shape s = shapes[i];
                int64_t n = s.b * s.t * width(s), n_out = s.b * s.t * s.h * s.d;
                if (s.d > 256 && !(*device)->host) continue; /* no GPU kernel holds such a head */
                Rig r;
                rig_new(&r, *device, (DType)dtype, true);
                float *x = rig_normal(&r, n, 1.5f), *dy = rig_normal(&r, n_out, 1);
                rounded(x, n);
                rounded(dy, n_out);
                float *y = rig_array(&r, n_out), *dx = rig_array(&r, n);
                naive(s, x, NULL, dy, y, dx);
                Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
                rig_output(&r, "y", attention(&r, in, s, 0, NULL, NULL, NULL), dy);
                rig_ready(&r);
                for (int twice = 0; twice < 2; twice++) {
                    rig_run(&r, &(TapeRun){0});
                    /* fp32: sums of up to 300 terms. bf16: y is rounded once and the weights once; dS and o, which
                     * delta is made of, are rounded too, and dk and dv sum over T of them. */
                    near(s, "y", rig_values(&r, "y"), y, n_out, dtype == DTYPE_F32 ? 5e-6 : 2.0 / 256);
                    near(s, "dx", rig_input(&r, "x")->grad, dx, n, dtype == DTYPE_F32 ? 1e-5 : 4.0 / 256);
                }
                rig_free(&r);
            }
}

/* Documents of random lengths in each row, from 1 token to the whole row. */
static void random_starts(Shape s, int32_t *starts) {
    for (int b = 0; b < s.b; b++)
        for (int i = 0, first = 0; i < s.t; i++) {
            if (i && rng_below(&rig_rng, 12) == 0) first = i;
            starts[b * s.t + i] = b == 1 ? 0 : first;
        }
}

static void documents_see_only_themselves(void **state) {
    (void)state;
    const Shape all[] = {
        {2, 40, 4, 2, .d = 8}, {2, 63, 1, 1, 5, .window = 9}, {3, 140, 2, 1, .d = 16}, {2, 257, 2, 2, 8, .window = 40}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            Shape s = all[i];
            int64_t n = s.b * s.t * width(s), n_out = s.b * s.t * s.h * s.d;
            int32_t starts[3 * 257];
            Rig r;
            rig_new(&r, test_device(), (DType)dtype, true);
            float *x = rig_normal(&r, n, 1.5f), *dy = rig_normal(&r, n_out, 1);
            rounded(x, n);
            rounded(dy, n_out);
            float *y = rig_array(&r, n_out), *dx = rig_array(&r, n);
            random_starts(s, starts);
            naive_packed(s, x, starts, NULL, dy, y, dx);
            Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
            Tensor *at = rig_ints(&r, "starts", 2, (int64_t[]){s.b, s.t}, starts);
            rig_output(&r, "y", attention(&r, in, s, 0, at, NULL, NULL), dy);
            rig_ready(&r);
            rig_run(&r, &(TapeRun){0});
            near(s, "y", rig_values(&r, "y"), y, n_out, dtype == DTYPE_F32 ? 5e-6 : 2.0 / 256);
            near(s, "dx", rig_input(&r, "x")->grad, dx, n, dtype == DTYPE_F32 ? 1e-5 : 4.0 / 256);
            rig_free(&r);
        }
}

/* Forward and gradient of rows of one document or more. */
static void packed_run(Shape s, const float *x, const float *dy, const int32_t *starts, float *y, float *dx) {
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, true);
    Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
    Tensor *at = starts ? rig_ints(&r, "starts", 2, (int64_t[]){s.b, s.t}, starts) : NULL;
    rig_output(&r, "y", attention(&r, in, s, 0, at, NULL, NULL), dy);
    rig_ready(&r);
    rig_run(&r, &(TapeRun){0});
    memcpy(y, rig_values(&r, "y"), (size_t)(s.b * s.t * s.h * s.d) * sizeof *y);
    memcpy(dx, rig_input(&r, "x")->grad, (size_t)(s.b * s.t * width(s)) * sizeof *dx);
    rig_free(&r);
}

static void packed_equals_unpacked(void **state) {
    (void)state;
    static const int lengths[] = {1, 17, 5, 70, 37}; /* 130 tokens: blocked; alone, both kernels */
    Shape s = {1, 130, 4, 2, .d = 8};
    int64_t n = s.t * width(s), n_out = s.t * s.h * s.d;
    Rig keep;
    rig_new(&keep, test_device(), DTYPE_F32, false);
    float *x = rig_normal(&keep, n, 1), *dy = rig_normal(&keep, n_out, 1);
    float *y = rig_array(&keep, n_out), *dx = rig_array(&keep, n), *y1 = rig_array(&keep, n_out),
          *dx1 = rig_array(&keep, n);
    int32_t starts[130];
    for (int doc = 0, at = 0; doc < 5; at += lengths[doc++]) {
        for (int i = 0; i < lengths[doc]; i++) starts[at + i] = at;
        Shape one = s;
        one.t = lengths[doc];
        packed_run(one, x + at * width(s), dy + at * s.h * s.d, NULL, y1 + at * s.h * s.d, dx1 + at * width(s));
    }
    packed_run(s, x, dy, starts, y, dx);
    near(s, "y, packed beside alone,", y, y1, n_out, 2e-6);
    near(s, "dx, packed beside alone,", dx, dx1, n, 4e-6);
    rig_free(&keep);
}

static void wrong_starts_are_errors(void **state) {
    (void)state;
    static const struct {
        int32_t starts[6];
        const char *message;
    } bad[] = {{{0, 1, 2, 0, 0, 3}, "row 1, position 2: start 3 is not in 0..2"},
               {{0, 1, 0, 0, 0, 0}, "row 0, position 2: start 0 is not in 1..2"},
               {{0, 0, 0, -1, 0, 0}, "row 1, position 0: start -1 is not in 0..0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Rig r;
        rig_new(&r, test_device(), DTYPE_F32, false);
        Tensor *x = rig_activation(&r, "x", 2, 3, 12, rig_normal(&r, 72, 1));
        Tensor *starts = rig_ints(&r, "starts", 2, (int64_t[]){2, 3}, bad[i].starts);
        rig_output(&r, "y", attention(&r, x, (Shape){2, 3, 1, 1, .d = 4}, 0, starts, NULL, NULL), NULL);
        rig_ready(&r);
        assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINVAL, bad[i].message);
        rig_free(&r);
    }
}

static void wrong_shapes_are_errors(void **state) {
    (void)state;
    static const struct {
        Shape shape;
        bool starts, cache;
        const char *message;
    } bad[] = {{{2, 3, 2, 1, .d = 4}, false, false, "got width 12"},
               {{2, 3, 1, 1, 4, .window = -1}, false, false, "window -1"},
               {{2, 3, 1, 1, 4, .scale = -1}, false, false, "scale -1"},
               {{2, 3, 1, 1, 4, .scale = NAN}, false, false, "scale"},
               {{2, 3, 1, 1, .d = 4}, true, true, "do not go together"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Rig r;
        rig_new(&r, test_device(), DTYPE_F32, false);
        Tensor *x = rig_activation(&r, "x", 2, 3, 12, rig_normal(&r, 72, 1));
        Tensor *starts = rig_ints(&r, "starts", 2, (int64_t[]){2, 3}, (int32_t[6]){0});
        Tensor *cache = rig_buffer(&r, "cache", 3, (int64_t[]){2, 8, 8});
        Tensor *past = rig_ints(&r, "past", 1, (int64_t[]){2}, (int32_t[2]){0});
        assert_null(
            attention(&r, x, bad[i].shape, 0, bad[i].starts ? starts : NULL, bad[i].cache ? cache : NULL, past));
        assert_error(tape_plan(r.tape), TANE_EINVAL, bad[i].message);
        rig_free(&r);
    }
}

/* Uniform weights (q = k = 0) and values that are unit vectors make the output show the mask: o[i][j] = mask / (i + 1).
 * One output for all heads' masks needs D = T. */
static float *mask_of(Rig *keep, Device *device, Shape s, float p, const TapeRun *run) {
    assert_int_equal(s.d, s.t);
    Rig r;
    rig_new(&r, device, DTYPE_F32, false);
    float *x = rig_array(&r, s.b * s.t * width(s)), *mask = rig_array(keep, s.b * s.h * s.t * s.t);
    for (int row = 0; row < s.b * s.t; row++)
        for (int kv = 0; kv < s.kv; kv++) x[row * width(s) + (s.h + s.kv + kv) * s.d + row % s.t] = 1;
    Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
    rig_output(&r, "y", attention(&r, in, s, p, NULL, NULL, NULL), NULL);
    rig_ready(&r);
    rig_run(&r, run);
    const float *y = rig_values(&r, "y");
    for (int b = 0; b < s.b; b++)
        for (int h = 0; h < s.h; h++)
            for (int i = 0; i < s.t; i++)
                for (int j = 0; j < s.t; j++)
                    mask[((b * s.h + h) * s.t + i) * s.t + j] = y[((b * s.t + i) * s.h + h) * s.d + j] * (float)(i + 1);
    rig_free(&r);
    return mask;
}

static void dropout_masks_the_weights(void **state) {
    (void)state;
    const Shape all[] = {
        {2, 5, 2, 1, .d = 5}, {1, 17, 4, 2, .d = 17}, {1, 70, 2, 2, .d = 70}}; /* 70: long rows, still direct */
    const float p = 0.3f;
    TapeRun run = {.seed = 11, .position = 3, .training = true};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        Shape s = all[i];
        int64_t n = s.b * s.t * width(s), n_out = s.b * s.t * s.h * s.d, kept = 0, seen = 0;
        Rig r;
        rig_new(&r, test_device(), DTYPE_F32, true);
        float *mask = mask_of(&r, test_device(), s, p, &run);
        for (int row = 0; row < s.b * s.h * s.t; row++)
            for (int j = 0; j < s.t; j++) {
                float m = mask[row * s.t + j];
                if (j > row % s.t) {
                    assert_true(m == 0);
                    continue;
                }
                assert_true(m == 0 || fabsf(m - 1 / (1 - p)) < 1e-5f);
                mask[row * s.t + j] = m == 0 ? 0 : 1 / (1 - p);
                kept += m != 0;
                seen++;
            }
        /* four standard deviations of a binomial */
        assert_true(fabs((double)kept - 0.7 * (double)seen) <= 4 * sqrt(0.21 * (double)seen));
        float *x = rig_normal(&r, n, 1), *dy = rig_normal(&r, n_out, 1), *y = rig_array(&r, n_out),
              *dx = rig_array(&r, n);
        Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
        rig_output(&r, "y", attention(&r, in, s, p, NULL, NULL, NULL), dy);
        rig_ready(&r);
        rig_run(&r, &run);
        naive(s, x, mask, dy, y, dx);
        near(s, "y with dropout", rig_values(&r, "y"), y, n_out, 5e-6);
        near(s, "dx with dropout", rig_input(&r, "x")->grad, dx, n, 1e-5);
        rig_run(&r, &(TapeRun){.seed = 11, .position = 3}); /* not training: no mask */
        naive(s, x, NULL, dy, y, dx);
        near(s, "y in evaluation", rig_values(&r, "y"), y, n_out, 5e-6);
        near(s, "dx in evaluation", rig_input(&r, "x")->grad, dx, n, 1e-5);
        rig_free(&r);
    }
}

static void dropout_differs_by_run_and_head(void **state) {
    (void)state;
    Shape s = {2, 16, 2, 1, .d = 16};
    size_t one = (size_t)(s.t * s.t), bytes = (size_t)(s.b * s.h) * one * sizeof(float);
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, false);
    TapeRun run = {.seed = 1, .position = 1, .training = true};
    float *a = mask_of(&r, test_device(), s, 0.5f, &run), *again = mask_of(&r, test_device(), s, 0.5f, &run);
    assert_memory_equal(a, again, bytes);
    for (int k = 1; k < s.b * s.h; k++) assert_memory_not_equal(a, a + k * one, one * sizeof(float));
    run.position++;
    assert_memory_not_equal(a, mask_of(&r, test_device(), s, 0.5f, &run), bytes);
    run.position--;
    run.seed++;
    assert_memory_not_equal(a, mask_of(&r, test_device(), s, 0.5f, &run), bytes);
    rig_free(&r);
}

/* ------------------------------------------------------------------------------------------------------ cache */

/* One call over tokens from..from + t of each row, the rows' beginnings given. */
static void step(Shape s, DType dtype, const float *x, int t, const int32_t *past, int cap, Tensor *shared, float *y) {
    Rig r;
    rig_new(&r, test_device(), dtype, false);
    float *part = rig_array(&r, s.b * t * width(s));
    for (int b = 0; b < s.b; b++)
        memcpy(part + b * t * width(s), x + (b * s.t + past[b]) * width(s), (size_t)(t * width(s)) * sizeof *x);
    Tensor *in = rig_activation(&r, "x", s.b, t, width(s), part);
    Tensor *cache = tape_external(r.tape, "cache", dtype, 3, (int64_t[]){s.b, cap, 2 * s.kv * s.d});
    cache->data = shared->data;
    Tensor *at = rig_ints(&r, "past", 1, (int64_t[]){s.b}, past);
    rig_output(&r, "y", attention(&r, in, s, 0, NULL, cache, at), NULL);
    rig_ready(&r);
    rig_run(&r, &(TapeRun){0});
    const float *out = rig_values(&r, "y");
    for (int b = 0; b < s.b; b++)
        memcpy(y + (b * s.t + past[b]) * s.h * s.d, out + b * t * s.h * s.d, (size_t)(t * s.h * s.d) * sizeof *y);
    rig_free(&r);
}

/* Every row of the output is made once, by calls that begin at a different place in each sequence. */
static void cache_equals_the_whole_sequence(void **state) {
    (void)state;
    const Shape all[] = {{3, 21, 4, 2, .d = 6},
                         {2, 90, 2, 1, .d = 16},
                         {1, 18, 1, 1, .d = 1},
                         {3, 45, 2, 1, 8, .window = 7, .scale = 0.5}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int dtype = DTYPE_F32; dtype <= rig_last_type(test_device()); dtype++) {
            Shape s = all[i];
            int cap = s.t + 3;
            int64_t n = s.b * s.t * width(s), n_out = s.b * s.t * s.h * s.d;
            Rig r;
            rig_new(&r, test_device(), (DType)dtype, false);
            float *x = rig_normal(&r, n, 1), *y = rig_array(&r, n_out), *want = rig_array(&r, n_out);
            rounded(x, n);
            naive(s, x, NULL, NULL, want, NULL);
            Tensor *cache = rig_buffer(&r, "cache", 3, (int64_t[]){s.b, cap, 2 * s.kv * s.d});
            rig_fill(&r, cache, 0xff); /* what lies behind must not be read */
            memset(y, 0xff, (size_t)n_out * sizeof *y);
            int32_t past[4] = {0};
            step(s, (DType)dtype, x, s.t / 2, past, cap, cache, y); /* prefill */
            for (int b = 0; b < s.b; b++) past[b] = s.t / 2 - b;    /* the rows go on from different places */
            for (int k = s.t / 2 - (s.b - 1); k < s.t; k++) {
                step(s, (DType)dtype, x, 1, past, cap, cache, y);
                for (int b = 0; b < s.b; b++) past[b] += past[b] < s.t - 1;
            }
            for (int b = 0; b < s.b; b++) past[b] = s.t - 3; /* a few tokens at once, again */
            step(s, (DType)dtype, x, 3, past, cap, cache, y);
            near(s, "y over the cache", y, want, n_out, dtype == DTYPE_F32 ? 5e-6 : 2.0 / 256);
            rig_free(&r);
        }
}

/* The same bits as one forward of the direct kernel gives: generation sees what training saw. */
static void decoding_gives_the_bits(Shape s) {
    int64_t n = s.b * s.t * width(s), n_out = s.b * s.t * s.h * s.d;
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, false);
    float *x = rig_normal(&r, n, 1), *y = rig_array(&r, n_out);
    Tensor *in = rig_activation(&r, "x", s.b, s.t, width(s), x);
    rig_output(&r, "y", attention(&r, in, s, 0, NULL, NULL, NULL), NULL);
    rig_ready(&r);
    rig_run(&r, &(TapeRun){0});
    Tensor *cache = tape_external(r.tape, "cache", DTYPE_F32, 3, (int64_t[]){s.b, s.t, 2 * s.kv * s.d});
    rig_place(&r, cache);
    for (int32_t past[2] = {0}; past[0] < s.t; past[0]++, past[1]++) step(s, DTYPE_F32, x, 1, past, s.t, cache, y);
    assert_memory_equal(y, rig_values(&r, "y"), (size_t)n_out * sizeof *y);
    rig_free(&r);
}

static void decoding_gives_the_bits_of_the_forward(void **state) {
    (void)state;
    test_cpu_only("its kernels over a cache add in another order than those of training");
    decoding_gives_the_bits((Shape){2, 40, 4, 2, .d = 16});
    decoding_gives_the_bits((Shape){2, 40, 4, 2, 16, .window = 11});
}

static void a_full_cache_is_an_error(void **state) {
    (void)state;
    static const struct {
        int32_t past[2];
        const char *message;
    } bad[] = {{{0, 7}, "7 tokens and 2 new ones do not fit a cache of 8"},
               {{-1, 0}, "-1 tokens"},
               {{0, INT32_MAX}, "do not fit"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Rig r;
        rig_new(&r, test_device(), DTYPE_F32, false);
        Tensor *x = rig_activation(&r, "x", 2, 2, 12, rig_normal(&r, 48, 1));
        Tensor *cache = rig_buffer(&r, "cache", 3, (int64_t[]){2, 8, 8});
        Tensor *past = rig_ints(&r, "past", 1, (int64_t[]){2}, bad[i].past);
        rig_output(&r, "y", attention(&r, x, (Shape){2, 2, 1, 1, .d = 4}, 0, NULL, cache, past), NULL);
        rig_ready(&r);
        assert_error(rig_try(&r, &(TapeRun){0}), TANE_EINVAL, bad[i].message);
        rig_free(&r);
    }
}

static void no_gradient_through_a_cache(void **state) {
    (void)state;
    Rig r;
    rig_new(&r, test_device(), DTYPE_F32, true);
    float *dy = rig_normal(&r, 16, 1);
    Tensor *x = rig_activation(&r, "x", 2, 2, 12, rig_normal(&r, 48, 1));
    Tensor *cache = rig_buffer(&r, "cache", 3, (int64_t[]){2, 8, 8});
    Tensor *past = rig_ints(&r, "past", 1, (int64_t[]){2}, (int32_t[]){0, 0});
    rig_output(&r, "y", attention(&r, x, (Shape){2, 2, 1, 1, .d = 4}, 0, NULL, cache, past), dy);
    assert_error(tape_plan(r.tape), TANE_EUNSUPPORTED, "no gradient through a KV cache");
    rig_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(both_kernels),
        TEST(documents_see_only_themselves),
        TEST(packed_equals_unpacked),
        TEST(wrong_starts_are_errors),
        TEST(wrong_shapes_are_errors),
        TEST(dropout_masks_the_weights),
        TEST(dropout_differs_by_run_and_head),
        TEST(cache_equals_the_whole_sequence),
        TEST(decoding_gives_the_bits_of_the_forward),
        TEST(a_full_cache_is_an_error),
        TEST(no_gradient_through_a_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
