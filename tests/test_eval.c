/* Exact match: against answers made by hand from the engine's own output, every kind of bad file, finding models. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "eval/exact_match.h"
#include "infer/open.h"
#include "ops/backend.h"
#include "support.h"

/* A character tokenizer and a random model with its vocabulary, in `folder`. */
static void make_model(const char *folder) {
    static const char *const sentences[] = {"0123456789", "12+(-34)=", "5*6=30", "8/4=2", "7-9=-2", "abc: what?"};
    TokenizerTrainOptions options = {.model_type = "char", .vocab_size = 30, .character_coverage = 1, .threads = 1};
    ModelConfig c;
    Model *m;
    Tokenizer *tok;
    assert_ok(dir_make(folder));
    assert_ok(tokenizer_train(sentences, 6, &options, test_path("chars")));
    assert_ok(tokenizer_load(&tok, test_path("chars.model")));
    assert_ok(model_config_init(&c, "gpt2"));
    c.vocab_size = tokenizer_vocab_size(tok) + 4; /* padded */
    c.context = 32;
    c.width = 32;
    c.layers = 2;
    c.heads = 2;
    c.init_std = 0.2;
    c.tied = true;
    c.eos = tokenizer_eos(tok);
    assert_ok(model_new(&m, &c, DTYPE_F32, backend_cpu()));
    ParamArray weights = model_weights(m);
    assert_ok(params_init(&m->params, 5, &weights, 1));
    float *eos = (float *)m->weights + c.eos * c.width; /* also its output weight: answers should end */
    for (int i = 0; i < c.width; i++) eos[i] *= 3;
    assert_ok(model_save(m, &weights, DTYPE_F32, folder));
    assert_ok(tokenizer_save(tok, folder));
    model_free(m);
    tokenizer_free(tok);
}

typedef struct Fixture {
    OpenModel open;
} Fixture;

static void fixture(Fixture *f) {
    make_model(test_path("m"));
    assert_ok(open_model(&f->open, test_path("m"), "fp32", "cpu", NULL));
}

enum { ASKED = 60 };
static char prompt_text[ASKED][24];

static void make_prompts(void) {
    for (int i = 0; i < ASKED; i++) {
        int a = i * 7 % 23, b = i * 13 % 101;
        if (i % 5 == 4)
            snprintf(prompt_text[i], sizeof prompt_text[i], "what %d?", b);
        else
            snprintf(prompt_text[i], sizeof prompt_text[i], i % 3 ? "%d%c%d=" : "%d%c(-%d)=", a, "+-*/"[i % 4],
                     b + (i % 3 == 0));
    }
}

/* What the model says to each prompt, by the engine with one slot. */
static void ask_one_by_one(const OpenModel *open, char said[ASKED][64], bool ended[ASKED], int64_t most) {
    Engine *e;
    Arena arena = {0};
    int32_t eos = tokenizer_eos(open->tokenizer);
    assert_ok(engine_new(&e, open->model, 1, 0));
    engine_set_vocab(e, tokenizer_vocab_size(open->tokenizer));
    for (int i = 0; i < ASKED; i++) {
        TokenList ids = {0};
        Str text = {0};
        EngineResult answer;
        assert_ok(tokenizer_encode(open->tokenizer, prompt_text[i], strlen(prompt_text[i]), &ids));
        EngineRequest r = {.prompt = ids.ids,
                           .n_prompt = (int64_t)ids.n,
                           .max_new_tokens = most,
                           .stop = &eos,
                           .n_stop = 1,
                           .sampling = {.top_p = 1}};
        assert_ok(engine_generate(e, &r, 1, &arena, &answer, NULL, NULL));
        ended[i] = answer.reason == ENGINE_STOP;
        assert_ok(tokenizer_decode(open->tokenizer, answer.tokens, (size_t)answer.n, &text));
        snprintf(said[i], 64, "%s", text.text ? text.text : "");
        str_free(&text);
        token_list_free(&ids);
    }
    arena_release(&arena);
    engine_free(e);
}

static void quote(Str *out, const char *key, const char *text) {
    assert_ok(str_printf(out, "\"%s\":", key));
    assert_ok(json_write_text(out, text, strlen(text)));
}

