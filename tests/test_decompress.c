/* Decompression: blocks and streams that come back as they were, several members and frames, every way of reading in
 * pieces, and what damaged, cut-off, padded and greedy inputs are told. The inputs are made here by the libraries. */
#include "support.h"

#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/decompress.h"
#include "base/rng.h"

enum { TEXT = 300000 };

/* Text that compresses, but not to nothing. */
static const char *sample(void) {
    static char text[TEXT];
    Rng rng = {.key = 5, .stream = 0};
    static const char *const words[] = {"seed ", "rice ", "field ", "water ", "sun\n", "\xe7\xa8\xae "};
    for (size_t at = 0; at < TEXT && !text[TEXT - 1];) {
        const char *word = words[rng_below(&rng, 6)];
        for (; *word && at < TEXT; word++) text[at++] = *word;
    }
    return text;
}

/* Behind each other in a test's room: what `codec` makes of in, for as many calls as you like. */
typedef struct Packed {
    uint8_t *bytes;
    size_t n;
} Packed;

static Packed new_packed(void) { return (Packed){test_room(4 * TEXT), 0}; }

static void pack_gzip(Packed *p, const void *in, size_t n, int window_bits) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    z.next_out = p->bytes + p->n;
    z.avail_out = (uInt)(4 * TEXT - p->n);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    p->n += z.total_out;
    deflateEnd(&z);
}

static void pack(Packed *p, Codec codec, const void *in, size_t n) {
    size_t room = 4 * TEXT - p->n;
    if (codec == CODEC_GZIP) {
        pack_gzip(p, in, n, 15 + 16);
    } else if (codec == CODEC_ZSTD) {
        ZSTD_CCtx *context = ZSTD_createCCtx();
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
        size_t made = ZSTD_compress2(context, p->bytes + p->n, room, in, n);
        assert_false(ZSTD_isError(made));
        ZSTD_freeCCtx(context);
        p->n += made;
    } else if (codec == CODEC_SNAPPY) {
        assert_int_equal(snappy_compress(in, n, (char *)p->bytes + p->n, &room), SNAPPY_OK);
        p->n += room;
    } else {
        memcpy(p->bytes + p->n, in, n);
        p->n += n;
    }
}

/* A copy of exactly this size, so that a sanitizer sees a byte read behind it. */
static Packed exact(const Packed *p, size_t n) {
    Packed copy = {test_room(n ? n : 1), n};
    memcpy(copy.bytes, p->bytes, n);
    return copy;
}

/* Reads a stream whole, `step` bytes at a time; *n is how many came before the end or the error. */
static Status read_all(Codec codec, const Packed *p, size_t step, char *out, size_t cap, size_t *n) {
    Decompressor *d;
    Status st = TANE_OK;
    *n = 0;
    TRY_RETURN(decompressor_open(&d, codec, "x.gz", p->bytes, p->n));
    for (size_t got = 1; got > 0; *n += got) {
        assert_true(*n < cap);
        TRY(decompressor_read(d, out + *n, step < cap - *n ? step : cap - *n, &got));
    }
    size_t again = 1;
    TRY(decompressor_read(d, out, step, &again));
    assert_int_equal(again, 0); /* the end stays the end */
out:
    decompressor_close(d);
    return st;
}

static void blocks_come_back(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 7, 1000, TEXT};
    const char *text = sample();
    for (Codec codec = 0; codec < CODEC_COUNT; codec++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            Packed p = new_packed();
            char *out = test_room(TEXT);
            pack(&p, codec, text, sizes[i]);
            Packed in = exact(&p, p.n);
            assert_ok(decompress_block(codec, "x", in.bytes, in.n, out, sizes[i]));
            assert_memory_equal(out, text, sizes[i]);
        }
    }
    Packed p = new_packed();
    char *out = test_room(TEXT);
    pack_gzip(&p, text, TEXT, 15); /* zlib's own frame, which some Parquet writers call gzip */
    assert_ok(decompress_block(CODEC_GZIP, "x", p.bytes, p.n, out, TEXT));
    assert_memory_equal(out, text, TEXT);
}

