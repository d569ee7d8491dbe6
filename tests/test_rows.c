/* Rows of files: the same rows from every kind of file, documents and their pieces, the exact place of what is wrong,
 * bounded memory, and which files a pattern names. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/rng.h"
#include "data/rows.h"
#include "text/tokenizer.h"

static const RowsOptions plain = {0};

/* ---- writing ---- */

static const char *write_gzip(const char *path, const void *bytes, size_t n) {
    gzFile f = gzopen(path, "wb1");
    if (!f || gzwrite(f, bytes, (unsigned)n) != (int)n || gzclose(f) != Z_OK) fail_msg("cannot write %s", path);
    return path;
}

static const char *write_zstd(const char *path, const void *bytes, size_t n) {
    size_t cap = ZSTD_compressBound(n);
    void *packed = malloc(cap);
    ZSTD_CCtx *z = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1); /* as the zstd program does */
    size_t size = ZSTD_compress2(z, packed, cap, bytes, n);
    ZSTD_freeCCtx(z);
    if (ZSTD_isError(size)) fail_msg("cannot write %s: %s", path, ZSTD_getErrorName(size));
    test_write_bytes(path, packed, size);
    free(packed);
    return path;
}

/* The text in a file of this name, compressed as its ending says. */
static const char *put_bytes(const char *name, const char *text, size_t n) {
    const char *path = test_path("%s", name), *dot = strrchr(name, '.');
    if (dot && !strcmp(dot, ".gz")) return write_gzip(path, text, n);
    if (dot && !strcmp(dot, ".zst")) return write_zstd(path, text, n);
    return test_write_bytes(path, text, n);
}
static const char *put(const char *name, const char *text) { return put_bytes(name, text, strlen(text)); }

/* ---- reading ---- */

/* What reading a file gave: "number:text|" for each row, "number:text+" for a piece that goes on. */
typedef struct Reading {
    const char *path;
    RowsOptions options;
    size_t cap; /* rows a chunk; 0: as many as there are */
    bool only_count;
    Str seen;
    int64_t rows, chunks;
    size_t bytes, largest_chunk;
} Reading;

static Status look(Reading *r, const Row *row) {
    r->rows++;
    r->bytes += row->line.n;
    if (r->only_count) return TANE_OK;
    TRY_RETURN(str_printf(&r->seen, "%lld:", (long long)row->line.number));
    TRY_RETURN(str_add(&r->seen, row->line.text, row->line.n));
    return str_add(&r->seen, row->goes_on ? "+" : "|", 1);
}

static Status read_rows(Reading *r) {
    enum { MOST = 4096 };
    Status st = TANE_OK;
    RowReader *reader = NULL;
    Row *rows = test_room(MOST * sizeof *rows);
    double progress = 0;
    r->rows = r->chunks = 0;
    r->bytes = r->largest_chunk = r->seen.len = 0;
    TRY(rows_open(&reader, r->path, &r->options));
    for (size_t n;; r->chunks++) {
        TRY(rows_chunk(reader, rows, r->cap ? r->cap : MOST, &n));
        if (n == 0) break;
        size_t before = r->bytes;
        for (size_t i = 0; i < n; i++) TRY(look(r, &rows[i]));
        if (r->bytes - before > r->largest_chunk) r->largest_chunk = r->bytes - before;
        assert_true(rows_progress(reader) >= progress);
        progress = rows_progress(reader);
    }
    assert_true(rows_progress(reader) == 1);
    for (size_t n = 1; n;) TRY(rows_chunk(reader, rows, 1, &n)); /* behind the end there is nothing, again */
out:
    rows_close(reader);
    return st;
}

static void assert_rows_with(const char *path, RowsOptions options, const char *want) {
    for (size_t cap = 1; cap < 4; cap++) {
        Reading r = {.path = path, .options = options, .cap = cap};
        assert_ok(read_rows(&r));
        assert_string_equal(r.seen.text, want);
        str_free(&r.seen);
    }
}
static void assert_rows(const char *path, const char *want) { assert_rows_with(path, plain, want); }

static void assert_refused(const char *path, const char *says) {
    Reading r = {.path = path};
    Status st = read_rows(&r);
    str_free(&r.seen);
    if (st != TANE_EFORMAT || !strstr(err_message(), says))
        fail_msg("%s gave %s: %s; expected \"%s\"", path_base(path), tane_status_name(st), st ? err_message() : "",
                 says);
}

/* ---- the same rows from every kind of file ---- */

