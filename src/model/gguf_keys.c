/* A model's configuration as GGUF's keys: gguf_config.c the other way round. See gguf_save.h. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_config.h"
#include "model/gguf_save.h"

typedef struct Keys {
    GgufWriter *w;
    const ModelConfig *c;
    const GgufArch *arch;
    SaveNote note;
    void *user;
    char name[GGUF_NAME];
} Keys;

static const char *key(Keys *k, const char *ending) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->arch->name, ending);
    return k->name;
}

static Status put_int(Keys *k, const char *ending, int64_t value) {
    return gguf_put_u32(k->w, key(k, ending), (uint32_t)value);
}

static Status put_real(Keys *k, const char *ending, double value) {
    return gguf_put_f32(k->w, key(k, ending), (float)value);
}

static Status put_name(Keys *k, const char *ending, const char *value) {
    return gguf_put_text(k->w, key(k, ending), value, strlen(value));
}

static void note(const Keys *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(const Keys *k, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (k->note) k->note(k->user, text);
}

/* ---- rotary positions ---- */

static Status put_yarn(Keys *k) {
    const RopeConfig *r = &k->c->rope;
    double usual = gguf_yarn_amplitude(r->factor), amplitude = rope_amplitude(r, k->c->context);
    if (r->no_truncate) return FAIL(TANE_EUNSUPPORTED, "GGUF has no key for a yarn rope with \"truncate\": false");
    TRY_RETURN(put_real(k, "rope.scaling.factor", r->factor));
    TRY_RETURN(put_int(k, "rope.scaling.original_context_length", r->original_context));
    if (r->beta_fast > 0) TRY_RETURN(put_real(k, "rope.scaling.yarn_beta_fast", r->beta_fast));
    if (r->beta_slow > 0) TRY_RETURN(put_real(k, "rope.scaling.yarn_beta_slow", r->beta_slow));
    if (fabs(amplitude - usual) <= 1e-7 * usual) return TANE_OK;
    /* llama.cpp computes by the second key; other readers take the first for config.json's attention_factor. */
    TRY_RETURN(put_real(k, "rope.scaling.yarn_attn_factor", amplitude));
    return put_real(k, "rope.scaling.attn_factor", amplitude / usual);
}

static Status put_rope(Keys *k) {
    const ModelConfig *c = k->c;
    const RopeConfig *r = &c->rope;
    int64_t width = rope_width(r, c->head_dim);
    if (k->arch->paired && width != c->head_dim)
        return FAIL(TANE_EUNSUPPORTED,
                    "GGUF's architecture \"%s\" turns whole heads, but this model has "
                    "partial_rotary_factor %g",
                    k->arch->name, r->partial);
    TRY_RETURN(put_int(k, "rope.dimension_count", width));
    TRY_RETURN(put_real(k, "rope.freq_base", r->theta));
    if (c->local_rope.theta > 0 && c->local_rope.type != ROPE_DEFAULT)
        return FAIL(TANE_EUNSUPPORTED, "GGUF has no keys for a scaled rope of layers with a window");
    if (c->local_rope.theta > 0) TRY_RETURN(put_real(k, "rope.freq_base_swa", c->local_rope.theta));
    switch (r->type) {
    case ROPE_DEFAULT:
    case ROPE_DYNAMIC: /* the default up to the model's context */
    case ROPE_LLAMA3: /* in a tensor */ return TANE_OK;
    case ROPE_LINEAR:
        TRY_RETURN(put_name(k, "rope.scaling.type", "linear"));
        return put_real(k, "rope.scaling.factor", r->factor);
    case ROPE_YARN: TRY_RETURN(put_name(k, "rope.scaling.type", "yarn")); return put_yarn(k);
    case ROPE_LONGROPE:
        if (strcmp(k->arch->name, "phi3"))
            return FAIL(TANE_EUNSUPPORTED, "GGUF has longrope for phi3 only, not for %s", k->arch->name);
        TRY_RETURN(put_int(k, "rope.scaling.original_context_length", r->original_context));
        return put_real(k, "rope.scaling.attn_factor", rope_amplitude(r, c->max_context ? c->max_context : c->context));
    }
    return FAIL(TANE_EINTERNAL, "put_rope: rope type %d", (int)r->type);
}

/* ---- windows ---- */

/* Layers with a window: `pattern` as GGUF means it, 0 where only a list says it. */
static bool follows(const ModelConfig *c, int64_t pattern) {
    for (int64_t i = 0; i < c->layers; i++)
        if (((c->layer[i] & LAYER_WINDOW) != 0) != (!pattern || (i + 1) % pattern != 0)) return false;
    return true;
}

