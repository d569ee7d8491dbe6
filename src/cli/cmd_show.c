/* `tane show`: what a model is, from its files alone: parameters, types, tokenizer, template, and the memory it takes.
 */
#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "format/gguf.h"
#include "format/safetensors.h"
#include "infer/open.h"
#include "model/gguf_names.h"
#include "model/gguf_tokenizer.h"
#include "text/spm_model.h"
#include "train/optimizer.h"

typedef struct ShowConfig {
    bool tensors, template, json;
} ShowConfig;

static const Option rows[] = {
    {"tensors", OPTION_BOOL, offsetof(ShowConfig, tensors), "false", NULL, 0, 0, "Options",
     "list every tensor with its shape, type and bytes"},
    {"template", OPTION_BOOL, offsetof(ShowConfig, template), "false", NULL, 0, 0, "Options",
     "print the chat template, and nothing else"},
    {"json", OPTION_BOOL, offsetof(ShowConfig, json), "false", NULL, 0, 0, "Options", "print JSON for programs"},
};
static const OptionTable table = {"tane show", rows, 3};

typedef struct Entry {
    const char *name, *type;
    int64_t shape[GGUF_MAX_RANK];
    int rank;
    int64_t numbers;
    uint64_t bytes;
} Entry;

typedef struct TypeSum {
    const char *type;
    size_t tensors;
    int64_t numbers;
    uint64_t bytes;
} TypeSum;

enum { MAX_TYPES = 24 };
enum { GROUP_EMBEDDING, GROUP_ATTENTION, GROUP_FEED_FORWARD, GROUP_NORMS, GROUP_OUTPUT, GROUPS };
static const char *const group_names[GROUPS] = {"embedding", "attention", "feed-forward", "norms", "output layer"};

typedef struct Show {
    char *path;
    StFile *st;
    GgufFile *gguf;
    Entry *entries; /* (n) in the files' order */
    size_t n;
    TypeSum types[MAX_TYPES];
    int n_types;
    uint64_t bytes; /* of all tensors */
    bool is_model;  /* what follows is filled in */
    ModelConfig config;
    Model *model; /* declared */
    int64_t groups[GROUPS];
    OpenModel open;     /* tokenizer and template */
    char *no_tokenizer; /* why there is none */
} Show;

/* ---- looking ---- */

static void add_type(Show *s, const Entry *e) {
    int i = 0;
    while (i < s->n_types && strcmp(s->types[i].type, e->type)) i++;
    if (i == s->n_types && s->n_types < MAX_TYPES) s->types[s->n_types++] = (TypeSum){.type = e->type};
    if (i == s->n_types) return;
    s->types[i].tensors++;
    s->types[i].numbers += e->numbers;
    s->types[i].bytes += e->bytes;
}

static void fill_entry(Show *s, Entry *e, const int64_t *shape, int rank) {
    e->rank = rank < GGUF_MAX_RANK ? rank : GGUF_MAX_RANK;
    e->numbers = 1;
    for (int i = 0; i < rank; i++) {
        if (i < GGUF_MAX_RANK) e->shape[i] = shape[i];
        e->numbers *= shape[i];
    }
    s->bytes += e->bytes;
    add_type(s, e);
}

static Status list_tensors(Show *s) {
    if (s->gguf) {
        s->n = gguf_tensor_count(s->gguf);
        TRY_RETURN(MEM_NEW_ARRAY(&s->entries, s->n));
        for (size_t i = 0; i < s->n; i++) {
            const GgufTensor *t = gguf_tensor(s->gguf, i);
            s->entries[i] = (Entry){.name = t->name, .type = t->type->name, .bytes = t->bytes};
            fill_entry(s, &s->entries[i], t->shape, t->rank);
        }
        return TANE_OK;
    }
    s->n = st_count(s->st);
    TRY_RETURN(MEM_NEW_ARRAY(&s->entries, s->n));
    for (size_t i = 0; i < s->n; i++) {
        const StTensor *t = st_get(s->st, i);
        s->entries[i] = (Entry){.name = t->name, .type = st_dtype_word(t->dtype), .bytes = t->bytes};
        fill_entry(s, &s->entries[i], t->shape, t->rank);
    }
    return TANE_OK;
}

