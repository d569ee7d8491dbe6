/* Joining pairs, the most frequent first.
 *
 * Every pair has a count, and a queue holds *candidates*: a pair, the words in which it came up, and the count it had
 * then. The candidate with the highest count comes out first, of equal ones that with the smaller ids. One whose count
 * is out of date goes back with today's; else its pair becomes a token, in all its words.
 *
 * Counts are those of Hugging Face's BpeTrainer, but 64-bit: occurrences that overlap all count, so that aaa has aa
 * twice. A text is made in one way only: between two borders that no merge has crossed, merges go as if nothing stood
 * around. So a pair comes up in the one merge that makes the younger of its two tokens, and is one candidate, once.
 *
 * Joining the pair (l, r) to t changes, for a neighbour x on the left, the pairs (x, l) and (x, t), and on the right
 * (r, x) and (t, x). So all occurrences are summed in arrays over x first, one set a thread, and each pair is looked up
 * once.
 */
#include "text/bpe_learn.h"

#include <omp.h>
#include <string.h>

enum {
    HEAD = 3,          /* of a word: length, count (64 bits) */
    AHEAD = 8,         /* words that are fetched while one is worked on */
    ALONE = 1 << 16,   /* fewer words, about a millisecond, are not worth a second thread */
    REPORT_EVERY = 256 /* merges */
};

#define KEY(left, right) ((uint64_t)(uint32_t)(left) << 32 | (uint32_t)(right))

typedef struct Pair {
    uint64_t key;
    int64_t count;
} Pair;

typedef struct Candidate {
    int64_t count;
    uint64_t key;
    uint64_t words; /* lists[words..words + n) */
    uint32_t n, pair;
} Candidate;

enum { LEFT, RIGHT, SIDES };

/* What joining a pair did beside neighbour x, on one side. All zero between two merges. */
typedef struct Near {
    int64_t delta;
    uint32_t n, last; /* words in which the new pair came up; the last of them */
    uint64_t at;      /* where the next goes in `lists` */
} Near;

typedef struct Event {
    int32_t near; /* SIDES * x + side */
    uint32_t word;
} Event;

/* One thread's share of a merge. */
typedef struct Worker {
    Near *near; /* (ids, SIDES) */
    int32_t *touched;
    Event *events;
    size_t n_touched, n_events, cap_events;
} Worker;

typedef struct Learner {
    BpeVocab *vocab;
    const BpeLearnOptions *options;
    int threads;
    uint32_t *words; /* each word: HEAD, then its tokens; word 0 is never there */
    uint32_t *lists; /* words of the candidates, the older ones first */
    uint64_t n_lists, cap_lists;
    Pair *pairs;
    size_t n_pairs, cap_pairs;
    uint32_t *slots; /* 1 + place in pairs, by hash; 0: free */
    size_t mask;
    Candidate *heap;
    size_t n_heap, cap_heap;
    Worker *workers; /* (threads) */
    SpecMerge *merges;
    size_t n_merges, cap_merges;
} Learner;

static Status reserve(void *array, size_t *cap, size_t used, size_t need, size_t size) {
    if (need <= *cap) return TANE_OK;
    size_t more = need > 2 * *cap ? need : 2 * *cap;
    TRY_RETURN(mem_grow((void **)array, used, more, size));
    *cap = more;
    return TANE_OK;
}

/* ---- pairs ---- */

static size_t pair_slot(const Learner *l, uint64_t key) {
    uint64_t hash = key * 0x9E3779B97F4A7C15u;
    size_t at = (hash ^ hash >> 32) & l->mask;
    while (l->slots[at] && l->pairs[l->slots[at] - 1].key != key) at = (at + 1) & l->mask;
    return at;
}

