/* safetensors: the reference implementation's own file read and written again byte for byte, round trips, every kind of
 * bad file with its message, shards, and the failure of each allocation and disk call.
 */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"

/* ---- making files ----------------------------------------------------------------------------------------------- */

static const char *make_raw(const char *path, uint64_t claimed, const char *header, size_t header_bytes, size_t data) {
    Str text = {0};
    char length[8];
    for (int i = 0; i < 8; i++) length[i] = (char)(claimed >> 8 * i);
    assert_ok(str_add(&text, length, 8));
    assert_ok(str_add(&text, header, header_bytes));
    for (size_t i = 0; i < data; i++) assert_ok(str_add(&text, "\x01", 1));
    test_write_bytes(path, text.text, text.len);
    str_free(&text);
    return path;
}

static const char *make(const char *path, const char *header, size_t data) {
    return make_raw(path, strlen(header), header, strlen(header), data);
}

/* ---- the reference file ----------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    DType dtype;
    int rank;
    int64_t shape[2];
} golden[] = {
    {"wte.weight", DTYPE_F32, 2, {2, 3}},
    {"half", DTYPE_F16, 1, {3}},
    {"brain", DTYPE_BF16, 1, {5}},
    {"double", DTYPE_F64, 2, {1, 2}},
    {"i64", DTYPE_I64, 1, {2}},
    {"i32", DTYPE_I32, 1, {1}},
    {"i16", DTYPE_I16, 2, {3, 1}},
    {"i8", DTYPE_I8, 1, {3}},
    {"u8", DTYPE_U8, 1, {5}},
    {"mask", DTYPE_BOOL, 1, {3}},
    {"scalar", DTYPE_F32, 0, {0}},
    {"empty", DTYPE_F32, 1, {0}},
    {"empty.matrix", DTYPE_F64, 2, {4, 0}},
    {"\xe7\xa8\xae \"quoted\"", DTYPE_F32, 1, {1}},
};
enum { N_GOLDEN = sizeof golden / sizeof *golden };

static void the_reference_file_is_read(void **state) {
    (void)state;
    StFile *file;
    const char *key, *value;
    assert_ok(st_open(&file, test_data("golden/reference.safetensors")));
    assert_int_equal(st_count(file), N_GOLDEN);
    assert_string_equal(st_metadata(file, "format"), "pt");
    assert_null(st_metadata(file, "other"));
    assert_int_equal(st_metadata_count(file), 1);
    st_metadata_get(file, 0, &key, &value);
    assert_string_equal(key, "format");
    assert_string_equal(value, "pt");
    for (size_t i = 0; i < N_GOLDEN; i++) {
        const StTensor *t = st_find(file, golden[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, golden[i].dtype);
        assert_int_equal(t->rank, golden[i].rank);
        size_t bytes = dtype_size(t->dtype);
        for (int d = 0; d < t->rank; d++) {
            assert_true(t->shape[d] == golden[i].shape[d]);
            bytes *= (size_t)t->shape[d];
        }
        assert_int_equal(t->bytes, bytes);
        assert_ptr_equal(st_get(file, t->index), t);
    }
    float f[6];
    memcpy(f, st_find(file, "wte.weight")->data, sizeof f);
    for (int i = 0; i < 6; i++) assert_true(f[i] == (float)(i + 1));
    memcpy(f, st_find(file, "scalar")->data, 4);
    assert_true(f[0] == 7.5f);
    uint16_t h[5];
    memcpy(h, st_find(file, "brain")->data, sizeof h);
    for (int i = 0; i < 5; i++) assert_true(bf16_to_f32(h[i]) == (float)(i + 1));
    int64_t big[2];
    memcpy(big, st_find(file, "i64")->data, sizeof big);
    assert_true(big[0] == -1 && big[1] == (int64_t)1 << 62);
    for (size_t i = 1; i < st_count(file); i++)
        assert_true(strcmp(st_get(file, i - 1)->name, st_get(file, i)->name) < 0);
    st_close(&file);
    assert_null(file);
    st_close(&file);
}

/* Copies a file through reader and writer, `piece` bytes a call. */
static Status copy_tensors(const char *from, const char *to, size_t piece, uint64_t *size, char *hex) {
    Status st = TANE_OK;
    StFile *file = NULL;
    StWriter *w = NULL;
    TRY(st_open(&file, from));
    TRY(st_writer_open(&w, to));
    for (size_t i = 0; i < st_metadata_count(file); i++) {
        const char *key, *value;
        st_metadata_get(file, i, &key, &value);
        TRY(st_writer_metadata(w, key, value));
    }
    for (size_t i = st_count(file); i-- > 0;) { /* backwards: the order of adding must not matter */
        const StTensor *t = st_get(file, i);
        TRY(st_writer_add(w, t->name, t->dtype, t->rank, t->shape));
    }
    TRY(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) {
        const StTensor *source = st_get(file, st_count(file) - 1 - t->index);
        if (strcmp(source->name, t->name)) TRY(FAIL(TANE_EINTERNAL, "%s is not %s", t->name, source->name));
        for (size_t at = 0; at < t->bytes; at += piece)
            TRY(st_writer_write(w, (const char *)source->data + at, t->bytes - at < piece ? t->bytes - at : piece));
    }
    uint64_t announced = st_writer_size(w);
    TRY(st_writer_close(&w, size, hex));
    if (size && *size != announced) TRY(FAIL(TANE_EINTERNAL, "another size than announced"));
out:
    st_writer_abort(&w);
    st_close(&file);
    return st;
}

