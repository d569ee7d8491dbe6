/* The database of runs: life of a run, parents, going on, several processes at once, files that are no database. */
#include "support.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "track/runs.h"

static Runs *runs;
static Arena arena;

static void begin(void) { assert_ok(runs_open(&runs, test_path("runs/tane.db"), true)); }

static void end(void) {
    runs_close(runs);
    arena_release(&arena);
}

static int64_t start(const char *name, const char *output_dir, const char *parent) {
    int64_t id = 0;
    const RunStart run = {name, "seed: 1\n", output_dir, parent};
    assert_ok(run_start(runs, &run, &id));
    assert_true(id > 0);
    return id;
}

static RunInfo find(const char *name) {
    RunInfo info;
    assert_ok(run_find(runs, &arena, name, &info));
    return info;
}

static void the_life_of_a_run(void **state) {
    (void)state;
    RunScore *scores;
    RunCheckpoint *saved;
    size_t n;
    begin();
    int64_t id = start("quick", "runs/quick", NULL);
    RunInfo info = find("quick");
    assert_int_equal(info.id, id);
    assert_string_equal(info.status, "running");
    assert_string_equal(info.finished, "");
    assert_string_equal(info.parent_path, "");
    assert_string_equal(info.recipe, "seed: 1\n");
    assert_string_equal(info.output_dir, "runs/quick");
    assert_string_equal(info.version, TANE_VERSION);
    assert_int_equal(strlen(info.created), 20);
    assert_int_equal(info.parent_id, 0);
    assert_int_equal(info.step, 0);

    assert_ok(run_score(runs, id, 10, "eval_loss", 0.5));
    assert_ok(run_score(runs, id, 20, "eval_loss", 0.25));
    assert_ok(run_score(runs, id, 10, "train_loss", NAN));
    assert_ok(run_score(runs, id, 20, "eval_loss", 0.125)); /* measured again */
    assert_ok(run_checkpoint(runs, id, &(RunCheckpoint){10, "runs/quick/step-10", true, true, 0.5}));
    assert_ok(run_checkpoint(runs, id, &(RunCheckpoint){20, "runs/quick/step-20", true, true, NAN}));
    assert_ok(run_checkpoint(runs, id, &(RunCheckpoint){30, "runs/quick/step-30", false, true, 0.7}));
    assert_ok(run_finish(runs, id, "done"));
    runs_close(runs);
    begin(); /* all of it is on disk */

    info = find("quick");
    assert_string_equal(info.status, "done");
    assert_int_equal(strlen(info.finished), 20);
    assert_int_equal(info.step, 30);
    assert_ok(run_scores(runs, &arena, id, &scores, &n));
    assert_int_equal(n, 3);
    assert_string_equal(scores[0].name, "eval_loss");
    assert_string_equal(scores[1].name, "train_loss");
    assert_true(isnan(scores[1].value));
    assert_true(scores[2].step == 20 && scores[2].value == 0.125);
    assert_ok(run_last_scores(runs, &arena, id, &scores, &n));
    assert_int_equal(n, 2);
    assert_true(scores[0].step == 20 && scores[0].value == 0.125);
    assert_ok(run_checkpoints(runs, &arena, id, &saved, &n));
    assert_int_equal(n, 3);
    assert_false(saved[0].is_best || saved[0].is_last);
    assert_true(saved[1].is_best && !saved[1].is_last && isnan(saved[1].eval_loss));
    assert_true(saved[2].is_last && !saved[2].is_best && saved[2].eval_loss == 0.7);
    assert_ok(run_checkpoint_removed(runs, id, 10));
    assert_ok(run_checkpoints(runs, &arena, id, &saved, &n));
    assert_int_equal(n, 2);
    assert_error(run_finish(runs, id, "perhaps"), TANE_EIO, "tane.db");
    assert_string_equal(find("quick").status, "done");
    end();
}

