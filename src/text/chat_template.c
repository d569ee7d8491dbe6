/* Chat templates of models: where they are found, and what a conversation looks like to them. transformers decides
 * both; this file follows transformers 5.23 (tokenization_utils_base.py, utils/chat_template_utils.py). */
#include "text/chat_template.h"

#include <string.h>
#include <time.h>

#include "base/file.h"
#include "text/jinja.h"
#include "text/jinja_text.h"

typedef struct Token {
    char *name, *text;
} Token;

struct ChatTemplate {
    Arena arena;
    char *source;
    JinjaTemplate *usual, *with_tools; /* with_tools: NULL when there is none of its own */
    Token *tokens;                     /* (n_tokens) special tokens as variables */
    size_t n_tokens, cap;
};

void chat_template_free(ChatTemplate *t) {
    if (!t) return;
    jinja_free(t->usual);
    jinja_free(t->with_tools);
    arena_release(&t->arena);
    mem_free(t);
}

const char *chat_template_source(const ChatTemplate *t) { return t->source; }
bool chat_template_marks_generation(const ChatTemplate *t) { return jinja_marks_generation(t->usual); }

void chat_text_free(ChatText *t) {
    str_free(&t->text);
    str_free(&t->marks);
}

/* Sets a special token; NULL leaves things as they are. */
static Status set_token(ChatTemplate *t, const char *name, const char *text) {
    if (!text) return TANE_OK;
    for (size_t i = 0; i < t->n_tokens; i++)
        if (!strcmp(t->tokens[i].name, name)) return arena_strdup(&t->arena, &t->tokens[i].text, text);
    if (t->n_tokens == t->cap) {
        Token *tokens;
        size_t cap = t->cap ? 2 * t->cap : 8;
        TRY_RETURN(ARENA_NEW_ARRAY(&t->arena, &tokens, cap));
        if (t->n_tokens) memcpy(tokens, t->tokens, t->n_tokens * sizeof *tokens);
        t->tokens = tokens;
        t->cap = cap;
    }
    Token *token = &t->tokens[t->n_tokens];
    TRY_RETURN(arena_strdup(&t->arena, &token->name, name));
    TRY_RETURN(arena_strdup(&t->arena, &token->text, text));
    t->n_tokens++;
    return TANE_OK;
}

static Status set_source(ChatTemplate *t, const char *where, const char *source, size_t n) {
    TRY_RETURN(jinja_parse(&t->usual, where, source, n));
    TRY_RETURN(ARENA_NEW_ARRAY(&t->arena, &t->source, n + 1));
    memcpy(t->source, source, n);
    return TANE_OK;
}

Status chat_template_new(ChatTemplate **out, const char *where, const char *source, size_t n, const char *bos_token,
                         const char *eos_token, const char *pad_token, const char *unk_token) {
    ChatTemplate *t;
    Status st = TANE_OK;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&t));
    TRY(set_source(t, where, source, n));
    TRY(set_token(t, "bos_token", bos_token));
    TRY(set_token(t, "eos_token", eos_token));
    TRY(set_token(t, "pad_token", pad_token));
    TRY(set_token(t, "unk_token", unk_token));
    *out = t;
    return TANE_OK;
out:
    chat_template_free(t);
    return st;
}

/* ---- a model's folder ------------------------------------------------------------------------------------------- */

typedef struct Named {
    char *name, *where, *source;
    size_t n;
} Named;

/* The templates that a folder has. */
typedef struct Found {
    Arena arena;
    Named *items;
    size_t n, cap;
} Found;

