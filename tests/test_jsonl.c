/* JSON lines: what is accepted, the exact place and reason of every kind of bad file, bounded memory, and the same
 * verdict as base/json on thousands of damaged lines. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "data/jsonl.h"

/* Reads the whole file, looking for "prompt" and "n"; counts its objects. */
static Status read_all(const char *path, int64_t *rows) {
    Status st = TANE_OK;
    JsonlReader *reader;
    JsonlScratch scratch = {0};
    JsonlField fields[] = {{.key = "prompt"}, {.key = "n"}};
    JsonlLine line;
    *rows = 0;
    TRY_RETURN(jsonl_open(&reader, path));
    for (bool more;; ++*rows) {
        TRY(jsonl_next(reader, &line, fields, 2, &scratch, &more));
        if (!more) break;
        const char *text;
        size_t n;
        if (fields[0].kind == JSONL_STRING) TRY(jsonl_text(&fields[0], &scratch, &text, &n));
    }
out:
    jsonl_scratch_free(&scratch);
    jsonl_close(reader);
    return st;
}

static Status read_bytes(const char *bytes, size_t n, int64_t *rows) {
    return read_all(test_write_bytes(test_path("x.jsonl"), bytes, n), rows);
}

/* ---- what is accepted ---- */

static void assert_rows(const char *text, int64_t want) {
    int64_t rows;
    assert_ok(read_bytes(text, strlen(text), &rows));
    assert_int_equal(rows, want);
}

static void good_files_are_accepted(void **state) {
    (void)state;
    assert_rows("{}\n", 1);
    assert_rows("{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n", 2);
    assert_rows("{\"prompt\":\"a\"}", 1); /* no line end */
    assert_rows("\xef\xbb\xbf{\"prompt\":\"a\"}\n", 1); /* byte-order mark */
    assert_rows("{\"prompt\":\"a\"}\r\n{\"prompt\":\"b\"}\r\n", 2); /* CRLF */
    assert_rows("\n\n{}\n \t\r\n{}\n\n", 2); /* empty lines */
    assert_rows("  { \"a\" : [ 1 , -2.5e+3 , true , false , null , { \"b\" : [ ] } ] }  \n", 1);
    assert_rows("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":1}}\n", 1); /* the same key in different objects */
}

static void line_numbers_count_empty_lines(void **state) {
    (void)state;
    JsonlReader *reader;
    JsonlLine line;
    bool more;
    const char *path = test_write(test_path("x.jsonl"), "\n{\"n\":1}\r\n\r\n\n{\"n\":2}");
    for (int pass = 0; pass < 2; pass++) {
        assert_ok(jsonl_open(&reader, path));
        assert_ok(jsonl_line(reader, &line, &more));
        assert_int_equal(line.number, 2);
        assert_int_equal(line.n, 7);
        assert_false(line.unended);
        assert_ok(jsonl_line(reader, &line, &more));
        assert_int_equal(line.number, 5);
        assert_true(line.unended);
        assert_ok(jsonl_line(reader, &line, &more));
        assert_false(more);
        jsonl_close(reader);
    }
}

static void assert_text(const char *object, const char *want) {
    JsonlScratch scratch = {0};
    JsonlField field = {.key = "k"};
    JsonlLine line = {"x.jsonl", 1, object, strlen(object), false, 0};
    const char *text;
    size_t n;
    assert_ok(jsonl_parse(&line, &field, 1, &scratch));
    assert_int_equal(field.kind, JSONL_STRING);
    assert_ok(jsonl_text(&field, &scratch, &text, &n));
    assert_int_equal(n, strlen(want));
    assert_memory_equal(text, want, n);
    jsonl_scratch_free(&scratch);
}

