/* Shards of tokens: what the builder keeps, files written and mapped again, and what damaged files are told. */
#include "support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data/shard.h"

/* ---- building ---- */

/* Documents by seed, in pieces, and what must come of them. */
enum { MAX_TOKENS = 1 << 17, MAX_DOCUMENTS = 1 << 12 };
typedef struct Expected {
    int32_t ids[MAX_TOKENS];
    uint8_t mask[MAX_TOKENS];
    int64_t bounds[MAX_DOCUMENTS + 1], lines[MAX_DOCUMENTS];
    int64_t tokens, documents;
} Expected;

static Expected *expected_new(void) { return test_room(sizeof(Expected)); }

static void expect(Expected *e, const int32_t *ids, const uint8_t *mask, int64_t n, int64_t line, bool new_document) {
    if (new_document) e->lines[e->documents++] = line;
    memcpy(e->ids + e->tokens, ids, (size_t)n * sizeof *ids);
    memcpy(e->mask + e->tokens, mask, (size_t)n);
    e->tokens += n;
    e->bounds[e->documents] = e->tokens;
}

/* masked: documents begin with tokens that are not trained on, as prompts do. */
static void document_of(Rng *rng, int64_t vocab, bool masked, int64_t n, int32_t *ids, uint8_t *mask) {
    int64_t prompt = masked ? (int64_t)rng_below(rng, (uint64_t)n) : 1;
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)rng_below(rng, (uint64_t)vocab);
        mask[i] = i >= prompt && i > 0;
    }
    ids[0] = (int32_t)vocab - 1;
}

static void assert_shard(const TokenShard *s, const Expected *e, bool wide, bool masked, bool continues) {
    int32_t copy[100];
    assert_int_equal(s->tokens, e->tokens);
    assert_int_equal(s->documents, e->documents);
    assert_int_equal(s->wide, wide);
    assert_int_equal(s->continues, continues);
    assert_int_equal(s->mask != NULL, masked);
    assert_int_equal(s->bounds[0], 0);
    for (int64_t d = 0; d < e->documents; d++) {
        int64_t begin = (int64_t)s->bounds[d];
        assert_int_equal(s->bounds[d + 1], e->bounds[d + 1]);
        assert_int_equal(s->lines[d], e->lines[d]);
        for (int64_t i = begin; i < e->bounds[d + 1]; i++) {
            if (shard_token(s, i) != e->ids[i]) fail_msg("token %d is %d", (int)i, shard_token(s, i));
            if (i > begin && shard_trained(s, begin, i) != e->mask[i]) fail_msg("mask of token %d", (int)i);
        }
    }
    for (int64_t at = 0; at + 100 <= s->tokens; at += 4321) {
        shard_copy(s, at, 100, copy);
        assert_memory_equal(copy, e->ids + at, sizeof copy);
    }
}

static void what_is_built_is_what_was_added(void **state) {
    (void)state;
    static const int64_t vocabs[] = {2, 50257, 65536, 65537, 128256};
    for (int v = 0; v < 5; v++)
        for (int masked = 0; masked < 2; masked++) {
            enum { LONGEST = 3000 };
            int32_t ids[LONGEST];
            uint8_t mask[LONGEST];
            Rng rng = {.key = 5, .stream = (uint64_t)v};
            Expected *e = expected_new();
            ShardBuilder b;
            TokenShard built, mapped;
            char hash[65], found[65];
            const char *path = test_path("%d-%d.tok", v, masked);
            shard_builder_init(&b, vocabs[v]);
            for (int d = 0; d < 70; d++) {
                int64_t n = 2 + (int64_t)rng_below(&rng, d % 7 ? 60 : LONGEST - 2);
                document_of(&rng, vocabs[v], masked && d % 3 == 1, n, ids, mask);
                assert_ok(shard_builder_add(&b, ids, mask, (size_t)n, 10 + d, false));
                expect(e, ids, mask, n, 10 + d, true);
            }
            assert_ok(shard_builder_take(&b, &built));
            assert_shard(&built, e, vocabs[v] > 65536, masked, false);
            assert_ok(shard_write(&built, path, hash));
            assert_ok(file_sha256(path, NULL, found));
            assert_string_equal(hash, found);
            assert_ok(shard_map(&mapped, path, SHARD_TANE));
            assert_shard(&mapped, e, vocabs[v] > 65536, masked, false);
            shard_release(&mapped);
            shard_release(&built);
            shard_release(&built); /* once more is nothing */
            shard_builder_free(&b);
        }
}

