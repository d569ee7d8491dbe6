/* Reading a GGUF file's keys as config.json. See gguf_config.h. */
#include "model/gguf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_rope.h"
#include "model/model.h"

/* What is being made, and which keys were read. */
typedef struct Reading {
    const GgufFile *file;
    const GgufArch *arch;
    const char *path;
    char key[GGUF_NAME]; /* the last one asked for */
    bool *used;          /* by the key's place */
    json_t *json;
    bool no_memory; /* sticky */
    int64_t vocab, context, width, layers, heads, head_dim;
} Reading;

/* ---- one key ---- */

static size_t place_of(const GgufFile *file, const char *key, GgufKind *kind) {
    size_t i = 0, n = gguf_key_count(file);
    while (i < n && strcmp(gguf_key(file, i, kind), key)) i++;
    return i;
}

/* The key "ARCH.ending", noted as read. *kind is set where it is there. */
static const char *key(Reading *r, const char *ending, GgufKind *kind) {
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch->name, ending);
    size_t i = place_of(r->file, r->key, kind);
    if (i < gguf_key_count(r->file)) r->used[i] = true;
    return r->key;
}

static bool has(Reading *r, const char *ending) {
    GgufKind kind;
    return gguf_has(r->file, key(r, ending, &kind));
}

static bool has_tensor(const Reading *r, const char *name) { return gguf_find(r->file, name) != NULL; }

/* A number that may also stand there once for each layer: then all must be equal. */
static Status get_int(Reading *r, const char *ending, bool required, int64_t lo, int64_t hi, int64_t *out) {
    GgufKind kind = GGUF_U32;
    const char *name = key(r, ending, &kind);
    size_t n;
    if (!gguf_has(r->file, name) || kind != GGUF_ARRAY) return gguf_int(r->file, name, required, lo, hi, out);
    TRY_RETURN(gguf_array(r->file, name, required, &kind, &n));
    if (n != (size_t)r->layers || kind == GGUF_STRING)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" has %zu values; it must have one for each of the %lld layers",
                    r->path, name, n, (long long)r->layers);
    double first = gguf_array_number(r->file, name, 0);
    for (size_t i = 1; i < n; i++)
        if (gguf_array_number(r->file, name, i) != first)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: the key \"%s\" is %g in layer 0 and %g in layer %zu; tane's models have "
                        "the same in all layers",
                        r->path, name, first, gguf_array_number(r->file, name, i), i);
    if (!(first >= (double)lo && first <= (double)hi))
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %g; it must be from %lld to %lld", r->path, name, first,
                    (long long)lo, (long long)hi);
    *out = (int64_t)first;
    return TANE_OK;
}

/* The shortest decimal number that is this float: files hold 1e-05 as 9.99999975e-06. */
static double as_written(double value) {
    char text[32];
    if ((double)(float)value != value) return value;
    for (int digits = 6; digits <= 9; digits++) {
        double shorter;
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (sscanf(text, "%lf", &shorter) == 1 && (float)shorter == (float)value) return shorter;
    }
    return value;
}

static Status get_double(Reading *r, const char *ending, bool required, double *out) {
    GgufKind kind;
    double value = *out;
    TRY_RETURN(gguf_double(r->file, key(r, ending, &kind), required, &value));
    if (!isfinite(value)) return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is not a finite number", r->path, r->key);
    *out = as_written(value);
    return TANE_OK;
}

/* Of a norm: 0 would divide by 0 somewhere. */
static Status get_epsilon(Reading *r, const char *ending, double *out) {
    TRY_RETURN(get_double(r, ending, true, out));
    if (*out > 0) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %g; it must be positive", r->path, r->key, *out);
}

/* ---- config.json ---- */

/* Takes the value over. */
static void put(Reading *r, json_t *object, const char *name, json_t *value) {
    if (!value || json_object_set_new(object, name, value)) r->no_memory = true;
}
/* The same; hands the value back to be filled, NULL when memory ran out (jansson's functions take that). */
static json_t *put_new(Reading *r, json_t *object, const char *name, json_t *value) {
    if (value && !json_object_set_new(object, name, value)) return value;
    r->no_memory = true;
    return NULL;
}
static void put_int(Reading *r, const char *name, int64_t value) { put(r, r->json, name, json_integer(value)); }
static void put_real(Reading *r, const char *name, double value) { put(r, r->json, name, json_real(value)); }
static void put_bool(Reading *r, const char *name, bool value) { put(r, r->json, name, json_boolean(value)); }

