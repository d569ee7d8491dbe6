/* Llama 1 to 3.3 (Touvron et al. 2023; Grattafiori et al. 2024), and what has its shape: SmolLM 1 and 2, TinyLlama, Yi,
 * DeepSeek-LLM, ... */
#include "model/decoder.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    bool bias = false;
    int64_t pretraining_tp = 1;
    TRY_RETURN(decoder_read(c, json, where, "hidden_act"));
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &bias));
    c->qkv_bias = c->out_bias = bias;
    TRY_RETURN(json_opt_bool(json, where, "mlp_bias", &c->mlp_bias));
    /* Other values only change the order of additions, on several GPUs of the training run. */
    return json_opt_int(json, where, "pretraining_tp", 1, 1024, &pretraining_tp);
}

static Status write(const ModelConfig *c, json_t *json) {
    TRY_RETURN(decoder_write(c, json, "hidden_act"));
    return config_add(json, json_pack("{s:b, s:b, s:i}", "attention_bias", c->qkv_bias, "mlp_bias", c->mlp_bias,
                                      "pretraining_tp", 1));
}

static const char *const ignored[] = {".rotary_emb.inv_freq", NULL};
static const char *const keys[] = {DECODER_KEYS, "hidden_act", "attention_bias", "mlp_bias", "pretraining_tp", NULL};

const ModelFamily family_llama = {.model_type = "llama",
                                  .architecture = "LlamaForCausalLM",
                                  .prefix = "model.",
                                  .ignored = ignored,
                                  .keys = keys,
                                  .defaults = decoder_defaults,
                                  .read = read,
                                  .write = write,
                                  .declare = decoder_declare,
                                  .forward = decoder_forward};
