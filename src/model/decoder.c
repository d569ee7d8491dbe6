/* The shared decoder: reading and writing what its families have in common, its parameters, its forward. See decoder.h.
 *
 * q|k|v and gate|up are one matrix each in memory; in files they are apart, but for Phi-3.
 */
#include "model/decoder.h"

#include <math.h>

typedef struct DecoderLayer {
    Param *norm1, *qkv_w, *qkv_b, *q_norm, *k_norm, *out_w, *out_b, *norm1_after;
    Param *norm2, *gate_up_w, *gate_up_b, *down_w, *down_b, *norm2_after;
} DecoderLayer;

typedef struct Decoder {
    Param *embedding, *norm, *head;
    DecoderLayer *layer;
} Decoder;

/* ------------------------------------------------------------------------------------------------- config.json */

Status decoder_defaults(ModelConfig *c) {
    if (!c->ffn) c->ffn = (8 * c->width / 3 + 63) / 64 * 64; /* two thirds of 4 C, as there are three matrices */
    if (c->rope.theta == 0) c->rope.theta = 10000;
    if (c->norm == NORM_LAYER) c->norm = NORM_RMS;
    if (c->norm_epsilon == 0) c->norm_epsilon = 1e-6;
    if (rope_width(&c->rope, c->head_dim) < 2 || (c->rope.partial == 0 && c->head_dim % 2))
        return FAIL(TANE_EINVAL, "rotary positions need an even head size, not %lld", (long long)c->head_dim);
    return TANE_OK;
}

Status decoder_read(ModelConfig *c, const json_t *json, const char *where, const char *activation) {
    const char *name = "silu";
    double attention_dropout = 0;
    TRY_RETURN(json_get_int(json, where, "hidden_size", 1, 65536, &c->width));
    TRY_RETURN(json_get_int(json, where, "intermediate_size", 1, 1048576, &c->ffn));
    TRY_RETURN(json_get_int(json, where, "num_hidden_layers", 1, MODEL_LAYERS, &c->layers));
    TRY_RETURN(json_get_int(json, where, "num_attention_heads", 1, 1024, &c->heads));
    if (!c->kv_heads) c->kv_heads = c->heads;
    TRY_RETURN(json_opt_int(json, where, "num_key_value_heads", 1, 1024, &c->kv_heads));
    TRY_RETURN(json_opt_int(json, where, "head_dim", 1, 1024, &c->head_dim));
    TRY_RETURN(json_get_int(json, where, "max_position_embeddings", 1, 16777216, &c->context));
    TRY_RETURN(json_opt_double(json, where, "rms_norm_eps", &c->norm_epsilon));
    TRY_RETURN(json_opt_string(json, where, activation, &name));
    TRY_RETURN(json_opt_double(json, where, "attention_dropout", &attention_dropout));
    c->dropout = attention_dropout;
    if (c->rope.theta == 0) c->rope.theta = 10000; /* files of before 2023's second half do not say */
    TRY_RETURN(rope_read(&c->rope, json, where));
    if (c->rope.type == ROPE_LONGROPE && c->rope.original_context < c->context) {
        c->max_context = c->context;
        c->context = c->rope.original_context;
    }
    return activation_from_name(name, where, &c->activation);
}

Status config_add(json_t *json, json_t *own) {
    int bad = !own || json_object_update(json, own);
    json_decref(own);
    return bad ? FAIL(TANE_ENOMEM, "out of memory while writing config.json") : TANE_OK;
}