static Status add_found(Found *f, const char *name, const char *where, const char *source, size_t n) {
    if (f->n == f->cap) {
        Named *items;
        size_t cap = f->cap ? 2 * f->cap : 4;
        TRY_RETURN(ARENA_NEW_ARRAY(&f->arena, &items, cap));
        if (f->n) memcpy(items, f->items, f->n * sizeof *items);
        f->items = items;
        f->cap = cap;
    }
    Named *item = &f->items[f->n];
    TRY_RETURN(arena_strdup(&f->arena, &item->name, name));
    TRY_RETURN(arena_strdup(&f->arena, &item->where, where));
    TRY_RETURN(ARENA_NEW_ARRAY(&f->arena, &item->source, n + 1));
    memcpy(item->source, source, n);
    item->n = n;
    f->n++;
    return TANE_OK;
}

static Status add_file(Found *f, const char *name, const char *path) {
    char *text;
    size_t n;
    TRY_RETURN(file_read(path, JINJA_MAX_SOURCE, &text, &n));
    Status st = add_found(f, name, path, text, n);
    mem_free(text);
    return st;
}

/* additional_chat_templates/NAME.jinja */
static Status find_additional(Found *f, const char *folder) {
    static const char ending[] = ".jinja";
    Status st = TANE_OK;
    char *more = NULL, *path = NULL, *name = NULL;
    DirList list = {0};
    TRY(path_join(&more, folder, "additional_chat_templates"));
    if (!dir_exists(more)) goto out;
    TRY(dir_list(more, &list));
    for (size_t i = 0; i < list.n; i++) {
        size_t n = strlen(list.names[i]), end = sizeof ending - 1;
        if (n <= end || strcmp(list.names[i] + n - end, ending)) continue;
        TRY(path_join(&path, more, list.names[i]));
        TRY(mem_strdup(&name, list.names[i]));
        name[n - end] = 0;
        TRY(add_file(f, name, path));
        mem_free(name);
        mem_free(path);
        name = path = NULL;
    }
out:
    dir_list_free(&list);
    mem_free(name);
    mem_free(path);
    mem_free(more);
    return st;
}

static Status add_json_text(Found *f, const char *where, const char *name, const json_t *text) {
    return add_found(f, name, where, json_string_value(text), json_string_length(text));
}

static Status bad_json_template(const char *where) {
    return FAIL(TANE_EFORMAT,
                "%s: \"chat_template\" is neither a text nor a list of {\"name\": ..., \"template\": ...}", where);
}

/* A text, a list of {"name", "template"}, or an object of texts by name. */
static Status add_json(Found *f, const char *path, const json_t *value) {
    Status st = TANE_OK;
    Arena names = {0};
    const char *key;
    json_t *item;
    size_t i;
    char *where;
    TRY(arena_printf(&names, &where, "%s: chat_template", path));
    if (!value || json_is_null(value)) goto out;
    if (json_is_string(value)) {
        TRY(add_json_text(f, where, "default", value));
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)(uintptr_t)value, key, item) {
            if (!json_is_string(item)) TRY(bad_json_template(path));
            TRY(arena_printf(&names, &where, "%s: chat_template \"%s\"", path, key));
            TRY(add_json_text(f, where, key, item));
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, item) {
            const json_t *name = json_object_get(item, "name"), *text = json_object_get(item, "template");
            if (!json_is_string(name) || !json_is_string(text)) TRY(bad_json_template(path));
            TRY(arena_printf(&names, &where, "%s: chat_template \"%s\"", path, json_string_value(name)));
            TRY(add_json_text(f, where, json_string_value(name), text));
        }
    } else {
        TRY(bad_json_template(path));
    }
out:
    arena_release(&names);
    return st;
}

enum { MAX_CONFIG = 64 << 20 };

/* *json is NULL when there is no such file; *path is the caller's to free. */
static Status read_optional(const char *folder, const char *name, char **path, json_t **json) {
    TRY_RETURN(path_join(path, folder, name));
    if (!file_exists(*path)) return TANE_OK;
    char *text;
    size_t n;
    TRY_RETURN(file_read(*path, MAX_CONFIG, &text, &n));
    Status st = json_read_config(*path, text, n, json);
    mem_free(text);
    TRY_RETURN(st);
    if (!json_is_object(*json)) return FAIL(TANE_EFORMAT, "%s: not an object", *path);
    return TANE_OK;
}