static void a_block_of_another_size_is_an_error(void **state) {
    (void)state;
    for (Codec codec = 0; codec < CODEC_COUNT; codec++) {
        Packed p = new_packed();
        char *out = test_room(1001);
        pack(&p, codec, sample(), 1000);
        assert_error(decompress_block(codec, "f.parquet: page 3", p.bytes, p.n, out, 999), TANE_EFORMAT, "are more");
        assert_error(decompress_block(codec, "f.parquet: page 3", p.bytes, p.n, out, 1001), TANE_EFORMAT,
                     "should become 1001 bytes, but are fewer");
        assert_error(decompress_block(codec, "f.parquet: page 3", p.bytes, p.n, out, 0), TANE_EFORMAT,
                     "f.parquet: page 3: ");
    }
}

static void a_cut_or_damaged_block_is_an_error(void **state) {
    (void)state;
    Rng rng = {.key = 6, .stream = 0};
    for (Codec codec = CODEC_GZIP; codec < CODEC_COUNT; codec++) {
        Packed p = new_packed();
        char *out = test_room(1000);
        pack(&p, codec, sample(), 1000);
        for (size_t n = 0; n < p.n; n++) {
            Packed in = exact(&p, n);
            assert_error(decompress_block(codec, "page", in.bytes, in.n, out, 1000), TANE_EFORMAT, "page: ");
        }
        for (int i = 0; i < test_rounds(300); i++) {
            Packed in = exact(&p, p.n);
            in.bytes[rng_below(&rng, in.n)] ^= (uint8_t)(1 << rng_below(&rng, 8));
            Status st = decompress_block(codec, "page", in.bytes, in.n, out, 1000);
            if (codec == CODEC_ZSTD && st == TANE_OK) assert_memory_equal(out, sample(), 1000); /* has a checksum */
        }
    }
}

static void streams_come_back_in_any_pieces(void **state) {
    (void)state;
    static const size_t steps[] = {1, 3, 4096, TEXT, 2 * TEXT};
    const char *text = sample();
    char *out = test_room(2 * TEXT);
    for (Codec codec = CODEC_NONE; codec <= CODEC_ZSTD; codec++) {
        Packed p = new_packed();
        size_t n;
        pack(&p, codec, text, TEXT);
        Packed in = exact(&p, p.n);
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            memset(out, 0, TEXT);
            assert_ok(read_all(codec, &in, steps[i], out, 2 * TEXT, &n));
            assert_int_equal(n, TEXT);
            assert_memory_equal(out, text, TEXT);
        }
    }
}

static void several_members_are_one_text(void **state) {
    (void)state;
    const char *text = sample();
    char *out = test_room(TEXT);
    for (Codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        Packed p = new_packed();
        size_t n;
        pack(&p, codec, text, 1000);
        pack(&p, codec, text + 1000, 0); /* an empty one */
        pack(&p, codec, text + 1000, 5000);
        pack(&p, codec, text + 6000, 1);
        for (size_t step = 1; step < 20000; step *= 7) {
            assert_ok(read_all(codec, &p, step, out, TEXT, &n));
            assert_int_equal(n, 6001);
            assert_memory_equal(out, text, 6001);
        }
        assert_ok(decompress_block(codec, "x", p.bytes, p.n, out, 6001));
        assert_memory_equal(out, text, 6001);
    }
}

static void an_empty_text_has_no_bytes(void **state) {
    (void)state;
    char out[8];
    size_t n;
    for (Codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        Packed p = new_packed(), nothing = {test_room(1), 0};
        pack(&p, codec, "", 0);
        assert_ok(read_all(codec, &p, 8, out, 8, &n));
        assert_int_equal(n, 0);
        assert_error(read_all(codec, &nothing, 8, out, 8, &n), TANE_EFORMAT, "it is empty");
    }
    assert_ok(read_all(CODEC_NONE, &(Packed){NULL, 0}, 8, out, 8, &n));
}

