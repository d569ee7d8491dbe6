/* The tables of a vocabulary, merging, and the loop over the words of a text. */
#include "text/bpe.h"

#include <pthread.h>
#include <string.h>

#include "text/bpe_cache.h"
#include "text/scan.h"
#include "text/tokenizer_kind.h"
#include "text/utf8.h"

enum {
    ID_BITS = 21,                   /* of an id or a rank: three make a 64-bit word */
    NO_RANK = (1 << ID_BITS) - 1,
    FEW_SYMBOLS = 96,               /* up to here the lowest rank is found by looking at all of them */
    KEPT_SYMBOLS = 1 << 16,         /* arrays for longer words are not kept */
    JOIN_BITS = 20,
    FILTER_BITS = 21,
    LONG_TOKEN_BITS = 16,
    BATCH = 256                     /* words that are scanned before they are looked up */
};

/* Pairs that merge, by open addressing: left id, right id and rank in one word, so that the table is small. A free
 * slot is all ones, and so has NO_RANK. */
static const uint64_t FREE_PAIR = UINT64_MAX;

typedef struct TokenSlot {
    uint32_t hash;
    int32_t id; /* -1: free */
} TokenSlot;

/* Whether a character of several bytes becomes its token before anything merges across its ends: with such a
 * neighbour to its left, and to its right. */
enum { AFTER_ASCII = 1, AFTER_OTHER = 2, BEFORE_ASCII = 4, BEFORE_OTHER = 8 };

/* The characters of several bytes that do, by code point in two stages: id << 4 and the above; 0: it does not. */
typedef struct Atoms {
    uint16_t page[0x1100];
    uint32_t (*rows)[256]; /* row 0 is empty */
} Atoms;

typedef struct Pool {
    pthread_mutex_t lock;
    BpeWork *free;
} Pool;

struct Bpe {
    const BpeToken *tokens;
    int32_t n_tokens;
    bool chars, whole, fuse_unk, cuts;
    bool complete; /* no character (byte) is ever unknown */
    int32_t unk;
    size_t longest;
    uint64_t *pairs; /* (pair_mask + 1) */
    size_t pair_mask;
    int pair_shift;
    uint64_t *filter;   /* (2^FILTER_BITS bits) by the hash of a pair: some pair of this hash merges */
    int32_t *results;   /* by rank */
    TokenSlot *ids;     /* (id_mask + 1) by their bytes */
    size_t id_mask;
    uint64_t long_tokens[1 << (LONG_TOKEN_BITS - 6)]; /* bits by long_token_bit: there is such a token */
    int32_t byte_id[256]; /* bytes: the symbols words begin as; chars: of byte fallback. -1: none */
    Atoms atoms;
    uint64_t *joins;      /* (2^JOIN_BITS bits) which two characters meet in some merge, by hash */
    Pool *pool;
};

struct BpeWork {
    BpeWork *next;
    WordCache cache;
    size_t cap; /* of the arrays */
    int32_t *id, *rank;     /* symbols of the word, and the rank of each with its right neighbour */
    uint32_t *end;          /* the byte behind each */
    uint32_t *left, *right; /* neighbours, while the heap works */
    uint64_t *heap;         /* rank << 32 | symbol */
};

/* ---------------------------------------------------------------------------------------------------------- merging */

static inline bool get_bit(const uint64_t *bits, size_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void set_bit(uint64_t *bits, size_t i) { bits[i >> 6] |= (uint64_t)1 << (i & 63); }

static inline uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << ID_BITS | (uint32_t)right;
}

static inline uint64_t *pair_slot(const Bpe *b, uint64_t pair) {
    size_t i = pair * 0x9E3779B97F4A7C15u >> b->pair_shift;
    while (b->pairs[i] >> ID_BITS != pair && b->pairs[i] != FREE_PAIR) i = (i + 1) & b->pair_mask;
    return &b->pairs[i];
}

/* Half of all questions are about pairs that do not merge: a bit tells most of them, in a table that stays near. */
static inline size_t filter_bit(uint64_t pair) { return pair * 0x9E3779B97F4A7C15u >> (64 - FILTER_BITS); }

static inline int32_t rank_of(const Bpe *b, int32_t left, int32_t right) {
    uint64_t pair = pair_of(left, right);
    if (!get_bit(b->filter, filter_bit(pair))) return NO_RANK;
    return (int32_t)(*pair_slot(b, pair) & NO_RANK);
}

