/* Messages, sharegpt and tools from a row's JSON. See row_messages.h. */
#include "data/row_messages.h"

#include <string.h>

static Status no_memory(void) { return FAIL(TANE_ENOMEM, "out of memory for a conversation"); }

/* {"role": role, "content": content}. *out is NULL when memory ran out (json_pack would then lose what it was given).
 */
static void new_message(const char *role, json_t *content, json_t **out) {
    json_t *text = json_string(role);
    *out = json_object();
    if (*out && text && content && !json_object_set(*out, "role", text) && !json_object_set(*out, "content", content)) {
        json_decref(text);
        return;
    }
    json_decref(text);
    json_decref(*out);
    *out = NULL;
}

/* ---- JSON to a tree ---- */

/* A tree takes up to 250 bytes for what is 3 bytes of text, so it is counted before it is built. */
static Status check_size(const char *key, const char *text, size_t n) {
    size_t values = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"') {
            for (i++; i < n && text[i] != '"'; i++) i += text[i] == '\\';
        } else if (text[i] == '{' || text[i] == '[' || text[i] == ',') {
            values++;
        }
    }
    if (values <= ROW_MAX_VALUES) return TANE_OK;
    return FAIL(TANE_EFORMAT, "\"%s\" has more than %d values; split the row", key, ROW_MAX_VALUES);
}

static Status read_json(const char *key, const char *text, size_t n, json_t **out) {
    TRY_RETURN(check_size(key, text, n));
    return json_read_text(key, text, n, out);
}

static const char *json_kind(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: break;
    }
    return "null";
}

/* A list that is not empty, of objects. `example`: what one element looks like. */
static Status read_objects(const JsonlField *field, const char *example, json_t **out) {
    size_t i;
    json_t *item;
    if (field->kind != JSONL_ARRAY)
        return FAIL(TANE_EFORMAT, "\"%s\" is %s, but must be a list: [%s, ...]", field->key,
                    jsonl_kind_name(field->kind), example);
    TRY_RETURN(read_json(field->key, field->text, field->n, out));
    if (!json_array_size(*out))
        return FAIL(TANE_EFORMAT, "\"%s\" is empty; give it at least one %s or remove the row", field->key, example);
    json_array_foreach(*out, i, item) {
        if (!json_is_object(item))
            return FAIL(TANE_EFORMAT, "%s[%zu] is %s, but must be %s", field->key, i, json_kind(item), example);
    }
    return TANE_OK;
}

/* A member that must be text. `hint` closes the message when it is missing. */
static Status get_text(const json_t *object, const char *list, size_t i, const char *key, const char *hint,
                       json_t **out) {
    *out = json_object_get(object, key);
    if (json_is_string(*out)) return TANE_OK;
    if (!*out) return FAIL(TANE_EFORMAT, "%s[%zu]: \"%s\" is missing; %s", list, i, key, hint);
    return FAIL(TANE_EFORMAT, "%s[%zu]: \"%s\" is %s, but must be text", list, i, key, json_kind(*out));
}

/* ---- formats ---- */

/* 0 or 1, as OpenAI has it; Parquet files may make it a float or null. */
static Status check_weight(const json_t *object, const char *list, size_t i) {
    const json_t *weight = json_object_get(object, "weight");
    const double value = json_number_value(weight);
    if (!weight || json_is_null(weight) || json_is_boolean(weight)) return TANE_OK;
    if (json_is_number(weight) && (value == 0 || value == 1)) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s[%zu]: \"weight\" must be 0 (not trained on) or 1", list, i);
}

static Status check_messages(const JsonlField *field, const json_t *messages) {
    size_t i;
    json_t *message, *role;
    json_array_foreach(messages, i, message) {
        const char *hint = json_object_get(message, "from")
                               ? "this looks like sharegpt: give the column with columns=conversations=NAME"
                               : "each message needs {\"role\": \"user\", \"content\": ...}";
        TRY_RETURN(get_text(message, field->key, i, "role", hint, &role));
        TRY_RETURN(check_weight(message, field->key, i));
    }
    return TANE_OK;
}

Status row_messages_read(const JsonlField *field, json_t **out) {
    Status st = TANE_OK;
    *out = NULL;
    TRY(read_objects(field, "{\"role\": ..., \"content\": ...}", out));
    TRY(check_messages(field, *out));
    return TANE_OK;
out:
    json_decref(*out);
    *out = NULL;
    return st;
}