static void the_writer_makes_the_reference_bytes(void **state) {
    (void)state;
    const char *from = test_data("golden/reference.safetensors"), *to = test_path("copy.safetensors");
    size_t n, m;
    char *expected = test_read(from, &n);
    assert_non_null(expected);
    for (size_t piece = 1; piece < 40; piece += test_stride(6)) {
        uint64_t size, hashed_size;
        char hex[65], hashed[65];
        assert_ok(copy_tensors(from, to, piece, &size, hex));
        char *got = test_read(to, &m);
        assert_int_equal(m, n);
        assert_memory_equal(got, expected, n);
        assert_int_equal(size, n);
        assert_ok(file_sha256(to, &hashed_size, hashed));
        assert_string_equal(hex, hashed);
    }
}

static void a_file_without_tensors_is_fine(void **state) {
    (void)state;
    const char *path = test_path("none.safetensors");
    StWriter *w;
    StFile *file;
    for (int metadata = 0; metadata < 2; metadata++) {
        assert_ok(st_writer_open(&w, path));
        if (metadata) assert_ok(st_writer_metadata(w, "b\n", "\"2\""));
        if (metadata) assert_ok(st_writer_metadata(w, "a", ""));
        assert_ok(st_writer_begin(w));
        assert_null(st_writer_next(w));
        assert_ok(st_writer_close(&w, NULL, NULL));
        assert_ok(st_open(&file, path));
        assert_int_equal(st_count(file), 0);
        assert_null(st_find(file, "a"));
        if (metadata) assert_string_equal(st_metadata(file, "b\n"), "\"2\"");
        st_close(&file);
    }
}

static void misuse_of_the_writer_is_an_error(void **state) {
    (void)state;
    const char *path = test_path("w.safetensors");
    const int64_t two[] = {2}, minus[] = {-1}, huge[] = {INT64_MAX, 4}, nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    StWriter *w;
    assert_ok(st_writer_open(&w, path));
    assert_error(st_writer_add(w, "", DTYPE_F32, 1, two), TANE_EINVAL, "cannot be the name");
    assert_error(st_writer_add(w, "__metadata__", DTYPE_F32, 1, two), TANE_EINVAL, "cannot be the name");
    assert_error(st_writer_add(w, "x", DTYPE_F32, 1, minus), TANE_EINVAL, "size -1 of dimension 0");
    assert_error(st_writer_add(w, "x", DTYPE_F32, 2, huge), TANE_EINVAL, "size 9223372036854775807 of dimension 0");
    assert_error(st_writer_add(w, "x", DTYPE_F32, 9, nine), TANE_EINVAL, "9 dimensions; at most 8");
    assert_ok(st_writer_add(w, "x", DTYPE_F32, 1, two));
    assert_ok(st_writer_add(w, "y", DTYPE_U8, 1, two));
    assert_ok(st_writer_begin(w));
    assert_error(st_writer_begin(w), TANE_EINVAL, "already written");
    assert_error(st_writer_add(w, "z", DTYPE_F32, 1, two), TANE_EINVAL, "behind the header");
    assert_error(st_writer_metadata(w, "z", ""), TANE_EINVAL, "behind the header");
    assert_error(st_writer_write(w, "", 1), TANE_EINVAL, "too many for tensor \"(none)\"");
    assert_string_equal(st_writer_next(w)->name, "x");
    assert_ok(st_writer_write(w, "1234567", 7));
    assert_error(st_writer_write(w, "12", 2), TANE_EINVAL, "2 bytes are too many for tensor \"x\", which takes 1 more");
    assert_null(st_writer_next(w));
    assert_error(st_writer_close(&w, NULL, NULL), TANE_EINVAL, "tensor \"x\" lacks 1 of its bytes");
    assert_null(w);

    assert_ok(st_writer_open(&w, path));
    assert_ok(st_writer_add(w, "x", DTYPE_F32, 1, two));
    assert_ok(st_writer_begin(w));
    assert_error(st_writer_close(&w, NULL, NULL), TANE_EINVAL, "tensor \"x\" was not written");
    assert_ok(st_writer_open(&w, path));
    assert_error(st_writer_close(&w, NULL, NULL), TANE_EINVAL, "closed before its header");
    assert_ok(st_writer_open(&w, path));
    assert_ok(st_writer_add(w, "x", DTYPE_F32, 1, two));
    assert_ok(st_writer_add(w, "a", DTYPE_F32, 1, two));
    assert_ok(st_writer_add(w, "x", DTYPE_U8, 1, two));
    assert_error(st_writer_begin(w), TANE_EINVAL, "tensor \"x\" was added twice");
    st_writer_abort(&w);
    assert_ok(st_writer_open(&w, path));
    assert_ok(st_writer_metadata(w, "k", "1"));
    assert_ok(st_writer_metadata(w, "k", "2"));
    assert_error(st_writer_begin(w), TANE_EINVAL, "metadata \"k\" was added twice");
    st_writer_abort(&w);
    assert_ok(st_writer_open(&w, path));
    assert_ok(st_writer_add(w, "bad \xff", DTYPE_F32, 1, two));
    assert_error(st_writer_begin(w), TANE_EINVAL, "0xff is not UTF-8");
    st_writer_abort(&w);
    assert_error(st_writer_open(&w, test_path("no/such/folder")), TANE_ENOTFOUND, "cannot create it");
    assert_null(w);
}

