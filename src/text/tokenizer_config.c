/* Reading and writing the small files beside a tokenizer.
 *
 * What transformers 5 does with them is done here: a special token that is named is special; add_bos_token and
 * add_eos_token, where they are written, replace what tokenizer.json's post_processor says.
 */
#include "text/tokenizer_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_SMALL_FILE = 64 << 20 };

/* ---- files ---- */

void tokenizer_files_free(TokenizerFiles *files) {
    for (size_t i = 0; i < files->n; i++) mem_free(files->items[i].bytes);
    files->n = 0;
}

const TokenizerFile *tokenizer_files_find(const TokenizerFiles *files, const char *name) {
    for (size_t i = 0; i < files->n; i++)
        if (strcmp(files->items[i].name, name) == 0) return &files->items[i];
    return NULL;
}

Status tokenizer_files_add(TokenizerFiles *files, const char *name, char *bytes, size_t n) {
    if (files->n == TOKENIZER_MAX_FILES) {
        mem_free(bytes);
        return FAIL(TANE_EINTERNAL, "a tokenizer of more than %d files", TOKENIZER_MAX_FILES);
    }
    files->items[files->n++] = (TokenizerFile){name, bytes, n};
    return TANE_OK;
}

Status tokenizer_files_write(const TokenizerFiles *files, const char *folder) {
    for (size_t i = 0; i < files->n; i++) {
        char *path;
        TRY_RETURN(path_join(&path, folder, files->items[i].name));
        Status st = file_write_atomic(path, files->items[i].bytes, files->items[i].n);
        mem_free(path);
        TRY_RETURN(st);
    }
    return TANE_OK;
}

/* Reads a file if it is there, and keeps it. *root may be NULL: then it is not looked at. */
static Status take_file(TokenizerConfig *config, TokenizerFiles *files, const char *folder, const char *name,
                        json_t **root) {
    Status st = TANE_OK;
    char *path, *bytes = NULL;
    size_t n;
    TRY_RETURN(path_join(&path, folder, name));
    if (!file_exists(path)) goto out;
    TRY(file_read(path, MAX_SMALL_FILE, &bytes, &n));
    if (root) TRY(json_read_config(path, bytes, n, root));
    st = tokenizer_files_add(files, name, bytes, n);
    bytes = NULL;
    if (st == TANE_OK) st = arena_strdup(&config->arena, &config->where, path);
out:
    mem_free(bytes);
    mem_free(path);
    return st;
}

/* ---- reading ---- */

static Status wrong(const TokenizerConfig *config, const char *key, const char *wanted) {
    return FAIL(TANE_EFORMAT, "%s: \"%s\" must be %s", config->where, key, wanted);
}

/* A token is a text or an object with the text in "content"; null is none. */
static Status token_text(TokenizerConfig *config, const json_t *object, const char *key, const char **out) {
    const json_t *value = json_object_get(object, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    else if (json_is_null(value) || !value) return TANE_OK;
    if (!json_is_string(value)) return wrong(config, key, "a text, or an object with the text in \"content\"");
    if (*out) return TANE_OK; /* tokenizer_config.json comes first */
    return arena_strdup(&config->arena, (char **)(uintptr_t)out, json_string_value(value));
}

static Status token_texts(TokenizerConfig *config, const json_t *object) {
    TRY_RETURN(token_text(config, object, "bos_token", &config->bos));
    TRY_RETURN(token_text(config, object, "eos_token", &config->eos));
    TRY_RETURN(token_text(config, object, "pad_token", &config->pad));
    return token_text(config, object, "unk_token", &config->unk);
}

static Status get_switch(const TokenizerConfig *config, const json_t *object, const char *key, int *out) {
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value)) return TANE_OK;
    if (!json_is_boolean(value)) return wrong(config, key, "true or false");
    *out = json_is_true(value);
    return TANE_OK;
}

