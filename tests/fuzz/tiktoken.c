/* tiktoken's ranks. */
#include <assert.h>

#include "fuzz.h"
#include "text/tokenizer_spec.h"
#include "use_tokenizer.h"

void fuzz_tiktoken(const uint8_t *data, size_t n) {
    TokenizerSpec spec = {0};
    Tokenizer *tok;
    AddedToken special = {.id = 100000, .content = {"<|end|>", 7}, .special = true};
    if (tokenizer_spec_read_tiktoken(&spec, "fuzz.tiktoken", (const char *)data, n, n % 2 ? NULL : "\\p{L}+|\\s",
                                     &special, 1) != TANE_OK)
        return;
    if (tokenizer_from_spec(&tok, &spec, "fuzz.tiktoken") != TANE_OK) {
        assert(!tok);
        return;
    }
    fuzz_use_tokenizer(tok);
    tokenizer_free(tok);
}