/* A document that comes in pieces is one document; a shard that ends inside it begins the next with the rest. */
static void documents_go_on_across_pieces_and_shards(void **state) {
    (void)state;
    int32_t ids[] = {7, 8, 9, 10};
    uint8_t first[] = {0, 1, 1, 1}, rest[] = {1, 1, 0, 1};
    Expected *e = expected_new(), *f = expected_new();
    ShardBuilder b;
    TokenShard s, mapped;
    char hash[65];
    shard_builder_init(&b, 100);
    assert_ok(shard_builder_add(&b, ids, first, 4, 1, false));
    assert_ok(shard_builder_add(&b, ids, first, 3, 2, true));
    assert_ok(shard_builder_add(&b, ids + 3, rest, 1, 3, true));
    assert_ok(shard_builder_add(&b, ids, rest, 0, 4, true)); /* a piece without a token ends nothing */
    assert_true(b.open);
    assert_ok(shard_builder_take(&b, &s));
    expect(e, ids, first, 4, 1, true);
    expect(e, ids, first, 3, 2, true);
    expect(e, ids + 3, rest, 1, 3, false);
    assert_shard(&s, e, false, false, false);
    shard_release(&s);
    assert_true(b.open);
    assert_ok(shard_builder_add(&b, ids, rest, 4, 5, true)); /* the rest: with a token that is not trained on */
    assert_ok(shard_builder_add(&b, ids, rest, 2, 6, false));
    assert_ok(shard_builder_add(&b, ids, first, 4, 7, false));
    expect(f, ids, rest, 4, 5, true);
    expect(f, ids, rest, 2, 5, false);
    expect(f, ids, first, 4, 7, true);
    assert_ok(shard_builder_take(&b, &s));
    assert_shard(&s, f, false, true, true);
    assert_ok(shard_write(&s, test_path("x.tok"), hash));
    assert_ok(shard_map(&mapped, test_path("x.tok"), SHARD_TANE));
    assert_shard(&mapped, f, false, true, true);
    shard_release(&mapped);
    shard_release(&s);
    assert_false(b.open);
    assert_ok(shard_builder_add(&b, ids, first, 4, 8, false)); /* a new one: nothing goes on */
    assert_ok(shard_builder_take(&b, &s));
    assert_false(s.continues);
    shard_release(&s);
    shard_builder_free(&b);
}

/* A document whose first pieces gave no token begins with the first one that does. */
static void pieces_without_tokens_begin_nothing(void **state) {
    (void)state;
    int32_t ids[] = {1, 2};
    uint8_t mask[] = {0, 1};
    ShardBuilder b;
    TokenShard s;
    shard_builder_init(&b, 3);
    assert_ok(shard_builder_add(&b, ids, mask, 0, 1, true));
    assert_ok(shard_builder_add(&b, ids, mask, 2, 2, true));
    assert_ok(shard_builder_add(&b, ids, mask, 0, 3, false));
    assert_ok(shard_builder_add(&b, ids, mask, 0, 4, false));
    assert_ok(shard_builder_add(&b, ids, mask, 2, 5, false));
    assert_ok(shard_builder_take(&b, &s));
    assert_int_equal(s.documents, 2);
    assert_int_equal(s.lines[0], 2);
    assert_int_equal(s.lines[1], 5);
    assert_int_equal(s.bounds[1], 2);
    shard_release(&s);
    shard_builder_free(&b);
}

/* In a window a document's first token follows another document. It is trained on when the one behind it is, whatever
 * else is in the shard: without a mask all are. */
