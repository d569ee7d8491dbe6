/* Layouts: packing (every row once, full units, worst cases), what a packed unit tells attention, windows (places,
 * shares, in order), and that the order of units does not depend on batches or ranks. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data/batch.h"

static Tokenizer *tok;
enum { VOCAB = 47 };

static int make_tokenizer(void **state) {
    (void)state;
    tok = test_characters();
    return 0;
}

static int free_tokenizer(void **state) {
    (void)state;
    tokenizer_free(tok);
    return 0;
}

/* ---- best fit ---- */

/* Packs, and checks what must always hold; returns the units. */
static int64_t packed(int64_t width, int64_t n, const int32_t *lengths) {
    int64_t *unit_of = calloc((size_t)n + 1, sizeof *unit_of), *again = calloc((size_t)n + 1, sizeof *again), units,
            same;
    for (int64_t i = 0; i < n; i++) unit_of[i] = again[i] = -1;
    assert_ok(layout_best_fit(width, n, lengths, unit_of, &units));
    int64_t *used = calloc((size_t)units + 1, sizeof *used), tokens = 0,
            *rows = calloc((size_t)units + 1, sizeof *rows);
    for (int64_t i = 0; i < n; i++) {
        if (unit_of[i] < 0 || unit_of[i] >= units) fail_msg("row %d is in unit %d", (int)i, (int)unit_of[i]);
        used[unit_of[i]] += lengths[i];
        rows[unit_of[i]]++;
        tokens += lengths[i];
    }
    for (int64_t u = 0; u < units; u++)
        if (used[u] > width || rows[u] == 0) fail_msg("unit %d has %d of %d", (int)u, (int)used[u], (int)width);
    assert_true(units >= (tokens + width - 1) / width);
    assert_ok(layout_best_fit(width, n, lengths, again, &same));
    assert_int_equal(units, same);
    assert_memory_equal(unit_of, again, (size_t)n * sizeof *again);
    free(unit_of);
    free(again);
    free(used);
    free(rows);
    return units;
}

static int32_t *same_lengths(int64_t n, int32_t length) {
    int32_t *lengths = calloc((size_t)n + 1, sizeof *lengths);
    for (int64_t i = 0; i < n; i++) lengths[i] = length;
    return lengths;
}

static void equal_rows_are_packed(void **state) {
    (void)state;
    static const struct {
        int64_t width, n, length, units;
    } cases[] = {
        {64, 100, 64, 100}, {64, 100, 63, 100}, {64, 100, 33, 100},       {64, 101, 32, 51},      {64, 100, 1, 2},
        {64, 64, 1, 1},     {64, 65, 1, 2},     {64, 1, 64, 1},           {64, 1, 1, 1},          {64, 0, 1, 0},
        {2, 7, 1, 4},       {1, 7, 1, 7},       {1024, 1000, 1023, 1000}, {1024, 1000, 341, 334}, {64, 10, 0, 1},
        {63, 50, 21, 17},   {65, 50, 64, 50},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *lengths = same_lengths(cases[i].n, (int32_t)cases[i].length);
        int64_t units = packed(cases[i].width, cases[i].n, lengths);
        if (units != cases[i].units) fail_msg("case %d: %d units", (int)i, (int)units);
        free(lengths);
    }
}

/* Rows of 1 fill up what the rows of width - 1 leave. */
static void short_rows_fill_the_gaps(void **state) {
    (void)state;
    enum { WIDTH = 128, N = 500 };
    int32_t lengths[2 * N];
    for (int i = 0; i < N; i++) lengths[i] = WIDTH - 1, lengths[N + i] = 1;
    assert_int_equal(packed(WIDTH, 2 * N, lengths), N);
    /* Three that fit exactly are found: 60 + 40 + 28, where the longest that fits (60 + 60) leaves a gap. */
    int32_t threes[3 * N];
    for (int i = 0; i < N; i++) threes[3 * i] = 60, threes[3 * i + 1] = 40, threes[3 * i + 2] = 28;
    assert_int_equal(packed(WIDTH, 3 * N, threes), N);
}