/* The template of the name "default", or the only one. */
static Status get_template(TokenizerConfig *config, const json_t *object) {
    const json_t *value = json_object_get(object, "chat_template"), *named;
    size_t i;
    json_array_foreach(value, i, named) {
        const char *name = json_string_value(json_object_get(named, "name"));
        if (name && strcmp(name, "default") == 0) value = json_object_get(named, "template");
    }
    if (!json_is_string(value)) return TANE_OK;
    return arena_strdup(&config->arena, (char **)(uintptr_t)&config->chat_template, json_string_value(value));
}

static int compare_added(const void *a, const void *b) {
    const AddedToken *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static Status add_token(TokenizerConfig *config, const char *text, int32_t id, const json_t *flags) {
    char *copy;
    TRY_RETURN(arena_strdup(&config->arena, &copy, text));
    AddedToken *token = &config->added[config->n_added++];
    *token = (AddedToken){.id = id, .content = {copy, strlen(copy)}, .special = true};
    TRY_RETURN(json_opt_bool(flags, config->where, "special", &token->special));
    TRY_RETURN(json_opt_bool(flags, config->where, "lstrip", &token->lstrip));
    TRY_RETURN(json_opt_bool(flags, config->where, "rstrip", &token->rstrip));
    TRY_RETURN(json_opt_bool(flags, config->where, "single_word", &token->single_word));
    token->normalized = !token->special;
    return json_opt_bool(flags, config->where, "normalized", &token->normalized);
}

static Status bad_id(const TokenizerConfig *config, const char *list, const char *id) {
    return FAIL(TANE_EFORMAT, "%s: \"%s\" has the id %.40s; ids are whole numbers from 0", config->where, list, id);
}

/* added_tokens_decoder: {"32000": {"content": "<pad>", "special": true, ...}}. */
static Status list_decoder(TokenizerConfig *config, json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        if (errno || *end || end == key || id < 0 || id >= INT32_MAX)
            return bad_id(config, "added_tokens_decoder", key);
        const char *text = json_string_value(json_object_get(value, "content"));
        if (!text)
            return FAIL(TANE_EFORMAT, "%s: added_tokens_decoder: %s has no \"content\"; it must be the token's text",
                        config->where, key);
        TRY_RETURN(add_token(config, text, (int32_t)id, value));
    }
    return TANE_OK;
}

/* added_tokens.json: {"<pad>": 32000}. */
static Status list_map(TokenizerConfig *config, json_t *object) {
    static const char text[] = "special"; /* they have no flags */
    const char *key;
    json_t *value, *flags = json_pack("{s:b}", text, 0);
    if (!flags) return FAIL(TANE_ENOMEM, "%s: out of memory", config->where);
    Status st = TANE_OK;
    json_object_foreach(object, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (st != TANE_OK) break;
        if (id < 0 || id >= INT32_MAX) st = bad_id(config, key, "that is none");
        else st = add_token(config, key, (int32_t)id, flags);
    }
    json_decref(flags);
    return st;
}

static Status expect_object(const TokenizerConfig *config, const json_t *value, const char *what) {
    if (!value || json_is_object(value)) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: %s must be an object {...}", config->where, what);
}

static Status read_files(TokenizerConfig *config, TokenizerFiles *files, const char *folder, json_t **root,
                         json_t **map, json_t **added) {
    TRY_RETURN(take_file(config, files, folder, "chat_template.jinja", NULL));
    TRY_RETURN(take_file(config, files, folder, "chat_template.json", NULL));
    TRY_RETURN(take_file(config, files, folder, "added_tokens.json", added));
    TRY_RETURN(expect_object(config, *added, "the file"));
    TRY_RETURN(take_file(config, files, folder, "special_tokens_map.json", map));
    TRY_RETURN(expect_object(config, *map, "the file"));
    TRY_RETURN(take_file(config, files, folder, "tokenizer_config.json", root));
    return expect_object(config, *root, "the file");
}