static void first_tokens_of_documents_have_a_bit(void **state) {
    (void)state;
    int32_t ids[] = {1, 2, 3};
    uint8_t text[] = {0, 1, 1}, prompt[] = {0, 0, 1}, rest[] = {0, 1, 0};
    ShardBuilder b;
    TokenShard s;
    shard_builder_init(&b, 10);
    assert_ok(shard_builder_add(&b, ids, text, 3, 1, false));
    assert_ok(shard_builder_add(&b, ids, prompt, 3, 2, false));
    assert_ok(shard_builder_add(&b, ids, text, 3, 3, true));
    assert_ok(shard_builder_add(&b, ids, rest, 3, 4, true)); /* the first of a piece is what the piece says */
    assert_ok(shard_builder_take(&b, &s));
    assert_int_equal(*s.mask, 7 | 4 << 3 | 7 << 6 | 2 << 9);
    shard_release(&s);
    assert_ok(shard_builder_add(&b, ids, rest, 3, 5, false)); /* also at the beginning of a shard */
    assert_ok(shard_builder_add(&b, ids, text, 3, 6, false));
    assert_ok(shard_builder_take(&b, &s));
    assert_int_equal(*s.mask, 2 | 7 << 3);
    shard_release(&s);
    shard_builder_free(&b);
}

/* ---- damaged files of tane ---- */

/* Three documents of 5, 1 and 70 tokens; with a mask. */
static char *good_file(const char *path, size_t *n, bool masked) {
    int32_t ids[70];
    uint8_t mask[70];
    ShardBuilder b;
    TokenShard s;
    char hash[65];
    shard_builder_init(&b, 300);
    for (int i = 0; i < 70; i++) ids[i] = i, mask[i] = i > 0 && (!masked || i % 3);
    assert_ok(shard_builder_add(&b, ids, mask, 5, 1, false));
    assert_ok(shard_builder_add(&b, ids, mask, 1, 2, false));
    assert_ok(shard_builder_add(&b, ids, mask, 70, 3, false));
    assert_ok(shard_builder_take(&b, &s));
    assert_ok(shard_write(&s, path, hash));
    shard_release(&s);
    shard_builder_free(&b);
    return test_read(path, n);
}

/* 64 head, 76 tokens in 192, 4 bounds in 64, 3 lines in 64, 2 words of mask in 64. */
enum { AT_TOKEN_BYTES = 8, AT_FLAGS = 12, AT_TOKENS = 16, AT_DOCUMENTS = 24, AT_BOUNDS = 256, GOOD_SIZE = 448 };