static void texts_are_decoded(void **state) {
    (void)state;
    assert_text("{\"k\":\"12+(-34)=\"}", "12+(-34)=");
    assert_text("{\"k\":\"\"}", "");
    assert_text("{\"a\":1,\"k\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"z\":[]}", "\"\\/\b\f\n\r\t");
    assert_text("{\"k\":\"\\u0041\\u00e9\\u20AC\\ud83d\\ude00\"}", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_text("{\"k\":\"\xe7\xa8\xae\\n\xf0\x9f\x8c\xb1\"}", "\xe7\xa8\xae\n\xf0\x9f\x8c\xb1");
    assert_text("{\"\\u006b\":\"an escaped key\"}", "an escaped key");
    assert_text("{\"a\":{\"k\":\"inner\"},\"k\":\"outer\"}", "outer");
}

static void kinds_are_told(void **state) {
    (void)state;
    const char *object = "{\"a\":\"t\",\"b\":-1.5e3,\"c\":true,\"d\":null,\"e\":[1,2],\"f\":{\"x\":1}}";
    JsonlField fields[] = {{.key = "a"}, {.key = "b"}, {.key = "c"}, {.key = "d"},
                           {.key = "e"}, {.key = "f"}, {.key = "g"}};
    JsonlKind want[] = {JSONL_STRING, JSONL_NUMBER, JSONL_BOOL, JSONL_NULL, JSONL_ARRAY, JSONL_OBJECT, JSONL_ABSENT};
    JsonlScratch scratch = {0};
    JsonlLine line = {"x.jsonl", 1, object, strlen(object), false, 0};
    assert_ok(jsonl_parse(&line, fields, 7, &scratch));
    for (int i = 0; i < 7; i++) assert_int_equal(fields[i].kind, want[i]);
    assert_memory_equal(fields[1].text, "-1.5e3", fields[1].n);
    assert_memory_equal(fields[4].text, "[1,2]", fields[4].n);
    jsonl_scratch_free(&scratch);
}

/* ---- bad files ---- */

typedef struct BadFile {
    const char *name, *text, *says;
} BadFile;

static const BadFile bad_files[] = {
    {"empty file", "", "x.jsonl: the file is empty"},
    {"only a byte-order mark", "\xef\xbb\xbf", "x.jsonl: the file is empty"},
    {"only empty lines", "\n\r\n  \n", "x.jsonl: the file has only empty lines"},
    {"truncated in a string", "{}\n{\"prompt\":\"12+", "x.jsonl:2: the file ends in the middle of this line"},
    {"truncated behind a key", "{}\n{\"prompt\"", "x.jsonl:2: the file ends in the middle of this line"},
    {"truncated before the end", "{}\n{\"prompt\":\"a\"", "x.jsonl:2: the file ends in the middle of this line"},
    {"truncated in an escape", "{}\n{\"prompt\":\"a\\", "x.jsonl:2: the file ends in the middle of this line"},
    {"truncated in a word", "{}\n{\"prompt\":tr", "x.jsonl:2: the file ends in the middle of this line"},
    {"object over two lines", "{\"prompt\":\n\"a\"}\n", "x.jsonl:1: column 11: the line ends before a value"},
    {"line break in a string", "{\"prompt\":\"a\nb\"}\n", "x.jsonl:1: column 13: the line ends before the clos"},
    {"two objects on a line", "{} {}\n", "x.jsonl:1: column 4: expected nothing more behind the object"},
    {"a JSON array", "[{\"prompt\":\"a\"}]\n", "x.jsonl:1: column 1: found an array"},
    {"not JSON", "hello\n", "x.jsonl:1: column 1: expected an object {...}, found 'h'"},
    {"a bare text", "{}\n\"a\"\n", "x.jsonl:2: column 1: expected an object"},
    {"missing colon", "{\"a\" 1}\n", "x.jsonl:1: column 6: expected ':' behind a key, found '1'"},
    {"missing comma", "{\"a\":1 \"b\":2}\n", "x.jsonl:1: column 8: expected ',' or '}', found '\"'"},
    {"comma at the end", "{\"a\":1,}\n", "x.jsonl:1: column 7: remove this comma"},
    {"comma at the end of an array", "{\"a\":[1,]}\n", "x.jsonl:1: column 8: remove this comma"},
    {"unquoted key", "{a:1}\n", "x.jsonl:1: column 2: expected a key in double quotes"},
    {"single quotes", "{\"a\":'b'}\n", "x.jsonl:1: column 6: text goes in double quotes"},
    {"Python's None", "{\"a\":None}\n", "x.jsonl:1: column 6: expected a value, found 'N'"},
    {"NaN", "{\"a\":NaN}\n", "x.jsonl:1: column 6: expected a value"},
    {"leading zero", "{\"a\":012}\n", "x.jsonl:1: column 6: a number must not begin with 0"},
    {"no digit behind the point", "{\"a\":1.}\n", "x.jsonl:1: column 8: expected a digit behind the point"},
    {"no exponent", "{\"a\":1e}\n", "x.jsonl:1: column 8: expected a digit of the exponent"},
    {"duplicate key", "{}\n\n{\"a\":1,\"b\":2,\"a\":3}\n", "x.jsonl:3: column 14: the key \"a\" is there twice"},
    {"duplicate escaped key", "{\"a\":1,\"\\u0061\":3}\n", "x.jsonl:1: column 8: the key \"\\u0061\" is there twice"},
    {"duplicate key inside", "{\"x\":[{\"a\":1,\"a\":3}]}\n", "x.jsonl:1: column 14: the key \"a\" is there twice"},
    {"lone high surrogate", "{\"a\":\"x\\ud800\"}\n", "x.jsonl:1: column 8: \\ud800 is half of a surrogate pair"},
    {"lone low surrogate", "{\"a\":\"\\udc00\"}\n", "x.jsonl:1: column 7: \\udc00 is half of a surrogate pair"},
    {"two high surrogates", "{\"a\":\"\\ud800\\ud800\"}\n", "x.jsonl:1: column 7: \\ud800 is half"},
    {"surrogate in UTF-8", "{\"a\":\"\xed\xa0\x80\"}\n", "x.jsonl:1: column 7: the byte 0xed is not valid UTF-8"},
    {"Latin-1", "{\"a\":\"caf\xe9\"}\n", "x.jsonl:1: column 10: the byte 0xe9 is not valid UTF-8"},
    {"overlong UTF-8", "{\"a\":\"\xc0\xaf\"}\n", "x.jsonl:1: column 7: the byte 0xc0 is not valid UTF-8"},
    {"column counts characters", "{\"\xe7\xa8\xae\":\"\xe7\xa8\xae\xff\"}\n", "x.jsonl:1: column 8: the byte 0xff"},
    {"UTF-16", "\xff\xfe{", "x.jsonl:1: the file is UTF-16"},
    {"unknown escape", "{\"a\":\"\\x41\"}\n", "x.jsonl:1: column 7: unknown escape"},
    {"three hex digits", "{\"a\":\"\\u041\"}\n", "x.jsonl:1: column 7: \\u needs four hexadecimal digits"},
    {"tab in a string", "{\"a\":\"\t\"}\n", "x.jsonl:1: column 7: control character 0x09 in a string; write it as \\u"},
    {"second byte-order mark", "{}\n\xef\xbb\xbf{}\n", "x.jsonl:2: column 1: expected an object {...}, found the byte"},
};

static void bad_files_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        int64_t rows;
        const BadFile *bad = &bad_files[i];
        Status st = read_bytes(bad->text, strlen(bad->text), &rows);
        if (st != TANE_EFORMAT || !strstr(err_message(), bad->says))
            fail_msg("%s: %s \"%s\"; expected \"%s\"", bad->name, tane_status_name(st), st ? err_message() : "",
                     bad->says);
    }
}

