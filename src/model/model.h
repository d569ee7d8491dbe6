/* A model: configuration, parameters, and the one forward that trains, evaluates, generates and serves.
 *
 * A family (gpt2, llama, ...) is one file with one ModelFamily, listed in families.def.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "model/config.h"
#include "model/params.h"

typedef struct Model {
    ModelConfig config;
    Params params;
    void *layout;     /* the family's handles on its parameters (in params.arena) */
    DType dtype;      /* of weights: the compute dtype */
    void *weights;    /* flat */
    float *grads;     /* flat, or NULL: set by the trainer */
    float *rope;      /* (context, head_dim) cos | sin, or NULL */
} Model;

/* What a forward reads. With `cache` (one tensor a layer), new keys and values go to past[b] + t. */
typedef struct ModelInput {
    Tensor *tokens;     /* (B, T) int32 */
    Tensor *positions;  /* (B, T) int32 */
    Tensor *past;       /* (B) int32, or NULL */
    Tensor *const *cache;
} ModelInput;

/* The last hidden states, and the output layer's weight to make logits or the loss with. */
typedef struct ModelOutput {
    Tensor *hidden; /* (B, T, C) */
    Tensor *head;   /* (V, C) */
} ModelOutput;

struct ModelFamily {
    const char *model_type;   /* config.json */
    const char *architecture; /* "GPT2LMHeadModel" */
    const char *prefix;       /* of parameter names, absent from some files; NULL: never */
    const char *const *ignored; /* endings of tensor names that hold no parameter */
    Status (*defaults)(ModelConfig *config); /* the family's own part of model_config_defaults */
    Status (*read)(ModelConfig *config, const json_t *json, const char *where);
    Status (*write)(const ModelConfig *config, json_t *json);
    Status (*declare)(Model *model);
    void (*forward)(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out);
};

const ModelFamily *model_family(const char *model_type); /* NULL if unknown */
/* Names for messages: "gpt2, llama". */
const char *model_family_names(void);

/* Declares the parameters of config; allocates weights of `dtype`, uninitialised. */
Status model_new(Model **out, const ModelConfig *config, DType dtype);
/* Opens a Hugging Face folder: config.json and model.safetensors. */
Status model_open(Model **out, const char *folder, DType dtype);
void model_free(Model *model); /* NULL is fine */

/* config.json, generation_config.json and model.safetensors (from fp32 values `flat`) into an existing folder. */
Status model_save(const Model *model, float *flat, DType save, const char *folder);
/* The weights as fp32 (flat), for saving or converting. */
void model_weights_f32(const Model *model, float *flat);

/* The parameter on a tape; its gradient flows into model->grads when that is set and the tape has gradients. Call once
 * a parameter and tape: a tied weight is the same tensor twice. */
Tensor *model_param(const Model *model, Tape *tape, const Param *p);
/* The forward on a tape. */
void model_forward(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out);

/* Floating-point operations of one training token (forward and backward) at this sequence length: 6 per matrix weight
 * and 12 C T / 2 per layer for causal attention (Kaplan et al. 2020; PaLM appendix B). */
double model_train_flops(const Model *model, int64_t length);

#endif
