/* Tokenizers: the ids of Python's sentencepiece, round trips, every way a model file can be wrong, training, saving,
 * memory and disk that fail. Golden files: tools/golden/tokenizer.py. */
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "text/tokenizer.h"

/* ---- helpers ---- */

static const char *golden_path(const char *name, const char *ending) {
    char text[96];
    snprintf(text, sizeof text, "golden/tokenizer/%s%s", name, ending);
    return test_data(text);
}

static Tokenizer *load(const char *path) {
    Tokenizer *tok;
    assert_ok(tokenizer_load(&tok, path));
    return tok;
}

static void assert_ids(const Tokenizer *tok, const char *text, size_t n, const int32_t *ids, size_t n_ids) {
    TokenList list = {0};
    assert_ok(tokenizer_encode(tok, text, n, &list));
    assert_int_equal(list.n, n_ids);
    if (n_ids) assert_memory_equal(list.ids, ids, n_ids * sizeof *ids);
    token_list_free(&list);
}

static void assert_decodes(const Tokenizer *tok, const int32_t *ids, size_t n_ids, const char *text, size_t n) {
    Str out = {0};
    assert_ok(tokenizer_decode(tok, ids, n_ids, &out));
    assert_int_equal(out.len, n);
    if (n) assert_memory_equal(out.text, text, n);
    str_free(&out);
}

/* Encodes and decodes; `expected` NULL: the text itself comes back. */
static void assert_round_trip(const Tokenizer *tok, const char *text, size_t n, const char *expected) {
    TokenList list = {0};
    assert_ok(tokenizer_encode(tok, text, n, &list));
    assert_decodes(tok, list.ids, list.n, expected ? expected : text, expected ? strlen(expected) : n);
    token_list_free(&list);
}

/* -19..19 times -19..19, as training text. */
typedef struct Problems {
    char text[39 * 39][40];
    const char *sentences[39 * 39 + 8];
    size_t n;
} Problems;
static Problems problems;

static void make_problems(void) {
    problems.n = 0;
    for (int a = -19; a < 20; a++) {
        for (int b = -19; b < 20; b++) {
            char *text = problems.text[problems.n];
            snprintf(text, sizeof problems.text[0], "%d*(%d)=%d", a, b, a * b);
            problems.sentences[problems.n++] = text;
        }
    }
}

static const TokenizerTrainOptions plain = {.model_type = "unigram", .vocab_size = 35, .character_coverage = 1};

/* ---- the same as Python's sentencepiece ---- */

static void from_hex(const json_t *value, Str *out) {
    const char *hex = json_string_value(value);
    out->len = 0;
    assert_ok(str_add(out, "", 0));
    for (; *hex; hex += 2) {
        unsigned byte;
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        char c = (char)byte;
        assert_ok(str_add(out, &c, 1));
    }
}

static void check_cases(const Tokenizer *tok, const json_t *cases) {
    Str text = {0}, decoded = {0};
    int32_t ids[256];
    size_t i, k;
    json_t *c, *id;
    assert_true(json_array_size(cases) > 30);
    json_array_foreach(cases, i, c) {
        from_hex(json_object_get(c, "text"), &text);
        from_hex(json_object_get(c, "decoded"), &decoded);
        json_t *list = json_object_get(c, "ids");
        assert_true(json_array_size(list) <= 256);
        json_array_foreach(list, k, id) ids[k] = (int32_t)json_integer_value(id);
        assert_ids(tok, text.text, text.len, ids, json_array_size(list));
        assert_decodes(tok, ids, json_array_size(list), decoded.text, decoded.len);
    }
    str_free(&text);
    str_free(&decoded);
}

static void check_pieces(const Tokenizer *tok, const json_t *pieces) {
    assert_int_equal(json_array_size(pieces), tokenizer_vocab_size(tok));
    for (int32_t i = 0; i < tokenizer_vocab_size(tok); i++) {
        const json_t *expected = json_array_get(pieces, (size_t)i);
        TokenPiece piece;
        assert_ok(tokenizer_piece(tok, i, &piece));
        assert_string_equal(piece.text, json_string_value(json_array_get(expected, 0)));
        assert_true(piece.score == (float)json_number_value(json_array_get(expected, 1)));
        assert_string_equal(piece.type, json_string_value(json_array_get(expected, 2)));
    }
}

static void golden_ids_texts_and_pieces(void **state) {
    (void)state;
    json_t *root, *golden;
    const char *name;
    size_t models = 0;
    assert_ok(json_read_file(golden_path("cases", ".json"), &root));
    json_object_foreach(json_object_get(root, "models"), name, golden) {
        Tokenizer *tok = load(golden_path(name, ".model"));
        const json_t *special = json_object_get(golden, "special");
        assert_int_equal(tokenizer_unk(tok), json_integer_value(json_array_get(special, 0)));
        assert_int_equal(tokenizer_bos(tok), json_integer_value(json_array_get(special, 1)));
        assert_int_equal(tokenizer_eos(tok), json_integer_value(json_array_get(special, 2)));
        assert_int_equal(tokenizer_pad(tok), json_integer_value(json_array_get(special, 3)));
        check_pieces(tok, json_object_get(golden, "pieces"));
        check_cases(tok, json_object_get(golden, "cases"));
        tokenizer_free(tok);
        models++;
    }
    assert_int_equal(models, 7);
    json_decref(root);
}

