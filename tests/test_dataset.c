/* Training rows: which tokens are trained on, what truncation does, what an epoch consists of, what batches hold. */
#include "support.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/batch.h"

static Tokenizer *tok;

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

static DatasetOptions usual(void) {
    return (DatasetOptions){.format = {.tokenizer = tok, .format = "auto", .loss = LOSS_COMPLETION, .add_eos = true},
                            .max_length = 64,
                            .truncation = TRUNCATION_ERROR};
}

static const char *data_file(const char *text) { return test_write(test_path("data.jsonl"), text); }

static Status try_load(Dataset **set, const char *path, DatasetOptions options) {
    return dataset_load(set, &(DataSource){path, 1, 1}, 1, &options, 42);
}

static Dataset *load(const char *text, DatasetOptions options) {
    Dataset *set;
    assert_ok(try_load(&set, data_file(text), options));
    return set;
}

/* A row as text, the trained part in brackets: "12+34=" and "46" are "12+34=[46$]"; ^ is BOS, $ EOS, ? unknown. */
static const char *shown(const Dataset *set, int64_t index) {
    static char out[1024];
    size_t n = 0;
    DatasetRow row;
    bool open = false;
    dataset_row(set, index, &row);
    for (int64_t t = 0; t < row.n; t++) {
        Str piece = {0};
        int32_t id = row_token(&row, t);
        if (row_trained(&row, t) != open) out[n++] = open ? ']' : '[';
        open = row_trained(&row, t);
        assert_ok(tokenizer_decode(tok, &id, 1, &piece));
        const char *text = id == tokenizer_bos(tok)   ? "^"
                           : id == tokenizer_eos(tok) ? "$"
                           : id == tokenizer_unk(tok) ? "?"
                                                                 : piece.text;
        n += (size_t)snprintf(out + n, sizeof out - n, "%s", text);
        str_free(&piece);
    }
    if (open) out[n++] = ']';
    out[n] = 0;
    return out;
}

static void assert_shown(const char *text, DatasetOptions options, const char *want) {
    Dataset *set = load(text, options);
    assert_int_equal(dataset_rows(set), 1);
    assert_string_equal(shown(set, 0), want);
    dataset_free(set);
}

/* ---- labels ---- */

#define PAIR "{\"prompt\":\"12+34=\",\"completion\":\"46\"}\n"

static void eos_is_learned(void **state) {
    (void)state;
    Dataset *set = load(PAIR, usual());
    DatasetRow row;
    dataset_row(set, 0, &row);
    assert_int_equal(row_token(&row, row.n - 1), tokenizer_eos(tok));
    assert_int_equal(row_trained(&row, row.n - 1), 1);
    dataset_free(set);
}

static void last_prompt_token_is_not_trained(void **state) {
    (void)state;
    Dataset *set = load(PAIR, usual());
    DatasetRow row;
    dataset_row(set, 0, &row);
    for (int64_t t = 0; t < 6; t++) assert_int_equal(row_trained(&row, t), 0); /* 12+34= */
    assert_int_equal(row_trained(&row, 6), 1);                                 /* 4 */
    dataset_free(set);
}

static void rows_look_as_they_should(void **state) {
    (void)state;
    DatasetOptions o = usual();
    assert_shown(PAIR, o, "12+34=[46$]");
    o.format.add_eos = false;
    assert_shown(PAIR, o, "12+34=[46]");
    o.format.add_bos = o.format.add_eos = true;
    assert_shown(PAIR, o, "^12+34=[46$]");
    o.format.loss = LOSS_ALL;
    assert_shown(PAIR, o, "^[12+34=46$]");
    o.format.add_bos = false;
    assert_shown(PAIR, o, "1[2+34=46$]"); /* nothing predicts the first token */
    o.format.loss = LOSS_COMPLETION;
    assert_shown("{\"text\":\"abc\"}\n", o, "a[bc$]");
    o.format.add_bos = true;
    assert_shown("{\"text\":\"abc\",\"id\":7}\n", o, "^[abc$]");
    assert_shown("{\"prompt\":\"\",\"completion\":\"abc\"}\n", o, "^[abc$]");
    o.format.add_bos = false;
    assert_shown("{\"prompt\":\"\",\"completion\":\"abc\"}\n", o, "a[bc$]");
    assert_shown("{\"prompt\":\"abc\",\"completion\":\"\"}\n", o, "abc[$]"); /* learns to say nothing */
    assert_shown("{\"prompt\":\"a\\u0062\",\"completion\":\"\\u0063\"}\n", o, "ab[c$]");
}

/* ---- truncation ---- */

