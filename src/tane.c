/* The public API over the jobs: models, sessions, runs. See include/tane.h. */
#include "tane.h"

#include "base/mem.h"
#include "eval/exact_match.h"
#include "infer/open.h"
#include "tane_internal.h"
#include "train/trainer.h"

void tane_free(void *ptr) { mem_free(ptr); }

/* --------------------------------------------------------------------------------------------------- models */

struct tane_model {
    OpenModel open;
};

tane_status tane_model_open(tane_model **out, const char *name, const char *compute_dtype, const char *device) {
    TRY_RETURN(MEM_NEW(out));
    Status st = open_model(&(*out)->open, name, compute_dtype ? compute_dtype : "auto", device ? device : "auto", NULL);
    if (st != TANE_OK) {
        mem_free(*out);
        *out = NULL;
    }
    return st;
}

void tane_model_close(tane_model *model) {
    if (!model) return;
    open_model_close(&model->open);
    mem_free(model);
}

void tane_model_describe(const tane_model *model, tane_model_info *info) {
    const Model *m = model->open.model;
    *info = (tane_model_info){.folder = model->open.folder,
                              .model_type = m->config.family->model_type,
                              .compute_dtype = dtype_name(m->dtype),
                              .parameters = params_count(&m->params),
                              .layers = m->config.layers,
                              .width = m->config.width,
                              .context = m->config.context,
                              .vocab_size = m->config.vocab_size};
}

tane_status tane_encode(const tane_model *model, const char *text, size_t n, int32_t **ids, size_t *count) {
    TokenList list = {0};
    Status st = tokenizer_encode(model->open.tokenizer, text, n, &list);
    if (st == TANE_OK && !list.ids)
        st = MEM_NEW_ARRAY(&list.ids, 1); /* an empty text: something to free all the same */
    if (st != TANE_OK) token_list_free(&list);
    *ids = list.ids;
    *count = list.n;
    return st;
}

tane_status tane_decode(const tane_model *model, const int32_t *ids, size_t n, char **text) {
    Str s = {0};
    Status st = tokenizer_decode(model->open.tokenizer, ids, n, &s);
    if (st == TANE_OK) st = str_add(&s, "", 0); /* an empty answer is a text too */
    if (st != TANE_OK) str_free(&s);
    *text = s.text;
    return st;
}

/* ------------------------------------------------------------------------------------------------- sessions */

struct tane_session {
    const tane_model *model;
    Engine *engine;
};

tane_sampling tane_sampling_default(void) {
    return (tane_sampling){.temperature = 1, .top_p = 1, .max_new_tokens = 256};
}

tane_status tane_session_open(tane_session **out, const tane_model *model, int64_t slots, int64_t context) {
    if (slots < 1) return FAIL(TANE_EINVAL, "a session needs at least one slot, not %lld", (long long)slots);
    TRY_RETURN(MEM_NEW(out));
    (*out)->model = model;
    Status st = engine_new(&(*out)->engine, model->open.model, slots, context);
    if (st != TANE_OK) {
        mem_free(*out);
        *out = NULL;
        return st;
    }
    engine_set_vocab((*out)->engine, tokenizer_vocab_size(model->open.tokenizer));
    return TANE_OK;
}

void tane_session_close(tane_session *session) {
    if (!session) return;
    engine_free(session->engine);
    mem_free(session);
}

typedef struct Listener {
    const Tokenizer *tokenizer;
    tane_token_callback on_token;
    void *user;
    Str text;
} Listener;

/* Bytes of `text` up to its last whole character. */
static size_t whole_characters(const Str *text) {
    size_t n = text->len, back = 0;
    while (back < 3 && back < n && ((unsigned char)text->text[n - 1 - back] & 0xc0) == 0x80) back++;
    if (back >= n) return n;
    unsigned char lead = (unsigned char)text->text[n - 1 - back];
    size_t want = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    return want > back + 1 ? n - 1 - back : n;
}

static Status on_engine_token(void *user, const EngineResult *so_far, bool *stop) {
    Listener *l = user;
    l->text.len = 0;
    TRY_RETURN(tokenizer_decode(l->tokenizer, so_far->tokens, (size_t)so_far->n, &l->text));
    TRY_RETURN(str_add(&l->text, "", 0));
    l->text.text[whole_characters(&l->text)] = 0;
    *stop = l->on_token(l->user, (size_t)so_far->id, l->text.text);
    return TANE_OK;
}