static Status put_list(Keys *k, const char *name, int flag) {
    int32_t list[MODEL_LAYERS];
    for (int64_t i = 0; i < k->c->layers; i++) list[i] = (k->c->layer[i] & flag) != 0;
    return gguf_put_i32s(k->w, name, list, (size_t)k->c->layers);
}

static Status put_windows(Keys *k) {
    const ModelConfig *c = k->c;
    const char *name = k->arch->name;
    bool phi3 = !strcmp(name, "phi3"), any = false;
    int64_t usual = !strcmp(name, "gemma2") ? 2 : !strcmp(name, "gemma3") ? 6 : 0;
    for (int64_t i = 0; i < c->layers; i++) any |= (c->layer[i] & LAYER_WINDOW) != 0;
    if (!any && phi3) return put_int(k, "attention.sliding_window", 0); /* llama.cpp takes a missing one for 2047 */
    if (!any && !k->arch->windows) return TANE_OK;
    if (!k->arch->windows && c->window < c->context)
        note(k,
             "llama.cpp knows no sliding window for \"%s\": with more than %lld tokens it computes something else than "
             "this model",
             name, (long long)c->window);
    TRY_RETURN(put_int(k, "attention.sliding_window", any ? c->window : 0));
    if (!any || phi3 || follows(c, usual)) return TANE_OK;
    return put_list(k, key(k, "attention.sliding_window_pattern"), LAYER_WINDOW);
}

/* ---- families ---- */

static Status put_gemma(Keys *k) {
    const ModelConfig *c = k->c;
    double scalar = 1 / (c->attention_scale * c->attention_scale);
    double usual = gguf_gemma_scalar(c->layers, c->width, c->heads, c->head_dim);
    bool second = !strcmp(k->arch->name, "gemma2");
    if (fabs(scalar - usual) > 1e-6 * usual) {
        note(k, "llama.cpp takes %g for query_pre_attn_scalar, but this model has %g: it computes something else there",
             usual, scalar);
        TRY_RETURN(put_real(k, "attention.scale", c->attention_scale));
    }
    if (second || c->attention_softcap > 0) TRY_RETURN(put_real(k, "attn_logit_softcapping", c->attention_softcap));
    return second || c->logit_softcap > 0 ? put_real(k, "final_logit_softcapping", c->logit_softcap) : TANE_OK;
}

static Status put_smollm3(Keys *k) {
    bool usual = true;
    for (int64_t i = 0; i < k->c->layers; i++) usual &= ((k->c->layer[i] & LAYER_NO_ROPE) != 0) == ((i + 1) % 4 == 0);
    if (usual) return TANE_OK;
    note(k, "llama.cpp takes every fourth layer of SmolLM 3 to be without positions, but this model has others: it "
            "computes "
            "something else there");
    return put_list(k, "tane.rope.no_rope_layers", LAYER_NO_ROPE);
}

static Status put_all(Keys *k) {
    const ModelConfig *c = k->c;
    bool gpt2 = !strcmp(k->arch->name, "gpt2");
    if (c->activation != k->arch->activation)
        return FAIL(TANE_EUNSUPPORTED,
                    "GGUF's architecture \"%s\" means the activation function %s, but this model has %s", k->arch->name,
                    activation_to_name(k->arch->activation), activation_to_name(c->activation));
    TRY_RETURN(put_int(k, "block_count", c->layers));
    TRY_RETURN(put_int(k, "context_length", c->max_context ? c->max_context : c->context));
    TRY_RETURN(put_int(k, "embedding_length", c->width));
    TRY_RETURN(put_int(k, "feed_forward_length", c->ffn));
    TRY_RETURN(put_int(k, "attention.head_count", c->heads));
    TRY_RETURN(put_int(k, "vocab_size", c->vocab_size));
    if (gpt2) return put_real(k, "attention.layer_norm_epsilon", c->norm_epsilon);
    TRY_RETURN(put_int(k, "attention.head_count_kv", c->kv_heads));
    TRY_RETURN(put_int(k, "attention.key_length", c->head_dim));
    TRY_RETURN(put_int(k, "attention.value_length", c->head_dim));
    TRY_RETURN(put_real(k, "attention.layer_norm_rms_epsilon", c->norm_epsilon));
    TRY_RETURN(put_rope(k));
    TRY_RETURN(put_windows(k));
    if (k->arch->norms_plus_one) return put_gemma(k);
    return strcmp(k->arch->name, "smollm3") ? TANE_OK : put_smollm3(k);
}

Status gguf_put_config(GgufWriter *w, const ModelConfig *config, const GgufArch *arch, SaveNote noted, void *user) {
    Keys keys = {.w = w, .c = config, .arch = arch, .note = noted, .user = user};
    return put_all(&keys);
}
