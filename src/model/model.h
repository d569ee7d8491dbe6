/* A model: configuration, parameters, and the one forward that trains, evaluates, generates and serves.
 *
 * A family (gpt2, llama, ...) is one file with one ModelFamily, listed in families.def.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "model/config.h"
#include "model/params.h"

enum { MODEL_ROPES = 2 }; /* all layers', and those with a window of their own */

typedef struct Model {
    ModelConfig config;
    Params params;
    void *layout;     /* the family's handles on its parameters (in params.arena) */
    Device *device;   /* holds all that follows; outlives the model */
    DType dtype;      /* of weights: the compute dtype */
    void *weights;    /* flat; NULL until model_allocate */
    bool trains;      /* its parameters get gradients */
    void *grads;      /* flat: the optimizer's */
    DType grad_dtype; /* fp32 or bf16 */
    float *rope[MODEL_ROPES]; /* (context, rope_width): see op_rope; NULL where the model has none */
} Model;

/* What a forward reads. With `cache` (one tensor a layer), new keys and values go to past[b] + t. */
typedef struct ModelInput {
    Tensor *tokens;     /* (B, T) int32 */
    Tensor *positions;  /* (B, T) int32 */
    Tensor *starts;     /* (B, T) int32, or NULL: see op_attention */
    Tensor *past;       /* (B) int32, or NULL */
    Tensor *const *cache;
} ModelInput;

/* The last hidden states, and the output layer's weight to make logits or the loss with. */
typedef struct ModelOutput {
    Tensor *hidden; /* (B, T, C) */
    Tensor *head;   /* (V, C) */
    float softcap;  /* of the logits; 0: none */
} ModelOutput;

struct ModelFamily {
    const char *model_type;   /* config.json */
    const char *architecture; /* "GPT2LMHeadModel" */
    const char *prefix;       /* of parameter names, absent from some files; NULL: never */
    const char *const *ignored; /* endings of tensor names that hold no parameter; NULL: none */
    const char *const *keys;    /* of config.json that `read` understands, NULL behind the last */
    Status (*defaults)(ModelConfig *config); /* the family's own part of model_config_defaults */
    Status (*read)(ModelConfig *config, const json_t *json, const char *where);
    Status (*write)(const ModelConfig *config, json_t *json);
    Status (*declare)(Model *model);
    void (*forward)(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out);
};

const ModelFamily *model_family(const char *model_type); /* NULL if unknown */
/* Names for messages: "gpt2, llama". */
const char *model_family_names(void);

/* Declares the parameters of config, for planning; model_allocate then takes the memory for weights of `dtype`, zero. A
 * tape recorded in between can be planned but not run. */
Status model_declare(Model **out, const ModelConfig *config, DType dtype, Device *device);
Status model_allocate(Model *model);
/* Both. */
Status model_new(Model **out, const ModelConfig *config, DType dtype, Device *device);
/* Opens a Hugging Face folder (config.json and model.safetensors) or a .gguf file. */
Status model_open(Model **out, const char *folder, DType dtype, Device *device);
void model_free(Model *model); /* NULL is fine */

/* The model's own weights as an array. */
ParamArray model_weights(const Model *model);
/* config.json, generation_config.json and model.safetensors, written as `save`, into an existing folder. `weights` is
 * what to save: the model's own, or master weights. */
Status model_save(const Model *model, const ParamArray *weights, DType save, const char *folder);

/* The parameter on a tape; its gradient flows into model->grads when the model trains and the tape has gradients. Call
 * once a parameter and tape: a tied weight is the same tensor twice. */
Tensor *model_param(const Model *model, Tape *tape, const Param *p);
/* The table of rotary positions on a tape; NULL when the model has none of this number. */
Tensor *model_rope(const Model *model, Tape *tape, int which);
/* The forward on a tape. */
void model_forward(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out);

/* Floating-point operations of one training token (forward and backward) at this sequence length: 6 per matrix weight
 * and 12 C T / 2 per layer for causal attention (Kaplan et al. 2020; PaLM appendix B). */
double model_train_flops(const Model *model, int64_t length);

#endif