Status tokenizer_config_load(TokenizerConfig *config, TokenizerFiles *files, const char *folder) {
    Status st = TANE_OK;
    json_t *root = NULL, *map = NULL, *added = NULL;
    *config = (TokenizerConfig){.add_bos = -1, .add_eos = -1};
    TRY(read_files(config, files, folder, &root, &map, &added));
    json_t *decoder = json_object_get(root, "added_tokens_decoder");
    TRY(expect_object(config, decoder, "\"added_tokens_decoder\""));
    TRY(ARENA_NEW_ARRAY(&config->arena, &config->added, json_object_size(decoder) + json_object_size(added)));
    TRY(token_texts(config, root));
    TRY(token_texts(config, map));
    TRY(get_switch(config, root, "add_bos_token", &config->add_bos));
    TRY(get_switch(config, root, "add_eos_token", &config->add_eos));
    TRY(get_template(config, root));
    TRY(list_decoder(config, decoder));
    if (!decoder) TRY(list_map(config, added)); /* what older versions of transformers wrote */
    if (config->n_added) qsort(config->added, config->n_added, sizeof *config->added, compare_added);
    config->present = root != NULL;
out:
    json_decref(added);
    json_decref(map);
    json_decref(root);
    return st;
}

void tokenizer_config_release(TokenizerConfig *config) { arena_release(&config->arena); }

/* ---- applying ---- */

/* What a spec has: texts and ids. */
typedef struct Index {
    TokenizerSpec *spec;
    Vocab tokens, added; /* added: to places in spec->added */
    bool *is_added;      /* (n_ids) an added token has this id */
    int32_t n_ids;
} Index;

static Status index_spec(Index *index, TokenizerSpec *spec, size_t more) {
    AddedToken *list;
    *index = (Index){.spec = spec, .n_ids = spec->n_tokens};
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &list, spec->n_added + more));
    if (spec->n_added) memcpy(list, spec->added, spec->n_added * sizeof *list);
    spec->added = list;
    TRY_RETURN(vocab_init(&index->tokens, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    TRY_RETURN(vocab_init(&index->added, &list->content, sizeof *list, spec->n_added + more));
    for (int32_t id = 0; id < spec->n_tokens; id++)
        if (spec->tokens[id].text.data) vocab_add(&index->tokens, id);
    for (size_t i = 0; i < spec->n_added; i++)
        if (list[i].id >= index->n_ids) index->n_ids = list[i].id + 1;
    TRY_RETURN(MEM_NEW_ARRAY(&index->is_added, index->n_ids));
    for (size_t i = 0; i < spec->n_added; i++) {
        vocab_add(&index->added, (int32_t)i);
        index->is_added[list[i].id] = true;
    }
    return TANE_OK;
}

static void index_free(Index *index) {
    vocab_free(&index->tokens);
    vocab_free(&index->added);
    mem_free(index->is_added);
}

static int32_t find_id(const Index *index, Bytes text) {
    int32_t place = vocab_find(&index->added, text.data, text.n);
    return place >= 0 ? index->spec->added[place].id : vocab_find(&index->tokens, text.data, text.n);
}

static bool has_added(const Index *index, int32_t id) { return id < index->n_ids && index->is_added[id]; }

static bool has_id(const Index *index, int32_t id) {
    return has_added(index, id) || (id < index->spec->n_tokens && index->spec->tokens[id].text.data);
}

static Status take_token(Index *index, AddedToken token) {
    char *copy;
    TokenizerSpec *spec = index->spec;
    TRY_RETURN(arena_strdup(&spec->arena, &copy, token.content.data));
    token.content.data = copy;
    spec->added[spec->n_added] = token;
    vocab_add(&index->added, (int32_t)spec->n_added++);
    if (token.id < index->n_ids) index->is_added[token.id] = true;
    return TANE_OK;
}

/* Tokens that only the config lists. An id that another token has already is a contradiction. */
static Status take_added(const TokenizerConfig *config, Index *index) {
    for (size_t i = 0; i < config->n_added; i++) {
        const AddedToken *token = &config->added[i];
        int32_t known = find_id(index, token->content);
        if (known >= 0 ? known != token->id : has_id(index, token->id))
            return FAIL(TANE_EFORMAT, "%s: \"%s\" has the id %d there, but %s; the files do not belong together",
                        config->where, token->content.data, token->id,
                        known >= 0 ? "another one in the tokenizer's own file" : "that is another token's");
        if (vocab_find(&index->added, token->content.data, token->content.n) < 0) TRY_RETURN(take_token(index, *token));
    }
    return TANE_OK;
}

/* The id of a named token; a token of the vocabulary becomes special by being named. */
static Status name_token(Index *index, const char *text, int32_t *id) {
    if (!text || !*text) return TANE_OK;
    Bytes content = {text, strlen(text)};
    int32_t found = find_id(index, content);
    if (found < 0) return TANE_OK; /* transformers would make a new token of it, which no model has seen */
    *id = found;
    if (vocab_find(&index->added, content.data, content.n) >= 0) return TANE_OK;
    return take_token(index, (AddedToken){.id = found, .content = content, .special = true});
}

static Status set_post(const TokenizerConfig *config, TokenizerSpec *spec) {
    if (config->add_bos < 0 && config->add_eos < 0) return TANE_OK;
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->post, 3));
    spec->n_post = 0;
    if (config->add_bos == 1 && spec->bos >= 0) spec->post[spec->n_post++] = spec->bos;
    spec->post[spec->n_post++] = POST_SEQUENCE;
    if (config->add_eos == 1 && spec->eos >= 0) spec->post[spec->n_post++] = spec->eos;
    return TANE_OK;
}

