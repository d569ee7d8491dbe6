/* Status and error object, memory and arenas, Philox with its published answers, permutations, 16-bit floats. */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/dtype.h"
#include "base/rng.h"

/* ---- status ----------------------------------------------------------------------------------------------------- */

static void errors_carry_message_and_place(void **state) {
    (void)state;
    err_clear();
    assert_int_equal(err_code(), TANE_OK);
    assert_string_equal(err_message(), "");
    assert_int_equal(FAIL(TANE_EFORMAT, "%s:%d: bad", "a.json", 3), TANE_EFORMAT);
    assert_string_equal(err_message(), "a.json:3: bad");
    assert_string_equal(tane_error_message(), "a.json:3: bad");
    assert_non_null(strstr(err_source(), "test_base.c:"));
    assert_int_equal(err_context("loading %s", "m"), TANE_EFORMAT);
    assert_string_equal(err_message(), "loading m: a.json:3: bad");
    assert_int_equal(FAIL(TANE_EIO, "again: %s", err_message()), TANE_EIO); /* the message as its own argument */
    assert_string_equal(err_message(), "again: loading m: a.json:3: bad");
    err_clear();
    assert_int_equal(err_context("nothing"), TANE_OK);
    assert_string_equal(err_message(), "");
}

static void long_messages_are_cut(void **state) {
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    (void)FAIL(TANE_EIO, "%s", text);
    assert_int_equal(strlen(err_message()), sizeof((ErrorCopy *)0)->text - 1);
    (void)err_context("file");
    assert_memory_equal(err_message(), "file: xxx", 9);
    (void)err_context("%s", text);
    assert_int_equal(strlen(err_message()), sizeof((ErrorCopy *)0)->text - 1);
    assert_int_equal(err_code(), TANE_EIO);
}

static void *fail_elsewhere(void *copy) {
    (void)FAIL(TANE_ENUMERIC, "NaN in a worker");
    err_save(copy);
    return NULL;
}

static void each_thread_has_its_error(void **state) {
    (void)state;
    pthread_t thread;
    ErrorCopy copy;
    (void)FAIL(TANE_EINVAL, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &copy), 0);
    pthread_join(thread, NULL);
    assert_string_equal(err_message(), "mine");
    assert_int_equal(err_restore(&copy), TANE_ENUMERIC);
    assert_string_equal(err_message(), "NaN in a worker");
    assert_non_null(strstr(err_source(), "test_base.c:"));
}

static Status three_steps(int bad, char *log) {
    Status st = TANE_OK;
    for (int i = 0; i < 3; i++) {
        TRY(i == bad ? FAIL(TANE_EINVAL, "step %d", i) : TANE_OK);
        strcat(log, "s");
    }
out:
    strcat(log, "o");
    return st;
}

static void try_goes_to_the_exit(void **state) {
    (void)state;
    char log[16] = "";
    assert_ok(three_steps(-1, log));
    assert_string_equal(log, "ssso");
    log[0] = 0;
    assert_error(three_steps(1, log), TANE_EINVAL, "step 1");
    assert_string_equal(log, "so");
}

static void statuses_have_names(void **state) {
    (void)state;
    assert_string_equal(tane_status_name(TANE_OK), "TANE_OK");
    for (int st = TANE_OK; st <= TANE_EINTERNAL; st++) assert_memory_equal(tane_status_name((Status)st), "TANE_", 5);
    assert_string_equal(tane_status_name(TANE_ENUMERIC), "TANE_ENUMERIC");
    assert_string_equal(tane_status_name((Status)99), "unknown status");
}

