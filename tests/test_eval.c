/* Question sets: scores against answers made by hand from the engine's own output, formats of rows, results files that
 * are gone on with (also after every kind of death), bad files, the command, finding models. */
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/cli.h"
#include "eval/exact_match.h"
#include "infer/open.h"
#include "ops/backend.h"
#include "support.h"
#include "track/runs.h"

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
        if (i % 5 == 4) snprintf(prompt_text[i], sizeof prompt_text[i], "what %d?", b);
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
                 same         ? ""
                 : i % 4 == 1 ? " "
                              : "x"); /* a blank counts */
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

/* ---- formats of rows, and the rules for GSM8K */

/* A line with two texts. */
static void add_row(Str *out, const char *key, const char *text, const char *second, const char *other) {
    assert_ok(str_printf(out, "{"));
    quote(out, key, text);
    assert_ok(str_printf(out, ","));
    quote(out, second, other);
    assert_ok(str_printf(out, "}\n"));
}

/* The same prompts in three formats, put together by suffix and separator: the same answers, the right ones. */
static void test_formats_ask_the_same(void **state) {
    (void)state;
    static char said[ASKED][64];
    static bool ended[ASKED];
    static const char *const keys[][2] = {{"prompt", "completion"}, {"question", "answer"}, {"q", "a"}};
    Fixture f;
    fixture(&f);
    make_prompts();
    ask_one_by_one(&f.open, said, ended, 12);
    int64_t ends = 0;
    for (int i = 0; i < ASKED; i++) ends += ended[i];
    for (int k = 0; k < 3; k++) {
        Str file = {0};
        Questions *q;
        MatchReport r;
        RowFormatOptions format = {
            .tokenizer = f.open.tokenizer, .prompt_suffix = "", .columns = k == 2 ? "question=q,answer=a" : NULL};
        for (int i = 0; i < ASKED; i++) {
            char *text = prompt_text[i], cut = text[strlen(text) - 1]; /* the last character: suffix or separator */
            char begin[24];
            snprintf(begin, sizeof begin, "%.*s", (int)strlen(text) - 1, text);
            if (cut == '=') add_row(&file, keys[k][0], begin, keys[k][1], said[i]);
        }
        if (k == 1) format.prompt_suffix = "=";
        else format.separator = "=";
        const char *path = test_write(test_path("q.jsonl"), file.text);
        assert_ok(questions_open(&q, &path, 1, &(QuestionOptions){.format = &format}));
        assert_ok(exact_match(q, f.open.model, &(ExactMatchOptions){.max_new_tokens = 12}, &r));
        int64_t expected = 0, asked = 0;
        for (int i = 0; i < ASKED; i++) {
            if (prompt_text[i][strlen(prompt_text[i]) - 1] != '=') continue;
            asked++;
            expected += ended[i];
        }
        assert_int_equal(r.total, asked);
        assert_int_equal(r.right, expected);
        assert_int_equal(r.unfinished, asked - expected);
        match_report_free(&r);
        questions_free(q);
        str_free(&file);
    }
    assert_true(ends > 3);
    open_model_close(&f.open);
}

