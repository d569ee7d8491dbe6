/* Rendered conversations to tokens. See chat_tokens.h. */
#include "text/chat_tokens.h"

#include "text/tokenizer_kind.h"

Status chat_text_encode(ChatText *text, const Tokenizer *tokenizer, bool ends, TokenList *out) {
    for (size_t i = 0; i < text->marks.len; i++) text->marks.text[i] &= CHAT_LITERAL;
    return tokenizer_encode_input(tokenizer,
                                  &(EncodeInput){.text = text->text.text,
                                                 .n = text->text.len,
                                                 .parse_special = true,
                                                 .literal = (const uint8_t *)text->marks.text,
                                                 .want_ends = ends},
                                  out);
}

/* What stands for unknown text may be marked special too, but is text. (GPT-2 calls one token both EOS and unknown.) */
bool chat_token_special(const Tokenizer *tokenizer, int32_t id) {
    if (id == tokenizer->eos) return id >= 0;
    return id >= 0 && id < tokenizer->n_pieces && tokenizer->special[id] && id != tokenizer->unk;
}
