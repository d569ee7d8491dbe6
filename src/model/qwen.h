/* What Qwen 2 and 3 have in common: windows on the last layers, if any. */
#ifndef MODEL_QWEN_H
#define MODEL_QWEN_H

#include "model/decoder.h"

static inline Status qwen_read(ModelConfig *c, const json_t *json, const char *where) {
    bool windows = false;
    int64_t full = 28; /* layers before the first with a window */
    TRY_RETURN(decoder_read(c, json, where, "hidden_act"));
    TRY_RETURN(json_opt_bool(json, where, "use_sliding_window", &windows));
    TRY_RETURN(json_opt_int(json, where, "max_window_layers", 0, 16384, &full));
    if (!windows) return TANE_OK; /* layer_types then say full_attention, or mean it */
    c->window = 4096;
    TRY_RETURN(json_opt_int(json, where, "sliding_window", 1, 16777216, &c->window));
    for (int64_t i = full; i < c->layers; i++) c->layer[i] = LAYER_WINDOW;
    return decoder_read_layer_types(c, json, where);
}

static inline Status qwen_write(const ModelConfig *c, json_t *json) {
    int64_t full = 0;
    while (full < c->layers && !(c->layer[full] & LAYER_WINDOW)) full++;
    TRY_RETURN(decoder_write(c, json, "hidden_act"));
    return config_add(json, json_pack("{s:b, s:o, s:I, s:o}", "use_sliding_window", c->window > 0, "sliding_window",
                                      decoder_window(c), "max_window_layers", (json_int_t)full, "layer_types",
                                      decoder_layer_types(c)));
}

#define QWEN_KEYS                                                                                                      \
    DECODER_KEYS, "hidden_act", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"

#endif
