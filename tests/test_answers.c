/* What answers say: against verl's and lm-evaluation-harness's own functions on some hundred texts, and the rules'
 * edges. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "eval/answer.h"
#include "support.h"

static AnswerText text_of(const char *text) { return (AnswerText){text, strlen(text)}; }

static AnswerText member(const json_t *object, const char *key) {
    const json_t *text = json_object_get(object, key);
    assert_true(json_is_string(text));
    return (AnswerText){json_string_value(text), json_string_length(text)};
}

/* One rule on one golden case: [what it extracts or null, right or not]. */
static void check_case(const json_t *c, size_t index, AnswerRule rule, AnswerScratch *scratch, int counts[2]) {
    const json_t *expected = json_object_get(c, answer_rule_name(rule)), *text = json_array_get(expected, 0);
    AnswerText said = member(c, "said");
    Str got = {0};
    bool found, right;
    assert_int_equal(json_array_size(expected), 2);
    assert_ok(answer_extract(rule, said, &got, &found));
    assert_ok(answer_is_right(rule, said, member(c, "right"), scratch, &right));
    const char *wanted = json_is_string(text) ? json_string_value(text) : "nothing";
    if (found != json_is_string(text) || (found && strcmp(got.text, wanted) != 0) ||
        right != json_is_true(json_array_get(expected, 1)))
        fail_msg("case %zu, %s: \"%s\" says \"%s\" (%s), but \"%s\" (%s) is expected", index, answer_rule_name(rule),
                 said.text, found ? got.text : "nothing", right ? "right" : "wrong", wanted,
                 json_is_true(json_array_get(expected, 1)) ? "right" : "wrong");
    counts[right]++;
    str_free(&got);
}

static void test_as_verl_and_the_harness(void **state) {
    (void)state;
    json_t *golden;
    AnswerScratch scratch = {0};
    assert_ok(json_read_file(test_data("golden/eval/answers.json"), &golden));
    const json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) > 500);
    for (AnswerRule rule = ANSWER_GSM8K_STRICT; rule < ANSWER_RULES; rule++) {
        int counts[2] = {0};
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_case(json_array_get(cases, i), i, rule, &scratch, counts);
        assert_true(counts[0] > 50 && counts[1] > 50);
    }
    answer_scratch_free(&scratch);
    json_decref(golden);
}

/* What docs/evaluation.md shows. */
static void test_table_of_the_page(void **state) {
    (void)state;
    static const struct {
        const char *said;
        bool right[ANSWER_RULES]; /* for "#### 1,800" */
    } rows[] = {
        {"He pays 1800.\n#### 1800", {0, 1, 1, 1, 1}},
        {"#### 1,800", {1, 1, 0, 1, 1}},
        {"#### 1800.", {0, 0, 0, 1, 1}},
        {"#### $1800", {0, 0, 1, 0, 1}},
        {"The answer is 1800", {0, 0, 1, 0, 1}},
        {"The answer is $1,800.", {0, 0, 0, 0, 1}},
        {"#### 1800\n#### 7", {0, 0, 0, 1, 0}},
        {"#### 7\n#### 1800", {0, 1, 1, 0, 1}},
    };
    AnswerScratch scratch = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (AnswerRule rule = 0; rule < ANSWER_RULES; rule++) {
            bool right;
            assert_ok(answer_is_right(rule, text_of(rows[i].said), text_of("#### 1,800"), &scratch, &right));
            if (right != rows[i].right[rule])
                fail_msg("%s: \"%s\" is %s", answer_rule_name(rule), rows[i].said, right ? "right" : "wrong");
        }
    answer_scratch_free(&scratch);
}

static void test_exact_is_byte_for_byte(void **state) {
    (void)state;
    static const struct {
        const char *said, *right;
        bool same;
    } rows[] = {{"12", "12", true}, {"", "", true},   {"12", "12 ", false},
                {"12", "1", false}, {"", "1", false}, {"a", "A", false}};
    AnswerScratch scratch = {0};
    bool right;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_ok(answer_is_right(ANSWER_EXACT, text_of(rows[i].said), text_of(rows[i].right), &scratch, &right));
        assert_int_equal(right, rows[i].same);
    }
    assert_ok(answer_is_right(ANSWER_EXACT, (AnswerText){"a\0b", 3}, (AnswerText){"a\0c", 3}, &scratch, &right));
    assert_false(right);
    answer_scratch_free(&scratch);
}

/* A row whose right answer has no number: no answer to it is right, not even one with no number either. */
static void test_right_answer_without_a_number(void **state) {
    (void)state;
    AnswerScratch scratch = {0};
    for (AnswerRule rule = ANSWER_GSM8K_STRICT; rule < ANSWER_RULES; rule++) {
        bool found, right;
        assert_ok(answer_expected(rule, text_of("it is 18"), &scratch.right, &found));
        assert_false(found);
        assert_ok(answer_is_right(rule, text_of("it is 18"), text_of("it is 18"), &scratch, &right));
        assert_false(right);
        assert_ok(answer_is_right(rule, text_of(""), text_of(""), &scratch, &right));
        assert_false(right);
    }
    answer_scratch_free(&scratch);
}

/* 4 MiB of what could match anywhere: each rule passes over it once. */
static void test_long_answers_are_no_problem(void **state) {
    (void)state;
    static const char *const patterns[] = {"#### ", "-", "#### -", "1", ".", "####"};
    enum { N = 4 << 20 };
    char *text = test_room(N);
    AnswerScratch scratch = {0};
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        size_t n = strlen(patterns[p]);
        for (size_t i = 0; i < N; i++) text[i] = patterns[p][i % n];
        for (AnswerRule rule = ANSWER_GSM8K_STRICT; rule < ANSWER_RULES; rule++) {
            bool right;
            assert_ok(answer_is_right(rule, (AnswerText){text, N}, text_of("#### 5"), &scratch, &right));
            assert_false(right);
        }
    }
    answer_scratch_free(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_as_verl_and_the_harness),     TEST(test_table_of_the_page),
        TEST(test_exact_is_byte_for_byte),      TEST(test_right_answer_without_a_number),
        TEST(test_long_answers_are_no_problem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
