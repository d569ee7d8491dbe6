/* Prepared tokens: the same data as the files they came from; reuse, and what is not reused; kill -9 and full disks at
 * any disk call; damaged folders; files for llm.c and nanoGPT.
 *
 * Some tests fork: until the last ones no thread may have been made, so everything runs on one. */
#include "support.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utime.h>

#include "base/json.h"
#include "base/rng.h"
#include "data/dataset.h"
#include "data/layout.h"
#include "data/prepared.h"

static Tokenizer *tok, *other_tok;

static Tokenizer *tokenizer_of(const char *name, const char *letters, int64_t vocab) {
    const char *sentences[] = {"0123456789", "+-*/()=,.", letters};
    char model[600];
    Tokenizer *out;
    TokenizerTrainOptions options = {
        .model_type = "char", .vocab_size = vocab, .character_coverage = 1.0, .threads = 1};
    assert_ok(tokenizer_train(sentences, 3, &options, test_path("%s", name)));
    snprintf(model, sizeof model, "%s.model", test_path("%s", name));
    assert_ok(tokenizer_load(&out, model));
    return out;
}

static int start(void **state) {
    (void)state;
    if (test_setup(NULL) != 0) return -1;
    omp_set_num_threads(1);
    tok = tokenizer_of("chars", "abcdefghijklmnopqrstuvwxyz", 49);
    other_tok = tokenizer_of("other", "abcdefghijklmnopqrstuvwxzyABC", 52);
    assert_true(tokenizer_cuts_at_lines(tok)); /* so that long documents come in pieces */
    return test_teardown(NULL);
}

static int finish(void **state) {
    (void)state;
    tokenizer_free(tok);
    tokenizer_free(other_tok);
    return 0;
}

/* ---- data ---- */

/* Pairs, texts with "\n\n" between them, and one long text; in this order. */
typedef struct Files {
    const char *path[3];
    size_t n;
} Files;

static const char *pairs_file(const char *name, int n) {
    const char *path = test_path("%s", name);
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < n; i++)
        fprintf(f, "{\"prompt\":\"%d+%d=\",\"completion\":\"%d\"}\n", i * 37 % 1000, i, i * 37 % 1000 + i);
    fclose(f);
    return path;
}

static const char *texts_file(const char *name, int n) {
    const char *path = test_path("%s", name);
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < n; i++) fprintf(f, "text %d of some, %d.\nanother line (%d)\n\n", i, i * i, n - i);
    fclose(f);
    return path;
}

/* A document of several pieces, which have 64 KiB. */
static const char *long_file(const char *name, size_t bytes) {
    const char *path = test_path("%s", name);
    FILE *f = fopen(path, "wb");
    for (size_t i = 0, n = 0; n < bytes; i++) n += (size_t)fprintf(f, "line %zu is like line %zu\n", i, i * i % 1009);
    fclose(f);
    return path;
}

static Files some_files(void) {
    return (Files){{pairs_file("data/a.jsonl", 120), texts_file("data/b.txt", 60), long_file("data/c.txt", 300000)}, 3};
}

static Files make_files(void) {
    assert_ok(dir_make(test_path("data")));
    return some_files();
}

static Files few_files(void) {
    assert_ok(dir_make(test_path("data")));
    return (Files){{pairs_file("data/a.jsonl", 30), texts_file("data/b.txt", 12)}, 2};
}

static PrepareOptions usual(int64_t shard_tokens) {
    return (PrepareOptions){
        .tokenize = {.format = {.tokenizer = tok, .format = "auto", .loss = LOSS_COMPLETION, .add_eos = true},
                     .text_separator = "\n\n",
                     .shard_tokens = shard_tokens},
        .tokenizer = "chars.model",
        .settings = "as usual"};
}

static Status try_prepare(const char *folder, const Files *files, PrepareOptions options, PrepareReport *report) {
    return prepare(folder, files->path, files->n, &options, report);
}

static PrepareReport prepared(const char *folder, const Files *files, PrepareOptions options) {
    PrepareReport report;
    assert_ok(try_prepare(folder, files, options, &report));
    return report;
}

static Status try_load(Dataset **set, const char *path) {
    DatasetOptions o = {.format = usual(0).tokenize.format, .text_separator = "\n\n"};
    return dataset_load(set, &(DataSource){path, 1, 1}, 1, &o, 42);
}

static Dataset *load(const char *path) {
    Dataset *set;
    assert_ok(try_load(&set, path));
    return set;
}

/* ---- the same data ---- */