/* ---- bad files -------------------------------------------------------------------------------------------------- */

#define U8(name, shape, range) "\"" name "\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" range "}"

static const struct {
    const char *header;
    size_t data;
    Status code;
    const char *message;
} bad_headers[] = {
    {" {}", 0, TANE_EFORMAT, "does not begin with '{'"},
    {"[]", 0, TANE_EFORMAT, "does not begin with '{'"},
    {"{", 0, TANE_EFORMAT, "bad.safetensors:1:2: expected a key"},
    {"{}x", 0, TANE_EFORMAT, ":1:3: expected nothing more behind the value, found 'x'"},
    {"{}", 3, TANE_EFORMAT, "3 bytes behind the last tensor belong to none"},
    {"{" U8("a", "[2]", "[0,2]") "}", 5, TANE_EFORMAT, "3 bytes behind the last tensor"},
    {"{" U8("a", "[2]", "[0,2]") "," U8("b", "[2]", "[3,5]") "}", 5, TANE_EFORMAT,
     "tensor \"b\" begins at byte 3 of the data, but tensor a ends at 2: there is a hole"},
    {"{" U8("a", "[2]", "[1,3]") "}", 3, TANE_EFORMAT,
     "tensor \"a\" begins at byte 1 of the data, but the header ends at 0: there is a hole"},
    {"{" U8("a", "[3]", "[0,3]") "," U8("b", "[3]", "[2,5]") "}", 5, TANE_EFORMAT,
     "tensor \"b\" begins at byte 2 of the data, but tensor a ends at 3: they overlap"},
    {"{" U8("a", "[3]", "[0,3]") "," U8("b", "[3]", "[0,3]") "}", 3, TANE_EFORMAT, "they overlap"},
    {"{" U8("a", "[0]", "[5,5]") "}", 5, TANE_EFORMAT, "there is a hole"},
    {"{" U8("a", "[9]", "[0,9]") "}", 5, TANE_EFORMAT,
     "tensor \"a\" ends at byte 9 of the data, but the file has only 5; the download or copy is incomplete"},
    {"{" U8("a", "[2]", "[2,0]") "}", 2, TANE_EFORMAT,
     "U8 of shape [2] takes 2 bytes, but its data_offsets are [2, 0]"},
    {"{" U8("a", "[2,3]", "[0,5]") "}", 5, TANE_EFORMAT, "U8 of shape [2, 3] takes 6 bytes"},
    {"{" U8("a", "[]", "[0,2]") "}", 2, TANE_EFORMAT, "U8 of shape [] takes 1 bytes"},
    {"{" U8("a", "[0]", "[0,1]") "}", 1, TANE_EFORMAT, "U8 of shape [0] takes 0 bytes"},
    {"{" U8("a", "[4294967296,4294967296]", "[0,0]") "}", 0, TANE_EFORMAT,
     "the shape [4294967296, 4294967296] is too large for any file"},
    {"{" U8("a", "[9223372036854775807,9223372036854775807,0]", "[0,0]") "}", 0, TANE_EFORMAT,
     "too large for any file"},
    {"{" U8("a", "[9223372036854775808]", "[0,0]") "}", 0, TANE_EFORMAT, "does not fit in 64 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, TANE_EFORMAT,
     "too large for any file"},
    {"{" U8("a", "[-1]", "[0,0]") "}", 0, TANE_EFORMAT, "the negative size -1 in its shape"},
    {"{" U8("a", "[1.0]", "[0,1]") "}", 1, TANE_EFORMAT, "expected a whole number, found 1.0"},
    {"{" U8("a", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, TANE_EFORMAT, "more than 8 dimensions"},
    {"{" U8("a", "1", "[0,1]") "}", 1, TANE_EFORMAT, "expected '[', found '1'"},
    {"{" U8("a", "[1]", "[0]") "}", 1, TANE_EFORMAT, "data_offsets of \"a\" needs two numbers"},
    {"{" U8("a", "[1]", "[0,1,2]") "}", 1, TANE_EFORMAT, "data_offsets of \"a\" has more than two numbers"},
    {"{" U8("a", "[1]", "[-1,0]") "}", 1, TANE_EFORMAT, "data_offsets of \"a\" has the negative number -1"},
    {"{" U8("a", "[1]", "[0,1]") "," U8("a", "[1]", "[1,2]") "}", 2, TANE_EFORMAT, "tensor \"a\" is there twice"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1, TANE_EUNSUPPORTED,
     "tensor \"a\" has dtype F4, which tane does not read"},
    {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, TANE_EUNSUPPORTED, "dtype F8_E4M3"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, TANE_EFORMAT, "the unknown dtype \"F33\""},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, TANE_EFORMAT,
     ":1:15: expected text in double quotes, found '7'"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, TANE_EFORMAT, "tensor \"a\" has no \"dtype\""},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, TANE_EFORMAT, "tensor \"a\" has no \"shape\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, TANE_EFORMAT, "tensor \"a\" has no \"data_offsets\""},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 1, TANE_EFORMAT, "tensor \"a\" has \"dtype\" twice"},
    {"{\"a\":{\"colour\":1}}", 1, TANE_EFORMAT, "tensor \"a\" has the unknown member \"colour\""},
    {"{\"a\":1}", 1, TANE_EFORMAT, "expected '{', found '1'"},
    {"{" U8("", "[1]", "[0,1]") "}", 1, TANE_EFORMAT, "a tensor has an empty name"},
    {"{" U8("a\xff", "[1]", "[0,1]") "}", 1, TANE_EFORMAT, "the byte 0xff is not UTF-8"},
    {"{" U8("a\\u0000", "[1]", "[0,1]") "}", 1, TANE_EFORMAT, "\\u0000 is not allowed"},
    {"{\"__metadata__\":{\"a\":1}}", 0, TANE_EFORMAT, "expected text in double quotes, found '1'"},
    {"{\"__metadata__\":[]}", 0, TANE_EFORMAT, "expected '{', found '['"},
    {"{\"__metadata__\":{\"a\":\"1\",\"b\":\"\",\"a\":\"2\"}}", 0, TANE_EFORMAT,
     "__metadata__ has the key \"a\" twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, TANE_EFORMAT, "\"__metadata__\" is there twice"},
};

