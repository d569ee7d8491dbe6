/* Rows to tokens: texts, pairs of prompt and answer, conversations.
 *
 * Prompt and answer of a pair are tokenized separately and joined, so the first trained token is exactly the answer's
 * first, and what stands in front of it is what stands there when the model is asked. Conversations: data/row_turns.h.
 */
#include "data/row_format.h"

#include <string.h>
#include <time.h>

#include "data/row_columns.h"
#include "data/row_messages.h"
#include "data/row_turns.h"
#include "text/utf8.h"

struct RowFormat {
    RowFormatOptions o; /* its texts are in columns.arena; "" where the option was NULL */
    RowColumns columns;
};

struct RowScratch {
    JsonlScratch json;
    Str prompt; /* a prompt that is put together from several texts */
    Turns turns;
};

/* A row being encoded. */
typedef struct Reading {
    const RowFormat *format;
    const JsonlLine *line;
    RowScratch *scratch;
    JsonlField fields[N_KEYS];
    RowKind kind;
    size_t added; /* system messages put in front of the row's own */
} Reading;

/* ---- options ---- */

static Status copy_text(RowFormat *f, const char **text, const char *name) {
    char *copy;
    TRY_RETURN(arena_strdup(&f->columns.arena, &copy, *text ? *text : ""));
    *text = copy;
    if (utf8_valid(copy, strlen(copy)) == strlen(copy)) return TANE_OK;
    return FAIL(TANE_EINVAL, "%s is not valid UTF-8 text", name);
}

static Status check_options(const RowFormatOptions *o) {
    if (o->add_eos && tokenizer_eos(o->tokenizer) < 0)
        return FAIL(TANE_EINVAL, "the tokenizer has no end-of-text token, so the model could not learn where to stop; "
                                 "use one that has it (`tane tokenizer train` makes one), or set add_eos to false");
    if (o->chat_prompts && !o->chat)
        return FAIL(TANE_EINVAL,
                    "chat_prompts needs a chat template, and the tokenizer's folder has none: use an instruct "
                    "model's tokenizer, put a chat_template.jinja there, or set chat_prompts to false");
    if (o->chat_prompts && o->separator && *o->separator)
        return FAIL(TANE_EINVAL,
                    "separator and chat_prompts exclude each other: with chat_prompts the template writes what "
                    "stands between prompt and answer");
    return TANE_OK;
}

Status row_format_new(RowFormat **out, const RowFormatOptions *options) {
    Status st = TANE_OK;
    RowFormat *f;
    *out = NULL;
    TRY_RETURN(check_options(options));
    TRY_RETURN(MEM_NEW(&f));
    f->o = *options;
    TRY(row_columns_init(&f->columns, options->format, options->columns));
    TRY(copy_text(f, &f->o.system, "system"));
    TRY(copy_text(f, &f->o.prompt_suffix, "prompt_suffix"));
    TRY(copy_text(f, &f->o.separator, "separator"));
    if (f->o.now == 0) f->o.now = (int64_t)time(NULL);
    *out = f;
    return TANE_OK;
out:
    row_format_free(f);
    return st;
}

_Static_assert((int)N_KEYS <= (int)ROW_FORMAT_KEYS, "row_format_keys gives all keys");
size_t row_format_keys(const RowFormat *format, const char *names[ROW_FORMAT_KEYS]) {
    return row_columns_names(&format->columns, names);
}

void row_format_free(RowFormat *f) {
    if (!f) return;
    row_columns_free(&f->columns);
    mem_free(f);
}

Status row_scratch_new(RowScratch **out) { return MEM_NEW(out); }

void row_scratch_free(RowScratch *s) {
    if (!s) return;
    jsonl_scratch_free(&s->json);
    str_free(&s->prompt);
    turns_free(&s->turns);
    mem_free(s);
}

void row_tokens_free(RowTokens *tokens) {
    token_list_free(&tokens->list);
    mem_free(tokens->mask);
    *tokens = (RowTokens){0};
}

/* ---- tokens with their mask ---- */

static Status reserve_mask(RowTokens *out) {
    if (out->mask_cap >= out->list.cap) return TANE_OK;
    TRY_RETURN(mem_grow((void **)&out->mask, out->mask_cap, out->list.cap, 1));
    out->mask_cap = out->list.cap;
    return TANE_OK;
}

/* tokens[from..) are trained on or not. */
static Status mark(RowTokens *out, size_t from, bool trained) {
    TRY_RETURN(reserve_mask(out));
    if (out->list.n > from) memset(out->mask + from, trained, out->list.n - from);
    return TANE_OK;
}

