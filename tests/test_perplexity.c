/* Perplexity: against transformers' sliding windows, every token once and in the right window by direct computation,
 * packed windows against lone ones, files and rows, going on from a results file, what cannot be measured. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "eval/metric.h"
#include "eval/perplexity.h"
#include "eval/windows.h"
#include "ops/backend.h"
#include "support.h"

typedef struct Fixture {
    Model *model;
    Tokenizer *tokenizer;
} Fixture;

static void fixture(Fixture *f, const char *name) {
    char folder[128];
    snprintf(folder, sizeof folder, "golden/models/%s", name);
    assert_ok(model_open(&f->model, test_data(folder), DTYPE_F32, test_device()));
    assert_ok(tokenizer_load(&f->tokenizer, test_data("golden/eval")));
}

static void release(Fixture *f) {
    model_free(f->model);
    tokenizer_free(f->tokenizer);
}

static PerplexityOptions options_of(const Fixture *f) { return (PerplexityOptions){.tokenizer = f->tokenizer}; }

static Status measure(const Fixture *f, const char *path, const PerplexityOptions *options, PerplexityReport *out) {
    return perplexity(&path, 1, f->model, options, out);
}

static void assert_near(double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance * fabs(expected)))
        fail_msg("%.9g, but %.9g is expected: off by %.2g of it", got, expected, fabs(got - expected) / fabs(expected));
}

static json_t *golden(void) {
    json_t *json;
    assert_ok(json_read_file(test_data("golden/eval/perplexity.json"), &json));
    return json;
}

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

/* A row for each document of the golden file. */
static const char *write_documents(const json_t *json) {
    const json_t *documents = json_object_get(json, "documents");
    Str file = {0};
    for (size_t i = 0; i < json_array_size(documents); i++) {
        const json_t *text = json_array_get(documents, i);
        assert_ok(str_printf(&file, "{\"text\":"));
        assert_ok(json_write_text(&file, json_string_value(text), json_string_length(text)));
        assert_ok(str_printf(&file, "}\n"));
    }
    const char *path = test_write(test_path("documents.jsonl"), file.text);
    str_free(&file);
    return path;
}

/* ---- against transformers */

static void check_golden(const json_t *c, const char *path) {
    Fixture f;
    PerplexityReport r;
    fixture(&f, json_string_value(json_object_get(c, "model")));
    const json_t *documents = json_object_get(c, "documents");
    double loss = 0;
    int64_t tokens = 0, bytes = 0;
    for (size_t i = 0; i < json_array_size(documents); i++) {
        const json_t *d = json_array_get(documents, i);
        loss += json_number_value(json_array_get(d, 0));
        tokens += (int64_t)json_number_value(json_array_get(d, 1));
        bytes += (int64_t)json_number_value(json_array_get(d, 2));
    }
    for (int rows = 0; rows <= 3; rows += 3) {
        PerplexityOptions o = options_of(&f);
        o.context = (int64_t)number(c, "context");
        o.stride = (int64_t)number(c, "stride");
        o.add_bos = json_is_true(json_object_get(c, "add_bos"));
        o.rows = rows;
        assert_ok(measure(&f, path, &o, &r));
        assert_int_equal(r.all.documents, json_array_size(documents));
        assert_int_equal(r.all.tokens, tokens);
        assert_int_equal(r.all.bytes, bytes);
        assert_int_equal(r.all.unknown, 0);
        assert_near(perplexity_loss(&r.all), loss / (double)tokens, 1e-5);
        assert_near(log(perplexity_of(&r.all)), log(number(c, "perplexity")), 1e-5);
        assert_near(perplexity_bits_per_byte(&r.all), number(c, "bits_per_byte"), 1e-5);
        perplexity_report_free(&r);
    }
    release(&f);
}

static void test_as_transformers(void **state) {
    (void)state;
    json_t *json = golden();
    const char *path = write_documents(json);
    const json_t *cases = json_object_get(json, "cases");
    assert_true(json_array_size(cases) >= 24);
    for (size_t i = 0; i < json_array_size(cases); i++) check_golden(json_array_get(cases, i), path);
    json_decref(json);
}

/* ---- every token once */

enum { LENGTH = 75 };

