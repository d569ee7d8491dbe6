/* The sampler: greedy, cuts, frequencies against the distribution, reproducible draws, broken logits. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "infer/sampler.h"
#include "ops/backend.h"
#include "ops/node.h"
#include "support.h"

static const Sampling plain = {.temperature = 1, .top_p = 1, .seed = 7};

/* ---- op_sample on a tape of its own */

typedef struct Bench {
    Device *device;
    Tape *tape;
    Tensor *logits, *rows, *choices;
    void *memory;
    int64_t n, vocab;
} Bench;

static void bench_new(Bench *b, Device *device, int64_t n, int64_t vocab) {
    *b = (Bench){.device = device, .n = n, .vocab = vocab};
    assert_ok(tape_new(&b->tape, device, false));
    b->logits = tape_external(b->tape, "logits", DTYPE_F32, 2, (int64_t[]){n, vocab});
    b->rows = tape_external(b->tape, "rows", DTYPE_U8, 2, (int64_t[]){n, sizeof(SampleRow)});
    b->choices = op_sample(b->tape, b->logits, b->rows);
    assert_ok(tape_plan(b->tape));
    assert_ok(device_alloc(device, &b->memory, tape_bytes(b->tape)));
    assert_ok(device_alloc(device, &b->logits->data, tensor_bytes(b->logits)));
    assert_ok(device_alloc(device, &b->rows->data, tensor_bytes(b->rows)));
    assert_ok(tape_bind(b->tape, b->memory));
}

static void bench_free(Bench *b) {
    device_release(b->device, b->memory);
    device_release(b->device, b->logits->data);
    device_release(b->device, b->rows->data);
    tape_free(b->tape);
}

static void bench_run(Bench *b, const float *logits, const SampleRow *rows, SampleChoice *out) {
    assert_ok(device_upload(b->device, b->logits->data, logits, tensor_bytes(b->logits)));
    assert_ok(device_upload(b->device, b->rows->data, rows, tensor_bytes(b->rows)));
    assert_ok(tape_forward(b->tape, &(TapeRun){.training = false}));
    assert_ok(device_download(b->device, out, b->choices->data, tensor_bytes(b->choices)));
}

/* Positions first .. first + n - 1 over the same logits. */
static void choose_many(Sampling how, const float *logits, int64_t vocab, uint64_t first, int64_t n,
                        SampleChoice *out) {
    Bench b;
    float *all;
    SampleRow *rows;
    assert_ok(MEM_NEW_ARRAY(&all, (size_t)(n * vocab)));
    assert_ok(MEM_NEW_ARRAY(&rows, (size_t)n));
    for (int64_t i = 0; i < n; i++) {
        memcpy(all + i * vocab, logits, (size_t)vocab * sizeof *all);
        rows[i] = sampling_row(&how, first + (uint64_t)i, vocab);
    }
    bench_new(&b, test_device(), n, vocab);
    bench_run(&b, all, rows, out);
    bench_free(&b);
    mem_free(all);
    mem_free(rows);
}

static SampleChoice choose(Sampling how, const float *logits, int64_t n, uint64_t position) {
    SampleChoice c;
    choose_many(how, logits, n, position, 1, &c);
    return c;
}

static void test_greedy_takes_the_first_of_equal_maxima(void **state) {
    (void)state;
    float logits[] = {-1, 3, 2, 3, -INFINITY};
    Sampling how = plain;
    how.temperature = 0;
    SampleChoice c = choose(how, logits, 5, 0);
    assert_int_equal(c.token, 1);
    double total = exp(-4) + 1 + exp(-1) + 1;
    assert_float_equal(c.logprob, -log(total), 1e-6);
}

static void test_large_logits_do_not_overflow(void **state) {
    (void)state;
    float logits[] = {30000, 29999, -30000};
    SampleChoice c = choose((Sampling){.temperature = 0, .top_p = 1}, logits, 3, 0);
    assert_int_equal(c.token, 0);
    assert_float_equal(c.logprob, -log(1 + exp(-1)), 1e-6);
    /* A temperature near 0 is greedy. */
    for (uint64_t p = 0; p < 100; p++)
        assert_int_equal(choose((Sampling){.temperature = 1e-6, .top_p = 1, .seed = 1}, logits, 3, p).token, 0);
}

/* Draws agree with the expected probabilities: chi-squared far below what chance gives once in 1e6. */
static void check_frequencies(Sampling how, const float *logits, const double *p, int n) {
    enum { DRAWS = 40000 };
    int count[16] = {0};
    SampleChoice *choices;
    assert_ok(MEM_NEW_ARRAY(&choices, DRAWS));
    choose_many(how, logits, n, 0, DRAWS, choices);
    for (int i = 0; i < DRAWS; i++) count[choices[i].token]++;
    mem_free(choices);
    double chi = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] == 0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        chi += (count[i] - DRAWS * p[i]) * (count[i] - DRAWS * p[i]) / (DRAWS * p[i]);
    }
    assert_true(chi < 40); /* 5 degrees of freedom at most */
}

