/* Parquet: what opens is read, all rows of it from several beginnings, up to a bound: a few bytes can repeat a row or a
 * text for ever, which is no error. A line is one object, in UTF-8, without a line end. */
#include <assert.h>
#include <string.h>

#include "format/parquet.h"
#include "format/parquet_json.h"
#include "fuzz.h"

enum { MAX_ROWS = 500, MAX_BYTES = 1 << 20 };

static void read_from(const ParquetFile *file, const char *const *columns, size_t n, int64_t first) {
    ParquetReader *reader;
    Str line = {0};
    bool more = true;
    size_t bytes = 0;
    if (parquet_reader_new(&reader, file, columns, n, first, -1) != TANE_OK) return;
    for (int64_t row = first; row - first < MAX_ROWS && bytes < MAX_BYTES; row++) {
        line.len = 0;
        Status st = parquet_next(reader, &line, &more);
        if (!more) {
            assert(line.len == 0 && (st != TANE_OK || row == parquet_rows(file)));
            break;
        }
        assert(st == TANE_OK && row < parquet_rows(file) && line.len >= 2);
        assert(line.text[0] == '{' && line.text[line.len - 1] == '}' && !memchr(line.text, '\n', line.len));
        assert(pq_utf8_valid((const uint8_t *)line.text, line.len) == line.len);
        bytes += line.len;
    }
    if (!more) assert(parquet_next(reader, &line, &more) == TANE_OK && !more); /* the end stays the end */
    parquet_reader_close(reader);
    str_free(&line);
}

void fuzz_parquet(const uint8_t *data, size_t n) {
    ParquetFile *file;
    if (parquet_open(&file, fuzz_file(data, n)) != TANE_OK) {
        assert(!file);
        return;
    }
    int64_t sum = 0;
    for (size_t i = 0; i < parquet_group_count(file); i++) {
        int64_t first, rows;
        parquet_group(file, i, &first, &rows);
        assert(first == sum && rows >= 0);
        sum += rows;
        if (i < 4) read_from(file, NULL, 0, first);
    }
    assert(sum == parquet_rows(file));
    for (size_t i = 0; i < parquet_column_count(file) && i < 8; i++) {
        ParquetColumn column = parquet_column(file, i);
        assert(strlen(column.type) > 0);
        read_from(file, &column.name, 1, sum < 1000 ? sum / 2 : 500);
    }
    parquet_close(file);
}