static Status find_templates(Found *f, const char *folder, const json_t *config, const char *config_path) {
    Status st = TANE_OK;
    char *path = NULL, *json_path = NULL;
    json_t *json = NULL;
    TRY(path_join(&path, folder, "chat_template.jinja"));
    if (file_exists(path)) TRY(add_file(f, "default", path));
    TRY(find_additional(f, folder));
    if (f->n) goto out; /* files of their own are the newer way, and win */
    TRY(read_optional(folder, "chat_template.json", &json_path, &json));
    if (json) TRY(add_json(f, json_path, json_object_get(json, "chat_template")));
    if (!f->n && config) TRY(add_json(f, config_path, json_object_get(config, "chat_template")));
out:
    json_decref(json);
    mem_free(json_path);
    mem_free(path);
    return st;
}

static const Named *find_named(const Found *f, const char *name) {
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->items[i].name, name)) return &f->items[i];
    return NULL;
}

static Status no_such_template(const Found *f, const char *folder, const char *name) {
    Str names = {0};
    Status st = TANE_OK;
    for (size_t i = 0; i < f->n && st == TANE_OK; i++)
        st = str_printf(&names, "%s\"%s\"", i ? ", " : "", f->items[i].name);
    if (st == TANE_OK)
        st = FAIL(TANE_ENOTFOUND, "%s has no chat template \"%s\"; it has %s", folder, name,
                  names.text ? names.text : "none");
    str_free(&names);
    return st;
}

/* "..._token": a text or an object with "content", as AddedToken is written. */
static Status set_tokens(ChatTemplate *t, const json_t *config) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key, value) {
        size_t n = strlen(key);
        if (n < 6 || strcmp(key + n - 6, "_token")) continue;
        if (json_is_object(value)) value = json_object_get(value, "content");
        TRY_RETURN(set_token(t, key, json_string_value(value)));
    }
    const json_t *more = json_object_get(config, "extra_special_tokens");
    if (!json_is_object(more)) more = json_object_get(config, "model_specific_special_tokens");
    json_object_foreach((json_t *)(uintptr_t)more, key, value) {
        if (json_is_object(value)) value = json_object_get(value, "content");
        TRY_RETURN(set_token(t, key, json_string_value(value)));
    }
    return TANE_OK;
}

static Status load_tokens(ChatTemplate *t, const char *folder, const json_t *config) {
    Status st = TANE_OK;
    char *path = NULL;
    json_t *map = NULL;
    if (config) TRY(set_tokens(t, config));
    if (config && json_object_get(config, "added_tokens_decoder")) goto out; /* newer, and complete */
    TRY(read_optional(folder, "special_tokens_map.json", &path, &map));
    if (map) TRY(set_tokens(t, map));
out:
    json_decref(map);
    mem_free(path);
    return st;
}

static Status choose(ChatTemplate *t, const Found *f, const char *folder, const char *name) {
    const Named *usual = find_named(f, name ? name : "default"), *tools = name ? NULL : find_named(f, "tool_use");
    if (!usual) return no_such_template(f, folder, name ? name : "default");
    TRY_RETURN(set_source(t, usual->where, usual->source, usual->n));
    return tools ? jinja_parse(&t->with_tools, tools->where, tools->source, tools->n) : TANE_OK;
}

Status chat_template_load(ChatTemplate **out, const char *folder, const char *name) {
    Status st = TANE_OK;
    ChatTemplate *t = NULL;
    Found found = {0};
    char *path = NULL;
    json_t *config = NULL;
    *out = NULL;
    TRY(read_optional(folder, "tokenizer_config.json", &path, &config));
    TRY(find_templates(&found, folder, config, path));
    if (!found.n && !name) goto out;
    TRY(MEM_NEW(&t));
    TRY(choose(t, &found, folder, name));
    TRY(load_tokens(t, folder, config));
    *out = t;
    t = NULL;
out:
    chat_template_free(t);
    json_decref(config);
    mem_free(path);
    arena_release(&found.arena);
    return st;
}