static Status add_bos(const RowFormat *f, TokenList *list) {
    if (!f->o.add_bos || tokenizer_bos(f->o.tokenizer) < 0) return TANE_OK;
    return token_list_add(list, tokenizer_bos(f->o.tokenizer));
}

static Status add_eos(const RowFormat *f, TokenList *list) {
    return f->o.add_eos ? token_list_add(list, tokenizer_eos(f->o.tokenizer)) : TANE_OK;
}

/* ---- texts of fields ---- */

/* Decoded, until the next call. */
static Status get_text(Reading *r, RowKey key, const char **text, size_t *n) {
    const JsonlField *field = &r->fields[key];
    if (field->kind != JSONL_STRING) return row_columns_wrong(&r->format->columns, r->line, r->kind, field, "text");
    return jsonl_text(field, &r->scratch->json, text, n);
}

/* The same of a key that need not be there: then, and when it is null, the text is empty. */
static Status get_optional(Reading *r, RowKey key, const char **text, size_t *n) {
    *text = "";
    *n = 0;
    return r->fields[key].kind == JSONL_ABSENT || r->fields[key].kind == JSONL_NULL ? TANE_OK
                                                                                    : get_text(r, key, text, n);
}

static Status add_text(Reading *r, RowKey key) {
    const char *text;
    size_t n;
    TRY_RETURN(get_text(r, key, &text, &n));
    return str_add(&r->scratch->prompt, text, n);
}

static Status add_words(Str *s, const char *words) { return str_add(s, words, strlen(words)); }

/* Alpaca as Stanford trained it; in a conversation the user's words alone. */
static Status alpaca_prompt(Reading *r) {
    Str *s = &r->scratch->prompt;
    const bool chat = r->format->o.chat_prompts;
    const char *input, *suffix = r->format->o.prompt_suffix;
    size_t n;
    TRY_RETURN(get_optional(r, KEY_INPUT, &input, &n));
    const bool has_input = n > 0;
    if (!chat)
        TRY_RETURN(str_printf(s,
                              "Below is an instruction that describes a task%s. Write a response that appropriately "
                              "completes the request.\n\n### Instruction:\n",
                              has_input ? ", paired with an input that provides further context" : ""));
    TRY_RETURN(add_text(r, KEY_INSTRUCTION));
    if (has_input) {
        TRY_RETURN(add_words(s, chat ? "\n\n" : "\n\n### Input:\n"));
        TRY_RETURN(add_text(r, KEY_INPUT));
    }
    TRY_RETURN(add_words(s, suffix));
    return chat ? TANE_OK : add_words(s, "\n\n### Response:");
}

/* The prompt's text, with suffix and separator, until the next call. */
static Status prompt_text(Reading *r, const char **text, size_t *n) {
    const RowFormatOptions *o = &r->format->o;
    const RowKey key = r->kind == ROW_QUESTION ? KEY_QUESTION : KEY_PROMPT;
    Str *s = &r->scratch->prompt;
    if (r->kind != ROW_ALPACA && !*o->prompt_suffix && !*o->separator) return get_text(r, key, text, n);
    s->len = 0;
    if (r->kind == ROW_ALPACA) {
        TRY_RETURN(alpaca_prompt(r));
    } else {
        TRY_RETURN(add_text(r, key));
        TRY_RETURN(add_words(s, o->prompt_suffix));
    }
    TRY_RETURN(add_words(s, o->separator));
    *text = s->text;
    *n = s->len;
    return TANE_OK;
}

static RowKey answer_key(RowKind kind) {
    return kind == ROW_ALPACA ? KEY_OUTPUT : kind == ROW_QUESTION ? KEY_ANSWER : KEY_COMPLETION;
}

/* ---- conversations ---- */

static Status in_line(const Reading *r, Status st) {
    return st == TANE_OK ? st : err_context("%s:%lld", r->line->path, (long long)r->line->number);
}

static Status need_template(const Reading *r, const JsonlField *field) {
    if (r->format->o.chat) return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "%s:%lld: \"%s\" is a conversation, which needs a chat template, and the tokenizer's folder has "
                "none: use an instruct model's tokenizer or put a chat_template.jinja there",
                r->line->path, (long long)r->line->number, field->key);
}