static void the_same_rows_from_every_kind_of_file(void **state) {
    (void)state;
    static const char lines[] = "{\"a\":1}\n{\"b\":[\"x\",{}]}\n{\"c\":\"]},\\\"\"}\n";
    static const char array[] = "[{\"a\":1},\n{\"b\":[\"x\",{}]},\n{\"c\":\"]},\\\"\"}]\n";
    static const char want[] = "1:{\"a\":1}|2:{\"b\":[\"x\",{}]}|3:{\"c\":\"]},\\\"\"}|";
    static const char *const of_lines[] = {"a.jsonl",    "a.ndjson",    "a.json",    "a.JSONL",  "rows",
                                           "a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "rows.zst", "a.data"};
    static const char *const of_arrays[] = {"b.json", "b.json.gz", "b.json.zst", "array"};
    for (size_t i = 0; i < sizeof of_lines / sizeof *of_lines; i++) assert_rows(put(of_lines[i], lines), want);
    for (size_t i = 0; i < sizeof of_arrays / sizeof *of_arrays; i++) assert_rows(put(of_arrays[i], array), want);
    /* What a file is compressed with is told by its bytes, too. */
    assert_rows(write_gzip(test_path("c.jsonl"), lines, strlen(lines)), want);
    assert_rows(write_zstd(test_path("c.json.gz"), array, strlen(array)), want);
}

static void parquet_gives_rows_of_json(void **state) {
    (void)state;
    static const char want[] =
        "1:{\"prompt\": \"1+1=\", \"completion\": \"2\"}|2:{\"prompt\": \"2+2=\", \"completion\": \"4\\n\"}|";
    size_t n;
    const char *golden = test_data("golden/rows_pairs.parquet"), *bytes = test_read(golden, &n);
    assert_rows(golden, want);
    assert_rows(test_write_bytes(test_path("table"), bytes, n), want); /* told by its bytes */
    assert_refused(test_data("golden/rows_none.parquet"), "rows_none.parquet: the table in it has no rows");
    assert_refused(put_bytes("p.parquet.gz", bytes, n),
                   "p.parquet.gz: there is Parquet data inside of the gzip data; unpack");
    assert_refused(put("q.parquet.gz", "{}\n"),
                   "q.parquet.gz: its name says Parquet, but there is something else in it");
    assert_refused(put("q.parquet", "{}\n"), "q.parquet");
    assert_refused(test_write_bytes(test_path("cut.parquet"), bytes, n / 2), "cut.parquet");
}

/* A picture beside the text is no reason to fail: it is not read. */
static void parquet_is_read_by_columns(void **state) {
    (void)state;
    static const char *const keys[] = {"prompt", "text"};
    const char *path = test_data("golden/rows_images.parquet");
    RowReader *reader;
    Row rows[4];
    size_t n;
    assert_ok(rows_open(&reader, path, &(RowsOptions){.columns = keys, .n_columns = 2}));
    assert_ok(rows_chunk(reader, rows, 4, &n));
    assert_int_equal(n, 2);
    assert_int_equal(rows[1].line.n, 13);
    assert_memory_equal(rows[1].line.text, "{\"text\": \"b\"}", 13);
    rows_close(reader);
    assert_refused(path, "bytes that are not text");
}

/* 60 rows of 100,000 bytes, one of 5,000,000 that no chunk holds, and 3 short ones. */
static void parquet_comes_in_chunks(void **state) {
    (void)state;
    RowReader *reader;
    Row rows[100];
    size_t n;
    assert_ok(rows_open(&reader, test_data("golden/rows_long.parquet"), &plain));
    assert_ok(rows_chunk(reader, rows, 100, &n));
    assert_int_equal(n, 42);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rows[i].line.number, i + 1);
        assert_int_equal(rows[i].line.n, 100012);
        assert_memory_equal(rows[i].line.text + 99990, "aaaaaaaaaaaaaaaaaaaa\"}", 22);
    }
    assert_ok(rows_chunk(reader, rows, 100, &n));
    assert_int_equal(n, 18);
    assert_ok(rows_chunk(reader, rows, 100, &n));
    assert_int_equal(n, 1);
    assert_int_equal(rows[0].line.number, 61);
    assert_int_equal(rows[0].line.n, 5000012);
    assert_ok(rows_chunk(reader, rows, 2, &n));
    assert_int_equal(n, 2);
    assert_memory_equal(rows[1].line.text, "{\"text\": \"c\"}", 13);
    assert_ok(rows_chunk(reader, rows, 100, &n));
    assert_int_equal(n, 1);
    assert_int_equal(rows[0].line.number, 64);
    assert_ok(rows_chunk(reader, rows, 100, &n));
    assert_int_equal(n, 0);
    rows_close(reader);
}

static void several_gzip_members_and_zstd_frames_are_one_file(void **state) {
    (void)state;
    static const char *const names[] = {"a.gz", "a.zst"};
    for (int i = 0; i < 2; i++) {
        size_t n, m;
        put(names[i], "{\"a\":1}\n{\"b\"");
        char *first = test_read(test_path("%s", names[i]), &n);
        put(names[i], ":2}\n");
        char *second = test_read(test_path("%s", names[i]), &m), *both = test_room(n + m);
        memcpy(both, first, n);
        memcpy(both + n, second, m);
        assert_rows(test_write_bytes(test_path("%s", names[i]), both, n + m), "1:{\"a\":1}|2:{\"b\":2}|");
    }
}

/* ---- JSON lines ---- */

static void lines_with_mark_crlf_blanks_and_no_end(void **state) {
    (void)state;
    static const char *const names[] = {"x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.json"};
    for (size_t i = 0; i < 4; i++) {
        assert_rows(put(names[i], "\xef\xbb\xbf{\"a\":1}\r\n\r\n \t\r\n{\"b\":2}"), "1:{\"a\":1}|4:{\"b\":2}|");
        assert_rows(put(names[i], "\n\n{\"a\":1}\n\n"), "3:{\"a\":1}|");
    }
}

static void empty_files_are_refused(void **state) {
    (void)state;
    assert_refused(put("e.jsonl", ""), "e.jsonl: the file is empty");
    assert_refused(put("e.jsonl", "\xef\xbb\xbf"), "e.jsonl: the file is empty");
    assert_refused(put("e.jsonl", " \r\n\n"), "e.jsonl: the file has only empty lines");
    assert_refused(put("e.jsonl.gz", ""), "e.jsonl.gz: the file is empty");
    assert_refused(put("e.jsonl.zst", "\n"), "e.jsonl.zst: the file has only empty lines");
    assert_refused(test_write(test_path("e.gz"), ""), "e.gz: the file is empty");
    assert_refused(put("e.json", ""), "e.json: the file is empty");
    assert_refused(put("e.json", "[ \n ]"), "e.json: the array in it is empty");
    assert_refused(put("e.txt", ""), "e.txt: the file is empty");
    assert_refused(put("e.txt", " \n\n"), "e.txt: the file has only white space");
    assert_refused(put("e.unknown", ""), "e.unknown: the file is empty");
}

