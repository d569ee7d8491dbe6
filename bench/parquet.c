/* Parquet files to lines of JSON: with --print the lines, which tools/golden/parquet.py compares; else how long it
 * took, the best of several rounds on one thread. bench/parquet.py runs it beside pyarrow.
 *
 *     parquet [--print] [--rounds N] FILE [COLUMN...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/parquet.h"

typedef struct Job {
    const ParquetFile *file;
    const char *const *columns;
    size_t n_columns;
    bool print;
} Job;

static Status read_rows(const Job *job, size_t *bytes) {
    ParquetReader *reader;
    Str line = {0};
    Status st = TANE_OK;
    TRY_RETURN(parquet_reader_new(&reader, job->file, job->columns, job->n_columns, 0, -1));
    *bytes = 0;
    for (bool more = true;;) {
        line.len = 0;
        TRY(parquet_next(reader, &line, &more));
        if (!more) break;
        *bytes += line.len;
        if (job->print) puts(line.text);
    }
out:
    parquet_reader_close(reader);
    str_free(&line);
    return st;
}

int main(int argc, char **argv) {
    ParquetFile *file;
    int rounds = 5, at = 1;
    Job job = {0};
    double best = 1e30;
    size_t bytes = 0;
    for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
        if (strcmp(argv[at], "--print") == 0) job.print = true;
        else if (strcmp(argv[at], "--rounds") == 0 && at + 1 < argc) rounds = atoi(argv[++at]);
        else at = argc;
    }
    if (at >= argc) return fprintf(stderr, "usage: parquet [--print] [--rounds N] FILE [COLUMN...]\n"), 2;
    if (parquet_open(&file, argv[at]) != TANE_OK) return fprintf(stderr, "%s\n", err_message()), 1;
    job.file = file;
    job.n_columns = (size_t)(argc - at - 1);
    job.columns = job.n_columns ? (const char *const *)&argv[at + 1] : NULL;
    for (int i = 0; i < (job.print ? 1 : rounds); i++) {
        double start = clock_seconds();
        if (read_rows(&job, &bytes) != TANE_OK) return fprintf(stderr, "%s\n", err_message()), 1;
        double seconds = clock_seconds() - start;
        if (seconds < best) best = seconds;
    }
    if (!job.print)
        printf("{\"rows\": %lld, \"bytes\": %zu, \"seconds\": %.6f}\n", (long long)parquet_rows(file), bytes, best);
    parquet_close(file);
    return 0;
}
