/* `tane generate`: goes on from prompts, several at once; a single one is shown as it grows. */
#include <inttypes.h>
#include <limits.h>
#include <omp.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/sampling.h"
#include "device/cpuinfo.h"
#include "infer/stream.h"

enum { MAX_PROMPT_BYTES = 64 << 20, MOST_SLOTS = 256 };

typedef struct GenerateConfig {
    const char *prompt, *prompt_file, *compute_dtype, *device, *tokenizer;
    int64_t num, threads;
    bool add_bos, echo, json;
    SamplingConfig sampling;
} GenerateConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(GenerateConfig, field), fallback, choices, lo, hi, group, help}

static const Option rows[] = {
    ROW(prompt, STRING, NULL, NULL, 0, 0, "Prompts", "text to go on from; - is all of standard input"),
    ROW(prompt_file, STRING, NULL, NULL, 0, 0, "Prompts", "file with a prompt on each line; - is standard input"),
    ROW(num, INT, "1", NULL, 1, 1e6, "Prompts", "answers to each prompt, each drawn anew"),
    ROW(add_bos, BOOL, "false", NULL, 0, 0, "Prompts", "begin each prompt with BOS, as the model was trained"),
    SAMPLING_ROWS(GenerateConfig, "1"),
    ROW(echo, BOOL, "true", NULL, 0, 0, "Output", "print the prompt in front of the answer"),
    ROW(json, BOOL, "false", NULL, 0, 0, "Output", "print one JSON object a line and answer"),
    ROW(device, STRING, "auto", NULL, 0, 0, "Machine", "auto, cpu or cuda:N"),
    ROW(compute_dtype, CHOICE, "auto", "auto|fp32|bf16|fp16", 0, 0, "Machine",
        "type of matrix products; auto: bf16 where that is fast"),
    ROW(tokenizer, STRING, NULL, NULL, 0, 0, "Machine", "tokenizer file or folder; default: the model's own"),
    ROW(threads, INT, "0", NULL, 0, 4096, "Machine", "threads to use; 0: all cores this process may use"),
};
#undef ROW

static const OptionTable table = {"tane generate", rows, sizeof rows / sizeof *rows};

/* ---- prompts ---- */

typedef struct Prompt {
    const char *text;
    size_t n;
    TokenList tokens;
} Prompt;

typedef struct Prompts {
    Prompt *items;
    size_t n, cap;
    Arena arena;
} Prompts;

static Status add_prompt(Prompts *p, const char *text, size_t n) {
    char *copy;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 16;
        TRY_RETURN(mem_grow((void **)&p->items, p->cap, cap, sizeof *p->items));
        p->cap = cap;
    }
    TRY_RETURN(ARENA_NEW_ARRAY(&p->arena, &copy, n + 1));
    if (n) memcpy(copy, text, n);
    p->items[p->n++] = (Prompt){.text = copy, .n = n};
    return TANE_OK;
}

static void free_prompts(Prompts *p) {
    for (size_t i = 0; i < p->n; i++) token_list_free(&p->items[i].tokens);
    arena_release(&p->arena);
    mem_free(p->items);
}

static Status read_stdin(Str *out) {
    char bytes[65536];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, stdin)) > 0;) {
        TRY_RETURN(str_add(out, bytes, n));
        if (out->len > MAX_PROMPT_BYTES)
            return FAIL(TANE_EINVAL, "standard input: more than %d bytes of prompt", MAX_PROMPT_BYTES);
    }
    return ferror(stdin) ? FAIL(TANE_EIO, "could not read standard input") : TANE_OK;
}

static Status add_lines(Prompts *p, const char *text, size_t n, const char *where) {
    size_t before = p->n;
    for (size_t at = 0, end; at < n; at = end + 1) {
        const char *newline = memchr(text + at, '\n', n - at);
        end = newline ? (size_t)(newline - text) : n;
        size_t length = end - at;
        if (length > 0 && text[at + length - 1] == '\r') length--;
        if (length > 0) TRY_RETURN(add_prompt(p, text + at, length));
    }
    return p->n > before ? TANE_OK : FAIL(TANE_EINVAL, "%s has no prompts: each line is one", where);
}

