/* Looking at a file's first row. See metric.h. */
#include "eval/metric.h"

#include "data/row_columns.h"
#include "data/rows.h"
#include "eval/answer.h"

const char *metric_name(Metric metric) {
    static const char *const names[METRICS] = {"exact_match", "gsm8k", "perplexity"};
    return names[metric];
}

static Status metric_of_object(Metric *out, const JsonlLine *line, const RowColumns *columns) {
    static const RowKey answers[] = {KEY_COMPLETION, KEY_ANSWER, KEY_OUTPUT};
    Status st = TANE_OK;
    JsonlScratch scratch = {0};
    JsonlField fields[N_KEYS];
    RowKind kind;
    AnswerText right;
    Str number = {0};
    TRY(row_columns_read(columns, line, fields, &scratch, &kind));
    *out = kind == ROW_TEXT ? METRIC_PERPLEXITY : METRIC_EXACT_MATCH;
    for (int i = 0; i < 3; i++) {
        bool found;
        if (kind == ROW_TEXT || fields[answers[i]].kind != JSONL_STRING) continue;
        TRY(jsonl_text(&fields[answers[i]], &scratch, &right.text, &right.n));
        TRY(answer_expected(ANSWER_GSM8K_STRICT, right, &number, &found));
        if (found) *out = METRIC_GSM8K;
    }
out:
    jsonl_scratch_free(&scratch);
    str_free(&number);
    return st;
}

Status metric_of_file(Metric *out, const char *path, const char *format, const char *columns, const char *separator) {
    Status st = TANE_OK;
    RowReader *reader = NULL;
    RowColumns keys = {0};
    Row row = {0};
    size_t n;
    const char *names[N_KEYS];
    RowsOptions how = {.columns = names, .separator = separator, .piece = 1};
    TRY(row_columns_init(&keys, format, columns));
    how.n_columns = row_columns_names(&keys, names);
    TRY(rows_open(&reader, path, &how));
    TRY(rows_chunk(reader, &row, 1, &n));
    if (row.plain) *out = METRIC_PERPLEXITY;
    else TRY(metric_of_object(out, &row.line, &keys));
out:
    rows_close(reader);
    row_columns_free(&keys);
    return st;
}
