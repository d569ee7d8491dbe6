/* Counting words in parallel.
 *
 * Many small texts are shared out whole. A large one is cut at places where a word need not begin: each thread scans
 * its part from there, leaves the first WARM_UP bytes uncounted, and goes on to the first word that ends in the next
 * part. Where a word ends depends only on where it begins and on the text. So when the words counted on from the end of
 * the part before come to where this part's count began, both scans agree from there on; else the part is counted
 * again. The counts are those of one scan from the beginning, whatever the expression.
 */
#include "text/word_count.h"

#include <omp.h>
#include <string.h>

#include "text/utf8.h"

enum {
    BATCH = 256,       /* words between two calls of the scanner */
    INLINE_BYTES = 15, /* longer words lie outside of the table */
    LONG_WORD = 255,
    TASK = 64 << 10, /* bytes of small texts that a thread takes at a time */
    PART = 1 << 20,  /* of a large one */
    WAVE = 4,        /* parts for each thread between two joins: a word that covers many is not scanned for each */
    WARM_UP = 256,
    FIRST_SLOTS = 1 << 12
};

/* A word of up to 15 bytes is in its key: the bytes, zeros, and the length in the last byte. Of a longer one the key
 * has the hash, the place in Table.text and LONG_WORD in the last byte; there lie the length (8 bytes) and the bytes.
 */
typedef struct Slot {
    uint64_t lo, hi; /* hi 0: free */
    int64_t count;
} Slot;

typedef struct Table {
    Slot *slots;
    size_t mask, used, bytes; /* bytes: of all words */
    char *text;
    size_t n_text, cap_text;
} Table;

typedef struct Text {
    const char *bytes;
    size_t n;
} Text;

/* A piece of work: texts[first..last) whole, or a part of a large text. */
typedef struct Task {
    size_t first, last;
    size_t begin, end; /* of a part; it has the words that begin in [begin, end) */
    size_t counted;    /* where its own count began */
    size_t reached;    /* behind its last word, >= end */
} Task;

struct WordCounter {
    const Scanner *scanner;
    int threads;
    Table *tables; /* (threads) */
    char *buffer;  /* (WORD_COUNT_BUFFER + 16) texts that wait */
    size_t filled;
    Text *texts; /* (n_texts) in the buffer */
    size_t n_texts, cap_texts;
    Task *tasks;
    size_t n_tasks, cap_tasks;
    uint64_t texts_before; /* those already counted, for errors */
};

/* ---- the table ---- */

