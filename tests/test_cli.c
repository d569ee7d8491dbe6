/* The program itself, given in the environment variable TANE: help, suggestions, exit codes, streams. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "track/runs.h"

typedef struct Result {
    int code;
    char *out, *err;
} Result;

/* Runs "$TANE <args>" through the shell in the test's folder. */
static Result tane(const char *args) {
    Str command = {0};
    Result r;
    assert_ok(str_printf(&command, "cd '%s' && '%s' %s >'%s' 2>'%s'", test_dir(), getenv("TANE"), args,
                         test_path("stdout"), test_path("stderr")));
    int status = system(command.text);
    str_free(&command);
    assert_true(WIFEXITED(status));
    r.code = WEXITSTATUS(status);
    r.out = test_read(test_path("stdout"), NULL);
    r.err = test_read(test_path("stderr"), NULL);
    return r;
}

static void need_tane(void) {
    const char *program = getenv("TANE");
    if (program && *program) return;
    print_message("TANE does not name the program to test\n");
    skip();
}

static void expect(const char *args, int code, const char *out, const char *err) {
    need_tane();
    Result r = tane(args);
    if (r.code != code || !strstr(r.out, out) || !strstr(r.err, err))
        fail_msg("tane %s: exit code %d, expected %d\n--- stdout, expected \"%s\"\n%s\n--- stderr, expected \"%s\"\n%s",
                 args, r.code, code, out, r.out, err, r.err);
    if (!*out) assert_string_equal(r.out, "");
    if (!*err) assert_string_equal(r.err, "");
}

static void help_leads_with_examples(void **state) {
    (void)state;
    static const char *const commands[] = {"data", "tokenizer", "train", "eval",    "generate",
                                           "chat", "runs",      "show",  "convert", "doctor"};
    need_tane();
    Result all = tane("help");
    assert_int_equal(all.code, 0);
    assert_true(strstr(all.out, "\nExamples:\n") < strstr(all.out, "\nUsage: tane "));
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char args[64], line[64];
        snprintf(line, sizeof line, "\n  %s ", commands[i]);
        assert_non_null(strstr(all.out, line));
        snprintf(args, sizeof args, "help %s", commands[i]);
        char *help = tane(args).out;
        const char *examples = strstr(help, "\nExamples:\n  tane "), *usage = strstr(help, "\nUsage: tane ");
        assert_non_null(examples);
        assert_non_null(usage);
        assert_true(examples < usage);
        snprintf(args, sizeof args, "%s --help", commands[i]);
        assert_string_equal(tane(args).out, help);
        snprintf(args, sizeof args, "%s -h", commands[i]);
        assert_string_equal(tane(args).out, help);
    }
    expect("--help", 0, "\nExamples:\n", "");
}

static void help_of_subcommands(void **state) {
    (void)state;
    expect("help runs list", 0, "tane runs list: ", "");
    expect("runs list --help", 0, "tane runs list: ", "");
    expect("help runs", 0, "\nCommands:\n  list  ", "");
    expect("help train", 0, "--learning-rate NUMBER", "");
    expect("help runs lsit", 2, "", "did you mean \"runs list\"?");
}

static void version(void **state) {
    (void)state;
    need_tane();
    Result r = tane("--version");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.out, "tane " TANE_VERSION "\n");
}

static void typos_get_suggestions(void **state) {
    (void)state;
    expect("tran", 2, "", "tane: unknown command \"tran\"; did you mean \"train\"?\nusage: tane COMMAND");
    expect("hlep", 2, "", "did you mean \"help\"?");
    expect("help doctr", 2, "", "did you mean \"doctor\"?");
    expect("runs lst", 2, "", "tane: unknown command \"runs lst\"; did you mean \"runs list\"?\nusage: tane runs");
    expect("qqqqqqqq", 2, "", "unknown command \"qqqqqqqq\"; `tane help` lists what there is");
    expect("runs qqqqqqqq", 2, "", "`tane help runs` lists what there is");
    expect("doctor --jsn", 2, "", "unknown option \"--jsn\"; did you mean \"--json\"?");
}

static void wrong_usage_is_two(void **state) {
    (void)state;
    expect("''", 2, "", "unknown command \"\"");
    expect("", 2, "", "Commands:\n");
    expect("runs", 2, "", "which command?\nusage: tane runs");
    expect("runs show", 2, "", "tane: which run?\nusage: tane runs show");
    expect("runs list extra", 2, "", "unexpected word \"extra\"");
    expect("doctor extra", 2, "", "unexpected word \"extra\"\nusage: tane doctor");
    expect("doctor --json=maybe", 2, "", "must be true or false");
}

static void failures_are_one(void **state) {
    (void)state;
    expect("runs list", 1, "", "tane: runs/tane.db: no runs are recorded here");
    expect("runs show x --db none.db", 1, "", "tane: none.db: ");
}