static void random_text(char text[LENGTH + 1], unsigned seed) {
    for (int i = 0; i < LENGTH; i++) {
        seed = seed * 1664525 + 1013904223;
        text[i] = "abcdefghijklmnopqrstuvwxyz 0123456789.,"[(seed >> 16) % 39];
    }
    text[LENGTH] = 0;
}

/* -ln p(token `at` | tokens from .. at - 1), computed alone. */
static double loss_of(const Fixture *f, const TokenList *ids, int64_t from, int64_t at) {
    Windows w;
    Window one = {.first = (size_t)from, .n = at - from, .scored = 1};
    assert_ok(windows_new(&w, f->model, 1, one.n));
    assert_ok(windows_score(&w, ids->ids, &one, 1));
    windows_free(&w);
    return one.loss;
}

/* The first window that reaches a token is the one that begins at the least multiple of stride from which it is
 * reached. */
static void test_windows_cover_each_token_once(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{32, 32}, {16, 16}, {16, 7}, {16, 1}, {10, 3}, {2, 1}, {1, 1}, {3, 2}};
    char text[LENGTH + 1];
    Fixture f;
    TokenList ids = {0};
    fixture(&f, "llama-untied");
    random_text(text, 1);
    const char *path = test_write(test_path("a.txt"), text);
    assert_ok(tokenizer_encode(f.tokenizer, text, LENGTH, &ids));
    assert_int_equal(ids.n, LENGTH);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        PerplexityReport r;
        PerplexityOptions o = options_of(&f);
        double sum = 0;
        o.context = shapes[k][0];
        o.stride = shapes[k][1];
        for (int64_t at = 1; at < LENGTH; at++) {
            int64_t from = 0;
            while (from + o.context < at) from += o.stride;
            sum += loss_of(&f, &ids, from, at);
        }
        assert_ok(measure(&f, path, &o, &r));
        assert_int_equal(r.all.tokens, LENGTH - 1);
        assert_int_equal(r.all.bytes, LENGTH - 1);
        assert_int_equal(r.windows,
                         LENGTH - 1 <= o.context ? 1 : (LENGTH - 1 - o.context + o.stride - 1) / o.stride + 1);
        assert_near(r.all.loss_sum, sum, 1e-5);
        perplexity_report_free(&r);
    }
    token_list_free(&ids);
    release(&f);
}

/* Windows of all lengths, packed and alone: the same losses, whatever the rows of a batch. */
static void test_packed_as_alone(void **state) {
    (void)state;
    static const char *const models[] = {"gpt2-tied", "llama-untied", "gemma3", "qwen3"};
    enum { N = 60 };
    for (size_t k = 0; k < sizeof models / sizeof *models; k++) {
        Fixture f;
        int32_t tokens[200];
        Window list[N];
        double alone[N];
        Windows w;
        fixture(&f, models[k]);
        for (int i = 0; i < 200; i++) tokens[i] = (int32_t)(i * 37 % 61);
        for (int i = 0; i < N; i++) {
            list[i] = (Window){.first = (size_t)(i * 5 % 150), .n = 1 + i * 11 % 24};
            list[i].scored = 1 + i % list[i].n;
            Window one = list[i];
            assert_ok(windows_new(&w, f.model, 1, one.n));
            assert_ok(windows_score(&w, tokens, &one, 1));
            windows_free(&w);
            alone[i] = one.loss;
        }
        for (int64_t rows = 1; rows <= 16; rows *= 4) {
            assert_ok(windows_new(&w, f.model, rows, 25));
            assert_ok(windows_score(&w, tokens, list, N));
            for (int i = 0; i < N; i++) assert_near(list[i].loss, alone[i], 1e-5);
            windows_free(&w);
        }
        release(&f);
    }
}

/* ---- files */

