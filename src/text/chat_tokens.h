/* A rendered conversation as tokens: what chatting and training share, so that a model is trained on the tokens it
 * meets.
 *
 * Special tokens count where the template wrote them; one that a message spells out stays text. BOS and EOS are the
 * template's affair: nothing is added, so there is never a second BOS.
 */
#ifndef TEXT_CHAT_TOKENS_H
#define TEXT_CHAT_TOKENS_H

#include "text/chat_template.h"
#include "text/tokenizer.h"

/* Appends the ids, with `ends` their ends in the text too. Of text->marks only CHAT_LITERAL is left behind it. */
Status chat_text_encode(ChatText *text, const Tokenizer *tokenizer, bool ends, TokenList *out);

/* Is this a token that a template writes and text never becomes: <|im_end|>, </s>, ...? */
bool chat_token_special(const Tokenizer *tokenizer, int32_t id);

#endif
