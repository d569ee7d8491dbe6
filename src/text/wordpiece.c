/* Greedy walks down a trie; continuations begin at the node of their prefix. */
#include "text/wordpiece.h"

#include "text/trie.h"

struct WordPiece {
    Trie trie;
    uint32_t continuing; /* node of the prefix */
    bool has_continuing, whole;
    int32_t unk;
    int64_t max_chars;
};

Status wordpiece_new(WordPiece **out, const TokenizerSpec *spec) {
    Status st = TANE_OK;
    WordPiece *w;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&w));
    w->unk = spec->unk;
    w->max_chars = spec->max_input_chars_per_word;
    w->whole = spec->model == TOKEN_WORDLEVEL;
    TRY(trie_build(&w->trie, spec->tokens, sizeof *spec->tokens, (size_t)spec->n_tokens));
    Bytes prefix = spec->continuing_subword_prefix;
    size_t i = 0;
    while (i < prefix.n && (w->continuing = trie_step(&w->trie, w->continuing, (uint8_t)prefix.data[i]))) i++;
    w->has_continuing = i == prefix.n;
    *out = w;
    w = NULL;
out:
    wordpiece_free(w);
    return st;
}

void wordpiece_free(WordPiece *w) {
    if (!w) return;
    trie_free(&w->trie);
    mem_free(w);
}

/* The end of the longest token at `at`, 0: none. */
static size_t longest(const WordPiece *w, uint32_t node, const char *word, size_t n, size_t at, int32_t *id) {
    size_t end = 0;
    for (size_t i = at; i < n && (node = trie_step(&w->trie, node, (uint8_t)word[i])); i++) {
        if (w->trie.nodes[node].value < 0) continue;
        *id = w->trie.nodes[node].value;
        end = i + 1;
    }
    return end;
}

static bool too_long(const WordPiece *w, const char *word, size_t n) {
    int64_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((uint8_t)word[i] & 0xC0) != 0x80;
    return !w->whole && chars > w->max_chars;
}

Status wordpiece_word(const WordPiece *w, const char *word, size_t n, TokenList *out, uint32_t *ends) {
    size_t before = out->n, at = 0;
    bool bad = too_long(w, word, n);
    while (at < n && !bad) {
        int32_t id = -1;
        size_t end = at && !w->has_continuing ? 0 : longest(w, at ? w->continuing : 0, word, n, at, &id);
        bad = end == 0 || (w->whole && end != n);
        if (bad) break;
        if (ends) ends[out->n - before] = (uint32_t)end;
        TRY_RETURN(token_list_add(out, id));
        at = end;
    }
    if (!bad) return TANE_OK;
    out->n = before;
    if (ends) *ends = (uint32_t)n;
    return token_list_add(out, w->unk);
}