static void bad_headers_are_refused(void **state) {
    (void)state;
    const char *path = test_path("bad.safetensors");
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        StFile *file = (StFile *)1;
        make(path, bad_headers[i].header, bad_headers[i].data);
        assert_error(st_open(&file, path), bad_headers[i].code, bad_headers[i].message);
        assert_non_null(strstr(err_message(), "bad.safetensors"));
        assert_null(file);
    }
}

/* The damaged files of tests/corpus/safetensors, with what follows the path in the message. */
static const struct {
    const char *name;
    Status code; /* TANE_EFORMAT where it is 0 */
    const char *message;
} bad_files[] = {
    {"empty", 0, ": only 0 bytes long; a safetensors file begins with 8 bytes of header length"},
    {"length_cut", 0, ": only 7 bytes long; a safetensors file begins with 8 bytes of header length"},
    {"length_0", 0, ": the header does not begin with '{'; not a safetensors file"},
    {"length_past_end", 0,
     ": claims a header of 1000 bytes, but the file has only 10; the download or copy is incomplete: get it again"},
    {"length_one_past_end", 0,
     ": claims a header of 3 bytes, but the file has only 10; the download or copy is incomplete: get it again"},
    {"length_over_100_mb", 0, ": claims a header of 100000001 bytes; at most 100000000 are allowed"},
    {"length_2_to_63", 0, ": claims a header of 9223372036854775808 bytes; at most 100000000 are allowed"},
    {"length_all_ones", 0, ": claims a header of 18446744073709551615 bytes; at most 100000000 are allowed"},
    {"header_not_an_object", 0, ": the header does not begin with '{'; not a safetensors file"},
    {"header_begins_with_space", 0, ": the header does not begin with '{'; not a safetensors file"},
    {"header_cut", 0, ":1:19: expected ',' or '}', found the end of the text"},
    {"header_text_behind", 0, ":1:4: expected nothing more behind the value, found 'x'"},
    {"header_not_utf8", 0, ":1:4: the byte 0xff is not UTF-8; save the text as UTF-8"},
    {"header_surrogate", 0, ":1:3: \\ud800 is half of a surrogate pair; write both halves or the character itself"},
    {"header_name_with_zero", 0, ":1:4: \\u0000 is not allowed in text; remove it"},
    {"header_deep", 0, ":1:6: expected '{', found '['"},
    {"header_name_empty", 0, ":1:2: a tensor has an empty name"},
    {"header_name_twice", 0, ": tensor \"a\" is there twice"},
    {"header_metadata_twice", 0, ":1:20: \"__metadata__\" is there twice"},
    {"header_metadata_number", 0, ":1:22: expected text in double quotes, found '1'"},
    {"header_metadata_key_twice", 0, ":1:30: __metadata__ has the key \"a\" twice"},
    {"entry_not_an_object", 0, ":1:6: expected '{', found '1'"},
    {"entry_member_missing", 0, ":1:29: tensor \"a\" has no \"data_offsets\""},
    {"entry_member_twice", 0, ":1:20: tensor \"a\" has \"dtype\" twice"},
    {"entry_member_unknown", 0,
     ":1:53: tensor \"a\" has the unknown member \"colour\"; known are dtype, shape and data_offsets"},
    {"dtype_unknown", 0, ":1:15: tensor \"a\" has the unknown dtype \"F33\""},
    {"dtype_f8_e4m3", TANE_EUNSUPPORTED,
     ": tensor \"a\" has dtype F8_E4M3, which tane does not read; convert it to F32, BF16 or F16"},
    {"dtype_f4", TANE_EUNSUPPORTED,
     ": tensor \"a\" has dtype F4, which tane does not read; convert it to F32, BF16 or F16"},
    {"dtype_u64", TANE_EUNSUPPORTED,
     ": tensor \"a\" has dtype U64, which tane does not read; convert it to F32, BF16 or F16"},
    {"dtype_number", 0, ":1:15: expected text in double quotes, found '7'"},
    {"shape_negative", 0, ":1:29: tensor \"a\" has the negative size -1 in its shape"},
    {"shape_fraction", 0, ":1:29: expected a whole number, found 1.5"},
    {"shape_2_to_63", 0, ":1:29: 9223372036854775808 does not fit in 64 bits"},
    {"shape_wraps_to_0", 0, ": tensor \"a\": the shape [4294967296, 4294967296] is too large for any file"},
    {"shape_bytes_wrap", 0, ": tensor \"a\": the shape [4611686018427387904] is too large for any file"},
    {"shape_of_9", 0, ":1:43: tensor \"a\" has more than 8 dimensions"},
    {"shape_scalar_of_2", 0, ": tensor \"a\": U8 of shape [] takes 1 bytes, but its data_offsets are [0, 2]"},
    {"shape_empty_of_1", 0, ": tensor \"a\": U8 of shape [0] takes 0 bytes, but its data_offsets are [0, 1]"},
    {"offsets_backwards", 0, ": tensor \"a\": U8 of shape [1] takes 1 bytes, but its data_offsets are [1, 0]"},
    {"offsets_negative", 0, ":1:48: data_offsets of \"a\" has the negative number -1"},
    {"offsets_past_end", 0,
     ": tensor \"a\" ends at byte 9 of the data, but the file has only 8; the download or copy is incomplete: get it "
     "again"},
    {"offsets_three", 0, ":1:50: data_offsets of \"a\" has more than two numbers"},
    {"offsets_one", 0, ":1:48: data_offsets of \"a\" needs two numbers"},
    {"offsets_not_the_shape", 0, ": tensor \"a\": U8 of shape [2, 3] takes 6 bytes, but its data_offsets are [0, 5]"},
    {"data_hole", 0,
     ": tensor \"b\" begins at byte 2 of the data, but tensor a ends at 1: there is a hole between them"},
    {"data_hole_in_front", 0,
     ": tensor \"a\" begins at byte 1 of the data, but the header ends at 0: there is a hole between them"},
    {"data_overlap", 0, ": tensor \"b\" begins at byte 2 of the data, but tensor a ends at 3: they overlap"},
    {"data_shared", 0, ": tensor \"b\" begins at byte 0 of the data, but tensor a ends at 3: they overlap"},
    {"data_behind", 0, ": 1 bytes behind the last tensor belong to none; the file is damaged"},
    {"data_without_tensors", 0, ": 3 bytes behind the last tensor belong to none; the file is damaged"},
};
enum { N_BAD = sizeof bad_files / sizeof *bad_files };