/* ---- what the file is ---- */

Status gguf_config_arch(const GgufFile *file, const GgufArch **out) {
    GgufText name, type = {"model", 5};
    TRY_RETURN(gguf_text(file, "general.type", false, &type));
    if (type.n != 5 || memcmp(type.data, "model", 5))
        return FAIL(TANE_EUNSUPPORTED, "%s: general.type is \"%.*s\": this file belongs to a model, but is none",
                    gguf_path(file), (int)(type.n < 64 ? type.n : 64), type.data);
    TRY_RETURN(gguf_text(file, "general.architecture", true, &name));
    *out = gguf_arch(name.data, name.n);
    if (*out) return TANE_OK;
    return FAIL(TANE_EUNSUPPORTED, "%s: general.architecture is \"%.*s\"; tane knows %s", gguf_path(file),
                (int)(name.n < 64 ? name.n : 64), name.data, gguf_arch_names());
}

Status gguf_config_vocab(const GgufFile *file, int64_t *out) {
    const GgufTensor *t = gguf_find(file, "token_embd.weight");
    if (!t && gguf_tensor_count(file) == 0)
        return FAIL(TANE_EFORMAT, "%s: has no tensors: this is only a vocabulary or a header, not a model",
                    gguf_path(file));
    if (!t)
        return FAIL(TANE_EFORMAT, "%s: has no tensor \"token_embd.weight\": the file is incomplete", gguf_path(file));
    if (t->rank != 2)
        return FAIL(TANE_EFORMAT, "%s: tensor \"token_embd.weight\" has %d dimensions; it must have 2", gguf_path(file),
                    t->rank);
    *out = t->shape[0];
    return TANE_OK;
}

static Status head_dim(Reading *r) {
    int64_t value;
    TRY_RETURN(get_int(r, "embedding_length", true, 1, 65536, &r->width));
    TRY_RETURN(get_int(r, "attention.head_count", true, 1, 1024, &r->heads));
    TRY_RETURN(get_int(r, "attention.key_length", false, 1, 1024, &r->head_dim));
    if (!r->head_dim && r->width % r->heads)
        return FAIL(TANE_EFORMAT,
                    "%s: the key \"%s.embedding_length\" is %lld, no multiple of %lld heads, and there is "
                    "no \"%s.attention.key_length\"",
                    r->path, r->arch->name, (long long)r->width, (long long)r->heads, r->arch->name);
    if (!r->head_dim) r->head_dim = r->width / r->heads;
    static const char *const same[] = {"attention.value_length", "attention.key_length_swa",
                                       "attention.value_length_swa"};
    for (int i = 0; i < 3; i++) {
        value = r->head_dim;
        TRY_RETURN(get_int(r, same[i], false, 1, 1024, &value));
        if (value != r->head_dim)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: the key \"%s\" is %lld, but heads have the size %lld; tane's models have "
                        "one size of heads",
                        r->path, r->key, (long long)value, (long long)r->head_dim);
    }
    return TANE_OK;
}

static Status reading_begin(Reading *r, const GgufFile *file) {
    *r = (Reading){.file = file, .path = gguf_path(file)};
    TRY_RETURN(gguf_config_arch(file, &r->arch));
    return MEM_NEW_ARRAY(&r->used, gguf_key_count(file));
}

static void reading_end(Reading *r) {
    mem_free(r->used);
    json_decref(r->json);
}

Status gguf_config_head_dim(const GgufFile *file, const GgufArch *arch, int64_t *out) {
    Reading r;
    Status st = TANE_OK;
    TRY(reading_begin(&r, file));
    r.arch = arch;
    TRY(get_int(&r, "block_count", true, 1, MODEL_LAYERS, &r.layers));
    TRY(head_dim(&r));
    *out = r.head_dim;
out:
    reading_end(&r);
    return st;
}

/* ---- tokens ---- */

