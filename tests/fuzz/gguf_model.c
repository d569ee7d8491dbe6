/* GGUF as a model: its keys as a configuration, its tokenizer made and used. */
#include <assert.h>
#include <string.h>

#include "fuzz.h"
#include "model/gguf_config.h"
#include "model/gguf_tokenizer.h"

static void use_tokenizer(const Tokenizer *tok) {
    static const char text[] = "the <|im_end|> ab\n\xe2\x96\x81\xff 12";
    TokenList list = {0};
    Str back = {0};
    EncodeInput in = {.text = text, .n = sizeof text - 1, .parse_special = true, .add_special = true};
    if (tokenizer_encode_input(tok, &in, &list) == TANE_OK) {
        for (size_t i = 0; i < list.n; i++) assert(list.ids[i] >= 0 && list.ids[i] < tokenizer_vocab_size(tok));
        Status st = tokenizer_decode_all(tok, list.ids, list.n, true, &back);
        assert(st == TANE_OK || st == TANE_ENOMEM);
    }
    token_list_free(&list);
    str_free(&back);
}

void fuzz_gguf_model(const uint8_t *data, size_t n) {
    GgufFile *file;
    TokenizerSpec spec;
    ModelConfig config;
    Tokenizer *tok;
    json_t *json;
    if (gguf_open(&file, fuzz_file(data, n)) != TANE_OK) return;
    if (gguf_config_json(file, &json) == TANE_OK) {
        (void)model_config_read_json(&config, json, "fuzz");
        json_decref(json);
    }
    if (gguf_tokenizer_spec(file, &spec) != TANE_OK) {
        tokenizer_spec_release(&spec);
    } else if (tokenizer_from_spec(&tok, &spec, "fuzz") == TANE_OK) {
        use_tokenizer(tok);
        tokenizer_free(tok);
    }
    gguf_close(&file);
}