/* The pair's place, put there with count 0 if it is new. */
static Status find_pair(Learner *l, uint64_t key, uint32_t *pair) {
    if (l->n_pairs >= l->mask / 2) {
        size_t slots = l->mask ? 2 * (l->mask + 1) : 1 << 16;
        mem_free(l->slots);
        l->slots = NULL;
        TRY_RETURN(MEM_NEW_ARRAY(&l->slots, slots));
        l->mask = slots - 1;
        for (size_t i = 0; i < l->n_pairs; i++) l->slots[pair_slot(l, l->pairs[i].key)] = (uint32_t)i + 1;
    }
    size_t at = pair_slot(l, key);
    if (!l->slots[at]) {
        if (l->n_pairs == UINT32_MAX - 1)
            return FAIL(TANE_EUNSUPPORTED, "more than 2^32 different pairs; use less text");
        TRY_RETURN(reserve(&l->pairs, &l->cap_pairs, l->n_pairs, l->n_pairs + 1, sizeof *l->pairs));
        l->pairs[l->n_pairs++].key = key;
        l->slots[at] = (uint32_t)l->n_pairs;
    }
    *pair = l->slots[at] - 1;
    return TANE_OK;
}

/* ---- the queue: a heap of four children a node ---- */

/* Does a come out before b? */
static inline bool before(const Candidate *a, const Candidate *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void sift_down(Learner *l, size_t at, Candidate moved) {
    for (size_t first; (first = 4 * at + 1) < l->n_heap;) {
        size_t best = first, end = first + 4 < l->n_heap ? first + 4 : l->n_heap;
        for (size_t i = first + 1; i < end; i++)
            if (before(&l->heap[i], &l->heap[best])) best = i;
        if (!before(&l->heap[best], &moved)) break;
        l->heap[at] = l->heap[best];
        at = best;
    }
    l->heap[at] = moved;
}

static Status push(Learner *l, Candidate c) {
    TRY_RETURN(reserve(&l->heap, &l->cap_heap, l->n_heap, l->n_heap + 1, sizeof *l->heap));
    size_t at = l->n_heap++;
    for (size_t parent; at && before(&c, &l->heap[parent = (at - 1) / 4]); at = parent) l->heap[at] = l->heap[parent];
    l->heap[at] = c;
    return TANE_OK;
}

/* The next candidate with its count up to date; false when there is none. */
static bool pop(Learner *l, Candidate *out) {
    while (l->n_heap) {
        *out = l->heap[0];
        int64_t count = l->pairs[out->pair].count;
        if (out->count == count) {
            Candidate last = l->heap[--l->n_heap];
            if (l->n_heap) sift_down(l, 0, last);
            return true;
        }
        out->count = count;
        sift_down(l, 0, *out);
    }
    return false;
}

/* ---- the words' first pairs ---- */

/* By a thread over its words, for each pair of bytes. */
typedef struct ByteCell {
    int64_t count;
    uint64_t at;
    uint32_t n, last;
} ByteCell;

static size_t share(const WordList *words, int threads, int which) {
    return (size_t)((__uint128_t)words->n * (unsigned)which / (unsigned)threads);
}

/* Word i lies at 1 + starts[i] + HEAD * i. */
static uint32_t word_at(const WordList *words, size_t i) { return (uint32_t)(1 + words->starts[i] + HEAD * i); }

static void lay_words(Learner *l, const WordList *words, ByteCell *cells, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        uint32_t at = word_at(words, i), n = (uint32_t)(words->starts[i + 1] - words->starts[i]);
        const unsigned char *bytes = (const unsigned char *)words->bytes + words->starts[i];
        l->words[at] = n;
        memcpy(&l->words[at + 1], &words->counts[i], 8);
        for (uint32_t k = 0; k < n; k++) l->words[at + HEAD + k] = (uint32_t)l->vocab->byte[bytes[k]];
        for (uint32_t k = 0; k + 1 < n; k++) {
            ByteCell *cell = &cells[bytes[k] << 8 | bytes[k + 1]];
            cell->count += words->counts[i];
            cell->n += cell->last != at;
            cell->last = at;
        }
    }
}

