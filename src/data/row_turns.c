/* Finding the assistant's words in a rendered conversation. See row_turns.h. */
#include "data/row_turns.h"

#include <string.h>

#include "data/row_messages.h"

/* Looking for n turns by their bounds renders half of the conversation 2n times: at most so many bytes, a message
 * counting as MESSAGE_COST more, so that it takes less than a second. */
enum { MAX_RENDERED = 256 << 20, MESSAGE_COST = 64 };

void turns_free(Turns *t) {
    chat_text_free(&t->whole);
    chat_text_free(&t->part);
    token_list_free(&t->tokens);
    mem_free(t->spans);
    mem_free(t->mask);
    *t = (Turns){0};
}

static Status render(ChatText *out, const TurnsInput *in, const json_t *messages, bool generation_prompt) {
    out->text.len = out->marks.len = 0;
    return chat_template_render(
        in->chat,
        &(ChatInput){
            .messages = messages, .tools = in->tools, .add_generation_prompt = generation_prompt, .now = in->now},
        out);
}

static Status add_span(Turns *t, size_t from, size_t to) {
    if (t->n_spans == t->cap_spans) {
        size_t cap = t->cap_spans ? 2 * t->cap_spans : 16;
        TRY_RETURN(mem_grow((void **)&t->spans, t->n_spans, cap, sizeof *t->spans));
        t->cap_spans = cap;
    }
    t->spans[t->n_spans++] = (TurnSpan){from, to};
    return TANE_OK;
}

static bool is_assistant(const TurnsInput *in, size_t i) {
    return row_message_is(json_array_get(in->messages, i), "assistant");
}

/* Of the assistant's messages: is this one to be trained on? */
static bool is_wanted(const TurnsInput *in, size_t i) {
    return i >= in->first && row_message_counts(json_array_get(in->messages, i));
}

/* As the row counts its messages. */
static size_t row_index(const TurnsInput *in, size_t i) { return i < in->added ? 0 : i - in->added; }

/* ---- {% generation %} blocks ---- */

static Status find_blocks(Turns *t) {
    const char *marks = t->whole.marks.text;
    size_t n = t->whole.marks.len;
    for (size_t at = 0, end; at < n; at = end) {
        while (at < n && !(marks[at] & CHAT_GENERATION)) at++;
        for (end = at; end < n && (marks[end] & CHAT_GENERATION);) end++;
        if (end > at) TRY_RETURN(add_span(t, at, end));
    }
    return TANE_OK;
}

/* Keeps the blocks of the messages that are trained on, when those are not all of them. */
static Status choose_blocks(Turns *t, const TurnsInput *in) {
    size_t n = json_array_size(in->messages), assistants = 0, kept = 0;
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        if (!is_assistant(in, i)) continue;
        all = all && is_wanted(in, i);
        assistants++;
    }
    if (all) return TANE_OK;
    if (t->n_spans != assistants)
        return FAIL(TANE_EFORMAT,
                    "only some of the assistant's messages are to be trained on, but the chat template made "
                    "%zu {%% generation %%} blocks of %zu such messages, so which block is whose cannot be told; set "
                    "conversation_loss to assistant and leave out \"weight\", or use another template",
                    t->n_spans, assistants);
    for (size_t i = 0, block = 0; i < n; i++) {
        if (!is_assistant(in, i)) continue;
        if (is_wanted(in, i)) t->spans[kept++] = t->spans[block];
        block++;
    }
    t->n_spans = kept;
    return TANE_OK;
}

/* ---- bounds of turns ---- */

typedef struct Search {
    Turns *turns;
    const TurnsInput *in;
    json_t *prefix;  /* the first messages */
    const char *eos; /* text of EOS, "" for none */
} Search;

static Status render_prefix(Search *s, size_t n, bool generation_prompt) {
    while (json_array_size(s->prefix) < n)
        if (json_array_append(s->prefix, json_array_get(s->in->messages, json_array_size(s->prefix))))
            return FAIL(TANE_ENOMEM, "out of memory for a conversation");
    Status st = render(&s->turns->part, s->in, s->prefix, generation_prompt);
    if (st != TANE_OK)
        err_context("without the messages from messages[%zu] on, which is how the assistant's turns are found in a "
                    "template that has no {%% generation %%} blocks",
                    row_index(s->in, n));
    return st;
}

