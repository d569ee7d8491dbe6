#include "row_cases.h"

#include <stdio.h>
#include <string.h>

#include "support.h"

static void add_special(json_t *added, const char *text, json_int_t id) {
    const bool takes_space = text[0] == '+';
    json_t *token = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text + takes_space,
                              "single_word", 0, "lstrip", 0, "rstrip", takes_space, "normalized", 0, "special", 1);
    assert_int_equal(json_array_append_new(added, token), 0);
}

Tokenizer *row_tokenizer(const json_t *specials, const char *eos) {
    json_t *file, *text;
    size_t i;
    Tokenizer *tok;
    assert_ok(json_read_file(test_data("golden/tokenizer_json/smollm.json"), &file));
    json_int_t size = (json_int_t)json_object_size(json_object_get(json_object_get(file, "model"), "vocab"));
    json_array_foreach(specials, i, text)
        add_special(json_object_get(file, "added_tokens"), json_string_value(text), size + (json_int_t)i);
    assert_ok(dir_make(test_path("tokenizer")));
    assert_ok(json_write_file(test_path("tokenizer/tokenizer.json"), file));
    json_decref(file);
    json_t *config = eos ? json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", eos)
                         : json_pack("{s:s}", "bos_token", "<s>");
    assert_ok(json_write_file(test_path("tokenizer/tokenizer_config.json"), config));
    json_decref(config);
    assert_ok(tokenizer_load(&tok, test_path("tokenizer")));
    return tok;
}

json_t *row_golden(const char *name) {
    char path[256];
    json_t *golden;
    snprintf(path, sizeof path, "golden/row_format/%s", name);
    assert_ok(json_read_file(test_data(path), &golden));
    return golden;
}

Row row_of(const char *text) {
    return (Row){.line = {.path = "x.jsonl", .number = 7, .text = text, .n = strlen(text)}};
}

const char *row_shown(const Tokenizer *tok, const int32_t *ids, const uint8_t *mask, size_t n) {
    static char shown[4096];
    Str s = {0};
    for (size_t at = 0, end; at < n; at = end) {
        for (end = at; end < n && mask[end] == mask[at];) end++;
        assert_ok(str_add(&s, "[", mask[at]));
        assert_ok(tokenizer_decode_all(tok, ids + at, end - at, true, &s));
        assert_ok(str_add(&s, "]", mask[at]));
    }
    snprintf(shown, sizeof shown, "%s", s.text ? s.text : "");
    str_free(&s);
    return shown;
}

char *row_case_text(const json_t *c) {
    Str s = {0};
    json_t *row = json_object();
    json_object_set(row, "messages", json_object_get(c, "messages"));
    if (json_object_get(c, "tools")) json_object_set(row, "tools", json_object_get(c, "tools"));
    assert_ok(json_write_str(&s, row));
    json_decref(row);
    while (s.len && s.text[s.len - 1] == '\n') s.text[--s.len] = 0;
    return s.text;
}

const char *row_error_words(const char *kind) {
    static const struct {
        const char *kind, *words;
    } words[] = {{"template", "x.jsonl:7: "},
                 {"first", "begins with the assistant's message"},
                 {"begin", "where the assistant's words begin cannot"},
                 {"end", "what the assistant says there"},
                 {"refuses", "without the messages from"},
                 {"no answer", "no message of the assistant's"},
                 {"empty", "mark nothing"},
                 {"which", "which block is whose"},
                 {"weights", "\"weight\": 0"},
                 {"nothing", "nothing"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(words[i].kind, kind)) return words[i].words;
    fail_msg("no such kind of error: %s", kind);
    return NULL;
}