/* Two runs, the second trained on from the first. */
static void record_runs(void) {
    Runs *runs;
    int64_t id;
    assert_ok(dir_make(test_path("runs/base/step-10")));
    assert_ok(runs_open(&runs, test_path("runs/tane.db"), true));
    const RunStart base = {"base", "# Model\nhidden_size: 64\nseed: 1\n", test_path("runs/base"), NULL};
    assert_ok(run_start(runs, &base, &id));
    for (int step = 1; step <= 30; step++) assert_ok(run_score(runs, id, step, "train_loss", 1.0 / step));
    assert_ok(run_score(runs, id, 30, "eval_exact_match", 0.875));
    assert_ok(run_checkpoint(runs, id, &(RunCheckpoint){30, "runs/base/step-30", true, true, 0.25}));
    assert_ok(run_finish(runs, id, "done"));
    const RunStart tuned = {"tuned", "# Model\nhidden_size: 64\nseed: 2\nmodel: x\n", test_path("runs/tuned"),
                            test_path("runs/base/step-10")};
    assert_ok(run_start(runs, &tuned, &id));
    assert_ok(run_score(runs, id, 5, "eval_exact_match", 0.99));
    assert_ok(run_finish(runs, id, "failed"));
    runs_close(runs);
}

static void runs_are_shown(void **state) {
    (void)state;
    need_tane();
    record_runs();
    expect("runs list", 0, "1  base   done    ", "");
    expect("runs list", 0, "99.00%  base #1\n", "");
    expect("runs tree", 0, "base #1  done, step 30, loss 0.033333, exact 87.50%\n└─ tuned #2  failed", "");
    expect("runs show base", 0, "children  tuned #2\n", "");
    expect("runs show base", 0, "  30       0.25  best, last  runs/base/step-30\n", "");
    expect("runs show tuned", 0, "lineage   base #1 > tuned #2\n", "");
    expect("runs show tuned", 0, "\nRecipe\n  # Model\n  hidden_size: 64\n  seed: 2\n", "");
    expect("runs show 1 --json", 0, "\"history\":[{\"step\":1,\"name\":\"train_loss\",\"value\":1.0},", "");
    expect("runs list --json", 0, "\"name\":\"tuned\",\"status\":\"failed\"", "");
    expect("runs show tunde", 1, "", "did you mean \"tuned\"?");
    need_tane();
    assert_string_equal(tane("runs diff base tuned").out, "option  base #1  tuned #2\n"
                                                          "seed    1        2\n"
                                                          "model   -        x\n"
                                                          "\n"
                                                          "last score         base #1  tuned #2\n"
                                                          "eval_exact_match    87.50%    99.00%\n"
                                                          "train_loss        0.033333         -\n");
}

static void a_reader_that_leaves_is_no_failure(void **state) {
    (void)state;
    need_tane();
    record_runs();
    Str command = {0};
    /* true reads nothing: every write to it fails with EPIPE, or would raise SIGPIPE. */
    assert_ok(str_printf(&command, "cd '%s'; { '%s' runs show base --json; echo $? >code; } 2>err | true", test_dir(),
                         getenv("TANE")));
    assert_int_equal(system(command.text), 0);
    str_free(&command);
    assert_string_equal(test_read(test_path("code"), NULL), "0\n");
    assert_string_equal(test_read(test_path("err"), NULL), "");
}

static void a_full_disk_is_a_failure(void **state) {
    (void)state;
    need_tane();
    Str command = {0};
    assert_ok(str_printf(&command, "cd '%s'; '%s' help >/dev/full 2>err; echo $? >code", test_dir(), getenv("TANE")));
    assert_int_equal(system(command.text), 0);
    str_free(&command);
    assert_string_equal(test_read(test_path("code"), NULL), "1\n");
    assert_non_null(strstr(test_read(test_path("err"), NULL), "tane: could not write to standard output"));
}

static void the_doctor_speaks(void **state) {
    (void)state;
    expect("doctor --no-measure", 0, "\ntane " TANE_VERSION " will use\n  device        ", "");
    expect("doctor --no-measure --json", 0, "\"processor\":{\"model\":", "");
    expect("doctor --no-measure --json", 0, "\"measured\":{\"fp32_flops\":null,", "");
    expect("doctor", 0, "\nMeasured on ", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(help_leads_with_examples),
        TEST(help_of_subcommands),
        TEST(version),
        TEST(typos_get_suggestions),
        TEST(wrong_usage_is_two),
        TEST(failures_are_one),
        TEST(runs_are_shown),
        TEST(a_reader_that_leaves_is_no_failure),
        TEST(a_full_disk_is_a_failure),
        TEST(the_doctor_speaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
