/* Qwen 2 and 2.5 (Yang et al. 2024): Llama's shape with biases on q, k and v. */
#include "model/qwen.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    TRY_RETURN(qwen_read(c, json, where));
    c->qkv_bias = true;
    return TANE_OK;
}

static const char *const keys[] = {QWEN_KEYS, NULL};

const ModelFamily family_qwen2 = {.model_type = "qwen2",
                                  .architecture = "Qwen2ForCausalLM",
                                  .prefix = "model.",
                                  .keys = keys,
                                  .defaults = decoder_defaults,
                                  .read = read,
                                  .write = qwen_write,
                                  .declare = decoder_declare,
                                  .forward = decoder_forward};