static void assert_same_rows(const Dataset *a, const Dataset *b) {
    assert_int_equal(dataset_rows(a), dataset_rows(b));
    assert_int_equal(dataset_tokens(a), dataset_tokens(b));
    assert_int_equal(dataset_longest(a), dataset_longest(b));
    for (int64_t i = 0; i < dataset_rows(a); i++) {
        DatasetRow x, y;
        dataset_row(a, i, &x);
        dataset_row(b, i, &y);
        assert_string_equal(x.source, y.source);
        assert_int_equal(x.line, y.line);
        assert_int_equal(x.n, y.n);
        for (int64_t t = 0; t < x.n; t++)
            if (row_token(&x, t) != row_token(&y, t) || row_trained(&x, t) != row_trained(&y, t))
                fail_msg("%s:%d: token %d", x.source, (int)x.line, (int)t);
    }
}

static void assert_same_streams(const Dataset *a, const Dataset *b) {
    assert_int_equal(dataset_streams(a), 1);
    assert_int_equal(dataset_streams(b), 1);
    int64_t n = dataset_stream_tokens(a, 0);
    assert_int_equal(n, dataset_stream_tokens(b, 0));
    int32_t *x = test_room((size_t)n * 4), *y = test_room((size_t)n * 4);
    uint8_t *p = test_room((size_t)n), *q = test_room((size_t)n);
    dataset_stream_copy(a, 0, 0, n, x, p);
    for (int64_t at = 0, step = 1; at < n; at += step, step = step * 3 % 7919) { /* in pieces that no shard fits */
        if (step > n - at) step = n - at;
        dataset_stream_copy(b, 0, at, step, y + at, q + at);
    }
    assert_memory_equal(x, y, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        if (p[i] != q[i]) fail_msg("token %d is trained on: %d, prepared %d", (int)i, p[i], q[i]);
}

static void prepared_data_is_that_of_the_files(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 700, 50000};
    Files files = make_files();
    Dataset *raw = load(test_path("data"));
    for (int i = 0; i < 3; i++) {
        const char *folder = test_path("tokens%d", i);
        PrepareReport r = prepared(folder, &files, usual(sizes[i]));
        Dataset *set = load(folder);
        print_message("%d tokens a shard: %d shards\n", (int)sizes[i], (int)r.shards);
        assert_int_equal(r.counts.tokens, dataset_stream_tokens(raw, 0));
        assert_int_equal(r.counts.documents, 120 + 60 + 1);
        assert_int_equal(r.counts.unknown, dataset_unknown(raw));
        assert_int_equal(r.files, 3);
        assert_false(r.reused || r.resumed);
        assert_true(dataset_has_prepared(set) && !dataset_has_prepared(raw));
        if (i == 0) assert_int_equal(r.shards, 3);
        if (i == 0) assert_same_rows(raw, set);
        assert_same_streams(raw, set);
        dataset_free(set);
    }
    /* Without the long one, documents are whole whatever the shards. */
    assert_ok(file_unlink(files.path[2]));
    dataset_free(raw);
    raw = load(test_path("data"));
    files.n = 2;
    prepared(test_path("tokens"), &files, usual(700));
    Dataset *set = load(test_path("tokens"));
    assert_same_rows(raw, set);
    dataset_free(set);
    dataset_free(raw);
    /* Each row a shard. */
    files.n = 1;
    pairs_file("data/a.jsonl", 9);
    assert_int_equal(prepared(test_path("rows"), &files, usual(1)).shards, 9);
    raw = load(files.path[0]);
    set = load(test_path("rows"));
    assert_same_rows(raw, set);
    assert_same_streams(raw, set);
    dataset_free(set);
    dataset_free(raw);
}

/* A document that goes on in the next shard is the rest of one there, and its first token is a target in a window. */
static void a_long_document_goes_on_in_the_next_shard(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("data")));
    Files files = {{long_file("data/c.txt", 300000)}, 1};
    PrepareReport r = prepared(test_path("tokens"), &files, usual(100000));
    assert_int_equal(r.counts.documents, 1);
    assert_int_equal(r.shards, 3);
    Dataset *raw = load(files.path[0]), *set = load(test_path("tokens"));
    assert_int_equal(dataset_rows(raw), 1);
    assert_int_equal(dataset_rows(set), 3);
    for (int i = 0; i < 3; i++) {
        DatasetRow row;
        dataset_row(set, i, &row);
        assert_int_equal(row.shard->continues, i > 0);
        assert_null(row.shard->mask);
        assert_true(i == 0 ? row.line == 1 : row.line > 1000);
        bool eos = row_token(&row, row.n - 1) == tokenizer_eos(tok);
        assert_int_equal(eos, i == 2);
    }
    assert_same_streams(raw, set);
    dataset_free(raw);
    dataset_free(set);
}

/* ---- reuse ---- */

typedef struct Folder {
    DirList list;
    char *bytes[400];
    size_t sizes[400];
} Folder;