static void all_kinds_of_lengths_are_packed(void **state) {
    (void)state;
    for (int round = 0; round < test_rounds(300); round++) {
        Rng rng = {.key = 3, .stream = (uint64_t)round};
        int64_t width = 1 + (int64_t)rng_below(&rng, round % 3 ? 200 : 3000), n = (int64_t)rng_below(&rng, 400);
        int32_t *lengths = calloc((size_t)n + 1, sizeof *lengths);
        for (int64_t i = 0; i < n; i++) {
            uint64_t most = (uint64_t)width + 1 - (round % 2), short_ones = most < 9 ? most : 9;
            lengths[i] = (int32_t)rng_below(&rng, i % 4 && round % 5 == 0 ? short_ones : most);
        }
        (void)packed(width, n, lengths);
        free(lengths);
    }
}

/* n lengths like those of GSM8K's rows: log-normal, the mean near 180, the longest near 600. */
static int32_t *rows_like_gsm8k(int64_t n) {
    Rng rng = {.key = 8, .stream = 5};
    int32_t *lengths = calloc((size_t)n, sizeof *lengths);
    for (int64_t i = 0; i < n; i++) {
        double length = exp(5.13 + 0.37 * (double)rng_normal(&rng));
        lengths[i] = (int32_t)(length < 40 ? 40 : length > 620 ? 620 : length);
    }
    return lengths;
}

static void units_are_full(void **state) {
    (void)state;
    static const int64_t rows[] = {1000, 7473, 100000}; /* GSM8K's training part has 7473 */
    for (int i = 0; i < 3; i++) {
        int32_t *lengths = rows_like_gsm8k(rows[i]);
        int64_t tokens = 0, units = packed(1024, rows[i], lengths);
        for (int64_t k = 0; k < rows[i]; k++) tokens += lengths[k];
        double full = (double)tokens / (double)(units * 1024);
        print_message("%d rows: %.3f%% full, %d units\n", (int)rows[i], 100 * full, (int)units);
        if (i > 0 && full < 0.995) fail_msg("only %.4f full", full);
        if (i == 0)
            assert_in_range(units, (tokens + 1023) / 1024, (tokens + 1023) / 1024 + 1); /* the last one weighs more */
        free(lengths);
    }
}

static void a_million_rows(void **state) {
    (void)state;
    enum { N = 1000000 };
    int32_t *lengths = rows_like_gsm8k(N);
    (void)packed(1024, N, lengths);
    Rng rng = {.key = 1};
    /* Many different lengths: the search for two that fit must not go through all of them each time. */
    for (int64_t i = 0; i < N; i++) lengths[i] = 1 + (int32_t)rng_below(&rng, 1 << 15);
    (void)packed(1 << 15, N, lengths);
    free(lengths);
}

/* ---- data sets ---- */

typedef struct Documents {
    int64_t n;
    int64_t length[4096];
    int64_t prompt[4096]; /* tokens in front that are not trained on; 0: only the first */
} Documents;

/* Token t of document d. */
static int32_t token_of(int64_t d, int64_t t) { return (int32_t)((d * 7 + t * 3 + t / 5) % (VOCAB - 4) + 4); }

static const char *tokens_file(const char *name, const Documents *docs) {
    ShardBuilder b;
    TokenShard s;
    char hash[65];
    const char *path = test_path("%s", name);
    shard_builder_init(&b, VOCAB);
    for (int64_t d = 0; d < docs->n; d++) {
        int64_t n = docs->length[d];
        int32_t *ids = calloc((size_t)n, sizeof *ids);
        uint8_t *mask = calloc((size_t)n, 1);
        for (int64_t t = 0; t < n; t++) {
            ids[t] = token_of(d, t);
            mask[t] = t > 0 && t >= docs->prompt[d];
        }
        assert_ok(shard_builder_add(&b, ids, mask, (size_t)n, d + 1, false));
        free(ids);
        free(mask);
    }
    assert_ok(shard_builder_take(&b, &s));
    assert_ok(shard_write(&s, path, hash));
    shard_release(&s);
    shard_builder_free(&b);
    return path;
}