/* A file in which every second question has as its completion what the model says. */
static void test_scores(void **state) {
    (void)state;
    static char said[ASKED][64];
    static bool ended[ASKED];
    Fixture f;
    Str file = {0};
    fixture(&f);
    make_prompts();
    ask_one_by_one(&f.open, said, ended, 12);
    int64_t right = 0, wrong = 0, plus_right = 0, plus = 0, other = 0, other_right = 0, ends = 0;
    int wrong_index[ASKED];
    for (int i = 0; i < ASKED; i++) {
        bool same = i % 2 == 0;
        char completion[80];
        snprintf(completion, sizeof completion, "%s%s", said[i],
                 same ? "" : i % 4 == 1 ? " " : "x"); /* a blank counts */
        assert_ok(str_printf(&file, "{"));
        quote(&file, "prompt", prompt_text[i]);
        assert_ok(str_printf(&file, ","));
        quote(&file, "completion", completion);
        assert_ok(str_printf(&file, "}\n"));
        bool ok = same && ended[i];
        ends += ended[i];
        right += ok;
        if (!ok) wrong_index[wrong++] = i;
        if (i % 5 == 4) {
            other++;
            other_right += ok;
        } else if (i % 4 == 0) {
            plus++;
            plus_right += ok;
        }
    }
    assert_true(ends > 3 && right > 2); /* or else the test sees nothing */
    const char *path = test_write(test_path("q.jsonl"), file.text);
    for (int slots = 0; slots <= 64; slots = slots ? slots * 8 : 1) {
        Questions *q;
        MatchReport r;
        assert_ok(questions_load(&q, &path, 1, f.open.tokenizer, 0, false));
        assert_int_equal(questions_count(q), ASKED);
        ExactMatchOptions options = {.slots = slots, .max_new_tokens = 12, .keep_wrong = true};
        assert_ok(exact_match(q, f.open.model, &options, &r));
        assert_int_equal(r.total, ASKED);
        assert_int_equal(r.right, right);
        assert_int_equal(r.n_wrong, wrong);
        for (int i = 0; i < wrong; i++) {
            int k = wrong_index[i];
            assert_int_equal(r.wrong[i].question->line, k + 1);
            assert_string_equal(r.wrong[i].said.text, said[k]);
        }
        int64_t sum = 0, sum_right = 0, seen_plus = 0, seen_plus_right = 0;
        for (size_t i = 0; i < r.n_cells; i++) {
            sum += r.cells[i].total;
            sum_right += r.cells[i].right;
            if (r.cells[i].op == '+') {
                seen_plus += r.cells[i].total;
                seen_plus_right += r.cells[i].right;
            }
            if (i > 0 && r.cells[i].op && r.cells[i].op == r.cells[i - 1].op)
                assert_true(r.cells[i].digits > r.cells[i - 1].digits);
        }
        assert_int_equal(sum, ASKED);
        assert_int_equal(sum_right, right);
        assert_int_equal(seen_plus, plus);
        assert_int_equal(seen_plus_right, plus_right);
        assert_int_equal(r.cells[0].op, '+');
        assert_int_equal(r.cells[r.n_cells - 1].op, 0);
        assert_int_equal(r.cells[r.n_cells - 1].total, other);
        assert_int_equal(r.cells[r.n_cells - 1].right, other_right);
        match_report_free(&r);
        questions_free(q);
    }
    /* A limit is for each file. */
    const char *twice[] = {path, path};
    Questions *q;
    assert_ok(questions_load(&q, twice, 2, f.open.tokenizer, 7, false));
    assert_int_equal(questions_count(q), 14);
    questions_free(q);
    str_free(&file);
    open_model_close(&f.open);
}

static bool stop_at_once(void *user, int64_t done, int64_t right, int64_t total) {
    (void)right;
    int *calls = user;
    ++*calls;
    return done == total;
}

static void test_progress_can_stop_it(void **state) {
    (void)state;
    Fixture f;
    Questions *q;
    MatchReport r;
    int calls = 0;
    fixture(&f);
    const char *path = test_write(test_path("q.jsonl"), "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n");
    assert_ok(questions_load(&q, &path, 1, f.open.tokenizer, 0, false));
    ExactMatchOptions options = {.progress = stop_at_once, .user = &calls};
    assert_error(exact_match(q, f.open.model, &options, &r), TANE_ECANCELED, "1 of 1");
    assert_int_equal(calls, 1);
    questions_free(q);
    open_model_close(&f.open);
}

static void test_nan_weights_are_an_error(void **state) {
    (void)state;
    Fixture f;
    Questions *q;
    MatchReport r;
    fixture(&f);
    const char *path = test_write(test_path("q.jsonl"), "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n");
    assert_ok(questions_load(&q, &path, 1, f.open.tokenizer, 0, false));
    for (size_t i = 0; i < f.open.model->params.elements; i++) ((float *)f.open.model->weights)[i] = NAN;
    assert_error(exact_match(q, f.open.model, &(ExactMatchOptions){0}, &r), TANE_ENUMERIC, "NaN");
    questions_free(q);
    open_model_close(&f.open);
}

