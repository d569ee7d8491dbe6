/* JSON: what is accepted, what each error says, numbers that survive a round trip, and running out of memory. */
#include "support.h"

#include <string.h>

#include "base/json.h"

static json_t *parse(const char *text) {
    json_t *value;
    assert_ok(json_read_text("x.json", text, strlen(text), &value));
    return value;
}

static void assert_prints(const char *text, const char *expected) {
    json_t *value = parse(text);
    Str out = {0};
    assert_ok(json_write_str(&out, value));
    assert_string_equal(out.text, expected);
    str_free(&out);
    json_decref(value);
}

static void values_are_read_and_written(void **state) {
    (void)state;
    assert_prints(" [ ] ", "[]");
    assert_prints("{}", "{}");
    assert_prints("[1,-2 ,\t0.5\r\n,true,false,null]", "[1,-2,0.5,true,false,null]");
    assert_prints("{\"b\": {\"c\": []}, \"a\": \"x\"}", "{\"b\":{\"c\":[]},\"a\":\"x\"}"); /* order is kept */
    assert_prints("9223372036854775807", "9223372036854775807");
    assert_prints("-9223372036854775808", "-9223372036854775808");
    assert_prints("\"\"", "\"\"");
}

static void strings_are_decoded(void **state) {
    (void)state;
    json_t *value = parse("\"\\u00e9\\ud83d\\ude00\\n\\t\\\\\\/\\\"\\b\\f\\r\\u0001 \xe7\xa8\xae \\u20ac\"");
    assert_string_equal(json_string_value(value),
                        "\xc3\xa9\xf0\x9f\x98\x80\n\t\\/\"\b\f\r\x01 \xe7\xa8\xae \xe2\x82\xac");
    json_decref(value);
    assert_prints("\"\\u00e9\\n\\u0001\\\"\\\\\"", "\"\xc3\xa9\\n\\u0001\\\"\\\\\"");
}

static void reals_survive(void **state) {
    (void)state;
    assert_prints("[0.1, 1e-5, 3.0, 1E2, -0.0]", "[0.1,1e-05,3.0,100.0,-0.0]");
    static const double values[] = {0.1, 1.0 / 3, 1e-5, 5e-324, 1.7976931348623157e308, 6.02214076e23, -1e-300, 2.5,
                                    1e16, 123456789.123456789, 0x1.fffffffffffffp-3};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        json_t *real = json_real(values[i]);
        Str out = {0};
        assert_ok(json_write_str(&out, real));
        json_t *back = parse(out.text);
        assert_true(json_is_real(back));
        assert_true(json_real_value(back) == values[i]);
        json_decref(back);
        json_decref(real);
        str_free(&out);
    }
}

static void errors_name_the_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "x.json: empty"},
        {" \n ", "x.json: empty"},
        {"{", "x.json:1:2: expected a key in double quotes, found the end of the text"},
        {"[1, 2", "x.json:1:6: expected ',' or ']', found the end of the text"},
        {"[1,]", "x.json:1:3: remove this comma"},
        {"{\"a\":1,}", "x.json:1:7: remove this comma"},
        {"[1 2]", "x.json:1:4: expected ',' or ']', found '2'"},
        {"[1}", "found '}'"},
        {"{\"a\":1,\n \"a\":2}", "x.json:2:2: the key \"a\" is there twice"},
        {"{\"a\" 1}", "x.json:1:6: expected ':' behind the key \"a\", found '1'"},
        {"{a: 1}", "x.json:1:2: expected a key in double quotes, found 'a'"},
        {"{'a': 1}", "expected a key in double quotes"},
        {"['x']", "x.json:1:2: text goes in double quotes"},
        {"{\"x\": NaN}", "x.json:1:7: NaN is not a JSON value"},
        {"True", "True is not a JSON value"},
        {"[,]", "expected a value, found ','"},
        {"[01]", "must not begin with 0"},
        {"[-]", "'-' without a number"},
        {"[1.]", "behind the decimal point"},
        {"[1e+]", "in the exponent"},
        {"[.5]", "found '.'"},
        {"[+1]", "found '+'"},
        {"9223372036854775808", "does not fit in 64 bits"},
        {"1e999", "too large"},
        {"[\"abc", "x.json:1:2: this string has no closing quote"},
        {"\"a\nb\"", "no closing quote on its line"},
        {"\"a\tb\"", "control character 0x09"},
        {"\"\\q\"", "unknown escape"},
        {"\"\\", "unknown escape"},
        {"\"\\u12g4\"", "four hexadecimal digits"},
        {"\"\\u0000\"", "\\u0000 is not allowed"},
        {"\"\\ud800\"", "half of a surrogate pair"},
        {"\"\\udc00\"", "half of a surrogate pair"},
        {"\"\\ud800\\u0041\"", "not a surrogate pair"},
        {"\"\xe7\xa8\xae\x80\"", "x.json:1:3: the byte 0x80 is not UTF-8"}, /* columns count characters */
        {"\"\xc0\xaf\"", "0xc0 is not UTF-8"},
        {"\"\xed\xa0\x80\"", "0xed is not UTF-8"},
        {"\"\xf4\x90\x80\x80\"", "0xf4 is not UTF-8"},
        {"\"\xe7\xa8", "0xe7 is not UTF-8"},
        {"\xff", "found the byte 0xff"},
        {"{} x", "x.json:1:4: expected nothing more behind the value, found 'x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value = (json_t *)1;
        assert_error(json_read_text("x.json", cases[i].text, strlen(cases[i].text), &value), TANE_EFORMAT,
                     cases[i].message);
        assert_null(value);
    }
}