/* Right numbers taken from what the model says: the rules find them again, in answers that do not end too. */
static void test_gsm8k(void **state) {
    (void)state;
    static char said[ASKED][64];
    static bool ended[ASKED];
    Fixture f;
    Str file = {0};
    Questions *q;
    MatchReport r;
    AnswerScratch scratch = {0};
    int64_t expected[ANSWER_RULES] = {0}, unfinished = 0;
    fixture(&f);
    make_prompts();
    ask_one_by_one(&f.open, said, ended, 12);
    for (int i = 0; i < ASKED; i++) {
        char right[96];
        bool found, yes;
        assert_ok(answer_extract(i % 2 ? ANSWER_GSM8K_FLEXIBLE : ANSWER_HARNESS_FLEXIBLE,
                                 (AnswerText){said[i], strlen(said[i])}, &scratch.said, &found));
        snprintf(right, sizeof right, "It is so.\n#### %s", found && i % 3 ? scratch.said.text : "17.5");
        add_row(&file, "question", prompt_text[i], "answer", right);
        for (AnswerRule rule = ANSWER_GSM8K_STRICT; rule < ANSWER_RULES; rule++) {
            assert_ok(answer_is_right(rule, (AnswerText){said[i], strlen(said[i])}, (AnswerText){right, strlen(right)},
                                      &scratch, &yes));
            expected[rule] += yes;
        }
        unfinished += !ended[i];
    }
    assert_true(expected[ANSWER_GSM8K_FLEXIBLE] > 3 && expected[ANSWER_HARNESS_FLEXIBLE] > 3 && unfinished > 3);
    const char *path = test_write(test_path("q.jsonl"), file.text);
    assert_ok(questions_load(&q, &path, 1, f.open.tokenizer, 0, false));
    assert_ok(exact_match(q, f.open.model, &(ExactMatchOptions){.gsm8k = true, .max_new_tokens = 12}, &r));
    assert_int_equal(r.first, ANSWER_GSM8K_STRICT);
    for (AnswerRule rule = ANSWER_GSM8K_STRICT; rule < ANSWER_RULES; rule++)
        assert_int_equal(r.scores[rule], expected[rule]);
    assert_int_equal(r.right, expected[ANSWER_GSM8K_STRICT]);
    assert_int_equal(r.unfinished, unfinished);
    assert_int_equal(match_max_new_tokens(q, true), 256);
    assert_true(match_max_new_tokens(q, false) < 60);
    match_report_free(&r);
    questions_free(q);
    file.len = 0;
    add_row(&file, "question", "1+1?", "answer", "#### 2");
    add_row(&file, "question", "1+1?", "answer", "two");
    path = test_write(test_path("q.jsonl"), file.text);
    assert_ok(questions_load(&q, &path, 1, f.open.tokenizer, 0, false));
    assert_error(exact_match(q, f.open.model, &(ExactMatchOptions){.gsm8k = true}, &r), TANE_EFORMAT,
                 "q.jsonl:2: the right answer has no number behind \"#### \"");
    questions_free(q);
    answer_scratch_free(&scratch);
    str_free(&file);
    open_model_close(&f.open);
}

/* ---- results files */

static const char *write_questions(int n) {
    Str file = {0};
    make_prompts();
    for (int i = 0; i < n; i++) add_row(&file, "prompt", prompt_text[i], "completion", i % 2 ? "1" : "");
    const char *path = test_write(test_path("q.jsonl"), file.text);
    str_free(&file);
    return path;
}

/* One evaluation of a folder's model with a results file; everything is opened and closed. */
typedef struct Evaluation {
    int questions, slots;
    bool (*progress)(void *user, int64_t done, int64_t right, int64_t total);
    int calls;
    int64_t right, unfinished, tokens, resumed;
} Evaluation;

static Status evaluate(void *ctx) {
    Evaluation *e = ctx;
    Status st = TANE_OK;
    OpenModel open = {0};
    Questions *q = NULL;
    MatchReport r = {0};
    Results *results = NULL;
    json_t *settings = json_object();
    const char *path = test_path("q.jsonl");
    if (json_object_set_new(settings, "model", json_string("m"))) TRY(FAIL(TANE_ENOMEM, "out of memory"));
    TRY(open_model(&open, test_path("m"), "fp32", "cpu", NULL));
    TRY(questions_load(&q, &path, 1, open.tokenizer, e->questions, false));
    TRY(results_open(&results, test_path("out.jsonl"), settings));
    ExactMatchOptions o = {
        .results = results, .slots = e->slots, .max_new_tokens = 12, .progress = e->progress, .user = &e->calls};
    TRY(exact_match(q, open.model, &o, &r));
    assert_int_equal(r.total, e->questions);
    e->right = r.right;
    e->unfinished = r.unfinished;
    e->tokens = r.tokens;
    e->resumed = r.resumed;
    TRY(results_close(&results));
out:
    json_decref(settings);
    match_report_free(&r);
    questions_free(q);
    open_model_close(&open);
    if (results) results_close(&results);
    return st;
}