static void a_truncated_last_line_is_named(void **state) {
    (void)state;
    static const char *const names[] = {"t.jsonl", "t.jsonl.gz", "t.jsonl.zst"};
    for (size_t i = 0; i < 3; i++) {
        RowReader *reader;
        Row rows[4];
        size_t n;
        JsonlScratch scratch = {0};
        assert_ok(rows_open(&reader, put(names[i], "{\"a\":1}\n{\"b\":\"x"), &plain));
        assert_ok(rows_chunk(reader, rows, 4, &n));
        assert_int_equal(n, 2);
        assert_ok(jsonl_parse(&rows[0].line, NULL, 0, &scratch));
        assert_error(jsonl_parse(&rows[1].line, NULL, 0, &scratch), TANE_EFORMAT, ":2: the file ends in the middle of");
        jsonl_scratch_free(&scratch);
        rows_close(reader);
    }
}

static void utf16_is_refused(void **state) {
    (void)state;
    assert_refused(put("u.jsonl", "\xff\xfe{"), "u.jsonl:1: the file is UTF-16");
    assert_refused(put("u.txt.gz", "\xfe\xff{"), "u.txt.gz:1: the file is UTF-16");
}

/* ---- arrays ---- */

static void elements_keep_their_lines(void **state) {
    (void)state;
    static const char text[] =
        "\xef\xbb\xbf\n [\n  {\n   \"a\": [1,\n 2]\n  },\r\n  {\"b\\\\\":\"\\\\\\\"[\"} , {}\n]\n\n";
    static const char want[] = "3:{\n   \"a\": [1,\n 2]\n  }|7:{\"b\\\\\":\"\\\\\\\"[\"}|7:{}|";
    assert_rows(put("a.json", text), want);
    assert_rows(put("a.json.gz", text), want);
}

/* The place of an error within an element: its line, and the character of the element. */
static void errors_inside_of_elements_are_placed(void **state) {
    (void)state;
    RowReader *reader;
    Row rows[4];
    size_t n;
    JsonlScratch scratch = {0};
    assert_ok(rows_open(&reader, put("a.json", "[{\"a\":1},{\n\"b\":\n x}]"), &plain));
    assert_ok(rows_chunk(reader, rows, 4, &n));
    assert_int_equal(n, 2);
    assert_ok(jsonl_parse(&rows[0].line, NULL, 0, &scratch));
    assert_int_equal(rows[1].line.element, 2);
    assert_error(jsonl_parse(&rows[1].line, NULL, 0, &scratch), TANE_EFORMAT,
                 "a.json:3: character 9 of element 2: expected a value, found 'x'");
    assert_error(jsonl_fail(&rows[1].line, "\"%s\" is missing", "text"), TANE_EFORMAT,
                 "a.json:1: element 2: \"text\" is missing");
    jsonl_scratch_free(&scratch);
    rows_close(reader);
}

static void bad_arrays_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"[{},\n{},\n]", "x.json:2: remove the comma behind element 2: nothing follows it"},
        {"[,{}]", "x.json:1: expected an object {...}, found ','"},
        {"[{},,{}]", "x.json:1: behind element 1: expected an object {...}, found ','"},
        {"[{}\n{}]", "x.json:2: behind element 1: expected ',' or ']', found '{'"},
        {"[{}\n,1]", "x.json:2: behind element 1: expected an object {...}, found '1'"},
        {"[[{}]]", "x.json:1: expected an object {...}, found '['"},
        {"[\"a\"]", "x.json:1: expected an object {...}, found '\"'"},
        {"[\xff]", "x.json:1: expected an object {...}, found the byte 0xff"},
        {"[{}]\n\n{}", "x.json:3: behind element 1: expected nothing more behind the array's ']', found '{'"},
        {"[{}]]", "x.json:1: behind element 1: expected nothing more behind the array's ']', found ']'"},
        {"[{},\n{}\n", "x.json:3: the file ends behind element 2 without the closing ']' of its array"},
        {"[{},\n", "x.json:2: the file ends behind element 1 without"},
        {"[", "x.json:1: the file ends behind element 0 without"},
        {"[{},\n{\"a\":\n[1", "x.json:2: element 2: it begins here and has no end"},
        {"[{\"a", "x.json:1: element 1: it begins here and has no end"},
        {"[{\"a\\\"}]", "x.json:1: element 1: it begins here and has no end"},
        {"[{\"a\":\n[1}]", "x.json:2: element 1: this '}' closes a bracket that was opened by '['"},
        {"[{]]", "x.json:1: element 1: this ']' closes a bracket that was opened by '{'"},
        {"{\n\"data\": [{}]\n}\n", "x.json:1: the object that begins here goes over several lines; a .json file must"},
        {"\n\n {\"a\":\n", "x.json:3: the object that begins here goes over several lines"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_refused(put("x.json", bad[i].text), bad[i].says);
        char says[256] = "x.json.gz";
        strcat(says, bad[i].says + strlen("x.json"));
        assert_refused(put("x.json.gz", bad[i].text), says);
    }
}

