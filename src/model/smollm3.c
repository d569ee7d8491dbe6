/* SmolLM 3 (2025): Llama's shape; every fourth layer has no positions. */
#include "model/decoder.h"

static Status read_no_rope(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *list = json_object_get(json, "no_rope_layers"), *item;
    int64_t every = 4;
    size_t i;
    TRY_RETURN(json_opt_int(json, where, "no_rope_layer_interval", 1, 1024, &every));
    for (int64_t l = 0; l < c->layers; l++) c->layer[l] = (l + 1) % every ? 0 : LAYER_NO_ROPE;
    if (!list || json_is_null(list)) return TANE_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->layers)
        return FAIL(TANE_EFORMAT, "%s: \"no_rope_layers\" must be a list of %lld numbers 0 or 1, one a layer", where,
                    (long long)c->layers);
    /* 1: this layer has rotary positions. The name says the opposite. */
    json_array_foreach(list, i, item) c->layer[i] = json_integer_value(item) ? 0 : LAYER_NO_ROPE;
    return TANE_OK;
}

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    bool bias = false, windows = false;
    c->tied = true;
    c->rope.theta = 2e6;
    c->kv_heads = 4;
    TRY_RETURN(json_opt_bool(json, where, "tie_word_embeddings", &c->tied));
    TRY_RETURN(decoder_read(c, json, where, "hidden_act"));
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &bias));
    c->qkv_bias = c->out_bias = bias;
    TRY_RETURN(json_opt_bool(json, where, "mlp_bias", &c->mlp_bias));
    TRY_RETURN(read_no_rope(c, json, where));
    TRY_RETURN(json_opt_bool(json, where, "use_sliding_window", &windows));
    if (!windows) return TANE_OK;
    TRY_RETURN(json_opt_int(json, where, "sliding_window", 1, 16777216, &c->window));
    for (int64_t i = 0; c->window && i < c->layers; i++)
        if (c->layer[i] & LAYER_NO_ROPE) c->layer[i] |= LAYER_WINDOW;
    return decoder_read_layer_types(c, json, where);
}

static Status write(const ModelConfig *c, json_t *json) {
    json_t *list = json_array();
    for (int64_t i = 0; list && i < c->layers; i++)
        if (json_array_append_new(list, json_integer(!(c->layer[i] & LAYER_NO_ROPE)))) {
            json_decref(list);
            list = NULL;
        }
    Status st = config_add(json, json_pack("{s:o}", "no_rope_layers", list));
    if (st == TANE_OK) st = decoder_write(c, json, "hidden_act");
    if (st != TANE_OK) return st;
    return config_add(json, json_pack("{s:b, s:b, s:b, s:o, s:o}", "attention_bias", c->qkv_bias, "mlp_bias",
                                      c->mlp_bias, "use_sliding_window", c->window > 0, "sliding_window",
                                      decoder_window(c), "layer_types", decoder_layer_types(c)));
}

static const char *const keys[] = {DECODER_KEYS, "hidden_act", "attention_bias", "mlp_bias", "no_rope_layers",
                                   "no_rope_layer_interval", "use_sliding_window", "sliding_window", "layer_types",
                                   "max_window_layers", "pretraining_tp", NULL};

const ModelFamily family_smollm3 = {.model_type = "smollm3",
                                    .architecture = "SmolLM3ForCausalLM",
                                    .prefix = "model.",
                                    .keys = keys,
                                    .defaults = decoder_defaults,
                                    .read = read,
                                    .write = write,
                                    .declare = decoder_declare,
                                    .forward = decoder_forward};