static int group_of(const Param *p) {
    const char *name = p->parts[0].name;
    if (p->role == ROLE_EMBEDDING) return GROUP_EMBEDDING;
    if (p->role == ROLE_NORM || strstr(name, "norm") || strstr(name, ".ln_")) return GROUP_NORMS;
    if (strstr(name, "attn")) return GROUP_ATTENTION;
    return strstr(name, "mlp") ? GROUP_FEED_FORWARD : GROUP_OUTPUT;
}

/* A tokenizer that tane cannot read is no reason to tell nothing else. */
static Status look_at_tokenizer(Show *s) {
    Status st = model_tokenizer_load(&s->open.tokenizer, s->path);
    if (st == TANE_ENOMEM) return st;
    if (st == TANE_OK) return open_chat(&s->open);
    bool none = st == TANE_ENOTFOUND || (s->gguf && !gguf_has_tokenizer(s->gguf));
    return mem_strdup(&s->no_tokenizer, none ? "none" : err_message());
}

static Status look_at_model(Show *s) {
    s->is_model = true;
    TRY_RETURN(model_config_read(&s->config, s->path));
    TRY_RETURN(model_declare(&s->model, &s->config, DTYPE_BF16, NULL));
    for (int i = 0; i < s->model->params.n; i++)
        s->groups[group_of(s->model->params.items[i])] += param_count(s->model->params.items[i]);
    TRY_RETURN(mem_strdup(&s->open.folder, s->path));
    return look_at_tokenizer(s);
}

static bool is_safetensors(const char *name) {
    size_t n = strlen(name);
    return n > 12 && !strcmp(name + n - 12, ".safetensors") && file_exists(name) && !dir_exists(name);
}

static Status look(Show *s, const char *name) {
    if (is_safetensors(name)) {
        TRY_RETURN(mem_strdup(&s->path, name));
        TRY_RETURN(st_open(&s->st, name));
        return list_tensors(s);
    }
    TRY_RETURN(model_resolve_path(&s->path, name));
    if (gguf_is_path(s->path)) TRY_RETURN(gguf_open(&s->gguf, s->path));
    else TRY_RETURN(st_open(&s->st, s->path));
    TRY_RETURN(list_tensors(s));
    return look_at_model(s);
}

static void show_release(Show *s) {
    open_model_close(&s->open);
    model_free(s->model);
    mem_free(s->entries);
    mem_free(s->no_tokenizer);
    mem_free(s->path);
    st_close(&s->st);
    gguf_close(&s->gguf);
}

/* ---- numbers in words ---- */

static const char *size_text(uint64_t bytes, char out[32]) {
    if (bytes >= (uint64_t)1 << 30) snprintf(out, 32, "%.2f GiB", (double)bytes / 0x1p30);
    else if (bytes >= 1 << 20) snprintf(out, 32, "%.1f MiB", (double)bytes / 0x1p20);
    else snprintf(out, 32, "%.1f KiB", (double)bytes / 0x1p10);
    return out;
}

static const char *count_text(int64_t n, char out[32]) {
    if (n >= 1000000000) snprintf(out, 32, "%.2f billion", (double)n / 1e9);
    else if (n >= 1000000) snprintf(out, 32, "%.1f million", (double)n / 1e6);
    else snprintf(out, 32, "%" PRId64, n);
    return out;
}

static const char *shape_text(const Entry *e, char out[96]) {
    int at = snprintf(out, 96, "[");
    for (int i = 0; i < e->rank; i++)
        at += snprintf(out + at, 96 - (size_t)at, i ? ", %" PRId64 : "%" PRId64, e->shape[i]);
    snprintf(out + at, 96 - (size_t)at, "]");
    return out;
}

/* Bytes of a token in the KV cache, in bf16. */
static uint64_t cache_bytes(const ModelConfig *c) { return (uint64_t)(c->layers * 2 * c->kv_heads * c->head_dim) * 2; }

static uint64_t train_bytes(const Show *s) {
    const Params *p = &s->model->params;
    return (uint64_t)p->elements * 2 + optimizer_state_bytes(p, DTYPE_BF16, false) + optimizer_grad_bytes(p, false);
}

static const char *tokenizer_kind(const Tokenizer *tok) {
    const TokenizerSpec *spec = tokenizer_spec(tok);
    if (!spec) return "SentencePiece";
    if (spec->model == TOKEN_UNIGRAM) return "Unigram";
    if (spec->model == TOKEN_WORDPIECE) return "WordPiece";
    if (spec->model == TOKEN_WORDLEVEL) return "whole words";
    size_t n = spec->pre_tokenizers.n;
    bool bytes = n && spec->pre_tokenizers.items[n - 1].kind == PRE_BYTE_LEVEL;
    return bytes ? "byte-level BPE" : spec->byte_fallback ? "BPE with byte fallback" : "BPE";
}