static Folder read_folder(const char *path) {
    Folder f = {0};
    assert_ok(dir_list(path, &f.list));
    assert_true(f.list.n < 400);
    for (size_t i = 0; i < f.list.n; i++) {
        char file[700];
        snprintf(file, sizeof file, "%s/%s", path, f.list.names[i]);
        f.bytes[i] = dir_exists(file) ? NULL : test_read(file, &f.sizes[i]);
    }
    return f;
}

static void assert_same_folder(const char *path, const Folder *want) {
    Folder got = read_folder(path);
    for (size_t i = 0; i < got.list.n && i < want->list.n; i++)
        assert_string_equal(got.list.names[i], want->list.names[i]);
    assert_int_equal(got.list.n, want->list.n);
    for (size_t i = 0; i < got.list.n; i++) {
        if (got.sizes[i] != want->sizes[i] || memcmp(got.bytes[i], want->bytes[i], got.sizes[i]))
            fail_msg("%s/%s differs:\n%.900s\nfrom\n%.900s", path, got.list.names[i], got.bytes[i], want->bytes[i]);
    }
    dir_list_free(&got.list);
}

static void what_has_not_changed_is_reused(void **state) {
    (void)state;
    Files files = few_files();
    const char *folder = test_path("tokens");
    PrepareReport first = prepared(folder, &files, usual(300)), again;
    Folder before = read_folder(folder);
    int64_t written, now;
    assert_ok(file_modified(test_path("tokens/index.json"), &written));
    again = prepared(folder, &files, usual(300));
    assert_true(again.reused && !again.resumed);
    assert_memory_equal(&again.counts, &first.counts, sizeof again.counts);
    assert_int_equal(again.shards, first.shards);
    assert_int_equal(again.files, first.files);
    assert_same_folder(folder, &before);
    assert_ok(file_modified(test_path("tokens/index.json"), &now));
    assert_true(written == now);
    dir_list_free(&before.list);
}

static void assert_differs(const char *folder, const Files *files, PrepareOptions options, const char *what) {
    PrepareReport r;
    Folder before = read_folder(folder);
    char says[200];
    snprintf(says, sizeof says, "tokens holds tokens that were prepared with other %s; remove the folder, or choose",
             what);
    assert_error(try_prepare(folder, files, options, &r), TANE_EINVAL, says);
    assert_same_folder(folder, &before);
    dir_list_free(&before.list);
}

static void differences_are_named(void **state) {
    (void)state;
    Files files = few_files(), fewer = files, turned = {{files.path[1], files.path[0]}, 2};
    const char *folder = test_path("tokens");
    PrepareOptions o;
    prepared(folder, &files, usual(300));
    o = usual(300), o.tokenize.format.tokenizer = other_tok;
    assert_differs(folder, &files, o, "tokenizers");
    o = usual(300), o.settings = "as usual, but";
    assert_differs(folder, &files, o, "settings");
    assert_differs(folder, &files, usual(301), "sizes of shards");
    fewer.n = 1;
    assert_differs(folder, &fewer, usual(300), "files (or they have changed since)");
    assert_differs(folder, &turned, usual(300), "files (or they have changed since)");
    /* The same tokenizer from elsewhere is the same. */
    o = usual(300), o.tokenizer = "elsewhere/chars.model";
    assert_true(prepared(folder, &files, o).reused);
    /* The same bytes with another time: nobody reads them to find out. */
    assert_int_equal(utime(files.path[1], &(struct utimbuf){1000000000, 1000000000}), 0);
    assert_differs(folder, &files, usual(300), "files (or they have changed since)");
}

/* ---- interruptions ---- */

enum { JOB_SHARD = 200 };
typedef struct Job {
    Files files;
    const char *folder;
    Folder whole; /* of an undisturbed run */
    bool resumed;
} Job;

static Status job_body(void *user) {
    Job *job = user;
    PrepareReport r;
    return try_prepare(job->folder, &job->files, usual(JOB_SHARD), &r);
}

static void job_prepare(void *user) { assert_ok(dir_remove(((Job *)user)->folder)); }

/* Whatever is there cannot be used before it is whole; the same command makes it so. */
static void job_check(void *user) {
    Job *job = user;
    Dataset *set;
    PrepareReport r;
    bool whole = false;
    if (file_exists(test_path("tokens/index.json"))) {
        Status st = try_load(&set, job->folder);
        whole = st == TANE_OK;
        if (!whole)
            assert_error(st, TANE_EINVAL, "its preparation was interrupted; run the same `tane data prepare` again");
        else dataset_free(set);
    }
    assert_ok(try_prepare(job->folder, &job->files, usual(JOB_SHARD), &r));
    assert_int_equal(r.reused, whole);
    job->resumed |= r.resumed;
    assert_same_folder(job->folder, &job->whole);
}

static Job job_of(Files files) {
    Job job = {.files = files, .folder = test_path("whole")};
    prepared(job.folder, &job.files, usual(JOB_SHARD));
    job.whole = read_folder(job.folder);
    job.folder = test_path("tokens");
    return job;
}

