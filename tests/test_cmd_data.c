/* `tane data`: the files it writes, wrong usage, and an older file that survives a full disk. */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
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
#define STATS(...) run("stats", (const char *const[]){__VA_ARGS__, NULL})
#define PREPARE(...) run("prepare", (const char *const[]){__VA_ARGS__, NULL})

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

static int before_capture[2];

/* Standard output and error into files. */
static void capture(void) {
    static const char *const names[] = {"stdout", "stderr"};
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(test_path("%s", names[i]), "wb");
        before_capture[i] = dup(STDOUT_FILENO + i);
        dup2(fileno(f), STDOUT_FILENO + i);
        fclose(f);
    }
}

static const char *captured(void) {
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        dup2(before_capture[i], STDOUT_FILENO + i);
        close(before_capture[i]);
    }
    return test_read(test_path("stdout"), NULL);
}

static const char *captured_stderr(void) { return test_read(test_path("stderr"), NULL); }

/* Runs it and gives what it wrote to standard output. */
static const char *output_of(const char *name, const char *const *words) {
    capture();
    Status st = run(name, words);
    const char *text = captured();
    assert_ok(st);
    return text;
}
#define OUTPUT(name, ...) output_of(name, (const char *const[]){__VA_ARGS__, NULL})

static void assert_says(const char *text, const char *what) {
    if (!strstr(text, what)) fail_msg("expected\n%s\nin\n%s", what, text);
}

/* A character a token: 17 of them. */
static const char *char_model(void) {
    static const char *const sentences[] = {"0123456789+-=", "12+34=46"};
    TokenizerTrainOptions options = {
        .model_type = "char", .vocab_size = 17, .character_coverage = 1.0, .threads = 1};
    assert_ok(tokenizer_train(sentences, 2, &options, test_path("chars")));
    return test_path("chars.model");
}