static Status generate(tane_session *session, const char *const *prompts, size_t n, const tane_sampling *s,
                       Listener *listener, Arena *arena, TokenList *tokens, char **answers) {
    EngineRequest *requests;
    EngineResult *results;
    const Tokenizer *tokenizer = session->model->open.tokenizer;
    StopTokens stop = stop_tokens(&session->model->open);
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &requests, n));
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &results, n));
    for (size_t i = 0; i < n; i++) {
        TRY_RETURN(prompt_encode(tokenizer, prompts[i], strlen(prompts[i]), false, &tokens[i]));
        requests[i] = (EngineRequest){.id = i,
                                      .prompt = tokens[i].ids,
                                      .n_prompt = (int64_t)tokens[i].n,
                                      .max_new_tokens = s->max_new_tokens,
                                      .stop = stop.ids,
                                      .n_stop = stop.n,
                                      .sampling = {s->temperature, s->top_p, s->top_k, s->seed, i}};
        TRY_RETURN(engine_check(session->engine, &requests[i]));
    }
    TRY_RETURN(engine_generate(session->engine, requests, n, arena, results,
                               listener->on_token ? on_engine_token : NULL, listener));
    for (size_t i = 0; i < n; i++)
        TRY_RETURN(tane_decode(session->model, results[i].tokens, (size_t)results[i].n, &answers[i]));
    return TANE_OK;
}

tane_status tane_session_generate(tane_session *session, const char *const *prompts, size_t n,
                                  const tane_sampling *sampling, tane_token_callback on_token, void *user,
                                  char **answers) {
    Status st = TANE_OK;
    Arena arena = {0};
    TokenList *tokens = NULL;
    Listener listener = {.tokenizer = session->model->open.tokenizer, .on_token = on_token, .user = user};
    for (size_t i = 0; i < n; i++) answers[i] = NULL;
    TRY(MEM_NEW_ARRAY(&tokens, n));
    TRY(generate(session, prompts, n, sampling, &listener, &arena, tokens, answers));
out:
    for (size_t i = 0; tokens && i < n; i++) token_list_free(&tokens[i]);
    mem_free(tokens);
    str_free(&listener.text);
    arena_release(&arena);
    for (size_t i = 0; st != TANE_OK && i < n; i++) {
        mem_free(answers[i]);
        answers[i] = NULL;
    }
    return st;
}

tane_status tane_evaluate(const tane_model *model, const char *path, int64_t limit, int64_t *right, int64_t *total) {
    Status st = TANE_OK;
    Questions *questions = NULL;
    MatchReport report = {0};
    TRY(questions_load(&questions, &path, 1, model->open.tokenizer, limit, false));
    TRY(exact_match(questions, model->open.model, &(ExactMatchOptions){0}, &report));
    *right = report.right;
    *total = report.total;
out:
    match_report_free(&report);
    questions_free(questions);
    return st;
}

/* ----------------------------------------------------------------------------------------------------- runs */

struct tane_run {
    TrainOptions config;
    OptionSet options;
    char *recipe;
};

tane_status tane_run_open(tane_run **out, const char *recipe) {
    Status st = TANE_OK;
    TRY_RETURN(MEM_NEW(out));
    TRY(option_init(&(*out)->options, &train_options, &(*out)->config));
    if (recipe) {
        TRY(mem_strdup(&(*out)->recipe, recipe));
        TRY(option_load_yaml(&(*out)->options, recipe));
    }
out:
    if (st != TANE_OK) {
        tane_run_close(*out);
        *out = NULL;
    }
    return st;
}

void tane_run_close(tane_run *run) {
    if (!run) return;
    option_release(&run->options);
    mem_free(run->recipe);
    mem_free(run);
}

OptionSet *tane_run_options(tane_run *run) { return &run->options; }

tane_status tane_run_set(tane_run *run, const char *option, const char *value) {
    return option_set(&run->options, option, value, "tane_run_set");
}

static Status check_files(const tane_run *run) {
    if (run->config.train_files.n) return TANE_OK;
    return FAIL(TANE_EINVAL, "no train_files: nothing to train on; name a recipe, or set train_files");
}

tane_status tane_run_train(tane_run *run, const tane_run_callbacks *callbacks, tane_run_result *result) {
    TRY_RETURN(check_files(run));
    return train_run(&run->options, run->recipe, callbacks, result);
}

tane_status tane_run_plan(tane_run *run, tane_plan *plan) {
    TRY_RETURN(check_files(run));
    return train_plan(&run->options, run->recipe, plan);
}