static void killed_anywhere_it_goes_on(void **state) {
    (void)state;
    Job job = job_of(few_files());
    size_t calls = test_kill_at_disk_calls(job_body, job_prepare, job_check, &job);
    print_message("killed at %zu disk calls, %zu files in the folder\n", calls, job.whole.list.n);
    assert_true(calls > 30 && job.resumed);
    dir_list_free(&job.whole.list);
}

static void killed_inside_a_document_it_goes_on(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("data")));
    Job job = job_of((Files){{long_file("data/c.txt", 100000), pairs_file("data/a.jsonl", 5)}, 2});
    assert_true(test_kill_at_disk_calls(job_body, job_prepare, job_check, &job) > 20 && job.resumed);
    dir_list_free(&job.whole.list);
}

static void disk_faults_leave_what_can_go_on(void **state) {
    (void)state;
    Job job = job_of(few_files());
    assert_true(test_fail_disk_calls(job_body, ENOSPC, job_prepare, job_check, &job) > 30);
    if (test_stride(2) == 1) (void)test_fail_disk_calls(job_body, EIO, job_prepare, job_check, &job);
    dir_list_free(&job.whole.list);
}

static bool stop_at_once(void *user, const char *file, size_t i, size_t n, double done, const TokenizeCounts *counts) {
    (void)user;
    (void)file;
    (void)counts;
    assert_true(i < n && done >= 0 && done <= 1);
    return true;
}

static void it_can_be_stopped(void **state) {
    (void)state;
    Job job = job_of(few_files());
    PrepareOptions o = usual(JOB_SHARD);
    PrepareReport r;
    o.progress = stop_at_once;
    assert_error(try_prepare(job.folder, &job.files, o, &r), TANE_ECANCELED, "stopped");
    job_check(&job);
    assert_true(job.resumed);
    dir_list_free(&job.whole.list);
}

/* What was done before a bad row is no use when its file has been mended: that is another file. */
static void a_bad_row_is_named(void **state) {
    (void)state;
    Files files = few_files();
    PrepareReport r;
    test_write(files.path[1], "");
    files.path[1] = test_write(test_path("data/bad.jsonl"),
                               "{\"prompt\":\"1\",\"completion\":\"2\"}\n{\"prompt\":\"1\"}\n");
    assert_error(try_prepare(test_path("tokens"), &files, usual(100), &r), TANE_EFORMAT,
                 "data/bad.jsonl:2: \"completion\" is missing");
    Dataset *set;
    assert_error(try_load(&set, test_path("tokens")), TANE_EINVAL, "its preparation was interrupted");
    test_write(files.path[1], "{\"prompt\":\"1\",\"completion\":\"2\"}\n{\"prompt\":\"1\",\"completion\":\"2\"}\n");
    assert_error(try_prepare(test_path("tokens"), &files, usual(100), &r), TANE_EINVAL,
                 "other files (or they have changed");
}

static Status prepare_anew(void *user) {
    static int run;
    PrepareReport r;
    return try_prepare(test_path("run%d", run++), user, usual(0), &r);
}

static Status use(void *user) {
    Status st = TANE_OK;
    PrepareReport r;
    Dataset *set = NULL;
    ExportReport e;
    ExportOptions llmc = {.format = SHARD_LLMC};
    TRY(try_prepare(test_path("tokens"), user, usual(30), &r));
    TRY(try_load(&set, test_path("tokens")));
    TRY(prepared_export(test_path("tokens"), tok, test_path("out"), &llmc, &e));
out:
    dataset_free(set);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("data")));
    Files files = {{pairs_file("data/a.jsonl", 6), NULL}, 1};
    size_t anew = test_fail_allocations(prepare_anew, &files);
    prepared(test_path("tokens"), &files, usual(30));
    size_t again = test_fail_allocations(use, &files);
    print_message("%zu and %zu allocations\n", anew, again);
    assert_in_range(anew, 50, 5000);
    assert_in_range(again, 50, 5000);
}

/* ---- damaged folders ---- */

