/* Parquet: files of pyarrow in every encoding, codec and page version read to the lines that pyarrow's values make; any
 * range of rows and columns of them; the older shapes of lists; every damaged file of tests/corpus/parquet with what it
 * is told, in bounded time and memory; readers of several threads; the failure of each allocation. */
#include "support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/parquet.h"

/* ---- the reference files ---------------------------------------------------------------------------------------- */

static ParquetFile *open_data(const char *folder, const char *name) {
    ParquetFile *file;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(parquet_open(&file, test_data(path)));
    return file;
}
static ParquetFile *open_golden(const char *name) { return open_data("golden/parquet", name); }

/* Rows as lines, each with its line end; NULL names: all columns. */
static Str read_lines(const ParquetFile *file, const char *const *names, size_t n, int64_t first, int64_t rows) {
    ParquetReader *reader;
    Str text = {0};
    bool more = true;
    assert_ok(parquet_reader_new(&reader, file, names, n, first, rows));
    while (assert_ok(parquet_next(reader, &text, &more)), more) assert_ok(str_add(&text, "\n", 1));
    assert_ok(parquet_next(reader, &text, &more));
    assert_false(more); /* the end stays the end */
    parquet_reader_close(reader);
    return text;
}

static void assert_lines(const Str *found, const char *expected, size_t n, const char *name) {
    size_t at = 0;
    while (at < found->len && at < n && found->text[at] == expected[at]) at++;
    if (at == found->len && at == n) return;
    size_t from = at < 60 ? 0 : at - 60;
    fail_msg("%s, byte %zu:\n%.200s\nshould be\n%.200s", name, at, found->len > from ? found->text + from : "the end",
             n > from ? expected + from : "the end");
}

typedef void Check(const ParquetFile *file, const char *name, const char *lines, size_t n);

/* Each file of tests/golden/parquet with its lines; returns how many. */
static size_t each_golden(Check *check) {
    DirList files;
    size_t done = 0;
    assert_ok(dir_list(test_data("golden/parquet"), &files));
    for (size_t i = 0; i < files.n; i++) {
        const char *name = files.names[i];
        char path[128];
        size_t n;
        if (!strstr(name, ".parquet")) continue;
        snprintf(path, sizeof path, "golden/parquet/%.*s.jsonl", (int)strcspn(name, "."), name);
        char *lines = test_read(test_data(path), &n);
        assert_non_null(lines);
        ParquetFile *file = open_golden(name);
        check(file, name, lines, n);
        parquet_close(file);
        done++;
    }
    dir_list_free(&files);
    return done;
}

static void check_whole(const ParquetFile *file, const char *name, const char *lines, size_t n) {
    int64_t rows = 0;
    for (size_t i = 0; i < n; i++) rows += lines[i] == '\n';
    assert_int_equal(parquet_rows(file), rows);
    Str found = read_lines(file, NULL, 0, 0, -1);
    assert_lines(&found, lines, n, name);
    str_free(&found);
}

static void every_line_is_what_pyarrow_reads(void **state) {
    (void)state;
    assert_true(each_golden(check_whole) >= 25);
}

/* Where line i of the text begins; the text's end behind the last one. */
static const char *line_at(const char *lines, size_t n, int64_t i) {
    const char *p = lines;
    for (; i > 0; i--) p = (const char *)memchr(p, '\n', (size_t)(lines + n - p)) + 1;
    return p;
}

static void check_ranges(const ParquetFile *file, const char *name, const char *lines, size_t n) {
    static const int64_t lengths[] = {0, 1, 7, -1};
    int64_t rows = parquet_rows(file);
    for (int64_t first = 0; first <= rows; first += 1 + rows / 40) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            if (lengths[i] > rows - first) continue;
            int64_t end = lengths[i] < 0 ? rows : first + lengths[i];
            const char *from = line_at(lines, n, first);
            Str found = read_lines(file, NULL, 0, first, lengths[i]);
            assert_lines(&found, from, (size_t)(line_at(lines, n, end) - from), name);
            str_free(&found);
        }
    }
}

static void any_range_of_rows_can_be_read(void **state) {
    (void)state;
    each_golden(check_ranges);
}

