/* Chat templates: a conversation as the text that a model was trained on. The template is the model's own, in Jinja; see
 * text/jinja.h for what of Jinja there is. */
#ifndef TEXT_CHAT_TEMPLATE_H
#define TEXT_CHAT_TEMPLATE_H

#include "base/json.h"

typedef struct ChatTemplate ChatTemplate;

/* From a model folder: chat_template.jinja, else chat_template.json, else tokenizer_config.json's chat_template (one
 * text, or a list of named ones of which `name` is taken; NULL: "default", and "tool_use" when there are tools), with the
 * special tokens' texts of tokenizer_config.json and special_tokens_map.json as variables (bos_token, eos_token, ...).
 * *out is NULL when the folder has no template. */
Status chat_template_load(ChatTemplate **out, const char *folder, const char *name);
/* From a text, as GGUF files hold it. `where` begins errors, which name line and column of the template. The special tokens
 * may be NULL. */
Status chat_template_new(ChatTemplate **out, const char *where, const char *source, size_t n, const char *bos_token,
                         const char *eos_token, const char *pad_token, const char *unk_token);
void chat_template_free(ChatTemplate *t); /* NULL is fine */
const char *chat_template_source(const ChatTemplate *t);
/* Has it {% generation %} blocks? Without them there is no mask of the assistant's words. */
bool chat_template_marks_generation(const ChatTemplate *t);

/* Marks of a byte of the rendered text. */
enum {
    CHAT_LITERAL = 1,   /* from the conversation (but not a usual role), the tools or the variables, not the template */
    CHAT_GENERATION = 2 /* inside {% generation %} */
};

typedef struct ChatText {
    Str text;
    Str marks; /* one byte of flags for each byte of the text */
} ChatText;
void chat_text_free(ChatText *t);

typedef struct ChatInput {
    const json_t *messages;  /* array of {"role": ..., "content": ...}; handed on as they are */
    const json_t *tools;     /* array or NULL */
    const json_t *documents; /* array or NULL */
    const json_t *variables; /* object or NULL: more variables, e.g. {"enable_thinking": false} */
    bool add_generation_prompt;
    bool continue_final_message; /* the text ends where the last message's content ends */
    int64_t now;             /* seconds since 1970 for strftime_now (in UTC); 0: the clock */
} ChatInput;

/* Appends to *out the same text as transformers' apply_chat_template(tokenize=False). What the template raises
 * (raise_exception) is TANE_EINVAL with its words; a construct that tane lacks is TANE_EUNSUPPORTED naming it. Bounded in
 * steps, depth and output. */
Status chat_template_render(const ChatTemplate *t, const ChatInput *input, ChatText *out);

#endif
