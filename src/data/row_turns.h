/* A conversation as tokens, and which of them are the assistant's own words: what it is to learn.
 *
 * The whole conversation is rendered and cut into tokens once. Where the assistant's words are,
 *   - the template's {% generation %} blocks say, exactly as in transformers (return_assistant_tokens_mask); or, in a
 *     template without them,
 *   - the bounds of the turn: it begins where the conversation before it, rendered with the generation prompt, ends,
 * and ends where the conversation up to and with it does. Both must be beginnings of the whole text, else there is an
 *     error; only EOS may stand behind the second, as some templates (Phi-3) write it behind every conversation.
 *     Within the turn the white space behind its last special token ("<|im_end|>\n") is not trained on.
 * A token is trained on when one of its bytes is; a token without bytes goes with the byte behind it. A special token
 * that begins in front of the words (and took the space they begin with) is not theirs.
 *
 * Errors name the message but not file and line: the caller puts those in front.
 */
#ifndef DATA_ROW_TURNS_H
#define DATA_ROW_TURNS_H

#include "text/chat_tokens.h"

typedef struct TurnSpan {
    size_t from, to; /* bytes of the rendered text */
} TurnSpan;

/* Working memory of one thread. Zero-initialise. After turns_encode it holds the result. */
typedef struct Turns {
    ChatText whole, part;
    TurnSpan *spans; /* (n_spans) ascending, what is trained on */
    size_t n_spans, cap_spans;
    TokenList tokens; /* with ends */
    uint8_t *mask;    /* (tokens.n) */
    size_t cap_mask;
} Turns;
void turns_free(Turns *turns);

typedef struct TurnsInput {
    const ChatTemplate *chat;
    const Tokenizer *tokenizer;
    const json_t *messages, *tools; /* each message with a role; tools may be NULL */
    size_t added;                   /* messages in front that the row does not have, for errors */
    int64_t now;
    bool all;     /* everything is trained on */
    size_t first; /* else the assistant's messages from this one on */
    bool add_eos; /* where no special token ends the assistant's last turn, EOS does, trained on */
} TurnsInput;
Status turns_encode(Turns *turns, const TurnsInput *input);

/* Appends the tokens of the conversation with the generation prompt behind it. */
Status turns_prompt(Turns *turns, const TurnsInput *input, TokenList *out);

#endif
