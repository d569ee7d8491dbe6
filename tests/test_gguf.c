/* GGUF: files of the reference writer read, and one written with the same bytes; each kind of key; split models; every
 * damaged file of tests/corpus/gguf with what it is told; hostile counts; the failure of each allocation and disk call.
 */
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "format/gguf.h"

/* ---- the reference files ---------------------------------------------------------------------------------------- */

static float ramp(int64_t i) { return (float)(i % 97 - 48) / 32; }

static GgufFile *open_golden(const char *name) {
    GgufFile *file;
    char path[64];
    snprintf(path, sizeof path, "golden/gguf/%s", name);
    assert_ok(gguf_open(&file, test_data(path)));
    return file;
}

static void assert_text(GgufText text, const char *expected) {
    assert_int_equal(text.n, strlen(expected));
    assert_memory_equal(text.data, expected, text.n);
}

static const struct {
    const char *name;
    GgufKind kind;
    int64_t value;
} integers[] = {
    {"kind.u8", GGUF_U8, 255},         {"kind.i8", GGUF_I8, -128},         {"kind.u16", GGUF_U16, 65535},
    {"kind.i16", GGUF_I16, -32768},    {"kind.u32", GGUF_U32, 4294967295}, {"kind.i32", GGUF_I32, INT32_MIN},
    {"kind.i64", GGUF_I64, INT64_MIN},
};

static void each_kind_of_key_is_read(void **state) {
    (void)state;
    GgufFile *file = open_golden("kinds.gguf");
    GgufKind kind;
    int64_t whole;
    double real;
    bool yes;
    GgufText text;
    assert_string_equal(gguf_key(file, 0, &kind), "general.architecture");
    assert_int_equal(kind, GGUF_STRING);
    assert_int_equal(gguf_key_count(file), 22);
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        assert_ok(gguf_int(file, integers[i].name, true, INT64_MIN, INT64_MAX, &whole));
        assert_true(whole == integers[i].value);
        assert_string_equal(gguf_key(file, 1 + i + (i == 6), &kind), integers[i].name);
        assert_int_equal(kind, integers[i].kind);
        assert_ok(gguf_double(file, integers[i].name, true, &real));
        assert_true(real == (double)integers[i].value);
    }
    assert_error(gguf_int(file, "kind.u64", true, INT64_MIN, INT64_MAX, &whole), TANE_EFORMAT,
                 "kinds.gguf: the key \"kind.u64\" is 18446744073709551615; it must be a whole number");
    assert_ok(gguf_double(file, "kind.u64", true, &real));
    assert_true(real == 0x1p64);
    assert_ok(gguf_double(file, "kind.f32", true, &real));
    assert_true(real == (double)0.1f);
    assert_ok(gguf_double(file, "kind.f64", true, &real));
    assert_true(real == 0.1);
    assert_ok(gguf_bool(file, "kind.true", true, &yes));
    assert_true(yes);
    assert_ok(gguf_bool(file, "kind.false", true, &yes));
    assert_false(yes);
    assert_ok(gguf_text(file, "kind.text", true, &text));
    assert_text(text, "\xe7\xa8\xae seed\n");
    assert_ok(gguf_text(file, "kind.empty", true, &text));
    assert_text(text, "");
    assert_non_null(strstr(gguf_path(file), "kinds.gguf"));
    gguf_close(&file);
    assert_null(file);
    gguf_close(&file);
}

static void each_kind_of_array_is_read(void **state) {
    (void)state;
    GgufFile *file = open_golden("kinds.gguf");
    GgufText texts[200];
    GgufKind element;
    int64_t whole[3];
    double real[3];
    char expected[32];
    size_t n;
    assert_ok(gguf_array(file, "array.text", true, &element, &n));
    assert_int_equal(element, GGUF_STRING);
    assert_int_equal(n, 200);
    assert_ok(gguf_array_texts(file, "array.text", texts, n));
    for (size_t i = 0; i < n; i++) {
        snprintf(expected, sizeof expected, "token %zu", i);
        assert_text(texts[i], expected);
        assert_text(gguf_array_text(file, "array.text", i), expected);
    }
    assert_ok(gguf_array_ints(file, "array.i32", whole, 3));
    assert_true(whole[0] == 1 && whole[1] == -2 && whole[2] == 3);
    assert_ok(gguf_array_doubles(file, "array.i32", real, 3));
    assert_true(real[1] == -2);
    assert_ok(gguf_array_ints(file, "array.u16", whole, 2));
    assert_true(whole[1] == 65535 && gguf_array_number(file, "array.u16", 1) == 65535);
    assert_error(gguf_array_ints(file, "array.u64", whole, 2), TANE_EFORMAT,
                 "element 1 of the array \"array.u64\" is 18446744073709551615");
    assert_ok(gguf_array_doubles(file, "array.u64", real, 2));
    assert_true(real[0] == 1 && real[1] == 0x1p64);
    assert_ok(gguf_array_doubles(file, "array.f32", real, 3));
    assert_true(real[0] == 0.5 && real[1] == (double)-1e-3f && isinf(real[2]));
    assert_ok(gguf_array_doubles(file, "array.f64", real, 1));
    assert_true(real[0] == 0.1);
    assert_ok(gguf_array(file, "array.bool", true, &element, &n));
    assert_int_equal(element, GGUF_BOOL);
    assert_int_equal(n, 3);
    assert_true(gguf_array_number(file, "array.bool", 0) == 1 && gguf_array_number(file, "array.bool", 1) == 0);
    gguf_close(&file);
}

