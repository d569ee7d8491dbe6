/* Messages, rendered and cut into tokens. See conversation.h. */
#include "infer/conversation.h"

#include "text/chat_tokens.h"

Status conversation_begin(Conversation *c, const OpenModel *open, const char *system, const char *variables) {
    Status st = TANE_OK;
    *c = (Conversation){.open = open, .messages = json_array()};
    if (open->chat_error.code != TANE_OK) TRY(err_restore(&open->chat_error));
    if (!open->chat) {
        st = FAIL(TANE_EUNSUPPORTED, "%s has no chat template: it is a base model, or its chat_template.jinja is missing",
                  open->folder);
        goto out;
    }
    if (!c->messages) st = FAIL(TANE_ENOMEM, "out of memory for a conversation");
    if (st == TANE_OK && variables) TRY(json_read_text("chat_template_kwargs", variables, strlen(variables), &c->variables));
    if (c->variables && !json_is_object(c->variables))
        st = FAIL(TANE_EINVAL, "chat_template_kwargs must be a JSON object, such as {\"enable_thinking\": false}");
    if (st == TANE_OK && system && *system) TRY(conversation_add(c, "system", system, strlen(system)));
out:
    if (st != TANE_OK) conversation_end(c);
    return st;
}

void conversation_end(Conversation *c) {
    json_decref(c->messages);
    json_decref(c->variables);
    *c = (Conversation){0};
}

Status conversation_add(Conversation *c, const char *role, const char *text, size_t n) {
    json_t *content = json_stringn(text, n);
    if (!content) return FAIL(TANE_EINVAL, "the message is not valid UTF-8 text");
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    if (!message || json_array_append_new(c->messages, message))
        return FAIL(TANE_ENOMEM, "out of memory for a message of %zu bytes", n);
    return TANE_OK;
}

void conversation_take_back(Conversation *c) {
    size_t n = json_array_size(c->messages);
    if (n) json_array_remove(c->messages, n - 1);
}

Status conversation_prompt(const Conversation *c, TokenList *out) {
    Status st = TANE_OK;
    ChatText chat = {0};
    ChatInput input = {.messages = c->messages, .variables = c->variables, .add_generation_prompt = true};
    TRY(chat_template_render(c->open->chat, &input, &chat));
    TRY(chat_text_encode(&chat, c->open->tokenizer, false, out));
out:
    chat_text_free(&chat);
    return st;
}