/* Files, each for itself and together; documents by separator; limits; plain text and rows are the same. */
static void test_files_and_documents(void **state) {
    (void)state;
    char a[LENGTH + 1], b[LENGTH + 1];
    Fixture f;
    PerplexityReport whole, split, rows;
    Str text = {0};
    fixture(&f, "gpt2-tied");
    random_text(a, 7);
    random_text(b, 8);
    assert_ok(str_printf(&text, "%s\n\n%s\n\n%s", a, b, a));
    const char *plain = test_write(test_path("plain.txt"), text.text);
    text.len = 0;
    assert_ok(str_printf(&text, "{\"id\":1,\"body\":\"%s\"}\n{\"body\":\"%s\"}\n{\"body\":\"%s\"}\n", a, b, a));
    const char *jsonl = test_write(test_path("rows.jsonl"), text.text);
    PerplexityOptions o = options_of(&f);
    assert_ok(measure(&f, plain, &o, &whole));
    assert_int_equal(whole.all.documents, 1);
    assert_int_equal(whole.all.tokens, 3 * LENGTH + 4 - 1);
    o.separator = "\n\n";
    o.columns = "text=body";
    const char *both[] = {plain, jsonl};
    assert_ok(perplexity(both, 2, f.model, &o, &split));
    assert_int_equal(split.n_files, 2);
    assert_string_equal(split.files[1].path, jsonl);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(split.files[i].documents, 3);
        assert_int_equal(split.files[i].tokens, 3 * (LENGTH - 1));
    }
    assert_near(split.files[1].loss_sum, split.files[0].loss_sum, 1e-6);
    assert_near(split.all.loss_sum, 2 * split.files[0].loss_sum, 1e-6);
    assert_true(fabs(perplexity_loss(&split.all) - perplexity_loss(&whole.all)) > 1e-4);
    o.limit = 2;
    assert_ok(measure(&f, jsonl, &o, &rows));
    assert_int_equal(rows.all.documents, 2);
    assert_int_equal(rows.all.tokens, 2 * (LENGTH - 1));
    perplexity_report_free(&whole);
    perplexity_report_free(&split);
    perplexity_report_free(&rows);
    str_free(&text);
    release(&f);
}

/* Documents that arrive in pieces of a MiB: one token for each character, whatever the window. */
static void test_long_document_in_pieces(void **state) {
    (void)state;
    enum { N = 2600000, LINE = 50 };
    Fixture f;
    PerplexityReport r;
    fixture(&f, "gpt2-tied");
    char *text = test_room(N + 1);
    for (int i = 0; i < N; i++) text[i] = i % LINE == LINE - 1 ? '\n' : (char)('a' + i * 7 % 26);
    const char *path = test_write(test_path("long.txt"), text);
    PerplexityOptions o = options_of(&f);
    o.context = 32;
    json_t *settings = json_pack("{s:s}", "made", "by hand");
    /* Nothing is computed: the results file has all windows but one. */
    const int64_t windows = (N - 1 - 32 + 31) / 32 + 1;
    Str results = {0};
    assert_ok(str_printf(&results, "{\"tane_eval\":1,\"made\":\"by hand\"}\n"));
    for (int64_t i = 0; i < windows; i++)
        if (i != 5) assert_ok(str_printf(&results, "{\"id\":%lld,\"loss\":1.0}\n", (long long)i));
    const char *out = test_write(test_path("out.jsonl"), results.text);
    assert_ok(results_open(&o.results, out, settings));
    assert_ok(measure(&f, path, &o, &r));
    assert_int_equal(r.windows, windows);
    assert_int_equal(r.resumed, windows - 1);
    assert_int_equal(r.all.tokens, N - 1);
    assert_int_equal(r.all.bytes, N - 1);
    assert_int_equal(r.all.documents, 1);
    assert_true(r.all.loss_sum > (double)windows);
    perplexity_report_free(&r);
    assert_ok(results_close(&o.results));
    json_decref(settings);
    str_free(&results);
    release(&f);
}

/* ---- what cannot be measured */

static void test_bad_files(void **state) {
    (void)state;
    Fixture f;
    PerplexityReport r;
    fixture(&f, "gpt2-tied");
    PerplexityOptions o = options_of(&f);
#define BAD(name, text, message) assert_error_contains(measure(&f, test_write(test_path(name), text), &o, &r), message)
    BAD("a.txt", "", "a.txt: the file is empty");
    BAD("a.txt", "a", "a.txt: no token to score");
    BAD("a.jsonl", "", "a.jsonl");
    BAD("a.jsonl", "{\"text\":\"abc\"}\n{\"text\":7}\n", "a.jsonl:2: \"text\" is a number, but must be text");
    BAD("a.jsonl", "{\"text\":\"abc\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n",
        "a.jsonl:2: the row is of the format prompt, but perplexity is about texts");
    BAD("a.jsonl", "{\"text\":\"abc\"}\n{\"text\":\n", "a.jsonl:2");
    assert_error_contains(measure(&f, "/nowhere.txt", &o, &r), "/nowhere.txt");
#undef BAD
    const char *path = test_write(test_path("b.txt"), "abc def");
    o.context = 33;
    assert_error(measure(&f, path, &o, &r), TANE_EINVAL,
                 "windows of 33 tokens do not fit the model, whose context is 32");
    o.context = 16;
    o.stride = 17;
    assert_error(measure(&f, path, &o, &r), TANE_EINVAL, "a stride of 17 would leave out text");
    release(&f);
}