static Dataset *load(const DataSource *sources, size_t n, int64_t max_length) {
    Dataset *set;
    DatasetOptions o = {.format = {.tokenizer = tok, .add_eos = true}, .max_length = max_length};
    assert_ok(dataset_load(&set, sources, n, &o, 42));
    return set;
}

static Documents *drawn_documents(int64_t n, int64_t longest, bool prompts) {
    Documents *docs = test_room(sizeof *docs);
    Rng rng = {.key = 6, .stream = (uint64_t)n};
    docs->n = n;
    for (int64_t d = 0; d < n; d++) {
        docs->length[d] = 2 + (int64_t)rng_below(&rng, (uint64_t)longest - 1);
        docs->prompt[d] = prompts ? (int64_t)rng_below(&rng, (uint64_t)docs->length[d]) : 0;
    }
    return docs;
}

/* One unit, each array between guards. */
typedef struct Unit {
    int32_t array[4][4098];
    UnitOut out;
} Unit;
enum { GUARD = -77777 };

static void fill(Unit *u, const Layout *l, int64_t unit, bool packed_arrays) {
    int64_t width = layout_width(l);
    assert_true(width <= 4096);
    for (int a = 0; a < 4; a++)
        for (int64_t t = 0; t < width + 2; t++) u->array[a][t] = GUARD;
    u->out = (UnitOut){.tokens = u->array[0] + 1, .labels = u->array[1] + 1};
    if (packed_arrays) {
        u->out.positions = u->array[2] + 1;
        u->out.starts = u->array[3] + 1;
    }
    layout_fill(l, unit, 3, &u->out);
    for (int a = 0; a < (packed_arrays ? 4 : 2); a++) {
        if (u->array[a][0] != GUARD || u->array[a][width + 1] != GUARD) fail_msg("written beyond the unit");
        for (int64_t t = 0; t < width; t++)
            if (u->array[a][1 + t] == GUARD) fail_msg("array %d has nothing at %d", a, (int)t);
    }
}

/* op_attention's rules, and those of the embedding. */
static void assert_fit_for_attention(const UnitOut *u, int64_t width) {
    for (int64_t t = 0; t < width; t++) {
        assert_true(u->starts[t] >= 0 && u->starts[t] <= t);
        assert_true(t == 0 || u->starts[t] >= u->starts[t - 1]);
        assert_int_equal(u->positions[t], t - u->starts[t]);
    }
}

static void packed_units_hold_each_document_once(void **state) {
    (void)state;
    for (int64_t width = 39; width <= 200; width += 23) { /* the longest document fills a unit exactly */
        Documents *docs = drawn_documents(700, width + 1, true);
        docs->length[5] = width + 1;
        docs->prompt[5] = 4;
        Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, width + 1);
        Layout *l;
        char seen[700] = {0};
        int64_t real = 0, targets = 0, want = 0;
        assert_ok(layout_new(&l, set, LAYOUT_PACKING, width));
        assert_int_equal(layout_width(l), width);
        assert_int_equal(layout_ordered(l), layout_units(l));
        for (int64_t unit = 0; unit < layout_units(l); unit++) {
            Unit u;
            int64_t at = 0;
            fill(&u, l, unit, true);
            assert_fit_for_attention(&u.out, width);
            assert_int_equal(layout_offset(l, unit), 0);
            for (int64_t i = 0; i < layout_documents(l, unit); i++) {
                DatasetRow row;
                layout_document(l, unit, i, &row);
                int64_t d = row.line - 1, n = docs->length[d];
                assert_int_equal(row.n, n);
                assert_int_equal(seen[d]++, 0);
                for (int64_t t = 0; t < n - 1; t++, at++) { /* its last token is a target only */
                    assert_int_equal(u.out.tokens[at], token_of(d, t));
                    assert_int_equal(u.out.labels[at], t + 1 >= docs->prompt[d] ? token_of(d, t + 1) : -100);
                    assert_int_equal(u.out.starts[at], at - t);
                }
            }
            assert_int_equal(u.out.real, at);
            for (int64_t t = at; t < width; t++) { /* padding sees only itself */
                assert_int_equal(u.out.tokens[t], 3);
                assert_int_equal(u.out.labels[t], -100);
                assert_int_equal(u.out.starts[t], at);
            }
            real += u.out.real;
            targets += u.out.targets;
        }
        for (int64_t d = 0; d < docs->n; d++) {
            assert_int_equal(seen[d], 1);
            want += docs->length[d] - (docs->prompt[d] > 1 ? docs->prompt[d] : 1);
        }
        assert_int_equal(real, layout_tokens(l));
        assert_int_equal(targets, want);
        layout_free(l);
        dataset_free(set);
    }
}

