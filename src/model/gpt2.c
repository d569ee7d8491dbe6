/* GPT-2 (Radford et al. 2019): learned positions, pre-norm LayerNorm, GELU, fused q|k|v, biases everywhere.
 *
 * Hugging Face stores its linear layers as Conv1D, (in, out): hence `transposed`.
 */
#include <math.h>

#include "model/model.h"

typedef struct Gpt2Layer {
    Param *norm1_w, *norm1_b, *qkv_w, *qkv_b, *out_w, *out_b;
    Param *norm2_w, *norm2_b, *fc_w, *fc_b, *proj_w, *proj_b;
} Gpt2Layer;

typedef struct Gpt2 {
    Param *wte, *wpe, *norm_w, *norm_b, *head;
    Gpt2Layer *layer;
} Gpt2;

static Status defaults(ModelConfig *c) {
    if (!c->ffn) c->ffn = 4 * c->width;
    if (c->norm_epsilon == 0) c->norm_epsilon = 1e-5;
    if (c->kv_heads != c->heads)
        return FAIL(TANE_EINVAL, "gpt2 has as many KV heads as heads (%lld), not %lld", (long long)c->heads,
                    (long long)c->kv_heads);
    return TANE_OK;
}

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    double resid = 0.1, embd = 0.1, attn = 0.1;
    const char *activation = "gelu_new";
    bool scale = true, by_layer = false;
    c->tied = true; /* GPT-2's own default, where config.json leaves it out */
    c->norm_epsilon = 1e-5;
    TRY_RETURN(json_opt_bool(json, where, "tie_word_embeddings", &c->tied));
    TRY_RETURN(json_get_int(json, where, "n_positions", 1, 16777216, &c->context));
    TRY_RETURN(json_get_int(json, where, "n_embd", 1, 65536, &c->width));
    TRY_RETURN(json_get_int(json, where, "n_layer", 1, 1024, &c->layers));
    TRY_RETURN(json_get_int(json, where, "n_head", 1, 1024, &c->heads));
    TRY_RETURN(json_opt_int(json, where, "n_inner", 1, 1048576, &c->ffn));
    TRY_RETURN(json_opt_double(json, where, "layer_norm_epsilon", &c->norm_epsilon));
    TRY_RETURN(json_opt_double(json, where, "resid_pdrop", &resid));
    TRY_RETURN(json_opt_double(json, where, "embd_pdrop", &embd));
    TRY_RETURN(json_opt_double(json, where, "attn_pdrop", &attn));
    TRY_RETURN(json_opt_string(json, where, "activation_function", &activation));
    TRY_RETURN(json_opt_bool(json, where, "scale_attn_weights", &scale));
    TRY_RETURN(json_opt_bool(json, where, "scale_attn_by_inverse_layer_idx", &by_layer));
    if (!scale || by_layer)
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: only scale_attn_weights true and scale_attn_by_inverse_layer_idx false are supported", where);
    if (resid != embd || resid != attn)
        return FAIL(TANE_EUNSUPPORTED, "%s: resid_pdrop %g, embd_pdrop %g and attn_pdrop %g differ; make them equal",
                    where, resid, embd, attn);
    c->dropout = resid;
    return activation_from_name(activation, where, &c->activation);
}

static Status write(const ModelConfig *c, json_t *json) {
    json_t *own = json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:s}", "n_positions", (json_int_t)c->context,
                            "n_embd", (json_int_t)c->width, "n_layer", (json_int_t)c->layers, "n_head",
                            (json_int_t)c->heads, "n_inner", (json_int_t)c->ffn, "layer_norm_epsilon", c->norm_epsilon,
                            "resid_pdrop", c->dropout, "embd_pdrop", c->dropout, "attn_pdrop", c->dropout,
                            "activation_function", activation_to_name(c->activation));
    int bad = !own || json_object_update(json, own);
    json_decref(own);
    return bad ? FAIL(TANE_ENOMEM, "out of memory while writing config.json") : TANE_OK;
}

static Status add(Params *set, Param **w, Param **b, int64_t out, int64_t in, double std, int layer, const char *name) {
    TRY_RETURN(params_add(set, w, ROLE_MATRIX, out, in, std));
    TRY_RETURN(params_part(set, *w, out, true, "transformer.h.%d.%s.weight", layer, name));
    TRY_RETURN(params_add(set, b, ROLE_BIAS, out, 0, 0));
    return params_part(set, *b, out, false, "transformer.h.%d.%s.bias", layer, name);
}

static Status add_norm(Params *set, Param **w, Param **b, int64_t c, const char *name) {
    TRY_RETURN(params_add(set, w, ROLE_NORM, c, 0, 0));
    (*w)->init_ones = true;
    TRY_RETURN(params_part(set, *w, c, false, "transformer.%s.weight", name));
    TRY_RETURN(params_add(set, b, ROLE_BIAS, c, 0, 0));
    return params_part(set, *b, c, false, "transformer.%s.bias", name);
}

