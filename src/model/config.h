/* What a model is: the numbers of its config.json, for every family in the same words. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/json.h"
#include "ops/ops.h"

typedef struct ModelFamily ModelFamily;

typedef struct ModelConfig {
    const ModelFamily *family;
    int64_t vocab_size;
    int64_t context;      /* max_position_embeddings */
    int64_t width;        /* hidden_size */
    int64_t layers, heads, kv_heads, head_dim;
    int64_t ffn;          /* intermediate_size */
    bool tied;            /* the output layer is the token embedding */
    bool attention_bias, mlp_bias;
    double rope_theta;
    double norm_epsilon;
    double dropout;       /* of embeddings, residual branches and attention weights while training */
    double init_std;      /* initializer_range */
    ActivationKind activation;
    int64_t bos, eos, pad; /* -1: none */
} ModelConfig;

/* An empty configuration of a family, for a model made from options. */
Status model_config_init(ModelConfig *config, const char *model_type);
/* Fills in what follows from the rest where it is 0: heads for every family, then the family's own. */
Status model_config_defaults(ModelConfig *config);
Status model_config_check(const ModelConfig *config, const char *where);

Status model_config_read(ModelConfig *config, const char *folder);        /* folder/config.json */
Status model_config_write(const ModelConfig *config, const char *folder, DType dtype); /* and generation_config.json */

/* Names of config.json's hidden_act / activation_function. */
Status activation_from_name(const char *name, const char *where, ActivationKind *kind);
const char *activation_to_name(ActivationKind kind);

#endif
