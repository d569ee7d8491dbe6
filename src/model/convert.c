/* Opening what is converted, choosing types, and putting the result in its place. See convert.h. */
#include "model/convert.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "model/convert_source.h"
#include "model/gguf_tokenizer.h"
#include "text/chat_template.h"

void convert_tell(ConvertSource *s, uint64_t bytes) {
    s->done += bytes;
    if (s->options->progress) s->options->progress(s->options->user, s->done, s->total);
}

static void note(const ConvertSource *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(const ConvertSource *s, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (s->options->note) s->options->note(s->options->user, text);
}

/* ---- the source ---- */

Status convert_part(ConvertSource *s, const Param *p, const ParamPart *part, ConvertPart *out) {
    *out = (ConvertPart){.param = p, .part = part, .rows = part->rows, .columns = p->rank == 2 ? p->shape[1] : 1};
    return params_find(p, part, s->weights, part->name, &out->weight);
}

/* Every tensor is looked at before anything is written; and which type most numbers have. */
static Status look_at_weights(ConvertSource *s) {
    enum { TYPES = 64 };
    int64_t numbers[TYPES] = {0};
    const Params *set = &s->model->params;
    for (int i = 0; i < set->n; i++)
        for (int k = 0; k < set->items[i]->n_parts; k++) {
            ConvertPart part;
            TRY_RETURN(convert_part(s, set->items[i], &set->items[i]->parts[k], &part));
            if (part.param->rank == 2) numbers[part.weight.type] += part.rows * part.columns;
        }
    for (int t = 0; t < TYPES; t++)
        if (numbers[t] > numbers[s->type]) s->type = (GgmlType)t;
    const char *unused = weights_unused(s->weights, s->config.family->ignored);
    if (!unused) return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "%s: tensor \"%s\" is no parameter of this model: its configuration describes another one", s->path,
                unused);
}

/* The template's own text, also where tane could not render it. */
static Status open_template(ConvertSource *s) {
    Status st = TANE_OK;
    char *path = NULL;
    size_t n;
    const TokenizerSpec *spec = s->tokenizer ? tokenizer_spec(s->tokenizer) : NULL;
    ChatTemplate *chat = NULL;
    if (s->gguf) {
        s->chat_template = spec ? spec->chat_template : NULL;
        return TANE_OK;
    }
    TRY(path_join(&path, s->path, "chat_template.jinja"));
    if (file_exists(path)) {
        TRY(file_read(path, 16 << 20, &s->jinja, &n));
    } else {
        TRY(chat_template_load(&chat, s->path, NULL));
        if (chat) TRY(mem_strdup(&s->jinja, chat_template_source(chat)));
    }
    s->chat_template = s->jinja;
out:
    chat_template_free(chat);
    mem_free(path);
    return st;
}

static Status open_tokenizer(ConvertSource *s) {
    if (s->options->no_tokenizer) return TANE_OK;
    Status st = TANE_OK;
    if (s->gguf && !gguf_has_tokenizer(s->gguf)) st = TANE_ENOTFOUND;
    else st = model_tokenizer_load(&s->tokenizer, s->path);
    if (st == TANE_ENOTFOUND) {
        note(s, "%s has no tokenizer: the result has none either", s->path);
        err_clear();
        return TANE_OK;
    }
    TRY_RETURN(st);
    return open_template(s);
}

static void source_close(ConvertSource *s) {
    tokenizer_free(s->tokenizer);
    weights_close(&s->weights);
    model_free(s->model);
    gguf_close(&s->gguf);
    mem_free(s->jinja);
}

static Status source_open(ConvertSource *s, const char *path, const ConvertOptions *options) {
    *s = (ConvertSource){.path = path, .options = options};
    TRY_RETURN(model_config_read(&s->config, path));
    if (gguf_is_path(path)) TRY_RETURN(gguf_open(&s->gguf, path));
    TRY_RETURN(model_declare(&s->model, &s->config, DTYPE_F32, NULL));
    TRY_RETURN(weights_open(&s->weights, path, s->config.family->prefix));
    TRY_RETURN(look_at_weights(s));
    return open_tokenizer(s);
}

/* ---- the result ---- */

static Status parent_of(Str *out, const char *path) {
    size_t n = (size_t)(path_base(path) - path);
    return str_printf(out, "%.*s", n ? (int)n : 1, n ? path : ".");
}

Status convert_check_space(const char *path, uint64_t bytes) {
    Status st = TANE_OK;
    Str parent = {0};
    uint64_t available;
    TRY(parent_of(&parent, path));
    TRY(dir_free_bytes(parent.text, &available));
    if (bytes > available)
        st = FAIL(TANE_ENOSPC, "%s would take %.2f GiB, but only %.2f GiB are free there", path, (double)bytes / 0x1p30,
                  (double)available / 0x1p30);
out:
    str_free(&parent);
    return st;
}