/* transformers' tokenizer_config.json says so that there is no limit; Python's whole numbers have no bounds. */
static void a_config_may_have_numbers_beyond_64_bits(void **state) {
    (void)state;
    static const char text[] = "\xef\xbb\xbf{\"model_max_length\": 1000000000000000019884624838656, \"id\": -9223372036854775808}";
    char endless[500] = "";
    json_t *value;
    double limit;
    int64_t id;
    assert_ok(json_read_config("x", text, sizeof text - 1, &value));
    assert_ok(json_get_double(value, "x", "model_max_length", &limit));
    assert_true(limit == 1e30);
    assert_error(json_get_int(value, "x", "model_max_length", 0, INT64_MAX, &id), TANE_EFORMAT, "\"model_max_length\"");
    assert_ok(json_get_int(value, "x", "id", INT64_MIN, INT64_MAX, &id));
    assert_true(id == INT64_MIN);
    json_decref(value);
    memset(endless, '9', sizeof endless - 1);
    assert_error(json_read_config("x", endless, sizeof endless - 1, &value), TANE_EFORMAT, "is too large for a number");
}

static void a_nul_byte_is_no_end(void **state) {
    (void)state;
    json_t *value;
    assert_error(json_read_text("x", "[1]\0", 4, &value), TANE_EFORMAT, "found the byte 0x00");
    assert_error(json_read_text("x", "\"a\\\0\"", 5, &value), TANE_EFORMAT, "unknown escape");
}

static void invalid_text_is_not_written(void **state) {
    (void)state;
    Str out = {0};
    assert_error(json_write_text(&out, "abc\xff", 4), TANE_EINVAL, "\"abc\": the byte 0xff is not UTF-8");
    str_free(&out);
}

/* The format of a small table: {"name": [n, "text"], ...}. */
static Status read_table(const char *text, Str *out) {
    JsonReader r;
    Status st = TANE_OK;
    const char *key, *word;
    size_t n;
    int64_t number;
    bool more;
    json_reader_init(&r, "t", text, strlen(text));
    TRY(json_begin(&r, '{'));
    for (;;) {
        TRY(json_more(&r, '}', &more));
        if (!more) break;
        TRY(json_next_key(&r, &key, &n));
        TRY(str_printf(out, "%s/%zu ", key, n));
        TRY(json_begin(&r, '['));
        TRY(json_more(&r, ']', &more));
        if (!more) TRY(json_reader_fail(&r, "empty row"));
        TRY(json_next_int(&r, &number));
        TRY(json_more(&r, ']', &more));
        if (!more) TRY(json_reader_fail(&r, "no text"));
        TRY(json_next_text(&r, &word, &n));
        TRY(str_printf(out, "%d %s;", (int)number, word));
        TRY(json_more(&r, ']', &more));
        if (more) TRY(json_reader_fail(&r, "too long"));
    }
    TRY(json_end(&r));
out:
    json_reader_free(&r);
    return st;
}

/* What a reader that knows only some keys does: values as trees, numbers, and the rest skipped. */
static Status read_known(const char *text, double *number, json_t **tree) {
    JsonReader r;
    Status st = TANE_OK;
    const char *key;
    size_t n;
    bool more;
    json_reader_init(&r, "t", text, strlen(text));
    TRY(json_begin(&r, '{'));
    for (;;) {
        TRY(json_more(&r, '}', &more));
        if (!more) break;
        TRY(json_next_key(&r, &key, &n));
        if (strcmp(key, "number") == 0) TRY(json_next_double(&r, number));
        else if (strcmp(key, "tree") == 0) TRY(json_next_value(&r, tree));
        else TRY(json_skip(&r));
    }
    TRY(json_end(&r));
out:
    json_reader_free(&r);
    return st;
}