static void a_wrong_value_is_named(void **state) {
    (void)state;
    GgufFile *file = open_golden("kinds.gguf");
    int64_t whole = 5, many[4];
    double real = 5;
    bool yes = true;
    GgufText text = {"x", 1}, texts[3];
    GgufKind element;
    size_t n;
    assert_ok(gguf_int(file, "gone", false, 0, 1, &whole));
    assert_ok(gguf_double(file, "gone", false, &real));
    assert_ok(gguf_bool(file, "gone", false, &yes));
    assert_ok(gguf_text(file, "gone", false, &text));
    assert_true(whole == 5 && real == 5 && yes && text.n == 1); /* left as they were */
    assert_ok(gguf_array(file, "gone", false, &element, &n));
    assert_int_equal(n, 0);
    assert_false(gguf_has(file, "gone"));
    assert_true(gguf_has(file, "kind.u8"));
    assert_error(gguf_int(file, "gone", true, 0, 1, &whole), TANE_EFORMAT,
                 "kinds.gguf: the key \"gone\" is missing; it must be a whole number from 0 to 1");
    assert_error(gguf_double(file, "gone", true, &real), TANE_EFORMAT, "\"gone\" is missing; it must be a number");
    assert_error(gguf_bool(file, "gone", true, &yes), TANE_EFORMAT, "\"gone\" is missing; it must be a bool");
    assert_error(gguf_text(file, "gone", true, &text), TANE_EFORMAT, "\"gone\" is missing; it must be a text");
    assert_error(gguf_array(file, "gone", true, &element, &n), TANE_EFORMAT,
                 "\"gone\" is missing; it must be an array");
    assert_error(gguf_int(file, "kind.u8", true, 0, 254, &whole), TANE_EFORMAT,
                 "the key \"kind.u8\" is 255; it must be a whole number from 0 to 254");
    assert_error(gguf_int(file, "kind.i8", true, 1, INT64_MAX, &whole), TANE_EFORMAT,
                 "the key \"kind.i8\" is -128; it must be a whole number of at least 1");
    assert_error(gguf_int(file, "kind.f32", true, 0, 1, &whole), TANE_EFORMAT,
                 "\"kind.f32\" is of type f32; it must be");
    assert_error(gguf_int(file, "kind.true", true, 0, 1, &whole), TANE_EFORMAT, "is of type bool; it must be a whole");
    assert_error(gguf_int(file, "array.i32", true, 0, 1, &whole), TANE_EFORMAT,
                 "is an array of type i32; it must be a");
    assert_error(gguf_double(file, "kind.text", true, &real), TANE_EFORMAT, "is of type text; it must be a number");
    assert_error(gguf_bool(file, "kind.u8", true, &yes), TANE_EFORMAT, "is of type u8; it must be a bool");
    assert_error(gguf_text(file, "kind.u8", true, &text), TANE_EFORMAT, "is of type u8; it must be a text");
    assert_error(gguf_array(file, "kind.u8", true, &element, &n), TANE_EFORMAT, "is of type u8; it must be an array");
    assert_error(gguf_array_texts(file, "array.i32", texts, 3), TANE_EFORMAT, "it must be an array of texts");
    assert_error(gguf_array_ints(file, "array.f32", many, 3), TANE_EFORMAT, "it must be an array of whole numbers");
    assert_error(gguf_array_ints(file, "array.i32", many, 4), TANE_EFORMAT, "has 3 elements; 4 are needed");
    assert_error(gguf_array_doubles(file, "array.text", &real, 1), TANE_EFORMAT, "it must be an array of numbers");
    assert_error(gguf_array_doubles(file, "gone", &real, 1), TANE_EFORMAT, "\"gone\" is missing");
    gguf_close(&file);
}

