/* Asking questions sorted by length, scoring, going on from a results file. */
#include "eval/exact_match.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "text/utf8.h"

typedef struct Asking {
    const Questions *q;
    const ExactMatchOptions *options;
    MatchReport *report;
    size_t *order; /* by length */
    size_t next;
    bool *done;          /* (questions) their results were there */
    AnswerText *wrong;   /* (questions) what was said; text is NULL when it was right */
    const int32_t *stop; /* (n_stop) */
    int64_t n_stop, max_new_tokens;
    int32_t eos;
    double told;
    Str said, clean;
    AnswerScratch scratch;
} Asking;

/* What is known of an answer. */
typedef struct Answer {
    bool right[ANSWER_RULES], finished;
    int64_t tokens;
    AnswerText said; /* as UTF-8 */
} Answer;

int64_t match_max_new_tokens(const Questions *q, bool gsm8k) {
    int64_t most = (int64_t)q->longest_right + 5;
    return gsm8k && most < 256 ? 256 : most;
}

/* ---- scores ---- */

static Status count(Asking *a, size_t index, const Answer *answer) {
    MatchReport *r = a->report;
    MatchCell *cell = &r->cells[a->q->items[index].cell];
    bool right = answer->right[r->first];
    for (AnswerRule rule = r->first; rule < r->end; rule++) r->scores[rule] += answer->right[rule];
    r->total++;
    r->tokens += answer->tokens;
    r->unfinished += !answer->finished;
    r->right += right;
    cell->total++;
    cell->right += right;
    if (right || !a->options->keep_wrong) return TANE_OK;
    char *said;
    TRY_RETURN(ARENA_NEW_ARRAY(&r->arena, &said, answer->said.n + 1));
    if (answer->said.n) memcpy(said, answer->said.text, answer->said.n);
    a->wrong[index] = (AnswerText){said, answer->said.n};
    r->n_wrong++;
    return TANE_OK;
}

/* Tokens may end within a character, or stand for bytes that are none: U+FFFD in their place, also in place of NUL,
 * which JSON readers refuse. */
static Status clean_text(const Str *said, Str *out) {
    static const char replacement[] = "\xEF\xBF\xBD";
    out->len = 0;
    TRY_RETURN(str_add(out, "", 0));
    for (size_t at = 0; at < said->len;) {
        uint32_t code;
        size_t n = said->text[at] ? utf8_decode(said->text + at, said->len - at, &code) : 0;
        size_t bad = n ? 0 : said->text[at] ? utf8_bad_length(said->text + at, said->len - at) : 1;
        TRY_RETURN(n ? str_add(out, said->text + at, n) : str_add(out, replacement, sizeof replacement - 1));
        at += n + bad;
    }
    return TANE_OK;
}

static Status judge(Asking *a, const Question *item, Answer *answer) {
    const MatchReport *r = a->report;
    if (r->first == ANSWER_EXACT)
        answer->right[ANSWER_EXACT] = answer->finished && a->said.len == item->right.n &&
                                      (a->said.len == 0 || memcmp(a->said.text, item->right.text, a->said.len) == 0);
    for (AnswerRule rule = r->first; rule < r->end; rule++)
        if (rule != ANSWER_EXACT)
            TRY_RETURN(answer_is_right(rule, answer->said, item->right, &a->scratch, &answer->right[rule]));
    return TANE_OK;
}

/* ---- the results file ---- */

static Status save(Asking *a, size_t index, const Answer *answer) {
    const Question *item = &a->q->items[index];
    const MatchReport *r = a->report;
    json_t *line = json_object();
    bool whole = results_set(line, "id", json_integer((json_int_t)index)) &&
                 results_set(line, "file", json_string(a->q->paths[item->file])) &&
                 results_set(line, "line", json_integer(item->line));
    for (AnswerRule rule = r->first; rule < r->end; rule++)
        whole = whole && results_set(line, answer_rule_name(rule), json_boolean(answer->right[rule]));
    whole = whole && results_set(line, "finished", json_boolean(answer->finished)) &&
            results_set(line, "tokens", json_integer(answer->tokens)) &&
            results_set(line, "said", json_stringn(answer->said.text, answer->said.n));
    return results_add(a->options->results, line, whole);
}

