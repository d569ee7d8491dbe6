/* The public API, used as a program outside tane would: nothing here but include/tane.h does the work. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tane.h"
#include "text/tokenizer.h"

static int progress_calls, saved_calls, plan_calls;

static void on_progress(void *user, const tane_progress *p) {
    (void)user;
    progress_calls++;
    assert_true(p->step >= 1 && p->step <= p->total_steps);
    assert_true(isfinite(p->loss) && p->limit_share > 0);
}
static void on_plan(void *user, const tane_plan *p) {
    (void)user;
    plan_calls++;
    assert_true(p->parameters > 0 && p->total > p->weights && p->limit_flops > 0);
}
static void on_saved(void *user, const char *folder, int64_t step, bool best) {
    (void)user, (void)best;
    saved_calls++;
    assert_int_equal(step, 300);
    assert_true(dir_exists(folder));
}

/* A model that knows ten answers by heart, in this test's folder. Its path. */
static const char *trained_model(void) {
    static const char *const sentences[] = {"0123456789+="};
    TokenizerTrainOptions how = {.model_type = "char", .vocab_size = 20, .character_coverage = 1.0, .threads = 1};
    char data[1024];
    size_t n = 0;
    for (int i = 0; i < 10; i++)
        n += (size_t)snprintf(data + n, sizeof data - n, "{\"prompt\":\"%d+%d=\",\"completion\":\"%d\"}\n", i, i,
                              2 * i);
    assert_ok(tokenizer_train(sentences, 1, &how, test_path("tok")));
    test_write(test_path("data.jsonl"), data);
    const struct {
        const char *key, *value;
    } options[] = {{"train_files", test_path("data.jsonl")},
                   {"tokenizer", test_path("tok.model")},
                   {"output_dir", test_path("run")},
                   {"db", test_path("runs.db")},
                   {"hidden_size", "32"},
                   {"num_hidden_layers", "2"},
                   {"num_attention_heads", "2"},
                   {"max_position_embeddings", "16"},
                   {"max_length", "16"},
                   {"per_device_train_batch_size", "10"},
                   {"device", "cpu"},
                   {"learning_rate", "0.005"},
                   {"max_steps", "300"},
                   {"save_strategy", "no"}};
    tane_run *run;
    assert_ok(tane_run_open(&run, NULL));
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        assert_ok(tane_run_set(run, options[i].key, options[i].value));
    tane_plan plan;
    assert_ok(tane_run_plan(run, &plan));
    assert_int_equal(plan.total_steps, 300);
    tane_run_result result;
    tane_run_callbacks callbacks = {.progress = on_progress, .plan = on_plan, .saved = on_saved};
    progress_calls = saved_calls = plan_calls = 0;
    assert_ok(tane_run_train(run, &callbacks, &result));
    assert_int_equal(result.step, 300);
    assert_int_equal(progress_calls, 300);
    assert_int_equal(saved_calls, 1);
    assert_int_equal(plan_calls, 1);
    assert_true(result.train_loss < 0.5);
    tane_run_close(run);
    return test_path("run");
}

static bool keep_text(void *user, size_t prompt, const char *text) {
    char(*seen)[64] = user;
    snprintf(seen[prompt], sizeof seen[prompt], "%s", text);
    return false;
}

static void train_generate_evaluate(void **state) {
    (void)state;
    tane_model *model;
    tane_session *session;
    tane_model_info info;
    const char *prompts[] = {"3+3=", "9+9=", "0+0="};
    char *answers[3], seen[3][64] = {""};
    assert_ok(tane_model_open(&model, trained_model(), "fp32", "cpu"));
    tane_model_describe(model, &info);
    assert_string_equal(info.model_type, "gpt2");
    assert_string_equal(info.compute_dtype, "fp32");
    assert_int_equal(info.layers, 2);
    assert_ok(tane_session_open(&session, model, 2, 0));
    tane_sampling sampling = tane_sampling_default();
    sampling.temperature = 0;
    sampling.max_new_tokens = 5;
    assert_ok(tane_session_generate(session, prompts, 3, &sampling, keep_text, seen, answers));
    assert_string_equal(answers[0], "6");
    assert_string_equal(answers[1], "18");
    assert_string_equal(answers[2], "0");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(answers[i], seen[i]);
        tane_free(answers[i]);
    }
    /* An error takes nothing with it: the session answers the next question. */
    const char *too_long[] = {"1+1=", "11111111111111111111111111="};
    assert_error(tane_session_generate(session, too_long, 2, &sampling, NULL, NULL, answers), TANE_EINVAL, "context");
    assert_null(answers[0]);
    assert_ok(tane_session_generate(session, prompts, 1, &sampling, NULL, NULL, answers));
    assert_string_equal(answers[0], "6");
    tane_free(answers[0]);
    int64_t right, total;
    assert_ok(tane_evaluate(model, test_path("data.jsonl"), 0, &right, &total));
    assert_int_equal(right, 10);
    assert_int_equal(total, 10);
    int32_t *ids;
    size_t count;
    char *text;
    assert_ok(tane_encode(model, "12+3=", 5, &ids, &count));
    assert_int_equal(count, 5);
    assert_ok(tane_decode(model, ids, count, &text));
    assert_string_equal(text, "12+3=");
    tane_free(ids);
    tane_free(text);
    tane_session_close(session);
    tane_model_close(model);
}

static void errors(void **state) {
    (void)state;
    tane_model *model;
    tane_run *run;
    tane_run_result result;
    assert_error(tane_model_open(&model, test_path("nothing"), NULL, "cpu"), TANE_ENOTFOUND, "nothing");
    assert_null(model);
    assert_string_equal(tane_error_message(), err_message());
    assert_error(tane_run_open(&run, test_path("nothing.yaml")), TANE_ENOTFOUND, "nothing.yaml");
    assert_ok(tane_run_open(&run, NULL));
    assert_error(tane_run_set(run, "learning_rat", "1"), TANE_EINVAL, "learning_rate");
    assert_error(tane_run_train(run, NULL, &result), TANE_EINVAL, "train_files");
    tane_run_close(run);
    tane_run_close(NULL);
    tane_model_close(NULL);
    tane_session_close(NULL);
    tane_free(NULL);
    assert_string_equal(tane_status_name(TANE_EFORMAT), "TANE_EFORMAT");
}

int main(void) {
    const struct CMUnitTest tests[] = {TEST(train_generate_evaluate), TEST(errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