static void damaged_files_are_told_what_is_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < N_BAD; i++) {
        TestAllocator allocator = {0};
        StFile *file = (StFile *)1;
        char name[96];
        snprintf(name, sizeof name, "corpus/safetensors/bad_%s.safetensors", bad_files[i].name);
        const char *path = test_data(name);
        test_allocator_install(&allocator);
        assert_error(st_open(&file, path), bad_files[i].code ? bad_files[i].code : TANE_EFORMAT, bad_files[i].message);
        test_allocator_remove();
        assert_null(file);
        assert_non_null(strstr(err_message(), path)); /* the message names the file */
        assert_int_equal(allocator.live, 0);
        assert_true(allocator.peak_bytes < 1 << 20);
    }
}

/* Every file of the corpus opens, or is in the table above. */
static void the_corpus_and_the_table_agree(void **state) {
    (void)state;
    DirList list;
    size_t bad = 0;
    assert_ok(dir_list(test_data("corpus/safetensors"), &list));
    for (size_t i = 0; i < list.n; i++) {
        StFile *file;
        char name[128];
        if (!strncmp(list.names[i], "bad_", 4)) {
            bad++;
            continue;
        }
        snprintf(name, sizeof name, "corpus/safetensors/%s", list.names[i]);
        assert_ok(st_open(&file, test_data(name)));
        st_close(&file);
    }
    assert_int_equal(bad, N_BAD);
    dir_list_free(&list);
}