static void check_groups(const ParquetFile *file, const char *name, const char *lines, size_t n) {
    int64_t expected = 0;
    for (size_t i = 0; i < parquet_group_count(file); i++) {
        int64_t first, rows;
        parquet_group(file, i, &first, &rows);
        assert_int_equal(first, expected);
        expected += rows;
        const char *from = line_at(lines, n, first);
        Str found = read_lines(file, NULL, 0, first, rows);
        assert_lines(&found, from, (size_t)(line_at(lines, n, first + rows) - from), name);
        str_free(&found);
    }
    assert_int_equal(expected, parquet_rows(file));
}

static void row_groups_can_be_read_one_by_one(void **state) {
    (void)state;
    each_golden(check_groups);
    ParquetFile *file = open_golden("messages.items.parquet");
    assert_int_equal(parquet_group_count(file), 8);
    parquet_close(file);
}

/* ---- columns ---------------------------------------------------------------------------------------------------- */

static void columns_have_names_and_types(void **state) {
    (void)state;
    static const char *const expected[][2] = {
        {"bool", "bool"},    {"int8", "int"},      {"int16", "int"},      {"int32", "int"},       {"int64", "int"},
        {"uint8", "int"},    {"uint16", "int"},    {"uint32", "int"},     {"uint64", "int"},      {"float16", "float"},
        {"float", "float"},  {"double", "float"},  {"text", "text"},      {"large", "text"},      {"category", "text"},
        {"bytes", "binary"}, {"fixed", "binary"},  {"uuid", "uuid"},      {"date", "date"},       {"nothing", "null"},
        {"dec5", "decimal"}, {"dec18", "decimal"}, {"dec76", "decimal"},  {"time_s", "time"},     {"time_ms", "time"},
        {"time_us", "time"}, {"time_ns", "time"},  {"at_s", "timestamp"}, {"utc_s", "timestamp"},
    };
    ParquetFile *file = open_golden("types.snappy_integers.parquet");
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        ParquetColumn column = parquet_column(file, i);
        assert_string_equal(column.name, expected[i][0]);
        assert_string_equal(column.type, expected[i][1]);
    }
    assert_int_equal(parquet_column_count(file), 35);
    parquet_close(file);
    file = open_golden("nested.v1.parquet");
    assert_string_equal(parquet_column(file, 0).type, "list");
    assert_string_equal(parquet_column(file, 1).type, "struct");
    assert_string_equal(parquet_column(file, 2).type, "map");
    parquet_close(file);
}

static void columns_are_chosen_by_name(void **state) {
    (void)state;
    static const char *const names[] = {"source", "id"}, *const twice[] = {"id", "messages", "id"};
    static const char *const near[] = {"massages"}, *const far[] = {"completely different"};
    ParquetReader *reader;
    ParquetFile *file = open_golden("messages.zstd.parquet");
    Str found = read_lines(file, names, 2, 1, 2);
    assert_string_equal(found.text, "{\"source\": null, \"id\": 1}\n{\"source\": \"web\", \"id\": 2}\n");
    str_free(&found);
    assert_error(parquet_reader_new(&reader, file, twice, 3, 0, -1), TANE_EINVAL, "the column \"id\" is named twice");
    assert_error(parquet_reader_new(&reader, file, near, 1, 0, -1), TANE_ENOTFOUND,
                 "messages.zstd.parquet: there is no column \"massages\"; did you mean \"messages\"?");
    assert_error(parquet_reader_new(&reader, file, far, 1, 0, -1), TANE_ENOTFOUND, "the first one is \"id\"");
    assert_error(parquet_reader_new(&reader, file, names, 0, 0, -1), TANE_EINVAL, "no column to read was named");
    assert_null(reader);
    parquet_close(file);
}

static void rows_out_of_range_are_refused(void **state) {
    (void)state;
    static const int64_t bad[][2] = {{-1, 1}, {9, -1}, {9, 0}, {0, 9}, {8, 1}, {5, 4}, {0, -2}, {1, INT64_MAX}};
    ParquetReader *reader;
    ParquetFile *file = open_golden("messages.none.parquet"); /* 8 rows */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(parquet_reader_new(&reader, file, NULL, 0, bad[i][0], bad[i][1]), TANE_EINVAL, "but there are 8");
    parquet_close(file);
}