static Status take_saved(void *user, int64_t id, const json_t *line, const char *where) {
    Asking *a = user;
    MatchReport *r = a->report;
    Answer answer = {0};
    const char *said;
    if (a->done[id]) return results_twice(where, id);
    for (AnswerRule rule = r->first; rule < r->end; rule++)
        TRY_RETURN(json_get_bool(line, where, answer_rule_name(rule), &answer.right[rule]));
    TRY_RETURN(json_get_bool(line, where, "finished", &answer.finished));
    TRY_RETURN(json_get_int(line, where, "tokens", 1, INT64_MAX, &answer.tokens));
    TRY_RETURN(json_get_string(line, where, "said", &said));
    answer.said = (AnswerText){said, strlen(said)};
    a->done[id] = true;
    r->resumed++;
    return count(a, (size_t)id, &answer);
}

/* ---- asking ---- */

/* Counting sort: prompts of the same length stay in the files' order. */
static Status sort_by_length(const Questions *q, size_t *order) {
    size_t *start;
    TRY_RETURN(MEM_NEW_ARRAY(&start, (size_t)q->longest_prompt + 2));
    for (size_t i = 0; i < q->n; i++) start[q->items[i].n_tokens + 1]++;
    for (int64_t k = 1; k <= q->longest_prompt + 1; k++) start[k] += start[k - 1];
    for (size_t i = 0; i < q->n; i++) order[start[q->items[i].n_tokens]++] = i;
    mem_free(start);
    return TANE_OK;
}

static Status next_question(void *user, EngineRequest *request, bool *more) {
    Asking *a = user;
    while (a->next < a->q->n && a->done[a->order[a->next]]) a->next++;
    *more = a->next < a->q->n;
    if (!*more) return TANE_OK;
    size_t index = a->order[a->next++];
    const Question *item = &a->q->items[index];
    *request = (EngineRequest){.id = index,
                               .prompt = a->q->tokens.ids + item->first,
                               .n_prompt = item->n_tokens,
                               .max_new_tokens = a->max_new_tokens,
                               .stop = a->stop,
                               .n_stop = a->n_stop,
                               .sampling = {.top_p = 1}};
    return TANE_OK;
}

static Status tell(Asking *a) {
    const MatchReport *r = a->report;
    double now = clock_seconds();
    if (!a->options->progress || (now - a->told < 0.1 && r->total < (int64_t)a->q->n)) return TANE_OK;
    a->told = now;
    return a->options->progress(a->options->user, r->total, r->right, (int64_t)a->q->n)
               ? FAIL(TANE_ECANCELED, "stopped after %lld of %zu questions", (long long)r->total, a->q->n)
               : TANE_OK;
}

static Status take_answer(void *user, const EngineResult *result) {
    Asking *a = user;
    Answer answer = {.finished = result->reason == ENGINE_STOP, .tokens = result->n};
    a->said.len = 0;
    TRY_RETURN(tokenizer_decode(a->q->tokenizer, result->tokens, (size_t)result->n - answer.finished, &a->said));
    TRY_RETURN(clean_text(&a->said, &a->clean));
    answer.said = (AnswerText){a->clean.text, a->clean.len};
    TRY_RETURN(judge(a, &a->q->items[result->id], &answer));
    TRY_RETURN(count(a, result->id, &answer));
    if (a->options->results) TRY_RETURN(save(a, result->id, &answer));
    return tell(a);
}

static Status check_fit(const Questions *q, const Model *model) {
    int64_t vocab = model->config.vocab_size, context = model->config.context;
    if (tokenizer_vocab_size(q->tokenizer) > vocab)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has %d pieces, but the model's vocabulary only %lld: they do not belong together",
                    tokenizer_vocab_size(q->tokenizer), (long long)vocab);
    for (size_t i = 0; i < q->n && q->longest_prompt > context; i++)
        if (q->items[i].n_tokens > context)
            return FAIL(TANE_EINVAL, "%s:%lld: the prompt has %d tokens, but the model's context is %lld",
                        q->paths[q->items[i].file], (long long)q->items[i].line, q->items[i].n_tokens,
                        (long long)context);
    return TANE_OK;
}

