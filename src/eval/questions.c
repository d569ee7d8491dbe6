/* Reading question sets. */
#include "eval/questions.h"

#include <string.h>

#include "data/arithmetic.h"
#include "data/row_columns.h"

/* What reading needs beside the questions. */
typedef struct Reading {
    Questions *q;
    const QuestionOptions *options;
    RowFormat *format;
    RowColumns columns; /* to find a row's prompt as text */
    RowScratch *scratch;
    JsonlScratch json;
    TokenList answer;
} Reading;

static Status copy_text(Questions *q, const char *text, size_t n, AnswerText *out) {
    char *copy;
    TRY_RETURN(ARENA_NEW_ARRAY(&q->arena, &copy, n + 1));
    if (n) memcpy(copy, text, n);
    *out = (AnswerText){copy, n};
    return TANE_OK;
}

/* Which kind of arithmetic problem a row is, if it is one. */
static Status find_cell(Reading *r, const Row *row, int32_t *cell) {
    Questions *q = r->q;
    MatchCell kind = {0};
    JsonlField prompt = {.key = r->columns.names[KEY_PROMPT]};
    const char *text;
    size_t n;
    char plain[256]; /* no arithmetic prompt is longer */
    if (prompt.key) TRY_RETURN(jsonl_parse(&row->line, &prompt, 1, &r->json));
    if (prompt.kind == JSONL_STRING) {
        TRY_RETURN(jsonl_text(&prompt, &r->json, &text, &n));
        if (n < sizeof plain && !memchr(text, 0, n)) {
            memcpy(plain, text, n);
            plain[n] = 0;
            if (!arithmetic_classify(plain, &kind.op, &kind.digits)) kind = (MatchCell){0};
        }
    }
    for (*cell = 0; (size_t)*cell < q->n_cells; ++*cell)
        if (q->cells[*cell].op == kind.op && q->cells[*cell].digits == kind.digits) return TANE_OK;
    if (q->n_cells == q->cap_cells) {
        size_t cap = q->cap_cells ? 2 * q->cap_cells : 16;
        TRY_RETURN(mem_grow((void **)&q->cells, q->cap_cells, cap, sizeof *q->cells));
        q->cap_cells = cap;
    }
    q->cells[q->n_cells++] = kind;
    return TANE_OK;
}

/* Tokens of the longest answer; a longer one in bytes may be so in tokens. */
static Status measure_answer(Reading *r, AnswerText right, size_t *longest_bytes) {
    if (right.n <= *longest_bytes) return TANE_OK;
    *longest_bytes = right.n;
    r->answer.n = 0;
    TRY_RETURN(tokenizer_encode(r->q->tokenizer, right.text, right.n, &r->answer));
    if (r->answer.n > r->q->longest_right) r->q->longest_right = r->answer.n;
    return TANE_OK;
}

static Status take_row(Reading *r, const Row *row, size_t *longest_bytes) {
    Questions *q = r->q;
    Question item = {.line = row->line.number, .first = q->tokens.n, .file = (int32_t)q->n_paths - 1};
    const char *right;
    size_t right_n;
    TRY_RETURN(row_prompt(r->format, row, r->scratch, &q->tokens, &right, &right_n));
    size_t n = q->tokens.n - item.first;
    if (n == 0) return jsonl_fail(&row->line, "the prompt is empty; there is nothing to answer");
    if (n > INT32_MAX) return jsonl_fail(&row->line, "the prompt is too long");
    item.n_tokens = (int32_t)n;
    if ((int64_t)n > q->longest_prompt) q->longest_prompt = (int64_t)n;
    TRY_RETURN(copy_text(q, right, right_n, &item.right));
    if (r->options->keep_rows) TRY_RETURN(copy_text(q, row->line.text, row->line.n, &item.row));
    TRY_RETURN(measure_answer(r, item.right, longest_bytes));
    TRY_RETURN(find_cell(r, row, &item.cell));
    if (q->n == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 256;
        TRY_RETURN(mem_grow((void **)&q->items, q->cap, cap, sizeof *q->items));
        q->cap = cap;
    }
    q->items[q->n++] = item;
    return TANE_OK;
}

static Status read_file(Reading *r, const char *path, size_t *longest_bytes) {
    enum { CHUNK = 256 };
    Status st = TANE_OK;
    RowReader *reader = NULL;
    Row *rows = NULL;
    const char *keys[ROW_FORMAT_KEYS];
    RowsOptions how = {.columns = keys, .n_columns = row_format_keys(r->format, keys)};
    int64_t limit = r->options->limit, left = limit ? limit : INT64_MAX;
    TRY(arena_strdup(&r->q->arena, &r->q->paths[r->q->n_paths++], path));
    TRY(MEM_NEW_ARRAY(&rows, CHUNK));
    TRY(rows_open(&reader, path, &how));
    for (size_t n = 1; n > 0 && left > 0; left -= (int64_t)n) {
        TRY(rows_chunk(reader, rows, left < CHUNK ? (size_t)left : CHUNK, &n));
        for (size_t i = 0; i < n; i++) TRY(take_row(r, &rows[i], longest_bytes));
    }
out:
    rows_close(reader);
    mem_free(rows);
    return st;
}

Status questions_open(Questions **out, const char *const *paths, size_t n, const QuestionOptions *options) {
    Status st = TANE_OK;
    Reading r = {.options = options};
    size_t longest_bytes = 0;
    *out = NULL;
    TRY(MEM_NEW(&r.q));
    r.q->tokenizer = options->format->tokenizer;
    TRY(row_format_new(&r.format, options->format));
    TRY(row_columns_init(&r.columns, options->format->format, options->format->columns));
    TRY(row_scratch_new(&r.scratch));
    TRY(ARENA_NEW_ARRAY(&r.q->arena, &r.q->paths, n));
    for (size_t i = 0; i < n; i++) TRY(read_file(&r, paths[i], &longest_bytes));
    *out = r.q;
    r.q = NULL;
out:
    questions_free(r.q);
    row_format_free(r.format);
    row_columns_free(&r.columns);
    row_scratch_free(r.scratch);
    jsonl_scratch_free(&r.json);
    token_list_free(&r.answer);
    return st;
}

Status questions_load(Questions **out, const char *const *paths, size_t n, const Tokenizer *tokenizer, int64_t limit,
                      bool add_bos) {
    RowFormatOptions format = {.tokenizer = tokenizer, .add_bos = add_bos};
    return questions_open(out, paths, n, &(QuestionOptions){.format = &format, .limit = limit});
}

void questions_free(Questions *q) {
    if (!q) return;
    token_list_free(&q->tokens);
    arena_release(&q->arena);
    mem_free(q->items);
    mem_free(q->cells);
    mem_free(q);
}

int64_t questions_count(const Questions *q) { return (int64_t)q->n; }

Status questions_check(const Questions *q, AnswerRule rule) {
    Status st = TANE_OK;
    Str text = {0};
    bool found = true;
    for (size_t i = 0; i < q->n; i++) {
        const Question *item = &q->items[i];
        TRY(answer_expected(rule, item->right, &text, &found));
        if (!found)
            TRY(FAIL(TANE_EFORMAT,
                     "%s:%lld: the right answer has no number behind \"#### \", which the metric gsm8k compares "
                     "with; add it, or ask for another metric (--metric exact_match)",
                     q->paths[item->file], (long long)item->line));
    }
out:
    str_free(&text);
    return st;
}