static void forget_results(void *ctx) {
    (void)ctx;
    assert_ok(file_unlink(test_path("out.jsonl")));
}

static char whole_results[1 << 14];

/* Whatever was there: going on gives what an uninterrupted evaluation gave. */
static void finish_and_compare(void *ctx) {
    Evaluation *e = ctx, rest = {.questions = e->questions, .slots = e->slots};
    size_t before = 0, n;
    char *there = test_read(test_path("out.jsonl"), &n);
    for (size_t i = 0; there && i < n; i++) before += there[i] == '\n';
    assert_ok(evaluate(&rest));
    assert_int_equal(rest.resumed, before ? before - 1 : 0);
    assert_string_equal(test_read(test_path("out.jsonl"), NULL), whole_results);
}

static void evaluate_whole(int questions, int slots) {
    Evaluation e = {.questions = questions, .slots = slots};
    forget_results(NULL);
    assert_ok(evaluate(&e));
    assert_int_equal(e.resumed, 0);
    snprintf(whole_results, sizeof whole_results, "%s", test_read(test_path("out.jsonl"), NULL));
}

/* Killed at every write. */
static void test_goes_on_after_a_kill(void **state) {
    (void)state;
    enum { N = 12 };
    omp_set_num_threads(1); /* so that nothing has made threads when the test forks */
    make_model(test_path("m"));
    write_questions(N);
    evaluate_whole(N, 4);
    Evaluation e = {.questions = N, .slots = 4};
    assert_true(test_kill_at_disk_calls(evaluate, forget_results, finish_and_compare, &e) > N);
}

static void test_goes_on_after_a_full_disk(void **state) {
    (void)state;
    enum { N = 6 };
    make_model(test_path("m"));
    write_questions(N);
    evaluate_whole(N, 2);
    Evaluation e = {.questions = N, .slots = 2};
    assert_true(test_fail_disk_calls(evaluate, ENOSPC, forget_results, finish_and_compare, &e) > N);
}

/* Cut anywhere: inside a line that line is asked again; within the settings the file is refused. */
static void test_goes_on_behind_a_torn_line(void **state) {
    (void)state;
    enum { N = 10 };
    make_model(test_path("m"));
    write_questions(N);
    evaluate_whole(N, 3);
    const size_t n = strlen(whole_results), settings = (size_t)(strchr(whole_results, '\n') + 1 - whole_results);
    for (size_t keep = settings; keep <= n; keep += test_stride(53)) {
        Evaluation e = {.questions = N, .slots = 3};
        size_t lines = 0;
        for (size_t i = settings; i < keep; i++) lines += whole_results[i] == '\n';
        test_write_bytes(test_path("out.jsonl"), whole_results, keep);
        assert_ok(evaluate(&e));
        assert_int_equal(e.resumed, lines);
        assert_string_equal(test_read(test_path("out.jsonl"), NULL), whole_results);
    }
    Evaluation e = {.questions = N};
    test_write_bytes(test_path("out.jsonl"), whole_results, settings - 1);
    assert_error(evaluate(&e), TANE_EINVAL, "out.jsonl is no results file of `tane eval`: it has no whole line");
}