static void bad_lengths_are_refused(void **state) {
    (void)state;
    StFile *file;
    const char *path = test_path("bad.safetensors");
    test_write(path, "");
    assert_error(st_open(&file, path), TANE_EFORMAT, "only 0 bytes long");
    test_write(path, "1234567");
    assert_error(st_open(&file, path), TANE_EFORMAT, "only 7 bytes long");
    make_raw(path, 0, "", 0, 0);
    assert_error(st_open(&file, path), TANE_EFORMAT, "does not begin with '{'");
    make_raw(path, 3, "{}", 2, 0);
    assert_error(st_open(&file, path), TANE_EFORMAT, "claims a header of 3 bytes, but the file has only 10");
    make_raw(path, 100000001, "{}", 2, 0);
    assert_error(st_open(&file, path), TANE_EFORMAT, "claims a header of 100000001 bytes; at most 100000000");
    make_raw(path, 100000000, "{}", 2, 0);
    assert_error(st_open(&file, path), TANE_EFORMAT, "claims a header of 100000000 bytes, but the file has only 10");
    make_raw(path, UINT64_MAX, "{}", 2, 0);
    assert_error(st_open(&file, path), TANE_EFORMAT, "claims a header of 18446744073709551615 bytes");
}

static void other_files_are_recognised(void **state) {
    (void)state;
    StFile *file;
    const char *path = test_path("model.safetensors");
    test_write(path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
    assert_error(st_open(&file, path), TANE_EFORMAT, "run `git lfs pull`");
    test_write(path, "GGUF\x03\1\1\1\1\1\1\1\1");
    assert_error(st_open(&file, path), TANE_EFORMAT, "this is a GGUF file");
    test_write(path, "PK\x03\x04\1\1\1\1\1\1\1\1");
    assert_error(st_open(&file, path), TANE_EFORMAT, "PyTorch pickle");
    test_write(path, "<!DOCTYPE html><html></html>");
    assert_error(st_open(&file, path), TANE_EFORMAT, "looks like a web page");
    assert_error(st_open(&file, test_path("nothing")), TANE_ENOTFOUND, "nothing: cannot open it");
}

/* No bit of a good file may be flipped, and no byte cut off, with worse than an error. */
static void damage_never_crashes(void **state) {
    (void)state;
    const char *path = test_path("damaged.safetensors");
    size_t n, opened = 0;
    char *good = test_read(test_data("golden/reference.safetensors"), &n);
    for (size_t i = 0; i < n; i++) {
        StFile *file;
        test_write_bytes(path, good, i);
        assert_error(st_open(&file, path), TANE_EFORMAT, "damaged.safetensors");
        good[i] ^= (char)(1 << i % 8);
        test_write_bytes(path, good, n);
        good[i] ^= (char)(1 << i % 8);
        if (st_open(&file, path) != TANE_OK) continue;
        opened++; /* a name, a value of metadata, padding or data may change unseen; all must still be in range */
        size_t sum = 0;
        for (size_t t = 0; t < st_count(file); t++)
            for (size_t b = 0; b < st_get(file, t)->bytes; b++) sum += ((const uint8_t *)st_get(file, t)->data)[b];
        assert_true(sum <= 255 * n);
        st_close(&file);
    }
    assert_true(opened > 100 && opened < n / 2);
}

/* ---- many, deep and shared -------------------------------------------------------------------------------------- */

static void many_tensors_are_found_by_name(void **state) {
    (void)state;
    enum { N = 100000 };
    const char *path = test_path("many.safetensors");
    char name[32];
    StWriter *w;
    StFile *file;
    assert_ok(st_writer_open(&w, path));
    for (int64_t i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t.%d", (int)(i * 7919 % N));
        assert_ok(st_writer_add(w, name, DTYPE_U8, 1, (int64_t[]){i % 3}));
    }
    assert_ok(st_writer_begin(w));
    for (const StTensor *t; (t = st_writer_next(w));) assert_ok(st_writer_write(w, "\1\2", t->bytes));
    assert_ok(st_writer_close(&w, NULL, NULL));

    TestAllocator allocator = {0};
    uint64_t size;
    assert_ok(file_size(path, &size));
    test_allocator_install(&allocator);
    assert_ok(st_open(&file, path));
    assert_int_equal(st_count(file), N);
    for (int i = 0; i < N; i += 97) {
        snprintf(name, sizeof name, "t.%d", i);
        assert_non_null(st_find(file, name));
    }
    assert_null(st_find(file, "t.100000"));
    st_close(&file);
    assert_int_equal(allocator.live, 0);
    assert_true(allocator.peak_bytes < size + (64u << 20));
    test_allocator_remove();
}

static void a_header_of_braces_costs_little(void **state) {
    (void)state;
    enum { N = 4000000 };
    const char *path = test_path("braces.safetensors");
    TestAllocator allocator = {0};
    StFile *file;
    Str header = {0};
    assert_ok(str_add(&header, "{\"", 2));
    for (int i = 0; i < N; i++) assert_ok(str_add(&header, "{", 1));
    assert_ok(str_printf(&header, "\":1}"));
    make(path, header.text, 0);
    str_free(&header);
    test_allocator_install(&allocator);
    assert_error(st_open(&file, path), TANE_EFORMAT, "expected '{', found '1'");
    assert_int_equal(allocator.live, 0);
    assert_true(allocator.peak_bytes < N + (64u << 20));
    test_allocator_remove();
}

/* Headers of the largest size that is allowed, each made of `unit` again and again between `begin` and `end`. */
static void the_largest_headers_cost_little_more_than_the_file(void **state) {
    (void)state;
    enum { LIMIT = 100 * 1000 * 1000 };
    static const struct {
        const char *begin, *unit, *end, *message;
    } headers[] = {
        {"{\"", "n", "\":1}", ": the text at byte 2 of the header has 99999994 bytes; at most 16777216 are allowed"},
        {"{\"", "\\\"", "\":1}", "at byte 2 of the header has 99999994 bytes"},
        {"{\"__metadata__\":{\"a\":\"", "v", "\"}}", "at byte 22 of the header has 99999975 bytes"},
        {"{\"", "{", "", "at byte 2 of the header has 99999998 bytes"},
        {"", "{", "", ":1:2: expected a key in double quotes, found '{'"},
        {"{\"a\":{\"shape\":[", "[", "", "expected a whole number, found '['"},
        {"{\"a\":{\"shape\":[", "1,", "", "more than 8 dimensions"},
        {"{\"a\":", " ", "", "expected '{', found the end of the text"},
        {"{", "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", "",
         "more than 1048576 tensors; tane reads no more from one file"},
    };
    const char *path = test_path("large.safetensors");
    char *header = test_room(LIMIT + 8);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        TestAllocator allocator = {0};
        StFile *file;
        size_t begin = strlen(headers[i].begin), unit = strlen(headers[i].unit), end = strlen(headers[i].end);
        memset(header, ' ', LIMIT);
        memcpy(header, headers[i].begin, begin);
        for (size_t at = begin; at + unit <= LIMIT - end; at += unit) memcpy(header + at, headers[i].unit, unit);
        memcpy(header + LIMIT - end, headers[i].end, end);
        FILE *f = fopen(path, "wb");
        const uint8_t length[8] = {LIMIT & 255, LIMIT >> 8 & 255, LIMIT >> 16 & 255, LIMIT >> 24};
        assert_true(f && fwrite(length, 1, 8, f) == 8 && fwrite(header, 1, LIMIT, f) == LIMIT && !fclose(f));
        test_allocator_install(&allocator);
        assert_error_contains(st_open(&file, path), headers[i].message);
        test_allocator_remove();
        assert_int_equal(allocator.live, 0);
        if (allocator.peak_bytes > LIMIT + (64u << 20)) fail_msg("header %zu took %zu bytes", i, allocator.peak_bytes);
    }
}