static void show_prints_what_is_learned(void **state) {
    (void)state;
    const char *model = char_model(), *data = test_path("m.jsonl");
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

/* Lengths with EOS: 6, 6, 4, 9, 2; lines 1, 2, 3, 5, 6. */
static const char *five_rows(void) {
    return test_write(test_path("m.jsonl"), "{\"prompt\":\"1+2=\",\"completion\":\"3\"}\n"
                                            "{\"prompt\":\"1+3=\",\"completion\":\"4\"}\n"
                                            "{\"text\":\"111\"}\n\n"
                                            "{\"prompt\":\"10+20=\",\"completion\":\"30\"}\n"
                                            "{\"text\":\"4\"}\n");
}

static void show_prints_the_rows_of_a_layout(void **state) {
    (void)state;
    const char *model = char_model(), *data = five_rows(), *text;
    text = OUTPUT("show", data, "--tokenizer", model, "--packing", "--max-length", "9");
    assert_says(text, "row 0: 2 documents, 9 of 9 positions\n");
    assert_says(text, "m.jsonl:5  1 0 + 2 0 = [3] [0] [</s>]\n");
    assert_says(text, "m.jsonl:6  4 [</s>]\nrow 1: 2 documents, 8 of 9 positions\n");
    assert_says(text, "row 2: 1 documents, 5 of 9 positions\n");
    assert_says(captured_stderr(), "5 rows, 27 tokens, the longest row 9; 0 dropped, 0 cut, 0 unknown tokens");
    text = OUTPUT("show", data, "--tokenizer", model, "--layout", "packing", "--max-length", "9", "--json", "--limit",
                  "1");
    assert_int_equal(lines_of(test_path("stdout")), 2);
    assert_says(text, "{\"line\":5,\"ids\":[");
    assert_says(text, "\"row\":0}\n{\"line\":6,");
    text = OUTPUT("show", data, "--tokenizer", model, "--truncation", "cut", "--max-length", "8", "--limit", "0");
    assert_says(text, "m.jsonl:5  1 0 + 2 0 = [3] [0]  (cut: 1 more tokens)\n");
    assert_says(text, "m.jsonl:6");
    assert_says(captured_stderr(), "1 cut");
    text = OUTPUT("show", data, "--tokenizer", model, "--truncation", "cut", "--max-length", "8", "--json");
    assert_says(text, "\"cut\":1}\n");
    (void)OUTPUT("show", data, "--tokenizer", model, "--truncation", "drop", "--max-length", "8");
    assert_says(captured_stderr(), "4 rows, 18 tokens, the longest row 6; 1 dropped, 0 cut");
    /* A window's last target is the next one's first token; a text's first token is learned, a prompt's is not. */
    text = OUTPUT("show", data, "--tokenizer", model, "--layout", "windows", "--max-length", "10");
    assert_says(text, "window 0\n");
    assert_says(text, "m.jsonl:1  1 + 2 = [3] [</s>]\n");
    assert_says(text, "m.jsonl:2  1 + 3 = [4] ...\nwindow 1\n");
    assert_says(text, "m.jsonl:2  ... [4] [</s>]\n");
    assert_says(text, "m.jsonl:3  [1] [1] [1] [</s>]\n");
    assert_error(SHOW(data, "--tokenizer", model, "--layout", "windows", "--packing"), TANE_EINVAL,
                 "\"packing\" is true, but \"layout\" is windows");
    assert_error(SHOW(data, "--tokenizer", model, "--layout", "windows", "--max-length", "27"), TANE_EINVAL,
                 "m.jsonl has 27 tokens, fewer than one window of 27");
    assert_error(SHOW(data, "--tokenizer", model, "--limit", "-1"), TANE_EINVAL, "limit");
    assert_error(SHOW(data, "--tokenizer", test_path("none.model")), TANE_ENOTFOUND, "none.model");
}

/* ---- stats ---- */

static double number(const json_t *root, const char *key, const char *inner) {
    const json_t *value = json_object_get(root, key);
    if (inner) value = json_object_get(value, inner);
    if (!json_is_number(value)) fail_msg("no number %s %s", key, inner ? inner : "");
    return json_number_value(value);
}

static json_t *stats_json(const char *const *words) {
    json_t *root;
    const char *text = output_of("stats", words);
    assert_ok(json_read_text("stats", text, strlen(text), &root));
    return root;
}
#define STATS_JSON(...) stats_json((const char *const[]){__VA_ARGS__, "--json", NULL})

static void stats_count_what_is_there(void **state) {
    (void)state;
    const char *model = char_model(), *data = five_rows();
    json_t *root = STATS_JSON(data, "--tokenizer", model, "--max-length", "9");
    assert_true(number(root, "rows", NULL) == 5 && number(root, "tokens", NULL) == 27);
    assert_true(number(root, "trained", NULL) == 2 + 2 + 3 + 3 + 1); /* of a text all but the first token */
    assert_true(number(root, "unknown", NULL) == 0 && number(root, "duplicates", NULL) == 0);
    assert_true(number(root, "lengths", "min") == 2 && number(root, "lengths", "max") == 9);
    assert_true(number(root, "lengths", "median") == 6 && number(root, "lengths", "mean") == 27.0 / 5);
    assert_true(number(root, "lengths", "p10") == 2 && number(root, "lengths", "p90") == 9);
    assert_true(number(root, "max_length", NULL) == 9 && number(root, "longer", NULL) == 0);
    assert_true(number(root, "packing", "rows") == 3 && number(root, "packing", "full") == 22.0 / 27);
    assert_true(number(root, "padding", "full") == 22.0 / 40);
    json_decref(root);
    root = STATS_JSON(data, data, "--tokenizer", model, "--max-length", "5", "--no-completion-only");
    assert_true(number(root, "rows", NULL) == 10 && number(root, "tokens", NULL) == 54);
    assert_true(number(root, "trained", NULL) == 54 - 10);
    assert_true(number(root, "duplicates", NULL) == 5 && number(root, "longer", NULL) == 6);
    json_decref(root);
}

static void stats_are_told_to_people(void **state) {
    (void)state;
    const char *model = char_model(), *text;
    const char *data = test_write(test_path("d.jsonl"), "{\"text\":\"1Z\"}\n{\"text\":\"23\"}\n{\"text\":\"1Z\"}\n"
                                                        "{\"text\":\"23\"}\n{\"text\":\"23\"}\n");
    text = OUTPUT("stats", data, "--tokenizer", model, "--max-length", "2");
    assert_says(text, "5 rows, 15 tokens, 66.7% of them trained on, 2 unknown to the tokenizer\n");
    assert_says(text, "max_length 2: 5 rows (100.00%) are longer\n");
    assert_says(text, "layout packing: 0 rows of 2, 0.00% full\n"); /* none is left */
    assert_says(text, "3 rows are copies of earlier ones, the first is ");
    assert_says(text, "d.jsonl:3 (as ");
    assert_says(text, "d.jsonl:1)\n");
    text = OUTPUT("stats", data, "--tokenizer", model, "--max-length", "2", "--truncation", "cut");
    assert_says(text, "layout packing: 3 rows of 2, 83.33% full\n");
    assert_error(STATS(data), TANE_EINVAL, "--tokenizer MODEL is missing");
    assert_error(STATS("--tokenizer", model), TANE_EINVAL, "name at least one file");
    assert_error(STATS(data, "--tokenizer", model, "--limit", "1"), TANE_EINVAL, "limit");
    assert_error(STATS(test_path("none.jsonl"), "--tokenizer", model), TANE_ENOTFOUND, "none.jsonl");
}

/* ---- prepare ---- */

static void prepare_makes_tokens_once(void **state) {
    (void)state;
    const char *model = char_model(), *data = five_rows(), *out = test_path("tokens"), *text;
    (void)OUTPUT("prepare", data, "--tokenizer", model, "--out", out, "--shard-tokens", "12");
    assert_says(captured_stderr(), "tokens: 5 documents, 27 tokens in 3 shards from 1 files, ");
    assert_true(file_exists(test_path("tokens/000002.tok")) && file_exists(test_path("tokens/index.json")));
    (void)OUTPUT("prepare", data, "--tokenizer", model, "--out", out, "--shard-tokens", "12");
    assert_says(captured_stderr(), "nothing has changed, the tokens are used as they are: 27 tokens in 3 shards");
    /* max_length, truncation and layout play no part; what rows become does. */
    (void)OUTPUT("prepare", data, "--tokenizer", model, "--out", out, "--shard-tokens", "12", "--max-length", "3",
                 "--packing");
    assert_says(captured_stderr(), "nothing has changed");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out, "--shard-tokens", "12", "--add-bos"), TANE_EINVAL,
                 "tokens that were prepared with other settings");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out), TANE_EINVAL, "other sizes of shards");
    /* They show and count as the rows do. */
    const char *rows = OUTPUT("show", data, "--tokenizer", model, "--packing", "--max-length", "9");
    text = OUTPUT("show", out, "--tokenizer", model, "--packing", "--max-length", "9");
    assert_string_equal(text, rows);
    rows = OUTPUT("show", data, "--tokenizer", model, "--layout", "windows", "--max-length", "7");
    text = OUTPUT("show", out, "--tokenizer", model, "--layout", "windows", "--max-length", "7");
    assert_string_equal(text, rows);
    rows = OUTPUT("stats", data, "--tokenizer", model, "--max-length", "9", "--json");
    text = OUTPUT("stats", out, "--tokenizer", model, "--max-length", "9", "--json");
    assert_string_equal(text, rows);
}