static void deep_nesting_in_arrays_is_refused(void **state) {
    (void)state;
    enum { DEEP = 1 << 20 };
    char *text = test_room(DEEP + 8);
    memcpy(text, "[{\"a\":\n", 7);
    memset(text + 7, '[', DEEP);
    assert_refused(test_write_bytes(test_path("deep.json"), text, DEEP + 7),
                   "deep.json:2: element 1: nested deeper than 128");
    memset(text, '[', DEEP);
    assert_refused(test_write_bytes(test_path("deep.json"), text, DEEP), "deep.json:1: expected an object");
}

/* ---- what a file is ---- */

static void names_and_bytes_say_what_a_file_is(void **state) {
    (void)state;
    assert_rows(put("a.txt", "{\"a\":1}\n"), "1:{\"a\":1}\n|"); /* a document, with its line end */
    assert_rows(put("README.md", "[see {1}]\n"), "1:[see {1}]\n|");
    assert_rows(put("notes", "{curly}\n"), "1:{curly}\n|");
    assert_rows(put("notes.py.gz", "x = [{}]\n"), "1:x = [{}]\n|");
    assert_refused(put("a.csv", "a,b\n1,2\n"),
                   "a.csv: this is no data file that tane reads; convert it to one of these: .jsonl");
    assert_refused(put("a.bin.gz", "a\1b\n"), "a.bin.gz: this is no data file");
    assert_refused(test_write(test_path("a.jsonl.gz"), "{}\n"),
                   "a.jsonl.gz: its name says gzip, but there is no gzip data");
    assert_refused(test_write(test_path("a.txt.zst"), "x"), "a.txt.zst: its name says zstd, but there is no zstd data");
    assert_refused(put("p.gz", "PAR1....PAR1"), "p.gz: there is Parquet data inside of the gzip data; unpack");
    assert_refused(put("g.zst", "\x1f\x8b\x08"), "g.zst: there is gzip data inside of the zstd data");
    Reading r = {.path = test_path("none.jsonl")};
    assert_error(read_rows(&r), TANE_ENOTFOUND, "none.jsonl");
    r.path = test_dir();
    assert_error(read_rows(&r), TANE_EIO, test_dir());
}

/* ---- plain text ---- */

static void documents_end_at_the_separator(void **state) {
    (void)state;
    static const char *const names[] = {"d.txt", "d.txt.gz", "d.txt.zst", "d"};
    for (size_t i = 0; i < 4; i++) {
        assert_rows(put(names[i], "one\n\ntwo\n"), "1:one\n\ntwo\n|");
        assert_rows_with(put(names[i], "\none\n\n\ntwo\n"), (RowsOptions){.separator = "\n"}, "2:one|5:two|");
        assert_rows_with(put(names[i], "one\n1\n\n\ntwo\n\n \n\nthree"), (RowsOptions){.separator = "\n\n"},
                         "1:one\n1|4:\ntwo|9:three|");
        assert_rows_with(put(names[i], "a<|endoftext|>\n<|endoftext|><|endoftext|>b<|c\n<|endoftext|>\n"),
                         (RowsOptions){.separator = "<|endoftext|>"}, "1:a|2:b<|c\n|");
        assert_rows_with(put(names[i], "\xef\xbb\xbfz\xff"), (RowsOptions){.separator = ""}, "1:z\xff|");
    }
}

static void separators_fit_line_ends_of_windows(void **state) {
    (void)state;
    assert_rows_with(put("w.txt", "a\r\nb\r\n\r\nc\r\n"), (RowsOptions){.separator = "\n\n"}, "1:a\r\nb|4:c\r\n|");
    assert_rows_with(put("w.txt.gz", "a\r\nb\r\n"), (RowsOptions){.separator = "\n"}, "1:a|2:b|");
}

static void long_documents_come_in_pieces(void **state) {
    (void)state;
    static const char *const names[] = {"p.txt", "p.txt.gz"};
    for (size_t i = 0; i < 2; i++) {
        const char *path = put(names[i], "ab\n\ncd\n  ef\n\xe3\x80\x80g\n\xe3\x81\x82h\ni");
        assert_rows_with(path, (RowsOptions){.piece = 1}, "1:ab\n\ncd\n  ef\n\xe3\x80\x80g\n+6:\xe3\x81\x82h\n+7:i|");
        assert_rows_with(path, (RowsOptions){.piece = 17}, "1:ab\n\ncd\n  ef\n\xe3\x80\x80g\n+6:\xe3\x81\x82h\ni|");
        assert_rows_with(path, (RowsOptions){.piece = 18}, "1:ab\n\ncd\n  ef\n\xe3\x80\x80g\n\xe3\x81\x82h\n+7:i|");
        assert_rows_with(path, (RowsOptions){.piece = 100}, "1:ab\n\ncd\n  ef\n\xe3\x80\x80g\n\xe3\x81\x82h\ni|");
        assert_rows_with(put(names[i], "a\n b\n  c\n\td\n e"), (RowsOptions){.piece = 1}, "1:a\n b\n  c\n\td\n e|");
        /* A separator at the cut ends the document: no empty piece follows. */
        assert_rows_with(put(names[i], "a\nb\nEND\nc\n"), (RowsOptions){.separator = "END\n", .piece = 3},
                         "1:a\nb\n|4:c\n|");
        assert_rows_with(put(names[i], "a\nb\n;c\nd\n"), (RowsOptions){.separator = ";", .piece = 1},
                         "1:a\n+2:b\n|3:c\n+4:d\n|");
    }
}