static Status read_prompt_file(Prompts *p, const char *path) {
    Status st = TANE_OK;
    Str input = {0};
    char *data = NULL;
    size_t n;
    if (strcmp(path, "-") == 0) {
        TRY(read_stdin(&input));
        TRY(add_lines(p, input.text ? input.text : "", input.len, "standard input"));
    } else {
        TRY(file_read(path, MAX_PROMPT_BYTES, &data, &n));
        TRY(add_lines(p, data, n, path));
    }
out:
    str_free(&input);
    mem_free(data);
    return st;
}

static Status read_prompt_stdin(Prompts *p) {
    Str input = {0};
    Status st = read_stdin(&input);
    size_t n = input.len;
    if (n > 0 && input.text[n - 1] == '\n') n--; /* the one that echo or an editor added */
    if (st == TANE_OK) st = add_prompt(p, input.text ? input.text : "", n);
    str_free(&input);
    return st;
}

static Status read_prompts(const Command *self, const GenerateConfig *c, const StringList *words, Prompts *p) {
    if (c->prompt && c->prompt_file) return cli_usage(self, "--prompt and --prompt-file: one of the two, please");
    if (!c->prompt && !c->prompt_file && words->n < 2)
        return cli_usage(self, "which prompt? --prompt TEXT, or --prompt-file FILE with one a line");
    if (c->prompt)
        TRY_RETURN(strcmp(c->prompt, "-") ? add_prompt(p, c->prompt, strlen(c->prompt)) : read_prompt_stdin(p));
    for (size_t i = 1; i < words->n; i++) TRY_RETURN(add_prompt(p, words->items[i], strlen(words->items[i])));
    return c->prompt_file ? read_prompt_file(p, c->prompt_file) : TANE_OK;
}

static Status encode_prompts(const GenerateConfig *c, const OpenModel *open, Prompts *p, int64_t *longest) {
    *longest = 0;
    for (size_t i = 0; i < p->n; i++) {
        Prompt *item = &p->items[i];
        TRY_RETURN(prompt_encode(open->tokenizer, item->text, item->n, c->add_bos, &item->tokens));
        if (item->tokens.n == 0)
            return FAIL(TANE_EINVAL, "prompt %zu is empty: there is nothing to go on from%s", i + 1,
                        tokenizer_bos(open->tokenizer) >= 0 ? " (--add-bos begins it with BOS)" : "");
        if ((int64_t)item->tokens.n > *longest) *longest = (int64_t)item->tokens.n;
    }
    return TANE_OK;
}

/* ---- answers ---- */

typedef struct Answers {
    const GenerateConfig *c;
    Prompts *prompts;
    TextStream *streams;   /* one a request */
    bool live;             /* a single answer, on a terminal */
} Answers;

static void show_prompt(const Prompt *p, bool colour) {
    if (colour) fputs("\033[2m", stdout);
    fwrite(p->text, 1, p->n, stdout);
    if (colour) fputs("\033[0m", stdout);
}

static Status on_token(void *user, const EngineResult *so_far, bool *stop) {
    Answers *a = user;
    TextStream *s = &a->streams[so_far->id];
    const char *piece;
    size_t n;
    if (!a->live && a->c->sampling.stop.n == 0) return TANE_OK;
    TRY_RETURN(text_stream_feed(s, so_far->tokens, (size_t)so_far->n, false, &piece, &n));
    *stop = s->stopped;
    if (!a->live) return TANE_OK;
    fwrite(piece, 1, n, stdout);
    fflush(stdout);
    return TANE_OK;
}

static Status print_json(const Prompt *p, const EngineResult *r, const char *text, size_t n) {
    Status st = TANE_OK;
    Str line = {0};
    double logprob = 0;
    for (int64_t i = 0; i < r->n; i++) logprob += (double)r->logprobs[i];
    TRY(str_printf(&line, "{\"prompt\":"));
    TRY(json_write_text(&line, p->text, p->n));
    TRY(str_printf(&line, ",\"completion\":"));
    TRY(json_write_text(&line, text, n));
    TRY(str_printf(
        &line, ",\"finish_reason\":\"%s\",\"prompt_tokens\":%zu,\"completion_tokens\":%" PRId64 ",\"logprob\":%.6g}\n",
        engine_reason_name(r->reason), p->tokens.n, r->n, logprob));
    fputs(line.text, stdout);
out:
    str_free(&line);
    return st;
}

