/* metrics.jsonl: what a line looks like, going on from an earlier step, and files that a killed run left. */
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "track/metrics.h"

static const char *path(void) { return test_path("metrics.jsonl"); }

static void write_steps(int64_t from_step, int64_t first, int64_t last) {
    Metrics *m;
    assert_ok(metrics_open(&m, path(), from_step));
    for (int64_t step = first; step <= last; step++) {
        const Metric loss = {"loss", 1.0 / (double)step};
        assert_ok(metrics_write(m, step, &loss, 1));
    }
    assert_ok(metrics_close(&m));
    assert_null(m);
}

static void a_line_is_a_json_object(void **state) {
    (void)state;
    Metrics *m;
    assert_ok(metrics_open(&m, path(), -1));
    const Metric values[] = {
        {"loss", 2.3125}, {"lr", 5e-5}, {"eval/exact-match", NAN}, {"x.y", INFINITY}, {"tokens", 123456789012}};
    assert_ok(metrics_write(m, 10, values, 5));
    const char *line = "{\"step\": 10, \"loss\": 2.3125, \"lr\": 5e-05, \"eval/exact-match\": null, \"x.y\": null, "
                       "\"tokens\": 123456789012}\n";
    assert_string_equal(test_read(path(), NULL), line); /* there before the file is closed */
    assert_ok(metrics_write(m, 11, NULL, 0));
    assert_ok(metrics_close(&m));
    char both[256];
    snprintf(both, sizeof both, "%s{\"step\": 11}\n", line);
    assert_string_equal(test_read(path(), NULL), both);
    assert_ok(metrics_close(&m)); /* closed already */
}

static void names_are_checked(void **state) {
    (void)state;
    Metrics *m;
    const Metric bad = {"a\"b", 1}, empty = {"", 1};
    assert_ok(metrics_open(&m, path(), -1));
    assert_error(metrics_write(m, 1, &bad, 1), TANE_EINTERNAL, "no name for a metric");
    assert_error(metrics_write(m, 1, &empty, 1), TANE_EINTERNAL, "no name for a metric");
    assert_ok(metrics_close(&m));
    assert_string_equal(test_read(path(), NULL), "");
}

static void a_new_run_begins_anew(void **state) {
    (void)state;
    write_steps(-1, 1, 5);
    write_steps(-1, 1, 2);
    assert_string_equal(test_read(path(), NULL), "{\"step\": 1, \"loss\": 1}\n{\"step\": 2, \"loss\": 0.5}\n");
}

static void going_on_gives_the_uninterrupted_file(void **state) {
    (void)state;
    size_t n;
    write_steps(-1, 1, 9);
    char *whole = test_read(path(), &n);
    write_steps(4, 5, 9);
    assert_string_equal(test_read(path(), NULL), whole);
    write_steps(9, 10, 9); /* nothing to cut, nothing to add */
    assert_string_equal(test_read(path(), NULL), whole);
    write_steps(0, 1, 9);
    assert_string_equal(test_read(path(), NULL), whole);
}

static void a_missing_file_is_begun(void **state) {
    (void)state;
    write_steps(4, 5, 5);
    assert_string_equal(test_read(path(), NULL), "{\"step\": 5, \"loss\": 0.2}\n");
}

static void a_cut_last_line_is_dropped(void **state) {
    (void)state;
    static const char *const torn[] = {"{", "{\"step\": 2, \"lo", "{\"step\": 2, \"loss\": 0.5}", "{\"step\": 2,\n",
                                       "garbage\n"};
    for (size_t i = 0; i < sizeof torn / sizeof *torn; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"step\": 1, \"loss\": 1}\n%s", torn[i]);
        test_write(path(), text);
        write_steps(5, 6, 6);
        assert_string_equal(test_read(path(), NULL),
                            "{\"step\": 1, \"loss\": 1}\n{\"step\": 6, \"loss\": 0.166666666667}\n");
    }
    const char zeros[] = "{\"step\": 1, \"loss\": 1}\n\0\0\0\0";
    test_write_bytes(path(), zeros, sizeof zeros - 1);
    write_steps(5, 6, 5);
    assert_string_equal(test_read(path(), NULL), "{\"step\": 1, \"loss\": 1}\n");
}

static void a_broken_line_in_the_middle_is_an_error(void **state) {
    (void)state;
    Metrics *m;
    static const char *const bad[] = {"x", "", "[1]", "{\"loss\": 1}", "{\"step\": \"1\"}", "{\"step\": -1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"step\": 1}\n%s\n{\"step\": 3}\n", bad[i]);
        test_write(path(), text);
        assert_error(metrics_open(&m, path(), 2), TANE_EFORMAT, "metrics.jsonl:2: not a line of metrics");
        assert_null(m);
        assert_string_equal(test_read(path(), NULL), text); /* nothing was touched */
    }
}

static void a_folder_that_is_not_there(void **state) {
    (void)state;
    Metrics *m;
    assert_error(metrics_open(&m, test_path("none/metrics.jsonl"), -1), TANE_ENOTFOUND, "none/metrics.jsonl");
}

/* ---- failures ---- */

static Status open_and_write(void *ctx) {
    Metrics *m = NULL;
    const Metric loss = {"loss", 0.5};
    Status st = TANE_OK;
    (void)ctx;
    TRY(metrics_open(&m, path(), 1));
    TRY(metrics_write(m, 2, &loss, 1));
    return metrics_close(&m);
out:
    (void)metrics_close(&m);
    return st;
}

static void three_lines(void *ctx) {
    (void)ctx;
    test_write(path(), "{\"step\": 1, \"loss\": 1}\n{\"step\": 2, \"loss\": 9}\n{\"step\": 3, \"loss\": 9}\n");
}

static void the_first_line_is_there(void *ctx) {
    (void)ctx;
    assert_memory_equal(test_read(path(), NULL), "{\"step\": 1, \"loss\": 1}\n", 23);
}

static void allocations_may_fail(void **state) {
    (void)state;
    three_lines(NULL);
    assert_true(test_fail_allocations(open_and_write, NULL) > 3);
    assert_string_equal(test_read(path(), NULL), "{\"step\": 1, \"loss\": 1}\n{\"step\": 2, \"loss\": 0.5}\n");
}

static void disks_may_fail(void **state) {
    (void)state;
    assert_true(test_fail_disk_calls(open_and_write, ENOSPC, three_lines, the_first_line_is_there, NULL) > 3);
    assert_true(test_kill_at_disk_calls(open_and_write, three_lines, the_first_line_is_there, NULL) > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_line_is_a_json_object),
        TEST(names_are_checked),
        TEST(a_new_run_begins_anew),
        TEST(going_on_gives_the_uninterrupted_file),
        TEST(a_missing_file_is_begun),
        TEST(a_cut_last_line_is_dropped),
        TEST(a_broken_line_in_the_middle_is_an_error),
        TEST(a_folder_that_is_not_there),
        TEST(allocations_may_fail),
        TEST(disks_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