/* ---- saving ---- */

/* tokenizer.json is kept as it was when transformers gave the same ids with it. */
static void saved_files_are_those_checked_with_transformers(void **state) {
    (void)state;
    static const char *const names[] = {"unigram", "bpe", "char", "bytes", "user", "rules", "rules_bpe"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *folder = test_path("%s", names[i]);
        Tokenizer *tok = load(golden_path(names[i], ".model"));
        assert_ok(tokenizer_save(tok, folder));
        tokenizer_free(tok);
        size_t n, m;
        const char *model = test_read(test_path("%s/tokenizer.model", names[i]), &n);
        const char *original = test_read(golden_path(names[i], ".model"), &m);
        assert_int_equal(n, m);
        assert_memory_equal(model, original, n);
        assert_string_equal(test_read(test_path("%s/tokenizer.json", names[i]), NULL),
                            test_read(golden_path(names[i], ".tokenizer.json"), NULL));
    }
    json_t *config;
    const char *text;
    bool flag = true;
    assert_ok(json_read_file(test_path("char/tokenizer_config.json"), &config));
    assert_ok(json_get_string(config, "config", "tokenizer_class", &text));
    assert_string_equal(text, "PreTrainedTokenizerFast");
    assert_ok(json_get_bool(config, "config", "add_bos_token", &flag));
    assert_false(flag);
    json_decref(config);
    assert_ok(json_read_file(test_path("char/special_tokens_map.json"), &config));
    assert_ok(json_get_string(config, "special", "pad_token", &text));
    assert_string_equal(text, "<pad>");
    json_decref(config);
}

static void a_saved_folder_loads_again(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("bytes", ".model"));
    assert_ok(tokenizer_save(tok, test_path("model/folder")));
    Tokenizer *again = load(test_path("model/folder"));
    const char text[] = "def f(x): return x  # \xE7\xA8\xAE";
    TokenList list = {0};
    assert_ok(tokenizer_encode(tok, text, strlen(text), &list));
    assert_ids(again, text, strlen(text), list.ids, list.n);
    token_list_free(&list);
    tokenizer_free(again);
    tokenizer_free(tok);
}

static void folders_without_one_model(void **state) {
    (void)state;
    Tokenizer *tok = NULL;
    size_t n;
    const char *model = test_read(golden_path("char", ".model"), &n);
    assert_error(tokenizer_load(&tok, test_path("nowhere")), TANE_ENOTFOUND, "nowhere");
    assert_error(tokenizer_load(&tok, test_dir()), TANE_ENOTFOUND, "no tokenizer in this folder");
    assert_null(tok);
    test_write_bytes(test_path("a.model"), model, n);
    tokenizer_free(load(test_dir()));
    test_write_bytes(test_path("b.model"), model, n);
    assert_error(tokenizer_load(&tok, test_dir()), TANE_EINVAL, "2 .model files");
    test_write_bytes(test_path("tokenizer.model"), model, n);
    tokenizer_free(load(test_dir()));
}

/* ---- encoding and decoding ---- */

static void any_text_survives_with_byte_fallback(void **state) {
    (void)state;
    static const char *const texts[] = {"12+(-34)=-22", "\xE5\x90\xBE\xE8\xBC\xA9\xE3\x81\xAF\xE7\x8C\xAB",
                                        "\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9", "e\xCC\x81",
                                        "a\r\n\tb\x01\x02\x7f\x1b[0m", "  two  spaces  ", "\xEF\xBB\xBF bom",
                                        "</s><s><pad><unk>", "<0x41>", "if (x < 0) {\n        return \"\\n\";\n}\n",
                                        "\xEF\xBF\xBD"};
    Tokenizer *tok = load(golden_path("bytes", ".model"));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) assert_round_trip(tok, texts[i], strlen(texts[i]), NULL);
    assert_round_trip(tok, "a\0b\0", 4, NULL);
    assert_round_trip(tok, "", 0, NULL);
    for (uint32_t c = 1; c < 0x3000; c++) { /* every character of the first planes of scripts */
        char text[4] = {0};
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : 3;
        for (size_t k = n - 1, rest = c; k > 0; k--, rest >>= 6) text[k] = (char)(0x80 | (rest & 0x3F));
        text[0] = (char)(n == 1 ? c : n == 2 ? 0xC0 | c >> 6 : 0xE0 | c >> 12);
        if (c != 0x2581) assert_round_trip(tok, text, n, NULL);
    }
    tokenizer_free(tok);
}

static void invalid_utf8_becomes_the_replacement_character(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("bytes", ".model"));
    assert_round_trip(tok, "1\xFF" "2", 3, "1\xEF\xBF\xBD" "2");
    assert_round_trip(tok, "\xE3\x81", 2, "\xEF\xBF\xBD\xEF\xBF\xBD");
    assert_round_trip(tok, "\xED\xA0\x80", 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    tokenizer_free(tok);
}