#define THREE_ROWS                                                                                                     \
    "{\"prompt\":\"1+1=\",\"completion\":\"2\"}\n\n"                                                                   \
    "{\"prompt\":\"10+10=\",\"completion\":\"20\"}\n"                                                                  \
    "{\"prompt\":\"2+2=\",\"completion\":\"4\"}\n"

static void truncation_is_never_silent(void **state) {
    (void)state;
    Dataset *set;
    DatasetOptions o = usual();
    o.max_length = 7;
    const char *path = data_file(THREE_ROWS);
    assert_error(try_load(&set, path, o), TANE_EFORMAT, "data.jsonl:3: the row has 9 tokens, but max_length is 7");
    assert_null(set);
    o.truncation = TRUNCATION_DROP;
    assert_ok(try_load(&set, path, o));
    assert_int_equal(dataset_dropped(set), 1);
    assert_int_equal(dataset_cut(set), 0);
    assert_int_equal(dataset_rows(set), 2);
    assert_string_equal(shown(set, 1), "2+2=[4$]");
    dataset_free(set);
    o.truncation = TRUNCATION_CUT;
    assert_ok(try_load(&set, path, o));
    assert_int_equal(dataset_dropped(set), 0);
    assert_int_equal(dataset_cut(set), 1);
    assert_int_equal(dataset_longest(set), 7);
    assert_string_equal(shown(set, 1), "10+10=[2]"); /* no EOS where the text does not end */
    dataset_free(set);
    o.max_length = 9; /* exactly long enough: BOS and EOS count */
    o.truncation = TRUNCATION_ERROR;
    assert_ok(try_load(&set, path, o));
    assert_int_equal(dataset_longest(set), 9);
    dataset_free(set);
    o.format.add_bos = true;
    assert_error(try_load(&set, path, o), TANE_EFORMAT, "data.jsonl:3: the row has 10 tokens");
}

static void a_row_without_a_target_is_named(void **state) {
    (void)state;
    Dataset *set;
    DatasetOptions o = usual();
    o.max_length = 6;
    o.truncation = TRUNCATION_CUT;
    assert_error(try_load(&set, data_file(THREE_ROWS), o), TANE_EFORMAT,
                 "data.jsonl:3: cut to max_length 6, the row has no token left to learn");
    o = usual();
    o.format.add_eos = false;
    const char *path = data_file(PAIR "{\"prompt\":\"a\",\"completion\":\"\"}\n");
    assert_error(try_load(&set, path, o), TANE_EFORMAT, "data.jsonl:2: the row has no token to learn (1 in all");
    path = data_file("{\"text\":\"a\"}\n");
    assert_error(try_load(&set, path, o), TANE_EFORMAT, "data.jsonl:1: the row has no token to learn (1 in all");
    path = data_file("{\"text\":\"\"}\n");
    assert_error(try_load(&set, path, o), TANE_EFORMAT, "data.jsonl:1: the row has no token to learn (0 in all");
}

static void all_rows_dropped_is_an_error(void **state) {
    (void)state;
    Dataset *set;
    DatasetOptions o = usual();
    o.max_length = 3;
    o.truncation = TRUNCATION_DROP;
    assert_error(try_load(&set, data_file(THREE_ROWS), o), TANE_EFORMAT, "each of the 3 rows is longer than");
}

/* ---- wrong files and options ---- */

static void wrong_rows_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "data.jsonl: the file is empty"},
        {"{\"prompt\":\"a\"}\n", "data.jsonl:1: \"completion\" is missing; each line needs {\"prompt\": ..., "},
        {PAIR "{\"completion\":\"a\"}\n", "data.jsonl:2: \"prompt\" is missing"},
        {PAIR "{\"prompt\":\"a\",\"completion\":12}\n", "data.jsonl:2: \"completion\" is a number, but must be text"},
        {"{\"prompt\":null,\"completion\":\"a\"}\n", "data.jsonl:1: \"prompt\" is null, but must be text"},
        {"{\"text\":[\"a\"]}\n", "data.jsonl:1: \"text\" is an array, but must be text"},
        {"{\"question\":\"a\"}\n", "data.jsonl:1: \"answer\" is missing; each line needs"},
        {"{\"prompt\":\"a\",\"completion\":\"b\",\"text\":\"c\"}\n", "data.jsonl:1: both \"prompt\" and \"text\""},
        {PAIR "{\"prompt\":\"a\",\"completion\":\"b\"", "data.jsonl:2: the file ends in the middle of this line"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Dataset *set;
        assert_error(try_load(&set, data_file(bad[i].text), usual()), TANE_EFORMAT, bad[i].says);
        assert_null(set);
    }
    Dataset *set;
    assert_error(try_load(&set, test_path("none.jsonl"), usual()), TANE_ENOTFOUND, "none.jsonl");
}