static void typos_find_the_nearest_word(void **state) {
    (void)state;
    static const char *const words[] = {"learning_rate", "max_steps", "seed", "bf16"}, *const rate = "lr";
    assert_string_equal(err_nearest("learnig_rate", words, 4), "learning_rate");
    assert_string_equal(err_nearest("learning-rate", words, 4), "learning_rate");
    assert_string_equal(err_nearest("sede", words, 4), "seed");
    assert_string_equal(err_nearest("rl", &rate, 1), "lr"); /* a swap counts once */
    assert_string_equal(err_nearest("max_step", words, 4), "max_steps");
    assert_string_equal(err_nearest("bf16", words, 4), "bf16");
    assert_null(err_nearest("temperature", words, 4));
    assert_null(err_nearest("x", words, 0));
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static bool all_zero(const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((const char *)bytes)[i]) return false;
    return true;
}

static void memory_is_zeroed_and_aligned(void **state) {
    (void)state;
    TestAllocator a = {0}; /* fills with 0xa5 what it gives */
    int *p = NULL;
    char *text;
    void *none;
    test_allocator_install(&a);
    assert_ok(MEM_NEW_ARRAY(&p, 1000));
    assert_true(all_zero(p, 4000));
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 1000; i++) p[i] = i;
    assert_ok(mem_grow((void **)&p, 1000, 3000, sizeof *p));
    for (int i = 0; i < 1000; i++) assert_int_equal(p[i], i);
    assert_true(all_zero(p + 1000, 8000));
    assert_ok(mem_grow((void **)&p, 3000, 10, sizeof *p));
    assert_int_equal(p[9], 9);
    mem_free(p);
    p = NULL;
    assert_ok(mem_grow((void **)&p, 0, 4, sizeof *p));
    mem_free(p);
    assert_ok(mem_new(&none, 0, 8));
    assert_non_null(none);
    mem_free(none);
    mem_free(NULL);
    assert_ok(mem_strdup(&text, "seed"));
    assert_string_equal(text, "seed");
    mem_free(text);
    assert_int_equal(a.live, 0);
    assert_true(a.calls >= 6);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    void *p = (void *)1;
    Arena arena = {0};
    assert_error(mem_new(&p, SIZE_MAX, 2), TANE_ENOMEM, "out of memory");
    assert_null(p);
    assert_error(mem_new(&p, (size_t)1 << 62, 4), TANE_ENOMEM, "4611686018427387904 x 4 bytes");
    assert_error(mem_new(&p, SIZE_MAX, 1), TANE_ENOMEM, "out of memory");
    assert_error(arena_new(&arena, &p, SIZE_MAX, 2), TANE_ENOMEM, "out of memory");
    assert_error(arena_new(&arena, &p, SIZE_MAX - 8, 1), TANE_ENOMEM, "out of memory");
    assert_null(arena.blocks);
    int small[4], *grown = small;
    assert_error(mem_grow((void **)&grown, 4, SIZE_MAX / 2, sizeof *grown), TANE_ENOMEM, "out of memory");
    assert_ptr_equal(grown, small); /* what was there stays */
}

static void an_arena_gives_separate_zeroed_pieces(void **state) {
    (void)state;
    TestAllocator a = {0};
    Arena arena = {0};
    unsigned char *piece[200];
    char *text;
    test_allocator_install(&a);
    for (size_t i = 0; i < 200; i++) {
        size_t n = i * i; /* up to beyond a block */
        assert_ok(arena_new(&arena, (void **)&piece[i], n, 1));
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        assert_true(all_zero(piece[i], n));
        memset(piece[i], (int)i, n);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t b = 0; b < i * i; b++) assert_int_equal(piece[i][b], i);
    assert_ok(arena_printf(&arena, &text, "%s-%03d", "step", 7));
    assert_string_equal(text, "step-007");
    assert_ok(arena_strdup(&arena, &text, ""));
    assert_string_equal(text, "");
    assert_true(arena.used >= 199 * 200 * 399 / 6);
    arena_release(&arena);
    assert_null(arena.blocks);
    assert_int_equal(arena.used, 0);
    assert_int_equal(a.live, 0);
    arena_release(&arena);
}