/* Lines are in the files' order, with what was said; resumed counts are those of the whole. */
static void test_results_are_in_order(void **state) {
    (void)state;
    enum { N = 30 };
    Evaluation e = {.questions = N, .slots = 7}, again = e;
    make_model(test_path("m"));
    write_questions(N);
    assert_ok(evaluate(&e));
    char *text = test_read(test_path("out.jsonl"), NULL);
    int64_t right = 0, tokens = 0;
    char *line = strtok(text, "\n");
    assert_string_equal(line, "{\"tane_eval\":1,\"model\":\"m\"}");
    for (int i = 0; i < N; i++) {
        json_t *object;
        line = strtok(NULL, "\n");
        assert_non_null(line);
        assert_ok(json_read_text("line", line, strlen(line), &object));
        assert_int_equal(json_integer_value(json_object_get(object, "id")), i);
        assert_int_equal(json_integer_value(json_object_get(object, "line")), i + 1);
        assert_string_equal(json_string_value(json_object_get(object, "file")), test_path("q.jsonl"));
        assert_true(json_is_string(json_object_get(object, "said")));
        assert_true(json_is_boolean(json_object_get(object, "finished")));
        right += json_is_true(json_object_get(object, "exact_match"));
        tokens += json_integer_value(json_object_get(object, "tokens"));
        json_decref(object);
    }
    assert_int_equal(right, e.right);
    assert_int_equal(tokens, e.tokens);
    assert_ok(evaluate(&again));
    assert_int_equal(again.resumed, N);
    assert_int_equal(again.right, e.right);
    assert_int_equal(again.unfinished, e.unfinished);
    assert_int_equal(again.tokens, e.tokens);
}

static void test_bad_results_files(void **state) {
    (void)state;
    Evaluation e = {.questions = 4};
    make_model(test_path("m"));
    write_questions(4);
#define LINE(id) "{\"id\":" #id ",\"exact_match\":true,\"finished\":true,\"tokens\":1,\"said\":\"\"}\n"
#define BAD(text, message)                                                                                             \
    test_write(test_path("out.jsonl"), text);                                                                          \
    assert_error_contains(evaluate(&e), message);                                                                      \
    assert_string_equal(test_read(test_path("out.jsonl"), NULL), text)
#define HEAD "{\"tane_eval\":1,\"model\":\"m\"}\n"
    BAD("{\"prompt\":\"1\"}\n", "out.jsonl is no results file of `tane eval`: its first line has no \"tane_eval\"");
    BAD("some text\n", "out.jsonl");
    BAD("\n", "out.jsonl");
    BAD("{\"tane_eval\":2,\"model\":\"m\"}\n", "tane_eval");
    BAD("{\"tane_eval\":1,\"model\":\"other\"}\n",
        "was begun with other settings: \"model\" was \"other\" and is \"m\" now");
    BAD("{\"tane_eval\":1}\n", "\"model\" was not set and is \"m\" now");
    BAD("{\"tane_eval\":1,\"model\":\"m\",\"limit\":3}\n", "\"limit\" was 3 and is not set now");
    BAD(HEAD LINE(0) LINE(0), "out.jsonl:3: the id 0 is there twice");
    BAD(HEAD LINE(4), "out.jsonl:2: \"id\" is 4");
    BAD(HEAD LINE(-1), "out.jsonl:2: \"id\" is -1");
    BAD(HEAD "{\"id\":0}\n", "out.jsonl:2");
    BAD(HEAD "{\"id\":0,\n" LINE(1), "out.jsonl:2");
    test_write(test_path("out.jsonl"), HEAD LINE(2) LINE(0));
    assert_ok(evaluate(&e));
    assert_int_equal(e.resumed, 2);
    assert_ok(file_unlink(test_path("out.jsonl")));
    test_write(test_path("out.jsonl"), "");
    assert_ok(evaluate(&e)); /* an empty file is like none */
    assert_int_equal(e.resumed, 0);
#undef BAD
#undef HEAD
#undef LINE
}

/* ---- the command */

static Status command(const char *const *words) {
    char *argv[32];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)(uintptr_t)words[argc];
    argv[argc] = NULL;
    fflush(stdout);
    int out = dup(1), err = dup(2);
    assert_non_null(freopen(test_path("stdout"), "w", stdout));
    assert_non_null(freopen(test_path("stderr"), "w", stderr));
    Status st = cmd_eval.run(&cmd_eval, argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    return st;
}
#define EVAL(...)                                                                                                      \
    command((const char *const[]){test_path("m"), "--device", test_device_name(), "--compute-dtype", "fp32",           \
                                  __VA_ARGS__, NULL})

