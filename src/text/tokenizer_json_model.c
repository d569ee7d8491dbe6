/* "model" of a tokenizer.json: the vocabulary and the merges, read as they come, because they are nearly all of the
 * file. */
#include <math.h>
#include <string.h>

#include "text/tokenizer_json.h"

enum { MAX_HOLES = 1 << 18 }; /* ids that stand for nothing */

typedef struct Entry {
    Bytes text;
    int32_t id;
    double score;
} Entry;

typedef struct ModelReader {
    TokenizerSpec *spec;
    JsonReader *r;
    char type[16];   /* "" so far */
    char *unk_token; /* NULL: none */
    int64_t unk_id;  /* -1: none */
    Entry *entries;  /* (n), mem_free */
    size_t n, cap;
    bool has_vocab, is_list, has_merges, has_prefix;
    const char *merges; /* where they stand, until the vocabulary is there */
    char *room;         /* for texts, in the spec's arena */
    size_t room_left;
} ModelReader;

/* ---- small members ---- */

static Status read_bool(ModelReader *m, const char *key, bool *out) {
    json_t *value;
    TRY_RETURN(json_next_value(m->r, &value));
    Status st = TANE_OK;
    if (json_is_boolean(value)) *out = json_is_true(value);
    else if (!json_is_null(value)) st = json_reader_fail(m->r, "model.%s must be true or false", key);
    json_decref(value);
    return st;
}

/* A text in the arena; null leaves *out as it is. */
static Status read_text(ModelReader *m, const char *key, Bytes *out) {
    char c = json_peek(m->r);
    const char *text;
    size_t n;
    if (c == 'n') return json_skip(m->r);
    if (c != '"') return json_reader_fail(m->r, "model.%s must be a text", key);
    TRY_RETURN(json_next_text(m->r, &text, &n));
    char *copy;
    TRY_RETURN(arena_new(&m->spec->arena, (void **)&copy, n + 1, 1));
    memcpy(copy, text, n);
    *out = (Bytes){copy, n};
    return TANE_OK;
}

static Status read_int(ModelReader *m, const char *key, int64_t lo, int64_t hi, int64_t *out) {
    if (json_peek(m->r) == 'n') return json_skip(m->r);
    TRY_RETURN(json_next_int(m->r, out));
    if (*out < lo || *out > hi)
        return json_reader_fail(m->r, "model.%s is %lld; it must be from %lld to %lld", key, (long long)*out,
                                (long long)lo, (long long)hi);
    return TANE_OK;
}

static Status read_dropout(ModelReader *m) {
    double dropout = 0;
    if (json_peek(m->r) == 'n') return json_skip(m->r);
    TRY_RETURN(json_next_double(m->r, &dropout));
    if (dropout == 0) return TANE_OK;
    return FAIL(TANE_EUNSUPPORTED, "%s: model.dropout is %g; tane encodes without chance: set it to null", m->r->where,
                dropout);
}

/* ---- the vocabulary ---- */

static Status keep_text(ModelReader *m, const char *text, size_t n, Bytes *out) {
    enum { ROOM = 1 << 16 };
    if (n + 1 > m->room_left) {
        m->room_left = n + 1 > ROOM ? n + 1 : ROOM;
        TRY_RETURN(arena_new(&m->spec->arena, (void **)&m->room, m->room_left, 1));
    }
    memcpy(m->room, text, n);
    *out = (Bytes){m->room, n};
    m->room += n + 1;
    m->room_left -= n + 1;
    return TANE_OK;
}

static Status add_entry(ModelReader *m, Entry **out) {
    if (m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 4096;
        TRY_RETURN(mem_grow((void **)&m->entries, m->n, cap, sizeof *m->entries));
        m->cap = cap;
    }
    *out = &m->entries[m->n++];
    return TANE_OK;
}