static void list_words(Learner *l, const WordList *words, ByteCell *cells, size_t from, size_t to) {
    for (size_t i = 0; i < 65536; i++) cells[i].last = 0;
    for (size_t i = from; i < to; i++) {
        uint32_t at = word_at(words, i), n = l->words[at];
        const unsigned char *bytes = (const unsigned char *)words->bytes + words->starts[i];
        for (uint32_t k = 0; k + 1 < n; k++) {
            ByteCell *cell = &cells[bytes[k] << 8 | bytes[k + 1]];
            if (cell->last != at) l->lists[cell->at++] = at;
            cell->last = at;
        }
    }
}

/* The candidates of all pairs of bytes; cells: (threads, 65536). Their lists are laid out, not filled in. */
static Status first_candidates(Learner *l, ByteCell *cells) {
    for (uint32_t b = 0; b < 65536; b++) {
        Candidate c = {.words = l->n_lists, .key = KEY(l->vocab->byte[b >> 8], l->vocab->byte[b & 255])};
        for (int i = 0; i < l->threads; i++) {
            ByteCell *cell = &cells[(size_t)i << 16 | b];
            cell->at = c.words + c.n;
            c.n += cell->n;
            c.count += cell->count;
        }
        if (!c.n) continue;
        TRY_RETURN(find_pair(l, c.key, &c.pair));
        l->pairs[c.pair].count = c.count;
        l->n_lists += c.n;
        TRY_RETURN(push(l, c));
    }
    return reserve(&l->lists, &l->cap_lists, 0, l->n_lists, sizeof *l->lists);
}

static Status first_pairs(Learner *l, const WordList *words) {
    Status st = TANE_OK;
    ByteCell *cells = NULL;
    uint64_t units = 1 + words->starts[words->n] + HEAD * (uint64_t)words->n;
    if (units > UINT32_MAX)
        return FAIL(TANE_EUNSUPPORTED, "%zu different words of %llu bytes in all are too many; use less text", words->n,
                    (unsigned long long)words->starts[words->n]);
    TRY(MEM_NEW_ARRAY(&l->words, units));
    TRY(MEM_NEW_ARRAY(&cells, (size_t)l->threads << 16));
#pragma omp parallel for schedule(static, 1) num_threads(l->threads)
    for (int i = 0; i < l->threads; i++)
        lay_words(l, words, &cells[(size_t)i << 16], share(words, l->threads, i), share(words, l->threads, i + 1));
    TRY(first_candidates(l, cells));
#pragma omp parallel for schedule(static, 1) num_threads(l->threads)
    for (int i = 0; i < l->threads; i++)
        list_words(l, words, &cells[(size_t)i << 16], share(words, l->threads, i), share(words, l->threads, i + 1));
out:
    mem_free(cells);
    return st;
}

/* ---- a merge ---- */

static inline Near *touch(Worker *w, int32_t near, int64_t delta) {
    Near *x = &w->near[near];
    if (!x->delta) w->touched[w->n_touched++] = near;
    x->delta += delta;
    return x;
}

/* A joined pair stands beside a token in a word, which occurs `count` times. */
static inline Status note(Worker *w, int32_t near, uint32_t word, int64_t count) {
    Near *x = touch(w, near, count);
    if (x->last == word) return TANE_OK;
    if (w->n_events == w->cap_events)
        TRY_RETURN(reserve(&w->events, &w->cap_events, w->n_events, w->n_events + 1024, sizeof *w->events));
    x->last = word;
    x->n++;
    w->events[w->n_events++] = (Event){near, word};
    return TANE_OK;
}

