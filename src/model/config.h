/* What a model is: the numbers of its config.json, for every family in the same words. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/json.h"
#include "model/rope.h"
#include "ops/ops.h"

typedef struct ModelFamily ModelFamily;

/* What differs from layer to layer. */
enum {
    LAYER_WINDOW = 1,  /* attention sees ModelConfig.window tokens, and turns by local_rope where there is one */
    LAYER_NO_ROPE = 2 /* no positions at all */
};

enum { MODEL_LAYERS = 1024, MODEL_EOS = 8 };

typedef struct ModelConfig {
    const ModelFamily *family;
    int64_t vocab_size;
    int64_t context;      /* max_position_embeddings, or what of it tane can use */
    int64_t max_context;  /* max_position_embeddings where it is more; 0: it is not */
    int64_t width;        /* hidden_size */
    int64_t layers, heads, kv_heads, head_dim;
    int64_t ffn;          /* intermediate_size */
    bool tied;            /* the output layer is the token embedding */
    bool qkv_bias, out_bias, mlp_bias;
    RopeConfig rope, local_rope; /* theta 0: none */
    uint8_t layer[MODEL_LAYERS]; /* LAYER_... */
    int64_t window;              /* 0: no layer has one */
    bool head_norms;             /* RMSNorm on each head of queries and keys */
    bool branch_norms;           /* a norm behind attention and behind the feed-forward block too */
    bool scaled_embedding;       /* token embeddings times sqrt(width) */
    double attention_scale;      /* of scores; 0: 1 / sqrt(head_dim) */
    double attention_softcap, logit_softcap; /* 0: none */
    bool fused_files;            /* q|k|v and gate|up are one tensor in files */
    NormKind norm;
    double norm_epsilon;
    double dropout;       /* of embeddings, residual branches and attention weights while training */
    double init_std;      /* initializer_range */
    ActivationKind activation;
    int64_t bos, eos, pad; /* -1: none */
    int64_t more_eos[MODEL_EOS]; /* (n_more_eos) other tokens that end an answer */
    int n_more_eos;
} ModelConfig;

/* An empty configuration of a family, for a model made from options. */
Status model_config_init(ModelConfig *config, const char *model_type);
/* Fills in what follows from the rest where it is 0: heads for every family, then the family's own. */
Status model_config_defaults(ModelConfig *config);
Status model_config_check(const ModelConfig *config, const char *where);

Status model_config_read(ModelConfig *config, const char *folder);        /* folder/config.json, or a .gguf file */
/* The same from an object; `where` begins errors. */
Status model_config_read_json(ModelConfig *config, const json_t *json, const char *where);
Status model_config_write(const ModelConfig *config, const char *folder, DType dtype); /* and generation_config.json */

/* Names of config.json's hidden_act / activation_function. */
Status activation_from_name(const char *name, const char *where, ActivationKind *kind);
const char *activation_to_name(ActivationKind kind);

#endif