static void special_pieces_in_text_stay_text(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("bytes", ".model"));
    TokenList list = {0};
    assert_ok(tokenizer_encode(tok, "<s>1</s><pad><unk>", 18, &list));
    for (size_t i = 0; i < list.n; i++) assert_true(list.ids[i] > 3);
    token_list_free(&list);
    int32_t special[] = {tokenizer_bos(tok), tokenizer_pad(tok), tokenizer_eos(tok)};
    assert_decodes(tok, special, 3, "", 0);
    tokenizer_free(tok);
}

static void lists_are_appended_to(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("char", ".model"));
    TokenList list = {0};
    Str out = {0};
    for (int i = 0; i < 100; i++) assert_ok(tokenizer_encode(tok, "1+1", 3, &list));
    assert_int_equal(list.n, 300);
    assert_int_equal(list.ids[0], list.ids[299]);
    assert_ok(str_add(&out, ">", 1));
    assert_ok(tokenizer_decode(tok, list.ids, 3, &out));
    assert_string_equal(out.text, ">1+1");
    str_free(&out);
    token_list_free(&list);
    tokenizer_free(tok);
}

/* Joining unknown characters one by one would take minutes for the last three. */
static void long_runs_of_one_character(void **state) {
    (void)state;
    enum { N = 131072 };
    static const struct {
        const char *model, *text;
        size_t ids;
    } cases[] = {{"unigram", "(", N}, {"bpe", "(", N}, {"char", "1", N},      {"bytes", "X", N},
                 {"char", "x", 1},    {"bpe", " ", 1}, {"unigram", "\xFF", 1}};
    char *text;
    assert_ok(MEM_NEW_ARRAY(&text, N));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *tok = load(golden_path(cases[i].model, ".model"));
        TokenList list = {0};
        memset(text, cases[i].text[0], N);
        assert_ok(tokenizer_encode(tok, text, N, &list));
        assert_int_equal(list.n, cases[i].ids);
        token_list_free(&list);
        tokenizer_free(tok);
    }
    mem_free(text);
}

static void ids_out_of_range(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("unigram", ".model"));
    TokenPiece piece;
    Str out = {0};
    int32_t ids[] = {5, 35}, negative = -1;
    assert_error(tokenizer_decode(tok, ids, 2, &out), TANE_EINVAL, "35 is out of range");
    assert_error(tokenizer_decode(tok, &negative, 1, &out), TANE_EINVAL, "vocabulary size 35");
    assert_error(tokenizer_piece(tok, 35, &piece), TANE_EINVAL, "35");
    assert_int_equal(out.len, 0);
    tokenizer_free(tok);
}

/* ---- broken models ---- */

/* Protobuf by hand: fields are appended to a Str. */
static void put_varint(Str *s, uint64_t value) {
    for (; value >= 0x80; value >>= 7) {
        char c = (char)(value | 0x80);
        assert_ok(str_add(s, &c, 1));
    }
    char c = (char)value;
    assert_ok(str_add(s, &c, 1));
}
static void put_bytes(Str *s, uint32_t field, const void *data, size_t n) {
    put_varint(s, field << 3 | 2);
    put_varint(s, n);
    assert_ok(str_add(s, data, n));
}
static void put_number(Str *s, uint32_t field, uint64_t value) {
    put_varint(s, field << 3);
    put_varint(s, value);
}
static void put_piece_n(Str *s, const char *text, size_t n, float score, int type) {
    Str sub = {0};
    put_bytes(&sub, 1, text, n);
    put_varint(&sub, 2 << 3 | 5);
    assert_ok(str_add(&sub, (const char *)&score, 4));
    put_number(&sub, 3, (uint64_t)type);
    put_bytes(s, 1, sub.text, sub.len);
    str_free(&sub);
}
static void put_piece(Str *s, const char *text, float score, int type) {
    put_piece_n(s, text, strlen(text), score, type);
}

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

typedef struct Spec {
    int model_type, byte_fallback;
    const void *charsmap;
    size_t n_charsmap;
} Spec;

/* Closes the model with its two specs, writes it, frees the buffer. */
static const char *write_model(Str *pieces, Spec spec) {
    Str sub = {0};
    put_number(&sub, 3, (uint64_t)spec.model_type);
    put_number(&sub, 35, (uint64_t)spec.byte_fallback);
    put_bytes(pieces, 2, sub.text, sub.len);
    sub.len = 0;
    put_number(&sub, 3, 0); /* no space in front, none removed */
    put_number(&sub, 4, 0);
    if (spec.n_charsmap) put_bytes(&sub, 2, spec.charsmap, spec.n_charsmap);
    put_bytes(pieces, 3, sub.text, sub.len);
    str_free(&sub);
    const char *path = test_write_bytes(test_path("x.model"), pieces->text, pieces->len);
    str_free(pieces);
    return path;
}

static void assert_refused(const char *path, const char *why) {
    Tokenizer *tok = NULL;
    assert_error(tokenizer_load(&tok, path), TANE_EFORMAT, why);
    assert_non_null(strstr(err_message(), path));
    assert_null(tok);
}