static void damaged_files_are_named(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t at, bytes;
        uint64_t value;
        size_t size; /* 0: as it is */
        const char *says;
    } cases[] = {
        {"empty", 0, 0, 0, 1, "this is no shard of tokens: it does not begin with TANETOK1"},
        {"short-head", 0, 0, 0, 63, "this is no shard of tokens"},
        {"head-only", 0, 0, 0, 64, "cannot hold 76 tokens in 3 documents"},
        {"no-mask-no-lines", 0, 0, 0, 320, "has 320 bytes, but its head makes it 448"},
        {"magic", 7, 1, '2', 0, "this is no shard of tokens: it does not begin with TANETOK1"},
        {"token-bytes-3", AT_TOKEN_BYTES, 4, 3, 0, "(3 bytes a token, flags 1)"},
        {"token-bytes-0", AT_TOKEN_BYTES, 4, 0, 0, "made by a later version of tane, or damaged (0 bytes"},
        {"flags", AT_FLAGS, 4, 4, 0, "made by a later version of tane, or damaged (2 bytes a token, flags 4)"},
        {"flags-high", AT_FLAGS, 4, 0x80000001u, 0, "flags 2147483649"},
        {"tokens-most", AT_TOKENS, 8, UINT64_MAX, 0, "cannot hold 18446744073709551615 tokens in 3 documents"},
        {"tokens-wrap", AT_TOKENS, 8, (uint64_t)1 << 63, 0, "cannot hold 9223372036854775808 tokens"},
        {"tokens-one-section-more", AT_TOKENS, 8, 97, 0,
         "has 448 bytes, but its head makes it 512: it is cut or damaged"},
        {"tokens-fewer", AT_TOKENS, 8, 75, 0, "the bounds of its documents are damaged"},
        {"tokens-none", AT_TOKENS, 8, 0, 0, "but its head makes it"},
        {"documents-most", AT_DOCUMENTS, 8, UINT64_MAX, 0, "in 18446744073709551615 documents; prepare the data again"},
        {"documents-none", AT_DOCUMENTS, 8, 0, 0, "in 0 documents"},
        {"documents-more", AT_DOCUMENTS, 8, 4, 0, "the bounds of its documents are damaged"},
        {"documents-fewer", AT_DOCUMENTS, 8, 2, 0, "the bounds of its documents are damaged"},
        {"documents-many", AT_DOCUMENTS, 8, 400, 0, "has 448 bytes, but its head makes it"},
        {"wide", AT_TOKEN_BYTES, 4, 4, 0, "has 448 bytes, but its head makes it 576"},
        {"no-mask", AT_FLAGS, 4, 0, 0, "has 448 bytes, but its head makes it 384"},
        {"mask-missing", 0, 0, 0, GOOD_SIZE - 64, "has 384 bytes, but its head makes it 448"},
        {"one-byte-less", 0, 0, 0, GOOD_SIZE - 1, "has 447 bytes, but its head makes it 448"},
        {"one-byte-more", 0, 0, 0, GOOD_SIZE + 1, "has 449 bytes, but its head makes it 448"},
        {"bounds-begin", AT_BOUNDS, 8, 1, 0, "the bounds of its documents are damaged"},
        {"bounds-equal", AT_BOUNDS + 16, 8, 5, 0, "the bounds of its documents are damaged"},
        {"bounds-falling", AT_BOUNDS + 8, 8, 7, 0, "the bounds of its documents are damaged"},
        {"bounds-beyond", AT_BOUNDS + 16, 8, UINT64_MAX, 0, "the bounds of its documents are damaged"},
        {"bounds-end", AT_BOUNDS + 24, 8, 77, 0, "the bounds of its documents are damaged"},
    };
    size_t n;
    TokenShard s;
    char *good = good_file(test_path("good.tok"), &n, true);
    assert_int_equal(n, GOOD_SIZE);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *bad = test_room(GOOD_SIZE + 1);
        const char *path = test_path("%s.tok", cases[i].name);
        memcpy(bad, good, n);
        memcpy(bad + cases[i].at, &cases[i].value, cases[i].bytes);
        test_write_bytes(path, bad, cases[i].size ? cases[i].size : n);
        print_message("%s\n", cases[i].name);
        assert_error(shard_map(&s, path, SHARD_TANE), TANE_EFORMAT, cases[i].says);
        assert_non_null(strstr(err_message(), path));
        assert_null(s.ids);
        assert_null(s.map.data);
    }
    test_write(test_path("nothing.tok"), "");
    assert_error(shard_map(&s, test_path("nothing.tok"), SHARD_TANE), TANE_EFORMAT, "this is no shard of tokens");
    assert_error(shard_map(&s, test_path("none.tok"), SHARD_TANE), TANE_ENOTFOUND, "none.tok");
    assert_error(shard_map(&s, test_dir(), SHARD_TANE), TANE_EIO, "it is a folder");
}

/* ---- llm.c and nanoGPT ---- */

/* A head of llm.c's and `bytes` of tokens, of `size` bytes in all. */
static const char *llmc_file(const char *name, int32_t magic, int32_t version, int32_t count, size_t size) {
    int32_t *file = test_room(8192);
    file[0] = magic;
    file[1] = version;
    file[2] = count;
    for (int i = 0; i < 100; i++) ((uint16_t *)(file + 256))[i] = (uint16_t)(3 * i);
    return test_write_bytes(test_path("%s", name), file, size);
}

static void files_of_llmc_are_read(void **state) {
    (void)state;
    TokenShard s;
    ShardFormat format;
    const char *narrow = llmc_file("a.bin", 20240520, 1, 100, 1024 + 200);
    assert_ok(shard_detect(narrow, &format));
    assert_int_equal(format, SHARD_LLMC);
    assert_ok(shard_map(&s, narrow, SHARD_LLMC));
    assert_int_equal(s.tokens, 100);
    assert_int_equal(s.documents, 1);
    assert_false(s.wide || s.mask || s.continues);
    assert_int_equal(s.bounds[1], 100);
    for (int i = 0; i < 100; i++) assert_int_equal(shard_token(&s, i), 3 * i);
    assert_false(shard_trained(&s, 0, 0));
    assert_true(shard_trained(&s, 0, 1));
    shard_release(&s);
    const char *wide = llmc_file("b.bin", 20240801, 7, 50, 1024 + 200);
    assert_ok(shard_detect(wide, &format));
    assert_int_equal(format, SHARD_LLMC);
    assert_ok(shard_map(&s, wide, SHARD_LLMC));
    assert_true(s.wide);
    assert_int_equal(s.tokens, 50);
    assert_int_equal(shard_token(&s, 2), 12 + (15 << 16));
    shard_release(&s);
}