/* {"text": id, ...} */
static Status read_map(ModelReader *m) {
    TRY_RETURN(json_begin(m->r, '{'));
    for (bool more;;) {
        const char *text;
        size_t n;
        int64_t id;
        Entry *entry;
        TRY_RETURN(json_more(m->r, '}', &more));
        if (!more) return TANE_OK;
        TRY_RETURN(json_next_key(m->r, &text, &n));
        TRY_RETURN(add_entry(m, &entry));
        TRY_RETURN(keep_text(m, text, n, &entry->text));
        TRY_RETURN(json_next_int(m->r, &id));
        if (id < 0 || id >= INT32_MAX)
            return json_reader_fail(m->r, "model.vocab: \"%.80s\" has the id %lld; ids are whole numbers from 0",
                                    entry->text.data, (long long)id);
        entry->id = (int32_t)id;
    }
}

/* [["text", score], ...] */
static Status read_list(ModelReader *m) {
    TRY_RETURN(json_begin(m->r, '['));
    for (bool more;;) {
        const char *text;
        size_t n;
        Entry *entry;
        TRY_RETURN(json_more(m->r, ']', &more));
        if (!more) return TANE_OK;
        TRY_RETURN(json_begin(m->r, '['));
        TRY_RETURN(json_more(m->r, ']', &more));
        if (!more) return json_reader_fail(m->r, "model.vocab[%zu] must be [text, score]", m->n);
        TRY_RETURN(json_next_text(m->r, &text, &n));
        TRY_RETURN(add_entry(m, &entry));
        TRY_RETURN(keep_text(m, text, n, &entry->text));
        TRY_RETURN(json_more(m->r, ']', &more));
        if (!more) return json_reader_fail(m->r, "model.vocab[%zu] has no score; it must be [text, score]", m->n - 1);
        TRY_RETURN(json_next_double(m->r, &entry->score));
        TRY_RETURN(json_more(m->r, ']', &more));
        if (more) return json_reader_fail(m->r, "model.vocab[%zu] has more than [text, score]", m->n - 1);
        entry->id = (int32_t)(m->n - 1);
        if (m->n >= INT32_MAX / 2) return json_reader_fail(m->r, "model.vocab has too many tokens");
    }
}

/* The tokens by id. */
static Status place_tokens(ModelReader *m) {
    TokenizerSpec *spec = m->spec;
    int64_t limit = (int64_t)m->n + MAX_HOLES, top = -1;
    for (size_t i = 0; i < m->n; i++) {
        if (m->entries[i].id > top) top = m->entries[i].id;
        if (m->entries[i].id >= limit)
            return FAIL(TANE_EFORMAT, "%s: model.vocab: \"%.80s\" has the id %d, but there are only %zu tokens",
                        m->r->where, m->entries[i].text.data, m->entries[i].id, m->n);
    }
    spec->n_tokens = (int32_t)(top + 1);
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->tokens, spec->n_tokens));
    for (size_t i = 0; i < m->n; i++) {
        SpecToken *token = &spec->tokens[m->entries[i].id];
        if (token->text.data)
            return FAIL(TANE_EFORMAT, "%s: model.vocab: \"%.80s\" and \"%.80s\" have the same id %d", m->r->where,
                        token->text.data, m->entries[i].text.data, m->entries[i].id);
        *token = (SpecToken){m->entries[i].text, m->entries[i].score};
    }
    return TANE_OK;
}

static Status read_vocab(ModelReader *m) {
    if (m->has_vocab) return json_reader_fail(m->r, "model.vocab is there twice; keep one");
    m->has_vocab = true;
    m->is_list = json_peek(m->r) == '[';
    TRY_RETURN(m->is_list ? read_list(m) : read_map(m));
    return place_tokens(m);
}