/* "<unk>" and "a", then one bad piece; model type 1 to 4 is unigram, BPE, word, char. */
static void assert_piece_refused(const char *text, size_t n, float score, int type, const char *why) {
    for (int model_type = 1; model_type <= 4; model_type++) {
        Str s = {0};
        put_piece(&s, "<unk>", 0, UNKNOWN);
        put_piece(&s, "a", -1, NORMAL);
        put_piece_n(&s, text, n, score, type);
        assert_refused(write_model(&s, (Spec){model_type, 0, NULL, 0}), why);
    }
}

static void a_good_model_by_hand(void **state) {
    (void)state;
    for (int model_type = 1; model_type <= 4; model_type++) {
        Str s = {0};
        put_piece(&s, "<unk>", 0, UNKNOWN);
        put_piece(&s, "a", -1, NORMAL);
        put_piece(&s, "\xE2\x96\x81", -1, NORMAL);
        Tokenizer *tok = load(write_model(&s, (Spec){model_type, 0, NULL, 0}));
        assert_int_equal(tokenizer_vocab_size(tok), 3);
        assert_int_equal(tokenizer_bos(tok), -1);
        assert_int_equal(tokenizer_eos(tok), -1);
        assert_int_equal(tokenizer_pad(tok), -1);
        tokenizer_free(tok);
    }
}

static void bad_pieces(void **state) {
    (void)state;
    char longest[8200];
    memset(longest, 'x', sizeof longest);
    assert_piece_refused("", 0, 0, NORMAL, "piece 2 is empty");
    assert_piece_refused("b\0c", 3, 0, NORMAL, "piece 2 contains a NUL");
    assert_piece_refused("b\xFF", 2, 0, NORMAL, "piece 2 is not valid UTF-8");
    assert_piece_refused("\xED\xA0\x80", 3, 0, NORMAL, "piece 2 is not valid UTF-8");
    assert_piece_refused("b", 1, NAN, NORMAL, "score of piece 2");
    assert_piece_refused("b", 1, INFINITY, NORMAL, "score of piece 2");
    assert_piece_refused("b", 1, 0, 0, "piece 2 has type 0");
    assert_piece_refused("b", 1, 0, 7, "piece 2 has type 7");
    assert_piece_refused("a", 1, 0, NORMAL, "pieces 1 and 2 are the same");
    assert_piece_refused("a", 1, 0, CONTROL, "are the same, \"a\"");
    assert_piece_refused("<unk2>", 6, 0, UNKNOWN, "2 pieces of the type \"unknown\"");
    assert_piece_refused("<0x41>", 6, 0, BYTE, "byte_fallback is off");
    assert_piece_refused("<0xGG>", 6, 0, BYTE, "byte piece 2");
    assert_piece_refused("<0x041>", 7, 0, BYTE, "byte piece 2");
    assert_piece_refused("x", 1, 0, BYTE, "byte piece 2");
    assert_piece_refused(longest, sizeof longest, 0, NORMAL, "piece 2 is 8200 bytes long");
}

static void missing_pieces(void **state) {
    (void)state;
    Str s = {0};
    assert_refused(write_model(&s, (Spec){1, 0, NULL, 0}), "no pieces");
    put_piece(&s, "a", -1, NORMAL);
    assert_refused(write_model(&s, (Spec){1, 0, NULL, 0}), "0 pieces of the type \"unknown\"");
    put_piece(&s, "<unk>", 0, UNKNOWN);
    put_piece(&s, "<s>", 0, CONTROL);
    assert_refused(write_model(&s, (Spec){1, 0, NULL, 0}), "no piece of text");
    put_piece(&s, "<unk>", 0, UNKNOWN);
    put_piece(&s, "a", -1, NORMAL);
    assert_refused(write_model(&s, (Spec){1, 1, NULL, 0}), "<0x00> is missing");
    put_piece(&s, "<unk>", 0, UNKNOWN);
    put_piece(&s, "a", -1, NORMAL);
    assert_refused(write_model(&s, (Spec){9, 0, NULL, 0}), "model type 9");
}

/* The library's matcher has room for 64 results. */
static void nested_user_defined_pieces(void **state) {
    (void)state;
    for (int depth = 64; depth <= 65; depth++) {
        Str s = {0};
        char text[80] = "";
        put_piece(&s, "<unk>", 0, UNKNOWN);
        put_piece(&s, "b", -1, NORMAL);
        for (int i = 0; i < depth; i++) {
            strcat(text, "a");
            put_piece(&s, text, 0, USER);
        }
        const char *path = write_model(&s, (Spec){1, 0, NULL, 0});
        if (depth == 65) {
            assert_refused(path, "more than 64 user-defined");
        } else {
            Tokenizer *tok = load(path);
            assert_round_trip(tok, text, strlen(text), NULL);
            tokenizer_free(tok);
        }
    }
}

/* A double array of 256 units (or fewer) and one text, "x". */
static const char *with_charsmap(const uint32_t *units, size_t n_units, uint32_t claimed, const char *text, size_t n) {
    Str map = {0}, s = {0};
    assert_ok(str_add(&map, (const char *)&claimed, 4));
    assert_ok(str_add(&map, (const char *)units, 4 * n_units));
    assert_ok(str_add(&map, text, n));
    put_piece(&s, "<unk>", 0, UNKNOWN);
    put_piece(&s, "x", -1, NORMAL);
    const char *path = write_model(&s, (Spec){1, 0, map.text, map.len});
    str_free(&map);
    return path;
}

