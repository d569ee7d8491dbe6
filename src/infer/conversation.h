/* A conversation with a model through its chat template: what was said so far, and the tokens of the next prompt.
 *
 * A special token that a user spells out stays text: only the template's own are parsed. BOS is the template's affair, so
 * there is never a second one.
 */
#ifndef INFER_CONVERSATION_H
#define INFER_CONVERSATION_H

#include "infer/open.h"

typedef struct Conversation {
    const OpenModel *open;
    json_t *messages, *variables;
} Conversation;

/* TANE_EUNSUPPORTED when the model has no chat template. system may be NULL. variables: a JSON object with more variables
 * for the template, e.g. {"enable_thinking": false}; NULL: none. */
Status conversation_begin(Conversation *c, const OpenModel *open, const char *system, const char *variables);
void conversation_end(Conversation *c); /* zeroed is fine */

/* "user", "assistant", ...; text is copied and must be UTF-8. */
Status conversation_add(Conversation *c, const char *role, const char *text, size_t n);
/* Takes the last message back: one that could not be answered. */
void conversation_take_back(Conversation *c);

/* Appends the tokens of everything said and of the beginning of the assistant's turn. */
Status conversation_prompt(const Conversation *c, TokenList *out);

#endif
