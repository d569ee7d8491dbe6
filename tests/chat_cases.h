/* The conversations of tests/golden/chat/conversations.json, for the tests of chat templates. */
#ifndef TESTS_CHAT_CASES_H
#define TESTS_CHAT_CASES_H

#include "text/chat_template.h"

#define CHAT_BOS "<s>"
#define CHAT_EOS "</s>"
#define CHAT_PAD "<pad>"
#define CHAT_UNK "<unk>"
enum { CHAT_NOW = 1795352709 }; /* 2026-11-22 13:05:09 UTC, as in the scripts that made the golden values */

/* All cases; json_decref. Fails the test when the file cannot be read. */
json_t *chat_cases(void);
ChatInput chat_case_input(const json_t *c);
/* One '0' or '1' for each character of the text: inside {% generation %}. test_ memory: str_free. */
Str chat_generation_mask(const ChatText *text);
/* The first 16 digits of a text's SHA-256. */
void chat_sha16(const char *text, size_t n, char out[17]);

#endif
