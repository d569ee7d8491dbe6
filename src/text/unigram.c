/* Viterbi over a trie; the best path is turned around in place, without recursion. */
#include "text/unigram.h"

#include <math.h>
#include <string.h>

#include "text/trie.h"
#include "text/utf8.h"

typedef struct UnigramNode {
    double score;   /* of the best path that ends here */
    uint32_t start; /* of its last token */
    uint32_t next;  /* where the following token of the best path of all ends */
    int32_t id;     /* of its last token; NONE: no path ends here */
} UnigramNode;

enum { NONE = -1, UNKNOWN = -2 };
static const double UNKNOWN_PENALTY = 10.0;

struct Unigram {
    const SpecToken *tokens;
    Trie trie;
    double unknown_score;
    int32_t unk;
    bool has_bytes;
    int32_t byte_token[256];
};

Status unigram_new(Unigram **out, const SpecToken *tokens, int32_t n, int32_t unk, const int32_t *byte_token) {
    Status st = TANE_OK;
    Unigram *u;
    double lowest = INFINITY;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&u));
    for (int32_t i = 0; i < n; i++)
        if (tokens[i].score < lowest) lowest = tokens[i].score;
    u->tokens = tokens;
    u->unk = unk;
    u->unknown_score = lowest - UNKNOWN_PENALTY;
    u->has_bytes = byte_token != NULL;
    if (byte_token) memcpy(u->byte_token, byte_token, sizeof u->byte_token);
    TRY(trie_build(&u->trie, tokens, sizeof *tokens, (size_t)n));
    *out = u;
    u = NULL;
out:
    unigram_free(u);
    return st;
}

void unigram_free(Unigram *u) {
    if (!u) return;
    trie_free(&u->trie);
    mem_free(u);
}

void unigram_work_free(UnigramWork *work) {
    mem_free(work->nodes);
    *work = (UnigramWork){0};
}

static void offer(UnigramNode *node, double score, size_t start, int32_t id) {
    if (node->id != NONE && !(score > node->score)) return;
    *node = (UnigramNode){.score = score, .start = (uint32_t)start, .id = id};
}

/* Every place is reachable, because each character may stand alone. */
static void find_paths(const Unigram *u, UnigramNode *nodes, const char *text, size_t n) {
    uint32_t code = 0;
    nodes[0] = (UnigramNode){.id = NONE};
    for (size_t i = 1; i <= n; i++) nodes[i].id = NONE;
    for (size_t start = 0, length; start < n; start += length) {
        double before = nodes[start].score;
        bool single = false;
        uint32_t node = 0;
        length = utf8_decode(text + start, n - start, &code);
        for (size_t i = start; i < n && (node = trie_step(&u->trie, node, (uint8_t)text[i])); i++) {
            int32_t id = u->trie.nodes[node].value;
            if (id < 0) continue;
            offer(&nodes[i + 1], u->tokens[id].score + before, start, id);
            single |= i + 1 - start == length;
        }
        if (!single) offer(&nodes[start + length], u->unknown_score + before, start, UNKNOWN);
    }
}

/* Writes into each node of the best path where the next one is. */
static void turn_around(UnigramNode *nodes, size_t n) {
    for (size_t end = n, next = 0; end > 0;) {
        size_t start = nodes[end].start;
        nodes[end].next = (uint32_t)next;
        next = end;
        end = start;
        if (end == 0) nodes[0].next = (uint32_t)next;
    }
}

static Status put(TokenList *out, int32_t id, uint32_t **ends, size_t end) {
    TRY_RETURN(token_list_add(out, id));
    if (*ends) *(*ends)++ = (uint32_t)end;
    return TANE_OK;
}

/* A run of unknown characters: a token after all if it spells one, else its bytes, else one unknown token. */
static Status put_unknown(const Unigram *u, const char *text, size_t begin, size_t end, TokenList *out,
                          uint32_t **ends) {
    uint32_t node = 0;
    size_t at = begin;
    while (at < end && (node = trie_step(&u->trie, node, (uint8_t)text[at]))) at++;
    if (at == end && u->trie.nodes[node].value >= 0) return put(out, u->trie.nodes[node].value, ends, end);
    bool bytes = u->has_bytes;
    for (at = begin; at < end && bytes; at++) bytes = u->byte_token[(uint8_t)text[at]] >= 0;
    if (!bytes) return put(out, u->unk, ends, end);
    for (at = begin; at < end; at++) TRY_RETURN(put(out, u->byte_token[(uint8_t)text[at]], ends, at + 1));
    return TANE_OK;
}

static bool is_unknown(const Unigram *u, int32_t id) { return id == UNKNOWN || id == u->unk; }

static Status check_known(const Unigram *u, const UnigramNode *node, const char *text, size_t end) {
    if (node->id != UNKNOWN || u->unk >= 0) return TANE_OK;
    return FAIL(TANE_EINVAL,
                "the tokenizer has no token for \"%.*s\" and no unknown token either; its file lacks unk_id",
                (int)(end - node->start), text + node->start);
}

Status unigram_word(const Unigram *u, UnigramWork *work, const char *text, size_t n, TokenList *out, uint32_t *ends) {
    if (n + 1 > work->cap) {
        mem_free(work->nodes);
        *work = (UnigramWork){0};
        TRY_RETURN(MEM_NEW_ARRAY(&work->nodes, 2 * n + 64));
        work->cap = 2 * n + 64;
    }
    UnigramNode *nodes = work->nodes;
    find_paths(u, nodes, text, n);
    turn_around(nodes, n);
    for (size_t at = 0; at < n;) {
        size_t begin = at;
        for (size_t end; at < n && is_unknown(u, nodes[end = nodes[at].next].id); at = end)
            TRY_RETURN(check_known(u, &nodes[end], text, end));
        if (at > begin) {
            TRY_RETURN(put_unknown(u, text, begin, at, out, &ends));
        } else {
            at = nodes[at].next;
            TRY_RETURN(put(out, nodes[at].id, &ends, at));
        }
    }
    return TANE_OK;
}