static void test_frequencies_follow_the_distribution(void **state) {
    (void)state;
    /* Probabilities .4 .25 .2 .1 .05 0 in another order. */
    double p[] = {.1, .4, 0, .05, .25, .2};
    float logits[6];
    for (int i = 0; i < 6; i++) logits[i] = p[i] > 0 ? (float)log(p[i]) + 5 : -INFINITY;
    check_frequencies(plain, logits, p, 6);

    Sampling how = plain;
    how.temperature = 2;
    double q[6], total = 0;
    for (int i = 0; i < 6; i++) total += sqrt(p[i]);
    for (int i = 0; i < 6; i++) q[i] = sqrt(p[i]) / total;
    check_frequencies(how, logits, q, 6);

    how = plain;
    how.top_k = 3;
    double top3[] = {0, .4 / .85, 0, 0, .25 / .85, .2 / .85};
    check_frequencies(how, logits, top3, 6);

    how = plain;
    how.top_p = 0.6; /* .4 + .25 is the first to reach it */
    double nucleus[] = {0, .4 / .65, 0, 0, .25 / .65, 0};
    check_frequencies(how, logits, nucleus, 6);

    how.top_k = 3; /* shares are of the three: .47 .29 .24 */
    how.top_p = 0.45;
    double one[] = {0, 1, 0, 0, 0, 0};
    check_frequencies(how, logits, one, 6);

    how = plain; /* k beyond the vocabulary cuts nothing */
    how.top_k = 100;
    check_frequencies(how, logits, p, 6);
}

static void test_equal_logits_rank_by_id(void **state) {
    (void)state;
    float logits[9] = {0};
    Sampling how = plain;
    how.top_k = 4;
    double p[9] = {.25, .25, .25, .25};
    check_frequencies(how, logits, p, 9);
}

/* Top-k by heap against sorting, on a large vocabulary. */
static void test_top_k_keeps_the_largest(void **state) {
    (void)state;
    enum { V = 5000 };
    static float logits[V];
    Rng rng = {.key = 3};
    for (int i = 0; i < V; i++) logits[i] = rng_normal(&rng);
    Sampling how = plain;
    for (how.top_k = 1; how.top_k < V; how.top_k = how.top_k * 7 + 1) {
        SampleChoice c[20];
        choose_many(how, logits, V, 0, 20, c);
        for (int at = 0; at < 20; at++) {
            int larger = 0;
            for (int i = 0; i < V; i++) larger += logits[i] > logits[c[at].token];
            assert_true(larger < how.top_k);
        }
    }
}

static void test_a_draw_depends_on_seed_stream_and_position_alone(void **state) {
    (void)state;
    enum { V = 1000, N = 64 };
    static float logits[V];
    Rng rng = {.key = 4};
    for (int i = 0; i < V; i++) logits[i] = 0.1f * rng_normal(&rng);
    int changed_seed = 0, changed_stream = 0, changed_position = 0;
    for (uint64_t i = 0; i < N; i++) {
        Sampling how = plain;
        how.stream = i;
        int32_t token = choose(how, logits, V, 10).token;
        assert_int_equal(token, choose(how, logits, V, 10).token);
        changed_position += token != choose(how, logits, V, 11).token;
        how.seed++;
        changed_seed += token != choose(how, logits, V, 10).token;
        how.seed--;
        how.stream += N;
        changed_stream += token != choose(how, logits, V, 10).token;
    }
    assert_true(changed_seed > N / 2 && changed_stream > N / 2 && changed_position > N / 2);
}

static void test_broken_logits_choose_no_token(void **state) {
    (void)state;
    const float bad[][3] = {{NAN, 1, 2}, {1, NAN, 2}, {1, 2, NAN}, {1, INFINITY, 0}, {-INFINITY, -INFINITY, -INFINITY}};
    for (int i = 0; i < 5; i++)
        for (int greedy = 0; greedy < 2; greedy++) {
            Sampling how = plain;
            if (greedy) how.temperature = 0;
            how.top_k = i % 2 ? 2 : 0;
            SampleChoice c = choose(how, bad[i], 3, 0);
            assert_int_equal(c.token, -1);
            assert_error(sampling_chosen(&c), TANE_ENUMERIC, "NaN");
        }
}

/* A batch of rows that all want something else: settings, and vocabularies smaller than the logits. */
enum { MIXED = 24, WIDE = 700 };
static void mixed_rows(SampleRow *rows) {
    static const float temperature[] = {0, 1, 0.7f, 2, 1e-3f}, top_p[] = {1, 0.9f, 0.3f};
    static const int32_t top_k[] = {0, 1, 5, 40, WIDE - 1, 10000}, vocab[] = {WIDE, WIDE - 3, 1, 0};
    for (int i = 0; i < MIXED; i++)
        rows[i] = (SampleRow){.seed = 3,
                              .stream = (uint64_t)i,
                              .position = (uint64_t)(7 * i),
                              .temperature = temperature[i % 5],
                              .top_p = top_p[i % 3],
                              .top_k = top_k[i % 6],
                              .vocab = vocab[i / 3 % 4]};
}