static void a_text_grows(void **state) {
    (void)state;
    Str s = {0};
    char expected[3001] = "";
    for (int i = 0; i < 300; i++) {
        snprintf(expected + 10 * i, 11, "%010u", (unsigned)i % 1000u);
        if (i % 2) assert_ok(str_printf(&s, "%010d", i));
        else assert_ok(str_add(&s, expected + 10 * i, 10));
        assert_int_equal(s.len, 10 * (i + 1));
        assert_int_equal(s.text[s.len], 0);
    }
    assert_string_equal(s.text, expected);
    str_free(&s);
    assert_null(s.text);
    assert_ok(str_add(&s, NULL, 0));
    assert_string_equal(s.text, "");
    str_free(&s);
}

static Status use_memory(void *ctx) {
    (void)ctx;
    Arena arena = {0};
    Str s = {0};
    int *p = NULL;
    char *text = NULL;
    Status st = TANE_OK;
    TRY(MEM_NEW_ARRAY(&p, 10));
    TRY(mem_grow((void **)&p, 10, 20, sizeof *p));
    TRY(mem_strdup(&text, "text"));
    for (int i = 0; i < 100; i++) {
        char *piece;
        TRY(arena_printf(&arena, &piece, "%01000d", i));
        TRY(str_add(&s, piece, 1000));
        TRY(str_printf(&s, "%d", i));
    }
out:
    mem_free(p);
    mem_free(text);
    str_free(&s);
    arena_release(&arena);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    assert_true(test_fail_allocations(use_memory, NULL) > 15);
}

/* ---- randomness ------------------------------------------------------------------------------------------------- */

static void philox_gives_the_published_answers(void **state) {
    (void)state;
    /* Random123's kat_vectors, "philox4x32 10": counter, key, answer; words with the lowest first. */
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *c = vectors[i].counter, *k = vectors[i].key;
        uint32_t out[4];
        philox4x32((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2], (uint64_t)c[1] << 32 | c[0], out);
        assert_memory_equal(out, vectors[i].answer, sizeof out);
    }
}

static void a_sequence_is_its_counter(void **state) {
    (void)state;
    Rng rng = {42, 7, 0};
    for (uint64_t i = 0; i < 100; i++) {
        uint32_t words[4];
        philox4x32(42, 7, i / 4, words);
        assert_int_equal(rng.counter, i);
        Rng resumed = {42, 7, i};
        assert_int_equal(rng_next(&resumed), words[i % 4]);
        assert_int_equal(rng_next(&rng), words[i % 4]);
    }
}

static void uniform_numbers_stay_in_range(void **state) {
    (void)state;
    assert_true(rng_u01(0) == 0 && rng_u01(UINT32_MAX) < 1);
    assert_true(rng_u01_open(0) > 0 && rng_u01_open(UINT32_MAX) == 1);
    Rng rng = {1, 0, 0};
    double sum = 0;
    for (int i = 0; i < 20000; i++) sum += rng_u01(rng_next(&rng));
    assert_true(fabs(sum / 20000 - 0.5) < 0.01); /* 5 standard errors */

    int count[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint64_t x = rng_below(&rng, 7);
        assert_true(x < 7);
        count[x]++;
    }
    for (int i = 0; i < 7; i++) assert_true(abs(count[i] - 10000) < 500);
    assert_int_equal(rng_below(&rng, 1), 0);
    for (int i = 0; i < 100; i++) assert_true(rng_below(&rng, UINT64_MAX) < UINT64_MAX);
}

static void normal_numbers_have_the_right_moments(void **state) {
    (void)state;
    enum { N = 100000 };
    Rng rng = {3, 1, 0};
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&rng);
        assert_true(isfinite(x) && fabs(x) < 7);
        m1 += x / N;
        m2 += x * x / N;
        m3 += x * x * x / N;
        m4 += x * x * x * x / N;
    }
    assert_true(fabs(m1) < 0.016 && fabs(m2 - 1) < 0.023 && fabs(m3) < 0.065 && fabs(m4 - 3) < 0.16);
}

