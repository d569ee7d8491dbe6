/* ggml's types: decoding and encoding beside ggml's own reference functions (tools/golden/golden_gguf.py), the error of
 * Q4_K beside the reference's, numbers that no block can hold, and that all machines give the same bits. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "format/ggml.h"
#include "format/safetensors.h"

/* The same source as in the library, without AVX2. */
#define GGML_HAS_AVX2() 0
#define ggml_decode     decode_on_any_machine
#define ggml_encode     encode_on_any_machine
static void decode_on_any_machine(GgmlType type, const void *blocks, int64_t n, float *out);
static void encode_on_any_machine(GgmlType type, const float *x, int64_t n, void *blocks);
#include "format/ggml_decode.c"
#undef BLOCKS
#include "format/ggml_encode.c"
#undef ggml_decode
#undef ggml_encode

static const GgmlType all_types[] = {GGML_F32,  GGML_F16,  GGML_BF16, GGML_Q8_0, GGML_Q4_0, GGML_Q4_1,
                                     GGML_Q5_0, GGML_Q5_1, GGML_Q4_K, GGML_Q5_K, GGML_Q6_K};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

/* ---- golden values ---------------------------------------------------------------------------------------------- */

static StFile *golden;

static const void *golden_data(const char *a, const char *b, const char *c, size_t *bytes) {
    char name[80];
    snprintf(name, sizeof name, "%s%s%s", a, b, c);
    const StTensor *t = st_find(golden, name);
    if (!t) fail_msg("%s is not in tests/golden/ggml.safetensors", name);
    *bytes = t->bytes;
    return t->data;
}

static int open_golden(void **state) {
    if (test_setup(state)) return -1;
    return st_open(&golden, test_data("golden/ggml.safetensors")) == TANE_OK ? 0 : -1;
}
static int close_golden(void **state) {
    st_close(&golden);
    return test_teardown(state);
}
#define GOLDEN(name) cmocka_unit_test_setup_teardown(name, open_golden, close_golden)

/* Equal bits; any NaN equals any other. */
static void assert_same(const char *what, const float *got, const float *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &expected[i], 4) && !(isnan(got[i]) && isnan(expected[i])))
            fail_msg("%s: number %zu is %.9g, expected %.9g", what, i, (double)got[i], (double)expected[i]);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void the_table_is_whole(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPES; i++) {
        const GgmlTypeInfo *info = ggml_type_info(all_types[i]);
        assert_non_null(info);
        assert_int_equal(info->type, all_types[i]);
        assert_ptr_equal(ggml_type_find(info->name), info);
        assert_non_null(strstr(ggml_type_names(false), info->name));
        assert_int_equal(strstr(ggml_type_names(true), info->name) != NULL, info->writes);
        assert_null(ggml_type_foreign_name(all_types[i]));
        assert_int_equal(ggml_row_bytes(info, 3 * info->block), 3 * info->bytes);
    }
    assert_int_equal(ggml_type_find("q4_k")->type, GGML_Q4_K);
    assert_int_equal(ggml_type_find("bf16")->type, GGML_BF16);
    assert_null(ggml_type_find("Q4"));
    assert_null(ggml_type_find(""));
    assert_string_equal(ggml_type_foreign_name(17), "IQ2_XS");
    assert_string_equal(ggml_type_foreign_name(39), "MXFP4");
    assert_null(ggml_type_foreign_name(4)); /* removed from the format */
    static const int64_t unknown[] = {-1, 4, 43, 1000, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_null(ggml_type_info(unknown[i]));
        assert_null(ggml_type_foreign_name(unknown[i]));
    }
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

static void decoding_equals_ggml(void **state) {
    (void)state;
    for (int i = 3; i < N_TYPES; i++) {
        const GgmlTypeInfo *info = ggml_type_info(all_types[i]);
        size_t bytes, expected_bytes;
        const uint8_t *blocks = golden_data("decode.", info->name, ".blocks", &bytes);
        const float *expected = golden_data("decode.", info->name, ".x", &expected_bytes);
        size_t n = expected_bytes / 4;
        assert_int_equal(ggml_row_bytes(info, (int64_t)n), bytes);
        float *got = test_room(n * 4);
        uint8_t *moved = test_room(bytes + 1);
        ggml_decode(info->type, blocks, (int64_t)n, got);
        assert_same(info->name, got, expected, n);
        decode_on_any_machine(info->type, blocks, (int64_t)n, got);
        assert_same(info->name, got, expected, n);
        memcpy(moved + 1, blocks, bytes); /* an odd address, one block at a time */
        memset(got, 0, n * 4);
        for (size_t b = 0; b * info->bytes < bytes; b++)
            ggml_decode(info->type, moved + 1 + b * info->bytes, info->block, got + (int64_t)b * info->block);
        assert_same(info->name, got, expected, n);
    }
}