/* Of equal texts in a list (scores) the last one counts; in a map they are a mistake. */
static Status index_vocab(ModelReader *m, Vocab *vocab) {
    TokenizerSpec *spec = m->spec;
    TRY_RETURN(vocab_init(vocab, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    for (int32_t id = 0; id < spec->n_tokens; id++) {
        const SpecToken *token = &spec->tokens[id];
        int32_t twin = token->text.data ? vocab_add(vocab, id) : -1;
        if (twin >= 0 && !m->is_list)
            return FAIL(TANE_EFORMAT, "%s: model.vocab: the token \"%.80s\" is there twice, with the ids %d and %d",
                        m->r->where, token->text.data, twin, id);
    }
    return TANE_OK;
}

/* ---- merges ---- */

static Status find_half(const ModelReader *m, const Vocab *vocab, size_t i, const char *text, size_t n, int32_t *id) {
    *id = vocab_find(vocab, text, n);
    if (*id >= 0) return TANE_OK;
    return json_reader_fail(m->r, "model.merges[%zu]: \"%.*s\" is not in model.vocab", i, (int)(n < 80 ? n : 80), text);
}

/* "a b" */
static Status split_merge(const ModelReader *m, const Vocab *vocab, size_t i, const char *text, size_t n,
                          SpecMerge *out) {
    const char *space = memchr(text, ' ', n);
    size_t left = space ? (size_t)(space - text) : n;
    if (!space || memchr(space + 1, ' ', n - left - 1))
        return json_reader_fail(m->r, "model.merges[%zu] is \"%.*s\"; it must be two tokens with one space between", i,
                                (int)(n < 80 ? n : 80), text);
    TRY_RETURN(find_half(m, vocab, i, text, left, &out->left));
    return find_half(m, vocab, i, space + 1, n - left - 1, &out->right);
}

/* ["a", "b"] */
static Status read_pair(const ModelReader *m, const Vocab *vocab, size_t i, SpecMerge *out) {
    int32_t *const halves[] = {&out->left, &out->right};
    const char *text;
    size_t n;
    bool more;
    TRY_RETURN(json_begin(m->r, '['));
    for (int k = 0; k < 2; k++) {
        TRY_RETURN(json_more(m->r, ']', &more));
        if (!more) return json_reader_fail(m->r, "model.merges[%zu] must be two tokens", i);
        TRY_RETURN(json_next_text(m->r, &text, &n));
        TRY_RETURN(find_half(m, vocab, i, text, n, halves[k]));
    }
    TRY_RETURN(json_more(m->r, ']', &more));
    return more ? json_reader_fail(m->r, "model.merges[%zu] has more than two tokens", i) : TANE_OK;
}

static Status read_merges(ModelReader *m, const Vocab *vocab, SpecMerge **list, size_t *count) {
    size_t cap = 0;
    *list = NULL;
    *count = 0;
    TRY_RETURN(json_begin(m->r, '['));
    for (bool more;;) {
        const char *text;
        size_t n;
        TRY_RETURN(json_more(m->r, ']', &more));
        if (!more) return TANE_OK;
        if (*count == cap) {
            size_t grown = cap ? 2 * cap : 4096;
            TRY_RETURN(mem_grow((void **)list, cap, grown, sizeof **list));
            cap = grown;
        }
        SpecMerge *merge = &(*list)[*count];
        if (json_peek(m->r) == '[') {
            TRY_RETURN(read_pair(m, vocab, *count, merge));
        } else {
            TRY_RETURN(json_next_text(m->r, &text, &n));
            if (n >= 8 && memcmp(text, "#version", 8) == 0) continue;
            TRY_RETURN(split_merge(m, vocab, *count, text, n, merge));
        }
        ++*count;
    }
}

/* From where they stand, to which the reader goes back for a moment. */
static Status take_merges(ModelReader *m, const Vocab *vocab) {
    const char *behind = m->r->p;
    SpecMerge *list = NULL;
    size_t n = 0;
    m->r->p = m->merges;
    Status st = read_merges(m, vocab, &list, &n);
    m->r->p = behind;
    if (st == TANE_OK) st = ARENA_NEW_ARRAY(&m->spec->arena, &m->spec->merges, n + 1);
    if (st == TANE_OK && n) memcpy(m->spec->merges, list, n * sizeof *list);
    m->spec->n_merges = n;
    mem_free(list);
    return st;
}

/* ---- the whole ---- */

static Status read_member(ModelReader *m, const char *key) {
    TokenizerSpec *spec = m->spec;
    Bytes text = {0};
    if (strcmp(key, "vocab") == 0) return read_vocab(m);
    if (strcmp(key, "merges") == 0) {
        json_peek(m->r);
        m->merges = m->r->p;
        return json_skip(m->r);
    }
    if (strcmp(key, "type") == 0) {
        TRY_RETURN(read_text(m, "type", &text));
        if (text.data) strncpy(m->type, text.data, sizeof m->type - 1);
        return TANE_OK;
    }
    if (strcmp(key, "unk_token") == 0) {
        TRY_RETURN(read_text(m, "unk_token", &text));
        m->unk_token = (char *)(uintptr_t)text.data;
        return TANE_OK;
    }
    if (strcmp(key, "continuing_subword_prefix") == 0) {
        m->has_prefix = true;
        return read_text(m, "continuing_subword_prefix", &spec->continuing_subword_prefix);
    }
    if (strcmp(key, "end_of_word_suffix") == 0) return read_text(m, "end_of_word_suffix", &spec->end_of_word_suffix);
    if (strcmp(key, "fuse_unk") == 0) return read_bool(m, "fuse_unk", &spec->fuse_unk);
    if (strcmp(key, "byte_fallback") == 0) return read_bool(m, "byte_fallback", &spec->byte_fallback);
    if (strcmp(key, "ignore_merges") == 0) return read_bool(m, "ignore_merges", &spec->ignore_merges);
    if (strcmp(key, "dropout") == 0) return read_dropout(m);
    if (strcmp(key, "unk_id") == 0) return read_int(m, "unk_id", 0, INT32_MAX, &m->unk_id);
    if (strcmp(key, "max_input_chars_per_word") == 0)
        return read_int(m, "max_input_chars_per_word", 0, INT32_MAX, &spec->max_input_chars_per_word);
    return json_skip(m->r);
}

/* By "type", or, in old files, by what is there. */
static Status find_kind(ModelReader *m) {
    static const char *const names[] = {"BPE", "Unigram", "WordPiece", "WordLevel"};
    const char *type = m->type;
    if (!*type) type = m->is_list ? "Unigram" : m->merges ? "BPE" : m->has_prefix ? "WordPiece" : "WordLevel";
    for (int i = 0; i < 4; i++) {
        if (strcmp(type, names[i]) != 0) continue;
        m->spec->model = (TokenModel)i;
        if (m->is_list == (i == TOKEN_UNIGRAM)) return TANE_OK;
        return FAIL(TANE_EFORMAT, "%s: model.vocab of type %s must be %s", m->r->where, type,
                    m->is_list ? "an object {\"text\": id}" : "a list [[text, score]]");
    }
    return FAIL(TANE_EUNSUPPORTED, "%s: model.type is \"%s\"; tane has BPE, Unigram, WordPiece and WordLevel",
                m->r->where, type);
}

static Status finish(ModelReader *m) {
    Status st = TANE_OK;
    Vocab vocab = {0};
    TokenizerSpec *spec = m->spec;
    if (!m->has_vocab) return FAIL(TANE_EFORMAT, "%s: model.vocab is missing", m->r->where);
    TRY_RETURN(find_kind(m));
    if (spec->model == TOKEN_BPE && !m->merges)
        return FAIL(TANE_EFORMAT, "%s: model.merges is missing; a BPE model needs its merges", m->r->where);
    TRY(index_vocab(m, &vocab));
    if (spec->model == TOKEN_BPE) TRY(take_merges(m, &vocab));
    if (spec->model != TOKEN_UNIGRAM) {
        spec->unk = m->unk_token ? vocab_find(&vocab, m->unk_token, strlen(m->unk_token)) : -1;
    } else {
        if (m->unk_id >= spec->n_tokens)
            TRY(FAIL(TANE_EFORMAT, "%s: model.unk_id is %lld, but there are only %d tokens", m->r->where,
                     (long long)m->unk_id, spec->n_tokens));
        spec->unk = (int32_t)m->unk_id;
    }
    if (spec->model == TOKEN_WORDPIECE && !m->has_prefix) spec->continuing_subword_prefix = (Bytes){"##", 2};
out:
    vocab_free(&vocab);
    return st;
}

Status json_model_read(TokenizerSpec *spec, JsonReader *r) {
    Status st = TANE_OK;
    ModelReader m = {.spec = spec, .r = r, .unk_id = -1};
    spec->max_input_chars_per_word = 100;
    TRY(json_begin(r, '{'));
    for (bool more;;) {
        const char *key;
        char name[40] = "";
        size_t n;
        TRY(json_more(r, '}', &more));
        if (!more) break;
        TRY(json_next_key(r, &key, &n));
        strncpy(name, key, sizeof name - 1);
        TRY(read_member(&m, name));
    }
    TRY(finish(&m));
out:
    mem_free(m.entries);
    return st;
}