/* Returns how many pieces there are. */
static size_t encode_pieces(const Tokenizer *tok, const char *path, TokenList *tokens) {
    enum { ROWS = 64 };
    RowReader *reader;
    Row rows[ROWS];
    size_t all = 0;
    assert_ok(rows_open(&reader, path, &(RowsOptions){.piece = 20}));
    for (size_t n = 1; n > 0; all += n) {
        assert_ok(rows_chunk(reader, rows, ROWS, &n));
        for (size_t k = 0; k < n; k++) assert_ok(tokenizer_encode(tok, rows[k].line.text, rows[k].line.n, tokens));
    }
    rows_close(reader);
    return all;
}

/* What pieces are cut for: their tokens are those of the whole text. */
static void pieces_have_the_tokens_of_the_whole(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "llama3", "qwen2", "deepseek", "bert"};
    static const char *const parts[] = {"the", "Seed", "12", "345", ".", "'s", "!?", "=", " ", " ", " ", "  ", "\n",
                                        "\n", "\n\n", "\r\n", "\t", "\xc3\xa9", "\xe7\xa8\xae", "\xe3\x80\x80",
                                        "\xf0\x9f\x8c\xb1", "\xc2\xa0"};
    enum { SIZE = 200000 };
    char *text = test_room(SIZE);
    Rng rng = {.key = 11};
    TokenList whole = {0}, pieces = {0};
    for (int lines = 0; lines < 2; lines++) {
        size_t n = 0;
        while (n + 8 < SIZE) {
            const char *part = parts[rng_below(&rng, sizeof parts / sizeof *parts)];
            if (lines || !strpbrk(part, "\r\n")) n += (size_t)snprintf(text + n, SIZE - n, "%s", part);
        }
        const char *path = put_bytes("t.txt", text, n);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            Tokenizer *tok;
            char golden[64];
            snprintf(golden, sizeof golden, "golden/tokenizer_json/%s.json", names[i]);
            assert_ok(tokenizer_load(&tok, test_data(golden)));
            whole.n = pieces.n = 0;
            assert_ok(tokenizer_encode(tok, text, n, &whole));
            assert_in_range(encode_pieces(tok, path, &pieces), lines ? 1000 : 3, 10000);
            assert_int_equal(whole.n, pieces.n);
            assert_memory_equal(whole.ids, pieces.ids, whole.n * sizeof *whole.ids);
            tokenizer_free(tok);
        }
    }
    token_list_free(&whole);
    token_list_free(&pieces);
}

/* Pieces of one long line are cut in front of a space; without any, and without pieces, it is refused. */
static void documents_of_one_long_line(void **state) {
    (void)state;
    size_t n = (size_t)JSONL_MAX_LINE + 5000;
    char *text = test_room(n);
    memset(text, 'x', n);
    Reading r = {.path = test_write_bytes(test_path("l.txt"), text, n), .options.piece = 1000, .only_count = true};
    assert_error(read_rows(&r), TANE_EFORMAT,
                 "l.txt:1: the document that begins here is longer than 32 MiB and has neither");
    r.options.piece = 0;
    assert_error(read_rows(&r), TANE_EFORMAT, "longer than 32 MiB; say with text_separator what ends");
    r.options.separator = ";";
    assert_error(read_rows(&r), TANE_EFORMAT, "longer than 32 MiB; is text_separator the right one?");
    for (size_t i = 700; i < n; i += 700) text[i] = ' ';
    static const char *const names[] = {"l.txt", "l.txt.zst"};
    for (int i = 0; i < 2; i++) {
        r = (Reading){.path = put_bytes(names[i], text, n), .options.piece = 10 << 20, .only_count = true};
        assert_ok(read_rows(&r));
        assert_int_equal(r.bytes, n);
        assert_int_equal(r.rows, 4);
    }
}

/* ---- chunks and buffers ---- */

/* Lines of all lengths, some longer than the buffer of a compressed file, most of the text incompressible. */
static Str random_rows(uint64_t key, size_t total, bool array) {
    Str text = {0};
    Rng rng = {.key = key};
    for (size_t i = 0; text.len < total; i++) {
        size_t n = rng_below(&rng, i % 100 == 50 ? 9 << 20 : 1u << (1 + rng_below(&rng, 12)));
        assert_ok(str_printf(&text, "%s{\"n\":%zu,\"t\":\"", !array ? "" : i ? ",\n" : "[", i));
        for (size_t k = 0; k < n; k += 8) assert_ok(str_printf(&text, "%08x", (unsigned)rng_next(&rng)));
        assert_ok(str_printf(&text, array ? "\"}" : "\"}\n"));
    }
    if (array) assert_ok(str_printf(&text, "]"));
    return text;
}

static void rows_cross_the_ends_of_buffers(void **state) {
    (void)state;
    for (int array = 0; array < 2; array++) {
        Str text = random_rows(1, 30 << 20, array);
        const char *names[3] = {"r.jsonl", "r.jsonl.gz", "r.jsonl.zst"};
        if (array) names[0] = "r.json", names[1] = "r.json.gz", names[2] = "r.json.zst";
        Reading all[3] = {0};
        for (int i = 0; i < 3; i++) {
            all[i].path = put_bytes(names[i], text.text, text.len);
            assert_ok(read_rows(&all[i]));
            assert_true(all[i].chunks > 3);
            assert_true(all[i].largest_chunk < 14 << 20); /* 4 MiB and a row */
            assert_int_equal(all[i].rows, all[0].rows);
            assert_int_equal(all[i].seen.len, all[0].seen.len);
            assert_memory_equal(all[i].seen.text, all[0].seen.text, all[0].seen.len);
        }
        for (int i = 0; i < 3; i++) str_free(&all[i].seen);
        str_free(&text);
    }
}