static void each_type_of_tensor_is_read(void **state) {
    (void)state;
    static const struct {
        const char *name;
        GgmlType type;
        int rank;
        int64_t shape[4];
        float most; /* error */
    } tensors[] = {
        {"plain.F32", GGML_F32, 2, {3, 5}, 0},
        {"plain.F16", GGML_F16, 2, {2, 7}, 0},
        {"one", GGML_F32, 1, {1}, 9},
        {"four", GGML_F32, 4, {3, 2, 1, 4}, 0},
        {"plain.BF16", GGML_BF16, 2, {2, 8}, 0},
        {"blocks.Q4_0", GGML_Q4_0, 2, {2, 256}, 0.19f},
        {"blocks.Q4_1", GGML_Q4_1, 2, {2, 256}, 0.11f},
        {"blocks.Q5_0", GGML_Q5_0, 2, {2, 256}, 0.1f},
        {"blocks.Q5_1", GGML_Q5_1, 2, {2, 256}, 0.06f},
        {"blocks.Q8_0", GGML_Q8_0, 2, {2, 256}, 0.007f},
        {"blocks.Q4_K", GGML_Q4_K, 2, {2, 256}, 0.15f},
        {"blocks.Q5_K", GGML_Q5_K, 2, {2, 256}, 0.08f},
        {"blocks.Q6_K", GGML_Q6_K, 2, {2, 256}, 0.05f},
    };
    GgufFile *file = open_golden("kinds.gguf");
    float x[512];
    assert_int_equal(gguf_tensor_count(file), sizeof tensors / sizeof *tensors);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const GgufTensor *t = gguf_tensor(file, i);
        assert_string_equal(t->name, tensors[i].name);
        assert_ptr_equal(gguf_find(file, t->name), t);
        assert_int_equal(t->type->type, tensors[i].type);
        assert_int_equal(t->rank, tensors[i].rank);
        int64_t n = 1;
        for (int d = 0; d < t->rank; d++) {
            assert_true(t->shape[d] == tensors[i].shape[d]);
            n *= t->shape[d];
        }
        assert_int_equal(t->bytes, ggml_row_bytes(t->type, n));
        assert_int_equal((uintptr_t)t->data % 32, 0);
        ggml_decode(t->type->type, t->data, n, x);
        for (int64_t k = 0; k < n; k++) assert_true(fabsf(x[k] - ramp(k)) <= tensors[i].most);
    }
    ggml_decode(GGML_F32, gguf_find(file, "one")->data, 1, x);
    assert_true(x[0] == 7.5f);
    assert_null(gguf_find(file, "blocks"));
    gguf_close(&file);
}

/* ---- split models ----------------------------------------------------------------------------------------------- */

static const char *copy_part(const char *from, const char *to) {
    char name[64];
    size_t n;
    snprintf(name, sizeof name, "golden/gguf/split-%s.gguf", from);
    char *bytes = test_read(test_data(name), &n);
    assert_non_null(bytes);
    return test_write_bytes(test_path("%s", to), bytes, n);
}

static void split_models_are_one(void **state) {
    (void)state;
    GgufFile *file = open_golden("split-00001-of-00003.gguf");
    int64_t blocks;
    char name[32];
    assert_int_equal(gguf_tensor_count(file), 5);
    assert_ok(gguf_int(file, "llama.block_count", true, 1, 100, &blocks));
    for (int64_t i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", (int)i);
        const GgufTensor *t = gguf_find(file, name);
        assert_ptr_equal(t, gguf_tensor(file, (size_t)i));
        assert_true(t->shape[1] == 4 + i);
        for (int64_t k = 0; k < 2 * (4 + i); k++) assert_true(((const float *)t->data)[k] == ramp(k));
    }
    gguf_close(&file);
}

static void split_models_must_be_whole(void **state) {
    (void)state;
    GgufFile *file;
    const char *first = copy_part("00001-of-00003", "m-00001-of-00003.gguf");
    assert_error(gguf_open(&file, first), TANE_ENOTFOUND, "a part of the model is missing");
    assert_non_null(strstr(err_message(), "m-00002-of-00003.gguf"));
    copy_part("00002-of-00003", "m-00002-of-00003.gguf");
    assert_error(gguf_open(&file, first), TANE_ENOTFOUND, "m-00003-of-00003.gguf");
    copy_part("00002-of-00003", "m-00003-of-00003.gguf");
    assert_error(gguf_open(&file, first), TANE_EFORMAT,
                 "m-00003-of-00003.gguf: says that it is part 2 of 3, but by its name it is part 3 of 3");
    copy_part("00003-of-00003", "m-00003-of-00003.gguf");
    assert_ok(gguf_open(&file, first));
    gguf_close(&file);
    assert_error(gguf_open(&file, test_path("m-00002-of-00003.gguf")), TANE_EINVAL,
                 "part 2 of a model of 3 parts; open the first one");
    assert_error(gguf_open(&file, copy_part("00001-of-00003", "renamed.gguf")), TANE_EFORMAT,
                 "its name must end in \"-00001-of-00003.gguf\"");
    assert_error(gguf_open(&file, copy_part("00001-of-00003", "x-00001-of-00004.gguf")), TANE_EFORMAT, "must end in");
}

/* ---- damaged files ---------------------------------------------------------------------------------------------- */

#define INCOMPLETE "the download or copy is incomplete: get it again"
#define LEFT       "bytes are left in the file"