/* The row's own system message, else the option's where the conversation has none. */
static Status add_system(Reading *r, json_t *messages) {
    const char *text;
    size_t n;
    TRY_RETURN(get_optional(r, KEY_SYSTEM, &text, &n));
    const bool has = row_messages_have_system(messages);
    if (n && has)
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: \"%s\" is there, and the conversation has a system message of its own; keep one of "
                    "them",
                    r->line->path, (long long)r->line->number, r->fields[KEY_SYSTEM].key);
    if (n == 0 && !has) {
        text = r->format->o.system;
        n = strlen(text);
    }
    if (n == 0) return TANE_OK;
    r->added = 1;
    return row_messages_insert(messages, 0, "system", text, n);
}

/* The conversation of one field; with a second one, that one's messages behind it, *first being theirs. */
static Status read_messages(Reading *r, RowKey key, RowKey more, json_t **out, size_t *first) {
    Status st = TANE_OK;
    json_t *behind = NULL;
    TRY_RETURN(need_template(r, &r->fields[key]));
    TRY(in_line(r, (r->kind == ROW_SHAREGPT ? row_sharegpt_read : row_messages_read)(&r->fields[key], out)));
    if (more != N_KEYS) TRY(in_line(r, row_messages_read(&r->fields[more], &behind)));
    TRY(add_system(r, *out));
    *first = json_array_size(*out);
    if (behind && json_array_extend(*out, behind)) TRY(FAIL(TANE_ENOMEM, "out of memory for a conversation"));
out:
    json_decref(behind);
    return st;
}

/* What is trained on when only the last answer is. */
static size_t last_answer(const json_t *messages) {
    size_t i = json_array_size(messages);
    while (i && !row_message_is(json_array_get(messages, i - 1), "assistant")) i--;
    return i ? i - 1 : 0;
}

/* pair: of message lists, prompt and completion. */
static TurnsInput turns_input(const Reading *r, const json_t *messages, const json_t *tools, bool pair) {
    const RowFormatOptions *o = &r->format->o;
    return (TurnsInput){.chat = o->chat,
                        .tokenizer = o->tokenizer,
                        .messages = messages,
                        .tools = tools,
                        .added = r->added,
                        .now = o->now,
                        .all = o->loss == LOSS_ALL || (o->loss == LOSS_COMPLETION && !pair),
                        .add_eos = o->add_eos};
}

static Status append_turns(const Turns *turns, RowTokens *out) {
    const size_t from = out->list.n;
    for (size_t i = 0; i < turns->tokens.n; i++) TRY_RETURN(token_list_add(&out->list, turns->tokens.ids[i]));
    TRY_RETURN(reserve_mask(out));
    if (turns->tokens.n) memcpy(out->mask + from, turns->mask, turns->tokens.n);
    return TANE_OK;
}

/* key: where the messages are; more: N_KEYS, or where those to be trained on are. */
static Status encode_conversation(Reading *r, RowKey key, RowKey more, RowTokens *out) {
    Status st = TANE_OK;
    const RowFormat *f = r->format;
    json_t *messages = NULL, *tools = NULL;
    size_t first;
    TRY(read_messages(r, key, more, &messages, &first));
    TRY(in_line(r, row_tools_read(&r->fields[KEY_TOOLS], &r->scratch->json, &tools)));
    bool pair = more != N_KEYS;
    TurnsInput input = turns_input(r, messages, tools, pair);
    if (pair && f->o.loss != LOSS_ASSISTANT) input.first = first;
    if (!pair && f->o.loss == LOSS_LAST) input.first = last_answer(messages);
    TRY(in_line(r, turns_encode(&r->scratch->turns, &input)));
    TRY(append_turns(&r->scratch->turns, out));
out:
    json_decref(messages);
    json_decref(tools);
    return st;
}

/* ---- pairs ---- */

/* Both lists of messages, or both texts? */
static Status is_list_pair(Reading *r, bool *lists) {
    const JsonlField *prompt = &r->fields[KEY_PROMPT], *completion = &r->fields[KEY_COMPLETION];
    *lists = r->kind == ROW_PROMPT && prompt->kind == JSONL_ARRAY;
    if (*lists && completion->kind != JSONL_ARRAY)
        return row_columns_wrong(&r->format->columns, r->line, r->kind, completion,
                                 "a list of messages, as the prompt is");
    return TANE_OK;
}