/* Rows that an epoch repeats are packed as often. */
static void repeated_rows_are_packed_as_often(void **state) {
    (void)state;
    Documents *docs = drawn_documents(50, 20, false);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 2.5}, 1, 64);
    Layout *l;
    int seen[51] = {0}, thrice = 0;
    assert_ok(layout_new(&l, set, LAYOUT_PACKING, 64));
    for (int64_t unit = 0; unit < layout_units(l); unit++)
        for (int64_t i = 0; i < layout_documents(l, unit); i++) {
            DatasetRow row;
            layout_document(l, unit, i, &row);
            seen[row.line]++;
        }
    for (int d = 1; d <= 50; d++) {
        assert_in_range(seen[d], 2, 3);
        thrice += seen[d] == 3;
    }
    assert_int_equal(thrice, 25);
    layout_free(l);
    dataset_free(set);
}

static void an_empty_unit_is_padding(void **state) {
    (void)state;
    Documents *docs = drawn_documents(20, 30, false);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 32);
    for (LayoutKind kind = LAYOUT_PADDING; kind <= LAYOUT_WINDOWS; kind++) {
        Layout *l;
        Unit u;
        assert_ok(layout_new(&l, set, kind, 32));
        fill(&u, l, -1, true);
        assert_fit_for_attention(&u.out, 32);
        for (int t = 0; t < 32; t++) assert_true(u.out.tokens[t] == 3 && u.out.labels[t] == -100);
        assert_int_equal(u.out.real, 0);
        assert_int_equal(u.out.targets, 0);
        layout_free(l);
    }
    layout_free(NULL);
    dataset_free(set);
}

static Status pack_too_long(const Dataset *set, Layout **l) { return layout_new(l, set, LAYOUT_PACKING, 8); }

static void a_row_that_no_unit_holds_is_refused(void **state) {
    (void)state;
    Documents docs = {.n = 1, .length = {10}};
    Dataset *set = load(&(DataSource){tokens_file("x.tok", &docs), 1, 1}, 1, 0);
    Layout *l;
    assert_error(pack_too_long(set, &l), TANE_EINTERNAL, "a row is longer than a packed unit");
    assert_null(l);
    assert_ok(layout_new(&l, set, LAYOUT_PACKING, 9));
    assert_int_equal(layout_units(l), 1);
    layout_free(l);
    dataset_free(set);
}

/* ---- windows ---- */

/* Tokens and trained bits of documents behind each other. */
static int64_t stream_of(const Documents *docs, int32_t *tokens, bool *trained) {
    int64_t n = 0;
    for (int64_t d = 0; d < docs->n; d++)
        for (int64_t t = 0; t < docs->length[d]; t++, n++) {
            tokens[n] = token_of(d, t);
            trained[n] = t >= docs->prompt[d] || (t == 0 && docs->prompt[d] <= 1); /* a text's first token, too */
        }
    return n;
}