static void a_missing_tensor_gets_a_suggestion(void **state) {
    (void)state;
    StFile *file;
    const StTensor *t;
    assert_ok(st_open(&file, test_data("golden/reference.safetensors")));
    assert_ok(st_require(file, "half", &t));
    assert_string_equal(t->name, "half");
    assert_error(st_require(file, "wte.wieght", &t), TANE_ENOTFOUND,
                 "no tensor \"wte.wieght\" among its 14; the nearest is \"wte.weight\"");
    assert_error(st_require(file, "zzzzzzzzzzzz", &t), TANE_ENOTFOUND, "among its 14");
    st_close(&file);
}

static void make_shards(void) {
    make(test_path("m-00001.safetensors"), "{\"__metadata__\":{\"format\":\"pt\"}," U8("b", "[2]", "[0,2]") "}", 2);
    make(test_path("m-00002.safetensors"), "{\"__metadata__\":{\"x\":\"y\"}," U8("a", "[3]", "[0,3]") "}", 3);
}

static Status open_index(const char *text) {
    StFile *file;
    test_write(test_path("model.safetensors.index.json"), text);
    Status st = st_open(&file, test_dir());
    st_close(&file);
    return st;
}

static void shards_are_one_file(void **state) {
    (void)state;
    StFile *file;
    assert_error(st_open(&file, test_dir()), TANE_ENOTFOUND, "no weights in this folder");
    make_shards();
    assert_ok(open_index("{\"metadata\":{\"total_size\":5},"
                         "\"weight_map\":{\"a\":\"m-00002.safetensors\",\"b\":\"m-00001.safetensors\"}}"));
    assert_ok(st_open(&file, test_path("model.safetensors.index.json")));
    assert_int_equal(st_count(file), 2);
    assert_int_equal(st_find(file, "a")->bytes, 3);
    assert_int_equal(st_find(file, "b")->bytes, 2);
    assert_string_equal(st_metadata(file, "format"), "pt");
    assert_string_equal(st_metadata(file, "x"), "y");
    assert_string_equal(path_base(st_find(file, "a")->file), "m-00002.safetensors");
    st_close(&file);
    make(test_path("model.safetensors"), "{" U8("c", "[1]", "[0,1]") "}", 1);
    assert_ok(st_open(&file, test_dir())); /* the whole file wins */
    assert_non_null(st_find(file, "c"));
    st_close(&file);
}

