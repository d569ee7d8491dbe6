/* Qwen 3 (Yang et al. 2025), dense: no biases, but a norm on each head of queries and keys. */
#include "model/qwen.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    bool bias = false;
    c->head_dim = 128; /* also where heads x 128 is not the width */
    TRY_RETURN(qwen_read(c, json, where));
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &bias));
    c->qkv_bias = c->out_bias = bias;
    c->head_norms = true;
    return TANE_OK;
}

static Status write(const ModelConfig *c, json_t *json) {
    TRY_RETURN(qwen_write(c, json));
    return config_add(json, json_pack("{s:b}", "attention_bias", c->qkv_bias));
}

static const char *const keys[] = {QWEN_KEYS, "attention_bias", NULL};

const ModelFamily family_qwen3 = {.model_type = "qwen3",
                                  .architecture = "Qwen3ForCausalLM",
                                  .prefix = "model.",
                                  .keys = keys,
                                  .defaults = decoder_defaults,
                                  .read = read,
                                  .write = write,
                                  .declare = decoder_declare,
                                  .forward = decoder_forward};