/* ---- the conversation ------------------------------------------------------------------------------------------- */

static const char CONTINUE_TAG[] = "CONTINUE_FINAL_MESSAGE_TAG ";

static Status no_memory(void) { return FAIL(TANE_ENOMEM, "out of memory while preparing the conversation"); }

static Status check_objects(const json_t *list, const char *what) {
    size_t i;
    json_t *item;
    if (!list || json_is_null(list)) return TANE_OK;
    if (!json_is_array(list)) return FAIL(TANE_EINVAL, "\"%s\" has to be a list of objects", what);
    json_array_foreach(list, i, item) {
        if (!json_is_object(item)) return FAIL(TANE_EINVAL, "%s: element %zu is no object", what, i);
    }
    return TANE_OK;
}

static Status check_input(const ChatInput *input) {
    static const char *const taken[] = {"messages", "tools", "documents", "add_generation_prompt"};
    if (!json_is_array(input->messages) || json_array_size(input->messages) == 0)
        return FAIL(TANE_EINVAL,
                    "a conversation needs at least one message: [{\"role\": \"user\", \"content\": \"...\"}]");
    TRY_RETURN(check_objects(input->messages, "messages"));
    TRY_RETURN(check_objects(input->tools, "tools"));
    TRY_RETURN(check_objects(input->documents, "documents"));
    if (input->variables && !json_is_object(input->variables))
        return FAIL(TANE_EINVAL, "variables of a chat template have to be an object: {\"name\": value}");
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (json_object_get(input->variables, taken[i]))
            return FAIL(TANE_EINVAL, "a variable of a chat template cannot be called \"%s\"", taken[i]);
    if (input->add_generation_prompt && input->continue_final_message)
        return FAIL(TANE_EINVAL,
                    "add_generation_prompt and continue_final_message exclude each other: the one begins a "
                    "new message, the other goes on with the last one");
    return TANE_OK;
}

/* Where a model's thoughts stand in a message; the first that is there counts for all. */
static json_t *find_reasoning(const json_t *message) {
    static const char *const fields[] = {"reasoning_content", "thinking", "reasoning"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        json_t *value = json_object_get(message, fields[i]);
        if (value && !json_is_null(value)) return value;
    }
    return NULL;
}

/* A message as templates are to see it: keys that are null are gone, and thoughts stand under the name that templates
 * read. *out is a new reference. */
static Status plain_message(json_t *message, json_t **out) {
    json_t *reasoning = find_reasoning(message), *value;
    const char *key;
    bool has_null = false;
    json_object_foreach(message, key, value) has_null = has_null || json_is_null(value);
    *out = json_incref(message);
    if (!has_null && !reasoning) return TANE_OK;
    json_decref(message);
    *out = json_object();
    bool bad = !*out;
    if (!bad && reasoning) bad = json_object_set(*out, "thinking", reasoning) != 0;
    json_object_foreach(message, key, value) {
        if (!json_is_null(value) && !bad) bad = json_object_set(*out, key, value) != 0;
    }
    if (!bad && reasoning) bad = json_object_set(*out, "reasoning_content", reasoning) != 0;
    if (!bad) return TANE_OK;
    json_decref(*out);
    *out = NULL;
    return no_memory();
}

static Status plain_messages(const json_t *messages, json_t **out) {
    size_t i;
    json_t *message, *plain;
    *out = json_array();
    if (!*out) return no_memory();
    json_array_foreach(messages, i, message) {
        TRY_RETURN(plain_message(message, &plain));
        if (json_array_append_new(*out, plain)) return no_memory();
    }
    return TANE_OK;
}

