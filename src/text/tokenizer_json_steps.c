/* normalizer, pre_tokenizer, decoder and post_processor of a tokenizer.json. Every kind is a row of a table with a
 * function that reads its fields; what is in no table is TANE_EUNSUPPORTED with its place. Sequences are laid flat. */
#include <stdio.h>
#include <string.h>

#include "text/tokenizer_json.h"
#include "text/utf8.h"

enum { MAX_NESTING = 16, MAX_STEPS = 1000 };

typedef struct StepReader {
    TokenizerSpec *spec;
    const char *where;
    const char *path; /* of the object at hand: "normalizer.normalizers[2]" */
} StepReader;

typedef Status (*ReadFields)(const StepReader *r, const json_t *object, TokenStep *step);

typedef struct StepKind {
    const char *type;
    int kind;
    ReadFields fields; /* NULL: it has none */
} StepKind;

typedef struct StepTable {
    const char *name, *list; /* "normalizer", and what its sequences are called */
    const StepKind *kinds;
    size_t n;
} StepTable;

/* ---- fields ---- */

static Status wrong(const StepReader *r, const char *key, const char *wanted) {
    return FAIL(TANE_EFORMAT, "%s: %s.%s must be %s", r->where, r->path, key, wanted);
}

static Status get_bool(const StepReader *r, const json_t *object, const char *key, bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value)) return wrong(r, key, "true or false");
    *out = json_is_true(value);
    return TANE_OK;
}

static Status opt_bool(const StepReader *r, const json_t *object, const char *key, bool fallback, bool *out) {
    *out = fallback;
    const json_t *value = json_object_get(object, key);
    return !value || json_is_null(value) ? TANE_OK : get_bool(r, object, key, out);
}

static Status keep(const StepReader *r, const json_t *value, Bytes *out) {
    char *copy;
    size_t n = json_string_length(value);
    TRY_RETURN(arena_new(&r->spec->arena, (void **)&copy, n + 1, 1));
    memcpy(copy, json_string_value(value), n);
    *out = (Bytes){copy, n};
    return TANE_OK;
}

static Status get_text(const StepReader *r, const json_t *object, const char *key, Bytes *out) {
    const json_t *value = json_object_get(object, key);
    return json_is_string(value) ? keep(r, value, out) : wrong(r, key, "a text");
}

static Status get_char(const StepReader *r, const json_t *object, const char *key, Bytes *out) {
    uint32_t code = 0;
    TRY_RETURN(get_text(r, object, key, out));
    if (out->n == 0 || utf8_decode(out->data, out->n, &code) != out->n) return wrong(r, key, "a single character");
    return TANE_OK;
}

static Status get_count(const StepReader *r, const json_t *object, const char *key, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0) return wrong(r, key, "a whole number from 0");
    *out = json_integer_value(value);
    return TANE_OK;
}

/* {"String": "..."} or {"Regex": "..."} */
static Status get_pattern(const StepReader *r, const json_t *object, TokenStep *step) {
    const json_t *pattern = json_object_get(object, "pattern");
    const json_t *text = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    if (!json_is_string(text) == !json_is_string(regex))
        return wrong(r, "pattern", "{\"String\": ...} or {\"Regex\": ...}");
    step->regex = regex != NULL;
    return keep(r, regex ? regex : text, &step->pattern);
}

static Status get_behavior(const StepReader *r, const json_t *object, TokenStep *step) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = json_string_value(json_object_get(object, "behavior"));
    for (int i = 0; name && i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        step->behavior = (SplitBehavior)i;
        return TANE_OK;
    }
    return wrong(r, "behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

/* ---- normalizers ---- */

static Status strip_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_bool(r, object, "strip_left", &step->left));
    return get_bool(r, object, "strip_right", &step->right);
}

static Status replace_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_pattern(r, object, step));
    return get_text(r, object, "content", &step->content);
}

static Status prepend_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    return get_text(r, object, "prepend", &step->content);
}

static Status charsmap_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    const json_t *value = json_object_get(object, "precompiled_charsmap");
    char *bytes;
    size_t n = json_string_length(value);
    if (!json_is_string(value)) return wrong(r, "precompiled_charsmap", "a text in base64");
    TRY_RETURN(arena_new(&r->spec->arena, (void **)&bytes, n / 4 * 3 + 3, 1));
    step->content.data = bytes;
    if (base64_decode(json_string_value(value), n, bytes, &step->content.n)) return TANE_OK;
    return wrong(r, "precompiled_charsmap", "base64");
}