/* -1 where there is none: also what some writers put for none. */
static Status token_id(const Reading *r, const char *name, int64_t *out) {
    *out = -1;
    TRY_RETURN(gguf_int(r->file, name, false, -1, UINT32_MAX, out));
    if (*out == UINT32_MAX) *out = -1;
    if (*out >= r->vocab)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %lld, but the vocabulary has only %lld tokens", r->path, name,
                    (long long)*out, (long long)r->vocab);
    return TANE_OK;
}

static Status read_tokens(Reading *r) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t id, kept[3];
    int n = 0;
    json_t *list = put_new(r, r->json, "eos_token_id", json_array());
    for (int i = 0; i < 3; i++) {
        TRY_RETURN(token_id(r, ends[i], &id));
        bool known = id < 0;
        for (int k = 0; k < n; k++) known |= kept[k] == id;
        if (!known && json_array_append_new(list, json_integer(id))) r->no_memory = true;
        if (!known) kept[n++] = id;
    }
    TRY_RETURN(token_id(r, "tokenizer.ggml.bos_token_id", &id));
    if (id >= 0) put_int(r, "bos_token_id", id);
    TRY_RETURN(token_id(r, "tokenizer.ggml.padding_token_id", &id));
    if (id >= 0) put_int(r, "pad_token_id", id);
    return TANE_OK;
}

/* ---- rotary positions ---- */

double gguf_yarn_amplitude(double factor) { return factor <= 1 ? 1 : 1 + 0.1 * log(factor); }

static Status read_yarn(Reading *r, json_t *p) {
    static const char *const numbers[][2] = {{"beta_fast", "rope.scaling.yarn_beta_fast"},
                                             {"beta_slow", "rope.scaling.yarn_beta_slow"},
                                             {"attention_factor", "rope.scaling.yarn_attn_factor"}};
    double factor = json_number_value(json_object_get(p, "factor")), extend = 1, share = 1;
    for (int i = 0; i < 3; i++) {
        double value = 0;
        TRY_RETURN(get_double(r, numbers[i][1], false, &value));
        if (value > 0) put(r, p, numbers[i][0], json_real(value));
    }
    TRY_RETURN(get_double(r, "rope.scaling.yarn_ext_factor", false, &extend));
    if (extend != 1 && extend != -1)
        return FAIL(TANE_EUNSUPPORTED, "%s: the key \"%s\" is %g; tane knows only 1", r->path, r->key, extend);
    TRY_RETURN(get_double(r, "rope.scaling.attn_factor", false, &share));
    if (share != 1 && !json_object_get(p, "attention_factor"))
        put(r, p, "attention_factor", json_real(share * gguf_yarn_amplitude(factor)));
    return TANE_OK;
}

/* The numbers of rope_factors_short.weight or rope_factors_long.weight. */
static Status read_factors(Reading *r, const char *name, const char *to, json_t *p) {
    const GgufTensor *t = gguf_find(r->file, name);
    if (!t) return FAIL(TANE_EFORMAT, "%s: rope.scaling.type longrope needs the tensor \"%s\"", r->path, name);
    if (t->rank != 1 || t->shape[0] > ROPE_FACTORS || t->type->type != GGML_F32)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%s\" must be a list of at most %d numbers in F32", r->path, name,
                    ROPE_FACTORS);
    json_t *list = put_new(r, p, to, json_array());
    for (int64_t i = 0; i < t->shape[0]; i++) {
        float f;
        memcpy(&f, (const char *)t->data + 4 * i, 4);
        if (!isfinite(f)) return FAIL(TANE_EFORMAT, "%s: tensor \"%s\" has a number that is not finite", r->path, name);
        if (json_array_append_new(list, json_real(as_written((double)f)))) r->no_memory = true;
    }
    return TANE_OK;
}

static Status read_longrope(Reading *r, json_t *p, int64_t original) {
    double share = 1, scale = (double)r->context / (double)original;
    double usual = scale > 1 ? sqrt(1 + log(scale) / log((double)original)) : 1;
    TRY_RETURN(read_factors(r, "rope_factors_short.weight", "short_factor", p));
    TRY_RETURN(read_factors(r, "rope_factors_long.weight", "long_factor", p));
    TRY_RETURN(get_double(r, "rope.scaling.attn_factor", false, &share));
    if (fabs(share - usual) > 1e-6 * usual) put(r, p, "attention_factor", json_real(share));
    put_int(r, "original_max_position_embeddings", original);
    return TANE_OK;
}

