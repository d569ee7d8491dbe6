/* The matcher of added tokens: a trie, entered at each byte that one of them begins with. */
#include "text/added.h"

#include <string.h>

#include "text/classes.h"
#include "text/trie.h"
#include "text/utf8.h"

struct AddedSet {
    const AddedToken *tokens;
    Trie trie;
    uint8_t first[256]; /* a token begins with this byte */
    int only;           /* the byte that all begin with, -1: they differ */
};

static Status check_pattern(const char *where, const AddedToken *token, const Bytes *pattern) {
    if (pattern->n == 0)
        return FAIL(TANE_EFORMAT, "%s: added token %d has no text%s; it could never be found", where, token->id,
                    token->normalized ? " once normalized" : "");
    if (pattern->n > ADDED_MAX_BYTES)
        return FAIL(TANE_EUNSUPPORTED, "%s: added token %d has %zu bytes; tane takes at most %d", where, token->id,
                    pattern->n, ADDED_MAX_BYTES);
    return TANE_OK;
}

static Status check_distinct(const char *where, const AddedToken *tokens, const Bytes *patterns, size_t n) {
    Vocab seen;
    Status st = vocab_init(&seen, patterns, sizeof *patterns, n);
    for (size_t i = 0; st == TANE_OK && i < n; i++) {
        int32_t twin = patterns[i].data ? vocab_add(&seen, (int32_t)i) : -1;
        if (twin >= 0)
            st = FAIL(TANE_EFORMAT, "%s: added tokens %d and %d have the same text \"%.*s\"; remove one", where,
                      tokens[twin].id, tokens[i].id, (int)(patterns[i].n < 80 ? patterns[i].n : 80), patterns[i].data);
    }
    vocab_free(&seen);
    return st;
}

Status added_new(AddedSet **out, const char *where, const AddedToken *tokens, const Bytes *patterns, size_t n) {
    Status st = TANE_OK;
    AddedSet *set = NULL;
    int firsts = 0;
    *out = NULL;
    for (size_t i = 0; i < n; i++)
        if (patterns[i].data) TRY(check_pattern(where, &tokens[i], &patterns[i]));
    TRY(check_distinct(where, tokens, patterns, n));
    TRY(MEM_NEW(&set));
    set->tokens = tokens;
    set->only = -1;
    TRY(trie_build(&set->trie, patterns, sizeof *patterns, n));
    for (int byte = 0; byte < 256; byte++) {
        if (!set->trie.root[byte]) continue;
        set->first[byte] = 1;
        set->only = firsts++ ? -1 : byte;
    }
    *out = set;
    set = NULL;
out:
    added_free(set);
    return st;
}

void added_free(AddedSet *set) {
    if (!set) return;
    trie_free(&set->trie);
    mem_free(set);
}

/* The next byte at which a token may begin. */
static size_t next_candidate(const AddedSet *set, const char *text, size_t n, size_t at) {
    if (set->only >= 0) {
        const char *found = at < n ? memchr(text + at, set->only, n - at) : NULL;
        return found ? (size_t)(found - text) : n;
    }
    while (at < n && !set->first[(uint8_t)text[at]]) at++;
    return at;
}

/* The end of the last literal byte of [begin, end), `begin` when there is none. */
static size_t literal_end(const AddedScan *s, size_t begin, size_t end) {
    while (s->literal && end > begin && !s->literal[end - 1]) end--;
    return s->literal ? end : begin;
}

static bool word_before(const char *text, size_t at) {
    size_t begin = at;
    uint32_t code = 0;
    while (begin > 0 && at - begin < 4 && ((uint8_t)text[begin - 1] & 0xC0) == 0x80) begin--;
    if (begin > 0) begin--;
    return utf8_decode(text + begin, at - begin, &code) && char_is_word(code);
}

static bool word_behind(const char *text, size_t n, size_t at) {
    uint32_t code = 0;
    return utf8_decode(text + at, n - at, &code) && char_is_word(code);
}

static size_t spaces_before(const char *text, size_t at, size_t limit) {
    while (at > limit) {
        size_t begin = at - 1;
        uint32_t code = 0;
        while (begin > limit && ((uint8_t)text[begin] & 0xC0) == 0x80) begin--;
        if (utf8_decode(text + begin, at - begin, &code) != at - begin || !char_is_space(code)) break;
        at = begin;
    }
    return at;
}

static size_t spaces_behind(const char *text, size_t n, size_t at) {
    uint32_t code = 0;
    for (size_t len; (len = utf8_decode(text + at, n - at, &code)) && char_is_space(code);) at += len;
    return at;
}

/* The longest token at `at` that may be taken; *longest gets the end of the longest of all, 0: none. */
static int32_t match(const AddedScan *s, size_t at, size_t *end, size_t *longest) {
    const AddedSet *set = s->set;
    int32_t found = -1;
    *longest = 0;
    uint32_t node = 0;
    for (size_t i = at; i < s->n && (node = trie_step(&set->trie, node, (uint8_t)s->text[i])); i++) {
        int32_t value = set->trie.nodes[node].value;
        if (value < 0) continue;
        *longest = i + 1;
        bool special = set->tokens[value].special;
        if (special && literal_end(s, at, i + 1) > at) continue;
        found = special && !s->parse_special ? -1 : value; /* the longest counts, also when it is text */
        *end = i + 1;
    }
    return found;
}

const AddedToken *added_next(AddedScan *s, size_t *begin) {
    if (!s->set) return NULL;
    for (size_t at = s->at; (at = next_candidate(s->set, s->text, s->n, at)) < s->n;) {
        size_t end = 0, longest;
        int32_t found = match(s, at, &end, &longest);
        if (found < 0) {
            size_t literal = literal_end(s, at, longest ? longest : at);
            at = literal > at ? literal : longest ? longest : at + 1;
            continue;
        }
        const AddedToken *token = &s->set->tokens[found];
        s->at = end;
        if (token->single_word && (word_before(s->text, at) || word_behind(s->text, s->n, end))) {
            at = end;
            continue;
        }
        *begin = token->lstrip ? spaces_before(s->text, at, s->done < at ? s->done : at) : at;
        s->done = token->rstrip ? spaces_behind(s->text, s->n, end) : end;
        return token;
    }
    s->at = s->n;
    return NULL;
}