static bool is_model_folder(const char *folder) {
    char *path;
    if (path_join(&path, folder, "config.json") != TANE_OK) return false;
    bool yes = file_exists(path);
    mem_free(path);
    return yes;
}

/* Is nothing there, or may it be replaced? A folder that is no model is never replaced. */
static Status check_free(const char *out, bool force) {
    DirList list = {0};
    if (dir_exists(out)) {
        TRY_RETURN(dir_list(out, &list));
        size_t n = list.n;
        dir_list_free(&list);
        if (n == 0) return TANE_OK;
        if (!is_model_folder(out))
            return FAIL(TANE_EINVAL,
                        "%s is a folder with other things in it; name one that is not there yet, or a .gguf file", out);
    } else if (!file_exists(out)) {
        return TANE_OK;
    }
    return force ? TANE_OK : FAIL(TANE_EINVAL, "%s is already there; --force replaces it", out);
}

/* "OUT.tmp" becomes OUT. The old folder goes only when the new one is in its place. */
static Status put_in_place(const char *tmp, const char *out) {
    Status st = TANE_OK;
    Str old = {0}, parent = {0};
    bool replaces = file_exists(out) || dir_exists(out);
    TRY(str_printf(&old, "%s.old", out));
    TRY(parent_of(&parent, out));
    TRY(dir_fsync(tmp));
    if (replaces) TRY(file_rename(out, old.text));
    st = file_rename(tmp, out);
    if (st != TANE_OK && replaces) {
        ErrorCopy reported;
        err_save(&reported);
        (void)file_rename(old.text, out);
        (void)err_restore(&reported);
    }
    TRY(st);
    TRY(dir_fsync(parent.text));
    if (replaces) TRY(dir_exists(old.text) ? dir_remove(old.text) : file_unlink(old.text));
out:
    str_free(&old);
    str_free(&parent);
    return st;
}

static Status write_folder(ConvertSource *s, const char *out, DType type) {
    Status st = TANE_OK;
    Str tmp = {0};
    TRY(str_printf(&tmp, "%s.tmp", out));
    TRY(dir_remove(tmp.text));
    TRY(dir_make(tmp.text));
    st = convert_to_folder(s, tmp.text, type);
    if (st == TANE_OK) st = put_in_place(tmp.text, out);
    if (st != TANE_OK) {
        ErrorCopy reported;
        err_save(&reported);
        (void)dir_remove(tmp.text);
        (void)err_restore(&reported);
    }
out:
    str_free(&tmp);
    return st;
}

/* ---- types ---- */

/* The source's 16-bit type, F32 for F32; quantized weights hold what BF16 and more can. */
static GgmlType usual_type(GgmlType source) { return source == GGML_F32 || source == GGML_F16 ? source : GGML_BF16; }

static Status folder_type(const ConvertSource *s, DType *out) {
    const GgmlTypeInfo *info = ggml_type_info(usual_type(s->type));
    if (s->options->type) info = ggml_type_find(s->options->type);
    if (!info || info->block > 1)
        return FAIL(TANE_EINVAL,
                    "type \"%s\": a Hugging Face folder takes f32, f16 or bf16; for quantized types name a .gguf "
                    "file",
                    s->options->type);
    *out = info->type == GGML_F32 ? DTYPE_F32 : info->type == GGML_F16 ? DTYPE_F16 : DTYPE_BF16;
    return TANE_OK;
}

static Status file_type(const ConvertSource *s, const GgmlTypeInfo **out) {
    *out = s->gguf ? NULL : ggml_type_info(usual_type(s->type));
    if (!s->options->type) return TANE_OK;
    *out = ggml_type_find(s->options->type);
    if (!*out || !(*out)->writes)
        return FAIL(TANE_EINVAL, "type \"%s\" is not one that tane writes: %s", s->options->type,
                    ggml_type_names(true));
    const GgmlTypeInfo *from = ggml_type_info(s->type);
    if (from->block > 1 && (*out)->block > 1 && from != *out)
        note(s, "%s is already quantized (%s): %s made of it is worse than made of the model in 16 bits", s->path,
             from->name, (*out)->name);
    return TANE_OK;
}

Status convert_model(const char *in, const char *out, const ConvertOptions *options) {
    Status st = TANE_OK;
    ConvertSource source;
    const GgmlTypeInfo *type;
    DType dtype = DTYPE_F32;
    bool gguf = gguf_is_path(out);
    TRY_RETURN(check_free(out, options->force));
    TRY(source_open(&source, in, options));
    if (gguf) {
        TRY(file_type(&source, &type));
        TRY(convert_to_gguf(&source, out, type));
    } else {
        TRY(folder_type(&source, &dtype));
        TRY(write_folder(&source, out, dtype));
    }
out:
    source_close(&source);
    return st;
}
