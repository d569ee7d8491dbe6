/* What Gemma 2 and 3 have in common: scaled embeddings, norms stored less one and also behind each branch, windows on some
 * layers, softcaps. */
#ifndef MODEL_GEMMA_H
#define MODEL_GEMMA_H

#include <math.h>

#include "model/decoder.h"

/* `every`: each so many-th layer sees everything, unless layer_types says something else. */
static inline Status gemma_read(ModelConfig *c, const json_t *json, const char *where, int64_t every) {
    bool bias = false, both_ways = false;
    double scalar = 256;
    c->kv_heads = 4;
    c->head_dim = 256;
    c->activation = ACTIVATION_GELU_TANH;
    c->norm = NORM_RMS_ONE;
    c->branch_norms = c->scaled_embedding = true;
    c->window = 4096;
    TRY_RETURN(decoder_read(c, json, where, "hidden_activation"));
    if (!json_object_get(json, "hidden_activation")) c->activation = ACTIVATION_GELU_TANH;
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &bias));
    c->qkv_bias = c->out_bias = bias;
    TRY_RETURN(json_opt_double(json, where, "query_pre_attn_scalar", &scalar));
    if (!(scalar > 0)) return FAIL(TANE_EFORMAT, "%s: query_pre_attn_scalar %g is not positive", where, scalar);
    c->attention_scale = 1 / sqrt(scalar);
    TRY_RETURN(json_opt_double(json, where, "attn_logit_softcapping", &c->attention_softcap));
    TRY_RETURN(json_opt_double(json, where, "final_logit_softcapping", &c->logit_softcap));
    if (!(c->attention_softcap >= 0 && c->logit_softcap >= 0))
        return FAIL(TANE_EFORMAT, "%s: attn_logit_softcapping %g and final_logit_softcapping %g must not be negative",
                    where, c->attention_softcap, c->logit_softcap);
    TRY_RETURN(json_opt_bool(json, where, "use_bidirectional_attention", &both_ways));
    if (both_ways)
        return FAIL(TANE_EUNSUPPORTED, "%s: use_bidirectional_attention true is an encoder, not a language model", where);
    TRY_RETURN(json_opt_int(json, where, "sliding_window", 1, 16777216, &c->window));
    for (int64_t i = 0; i < c->layers; i++) c->layer[i] = (i + 1) % every ? LAYER_WINDOW : 0;
    return decoder_read_layer_types(c, json, where);
}

static inline json_t *gemma_softcap(double cap) { return cap > 0 ? json_real(cap) : json_null(); }

/* transformers wants a whole number where it is one. */
static inline json_t *gemma_scalar(const ModelConfig *c) {
    double scalar = round(1e6 / (c->attention_scale * c->attention_scale)) / 1e6;
    return scalar == round(scalar) ? json_integer((json_int_t)scalar) : json_real(scalar);
}

static inline Status gemma_write(const ModelConfig *c, json_t *json) {
    /* The same function under the name that Gemma's files have. */
    const char *activation =
        c->activation == ACTIVATION_GELU_TANH ? "gelu_pytorch_tanh" : activation_to_name(c->activation);
    TRY_RETURN(decoder_write(c, json, "hidden_activation"));
    return config_add(json, json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:s}", "hidden_activation", activation, "attention_bias", c->qkv_bias,
                                      "query_pre_attn_scalar", gemma_scalar(c),
                                      "attn_logit_softcapping", gemma_softcap(c->attention_softcap),
                                      "final_logit_softcapping", gemma_softcap(c->logit_softcap), "sliding_window",
                                      decoder_window(c), "layer_types", decoder_layer_types(c), "hidden_act",
                                      activation));
}

/* hidden_act stands in files beside hidden_activation, which is the one that counts. */
#define GEMMA_KEYS                                                                                                     \
    DECODER_KEYS, "hidden_act", "hidden_activation", "attention_bias", "query_pre_attn_scalar",                        \
        "attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention", "sliding_window",          \
        "layer_types"

#endif
