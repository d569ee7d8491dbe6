/* `tane chat`: a line, an answer, the next line. In a terminal with editing and history; otherwise line by line. With a
 * chat template the lines are one conversation; without, or with --template none, each is a prompt of its own. */
#include <errno.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/line_editor.h"
#include "cli/sampling.h"
#include "device/cpuinfo.h"
#include "infer/conversation.h"
#include "infer/stream.h"

typedef struct ChatConfig {
    const char *suffix, *template, *system, *chat_template_kwargs, *compute_dtype, *device, *tokenizer;
    int64_t threads;
    bool add_bos;
    SamplingConfig sampling;
} ChatConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    {#field, OPTION_##type, offsetof(ChatConfig, field), fallback, choices, lo, hi, group, help}

static const Option rows[] = {
    ROW(suffix, STRING, NULL, NULL, 0, 0, "Prompts", "added to lines that do not end with it, e.g. = for arithmetic"),
    ROW(add_bos, BOOL, "false", NULL, 0, 0, "Prompts", "begin each prompt with BOS, as the model was trained"),
    ROW(template, CHOICE, "auto", "auto|none", 0, 0, "Conversation",
        "auto: the model's chat template where it has one; none: each line is a prompt"),
    ROW(system, STRING, NULL, NULL, 0, 0, "Conversation", "what the model is told in front of the conversation"),
    ROW(chat_template_kwargs, STRING, NULL, NULL, 0, 0, "Conversation",
        "more variables for the template, as JSON: {\"enable_thinking\": false}"),
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
static const char *const changeable[] = {"temperature", "top_k", "top_p", "seed", "max_new_tokens", "suffix", "system"};
enum { CHANGEABLE = sizeof changeable / sizeof *changeable };

typedef struct Chat {
    OptionSet *set;
    ChatConfig *config, first; /* first: as the command line said */
    OpenModel open;
    Engine *engine;
    StopTokens stop;
    uint64_t turn;             /* each draws anew */
    Conversation talk;         /* with a chat template */
    bool interactive, quit, templated;
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

static Status prompt_of(Chat *chat, const char *line, size_t n, TokenList *tokens) {
    Status st = TANE_OK;
    if (chat->templated) {
        TRY_RETURN(conversation_add(&chat->talk, "user", line, n));
        return conversation_prompt(&chat->talk, tokens);
    }
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
    size_t before = json_array_size(chat->talk.messages);
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
    if (chat->templated) {
        const char *said = text_stream_answer(&a.stream, &piece_n);
        TRY(conversation_add(&chat->talk, "assistant", said, piece_n));
    }
out:
    /* What was not answered was not said. */
    if (st != TANE_OK && chat->templated && json_array_size(chat->talk.messages) > before)
        conversation_take_back(&chat->talk);
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

static void show_help(const Chat *chat) {
    fputs(chat->templated ? "Each line is what you say; the model remembers the conversation.\n"
                            "  /system TEXT     what the model is told in front; begins a new conversation\n"
                          : "Each line is a prompt; the model goes on from it.\n"
                            "  /suffix TEXT     added to lines that do not end with it; without TEXT: nothing\n",
          stderr);
    fputs(
          "  /temperature X   0: always the most probable; 1: as the model says\n"
          "  /top-k N  /top-p X  /seed N  /max-new-tokens N\n"
          "  /settings        show all of these\n"
          "  /reset           as at the beginning, with nothing said\n"
          "  /help  /quit     Ctrl-D quits, too; Ctrl-C stops an answer\n",
          stderr);
}

/* Nothing said yet. */
static Status begin_talk(Chat *chat) {
    const ChatConfig *c = chat->config;
    conversation_end(&chat->talk);
    return chat->templated ? conversation_begin(&chat->talk, &chat->open, c->system, c->chat_template_kwargs) : TANE_OK;
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
            return strcmp(key, "system") ? TANE_OK : begin_talk(chat);
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
        show_help(chat);
    } else if (strcmp(name, "quit") == 0 || strcmp(name, "exit") == 0) {
        chat->quit = true;
    } else if (strcmp(name, "settings") == 0) {
        show_settings(chat->config);
    } else if (strcmp(name, "reset") == 0) {
        *chat->config = chat->first;
        chat->turn = 0;
        show_settings(chat->config);
        return begin_talk(chat);
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
    chat->templated = chat->open.chat && strcmp(chat->config->template, "none");
    TRY_RETURN(begin_talk(chat));
    TRY_RETURN(engine_new(&chat->engine, chat->open.model, 1, 0));
    engine_set_vocab(chat->engine, tokenizer_vocab_size(chat->open.tokenizer));
    if (!chat->interactive) return talk_in_pipe(chat);
    sigaction(SIGINT, &action, NULL);
    fprintf(stderr,
            chat->templated ? "%s, %s. Say something; /help tells more.\n"
                            : "%s, %s. It has no chat template: each line is a prompt, and it goes on from there. /help "
                              "tells more.\n",
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
    conversation_end(&chat.talk);
    engine_free(chat.engine);
    open_model_close(&chat.open);
    option_release(&set);
    return st;
}

const Command cmd_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .usage = "tane chat MODEL [options]",
    .examples = "  tane chat SmolLM2-135M-Instruct.gguf --temperature 0.7\n"
                "  tane chat quickstart --suffix =       type 12+(-34), read -22\n"
                "  tane chat runs/story/best --temperature 0.8 --top-k 50\n"
                "  tane chat quickstart < problems.txt   an answer a line\n",
    .options = &table,
    .details =
        "MODEL is a model folder, a .gguf file, a run's folder (its best checkpoint, else its last), or the name of a run\n"
        "in runs/. A model with a chat template is told the whole conversation through it; others get each line alone.\n"
        "In a terminal, Ctrl-C stops an answer, Ctrl-D ends the conversation, and /help lists what can be changed.\n",
    .run = run,
};