/* Which of config.json's rope types the file means. */
static Status rope_type(Reading *r, const char **type) {
    static const char *const names[] = {"none", "linear", "yarn", "longrope"};
    GgufKind kind;
    GgufText text = {"none", 4};
    bool old = has(r, "rope.scale_linear"), factors = has_tensor(r, "rope_factors_short.weight");
    *type = NULL;
    TRY_RETURN(gguf_text(r->file, key(r, "rope.scaling.type", &kind), false, &text));
    for (int i = 0; i < 4 && !*type; i++)
        if (text.n == strlen(names[i]) && !memcmp(text.data, names[i], text.n)) *type = names[i];
    if (!*type)
        return FAIL(TANE_EUNSUPPORTED, "%s: the key \"%s\" is \"%.*s\"; tane knows none, linear, yarn and longrope",
                    r->path, r->key, (int)(text.n < 64 ? text.n : 64), text.data);
    bool none = !strcmp(*type, "none");
    if (none && old) *type = "linear";
    if (none && factors) *type = "longrope";
    if (!has_tensor(r, "rope_freqs.weight")) return TANE_OK;
    if (strcmp(*type, "none"))
        return FAIL(TANE_EUNSUPPORTED, "%s: has both the tensor \"rope_freqs.weight\" and rope.scaling.type %s",
                    r->path, *type);
    *type = "llama3";
    return TANE_OK;
}

static Status read_scaling(Reading *r, json_t *p, const char *type, double theta, int64_t width) {
    double factor = 1;
    int64_t original = r->context;
    bool used;
    TRY_RETURN(get_double(r, "rope.scale_linear", false, &factor));
    TRY_RETURN(get_double(r, "rope.scaling.factor", false, &factor));
    TRY_RETURN(get_int(r, "rope.scaling.original_context_length", false, 1, 16777216, &original));
    if (!strcmp(type, "llama3")) {
        RopeConfig rope = {.theta = theta};
        TRY_RETURN(gguf_rope_llama3(r->path, gguf_find(r->file, "rope_freqs.weight"), width, &rope, &used));
        if (!used) return TANE_OK;
        put(r, p, "factor", json_real(as_written(rope.factor)));
        put(r, p, "low_freq_factor", json_real(rope.low_freq_factor));
        put(r, p, "high_freq_factor", json_real(rope.high_freq_factor));
        original = rope.original_context;
    }
    put(r, p, "rope_type", json_string(strcmp(type, "none") ? type : "default"));
    if (!strcmp(type, "none")) return TANE_OK;
    if (strcmp(type, "linear")) put(r, p, "original_max_position_embeddings", json_integer(original));
    if (!strcmp(type, "longrope")) return read_longrope(r, p, original);
    if (strcmp(type, "llama3")) put(r, p, "factor", json_real(factor));
    return strcmp(type, "yarn") ? TANE_OK : read_yarn(r, p);
}

/* *p: rope_parameters; the caller's to put in. */
static Status read_rope(Reading *r, json_t *p) {
    const char *type;
    double theta = 10000;
    int64_t width = r->head_dim;
    TRY_RETURN(get_double(r, "rope.freq_base", false, &theta));
    TRY_RETURN(get_int(r, "rope.dimension_count", false, 2, r->head_dim, &width));
    if (width % 2)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %lld; it must be even", r->path, r->key, (long long)width);
    put(r, p, "rope_theta", json_real(theta));
    double share = (double)width / (double)r->head_dim;
    if ((int64_t)((double)r->head_dim * share) < width) share = nextafter(share, 1); /* config.json's is rounded down */
    if (width != r->head_dim) put(r, p, "partial_rotary_factor", json_real(share));
    TRY_RETURN(rope_type(r, &type));
    return read_scaling(r, p, type, theta, width);
}

/* ---- windows ---- */

/* layer_types, where the file has windows: pattern n gives every n-th layer none (0: all have one, unless the file
 * lists them). */
