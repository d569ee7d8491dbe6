/* Units: documents padded, packed, or cut from the stream. See layout.h. */
#include "data/layout.h"

#include <assert.h>

#include "base/rng.h"

/* Streams of the seed; the low half counts epochs. */
#define STREAM_UNITS   ((uint64_t)0x756e6974 << 32)
#define STREAM_WINDOWS ((uint64_t)0x77696e64 << 32)

struct Layout {
    const Dataset *set;
    LayoutKind kind;
    int64_t width, units, ordered, tokens;
    /* packing: unit u has rows[first[u] .. first[u + 1]) */
    int64_t *first, *rows;
    /* windows, (streams + 1): places where tokens begin, places to draw from (weighted), windows in order */
    int64_t *begin, *drawn, *windows;
};

/* ---- packing ---- */

/* Rows that have no unit yet, by length. */
typedef struct Pool {
    int64_t *order;      /* (n): rows in rising order of length, equal ones as they stand */
    int64_t *next, *end; /* (width + 1): of each length, where in `order` the ones left are */
    uint64_t *some;      /* a bit for each length of which some are left */
    int64_t width;
} Pool;

static Status pool_open(Pool *p, int64_t width, int64_t n, const int32_t *lengths) {
    *p = (Pool){.width = width};
    TRY_RETURN(MEM_NEW_ARRAY(&p->order, (size_t)n));
    TRY_RETURN(MEM_NEW_ARRAY(&p->next, (size_t)width + 2));
    TRY_RETURN(MEM_NEW_ARRAY(&p->end, (size_t)width + 1));
    TRY_RETURN(MEM_NEW_ARRAY(&p->some, (size_t)width / 64 + 1));
    for (int64_t i = 0; i < n; i++) p->next[lengths[i] + 1]++;
    for (int64_t k = 0; k <= width; k++) {
        if (p->next[k + 1]) p->some[k / 64] |= (uint64_t)1 << (k % 64);
        p->next[k + 1] += p->next[k];
        p->end[k] = p->next[k];
    }
    for (int64_t i = 0; i < n; i++) p->order[p->end[lengths[i]]++] = i;
    return TANE_OK;
}

static void pool_close(Pool *p) {
    mem_free(p->order);
    mem_free(p->next);
    mem_free(p->end);
    mem_free(p->some);
}

static int64_t left(const Pool *p, int64_t length) { return p->end[length] - p->next[length]; }

/* The greatest length left that is at most `room`; -1: none. */
static int64_t longest(const Pool *p, int64_t room) {
    if (room < 0) return -1;
    uint64_t bits = p->some[room / 64] << (63 - room % 64) >> (63 - room % 64);
    for (int64_t w = room / 64;; bits = p->some[w]) {
        if (bits) return w * 64 + 63 - __builtin_clzll(bits);
        if (--w < 0) return -1;
    }
}

static void take(Pool *p, int64_t length, int64_t unit, int64_t *unit_of) {
    unit_of[p->order[p->next[length]++]] = unit;
    if (!left(p, length)) p->some[length / 64] &= ~((uint64_t)1 << (length % 64));
}

/* The longer of two rows that are `room` long together; -1: there are none. */
static int64_t exact_pair(const Pool *p, int64_t room) {
    for (int64_t a = longest(p, room); 2 * a >= room && a > 0; a = longest(p, a - 1))
        if (2 * a == room ? left(p, a) > 1 : left(p, room - a) > 0) return a;
    return -1;
}

Status layout_best_fit(int64_t width, int64_t n, const int32_t *lengths, int64_t *unit_of, int64_t *units) {
    Pool p;
    Status st = TANE_OK;
    *units = 0;
    TRY(pool_open(&p, width, n, lengths));
    for (int64_t next = longest(&p, width); next >= 0; next = longest(&p, width), ++*units) {
        int64_t room = width;
        for (; next >= 0; next = longest(&p, room)) {
            if (next < room && room < width) {
                int64_t pair = exact_pair(&p, room);
                if (pair >= 0) next = pair;
            }
            take(&p, next, *units, unit_of);
            room -= next;
        }
    }
out:
    pool_close(&p);
    return st;
}

static Status pack(Layout *l) {
    Status st = TANE_OK;
    int64_t n = dataset_rows(l->set), *unit_of = NULL;
    int32_t *lengths = NULL;
    DatasetRow row;
    if (dataset_longest(l->set) - 1 > l->width)
        return FAIL(TANE_EINTERNAL, "layout: a row is longer than a packed unit");
    TRY(MEM_NEW_ARRAY(&unit_of, (size_t)n));
    TRY(MEM_NEW_ARRAY(&lengths, (size_t)n));
    for (int64_t i = 0; i < n; i++) {
        dataset_row(l->set, i, &row);
        lengths[i] = (int32_t)(row.n - 1);
    }
    TRY(layout_best_fit(l->width, n, lengths, unit_of, &l->units));
    TRY(MEM_NEW_ARRAY(&l->first, (size_t)l->units + 2));
    TRY(MEM_NEW_ARRAY(&l->rows, (size_t)n));
    for (int64_t i = 0; i < n; i++) l->first[unit_of[i] + 2]++;
    for (int64_t u = 2; u <= l->units; u++) l->first[u] += l->first[u - 1];
    for (int64_t i = 0; i < n; i++) l->rows[l->first[unit_of[i] + 1]++] = i;
    l->ordered = l->units;
    l->tokens = dataset_tokens(l->set) - n;
out:
    mem_free(unit_of);
    mem_free(lengths);
    return st;
}