static const char *rope_name(RopeType type) {
    static const char *const names[] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
    return names[type];
}

/* ---- telling ---- */

static void tell_attention(const ModelConfig *c) {
    int64_t local = 0;
    for (int64_t i = 0; i < c->layers; i++) local += (c->layer[i] & LAYER_WINDOW) != 0;
    printf("  attention     %" PRId64 " heads of %" PRId64, c->heads, c->head_dim);
    if (c->kv_heads != c->heads) printf(", %" PRId64 " for keys and values", c->kv_heads);
    if (local) printf("; a window of %" PRId64 " tokens in %" PRId64 " layers", c->window, local);
    printf("\n");
    if (c->rope.theta == 0) return;
    printf("  positions     rotary, base %.10g", c->rope.theta);
    if (c->rope.type != ROPE_DEFAULT) printf(", scaled (%s)", rope_name(c->rope.type));
    if (c->local_rope.theta > 0) printf("; %.10g where there is a window", c->local_rope.theta);
    printf("\n");
}

static void tell_model(const Show *s) {
    const ModelConfig *c = &s->config;
    char text[32];
    int64_t total = params_count(&s->model->params);
    printf("Model\n  architecture  %s (%s)\n", c->family->model_type, c->family->architecture);
    printf("  layers        %" PRId64 ", width %" PRId64 ", feed-forward %" PRId64 " (%s)\n", c->layers, c->width,
           c->ffn, activation_to_name(c->activation));
    tell_attention(c);
    printf("  context       %" PRId64 " tokens", c->context);
    if (c->max_context > c->context) printf(" (%" PRId64 " with factors that tane does not use)", c->max_context);
    printf("\n  vocabulary    %" PRId64 "%s\n", c->vocab_size,
           c->tied ? "; the embedding is the output layer, too" : "");
    printf("  parameters    %s\n", count_text(total, text));
    for (int g = 0; g < GROUPS; g++)
        if (s->groups[g])
            printf("    %-12s%15" PRId64 "  %4.1f%%\n", group_names[g], s->groups[g],
                   100.0 * (double)s->groups[g] / (double)total);
}

static Status tell_types(const Show *s) {
    Table t;
    char bytes[32];
    printf("%sWeights\n", s->is_model ? "\n" : "");
    table_begin(&t, "lrrrr");
    static const char *const heads[] = {"type", "tensors", "numbers", "bytes", "bits each"};
    for (int i = 0; i < 5; i++) TRY_RETURN(table_cell(&t, "%s", heads[i]));
    for (int i = 0; i < s->n_types; i++) {
        const TypeSum *x = &s->types[i];
        TRY_RETURN(table_cell(&t, "%s", x->type));
        TRY_RETURN(table_cell(&t, "%zu", x->tensors));
        TRY_RETURN(table_cell(&t, "%" PRId64, x->numbers));
        TRY_RETURN(table_cell(&t, "%s", size_text(x->bytes, bytes)));
        TRY_RETURN(table_cell(&t, "%.3g", x->numbers ? 8.0 * (double)x->bytes / (double)x->numbers : 0.0));
    }
    table_end(&t, stdout, "  ");
    return TANE_OK;
}

static void tell_token(const Tokenizer *tok, const char *name, int32_t id) {
    TokenPiece piece;
    if (id >= 0 && tokenizer_piece(tok, id, &piece) == TANE_OK) printf("  %-14s%d %s\n", name, id, piece.text);
}

static void tell_template(const Show *s) {
    const ChatTemplate *chat = s->open.chat;
    if (s->open.chat_error.code != TANE_OK) printf("  chat template cannot be read: %s\n", s->open.chat_error.text);
    else if (chat)
        printf("  chat template %zu characters%s; --template prints it\n", strlen(chat_template_source(chat)),
               chat_template_marks_generation(chat) ? ", marks what the assistant says" : "");
    else printf("  chat template none\n");
}