static void test_bad_files(void **state) {
    (void)state;
    Fixture f;
    Questions *q;
    MatchReport r;
    fixture(&f);
#define LOAD(text)                                                                                                     \
    questions_load(&q, (const char *[]){test_write(test_path("bad.jsonl"), text)}, 1, f.open.tokenizer, 0, false)
    assert_error_contains(LOAD(""), "bad.jsonl");
    assert_error_contains(
        LOAD("{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n{\"prompt\":\"1+1=\"}\n"),
        "bad.jsonl:2: \"completion\" is missing; each line needs {\"prompt\": ..., \"completion\": ...}");
    assert_error_contains(LOAD("{\"prompt\":7,\"completion\":\"2\"}\n"),
                          "bad.jsonl:1: \"prompt\" is a number, but must be text");
    assert_error_contains(LOAD("{\"prompt\":\"\",\"completion\":\"2\"}\n"), "bad.jsonl:1: the prompt is empty");
    assert_error_contains(LOAD("{\"prompt\":\n"), "bad.jsonl:1");
    assert_error_contains(questions_load(&q, (const char *[]){"/nowhere.jsonl"}, 1, f.open.tokenizer, 0, false),
                          "/nowhere.jsonl");
    assert_ok(LOAD("{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n"
                   "{\"prompt\":\"1111111111111111111111111111111111111111+1=\",\"completion\":\"2\"}\n"));
    assert_error(exact_match(q, f.open.model, &(ExactMatchOptions){0}, &r), TANE_EINVAL,
                 "bad.jsonl:2: the prompt has 43 tokens, but the model's context is 32");
    questions_free(q);
    open_model_close(&f.open);
#undef LOAD
}

/* ---- finding models */

static void assert_resolves(const char *name, const char *folder) {
    char *path;
    assert_ok(model_resolve_path(&path, name));
    assert_string_equal(path, folder);
    mem_free(path);
}

static void test_finding_models(void **state) {
    (void)state;
    char *path, here[4096];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(test_dir()), 0);
    const char *folders[] = {"plain", "runs/math/step-000010", "runs/math/step-000020", "runs/young/step-000001"};
    for (int i = 0; i < 4; i++) {
        assert_ok(dir_make(folders[i]));
        test_write(test_path("%s/config.json", folders[i]), "{}");
    }
    assert_ok(dir_make("runs/empty"));
    assert_ok(file_symlink("step-000010", "runs/math/best"));
    assert_ok(file_symlink("step-000020", "runs/math/last"));
    assert_ok(file_symlink("step-000001", "runs/young/last"));
    assert_ok(file_symlink("step-000009", "runs/young/best")); /* dangling */
    assert_resolves("plain", "plain");
    assert_resolves("plain//", "plain");
    assert_resolves("runs/math", "runs/math/step-000010");
    assert_resolves("math", "runs/math/step-000010");
    assert_resolves("math/", "runs/math/step-000010");
    assert_resolves("runs/math/last", "runs/math/step-000020");
    assert_resolves("runs/math/step-000020", "runs/math/step-000020");
    assert_resolves("young", "runs/young/step-000001");
    assert_error(model_resolve_path(&path, "maths"), TANE_ENOTFOUND, "did you mean the run \"math\"?");
    assert_error(model_resolve_path(&path, "quite-another"), TANE_ENOTFOUND, "\"quite-another\" is neither");
    assert_error(model_resolve_path(&path, "runs/nobody"), TANE_ENOTFOUND, "\"runs/nobody\" is neither");
    assert_error(model_resolve_path(&path, "empty"), TANE_ENOTFOUND, "runs/empty is neither");
    assert_error(model_resolve_path(&path, ""), TANE_ENOTFOUND, "neither");
    assert_int_equal(chdir(here), 0);
}

static void test_tokenizer_and_model_must_fit(void **state) {
    (void)state;
    Fixture f;
    fixture(&f);
    open_model_close(&f.open);
    ModelConfig c;
    Model *m;
    assert_ok(model_config_read(&c, test_path("m")));
    c.vocab_size = 20;
    assert_ok(model_new(&m, &c, DTYPE_F32, backend_cpu()));
    ParamArray weights = model_weights(m);
    assert_ok(params_init(&m->params, 5, &weights, 1));
    assert_ok(model_save(m, &weights, DTYPE_F32, test_path("m")));
    model_free(m);
    assert_error(open_model(&f.open, test_path("m"), "fp32", "cpu", NULL), TANE_EINVAL, "do not belong together");
}

static Status load_and_score(void *ctx) {
    (void)ctx;
    Status st = TANE_OK;
    OpenModel open = {0};
    Questions *q = NULL;
    MatchReport r = {0};
    const char *path = test_path("q.jsonl");
    TRY(open_model(&open, test_path("m"), "fp32", "cpu", NULL));
    TRY(questions_load(&q, &path, 1, open.tokenizer, 0, false));
    TRY(exact_match(q, open.model, &(ExactMatchOptions){.keep_wrong = true}, &r));
    assert_int_equal(r.total, 2);
out:
    match_report_free(&r);
    questions_free(q);
    open_model_close(&open);
    return st;
}

static void test_memory_runs_out(void **state) {
    (void)state;
    make_model(test_path("m"));
    test_write(test_path("q.jsonl"),
               "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n{\"prompt\":\"what?\",\"completion\":\"b\"}\n");
    omp_set_num_threads(1);
    assert_true(test_fail_allocations(load_and_score, NULL) > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_scores),
        TEST(test_progress_can_stop_it),
        TEST(test_nan_weights_are_an_error),
        TEST(test_bad_files),
        TEST(test_finding_models),
        TEST(test_tokenizer_and_model_must_fit),
        TEST(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