enum { STREAM = 1 << 17 };

/* One behind the other they are the stream: each token but the first is a target once. */
static void windows_in_order_cover_the_stream(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 7, 64, 1000, 4096};
    int32_t *tokens = test_room(STREAM * sizeof *tokens);
    bool *trained = test_room(STREAM);
    for (int masked = 0; masked < 2; masked++) {
        Documents *docs = drawn_documents(300, 60, masked);
        int64_t n = stream_of(docs, tokens, trained);
        Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 0);
        for (int w = 0; w < 5; w++) {
            Layout *l;
            int64_t at = 0, width = widths[w];
            assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, width));
            assert_int_equal(layout_ordered(l), (n - 1 + width - 1) / width);
            for (int64_t i = 0; i < layout_ordered(l); i++) {
                Unit u;
                int64_t want = n - 1 - at < width ? n - 1 - at : width, targets = 0;
                fill(&u, l, layout_in_order(l, i), false);
                for (int64_t t = 0; t < want; t++) {
                    assert_int_equal(u.out.tokens[t], tokens[at + t]);
                    assert_int_equal(u.out.labels[t], trained[at + t + 1] ? tokens[at + t + 1] : -100);
                    targets += trained[at + t + 1];
                }
                for (int64_t t = want; t < width; t++) assert_true(u.out.tokens[t] == 3 && u.out.labels[t] == -100);
                assert_int_equal(u.out.real, want);
                assert_int_equal(u.out.targets, targets);
                at += want;
            }
            assert_int_equal(at, n - 1);
            layout_free(l);
        }
        dataset_free(set);
    }
}

/* The documents of a window are those of its tokens and of its last target. */
static void windows_name_their_documents(void **state) {
    (void)state;
    enum { WIDTH = 50 };
    Documents *docs = drawn_documents(200, 40, false);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 0);
    Layout *l;
    int64_t document = 0, offset = 0;
    assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, WIDTH));
    for (int64_t i = 0; i < layout_ordered(l); i++) {
        int64_t unit = layout_in_order(l, i), left = WIDTH + 1, d = document, inside = offset;
        assert_int_equal(layout_offset(l, unit), offset);
        for (int64_t k = 0; k < layout_documents(l, unit); k++, d++, inside = 0) {
            DatasetRow row;
            layout_document(l, unit, k, &row);
            assert_int_equal(row.line, d + 1);
            assert_int_equal(row.n, docs->length[d]);
            assert_true(left > 0);
            left -= row.n - inside;
        }
        assert_true(left <= 0 || i + 1 == layout_ordered(l));
        for (int64_t t = 0; t < WIDTH; t++)
            if (++offset == docs->length[document]) document++, offset = 0;
    }
    layout_free(l);
    dataset_free(set);
}

static void drawn_windows_are_pieces_of_the_stream(void **state) {
    (void)state;
    enum { WIDTH = 33, DRAWS = 4000 };
    int32_t *tokens = test_room(STREAM * sizeof *tokens);
    bool *trained = test_room(STREAM);
    Documents *docs = drawn_documents(100, 30, false);
    int64_t n = stream_of(docs, tokens, trained), first = 0, last = 0;
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 0);
    Layout *l;
    char *drawn = test_room((size_t)n);
    assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, WIDTH));
    assert_int_equal(layout_units(l), n / WIDTH);
    assert_int_equal(layout_tokens(l), n / WIDTH * WIDTH);
    for (int64_t i = 0; i < DRAWS; i++) {
        Unit u;
        DatasetRow row;
        int64_t unit = layout_at(l, 1, i / layout_units(l), i % layout_units(l)), at = layout_offset(l, unit);
        layout_document(l, unit, 0, &row);
        for (int64_t d = 0; d + 1 < row.line; d++) at += docs->length[d];
        assert_in_range(at, 0, n - WIDTH - 1);
        fill(&u, l, unit, false);
        assert_memory_equal(u.out.tokens, tokens + at, WIDTH * sizeof *tokens);
        assert_memory_equal(u.out.labels, tokens + at + 1, WIDTH * sizeof *tokens);
        assert_int_equal(u.out.real, WIDTH);
        drawn[at] = 1;
        first += at == 0;
        last += at == n - WIDTH - 1;
    }
    /* Among about 1500 places: 4000 draws reach most, also both ends (each is missed with probability 0.07 only). */
    int64_t reached = 0;
    for (int64_t i = 0; i < n; i++) reached += drawn[i];
    double expected = (double)(n - WIDTH) * (1 - exp(-(double)DRAWS / (double)(n - WIDTH)));
    print_message("%d places, %d reached, %.0f expected; first %d, last %d\n", (int)(n - WIDTH), (int)reached, expected,
                  (int)first, (int)last);
    assert_true(fabs((double)reached - expected) < 60);
    assert_true(first > 0 && last > 0);
    layout_free(l);
    dataset_free(set);
}