static void broken_character_maps(void **state) {
    (void)state;
    /* Root at 0 with base 1: its child for 'a' sits at 1 ^ 'a' = 0x60. That unit: label, "has a rule", base 1 ^ ... */
    uint32_t units[256];
    for (uint32_t i = 0; i < 256; i++) units[i] = 1u << 31; /* a value: no character leads here */
    units[0] = 1u << 10;
    uint32_t child = 1 ^ 'a', good = (uint32_t)'a' | 1u << 8 | (child ^ 3u) << 10; /* base 3 */
    units[child] = good;
    units[3] = 1u << 31; /* the rule's text begins at 0 */

    Tokenizer *tok = load(with_charsmap(units, 256, 1024, "x", 2));
    assert_round_trip(tok, "aaxa", 4, "xxxx");
    tokenizer_free(tok);

    assert_refused(with_charsmap(units, 256, 1024, "x", 1), "outside its texts"); /* no NUL behind it */
    assert_refused(with_charsmap(units, 256, 2048, "x", 2), "truncated");
    assert_refused(with_charsmap(units, 256, 0xFFFFFFFF, "x", 2), "truncated");
    assert_refused(with_charsmap(units, 256, 1022, "x", 2), "truncated");
    assert_refused(with_charsmap(units, 64, 256, "x", 2), "truncated");
    assert_refused(with_charsmap(units, 0, 0, "", 0), "truncated");
    units[3] = 1u << 31 | 5;
    assert_refused(with_charsmap(units, 256, 1024, "x", 2), "outside its texts");
    units[3] = 1u << 31;
    units[child] = (uint32_t)'a' | 1u << 8 | 0x1000u << 10;
    assert_refused(with_charsmap(units, 256, 1024, "x", 2), "outside itself");
    units[child] = (uint32_t)'a' | (child ^ 1u) << 10; /* back to the root's base: "aaaa..." never ends */
    assert_refused(with_charsmap(units, 256, 1024, "x", 2), "never ends");
}

static void damaged_bytes(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"\x0A", 1},                                          /* a length that is missing */
        {"\x0A\x05\x0A\x03", 4},                              /* past the end */
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10},     /* 2^63 bytes */
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", 11}, /* a number that never ends */
        {"\x0B", 1},                                          /* a group */
        {"\x08\x01", 2},                                      /* a number where pieces belong */
        {"\x00\x00", 2},                                      /* field 0 */
        {"hello, I am not a model\n", 24},
        {"{\"model\": {\"type\": \"BPE\"}}\n", 27},
    };
    assert_refused(test_write(test_path("x.model"), ""), "empty");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(test_write_bytes(test_path("x.model"), cases[i].bytes, cases[i].n), "SentencePiece model");
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {"unigram", "char", "user", "rules"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n;
        const char *model = test_read(golden_path(names[i], ".model"), &n);
        const char *path = test_write_bytes(test_path("%s.model", names[i]), model, n);
        while (n-- > 0) {
            Tokenizer *tok = NULL;
            assert_int_equal(truncate(path, (off_t)n), 0);
            assert_int_equal(tokenizer_load(&tok, path), TANE_EFORMAT);
            assert_null(tok);
        }
    }
}

/* Random bytes changed: an error, or a tokenizer that works; never a crash (the sanitizer tier watches). */
static void damaged_models_never_crash(void **state) {
    (void)state;
    static const char *const names[] = {"unigram", "bpe", "char", "bytes", "user", "rules", "rules_bpe"};
    static const char text[] = "12+(-34) AB \xEF\xAC\x81 <sep>\xE7\xA8\xAE \xFF  x";
    Rng rng = {.key = 7};
    size_t refused = 0, accepted = 0;
    for (size_t round = 0; round < 2100; round++) {
        size_t n;
        char *model = test_read(golden_path(names[round % 7], ".model"), &n);
        for (uint64_t k = rng_below(&rng, 4) + 1; k > 0; k--)
            model[rng_below(&rng, n)] = (char)(rng_below(&rng, 2) ? rng_next(&rng) : 1u << rng_below(&rng, 8));
        Tokenizer *tok;
        /* A new file each time: writing one over again makes some file systems wait for the disk. */
        Status st = tokenizer_load(&tok, test_write_bytes(test_path("x%zu.model", round), model, n));
        if (st != TANE_OK) {
            assert_int_equal(st, TANE_EFORMAT);
            refused++;
            continue;
        }
        TokenList list = {0};
        Str out = {0};
        assert_ok(tokenizer_encode(tok, text, sizeof text - 1, &list));
        assert_ok(tokenizer_decode(tok, list.ids, list.n, &out));
        str_free(&out);
        token_list_free(&list);
        tokenizer_free(tok);
        accepted++;
    }
    assert_true(refused > 100 && accepted > 100);
}

/* ---- training ---- */

