/* The sampler: greedy, cuts, frequencies against the distribution, reproducible draws, broken logits. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "infer/sampler.h"
#include "support.h"

static const Sampling plain = {.temperature = 1, .top_p = 1, .seed = 7};

static Choice choose(Sampling how, const float *logits, int64_t n, uint64_t position) {
    Sampler s;
    Choice c;
    assert_ok(sampler_new(&s, n));
    assert_ok(sampler_choose(&s, &how, logits, position, &c));
    sampler_free(&s);
    return c;
}

static void test_greedy_takes_the_first_of_equal_maxima(void **state) {
    (void)state;
    float logits[] = {-1, 3, 2, 3, -INFINITY};
    Sampling how = plain;
    how.temperature = 0;
    Choice c = choose(how, logits, 5, 0);
    assert_int_equal(c.token, 1);
    double total = exp(-4) + 1 + exp(-1) + 1;
    assert_float_equal(c.logprob, -log(total), 1e-6);
}

static void test_large_logits_do_not_overflow(void **state) {
    (void)state;
    float logits[] = {30000, 29999, -30000};
    Choice c = choose((Sampling){.temperature = 0, .top_p = 1}, logits, 3, 0);
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
    Sampler s;
    assert_ok(sampler_new(&s, n));
    for (uint64_t i = 0; i < DRAWS; i++) {
        Choice c;
        assert_ok(sampler_choose(&s, &how, logits, i, &c));
        count[c.token]++;
    }
    sampler_free(&s);
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
        for (uint64_t at = 0; at < 20; at++) {
            Choice c = choose(how, logits, V, at);
            int larger = 0;
            for (int i = 0; i < V; i++) larger += logits[i] > logits[c.token];
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

static void test_broken_logits_are_an_error(void **state) {
    (void)state;
    Sampler s;
    Choice c;
    assert_ok(sampler_new(&s, 3));
    const float bad[][3] = {{NAN, 1, 2}, {1, NAN, 2}, {1, 2, NAN}, {1, INFINITY, 0}, {-INFINITY, -INFINITY, -INFINITY}};
    const char *word[] = {"NaN", "NaN", "NaN", "infinity", "nothing but -infinity"};
    for (int i = 0; i < 5; i++)
        for (int greedy = 0; greedy < 2; greedy++) {
            Sampling how = plain;
            if (greedy) how.temperature = 0;
            how.top_k = i % 2 ? 2 : 0;
            assert_error(sampler_choose(&s, &how, bad[i], 0, &c), TANE_ENUMERIC, word[i]);
        }
    sampler_free(&s);
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
        TEST(test_broken_logits_are_an_error),
        TEST(test_settings_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