static void seeds_and_epochs_give_other_units(void **state) {
    (void)state;
    Documents *docs = drawn_documents(2000, 30, false);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 31);
    for (LayoutKind kind = LAYOUT_PADDING; kind <= LAYOUT_WINDOWS; kind++) {
        Layout *l;
        int64_t seed = 0, epoch = 0, same = 0;
        assert_ok(layout_new(&l, set, kind, kind == LAYOUT_PACKING ? 40 : 30));
        int64_t units = layout_units(l);
        char *seen = calloc((size_t)units, 1);
        assert_true(units > 500);
        for (int64_t i = 0; i < units; i++) {
            int64_t unit = layout_at(l, 7, 3, i);
            same += unit == layout_at(l, 7, 3, i);
            seed += unit == layout_at(l, 8, 3, i);
            epoch += unit == layout_at(l, 7, 4, i);
            if (kind == LAYOUT_WINDOWS) continue;
            assert_in_range(unit, 0, units - 1); /* an epoch has each unit once */
            assert_int_equal(seen[unit]++, 0);
        }
        assert_int_equal(same, units);
        assert_in_range(seed, 0, 8);
        assert_in_range(epoch, 0, 8);
        free(seen);
        layout_free(l);
    }
    dataset_free(set);
}

/* How often a source's windows are drawn: its length times fraction x repeat. */
static void weights_shift_the_share_of_windows(void **state) {
    (void)state;
    enum { WIDTH = 16, DRAWS = 20000 };
    static const double weights[][4] = {{1, 1, 1, 1}, {0.25, 1, 1, 1}, {1, 1, 1, 3.5}, {0.1, 1, 1, 10}, {0.5, 2, 1, 1}};
    Documents *a = drawn_documents(300, 60, false), *b = drawn_documents(100, 60, false);
    const char *first = tokens_file("a.tok", a), *second = tokens_file("b.tok", b);
    for (int i = 0; i < 5; i++) {
        const double *w = weights[i];
        DataSource sources[] = {{first, w[0], w[1]}, {second, w[2], w[3]}};
        Dataset *set = load(sources, 2, 0);
        Layout *l;
        int64_t drawn = 0;
        assert_int_equal(dataset_streams(set), 2);
        double x = w[0] * w[1] * (double)(dataset_stream_tokens(set, 0) - WIDTH);
        double y = w[2] * w[3] * (double)(dataset_stream_tokens(set, 1) - WIDTH), share = x / (x + y);
        assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, WIDTH));
        double tokens = w[0] * w[1] * (double)dataset_stream_tokens(set, 0) +
                        w[2] * w[3] * (double)dataset_stream_tokens(set, 1);
        assert_int_equal(layout_units(l), (int64_t)(tokens / WIDTH));
        for (int64_t k = 0; k < DRAWS; k++) {
            DatasetRow row;
            layout_document(l, layout_at(l, 5, k / layout_units(l), k % layout_units(l)), 0, &row);
            drawn += strcmp(row.source, first) == 0;
        }
        double got = (double)drawn / DRAWS, sigma = sqrt(share * (1 - share) / DRAWS);
        print_message("share %.4f, expected %.4f (sigma %.4f)\n", got, share, sigma);
        assert_true(fabs(got - share) < 4 * sigma);
        /* In order, weights play no part. */
        assert_int_equal(layout_ordered(l), (dataset_stream_tokens(set, 0) - 1 + WIDTH - 1) / WIDTH +
                                                (dataset_stream_tokens(set, 1) - 1 + WIDTH - 1) / WIDTH);
        layout_free(l);
        dataset_free(set);
    }
}

