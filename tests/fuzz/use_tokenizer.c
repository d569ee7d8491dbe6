/* Everything that can be asked of a tokenizer, for the targets that make one. */
#include "use_tokenizer.h"

#include <assert.h>
#include <string.h>

#include "fuzz.h"

static const char text[] = "Hello, w\xC3\xB6rld! It's 123 <s>x</s> \xE2\x96\x81\xE5\x90\xBE\xE8\xBC\xA9 "
                           "e\xCC\x81\xCC\xA3 \xF0\x9F\x99\x82\r\n\t  "
                           "a\xFF\xE2\x82 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa<|end|>";

static void decode(const Tokenizer *tok, const TokenList *list) {
    Str out = {0};
    for (int special = 0; special < 2; special++)
        if (tokenizer_decode_all(tok, list->ids, list->n, special, &out) == TANE_OK) fuzz_touch(out.text, out.len);
    str_free(&out);
}

static void encode(const Tokenizer *tok, EncodeInput input) {
    TokenList list = {0};
    if (tokenizer_encode_input(tok, &input, &list) == TANE_OK) {
        for (size_t i = 0; i < list.n; i++) {
            assert(list.ids[i] >= 0 && list.ids[i] < tokenizer_vocab_size(tok));
            assert(!input.want_ends || list.ends[i] <= input.n);
        }
        decode(tok, &list);
    }
    token_list_free(&list);
}

void fuzz_use_tokenizer(const Tokenizer *tok) {
    uint8_t literal[sizeof text] = {0};
    TokenPiece piece;
    memset(literal + 10, 1, 30);
    for (int32_t id = 0; id < tokenizer_vocab_size(tok); id += 1 + id / 64) {
        assert(tokenizer_piece(tok, id, &piece) == TANE_OK);
        fuzz_touch(piece.text, strlen(piece.text) + 1);
        assert(strcmp(piece.type, "unused") == 0 || tokenizer_find(tok, piece.text, strlen(piece.text)) >= 0);
    }
    encode(tok, (EncodeInput){.text = text, .n = sizeof text - 1});
    encode(tok, (EncodeInput){.text = text, .n = sizeof text - 1, .parse_special = true, .add_special = true});
    encode(tok, (EncodeInput){text, sizeof text - 1, true, literal, true, true});
    encode(tok, (EncodeInput){.text = "", .n = 0, .add_special = true, .want_ends = true});
}
