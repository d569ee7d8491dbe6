/* Conversations as data files have them, to messages as chat templates want them: [{"role", "content", ...}, ...].
 *
 * Errors name the message ("messages[2]") but not the file and line: the caller puts those in front.
 */
#ifndef DATA_ROW_MESSAGES_H
#define DATA_ROW_MESSAGES_H

#include "base/json.h"
#include "data/jsonl.h"

enum { ROW_MAX_VALUES = 100000 }; /* of one row's messages or tools: about 25 MiB as a tree */

/* A list of messages, each with a role and, if any, a "weight" of 0 or 1; all else in them is the template's affair.
 * *out: json_decref. */
Status row_messages_read(const JsonlField *field, json_t **out);
/* The same of [{"from": "human", "value": "..."}, ...]. */
Status row_sharegpt_read(const JsonlField *field, json_t **out);
/* A list of tools, or such a list as JSON in a text; NULL for nothing or null. */
Status row_tools_read(const JsonlField *field, JsonlScratch *scratch, json_t **out);

/* Puts a message in front or behind; the text is valid UTF-8. */
Status row_messages_insert(json_t *messages, size_t at, const char *role, const char *text, size_t n);
/* Does a message to the model itself come first ("system", "developer")? */
bool row_messages_have_system(const json_t *messages);
bool row_message_is(const json_t *message, const char *role);
/* False with "weight": 0. */
bool row_message_counts(const json_t *message);

#endif