static Status read_windows(Reading *r, int64_t pattern, int64_t usual, int64_t *window) {
    GgufKind kind = GGUF_U32, element;
    *window = usual;
    TRY_RETURN(get_int(r, "attention.sliding_window", false, 0, 16777216, window));
    const char *name = key(r, "attention.sliding_window_pattern", &kind);
    size_t n = 0;
    if (gguf_has(r->file, name) && kind == GGUF_ARRAY) TRY_RETURN(gguf_array(r->file, name, true, &element, &n));
    else TRY_RETURN(gguf_int(r->file, name, false, 0, MODEL_LAYERS, &pattern));
    if (n && (n < (size_t)r->layers || element == GGUF_STRING))
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" has %zu values; it must have one for each of the %lld layers",
                    r->path, name, n, (long long)r->layers);
    json_t *types = put_new(r, r->json, "layer_types", json_array());
    for (int64_t i = 0; i < r->layers; i++) {
        bool local = *window && (n ? gguf_array_number(r->file, name, (size_t)i) != 0 : !pattern || (i + 1) % pattern);
        if (json_array_append_new(types, json_string(local ? "sliding_attention" : "full_attention")))
            r->no_memory = true;
    }
    if (*window) put_int(r, "sliding_window", *window);
    return TANE_OK;
}

/* ---- families ---- */

static Status read_llama(Reading *r) {
    int64_t window;
    put_bool(r, "attention_bias", has_tensor(r, "blk.0.attn_q.bias"));
    put_bool(r, "mlp_bias", has_tensor(r, "blk.0.ffn_up.bias"));
    if (!has(r, "attention.sliding_window")) return TANE_OK;
    TRY_RETURN(read_windows(r, 0, 0, &window));
    if (!window) return json_object_del(r->json, "layer_types"), TANE_OK;
    /* Llama's architecture with windows is Mistral, which has no biases. */
    if (has_tensor(r, "blk.0.attn_q.bias") || has_tensor(r, "blk.0.ffn_up.bias"))
        return FAIL(TANE_EUNSUPPORTED, "%s: has both biases and \"llama.attention.sliding_window\"", r->path);
    json_object_del(r->json, "attention_bias");
    json_object_del(r->json, "mlp_bias");
    put(r, r->json, "model_type", json_string("mistral"));
    return TANE_OK;
}

static Status read_qwen(Reading *r) {
    int64_t window;
    if (!strcmp(r->arch->name, "qwen3")) put_bool(r, "attention_bias", has_tensor(r, "blk.0.attn_q.bias"));
    if (!has(r, "attention.sliding_window")) return TANE_OK;
    TRY_RETURN(read_windows(r, 0, 0, &window));
    put_bool(r, "use_sliding_window", window > 0);
    return TANE_OK;
}

double gguf_gemma_scalar(int64_t layers, int64_t width, int64_t heads, int64_t dim) {
    return layers == 46 || layers == 62 ? (double)(width / heads) : (double)dim; /* the two of 27B */
}

static Status read_gemma(Reading *r) {
    bool second = !strcmp(r->arch->name, "gemma2");
    double scale = 0, scalar = gguf_gemma_scalar(r->layers, r->width, r->heads, r->head_dim);
    double attention_cap = second ? 50 : 0, logit_cap = second ? 30 : 0;
    int64_t window;
    put_bool(r, "attention_bias", has_tensor(r, "blk.0.attn_q.bias"));
    TRY_RETURN(get_double(r, "attention.scale", false, &scale));
    if (scale < 0) return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %g; it must be positive", r->path, r->key, scale);
    if (scale > 0) {
        scalar = 1 / (scale * scale);
        if (fabs(scalar - round(scalar)) < 1e-5 * scalar) scalar = round(scalar); /* the scale is a float */
    }
    /* transformers takes no 256.0 here. */
    put(r, r->json, "query_pre_attn_scalar",
        scalar == round(scalar) ? json_integer((json_int_t)scalar) : json_real(scalar));
    TRY_RETURN(get_double(r, "attn_logit_softcapping", false, &attention_cap));
    TRY_RETURN(get_double(r, "final_logit_softcapping", false, &logit_cap));
    put(r, r->json, "attn_logit_softcapping", attention_cap > 0 ? json_real(attention_cap) : json_null());
    put(r, r->json, "final_logit_softcapping", logit_cap > 0 ? json_real(logit_cap) : json_null());
    return read_windows(r, second ? 2 : 6, second ? 4096 : 0, &window);
}