static Status check_stop(Asking *a) {
    if (a->options->n_stop) return TANE_OK;
    a->eos = tokenizer_eos(a->q->tokenizer);
    a->stop = &a->eos;
    a->n_stop = 1;
    return a->eos >= 0
               ? TANE_OK
               : FAIL(TANE_EINVAL, "the tokenizer has no end-of-text token, so that no answer could end; use one "
                                   "that has it (`tane tokenizer train` makes one)");
}

static Status ask_all(Asking *a, const Model *model) {
    Engine *e;
    const Questions *q = a->q;
    int64_t left = (int64_t)q->n - a->report->resumed;
    int64_t context = q->longest_prompt + a->max_new_tokens - 1, slots = a->options->slots;
    if (left == 0) return TANE_OK;
    if (context > model->config.context) context = model->config.context;
    if (slots == 0) slots = engine_slots_within(model, context, (size_t)512 << 20, 1024);
    if (slots > left) slots = left;
    TRY_RETURN(engine_new(&e, model, slots, context));
    engine_set_vocab(e, tokenizer_vocab_size(q->tokenizer));
    EngineClient client = {.user = a, .next = next_question, .done = take_answer};
    Status st = engine_run(e, &client);
    a->report->bytes = engine_bytes(e);
    engine_free(e);
    return st;
}

/* ---- the report ---- */

static int by_kind(const void *x, const void *y) {
    static const char order[] = "+-*/";
    const MatchCell *a = x, *b = y;
    long rank_a = a->op ? strchr(order, a->op) - order : 4, rank_b = b->op ? strchr(order, b->op) - order : 4;
    return rank_a != rank_b ? (rank_a > rank_b) - (rank_a < rank_b) : (a->digits > b->digits) - (a->digits < b->digits);
}

static Status list_wrong(const Asking *a) {
    MatchReport *r = a->report;
    size_t n = 0;
    TRY_RETURN(ARENA_NEW_ARRAY(&r->arena, &r->wrong, r->n_wrong));
    for (size_t i = 0; i < a->q->n; i++)
        if (a->wrong[i].text) r->wrong[n++] = (WrongAnswer){&a->q->items[i], a->wrong[i]};
    return TANE_OK;
}

static Status begin(Asking *a) {
    const Questions *q = a->q;
    MatchReport *r = a->report;
    TRY_RETURN(MEM_NEW_ARRAY(&a->order, q->n));
    TRY_RETURN(MEM_NEW_ARRAY(&a->done, q->n));
    TRY_RETURN(MEM_NEW_ARRAY(&a->wrong, q->n));
    TRY_RETURN(sort_by_length(q, a->order));
    TRY_RETURN(ARENA_NEW_ARRAY(&r->arena, &r->cells, q->n_cells));
    memcpy(r->cells, q->cells, q->n_cells * sizeof *q->cells);
    r->n_cells = q->n_cells;
    return a->options->results ? results_read(a->options->results, (int64_t)q->n, take_saved, a) : TANE_OK;
}

Status exact_match(const Questions *q, const Model *model, const ExactMatchOptions *options, MatchReport *out) {
    Status st = TANE_OK;
    double start = clock_seconds();
    Asking a = {
        .q = q, .options = options, .report = out, .stop = options->stop, .n_stop = options->n_stop, .told = start};
    *out = (MatchReport){.first = options->gsm8k ? ANSWER_GSM8K_STRICT : ANSWER_EXACT,
                         .end = options->gsm8k ? ANSWER_RULES : ANSWER_EXACT + 1};
    TRY(check_stop(&a));
    TRY(check_fit(q, model));
    if (options->gsm8k) TRY(questions_check(q, ANSWER_GSM8K_STRICT));
    a.max_new_tokens = options->max_new_tokens ? options->max_new_tokens : match_max_new_tokens(q, options->gsm8k);
    TRY(begin(&a));
    TRY(ask_all(&a, model));
    if (options->results) TRY(results_sort(options->results));
    qsort(out->cells, out->n_cells, sizeof *out->cells, by_kind);
    TRY(list_wrong(&a));
    out->seconds = clock_seconds() - start;
out:
    mem_free(a.order);
    mem_free(a.done);
    mem_free(a.wrong);
    str_free(&a.said);
    str_free(&a.clean);
    answer_scratch_free(&a.scratch);
    if (st != TANE_OK) match_report_free(out);
    return st;
}

void match_report_free(MatchReport *r) {
    arena_release(&r->arena);
    *r = (MatchReport){0};
}