static const struct {
    const char *name;
    Status code; /* TANE_EFORMAT where it is 0 */
    const char *message;
} bad_files[] = {
    {"empty", 0, "does not begin with \"GGUF\"; not a GGUF file"},
    {"magic_cut", 0, "does not begin with \"GGUF\""},
    {"magic_only", 0, "ends in the middle of the version, at byte 4; " INCOMPLETE},
    {"magic_wrong", 0, "does not begin with \"GGUF\""},
    {"version_cut", 0, "ends in the middle of the version"},
    {"version_0", TANE_EUNSUPPORTED, "GGUF version 0, which tane does not know; it reads versions 2 and 3"},
    {"version_1", TANE_EUNSUPPORTED, "GGUF version 1, which nobody writes since 2023"},
    {"version_4", TANE_EUNSUPPORTED, "GGUF version 4, which tane does not know"},
    {"version_big_endian", TANE_EUNSUPPORTED, "a big-endian GGUF file; tane reads little-endian ones"},
    {"counts_cut", 0, "ends in the middle of the number of keys, at byte 16; " INCOMPLETE},
    {"keys_claimed_2_to_63", 0, "claims 9223372036854775808 keys, but only 0 " LEFT},
    {"keys_claimed_all_ones", 0, "claims 18446744073709551615 keys, but only 0 " LEFT},
    {"keys_claimed_one_more", 0, "ends in the middle of a key, at byte 69"},
    {"tensors_claimed_2_to_63", 0, "claims 9223372036854775808 tensors, but only 0 " LEFT},
    {"tensors_claimed_all_ones", 0, "claims 18446744073709551615 tensors, but only 0 " LEFT},
    {"tensors_claimed_size_wraps", 0, "claims 256204778801521551 tensors, but only 91 " LEFT},
    {"tensors_claimed_one_more", 0, "claims 2 tensors, but only 33 " LEFT},
    {"key_longer_than_file", 0, "a key at byte 24 claims 1000 bytes, but only 25 are left in the file"},
    {"key_length_wraps", 0, "a key at byte 24 claims 18446744073709551615 bytes, but only 25 are left"},
    {"key_empty", 0, "a key at byte 24 is empty"},
    {"key_with_zero_byte", 0, "a key at byte 24 has a zero byte in it"},
    {"key_too_long", 0, "a key at byte 24 has 1025 bytes; at most 1024 are allowed"},
    {"key_twice", 0, "the key \"a\" is there twice"},
    {"key_unknown_type", 0, "the key \"a\" has the unknown type 13"},
    {"key_type_all_ones", 0, "the key \"a\" has the unknown type 4294967295"},
    {"key_value_cut", 0, "ends in the middle of a key's value, at byte 37; " INCOMPLETE},
    {"key_bool_2", 0, "the key \"a\" is a bool with the value 2; it must be 0 or 1"},
    {"text_longer_than_file", 0, "a text at byte 37 claims 4 bytes, but only 3 are left in the file"},
    {"text_length_2_to_63", 0, "a text at byte 37 claims 9223372036854775808 bytes, but only 3 are left"},
    {"text_length_all_ones", 0, "a text at byte 37 claims 18446744073709551615 bytes, but only 3 are left"},
    {"array_2_to_63_elements", 0, "\"ab\" claims an array of 9223372036854775808 elements, but only 0 " LEFT},
    {"array_size_wraps", 0, "the key \"a\" claims an array of 2305843009213693952 elements, but only 8 " LEFT},
    {"array_one_more_than_file", 0, "the key \"a\" claims an array of 3 elements, but only 8 " LEFT},
    {"array_header_cut", 0, "ends in the middle of an array's length, at byte 41"},
    {"array_unknown_type", 0, "the key \"a\" is an array of the unknown type 13"},
    {"array_of_arrays", TANE_EUNSUPPORTED, "the key \"a\" is an array of arrays, which tane does not read"},
    {"array_of_bools_7", 0, "the key \"a\" is a bool with the value 7; it must be 0 or 1"},
    {"array_of_texts_claimed", 0, "claims an array of 1152921504606846976 elements, but only 9 " LEFT},
    {"array_of_texts_one_more", 0, "ends in the middle of a text in an array, at byte 65"},
    {"array_of_texts_too_long", 0, "a text in an array at byte 58 claims 99 bytes, but only 1 are left"},
    {"alignment_0", 0, "general.alignment is 0; it must be a power of two from 8 to 65536"},
    {"alignment_1", 0, "general.alignment is 1; it must be"},
    {"alignment_48", 0, "general.alignment is 48; it must be"},
    {"alignment_huge", 0, "general.alignment is 2147483648; it must be"},
    {"alignment_2_to_63", 0, "the key \"general.alignment\" is 9223372036854775808; it must be a whole number"},
    {"alignment_text", 0, "the key \"general.alignment\" is of type text; it must be a whole number"},
    {"tensor_name_empty", 0, "a tensor's name at byte 69 is empty"},
    {"tensor_name_longer_than_file", 0, "a tensor's name at byte 69 claims 1000000 bytes, but only 83 are left"},
    {"tensor_name_twice", 0, "tensor \"w\" is there twice"},
    {"tensor_header_cut", 0, "claims 1 tensors, but only 29 " LEFT},
    {"tensor_rank_0", 0, "tensor \"w\" has 0 dimensions; there must be 1 to 4"},
    {"tensor_rank_5", 0, "tensor \"w\" has 5 dimensions; there must be 1 to 4"},
    {"tensor_rank_all_ones", 0, "tensor \"w\" has 4294967295 dimensions"},
    {"tensor_size_0", 0, "tensor \"w\" has the size 0 in its shape; it must be at least 1"},
    {"tensor_size_negative", 0, "tensor \"w\" has the size -1 in its shape"},
    {"tensor_size_min", 0, "tensor \"w\" has the size -9223372036854775808 in its shape"},
    {"tensor_shape_wraps_to_0", 0, "tensor \"w\" has a shape too large for any file"},
    {"tensor_shape_wraps_to_8", 0, "tensor \"w\" has a shape too large for any file"},
    {"tensor_bytes_wrap", 0, "tensor \"w\" has a shape too large for any file"},
    {"tensor_sum_wraps", 0, "tensor \"t\" makes the data too large for any file"},
    {"tensor_row_of_33", 0, "tensor \"w\" has rows of 33 numbers, but Q8_0 takes multiples of 32"},
    {"tensor_row_of_32_q4_k", 0, "tensor \"w\" has rows of 32 numbers, but Q4_K takes multiples of 256"},
    {"tensor_type_removed", 0, "tensor \"w\" has the unknown type 4"},
    {"tensor_type_unknown", 0, "tensor \"w\" has the unknown type 999"},
    {"tensor_type_all_ones", 0, "tensor \"w\" has the unknown type 4294967295"},
    {"tensor_type_iq2_xs", TANE_EUNSUPPORTED,
     "tensor \"w\" has the type IQ2_XS, which tane cannot read; it reads F32, "},
    {"tensor_type_q2_k", TANE_EUNSUPPORTED, "tensor \"w\" has the type Q2_K, which tane cannot read"},
    {"offset_unaligned", 0, "at byte 4 of the data, which is no multiple of the alignment 32"},
    {"offset_hole", 0, "at byte 32 of the data, but must be at 0, right behind the one before it: there is a hole"},
    {"offset_overlap", 0,
     "tensor \"v\" is at byte 0 of the data, but must be at 32, right behind the one before it: "
     "they overlap"},
    {"offset_backwards", 0, "tensor \"w\" is at byte 32 of the data, but must be at 0"},
    {"offset_past_end", 0, "tensor \"v\" is at byte 1099511627776 of the data, but must be at 32"},
    {"offset_all_ones", 0, "at byte 18446744073709551584 of the data, but must be at 0"},
    {"data_missing", 0, "tensor \"w\" ends at byte 160 of the file, which has only 102; " INCOMPLETE},
    {"data_one_byte_short", 0, "tensor \"w\" ends at byte 160 of the file, which has only 159; " INCOMPLETE},
    {"data_second_tensor_short", 0, "tensor \"v\" ends at byte 224 of the file, which has only 200; " INCOMPLETE},
    {"data_behind_the_last", 0, "33 bytes behind the last tensor belong to none; the file is damaged"},
    {"data_without_tensors", 0, "bytes behind the last tensor belong to none"},
    {"split_second_part", TANE_EINVAL, "part 2 of a model of 3 parts; open the first one"},
    {"split_name", 0, "the first of 3 parts, so its name must end in \"-00001-of-00003.gguf\""},
    {"split_count_negative", 0, "the key \"split.count\" is -1; it must be a whole number from 0 to 65535"},
    {"split_tensors_count", 0, "announces 7 tensors in all parts, but there are 1"},
};
enum { N_BAD = sizeof bad_files / sizeof *bad_files };