static void runs_are_found(void **state) {
    (void)state;
    RunInfo info;
    begin();
    int64_t first = start("math", "runs/math", NULL), second = start("math", "runs/math2", NULL);
    int64_t named = start("1", "runs/one", NULL);
    char number[32];
    assert_int_equal(find("math").id, second); /* the latest so called */
    snprintf(number, sizeof number, "#%lld", (long long)first);
    assert_int_equal(find(number).id, first);
    assert_int_equal(find("2").id, second);
    assert_int_equal(find("1").id, named); /* a name comes before a number */
    assert_int_equal(find("runs/math").id, first);
    assert_error(run_find(runs, &arena, "maht", &info), TANE_ENOTFOUND,
                 "no run is called \"maht\"; did you mean \"math\"?");
    assert_error(run_find(runs, &arena, "99", &info), TANE_ENOTFOUND, "no run is called \"99\"");
    assert_error(run_find(runs, &arena, "", &info), TANE_ENOTFOUND, "no run is called \"\"");
    assert_error(run_find(runs, &arena, "x'; DROP TABLE runs; --", &info), TANE_ENOTFOUND, "no run is called");
    assert_int_equal(find("math").id, second);
    end();
}

static void parents_are_recognised(void **state) {
    (void)state;
    begin();
    char folder[512], saved[512], best[512], beside[512];
    snprintf(folder, sizeof folder, "%s", test_path("out/base"));
    snprintf(saved, sizeof saved, "%s", test_path("out/base/step-000010"));
    snprintf(best, sizeof best, "%s", test_path("out/base/best"));
    snprintf(beside, sizeof beside, "%s", test_path("out/base2"));
    assert_ok(dir_make(saved));
    assert_ok(dir_make(beside));
    assert_ok(file_symlink("step-000010", best));
    int64_t base = start("base", folder, NULL);
    start("by folder", "a", folder);
    start("by checkpoint", "b", saved);
    start("by link", "c", best);
    start("beside", "d", beside); /* a name that only begins the same */
    start("not there", "e", test_path("none"));
    assert_int_equal(find("by folder").parent_id, base);
    assert_int_equal(find("by checkpoint").parent_id, base);
    assert_int_equal(find("by link").parent_id, base);
    assert_string_equal(find("by link").parent_path, best);
    assert_int_equal(find("beside").parent_id, 0);
    assert_string_equal(find("beside").parent_path, beside);
    assert_int_equal(find("not there").parent_id, 0);
    end();
}

static void going_on_drops_what_is_behind(void **state) {
    (void)state;
    int64_t id;
    size_t n;
    RunScore *scores;
    RunCheckpoint *saved;
    begin();
    int64_t old = start("r", "runs/r", NULL), run = start("r", "runs/r", NULL);
    for (int step = 10; step <= 40; step += 10) {
        assert_ok(run_score(runs, run, step, "loss", step));
        assert_ok(run_score(runs, old, step, "loss", step));
        assert_ok(run_checkpoint(runs, run, &(RunCheckpoint){step, "x", false, true, NAN}));
    }
    assert_ok(run_finish(runs, run, "failed"));
    assert_ok(run_resume(runs, "runs/r", 20, &id));
    assert_int_equal(id, run);
    assert_string_equal(find("r").status, "running");
    assert_string_equal(find("r").finished, "");
    assert_ok(run_scores(runs, &arena, run, &scores, &n));
    assert_int_equal(n, 2);
    assert_ok(run_checkpoints(runs, &arena, run, &saved, &n));
    assert_int_equal(n, 2);
    assert_ok(run_scores(runs, &arena, old, &scores, &n));
    assert_int_equal(n, 4);
    assert_error(run_resume(runs, "runs/none", 0, &id), TANE_ENOTFOUND, "no run in folder runs/none is recorded");
    /* The failed call left no transaction open. */
    assert_ok(run_checkpoint(runs, run, &(RunCheckpoint){30, "x", false, true, NAN}));
    end();
}

static void a_killed_run_is_interrupted(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        int64_t id;
        const RunStart run = {"victim", "", "v", NULL};
        Status st = runs_open(&runs, test_path("runs/tane.db"), true);
        if (st == TANE_OK) st = run_start(runs, &run, &id);
        if (st != TANE_OK) _exit(1);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    begin();
    start("living", "l", NULL);
    assert_string_equal(find("victim").status, "interrupted");
    assert_string_equal(find("living").status, "running");
    end();
}