static void damaged_files_of_llmc_are_named(void **state) {
    (void)state;
    static const struct {
        int32_t magic, version, count;
        size_t size;
        const char *says;
    } cases[] = {
        {20240520, 1, 101, 1224, "the head says 101 tokens, but there are 100: the file is cut or damaged"},
        {20240520, 1, -1, 1224, "the head says -1 tokens, but there are 100"},
        {20240520, 1, 100, 1222, "the head says 100 tokens, but there are 99"},
        {20240520, 1, 100, 1223, "199 bytes are no whole number of tokens of 2 bytes"},
        {20240801, 7, 50, 1222, "198 bytes are no whole number of tokens of 4 bytes"},
        {20240520, 1, 0, 1024, "holds no tokens"},
        {20240520, 1, 100, 1000, "is no shard of llm.c"},
        {20240520, 2, 100, 1224, "is no shard of llm.c: its head has not 20240520 and version 1, or 20240801 and 7"},
        {20240801, 1, 100, 1224, "is no shard of llm.c"},
    };
    TokenShard s;
    ShardFormat format;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = llmc_file("bad.bin", cases[i].magic, cases[i].version, cases[i].count, cases[i].size);
        assert_error(shard_map(&s, path, SHARD_LLMC), TANE_EFORMAT, cases[i].says);
        assert_non_null(strstr(err_message(), path));
        /* And nobody takes the head for tokens of nanoGPT's. */
        assert_ok(shard_detect(path, &format));
        assert_int_equal(format, SHARD_LLMC);
    }
    const char *other = llmc_file("other.bin", 20240521, 1, 100, 1224);
    assert_error(shard_map(&s, other, SHARD_LLMC), TANE_EFORMAT, "is no shard of llm.c");
    assert_ok(shard_detect(other, &format));
    assert_int_equal(format, SHARD_NANOGPT);
}

static void files_of_nanogpt_are_read(void **state) {
    (void)state;
    TokenShard s;
    ShardFormat format;
    uint16_t ids[] = {1, 2, 65535};
    const char *path = test_write_bytes(test_path("train.bin"), ids, sizeof ids);
    assert_ok(shard_detect(path, &format));
    assert_int_equal(format, SHARD_NANOGPT);
    assert_ok(shard_map(&s, path, SHARD_NANOGPT));
    assert_int_equal(s.tokens, 3);
    assert_int_equal(s.documents, 1);
    assert_int_equal(shard_token(&s, 2), 65535);
    shard_release(&s);
    test_write_bytes(path, ids, 5);
    assert_error(shard_map(&s, path, SHARD_NANOGPT), TANE_EFORMAT,
                 "train.bin: 5 bytes are no whole number of tokens of 2");
    test_write(path, "");
    assert_ok(shard_detect(path, &format));
    assert_error(shard_map(&s, path, SHARD_NANOGPT), TANE_EFORMAT, "train.bin: the file is empty: it holds no tokens");
    assert_error(shard_detect(test_path("none.bin"), &format), TANE_ENOTFOUND, "none.bin");
    size_t n;
    (void)good_file(path, &n, true);
    assert_ok(shard_detect(path, &format)); /* by its mark, whatever it is called */
    assert_int_equal(format, SHARD_TANE);
}