/* ---- whole files by hand ---------------------------------------------------------------------------------------- */

static void files_by_hand_are_read(void **state) {
    (void)state;
    static const struct {
        const char *name, *lines;
    } files[] = {
        {"whole", "{\"text\": \"a\"}\n{\"text\": \"bb\"}\n{\"text\": \"ccc\"}\n"},
        {"whole_bits", "{\"n\": 5}\n{\"n\": null}\n{\"n\": 6}\n"},
        {"whole_delta", "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 4}\n"},
        {"whole_dictionary", "{\"text\": \"yes\"}\n{\"text\": \"no\"}\n{\"text\": \"no\"}\n"},
        {"whole_nulls", "{\"n\": null}\n{\"n\": null}\n{\"n\": null}\n"},
        {"whole_old_types", "{\"at\": \"1969-12-31T23:59:59.999Z\", \"n\": 4294967295, \"s\": \"abc\"}\n"},
        {"whole_reps_v2", "{\"list\": [7, null, 8]}\n{\"list\": []}\n"},
        {"whole_set", "{\"set\": [\"a\", \"b\"]}\n{\"set\": null}\n"},
        {"whole_v2", "{\"n\": 1}\n{\"n\": null}\n{\"n\": 3}\n"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.parquet", files[i].name);
        ParquetFile *file = open_data("corpus/parquet", name);
        Str found = read_lines(file, NULL, 0, 0, -1);
        assert_lines(&found, files[i].lines, strlen(files[i].lines), name);
        str_free(&found);
        parquet_close(file);
    }
}

/* ---- damaged files ---------------------------------------------------------------------------------------------- */

/* tests/corpus/parquet/bad_NAME.parquet, and what its error says behind the path. */
static const struct {
    const char *name, *message;
} bad_files[] = {
    {"binary", "row 2: column \"image\": it holds bytes that are not text; read the other columns without it"},
    {"bomb_dictionary", "reading these columns takes more than 56 MiB at once"},
    {"bomb_gzip", "1051 bytes of gzip data should become 12 bytes, but are more"},
    {"bomb_snappy", "7 bytes of snappy data should become 41943040 bytes, but are more"},
    {"bomb_zstd", "column \"text\", page at byte 4: 2076 bytes of zstd data should become 12 bytes, but are more"},
    {"bomb_zstd_claimed", "reading these columns takes more than 56 MiB at once"},
    {"bomb_zstd_whole", "reading these columns takes more than 56 MiB at once"},
    {"chunk_elsewhere", "the data of column \"text\" is in another file"},
    {"chunk_encrypted", "column \"text\" is encrypted"},
    {"chunk_incomplete", "column \"text\": the metadata of its bytes is not complete"},
    {"chunk_offset_in_footer", "column \"text\": its 35 bytes from byte 200 on"},
    {"chunk_offset_negative", "byte 101: the metadata has the number -5"},
    {"chunk_offset_zero", "column \"text\": its 35 bytes from byte 0 on"},
    {"chunk_other_type", "column \"text\": it is stored as INT64, but the schema says BYTE_ARRAY"},
    {"chunk_size_huge", "column \"text\": its 9223372036854775807 bytes from byte 4 on"},
    {"chunk_size_one_too_much", "column \"text\": its 36 bytes from byte 4 on"},
    {"chunk_size_zero", "the column's bytes end, but 3 of its 3 values are missing"},
    {"chunk_values_fewer", "column \"text\" has 2 values in a row group of 3 rows"},
    {"chunk_values_more", "column \"text\" has 4 values in a row group of 3 rows"},
    {"codec_brotli", "column \"text\" is compressed with Brotli, which tane does not read"},
    {"codec_lz4", "column \"text\" is compressed with LZ4, which tane does not read"},
    {"codec_lzo", "column \"text\" is compressed with LZO, which tane does not read"},
    {"codec_unknown", "byte 93: the metadata has the number 17; it must be from 0 to 7"},
    {"cut_off", "the file does not end with PAR1, so it was cut off"},
    {"decimal_of_many_bytes", "row 2: column \"d\": a decimal number of 65 bytes; it must have 1 to 64"},
    {"decimal_of_no_bytes", "row 2: column \"d\": a decimal number of 0 bytes; it must have 1 to 64"},
    {"decimal_scale", "the column \"d\" is a decimal of 5 digits, 6 of them behind the point"},
    {"decimal_scale_negative", "the column \"d\" is a decimal of 5 digits, -1 of them behind the point"},
    {"decimal_too_long", "the column \"d\" is a decimal of 155 digits, 0 of them behind the point"},
    {"delta_block_odd", "blocks of 100 deltas in 4 parts are not possible"},
    {"delta_block_zero", "blocks of 0 deltas in 4 parts are not possible"},
    {"delta_count_fewer", "the deltas end too early"},
    {"delta_count_huge", "1099511627776 deltas in one page are too many"},
    {"delta_data_cut", "the deltas end too early"},
    {"delta_fixed_length", "a value of 3 bytes where all must have 2"},
    {"delta_header_cut", "a number in the page's data does not end"},
    {"delta_minis_many", "blocks of 128 deltas in 8 parts are not possible"},
    {"delta_minis_zero", "blocks of 128 deltas in 0 parts are not possible"},
    {"delta_prefix_negative", "a value that begins with -1 bytes of the one before, which has 1"},
    {"delta_prefix_too_long", "a value that begins with 2 bytes of the one before, which has 1"},
    {"delta_text_lengths_cut", "the deltas end too early"},
    {"delta_text_negative", "a value of -1 bytes, but the page has 5 left"},
    {"delta_text_past_end", "a value of 3 bytes, but the page has 2 left"},
    {"delta_width_65", "deltas of 65 bits are not possible"},
    {"delta_widths_cut", "the deltas end too early"},
    {"dictionary_behind", "a dictionary that is not its column's first page"},
    {"dictionary_count_huge", "a dictionary of 2147483647 values in 13 bytes"},
    {"dictionary_count_more", "the page's values end too early"},
    {"dictionary_encoding", "a dictionary in encoding 5; it must be PLAIN"},
    {"dictionary_missing", "its values are in a dictionary that is not there"},
    {"dictionary_of_booleans", "a dictionary of booleans is not possible"},
    {"dictionary_of_numbers_short", "the dictionary's values end too early"},
    {"dictionary_twice", "column \"text\", page at byte 30: a dictionary that is not its column's first page"},
    {"empty", "this is no Parquet file: it does not begin with PAR1"},
    {"encrypted_file", "the file is encrypted"},
    {"fixed_without_length", "the column \"text\" has values of a fixed length, but not which"},
    {"footer_length_huge", "the metadata is said to have 4294967295 bytes, but the file has only 117"},
    {"footer_length_one_too_much", "the metadata is said to have 106 bytes, but the file has only 117"},
    {"footer_length_short", "the metadata lacks the number of rows"},
    {"footer_length_zero", "byte 109: the metadata ends in the middle"},
    {"group_columns_missing", "byte 40: a row group has 0 columns, the schema 1"},
    {"group_columns_too_many", "byte 110: a row group has 2 columns, the schema 1"},
    {"group_columns_twice", "byte 92: a row group with two lists of columns"},
    {"group_without_columns", "byte 96: a row group without columns"},
    {"group_without_rows", "byte 116: a row group without a number of rows"},
    {"groups_count_huge", "byte 37: a list of 60 row groups, but the metadata has 70 bytes left"},
    {"groups_missing", "the metadata lacks its row groups"},
    {"gzip_cut", "the gzip data ends too early, after 33 bytes"},
    {"half_long", "the column \"h\" is a float16 of 4 bytes; it must have 2"},
    {"index_bits", "dictionary indices of 33 bits are not possible"},
    {"index_out_of_range", "the index 2 into a dictionary of 2 values"},
    {"index_run_cut", "the runs of numbers end too early"},
    {"index_run_endless", "a number in the page's data does not end"},
    {"index_run_huge", "a run of more than 2^32 numbers"},
    {"indices_end", "the page's values end too early"},
    {"int96_time", "row 2: column \"t\": -1 nanoseconds are no time of a day"},
    {"leaf_without_type", "the column \"text\" has neither a type nor fields"},
    {"level_above_lists", "the repetition level 2; the column's are at most 1"},
    {"level_too_high", "the definition level 2; the column's are at most 1"},
    {"levels_bits_cut", "1 bytes of levels, but the page has 0"},
    {"levels_encoding", "levels in encoding 5; they must be RLE or BIT_PACKED"},
    {"levels_end", "column \"n\", page at byte 4: its definition levels end too early"},
    {"levels_length_cut", "0 bytes of levels, but the page has 2 left"},
    {"levels_length_past_end", "50 bytes of levels, but the page has 18 left"},
    {"levels_v2_overflow", "4294967294 bytes of levels in a page of 14"},
    {"levels_v2_past_page", "500 bytes of levels in a page of 14"},
    {"list_cut", "the column \"l\" lacks its last fields"},
    {"list_endless", "row 1 is too long for a line of JSON"},
    {"list_longer_at_the_end", "row 2: column \"l[].b\": the column has values behind the row group's last row"},
    {"list_longer_beside", "row 2: column \"l[].b\": its levels do not fit those beside it or make no row"},
    {"list_of_number", "the column \"text\" is stored as INT32, which does not fit its logical type"},
    {"list_of_one_long_text", "row 1 is too long for a line of JSON"},
    {"list_of_two", "the column \"l\" is marked as a list, but has not the one repeated field that a list has"},
    {"list_without_repeated",
     "the column \"l\" is marked as a list, but has not the one repeated field that a list has"},
    {"lists_disagree", "row 1: column \"l[].b\": its levels do not fit those beside it or make no row"},
    {"magic_alone", "the file does not end with PAR1, so it was cut off"},
    {"map_key_null", "row 1: column \"m.key\": a key is null"},
    {"map_of_three",
     "the column \"m\" is marked as a map, but has not the one repeated group of key and value that a map has"},
    {"name_not_utf8", "the name of a column is not UTF-8"},
    {"name_twice", "the column \"text\" is there twice"},
    {"name_twice_inside", "the column \"x\" is there twice"},
    {"name_zero_byte", "the column \"a\" has a name with a zero byte in it"},
    {"other_file", "this is no Parquet file: it does not begin with PAR1"},
    {"page_booleans_end", "the page's booleans end too early"},
    {"page_crc", "the checksum of its bytes is f88ecb3e, but should be 788ecb3f"},
    {"page_empty", "the page's values end too early"},
    {"page_encoding_of_numbers", "BYTE_ARRAY values in encoding 5"},
    {"page_encoding_unknown", "BYTE_ARRAY values in encoding 99"},
    {"page_header_cut", "column \"text\": byte 12: the metadata ends in the middle"},
    {"page_header_of_other_kind", "column \"text\": byte 17: a page's header is not complete"},
    {"page_header_wrong_type", "column \"text\": byte 5: the metadata has bytes where an integer must be"},
    {"page_kind_unknown", "column \"text\": byte 6: the metadata has the number 9; it must be from 0 to 3"},
    {"page_numbers_end", "the page's values end too early"},
    {"page_raw_lies", "18 bytes that are not compressed cannot become 23"},
    {"page_rle_booleans_end", "the page's booleans end too early"},
    {"page_size_huge", "column \"text\": byte 25: a page of 2147483647 bytes, but its column has 18 left"},
    {"page_size_negative", "column \"text\": byte 10: the metadata has the number -1; it must be from 0 to 2147483647"},
    {"page_size_past_column", "column \"text\": byte 21: a page of 19 bytes, but its column has 18 left"},
    {"page_text_cut_in_length", "the page's values end too early"},
    {"page_text_length_huge", "a value of 4294967295 bytes, but the page has 2 left"},
    {"page_text_past_end", "a value of 3 bytes, but the page has 2 left"},
    {"page_values_missing",
     "column \"text\", page at byte 32: the column's bytes end, but 1 of its 3 values are missing"},
    {"page_values_more_than_column", "4 values, but the column has only 3 left"},
    {"page_values_negative",
     "column \"text\": byte 13: the metadata has the number -3; it must be from 0 to 2147483647"},
    {"page_without_encoding", "column \"text\": byte 14: a page's header without an encoding"},
    {"page_without_values", "column \"text\": byte 14: a page's header without a number of values"},
    {"row_begins_in_the_middle", "row 1: column \"list[]\": its levels do not fit those beside it or make no row"},
    {"rows_disagree", "the metadata says 4 rows, but its row groups have 3"},
    {"rows_fewer_than_values", "row 2: column \"n[]\": the column has values behind the row group's last row"},
    {"rows_missing", "the metadata lacks the number of rows"},
    {"rows_more_than_values", "row 3: column \"n[]\": the column ends before its row group"},
    {"rows_negative", "byte 71: the metadata has the number -1"},
    {"rows_overflow", "byte 175: the row groups have more than 2^63 rows"},
    {"schema_behind_groups", "byte 5: the metadata has its row groups in front of the schema"},
    {"schema_children_lie", "the schema promises more columns than it has"},
    {"schema_deep", "the column \"g\" is nested deeper than 64 levels"},
    {"schema_huge", "the schema has 20000 elements; at most 16384 are possible: write fewer columns"},
    {"schema_missing", "the metadata lacks the schema"},
    {"schema_no_columns", "the file has no columns"},
    {"schema_too_many_in_front", "the schema has 1 elements that belong to no column"},
    {"schema_twice", "byte 34: the metadata has its row groups or its schema twice"},
    {"snappy_damaged", "the snappy data is damaged"},
    {"split_ends", "the page's values end too early"},
    {"split_not_whole", "13 bytes are not whole values of 4 bytes"},
    {"split_of_text", "BYTE_ARRAY values in encoding 9"},
    {"structs_disagree", "row 2: column \"both.b\": its levels do not fit those beside it or make no row"},
    {"structs_disagree_otherwise", "row 2: column \"both.b\": its levels do not fit those beside it or make no row"},
    {"text_cut_character", "row 2: column \"text\": byte 1 of the text, 0xe7, is not UTF-8; write the column as UTF-8"},
    {"text_not_utf8", "row 2: column \"text\": byte 4 of the text, 0xe9, is not UTF-8; write the column as UTF-8"},
    {"text_of_numbers", "the column \"text\" is stored as INT32, which does not fit its logical type"},
    {"text_surrogate", "row 2: column \"text\": byte 1 of the text, 0xed, is not UTF-8; write the column as UTF-8"},
    {"thrift_bytes_for_number", "byte 7: the metadata has bytes where an integer must be"},
    {"thrift_deep", "byte 37: the metadata is nested deeper than 32 levels"},
    {"thrift_field_number", "byte 10: the metadata's field number is out of range"},
    {"thrift_list_huge", "byte 15: a list of 1152921504606846976 elements, but the metadata has 0 bytes left"},
    {"thrift_lists_deep", "byte 37: the metadata is nested deeper than 32 levels"},
    {"thrift_number_cut", "byte 6: the metadata ends in the middle"},
    {"thrift_number_endless", "byte 15: a number of the metadata does not fit in 64 bits"},
    {"thrift_text_huge", "byte 18: a text of 4611686018427387904 bytes, but the metadata has 1 left"},
    {"thrift_type_unknown", "byte 5: the metadata has a type that does not exist where a field must be"},
    {"time_negative", "row 2: column \"t\": -1 is no time of a day"},
    {"time_of_day", "row 2: column \"t\": 86400000 is no time of a day"},
    {"time_without_unit", "the column \"t\" is a time without a unit"},
    {"type_unknown", "byte 58: the metadata has the number 8; it must be from 0 to 7"},
    {"uuid_short", "the column \"u\" is a UUID of 8 bytes; it must have 16"},
    {"values_missing", "the page's values end too early"},
    {"zstd_damaged", "the zstd data is damaged"},
};

static const char *bad_path(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "corpus/parquet/bad_%s.parquet", name);
    return test_data(path);
}

