/* Chat templates: the bytes are a template, rendered with a fixed conversation; behind a NUL byte there may be another
 * conversation as JSON. Text and marks must have the same length, marks must be known ones, and a second rendering must
 * give the same. */
#include <assert.h>
#include <string.h>

#include "fuzz.h"
#include "text/chat_template.h"

static const char usual[] =
    "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"種 "
    "{{x}}\"}]},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"name\":\"f\","
    "\"arguments\":"
    "{\"a\":[1,2.5,true]}}}]},{\"role\":\"tool\",\"content\":\"<|end|>\"},{\"role\":\"assistant\",\"content\":\"so be "
    "it\"}]";

static void render(const ChatTemplate *t, const json_t *messages) {
    ChatText first = {0}, second = {0};
    ChatInput input = {.messages = messages, .tools = messages, .add_generation_prompt = true, .now = 1};
    Status st = chat_template_render(t, &input, &first);
    assert(st != TANE_EINTERNAL);
    assert(first.text.len == first.marks.len && (st == TANE_OK || first.text.len == 0));
    for (size_t i = 0; i < first.marks.len; i++) assert((first.marks.text[i] & ~(CHAT_LITERAL | CHAT_GENERATION)) == 0);
    fuzz_touch(first.text.text, first.text.len);
    if (st != TANE_OK) goto out; /* what ends at a bound takes long enough once */
    input.add_generation_prompt = false;
    input.continue_final_message = true;
    assert(chat_template_render(t, &input, &second) != TANE_EINTERNAL);
    chat_text_free(&second);
    input.add_generation_prompt = true;
    input.continue_final_message = false;
    assert(chat_template_render(t, &input, &second) == st && first.text.len == second.text.len);
    assert(!first.text.len || !memcmp(first.text.text, second.text.text, first.text.len));
out:
    chat_text_free(&first);
    chat_text_free(&second);
}

void fuzz_jinja(const uint8_t *data, size_t n) {
    const uint8_t *nul = memchr(data, 0, n);
    size_t n_source = nul ? (size_t)(nul - data) : n;
    ChatTemplate *t;
    json_t *messages;
    Status st = chat_template_new(&t, "fuzz.jinja", (const char *)data, n_source, "<s>", "</s>", NULL, NULL);
    assert(st != TANE_EINTERNAL && (st == TANE_OK) == (t != NULL));
    if (st != TANE_OK) return;
    const char *json = nul ? (const char *)nul + 1 : usual;
    if (json_read_text("fuzz.json", json, nul ? n - n_source - 1 : sizeof usual - 1, &messages) == TANE_OK) {
        render(t, messages);
        json_decref(messages);
    }
    chat_template_free(t);
}
