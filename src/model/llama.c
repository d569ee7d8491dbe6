/* Llama (Touvron et al. 2023): rotary positions, RMSNorm, SwiGLU, grouped queries, no biases by default.
 *
 * q|k|v and gate|up are one matrix each in memory and separate tensors in files.
 */
#include <math.h>

#include "model/model.h"

typedef struct LlamaLayer {
    Param *norm1, *qkv_w, *qkv_b, *out_w, *out_b, *norm2, *gate_up_w, *gate_up_b, *down_w, *down_b;
} LlamaLayer;

typedef struct Llama {
    Param *embedding, *norm, *head;
    LlamaLayer *layer;
} Llama;

static Status defaults(ModelConfig *c) {
    if (c->head_dim % 2)
        return FAIL(TANE_EINVAL, "rotary positions need an even head size, not %lld", (long long)c->head_dim);
    if (!c->ffn) c->ffn = (8 * c->width / 3 + 63) / 64 * 64; /* two thirds of 4 C, as SwiGLU has three matrices */
    if (c->rope_theta == 0) c->rope_theta = 10000;
    if (c->norm_epsilon == 0) c->norm_epsilon = 1e-6;
    return TANE_OK;
}

/* rope_theta stands at the top (transformers 4) or in rope_parameters (transformers 5). */
static Status read_rope(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *scaling = json_object_get(json, "rope_scaling"),
                 *parameters = json_object_get(json, "rope_parameters");
    const char *type = "default";
    TRY_RETURN(json_opt_double(json, where, "rope_theta", &c->rope_theta));
    if (json_is_object(parameters)) {
        TRY_RETURN(json_opt_double(parameters, where, "rope_theta", &c->rope_theta));
        TRY_RETURN(json_opt_string(parameters, where, "rope_type", &type));
    } else if (json_is_object(scaling)) {
        type = "scaled";
        TRY_RETURN(json_opt_string(scaling, where, "rope_type", &type));
    }
    if (strcmp(type, "default"))
        return FAIL(TANE_EUNSUPPORTED, "%s: rope_type \"%s\" is not supported yet, only \"default\"", where, type);
    if (!(c->rope_theta > 0)) return FAIL(TANE_EFORMAT, "%s: rope_theta %g is not positive", where, c->rope_theta);
    return TANE_OK;
}

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    const char *activation = "silu";
    c->rope_theta = 10000;
    c->norm_epsilon = 1e-6;
    TRY_RETURN(json_get_int(json, where, "hidden_size", 1, 65536, &c->width));
    TRY_RETURN(json_get_int(json, where, "intermediate_size", 1, 1048576, &c->ffn));
    TRY_RETURN(json_get_int(json, where, "num_hidden_layers", 1, 1024, &c->layers));
    TRY_RETURN(json_get_int(json, where, "num_attention_heads", 1, 1024, &c->heads));
    c->kv_heads = c->heads;
    TRY_RETURN(json_opt_int(json, where, "num_key_value_heads", 1, 1024, &c->kv_heads));
    TRY_RETURN(json_opt_int(json, where, "head_dim", 1, 1024, &c->head_dim));
    TRY_RETURN(json_get_int(json, where, "max_position_embeddings", 1, 16777216, &c->context));
    TRY_RETURN(json_opt_double(json, where, "rms_norm_eps", &c->norm_epsilon));
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &c->attention_bias));
    TRY_RETURN(json_opt_bool(json, where, "mlp_bias", &c->mlp_bias));
    TRY_RETURN(json_opt_string(json, where, "hidden_act", &activation));
    double attention_dropout = 0;
    TRY_RETURN(json_opt_double(json, where, "attention_dropout", &attention_dropout));
    c->dropout = attention_dropout;
    TRY_RETURN(read_rope(c, json, where));
    return activation_from_name(activation, where, &c->activation);
}

static Status write(const ModelConfig *c, json_t *json) {
    json_t *own = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:b, s:b, s:s, s:{s:f, s:s}, s:i}", "hidden_size",
        (json_int_t)c->width, "intermediate_size", (json_int_t)c->ffn, "num_hidden_layers", (json_int_t)c->layers,
        "num_attention_heads", (json_int_t)c->heads, "num_key_value_heads", (json_int_t)c->kv_heads, "head_dim",
        (json_int_t)c->head_dim, "max_position_embeddings", (json_int_t)c->context, "rms_norm_eps", c->norm_epsilon,
        "rope_theta", c->rope_theta, "attention_dropout", c->dropout, "attention_bias", c->attention_bias, "mlp_bias",
        c->mlp_bias, "hidden_act", activation_to_name(c->activation), "rope_parameters", "rope_theta", c->rope_theta,
        "rope_type", "default", "pretraining_tp", 1);
    int bad = !own || json_object_update(json, own);
    json_decref(own);
    return bad ? FAIL(TANE_ENOMEM, "out of memory while writing config.json") : TANE_OK;
}

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

