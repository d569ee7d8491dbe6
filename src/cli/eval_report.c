/* What `tane eval` prints and writes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/eval_config.h"
#include "cli/table.h"
#include "data/jsonl.h"

static double percent(int64_t right, int64_t total) { return total ? 100.0 * (double)right / (double)total : 0; }
static double share(int64_t right, int64_t total) { return total ? (double)right / (double)total : 0; }
static double rate(int64_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

/* ---- tables ---- */

/* A kind of question, or all of them (kind NULL). */
static Status print_cell(Table *t, const MatchReport *r, const MatchCell *kind, const EvalBefore *before) {
    MatchCell all = {.right = r->right, .total = r->total};
    const MatchCell *c = kind ? kind : &all;
    char digits[16] = "", op[] = {c->op, 0};
    if (c->digits) snprintf(digits, sizeof digits, "%d", c->digits);
    TRY_RETURN(table_cell(t, "%s", !kind ? "all" : c->op ? op : "other"));
    TRY_RETURN(table_cell(t, "%s", digits));
    TRY_RETURN(table_cell(t, "%" PRId64, c->right));
    TRY_RETURN(table_cell(t, "%" PRId64, c->total));
    if (before->json) {
        int64_t right;
        TRY_RETURN(eval_before_right(before, kind, &right));
        TRY_RETURN(table_cell(t, "%.2f%%", percent(right, c->total)));
    }
    return table_cell(t, "%.2f%%", percent(c->right, c->total));
}

static Status print_cells(const EvalBefore *before, const MatchReport *r) {
    Status st = TANE_OK;
    Table t;
    bool both = before->json != NULL;
    const char *const heading[] = {"operator", "digits", "right", "total", both ? "before" : "percent", "after"};
    table_begin(&t, both ? "lrrrrr" : "lrrrr");
    for (int i = 0; i < (both ? 6 : 5); i++) TRY(table_cell(&t, "%s", heading[i]));
    for (size_t i = 0; i < r->n_cells; i++) TRY(print_cell(&t, r, &r->cells[i], before));
    TRY(print_cell(&t, r, NULL, before));
out:
    table_end(&t, stdout, "");
    return st;
}

/* A row for each rule. */
static Status print_rules(const EvalBefore *before, const MatchReport *r) {
    Status st = TANE_OK;
    Table t;
    bool both = before->json != NULL;
    const char *const heading[] = {"metric", "right", "total", both ? "before" : "percent", "after"};
    table_begin(&t, both ? "lrrrr" : "lrrr");
    for (int i = 0; i < (both ? 5 : 4); i++) TRY(table_cell(&t, "%s", heading[i]));
    for (AnswerRule rule = r->first; rule < r->end; rule++) {
        TRY(table_cell(&t, "%s", answer_rule_name(rule)));
        TRY(table_cell(&t, "%" PRId64, r->scores[rule]));
        TRY(table_cell(&t, "%" PRId64, r->total));
        if (both) {
            double earlier;
            TRY(eval_before_score(before, answer_rule_name(rule), &earlier));
            TRY(table_cell(&t, "%.2f%%", 100 * earlier));
        }
        TRY(table_cell(&t, "%.2f%%", percent(r->scores[rule], r->total)));
    }
out:
    table_end(&t, stdout, "");
    return st;
}

static Status print_part(Table *t, const PerplexityPart *p, const char *name) {
    TRY_RETURN(table_cell(t, "%s", name));
    TRY_RETURN(table_cell(t, "%" PRId64, p->documents));
    TRY_RETURN(table_cell(t, "%" PRId64, p->tokens));
    TRY_RETURN(table_cell(t, "%" PRId64, p->bytes));
    TRY_RETURN(table_cell(t, "%.4f", perplexity_loss(p)));
    TRY_RETURN(table_cell(t, "%.4g", perplexity_of(p)));
    return table_cell(t, "%.4f", perplexity_bits_per_byte(p));
}