static void values_are_taken_whole_or_skipped(void **state) {
    (void)state;
    double number = 0;
    json_t *tree = NULL;
    assert_ok(read_known("{\"x\": {\"a\": [1, [], {}, {\"b\": \"}\"}], \"c\": null}, \"number\": -2.5e1, \"y\": [[[1]]], "
                         "\"tree\": [1, {\"a\": \"b\"}], \"z\": \"]\"}", &number, &tree));
    assert_true(number == -25);
    assert_int_equal(json_array_size(tree), 2);
    json_decref(tree);
    assert_error(read_known("{\"x\": [1, 2}", &number, &tree), TANE_EFORMAT, "t:1:12: expected ',' or ']', found '}'");
    assert_error(read_known("{\"x\": [1,]}", &number, &tree), TANE_EFORMAT, "remove this comma");
    assert_error(read_known("{\"x\": {1: 2}}", &number, &tree), TANE_EFORMAT, "expected a key in double quotes");
    assert_error(read_known("{\"x\": nul}", &number, &tree), TANE_EFORMAT, "nul is not a JSON value");
    assert_error(read_known("{\"number\": \"1\"}", &number, &tree), TANE_EFORMAT, "expected a number, found '\"'");
    assert_error(read_known("{\"tree\": [1, x]}", &number, &tree), TANE_EFORMAT, "x is not a JSON value");
    assert_null(tree);
    Str deep = {0};
    assert_ok(str_printf(&deep, "{\"x\": "));
    for (int i = 0; i < 100000; i++) assert_ok(str_add(&deep, "[", 1));
    assert_error(read_known(deep.text, &number, &tree), TANE_EFORMAT, "nested deeper than 512 levels");
    str_free(&deep);
}

static void the_reader_checks_each_step(void **state) {
    (void)state;
    Str out = {0};
    assert_ok(read_table(" {\"a\\n\" : [1 , \"x\"], \"b\":[-2,\"\"] } ", &out));
    assert_string_equal(out.text, "a\n/2 1 x;b/1 -2 ;");
    assert_ok(read_table("{}", &out));
    assert_error(read_table("[]", &out), TANE_EFORMAT, "t:1:1: expected '{', found '['");
    assert_error(read_table("", &out), TANE_EFORMAT, "expected '{', found the end of the text");
    assert_error(read_table("{\"a\":1}", &out), TANE_EFORMAT, "t:1:6: expected '[', found '1'");
    assert_error(read_table("{\"a\":[]}", &out), TANE_EFORMAT, "t:1:6: empty row");
    assert_error(read_table("{\"a\":[1.5,\"\"]}", &out), TANE_EFORMAT, "expected a whole number, found 1.5");
    assert_error(read_table("{\"a\":[\"\"]}", &out), TANE_EFORMAT, "expected a whole number, found '\"'");
    assert_error(read_table("{\"a\":[1,2]}", &out), TANE_EFORMAT, "expected text in double quotes, found '2'");
    assert_error(read_table("{\"a\":[1,\"\",]}", &out), TANE_EFORMAT, "remove this comma");
    assert_error(read_table("{\"a\":[1,\"\"]", &out), TANE_EFORMAT, "expected ',' or '}', found the end");
    assert_error(read_table("{,}", &out), TANE_EFORMAT, "expected a key in double quotes, found ','");
    assert_error(read_table("{} {}", &out), TANE_EFORMAT, "expected nothing more");
    str_free(&out);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 200000 };
    Str text = {0};
    json_t *value;
    for (int i = 0; i < DEPTH; i++) assert_ok(str_add(&text, "[", 1));
    assert_error(json_read_text("x", text.text, text.len, &value), TANE_EFORMAT, "x:1:513: nested deeper than 512");
    str_free(&text);
}

static void files_are_read_and_written(void **state) {
    (void)state;
    json_t *value;
    const char *path = test_path("a.json");
    assert_error(json_read_file(path, &value), TANE_ENOTFOUND, "a.json: cannot open it");
    test_write(path, "{\n  \"a\": oops\n}");
    assert_error(json_read_file(path, &value), TANE_EFORMAT, "a.json:2:8: oops is not a JSON value");
    test_write(path, "\xef\xbb\xbf{\"a\": [1, {\"b\": []}], \"c\": {}}");
    assert_ok(json_read_file(path, &value));
    assert_ok(json_write_file(path, value));
    json_decref(value);
    assert_string_equal(test_read(path, NULL),
                        "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}\n");
    assert_false(file_exists(test_path("a.json.tmp")));
    assert_error(json_read_file(test_dir(), &value), TANE_EIO, "it is a folder");
}

