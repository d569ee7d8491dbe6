/* Warnings about runs that go wrong quietly: once, and only where there is reason. */
#include "support.h"

#include <math.h>
#include <string.h>

#include "train/watch.h"

/* Steps 1 .. n with this loss at each; how many warnings came, and the last one's words. */
typedef double (*LossAt)(int step);
static int watch(Watch *w, int n, LossAt loss, double seconds_left, char *text, size_t size) {
    int told = 0;
    for (int step = 1; step <= n; step++) told += watch_step(w, loss(step), seconds_left, text, size);
    return told;
}

static double flat(int step) { return 10.9 + (step % 2 ? 0.02 : -0.02); }
static double falls(int step) { return 4 + 7 * exp(-step / 200.0); }
static double jumps(int step) { return step < 20 ? 10.9 : 14; }
static double is_not(int step) {
    (void)step;
    return NAN;
}

static void a_loss_that_does_not_fall_is_told_once(void **state) {
    (void)state;
    char text[512] = "";
    Watch w = {.fresh = true, .patience = 300, .learning_rate = 1e-9};
    assert_int_equal(watch(&w, 299, flat, 0, text, sizeof text), 0);
    assert_int_equal(watch(&w, 1000, flat, 0, text, sizeof text), 1);
    assert_non_null(strstr(text, "the loss does not fall: 10.9"));
    assert_non_null(strstr(text, "after 300"));
    assert_non_null(strstr(text, "learning_rate=1e-09"));
    w = (Watch){.fresh = true, .patience = 300};
    assert_int_equal(watch(&w, 1000, jumps, 0, text, sizeof text), 1);
}

static void a_run_that_learns_is_left_alone(void **state) {
    (void)state;
    char text[512];
    Watch w = {.fresh = true, .patience = 300};
    assert_int_equal(watch(&w, 1000, falls, 0, text, sizeof text), 0);
    /* A model that is trained already may stay where it is. */
    w = (Watch){.fresh = false, .patience = 300};
    assert_int_equal(watch(&w, 1000, flat, 0, text, sizeof text), 0);
    /* What is not finite has a message of its own. */
    w = (Watch){.fresh = true, .patience = 300};
    assert_int_equal(watch(&w, 1000, is_not, 0, text, sizeof text), 0);
}

static void hours_on_a_cpu_are_told_once(void **state) {
    (void)state;
    char text[512] = "";
    Watch w = {.may_be_slow = true, .patience = 300};
    assert_int_equal(watch(&w, 100, falls, 40 * 3600.0, text, sizeof text), 1);
    assert_non_null(strstr(text, "about 40 hours to go on this CPU"));
    assert_non_null(strstr(text, "tane doctor"));
    w = (Watch){.may_be_slow = true, .patience = 300};
    assert_int_equal(watch(&w, 100, falls, 2 * 3600.0, text, sizeof text), 0);
    w = (Watch){.may_be_slow = false, .patience = 300}; /* device=cpu was asked for */
    assert_int_equal(watch(&w, 100, falls, 40 * 3600.0, text, sizeof text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_loss_that_does_not_fall_is_told_once),
        TEST(a_run_that_learns_is_left_alone),
        TEST(hours_on_a_cpu_are_told_once),
    };
    return cmocka_run_group_tests_name("watch", tests, NULL, NULL);
}