/* Opens and reads all rows; the line is "before" when a row fails, as it was. */
static Status read_all(const char *path, Str *line) {
    ParquetFile *file;
    ParquetReader *reader = NULL;
    Status st = TANE_OK;
    TRY_RETURN(parquet_open(&file, path));
    TRY(parquet_reader_new(&reader, file, NULL, 0, 0, -1));
    for (bool more = true; more;) {
        line->len = 0;
        TRY(str_add(line, "before", 6));
        TRY(parquet_next(reader, line, &more));
    }
out:
    parquet_reader_close(reader);
    parquet_close(file);
    return st;
}

static void every_damaged_file_is_told_what_is_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        const char *name = bad_files[i].name, *path = bad_path(name);
        TestAllocator allocator = {0};
        uint64_t size;
        Str line = {0};
        assert_ok(file_size(path, &size));
        test_allocator_install(&allocator);
        double start = clock_seconds();
        Status st = read_all(path, &line);
        double seconds = clock_seconds() - start;
        if (line.text) assert_string_equal(line.text, "before"); /* nothing of the failed row */
        str_free(&line);
        test_allocator_remove();
        if (st != TANE_EFORMAT) fail_msg("bad_%s: status %d (%s)", name, (int)st, err_message());
        if (strncmp(err_message(), path, strlen(path)) != 0) fail_msg("bad_%s: no path: %s", name, err_message());
        if (!strstr(err_message() + strlen(path), bad_files[i].message))
            fail_msg("bad_%s: \"%s\" should be in: %s", name, bad_files[i].message, err_message());
        assert_int_equal(allocator.live, 0);
        if (allocator.peak_bytes > size + (64u << 20)) fail_msg("bad_%s took %zu bytes", name, allocator.peak_bytes);
        if (seconds > 1) fail_msg("bad_%s took %.2f seconds", name, seconds);
    }
}