static void trained_models_give_the_text_back(void **state) {
    (void)state;
    static const char *const types[] = {"unigram", "bpe", "char"};
    make_problems();
    for (int i = 0; i < 3; i++) {
        TokenizerTrainOptions options = plain;
        options.model_type = types[i];
        assert_ok(tokenizer_train(problems.sentences, problems.n, &options, test_path("%s", types[i])));
        Tokenizer *tok = load(test_path("%s.model", types[i]));
        assert_int_equal(tokenizer_vocab_size(tok), i == 2 ? 4 + 15 : 35);
        assert_int_equal(tokenizer_unk(tok), 0);
        assert_int_equal(tokenizer_bos(tok), 1);
        assert_int_equal(tokenizer_eos(tok), 2);
        assert_int_equal(tokenizer_pad(tok), 3);
        for (size_t k = 0; k < problems.n; k += test_stride(7))
            assert_round_trip(tok, problems.sentences[k], strlen(problems.sentences[k]), NULL);
        tokenizer_free(tok);
        const char *vocab = test_read(test_path("%s.vocab", types[i]), NULL);
        assert_ptr_equal(strstr(vocab, "<unk>\t0\n<s>\t0\n</s>\t0\n<pad>\t0\n"), vocab);
    }
}

static void code_with_tabs_comes_back(void **state) {
    (void)state;
    static const char *const code[] = {"int main(void) {\n\tint a = 1;\n\t\treturn  a; \n}\n", "\tx\t", " y"};
    static const char *const types[] = {"unigram", "bpe", "char"};
    for (int i = 0; i < 6; i++) {
        TokenizerTrainOptions options = plain;
        options.model_type = types[i % 3];
        options.byte_fallback = i >= 3;
        options.vocab_size = i >= 3 ? 284 : 29;
        assert_ok(tokenizer_train(code, 3, &options, test_path("code")));
        Tokenizer *tok = load(test_path("code.model"));
        for (int k = 0; k < 3; k++) assert_round_trip(tok, code[k], strlen(code[k]), NULL);
        tokenizer_free(tok);
    }
}

static void training_is_deterministic(void **state) {
    (void)state;
    static const char *const types[] = {"unigram", "bpe", "char"};
    make_problems();
    for (int i = 0; i < 3; i++) {
        size_t n[3];
        const char *model[3];
        for (int threads = 0; threads < 3; threads++) {
            TokenizerTrainOptions options = plain;
            options.model_type = types[i];
            options.threads = threads;
            assert_ok(tokenizer_train(problems.sentences, problems.n, &options, test_path("t%d", threads)));
            model[threads] = test_read(test_path("t%d.model", threads), &n[threads]);
            assert_int_equal(n[threads], n[0]);
            assert_memory_equal(model[threads], model[0], n[0]);
        }
    }
}

static void split_digits_and_byte_fallback(void **state) {
    (void)state;
    make_problems();
    TokenizerTrainOptions options = plain;
    options.split_digits = true;
    options.byte_fallback = true;
    options.vocab_size = 4 + 256 + 17;
    assert_ok(tokenizer_train(problems.sentences, problems.n, &options, test_path("d")));
    Tokenizer *tok = load(test_path("d.model"));
    for (int32_t i = 0; i < tokenizer_vocab_size(tok); i++) {
        TokenPiece piece;
        assert_ok(tokenizer_piece(tok, i, &piece));
        bool digit = strcmp(piece.type, "normal") == 0 && strpbrk(piece.text, "0123456789");
        assert_true(!digit || strlen(piece.text) == 1);
    }
    assert_round_trip(tok, "12*(-3)=\xE7\xA8\xAE", 11, NULL);
    tokenizer_free(tok);
}

/* SentencePiece itself leaves out sentences over 4192 bytes and those with U+2585, without a word. */
static void long_and_odd_sentences_are_not_left_out(void **state) {
    (void)state;
    char *text;
    enum { N = 20000 };
    assert_ok(MEM_NEW_ARRAY(&text, N + 1));
    memset(text, 'x', N);
    memcpy(text + 15000, "yz", 2);
    memcpy(text + 4191, "\xE7\xA8\xAE", 3); /* across the place where the first chunk would end */
    const char *sentences[] = {text, "q\xE2\x96\x85r"};
    TokenizerTrainOptions options = plain;
    options.model_type = "char";
    assert_ok(tokenizer_train(sentences, 2, &options, test_path("long")));
    Tokenizer *tok = load(test_path("long.model"));
    assert_round_trip(tok, "xyz\xE7\xA8\xAEqr", 8, NULL);
    assert_int_equal(tokenizer_vocab_size(tok), 4 + 6);
    tokenizer_free(tok);
    mem_free(text);
}

static void assert_training_fails(const char *type, int64_t vocab_size, const char *why) {
    TokenizerTrainOptions options = plain;
    options.model_type = type;
    options.vocab_size = vocab_size;
    assert_error(tokenizer_train(problems.sentences, problems.n, &options, test_path("no")), TANE_EINVAL, why);
    assert_false(file_exists(test_path("no.model")));
    assert_false(file_exists(test_path("no.vocab")));
}