static void a_permutation_hits_each_number_once(void **state) {
    (void)state;
    enum { MAX = 70000 };
    static uint8_t seen[MAX];
    static const uint64_t big[] = {1023, 1024, 1025, 4097, 65535, 65536, 65537, MAX};
    for (uint64_t k = 1; k < 310; k++) {
        uint64_t n = k <= 300 ? k : k - 301 < 8 ? big[k - 301] : 999;
        memset(seen, 0, n);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t j = rng_permute(11, k, n, i);
            assert_true(j < n);
            assert_int_equal(seen[j], 0);
            seen[j] = 1;
        }
    }
}

static void permutations_are_mixed_and_repeatable(void **state) {
    (void)state;
    enum { N = 10000 };
    int fixed = 0, same = 0, neighbours = 0, ascents = 0;
    for (uint64_t i = 0; i < N; i++) {
        uint64_t j = rng_permute(5, 0, N, i);
        assert_int_equal(rng_permute(5, 0, N, i), j);
        fixed += i == j;
        same += j == rng_permute(5, 1, N, i);
        neighbours += j + 1 == rng_permute(5, 0, N, (i + 1) % N);
        ascents += j < rng_permute(5, 0, N, (i + 1) % N);
    }
    assert_true(fixed < 10 && same < 10 && neighbours < 10); /* 1 is expected of each */
    assert_true(abs(ascents - N / 2) < 150);                 /* 5 standard deviations of sqrt(N / 12) */
    uint64_t huge = UINT64_MAX - 1;
    assert_true(rng_permute(5, 0, huge, 17) < huge);
    assert_true(rng_permute(5, 0, huge, 17) != rng_permute(5, 0, huge, 18));
}

/* ---- 16-bit floats ---------------------------------------------------------------------------------------------- */

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* The value of a 16-bit float by its definition. */
static double half_value(uint16_t x, int exponent_bits, int fraction_bits) {
    int e = x >> fraction_bits & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    double fraction = (double)(x & ((1 << fraction_bits) - 1)) / (1 << fraction_bits);
    double value = e == 0                           ? ldexp(fraction, 1 - bias)
                   : e == (1 << exponent_bits) - 1 ? (fraction > 0 ? (double)NAN : (double)INFINITY)
                                                    : ldexp(1 + fraction, e - bias);
    return x >> 15 ? -value : value;
}

static void all_16_bit_values_convert_and_return(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t x = (uint16_t)i;
        double f16 = half_value(x, 5, 10), bf16 = half_value(x, 8, 7);
        if (isnan(f16)) {
            assert_true(isnan(f16_to_f32(x)));
            assert_true(isnan(half_value(f32_to_f16(f16_to_f32(x)), 5, 10)));
        } else {
            assert_true((double)f16_to_f32(x) == f16);
            assert_int_equal(signbit(f16_to_f32(x)) != 0, x >> 15);
            assert_int_equal(f32_to_f16(f16_to_f32(x)), x);
        }
        if (isnan(bf16)) {
            assert_true(isnan(bf16_to_f32(x)));
            assert_true(isnan(half_value(f32_to_bf16(bf16_to_f32(x)), 8, 7)));
        } else {
            assert_true((double)bf16_to_f32(x) == bf16);
            assert_int_equal(f32_to_bf16(bf16_to_f32(x)), x);
        }
    }
}

/* Between two neighbours the nearer wins, on a tie the even one. Above the largest finite value, infinity stands for
 * the next step, as the standard says. */