/* Every instruction set chooses the same, bit for bit, and a row the same alone as among others. */
static void test_rows_do_not_depend_on_each_other(void **state) {
    (void)state;
    Device *const *devices = test_devices();
    SampleRow rows[MIXED];
    SampleChoice first[MIXED], c[MIXED];
    static float logits[MIXED][WIDE];
    Rng rng = {.key = 5};
    for (int i = 0; i < MIXED; i++)
        for (int j = 0; j < WIDE; j++) logits[i][j] = 2 * rng_normal(&rng);
    mixed_rows(rows);
    for (int d = 0; devices[d]; d++) {
        Bench b;
        bench_new(&b, devices[d], MIXED, WIDE);
        bench_run(&b, logits[0], rows, d == 0 ? first : c);
        bench_free(&b);
        if (d > 0) assert_memory_equal(first, c, sizeof c);
        bench_new(&b, devices[d], 1, WIDE);
        for (int i = 0; i < MIXED; i++) {
            bench_run(&b, logits[i], &rows[i], c);
            assert_memory_equal(&first[i], c, sizeof *c);
        }
        bench_free(&b);
    }
    for (int i = 0; i < MIXED; i++) {
        int32_t vocab = rows[i].vocab > 0 ? rows[i].vocab : WIDE;
        assert_in_range(first[i].token, 0, vocab - 1);
        double top = -INFINITY, total = 0;
        for (int j = 0; j < vocab; j++) top = fmax(top, (double)logits[i][j]);
        for (int j = 0; j < vocab; j++) total += exp((double)logits[i][j] - top);
        assert_float_equal(first[i].logprob, (double)logits[i][first[i].token] - top - log(total), 1e-5);
        if (rows[i].temperature == 0 || rows[i].top_k == 1)
            assert_float_equal(logits[i][first[i].token], (float)top, 0);
    }
}

static void test_a_row_is_made_of_the_settings(void **state) {
    (void)state;
    Sampling how = {.temperature = 1e300, .top_p = 0.5, .top_k = (int64_t)1 << 40, .seed = 1, .stream = 2};
    SampleRow row = sampling_row(&how, 3, 50257);
    assert_true(row.seed == 1 && row.stream == 2 && row.position == 3 && row.vocab == 50257);
    assert_true(isfinite(row.temperature) && row.temperature > 1e38f);
    assert_int_equal(row.top_k, 0);
    assert_float_equal(row.top_p, 0.5, 0);
    how.top_k = 40;
    how.temperature = 0;
    row = sampling_row(&how, 3, 50257);
    assert_int_equal(row.top_k, 40);
    assert_float_equal(row.temperature, 0, 0);
}

static void test_shapes_that_do_not_fit(void **state) {
    (void)state;
    Tape *t;
    assert_ok(tape_new(&t, test_device(), false));
    Tensor *logits = tape_external(t, "logits", DTYPE_F32, 2, (int64_t[]){2, 5});
    Tensor *rows = tape_external(t, "rows", DTYPE_U8, 2, (int64_t[]){3, sizeof(SampleRow)});
    assert_null(op_sample(t, logits, rows));
    assert_error(tape_plan(t), TANE_EINVAL, "sample: logits must be (B, V)");
    tape_free(t);
}

static void test_settings_out_of_range(void **state) {
    (void)state;
    Sampling how = plain;
    assert_ok(sampling_check(&how));
    how.temperature = -1;
    assert_error(sampling_check(&how), TANE_EINVAL, "temperature -1");
    how.temperature = NAN;
    assert_error(sampling_check(&how), TANE_EINVAL, "temperature");
    how = plain;
    how.top_p = 0;
    assert_error(sampling_check(&how), TANE_EINVAL, "top_p 0");
    how.top_p = 1.5;
    assert_error(sampling_check(&how), TANE_EINVAL, "top_p 1.5");
    how = plain;
    how.top_k = -2;
    assert_error(sampling_check(&how), TANE_EINVAL, "top_k -2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_greedy_takes_the_first_of_equal_maxima),
        TEST(test_large_logits_do_not_overflow),
        TEST(test_frequencies_follow_the_distribution),
        TEST(test_equal_logits_rank_by_id),
        TEST(test_top_k_keeps_the_largest),
        TEST(test_a_draw_depends_on_seed_stream_and_position_alone),
        TEST(test_broken_logits_choose_no_token),
        TEST(test_rows_do_not_depend_on_each_other),
        TEST(test_a_row_is_made_of_the_settings),
        TEST(test_shapes_that_do_not_fit),
        TEST(test_settings_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
