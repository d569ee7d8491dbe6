/* The decoder that most models of today are: pre-norm blocks with RMSNorm, rotary positions, grouped queries and a gated
 * feed-forward block (Touvron et al. 2023). What a family adds (biases, norms of heads, windows, softcaps, scales) stands
 * in its ModelConfig; a family's file reads and writes its config.json and hands the rest to these.
 */
#ifndef MODEL_DECODER_H
#define MODEL_DECODER_H

#include "model/model.h"

/* Reads what all have: hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
 * head_dim, max_position_embeddings, rms_norm_eps, rope, attention_dropout, and the activation function under
 * `activation`. */
Status decoder_read(ModelConfig *c, const json_t *json, const char *where, const char *activation);
/* The same out; takes nothing over. */
Status decoder_write(const ModelConfig *c, json_t *json, const char *activation);
/* A family's own keys on top, packed by json_pack; NULL is being out of memory. Takes `own` over. */
Status config_add(json_t *json, json_t *own);
/* layer_types: "full_attention" and "sliding_attention" for each layer. Absent: c->layer stays as it is. */
Status decoder_read_layer_types(ModelConfig *c, const json_t *json, const char *where);
json_t *decoder_layer_types(const ModelConfig *c);
/* {"sliding_window": ...} when a layer has one. */
json_t *decoder_window(const ModelConfig *c);

/* ModelFamily's functions. */
Status decoder_defaults(ModelConfig *c);
Status decoder_declare(Model *m);
void decoder_forward(const Model *m, Tape *t, const ModelInput *in, ModelOutput *out);

/* Keys of config.json that decoder_read understands, for a family's list. */
#define DECODER_KEYS                                                                                                   \
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",  \
        "max_position_embeddings", "original_max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",   \
        "rope_parameters", "partial_rotary_factor", "attention_dropout"

#endif