static void a_flipped_byte_is_noticed(void **state) {
    (void)state;
    Files files = few_files();
    PrepareReport r = prepared(test_path("tokens"), &files, usual(300));
    Dataset *set;
    assert_true(r.shards > 3);
    for (size_t s = 0; s < r.shards; s++) {
        size_t n;
        const char *path = test_path("tokens/%06zu.tok", s);
        char *bytes = test_read(path, &n);
        static const double places[] = {0.2, 0.5, 0.8, 0.999};
        for (int p = 0; p < 4; p++) {
            char says[64];
            size_t at = (size_t)(places[p] * (double)n);
            bytes[at] ^= 4;
            test_write_bytes(path, bytes, n);
            snprintf(says, sizeof says, "tokens/%06zu.tok: ", s);
            assert_error(try_load(&set, test_path("tokens")), TANE_EFORMAT, says);
            assert_non_null(strstr(err_message(), "damaged"));
            assert_null(set);
            bytes[at] ^= 4;
        }
        test_write_bytes(path, bytes, n - 64);
        assert_error(try_load(&set, test_path("tokens")), TANE_EFORMAT, "it is cut or damaged; prepare the data again");
        test_write_bytes(path, bytes, n);
        dataset_free(load(test_path("tokens")));
    }
    /* Two in each other's place. */
    size_t n, m;
    char *a = test_read(test_path("tokens/000000.tok"), &n), *b = test_read(test_path("tokens/000001.tok"), &m);
    test_write_bytes(test_path("tokens/000000.tok"), b, m);
    test_write_bytes(test_path("tokens/000001.tok"), a, n);
    assert_error(try_load(&set, test_path("tokens")), TANE_EFORMAT, "000000.tok: damaged: its checksum is");
}

static void a_removed_shard_is_noticed(void **state) {
    (void)state;
    Files files = few_files();
    Dataset *set;
    PrepareReport r;
    prepared(test_path("tokens"), &files, usual(300));
    assert_ok(file_unlink(test_path("tokens/000001.tok")));
    assert_error(try_load(&set, test_path("tokens")), TANE_ENOTFOUND, "tokens/000001.tok");
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_ENOTFOUND,
                 "tokens/000001.tok is missing, but index.json names it; remove the folder and prepare the data again");
}

/* Sets a value of index.json, at most two keys deep; NULL removes it. */
static void edit_index(const char *key, int shard, const char *value) {
    json_t *index, *new_value = NULL;
    assert_ok(json_read_file(test_path("tokens/index.json"), &index));
    if (value) assert_ok(json_read_text("value", value, strlen(value), &new_value));
    json_t *object = shard < 0 ? index : json_array_get(json_object_get(index, "shards"), (size_t)shard);
    if (value) json_object_set_new(object, key, new_value);
    else json_object_del(object, key);
    assert_ok(json_write_file(test_path("tokens/index.json"), index));
    json_decref(index);
}

static void damaged_indexes_are_errors(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int shard;
        const char *value, *load, *prepare; /* NULL: fine */
    } cases[] = {
        {"version", -1, "2", "prepared by another version of tane (format 2, this one reads 1)",
         "other versions of tane"},
        {"version", -1, "\"1\"", "version", "other versions of tane"},
        {"version", -1, NULL, "version", "other versions of tane"},
        {"complete", -1, NULL, "complete", "complete"},
        {"complete", -1, "1", "complete", "complete"},
        {"tokenizer_hash", -1, "\"0\"", "its tokens were made with another tokenizer (chars.model)",
         "other tokenizers"},
        {"tokenizer_hash", -1, "7", "tokenizer_hash", "other tokenizers"},
        {"tokenizer", -1, NULL, "tokenizer", NULL},
        {"shards", -1, NULL, "names no shards", "has no list \"shards\""},
        {"shards", -1, "{}", "names no shards", "has no list \"shards\""},
        {"shards", -1, "[]", "names no shards", "names no shards"},
        {"shards", -1, "[7]", "shard 0 is no object", "shard 0 is no object"},
        {"file", 0, "\"../tokens/000000.tok\"", "is no name of a shard", "is no name of a shard"},
        {"file", 0, "\"..\"", "it is a folder", "is missing"},
        {"file", 0, "\"\"", "it is a folder", "is missing"},
        {"file", 0, NULL, "file", "file"},
        {"source", 1, NULL, "source", "source"},
        {"sha256", 1, NULL, "sha256", "sha256"},
        {"sha256", 1, "\"abc\"", "000001.tok: damaged: its checksum is", NULL},
        {"counts", -1, NULL, NULL, "index.json has no \"counts\""},
        {"counts", -1, "{\"rows\": -1}", NULL, "rows"},
    };
    Files files = few_files();
    PrepareReport r;
    Dataset *set;
    prepared(test_path("tokens"), &files, usual(300));
    size_t n;
    char *good = test_read(test_path("tokens/index.json"), &n);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        print_message("%s = %s\n", cases[i].key, cases[i].value ? cases[i].value : "nothing");
        edit_index(cases[i].key, cases[i].shard, cases[i].value);
        Status st = try_load(&set, test_path("tokens"));
        if (cases[i].load) assert_error_contains(st, cases[i].load);
        else assert_ok(st);
        dataset_free(set);
        st = try_prepare(test_path("tokens"), &files, usual(300), &r);
        if (cases[i].prepare) assert_error_contains(st, cases[i].prepare);
        else assert_ok(st);
        test_write_bytes(test_path("tokens/index.json"), good, n);
    }
    test_write_bytes(test_path("tokens/index.json"), good, n / 2);
    assert_error(try_load(&set, test_path("tokens")), TANE_EFORMAT, "tokens/index.json:");
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EFORMAT, "tokens/index.json:");
}