static void a_missing_file_is_named(void **state) {
    (void)state;
    int64_t rows;
    assert_error(read_all(test_path("none.jsonl"), &rows), TANE_ENOTFOUND, "none.jsonl");
    assert_error(read_all(test_dir(), &rows), TANE_EIO, test_dir());
}

static void a_nul_byte_is_refused(void **state) {
    (void)state;
    int64_t rows;
    assert_error(read_bytes("{\"a\":\"\0\"}\n", 10, &rows), TANE_EFORMAT, "x.jsonl:1: column 7: control character");
    assert_error(read_bytes("{}\n\0\n", 5, &rows), TANE_EFORMAT, "x.jsonl:2: column 1");
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEEP = 1000000 };
    char *text = malloc(DEEP + 8);
    int64_t rows;
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', DEEP);
    assert_error(read_bytes(text, DEEP + 5, &rows), TANE_EFORMAT, "x.jsonl:1: column 134: nested deeper than 128");
    free(text);
}

static void many_siblings_are_not_deep(void **state) {
    (void)state;
    Str text = {0};
    assert_ok(str_printf(&text, "{\"a\":[0"));
    for (int i = 0; i < 500; i++) assert_ok(str_printf(&text, ",[],{}"));
    assert_ok(str_printf(&text, "]}\n"));
    assert_rows(text.text, 1);
    str_free(&text);
}

static void a_duplicate_is_found_among_many_keys(void **state) {
    (void)state;
    enum { KEYS = 2000 };
    Str text = {0};
    int64_t rows;
    for (int twice = 0; twice < 2; twice++) {
        text.len = 0;
        for (uint64_t i = 0; i < KEYS; i++)
            assert_ok(str_printf(&text, "%s\"k%d\":0", i ? "," : "{", (int)rng_permute(1, 2, KEYS, i)));
        assert_ok(str_printf(&text, twice ? ",\"k777\":1}\n" : "}\n"));
        Status st = read_bytes(text.text, text.len, &rows);
        if (twice) assert_error(st, TANE_EFORMAT, "the key \"k777\" is there twice");
        else assert_ok(st);
    }
    str_free(&text);
}

/* ---- memory ---- */

/* A file of one line with `n` times `unit` between `head` and `tail`. */
static const char *long_line(const char *head, const char *unit, size_t n, const char *tail) {
    const char *path = test_path("long.jsonl");
    FILE *f = fopen(path, "wb");
    fputs(head, f);
    for (size_t i = 0; i < n; i++) fputs(unit, f);
    fputs(tail, f);
    fclose(f);
    return path;
}

static size_t peak_of(const char *path, Status *st) {
    TestAllocator allocator = {0};
    int64_t rows;
    test_allocator_install(&allocator);
    *st = read_all(path, &rows);
    test_allocator_remove();
    assert_int_equal(allocator.live, 0);
    return allocator.peak_bytes;
}

