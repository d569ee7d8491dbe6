/* Finding and opening models. */
#include "infer/open.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_tokenizer.h"
#include "model/gguf_names.h"
#include "ops/backend.h"

static const char runs_folder[] = "runs";

static Status is_model(const char *folder, bool *yes) {
    char *path;
    TRY_RETURN(path_join(&path, folder, "config.json"));
    *yes = file_exists(path);
    mem_free(path);
    return TANE_OK;
}

/* A link to a neighbour, as best and last are, becomes the neighbour. */
static Status follow(char **folder) {
    char target[NAME_MAX + 1];
    ssize_t n = readlink(*folder, target, sizeof target - 1);
    if (n <= 0 || memchr(target, '/', (size_t)n)) return TANE_OK;
    target[n] = 0;
    Str path = {0};
    Status st = str_printf(&path, "%.*s%s", (int)(path_base(*folder) - *folder), *folder, target);
    if (st != TANE_OK) {
        str_free(&path);
        return st;
    }
    mem_free(*folder);
    *folder = path.text;
    return TANE_OK;
}

/* folder itself, or its best or last; *out stays NULL when there is none. */
static Status find_model(char **out, const char *folder) {
    static const char *const places[] = {"", "best", "last"};
    for (int i = 0; i < 3; i++) {
        char *path;
        bool yes = false;
        TRY_RETURN(*places[i] ? path_join(&path, folder, places[i]) : mem_strdup(&path, folder));
        Status st = is_model(path, &yes);
        if (st == TANE_OK && yes) st = follow(&path);
        if (st == TANE_OK && yes) {
            *out = path;
            return TANE_OK;
        }
        mem_free(path);
        TRY_RETURN(st);
    }
    return TANE_OK;
}

static Status no_such_model(const char *name) {
    DirList runs = {0};
    const char *near = NULL;
    if (dir_exists(runs_folder) && dir_list(runs_folder, &runs) == TANE_OK)
        near = err_nearest(name, (const char *const *)runs.names, runs.n);
    static const char what[] = "neither a model folder nor a .gguf file nor a run";
    Status st = near ? FAIL(TANE_ENOTFOUND, "\"%s\" is %s; did you mean the run \"%s\"?", name, what, near)
                     : FAIL(TANE_ENOTFOUND, "\"%s\" is %s under %s/; `tane runs list` shows them", name, what,
                            runs_folder);
    dir_list_free(&runs);
    return st;
}

Status model_resolve_path(char **out, const char *name) {
    Str folder = {0};
    Status st = TANE_OK;
    size_t n = strlen(name);
    *out = NULL;
    while (n > 1 && name[n - 1] == '/') n--;
    if (gguf_is_path(name) && file_exists(name)) return mem_strdup(out, name);
    if (gguf_is_path(name) && strchr(name, '/')) return FAIL(TANE_ENOTFOUND, "%s: no such file", name);
    TRY(str_printf(&folder, "%.*s", (int)n, name));
    if (n > 0 && !dir_exists(folder.text) && !strchr(folder.text, '/')) {
        folder.len = 0;
        TRY(str_printf(&folder, "%s/%.*s", runs_folder, (int)n, name));
    }
    if (n == 0 || !dir_exists(folder.text)) {
        st = no_such_model(name);
        goto out;
    }
    TRY(find_model(out, folder.text));
    if (!*out)
        st = FAIL(TANE_ENOTFOUND,
                  "%s is neither a model (it has no config.json) nor a run (it has no checkpoint best or last)",
                  folder.text);
out:
    str_free(&folder);
    return st;
}

static Status compute_dtype(const Device *device, const char *name, DType *out) {
    if (strcmp(name, "auto") == 0) *out = device->bf16_is_fast ? DTYPE_BF16 : DTYPE_F32;
    else *out = !strcmp(name, "bf16") ? DTYPE_BF16 : !strcmp(name, "fp16") ? DTYPE_F16 : DTYPE_F32;
    if (*out == DTYPE_F16 && !device->has_fp16)
        return FAIL(TANE_EUNSUPPORTED, "compute_dtype=fp16 needs a GPU; on %s use bf16 or fp32", device->name);
    return TANE_OK;
}

/* A template that stands alone, with the texts of the special tokens that it may ask for. */
static Status new_template(ChatTemplate **out, const char *where, const char *text, size_t n, const Tokenizer *tok) {
    int32_t ids[4] = {tokenizer_bos(tok), tokenizer_eos(tok), tokenizer_pad(tok), tokenizer_unk(tok)};
    const char *names[4] = {NULL};
    TokenPiece piece;
    for (int i = 0; i < 4; i++)
        if (ids[i] >= 0 && tokenizer_piece(tok, ids[i], &piece) == TANE_OK) names[i] = piece.text;
    return chat_template_new(out, where, text, n, names[0], names[1], names[2], names[3]);
}