static void damaged_files_are_told_what_is_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < N_BAD; i++) {
        TestAllocator allocator = {0};
        GgufFile *file = (GgufFile *)1;
        char name[96];
        snprintf(name, sizeof name, "corpus/gguf/bad_%s.gguf", bad_files[i].name);
        const char *path = test_data(name);
        double start = clock_seconds();
        test_allocator_install(&allocator);
        assert_error(gguf_open(&file, path), bad_files[i].code ? bad_files[i].code : TANE_EFORMAT,
                     bad_files[i].message);
        test_allocator_remove();
        assert_null(file);
        assert_non_null(strstr(err_message(), path)); /* the message names the file */
        assert_int_equal(allocator.live, 0);
        assert_true(allocator.peak_bytes < 1 << 20);
        if (clock_seconds() - start > 1) fail_msg("%s took more than a second", name);
    }
}

/* Every file of the corpus opens, or is in the table above. */
static void the_corpus_and_the_table_agree(void **state) {
    (void)state;
    DirList list;
    size_t bad = 0;
    assert_ok(dir_list(test_data("corpus/gguf"), &list));
    for (size_t i = 0; i < list.n; i++) {
        GgufFile *file;
        char name[128];
        if (!strncmp(list.names[i], "bad_", 4)) {
            bad++;
            continue;
        }
        snprintf(name, sizeof name, "corpus/gguf/%s", list.names[i]);
        assert_ok(gguf_open(&file, test_data(name)));
        gguf_close(&file);
    }
    assert_int_equal(bad, N_BAD);
    dir_list_free(&list);
}