static void a_long_line_is_refused_at_once(void **state) {
    (void)state;
    Status st;
    /* 33 MiB that are one line, in a file without any line end. */
    size_t peak = peak_of(long_line("{\"prompt\":\"", "0123456789abcdef", 33 << 16, ""), &st);
    assert_error(st, TANE_EFORMAT, "long.jsonl:1: the line is longer than 32 MiB");
    assert_true(peak < 1 << 20);
}

static void a_line_of_32_mib_fits_in_32_mib(void **state) {
    (void)state;
    Status st;
    size_t peak = peak_of(long_line("{\"prompt\":\"\\n", "0123456789abcdef", (32 << 16) - 1, "\"}\n"), &st);
    assert_int_equal(st, TANE_OK);
    assert_true(peak < (32 << 20) + 65536);
}

static void a_million_keys_are_checked_in_bounded_memory(void **state) {
    (void)state;
    Status st;
    size_t peak = peak_of(long_line("{\"a\":0", ",\"a\":1", 900000, "}\n"), &st);
    assert_error(st, TANE_EFORMAT, "the key \"a\" is there twice");
    assert_true(peak < 64 << 20);
    peak = peak_of(long_line("{\"a\":0", ",\"a\":1", 1100000, "}\n"), &st);
    assert_error(st, TANE_EFORMAT, "more than 1048576 keys are open at once");
    assert_true(peak < 64 << 20);
}

static Status read_body(void *path) {
    int64_t rows;
    return read_all(path, &rows);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = test_write(test_path("x.jsonl"), "{\"prompt\":\"a\\n\"}\n{\"prompt\":\"a longer one\\n\"}\n");
    assert_in_range(test_fail_allocations(read_body, (void *)(uintptr_t)path), 4, 100);
}

/* ---- the same verdict as base/json on damaged lines ---- */

static void damaged_lines_get_the_verdict_of_json(void **state) {
    (void)state;
    static const char sample[] =
        "{\"prompt\":\"1\\u00e9\\ud83d\\ude00\xc3\xa9\",\"n\":[1,-2.5e3,true,null],\"o\":{\"p\":{}}}";
    static const char alphabet[] = "{}[]\",:\\u0123dDeE+-.tfn \xc3\xa9\xff";
    JsonlScratch scratch = {0};
    Rng rng = {.key = 7};
    int refused = 0;
    for (int i = 0; i < test_rounds(20000); i++) {
        char text[sizeof sample];
        memcpy(text, sample, sizeof sample);
        size_t n = sizeof sample - 1;
        for (uint64_t k = rng_below(&rng, 3) + 1; k > 0; k--) {
            size_t at = rng_below(&rng, n);
            uint64_t what = rng_below(&rng, 3);
            if (what == 0) text[at] = alphabet[rng_below(&rng, sizeof alphabet - 1)];
            else if (what == 1) n = at + 1;
            else memmove(text + at, text + at + 1, n-- - at - 1);
            if (n == 0) n = 1;
        }
        JsonlLine line = {"x", 1, text, n, false, 0};
        json_t *value = NULL;
        Status mine = jsonl_parse(&line, NULL, 0, &scratch), theirs = json_read_text("x", text, n, &value);
        bool object = theirs == TANE_OK && json_is_object(value);
        /* They differ on purpose in one point: base/json refuses U+0000 and numbers beyond a double or 64 bits. */
        bool special = theirs != TANE_OK && (strstr(err_message(), "\\u0000") || strstr(err_message(), "too large") ||
                                             strstr(err_message(), "64 bits"));
        if (!special && (mine == TANE_OK) != object)
            fail_msg("%.*s: %d here, %d in base/json: %s", (int)n, text, (int)mine, (int)theirs, err_message());
        refused += mine != TANE_OK;
        json_decref(value);
    }
    assert_in_range(refused, 10000, 19900); /* the damage is real, and not total */
    jsonl_scratch_free(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(good_files_are_accepted),
        TEST(line_numbers_count_empty_lines),
        TEST(texts_are_decoded),
        TEST(kinds_are_told),
        TEST(bad_files_are_named),
        TEST(a_missing_file_is_named),
        TEST(a_nul_byte_is_refused),
        TEST(deep_nesting_is_refused),
        TEST(many_siblings_are_not_deep),
        TEST(a_duplicate_is_found_among_many_keys),
        TEST(a_long_line_is_refused_at_once),
        TEST(a_line_of_32_mib_fits_in_32_mib),
        TEST(a_million_keys_are_checked_in_bounded_memory),
        TEST(every_allocation_may_fail),
        TEST(damaged_lines_get_the_verdict_of_json),
    };
    return cmocka_run_group_tests_name("jsonl", tests, NULL, NULL);
}