/* No window crosses from one source into the other. */
static void windows_stay_in_their_source(void **state) {
    (void)state;
    enum { WIDTH = 90 };
    Documents a = {.n = 1, .length = {100}}, b = {.n = 1, .length = {92}};
    DataSource sources[] = {{tokens_file("a.tok", &a), 1, 1}, {tokens_file("b.tok", &b), 1, 1}};
    Dataset *set = load(sources, 2, 0);
    Layout *l;
    assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, WIDTH));
    assert_int_equal(layout_ordered(l), 4);
    for (int64_t i = 0; i < 300; i++) {
        Unit u;
        int64_t unit = layout_at(l, 1, i, 0), offset = layout_offset(l, unit);
        fill(&u, l, unit, false);
        assert_int_equal(layout_documents(l, unit), 1);
        for (int64_t t = 0; t < WIDTH; t++) {
            assert_int_equal(u.out.tokens[t], token_of(0, offset + t));
            assert_int_equal(u.out.labels[t], token_of(0, offset + t + 1));
        }
    }
    layout_free(l);
    dataset_free(set);
}

static void a_stream_that_is_too_short_is_named(void **state) {
    (void)state;
    Documents a = {.n = 1, .length = {100}}, b = {.n = 2, .length = {20, 11}};
    DataSource sources[] = {{tokens_file("a.tok", &a), 1, 1}, {tokens_file("b.tok", &b), 1, 1}};
    Dataset *set = load(sources, 2, 0);
    Layout *l;
    assert_error(layout_new(&l, set, LAYOUT_WINDOWS, 31), TANE_EINVAL,
                 "b.tok has 31 tokens, fewer than one window of 31 and its last target; choose a smaller max_length");
    assert_null(l);
    assert_ok(layout_new(&l, set, LAYOUT_WINDOWS, 30)); /* one place only */
    assert_int_equal(layout_at(l, 1, 0, 0) >= 0, 1);
    layout_free(l);
    dataset_free(set);
}

/* ---- the loader ---- */

/* Whether a batch has 1 or 16 rows, whether 1, 2 or 4 ranks share them: position i of the epoch is the same unit. */
static void the_order_is_the_same_at_any_number_of_ranks(void **state) {
    (void)state;
    Documents *docs = drawn_documents(333, 30, true);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 31);
    for (LayoutKind kind = LAYOUT_PADDING; kind <= LAYOUT_WINDOWS; kind++) {
        Layout *l;
        assert_ok(layout_new(&l, set, kind, 30));
        int64_t units = layout_units(l), step = 16;
        int32_t *all = calloc((size_t)(units + step) * 30, sizeof *all);
        for (int ranks = 1; ranks <= 4; ranks *= 2)
            for (int64_t rows = 1; rows * ranks <= step; rows *= 2) {
                Batch batch;
                assert_ok(batch_new(&batch, rows, 30, kind == LAYOUT_PACKING));
                for (int64_t first = 0; first < units; first += rows * ranks)
                    for (int rank = 0; rank < ranks; rank++) {
                        int64_t at = first + rank * rows, real = 0, targets = 0;
                        batch_fill(&batch, l, 9, 2, at, 3);
                        for (int64_t r = 0; r < rows; r++) {
                            int64_t unit = at + r < units ? layout_at(l, 9, 2, at + r) : -1;
                            assert_int_equal(batch.units[r], unit);
                            int32_t *kept = all + (at + r) * 30, *now = batch.tokens + r * 30;
                            if (ranks == 1 && rows == 1) memcpy(kept, now, 30 * sizeof *now);
                            else if (at + r < units) assert_memory_equal(kept, now, 30 * sizeof *now);
                            UnitOut out = {.tokens = (int32_t[30]){0}, .labels = (int32_t[30]){0}};
                            layout_fill(l, unit, 3, &out);
                            assert_memory_equal(out.labels, batch.labels + r * 30, 30 * sizeof *now);
                            real += out.real;
                            targets += out.targets;
                        }
                        assert_int_equal(batch.real, real);
                        assert_int_equal(batch.targets, targets);
                    }
                batch_free(&batch);
            }
        free(all);
        layout_free(l);
    }
    dataset_free(set);
}