static void vocabulary_sizes_that_do_not_fit(void **state) {
    (void)state;
    make_problems();
    static const char *const types[] = {"unigram", "bpe", "char"};
    for (int i = 0; i < 3; i++) {
        assert_training_fails(types[i], 18, "need 19; use vocab_size=19 or more");
        assert_training_fails(types[i], 4, "vocab_size 4 is too small");
        assert_training_fails(types[i], 1 << 25, "too large; at most");
    }
    /* What the message names works, and one more does not. */
    for (int i = 0; i < 2; i++) {
        TokenizerTrainOptions options = plain;
        options.model_type = types[i];
        options.vocab_size = 1000000;
        assert_error(tokenizer_train(problems.sentences, problems.n, &options, test_path("no")), TANE_EINVAL,
                     "vocab_size 1000000 is too large for this data");
        long long most;
        assert_int_equal(sscanf(strstr(err_message(), "vocab_size="), "vocab_size=%lld", &most), 1);
        options.vocab_size = most;
        assert_ok(tokenizer_train(problems.sentences, problems.n, &options, test_path("most")));
        options.vocab_size = most + 1;
        assert_training_fails(types[i], most + 1, "too large");
    }
}

static void training_arguments_that_make_no_sense(void **state) {
    (void)state;
    make_problems();
    assert_training_fails("word", 35, "model_type \"word\"");
    TokenizerTrainOptions options = plain;
    options.character_coverage = 0.5;
    assert_error(tokenizer_train(problems.sentences, problems.n, &options, test_path("no")), TANE_EINVAL, "0.98");
    static const char *const nothing[] = {"", "", "\t\t", "\xE2\x96\x85"};
    static const char *const types[] = {"unigram", "bpe", "char"};
    for (int i = 0; i < 3; i++) {
        options = plain;
        options.model_type = types[i];
        assert_error(tokenizer_train(nothing, 4, &options, test_path("no")), TANE_EINVAL, "no text");
        assert_error(tokenizer_train(NULL, 0, &options, test_path("no")), TANE_EINVAL, "no text");
        /* Single characters only: nothing to merge. */
        static const char *const single[] = {"a", "b", "c"};
        if (i == 2) assert_ok(tokenizer_train(single, 3, &options, test_path("single")));
        else assert_error(tokenizer_train(single, 3, &options, test_path("no")), TANE_EINVAL, "at most 7");
    }
    options = plain;
    assert_error(tokenizer_train(problems.sentences, problems.n, &options, test_path("no/such/folder/x")),
                 TANE_ENOTFOUND, "no/such/folder/x");
}

/* ---- what can run out ---- */

static Status use_it(void *ctx) {
    Status st = TANE_OK;
    Tokenizer *tok = NULL;
    TokenList list = {0};
    Str out = {0};
    TRY(tokenizer_load(&tok, ctx));
    TRY(tokenizer_encode(tok, "1+(-1)\xE7\xA8\xAE\xFF", 10, &list));
    TRY(tokenizer_decode(tok, list.ids, list.n, &out));
out:
    str_free(&out);
    token_list_free(&list);
    tokenizer_free(tok);
    return st;
}

static Status save_too(void *ctx) {
    Status st = TANE_OK;
    Tokenizer *tok = NULL;
    TRY(tokenizer_load(&tok, ctx));
    TRY(tokenizer_save(tok, test_path("saved")));
out:
    tokenizer_free(tok);
    return st;
}

static void allocations_fail(void **state) {
    (void)state;
    static const char *const names[] = {"unigram", "bpe", "char", "user", "rules"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s", golden_path(names[i], ".model"));
        assert_true(test_fail_allocations(use_it, path) > 10);
    }
}

/* A handful of pieces only: every run waits for the disk. */
static void allocations_fail_in_saving(void **state) {
    (void)state;
    for (int model_type = 1; model_type <= 2; model_type++) {
        Str s = {0};
        put_piece(&s, "<unk>", 0, UNKNOWN);
        put_piece(&s, "<s>", 0, CONTROL);
        put_piece(&s, "a", -1, NORMAL);
        put_piece(&s, "aa", -2, NORMAL);
        char path[512];
        snprintf(path, sizeof path, "%s", write_model(&s, (Spec){model_type, 0, NULL, 0}));
        assert_true(test_fail_allocations(save_too, path) > 100);
    }
}

static Status train_it(void *ctx) {
    (void)ctx;
    static const char *const sentences[] = {"1+1=2", "2+1=3", "1+1+1=3"};
    TokenizerTrainOptions options = plain;
    options.model_type = "char";
    return tokenizer_train(sentences, 3, &options, test_path("small"));
}

static void allocations_fail_in_training(void **state) {
    (void)state;
    assert_true(test_fail_allocations(train_it, NULL) > 5);
}

static void old_model_is_whole(void *ctx) {
    (void)ctx;
    tokenizer_free(load(test_path("small.model")));
}

static void disk_fails_in_training(void **state) {
    (void)state;
    assert_ok(train_it(NULL));
    assert_true(test_fail_disk_calls(train_it, ENOSPC, NULL, old_model_is_whole, NULL) >= 8);
}

static Status save_it(void *ctx) { return tokenizer_save(ctx, test_path("folder")); }

static void saved_model_is_whole(void *ctx) {
    (void)ctx;
    tokenizer_free(load(test_path("folder")));
}

static void disk_fails_in_saving(void **state) {
    (void)state;
    Tokenizer *tok = load(golden_path("bpe", ".model"));
    assert_ok(save_it(tok));
    assert_true(test_fail_disk_calls(save_it, EIO, NULL, saved_model_is_whole, tok) >= 16);
    tokenizer_free(tok);
}