/* Documents and pieces do not depend on where a buffer ends: random text of line ends, spaces and separators. */
static void pieces_do_not_depend_on_buffers(void **state) {
    (void)state;
    static const char *const parts[] = {"word", " ",       "\n",           "\n\n",         "  ",  "<|",
                                        "|>",   "<|end|>", "\xe3\x80\x80", "\xe3\x81\x82", "\r\n"};
    Rng rng = {.key = 3};
    Str text = {0};
    while (text.len < 9 << 20) {
        const char *part = parts[rng_below(&rng, sizeof parts / sizeof *parts)];
        assert_ok(str_add(&text, part, strlen(part)));
    }
    const RowsOptions options[] = {{.piece = 1},
                                   {.piece = 100000},
                                   {.separator = "<|end|>"},
                                   {.separator = "\n\n", .piece = 7},
                                   {.separator = "<|end|>", .piece = 40}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        Reading mapped = {.path = put_bytes("m.txt", text.text, text.len), .options = options[i]};
        Reading stream = {.path = put_bytes("m.txt.zst", text.text, text.len), .options = options[i]};
        assert_ok(read_rows(&mapped));
        assert_ok(read_rows(&stream));
        assert_int_equal(mapped.rows, stream.rows);
        assert_int_equal(mapped.seen.len, stream.seen.len);
        assert_memory_equal(mapped.seen.text, stream.seen.text, mapped.seen.len);
        if (!options[i].separator) assert_int_equal(mapped.bytes, text.len); /* nothing is lost between pieces */
        str_free(&mapped.seen);
        str_free(&stream.seen);
    }
    str_free(&text);
}

static void chunks_are_bounded(void **state) {
    (void)state;
    enum { ROWS = 100000, LONG = 100 };
    char *text = test_room(ROWS * LONG);
    for (int i = 0; i < ROWS; i++) snprintf(text + i * LONG, LONG + 1, "{\"t\":\"%91d\"}\n", i);
    for (int packed = 0; packed < 2; packed++) {
        const char *path = put_bytes(packed ? "c.jsonl.zst" : "c.jsonl", text, ROWS * LONG);
        Reading r = {.path = path, .only_count = true};
        RowReader *reader;
        size_t n;
        Row *rows = test_room(ROWS * sizeof *rows);
        assert_ok(rows_open(&reader, path, &plain));
        assert_ok(rows_chunk(reader, rows, ROWS, &n));
        assert_in_range(n * (LONG - 1), 4000000, (4 << 20) + LONG);
        assert_ok(rows_chunk(reader, rows, 7, &n));
        assert_int_equal(n, 7);
        rows_close(reader);
        assert_ok(read_rows(&r));
        assert_int_equal(r.rows, ROWS);
    }
}

/* ---- memory ---- */

static size_t peak_of(const char *path, RowsOptions options, Status *st) {
    TestAllocator allocator = {0};
    Reading r = {.path = path, .options = options, .only_count = true};
    test_allocator_install(&allocator);
    *st = read_rows(&r);
    test_allocator_remove();
    assert_int_equal(allocator.live, 0);
    return allocator.peak_bytes;
}

/* n bytes of 'x' behind `head`, as zstd or gzip. */
static const char *bomb(const char *name, const char *head, size_t n) {
    const char *path = test_path("%s", name);
    char *block = test_room(1 << 20);
    memset(block, 'x', 1 << 20);
    if (strstr(name, ".gz")) {
        gzFile f = gzopen(path, "wb6");
        gzwrite(f, head, (unsigned)strlen(head));
        for (size_t i = 0; i < n >> 20; i++) gzwrite(f, block, 1 << 20);
        assert_int_equal(gzclose(f), Z_OK);
        return path;
    }
    FILE *f = fopen(path, "wb");
    ZSTD_CStream *z = ZSTD_createCStream();
    char *out = test_room(1 << 20);
    for (size_t i = 0; i <= n >> 20; i++) {
        ZSTD_inBuffer in = {i ? block : head, i ? 1 << 20 : strlen(head), 0};
        for (size_t left = 1; in.pos < in.size || (i == n >> 20 && left);) {
            ZSTD_outBuffer to = {out, 1 << 20, 0};
            left = ZSTD_compressStream2(z, &to, &in, i == n >> 20 ? ZSTD_e_end : ZSTD_e_continue);
            fwrite(out, 1, to.pos, f);
        }
    }
    ZSTD_freeCStream(z);
    fclose(f);
    return path;
}

static void a_gigabyte_line_is_refused_by_its_length(void **state) {
    (void)state;
    Status st;
    /* A file with a hole: reading all of it would take memory and seconds. */
    const char *path = test_write(test_path("g.jsonl"), "{\"a\":\"");
    assert_int_equal(truncate(path, 1 << 30), 0);
    assert_true(peak_of(path, plain, &st) < 1 << 20);
    assert_error(st, TANE_EFORMAT, "g.jsonl:1: the line is longer than 32 MiB");
    path = test_write(test_path("g.json"), "[{\"a\":\"");
    assert_int_equal(truncate(path, 1 << 30), 0);
    assert_true(peak_of(path, plain, &st) < 1 << 20);
    assert_error(st, TANE_EFORMAT, "g.json:1: element 1: it is longer than 32 MiB");
}