/* Merges the n symbols of w by looking at all ranks for each merge; returns how many are left. */
static size_t merge_few(const Bpe *b, BpeWork *w, size_t n) {
    int32_t *id = w->id, *rank = w->rank;
    uint32_t *end = w->end;
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(b, id[i], id[i + 1]);
    while (n > 1) {
        int32_t best = rank[0];
        for (size_t i = 1; i + 1 < n; i++) best = rank[i] < best ? rank[i] : best;
        if (best == NO_RANK) break;
        size_t at = 0;
        while (rank[at] != best) at++;
        n--;
        id[at] = b->results[best];
        end[at] = end[at + 1];
        for (size_t i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            end[i] = end[i + 1];
            rank[i] = rank[i + 1];
        }
        if (at > 0) rank[at - 1] = rank_of(b, id[at - 1], id[at]);
        if (at + 1 < n) rank[at] = rank_of(b, id[at], id[at + 1]);
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t x = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= x) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static void sift_up(uint64_t *heap, size_t i) {
    uint64_t x = heap[i];
    for (; i > 0 && heap[(i - 1) / 2] > x; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = x;
}

/* The same for many symbols. The heap has each pair when it came to be; an entry counts while its symbol still has that
 * rank. It holds fewer than 2 n entries: n at first, and each merge takes out one and puts in two at most. */
static size_t merge_many(const Bpe *b, BpeWork *w, size_t n) {
    int32_t *id = w->id, *rank = w->rank;
    uint32_t *left = w->left, *right = w->right, *end = w->end, count = (uint32_t)n;
    uint64_t *heap = w->heap;
    size_t waiting = 0;
    for (uint32_t i = 0; i < count; i++) {
        left[i] = i - 1;
        right[i] = i + 1;
        rank[i] = i + 1 < count ? rank_of(b, id[i], id[i + 1]) : NO_RANK;
        if (rank[i] != NO_RANK) heap[waiting++] = (uint64_t)(uint32_t)rank[i] << 32 | i;
    }
    for (size_t i = waiting / 2; i-- > 0;) sift_down(heap, waiting, i);
    while (waiting) {
        uint32_t at = (uint32_t)heap[0];
        int32_t best = (int32_t)(heap[0] >> 32);
        heap[0] = heap[--waiting];
        if (waiting) sift_down(heap, waiting, 0);
        if (rank[at] != best) continue;
        uint32_t gone = right[at], next = right[gone];
        id[at] = b->results[best];
        end[at] = end[gone];
        rank[gone] = NO_RANK;
        right[at] = next;
        if (next < count) left[next] = at;
        rank[at] = next < count ? rank_of(b, id[at], id[next]) : NO_RANK;
        if (rank[at] != NO_RANK) {
            heap[waiting] = (uint64_t)(uint32_t)rank[at] << 32 | at;
            sift_up(heap, waiting++);
        }
        if (at == 0) continue;
        uint32_t before = left[at];
        rank[before] = rank_of(b, id[before], id[at]);
        if (rank[before] != NO_RANK) {
            heap[waiting] = (uint64_t)(uint32_t)rank[before] << 32 | before;
            sift_up(heap, waiting++);
        }
    }
    size_t k = 0;
    for (uint32_t i = 0; i < count; i = right[i], k++) {
        id[k] = id[i];
        end[k] = end[i];
    }
    return k;
}

static void drop_arrays(BpeWork *w) {
    mem_free(w->id);
    mem_free(w->rank);
    mem_free(w->end);
    mem_free(w->left);
    mem_free(w->right);
    mem_free(w->heap);
    w->id = w->rank = NULL;
    w->end = w->left = w->right = NULL;
    w->heap = NULL;
    w->cap = 0;
}

static Status need_symbols(BpeWork *w, size_t n) {
    Status st = TANE_OK;
    if (n <= w->cap) return st;
    drop_arrays(w);
    size_t cap = n < 256 ? 256 : n;
    TRY(MEM_NEW_ARRAY(&w->id, cap));
    TRY(MEM_NEW_ARRAY(&w->rank, cap));
    TRY(MEM_NEW_ARRAY(&w->end, cap));
    TRY(MEM_NEW_ARRAY(&w->left, cap));
    TRY(MEM_NEW_ARRAY(&w->right, cap));
    TRY(MEM_NEW_ARRAY(&w->heap, 2 * cap));
    w->cap = cap;
out:
    if (st != TANE_OK) drop_arrays(w);
    return st;
}

/* ---------------------------------------------------------------------------------------------- what a word begins
 * as */

static int32_t find_token(const Bpe *b, const char *bytes, size_t n) {
    uint32_t hash = (uint32_t)bytes_hash(bytes, n);
    for (size_t i = hash & b->id_mask;; i = (i + 1) & b->id_mask) {
        int32_t id = b->ids[i].id;
        if (id < 0) return -1;
        if (b->ids[i].hash == hash && b->tokens[id].n == n && memcmp(b->tokens[id].bytes, bytes, n) == 0) return id;
    }
}

/* n > SHORT_BYTES: most long words are no tokens, which a few of their bytes tell. */
static inline size_t long_token_bit(const char *bytes, size_t n) {
    uint64_t first, last;
    memcpy(&first, bytes, 8);
    memcpy(&last, bytes + n - 8, 8);
    uint64_t h = first * 0x9E3779B97F4A7C15u ^ (last + n) * 0xC2B2AE3D27D4EB4Fu;
    return h >> (64 - LONG_TOKEN_BITS);
}

/* The character at p and its bytes; a byte that begins none stands for itself, above all code points. */
static inline uint32_t char_at(const char *p, size_t left, size_t *len) {
    uint32_t code;
    *len = utf8_decode(p, left, &code);
    if (*len) return code;
    *len = 1;
    return UTF8_MAX + 1 + (unsigned char)*p;
}

/* Bytes begin as themselves, but a character that would first become its token anyway begins as that: id, or -1. */
static inline int32_t atom_at(const Bpe *b, const char *word, size_t n, size_t at, uint32_t code, size_t len) {
    if (code < 0x80) return b->byte_id[code];
    if (code > UTF8_MAX) return -1;
    uint32_t atom = b->atoms.rows[b->atoms.page[code >> 8]][code & 255];
    bool after = at == 0 || atom & ((unsigned char)word[at - 1] < 0x80 ? AFTER_ASCII : AFTER_OTHER);
    bool before = at + len == n || atom & ((unsigned char)word[at + len] < 0x80 ? BEFORE_ASCII : BEFORE_OTHER);
    return atom && after && before ? (int32_t)(atom >> 4) : -1;
}

/* The symbols of a character that is no token: its bytes, where all have one. */
static size_t fall_back(const Bpe *b, BpeWork *w, size_t k, const char *word, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++) {
        w->id[k + i] = b->byte_id[(unsigned char)word[at + i]];
        w->end[k + i] = (uint32_t)(at + i + 1);
        if (w->id[k + i] < 0) return 0;
    }
    return n;
}

/* What is unknown: b->unk, nothing, or with the unknown one before it a single b->unk. */
static size_t add_unknown(const Bpe *b, BpeWork *w, size_t k, size_t end, bool again) {
    if (b->unk < 0) return k;
    k -= again && b->fuse_unk;
    w->id[k] = b->unk;
    w->end[k] = (uint32_t)end;
    return k + 1;
}

static size_t begin_chars(const Bpe *b, BpeWork *w, const char *word, size_t n) {
    size_t k = 0, bytes;
    bool unknown = false;
    for (size_t at = 0, len; at < n; at += len) {
        char_at(word + at, n - at, &len);
        int32_t id = find_token(b, word + at, len);
        if (id >= 0) {
            w->id[k] = id;
            w->end[k++] = (uint32_t)(at + len);
            unknown = false;
        } else if ((bytes = fall_back(b, w, k, word, at, len)) != 0) {
            k += bytes;
            unknown = false;
        } else {
            k = add_unknown(b, w, k, at + len, unknown);
            unknown = true;
        }
    }
    return k;
}

static size_t begin_bytes(const Bpe *b, BpeWork *w, const char *word, size_t n) {
    size_t k = 0;
    bool unknown = false;
    for (size_t at = 0, len; at < n; at += len) {
        uint32_t code = char_at(word + at, n - at, &len);
        int32_t id = atom_at(b, word, n, at, code, len);
        if (id >= 0) {
            w->id[k] = id;
            w->end[k++] = (uint32_t)(at + len);
            unknown = false;
            continue;
        }
        for (size_t i = at; i < at + len; i++) {
            id = b->byte_id[(unsigned char)word[i]];
            if (id >= 0) {
                w->id[k] = id;
                w->end[k++] = (uint32_t)(i + 1);
            } else {
                k = add_unknown(b, w, k, i + 1, unknown);
            }
            unknown = id < 0;
        }
    }
    return k;
}

/* The ids of word (n) in w->id, with w->end; how many. part: it is a part of a word, which is not looked up. */
static Status encode(const Bpe *b, BpeWork *w, const char *word, size_t n, bool part, size_t *count) {
    TRY_RETURN(need_symbols(w, n));
    int32_t whole = b->whole && !part && n <= b->longest ? find_token(b, word, n) : -1;
    if (whole >= 0) {
        w->id[0] = whole;
        w->end[0] = (uint32_t)n;
        *count = 1;
        return TANE_OK;
    }
    size_t k = b->chars ? begin_chars(b, w, word, n) : begin_bytes(b, w, word, n);
    *count = k <= FEW_SYMBOLS ? merge_few(b, w, k) : merge_many(b, w, k);
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------------------ words */

static Status append(TokenList *out, const int32_t *ids, size_t n) {
    TRY_RETURN(token_list_reserve(out, n));
    if (n) memcpy(out->ids + out->n, ids, n * sizeof *ids);
    out->n += n;
    return TANE_OK;
}

/* A word or a part of one that is merged as a whole, through the cache, where they are told apart; `readable` bytes
 * may be read from it on. */
static Status add_piece(const Bpe *b, BpeWork *w, const char *word, size_t n, size_t readable, bool part,
                        TokenList *out) {
    WordKey key = {0};
    uint32_t set = 0;
    uint64_t hash = 0;
    size_t k;
    if (n <= SHORT_BYTES) {
        key = word_key(word, n, readable);
        key.hi |= part ? PART_OF_WORD : 0;
        set = word_key_set(key);
        const ShortSlot *slot = short_find(&w->cache, key, set);
        if (slot) return append(out, slot->ids, slot->n);
    }
    if (n <= LONG_BYTES) {
        hash = bytes_hash(word, n) ^ (part ? PART_OF_WORD : 0);
        const int32_t *ids = long_find(&w->cache, word, n, hash, &k);
        if (ids) return append(out, ids, k);
    }
    TRY_RETURN(encode(b, w, word, n, part, &k));
    if (n <= SHORT_BYTES && k <= SHORT_IDS) short_put(&w->cache, key, set, w->id, k);
    else if (n <= LONG_BYTES) long_put(&w->cache, word, n, hash, w->id, k);
    return append(out, w->id, k);
}

static inline size_t join_bit(uint32_t left, uint32_t right) {
    return (uint32_t)(left * 0x9E3779B1u ^ right * 0x85EBCA77u) >> (32 - JOIN_BITS);
}

/* Between two characters that are symbols before anything merges across their ends, a merge that reaches across has the
 * first as the last character of its left side and the second as the first of its right. Where no merge has these two,
 * none will ever reach across, and both sides merge as if they were alone. Unknown characters, which may become one
 * token with their like or give nothing, stay with their neighbours. */
static Status add_cut(const Bpe *b, BpeWork *w, const char *word, size_t n, size_t readable, TokenList *out) {
    size_t begin = 0, len;
    uint32_t left = 0;
    bool left_symbol = false;
    for (size_t at = 0; at < n; at += len) {
        uint32_t code = char_at(word + at, n - at, &len);
        bool symbol = !b->chars ? atom_at(b, word, n, at, code, len) >= 0
                                : b->complete || find_token(b, word + at, len) >= 0;
        if (symbol && left_symbol && !get_bit(b->joins, join_bit(left, code))) {
            TRY_RETURN(add_piece(b, w, word + begin, at - begin, readable - begin, true, out));
            begin = at;
        }
        left = code;
        left_symbol = symbol;
    }
    return add_piece(b, w, word + begin, n - begin, readable - begin, true, out);
}

static Status add_word(const Bpe *b, BpeWork *w, const char *word, size_t n, size_t readable, TokenList *out) {
    if (n <= SHORT_BYTES || !b->cuts) return add_piece(b, w, word, n, readable, false, out);
    if (b->whole && n <= b->longest && get_bit(b->long_tokens, long_token_bit(word, n))) {
        int32_t id = find_token(b, word, n);
        if (id >= 0) return append(out, &id, 1);
    }
    return add_cut(b, w, word, n, readable, out);
}

Status bpe_word(const Bpe *b, BpeWork *w, const char *word, size_t n, TokenList *out, uint32_t *ends) {
    if (n == 0) return TANE_OK;
    if (!ends) return add_word(b, w, word, n, n, out);
    size_t k;
    TRY_RETURN(encode(b, w, word, n, false, &k));
    if (k) memcpy(ends, w->end, k * sizeof *ends);
    return append(out, w->id, k);
}

/* Words go through in batches: all are scanned, then all keys are made and their slots fetched, then all are looked up,
 * so that the steps do not wait for each other. */
Status bpe_text(const Bpe *b, BpeWork *w, const Scanner *scanner, const char *text, size_t n, TokenList *out) {
    size_t ends[BATCH], count;
    WordKey keys[BATCH];
    uint32_t sets[BATCH];
    for (size_t from = 0; from < n; from = ends[count - 1]) {
        TRY_RETURN(scanner_cut(scanner, text, n, from, ends, BATCH, &count));
        for (size_t i = 0, begin = from; i < count; begin = ends[i++]) {
            if (ends[i] - begin > SHORT_BYTES) continue;
            keys[i] = word_key(text + begin, ends[i] - begin, n - begin);
            sets[i] = word_key_set(keys[i]);
            __builtin_prefetch(w->cache.sets[sets[i]]);
        }
        TRY_RETURN(token_list_reserve(out, count * SHORT_IDS));
        size_t begin = from;
        for (size_t i = 0; i < count; begin = ends[i++]) {
            const ShortSlot *slot = ends[i] - begin <= SHORT_BYTES ? short_find(&w->cache, keys[i], sets[i]) : NULL;
            if (slot) {
                memcpy(out->ids + out->n, slot->ids, sizeof slot->ids); /* all three: that is one move */
                out->n += slot->n;
            } else {
                TRY_RETURN(add_word(b, w, text + begin, ends[i] - begin, n - begin, out));
                TRY_RETURN(token_list_reserve(out, (count - i) * SHORT_IDS));
            }
        }
    }
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------------ working
 * memory */

Status bpe_take(const Bpe *b, BpeWork **work) {
    Status st = TANE_OK;
    pthread_mutex_lock(&b->pool->lock);
    BpeWork *w = b->pool->free;
    if (w) b->pool->free = w->next;
    pthread_mutex_unlock(&b->pool->lock);
    *work = w;
    if (w) return TANE_OK;
    TRY(MEM_NEW(&w));
    TRY(word_cache_init(&w->cache));
    *work = w;
    w = NULL;
out:
    if (w) {
        word_cache_free(&w->cache);
        mem_free(w);
    }
    return st;
}

void bpe_give(const Bpe *b, BpeWork *w) {
    if (!w) return;
    if (w->cap > KEPT_SYMBOLS) drop_arrays(w);
    pthread_mutex_lock(&b->pool->lock);
    w->next = b->pool->free;
    b->pool->free = w;
    pthread_mutex_unlock(&b->pool->lock);
}

/* --------------------------------------------------------------------------------------------------------- building */

static size_t slots_for(size_t n) {
    size_t slots = 64;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

/* The first id of a text keeps it: tokens that are there twice are the vocabulary's affair. */
static Status index_tokens(Bpe *b) {
    size_t slots = slots_for((size_t)b->n_tokens);
    TRY_RETURN(MEM_NEW_ARRAY(&b->ids, slots));
    for (size_t i = 0; i < slots; i++) b->ids[i].id = -1;
    b->id_mask = slots - 1;
    for (int32_t id = 0; id < b->n_tokens; id++) {
        const BpeToken *t = &b->tokens[id];
        if (!t->bytes || t->n == 0 || find_token(b, t->bytes, t->n) >= 0) continue;
        uint32_t hash = (uint32_t)bytes_hash(t->bytes, t->n);
        size_t i = hash & b->id_mask;
        while (b->ids[i].id >= 0) i = (i + 1) & b->id_mask;
        b->ids[i] = (TokenSlot){hash, id};
        if (t->n > b->longest) b->longest = t->n;
        if (t->n > SHORT_BYTES) set_bit(b->long_tokens, long_token_bit(t->bytes, t->n));
    }
    return TANE_OK;
}

static Status new_pairs(Bpe *b, size_t n) {
    size_t slots = slots_for(n);
    TRY_RETURN(MEM_NEW_ARRAY(&b->pairs, slots));
    for (size_t i = 0; i < slots; i++) b->pairs[i] = FREE_PAIR;
    b->pair_mask = slots - 1;
    b->pair_shift = 64 - __builtin_ctzll(slots);
    return TANE_OK;
}

/* Notes which two characters meet in a merge; where one side ends within a character, they are no two symbols. */
static void note_join(Bpe *b, int32_t left, int32_t right) {
    const BpeToken *l = &b->tokens[left], *r = &b->tokens[right];
    size_t at = l->n - 1, len;
    while (at > 0 && l->n - at < 4 && ((unsigned char)l->bytes[at] & 0xC0) == 0x80) at--;
    uint32_t last = char_at(l->bytes + at, l->n - at, &len), first = char_at(r->bytes, r->n, &(size_t){0});
    if (at + len == l->n && last <= UTF8_MAX && first <= UTF8_MAX) {
        set_bit(b->joins, join_bit(last, first));
    } else if (b->chars) {
        b->cuts = false; /* a vocabulary that is not made of characters */
    }
}

static void add_pair(Bpe *b, int32_t left, int32_t right, int32_t rank, int32_t result) {
    uint64_t pair = pair_of(left, right);
    *pair_slot(b, pair) = pair << ID_BITS | (uint32_t)rank;
    set_bit(b->filter, filter_bit(pair));
    b->results[rank] = result;
    note_join(b, left, right);
}

static Status check_merge(const Bpe *b, const BpeMerge *m, size_t i, const char *where) {
    const int32_t ids[3] = {m->left, m->right, m->result};
    for (int k = 0; k < 3; k++)
        if (ids[k] < 0 || ids[k] >= b->n_tokens || !b->tokens[ids[k]].bytes || !b->tokens[ids[k]].n)
            return FAIL(TANE_EFORMAT, "%s: merge %zu has the id %d, which is no token of the vocabulary", where, i,
                        ids[k]);
    const BpeToken *l = &b->tokens[m->left], *r = &b->tokens[m->right], *t = &b->tokens[m->result];
    if (t->n != l->n + r->n || memcmp(t->bytes, l->bytes, l->n) != 0 || memcmp(t->bytes + l->n, r->bytes, r->n) != 0)
        return FAIL(TANE_EFORMAT, "%s: merge %zu makes \"%.*s\" of \"%.*s\" and \"%.*s\"", where, i, (int)t->n,
                    t->bytes, (int)l->n, l->bytes, (int)r->n, r->bytes);
    return TANE_OK;
}

static Status add_merges(Bpe *b, const BpeSpec *spec, const char *where) {
    TRY_RETURN(new_pairs(b, spec->n_merges));
    TRY_RETURN(MEM_NEW_ARRAY(&b->results, spec->n_merges));
    for (size_t i = 0; i < spec->n_merges; i++) {
        const BpeMerge *m = &spec->merges[i];
        TRY_RETURN(check_merge(b, m, i, where));
        add_pair(b, m->left, m->right, (int32_t)i, m->result);
    }
    return TANE_OK;
}

/* Ranks alone: of the ways to put a token together only one can happen, its last step when its own bytes are merged
 * as a word (as long as nothing merges across its ends, what happens between them does not depend on what is
 * outside). All its parts are shorter, so going by length finds it with what is there already. Tokens that no merge
 * makes are found only as whole words. */
static Status add_ranks(Bpe *b, const char *where) {
    Status st = TANE_OK;
    BpeWork w = {0};
    size_t *first = NULL, k;
    int32_t *by_length = NULL;
    for (int c = 0; c < 256; c++)
        if (b->byte_id[c] < 0)
            return FAIL(TANE_EFORMAT, "%s: no token for the single byte 0x%02X; ranks need all 256", where, c);
    TRY(new_pairs(b, (size_t)b->n_tokens));
    TRY(MEM_NEW_ARRAY(&b->results, (size_t)b->n_tokens));
    TRY(MEM_NEW_ARRAY(&first, b->longest + 2));
    TRY(MEM_NEW_ARRAY(&by_length, (size_t)b->n_tokens));
    for (int32_t id = 0; id < b->n_tokens; id++)
        if (b->tokens[id].bytes) first[b->tokens[id].n + 1]++;
    for (size_t n = 1; n <= b->longest + 1; n++) first[n] += first[n - 1];
    for (int32_t id = 0; id < b->n_tokens; id++)
        if (b->tokens[id].bytes) by_length[first[b->tokens[id].n]++] = id;
    for (size_t i = first[1]; i < first[b->longest]; i++) {
        const BpeToken *t = &b->tokens[by_length[i]];
        TRY(need_symbols(&w, t->n));
        k = begin_bytes(b, &w, t->bytes, t->n);
        k = k <= FEW_SYMBOLS ? merge_few(b, &w, k) : merge_many(b, &w, k);
        if (k == 2) add_pair(b, w.id[0], w.id[1], by_length[i], by_length[i]);
    }
out:
    drop_arrays(&w);
    mem_free(first);
    mem_free(by_length);
    return st;
}

/* Single bytes: the symbols of byte-level words, or what characters fall back to. */
static Status set_bytes(Bpe *b, const BpeSpec *spec, const char *where) {
    b->complete = true;
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        b->byte_id[c] = !b->chars ? find_token(b, &byte, 1) : spec->byte_token ? spec->byte_token[c] : -1;
        if (b->byte_id[c] >= b->n_tokens)
            return FAIL(TANE_EFORMAT, "%s: the byte 0x%02X has the id %d, but there are only %d tokens", where, c,
                        b->byte_id[c], b->n_tokens);
        if (b->byte_id[c] < 0) b->complete = false;
    }
    return TANE_OK;
}

/* The lowest rank of the merges that a token has its left or right side in, by whether the neighbour in there is ASCII
 * where the two meet. */
typedef struct LowestRanks {
    int32_t as_left[2], as_right[2];
} LowestRanks;

static void lower(int32_t *lowest, int32_t rank) {
    if (rank < *lowest) *lowest = rank;
}

static void lowest_ranks(const Bpe *b, LowestRanks *lowest) {
    for (int32_t id = 0; id < b->n_tokens; id++)
        lowest[id] = (LowestRanks){{NO_RANK, NO_RANK}, {NO_RANK, NO_RANK}};
    for (size_t i = 0; i <= b->pair_mask; i++) {
        if (b->pairs[i] == FREE_PAIR) continue;
        int32_t left = (int32_t)(b->pairs[i] >> 2 * ID_BITS), right = (int32_t)(b->pairs[i] >> ID_BITS & NO_RANK);
        int32_t rank = (int32_t)(b->pairs[i] & NO_RANK);
        const BpeToken *l = &b->tokens[left], *r = &b->tokens[right];
        lower(&lowest[left].as_left[(unsigned char)r->bytes[0] >= 0x80], rank);
        lower(&lowest[right].as_right[(unsigned char)l->bytes[l->n - 1] >= 0x80], rank);
    }
}

/* Merges the bytes of a token's character alone: the highest rank that this takes, or NO_RANK when it does not become
 * the token. */
static int32_t highest_rank(const Bpe *b, BpeWork *w, int32_t id) {
    const BpeToken *t = &b->tokens[id];
    size_t n = t->n;
    int32_t highest = 0;
    for (size_t i = 0; i < n; i++) w->id[i] = b->byte_id[(unsigned char)t->bytes[i]];
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank_of(b, w->id[i], w->id[i + 1]) < rank_of(b, w->id[best], w->id[best + 1])) best = i;
        int32_t rank = rank_of(b, w->id[best], w->id[best + 1]);
        if (rank == NO_RANK) return NO_RANK;
        if (rank > highest) highest = rank;
        w->id[best] = b->results[rank];
        for (size_t i = best + 1; i + 1 < n; i++) w->id[i] = w->id[i + 1];
        n--;
    }
    return w->id[0] == id ? highest : NO_RANK;
}

/* A character's own merges have ranks up to R. As long as it is in pieces, only a merge with its first or its last
 * piece reaches across its ends. If all such merges rank above R, its own always go first; if the merges of the whole
 * character rank above R too, having it whole from the start lets nothing happen earlier than it would, and all comes
 * out the same. */
static uint32_t atom_of(const Bpe *b, BpeWork *w, const LowestRanks *lowest, int32_t id) {
    const BpeToken *t = &b->tokens[id];
    int32_t highest = highest_rank(b, w, id), after[2] = {NO_RANK, NO_RANK}, before[2] = {NO_RANK, NO_RANK};
    if (highest == NO_RANK) return 0;
    for (int other = 0; other < 2; other++) {
        if (lowest[id].as_left[other] <= highest || lowest[id].as_right[other] <= highest) return 0;
        for (size_t n = 1; n < t->n; n++) {
            int32_t first = find_token(b, t->bytes, n), last = find_token(b, t->bytes + t->n - n, n);
            if (first >= 0) lower(&after[other], lowest[first].as_right[other]);
            if (last >= 0) lower(&before[other], lowest[last].as_left[other]);
        }
    }
    return (uint32_t)id << 4 | (after[0] > highest ? AFTER_ASCII : 0) | (after[1] > highest ? AFTER_OTHER : 0) |
           (before[0] > highest ? BEFORE_ASCII : 0) | (before[1] > highest ? BEFORE_OTHER : 0);
}

static Status find_atoms(Bpe *b) {
    Status st = TANE_OK;
    LowestRanks *lowest = NULL;
    BpeWork w = {0};
    size_t len, rows = 1;
    TRY(MEM_NEW_ARRAY(&lowest, (size_t)b->n_tokens));
    TRY(need_symbols(&w, 4));
    lowest_ranks(b, lowest);
    for (int32_t id = 0; id < b->n_tokens; id++) {
        const BpeToken *t = &b->tokens[id];
        if (!t->bytes || t->n < 2 || t->n > 4) continue;
        uint32_t code = char_at(t->bytes, t->n, &len), atom;
        if (len != t->n || !(atom = atom_of(b, &w, lowest, id))) continue;
        uint16_t *page = &b->atoms.page[code >> 8];
        if (!*page) {
            TRY(mem_grow((void **)&b->atoms.rows, rows, rows + 1, sizeof *b->atoms.rows));
            *page = (uint16_t)rows++;
        }
        b->atoms.rows[*page][code & 255] = atom;
    }
out:
    drop_arrays(&w);
    mem_free(lowest);
    return st;
}

/* Byte tokens that merge with others would be no characters at a cut. */
static bool bytes_merge(const Bpe *b, const BpeSpec *spec) {
    for (size_t i = 0; b->chars && i < spec->n_merges; i++)
        for (int c = 0; c < 256; c++)
            if (b->byte_id[c] >= 0 && (spec->merges[i].left == b->byte_id[c] || spec->merges[i].right == b->byte_id[c]))
                return true;
    return false;
}

Status bpe_new(Bpe **out, const BpeSpec *spec, const char *where) {
    Status st = TANE_OK;
    Bpe *b;
    *out = NULL;
    if (spec->n_tokens > NO_RANK || spec->n_merges > NO_RANK)
        return FAIL(TANE_EUNSUPPORTED, "%s: %d tokens and %zu merges; tane takes at most %d of each", where,
                    spec->n_tokens, spec->n_merges, NO_RANK);
    if (spec->unk >= spec->n_tokens)
        return FAIL(TANE_EFORMAT, "%s: the unknown token has the id %d, but there are only %d tokens", where, spec->unk,
                    spec->n_tokens);
    TRY_RETURN(MEM_NEW(&b));
    *b = (Bpe){.tokens = spec->tokens, .n_tokens = spec->n_tokens, .chars = spec->chars, .cuts = true, .unk = spec->unk,
               .whole = spec->ignore_merges || !spec->merges, .fuse_unk = spec->fuse_unk && spec->unk >= 0};
    TRY(MEM_NEW(&b->pool));
    pthread_mutex_init(&b->pool->lock, NULL);
    TRY(MEM_NEW_ARRAY(&b->joins, (size_t)1 << (JOIN_BITS - 6)));
    TRY(MEM_NEW_ARRAY(&b->filter, (size_t)1 << (FILTER_BITS - 6)));
    TRY(index_tokens(b));
    TRY(set_bytes(b, spec, where));
    TRY(MEM_NEW_ARRAY(&b->atoms.rows, 1)); /* none until they are found */
    if (spec->merges) TRY(add_merges(b, spec, where));
    else TRY(add_ranks(b, where));
    if (bytes_merge(b, spec)) b->cuts = false;
    if (!b->chars && b->complete) TRY(find_atoms(b));
    *out = b;
    b = NULL;
out:
    bpe_free(b);
    return st;
}

void bpe_free(Bpe *b) {
    if (!b) return;
    for (BpeWork *w = b->pool ? b->pool->free : NULL, *next; w; w = next) {
        next = w->next;
        drop_arrays(w);
        word_cache_free(&w->cache);
        mem_free(w);
    }
    if (b->pool) pthread_mutex_destroy(&b->pool->lock);
    mem_free(b->pool);
    mem_free(b->atoms.rows);
    mem_free(b->filter);
    mem_free(b->pairs);
    mem_free(b->results);
    mem_free(b->ids);
    mem_free(b->joins);
    mem_free(b);
}
