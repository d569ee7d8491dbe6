/* `tane chat`: a line, an answer, the next line. In a terminal with editing and history; otherwise line by line. */
#include <errno.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/line_editor.h"
#include "cli/sampling.h"
#include "device/cpuinfo.h"
#include "infer/stream.h"

typedef struct ChatConfig {
    const char *suffix, *compute_dtype, *device, *tokenizer;
    int64_t threads;
    bool add_bos;
    SamplingConfig sampling;
} ChatConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(ChatConfig, field), fallback, choices, lo, hi, group, help}

static const Option rows[] = {
    ROW(suffix, STRING, NULL, NULL, 0, 0, "Prompts", "added to lines that do not end with it, e.g. = for arithmetic"),
    ROW(add_bos, BOOL, "false", NULL, 0, 0, "Prompts", "begin each prompt with BOS, as the model was trained"),
    SAMPLING_ROWS(ChatConfig, "0"),
    ROW(device, STRING, "auto", NULL, 0, 0, "Machine", "auto, cpu or cuda:N"),
    ROW(compute_dtype, CHOICE, "auto", "auto|fp32|bf16|fp16", 0, 0, "Machine",
        "type of matrix products; auto: bf16 where that is fast"),
    ROW(tokenizer, STRING, NULL, NULL, 0, 0, "Machine", "tokenizer file or folder; default: the model's own"),
    ROW(threads, INT, "0", NULL, 0, 4096, "Machine", "threads to use; 0: all cores this process may use"),
};
#undef ROW

static const OptionTable table = {"tane chat", rows, sizeof rows / sizeof *rows};

/* What can be changed between two lines. */
static const char *const changeable[] = {"temperature", "top_k", "top_p", "seed", "max_new_tokens", "suffix"};
enum { CHANGEABLE = sizeof changeable / sizeof *changeable };

typedef struct Chat {
    OptionSet *set;
    ChatConfig *config, first; /* first: as the command line said */
    OpenModel open;
    Engine *engine;
    StopTokens stop;
    uint64_t turn;             /* each draws anew */
    bool interactive, quit;
} Chat;

static volatile sig_atomic_t interrupted;
static void on_signal(int signal) {
    (void)signal;
    interrupted = 1;
}

/* ---- an answer ---- */

typedef struct Answering {
    TextStream stream;
} Answering;

static Status on_token(void *user, const EngineResult *so_far, bool *stop) {
    Answering *a = user;
    const char *piece;
    size_t n;
    TRY_RETURN(text_stream_feed(&a->stream, so_far->tokens, (size_t)so_far->n, false, &piece, &n));
    fwrite(piece, 1, n, stdout);
    fflush(stdout);
    *stop = a->stream.stopped || interrupted;
    return TANE_OK;
}

static void tell_why_it_ended(const Chat *chat, const EngineResult *r, bool stopped) {
    if (!chat->interactive) return;
    if (r->reason == ENGINE_LENGTH) fprintf(stderr, "(cut after %lld tokens: /max-new-tokens)\n", (long long)r->n);
    if (r->reason == ENGINE_CONTEXT)
        fprintf(stderr, "(cut: the model's context of %lld tokens is full)\n", (long long)engine_context(chat->engine));
    if (r->reason == ENGINE_CALLER && !stopped) fprintf(stderr, "(interrupted)\n");
}

static Status prompt_of(const Chat *chat, const char *line, size_t n, TokenList *tokens) {
    Status st = TANE_OK;
    Str prompt = {0};
    const char *suffix = chat->config->suffix ? chat->config->suffix : "";
    size_t k = strlen(suffix);
    bool has = n >= k && memcmp(line + n - k, suffix, k) == 0;
    TRY(str_printf(&prompt, "%.*s%s", (int)n, line, has ? "" : suffix));
    TRY(prompt_encode(chat->open.tokenizer, prompt.text, prompt.len, chat->config->add_bos, tokens));
out:
    str_free(&prompt);
    return st;
}

static Status answer(Chat *chat, const char *line, size_t n) {
    Status st = TANE_OK;
    TokenList prompt = {0};
    Answering a = {0};
    Arena arena = {0};
    EngineResult result;
    const StringList *stop = &chat->config->sampling.stop;
    TRY(prompt_of(chat, line, n, &prompt));
    EngineRequest request = sampling_request(&chat->config->sampling, &prompt, &chat->stop, chat->turn);
    TRY(engine_check(chat->engine, &request));
    TRY(text_stream_begin(&a.stream, chat->open.tokenizer, prompt.ids, prompt.n, stop->items, stop->n));
    interrupted = 0;
    TRY(engine_generate(chat->engine, &request, 1, &arena, &result, on_token, &a));
    const char *piece;
    size_t piece_n;
    TRY(text_stream_feed(&a.stream, result.tokens, (size_t)result.n, true, &piece, &piece_n));
    fwrite(piece, 1, piece_n, stdout);
    fputc('\n', stdout);
    fflush(stdout);
    tell_why_it_ended(chat, &result, a.stream.stopped);
    chat->turn++;
out:
    interrupted = 0;
    text_stream_free(&a.stream);
    token_list_free(&prompt);
    arena_release(&arena);
    return st;
}

/* ---- lines that begin with / ---- */

static void show_settings(const ChatConfig *c) {
    fprintf(stderr, "temperature %g, top-k %lld, top-p %g, seed %lld, max-new-tokens %lld, suffix \"%s\"\n",
            c->sampling.temperature, (long long)c->sampling.top_k, c->sampling.top_p, (long long)c->sampling.seed,
            (long long)c->sampling.max_new_tokens, c->suffix ? c->suffix : "");
}