static Status bert_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    bool strip = false;
    TRY_RETURN(get_bool(r, object, "clean_text", &step->clean_text));
    TRY_RETURN(get_bool(r, object, "handle_chinese_chars", &step->chinese));
    TRY_RETURN(get_bool(r, object, "lowercase", &step->lowercase));
    TRY_RETURN(opt_bool(r, object, "strip_accents", false, &strip));
    step->strip_accents = json_is_boolean(json_object_get(object, "strip_accents")) ? strip : -1;
    return TANE_OK;
}

static const StepKind normalizers[] = {
    {"NFC", NORMALIZE_NFC, NULL},
    {"NFD", NORMALIZE_NFD, NULL},
    {"NFKC", NORMALIZE_NFKC, NULL},
    {"NFKD", NORMALIZE_NFKD, NULL},
    {"Lowercase", NORMALIZE_LOWERCASE, NULL},
    {"Strip", NORMALIZE_STRIP, strip_fields},
    {"StripAccents", NORMALIZE_STRIP_ACCENTS, NULL},
    {"Replace", NORMALIZE_REPLACE, replace_fields},
    {"Prepend", NORMALIZE_PREPEND, prepend_fields},
    {"Precompiled", NORMALIZE_PRECOMPILED, charsmap_fields},
    {"BertNormalizer", NORMALIZE_BERT, bert_fields},
    {"Nmt", NORMALIZE_NMT, NULL},
    {"ByteLevel", NORMALIZE_BYTE_LEVEL, NULL},
};

/* ---- pre-tokenizers ---- */

static Status split_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_pattern(r, object, step));
    TRY_RETURN(get_behavior(r, object, step));
    return get_bool(r, object, "invert", &step->invert);
}

static Status byte_level_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_bool(r, object, "add_prefix_space", &step->add_prefix_space));
    return opt_bool(r, object, "use_regex", true, &step->use_regex);
}

/* Older files say add_prefix_space, newer ones prepend_scheme. */
static Status metaspace_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    static const char *const names[] = {"always", "first", "never"};
    const json_t *scheme = json_object_get(object, "prepend_scheme");
    bool prefix;
    TRY_RETURN(get_char(r, object, "replacement", &step->content));
    TRY_RETURN(opt_bool(r, object, "split", true, &step->split));
    TRY_RETURN(opt_bool(r, object, "add_prefix_space", true, &prefix));
    int found = scheme ? -1 : prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    for (int i = 0; json_is_string(scheme) && i < 3; i++)
        if (strcmp(json_string_value(scheme), names[i]) == 0) found = i;
    if (found < 0) return wrong(r, "prepend_scheme", "\"always\", \"first\" or \"never\"");
    if (!prefix && found != PREPEND_NEVER) return wrong(r, "add_prefix_space", "true with this prepend_scheme");
    step->prepend = (PrependScheme)found;
    return TANE_OK;
}

static Status digits_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    return get_bool(r, object, "individual_digits", &step->individual);
}

static Status punctuation_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    step->behavior = SPLIT_ISOLATED;
    return json_object_get(object, "behavior") ? get_behavior(r, object, step) : TANE_OK;
}

static Status delimiter_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    return get_char(r, object, "delimiter", &step->content);
}

static const StepKind pre_tokenizers[] = {
    {"Split", PRE_SPLIT, split_fields},
    {"ByteLevel", PRE_BYTE_LEVEL, byte_level_fields},
    {"Metaspace", PRE_METASPACE, metaspace_fields},
    {"Whitespace", PRE_WHITESPACE, NULL},
    {"WhitespaceSplit", PRE_WHITESPACE_SPLIT, NULL},
    {"Digits", PRE_DIGITS, digits_fields},
    {"Punctuation", PRE_PUNCTUATION, punctuation_fields},
    {"BertPreTokenizer", PRE_BERT, NULL},
    {"CharDelimiterSplit", PRE_CHAR_DELIMITER, delimiter_fields},
};

/* ---- decoders ---- */

static Status strip_decoder_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_char(r, object, "content", &step->content));
    TRY_RETURN(get_count(r, object, "start", &step->start));
    return get_count(r, object, "stop", &step->stop);
}

static Status wordpiece_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    TRY_RETURN(get_text(r, object, "prefix", &step->content));
    return get_bool(r, object, "cleanup", &step->cleanup);
}

static Status bpe_fields(const StepReader *r, const json_t *object, TokenStep *step) {
    return get_text(r, object, "suffix", &step->content);
}

static const StepKind decoders[] = {
    {"ByteLevel", DECODE_BYTE_LEVEL, NULL},
    {"Metaspace", DECODE_METASPACE, metaspace_fields},
    {"ByteFallback", DECODE_BYTE_FALLBACK, NULL},
    {"Fuse", DECODE_FUSE, NULL},
    {"Strip", DECODE_STRIP, strip_decoder_fields},
    {"Replace", DECODE_REPLACE, replace_fields},
    {"WordPiece", DECODE_WORDPIECE, wordpiece_fields},
    {"BPEDecoder", DECODE_BPE, bpe_fields},
};

