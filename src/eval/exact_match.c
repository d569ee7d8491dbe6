/* Reading questions, asking them sorted by length, scoring. */
#include "eval/exact_match.h"

#include <stdlib.h>

#include "base/clock.h"
#include "data/arithmetic.h"
#include "data/jsonl.h"
#include "infer/open.h"

typedef struct Question {
    MatchText prompt, completion;
    size_t first; /* of its tokens */
    int32_t n_tokens;
    int32_t cell;
    int32_t file;
    int64_t line;
} Question;

struct Questions {
    const Tokenizer *tokenizer;
    Question *items;
    size_t n, cap;
    TokenList tokens;
    int64_t longest_prompt;
    size_t longest_completion; /* tokens */
    MatchCell *cells;          /* scores are 0 here */
    size_t n_cells, cap_cells;
    char **paths;
    size_t n_paths;
    Arena arena;               /* texts */
};

/* ---------------------------------------------------------------------------------------------------- reading */

static Status find_cell(Questions *q, const char *prompt, int32_t *cell) {
    MatchCell kind = {0};
    if (!arithmetic_classify(prompt, &kind.op, &kind.digits)) kind = (MatchCell){0};
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

static Status take_text(Questions *q, const JsonlLine *line, const JsonlField *field, JsonlScratch *scratch,
                        MatchText *out) {
    static const char needed[] = "each line needs {\"prompt\": ..., \"completion\": ...}";
    if (field->kind == JSONL_ABSENT)
        return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is missing; %s", line->path, (long long)line->number, field->key,
                    needed);
    if (field->kind != JSONL_STRING)
        return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is %s, but must be text; %s", line->path, (long long)line->number,
                    field->key, jsonl_kind_name(field->kind), needed);
    const char *text;
    char *copy;
    TRY_RETURN(jsonl_text(field, scratch, &text, &out->n));
    TRY_RETURN(ARENA_NEW_ARRAY(&q->arena, &copy, out->n + 1));
    if (out->n) memcpy(copy, text, out->n);
    out->text = copy;
    return TANE_OK;
}

static Status take_line(Questions *q, const JsonlLine *line, const JsonlField fields[2], JsonlScratch *scratch,
                        bool add_bos, TokenList *answer) {
    Question item = {.line = line->number, .first = q->tokens.n, .file = (int32_t)q->n_paths - 1};
    TRY_RETURN(take_text(q, line, &fields[0], scratch, &item.prompt));
    TRY_RETURN(take_text(q, line, &fields[1], scratch, &item.completion));
    TRY_RETURN(find_cell(q, item.prompt.text, &item.cell));
    TRY_RETURN(prompt_encode(q->tokenizer, item.prompt.text, item.prompt.n, add_bos, &q->tokens));
    size_t n = q->tokens.n - item.first;
    if (n == 0)
        return FAIL(TANE_EFORMAT, "%s:%lld: the prompt is empty; there is nothing to answer", line->path,
                    (long long)line->number);
    if (n > INT32_MAX)
        return FAIL(TANE_EFORMAT, "%s:%lld: the prompt is too long", line->path, (long long)line->number);
    item.n_tokens = (int32_t)n;
    if ((int64_t)n > q->longest_prompt) q->longest_prompt = (int64_t)n;
    if (item.completion.n > q->longest_completion) { /* a longer one in bytes may be so in tokens */
        answer->n = 0;
        TRY_RETURN(tokenizer_encode(q->tokenizer, item.completion.text, item.completion.n, answer));
        if (answer->n > q->longest_completion) q->longest_completion = answer->n;
    }
    if (q->n == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 256;
        TRY_RETURN(mem_grow((void **)&q->items, q->cap, cap, sizeof *q->items));
        q->cap = cap;
    }
    q->items[q->n++] = item;
    return TANE_OK;
}