/* The user's turn and the beginning of the assistant's. */
static Status encode_chat_prompt(Reading *r, const char *text, size_t n, TokenList *out) {
    Status st = TANE_OK;
    json_t *tools = NULL, *messages = json_array();
    if (!messages) return FAIL(TANE_ENOMEM, "out of memory for a conversation");
    TRY(row_messages_insert(messages, 0, "user", text, n));
    TRY(add_system(r, messages));
    TRY(in_line(r, row_tools_read(&r->fields[KEY_TOOLS], &r->scratch->json, &tools)));
    TurnsInput input = turns_input(r, messages, tools, true);
    TRY(in_line(r, turns_prompt(&r->scratch->turns, &input, out)));
out:
    json_decref(messages);
    json_decref(tools);
    return st;
}

/* What stands in front of the answer. */
static Status encode_prompt(Reading *r, TokenList *out) {
    const RowFormat *f = r->format;
    const char *text;
    size_t n;
    if (!f->o.chat_prompts) TRY_RETURN(add_bos(f, out));
    TRY_RETURN(prompt_text(r, &text, &n));
    return f->o.chat_prompts ? encode_chat_prompt(r, text, n, out) : tokenizer_encode(f->o.tokenizer, text, n, out);
}

static Status encode_pair(Reading *r, RowTokens *out) {
    const RowFormat *f = r->format;
    const size_t from = out->list.n;
    const char *text;
    size_t n;
    TRY_RETURN(encode_prompt(r, &out->list));
    TRY_RETURN(mark(out, from, f->o.loss == LOSS_ALL));
    const size_t answer = out->list.n;
    TRY_RETURN(get_text(r, answer_key(r->kind), &text, &n));
    TRY_RETURN(tokenizer_encode(f->o.tokenizer, text, n, &out->list));
    TRY_RETURN(add_eos(f, &out->list));
    return mark(out, answer, true);
}

/* ---- texts ---- */

static Status encode_text(const RowFormat *f, const char *text, size_t n, bool begins, bool ends, RowTokens *out) {
    const size_t from = out->list.n;
    if (begins) TRY_RETURN(add_bos(f, &out->list));
    TRY_RETURN(tokenizer_encode(f->o.tokenizer, text, n, &out->list));
    if (ends) TRY_RETURN(add_eos(f, &out->list));
    return mark(out, from, true);
}

static Status encode_plain(const RowFormat *f, const Row *row, bool first, RowTokens *out) {
    if (f->columns.kind != ROW_AUTO && f->columns.kind != ROW_TEXT)
        return FAIL(TANE_EFORMAT,
                    "%s: the file is plain text, but the format %s needs JSON objects (.jsonl, .json, .parquet)",
                    row->line.path, row_kind_name(f->columns.kind));
    return encode_text(f, row->line.text, row->line.n, first, !row->goes_on, out);
}

/* ---- rows ---- */

static Status read_row(const RowFormat *f, const JsonlLine *line, RowScratch *scratch, Reading *r) {
    r->format = f;
    r->line = line;
    r->scratch = scratch;
    r->added = 0;
    return row_columns_read(&f->columns, line, r->fields, &scratch->json, &r->kind);
}

static Status encode_object(const RowFormat *f, const JsonlLine *line, RowScratch *scratch, RowTokens *out) {
    Reading r;
    bool lists;
    const char *text;
    size_t n;
    TRY_RETURN(read_row(f, line, scratch, &r));
    switch (r.kind) {
    case ROW_TEXT: TRY_RETURN(get_text(&r, KEY_TEXT, &text, &n)); return encode_text(f, text, n, true, true, out);
    case ROW_MESSAGES: return encode_conversation(&r, KEY_MESSAGES, N_KEYS, out);
    case ROW_SHAREGPT: return encode_conversation(&r, KEY_CONVERSATIONS, N_KEYS, out);
    default: break;
    }
    TRY_RETURN(is_list_pair(&r, &lists));
    return lists ? encode_conversation(&r, KEY_PROMPT, KEY_COMPLETION, out) : encode_pair(&r, out);
}