/* ---- steps and sequences of them ---- */

static Status unsupported(const StepReader *r, const char *type, const char *name) {
    return FAIL(TANE_EUNSUPPORTED, "%s: %s.type is \"%.60s\"; tane has no such %s", r->where, r->path, type, name);
}

static Status get_type(const StepReader *r, const json_t *object, const char **type) {
    if (!json_is_object(object))
        return FAIL(TANE_EFORMAT, "%s: %s must be an object {\"type\": ...}", r->where, r->path);
    *type = json_string_value(json_object_get(object, "type"));
    return *type ? TANE_OK : FAIL(TANE_EFORMAT, "%s: %s.type is missing; it must be a text", r->where, r->path);
}

static Status add_step(const StepReader *r, const StepTable *table, const json_t *object, TokenSteps *steps);

static Status add_sequence(const StepReader *r, const StepTable *table, const json_t *object, TokenSteps *steps) {
    const json_t *list = json_object_get(object, table->list), *item;
    size_t i, depth = 0;
    if (!json_is_array(list)) return wrong(r, table->list, "a list [...]");
    for (const char *c = r->path; *c; c++) depth += *c == '[';
    if (depth == MAX_NESTING)
        return FAIL(TANE_EUNSUPPORTED, "%s: sequences deeper than %d: %s", r->where, MAX_NESTING, r->path);
    json_array_foreach(list, i, item) {
        char path[1024];
        snprintf(path, sizeof path, "%s.%s[%zu]", r->path, table->list, i);
        StepReader inner = {r->spec, r->where, path};
        TRY_RETURN(add_step(&inner, table, item, steps));
    }
    return TANE_OK;
}

static Status add_step(const StepReader *r, const StepTable *table, const json_t *object, TokenSteps *steps) {
    const char *type;
    TRY_RETURN(get_type(r, object, &type));
    if (strcmp(type, "Sequence") == 0) return add_sequence(r, table, object, steps);
    for (size_t i = 0; i < table->n; i++) {
        if (strcmp(type, table->kinds[i].type) != 0) continue;
        if (steps->n == MAX_STEPS)
            return FAIL(TANE_EUNSUPPORTED, "%s: %s: more than %d steps", r->where, r->path, MAX_STEPS);
        TokenStep *step = &steps->items[steps->n++];
        step->kind = table->kinds[i].kind;
        return table->kinds[i].fields ? table->kinds[i].fields(r, object, step) : TANE_OK;
    }
    return unsupported(r, type, table->name);
}

static Status read_steps(TokenizerSpec *spec, const char *where, const StepTable *table, const char *path,
                         const json_t *value, TokenSteps *out) {
    Status st = TANE_OK;
    TokenSteps steps = {0};
    *out = steps;
    if (!value || json_is_null(value)) return TANE_OK;
    TRY(MEM_NEW_ARRAY(&steps.items, MAX_STEPS));
    TRY(add_step(&(StepReader){spec, where, path}, table, value, &steps));
    TRY(ARENA_NEW_ARRAY(&spec->arena, &out->items, steps.n));
    if (steps.n) memcpy(out->items, steps.items, steps.n * sizeof *steps.items);
    out->n = steps.n;
out:
    mem_free(steps.items);
    return st;
}

#define TABLE(title, list, kinds)                                                                                      \
    { (title), (list), (kinds), sizeof(kinds) / sizeof *(kinds) }

Status json_normalizers_read(TokenizerSpec *spec, const char *where, const json_t *value) {
    static const StepTable table = TABLE("normalizer", "normalizers", normalizers);
    return read_steps(spec, where, &table, "normalizer", value, &spec->normalizers);
}

Status json_pre_tokenizers_read(TokenizerSpec *spec, const char *where, const json_t *value) {
    static const StepTable table = TABLE("pre-tokenizer", "pretokenizers", pre_tokenizers);
    return read_steps(spec, where, &table, "pre_tokenizer", value, &spec->pre_tokenizers);
}

Status json_decoders_read(TokenizerSpec *spec, const char *where, const json_t *value) {
    static const StepTable table = TABLE("decoder", "decoders", decoders);
    return read_steps(spec, where, &table, "decoder", value, &spec->decoders);
}

/* ---- what is put around a text ---- */

typedef struct Post {
    int32_t *ids; /* (n) */
    size_t n;
} Post;

static Status post_new(const StepReader *r, Post *post, size_t n) {
    *post = (Post){NULL, 0};
    return ARENA_NEW_ARRAY(&r->spec->arena, &post->ids, n);
}