static void other_files_are_recognised(void **state) {
    (void)state;
    GgufFile *file;
    const char *path = test_path("model.gguf");
    assert_error(gguf_open(&file, path), TANE_ENOTFOUND, "model.gguf: cannot open it");
    test_write(path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
    assert_error(gguf_open(&file, path), TANE_EFORMAT, "run `git lfs pull`");
    test_write(path, "tjgg\1\1\1\1");
    assert_error(gguf_open(&file, path), TANE_EFORMAT, "the older GGML format");
    test_write(path, "PK\3\4\1\1\1\1");
    assert_error(gguf_open(&file, path), TANE_EFORMAT, "PyTorch pickle");
    test_write(path, "\x40\1\1\1\1\1\1\1{\"w\":{}}");
    assert_error(gguf_open(&file, path), TANE_EFORMAT, "looks like safetensors");
    test_write(path, "<!DOCTYPE html>");
    assert_error(gguf_open(&file, path), TANE_EFORMAT, "looks like a web page");
    assert_error(gguf_open(&file, test_dir()), TANE_EIO, "it is a folder");
}

/* No byte of a good file may be changed, and none cut off, with worse than an error. */
static void damage_never_crashes(void **state) {
    (void)state;
    const char *path = test_path("damaged.gguf");
    size_t n, opened = 0;
    char *good = test_read(test_data("golden/gguf/plain.gguf"), &n);
    for (size_t i = 0; i < n; i++) {
        GgufFile *file;
        test_write_bytes(path, good, i);
        if (i + 32 < n) assert_error(gguf_open(&file, path), TANE_EFORMAT, "damaged.gguf");
        for (int bit = 0; bit < 8; bit += 7) {
            good[i] ^= (char)(1 << bit);
            test_write_bytes(path, good, n);
            good[i] ^= (char)(1 << bit);
            if (gguf_open(&file, path) != TANE_OK) continue;
            opened++;
            for (size_t t = 0; t < gguf_tensor_count(file); t++) {
                const GgufTensor *tensor = gguf_tensor(file, t);
                assert_true(tensor->bytes < n);
                float x[256];
                for (size_t at = 0; at < tensor->bytes; at += tensor->type->bytes)
                    ggml_decode(tensor->type->type, (const char *)tensor->data + at, tensor->type->block, x);
            }
            gguf_close(&file);
        }
    }
    assert_true(opened > 100);
}

/* ---- the writer ------------------------------------------------------------------------------------------------- */

/* What tools/golden/golden_gguf.py puts into plain.gguf, `piece` bytes of data a call. */
static Status write_plain(const char *path, size_t piece) {
    Status st = TANE_OK;
    GgufWriter *w;
    const GgufText texts[] = {{"", 0}, {"b", 1}, {"cc", 2}};
    float x[96];
    char data[60 + 102 + 96];
    for (int i = 0; i < 96; i++) x[i] = ramp(i);
    memcpy(data, x, 60);
    ggml_encode(GGML_Q8_0, x, 96, data + 60);
    memcpy(data + 162, x, 96);
    TRY_RETURN(gguf_writer_open(&w, path));
    TRY(gguf_put_text(w, "general.architecture", "llama", 5));
    TRY(gguf_put_u32(w, "a.u32", 7));
    TRY(gguf_put_f32(w, "a.f32", 0.1f));
    TRY(gguf_put_bool(w, "a.bool", true));
    TRY(gguf_put_text(w, "a.text", "\xe7\xa8\xae", 3));
    TRY(gguf_put_texts(w, "a.texts", texts, 3));
    TRY(gguf_add(w, "first", GGML_F32, 2, (int64_t[]){3, 5}));
    TRY(gguf_put_f32s(w, "a.f32s", (float[]){0.5f, -1e-3f}, 2));
    TRY(gguf_put_i32s(w, "a.i32s", (int32_t[]){1, -2, 3}, 3));
    TRY(gguf_add(w, "second", GGML_Q8_0, 2, (int64_t[]){3, 32}));
    TRY(gguf_add(w, "third", GGML_F32, 3, (int64_t[]){3, 2, 4}));
    TRY(gguf_begin(w));
    for (size_t at = 0; at < sizeof data; at += piece)
        TRY(gguf_write(w, data + at, sizeof data - at < piece ? sizeof data - at : piece));
    TRY(gguf_writer_close(&w));
out:
    gguf_writer_abort(&w);
    return st;
}

static void the_writer_makes_the_reference_bytes(void **state) {
    (void)state;
    const char *path = test_path("plain.gguf");
    size_t n, m;
    char *expected = test_read(test_data("golden/gguf/plain.gguf"), &n);
    for (size_t piece = 1; piece < 300; piece += 37) {
        assert_ok(write_plain(path, piece));
        char *got = test_read(path, &m);
        assert_int_equal(m, n);
        assert_memory_equal(got, expected, n);
        assert_false(file_exists(test_path("plain.gguf.tmp")));
    }
}

static void a_file_without_tensors_is_written(void **state) {
    (void)state;
    GgufWriter *w;
    GgufFile *file;
    const char *path = test_path("none.gguf");
    assert_ok(gguf_writer_open(&w, path));
    assert_ok(gguf_begin(w));
    assert_int_equal(gguf_writer_size(w), 32);
    assert_ok(gguf_writer_close(&w));
    assert_null(w);
    assert_ok(gguf_open(&file, path));
    assert_int_equal(gguf_tensor_count(file) + gguf_key_count(file), 0);
    assert_null(gguf_find(file, "a"));
    gguf_close(&file);
}

static void misuse_of_the_writer_is_an_error(void **state) {
    (void)state;
    const char *path = test_path("w.gguf"), *tmp = test_path("w.gguf.tmp");
    const int64_t two[] = {2}, minus[] = {-1}, none[] = {0}, huge[] = {INT64_MAX, 2}, five[] = {1, 1, 1, 1, 1},
                  row[] = {2, 33}, pair[] = {2, 1};
    char long_name[65];
    memset(long_name, 'n', 64);
    long_name[64] = 0;
    GgufWriter *w;
    assert_ok(gguf_writer_open(&w, path));
    assert_true(file_exists(tmp));
    assert_error(gguf_add(w, "", GGML_F32, 1, two), TANE_EINVAL, "cannot be the name of a tensor");
    assert_error(gguf_add(w, long_name, GGML_F32, 1, two), TANE_EINVAL, "GGUF takes 1 to 63 bytes");
    assert_error(gguf_add(w, "x", GGML_F32, 0, two), TANE_EINVAL, "has 0 dimensions; GGUF takes 1 to 4");
    assert_error(gguf_add(w, "x", GGML_F32, 5, five), TANE_EINVAL, "has 5 dimensions");
    assert_error(gguf_add(w, "x", GGML_F32, 1, minus), TANE_EINVAL, "size -1 of dimension 0 cannot be written");
    assert_error(gguf_add(w, "x", GGML_F32, 1, none), TANE_EINVAL, "size 0 of dimension 0 cannot be written");
    assert_error(gguf_add(w, "x", GGML_F32, 2, huge), TANE_EINVAL, "size 9223372036854775807 of dimension 0");
    assert_error(gguf_add(w, "x", GGML_Q4_0, 2, row), TANE_EINVAL,
                 "rows of 33 numbers, but Q4_0 takes multiples of 32");
    assert_error(gguf_add(w, "x", (GgmlType)17, 1, two), TANE_EINVAL, "has the unknown type 17");
    assert_error(gguf_put_u32(w, "", 1), TANE_EINVAL, "a key cannot be empty");
    assert_error(gguf_write(w, "x", 1), TANE_EINVAL, "data comes before the header");
    assert_ok(gguf_add(w, "x", GGML_F32, 2, pair));
    assert_ok(gguf_add(w, "y", GGML_F32, 1, two));
    assert_ok(gguf_begin(w));
    assert_error(gguf_begin(w), TANE_EINVAL, "already written");
    assert_error(gguf_add(w, "z", GGML_F32, 1, two), TANE_EINVAL, "behind the header");
    assert_error(gguf_put_bool(w, "z", true), TANE_EINVAL, "behind the header");
    assert_ok(gguf_write(w, "123456789", 9));
    assert_error(gguf_write(w, "12345678", 8), TANE_EINVAL, "1 bytes come behind the last tensor");
    gguf_writer_abort(&w);
    assert_null(w);
    assert_false(file_exists(path) || file_exists(tmp));

    assert_ok(gguf_writer_open(&w, path));
    assert_ok(gguf_add(w, "x", GGML_F32, 1, two));
    assert_ok(gguf_begin(w));
    assert_ok(gguf_write(w, "1234567", 7));
    assert_error(gguf_writer_close(&w), TANE_EINVAL, "tensor \"x\" lacks 1 of its bytes");
    assert_null(w);
    assert_false(file_exists(path) || file_exists(tmp));
    assert_ok(gguf_writer_open(&w, path));
    assert_error(gguf_writer_close(&w), TANE_EINVAL, "closed before its header");
    assert_ok(gguf_writer_open(&w, path));
    assert_ok(gguf_put_u32(w, "k", 1));
    assert_ok(gguf_put_u32(w, "a", 1));
    assert_ok(gguf_put_u32(w, "k", 1));
    assert_error(gguf_begin(w), TANE_EINVAL, "the key \"k\" was added twice");
    gguf_writer_abort(&w);
    assert_ok(gguf_writer_open(&w, path));
    assert_ok(gguf_add(w, "x", GGML_F32, 1, two));
    assert_ok(gguf_add(w, "x", GGML_F16, 1, two));
    assert_error(gguf_begin(w), TANE_EINVAL, "tensor \"x\" was added twice");
    gguf_writer_abort(&w);
    assert_error(gguf_writer_open(&w, test_path("no/such/folder.gguf")), TANE_ENOTFOUND, "cannot create it");
    assert_null(w);
    gguf_writer_abort(&w);
}

/* ---- large ------------------------------------------------------------------------------------------------------ */

static void many_tensors_and_a_large_vocabulary(void **state) {
    (void)state;
    enum { TENSORS = 100000, TOKENS = 262144 };
    const char *path = test_path("many.gguf");
    GgufText *texts, *read;
    char name[32];
    GgufWriter *w;
    GgufFile *file;
    uint64_t size;
    assert_ok(MEM_NEW_ARRAY(&texts, TOKENS));
    for (size_t i = 0; i < TOKENS; i++) texts[i] = (GgufText){"abcdefgh", i % 9};
    assert_ok(gguf_writer_open(&w, path));
    assert_ok(gguf_put_texts(w, "tokens", texts, TOKENS));
    for (int64_t i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t.%d", (int)(i * 7919 % TENSORS));
        assert_ok(gguf_add(w, name, GGML_F16, 1, (int64_t[]){1 + i % 3}));
    }
    assert_ok(gguf_begin(w));
    for (int i = 0; i < TENSORS; i++) assert_ok(gguf_write(w, "123456", (size_t)(2 * (1 + i % 3))));
    assert_ok(gguf_writer_close(&w));
    assert_ok(file_size(path, &size));
    mem_free(texts);

    TestAllocator allocator = {0};
    test_allocator_install(&allocator);
    double start = clock_seconds();
    assert_ok(gguf_open(&file, path));
    assert_int_equal(gguf_tensor_count(file), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t.%d", i);
        assert_non_null(gguf_find(file, name));
    }
    assert_null(gguf_find(file, "t.100000"));
    assert_ok(MEM_NEW_ARRAY(&read, TOKENS));
    assert_ok(gguf_array_texts(file, "tokens", read, TOKENS));
    for (size_t i = 0; i < TOKENS; i++) {
        GgufText text = gguf_array_text(file, "tokens", i);
        assert_true(text.n == i % 9 && text.data == read[i].data && text.n == read[i].n);
    }
    if (clock_seconds() - start > 30) fail_msg("%.1f s: something is quadratic", clock_seconds() - start);
    mem_free(read);
    gguf_close(&file);
    test_allocator_remove();
    assert_int_equal(allocator.live, 0);
    assert_true(allocator.peak_bytes < size + (64u << 20));
}

/* Claims that the file's size does not contradict at once. */
static void claimed_counts_cost_no_more_than_the_file(void **state) {
    (void)state;
    enum { BYTES = 8 << 20 };
    static const struct {
        uint64_t tensors, keys;
        const char *message;
    } claims[] = {
        {BYTES / 37, 0, "a tensor's name at byte 24 is empty"},
        {0, 65536, "a key at byte 24 is empty"},
        {0, 65537, "has 65537 keys; tane reads at most 65536"},
        {1, BYTES / 15, "keys; tane reads at most 65536"},
    };
    const char *path = test_path("claims.gguf");
    char *bytes = test_room(BYTES);
    memcpy(bytes, "GGUF\3\0\0\0", 8);
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        TestAllocator allocator = {0};
        GgufFile *file;
        memcpy(bytes + 8, &claims[i].tensors, 8);
        memcpy(bytes + 16, &claims[i].keys, 8);
        test_write_bytes(path, bytes, BYTES);
        test_allocator_install(&allocator);
        assert_error_contains(gguf_open(&file, path), claims[i].message);
        test_allocator_remove();
        assert_true(allocator.peak_bytes < BYTES + (64u << 20));
    }
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

static Status open_body(void *ctx) {
    GgufFile *file;
    Status st = gguf_open(&file, ctx);
    gguf_close(&file);
    return st;
}

static Status write_body(void *ctx) { return write_plain(ctx, 100); }

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *split = test_data("golden/gguf/split-00001-of-00003.gguf"), *path = test_path("w.gguf");
    assert_true(test_fail_allocations(open_body, (void *)(uintptr_t)split) > 12);
    assert_true(test_fail_allocations(write_body, (void *)(uintptr_t)path) > 8);
    assert_false(file_exists(test_path("w.gguf.tmp")));
}