static Status read_file(Questions *q, const char *path, int64_t limit, bool add_bos) {
    Status st = TANE_OK;
    JsonlReader *reader = NULL;
    JsonlScratch scratch = {0};
    TokenList answer = {0};
    JsonlField fields[] = {{.key = "prompt"}, {.key = "completion"}};
    JsonlLine line;
    bool more;
    TRY(arena_strdup(&q->arena, &q->paths[q->n_paths++], path));
    TRY(jsonl_open(&reader, path));
    for (int64_t n = 0; limit == 0 || n < limit; n++) {
        TRY(jsonl_next(reader, &line, fields, 2, &scratch, &more));
        if (!more) break;
        TRY(take_line(q, &line, fields, &scratch, add_bos, &answer));
    }
out:
    jsonl_close(reader);
    jsonl_scratch_free(&scratch);
    token_list_free(&answer);
    return st;
}

Status questions_load(Questions **out, const char *const *paths, size_t n, const Tokenizer *tokenizer, int64_t limit,
                      bool add_bos) {
    Status st = TANE_OK;
    *out = NULL;
    if (tokenizer_eos(tokenizer) < 0)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has no end-of-text token, so that no answer could end; use one that has it "
                    "(`tane tokenizer train` makes one)");
    TRY_RETURN(MEM_NEW(out));
    Questions *q = *out;
    q->tokenizer = tokenizer;
    TRY(ARENA_NEW_ARRAY(&q->arena, &q->paths, n));
    for (size_t i = 0; i < n; i++) TRY(read_file(q, paths[i], limit, add_bos));
out:
    if (st != TANE_OK) {
        questions_free(*out);
        *out = NULL;
    }
    return st;
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

/* ----------------------------------------------------------------------------------------------------- asking */

typedef struct Asking {
    const Questions *q;
    const ExactMatchOptions *options;
    MatchReport *report;
    size_t *order;            /* by length */
    size_t next, cap_wrong;
    int64_t max_new_tokens;
    int32_t eos;
    size_t *wrong;            /* index of each report->wrong */
    double told;
    Str said;
} Asking;

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
    *more = a->next < a->q->n;
    if (!*more) return TANE_OK;
    size_t index = a->order[a->next++];
    const Question *item = &a->q->items[index];
    *request = (EngineRequest){.id = index,
                               .prompt = a->q->tokens.ids + item->first,
                               .n_prompt = item->n_tokens,
                               .max_new_tokens = a->max_new_tokens,
                               .stop = &a->eos,
                               .n_stop = 1,
                               .sampling = {.top_p = 1}};
    return TANE_OK;
}

static Status keep_wrong(Asking *a, const Question *item, size_t index) {
    MatchReport *r = a->report;
    char *said;
    if (r->n_wrong == a->cap_wrong) {
        size_t cap = a->cap_wrong ? 2 * a->cap_wrong : 64;
        TRY_RETURN(mem_grow((void **)&r->wrong, a->cap_wrong, cap, sizeof *r->wrong));
        TRY_RETURN(mem_grow((void **)&a->wrong, a->cap_wrong, cap, sizeof *a->wrong));
        a->cap_wrong = cap;
    }
    TRY_RETURN(ARENA_NEW_ARRAY(&r->arena, &said, a->said.len + 1));
    if (a->said.len) memcpy(said, a->said.text, a->said.len);
    a->wrong[r->n_wrong] = index;
    r->wrong[r->n_wrong++] = (WrongAnswer){item->prompt, item->completion, {said, a->said.len}};
    return TANE_OK;
}

static Status score(void *user, const EngineResult *answer) {
    Asking *a = user;
    MatchReport *r = a->report;
    const Question *item = &a->q->items[answer->id];
    bool ended = answer->reason == ENGINE_STOP;
    a->said.len = 0;
    TRY_RETURN(tokenizer_decode(a->q->tokenizer, answer->tokens, (size_t)answer->n - ended, &a->said));
    bool right = ended && a->said.len == item->completion.n &&
                 (a->said.len == 0 || memcmp(a->said.text, item->completion.text, a->said.len) == 0);
    r->total++;
    r->tokens += answer->n;
    r->right += right;
    r->cells[item->cell].total++;
    r->cells[item->cell].right += right;
    if (!right && a->options->keep_wrong) TRY_RETURN(keep_wrong(a, item, answer->id));
    double now = clock_seconds();
    if (!a->options->progress || (now - a->told < 0.1 && r->total < (int64_t)a->q->n)) return TANE_OK;
    a->told = now;
    return a->options->progress(a->options->user, r->total, r->right, (int64_t)a->q->n)
               ? FAIL(TANE_ECANCELED, "stopped after %lld of %zu questions", (long long)r->total, a->q->n)
               : TANE_OK;
}