static int write_many(const char *path, int child) {
    Runs *mine;
    int64_t id;
    char name[32];
    snprintf(name, sizeof name, "child %d", child);
    const RunStart run = {name, "", name, NULL};
    if (runs_open(&mine, path, true) != TANE_OK || run_start(mine, &run, &id) != TANE_OK) return 1;
    for (int step = 1; step <= 50; step++) {
        if (run_score(mine, id, step, "loss", step) != TANE_OK) return 1;
        if (run_checkpoint(mine, id, &(RunCheckpoint){step, "x", true, true, NAN}) != TANE_OK) return 1;
    }
    if (run_finish(mine, id, "done") != TANE_OK) return 1;
    runs_close(mine);
    return 0;
}

static void processes_write_side_by_side(void **state) {
    (void)state;
    enum { CHILDREN = 4 };
    const char *path = test_path("runs/tane.db");
    pid_t child[CHILDREN];
    RunInfo *list;
    RunScore *scores;
    size_t n, n_scores;
    for (int i = 0; i < CHILDREN; i++) {
        child[i] = fork();
        if (child[i] == 0) {
            int code = write_many(path, i);
            if (code) fprintf(stderr, "child %d: %s\n", i, err_message());
            _exit(code);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        waitpid(child[i], &status, 0);
        assert_int_equal(status, 0);
    }
    begin();
    assert_ok(runs_list(runs, &arena, &list, &n));
    assert_int_equal(n, CHILDREN);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(list[i].status, "done");
        assert_ok(run_scores(runs, &arena, list[i].id, &scores, &n_scores));
        assert_int_equal(n_scores, 50);
    }
    end();
}

static void files_that_are_no_database(void **state) {
    (void)state;
    Runs *r;
    assert_error(runs_open(&r, test_path("none.db"), false), TANE_ENOTFOUND, "none.db: no runs are recorded here");
    assert_null(r);
    assert_false(file_exists(test_path("none.db")));
    static char noise[8192];
    memset(noise, 'x', sizeof noise);
    test_write_bytes(test_path("noise.db"), noise, sizeof noise);
    assert_error(runs_open(&r, test_path("noise.db"), false), TANE_EFORMAT, "noise.db: ");
    assert_error(runs_open(&r, test_path("noise.db"), true), TANE_EFORMAT, "move it away");
    size_t n;
    assert_memory_equal(test_read(test_path("noise.db"), &n), noise, sizeof noise);
    test_write(test_path("empty.db"), "");
    assert_error(runs_open(&r, test_path("empty.db"), false), TANE_EFORMAT, "empty.db: not a database of runs");
    assert_ok(dir_make(test_path("folder.db")));
    assert_error_contains(runs_open(&r, test_path("folder.db"), true), "folder.db: ");
    test_write(test_path("file"), "");
    assert_error_contains(runs_open(&r, test_path("file/tane.db"), true), "file");
}

static void a_newer_schema_is_refused(void **state) {
    (void)state;
    Runs *r;
    begin();
    end();
    const char *path = test_path("runs/tane.db");
    size_t n;
    char *bytes = test_read(path, &n);
    assert_true(n > 100);
    bytes[63] = 99; /* user_version: big-endian at 60 of the file's header */
    test_write_bytes(path, bytes, n);
    assert_error(runs_open(&r, path, false), TANE_EUNSUPPORTED, "written by a newer tane (schema 99");
}

static Status whole_life(void *ctx) {
    Status st = TANE_OK;
    int64_t id;
    RunInfo *list;
    RunScore *scores;
    size_t n;
    runs = NULL;
    TRY(runs_open(&runs, ctx, true));
    const RunStart run = {"a", "seed: 1\n", "runs/a", test_dir()};
    TRY(run_start(runs, &run, &id));
    TRY(run_score(runs, id, 1, "loss", 1));
    TRY(runs_list(runs, &arena, &list, &n));
    TRY(run_scores(runs, &arena, id, &scores, &n));
out:
    end();
    return st;
}

static void allocations_may_fail(void **state) {
    (void)state;
    assert_true(test_fail_allocations(whole_life, (void *)(uintptr_t)test_path("runs/tane.db")) > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_life_of_a_run),
        TEST(runs_are_found),
        TEST(parents_are_recognised),
        TEST(going_on_drops_what_is_behind),
        TEST(a_killed_run_is_interrupted),
        TEST(processes_write_side_by_side),
        TEST(files_that_are_no_database),
        TEST(a_newer_schema_is_refused),
        TEST(allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