/* What shard_bare writes, byte for byte as the other programs want it, and read back. */
static void bare_files_are_written(void **state) {
    (void)state;
    size_t n;
    TokenShard s, back;
    FileWriter *w;
    const char *path = test_path("out.bin");
    (void)good_file(test_path("good.tok"), &n, false);
    assert_ok(shard_map(&s, test_path("good.tok"), SHARD_TANE));
    assert_null(s.mask);
    assert_ok(shard_bare_begin(&w, path, SHARD_LLMC, 60, false));
    assert_ok(shard_bare_add(w, &s, 10, 40, false));
    assert_ok(shard_bare_add(w, &s, 50, 20, false));
    assert_ok(fw_close(&w, NULL, NULL));
    int32_t head[256];
    char *bytes = test_read(path, &n);
    assert_int_equal(n, 1024 + 120);
    memcpy(head, bytes, sizeof head);
    assert_int_equal(head[0], 20240520);
    assert_int_equal(head[1], 1);
    assert_int_equal(head[2], 60);
    for (int i = 3; i < 256; i++) assert_int_equal(head[i], 0);
    assert_memory_equal(bytes + 1024, (const uint16_t *)s.ids + 10, 120);
    assert_ok(shard_map(&back, path, SHARD_LLMC));
    for (int i = 0; i < 60; i++) assert_int_equal(shard_token(&back, i), shard_token(&s, 10 + i));
    shard_release(&back);
    assert_ok(shard_bare_begin(&w, path, SHARD_NANOGPT, 76, false));
    assert_ok(shard_bare_add(w, &s, 0, 76, false));
    assert_ok(fw_close(&w, NULL, NULL));
    assert_memory_equal(test_read(path, &n), s.ids, 152);
    assert_int_equal(n, 152);
    shard_release(&s);
    assert_error(shard_bare_begin(&w, path, SHARD_NANOGPT, 1, true), TANE_EINVAL, "nanoGPT's files hold 16-bit tokens");
    assert_error(shard_bare_begin(&w, path, SHARD_LLMC, (int64_t)INT32_MAX + 1, false), TANE_EINVAL,
                 "2147483648 tokens are more than a shard of llm.c can hold");
    assert_ok(shard_bare_begin(&w, path, SHARD_LLMC, 0, true));
    fw_abort(&w);
}

/* ---- memory and disk ---- */

static Status build_write_map(void *user) {
    enum { N = 70000 }; /* more than the builder begins with */
    Status st = TANE_OK;
    ShardBuilder b;
    TokenShard s = {0}, mapped = {0};
    char hash[65];
    int32_t *ids = NULL;
    uint8_t *mask = NULL;
    shard_builder_init(&b, 100000);
    TRY(MEM_NEW_ARRAY(&ids, N));
    TRY(MEM_NEW_ARRAY(&mask, N));
    for (int i = 0; i < N; i++) mask[i] = i % 2;
    for (int d = 0; d < 1100; d++) TRY(shard_builder_add(&b, ids, mask, 5, d, false));
    TRY(shard_builder_add(&b, ids, mask, N, 1100, false));
    TRY(shard_builder_take(&b, &s));
    TRY(shard_write(&s, user, hash));
    TRY(shard_map(&mapped, user, SHARD_TANE));
    if (mapped.documents != 1101 || mapped.tokens != 5500 + N) st = FAIL(TANE_EINTERNAL, "not what was added");
out:
    shard_release(&mapped);
    shard_release(&s);
    shard_builder_free(&b);
    mem_free(ids);
    mem_free(mask);
    return st;
}

static Status map_bare(void *user) {
    TokenShard s;
    TRY_RETURN(shard_map(&s, user, SHARD_NANOGPT));
    shard_release(&s);
    return TANE_OK;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    void *path = (void *)(uintptr_t)test_path("x.tok"), *bare = (void *)(uintptr_t)test_path("x.bin");
    assert_in_range(test_fail_allocations(build_write_map, path), 15, 100);
    test_write(bare, "abcd");
    assert_in_range(test_fail_allocations(map_bare, bare), 1, 5);
}

static void nothing_to_check(void *user) { (void)user; }

static void every_disk_call_may_fail(void **state) {
    (void)state;
    void *path = (void *)(uintptr_t)test_path("x.tok");
    assert_in_range(test_fail_disk_calls(build_write_map, ENOSPC, NULL, nothing_to_check, path), 3, 20);
    assert_in_range(test_fail_disk_calls(build_write_map, EIO, NULL, nothing_to_check, path), 3, 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(what_is_built_is_what_was_added),
        TEST(documents_go_on_across_pieces_and_shards),
        TEST(pieces_without_tokens_begin_nothing),
        TEST(first_tokens_of_documents_have_a_bit),
        TEST(damaged_files_are_named),
        TEST(files_of_llmc_are_read),
        TEST(damaged_files_of_llmc_are_named),
        TEST(files_of_nanogpt_are_read),
        TEST(bare_files_are_written),
        TEST(every_allocation_may_fail),
        TEST(every_disk_call_may_fail),
    };
    return cmocka_run_group_tests_name("shard", tests, NULL, NULL);
}