/* What stood there before stays whole whatever fails. */
static void put_old(void *ctx) { test_write(ctx, "old"); }
static void is_old_or_new(void *ctx) {
    size_t n;
    char *text = test_read(ctx, &n);
    assert_true(text && (!strcmp(text, "old") || !memcmp(text, "GGUF", 4)));
    assert_false(file_exists(test_path("w.gguf.tmp")));
}

static void every_disk_call_may_fail(void **state) {
    (void)state;
    void *path = (void *)(uintptr_t)test_path("w.gguf");
    /* create, write, fsync, rename, fsync of the folder */
    assert_int_equal(test_fail_disk_calls(write_body, ENOSPC, put_old, is_old_or_new, path), 5);
    assert_int_equal(test_fail_disk_calls(write_body, EIO, put_old, is_old_or_new, path), 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(each_kind_of_key_is_read),
        TEST(each_kind_of_array_is_read),
        TEST(a_wrong_value_is_named),
        TEST(each_type_of_tensor_is_read),
        TEST(split_models_are_one),
        TEST(split_models_must_be_whole),
        TEST(damaged_files_are_told_what_is_wrong),
        TEST(the_corpus_and_the_table_agree),
        TEST(other_files_are_recognised),
        TEST(damage_never_crashes),
        TEST(the_writer_makes_the_reference_bytes),
        TEST(a_file_without_tensors_is_written),
        TEST(misuse_of_the_writer_is_an_error),
        TEST(many_tensors_and_a_large_vocabulary),
        TEST(claimed_counts_cost_no_more_than_the_file),
        TEST(every_allocation_may_fail),
        TEST(every_disk_call_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