static inline uint64_t load64(const char *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static inline uint64_t mix(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD1B54A32D192ED03u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_long(const char *word, size_t n) {
    uint64_t h = n;
    size_t i = 0;
    for (; n - i >= 8; i += 8) h = mix(h, load64(word + i));
    char tail[8] = {0};
    memcpy(tail, word + i, n - i);
    return mix(h, load64(tail));
}

/* The key of a word; a long one's lacks the place. Up to `limit` may be read. */
static inline Slot key_of(const char *word, size_t n, const char *limit) {
    static const uint64_t ones = UINT64_MAX;
    Slot key = {.hi = (uint64_t)LONG_WORD << 56};
    if (n > INLINE_BYTES) {
        key.lo = hash_long(word, n);
        return key;
    }
    if (limit - word >= 16) {
        key.lo = n >= 8 ? load64(word) : load64(word) & ~(ones << 8 * n);
        key.hi = n > 8 ? load64(word + 8) & ~(ones << 8 * (n - 8)) : 0;
    } else {
        char bytes[16] = {0};
        memcpy(bytes, word, n);
        key.lo = load64(bytes);
        key.hi = load64(bytes + 8);
    }
    key.hi |= (uint64_t)n << 56;
    return key;
}

static inline bool is_long(const Slot *slot) { return slot->hi >> 56 == LONG_WORD; }
static inline size_t long_at(const Slot *slot) { return slot->hi & (UINT64_MAX >> 8); }
static inline uint64_t hash_of(const Slot *key) { return is_long(key) ? key->lo : mix(key->lo, key->hi); }

/* The bytes of a slot's word. */
static const char *word_of(const Table *t, const Slot *slot, size_t *n) {
    if (is_long(slot)) {
        *n = load64(t->text + long_at(slot));
        return t->text + long_at(slot) + 8;
    }
    *n = slot->hi >> 56;
    return (const char *)&slot->lo;
}

static Status table_init(Table *t) {
    TRY_RETURN(MEM_NEW_ARRAY(&t->slots, FIRST_SLOTS));
    t->mask = FIRST_SLOTS - 1;
    return TANE_OK;
}

static void table_free(Table *t) {
    mem_free(t->slots);
    mem_free(t->text);
    *t = (Table){0};
}

static Status table_grow(Table *t) {
    Slot *slots;
    size_t mask = 2 * t->mask + 1;
    TRY_RETURN(MEM_NEW_ARRAY(&slots, mask + 1));
    for (size_t i = 0; i <= t->mask; i++) {
        if (!t->slots[i].hi) continue;
        size_t at = hash_of(&t->slots[i]) & mask;
        while (slots[at].hi) at = (at + 1) & mask;
        slots[at] = t->slots[i];
    }
    mem_free(t->slots);
    t->slots = slots;
    t->mask = mask;
    return TANE_OK;
}

static Status add_long(Table *t, Slot *key, const char *word, size_t n) {
    size_t need = t->n_text + n + 8;
    if (need > t->cap_text) {
        size_t cap = need > 2 * t->cap_text ? need + (64 << 10) : 2 * t->cap_text;
        TRY_RETURN(mem_grow((void **)&t->text, t->n_text, cap, 1));
        t->cap_text = cap;
    }
    uint64_t length = n;
    memcpy(t->text + t->n_text, &length, 8);
    memcpy(t->text + t->n_text + 8, word, n);
    key->hi |= t->n_text;
    t->n_text = need;
    return TANE_OK;
}

static bool same_long(const Table *t, const Slot *slot, const char *word, size_t n) {
    return is_long(slot) && load64(t->text + long_at(slot)) == n && memcmp(t->text + long_at(slot) + 8, word, n) == 0;
}

/* Adds to the count of a word whose key and hash are known. */
static inline Status table_add(Table *t, Slot key, uint64_t hash, const char *word, size_t n, int64_t count) {
    size_t at = hash & t->mask;
    const bool outside = n > INLINE_BYTES;
    for (Slot *slot; (slot = &t->slots[at])->hi; at = (at + 1) & t->mask) {
        if (slot->lo != key.lo) continue;
        if (outside ? !same_long(t, slot, word, n) : slot->hi != key.hi) continue;
        slot->count += count;
        return TANE_OK;
    }
    if (outside) TRY_RETURN(add_long(t, &key, word, n));
    key.count = count;
    t->slots[at] = key;
    t->bytes += n;
    return ++t->used > t->mask / 2 ? table_grow(t) : TANE_OK;
}

/* ---- walking a text ---- */

/* Counts `by` for each word from text[from] on, the first that begins at or behind `to` not any more; *reached is where
 * that one begins. by 0: only walks. `limit`: up to there may be read. */
static Status walk(const Scanner *scanner, Table *t, Text text, const char *limit, size_t from, size_t to, int64_t by,
                   size_t *reached) {
    size_t ends[BATCH], n;
    Slot keys[BATCH];
    uint64_t hashes[BATCH];
    while (from < to) {
        TRY_RETURN(scanner_cut(scanner, text.bytes, text.n, from, ends, BATCH, &n));
        size_t begin = from, used = 0;
        /* The slots come from memory while the next words are hashed. */
        for (; used < n && begin < to; begin = ends[used++]) {
            if (by == 0) continue;
            keys[used] = key_of(text.bytes + begin, ends[used] - begin, limit);
            hashes[used] = hash_of(&keys[used]);
            __builtin_prefetch(&t->slots[hashes[used] & t->mask]);
        }
        for (size_t i = 0; by && i < used; from = ends[i++])
            TRY_RETURN(table_add(t, keys[i], hashes[i], text.bytes + from, ends[i] - from, by));
        from = begin;
    }
    *reached = from;
    return TANE_OK;
}

/* The first byte of text[from..to) that begins no valid character, `to` when there is none. */
static size_t not_utf8(Text text, size_t from, size_t to) {
    while (from < to) {
        if (to - from >= 8 && !(load64(text.bytes + from) & 0x8080808080808080u)) {
            from += 8;
            continue;
        }
        uint32_t code;
        size_t len = utf8_decode(text.bytes + from, text.n - from, &code);
        if (!len) return from;
        from += len;
    }
    return to;
}

static Status fail_utf8(const WordCounter *c, size_t text, Text in, size_t at) {
    return FAIL(TANE_EFORMAT, "text %llu is not UTF-8: byte 0x%02X at offset %zu; convert it first",
                (unsigned long long)(c->texts_before + text + 1), (unsigned char)in.bytes[at], at);
}

/* ---- sharing out ---- */

static Status add_task(WordCounter *c, Task task) {
    if (c->n_tasks == c->cap_tasks) {
        size_t cap = c->cap_tasks ? 2 * c->cap_tasks : 64;
        TRY_RETURN(mem_grow((void **)&c->tasks, c->n_tasks, cap, sizeof *c->tasks));
        c->cap_tasks = cap;
    }
    c->tasks[c->n_tasks++] = task;
    return TANE_OK;
}

static Status check_part(const WordCounter *c, const Task *part, Text large) {
    size_t at = not_utf8(large, part->begin, part->end);
    return at < part->end ? fail_utf8(c, 0, large, at) : TANE_OK;
}

static Status count_part(const WordCounter *c, Table *t, Task *part, Text large) {
    const char *limit = large.bytes + large.n;
    size_t settled = part->begin + WARM_UP < part->end ? part->begin + WARM_UP : part->end;
    if (part == c->tasks) settled = part->begin; /* a word does begin there */
    part->counted = part->begin;
    TRY_RETURN(walk(c->scanner, t, large, limit, part->begin, settled, 0, &part->counted));
    part->reached = part->counted;
    return walk(c->scanner, t, large, limit, part->counted, part->end, 1, &part->reached);
}

static Status count_texts(const WordCounter *c, Table *t, const Task *task) {
    for (size_t i = task->first; i < task->last; i++) {
        size_t at = not_utf8(c->texts[i], 0, c->texts[i].n);
        if (at < c->texts[i].n) return fail_utf8(c, i, c->texts[i], at);
        TRY_RETURN(walk(c->scanner, t, c->texts[i], c->buffer + c->filled + 16, 0, c->texts[i].n, 1, &at));
    }
    return TANE_OK;
}

typedef enum Work { COUNT_TEXTS, CHECK_PARTS, COUNT_PARTS } Work;

static Status do_task(const WordCounter *c, Table *t, Task *task, Work work, Text large) {
    if (work == COUNT_TEXTS) return count_texts(c, t, task);
    return work == CHECK_PARTS ? check_part(c, task, large) : count_part(c, t, task, large);
}

/* Each thread takes one task after the other. Reports the error of the first task that failed. */
static Status run_tasks(WordCounter *c, Work work, Text large) {
    size_t failed = c->n_tasks;
    ErrorCopy error;
#pragma omp parallel for schedule(dynamic, 1) num_threads(c->threads) if (c->n_tasks > 1 && c->threads > 1)
    for (size_t i = 0; i < c->n_tasks; i++) {
        if (do_task(c, &c->tables[omp_get_thread_num()], &c->tasks[i], work, large) == TANE_OK) continue;
#pragma omp critical(word_count_error)
        if (i < failed) {
            failed = i;
            err_save(&error);
        }
    }
    return failed < c->n_tasks ? err_restore(&error) : TANE_OK;
}

/* The texts in the buffer. */
static Status count_buffer(WordCounter *c) {
    Status st = TANE_OK;
    Task task = {0};
    c->n_tasks = 0;
    for (size_t i = 0, bytes = 0; i < c->n_texts; i++) {
        bytes += c->texts[i].n;
        if (bytes < TASK && i + 1 < c->n_texts) continue;
        task.last = i + 1;
        TRY(add_task(c, task));
        task.first = i + 1;
        bytes = 0;
    }
    TRY(run_tasks(c, COUNT_TEXTS, (Text){0}));
    c->texts_before += c->n_texts;
out:
    c->n_texts = c->filled = 0;
    return st;
}

/* Counts what lies between the parts, and a part again whose words are not those of a scan from the beginning. */
static Status join_parts(WordCounter *c, Text large, size_t *reached) {
    const char *limit = large.bytes + large.n;
    size_t at = c->tasks[0].reached;
    for (size_t i = 1; i < c->n_tasks; i++) {
        const Task *part = &c->tasks[i];
        TRY_RETURN(walk(c->scanner, &c->tables[0], large, limit, at, part->counted, 1, &at));
        if (at == part->counted) {
            at = part->reached;
            continue;
        }
        size_t end;
        TRY_RETURN(walk(c->scanner, &c->tables[0], large, limit, part->counted, part->end, -1, &end));
        TRY_RETURN(walk(c->scanner, &c->tables[0], large, limit, at, part->end, 1, &at));
    }
    *reached = at;
    return TANE_OK;
}

/* At most `most` parts of the text from `from` on. They begin where characters do. */
static Status cut_parts(WordCounter *c, Text large, size_t from, size_t most) {
    const size_t step = c->threads > 1 ? PART : large.n;
    c->n_tasks = 0;
    for (size_t begin = from, end; begin < large.n && c->n_tasks < most; begin = end) {
        end = large.n - begin > step ? begin + step : large.n;
        while (end < large.n && ((unsigned char)large.bytes[end] & 0xC0) == 0x80) end++;
        TRY_RETURN(add_task(c, (Task){.begin = begin, .end = end}));
    }
    return TANE_OK;
}

static Status count_large(WordCounter *c, Text large) {
    TRY_RETURN(cut_parts(c, large, 0, SIZE_MAX));
    TRY_RETURN(run_tasks(c, CHECK_PARTS, large));
    for (size_t at = 0; at < large.n;) {
        TRY_RETURN(cut_parts(c, large, at, (size_t)c->threads * WAVE));
        TRY_RETURN(run_tasks(c, COUNT_PARTS, large));
        TRY_RETURN(join_parts(c, large, &at));
    }
    c->texts_before++;
    return TANE_OK;
}

/* ---- the counter ---- */

Status word_counter_new(WordCounter **out, const Scanner *scanner, int threads) {
    Status st = TANE_OK;
    WordCounter *c;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&c));
    c->scanner = scanner;
    c->threads = threads > 1 ? threads : 1;
    TRY(MEM_NEW_ARRAY(&c->tables, (size_t)c->threads));
    for (int i = 0; i < c->threads; i++) TRY(table_init(&c->tables[i]));
    TRY(MEM_NEW_ARRAY(&c->buffer, WORD_COUNT_BUFFER + 16));
    *out = c;
    c = NULL;
out:
    word_counter_free(c);
    return st;
}