static void wrong_options_are_named(void **state) {
    (void)state;
    Dataset *set;
    DatasetOptions o = usual();
    const char *path = data_file(PAIR);
    assert_error(dataset_load(&set, NULL, 0, &o, 1), TANE_EINVAL, "no data");
    assert_error(dataset_load(&set, &(DataSource){path, 0, 1}, 1, &o, 1), TANE_EINVAL, "fraction is 0");
    assert_error(dataset_load(&set, &(DataSource){path, 1.5, 1}, 1, &o, 1), TANE_EINVAL, "fraction is 1.5");
    assert_error(dataset_load(&set, &(DataSource){path, 1, 0.5}, 1, &o, 1), TANE_EINVAL, "repeat is 0.5");
    o.max_length = 1;
    assert_error(try_load(&set, path, o), TANE_EINVAL, "max_length is 1");
}

static void unknown_tokens_are_counted(void **state) {
    (void)state;
    Dataset *set = load("{\"prompt\":\"1+1=\",\"completion\":\"Z\"}\n"
                        "{\"prompt\":\"!1=\",\"completion\":\"2\"}\n", usual());
    assert_int_equal(dataset_unknown(set), 2);
    assert_string_equal(shown(set, 0), "1+1=[?$]");
    dataset_free(set);
    set = load(PAIR, usual());
    assert_int_equal(dataset_unknown(set), 0);
    dataset_free(set);
}

/* ---- epochs ---- */

/* n rows "<i>=" -> "<i mod 7>"; line i + 1. */
static const char *numbered(const char *name, int n) {
    const char *path = test_path("%s", name);
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < n; i++) fprintf(f, "{\"prompt\":\"%d=\",\"completion\":\"%d\"}\n", i, i % 7);
    fclose(f);
    return path;
}

static void every_row_is_kept_in_order(void **state) {
    (void)state;
    enum { N = 10000 }; /* several chunks */
    Dataset *set;
    assert_ok(try_load(&set, numbered("many.jsonl", N), usual()));
    assert_int_equal(dataset_rows(set), N);
    int64_t tokens = 0;
    for (int i = 0; i < N; i++) {
        char want[32];
        DatasetRow row;
        snprintf(want, sizeof want, "%d=[%d$]", i, i % 7);
        assert_string_equal(shown(set, i), want);
        dataset_row(set, i, &row);
        assert_int_equal(row.line, i + 1);
        tokens += row.n;
    }
    assert_int_equal(dataset_tokens(set), tokens);
    assert_int_equal(dataset_longest(set), 7);
    dataset_free(set);
}

static void an_epoch_is_a_permutation_by_seed(void **state) {
    (void)state;
    enum { N = 1000 };
    Dataset *set;
    assert_ok(try_load(&set, numbered("n.jsonl", N), usual()));
    int same_epoch = 0, same_seed = 0;
    char seen[N] = {0};
    for (int64_t i = 0; i < N; i++) {
        int64_t at = dataset_at(set, 1, 0, i);
        assert_in_range(at, 0, N - 1);
        assert_int_equal(seen[at]++, 0);
        same_epoch += at == dataset_at(set, 1, 1, i);
        same_seed += at == dataset_at(set, 2, 0, i);
    }
    assert_in_range(same_epoch, 0, 10);
    assert_in_range(same_seed, 0, 10);
    dataset_free(set);
}

static void fraction_chooses_exactly_and_by_seed(void **state) {
    (void)state;
    enum { N = 1000 };
    DatasetOptions o = usual();
    DataSource source = {numbered("n.jsonl", N), 0.25, 1};
    Dataset *a, *b, *c;
    assert_ok(dataset_load(&a, &source, 1, &o, 1));
    assert_ok(dataset_load(&b, &source, 1, &o, 1));
    assert_ok(dataset_load(&c, &source, 1, &o, 2));
    assert_int_equal(dataset_rows(a), 250);
    int64_t before = 0, both = 0;
    char chosen[N + 1] = {0};
    DatasetRow row, other;
    for (int64_t i = 0; i < 250; i++) {
        dataset_row(a, i, &row);
        dataset_row(b, i, &other);
        assert_true(row.line > before); /* no row twice */
        assert_int_equal(row.line, other.line);
        before = row.line;
        chosen[row.line] = 1;
    }
    for (int64_t i = 0; i < 250; i++) {
        dataset_row(c, i, &row);
        both += chosen[row.line];
    }
    assert_in_range(both, 30, 95); /* about 62 by chance */
    dataset_free(a);
    dataset_free(b);
    dataset_free(c);
}