static void tell_tokenizer(const Show *s) {
    const Tokenizer *tok = s->open.tokenizer;
    printf("\nTokenizer\n");
    if (!tok) {
        printf("  %s\n", s->no_tokenizer);
        return;
    }
    const TokenizerSpec *spec = tokenizer_spec(tok);
    printf("  kind          %s, %d tokens", tokenizer_kind(tok), tokenizer_vocab_size(tok));
    if (spec && spec->n_merges) printf(", %zu merges", spec->n_merges);
    printf("\n");
    tell_token(tok, "BOS", tokenizer_bos(tok));
    tell_token(tok, "EOS", tokenizer_eos(tok));
    tell_token(tok, "padding", tokenizer_pad(tok));
    tell_token(tok, "unknown", tokenizer_unk(tok));
    tell_template(s);
}

static void tell_memory(const Show *s) {
    char a[32], b[32], c[32];
    uint64_t weights = (uint64_t)s->model->params.elements * 2, token = cache_bytes(&s->config);
    printf("\nMemory\n  to run        %s of weights in bf16, and %s of KV cache for 1000 tokens (%s for the whole "
           "context)\n",
           size_text(weights, a), size_text(1000 * token, b), size_text((uint64_t)s->config.context * token, c));
    printf("  to train      %s for weights in bf16, master weights, gradients and moments of AdamW in fp32, and the\n"
           "                activations, which depend on the batch: tane train RECIPE --plan\n",
           size_text(train_bytes(s), a));
}

static Status tell_files(const Show *s) {
    Status st = TANE_OK;
    DirList list = {0};
    Table t;
    char *path = NULL, text[32];
    uint64_t bytes;
    printf("\nFiles\n");
    if (!dir_exists(s->path)) {
        TRY_RETURN(file_size(s->path, &bytes));
        printf("  %s  %s\n", path_base(s->path), size_text(bytes, text));
        return TANE_OK;
    }
    TRY(dir_list(s->path, &list));
    table_begin(&t, "Lr");
    TRY(table_cell(&t, "file"));
    TRY(table_cell(&t, "size"));
    for (size_t i = 0; i < list.n; i++) {
        TRY(path_join(&path, s->path, list.names[i]));
        bool file = !dir_exists(path) && file_size(path, &bytes) == TANE_OK;
        mem_free(path);
        path = NULL;
        if (!file) continue;
        TRY(table_cell(&t, "%s", list.names[i]));
        TRY(table_cell(&t, "%s", size_text(bytes, text)));
    }
    table_end(&t, stdout, "  ");
out:
    mem_free(path);
    dir_list_free(&list);
    return st;
}

static Status tell_tensors(const Show *s) {
    Table t;
    char shape[96];
    printf("\nTensors\n");
    table_begin(&t, "Lllr");
    static const char *const heads[] = {"name", "shape", "type", "bytes"};
    for (int i = 0; i < 4; i++) TRY_RETURN(table_cell(&t, "%s", heads[i]));
    for (size_t i = 0; i < s->n; i++) {
        const Entry *e = &s->entries[i];
        TRY_RETURN(table_cell(&t, "%s", e->name));
        TRY_RETURN(table_cell(&t, "%s", shape_text(e, shape)));
        TRY_RETURN(table_cell(&t, "%s", e->type));
        TRY_RETURN(table_cell(&t, "%" PRIu64, e->bytes));
    }
    table_end(&t, stdout, "  ");
    return TANE_OK;
}

static Status tell(const Show *s, bool tensors) {
    printf("%s\n\n", s->path);
    if (s->is_model) tell_model(s);
    TRY_RETURN(tell_types(s));
    if (s->is_model) {
        tell_tokenizer(s);
        tell_memory(s);
    }
    TRY_RETURN(tell_files(s));
    return tensors ? tell_tensors(s) : TANE_OK;
}

/* ---- JSON ---- */

/* A list's new item; NULL when out of memory, here or before. */
static json_t *append(json_t *list, json_t *item) {
    if (list && item && json_array_append_new(list, item) == 0) return list;
    json_decref(list);
    return NULL;
}

static json_t *id_json(int64_t id) { return id < 0 ? json_null() : json_integer(id); }

static json_t *types_json(const Show *s) {
    json_t *list = json_array();
    for (int i = 0; i < s->n_types; i++)
        list = append(list,
                      json_pack("{ss sI sI sI}", "type", s->types[i].type, "tensors", (json_int_t)s->types[i].tensors,
                                "numbers", (json_int_t)s->types[i].numbers, "bytes", (json_int_t)s->types[i].bytes));
    return list;
}

static json_t *tensors_json(const Show *s) {
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++) {
        const Entry *e = &s->entries[i];
        json_t *shape = json_array();
        for (int k = 0; k < e->rank; k++) shape = append(shape, json_integer(e->shape[k]));
        list = append(list, json_pack("{ss so ss sI}", "name", e->name, "shape", shape, "type", e->type, "bytes",
                                      (json_int_t)e->bytes));
    }
    return list;
}