static void check_rounding(uint16_t (*convert)(float), int exponent_bits, int fraction_bits) {
    uint32_t infinity = ((1u << exponent_bits) - 1) << fraction_bits;
    for (uint32_t x = 0; x < infinity; x++) {
        double low = half_value((uint16_t)x, exponent_bits, fraction_bits);
        double high = x + 1 < infinity ? half_value((uint16_t)(x + 1), exponent_bits, fraction_bits)
                                       : 2 * low - half_value((uint16_t)(x - 1), exponent_bits, fraction_bits);
        float middle = (float)((low + high) / 2); /* exact: one more bit of 11 or 8 */
        assert_true((double)middle == (low + high) / 2);
        float below = float_of(bits_of(middle) - 1), above = float_of(bits_of(middle) + 1);
        uint32_t even = x + (x & 1);
        assert_int_equal(convert(middle), even);
        assert_int_equal(convert(below), x);
        assert_int_equal(convert(above), x + 1);
        assert_int_equal(convert(-middle), 0x8000 | even);
        assert_int_equal(convert(-above), 0x8000 | (x + 1));
    }
}

static uint16_t to_bf16(float f) { return f32_to_bf16(f); }

static void rounding_is_to_nearest_even(void **state) {
    (void)state;
    check_rounding(f32_to_f16, 5, 10);
    check_rounding(to_bf16, 8, 7);
}

static void special_values_convert(void **state) {
    (void)state;
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_f16(65504), 0x7bff);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-0.0f), 0x8000);
    assert_int_equal(f32_to_f16(1e-30f), 0);
    assert_int_equal(f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(f32_to_bf16(3.4028235e38f), 0x7f80);
    assert_int_equal(f32_to_bf16(-0.0f), 0x8000);
    for (uint32_t bits = 0x7f800001; bits < 0x80000000; bits += 0x1fff) { /* NaN stays NaN whatever its payload */
        assert_true(isnan(f16_to_f32(f32_to_f16(float_of(bits)))));
        assert_true(isnan(bf16_to_f32(f32_to_bf16(float_of(bits)))));
        assert_true(isnan(bf16_to_f32(f32_to_bf16(float_of(bits | 0x80000000)))));
    }
}

static void types_have_sizes_and_names(void **state) {
    (void)state;
    static const size_t sizes[] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1};
    assert_int_equal(DTYPE_COUNT, 10);
    for (int i = 0; i < DTYPE_COUNT; i++) assert_int_equal(dtype_size((DType)i), sizes[i]);
    assert_string_equal(dtype_name(DTYPE_F32), "fp32");
    assert_string_equal(dtype_name(DTYPE_BF16), "bf16");
    assert_string_equal(dtype_name(DTYPE_BOOL), "bool");
}

static void the_clock_runs_forward(void **state) {
    (void)state;
    char text[21];
    double before = clock_seconds();
    assert_true(clock_seconds() >= before);
    clock_utc(text, sizeof text);
    int year, month, day, hour, minute, second, end = 0;
    assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2dZ%n", &year, &month, &day, &hour, &minute, &second, &end), 6);
    assert_int_equal(end, 20);
    assert_true(year >= 2024 && month >= 1 && month <= 12 && day >= 1 && day <= 31 && hour < 24 && minute < 60);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(errors_carry_message_and_place),
        TEST(long_messages_are_cut),
        TEST(each_thread_has_its_error),
        TEST(try_goes_to_the_exit),
        TEST(statuses_have_names),
        TEST(typos_find_the_nearest_word),
        TEST(memory_is_zeroed_and_aligned),
        TEST(impossible_sizes_are_refused),
        TEST(an_arena_gives_separate_zeroed_pieces),
        TEST(a_text_grows),
        TEST(every_allocation_may_fail),
        TEST(philox_gives_the_published_answers),
        TEST(a_sequence_is_its_counter),
        TEST(uniform_numbers_stay_in_range),
        TEST(normal_numbers_have_the_right_moments),
        TEST(a_permutation_hits_each_number_once),
        TEST(permutations_are_mixed_and_repeatable),
        TEST(all_16_bit_values_convert_and_return),
        TEST(rounding_is_to_nearest_even),
        TEST(special_values_convert),
        TEST(types_have_sizes_and_names),
        TEST(the_clock_runs_forward),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