static void a_decompression_bomb_stays_bounded(void **state) {
    (void)state;
    static const struct {
        const char *name, *head, *says;
    } bombs[] = {
        {"b.jsonl.gz", "{}\n{\"a\":\"", "b.jsonl.gz:2: the line is longer than 32 MiB"},
        {"b.jsonl.zst", "{}\n{\"a\":\"", "b.jsonl.zst:2: the line is longer than 32 MiB"},
        {"b.json.zst", "[{},\n{\"a\":\"", "b.json.zst:2: element 2: it is longer than 32 MiB"},
        {"b.txt.zst", "a\n", "b.txt.zst:1: the document that begins here is longer than 32 MiB"},
    };
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        Status st;
        const char *path = bomb(bombs[i].name, bombs[i].head, (size_t)256 << 20);
        uint64_t size;
        assert_ok(file_size(path, &size));
        assert_true(size < 2 << 20);
        size_t peak = peak_of(path, plain, &st);
        assert_error(st, TANE_EFORMAT, bombs[i].says);
        assert_true(peak < size + (64 << 20));
    }
}

/* Text that is much longer than memory may be, in short rows: nothing grows. */
static void a_long_stream_needs_one_buffer(void **state) {
    (void)state;
    Status st;
    size_t n = 64 << 20;
    char *text = test_room(n);
    for (size_t i = 0; i < n; i += 32) memcpy(text + i, "{\"text\":\"abcdefghijklmnopqrst\"}\n", 32);
    assert_true(peak_of(put_bytes("s.jsonl.gz", text, n), plain, &st) < 5 << 20);
    assert_ok(st);
    assert_true(peak_of(put_bytes("s.txt.gz", text, n), (RowsOptions){.piece = 1 << 20}, &st) < 9 << 20);
    assert_ok(st);
}

/* ---- damage ---- */

static void damaged_and_cut_streams_are_named(void **state) {
    (void)state;
    Str text = random_rows(5, 1 << 20, false);
    static const char *const names[] = {"d.jsonl.gz", "d.jsonl.zst"};
    for (int i = 0; i < 2; i++) {
        size_t n;
        char *bytes = test_read(put_bytes(names[i], text.text, text.len), &n);
        const char *cut = test_write_bytes(test_path("cut-%s", names[i]), bytes, n / 2);
        assert_refused(cut, i ? "cut-d.jsonl.zst: the zstd data ends too early"
                              : "cut-d.jsonl.gz: the gzip data ends too early");
        memset(bytes + n / 2, 0xff, 64);
        assert_refused(test_write_bytes(test_path("bad-%s", names[i]), bytes, n), "data is damaged near byte");
    }
    str_free(&text);
}

static Status read_body(void *ctx) {
    Reading *r = ctx;
    r->only_count = true;
    return read_rows(r);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    static const char *const names[] = {"x.jsonl", "x.json.gz", "x.txt", "x.jsonl.zst"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Reading r = {.path = put(names[i], i == 1 ? "[{}, {}]" : "{}\n{}\n"), .options.separator = "\n"};
        assert_in_range(test_fail_allocations(read_body, &r), 2, 100);
    }
    Reading table = {.path = test_data("golden/rows_pairs.parquet")};
    assert_in_range(test_fail_allocations(read_body, &table), 6, 1000);
    Str text = random_rows(50, 12 << 20, false); /* the buffer grows */
    Reading r = {.path = put_bytes("y.jsonl.zst", text.text, text.len)};
    str_free(&text);
    assert_in_range(test_fail_allocations(read_body, &r), 6, 100);
}

/* ---- which files ---- */

/* Folders and files below the test's folder. */
static void make_tree(void) {
    static const char *const paths[] = {"a.jsonl",        "b.jsonl.gz",     "c.txt",           "_skipped.jsonl",
                                        ".hidden.jsonl",  "notes.md",       "sub/d.jsonl",     "sub/deep/e.json",
                                        "sub/_x/f.jsonl", "sub/.h/g.jsonl", "other/z.parquet", "empty/no.bin",
                                        "br[1].jsonl"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s", test_path("%s", paths[i]));
        *strrchr(folder, '/') = 0;
        assert_ok(dir_make(folder));
        test_write(test_path("%s", paths[i]), "{}\n");
    }
    assert_int_equal(symlink("..", test_path("sub/circle")), 0);
    assert_int_equal(symlink("sub", test_path("link")), 0);
}

/* What patterns below the test's folder name, e.g. "a.jsonl c.txt ". */
static Status files_of(const char *const *patterns, size_t n, Str *names) {
    Arena arena = {0};
    char **files, *full[8];
    size_t n_files, root = strlen(test_dir()) + 1;
    Status st = TANE_OK;
    names->len = 0;
    for (size_t i = 0; i < n; i++) full[i] = (char *)(uintptr_t)test_path("%s", patterns[i]);
    TRY(rows_files((const char *const *)full, n, &arena, &files, &n_files));
    for (size_t i = 0; i < n_files; i++) TRY(str_printf(names, "%s ", files[i] + root));
out:
    arena_release(&arena);
    return st;
}

static void assert_files(const char *pattern, const char *want) {
    Str names = {0};
    assert_ok(files_of(&pattern, 1, &names));
    assert_string_equal(names.text, want);
    str_free(&names);
}