/* The names that sharegpt files have for a role; NULL: none of them. */
static const char *sharegpt_role(const char *name) {
    static const struct {
        const char *name, *role;
    } roles[] = {{"human", "user"},        {"user", "user"},      {"gpt", "assistant"},   {"assistant", "assistant"},
                 {"chatgpt", "assistant"}, {"bing", "assistant"}, {"bard", "assistant"},  {"system", "system"},
                 {"tool", "tool"},         {"function", "tool"},  {"observation", "tool"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name)) return roles[i].role;
    return NULL;
}

static Status sharegpt_message(const char *list, size_t i, json_t *turn, json_t **out) {
    json_t *from, *value;
    const char *needs = "each turn needs {\"from\": \"human\", \"value\": ...}";
    const char *hint = json_object_get(turn, "role")
                           ? "this looks like messages: give the column with columns=messages=NAME"
                           : needs;
    TRY_RETURN(get_text(turn, list, i, "from", hint, &from));
    TRY_RETURN(get_text(turn, list, i, "value", needs, &value));
    const char *role = sharegpt_role(json_string_value(from));
    if (!role)
        return FAIL(TANE_EFORMAT,
                    "%s[%zu]: \"from\" is \"%.60s\", which is none of human, user, gpt, assistant, chatgpt, "
                    "bing, bard, system, tool, function, observation",
                    list, i, json_string_value(from));
    TRY_RETURN(check_weight(turn, list, i));
    json_t *weight = json_object_get(turn, "weight");
    new_message(role, value, out);
    if (!*out || (weight && json_object_set(*out, "weight", weight))) return no_memory();
    return TANE_OK;
}

Status row_sharegpt_read(const JsonlField *field, json_t **out) {
    Status st = TANE_OK;
    json_t *turns = NULL, *turn, *message = NULL;
    size_t i;
    *out = json_array();
    if (!*out) return no_memory();
    TRY(read_objects(field, "{\"from\": ..., \"value\": ...}", &turns));
    json_array_foreach(turns, i, turn) {
        TRY(sharegpt_message(field->key, i, turn, &message));
        if (json_array_append(*out, message)) TRY(no_memory());
        json_decref(message);
        message = NULL;
    }
out:
    json_decref(message);
    json_decref(turns);
    if (st == TANE_OK) return TANE_OK;
    json_decref(*out);
    *out = NULL;
    return st;
}

Status row_tools_read(const JsonlField *field, JsonlScratch *scratch, json_t **out) {
    Status st = TANE_OK;
    const char *text = field->text;
    size_t n = field->n, i;
    json_t *tool;
    *out = NULL;
    if (field->kind == JSONL_ABSENT || field->kind == JSONL_NULL) return TANE_OK;
    if (field->kind == JSONL_STRING) TRY(jsonl_text(field, scratch, &text, &n));
    if (n == 0) return TANE_OK;
    TRY(read_json(field->key, text, n, out));
    if (json_is_null(*out)) goto out;
    if (!json_is_array(*out))
        TRY(FAIL(TANE_EFORMAT, "\"%s\" is %s, but must be a list of tools, or such a list as JSON in a text",
                 field->key, json_kind(*out)));
    json_array_foreach(*out, i, tool) {
        if (!json_is_object(tool))
            TRY(FAIL(TANE_EFORMAT,
                     "%s[%zu] is %s, but must be an object: {\"type\": \"function\", \"function\": {...}}", field->key,
                     i, json_kind(tool)));
    }
    return TANE_OK;
out:
    json_decref(*out);
    *out = NULL;
    return st;
}

/* ---- messages ---- */

Status row_messages_insert(json_t *messages, size_t at, const char *role, const char *text, size_t n) {
    json_t *content = json_stringn(text, n), *message;
    new_message(role, content, &message);
    int failed = !message || json_array_insert(messages, at, message);
    json_decref(content);
    json_decref(message);
    return failed ? no_memory() : TANE_OK;
}

bool row_message_is(const json_t *message, const char *role) {
    return !strcmp(json_string_value(json_object_get(message, "role")), role);
}

bool row_messages_have_system(const json_t *messages) {
    const json_t *first = json_array_get(messages, 0);
    return first && (row_message_is(first, "system") || row_message_is(first, "developer"));
}

bool row_message_counts(const json_t *message) {
    const json_t *weight = json_object_get(message, "weight");
    return !json_is_false(weight) && !(json_is_number(weight) && json_number_value(weight) == 0);
}