static void a_row_not_chosen_is_checked_too(void **state) {
    (void)state;
    Str text = {0};
    for (int i = 0; i < 99; i++) assert_ok(str_printf(&text, PAIR));
    assert_ok(str_printf(&text, "{\"prompt\":\"a\"}\n"));
    DatasetOptions o = usual();
    Dataset *set;
    DataSource source = {data_file(text.text), 0.01, 1};
    for (uint64_t seed = 0; seed < 5; seed++)
        assert_error(dataset_load(&set, &source, 1, &o, seed), TANE_EFORMAT, "data.jsonl:100: \"completion\" is");
    str_free(&text);
}

static void repeat_counts_whole_and_part(void **state) {
    (void)state;
    DatasetOptions o = usual();
    Dataset *set;
    DataSource sources[] = {{numbered("a.jsonl", 100), 1, 2.5}, {numbered("b.jsonl", 40), 0.5, 1}};
    assert_ok(dataset_load(&set, sources, 2, &o, 3));
    assert_int_equal(dataset_rows(set), 250 + 20);
    int count[101] = {0}, thrice = 0, from_b = 0;
    int64_t tokens = 0;
    for (int64_t i = 0; i < dataset_rows(set); i++) {
        DatasetRow row;
        dataset_row(set, i, &row);
        tokens += row.n;
        if (strstr(row.source, "a.jsonl")) count[row.line]++;
        else from_b++;
    }
    assert_int_equal(dataset_tokens(set), tokens);
    assert_int_equal(from_b, 20);
    for (int i = 1; i <= 100; i++) {
        assert_in_range(count[i], 2, 3);
        thrice += count[i] == 3;
    }
    assert_int_equal(thrice, 50);
    dataset_free(set);
}

static void threads_change_nothing(void **state) {
    (void)state;
    enum { N = 9000 };
    Dataset *one, *four;
    int before = omp_get_max_threads();
    const char *path = numbered("n.jsonl", N);
    omp_set_num_threads(1);
    assert_ok(try_load(&one, path, usual()));
    omp_set_num_threads(4);
    assert_ok(try_load(&four, path, usual()));
    for (int64_t i = 0; i < N; i++) {
        DatasetRow a, b;
        dataset_row(one, i, &a);
        dataset_row(four, i, &b);
        assert_int_equal(a.n, b.n);
        assert_int_equal(a.line, b.line);
        for (int64_t t = 0; t < a.n; t++) {
            assert_int_equal(row_token(&a, t), row_token(&b, t));
            assert_int_equal(row_trained(&a, t), row_trained(&b, t));
        }
    }
    dataset_free(one);
    dataset_free(four);
    /* Of several bad rows the first is reported. */
    DatasetOptions o = usual();
    o.max_length = 5; /* too short from 100 on: line 101 */
    for (int threads = 1; threads <= 4; threads++) {
        omp_set_num_threads(threads);
        assert_error(try_load(&one, path, o), TANE_EFORMAT, "n.jsonl:101: the row has 6 tokens");
    }
    omp_set_num_threads(before);
}

/* ---- batches ---- */

static void labels_are_the_next_tokens(void **state) {
    (void)state;
    DatasetOptions o = usual();
    Dataset *set = load(PAIR "{\"prompt\":\"1=\",\"completion\":\"1\"}\n", o);
    Layout *layout;
    Batch batch;
    int32_t eos = tokenizer_eos(tok); /* pad = EOS: EOS is learned all the same */
    enum { W = 10 };
    assert_ok(layout_new(&layout, set, LAYOUT_PADDING, W));
    assert_ok(batch_new(&batch, 3, W, false));
    batch_fill_ordered(&batch, layout, 0, eos);
    DatasetRow row;
    for (int64_t r = 0; r < 2; r++) {
        dataset_row(set, r, &row);
        int64_t learned = 0;
        assert_int_equal(batch.units[r], r);
        for (int64_t t = 0; t < W; t++) { /* the last token is a target, never an input */
            int32_t label = batch.labels[r * W + t];
            assert_int_equal(batch.tokens[r * W + t], t + 1 < row.n ? row_token(&row, t) : eos);
            assert_int_equal(label, t + 1 < row.n && row_trained(&row, t + 1) ? row_token(&row, t + 1) : -100);
            learned += label == eos;
        }
        assert_int_equal(learned, 1); /* EOS once: padding is no target */
    }
    assert_int_equal(batch.units[2], -1);
    for (int64_t t = 0; t < W; t++) assert_int_equal(batch.labels[2 * W + t], -100);
    assert_int_equal(batch.targets, 3 + 2);
    assert_int_equal(batch.real, 8 + 3);
    batch_free(&batch);
    layout_free(layout);
    /* One column less than the longest row loses no target. */
    assert_ok(layout_new(&layout, set, LAYOUT_PADDING, 0));
    assert_int_equal(layout_width(layout), dataset_longest(set) - 1);
    assert_ok(batch_new(&batch, 2, layout_width(layout), false));
    batch_fill_ordered(&batch, layout, 0, eos);
    assert_int_equal(batch.targets, 3 + 2);
    batch_free(&batch);
    layout_free(layout);
    dataset_free(set);
}