/* Gemma 3's windows turn by a base of their own. */
static Status read_gemma3_ropes(Reading *r) {
    double local = 10000;
    json_t *both = put_new(r, r->json, "rope_parameters", json_object());
    json_t *full = put_new(r, both, "full_attention", json_object());
    TRY_RETURN(read_rope(r, full));
    TRY_RETURN(get_double(r, "rope.freq_base_swa", false, &local));
    put(r, both, "sliding_attention", json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", local));
    return TANE_OK;
}

/* llama.cpp's SmolLM 3 has no positions in every fourth layer; tane's own key says where else. */
static Status read_smollm3(Reading *r) {
    static const char name[] = "tane.rope.no_rope_layers";
    GgufKind element;
    size_t n;
    int64_t window;
    put_bool(r, "attention_bias", has_tensor(r, "blk.0.attn_q.bias"));
    put_bool(r, "mlp_bias", has_tensor(r, "blk.0.ffn_up.bias"));
    if (has(r, "attention.sliding_window")) {
        TRY_RETURN(read_windows(r, 0, 0, &window));
        put_bool(r, "use_sliding_window", window > 0);
    }
    TRY_RETURN(gguf_array(r->file, name, false, &element, &n));
    if (n && (n != (size_t)r->layers || element == GGUF_STRING))
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" has %zu values; it must have one for each of the %lld layers",
                    r->path, name, n, (long long)r->layers);
    json_t *list = put_new(r, r->json, "no_rope_layers", json_array());
    for (int64_t i = 0; i < r->layers; i++) { /* 1: this layer has positions */
        bool without = n ? gguf_array_number(r->file, name, (size_t)i) != 0 : (i + 1) % 4 == 0;
        if (json_array_append_new(list, json_integer(!without))) r->no_memory = true;
    }
    return TANE_OK;
}

static Status read_phi3(Reading *r) {
    int64_t window = 0;
    TRY_RETURN(get_int(r, "attention.sliding_window", false, 0, 16777216, &window));
    if (window) put_int(r, "sliding_window", window);
    return TANE_OK;
}

static Status read_gpt2(Reading *r) {
    int64_t ffn = 0, kv_heads = r->heads;
    double epsilon = 1e-5;
    TRY_RETURN(get_int(r, "feed_forward_length", true, 1, 1048576, &ffn));
    TRY_RETURN(get_int(r, "attention.head_count_kv", false, 1, 1024, &kv_heads));
    if (kv_heads != r->heads)
        return FAIL(TANE_EFORMAT, "%s: the key \"%s\" is %lld, but GPT-2 has as many as heads, %lld", r->path, r->key,
                    (long long)kv_heads, (long long)r->heads);
    if (r->head_dim * r->heads != r->width)
        return FAIL(TANE_EFORMAT, "%s: %lld heads of %lld are not GPT-2's width %lld", r->path, (long long)r->heads,
                    (long long)r->head_dim, (long long)r->width);
    TRY_RETURN(get_epsilon(r, "attention.layer_norm_epsilon", &epsilon));
    put_int(r, "n_positions", r->context);
    put_int(r, "n_embd", r->width);
    put_int(r, "n_layer", r->layers);
    put_int(r, "n_head", r->heads);
    put_int(r, "n_inner", ffn);
    put_real(r, "layer_norm_epsilon", epsilon);
    put(r, r->json, "activation_function", json_string(activation_to_name(r->arch->activation)));
    /* GPT-2's own defaults are 0.1, for training. */
    static const char *const dropouts[] = {"resid_pdrop", "embd_pdrop", "attn_pdrop"};
    for (int i = 0; i < 3; i++) put_real(r, dropouts[i], 0);
    return TANE_OK;
}