static Status declare(Model *m) {
    const ModelConfig *c = &m->config;
    Params *set = &m->params;
    Gpt2 *g;
    TRY_RETURN(ARENA_NEW(&set->arena, &g));
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &g->layer, (size_t)c->layers));
    m->layout = g;
    /* Residual projections start smaller, so that the stream's variance does not grow with depth (GPT-2, section 2.3).
     */
    double std = c->init_std, residual_std = std / sqrt(2.0 * (double)c->layers);
    TRY_RETURN(params_add(set, &g->wte, ROLE_EMBEDDING, c->vocab_size, c->width, std));
    TRY_RETURN(params_part(set, g->wte, c->vocab_size, false, "transformer.wte.weight"));
    TRY_RETURN(params_add(set, &g->wpe, ROLE_EMBEDDING, c->context, c->width, std));
    TRY_RETURN(params_part(set, g->wpe, c->context, false, "transformer.wpe.weight"));
    for (int i = 0; i < c->layers; i++) {
        Gpt2Layer *l = &g->layer[i];
        char *name;
        TRY_RETURN(arena_printf(&set->arena, &name, "h.%d.ln_1", i));
        TRY_RETURN(add_norm(set, &l->norm1_w, &l->norm1_b, c->width, name));
        TRY_RETURN(add(set, &l->qkv_w, &l->qkv_b, 3 * c->width, c->width, std, i, "attn.c_attn"));
        TRY_RETURN(add(set, &l->out_w, &l->out_b, c->width, c->width, residual_std, i, "attn.c_proj"));
        TRY_RETURN(arena_printf(&set->arena, &name, "h.%d.ln_2", i));
        TRY_RETURN(add_norm(set, &l->norm2_w, &l->norm2_b, c->width, name));
        TRY_RETURN(add(set, &l->fc_w, &l->fc_b, c->ffn, c->width, std, i, "mlp.c_fc"));
        TRY_RETURN(add(set, &l->proj_w, &l->proj_b, c->width, c->ffn, residual_std, i, "mlp.c_proj"));
    }
    TRY_RETURN(add_norm(set, &g->norm_w, &g->norm_b, c->width, "ln_f"));
    g->head = g->wte;
    if (c->tied) return TANE_OK;
    TRY_RETURN(params_add(set, &g->head, ROLE_MATRIX, c->vocab_size, c->width, std));
    return params_part(set, g->head, c->vocab_size, false, "lm_head.weight");
}

static void forward(const Model *m, Tape *t, const ModelInput *in, ModelOutput *out) {
    const ModelConfig *c = &m->config;
    const Gpt2 *g = m->layout;
    float p = tape_with_grad(t) ? (float)c->dropout : 0.0f, eps = (float)c->norm_epsilon;
    int heads = (int)c->heads, d = (int)c->head_dim;
#define W(param) model_param(m, t, param)
    Tensor *wte = W(g->wte);
    Tensor *x = op_dropout(t, op_embedding(t, in->tokens, in->positions, wte, W(g->wpe), 1), p), *delta = NULL, *h;
    AttentionShape shape = {.heads = heads, .kv_heads = heads, .head_dim = d, .dropout = p};
    for (int i = 0; i < c->layers; i++) {
        const Gpt2Layer *l = &g->layer[i];
        tape_block(t);
        h = op_norm(t, x, delta, W(l->norm1_w), W(l->norm1_b), NORM_LAYER, eps, delta ? p : 0, &x);
        h = op_linear(t, h, W(l->qkv_w), W(l->qkv_b));
        h = op_attention(t, h, &shape, in->starts, in->cache ? in->cache[i] : NULL, in->past);
        delta = op_linear(t, h, W(l->out_w), W(l->out_b));
        h = op_norm(t, x, delta, W(l->norm2_w), W(l->norm2_b), NORM_LAYER, eps, p, &x);
        h = op_activation(t, op_linear(t, h, W(l->fc_w), W(l->fc_b)), c->activation);
        delta = op_linear(t, h, W(l->proj_w), W(l->proj_b));
    }
    tape_block(t);
    out->hidden = op_norm(t, x, delta, W(g->norm_w), W(g->norm_b), NORM_LAYER, eps, p, NULL);
    out->head = c->tied ? wte : W(g->head);
#undef W
}

static const char *const ignored[] = {".attn.bias", ".attn.masked_bias", NULL};

static const char *const keys[] = {
    "n_positions", "n_ctx", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon", "resid_pdrop",
    "embd_pdrop", "attn_pdrop", "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
    "summary_type", "summary_use_proj", NULL};

const ModelFamily family_gpt2 = {.model_type = "gpt2",
                                 .architecture = "GPT2LMHeadModel",
                                 .prefix = "transformer.",
                                 .ignored = ignored,
                                 .keys = keys,
                                 .defaults = defaults,
                                 .read = read,
                                 .write = write,
                                 .declare = declare,
                                 .forward = forward};