/* Joins (left, right) to `made` in a word. */
static Status join_in_word(Learner *l, Worker *w, uint32_t word, uint32_t left, uint32_t right, uint32_t made) {
    uint32_t *head = &l->words[word], *s = head + HEAD, n = *head, i = 0;
    int64_t count;
    memcpy(&count, head + 1, 8);
    while (i + 1 < n && (s[i] != left || s[i + 1] != right)) i++;
    if (i + 1 >= n) return TANE_OK;
    uint32_t out = i;
    while (i < n) {
        if (s[i] != left || i + 1 == n || s[i + 1] != right) {
            s[out++] = s[i++];
            continue;
        }
        if (out) TRY_RETURN(note(w, (int32_t)(SIDES * s[out - 1] + LEFT), word, count));
        s[out++] = made;
        i += 2;
        if (i < n) TRY_RETURN(note(w, (int32_t)(SIDES * s[i] + RIGHT), word, count));
    }
    *head = out;
    return TANE_OK;
}

static Status join_in_words(Learner *l, Worker *w, const uint32_t *words, size_t n, uint64_t key, uint32_t made) {
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n) __builtin_prefetch(&l->words[words[i + AHEAD]]);
        TRY_RETURN(join_in_word(l, w, words[i], (uint32_t)(key >> 32), (uint32_t)key, made));
    }
    return TANE_OK;
}

/* In all words of a candidate, by one thread or by all. */
static Status join_everywhere(Learner *l, const Candidate *c, uint32_t made) {
    const uint32_t *words = &l->lists[c->words];
    if (c->n < ALONE || l->threads == 1) return join_in_words(l, &l->workers[0], words, c->n, c->key, made);
    ErrorCopy error;
    bool failed = false;
#pragma omp parallel for schedule(static, 1) num_threads(l->threads)
    for (int i = 0; i < l->threads; i++) {
        size_t from = (size_t)c->n * (size_t)i / (size_t)l->threads;
        size_t to = (size_t)c->n * (size_t)(i + 1) / (size_t)l->threads;
        if (join_in_words(l, &l->workers[i], words + from, to - from, c->key, made) == TANE_OK) continue;
#pragma omp critical(bpe_learn_error)
        {
            failed = true;
            err_save(&error);
        }
    }
    return failed ? err_restore(&error) : TANE_OK;
}

/* Everything that the threads noted, in the first one's arrays. */
static void gather(Learner *l) {
    Worker *all = &l->workers[0];
    for (int i = 1; i < l->threads; i++) {
        const Worker *w = &l->workers[i];
        for (size_t k = 0; k < w->n_touched; k++) {
            const Near *from = &w->near[w->touched[k]];
            touch(all, w->touched[k], from->delta)->n += from->n;
        }
    }
}

/* Counts of the pairs beside one neighbour. The new one's place is left in near->at. */
static Status change_counts(Learner *l, Near *near, int32_t x, int side, uint64_t joined, uint32_t made) {
    uint32_t old, new;
    TRY_RETURN(find_pair(l, side == LEFT ? KEY(x, joined >> 32) : KEY(joined, x), &old));
    TRY_RETURN(find_pair(l, side == LEFT ? KEY(x, made) : KEY(made, x), &new));
    l->pairs[old].count -= near->delta;
    l->pairs[new].count += near->delta;
    near->at = new;
    return TANE_OK;
}

/* A candidate for the new pair beside one neighbour, if it is one still; its list is not filled in yet. */
static Status add_candidate(Learner *l, Near *near) {
    Candidate c = {.count = l->pairs[near->at].count,
                   .key = l->pairs[near->at].key,
                   .words = l->n_lists,
                   .n = near->n,
                   .pair = (uint32_t)near->at};
    near->at = l->n_lists;
    l->n_lists += near->n;
    return c.count > 0 ? push(l, c) : TANE_OK;
}