static void prepare_writes_for_others(void **state) {
    (void)state;
    const char *model = char_model(), *data = five_rows(), *nano = test_path("nano"), *llmc = test_path("llmc"), *text;
    size_t n;
    (void)OUTPUT("prepare", data, "--tokenizer", model, "--out", nano, "--write", "nanogpt", "--holdout", "0.2");
    assert_says(captured_stderr(), "nano: 2 files of nanogpt, 22 tokens to train on, 5 held out");
    assert_non_null(test_read(test_path("nano/train.bin"), &n));
    assert_int_equal(n, 44);
    assert_non_null(test_read(test_path("nano/val.bin"), &n));
    assert_int_equal(n, 10);
    text = OUTPUT("show", test_path("nano/val.bin"), "--tokenizer", model);
    assert_says(text, "val.bin:1  3 [0] [</s>] [4] [</s>]\n");
    (void)OUTPUT("prepare", data, "--tokenizer", model, "--out", llmc, "--write", "llmc", "--shard-tokens", "10");
    assert_says(captured_stderr(), "llmc: 3 files of llmc, 27 tokens to train on, 0 held out");
    assert_non_null(test_read(test_path("llmc/train_000003.bin"), &n));
    assert_int_equal(n, 1024 + 14);
    text = OUTPUT("show", test_path("llmc/train_*.bin"), "--tokenizer", model, "--layout", "windows", "--max-length",
                  "26");
    assert_says(text, "train_000003.bin:1  [0] [=] [3] [0] [</s>] [4] [</s>]\n");
}