static void an_epoch_is_the_same_at_any_batch_size(void **state) {
    (void)state;
    enum { N = 103 };
    Dataset *set;
    Layout *layout;
    assert_ok(try_load(&set, numbered("n.jsonl", N), usual()));
    assert_ok(layout_new(&layout, set, LAYOUT_PADDING, 0));
    for (int64_t rows = 1; rows <= 16; rows *= 4) {
        Batch batch;
        int64_t at = 0, targets = 0;
        assert_ok(batch_new(&batch, rows, layout_width(layout), false));
        for (int64_t first = 0; first < N; first += rows) {
            batch_fill(&batch, layout, 9, 2, first, 0);
            for (int64_t r = 0; r < rows; r++, at++)
                assert_int_equal(batch.units[r], at < N ? dataset_at(set, 9, 2, at) : -1);
            targets += batch.targets;
        }
        assert_int_equal(targets, 2 * N); /* each row: a digit and EOS */
        batch_free(&batch);
    }
    layout_free(layout);
    dataset_free(set);
}

/* ---- memory ---- */

static Status load_body(void *path) {
    DatasetOptions o = usual();
    Dataset *set;
    DataSource sources[] = {{path, 1, 1}, {path, 0.5, 1.5}};
    TRY_RETURN(dataset_load(&set, sources, 2, &o, 1));
    Layout *layout = NULL;
    Batch batch = {0};
    Status st = layout_new(&layout, set, LAYOUT_PACKING, 64);
    if (st == TANE_OK) st = batch_new(&batch, 2, 8, true);
    batch_free(&batch);
    layout_free(layout);
    dataset_free(set);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *path = data_file(THREE_ROWS "{\"prompt\":\"2\\u002b2=\",\"completion\":\"4\"}\n");
    for (int threads = 1; threads <= 2; threads++) {
        omp_set_num_threads(threads);
        assert_in_range(test_fail_allocations(load_body, (void *)(uintptr_t)path), 15, 500);
    }
}

static void rows_are_packed(void **state) {
    (void)state;
    enum { N = 100000 };
    const char *path = numbered("n.jsonl", N);
    TestAllocator allocator = {0};
    Dataset *set;
    test_allocator_install(&allocator);
    assert_ok(try_load(&set, path, usual()));
    /* A token takes two bytes and a bit, a row 16 bytes; arrays grow by doubling, and are trimmed at the end. */
    size_t packed = (size_t)dataset_tokens(set) * 17 / 8 + N * 16;
    assert_in_range(allocator.live_bytes, packed, packed + packed / 10);
    assert_in_range(allocator.peak_bytes, packed, 3 * packed + (8 << 20));
    assert_in_range(allocator.live, 1, 100);
    dataset_free(set);
    assert_int_equal(allocator.live, 0);
    test_allocator_remove();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(eos_is_learned),
        TEST(last_prompt_token_is_not_trained),
        TEST(rows_look_as_they_should),
        TEST(truncation_is_never_silent),
        TEST(a_row_without_a_target_is_named),
        TEST(all_rows_dropped_is_an_error),
        TEST(wrong_rows_are_named),
        TEST(wrong_options_are_named),
        TEST(unknown_tokens_are_counted),
        TEST(every_row_is_kept_in_order),
        TEST(an_epoch_is_a_permutation_by_seed),
        TEST(fraction_chooses_exactly_and_by_seed),
        TEST(a_row_not_chosen_is_checked_too),
        TEST(repeat_counts_whole_and_part),
        TEST(threads_change_nothing),
        TEST(labels_are_the_next_tokens),
        TEST(an_epoch_is_the_same_at_any_batch_size),
        TEST(every_allocation_may_fail),
        TEST(rows_are_packed),
    };
    return cmocka_run_group_tests_name("dataset", tests, make_tokenizer, free_tokenizer);
}