static json_t *printed(void) {
    json_t *json;
    assert_ok(json_read_file(test_path("stdout"), &json));
    return json;
}

static void test_command_with_questions(void **state) {
    (void)state;
    make_model(test_path("m"));
    const char *path = write_questions(20), *out = test_path("out.jsonl"), *wrong = test_path("wrong.jsonl");
    assert_ok(EVAL("--data", path, "--json", "--out", out, "--extract", wrong));
    json_t *json = printed();
    assert_string_equal(json_string_value(json_object_get(json, "metric")), "exact_match");
    assert_int_equal(json_integer_value(json_object_get(json, "total")), 20);
    int64_t right = json_integer_value(json_object_get(json, "right"));
    assert_true(json_real_value(json_object_get(json, "exact_match")) == (double)right / 20);
    json_decref(json);
    size_t n, lines = 0;
    char *text = test_read(wrong, &n);
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    assert_int_equal(lines, 20 - right);
    if (lines) assert_memory_equal(text, "{\"prompt\":\"", 11);
    /* The wrong ones asked again: what the model said before gives way. */
    assert_ok(EVAL("--data", wrong, "--extract", test_path("wrong2.jsonl"), "--json"));
    assert_string_equal(test_read(test_path("wrong2.jsonl"), NULL), text);
    /* Other settings are refused, the same ones go on. */
    assert_error_contains(EVAL("--data", path, "--out", out, "--limit", "7"), "\"limit\" was 0 and is 7 now");
    assert_error_contains(EVAL("--data", wrong, "--out", out), "\"data\" was");
    assert_ok(EVAL("--data", path, "--json", "--out", out, "--extract", wrong));
    assert_string_equal(test_read(wrong, NULL), text);
    json = printed();
    assert_int_equal(json_integer_value(json_object_get(json, "resumed")), 20);
    json_decref(json);
    assert_error_contains(EVAL("--data", path, "--at-least", "1"),
                          "right, less than the 100.00% that --at-least asks for");
    assert_error_contains(EVAL("--data", path, "--stride", "3"), "--stride is about perplexity");
    assert_error_contains(EVAL("--data", test_path("none*.jsonl")), "none*.jsonl");
    assert_error_contains(EVAL("--data", test_write(test_path("e.jsonl"), "")), "e.jsonl");
    assert_error_contains(EVAL("--data", path, "--chat-prompts"), "chat template");
}

static void test_command_with_gsm8k_and_texts(void **state) {
    (void)state;
    make_model(test_path("m"));
    Str file = {0};
    for (int i = 0; i < 5; i++) add_row(&file, "question", "1+1?", "answer", "#### 2");
    const char *path = test_write(test_path("g.jsonl"), file.text), *before = test_path("before.json");
    str_free(&file);
    assert_ok(EVAL("--data", path, "--json", "--prompt-suffix", "=", "--max-new-tokens", "8"));
    assert_ok(file_copy(test_path("stdout"), before));
    json_t *json = printed();
    assert_string_equal(json_string_value(json_object_get(json, "metric")), "gsm8k");
    assert_true(json_is_real(json_object_get(json, "gsm8k_flexible")) &&
                json_is_real(json_object_get(json, "harness_strict")));
    json_decref(json);
    assert_ok(EVAL("--data", path, "--compare", before, "--max-new-tokens", "8"));
    assert_non_null(strstr(test_read(test_path("stdout"), NULL), "gsm8k_strict"));
    const char *text = test_write(test_path("t.txt"), "1+2=3, what a 5*6=30");
    assert_ok(EVAL("--data", text, "--json"));
    json = printed();
    assert_string_equal(json_string_value(json_object_get(json, "metric")), "perplexity");
    assert_int_equal(json_integer_value(json_object_get(json, "bytes")), 19);
    assert_true(json_real_value(json_object_get(json, "perplexity")) > 1);
    json_decref(json);
    assert_error_contains(EVAL("--data", text, "--at-least", "0.5"), "--at-least is about questions");
    assert_error_contains(EVAL("--data", text, "--metric", "gsm8k"),
                          "t.txt: the file is plain text; a question set needs");
    assert_error_contains(EVAL("--data", path, "--metric", "perplexity"),
                          "g.jsonl:1: the row is of the format question");
}