static void test_unknown_text_is_counted(void **state) {
    (void)state;
    TokenizerTrainOptions train = {.model_type = "char", .vocab_size = 12, .character_coverage = 1, .threads = 1};
    static const char *const sentences[] = {"abc", "def"};
    Fixture f;
    PerplexityReport r;
    fixture(&f, "gpt2-tied");
    tokenizer_free(f.tokenizer);
    assert_ok(tokenizer_train(sentences, 2, &train, test_path("letters")));
    assert_ok(tokenizer_load(&f.tokenizer, test_path("letters.model")));
    PerplexityOptions o = options_of(&f);
    assert_ok(measure(&f, test_write(test_path("a.txt"), "abcxdefy"), &o, &r));
    assert_int_equal(r.all.unknown, 2);
    perplexity_report_free(&r);
    release(&f);
}

static void test_nan_weights_are_an_error(void **state) {
    (void)state;
    test_cpu_only("weights are changed in place");
    Fixture f;
    PerplexityReport r;
    fixture(&f, "gpt2-tied");
    for (size_t i = 0; i < f.model->params.elements; i++) ((float *)f.model->weights)[i] = NAN;
    PerplexityOptions o = options_of(&f);
    assert_error(measure(&f, test_write(test_path("a.txt"), "abc"), &o, &r), TANE_ENUMERIC,
                 "a.txt:1: the loss of this text is not a finite number");
    release(&f);
}

/* ---- results files */

static bool stop_early(void *user, double share, int64_t tokens) {
    (void)share;
    (void)tokens;
    int *calls = user;
    return ++*calls == 1;
}

/* Interrupted after the first batches and gone on with: the same result, each window computed once. */
static void test_goes_on(void **state) {
    (void)state;
    char text[LENGTH + 1];
    Fixture f;
    PerplexityReport whole, rest;
    Str file = {0};
    int calls = 0;
    fixture(&f, "llama-untied");
    for (unsigned i = 0; i < 400; i++) {
        random_text(text, i);
        assert_ok(str_printf(&file, "{\"text\":\"%s\"}\n", text));
    }
    const char *path = test_write(test_path("a.jsonl"), file.text), *out = test_path("out.jsonl");
    json_t *settings = json_pack("{s:s}", "model", "m");
    PerplexityOptions o = options_of(&f);
    o.context = 16;
    o.rows = 4;
    assert_ok(measure(&f, path, &o, &whole));
    PerplexityOptions first = o;
    first.progress = stop_early;
    first.user = &calls;
    assert_ok(results_open(&first.results, out, settings));
    Status st = measure(&f, path, &first, &rest);
    if (st == TANE_OK) { /* so fast that nobody was asked before the end */
        assert_true(calls == 0);
        perplexity_report_free(&rest);
    } else {
        assert_int_equal(st, TANE_ECANCELED);
    }
    assert_ok(results_close(&first.results));
    /* The last line is lost in half. */
    size_t n;
    char *there = test_read(out, &n);
    assert_true(n > 40);
    test_write_bytes(out, there, n - 20);
    o.results = NULL;
    assert_ok(results_open(&o.results, out, settings));
    assert_ok(measure(&f, path, &o, &rest));
    assert_true(rest.resumed > 0 && rest.resumed < rest.windows);
    assert_int_equal(rest.windows, whole.windows);
    assert_int_equal(rest.all.tokens, whole.all.tokens);
    assert_int_equal(rest.all.bytes, whole.all.bytes);
    assert_near(rest.all.loss_sum, whole.all.loss_sum, 1e-7);
    perplexity_report_free(&rest);
    assert_ok(results_close(&o.results));
    /* Once more: nothing is left to do. */
    assert_ok(results_open(&o.results, out, settings));
    assert_ok(measure(&f, path, &o, &rest));
    assert_int_equal(rest.resumed, rest.windows);
    assert_near(rest.all.loss_sum, whole.all.loss_sum, 1e-7);
    assert_ok(results_close(&o.results));
    /* Of a longer text: refused. */
    perplexity_report_free(&rest);
    file.len = 0;
    assert_ok(str_printf(&file, "{\"text\":\"%s\"}\n", text));
    path = test_write(test_path("a.jsonl"), file.text);
    assert_ok(results_open(&o.results, out, settings));
    assert_error(measure(&f, path, &o, &rest), TANE_EINVAL, "but the text has only");
    assert_ok(results_close(&o.results));
    perplexity_report_free(&whole);
    json_decref(settings);
    str_free(&file);
    release(&f);
}