static bool begins_with(const Str *whole, const Str *part) {
    return part->len <= whole->len && (part->len == 0 || !memcmp(whole->text, part->text, part->len));
}

/* Takes away EOS at the end when the template wrote it there. */
static void drop_eos(ChatText *part, const char *eos) {
    size_t n = strlen(eos), len = part->text.len;
    if (n == 0 || len < n || memcmp(part->text.text + len - n, eos, n)) return;
    if (part->marks.text[len - n] & CHAT_LITERAL) return;
    part->text.len = part->marks.len = len - n;
}

static Status find_begin(Search *s, size_t i, size_t *from) {
    if (i == 0)
        return FAIL(TANE_EFORMAT,
                    "the conversation begins with the assistant's message, and where that begins in the text "
                    "cannot be told; put a user's message in front, set its \"weight\" to 0, or use a template with "
                    "{%% generation %%} blocks");
    TRY_RETURN(render_prefix(s, i, true));
    *from = s->turns->part.text.len;
    if (begins_with(&s->turns->whole.text, &s->turns->part.text)) return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "the chat template does not begin messages[%zu] with its own generation prompt (or writes what "
                "stands before it in another way by then), so where the assistant's words begin cannot be told; use a "
                "template with {%% generation %%} blocks, or set conversation_loss to %sall",
                row_index(s->in, i),
                i + 1 < json_array_size(s->in->messages) ? "last or " : "");
}

static Status find_end(Search *s, size_t i, size_t *to) {
    *to = s->turns->whole.text.len;
    if (i + 1 == json_array_size(s->in->messages)) return TANE_OK;
    TRY_RETURN(render_prefix(s, i + 1, false));
    ChatText *part = &s->turns->part;
    if (!begins_with(&s->turns->whole.text, &part->text)) drop_eos(part, s->eos);
    *to = part->text.len;
    if (begins_with(&s->turns->whole.text, &part->text)) return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "the chat template writes messages[%zu] in another way once more messages follow (as those do "
                "that drop earlier thoughts), so what the assistant says there cannot be told; use a template with {%% "
                "generation %%} blocks, or set conversation_loss to last or all",
                row_index(s->in, i));
}

static Status find_turn(Search *s, size_t i) {
    size_t from = 0, to = 0;
    TRY_RETURN(find_begin(s, i, &from));
    TRY_RETURN(find_end(s, i, &to));
    if (from < to) return add_span(s->turns, from, to);
    return FAIL(TANE_EFORMAT,
                "the chat template writes nothing for messages[%zu], the assistant's; fill it, remove it, or set "
                "its \"weight\" to 0",
                row_index(s->in, i));
}

/* An error when it would take too long. */
static Status check_work(const Turns *t, const TurnsInput *in) {
    const size_t n = json_array_size(in->messages), cost = t->whole.text.len + MESSAGE_COST * n;
    size_t turns = 0;
    for (size_t i = 0; i < n; i++) turns += is_assistant(in, i) && is_wanted(in, i);
    if (turns == 0 || cost <= MAX_RENDERED / turns) return TANE_OK;
    return FAIL(
        TANE_EFORMAT,
        "the conversation is too long to look for the assistant's turns in it (%zu messages, %zu bytes); "
        "use a template with {%% generation %%} blocks, set conversation_loss to last or all, or split "
        "it",
        n, t->whole.text.len);
}

static Status find_turns(Turns *t, const TurnsInput *in) {
    Status st = TANE_OK;
    TokenPiece eos = {.text = ""};
    TRY_RETURN(check_work(t, in));
    if (tokenizer_eos(in->tokenizer) >= 0)
        TRY_RETURN(tokenizer_piece(in->tokenizer, tokenizer_eos(in->tokenizer), &eos));
    Search s = {.turns = t, .in = in, .prefix = json_array(), .eos = eos.text};
    if (!s.prefix) return FAIL(TANE_ENOMEM, "out of memory for a conversation");
    for (size_t i = 0; i < json_array_size(in->messages); i++)
        if (is_assistant(in, i) && is_wanted(in, i)) TRY(find_turn(&s, i));
out:
    json_decref(s.prefix);
    return st;
}

/* ---- from bytes to tokens ---- */

static size_t token_begin(const Turns *t, size_t i) { return i ? t->tokens.ends[i - 1] : 0; }

static bool is_blank(const Turns *t, size_t i) {
    for (size_t at = token_begin(t, i); at < t->tokens.ends[i]; at++)
        if (!strchr(" \t\r\n", t->whole.text.text[at]) || !t->whole.text.text[at]) return false;
    return true;
}

