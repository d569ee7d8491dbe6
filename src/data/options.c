/* From options to a data set's and a layout's. See options.h. */
#include "data/options.h"

#include <string.h>

/* What templates that write today's date write: 26 July 2024, the date that Llama 3's own falls back to. Tokens must
 * not depend on the day of training. */
enum { TEMPLATE_DATE = 1721952000 };

static bool is(const char *option, const char *value) { return strcmp(option, value) == 0; }

Status data_options_check(const DataOptions *o) {
    if (o->packing && is(o->layout, "windows"))
        return FAIL(TANE_EINVAL, "\"packing\" is true, but \"layout\" is windows; keep one");
    if (o->assistant_only_loss && is(o->conversation_loss, "last"))
        return FAIL(TANE_EINVAL, "\"assistant_only_loss\" is true, but \"conversation_loss\" is last; keep one");
    if (!o->completion_only && (o->assistant_only_loss || !is(o->conversation_loss, "all")))
        return FAIL(TANE_EINVAL, "\"completion_only\" is false: the loss is on everything; that does not go with "
                                 "conversation_loss=assistant or last");
    return TANE_OK;
}

static RowLoss loss_of(const DataOptions *o) {
    if (o->assistant_only_loss || is(o->conversation_loss, "assistant")) return LOSS_ASSISTANT;
    if (is(o->conversation_loss, "last")) return LOSS_LAST;
    return o->completion_only ? LOSS_COMPLETION : LOSS_ALL;
}

LayoutKind data_options_layout(const DataOptions *o) {
    return is(o->layout, "windows")                 ? LAYOUT_WINDOWS
           : o->packing || is(o->layout, "packing") ? LAYOUT_PACKING
                                                    : LAYOUT_PADDING;
}

/* A shell has no easy way to write a newline. */
static Status unescape(Arena *arena, const char *text, const char **out) {
    char *copy, *to;
    *out = NULL;
    if (!text) return TANE_OK;
    TRY_RETURN(arena_strdup(arena, &copy, text));
    for (to = copy; *text; text++) {
        bool escape = text[0] == '\\' && text[1] && strchr("nt\\", text[1]);
        if (escape) text++;
        *to++ = !escape ? *text : *text == 'n' ? '\n' : *text == 't' ? '\t' : '\\';
    }
    *to = 0;
    *out = copy;
    return TANE_OK;
}

Status data_options_dataset(const DataOptions *o, const Tokenizer *tokenizer, const ChatTemplate *chat, Arena *arena,
                            DatasetOptions *out) {
    bool windows = data_options_layout(o) == LAYOUT_WINDOWS;
    *out = (DatasetOptions){.format = {.tokenizer = tokenizer,
                                       .chat = chat,
                                       .format = o->format,
                                       .columns = o->columns,
                                       .system = o->system_prompt,
                                       .chat_prompts = o->chat_prompts,
                                       .loss = loss_of(o),
                                       .now = TEMPLATE_DATE,
                                       .add_bos = o->add_bos,
                                       .add_eos = o->add_eos},
                            .max_length = windows ? 0 : o->max_length,
                            .truncation = is(o->truncation, "drop")  ? TRUNCATION_DROP
                                          : is(o->truncation, "cut") ? TRUNCATION_CUT
                                                                     : TRUNCATION_ERROR};
    TRY_RETURN(data_options_check(o));
    TRY_RETURN(unescape(arena, o->prompt_suffix, &out->format.prompt_suffix));
    TRY_RETURN(unescape(arena, o->prompt_separator, &out->format.separator));
    return unescape(arena, o->text_separator, &out->text_separator);
}

Status data_options_arrange(const DataOptions *o, const Dataset *set, Layout **out) {
    LayoutKind kind = data_options_layout(o);
    return layout_new(out, set, kind, kind == LAYOUT_PADDING ? 0 : o->max_length);
}

Status data_options_settings(const DatasetOptions *o, Arena *arena, char **out) {
    const RowFormatOptions *f = &o->format;
    const char *texts[] = {f->format,
                           f->columns,
                           f->system,
                           f->prompt_suffix,
                           f->separator,
                           o->text_separator,
                           f->chat ? chat_template_source(f->chat) : NULL};
    Str all = {0};
    Status st = str_printf(&all, "chat_prompts=%d loss=%d add_bos=%d add_eos=%d", f->chat_prompts, (int)f->loss,
                           f->add_bos, f->add_eos);
    for (size_t i = 0; st == TANE_OK && i < sizeof texts / sizeof *texts; i++)
        st = str_printf(&all, "\n%zu:%s", texts[i] ? strlen(texts[i]) : 0, texts[i] ? texts[i] : "");
    if (st == TANE_OK) st = arena_strdup(arena, out, all.text);
    str_free(&all);
    return st;
}
