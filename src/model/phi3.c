/* Phi-3, 3.5 and 4-mini (Abdin et al. 2024): Llama's shape; q|k|v and gate|up are one tensor each in files, heads may turn
 * in part, and the long versions have their own frequencies. Those are used up to the original context only (longrope's
 * short factors): beyond it all positions would turn by others. */
#include "model/decoder.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    double resid = 0, embd = 0;
    bool bias = false;
    TRY_RETURN(decoder_read(c, json, where, "hidden_act"));
    if (!json_object_get(json, "rms_norm_eps")) c->norm_epsilon = 1e-5;
    TRY_RETURN(json_opt_double(json, where, "resid_pdrop", &resid));
    TRY_RETURN(json_opt_double(json, where, "embd_pdrop", &embd));
    TRY_RETURN(json_opt_bool(json, where, "attention_bias", &bias));
    if (resid != 0 || embd != 0 || bias)
        return FAIL(TANE_EUNSUPPORTED, "%s: only resid_pdrop 0, embd_pdrop 0 and attention_bias false are supported",
                    where);
    c->fused_files = true;
    TRY_RETURN(json_opt_int(json, where, "sliding_window", 1, 16777216, &c->window));
    if (c->window) memset(c->layer, LAYER_WINDOW, (size_t)c->layers);
    return TANE_OK;
}

static Status write(const ModelConfig *c, json_t *json) {
    TRY_RETURN(decoder_write(c, json, "hidden_act"));
    if (c->rope.type == ROPE_LONGROPE)
        TRY_RETURN(config_add(json, json_pack("{s:I}", "original_max_position_embeddings",
                                              (json_int_t)c->rope.original_context)));
    return config_add(json, json_pack("{s:f, s:f, s:o}", "resid_pdrop", 0.0, "embd_pdrop", 0.0, "sliding_window",
                                      decoder_window(c)));
}

static const char *const keys[] = {DECODER_KEYS, "hidden_act", "resid_pdrop", "embd_pdrop", "attention_bias",
                                   "sliding_window", NULL};

const ModelFamily family_phi3 = {.model_type = "phi3",
                                 .architecture = "Phi3ForCausalLM",
                                 .prefix = "model.",
                                 .keys = keys,
                                 .defaults = decoder_defaults,
                                 .read = read,
                                 .write = write,
                                 .declare = decoder_declare,
                                 .forward = decoder_forward};
