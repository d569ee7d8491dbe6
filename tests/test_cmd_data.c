/* `tane data`: the files it writes, wrong usage, and an older file that survives a full disk. */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "text/tokenizer.h"

static const Command *sub(const char *name) {
    for (const Command *const *c = cmd_data.sub; *c; c++)
        if (strcmp((*c)->name, name) == 0) return *c;
    fail_msg("no tane data %s", name);
    return NULL;
}

/* Runs a subcommand with the words (NULL-terminated). */
static Status run(const char *name, const char *const *words) {
    char *argv[32];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)(uintptr_t)words[argc];
    argv[argc] = NULL;
    const Command *command = sub(name);
    return command->run(command, argc, argv);
}
#define ARITHMETIC(...) run("arithmetic", (const char *const[]){__VA_ARGS__, NULL})
#define SHOW(...) run("show", (const char *const[]){__VA_ARGS__, NULL})

static size_t lines_of(const char *path) {
    size_t n, lines = 0;
    char *text = test_read(path, &n);
    if (!text) fail_msg("%s was not written", path);
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    return lines;
}

static void every_problem_is_written(void **state) {
    (void)state;
    const char *out = test_path("m.jsonl");
    assert_ok(ARITHMETIC("--digits", "1", "--negative", "--ops", "+", "-", "*", "--out", out, "--no-shuffle"));
    assert_int_equal(lines_of(out), 3 * 19 * 19);
    const char *first = "{\"prompt\":\"-9+(-9)=\",\"completion\":\"-18\"}\n";
    assert_memory_equal(test_read(out, NULL), first, strlen(first));
    assert_null(test_read(test_path("m.holdout.jsonl"), NULL));
    assert_null(test_read(test_path("m.jsonl.tmp"), NULL));
}

static void holdout_gets_a_file_of_its_own(void **state) {
    (void)state;
    const char *out = test_path("m.jsonl"), *other = test_path("other.jsonl");
    assert_ok(ARITHMETIC("--digits", "1", "--ops", "+,-", "--out", out, "--holdout", "0.1"));
    assert_int_equal(lines_of(out), 180);
    assert_int_equal(lines_of(test_path("m.holdout.jsonl")), 20);
    assert_ok(ARITHMETIC("digits=1", "ops=*", "--out", out, "holdout=0.1", "--holdout-out", other));
    assert_int_equal(lines_of(out), 90);
    assert_int_equal(lines_of(other), 10);
}

static void same_command_same_bytes(void **state) {
    (void)state;
    const char *a = test_path("a.jsonl"), *b = test_path("b.jsonl"), *c = test_path("c.jsonl");
    assert_ok(ARITHMETIC("--samples", "1000", "--out", a));
    assert_ok(ARITHMETIC("--samples", "1000", "--out", b));
    assert_ok(ARITHMETIC("--samples", "1000", "--out", c, "--seed", "43"));
    assert_string_equal(test_read(a, NULL), test_read(b, NULL));
    assert_string_not_equal(test_read(a, NULL), test_read(c, NULL));
}

static void wrong_usage_is_explained(void **state) {
    (void)state;
    const char *out = test_path("m.jsonl");
    assert_error(ARITHMETIC("--digits", "2"), TANE_EINVAL, "--out FILE.jsonl is missing");
    assert_error(ARITHMETIC("--out", out, "--digts", "2"), TANE_EINVAL, "did you mean \"--digits\"?");
    assert_error(ARITHMETIC("--out", out, "--ops", "Makefile"), TANE_EINVAL, "unknown operator \"Makefile\"");
    assert_error(ARITHMETIC("--out", out, "--ops", "+", "+"), TANE_EINVAL, "+ is named twice");
    assert_error(ARITHMETIC("--out", out, "--digits", "12"), TANE_EINVAL, "from 1 to 9");
    assert_error(ARITHMETIC("--out", out, "--digits", "5"), TANE_EINVAL, "--samples N");
    assert_error(ARITHMETIC("--out", "-", "--holdout", "0.1"), TANE_EINVAL, "--holdout-out");
    assert_error(ARITHMETIC("--out", out, "--holdout", "0.1", "--holdout-out", out), TANE_EINVAL, "the same file");
    assert_error(ARITHMETIC("--out", out, "--holdout-out", "x"), TANE_EINVAL, "needs --holdout");
    assert_error(ARITHMETIC("--out", test_path("none/m.jsonl"), "--digits", "1"), TANE_ENOTFOUND, "none/m.jsonl");
    assert_null(test_read(out, NULL));
}