static void post_append(Post *post, const int32_t *ids, size_t n) {
    if (n) memcpy(post->ids + post->n, ids, n * sizeof *ids);
    post->n += n;
}

static Status get_id(const StepReader *r, const json_t *value, const char *key, int32_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= INT32_MAX)
        return wrong(r, key, "made of ids, whole numbers from 0");
    *out = (int32_t)json_integer_value(value);
    return TANE_OK;
}

/* The ids of a template's special token. */
static Status template_ids(const StepReader *r, const json_t *object, const char *id, const json_t **ids) {
    *ids = json_object_get(json_object_get(json_object_get(object, "special_tokens"), id), "ids");
    if (json_is_array(*ids)) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: %s.special_tokens has no \"%.60s\" with ids, which the template uses", r->where,
                r->path, id);
}

/* One piece of a template: {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}}. *ids NULL: the sequence. */
static Status template_piece(const StepReader *r, const json_t *object, const json_t *piece, const json_t **ids) {
    const char *special = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
    const char *sequence = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
    *ids = NULL;
    if (special) return template_ids(r, object, special, ids);
    if (sequence && strcmp(sequence, "A") == 0) return TANE_OK;
    return wrong(r, "single", "made of {\"SpecialToken\": {\"id\": ...}} and {\"Sequence\": {\"id\": \"A\"}}");
}

static Status apply_template(const StepReader *r, const json_t *object, Post *post) {
    const json_t *single = json_object_get(object, "single"), *piece, *ids, *value;
    size_t i, k, room = 0;
    Post made;
    if (!json_is_array(single)) return wrong(r, "single", "a list [...]");
    json_array_foreach(single, i, piece) {
        TRY_RETURN(template_piece(r, object, piece, &ids));
        room += ids ? json_array_size(ids) : post->n;
        if (room > MAX_STEPS) return wrong(r, "single", "shorter");
    }
    TRY_RETURN(post_new(r, &made, room));
    json_array_foreach(single, i, piece) {
        TRY_RETURN(template_piece(r, object, piece, &ids));
        if (!ids) post_append(&made, post->ids, post->n);
        json_array_foreach(ids, k, value) {
            int32_t id = 0;
            TRY_RETURN(get_id(r, value, "special_tokens", &id));
            post_append(&made, &id, 1);
        }
    }
    *post = made;
    return TANE_OK;
}

/* BertProcessing and RobertaProcessing: "cls" before, "sep" behind, each [text, id]. */
static Status apply_cls_sep(const StepReader *r, const json_t *object, Post *post) {
    int32_t cls = 0, sep = 0;
    Post made;
    TRY_RETURN(get_id(r, json_array_get(json_object_get(object, "cls"), 1), "cls", &cls));
    TRY_RETURN(get_id(r, json_array_get(json_object_get(object, "sep"), 1), "sep", &sep));
    TRY_RETURN(post_new(r, &made, post->n + 2));
    post_append(&made, &cls, 1);
    post_append(&made, post->ids, post->n);
    post_append(&made, &sep, 1);
    *post = made;
    return TANE_OK;
}

static Status apply_post(const StepReader *r, const json_t *object, int depth, Post *post) {
    const char *type;
    TRY_RETURN(get_type(r, object, &type));
    if (strcmp(type, "TemplateProcessing") == 0) return apply_template(r, object, post);
    if (strcmp(type, "ByteLevel") == 0) return TANE_OK; /* changes offsets only */
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return apply_cls_sep(r, object, post);
    if (strcmp(type, "Sequence") != 0) return unsupported(r, type, "post-processor");
    const json_t *list = json_object_get(object, "processors"), *item;
    size_t i;
    if (!json_is_array(list)) return wrong(r, "processors", "a list [...]");
    if (depth == MAX_NESTING)
        return FAIL(TANE_EUNSUPPORTED, "%s: sequences deeper than %d: %s", r->where, MAX_NESTING, r->path);
    json_array_foreach(list, i, item) {
        char path[1024];
        snprintf(path, sizeof path, "%s.processors[%zu]", r->path, i);
        TRY_RETURN(apply_post(&(StepReader){r->spec, r->where, path}, item, depth + 1, post));
    }
    return TANE_OK;
}

Status json_post_read(TokenizerSpec *spec, const char *where, const json_t *value) {
    int32_t sequence = POST_SEQUENCE;
    Post post = {&sequence, 1};
    if (!value || json_is_null(value)) return TANE_OK;
    TRY_RETURN(apply_post(&(StepReader){spec, where, "post_processor"}, value, 0, &post));
    if (post.n == 1 && post.ids[0] == POST_SEQUENCE) return TANE_OK;
    spec->post = post.ids;
    spec->n_post = post.n;
    return TANE_OK;
}