static void patterns_name_files(void **state) {
    (void)state;
    make_tree();
    assert_files("a.jsonl", "a.jsonl ");
    assert_files("notes.md", "notes.md ");
    assert_files("*.jsonl", "_skipped.jsonl a.jsonl br[1].jsonl ");
    assert_files("[a-c].*", "a.jsonl b.jsonl.gz c.txt ");
    assert_files("br[1].jsonl", "br[1].jsonl "); /* the file of that very name */
    assert_files("?.txt", "c.txt ");
    assert_files("s*/d.jsonl", "sub/d.jsonl ");
    assert_files("*/d.jsonl", "link/d.jsonl sub/d.jsonl ");
    assert_files("*/deep/*", "link/deep/e.json sub/deep/e.json ");
    assert_files("*.txt*", "c.txt ");
    assert_files(".*.jsonl", ".hidden.jsonl ");
    assert_files(".//sub/./d.jsonl", "sub/d.jsonl ");
}

static void folders_stand_for_their_data_files(void **state) {
    (void)state;
    make_tree();
    assert_files("", "a.jsonl b.jsonl.gz br[1].jsonl c.txt ");
    assert_files("sub/", "sub/d.jsonl ");
    assert_files("link", "link/d.jsonl ");
    assert_files("**", "a.jsonl b.jsonl.gz br[1].jsonl c.txt other/z.parquet sub/d.jsonl sub/deep/e.json ");
    assert_files("**/*.jsonl", "_skipped.jsonl a.jsonl br[1].jsonl sub/d.jsonl ");
    assert_files("**/deep/*.json", "sub/deep/e.json ");
    assert_files("sub/**", "sub/d.jsonl sub/deep/e.json ");
    assert_files("**/**/e.json", "sub/deep/e.json ");
}

static void a_file_named_twice_is_kept_once(void **state) {
    (void)state;
    make_tree();
    Str names = {0};
    const char *patterns[] = {"c.txt", "*.jsonl", "./c.txt", "", "sub//d.jsonl", "sub/*.jsonl"};
    assert_ok(files_of(patterns, 6, &names));
    assert_string_equal(names.text, "c.txt _skipped.jsonl a.jsonl br[1].jsonl b.jsonl.gz sub/d.jsonl ");
    str_free(&names);
}

static void missing_files_are_named(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *says;
    } bad[] = {
        {"a.json", "/a.json: no such file; did you mean "},
        {"sbu", "/sbu: no such file; did you mean "},
        {"nothing-like-it.jsonl", "/nothing-like-it.jsonl: no such file or folder; check the path"},
        {"gone/a.jsonl", "/gone/a.jsonl: no such file, nor the folder "},
        {"*.jsnl", "/*.jsnl: no file fits this pattern; check it with ls"},
        {"gone/*.jsonl", "/gone/*.jsonl: no file fits this pattern; there is no folder "},
        {"gone/**", "/gone/**: no file fits this pattern; there is no folder "},
        {"empty", "/empty: no data files in this folder (.jsonl, "},
        {"a.jsonl/*.x", "/a.jsonl/*.x: no file fits this pattern"},
    };
    make_tree();
    Str names = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Status st = files_of(&bad[i].pattern, 1, &names);
        if (st != TANE_ENOTFOUND || !strstr(err_message(), bad[i].says))
            fail_msg("%s: %s: %s", bad[i].pattern, tane_status_name(st), st ? err_message() : "");
    }
    str_free(&names);
    char **files;
    size_t n;
    assert_error(rows_files(NULL, 0, NULL, &files, &n), TANE_EINVAL, "no data files are named");
}

static Status files_body(void *ctx) {
    const char *patterns[] = {"**/*.jsonl", "sub", "a.jsonl"};
    Str names = {0};
    (void)ctx;
    Status st = files_of(patterns, 3, &names);
    str_free(&names);
    return st;
}

static void finding_files_survives_every_failing_allocation(void **state) {
    (void)state;
    make_tree();
    assert_in_range(test_fail_allocations(files_body, NULL), 20, 2000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_same_rows_from_every_kind_of_file),
        TEST(parquet_gives_rows_of_json),
        TEST(parquet_is_read_by_columns),
        TEST(parquet_comes_in_chunks),
        TEST(several_gzip_members_and_zstd_frames_are_one_file),
        TEST(lines_with_mark_crlf_blanks_and_no_end),
        TEST(empty_files_are_refused),
        TEST(a_truncated_last_line_is_named),
        TEST(utf16_is_refused),
        TEST(elements_keep_their_lines),
        TEST(errors_inside_of_elements_are_placed),
        TEST(bad_arrays_are_named),
        TEST(deep_nesting_in_arrays_is_refused),
        TEST(names_and_bytes_say_what_a_file_is),
        TEST(documents_end_at_the_separator),
        TEST(separators_fit_line_ends_of_windows),
        TEST(long_documents_come_in_pieces),
        TEST(pieces_have_the_tokens_of_the_whole),
        TEST(documents_of_one_long_line),
        TEST(rows_cross_the_ends_of_buffers),
        TEST(pieces_do_not_depend_on_buffers),
        TEST(chunks_are_bounded),
        TEST(a_gigabyte_line_is_refused_by_its_length),
        TEST(a_decompression_bomb_stays_bounded),
        TEST(a_long_stream_needs_one_buffer),
        TEST(damaged_and_cut_streams_are_named),
        TEST(every_allocation_may_fail),
        TEST(patterns_name_files),
        TEST(folders_stand_for_their_data_files),
        TEST(a_file_named_twice_is_kept_once),
        TEST(missing_files_are_named),
        TEST(finding_files_survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
