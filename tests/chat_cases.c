#include "chat_cases.h"

#include <openssl/sha.h>
#include <stdio.h>

#include "support.h"

json_t *chat_cases(void) {
    json_t *cases;
    assert_ok(json_read_file(test_data("golden/chat/conversations.json"), &cases));
    return cases;
}

ChatInput chat_case_input(const json_t *c) {
    return (ChatInput){.messages = json_object_get(c, "messages"),
                       .tools = json_object_get(c, "tools"),
                       .documents = json_object_get(c, "documents"),
                       .variables = json_object_get(c, "variables"),
                       .add_generation_prompt = json_is_true(json_object_get(c, "add_generation_prompt")),
                       .continue_final_message = json_is_true(json_object_get(c, "continue_final_message")),
                       .now = CHAT_NOW};
}

Str chat_generation_mask(const ChatText *text) {
    Str mask = {0};
    for (size_t i = 0; i < text->text.len; i++) {
        if (((unsigned char)text->text.text[i] & 0xC0) == 0x80) continue;
        assert_ok(str_add(&mask, text->marks.text[i] & CHAT_GENERATION ? "1" : "0", 1));
    }
    return mask;
}

void chat_sha16(const char *text, size_t n, char out[17]) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)text, n, digest);
    for (int i = 0; i < 8; i++) snprintf(out + 2 * i, 3, "%02x", digest[i]);
}