/* A batch over memory of its user, as the stepper has them. */
static void a_view_fills_its_owners_memory(void **state) {
    (void)state;
    enum { ROWS = 3, WIDTH = 30, STRIDE = 512 };
    static int32_t memory[4 * STRIDE / 4];
    Documents *docs = drawn_documents(40, 30, true);
    Dataset *set = load(&(DataSource){tokens_file("x.tok", docs), 1, 1}, 1, 31);
    Layout *l;
    Batch view, own;
    assert_ok(layout_new(&l, set, LAYOUT_PACKING, WIDTH));
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) memory[i] = GUARD;
    assert_ok(batch_view(&view, ROWS, WIDTH, true, memory, STRIDE));
    assert_ok(batch_new(&own, ROWS, WIDTH, true));
    batch_fill_ordered(&view, l, 1, 3);
    batch_fill_ordered(&own, l, 1, 3);
    for (int a = 0; a < 4; a++) {
        const int32_t *array = memory + a * STRIDE / 4;
        assert_memory_equal(array, own.array[a], ROWS * WIDTH * sizeof *array);
        for (int i = ROWS * WIDTH; i < STRIDE / 4; i++) assert_int_equal(array[i], GUARD);
    }
    batch_free(&view);
    batch_free(&own);
    layout_free(l);
    dataset_free(set);
}

/* ---- memory ---- */

static Status make_layouts(void *path) {
    Status st = TANE_OK;
    Dataset *set = NULL;
    DatasetOptions o = {.format = {.tokenizer = tok}, .max_length = 31};
    TRY(dataset_load(&set, &(DataSource){path, 1, 1}, 1, &o, 42));
    for (LayoutKind kind = LAYOUT_PADDING; kind <= LAYOUT_WINDOWS; kind++) {
        Layout *l;
        TRY(layout_new(&l, set, kind, 30));
        layout_free(l);
    }
out:
    dataset_free(set);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = tokens_file("x.tok", drawn_documents(40, 30, true));
    assert_in_range(test_fail_allocations(make_layouts, (void *)(uintptr_t)path), 10, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(equal_rows_are_packed),
        TEST(short_rows_fill_the_gaps),
        TEST(all_kinds_of_lengths_are_packed),
        TEST(units_are_full),
        TEST(a_million_rows),
        TEST(packed_units_hold_each_document_once),
        TEST(repeated_rows_are_packed_as_often),
        TEST(an_empty_unit_is_padding),
        TEST(a_row_that_no_unit_holds_is_refused),
        TEST(windows_in_order_cover_the_stream),
        TEST(windows_name_their_documents),
        TEST(drawn_windows_are_pieces_of_the_stream),
        TEST(seeds_and_epochs_give_other_units),
        TEST(weights_shift_the_share_of_windows),
        TEST(windows_stay_in_their_source),
        TEST(a_stream_that_is_too_short_is_named),
        TEST(the_order_is_the_same_at_any_number_of_ranks),
        TEST(a_view_fills_its_owners_memory),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("layout", tests, make_tokenizer, free_tokenizer);
}