void word_counter_free(WordCounter *c) {
    if (!c) return;
    for (int i = 0; c->tables && i < c->threads; i++) table_free(&c->tables[i]);
    mem_free(c->tables);
    mem_free(c->buffer);
    mem_free(c->texts);
    mem_free(c->tasks);
    mem_free(c);
}

Status word_counter_add(WordCounter *c, const char *text, size_t n) {
    if (n > PART || n > WORD_COUNT_BUFFER - c->filled) TRY_RETURN(count_buffer(c));
    if (n > PART) return count_large(c, (Text){text, n});
    if (c->n_texts == c->cap_texts) {
        size_t cap = c->cap_texts ? 2 * c->cap_texts : 1024;
        TRY_RETURN(mem_grow((void **)&c->texts, c->n_texts, cap, sizeof *c->texts));
        c->cap_texts = cap;
    }
    if (n) memcpy(c->buffer + c->filled, text, n);
    c->texts[c->n_texts++] = (Text){c->buffer + c->filled, n};
    c->filled += n;
    /* Empty texts fill no buffer. */
    return c->n_texts == WORD_COUNT_BUFFER / 8 ? count_buffer(c) : TANE_OK;
}

/* ---- one list of all tables ---- */

/* The words whose hash belongs to share `which`, from all tables. */
static Status merge_share(const WordCounter *c, size_t which, Table *merged) {
    TRY_RETURN(table_init(merged));
    for (int i = 0; i < c->threads; i++) {
        const Table *t = &c->tables[i];
        for (size_t k = 0; k <= t->mask; k++) {
            if (!t->slots[k].count) continue;
            uint64_t hash = hash_of(&t->slots[k]);
            if ((hash >> 40) % (size_t)c->threads != which) continue;
            Slot key = t->slots[k];
            if (is_long(&key)) key.hi = (uint64_t)LONG_WORD << 56;
            size_t n;
            const char *word = word_of(t, &t->slots[k], &n);
            TRY_RETURN(table_add(merged, key, hash, word, n, t->slots[k].count));
        }
    }
    return TANE_OK;
}