static Status start_mask(Turns *t, bool all) {
    if (t->cap_mask < t->tokens.n + 1) {
        size_t cap = t->tokens.cap + 1;
        TRY_RETURN(mem_grow((void **)&t->mask, 0, cap, 1));
        t->cap_mask = cap;
    }
    memset(t->mask, all, t->tokens.n);
    return TANE_OK;
}

/* Marks the tokens of a span; *at is where to look from. With `trim` white space behind the last special token is left
 * out. */
static void mark_span(Turns *t, const TurnSpan *span, const Tokenizer *tokenizer, bool trim, size_t *at) {
    size_t first, end;
    while (*at < t->tokens.n && t->tokens.ends[*at] <= span->from && token_begin(t, *at) < span->from) ++*at;
    first = *at;
    if (first < t->tokens.n && token_begin(t, first) < span->from &&
        chat_token_special(tokenizer, t->tokens.ids[first]))
        first++;
    for (end = first; end < t->tokens.n && token_begin(t, end) < span->to;) end++;
    *at = end;
    if (trim) {
        size_t last = end;
        while (last > first && is_blank(t, last - 1) && !chat_token_special(tokenizer, t->tokens.ids[last - 1])) last--;
        if (last > first && chat_token_special(tokenizer, t->tokens.ids[last - 1])) end = last;
    }
    memset(t->mask + first, 1, end - first);
}

/* Behind the assistant's last message. */
static Status end_with_eos(Turns *t, const TurnsInput *in) {
    size_t last = json_array_size(in->messages) - 1, i = t->tokens.n;
    if (!in->add_eos || !is_assistant(in, last) || !(in->all || is_wanted(in, last))) return TANE_OK;
    while (i && is_blank(t, i - 1) && !chat_token_special(in->tokenizer, t->tokens.ids[i - 1])) i--;
    if (i && chat_token_special(in->tokenizer, t->tokens.ids[i - 1])) return TANE_OK;
    t->mask[t->tokens.n] = 1; /* start_mask left room for it */
    return token_list_add(&t->tokens, tokenizer_eos(in->tokenizer));
}

/* ---- all of it ---- */

/* What the error says when nothing was found. */
static Status nothing_trained(const TurnsInput *in, bool blocks) {
    size_t n = json_array_size(in->messages), assistants = 0;
    for (size_t i = 0; i < n; i++) assistants += is_assistant(in, i);
    if (!assistants)
        return FAIL(TANE_EFORMAT,
                    "the conversation has no message of the assistant's, so there is nothing to learn; add one "
                    "({\"role\": \"assistant\", ...}), remove the row, or set conversation_loss to all");
    if (blocks)
        return FAIL(TANE_EFORMAT,
                    "the chat template's {%% generation %%} blocks mark nothing of this conversation, so there "
                    "is nothing to learn; mend the template, or set conversation_loss to all");
    return FAIL(TANE_EFORMAT,
                "each of the assistant's messages that would be trained on has \"weight\": 0, so there is nothing "
                "to learn; give one of them the weight 1 or remove the row");
}

Status turns_encode(Turns *t, const TurnsInput *in) {
    const bool blocks = chat_template_marks_generation(in->chat);
    t->n_spans = t->tokens.n = 0;
    TRY_RETURN(render(&t->whole, in, in->messages, false));
    if (!in->all && blocks) TRY_RETURN(find_blocks(t));
    if (!in->all && !blocks) TRY_RETURN(find_turns(t, in));
    if (!in->all && !t->n_spans) return nothing_trained(in, blocks);
    if (!in->all && blocks) TRY_RETURN(choose_blocks(t, in));
    if (!in->all && !t->n_spans) return nothing_trained(in, false);
    TRY_RETURN(chat_text_encode(&t->whole, in->tokenizer, true, &t->tokens));
    TRY_RETURN(start_mask(t, in->all));
    for (size_t i = 0, at = 0; i < t->n_spans; i++) mark_span(t, &t->spans[i], in->tokenizer, !blocks, &at);
    return end_with_eos(t, in);
}

Status turns_prompt(Turns *t, const TurnsInput *in, TokenList *out) {
    TRY_RETURN(render(&t->whole, in, in->messages, true));
    return chat_text_encode(&t->whole, in->tokenizer, false, out);
}