static void no_damaged_file_is_left_out(void **state) {
    (void)state;
    DirList files;
    size_t found = 0, n = sizeof bad_files / sizeof *bad_files;
    assert_ok(dir_list(test_data("corpus/parquet"), &files));
    for (size_t i = 0; i < files.n; i++) {
        bool listed = false;
        if (strncmp(files.names[i], "bad_", 4) != 0) continue;
        for (size_t k = 0; k < n && !listed; k++)
            listed = strncmp(files.names[i] + 4, bad_files[k].name, strlen(bad_files[k].name)) == 0 &&
                     strcmp(files.names[i] + 4 + strlen(bad_files[k].name), ".parquet") == 0;
        if (!listed) fail_msg("%s has no row in this test", files.names[i]);
        found++;
    }
    assert_int_equal(found, n);
    dir_list_free(&files);
}

/* Every byte in turn changed, and every length: nothing but errors or lines comes of it. */
static void any_damage_ends_well(void **state) {
    (void)state;
    static const char *const names[] = {"messages.snappy.parquet", "messages.v2_snappy.parquet", "nested.v1.parquet",
                                        "int96.dictionary.parquet"};
    Str line = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        size_t n;
        snprintf(path, sizeof path, "golden/parquet/%s", names[i]);
        char *bytes = test_read(test_data(path), &n);
        const char *copy = test_path("copy.parquet");
        for (size_t at = 0; at < n; at += test_stride(3)) {
            char old = bytes[at];
            bytes[at] = (char)(old ^ (1 << at % 8));
            test_write_bytes(copy, bytes, n);
            (void)read_all(copy, &line);
            bytes[at] = old;
        }
        for (size_t cut = 0; cut < n; cut += test_stride(5)) {
            test_write_bytes(copy, bytes, cut);
            assert_error(read_all(copy, &line), TANE_EFORMAT, "copy.parquet: ");
        }
    }
    str_free(&line);
}