static void members_are_checked(void **state) {
    (void)state;
    json_t *o = parse("{\"i\": 7, \"r\": 2.5, \"s\": \"x\", \"t\": true, \"n\": null, \"big\": 9007199254740993}");
    int64_t i = 1;
    double r = 1;
    bool b = false;
    const char *s = "unset";

    assert_ok(json_get_int(o, "f", "i", 0, 10, &i));
    assert_int_equal(i, 7);
    assert_ok(json_get_int(o, "f", "big", INT64_MIN, INT64_MAX, &i));
    assert_true(i == 9007199254740993);
    assert_ok(json_get_double(o, "f", "r", &r));
    assert_true(r == 2.5);
    assert_ok(json_get_double(o, "f", "i", &r));
    assert_true(r == 7);
    assert_ok(json_get_bool(o, "f", "t", &b));
    assert_true(b);
    assert_ok(json_get_string(o, "f", "s", &s));
    assert_string_equal(s, "x");

    assert_error(json_get_int(o, "f", "zz", 1, 5, &i), TANE_EFORMAT,
                 "f: \"zz\" is missing; it must be a whole number from 1 to 5");
    assert_error(json_get_int(o, "f", "i", 8, 10, &i), TANE_EFORMAT,
                 "f: \"i\" is 7; it must be a whole number from 8 to 10");
    assert_error(json_get_int(o, "f", "i", 8, INT64_MAX, &i), TANE_EFORMAT, "a whole number of at least 8");
    assert_error(json_get_int(o, "f", "r", INT64_MIN, INT64_MAX, &i), TANE_EFORMAT,
                 "\"r\" is 2.5; it must be a whole number");
    assert_error(json_get_double(o, "f", "s", &r), TANE_EFORMAT, "\"s\" is \"x\"; it must be a number");
    assert_error(json_get_bool(o, "f", "i", &b), TANE_EFORMAT, "must be true or false");
    assert_error(json_get_string(o, "f", "t", &s), TANE_EFORMAT, "\"t\" is true; it must be a string");
    assert_error(json_get_string(o, "f", "n", &s), TANE_EFORMAT, "\"n\" is null");

    assert_ok(json_opt_int(o, "f", "zz", 0, 1, &i));
    assert_ok(json_opt_double(o, "f", "n", &r));
    assert_ok(json_opt_bool(o, "f", "zz", &b));
    assert_ok(json_opt_string(o, "f", "n", &s));
    assert_true(i == 9007199254740993 && r == 7 && b);
    assert_string_equal(s, "x");
    assert_error(json_opt_int(o, "f", "s", 0, 1, &i), TANE_EFORMAT, "from 0 to 1");
    assert_error(json_opt_double(o, "f", "t", &r), TANE_EFORMAT, "a number");
    assert_error(json_opt_bool(o, "f", "s", &b), TANE_EFORMAT, "true or false");
    assert_error(json_opt_string(o, "f", "i", &s), TANE_EFORMAT, "a string");
    json_decref(o);

    json_t *array = parse("[]");
    assert_error(json_get_int(array, "f", "i", 0, 1, &i), TANE_EFORMAT, "f: expected an object");
    assert_error(json_opt_int(NULL, "f", "i", 0, 1, &i), TANE_EFORMAT, "f: expected an object");
    json_decref(array);
}

static Status round_trip(void *path) {
    static const char text[] = "{\"a long key of more than sixteen characters\": [1, 2.5, \"text \\u00e9 and more and "
                               "more and more, longer than the first buffer of 64\", {\"b\": [[], null]}], "
                               "\"c\": 1, \"d\": 2, \"e\": 3, \"f\": 4, \"g\": 5, \"h\": 6, \"i\": 7, \"j\": 8}";
    json_t *value = NULL, *again = NULL;
    Status st = TANE_OK;
    TRY(json_read_text("x", text, sizeof text - 1, &value));
    TRY(json_write_file(path, value));
    TRY(json_read_file(path, &again));
out:
    if (st == TANE_OK && !json_equal(value, again)) st = FAIL(TANE_EINTERNAL, "read something else than was written");
    json_decref(value);
    json_decref(again);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = test_path("a.json");
    size_t n = test_fail_allocations(round_trip, (void *)(uintptr_t)path);
    assert_true(n > 60);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(values_are_read_and_written),
        TEST(strings_are_decoded),
        TEST(reals_survive),
        TEST(errors_name_the_place),
        TEST(a_config_may_have_numbers_beyond_64_bits),
        TEST(a_nul_byte_is_no_end),
        TEST(deep_nesting_is_refused),
        TEST(files_are_read_and_written),
        TEST(members_are_checked),
        TEST(invalid_text_is_not_written),
        TEST(the_reader_checks_each_step),
        TEST(every_allocation_may_fail),
        TEST(values_are_taken_whole_or_skipped),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
