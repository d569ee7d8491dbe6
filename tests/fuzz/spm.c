/* SentencePiece models. */
#include <assert.h>
#include <stdio.h>

#include "fuzz.h"
#include "use_tokenizer.h"

void fuzz_spm(const uint8_t *data, size_t n) {
    Tokenizer *tok;
    if (tokenizer_load(&tok, fuzz_file(data, n)) != TANE_OK) {
        assert(!tok);
        return;
    }
    fuzz_use_tokenizer(tok);
    tokenizer_free(tok);
}