/* jansson's own copies leave out what they had no memory for, without a word. NULL: out of memory. */
static json_t *copy_object(const json_t *object) {
    json_t *copy = json_object(), *value;
    const char *key;
    bool bad = !copy;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) bad = bad || json_object_set(copy, key, value) != 0;
    if (!bad) return copy;
    json_decref(copy);
    return NULL;
}

static json_t *copy_list(const json_t *list) {
    json_t *copy = json_array(), *value;
    size_t i;
    bool bad = !copy;
    json_array_foreach(list, i, value) bad = bad || json_array_append(copy, value) != 0;
    if (!bad) return copy;
    json_decref(copy);
    return NULL;
}

/* text + tag, as a new value. */
static json_t *tagged(const json_t *text) {
    Str s = {0};
    json_t *out = NULL;
    if (str_add(&s, json_string_value(text), json_string_length(text)) == TANE_OK &&
        str_add(&s, CONTINUE_TAG, sizeof CONTINUE_TAG - 1) == TANE_OK)
        out = json_stringn(s.text, s.len);
    str_free(&s);
    return out;
}

/* Replaces object[key] by its text with the tag in a copy of the object: *copy. */
static Status tag_field(const json_t *object, const char *key, json_t **copy) {
    *copy = copy_object(object);
    if (!*copy || json_object_set_new(*copy, key, tagged(json_object_get(object, key)))) {
        json_decref(*copy);
        *copy = NULL;
        return no_memory();
    }
    return TANE_OK;
}

/* Puts the tag behind the last part that has a text. *text is borrowed from the original. */
static Status tag_parts(json_t *last, const json_t *content, const json_t **text) {
    for (size_t i = json_array_size(content); i-- > 0;) {
        const json_t *part = json_array_get(content, i);
        json_t *copy, *list;
        *text = json_object_get(part, "text");
        if (!json_is_string(*text)) continue;
        TRY_RETURN(tag_field(part, "text", &copy));
        list = copy_list(content);
        if (!list) {
            json_decref(copy);
            return no_memory();
        }
        if (json_array_set_new(list, i, copy)) {
            json_decref(list);
            return no_memory();
        }
        return json_object_set_new(last, "content", list) ? no_memory() : TANE_OK;
    }
    return FAIL(TANE_EINVAL, "continue_final_message: the last message has no text to go on with");
}

/* Tags the end of the last message's content; *text is what it was, a new reference. */
static Status tag_last(json_t *messages, const ChatTemplate *t, json_t **text) {
    size_t n = json_array_size(messages);
    const json_t *content = json_object_get(json_array_get(messages, n - 1), "content"), *tagged_text = content;
    json_t *last = NULL;
    Status st = TANE_OK;
    if (!content) return FAIL(TANE_EINVAL, "continue_final_message: the last message has no \"content\" to go on with");
    if (!strstr(t->source, "content"))
        return FAIL(TANE_EINVAL, "continue_final_message: the chat template never reads \"content\"");
    if (!json_is_string(content) && !json_is_array(content))
        return FAIL(TANE_EINVAL,
                    "continue_final_message: the last message's \"content\" is neither a text nor a list of parts");
    if (json_is_string(content)) {
        TRY(tag_field(json_array_get(messages, n - 1), "content", &last));
    } else {
        last = copy_object(json_array_get(messages, n - 1));
        if (!last) TRY(no_memory());
        TRY(tag_parts(last, content, &tagged_text));
    }
    *text = json_incref((json_t *)(uintptr_t)tagged_text);
    if (json_array_set(messages, n - 1, last)) TRY(no_memory());
out:
    json_decref(last);
    return st;
}