/* Afterwards each word is in one table only. */
static Status merge_tables(WordCounter *c) {
    Table *merged;
    ErrorCopy error;
    bool failed = false;
    if (c->threads == 1) return TANE_OK;
    TRY_RETURN(MEM_NEW_ARRAY(&merged, (size_t)c->threads));
#pragma omp parallel for schedule(static, 1) num_threads(c->threads)
    for (int i = 0; i < c->threads; i++) {
        if (merge_share(c, (size_t)i, &merged[i]) == TANE_OK) continue;
#pragma omp critical(word_count_error)
        {
            failed = true;
            err_save(&error);
        }
    }
    for (int i = 0; i < c->threads; i++) table_free(failed ? &merged[i] : &c->tables[i]);
    if (!failed) memcpy(c->tables, merged, (size_t)c->threads * sizeof *merged);
    mem_free(merged);
    return failed ? err_restore(&error) : TANE_OK;
}

Status word_counter_finish(WordCounter *c, WordList *list) {
    Status st = TANE_OK;
    size_t words = 0, bytes = 0;
    *list = (WordList){0};
    TRY_RETURN(count_buffer(c));
    mem_free(c->buffer);
    c->buffer = NULL;
    TRY_RETURN(merge_tables(c));
    for (int i = 0; i < c->threads; i++) {
        words += c->tables[i].used;
        bytes += c->tables[i].bytes;
    }
    TRY(MEM_NEW_ARRAY(&list->bytes, bytes));
    TRY(MEM_NEW_ARRAY(&list->starts, words + 1));
    TRY(MEM_NEW_ARRAY(&list->counts, words));
    for (int i = 0; i < c->threads; i++) {
        for (size_t k = 0; k <= c->tables[i].mask; k++) {
            const Slot *slot = &c->tables[i].slots[k];
            if (!slot->count) continue; /* free, or counted and taken back */
            size_t n, at = list->starts[list->n];
            const char *word = word_of(&c->tables[i], slot, &n);
            memcpy(list->bytes + at, word, n);
            list->counts[list->n++] = slot->count;
            list->starts[list->n] = at + n;
        }
        table_free(&c->tables[i]);
    }
out:
    if (st != TANE_OK) word_list_free(list);
    return st;
}

void word_list_free(WordList *list) {
    mem_free(list->bytes);
    mem_free(list->starts);
    mem_free(list->counts);
    *list = (WordList){0};
}