static Status read_decoder(Reading *r) {
    const char *name = r->arch->name;
    bool gemma = !strncmp(name, "gemma", 5);
    int64_t ffn = 0, kv_heads = r->heads;
    double epsilon = 1e-6;
    TRY_RETURN(get_int(r, "feed_forward_length", true, 1, 1048576, &ffn));
    TRY_RETURN(get_int(r, "attention.head_count_kv", false, 1, 1024, &kv_heads));
    TRY_RETURN(get_epsilon(r, "attention.layer_norm_rms_epsilon", &epsilon));
    put_int(r, "hidden_size", r->width);
    put_int(r, "intermediate_size", ffn);
    put_int(r, "num_hidden_layers", r->layers);
    put_int(r, "num_attention_heads", r->heads);
    put_int(r, "num_key_value_heads", kv_heads);
    put_int(r, "head_dim", r->head_dim);
    put_int(r, "max_position_embeddings", r->context);
    put_real(r, "rms_norm_eps", epsilon);
    put(r, r->json, gemma ? "hidden_activation" : "hidden_act", json_string(activation_to_name(r->arch->activation)));
    if (!strcmp(name, "gemma3")) {
        TRY_RETURN(read_gemma3_ropes(r));
    } else {
        TRY_RETURN(read_rope(r, put_new(r, r->json, "rope_parameters", json_object())));
    }
    if (gemma) return read_gemma(r);
    if (!strncmp(name, "qwen", 4)) return read_qwen(r);
    if (!strcmp(name, "smollm3")) return read_smollm3(r);
    return strcmp(name, "phi3") ? read_llama(r) : read_phi3(r);
}

/* ---- what nobody read ---- */

static bool is_nothing(const GgufFile *file, const char *name, GgufKind kind) {
    double number = 1;
    bool yes = true;
    if (kind == GGUF_BOOL) return gguf_bool(file, name, true, &yes) == TANE_OK && !yes;
    if (kind == GGUF_STRING || kind == GGUF_ARRAY) return false;
    return gguf_double(file, name, true, &number) == TANE_OK && number == 0;
}

/* Keys under the architecture's name say what the model computes; all others (general, tokenizer, quantize, split, and
 * what publishers add) do not. */
static Status check_unread(const Reading *r) {
    static const char *const inert[] = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"};
    size_t n = strlen(r->arch->name);
    for (size_t i = 0; i < gguf_key_count(r->file); i++) {
        GgufKind kind;
        const char *name = gguf_key(r->file, i, &kind);
        if (r->used[i] || strncmp(name, r->arch->name, n) || name[n] != '.') continue;
        bool known = is_nothing(r->file, name, kind);
        for (int k = 0; k < 3; k++) known |= !strcmp(name + n + 1, inert[k]);
        if (!known)
            return FAIL(TANE_EUNSUPPORTED,
                        "%s: tane does not know the key \"%.200s\", which may change what the model computes", r->path,
                        name);
    }
    return TANE_OK;
}

/* ---- all of it ---- */

static Status read_all(Reading *r) {
    bool causal = true;
    GgufKind kind;
    TRY_RETURN(gguf_config_vocab(r->file, &r->vocab));
    TRY_RETURN(get_int(r, "block_count", true, 1, MODEL_LAYERS, &r->layers));
    TRY_RETURN(get_int(r, "context_length", true, 1, 16777216, &r->context));
    TRY_RETURN(head_dim(r));
    TRY_RETURN(gguf_bool(r->file, key(r, "attention.causal", &kind), false, &causal));
    if (!causal)
        return FAIL(TANE_EUNSUPPORTED, "%s: \"%s\" is false: this is an encoder, not a language model", r->path,
                    r->key);
    put(r, r->json, "model_type", json_string(r->arch->model_type));
    put_int(r, "vocab_size", r->vocab);
    put_bool(r, "tie_word_embeddings", !has_tensor(r, "output.weight"));
    TRY_RETURN(read_tokens(r));
    TRY_RETURN(strcmp(r->arch->name, "gpt2") ? read_decoder(r) : read_gpt2(r));
    return check_unread(r);
}

Status gguf_config_json(const GgufFile *file, json_t **out) {
    Status st = TANE_OK;
    Reading r;
    *out = NULL;
    TRY(reading_begin(&r, file));
    if (!(r.json = json_object())) r.no_memory = true;
    if (!r.no_memory) TRY(read_all(&r));
    if (r.no_memory) st = FAIL(TANE_ENOMEM, "out of memory while reading %s", gguf_path(file));
out:
    if (st == TANE_OK) *out = json_incref(r.json);
    reading_end(&r);
    return st;
}

Status gguf_config_read(ModelConfig *config, const char *path) {
    Status st = TANE_OK;
    GgufFile *file = NULL;
    json_t *json = NULL;
    TRY(gguf_open(&file, path));
    TRY(gguf_config_json(file, &json));
    TRY(model_config_read_json(config, json, path));
out:
    json_decref(json);
    gguf_close(&file);
    return st;
}