static void a_failed_reader_is_at_its_end(void **state) {
    (void)state;
    ParquetFile *file;
    ParquetReader *reader;
    Str line = {0};
    bool more;
    assert_ok(parquet_open(&file, bad_path("text_not_utf8")));
    assert_ok(parquet_reader_new(&reader, file, NULL, 0, 0, -1));
    assert_ok(parquet_next(reader, &line, &more));
    assert_true(more);
    assert_string_equal(line.text, "{\"text\": \"fine\"}");
    assert_error(parquet_next(reader, &line, &more), TANE_EFORMAT, "row 2: column \"text\": byte 4 of the text, 0xe9");
    assert_false(more);
    assert_string_equal(line.text, "{\"text\": \"fine\"}");
    assert_ok(parquet_next(reader, &line, &more));
    assert_false(more);
    parquet_reader_close(reader);
    assert_ok(parquet_reader_new(&reader, file, NULL, 0, 2, 1)); /* the third row is fine */
    line.len = 0;
    assert_ok(parquet_next(reader, &line, &more));
    assert_string_equal(line.text, "{\"text\": \"fine\"}");
    parquet_reader_close(reader);
    str_free(&line);
    parquet_close(file);
}

static void a_missing_file_is_named(void **state) {
    (void)state;
    ParquetFile *file;
    assert_error(parquet_open(&file, test_path("gone.parquet")), TANE_ENOTFOUND, "gone.parquet");
    assert_null(file);
}