static void progress_of_nobody_is_an_error(void **state) {
    (void)state;
    static const char *const bad[] = {"null", "{}", "{\"file\": 2, \"rows\": 0, \"in_document\": false}",
                                      "{\"file\": -1, \"rows\": 0, \"in_document\": false}",
                                      "{\"file\": 0, \"rows\": -1, \"in_document\": false}",
                                      "{\"file\": 0, \"rows\": 1, \"in_document\": 1}"};
    Files files = few_files();
    PrepareReport r;
    prepared(test_path("tokens"), &files, usual(300));
    edit_index("complete", -1, "false");
    for (int i = 0; i < 6; i++) {
        edit_index("progress", -1, bad[i]);
        assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EFORMAT, "tokens");
    }
}

static void other_files_are_not_touched(void **state) {
    (void)state;
    Files files = few_files();
    PrepareReport r;
    assert_ok(dir_make(test_path("tokens")));
    test_write(test_path("tokens/notes.txt"), "mine");
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EINVAL,
                 "tokens holds other files (notes.txt); choose a folder of its own for the tokens");
    assert_ok(file_unlink(test_path("tokens/notes.txt")));
    test_write(test_path("tokens/index.json"), "{\"mine\": 1}\n");
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EINVAL,
                 "tokens/index.json is not of prepared tokens");
    assert_string_equal(test_read(test_path("tokens/index.json"), NULL), "{\"mine\": 1}\n");
    test_write(test_path("file"), "");
    assert_error(try_prepare(test_path("file"), &files, usual(300), &r), TANE_EIO, "file");
    assert_ok(file_unlink(test_path("tokens/index.json")));
    test_write(test_path("tokens/.hidden"), "");
    prepared(test_path("tokens"), &files, usual(300));
    int fd;
    assert_ok(dir_lock(test_path("tokens"), &fd));
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EINVAL, "is in use by another tane");
    dir_unlock(&fd);
    assert_true(prepared(test_path("tokens"), &files, usual(300)).reused);
}

/* JSON holds UTF-8 only: said, not called a lack of memory. */
static void names_that_are_not_utf8_are_named(void **state) {
    (void)state;
    Files files = few_files();
    PrepareReport r;
    PrepareOptions o = usual(300);
    o.settings = "prompt_suffix \xff";
    assert_error(try_prepare(test_path("tokens"), &files, o, &r), TANE_EINVAL, "options of the rows: ");
    assert_non_null(strstr(err_message(), "byte 0xff is not UTF-8"));
    files.path[0] = pairs_file("data/\xe9.jsonl", 3);
    assert_error(try_prepare(test_path("tokens"), &files, usual(300), &r), TANE_EINVAL, "name of a file of rows: ");
}

/* ---- ids that the tokenizer does not have ---- */

static void write_ids(const char *path, const int32_t *ids, size_t n, char hash[65]) {
    ShardBuilder b;
    TokenShard s;
    uint8_t mask[64];
    memset(mask, 1, sizeof mask);
    mask[0] = 0;
    shard_builder_init(&b, 100000);
    assert_true(n <= 64);
    assert_ok(shard_builder_add(&b, ids, mask, n, 1, false));
    assert_ok(shard_builder_take(&b, &s));
    assert_ok(shard_write(&s, path, hash));
    shard_release(&s);
    shard_builder_free(&b);
}

/* One token predicts nothing: as a row of its own it is no data. */
static void a_row_without_a_target_is_named(void **state) {
    (void)state;
    uint16_t one[] = {5};
    const char *path = test_write_bytes(test_path("one.bin"), one, sizeof one);
    DatasetOptions o = {.format = {.tokenizer = tok, .format = "auto", .add_eos = true}, .max_length = 8};
    Dataset *set;
    assert_error(dataset_load(&set, &(DataSource){path, 1, 1}, 1, &o, 1), TANE_EFORMAT,
                 "one.bin:1: the row has no token to learn (1 in all");
}