static Status print_answer(Answers *a, size_t i, const EngineResult *r) {
    const Prompt *p = &a->prompts->items[i / (size_t)a->c->num];
    TextStream *s = &a->streams[i];
    const char *piece;
    size_t n;
    TRY_RETURN(text_stream_feed(s, r->tokens, (size_t)r->n, true, &piece, &n));
    if (a->live) {
        fwrite(piece, 1, n, stdout);
        fputc('\n', stdout);
        return TANE_OK;
    }
    const char *text = text_stream_answer(s, &n);
    if (a->c->json) return print_json(p, r, text, n);
    if (a->c->echo) show_prompt(p, cli_colour(stdout));
    fwrite(text, 1, n, stdout);
    fputc('\n', stdout);
    return TANE_OK;
}

static Status answer_all(Answers *a, const OpenModel *open, Engine *e, Arena *arena) {
    const GenerateConfig *c = a->c;
    size_t num = (size_t)c->num, n = a->prompts->n * num;
    StopTokens stop = stop_tokens(open);
    EngineRequest *requests;
    EngineResult *results;
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &requests, n));
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &results, n));
    TRY_RETURN(ARENA_NEW_ARRAY(arena, &a->streams, n));
    for (size_t i = 0; i < n; i++) {
        const TokenList *tokens = &a->prompts->items[i / num].tokens;
        requests[i] = sampling_request(&c->sampling, tokens, &stop, i);
        TRY_RETURN(engine_check(e, &requests[i]));
        TRY_RETURN(text_stream_begin(&a->streams[i], open->tokenizer, tokens->ids, tokens->n, c->sampling.stop.items,
                                     c->sampling.stop.n));
    }
    if (a->live && c->echo) show_prompt(&a->prompts->items[0], cli_colour(stdout));
    Status st = engine_generate(e, requests, n, arena, results, on_token, a);
    for (size_t i = 0; i < n && st == TANE_OK; i++) st = print_answer(a, i, &results[i]);
    return st;
}

static Status generate(const GenerateConfig *c, const OpenModel *open, Prompts *prompts) {
    Status st = TANE_OK;
    Engine *e = NULL;
    Arena arena = {0};
    int64_t longest, context = open->model->config.context, most = c->sampling.max_new_tokens;
    size_t n = prompts->n * (size_t)c->num;
    Answers a = {.c = c, .prompts = prompts, .live = n == 1 && !c->json && cli_is_terminal(stdout)};
    TRY(encode_prompts(c, open, prompts, &longest));
    if (longest <= context && most <= context - longest) context = longest + most;
    int64_t slots =
        engine_slots_within(open->model, context, (size_t)512 << 20, n < MOST_SLOTS ? (int64_t)n : MOST_SLOTS);
    TRY(engine_new(&e, open->model, slots, context));
    engine_set_vocab(e, tokenizer_vocab_size(open->tokenizer));
    TRY(answer_all(&a, open, e, &arena));
out:
    for (size_t i = 0; a.streams && i < n; i++) text_stream_free(&a.streams[i]);
    engine_free(e);
    arena_release(&arena);
    return st;
}

static Status run(const Command *self, int argc, char **argv) {
    GenerateConfig config;
    OptionSet set;
    StringList words;
    OpenModel open = {0};
    Prompts prompts = {0};
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = TANE_OK;
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n == 0) TRY(cli_usage(self, "which model?"));
    TRY(read_prompts(self, &config, &words, &prompts));
    omp_set_num_threads(config.threads ? (int)config.threads : cpu_info()->cores);
    TRY(open_model(&open, words.items[0], config.compute_dtype, config.device, config.tokenizer));
    TRY(generate(&config, &open, &prompts));
out:
    free_prompts(&prompts);
    open_model_close(&open);
    option_release(&set);
    return st;
}

const Command cmd_generate = {
    .name = "generate",
    .summary = "let a model go on from a prompt",
    .usage = "tane generate MODEL --prompt TEXT [options]",
    .examples =
        "  tane generate quickstart --prompt '12+(-34)=' --temperature 0      the answer it finds most probable\n"
        "  tane generate story --prompt 'Once upon a time' --top-k 50 --num 3  three stories\n"
        "  tane generate quickstart --prompt-file problems.txt --json         a prompt a line, all in one batch\n"
        "  echo '1+1=' | tane generate quickstart --prompt -\n",
    .options = &table,
    .details =
        "MODEL is a model folder, a run's folder (its best checkpoint, else its last), or the name of a run in runs/.\n"
        "Words behind it are prompts, too. An answer ends at EOS, at a stop text, after --max-new-tokens, or where\n"
        "the model's context is full. It does not depend on which other prompts are answered beside it.\n",
    .run = run,
};
