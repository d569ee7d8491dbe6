/* Streaming text: characters in pieces, stop strings across tokens, blanks in front, against the whole text. */
#include <string.h>

#include "infer/stream.h"
#include "support.h"

static Tokenizer *make_tokenizer(const char *type, int64_t vocab, bool dummy_prefix, bool bytes) {
    static const char *const sentences[] = {"the cat sat on the mat", "a cat and a dog", "the end of it",
                                            "stop here now, please"};
    TokenizerTrainOptions options = {.model_type = type, .vocab_size = vocab, .character_coverage = 1, .threads = 1,
                                     .add_dummy_prefix = dummy_prefix, .byte_fallback = bytes};
    Tokenizer *tok;
    assert_ok(tokenizer_train(sentences, 4, &options, test_path("t")));
    assert_ok(tokenizer_load(&tok, test_path("t.model")));
    return tok;
}

/* Feeds text token by token; what came out, in `out`, and how many pieces were not empty. */
static int stream(const Tokenizer *tok, const char *prompt, const char *answer, const char *const *stops,
                  size_t n_stops, Str *out, bool *stopped) {
    TokenList p = {0}, a = {0};
    TextStream s;
    const char *piece, *all;
    size_t n;
    int pieces = 0;
    assert_ok(tokenizer_encode(tok, prompt, strlen(prompt), &p));
    assert_ok(tokenizer_encode(tok, answer, strlen(answer), &a));
    assert_ok(text_stream_begin(&s, tok, p.ids, p.n, stops, n_stops));
    for (size_t i = 1; i <= a.n; i++) {
        assert_ok(text_stream_feed(&s, a.ids, i, i == a.n, &piece, &n));
        assert_ok(str_add(out, piece, n));
        pieces += n > 0;
    }
    *stopped = s.stopped;
    all = text_stream_answer(&s, &n);
    assert_int_equal(n, out->len);
    assert_memory_equal(all, out->text, n);
    text_stream_free(&s);
    token_list_free(&p);
    token_list_free(&a);
    return pieces;
}

static void check(const Tokenizer *tok, const char *prompt, const char *answer, const char *const *stops,
                  size_t n_stops, const char *expected, bool expected_stop) {
    Str out = {0};
    bool stopped;
    stream(tok, prompt, answer, stops, n_stops, &out, &stopped);
    assert_string_equal(out.text ? out.text : "", expected);
    assert_int_equal(stopped, expected_stop);
    str_free(&out);
}

static void test_text_comes_whole(void **state) {
    (void)state;
    Tokenizer *tok = make_tokenizer("char", 40, false, false);
    Str out = {0};
    bool stopped;
    assert_true(stream(tok, "the cat", " sat on the mat", NULL, 0, &out, &stopped) > 5); /* not all at the end */
    assert_string_equal(out.text, " sat on the mat");
    check(tok, "", "a cat", NULL, 0, "a cat", false);
    check(tok, "the cat sat on the mat", "", NULL, 0, "", false);
    str_free(&out);
    tokenizer_free(tok);
}

static void test_the_blank_in_front_stays(void **state) {
    (void)state;
    /* With a dummy prefix, " sat" encodes to a piece whose blank a decoder drops at the beginning of a text. */
    Tokenizer *tok = make_tokenizer("unigram", 26, true, false);
    check(tok, "the cat", "sat on the mat", NULL, 0, " sat on the mat", false);
    tokenizer_free(tok);
}

static void test_stop_strings(void **state) {
    (void)state;
    Tokenizer *tok = make_tokenizer("char", 40, false, false);
    const char *stops[] = {"sat on", "mat", "no such"};
    check(tok, "the cat", " sat on the mat", stops, 3, " ", true);
    check(tok, "the cat", " sat at the mat", stops, 3, " sat at the ", true); /* began twice, came once */
    check(tok, "the cat", " sat o", stops, 3, " sat o", false);               /* unfinished at the end: shown */
    check(tok, "the mat", " is sat", stops, 3, " is sat", false);             /* the prompt's own does not count */
    const char *across[] = {"aat"};
    check(tok, "", "aaat", across, 1, "a", true); /* the false start overlaps the real one */
    check(tok, "", "aaaa", across, 1, "aaaa", false);
    tokenizer_free(tok);
}

static void test_characters_in_pieces(void **state) {
    (void)state;
    /* Characters that the vocabulary lacks are encoded byte by byte. */
    Tokenizer *tok = make_tokenizer("bpe", 300, false, true);
    Str out = {0};
    bool stopped;
    const char *text = "a \xe7\xa8\xae \xf0\x9f\x8c\xb1 dog";
    stream(tok, "the", text, NULL, 0, &out, &stopped);
    assert_string_equal(out.text, text);
    str_free(&out);
    const char *stops[] = {"\xf0\x9f\x8c\xb1"};
    check(tok, "the", text, stops, 1, "a \xe7\xa8\xae ", true);
    tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_text_comes_whole),
        TEST(test_the_blank_in_front_stays),
        TEST(test_stop_strings),
        TEST(test_characters_in_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