/* ---- the command ---- */

static Status command(const char *name, int argc, const char *const *argv) {
    for (const Command *const *c = cmd_tokenizer.sub; *c; c++)
        if (strcmp((*c)->name, name) == 0) return (*c)->run(*c, argc, (char **)argv);
    fail_msg("no subcommand %s", name);
    return TANE_EINTERNAL;
}
#define COMMAND(name, ...) \
    command(name, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static void the_command_trains_and_lists(void **state) {
    (void)state;
    static const char lines[] =
        "\xEF\xBB\xBF{\"prompt\":\"1,\",\"completion\":\"\\\"2\\\"\"}\r\n\n{\"text\":\"3\\n4\"}";
    const char *jsonl = test_write(test_path("d.jsonl"), lines);
    const char *text = test_write(test_path("d.txt"), "x\ny\n");
    const char *prefix = test_path("c"), *model = test_path("c.model"), *csv = test_path("c.csv");
    assert_ok(COMMAND("train", "--input", jsonl, text, "--model-type=char", "--vocab-size", "40", "--out", prefix));
    assert_ok(COMMAND("show", model, "--csv", csv));
    const char *list = test_read(csv, NULL);
    assert_ptr_equal(strstr(list, "id,piece,score,type\n0,<unk>,0,unknown\n"), list);
    assert_non_null(strstr(list, ",\"\"\"\","));
    assert_non_null(strstr(list, ",\",\","));
    assert_non_null(strstr(list, ",\"\n\","));
    Tokenizer *tok = load(model);
    assert_int_equal(tokenizer_vocab_size(tok), 4 + 9); /* 1 , " 2 3 newline 4 x y */
    tokenizer_free(tok);
    assert_ok(COMMAND("export", model, "--out", test_path("exported")));
    tokenizer_free(load(test_path("exported")));
}

static void the_command_names_the_bad_line(void **state) {
    (void)state;
    const char *path = test_path("bad.jsonl"), *prefix = test_path("p");
    test_write(path, "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\"}\n");
    assert_error(COMMAND("train", "--input", path, "--out", prefix), TANE_EFORMAT, "bad.jsonl:2: \"completion\"");
    test_write(path, "{\"text\":\"a\"}\n{\"txt\":\"a\"}\n");
    assert_error(COMMAND("train", "--input", path, "--out", prefix), TANE_EFORMAT, "bad.jsonl:2: no text in it");
    test_write(path, "{\"text\":\"a\"}\n\n{\"text\":");
    assert_error(COMMAND("train", "--input", path, "--out", prefix), TANE_EFORMAT, "bad.jsonl:3:");
    test_write(path, "\n\n");
    assert_error(COMMAND("train", "--input", path, "--out", prefix), TANE_EFORMAT, "no text in this file");
    assert_error(COMMAND("train", "--input", test_path("none.txt"), "--out", prefix), TANE_ENOTFOUND, "none.txt");
    assert_error(COMMAND("train", "--out", prefix), TANE_EINVAL, "--input");
    assert_error(COMMAND("train", "--input", path), TANE_EINVAL, "--out");
    assert_error(COMMAND("train", "--inptu", path), TANE_EINVAL, "input");
    const char *model = golden_path("char", ".model");
    assert_error(COMMAND("decode", model, "1", "x2"), TANE_EINVAL, "\"x2\" is not a token id");
    assert_error(COMMAND("decode", model, "99999999999"), TANE_EINVAL, "not a token id");
    assert_error(COMMAND("decode", model, "77"), TANE_EINVAL, "77 is out of range");
    assert_error(COMMAND("show", "--json"), TANE_EINVAL, "which tokenizer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(golden_ids_texts_and_pieces),
        TEST(saved_files_are_those_checked_with_transformers),
        TEST(a_saved_folder_loads_again),
        TEST(folders_without_one_model),
        TEST(any_text_survives_with_byte_fallback),
        TEST(invalid_utf8_becomes_the_replacement_character),
        TEST(special_pieces_in_text_stay_text),
        TEST(lists_are_appended_to),
        TEST(long_runs_of_one_character),
        TEST(ids_out_of_range),
        TEST(a_good_model_by_hand),
        TEST(bad_pieces),
        TEST(missing_pieces),
        TEST(nested_user_defined_pieces),
        TEST(broken_character_maps),
        TEST(damaged_bytes),
        TEST(every_truncation_is_refused),
        TEST(damaged_models_never_crash),
        TEST(trained_models_give_the_text_back),
        TEST(code_with_tabs_comes_back),
        TEST(training_is_deterministic),
        TEST(split_digits_and_byte_fallback),
        TEST(long_and_odd_sentences_are_not_left_out),
        TEST(vocabulary_sizes_that_do_not_fit),
        TEST(training_arguments_that_make_no_sense),
        TEST(allocations_fail),
        TEST(allocations_fail_in_saving),
        TEST(allocations_fail_in_training),
        TEST(disk_fails_in_training),
        TEST(disk_fails_in_saving),
        TEST(the_command_trains_and_lists),
        TEST(the_command_names_the_bad_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