/* ---- memory, and telling metrics */

static Status measure_once(void *ctx) {
    const char *path = ctx;
    Status st = TANE_OK;
    Fixture f = {0};
    PerplexityReport r = {0};
    json_t *settings = json_object();
    PerplexityOptions o = {.context = 16};
    if (json_object_set_new(settings, "model", json_string("m"))) TRY(FAIL(TANE_ENOMEM, "out of memory"));
    TRY(model_open(&f.model, test_data("golden/models/gpt2-tied"), DTYPE_F32, backend_cpu()));
    TRY(tokenizer_load(&f.tokenizer, test_data("golden/eval")));
    o.tokenizer = f.tokenizer;
    TRY(results_open(&o.results, test_path("out.jsonl"), settings));
    TRY(measure(&f, path, &o, &r));
    assert_int_equal(r.all.documents, 2);
out:
    json_decref(settings);
    results_close(&o.results);
    perplexity_report_free(&r);
    release(&f);
    file_unlink(test_path("out.jsonl"));
    return st;
}

static void test_memory_runs_out(void **state) {
    (void)state;
    const char *path = test_write(test_path("a.jsonl"),
                                  "{\"text\":\"abc def ghi jkl mno pqr stu\"}\n{\"text\":\"abc\"}\n");
    omp_set_num_threads(1);
    assert_true(test_fail_allocations(measure_once, (void *)(uintptr_t)path) > 50);
}

static void test_metric_is_told_by_the_first_row(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
        Metric metric;
    } files[] = {
        {"a.txt", "some text", METRIC_PERPLEXITY},
        {"a.jsonl", "{\"text\":\"some #### 5 text\"}\n", METRIC_PERPLEXITY},
        {"a.jsonl", "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n", METRIC_EXACT_MATCH},
        {"a.jsonl", "{\"question\":\"1+1?\",\"answer\":\"It is 2.\"}\n", METRIC_EXACT_MATCH},
        {"a.jsonl", "{\"question\":\"1+1?\",\"answer\":\"It is 2.\\n#### 2\"}\n", METRIC_GSM8K},
        {"a.jsonl", "{\"question\":\"1+1?\",\"answer\":\"It is 2.\\n#### two\"}\n", METRIC_EXACT_MATCH},
        {"a.json", "[{\"question\":\"1+1?\",\"answer\":\"#### -2\"}]\n", METRIC_GSM8K},
    };
    Metric metric;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *path = test_write(test_path("%s", files[i].name), files[i].text);
        assert_ok(metric_of_file(&metric, path, "auto", NULL, NULL));
        assert_string_equal(metric_name(metric), metric_name(files[i].metric));
    }
    const char *path = test_write(test_path("b.jsonl"), "{\"q\":\"1+1?\",\"a\":\"#### 2\"}\n");
    assert_ok(metric_of_file(&metric, path, "auto", "question=q,answer=a", NULL));
    assert_int_equal(metric, METRIC_GSM8K);
    assert_error_contains(metric_of_file(&metric, test_write(test_path("c.jsonl"), ""), "auto", NULL, NULL), "c.jsonl");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_as_transformers),
        TEST(test_windows_cover_each_token_once),
        TEST(test_packed_as_alone),
        TEST(test_files_and_documents),
        TEST(test_long_document_in_pieces),
        TEST(test_bad_files),
        TEST(test_unknown_text_is_counted),
        TEST(test_nan_weights_are_an_error),
        TEST(test_goes_on),
        TEST(test_metric_is_told_by_the_first_row),
        TEST(test_memory_runs_out), /* behind others: what the kernels keep for the whole process is there then */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