Status tokenizer_config_apply(const TokenizerConfig *config, TokenizerSpec *spec, int32_t *unk) {
    Status st = TANE_OK;
    Index index;
    *unk = -1;
    TRY(index_spec(&index, spec, config->n_added + 4));
    TRY(take_added(config, &index));
    TRY(name_token(&index, config->bos, &spec->bos));
    TRY(name_token(&index, config->eos, &spec->eos));
    TRY(name_token(&index, config->pad, &spec->pad));
    TRY(name_token(&index, config->unk, unk));
    TRY(set_post(config, spec));
    if (config->chat_template)
        TRY(arena_strdup(&spec->arena, (char **)(uintptr_t)&spec->chat_template, config->chat_template));
out:
    index_free(&index);
    return st;
}

/* ---- writing ---- */

static Status set_special(json_t *object, const char *key, const Bytes *texts, int32_t id, const char *folder) {
    if (id < 0) return TANE_OK;
    if (json_object_set_new(object, key, json_stringn(texts[id].data, texts[id].n)) == 0) return TANE_OK;
    return FAIL(TANE_ENOMEM, "%s: out of memory while writing the tokenizer", folder);
}

static Status write_json(const char *folder, const char *name, const json_t *root) {
    char *path;
    TRY_RETURN(path_join(&path, folder, name));
    Status st = json_write_file(path, root);
    mem_free(path);
    return st;
}

Status tokenizer_config_write(const TokenizerSpec *spec, const Bytes *texts, const char *folder) {
    Status st = TANE_OK;
    json_t *special = json_object();
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0);
    if (!special || !config) TRY(FAIL(TANE_ENOMEM, "%s: out of memory while writing the tokenizer", folder));
    TRY(set_special(special, "bos_token", texts, spec->bos, folder));
    TRY(set_special(special, "eos_token", texts, spec->eos, folder));
    TRY(set_special(special, "pad_token", texts, spec->pad, folder));
    TRY(set_special(special, "unk_token", texts, spec->unk, folder));
    if (json_object_update(config, special) != 0 ||
        (spec->chat_template && json_object_set_new(config, "chat_template", json_string(spec->chat_template)) != 0))
        TRY(FAIL(TANE_ENOMEM, "%s: out of memory while writing the tokenizer", folder));
    TRY(write_json(folder, "tokenizer_config.json", config));
    TRY(write_json(folder, "special_tokens_map.json", special));
out:
    json_decref(config);
    json_decref(special);
    return st;
}