static double score_of(Runs *runs, Arena *arena, int64_t id, int64_t step, const char *name) {
    RunScore *list;
    size_t n;
    assert_ok(run_scores(runs, arena, id, &list, &n));
    for (size_t i = 0; i < n; i++)
        if (list[i].step == step && strcmp(list[i].name, name) == 0) return list[i].value;
    return NAN;
}

/* A checkpoint's scores go to its run, another model's to the run that --run names, and else nowhere. */
static void test_command_records_scores(void **state) {
    (void)state;
    Arena arena = {0};
    Runs *runs;
    int64_t id;
    const char *db = test_path("runs/tane.db"), *folder = test_path("runs/x");
    make_model(test_path("m"));
    const char *path = write_questions(4), *text = test_write(test_path("t.txt"), "1+2=3, what a 5*6=30");
    assert_ok(runs_open(&runs, db, true));
    assert_ok(run_start(runs, &(RunStart){.name = "x", .recipe = "", .output_dir = folder}, &id));
    assert_ok(run_score(runs, id, 9, "loss", 1.5));
    assert_ok(run_finish(runs, id, "done"));
    assert_ok(EVAL("--data", path));
    assert_true(isnan(score_of(runs, &arena, id, 9, "exact_match")));
    assert_ok(EVAL("--data", text, "--db", db, "--run", "x"));
    assert_true(score_of(runs, &arena, id, 0, "perplexity") > 1); /* before the run's training */
    assert_true(score_of(runs, &arena, id, 0, "bits_per_byte") > 0);
    assert_true(isnan(score_of(runs, &arena, id, 9, "perplexity")));
    assert_error_contains(EVAL("--data", text, "--db", db, "--run", "y"), "y");
    assert_ok(dir_make(folder));
    assert_ok(file_rename(test_path("m"), test_path("runs/x/step-000005")));
    assert_ok(file_symlink("step-000005", test_path("runs/x/best")));
    assert_ok(command((const char *const[]){folder, "--data", path, "--device", test_device_name(), NULL}));
    double score = score_of(runs, &arena, id, 5, "exact_match");
    assert_true(score >= 0 && score <= 1);
    assert_non_null(strstr(test_read(test_path("stderr"), NULL), "run x, step 5"));
    assert_ok(command(
        (const char *const[]){folder, "--data", text, "--run", "x", "--db", db, "--device", test_device_name(), NULL}));
    assert_true(score_of(runs, &arena, id, 5, "perplexity") > 1);
    arena_release(&arena);
    runs_close(runs);
}

static Status load_and_score(void *ctx) {
    (void)ctx;
    Evaluation e = {.questions = 2};
    Status st = evaluate(&e);
    file_unlink(test_path("out.jsonl"));
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
        TEST(test_goes_on_after_a_kill), /* forks: before anything makes threads */
        TEST(test_scores),
        TEST(test_formats_ask_the_same),
        TEST(test_gsm8k),
        TEST(test_goes_on_after_a_full_disk),
        TEST(test_goes_on_behind_a_torn_line),
        TEST(test_results_are_in_order),
        TEST(test_bad_results_files),
        TEST(test_command_with_questions),
        TEST(test_command_with_gsm8k_and_texts),
        TEST(test_command_records_scores),
        TEST(test_progress_can_stop_it),
        TEST(test_nan_weights_are_an_error),
        TEST(test_bad_files),
        TEST(test_finding_models),
        TEST(test_tokenizer_and_model_must_fit),
        TEST(test_memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