static void every_half_is_decoded(void **state) {
    (void)state;
    uint16_t *halves = test_room(65536 * 2);
    float *got = test_room(65536 * 4), *expected = test_room(65536 * 4);
    for (int pass = 0; pass < 4; pass++) {
        bool bf16 = pass & 1;
        for (int i = 0; i < 65536; i++) {
            halves[i] = (uint16_t)i;
            expected[i] = bf16 ? bf16_to_f32((uint16_t)i) : f16_to_f32((uint16_t)i);
        }
        (pass < 2 ? ggml_decode : decode_on_any_machine)(bf16 ? GGML_BF16 : GGML_F16, halves, 65536, got);
        assert_same(bf16 ? "BF16" : "F16", got, expected, 65536);
    }
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

static void halves_are_rounded_to_even(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    size_t bytes, n;
    const float *x = golden_data("half.x", "", "", &bytes);
    n = bytes / 4;
    uint16_t *got = test_room(N * 2);
    ggml_encode(GGML_F16, x, (int64_t)n, got);
    const int16_t *expected = golden_data("half.F16", "", "", &bytes);
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i])) assert_int_equal(got[i], (uint16_t)expected[i]);
    ggml_encode(GGML_BF16, x, (int64_t)n, got);
    expected = golden_data("half.BF16", "", "", &bytes);
    for (size_t i = 0; i < n; i++) assert_int_equal(got[i], (uint16_t)expected[i]);
    /* and as dtype.h rounds, over all bit patterns */
    float *all = test_room(N * 4);
    size_t step = 65537 * test_stride(16);
    for (uint64_t from = 0; from <= UINT32_MAX; from += step * 64) {
        for (int i = 0; i < N; i++) all[i] = bits_to_f32((uint32_t)(from + (uint64_t)i * 65537));
        for (int pass = 0; pass < 4; pass++) {
            (pass < 2 ? ggml_encode : encode_on_any_machine)(pass & 1 ? GGML_BF16 : GGML_F16, all, N, got);
            for (int i = 0; i < N; i++)
                if (got[i] != (pass & 1 ? f32_to_bf16(all[i]) : f32_to_f16(all[i])))
                    fail_msg("%a became %04x", (double)all[i], got[i]);
        }
    }
}

static void encoding_equals_ggml(void **state) {
    (void)state;
    static const GgmlType types[] = {GGML_Q8_0, GGML_Q4_0};
    for (int i = 0; i < 4; i++) {
        const GgmlTypeInfo *info = ggml_type_info(types[i / 2]);
        size_t bytes, expected_bytes;
        const float *x = golden_data("encode.x", "", "", &bytes);
        const uint8_t *expected = golden_data("encode.", info->name, "", &expected_bytes);
        uint8_t *got = test_room(expected_bytes);
        (i % 2 ? encode_on_any_machine : ggml_encode)(info->type, x, (int64_t)bytes / 4, got);
        for (size_t b = 0; b < expected_bytes; b++)
            if (got[b] != expected[b])
                fail_msg("%s: byte %zu of block %zu is %02x, expected %02x", info->name, b % info->bytes,
                         b / info->bytes, got[b], expected[b]);
    }
}

/* Root of the mean square error, plain, or weighted as both encoders do. */
static double error_of(const float *x, const uint8_t *blocks, size_t n, bool weighted) {
    float *y = test_room(n * 4);
    double sum = 0;
    ggml_decode(GGML_Q4_K, blocks, (int64_t)n, y);
    for (size_t sub = 0; sub < n; sub += 32) {
        double square = 0;
        for (size_t i = sub; i < sub + 32; i++) square += (double)x[i] * (double)x[i];
        for (size_t i = sub; i < sub + 32; i++) {
            double w = weighted ? sqrt(square / 32) + fabs((double)x[i]) : 1, off = (double)x[i] - (double)y[i];
            sum += w * off * off;
        }
    }
    return sqrt(sum / (double)n);
}