/* Ids in range, unknown ones counted. */
static Status check_tokens(const RowFormat *f, const JsonlLine *line, RowTokens *out, size_t from) {
    const int32_t vocab = tokenizer_vocab_size(f->o.tokenizer), unk = tokenizer_unk(f->o.tokenizer);
    const int32_t *ids = out->list.ids;
    uint32_t unknown = 0, bad = 0; /* a row has less than 2^31 tokens */
    for (size_t i = from; i < out->list.n; i++) {
        bad += (uint32_t)ids[i] >= (uint32_t)vocab;
        unknown += ids[i] == unk; /* -1 where there is none */
    }
    for (size_t i = from; bad && i < out->list.n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return FAIL(TANE_EFORMAT,
                        "%s:%lld: the tokenizer gave the id %d, but its vocabulary has only %d entries; "
                        "its model file is damaged",
                        line->path, (long long)line->number, ids[i], vocab);
    out->unknown += unknown;
    return TANE_OK;
}

Status row_encode(const RowFormat *f, const Row *row, bool first, RowScratch *scratch, RowTokens *out) {
    Status st = TANE_OK;
    const size_t from = out->list.n;
    TRY(row->plain ? encode_plain(f, row, first, out) : encode_object(f, &row->line, scratch, out));
    if (first && out->list.n > from) out->mask[from] = 0;
    const size_t n = out->list.n - from;
    if (first && !row->goes_on && (n == 0 || !memchr(out->mask + from, 1, n)))
        TRY(FAIL(TANE_EFORMAT,
                 "%s:%lld: the row has no token to learn (%zu in all, and the first one of a row is never "
                 "a target); fill it or remove the line",
                 row->line.path, (long long)row->line.number, n));
    TRY(check_tokens(f, &row->line, out, from));
    return TANE_OK;
out:
    out->list.n = from;
    return st;
}

/* ---- question sets ---- */

static Status no_answer(const Reading *r) {
    return FAIL(TANE_EFORMAT,
                "%s:%lld: the row is %s, which has no prompt and answer to compare with; a question set needs "
                "{\"prompt\": ..., \"completion\": ...}, {\"question\": ..., \"answer\": ...} or alpaca's keys",
                r->line->path, (long long)r->line->number, r->kind == ROW_TEXT ? "a text" : "a conversation");
}

/* The answer of a pair of lists: one message of the assistant's, a text. */
static Status list_answer(Reading *r, const json_t *messages, size_t first, const char **answer, size_t *n) {
    const json_t *message = json_array_get(messages, first), *content = json_object_get(message, "content");
    if (json_array_size(messages) != first + 1 || !row_message_is(message, "assistant") || !json_is_string(content))
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: \"%s\" of a question set must be one message of the assistant's with a text: "
                    "[{\"role\": \"assistant\", \"content\": \"...\"}]",
                    r->line->path, (long long)r->line->number, r->fields[KEY_COMPLETION].key);
    Str *s = &r->scratch->prompt;
    s->len = 0;
    TRY_RETURN(str_add(s, json_string_value(content), json_string_length(content)));
    *answer = s->text;
    *n = s->len;
    return TANE_OK;
}

static Status list_prompt(Reading *r, TokenList *prompt, const char **answer, size_t *answer_n) {
    Status st = TANE_OK;
    json_t *messages = NULL, *tools = NULL;
    size_t first;
    TRY(read_messages(r, KEY_PROMPT, KEY_COMPLETION, &messages, &first));
    TRY(list_answer(r, messages, first, answer, answer_n));
    json_array_remove(messages, first);
    TRY(in_line(r, row_tools_read(&r->fields[KEY_TOOLS], &r->scratch->json, &tools)));
    TurnsInput input = turns_input(r, messages, tools, true);
    TRY(in_line(r, turns_prompt(&r->scratch->turns, &input, prompt)));
out:
    json_decref(messages);
    json_decref(tools);
    return st;
}

static Status prompt_and_answer(const RowFormat *f, const Row *row, RowScratch *scratch, TokenList *prompt,
                                const char **answer, size_t *answer_n) {
    Reading r;
    bool lists;
    if (row->plain)
        return FAIL(TANE_EFORMAT,
                    "%s: the file is plain text; a question set needs JSON objects with prompt and completion",
                    row->line.path);
    TRY_RETURN(read_row(f, &row->line, scratch, &r));
    if (r.kind == ROW_TEXT || r.kind == ROW_MESSAGES || r.kind == ROW_SHAREGPT) return no_answer(&r);
    TRY_RETURN(is_list_pair(&r, &lists));
    if (lists) return list_prompt(&r, prompt, answer, answer_n);
    TRY_RETURN(encode_prompt(&r, prompt));
    return get_text(&r, answer_key(r.kind), answer, answer_n);
}

Status row_prompt(const RowFormat *f, const Row *row, RowScratch *scratch, TokenList *prompt, const char **answer,
                  size_t *answer_n) {
    const size_t from = prompt->n;
    Status st = prompt_and_answer(f, row, scratch, prompt, answer, answer_n);
    if (st != TANE_OK) prompt->n = from;
    return st;
}