static void bad_shards_are_refused(void **state) {
    (void)state;
    make_shards();
    assert_error(open_index("{}"), TANE_EFORMAT, "\"weight_map\" is missing");
    assert_error(open_index("[]"), TANE_EFORMAT, "\"weight_map\" is missing");
    assert_error(open_index("{\"weight_map\":{}}"), TANE_EFORMAT, "weight_map is empty");
    assert_error(open_index("{\"weight_map\":{\"a\":1}}"), TANE_EFORMAT, "puts \"a\" into \"(no text)\"");
    static const char *const escapes[] = {"../m-00002.safetensors", "/etc/passwd", "sub/m.safetensors", "..", "",
                                          "..\\\\m.safetensors"};
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", escapes[i]);
        assert_error(open_index(text), TANE_EFORMAT, "must be the plain name of a file in the same folder");
    }
    assert_error(open_index("{\"weight_map\":{\"a\":\"gone.safetensors\"}}"), TANE_ENOTFOUND,
                 "model.safetensors.index.json names a file that is missing");
    assert_error(open_index("{\"weight_map\":{\"a\":\"m-00001.safetensors\"}}"), TANE_EFORMAT,
                 "says that \"a\" is in m-00001.safetensors, but it is not there");
    assert_error(open_index("{\"weight_map\":{\"a\":\"m-00001.safetensors\",\"b\":\"m-00002.safetensors\"}}"),
                 TANE_EFORMAT, "says that \"a\" is in m-00001.safetensors, but it is in m-00002.safetensors");
    assert_error(open_index("{\"weight_map\":{\"a\":\"m-00002.safetensors\","), TANE_EFORMAT, "index.json:1:");
    make(test_path("m-00003.safetensors"), "{" U8("a", "[3]", "[0,3]") "}", 3);
    assert_error(open_index("{\"weight_map\":{\"a\":\"m-00002.safetensors\",\"z\":\"m-00003.safetensors\"}}"),
                 TANE_EFORMAT, "tensor \"a\" is also in");
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

static Status copy_body(void *ctx) {
    const char *const *paths = ctx;
    return copy_tensors(paths[0], paths[1], 1 << 20, NULL, NULL);
}

static Status open_body(void *ctx) {
    StFile *file;
    Status st = st_open(&file, ctx);
    st_close(&file);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *paths[] = {test_data("golden/reference.safetensors"), test_path("copy.safetensors")};
    assert_true(test_fail_allocations(copy_body, paths) > 15);
    make_shards();
    assert_ok(open_index("{\"weight_map\":{\"a\":\"m-00002.safetensors\",\"b\":\"m-00001.safetensors\"}}"));
    assert_true(test_fail_allocations(open_body, (void *)(uintptr_t)test_dir()) > 15);
}

static void is_reported(void *ctx) { (void)ctx; }

static void every_disk_call_may_fail(void **state) {
    (void)state;
    const char *paths[] = {test_data("golden/reference.safetensors"), test_path("copy.safetensors")};
    assert_int_equal(test_fail_disk_calls(copy_body, ENOSPC, NULL, is_reported, paths), 3); /* create, write, fsync */
    assert_int_equal(test_fail_disk_calls(copy_body, EIO, NULL, is_reported, paths), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_reference_file_is_read),
        TEST(the_writer_makes_the_reference_bytes),
        TEST(a_file_without_tensors_is_fine),
        TEST(misuse_of_the_writer_is_an_error),
        TEST(bad_headers_are_refused),
        TEST(damaged_files_are_told_what_is_wrong),
        TEST(the_corpus_and_the_table_agree),
        TEST(bad_lengths_are_refused),
        TEST(other_files_are_recognised),
        TEST(damage_never_crashes),
        TEST(many_tensors_are_found_by_name),
        TEST(a_header_of_braces_costs_little),
        TEST(the_largest_headers_cost_little_more_than_the_file),
        TEST(a_missing_tensor_gets_a_suggestion),
        TEST(shards_are_one_file),
        TEST(bad_shards_are_refused),
        TEST(every_allocation_may_fail),
        TEST(every_disk_call_may_fail),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