static void q4_k_is_closer_than_ggml(void **state) {
    (void)state;
    static const char *const sets[] = {"gauss", "real"};
    for (int i = 0; i < 2; i++) {
        size_t bytes, n;
        const float *x = golden_data("q4_k.", sets[i], ".x", &n);
        n /= 4;
        const uint8_t *theirs = golden_data("q4_k.", sets[i], ".blocks", &bytes);
        uint8_t *ours = test_room(bytes), *anywhere = test_room(bytes);
        ggml_encode(GGML_Q4_K, x, (int64_t)n, ours);
        encode_on_any_machine(GGML_Q4_K, x, (int64_t)n, anywhere);
        assert_memory_equal(ours, anywhere, bytes);
        for (int weighted = 0; weighted < 2; weighted++) {
            double a = error_of(x, ours, n, weighted), b = error_of(x, theirs, n, weighted);
            print_message("%s, %s: %.6f of the reference's error\n", sets[i], weighted ? "weighted" : "plain", a / b);
            assert_true(a < b);
        }
    }
}

/* Numbers that are a scale of 1 to 63 times 0 to 15 less a minimum of 0 to 63, in units that are f16: nothing is lost.
 * With other units only as much as d and dmin lose, which have eleven bits. */
static void what_q4_k_can_hold_it_keeps(void **state) {
    (void)state;
    static const float scales[] = {63, 7, 1, 32, 50, 9, 21, 40}, minima[] = {2, 63, 4, 0, 17, 33, 8, 60};
    float x[256], y[256];
    uint8_t blocks[Q4_K_BYTES];
    for (int set = 0; set < 6; set++) {
        float most = 0;
        for (int i = 0; i < 256; i++) {
            float scale = scales[i / 32], min = minima[i / 32], q = (float)(i * 7 % 16);
            const float sets[] = {
                0, scale * q / 1024 - min / 512, scale * q / 4, (scale * q - min) * 0x1p-24f, -1, (q - 15) * 2.5e5f};
            x[i] = sets[set];
            most = fmaxf(most, fabsf(x[i]));
        }
        ggml_encode(GGML_Q4_K, x, 256, blocks);
        ggml_decode(GGML_Q4_K, blocks, 256, y);
        for (int i = 0; i < 256; i++)
            if (!(fabsf(x[i] - y[i]) <= (set < 4 ? 0 : most * 0x1p-10f)))
                fail_msg("set %d, number %d: %g became %g", set, i, (double)x[i], (double)y[i]);
    }
}

static void what_no_block_can_hold_shows(void **state) {
    (void)state;
    static const GgmlType types[] = {GGML_Q8_0, GGML_Q4_0, GGML_Q4_K};
    const float strange[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f, -1e30f, 1e8f};
    float x[512], y[512];
    uint8_t blocks[512 * 2];
    for (size_t s = 0; s < sizeof strange / sizeof *strange; s++)
        for (size_t t = 0; t < 3; t++)
            for (int at = 0; at < 256; at += 37) {
                int block = (int)ggml_type_info(types[t])->block;
                for (int i = 0; i < 512; i++) x[i] = (float)(i % 17) - 8;
                x[at] = strange[s];
                ggml_encode(types[t], x, 512, blocks);
                ggml_decode(types[t], blocks, 512, y);
                assert_false(isfinite(y[at]));
                for (int i = 0; i < 512; i++)
                    if (i / block != at / block) assert_true(isfinite(y[i]));
            }
}

static void any_bits_are_encoded(void **state) {
    (void)state;
    enum { N = 2048 };
    Rng rng = {.key = 12, .stream = 0};
    float *x = test_room(N * 4), *y = test_room(N * 4);
    uint8_t *blocks = test_room(N * 4), *anywhere = test_room(N * 4);
    for (int round = 0; round < test_rounds(40); round++) {
        uint32_t exponents = rng_next(&rng) % 256, spread = 1 + rng_next(&rng) % 256;
        for (int i = 0; i < N; i++) {
            uint32_t exponent = (exponents + rng_next(&rng) % spread) % 256;
            x[i] = bits_to_f32((rng_next(&rng) & 0x807fffffu) | exponent << 23);
        }
        for (int t = 0; t < N_TYPES; t++) {
            const GgmlTypeInfo *info = ggml_type_info(all_types[t]);
            if (!info->writes) continue;
            ggml_encode(info->type, x, N, blocks);
            encode_on_any_machine(info->type, x, N, anywhere);
            assert_memory_equal(blocks, anywhere, ggml_row_bytes(info, N));
            ggml_decode(info->type, blocks, N, y);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_table_is_whole),           GOLDEN(decoding_equals_ggml),       TEST(every_half_is_decoded),
        GOLDEN(halves_are_rounded_to_even), GOLDEN(encoding_equals_ggml),       GOLDEN(q4_k_is_closer_than_ggml),
        TEST(what_q4_k_can_hold_it_keeps),  TEST(what_no_block_can_hold_shows), TEST(any_bits_are_encoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
