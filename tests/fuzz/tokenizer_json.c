/* tokenizer.json: what opens encodes and decodes, and written anew opens again with as many ids. */
#include <assert.h>

#include "fuzz.h"
#include "text/tokenizer_spec.h"
#include "use_tokenizer.h"

static void read_again(const Tokenizer *tok, const Str *json) {
    TokenizerSpec spec = {0};
    Tokenizer *again;
    Status st = tokenizer_spec_read_json(&spec, "written.json", json->text, json->len);
    assert(st == TANE_OK);
    st = tokenizer_from_spec(&again, &spec, "written.json");
    assert(st == TANE_OK && tokenizer_vocab_size(again) == tokenizer_vocab_size(tok));
    tokenizer_free(again);
}

void fuzz_tokenizer_json(const uint8_t *data, size_t n) {
    TokenizerSpec spec = {0};
    Tokenizer *tok;
    Str json = {0};
    if (tokenizer_spec_read_json(&spec, "fuzz.json", (const char *)data, n) != TANE_OK) return;
    if (tokenizer_from_spec(&tok, &spec, "fuzz.json") != TANE_OK) {
        assert(!tok);
        return;
    }
    fuzz_use_tokenizer(tok);
    if (tokenizer_spec_json(tokenizer_spec(tok), &json) == TANE_OK) read_again(tok, &json);
    str_free(&json);
    tokenizer_free(tok);
}