/* ---- windows ---- */

static Status draw_windows(Layout *l) {
    size_t n = dataset_streams(l->set);
    double weighted = 0;
    TRY_RETURN(MEM_NEW_ARRAY(&l->begin, n + 1));
    TRY_RETURN(MEM_NEW_ARRAY(&l->drawn, n + 1));
    TRY_RETURN(MEM_NEW_ARRAY(&l->windows, n + 1));
    for (size_t s = 0; s < n; s++) {
        int64_t tokens = dataset_stream_tokens(l->set, s);
        double weight = dataset_stream_weight(l->set, s);
        DatasetRow row;
        dataset_stream_row(l->set, s, 0, &row);
        if (tokens <= l->width)
            return FAIL(TANE_EINVAL,
                        "%s has %lld tokens, fewer than one window of %lld and its last target; choose a smaller "
                        "max_length or more text",
                        row.source, (long long)tokens, (long long)l->width);
        int64_t slots = (int64_t)(weight * (double)(tokens - l->width) + 0.5);
        l->begin[s + 1] = l->begin[s] + tokens;
        l->drawn[s + 1] = l->drawn[s] + (slots < 1 ? 1 : slots);
        l->windows[s + 1] = l->windows[s] + (tokens - 1 + l->width - 1) / l->width;
        weighted += weight * (double)tokens;
    }
    l->units = (int64_t)(weighted / (double)l->width);
    if (l->units < 1) l->units = 1;
    l->ordered = l->windows[n];
    l->tokens = l->units * l->width;
    return TANE_OK;
}

/* s with sums[s] <= at < sums[s + 1]. */
static size_t stream_of(const int64_t *sums, int64_t at) {
    size_t s = 0;
    while (sums[s + 1] <= at) s++;
    return s;
}

/* x / 2^64 * n, for n below 2^63. */
static int64_t scaled(uint32_t hi, uint32_t lo, int64_t n) {
    return (int64_t)((unsigned __int128)((uint64_t)hi << 32 | lo) * (uint64_t)n >> 64);
}

static int64_t drawn_window(const Layout *l, uint64_t seed, int64_t epoch, int64_t position) {
    uint32_t word[4];
    philox4x32(seed, STREAM_WINDOWS + (uint64_t)epoch, (uint64_t)position, word);
    size_t s = stream_of(l->drawn, scaled(word[0], word[1], l->drawn[dataset_streams(l->set)]));
    return l->begin[s] + scaled(word[2], word[3], l->begin[s + 1] - l->begin[s] - l->width);
}

static void fill_window(const Layout *l, int64_t unit, UnitOut *out, int64_t *used) {
    enum { PART = 4096 };
    size_t s = stream_of(l->begin, unit);
    int64_t at = unit - l->begin[s], left = l->begin[s + 1] - unit - 1, n = left < l->width ? left : l->width;
    int32_t ids[PART + 1];
    uint8_t trained[PART + 1];
    for (int64_t from = 0; from < n; from += PART) {
        int64_t m = n - from < PART ? n - from : PART;
        dataset_stream_copy(l->set, s, at + from, m + 1, ids, trained);
        for (int64_t i = 0; i < m; i++) {
            out->tokens[from + i] = ids[i];
            out->labels[from + i] = trained[i + 1] ? ids[i + 1] : -100;
            out->targets += trained[i + 1];
        }
    }
    for (int64_t t = 0; out->positions && t < l->width; t++) {
        out->positions[t] = (int32_t)t;
        out->starts[t] = 0;
    }
    *used = n;
}

/* ---- documents ---- */

/* A window's documents are few: it is walked through. i < 0 counts them. */
static int64_t walk_window(const Layout *l, int64_t unit, int64_t i, DatasetRow *row, int64_t *offset) {
    size_t s = stream_of(l->begin, unit);
    int64_t end = unit + l->width + 1 < l->begin[s + 1] ? unit + l->width + 1 : l->begin[s + 1], n = 0;
    for (int64_t at = unit; at < end; n++) {
        int64_t inside = dataset_stream_row(l->set, s, at - l->begin[s], row);
        if (n == 0 && offset) *offset = inside;
        if (n == i) break;
        at += row->full - inside;
    }
    return n;
}