static json_t *model_json(const Show *s) {
    const ModelConfig *c = &s->config;
    json_t *groups = json_object();
    for (int g = 0; g < GROUPS; g++)
        if (s->groups[g]) json_object_set_new(groups, group_names[g], json_integer(s->groups[g]));
    return json_pack("{ss ss sI so sI sI sI sI sI sI sI sI sb}", "model_type", c->family->model_type, "architecture",
                     c->family->architecture, "parameters", (json_int_t)params_count(&s->model->params), "groups",
                     groups, "layers", (json_int_t)c->layers, "hidden_size", (json_int_t)c->width, "intermediate_size",
                     (json_int_t)c->ffn, "heads", (json_int_t)c->heads, "kv_heads", (json_int_t)c->kv_heads, "head_dim",
                     (json_int_t)c->head_dim, "context", (json_int_t)c->context, "vocab_size",
                     (json_int_t)c->vocab_size, "tied", c->tied);
}

static json_t *tokenizer_json(const Show *s) {
    const Tokenizer *tok = s->open.tokenizer;
    if (!tok) return json_null();
    return json_pack("{ss si so so so so sb}", "kind", tokenizer_kind(tok), "tokens", tokenizer_vocab_size(tok), "bos",
                     id_json(tokenizer_bos(tok)), "eos", id_json(tokenizer_eos(tok)), "pad",
                     id_json(tokenizer_pad(tok)), "unk", id_json(tokenizer_unk(tok)), "chat_template",
                     s->open.chat != NULL);
}

static json_t *memory_json(const Show *s) {
    return json_pack("{sI sI sI}", "weights_bf16", (json_int_t)(s->model->params.elements * 2), "kv_cache_per_token",
                     (json_int_t)cache_bytes(&s->config), "train", (json_int_t)train_bytes(s));
}

static Status tell_json(const Show *s, bool tensors) {
    Status st = TANE_OK;
    Str text = {0};
    json_t *all = json_pack("{ss sI sI so}", "path", s->path, "tensors", (json_int_t)s->n, "bytes",
                            (json_int_t)s->bytes, "types", types_json(s));
    int bad = !all;
    if (!bad && s->is_model)
        bad = json_object_set_new(all, "model", model_json(s)) ||
              json_object_set_new(all, "tokenizer", tokenizer_json(s)) ||
              json_object_set_new(all, "memory", memory_json(s));
    if (!bad && tensors) bad = json_object_set_new(all, "list", tensors_json(s));
    if (bad) TRY(FAIL(TANE_ENOMEM, "out of memory while writing JSON"));
    TRY(json_write_str(&text, all));
    printf("%s\n", text.text);
out:
    json_decref(all);
    str_free(&text);
    return st;
}

/* ---- the command ---- */

static Status print_template(const Show *s) {
    if (s->open.chat_error.code != TANE_OK) return err_restore(&s->open.chat_error);
    if (!s->open.chat) return FAIL(TANE_ENOTFOUND, "%s has no chat template", s->path);
    fputs(chat_template_source(s->open.chat), stdout);
    return TANE_OK;
}

static Status run(const Command *self, int argc, char **argv) {
    ShowConfig config;
    OptionSet set;
    StringList words;
    Show show = {0};
    Status st = TANE_OK;
    TRY_RETURN(option_init(&set, self->options, &config));
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n != 1) TRY(cli_usage(self, words.n ? "one model at a time, please" : "which model?"));
    TRY(look(&show, words.items[0]));
    TRY(config.template ? print_template(&show)
        : config.json   ? tell_json(&show, config.tensors)
                        : tell(&show, config.tensors));
out:
    show_release(&show);
    option_release(&set);
    return st;
}

const Command cmd_show = {
    .name = "show",
    .summary = "what a model is: parameters, types, tokenizer, template, memory",
    .usage = "tane show PATH [--tensors] [--template] [--json]",
    .examples = "  tane show SmolLM2-135M-Instruct.gguf\n"
                "  tane show runs/story/best --tensors\n"
                "  tane show model.safetensors\n",
    .options = &table,
    .details =
        "PATH is a model folder, a .gguf or .safetensors file, a run's folder (its best checkpoint, else its last),\n"
        "or the name of a run in runs/. Weights are not read, only what describes them.\n",
    .run = run,
};