static Status add_norm(Params *set, Param **w, int64_t c, const char *name) {
    TRY_RETURN(params_add(set, w, ROLE_NORM, c, 0, 0));
    (*w)->init_ones = true;
    return params_part(set, *w, c, false, "model.%s.weight", name);
}

static Status declare(Model *m) {
    const ModelConfig *c = &m->config;
    Params *set = &m->params;
    Llama *g;
    TRY_RETURN(ARENA_NEW(&set->arena, &g));
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &g->layer, (size_t)c->layers));
    m->layout = g;
    double residual_std = c->init_std / sqrt(2.0 * (double)c->layers); /* as in gpt2.c */
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const Split qkv[] = {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}};
    const Split out[] = {{"self_attn.o_proj", c->width}}, down[] = {{"mlp.down_proj", c->width}};
    const Split gate_up[] = {{"mlp.gate_proj", c->ffn}, {"mlp.up_proj", c->ffn}};
    TRY_RETURN(params_add(set, &g->embedding, ROLE_EMBEDDING, c->vocab_size, c->width, c->init_std));
    TRY_RETURN(params_part(set, g->embedding, c->vocab_size, false, "model.embed_tokens.weight"));
    for (int i = 0; i < c->layers; i++) {
        LlamaLayer *l = &g->layer[i];
        char *name;
        TRY_RETURN(arena_printf(&set->arena, &name, "layers.%d.input_layernorm", i));
        TRY_RETURN(add_norm(set, &l->norm1, c->width, name));
        TRY_RETURN(add(set, &l->qkv_w, &l->qkv_b, qkv, 3, c->width, c->init_std, c->attention_bias, i));
        TRY_RETURN(add(set, &l->out_w, &l->out_b, out, 1, q, residual_std, c->attention_bias, i));
        TRY_RETURN(arena_printf(&set->arena, &name, "layers.%d.post_attention_layernorm", i));
        TRY_RETURN(add_norm(set, &l->norm2, c->width, name));
        TRY_RETURN(add(set, &l->gate_up_w, &l->gate_up_b, gate_up, 2, c->width, c->init_std, c->mlp_bias, i));
        TRY_RETURN(add(set, &l->down_w, &l->down_b, down, 1, c->ffn, residual_std, c->mlp_bias, i));
    }
    TRY_RETURN(add_norm(set, &g->norm, c->width, "norm"));
    g->head = g->embedding;
    if (c->tied) return TANE_OK;
    TRY_RETURN(params_add(set, &g->head, ROLE_MATRIX, c->vocab_size, c->width, c->init_std));
    return params_part(set, g->head, c->vocab_size, false, "lm_head.weight");
}

static void forward(const Model *m, Tape *t, const ModelInput *in, ModelOutput *out) {
    const ModelConfig *c = &m->config;
    const Llama *g = m->layout;
    float p = tape_with_grad(t) ? (float)c->dropout : 0.0f, eps = (float)c->norm_epsilon;
    int heads = (int)c->heads, kv_heads = (int)c->kv_heads, d = (int)c->head_dim;
    int64_t rope_shape[] = {c->context, c->head_dim};
#define W(param) ((param) ? model_param(m, t, param) : NULL)
    Tensor *embedding = W(g->embedding), *rope = tape_external(t, "rope", DTYPE_F32, 2, rope_shape);
    if (rope) rope->data = m->rope;
    Tensor *x = op_embedding(t, in->tokens, NULL, embedding, NULL, 1), *delta = NULL, *h;
    AttentionShape shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = d, .dropout = p};
    for (int i = 0; i < c->layers; i++) {
        const LlamaLayer *l = &g->layer[i];
        tape_block(t);
        h = op_norm(t, x, delta, W(l->norm1), NULL, NORM_RMS, eps, 0, &x);
        h = op_rope(t, op_linear(t, h, W(l->qkv_w), W(l->qkv_b)), in->positions, rope, heads, kv_heads, d);
        h = op_attention(t, h, &shape, in->starts, in->cache ? in->cache[i] : NULL, in->past);
        delta = op_linear(t, h, W(l->out_w), W(l->out_b));
        h = op_norm(t, x, delta, W(l->norm2), NULL, NORM_RMS, eps, 0, &x);
        h = op_glu(t, op_linear(t, h, W(l->gate_up_w), W(l->gate_up_b)), c->activation);
        delta = op_linear(t, h, W(l->down_w), W(l->down_b));
    }
    tape_block(t);
    out->hidden = op_norm(t, x, delta, W(g->norm), NULL, NORM_RMS, eps, 0, NULL);
    out->head = c->tied ? embedding : W(g->head);
#undef W
}

static const char *const ignored[] = {".rotary_emb.inv_freq", NULL};

const ModelFamily family_llama = {.model_type = "llama",
                                  .architecture = "LlamaForCausalLM",
                                  .prefix = "model.",
                                  .ignored = ignored,
                                  .defaults = defaults,
                                  .read = read,
                                  .write = write,
                                  .declare = declare,
                                  .forward = forward};