int64_t layout_documents(const Layout *l, int64_t unit) {
    DatasetRow row;
    return l->kind == LAYOUT_PADDING   ? 1
           : l->kind == LAYOUT_PACKING ? l->first[unit + 1] - l->first[unit]
                                       : walk_window(l, unit, -1, &row, NULL);
}

void layout_document(const Layout *l, int64_t unit, int64_t i, DatasetRow *row) {
    if (l->kind == LAYOUT_WINDOWS) (void)walk_window(l, unit, i, row, NULL);
    else dataset_row(l->set, l->kind == LAYOUT_PACKING ? l->rows[l->first[unit] + i] : unit, row);
}

int64_t layout_offset(const Layout *l, int64_t unit) {
    int64_t offset = 0;
    DatasetRow row;
    if (l->kind == LAYOUT_WINDOWS) (void)walk_window(l, unit, 0, &row, &offset);
    return offset;
}

/* A row's tokens from position `at` of the unit on. Its last token is a target, never an input. */
static void fill_document(const DatasetRow *row, int64_t at, UnitOut *out) {
    for (int64_t t = 0; t + 1 < row->n; t++) {
        bool trained = row_trained(row, t + 1);
        out->tokens[at + t] = row_token(row, t);
        out->labels[at + t] = trained ? row_token(row, t + 1) : -100;
        out->targets += trained;
        if (!out->positions) continue;
        out->positions[at + t] = (int32_t)t;
        out->starts[at + t] = (int32_t)at;
    }
}

/* Padding sees only itself. */
static void fill_padding(const Layout *l, int64_t at, int32_t pad_id, UnitOut *out) {
    for (int64_t t = at; t < l->width; t++) {
        out->tokens[t] = pad_id;
        out->labels[t] = -100;
        if (!out->positions) continue;
        out->positions[t] = (int32_t)(t - at);
        out->starts[t] = (int32_t)at;
    }
}

void layout_fill(const Layout *l, int64_t unit, int32_t pad_id, UnitOut *out) {
    int64_t at = 0;
    if (unit >= 0 && l->kind == LAYOUT_WINDOWS) {
        fill_window(l, unit, out, &at);
    } else if (unit >= 0) {
        for (int64_t i = 0, n = layout_documents(l, unit); i < n; i++) {
            DatasetRow row;
            layout_document(l, unit, i, &row);
            assert(at + row.n - 1 <= l->width);
            fill_document(&row, at, out);
            at += row.n - 1;
        }
    }
    out->real += at;
    fill_padding(l, at, pad_id, out);
}

/* ---- the layout ---- */

static Status pad(Layout *l) {
    int64_t longest = dataset_longest(l->set) - 1;
    if (l->width == 0) l->width = longest > 1 ? longest : 1;
    l->units = l->ordered = dataset_rows(l->set);
    l->tokens = dataset_tokens(l->set) - l->units;
    return TANE_OK;
}

Status layout_new(Layout **out, const Dataset *set, LayoutKind kind, int64_t length) {
    TRY_RETURN(MEM_NEW(out));
    Layout *l = *out;
    *l = (Layout){.set = set, .kind = kind, .width = length};
    Status st = kind == LAYOUT_PADDING ? pad(l) : kind == LAYOUT_PACKING ? pack(l) : draw_windows(l);
    if (st == TANE_OK) return TANE_OK;
    layout_free(l);
    *out = NULL;
    return st;
}

void layout_free(Layout *l) {
    if (!l) return;
    mem_free(l->first);
    mem_free(l->rows);
    mem_free(l->begin);
    mem_free(l->drawn);
    mem_free(l->windows);
    mem_free(l);
}

LayoutKind layout_kind(const Layout *l) { return l->kind; }
const char *layout_name(LayoutKind kind) {
    static const char *const names[] = {"padding", "packing", "windows"};
    return names[kind];
}
int64_t layout_width(const Layout *l) { return l->width; }
int64_t layout_units(const Layout *l) { return l->units; }
int64_t layout_ordered(const Layout *l) { return l->ordered; }
int64_t layout_tokens(const Layout *l) { return l->tokens; }

int64_t layout_at(const Layout *l, uint64_t seed, int64_t epoch, int64_t position) {
    assert(position >= 0 && position < l->units);
    switch (l->kind) {
    case LAYOUT_PADDING: return dataset_at(l->set, seed, epoch, position);
    case LAYOUT_PACKING:
        return (int64_t)rng_permute(seed, STREAM_UNITS + (uint64_t)epoch, (uint64_t)l->units, (uint64_t)position);
    case LAYOUT_WINDOWS: return drawn_window(l, seed, epoch, position);
    }
    return -1;
}

int64_t layout_in_order(const Layout *l, int64_t position) {
    assert(position >= 0 && position < l->ordered);
    if (l->kind != LAYOUT_WINDOWS) return position;
    size_t s = stream_of(l->windows, position);
    return l->begin[s] + (position - l->windows[s]) * l->width;
}