static void show_help(void) {
    fputs("Each line is a prompt; the model goes on from it.\n"
          "  /temperature X   0: always the most probable; 1: as the model says\n"
          "  /top-k N  /top-p X  /seed N  /max-new-tokens N\n"
          "  /suffix TEXT     added to lines that do not end with it; without TEXT: nothing\n"
          "  /settings        show all of these\n"
          "  /reset           as at the beginning\n"
          "  /help  /quit     Ctrl-D quits, too; Ctrl-C stops an answer\n",
          stderr);
}

/* "/top-k 5": the same rows, checks and messages as on the command line. */
static Status change(Chat *chat, const char *name, const char *value) {
    const char *words[CHANGEABLE + 4] = {"help", "quit", "reset", "settings"};
    char key[64];
    snprintf(key, sizeof key, "%s", name);
    for (char *c = key; *c; c++)
        if (*c == '-') *c = '_';
    for (int i = 0; i < CHANGEABLE; i++) {
        if (strcmp(key, changeable[i]) == 0) {
            TRY_RETURN(option_set(chat->set, key, value, "chat"));
            show_settings(chat->config);
            return TANE_OK;
        }
        words[4 + i] = changeable[i];
    }
    const char *near = err_nearest(key, words, CHANGEABLE + 4);
    if (near) return FAIL(TANE_EINVAL, "/%s is not known; did you mean /%s?", name, near);
    return FAIL(TANE_EINVAL, "/%s is not known; /help lists what is", name);
}

static Status command(Chat *chat, const char *line) {
    char name[64];
    size_t n = strcspn(line + 1, " \t");
    const char *value = line + 1 + n;
    value += strspn(value, " \t");
    snprintf(name, sizeof name, "%.*s", (int)n, line + 1);
    if (strcmp(name, "help") == 0) {
        show_help();
    } else if (strcmp(name, "quit") == 0 || strcmp(name, "exit") == 0) {
        chat->quit = true;
    } else if (strcmp(name, "settings") == 0) {
        show_settings(chat->config);
    } else if (strcmp(name, "reset") == 0) {
        *chat->config = chat->first;
        chat->turn = 0;
        show_settings(chat->config);
    } else {
        return change(chat, name, value);
    }
    return TANE_OK;
}

/* One line, without its end. What the user can put right is shown and does not end the conversation. */
static Status take_line(Chat *chat, const char *line, size_t n) {
    if (n == 0) return TANE_OK;
    Status st = line[0] == '/' ? command(chat, line) : answer(chat, line, n);
    if (st != TANE_EINVAL || !chat->interactive) return st;
    fprintf(stderr, "%s\n", err_message());
    return TANE_OK;
}

/* ---- reading ---- */

static Status talk_in_terminal(Chat *chat) {
    Status st = TANE_OK;
    LineEditor *editor;
    LineEvent event;
    const char *line;
    TRY_RETURN(line_editor_new(&editor, "> "));
    while (!chat->quit) {
        interrupted = 0;
        TRY(line_editor_read(editor, &event, &line));
        if (event == LINE_TEXT)
            TRY(take_line(chat, line, strlen(line)));
        else
            fputc('\n', stdout);
        if (event == LINE_END) break;
    }
out:
    line_editor_free(editor);
    return st;
}

static Status talk_in_pipe(Chat *chat) {
    Status st = TANE_OK;
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; !chat->quit && !interrupted && (n = getline(&line, &cap, stdin)) >= 0;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        TRY(take_line(chat, line, (size_t)n));
    }
    if (ferror(stdin) && !interrupted) st = FAIL(TANE_EIO, "could not read standard input: %s", strerror(errno));
out:
    free(line); /* getline's own */
    return st;
}

static Status talk(Chat *chat) {
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: it ends a read */
    chat->interactive = cli_is_terminal(stdin);
    chat->stop = stop_tokens(&chat->open);
    chat->first = *chat->config;
    TRY_RETURN(engine_new(&chat->engine, chat->open.model, 1, 0));
    engine_set_vocab(chat->engine, tokenizer_vocab_size(chat->open.tokenizer));
    if (!chat->interactive) return talk_in_pipe(chat);
    sigaction(SIGINT, &action, NULL);
    fprintf(stderr,
            "%s, %s. It has no chat template: each line is a prompt, and it goes on from there. /help tells more.\n",
            chat->open.folder, dtype_name(chat->open.model->dtype));
    return talk_in_terminal(chat);
}

static Status run(const Command *self, int argc, char **argv) {
    ChatConfig config;
    OptionSet set;
    StringList words;
    Chat chat = {.set = &set, .config = &config};
    TRY_RETURN(option_init(&set, self->options, &config));
    Status st = TANE_OK;
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n != 1) TRY(cli_usage(self, words.n ? "one model at a time, please" : "which model?"));
    omp_set_num_threads(config.threads ? (int)config.threads : cpu_info()->cores);
    TRY(open_model(&chat.open, words.items[0], config.compute_dtype, config.device, config.tokenizer));
    TRY(talk(&chat));
out:
    engine_free(chat.engine);
    open_model_close(&chat.open);
    option_release(&set);
    return st;
}

const Command cmd_chat = {
    .name = "chat",
    .summary = "ask a model questions, line by line",
    .usage = "tane chat MODEL [options]",
    .examples = "  tane chat quickstart --suffix =       type 12+(-34), read -22\n"
                "  tane chat runs/story/best --temperature 0.8 --top-k 50\n"
                "  tane chat quickstart < problems.txt   an answer a line\n",
    .options = &table,
    .details =
        "MODEL is a model folder, a run's folder (its best checkpoint, else its last), or the name of a run in runs/.\n"
        "In a terminal, Ctrl-C stops an answer, Ctrl-D ends the conversation, and /help lists what can be changed.\n",
    .run = run,
};