Status decoder_write(const ModelConfig *c, json_t *json, const char *activation) {
    TRY_RETURN(config_add(
        json, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s}", "hidden_size", (json_int_t)c->width,
                        "intermediate_size", (json_int_t)c->ffn, "num_hidden_layers", (json_int_t)c->layers,
                        "num_attention_heads", (json_int_t)c->heads, "num_key_value_heads", (json_int_t)c->kv_heads,
                        "head_dim", (json_int_t)c->head_dim, "max_position_embeddings",
                        (json_int_t)(c->max_context ? c->max_context : c->context),
                        "rms_norm_eps", c->norm_epsilon, "attention_dropout", c->dropout, activation,
                        activation_to_name(c->activation))));
    if (c->local_rope.theta > 0) /* Gemma 3: apart for each kind of layer */
        return config_add(json, json_pack("{s:{s:o, s:o}, s:f, s:f}", "rope_parameters", "full_attention",
                                          rope_parameters(&c->rope), "sliding_attention",
                                          rope_parameters(&c->local_rope), "rope_theta", c->rope.theta,
                                          "rope_local_base_freq", c->local_rope.theta));
    /* For transformers 4 too: rope_theta at the top, and what scales it. */
    TRY_RETURN(config_add(json, json_pack("{s:o, s:f}", "rope_parameters", rope_parameters(&c->rope), "rope_theta",
                                          c->rope.theta)));
    return c->rope.type == ROPE_DEFAULT ? TANE_OK
                                        : config_add(json, json_pack("{s:o}", "rope_scaling", rope_parameters(&c->rope)));
}

Status decoder_read_layer_types(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *types = json_object_get(json, "layer_types"), *type;
    size_t i;
    if (!types || json_is_null(types)) return TANE_OK;
    if (!json_is_array(types) || json_array_size(types) != (size_t)c->layers)
        return FAIL(TANE_EFORMAT, "%s: \"layer_types\" must be a list of %lld texts, one a layer", where,
                    (long long)c->layers);
    json_array_foreach(types, i, type) {
        const char *name = json_string_value(type);
        if (!name || (strcmp(name, "full_attention") && strcmp(name, "sliding_attention")))
            return FAIL(TANE_EUNSUPPORTED, "%s: layer_types[%zu] is \"%s\"; tane knows full_attention and "
                                           "sliding_attention", where, i, name ? name : "?");
        c->layer[i] = (uint8_t)((c->layer[i] & ~LAYER_WINDOW) | (name[0] == 's' ? LAYER_WINDOW : 0));
    }
    return TANE_OK;
}

json_t *decoder_layer_types(const ModelConfig *c) {
    json_t *types = json_array();
    for (int64_t i = 0; types && i < c->layers; i++)
        if (json_array_append_new(types, json_string(c->layer[i] & LAYER_WINDOW ? "sliding_attention"
                                                                                 : "full_attention"))) {
            json_decref(types);
            return NULL;
        }
    return types;
}

json_t *decoder_window(const ModelConfig *c) { return c->window ? json_integer(c->window) : json_null(); }

/* -------------------------------------------------------------------------------------------------- parameters */

typedef struct Split {
    const char *name;
    int64_t rows;
} Split;

/* A matrix stored as several, and its bias where the model has one. */
static Status add(Params *set, Param **w, Param **b, const Split *split, int n, int64_t in, double std, bool bias,
                  int layer) {
    int64_t out = 0;
    for (int i = 0; i < n; i++) out += split[i].rows;
    TRY_RETURN(params_add(set, w, ROLE_MATRIX, out, in, std));
    for (int i = 0; i < n; i++)
        TRY_RETURN(params_part(set, *w, split[i].rows, false, "model.layers.%d.%s.weight", layer, split[i].name));
    if (!bias) return TANE_OK;
    TRY_RETURN(params_add(set, b, ROLE_BIAS, out, 0, 0));
    for (int i = 0; i < n; i++)
        TRY_RETURN(params_part(set, *b, split[i].rows, false, "model.layers.%d.%s.bias", layer, split[i].name));
    return TANE_OK;
}

static Status add_norm(Model *m, Param **w, int64_t n, int layer, const char *name) {
    Params *set = &m->params;
    TRY_RETURN(params_add(set, w, ROLE_NORM, n, 0, 0));
    (*w)->init_ones = m->config.norm == NORM_RMS;
    return layer < 0 ? params_part(set, *w, n, false, "model.%s.weight", name)
                     : params_part(set, *w, n, false, "model.layers.%d.%s.weight", layer, name);
}