static void every_cut_of_a_stream_is_noticed(void **state) {
    (void)state;
    char *out = test_room(TEXT);
    size_t n;
    for (Codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        Packed p = new_packed();
        pack(&p, codec, sample(), 3000);
        size_t first = p.n;
        pack(&p, codec, sample(), 100);
        for (size_t cut = 1; cut < p.n; cut++) {
            Packed in = exact(&p, cut);
            if (cut == first) continue; /* whole: one member less */
            assert_error(read_all(codec, &in, 512, out, TEXT, &n), TANE_EFORMAT, "x.gz: the ");
        }
        Packed in = exact(&p, first - 3);
        assert_error(read_all(codec, &in, 512, out, TEXT, &n), TANE_EFORMAT, "ends too early, after");
    }
}

static void damage_is_noticed_and_placed(void **state) {
    (void)state;
    char *out = test_room(2 * TEXT);
    size_t n;
    for (Codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        Packed p = new_packed();
        pack(&p, codec, sample(), TEXT);
        for (size_t at = 0; at < p.n; at += 1 + p.n / 200) {
            Packed in = exact(&p, p.n);
            in.bytes[at] ^= 0x10;
            Status st = read_all(codec, &in, 65536, out, 2 * TEXT, &n);
            /* A gzip header has bytes that mean nothing (time, system). */
            if (st == TANE_OK) assert_true(codec == CODEC_GZIP && at < 10 && memcmp(out, sample(), TEXT) == 0);
        }
        p.bytes[p.n / 2] ^= 0x10;
        assert_error(read_all(codec, &p, 65536, out, 2 * TEXT, &n), TANE_EFORMAT, "data is damaged near byte ");
    }
    Packed not = {(uint8_t *)(uintptr_t) "{\"text\": \"plain\"}", 17};
    assert_error(read_all(CODEC_GZIP, &not, 100, out, TEXT, &n), TANE_EFORMAT, "incorrect header check");
    assert_error(read_all(CODEC_ZSTD, &not, 100, out, TEXT, &n), TANE_EFORMAT, "the zstd data is damaged");
}

static void bytes_behind_gzip_are_padding_or_an_error(void **state) {
    (void)state;
    Packed p = new_packed();
    char *out = test_room(TEXT);
    size_t n;
    pack(&p, CODEC_GZIP, sample(), 1000);
    p.n += 512; /* zeros */
    assert_ok(read_all(CODEC_GZIP, &p, 300, out, TEXT, &n));
    assert_int_equal(n, 1000);
    p.bytes[p.n++] = 'x';
    assert_error(read_all(CODEC_GZIP, &p, 300, out, TEXT, &n), TANE_EFORMAT, "but 513 more bytes follow; remove them");
    assert_error(read_all(CODEC_GZIP, &p, TEXT, out, TEXT, &n), TANE_EFORMAT, "513 more bytes");
}

/* 14 bytes that ask for a window: a frame with a window descriptor and one empty block. */
static void a_window_costs_at_most_what_the_input_allows(void **state) {
    (void)state;
    uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0, 0x09, 0x00, 0x00, 'x'}; /* last block, raw, one byte */
    TestAllocator allocator = {0};
    char out[8];
    size_t n;
    test_allocator_install(&allocator);
    for (int exponent = 0; exponent < 32; exponent++) {
        frame[5] = (uint8_t)(exponent << 3);
        Status st = read_all(CODEC_ZSTD, &(Packed){frame, sizeof frame}, 8, out, 8, &n);
        if (exponent <= 15) { /* 32 MiB */
            assert_ok(st);
            assert_true(n == 1 && out[0] == 'x');
        } else {
            assert_error(st, TANE_EFORMAT, "asks for a window of more than 56 MiB; compress it with zstd -19");
        }
    }
    test_allocator_remove();
    assert_int_equal(allocator.live, 0);
    assert_true(allocator.peak_bytes < (size_t)64 << 20);
}