/* Answers come as they are ready; a file of them should not depend on that. */
static Status sort_wrong(Asking *a) {
    MatchReport *r = a->report;
    WrongAnswer *sorted;
    size_t *place;
    TRY_RETURN(MEM_NEW_ARRAY(&place, a->q->n));
    for (size_t i = 0; i < r->n_wrong; i++) place[a->wrong[i]] = i + 1;
    Status st = MEM_NEW_ARRAY(&sorted, r->n_wrong);
    if (st == TANE_OK) {
        size_t n = 0;
        for (size_t i = 0; i < a->q->n; i++)
            if (place[i]) sorted[n++] = r->wrong[place[i] - 1];
        mem_free(r->wrong);
        r->wrong = sorted;
    }
    mem_free(place);
    return st;
}

static int by_kind(const void *x, const void *y) {
    static const char order[] = "+-*/";
    const MatchCell *a = x, *b = y;
    long rank_a = a->op ? strchr(order, a->op) - order : 4, rank_b = b->op ? strchr(order, b->op) - order : 4;
    return rank_a != rank_b ? (rank_a > rank_b) - (rank_a < rank_b) : (a->digits > b->digits) - (a->digits < b->digits);
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

static Status ask_all(Asking *a, const Model *model) {
    Engine *e;
    const Questions *q = a->q;
    int64_t context = q->longest_prompt + a->max_new_tokens - 1, slots = a->options->slots;
    if (context > model->config.context) context = model->config.context;
    if (slots == 0) slots = engine_slots_within(model, context, (size_t)512 << 20, 1024);
    if (slots > (int64_t)q->n) slots = (int64_t)q->n;
    TRY_RETURN(engine_new(&e, model, slots, context));
    engine_set_vocab(e, tokenizer_vocab_size(q->tokenizer));
    EngineClient client = {.user = a, .next = next_question, .done = score};
    Status st = engine_run(e, &client);
    a->report->bytes = engine_bytes(e);
    engine_free(e);
    return st;
}

Status exact_match(const Questions *q, const Model *model, const ExactMatchOptions *options, MatchReport *out) {
    Status st = TANE_OK;
    double start = clock_seconds();
    Asking a = {.q = q, .options = options, .report = out, .eos = tokenizer_eos(q->tokenizer), .told = start};
    *out = (MatchReport){0};
    TRY_RETURN(check_fit(q, model));
    a.max_new_tokens = options->max_new_tokens ? options->max_new_tokens : (int64_t)q->longest_completion + 5;
    TRY(MEM_NEW_ARRAY(&a.order, q->n));
    TRY(sort_by_length(q, a.order));
    TRY(ARENA_NEW_ARRAY(&out->arena, &out->cells, q->n_cells));
    memcpy(out->cells, q->cells, q->n_cells * sizeof *q->cells);
    out->n_cells = q->n_cells;
    TRY(ask_all(&a, model));
    qsort(out->cells, out->n_cells, sizeof *out->cells, by_kind);
    if (out->n_wrong) TRY(sort_wrong(&a));
    out->seconds = clock_seconds() - start;
out:
    mem_free(a.order);
    mem_free(a.wrong);
    str_free(&a.said);
    if (st != TANE_OK) match_report_free(out);
    return st;
}

void match_report_free(MatchReport *r) {
    arena_release(&r->arena);
    mem_free(r->wrong);
    *r = (MatchReport){0};
}
