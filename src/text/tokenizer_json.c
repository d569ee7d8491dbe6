/* Reading tokenizer.json: its members in whatever order they come. truncation and padding are passed over, as an encode
 * without them does. */
#include "text/tokenizer_json.h"

#include <string.h>

/* ---- added tokens ---- */

static Status read_flags(const char *where, size_t i, const json_t *object, AddedToken *token) {
    bool *const flags[] = {&token->special, &token->lstrip, &token->rstrip, &token->single_word, &token->normalized};
    static const char *const names[] = {"special", "lstrip", "rstrip", "single_word", "normalized"};
    for (int k = 0; k < 5; k++) {
        const json_t *value = json_object_get(object, names[k]);
        if (k == 4 && !value) token->normalized = !token->special;
        if (!value) continue;
        if (!json_is_boolean(value))
            return FAIL(TANE_EFORMAT, "%s: added_tokens[%zu].%s must be true or false", where, i, names[k]);
        *flags[k] = json_is_true(value);
    }
    return TANE_OK;
}

static Status read_added(TokenizerSpec *spec, const char *where, size_t i, const json_t *object, AddedToken *token) {
    const json_t *content = json_object_get(object, "content"), *id = json_object_get(object, "id");
    if (!json_is_string(content) || json_string_length(content) == 0)
        return FAIL(TANE_EFORMAT, "%s: added_tokens[%zu].content must be a text that is not empty", where, i);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= INT32_MAX)
        return FAIL(TANE_EFORMAT, "%s: added_tokens[%zu].id must be a whole number from 0", where, i);
    char *copy;
    token->id = (int32_t)json_integer_value(id);
    token->content.n = json_string_length(content);
    TRY_RETURN(arena_new(&spec->arena, (void **)&copy, token->content.n + 1, 1));
    memcpy(copy, json_string_value(content), token->content.n);
    token->content.data = copy;
    return read_flags(where, i, object, token);
}

static Status read_all_added(TokenizerSpec *spec, const char *where, const json_t *list) {
    size_t i;
    json_t *object;
    if (!list || json_is_null(list)) return TANE_OK;
    if (!json_is_array(list)) return FAIL(TANE_EFORMAT, "%s: added_tokens must be a list [...]", where);
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->added, json_array_size(list)));
    json_array_foreach(list, i, object) TRY_RETURN(read_added(spec, where, i, object, &spec->added[spec->n_added++]));
    return TANE_OK;
}

/* Hugging Face's library does not look at an added token's id: it has the id of the model's token of the same text,
 * else the next free one. Where the file says otherwise one of the two is wrong, and no model would tell which. */
static Status check_added(TokenizerSpec *spec, const char *where) {
    Status st = TANE_OK;
    Vocab model = {0}, added = {0};
    int32_t next = 0;
    size_t kept = 0;
    TRY(vocab_init(&model, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    TRY(vocab_init(&added, &spec->added[0].content, sizeof *spec->added, spec->n_added));
    for (int32_t id = 0; id < spec->n_tokens; id++) {
        if (!spec->tokens[id].text.data) continue;
        vocab_add(&model, id);
        next++;
    }
    for (size_t i = 0; i < spec->n_added; i++) {
        AddedToken token = spec->added[i];
        int32_t twin = vocab_find(&added, token.content.data, token.content.n);
        int32_t id = twin >= 0 ? spec->added[twin].id : vocab_find(&model, token.content.data, token.content.n);
        if (id < 0) id = next++;
        if (id != token.id)
            TRY(FAIL(TANE_EFORMAT,
                     "%s: added_tokens[%zu]: \"%.80s\" has the id %d, but by the rules of tokenizers it is %d (%s)",
                     where, i, token.content.data, token.id, id,
                     id < spec->n_tokens ? "the vocabulary has it" : "the next free one"));
        if (twin >= 0) {
            spec->added[twin] = token; /* the last one counts */
            continue;
        }
        spec->added[kept] = token;
        vocab_add(&added, (int32_t)kept++);
    }
    spec->n_added = kept;
out:
    vocab_free(&model);
    vocab_free(&added);
    return st;
}

/* ---- members ---- */

enum { ADDED, NORMALIZER, PRE_TOKENIZER, POST_PROCESSOR, DECODER, VERSION, TREES };
static const char *const tree_names[TREES] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                              "post_processor", "decoder",    "version"};

typedef struct FileReader {
    TokenizerSpec *spec;
    JsonReader r;
    json_t *trees[TREES];
    bool has_model;
} FileReader;

static Status read_member(FileReader *f) {
    const char *key;
    size_t n;
    TRY_RETURN(json_next_key(&f->r, &key, &n));
    if (strcmp(key, "model") == 0) {
        if (f->has_model) return json_reader_fail(&f->r, "the key \"model\" is there twice; keep one of them");
        f->has_model = true;
        return json_model_read(f->spec, &f->r);
    }
    for (int i = 0; i < TREES; i++) {
        if (strcmp(key, tree_names[i]) != 0) continue;
        if (f->trees[i]) return json_reader_fail(&f->r, "the key \"%s\" is there twice; keep one of them", key);
        return json_next_value(&f->r, &f->trees[i]);
    }
    return json_skip(&f->r);
}

static Status read_members(FileReader *f) {
    TRY_RETURN(json_begin(&f->r, '{'));
    for (bool more;;) {
        TRY_RETURN(json_more(&f->r, '}', &more));
        if (!more) return json_end(&f->r);
        TRY_RETURN(read_member(f));
    }
}

static Status check_version(const FileReader *f) {
    const char *version = json_string_value(f->trees[VERSION]);
    if (!f->trees[VERSION] || (version && strcmp(version, "1.0") == 0)) return TANE_OK;
    return FAIL(TANE_EUNSUPPORTED, "%s: version is %s%.20s; tane reads version \"1.0\"", f->r.where,
                version ? "" : "no text", version ? version : "");
}

Status tokenizer_spec_read_json(TokenizerSpec *spec, const char *where, const char *text, size_t n) {
    Status st = TANE_OK;
    FileReader f = {.spec = spec};
    size_t bom = n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    *spec = (TokenizerSpec){.bos = -1, .eos = -1, .pad = -1, .unk = -1};
    json_reader_init(&f.r, where, text + bom, n - bom);
    TRY(read_members(&f));
    TRY(check_version(&f));
    if (!f.has_model) TRY(FAIL(TANE_EFORMAT, "%s: \"model\" is missing; this is no tokenizer.json", where));
    TRY(json_normalizers_read(spec, where, f.trees[NORMALIZER]));
    TRY(json_pre_tokenizers_read(spec, where, f.trees[PRE_TOKENIZER]));
    TRY(json_decoders_read(spec, where, f.trees[DECODER]));
    TRY(json_post_read(spec, where, f.trees[POST_PROCESSOR]));
    TRY(read_all_added(spec, where, f.trees[ADDED]));
    if (spec->n_added) TRY(check_added(spec, where));
out:
    for (int i = 0; i < TREES; i++) json_decref(f.trees[i]);
    json_reader_free(&f.r);
    if (st != TANE_OK) tokenizer_spec_release(spec);
    return st;
}