/* What a merge changed: counts, then candidates, then the lists of their words. */
static Status apply(Learner *l, uint64_t joined, uint32_t made) {
    Worker *all = &l->workers[0];
    gather(l);
    for (size_t i = 0; i < all->n_touched; i++) {
        int32_t at = all->touched[i];
        TRY_RETURN(change_counts(l, &all->near[at], at / SIDES, at % SIDES, joined, made));
    }
    for (size_t i = 0; i < all->n_touched; i++) TRY_RETURN(add_candidate(l, &all->near[all->touched[i]]));
    TRY_RETURN(reserve(&l->lists, &l->cap_lists, l->cap_lists, l->n_lists, sizeof *l->lists));
    for (int i = 0; i < l->threads; i++) {
        const Worker *w = &l->workers[i];
        for (size_t k = 0; k < w->n_events; k++) l->lists[all->near[w->events[k].near].at++] = w->events[k].word;
    }
    for (int i = l->threads - 1; i >= 0; i--) {
        Worker *w = &l->workers[i];
        for (size_t k = 0; k < w->n_touched; k++) w->near[w->touched[k]] = (Near){0};
        w->n_touched = w->n_events = 0;
    }
    return TANE_OK;
}

/* The id of two tokens' texts together, a new one unless a special token has that text. */
static Status make_token(BpeVocab *v, uint64_t key, int32_t *id) {
    const Bytes left = v->tokens[key >> 32].text, right = v->tokens[(uint32_t)key].text;
    char *text;
    TRY_RETURN(arena_new(v->arena, (void **)&text, left.n + right.n + 1, 1));
    memcpy(text, left.data, left.n);
    memcpy(text + left.n, right.data, right.n);
    v->tokens[v->n].text = (Bytes){text, left.n + right.n};
    *id = vocab_add(&v->index, v->n);
    if (*id < 0) *id = v->n++;
    return TANE_OK;
}

static Status note_merge(Learner *l, const Candidate *c) {
    TRY_RETURN(reserve(&l->merges, &l->cap_merges, l->n_merges, l->n_merges + 1, sizeof *l->merges));
    l->merges[l->n_merges++] = (SpecMerge){(int32_t)(c->key >> 32), (int32_t)(uint32_t)c->key};
    return TANE_OK;
}

static Status merge_loop(Learner *l) {
    BpeVocab *v = l->vocab;
    const int32_t first = v->n;
    Candidate c;
    while (v->n < v->cap && pop(l, &c) && c.count >= 1 && c.count >= l->options->min_frequency) {
        int32_t made;
        TRY_RETURN(make_token(v, c.key, &made));
        TRY_RETURN(note_merge(l, &c));
        TRY_RETURN(join_everywhere(l, &c, (uint32_t)made));
        TRY_RETURN(apply(l, c.key, (uint32_t)made));
        if (l->options->progress && l->n_merges % REPORT_EVERY == 0 &&
            l->options->progress(l->options->user, (double)(v->n - first) / (v->cap - first)))
            return FAIL(TANE_ECANCELED, "stopped with %d of %d tokens", v->n, v->cap);
    }
    return TANE_OK;
}

static void learner_free(Learner *l) {
    mem_free(l->words);
    mem_free(l->lists);
    mem_free(l->pairs);
    mem_free(l->slots);
    mem_free(l->heap);
    mem_free(l->merges);
    for (int i = 0; l->workers && i < l->threads; i++) {
        mem_free(l->workers[i].near);
        mem_free(l->workers[i].touched);
        mem_free(l->workers[i].events);
    }
    mem_free(l->workers);
}

Status bpe_learn(BpeVocab *vocab, const WordList *words, const BpeLearnOptions *options, SpecMerge **merges,
                 size_t *n_merges) {
    Status st = TANE_OK;
    Learner l = {.vocab = vocab, .options = options, .threads = options->threads};
    *merges = NULL;
    *n_merges = 0;
    TRY(MEM_NEW_ARRAY(&l.workers, (size_t)l.threads));
    for (int i = 0; i < l.threads; i++) {
        TRY(MEM_NEW_ARRAY(&l.workers[i].near, SIDES * (size_t)vocab->cap));
        TRY(MEM_NEW_ARRAY(&l.workers[i].touched, SIDES * (size_t)vocab->cap));
    }
    TRY(first_pairs(&l, words));
    TRY(merge_loop(&l));
    *merges = l.merges;
    *n_merges = l.n_merges;
    l.merges = NULL;
out:
    learner_free(&l);
    return st;
}