/* ---- show ---- */

static int before_capture;

static void capture(void) {
    fflush(stdout);
    before_capture = dup(STDOUT_FILENO);
    FILE *f = fopen(test_path("stdout"), "wb");
    dup2(fileno(f), STDOUT_FILENO);
    fclose(f);
}

static const char *captured(void) {
    fflush(stdout);
    dup2(before_capture, STDOUT_FILENO);
    close(before_capture);
    return test_read(test_path("stdout"), NULL);
}

static void show_prints_what_is_learned(void **state) {
    (void)state;
    static const char *const sentences[] = {"0123456789+-=", "12+34=46"};
    TokenizerTrainOptions options = {
        .model_type = "char", .vocab_size = 17, .character_coverage = 1.0, .threads = 1};
    assert_ok(tokenizer_train(sentences, 2, &options, test_path("chars")));
    const char *model = test_path("chars.model"), *data = test_path("m.jsonl");
    test_write(data, "\n{\"prompt\":\"1+2=\",\"completion\":\"3\"}\n{\"text\":\"4\"}\n{\"text\":\"5\"}\n");
    capture();
    Status st = SHOW(data, "--tokenizer", model, "--limit", "2");
    const char *text = captured(), *found = strstr(text, "m.jsonl:2");
    assert_ok(st);
    assert_non_null(found);
    assert_memory_equal(found, "m.jsonl:2  1 + 2 = [3] [</s>]\n", 30);
    assert_non_null(strstr(text, "m.jsonl:3  4 [</s>]\n"));
    assert_null(strstr(text, "m.jsonl:4"));
    capture();
    st = SHOW(data, "--tokenizer", model, "--limit", "1", "--json", "--add-bos", "--no-completion-only");
    text = captured();
    assert_ok(st);
    assert_non_null(strstr(text, "{\"line\":2,\"ids\":[1,"));
    assert_non_null(strstr(text, "\"pieces\":[\"<s>\",\"1\",\"+\",\"2\",\"=\",\"3\",\"</s>\"]"));
    assert_non_null(strstr(text, "\"trained\":[false,true,true,true,true,true,true]}\n"));
    assert_error(SHOW(data), TANE_EINVAL, "--tokenizer MODEL is missing");
    assert_error(SHOW("--tokenizer", model), TANE_EINVAL, "name at least one file");
    assert_error(SHOW(data, "--tokenizer", model, "--max-length", "2"), TANE_EFORMAT, "m.jsonl:2: the row has 6");
}

/* ---- disk and memory ---- */

static Status small_job(void *out) { return ARITHMETIC("--digits", "1", "--out", out, "--holdout", "0.1"); }

static void put_older(void *out) { test_write(out, "older\n"); }

static void older_or_complete(void *out) {
    size_t n;
    char *text = test_read(out, &n);
    assert_non_null(text);
    assert_true(strcmp(text, "older\n") == 0 || lines_of(out) == 299); /* 0.9 * (300 + 32) */
    assert_null(test_read(test_path("m.jsonl.tmp"), NULL));
    assert_null(test_read(test_path("m.holdout.jsonl.tmp"), NULL));
}

static void a_full_disk_leaves_the_older_file(void **state) {
    (void)state;
    void *out = (void *)(uintptr_t)test_path("m.jsonl");
    assert_in_range(test_fail_disk_calls(small_job, ENOSPC, put_older, older_or_complete, out), 8, 30);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    void *out = (void *)(uintptr_t)test_path("m.jsonl");
    assert_in_range(test_fail_allocations(small_job, out), 10, 2000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_problem_is_written),
        TEST(holdout_gets_a_file_of_its_own),
        TEST(same_command_same_bytes),
        TEST(wrong_usage_is_explained),
        TEST(show_prints_what_is_learned),
        TEST(a_full_disk_leaves_the_older_file),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("cmd_data", tests, NULL, NULL);
}