static void wrong_usage_of_prepare_is_explained(void **state) {
    (void)state;
    const char *model = char_model(), *data = five_rows(), *out = test_path("tokens");
    assert_error(PREPARE(data, "--tokenizer", model), TANE_EINVAL, "--out FOLDER is missing");
    assert_error(PREPARE(data, "--out", out), TANE_EINVAL, "--tokenizer MODEL is missing");
    assert_error(PREPARE("--tokenizer", model, "--out", out), TANE_EINVAL, "name at least one file");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out, "--holdout", "0.1"), TANE_EINVAL,
                 "--holdout is for --write llmc and nanogpt");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out, "--write", "nanogtp"), TANE_EINVAL,
                 "it must be one of tane, llmc, nanogpt");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out, "--write", "llmc", "--holdout", "1"), TANE_EINVAL,
                 "0.9");
    assert_error(PREPARE(data, "--tokenizer", model, "--out", out, "--shard-tokens", "-1"), TANE_EINVAL, "shard");
    assert_error(PREPARE(test_path("none/*.jsonl"), "--tokenizer", model, "--out", out), TANE_ENOTFOUND, "none");
    assert_false(dir_exists(out));
    assert_error(PREPARE(data, "--tokenizer", model, "--out", test_dir()), TANE_EINVAL, "holds other files");
}

/* Only conversations need the template that a tokenizer came with. */
static void a_template_that_cannot_be_read_is_no_reason_to_stop(void **state) {
    (void)state;
    static const char *const sentences[] = {"0123456789+-=", "12+34=46"};
    TokenizerTrainOptions options = {
        .model_type = "char", .vocab_size = 17, .character_coverage = 1.0, .threads = 1};
    const char *folder = test_path("model"), *data = test_path("m.jsonl"), *chat = test_path("chat.jsonl");
    assert_ok(dir_make(folder));
    assert_ok(tokenizer_train(sentences, 2, &options, test_path("model/tokenizer")));
    test_write(test_path("model/chat_template.jinja"), "{% include 'x' %}");
    test_write(data, "{\"prompt\":\"1+2=\",\"completion\":\"3\"}\n");
    test_write(chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"1\"},"
                     "{\"role\":\"assistant\",\"content\":\"2\"}]}\n");
    capture();
    Status st = SHOW(data, "--tokenizer", folder);
    const char *text = captured();
    assert_ok(st);
    assert_non_null(strstr(text, "1 + 2 = [3] [</s>]"));
    assert_error(SHOW(chat, "--tokenizer", folder), TANE_EFORMAT, "needs a chat template");
    assert_error(SHOW(data, "--tokenizer", folder, "--chat-template", test_path("model/chat_template.jinja")),
                 TANE_EUNSUPPORTED, "include");
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
        TEST(a_template_that_cannot_be_read_is_no_reason_to_stop),
        TEST(show_prints_the_rows_of_a_layout),
        TEST(stats_count_what_is_there),
        TEST(stats_are_told_to_people),
        TEST(prepare_makes_tokens_once),
        TEST(prepare_writes_for_others),
        TEST(wrong_usage_of_prepare_is_explained),
        TEST(a_full_disk_leaves_the_older_file),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("cmd_data", tests, NULL, NULL);
}
