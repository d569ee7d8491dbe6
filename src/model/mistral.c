/* Mistral 7B and its successors (Jiang et al. 2023): Llama's shape, in the first version with a window. */
#include "model/decoder.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *window = json_object_get(json, "sliding_window");
    c->kv_heads = 8;
    TRY_RETURN(decoder_read(c, json, where, "hidden_act"));
    if (!window) c->window = 4096; /* null is none */
    TRY_RETURN(json_opt_int(json, where, "sliding_window", 1, 16777216, &c->window));
    if (c->window) memset(c->layer, LAYER_WINDOW, (size_t)c->layers);
    return decoder_read_layer_types(c, json, where);
}

static Status write(const ModelConfig *c, json_t *json) {
    TRY_RETURN(decoder_write(c, json, "hidden_act"));
    return config_add(json, json_pack("{s:o}", "sliding_window", decoder_window(c)));
}

static const char *const keys[] = {DECODER_KEYS, "hidden_act", "sliding_window", "layer_types", NULL};

const ModelFamily family_mistral = {.model_type = "mistral",
                                    .architecture = "MistralForCausalLM",
                                    .prefix = "model.",
                                    .keys = keys,
                                    .defaults = decoder_defaults,
                                    .read = read,
                                    .write = write,
                                    .declare = decoder_declare,
                                    .forward = decoder_forward};