static Status read_template(ChatTemplate **out, const char *file, const char *model, const Tokenizer *tok) {
    enum { MOST_BYTES = 1 << 20 };
    Status st = TANE_OK;
    GgufFile *gguf = NULL;
    GgufText text = {NULL, 0};
    char *data = NULL;
    size_t n;
    *out = NULL;
    if (file) {
        TRY(file_read(file, MOST_BYTES, &data, &n));
        TRY(new_template(out, file, data, n, tok));
    } else if (gguf_is_path(model)) {
        TRY(gguf_open(&gguf, model));
        TRY(gguf_text(gguf, "tokenizer.chat_template", false, &text));
        if (text.data) TRY(new_template(out, model, text.data, text.n, tok));
    } else if (dir_exists(model)) {
        TRY(chat_template_load(out, model, NULL));
    }
out:
    mem_free(data);
    gguf_close(&gguf);
    return st;
}

Status open_template(ChatTemplate **out, const char *file, const char *model, const Tokenizer *tok, ErrorCopy *why) {
    Status st = read_template(out, file, model, tok);
    if (file || (st != TANE_EUNSUPPORTED && st != TANE_EFORMAT)) return st;
    err_save(why);
    err_clear();
    return TANE_OK;
}

Status open_chat(OpenModel *open) {
    return open_template(&open->chat, NULL, open->folder, open->tokenizer, &open->chat_error);
}

Status open_model(OpenModel *out, const char *name, const char *compute, const char *device, const char *tokenizer) {
    Status st = TANE_OK;
    DType dtype;
    *out = (OpenModel){0};
    TRY(model_resolve_path(&out->folder, name));
    TRY(model_tokenizer_load(&out->tokenizer, tokenizer ? tokenizer : out->folder));
    TRY(open_chat(out));
    TRY(backend_open(&out->device, device));
    TRY(compute_dtype(out->device, compute, &dtype));
    TRY(model_open(&out->model, out->folder, dtype, out->device));
    if (tokenizer_vocab_size(out->tokenizer) > out->model->config.vocab_size)
        st = FAIL(TANE_EINVAL,
                  "%s: the tokenizer has %d pieces, but the model's vocabulary only %lld: they do not belong together",
                  tokenizer ? tokenizer : out->folder, tokenizer_vocab_size(out->tokenizer),
                  (long long)out->model->config.vocab_size);
out:
    if (st != TANE_OK) open_model_close(out);
    return st;
}

void open_model_close(OpenModel *open) {
    model_free(open->model);
    chat_template_free(open->chat);
    tokenizer_free(open->tokenizer);
    mem_free(open->folder);
    device_close(open->device);
    *open = (OpenModel){0};
}

static void add_stop(StopTokens *stop, int64_t id) {
    if (id < 0 || stop->n == STOP_TOKENS) return;
    for (int64_t i = 0; i < stop->n; i++)
        if (stop->ids[i] == id) return;
    stop->ids[stop->n++] = (int32_t)id;
}

StopTokens stop_tokens(const OpenModel *open) {
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<end_of_turn>", "<|end|>",
                                       "<|end_of_text|>", "<|endoftext|>", "<|return|>", "<|call|>", "</s>",
                                       "<\uff5cend\u2581of\u2581sentence\uff5c>"};
    const ModelConfig *c = &open->model->config;
    StopTokens stop = {.n = 0};
    add_stop(&stop, tokenizer_eos(open->tokenizer));
    add_stop(&stop, c->eos);
    for (int i = 0; i < c->n_more_eos; i++) add_stop(&stop, c->more_eos[i]);
    for (size_t i = 0; open->chat && i < sizeof ends / sizeof *ends; i++) {
        TokenPiece piece;
        int32_t id = tokenizer_find(open->tokenizer, ends[i], strlen(ends[i]));
        if (id < 0 || !strstr(chat_template_source(open->chat), ends[i])) continue;
        if (tokenizer_piece(open->tokenizer, id, &piece) != TANE_OK) continue;
        if (!strcmp(piece.type, "control") || !strcmp(piece.type, "unknown")) add_stop(&stop, id);
    }
    return stop;
}

Status prompt_encode(const Tokenizer *tokenizer, const char *text, size_t n, bool add_bos, TokenList *out) {
    int32_t bos = tokenizer_bos(tokenizer);
    if (add_bos && bos >= 0) {
        if (out->n == out->cap) {
            size_t cap = out->cap ? 2 * out->cap : 64;
            TRY_RETURN(mem_grow((void **)&out->ids, out->cap, cap, sizeof *out->ids));
            out->cap = cap;
        }
        out->ids[out->n++] = bos;
    }
    return tokenizer_encode(tokenizer, text, n, out);
}