static void a_bomb_costs_no_more_than_is_asked_for(void **state) {
    (void)state;
    static uint8_t zeros[1 << 19], piece[4096];
    char out[64];
    for (Codec codec = CODEC_GZIP; codec < CODEC_COUNT; codec++) {
        Packed p = new_packed();
        TestAllocator allocator = {0};
        for (int i = 0; i < (codec == CODEC_SNAPPY ? 1 : 100); i++) pack(&p, codec, zeros, sizeof zeros);
        test_allocator_install(&allocator);
        assert_error(decompress_block(codec, "page", p.bytes, p.n, out, 64), TANE_EFORMAT, "but are more");
        if (codec != CODEC_SNAPPY) {
            Decompressor *d;
            size_t n, sum = 0;
            assert_ok(decompressor_open(&d, codec, "x", p.bytes, p.n));
            while (decompressor_read(d, piece, sizeof piece, &n) == TANE_OK && n) sum += n;
            assert_int_equal(sum, 100 * sizeof zeros);
            decompressor_close(d);
        }
        test_allocator_remove();
        assert_int_equal(allocator.live, 0);
        assert_true(allocator.peak_bytes < (size_t)4 << 20);
    }
}

static void codecs_are_told_by_their_first_bytes(void **state) {
    (void)state;
    Packed gzip = new_packed(), zstd = new_packed();
    pack(&gzip, CODEC_GZIP, sample(), 100);
    pack(&zstd, CODEC_ZSTD, sample(), 100);
    assert_int_equal(codec_detect(gzip.bytes, gzip.n), CODEC_GZIP);
    assert_int_equal(codec_detect(zstd.bytes, zstd.n), CODEC_ZSTD);
    assert_int_equal(codec_detect("\x50\x2a\x4d\x18\x04\0\0\0abcd", 12), CODEC_ZSTD); /* skippable */
    for (size_t n = 0; n < 3; n++) assert_int_equal(codec_detect(gzip.bytes, n), CODEC_NONE);
    for (size_t n = 0; n < 4; n++) assert_int_equal(codec_detect(zstd.bytes, n), CODEC_NONE);
    assert_int_equal(codec_detect("{\"a\": 1}", 8), CODEC_NONE);
    assert_string_equal(codec_name(CODEC_SNAPPY), "snappy");
    assert_string_equal(codec_name(CODEC_GZIP), "gzip");
}

typedef struct Job {
    Codec codec;
    Packed in;
    char *out;
} Job;

static Status stream_job(void *ctx) {
    Job *job = ctx;
    size_t n;
    return read_all(job->codec, &job->in, 1000, job->out, TEXT, &n);
}
static Status block_job(void *ctx) {
    Job *job = ctx;
    return decompress_block(job->codec, "page", job->in.bytes, job->in.n, job->out, 50000);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (Codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        Job job = {codec, new_packed(), test_room(TEXT)};
        pack(&job.in, codec, sample(), 50000);
        assert_true(test_fail_allocations(stream_job, &job) >= 4);
        assert_true(test_fail_allocations(block_job, &job) >= 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(blocks_come_back),
        TEST(a_block_of_another_size_is_an_error),
        TEST(a_cut_or_damaged_block_is_an_error),
        TEST(streams_come_back_in_any_pieces),
        TEST(several_members_are_one_text),
        TEST(an_empty_text_has_no_bytes),
        TEST(every_cut_of_a_stream_is_noticed),
        TEST(damage_is_noticed_and_placed),
        TEST(bytes_behind_gzip_are_padding_or_an_error),
        TEST(a_window_costs_at_most_what_the_input_allows),
        TEST(a_bomb_costs_no_more_than_is_asked_for),
        TEST(codecs_are_told_by_their_first_bytes),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