/* ---- threads and memory ----------------------------------------------------------------------------------------- */

typedef struct Share {
    const ParquetFile *file;
    int64_t first, rows;
    Str text;
} Share;

static void *read_share(void *arg) {
    Share *share = arg;
    share->text = read_lines(share->file, NULL, 0, share->first, share->rows);
    return NULL;
}

static void threads_read_one_file_at_once(void **state) {
    (void)state;
    enum { THREADS = 4 };
    size_t n;
    char *lines = test_read(test_data("golden/parquet/pages.jsonl"), &n);
    ParquetFile *file = open_golden("pages.checksums.parquet");
    Share shares[THREADS];
    pthread_t threads[THREADS];
    Str all = {0};
    for (int i = 0; i < THREADS; i++) {
        int64_t first = parquet_rows(file) * i / THREADS, end = parquet_rows(file) * (i + 1) / THREADS;
        shares[i] = (Share){file, first, end - first, {0}};
        assert_int_equal(pthread_create(&threads[i], NULL, read_share, &shares[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_ok(str_add(&all, shares[i].text.text, shares[i].text.len));
        str_free(&shares[i].text);
    }
    assert_lines(&all, lines, n, "threads");
    str_free(&all);
    parquet_close(file);
}

static Status read_body(void *ctx) {
    Str line = {0};
    Status st = read_all(ctx, &line);
    str_free(&line);
    return st;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    static const char *const names[] = {"encodings.v1.parquet", "nested.v2_gzip.parquet", "pages.v2_fallback.parquet"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "golden/parquet/%s", names[i]);
        assert_true(test_fail_allocations(read_body, (void *)(uintptr_t)test_data(path)) > 20);
    }
}

/* A reader's memory does not grow with the rows: pages come and go. */
static void memory_is_a_page_a_column(void **state) {
    (void)state;
    TestAllocator allocator = {0};
    Str line = {0};
    test_allocator_install(&allocator);
    assert_ok(read_all(test_data("golden/parquet/pages.plain.parquet"), &line));
    str_free(&line);
    test_allocator_remove();
    assert_int_equal(allocator.live, 0);
    assert_true(allocator.peak_bytes < 64 << 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_line_is_what_pyarrow_reads),
        TEST(any_range_of_rows_can_be_read),
        TEST(row_groups_can_be_read_one_by_one),
        TEST(columns_have_names_and_types),
        TEST(columns_are_chosen_by_name),
        TEST(rows_out_of_range_are_refused),
        TEST(files_by_hand_are_read),
        TEST(every_damaged_file_is_told_what_is_wrong),
        TEST(no_damaged_file_is_left_out),
        TEST(any_damage_ends_well),
        TEST(a_failed_reader_is_at_its_end),
        TEST(a_missing_file_is_named),
        TEST(threads_read_one_file_at_once),
        TEST(every_allocation_may_fail),
        TEST(memory_is_a_page_a_column),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