static Status print_files(const PerplexityReport *r) {
    Status st = TANE_OK;
    Table t;
    static const char *const heading[] = {"file", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte"};
    table_begin(&t, "lrrrrrr");
    for (int i = 0; i < 7; i++) TRY(table_cell(&t, "%s", heading[i]));
    for (size_t i = 0; i < r->n_files; i++) TRY(print_part(&t, &r->files[i], r->files[i].path));
    if (r->n_files > 1) TRY(print_part(&t, &r->all, "all"));
out:
    table_end(&t, stdout, "");
    return st;
}

/* ---- JSON ---- */

/* Takes over both; false when either is NULL (out of memory, or a path that is not UTF-8). */
static bool set(json_t *object, const char *key, json_t *value) {
    return object && !json_object_set_new(object, key, value);
}

/* Takes over root. */
static Status print_root(json_t *root, bool whole) {
    Status st = TANE_OK;
    Str text = {0};
    if (!root || !whole) TRY(FAIL(TANE_ENOMEM, "out of memory while writing the result"));
    TRY(json_write_str(&text, root));
    printf("%s\n", text.text);
out:
    json_decref(root);
    str_free(&text);
    return st;
}

static json_t *data_of(const EvalConfig *c) {
    json_t *data = json_array();
    for (size_t i = 0; data && i < c->data.n; i++) json_array_append_new(data, json_string(c->data.items[i]));
    return data;
}

static json_t *cells_of(const MatchReport *r) {
    json_t *cells = json_array();
    for (size_t i = 0; cells && i < r->n_cells; i++) {
        const MatchCell *cell = &r->cells[i];
        char op[] = {cell->op, 0};
        json_array_append_new(cells, json_pack("{s:s, s:i, s:I, s:I}", "operator", cell->op ? op : "other", "digits",
                                               cell->digits, "right", (json_int_t)cell->right, "total",
                                               (json_int_t)cell->total));
    }
    return cells;
}

static Status print_match_json(const Evaluation *e, const MatchReport *r) {
    json_t *root = json_pack("{s:s, s:o, s:s, s:s, s:I, s:I}", "model", e->open.folder, "data", data_of(e->config),
                             "compute_dtype", dtype_name(e->open.model->dtype), "metric", metric_name(e->metric),
                             "right", (json_int_t)r->right, "total", (json_int_t)r->total);
    bool whole = root != NULL;
    for (AnswerRule rule = r->first; rule < r->end; rule++)
        whole = whole && set(root, answer_rule_name(rule), json_real(share(r->scores[rule], r->total)));
    whole = whole && set(root, "cells", cells_of(r)) && set(root, "unfinished", json_integer(r->unfinished)) &&
            set(root, "tokens", json_integer(r->tokens)) && set(root, "resumed", json_integer(r->resumed)) &&
            set(root, "seconds", json_real(r->seconds)) &&
            set(root, "problems_per_second", json_real(rate(r->total - r->resumed, r->seconds))) &&
            set(root, "memory", json_integer((json_int_t)r->bytes));
    return print_root(root, whole);
}

/* Adds what is measured of a file, or of all. */
static bool set_part(json_t *object, const PerplexityPart *p) {
    return set(object, "documents", json_integer(p->documents)) && set(object, "tokens", json_integer(p->tokens)) &&
           set(object, "bytes", json_integer(p->bytes)) && set(object, "unknown_tokens", json_integer(p->unknown)) &&
           set(object, "loss", json_real(perplexity_loss(p))) &&
           /* JSON has no infinity */
           set(object, "perplexity", json_real(perplexity_of(p) > 1e308 ? 1e308 : perplexity_of(p))) &&
           set(object, "bits_per_byte", p->bytes ? json_real(perplexity_bits_per_byte(p)) : json_null());
}

static Status print_perplexity_json(const Evaluation *e, const PerplexityReport *r) {
    json_t *files = json_array();
    json_t *root = json_pack("{s:s, s:o, s:s, s:s}", "model", e->open.folder, "data", data_of(e->config),
                             "compute_dtype", dtype_name(e->open.model->dtype), "metric", metric_name(e->metric));
    bool whole = files && set_part(root, &r->all);
    for (size_t i = 0; whole && i < r->n_files; i++) {
        json_t *file = json_pack("{s:s}", "file", r->files[i].path);
        whole = set_part(file, &r->files[i]) && !json_array_append(files, file);
        json_decref(file);
    }
    whole = whole && set(root, "context", json_integer(r->context)) && set(root, "stride", json_integer(r->stride)) &&
            set(root, "windows", json_integer(r->windows)) && set(root, "resumed", json_integer(r->resumed)) &&
            set(root, "seconds", json_real(r->seconds)) && set(root, "memory", json_integer((json_int_t)r->memory)) &&
            !json_object_set(root, "files", files);
    json_decref(files);
    return print_root(root, whole);
}

/* ---- both ---- */

static void tell_resumed(const Evaluation *e, int64_t resumed, int64_t total, const char *what) {
    if (resumed)
        fprintf(stderr, "%s: %" PRId64 " of %" PRId64 " %s were there already\n", e->config->out, resumed, total, what);
}

static void tell_match(const Evaluation *e, const MatchReport *r) {
    fprintf(stderr, "%s: ", e->open.folder);
    if (r->first == ANSWER_EXACT)
        fprintf(stderr, "%" PRId64 " of %" PRId64 " right (%.2f%%)", r->right, r->total, percent(r->right, r->total));
    else
        fprintf(stderr, "%.2f%% right strictly, %.2f%% flexibly, of %" PRId64 " questions",
                percent(r->scores[ANSWER_GSM8K_STRICT], r->total), percent(r->scores[ANSWER_GSM8K_FLEXIBLE], r->total),
                r->total);
    fprintf(stderr, " in %.1f s, %.0f problems/s, %s, memory %.0f MiB\n", r->seconds,
            rate(r->total - r->resumed, r->seconds), dtype_name(e->open.model->dtype), (double)r->bytes / 1048576.0);
    if (r->unfinished && r->first != ANSWER_EXACT)
        fprintf(stderr, "%" PRId64 " answers did not come to an end; --max-new-tokens allows longer ones\n",
                r->unfinished);
}

Status eval_print_match(const Evaluation *e, const EvalBefore *before, const MatchReport *r) {
    if (before->json) TRY_RETURN(eval_before_check(before, r));
    if (e->config->json) TRY_RETURN(print_match_json(e, r));
    else TRY_RETURN(r->first == ANSWER_EXACT ? print_cells(before, r) : print_rules(before, r));
    tell_resumed(e, r->resumed, r->total, "answers");
    tell_match(e, r);
    return TANE_OK;
}

Status eval_print_perplexity(const Evaluation *e, const PerplexityReport *r) {
    TRY_RETURN(e->config->json ? print_perplexity_json(e, r) : print_files(r));
    tell_resumed(e, r->resumed, r->windows, "windows");
    fprintf(stderr,
            "%s: perplexity %.4g, %.4f bits per byte, windows of %" PRId64 " in steps of %" PRId64 ", in %.1f s, %s, "
            "memory %.0f MiB\n",
            e->open.folder, perplexity_of(&r->all), perplexity_bits_per_byte(&r->all), r->context, r->stride,
            r->seconds, dtype_name(e->open.model->dtype), (double)r->memory / 1048576.0);
    if (r->all.unknown)
        fprintf(stderr,
                "%" PRId64 " of %" PRId64
                " tokens stand for text that the tokenizer does not know: perplexity and bits "
                "per byte say little\n",
                r->all.unknown, r->all.tokens);
    return TANE_OK;
}

/* ---- wrong answers ---- */

/* JSON between two places, on one line. */
static Status add_part(Str *out, AnswerText row, size_t from, size_t to) {
    size_t at = out->len;
    TRY_RETURN(str_add(out, row.text + from, to - from));
    for (; at < out->len; at++)
        if (out->text[at] == '\n' || out->text[at] == '\r') out->text[at] = ' ';
    return TANE_OK;
}

/* The row with "model_said" behind its members, or in the place of an earlier one. */
static Status add_wrong(Str *out, const WrongAnswer *w, JsonlScratch *scratch) {
    const AnswerText row = w->question->row;
    const JsonlLine line = {.path = "a question", .number = w->question->line, .text = row.text, .n = row.n};
    JsonlField old = {.key = "model_said"};
    TRY_RETURN(jsonl_parse(&line, &old, 1, scratch));
    size_t from = row.n, to;
    if (old.kind == JSONL_ABSENT) {
        while (from > 0 && row.text[from - 1] != '}') from--;
        to = --from;
        TRY_RETURN(add_part(out, row, 0, from));
        TRY_RETURN(str_printf(out, ",\"model_said\":"));
    } else {
        size_t quote = old.kind == JSONL_STRING;
        from = (size_t)(old.text - row.text) - quote;
        to = from + old.n + 2 * quote;
        TRY_RETURN(add_part(out, row, 0, from));
    }
    TRY_RETURN(json_write_text(out, w->said.text, w->said.n));
    TRY_RETURN(add_part(out, row, to, row.n));
    return str_add(out, "\n", 1);
}

Status eval_write_wrong(const char *path, const MatchReport *r) {
    Status st = TANE_OK;
    Str text = {0};
    JsonlScratch scratch = {0};
    for (size_t i = 0; i < r->n_wrong; i++) TRY(add_wrong(&text, &r->wrong[i], &scratch));
    TRY(file_write_atomic(path, text.len ? text.text : "", text.len));
    fprintf(stderr, "%s: %zu wrong answers\n", path, r->n_wrong);
out:
    jsonl_scratch_free(&scratch);
    str_free(&text);
    return st;
}