static void ids_beyond_the_vocabulary_are_named(void **state) {
    (void)state;
    int32_t vocab = tokenizer_vocab_size(tok), ids[] = {0, 5, vocab - 1, vocab, 1}, negative[] = {3, -1};
    uint16_t bare[] = {1, 2, 3, (uint16_t)vocab};
    char says[200], hash[65];
    Dataset *set;
    assert_int_equal(vocab, 49);
    const char *path = test_write_bytes(test_path("train.bin"), bare, sizeof bare);
    assert_error(try_load(&set, path), TANE_EFORMAT,
                 "train.bin: token 3 is 49, but the tokenizer has only 49: the file was made");
    test_write_bytes(path, bare, 6);
    dataset_free(load(path));
    write_ids(test_path("x.tok"), ids, 5, hash);
    assert_error(try_load(&set, test_path("x.tok")), TANE_EFORMAT,
                 "x.tok: token 3 is 49, but the tokenizer has only 49");
    write_ids(test_path("x.tok"), negative, 2, hash);
    assert_error(try_load(&set, test_path("x.tok")), TANE_EFORMAT, "x.tok: token 1 is 4294967295, but");
    write_ids(test_path("x.tok"), ids, 3, hash);
    dataset_free(load(test_path("x.tok")));
    /* A folder made up so that its checksums are right. */
    Files files = few_files();
    prepared(test_path("tokens"), &files, usual(300));
    write_ids(test_path("tokens/000001.tok"), ids, 5, hash);
    snprintf(says, sizeof says, "\"%s\"", hash);
    edit_index("sha256", 1, says);
    assert_error(try_load(&set, test_path("tokens")), TANE_EFORMAT,
                 "000001.tok: token 3 is 49, but the tokenizer has only 49");
    /* What is called .tok is a shard of tane's or nothing: never nanoGPT's. */
    test_write_bytes(test_path("y.tok"), bare, 6);
    assert_error(try_load(&set, test_path("y.tok")), TANE_EFORMAT, "y.tok: this is no shard of tokens");
}

/* ---- llm.c and nanoGPT ---- */

static int32_t *tokens_of(const Dataset *set, int64_t *n) {
    *n = dataset_stream_tokens(set, 0);
    int32_t *out = test_room((size_t)*n * sizeof *out);
    uint8_t *trained = test_room((size_t)*n);
    dataset_stream_copy(set, 0, 0, *n, out, trained);
    return out;
}

static void exports_hold_the_tokens(void **state) {
    (void)state;
    Files files = few_files();
    ExportReport r;
    int64_t n, m;
    prepared(test_path("tokens"), &files, usual(150));
    Dataset *set = load(test_path("tokens"));
    int32_t *all = tokens_of(set, &n);
    for (int llmc = 0; llmc < 2; llmc++)
        for (int h = 0; h < 3; h++) {
            static const double holdouts[] = {0, 0.1, 0.5};
            ExportOptions o = {
                .format = llmc ? SHARD_LLMC : SHARD_NANOGPT, .holdout = holdouts[h], .shard_tokens = 170};
            const char *out = test_path("%d-%d", llmc, h);
            assert_ok(prepared_export(test_path("tokens"), tok, out, &o, &r));
            assert_int_equal(r.train + r.val, n);
            assert_int_equal(r.val, (int64_t)(holdouts[h] * (double)n + 0.5));
            assert_int_equal(r.files, (llmc ? (r.train + 169) / 170 : 1) + (h > 0));
            char pattern[700];
            snprintf(pattern, sizeof pattern, "%s/%s", out, llmc ? "train_*.bin" : "train.bin");
            Dataset *train = load(pattern);
            int32_t *got = tokens_of(train, &m);
            assert_int_equal(m, r.train);
            assert_int_equal(dataset_rows(train), llmc ? r.files - (h > 0) : 1);
            assert_memory_equal(got, all, (size_t)m * sizeof *got);
            dataset_free(train);
            snprintf(pattern, sizeof pattern, "%s/%s", out, llmc ? "val_000000.bin" : "val.bin");
            assert_int_equal(file_exists(pattern), h > 0);
            if (h == 0) continue;
            Dataset *val = load(pattern);
            got = tokens_of(val, &m);
            assert_int_equal(m, r.val);
            assert_memory_equal(got, all + r.train, (size_t)m * sizeof *got);
            dataset_free(val);
        }
    /* nanoGPT's are nothing but numbers of 16 bits. */
    size_t bytes;
    const char *raw = test_read(test_path("0-0/train.bin"), &bytes);
    assert_int_equal(bytes, 2 * n);
    for (int64_t i = 0; i < n; i++) {
        uint16_t id;
        memcpy(&id, raw + 2 * i, 2);
        assert_int_equal(id, all[i]);
    }
    dataset_free(set);
}

static void an_export_does_not_mix_with_an_earlier_one(void **state) {
    (void)state;
    Files files = few_files();
    ExportReport r;
    ExportOptions small = {.format = SHARD_LLMC, .holdout = 0.1, .shard_tokens = 100}, large = {.format = SHARD_LLMC};
    prepared(test_path("tokens"), &files, usual(0));
    assert_ok(prepared_export(test_path("tokens"), tok, test_path("out"), &small, &r));
    assert_ok(prepared_export(test_path("tokens"), tok, test_path("out"), &small, &r)); /* the same again */
    assert_true(r.files > 3);
    assert_error(prepared_export(test_path("tokens"), tok, test_path("out"), &large, &r), TANE_EINVAL,
                 "is of an earlier export and would not be written anew; remove it");
    assert_ok(dir_remove(test_path("out")));
    assert_ok(prepared_export(test_path("tokens"), tok, test_path("out"), &large, &r));
    assert_int_equal(r.files, 1);
    ExportOptions nano = {.format = SHARD_NANOGPT, .holdout = 0.5};
    assert_ok(prepared_export(test_path("tokens"), tok, test_path("nano"), &nano, &r));
    nano.holdout = 0;
    assert_error(prepared_export(test_path("tokens"), tok, test_path("nano"), &nano, &r), TANE_EINVAL,
                 "nano/val.bin is of an earlier export");
}