/* Cuts the text where the tag is; `from` is where this rendering begins. */
static Status cut_at_tag(ChatText *out, size_t from, const json_t *content) {
    const char *text = json_string_value(content), *rendered = out->text.text ? out->text.text + from : "";
    size_t n = json_string_length(content), length = out->text.len - from, tag_n = sizeof CONTINUE_TAG - 1,
           at = SIZE_MAX;
    size_t lead = text_space_before(text, n), tail = text_space_behind(text + lead, n - lead);
    if (n > lead + tail && !memmem(rendered, length, text + lead, n - lead - tail)) length = 0;
    for (const char *p = rendered; (p = memmem(p, length - (size_t)(p - rendered), CONTINUE_TAG, tag_n - 1)) != NULL;
         p++)
        at = (size_t)(p - rendered);
    if (at == SIZE_MAX)
        return FAIL(TANE_EINVAL,
                    "continue_final_message: the chat template changes or drops the last message, so there is no "
                    "place where it could go on");
    bool whole = length - at >= tag_n && rendered[at + tag_n - 1] == ' ';
    if (!whole) at -= text_space_behind(rendered, at); /* the template trims; so does the cut */
    out->text.len = out->marks.len = from + at;
    out->text.text[from + at] = out->marks.text[from + at] = 0;
    return TANE_OK;
}

static void restore(ChatText *out, size_t n) {
    out->text.len = out->marks.len = n;
    if (out->text.text) out->text.text[n] = 0;
    if (out->marks.text) out->marks.text[n] = 0;
}

/* A role that everybody uses is the template's word and not a user's: templates write '<|' + message.role + '|>' and mean a
 * special token. Any other role is text. */
static const char *const roles[] = {"system",      "developer", "user",        "assistant", "tool", "function",
                                    "observation", "ipython",   "environment", "model",     NULL};

/* Special tokens, then the caller's variables, then what every template gets: later ones win. */
static Status render(const ChatTemplate *t, const ChatInput *input, const json_t *messages, ChatText *out) {
    const json_t *tools = input->tools ? input->tools : json_null(), *item;
    const json_t *documents = input->documents ? input->documents : json_null();
    const json_t *generate = input->add_generation_prompt ? json_true() : json_false();
    size_t n = 0;
    const char *key;
    JinjaVariable *v;
    TRY_RETURN(MEM_NEW_ARRAY(&v, t->n_tokens + json_object_size(input->variables) + 4));
    for (size_t i = 0; i < t->n_tokens; i++)
        v[n++] = (JinjaVariable){.name = t->tokens[i].name, .text = t->tokens[i].text, .n = strlen(t->tokens[i].text)};
    json_object_foreach((json_t *)(uintptr_t)input->variables, key, item) {
        v[n++] = (JinjaVariable){.name = key, .json = item, .mark = CHAT_LITERAL};
    }
    v[n++] =
        (JinjaVariable){.name = "messages", .json = messages, .mark = CHAT_LITERAL, .key = "role", .words = roles};
    v[n++] = (JinjaVariable){.name = "tools", .json = tools, .mark = CHAT_LITERAL};
    v[n++] = (JinjaVariable){.name = "documents", .json = documents, .mark = CHAT_LITERAL};
    v[n++] = (JinjaVariable){.name = "add_generation_prompt", .json = generate};
    const JinjaTemplate *jinja = t->with_tools && !json_is_null(tools) ? t->with_tools : t->usual;
    Status st = jinja_render(jinja, v, n, input->now ? input->now : (int64_t)time(NULL), &out->text, &out->marks);
    mem_free(v);
    return st;
}

Status chat_template_render(const ChatTemplate *t, const ChatInput *input, ChatText *out) {
    Status st = TANE_OK;
    json_t *messages = NULL, *last_text = NULL;
    size_t before = out->text.len;
    TRY_RETURN(check_input(input));
    TRY(plain_messages(input->messages, &messages));
    if (input->continue_final_message) TRY(tag_last(messages, t, &last_text));
    TRY(render(t, input, messages, out));
    if (last_text) TRY(cut_at_tag(out, before, last_text));
out:
    if (st != TANE_OK) restore(out, before);
    json_decref(last_text);
    json_decref(messages);
    return st;
}