static Status add_attention(Model *m, DecoderLayer *l, int i, double residual_std) {
    const ModelConfig *c = &m->config;
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const Split apart[] = {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    const Split fused[] = {{"self_attn.qkv_proj", q + 2 * kv}}, out[] = {{"self_attn.o_proj", c->width}};
    TRY_RETURN(add_norm(m, &l->norm1, c->width, i, "input_layernorm"));
    TRY_RETURN(add(&m->params, &l->qkv_w, &l->qkv_b, c->fused_files ? fused : apart, c->fused_files ? 1 : 3, c->width,
                   c->init_std, c->qkv_bias, i));
    if (c->head_norms) {
        TRY_RETURN(add_norm(m, &l->q_norm, c->head_dim, i, "self_attn.q_norm"));
        TRY_RETURN(add_norm(m, &l->k_norm, c->head_dim, i, "self_attn.k_norm"));
    }
    TRY_RETURN(add(&m->params, &l->out_w, &l->out_b, out, 1, q, residual_std, c->out_bias, i));
    return c->branch_norms ? add_norm(m, &l->norm1_after, c->width, i, "post_attention_layernorm") : TANE_OK;
}

static Status add_feed_forward(Model *m, DecoderLayer *l, int i, double residual_std) {
    const ModelConfig *c = &m->config;
    const Split apart[] = {{"mlp.gate_proj", c->ffn}, {"mlp.up_proj", c->ffn}};
    const Split fused[] = {{"mlp.gate_up_proj", 2 * c->ffn}}, down[] = {{"mlp.down_proj", c->width}};
    TRY_RETURN(add_norm(m, &l->norm2, c->width, i,
                        c->branch_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm"));
    TRY_RETURN(add(&m->params, &l->gate_up_w, &l->gate_up_b, c->fused_files ? fused : apart, c->fused_files ? 1 : 2,
                   c->width, c->init_std, c->mlp_bias, i));
    TRY_RETURN(add(&m->params, &l->down_w, &l->down_b, down, 1, c->ffn, residual_std, c->mlp_bias, i));
    return c->branch_norms ? add_norm(m, &l->norm2_after, c->width, i, "post_feedforward_layernorm") : TANE_OK;
}

Status decoder_declare(Model *m) {
    const ModelConfig *c = &m->config;
    Params *set = &m->params;
    Decoder *g;
    TRY_RETURN(ARENA_NEW(&set->arena, &g));
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &g->layer, (size_t)c->layers));
    m->layout = g;
    double residual_std = c->init_std / sqrt(2.0 * (double)c->layers); /* as in gpt2.c */
    TRY_RETURN(params_add(set, &g->embedding, ROLE_EMBEDDING, c->vocab_size, c->width, c->init_std));
    TRY_RETURN(params_part(set, g->embedding, c->vocab_size, false, "model.embed_tokens.weight"));
    for (int i = 0; i < c->layers; i++) {
        TRY_RETURN(add_attention(m, &g->layer[i], i, residual_std));
        TRY_RETURN(add_feed_forward(m, &g->layer[i], i, residual_std));
    }
    TRY_RETURN(add_norm(m, &g->norm, c->width, -1, "norm"));
    g->head = g->embedding;
    if (c->tied) return TANE_OK;
    TRY_RETURN(params_add(set, &g->head, ROLE_MATRIX, c->vocab_size, c->width, c->init_std));
    return params_part(set, g->head, c->vocab_size, false, "lm_head.weight");
}

/* ----------------------------------------------------------------------------------------------------- forward */

typedef struct Forward {
    const Model *m;
    Tape *t;
    const ModelInput *in;
    Tensor *rope[MODEL_ROPES];
} Forward;

static Tensor *weight(const Forward *f, const Param *p) { return p ? model_param(f->m, f->t, p) : NULL; }

/* y = norm(x + delta), *sum the residual stream. */
static Tensor *norm(const Forward *f, Tensor *x, Tensor *delta, const Param *w, Tensor **sum) {
    const ModelConfig *c = &f->m->config;
    return op_norm(f->t, x, delta, weight(f, w), NULL, c->norm, (float)c->norm_epsilon, 0, sum);
}

static Tensor *attention(const Forward *f, const DecoderLayer *l, int i, Tensor *h) {
    const ModelConfig *c = &f->m->config;
    int heads = (int)c->heads, kv_heads = (int)c->kv_heads, d = (int)c->head_dim;
    bool window = c->layer[i] & LAYER_WINDOW;
    AttentionShape shape = {.heads = heads,
                            .kv_heads = kv_heads,
                            .head_dim = d,
                            .scale = (float)c->attention_scale,
                            .dropout = tape_with_grad(f->t) ? (float)c->dropout : 0.0f,
                            .softcap = (float)c->attention_softcap,
                            .window = window ? c->window : 0};
    h = op_linear(f->t, h, weight(f, l->qkv_w), weight(f, l->qkv_b));
    if (c->head_norms)
        h = op_head_norm(f->t, h, weight(f, l->q_norm), weight(f, l->k_norm), c->norm, (float)c->norm_epsilon, heads,
                         kv_heads, d);
    if (!(c->layer[i] & LAYER_NO_ROPE))
        h = op_rope(f->t, h, f->in->positions, f->rope[window && c->local_rope.theta > 0], heads, kv_heads, d);
    h = op_attention(f->t, h, &shape, f->in->starts, f->in->cache ? f->in->cache[i] : NULL, f->in->past);
    h = op_linear(f->t, h, weight(f, l->out_w), weight(f, l->out_b));
    return l->norm1_after ? norm(f, h, NULL, l->norm1_after, NULL) : h;
}

static Tensor *feed_forward(const Forward *f, const DecoderLayer *l, Tensor *h) {
    h = op_linear(f->t, h, weight(f, l->gate_up_w), weight(f, l->gate_up_b));
    h = op_glu(f->t, h, f->m->config.activation);
    h = op_linear(f->t, h, weight(f, l->down_w), weight(f, l->down_b));
    return l->norm2_after ? norm(f, h, NULL, l->norm2_after, NULL) : h;
}

/* sqrt(width) as the reference has it: rounded to the weights' type. */
static float embedding_scale(const Model *m) {
    float scale = m->config.scaled_embedding ? (float)sqrt((double)m->config.width) : 1.0f;
    return m->dtype == DTYPE_BF16  ? bf16_to_f32(f32_to_bf16(scale))
           : m->dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(scale))
                                   : scale;
}

void decoder_forward(const Model *m, Tape *t, const ModelInput *in, ModelOutput *out) {
    const ModelConfig *c = &m->config;
    const Decoder *g = m->layout;
    Forward f = {.m = m, .t = t, .in = in};
    for (int k = 0; k < MODEL_ROPES; k++) f.rope[k] = model_rope(m, t, k);
    Tensor *embedding = weight(&f, g->embedding), *delta = NULL, *h;
    Tensor *x = op_embedding(t, in->tokens, NULL, embedding, NULL, embedding_scale(m));
    for (int i = 0; i < c->layers; i++) {
        const DecoderLayer *l = &g->layer[i];
        tape_block(t);
        h = norm(&f, x, delta, l->norm1, &x);
        delta = attention(&f, l, i, h);
        h = norm(&f, x, delta, l->norm2, &x);
        delta = feed_forward(&f, l, h);
    }
    tape_block(t);
    out->hidden = norm(&f, x, delta, g->norm, NULL);
    out->head = c->tied ? embedding : weight(&f, g->head);
}