static void something_is_left_to_train_on(void **state) {
    (void)state;
    assert_ok(dir_make(test_path("data")));
    Files files = {{test_write(test_path("data/a.txt"), "a")}, 1}; /* a, EOS */
    ExportReport r;
    ExportOptions o = {.format = SHARD_NANOGPT, .holdout = 0.9};
    prepared(test_path("tokens"), &files, usual(0));
    assert_error(prepared_export(test_path("tokens"), tok, test_path("out"), &o, &r), TANE_EINVAL,
                 "all 2 tokens would be held out; a smaller holdout");
    assert_false(file_exists(test_path("out/train.bin")));
}

static Status export_body(void *user) {
    ExportReport r;
    ExportOptions o = {.format = SHARD_LLMC, .holdout = 0.1, .shard_tokens = 400};
    return prepared_export(user, tok, test_path("out"), &o, &r);
}

static void export_prepare(void *user) {
    (void)user;
    assert_ok(dir_remove(test_path("out")));
}

/* Each file is whole or not there, and nothing is left behind. */
static void export_check(void *user) {
    (void)user;
    DirList list;
    if (!dir_exists(test_path("out"))) return;
    assert_ok(dir_list(test_path("out"), &list));
    for (size_t i = 0; i < list.n; i++) {
        TokenShard s;
        assert_null(strstr(list.names[i], ".tmp"));
        assert_ok(shard_map(&s, test_path("out/%s", list.names[i]), SHARD_LLMC));
        shard_release(&s);
    }
    dir_list_free(&list);
}

static void a_full_disk_leaves_whole_files(void **state) {
    (void)state;
    Files files = few_files();
    prepared(test_path("tokens"), &files, usual(0));
    void *folder = (void *)(uintptr_t)test_path("tokens");
    assert_true(test_fail_disk_calls(export_body, ENOSPC, export_prepare, export_check, folder) > 10);
}

/* ---- threads: from here on nothing may fork ---- */

static void threads_change_nothing(void **state) {
    (void)state;
    Job job = job_of(make_files());
    for (int threads = 2; threads <= 5; threads += 3) {
        omp_set_num_threads(threads);
        assert_ok(dir_remove(job.folder));
        prepared(job.folder, &job.files, usual(JOB_SHARD));
        assert_same_folder(job.folder, &job.whole);
        Dataset *set = load(job.folder);
        dataset_free(set);
    }
    /* Of several damaged shards the first is named. */
    size_t n;
    for (int s = 7; s >= 3; s -= 4) {
        char *bytes = test_read(test_path("tokens/%06d.tok", s), &n);
        bytes[66] ^= 1; /* of the second token */
        test_write_bytes(test_path("tokens/%06d.tok", s), bytes, n);
    }
    Dataset *set;
    assert_error(try_load(&set, job.folder), TANE_EFORMAT, "000003.tok: damaged");
    omp_set_num_threads(1);
    dir_list_free(&job.whole.list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(prepared_data_is_that_of_the_files),
        TEST(a_long_document_goes_on_in_the_next_shard),
        TEST(what_has_not_changed_is_reused),
        TEST(differences_are_named),
        TEST(killed_anywhere_it_goes_on),
        TEST(killed_inside_a_document_it_goes_on),
        TEST(disk_faults_leave_what_can_go_on),
        TEST(it_can_be_stopped),
        TEST(a_bad_row_is_named),
        TEST(every_allocation_may_fail),
        TEST(a_flipped_byte_is_noticed),
        TEST(a_removed_shard_is_noticed),
        TEST(damaged_indexes_are_errors),
        TEST(progress_of_nobody_is_an_error),
        TEST(other_files_are_not_touched),
        TEST(names_that_are_not_utf8_are_named),
        TEST(a_row_without_a_target_is_named),
        TEST(ids_beyond_the_vocabulary_are_named),
        TEST(exports_hold_the_tokens),
        TEST(an_export_does_not_mix_with_an_earlier_one),
        TEST(something_is_left_to_train_on),
        TEST(a_full_disk_leaves_whole_files),
        TEST(threads_change_nothing),
    };
    return cmocka_run_group_tests_name("prepared", tests, start, finish);
}
