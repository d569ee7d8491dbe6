/* config.json, for every family: the common part and its checks. */
#include "model/config.h"

#include "base/file.h"
#include "model/gguf_config.h"
#include "model/model.h"

#define FAMILY(name) extern const ModelFamily family_##name;
#include "model/families.def"
#undef FAMILY

static const ModelFamily *const families[] = {
#define FAMILY(name) &family_##name,
#include "model/families.def"
#undef FAMILY
};
enum { FAMILIES = sizeof families / sizeof *families };

const ModelFamily *model_family(const char *model_type) {
    for (int i = 0; i < FAMILIES; i++)
        if (!strcmp(families[i]->model_type, model_type)) return families[i];
    return NULL;
}

const char *model_family_names(void) {
#define FAMILY(name) ", " #name
    static const char names[] =
#include "model/families.def"
        ;
#undef FAMILY
    return names + 2;
}

Status model_config_init(ModelConfig *config, const char *model_type) {
    const ModelFamily *family = model_family(model_type);
    if (!family)
        return FAIL(TANE_EUNSUPPORTED, "architecture \"%s\" is not one of %s", model_type, model_family_names());
    *config = (ModelConfig){.family = family, .init_std = 0.02, .bos = -1, .eos = -1, .pad = -1};
    return TANE_OK;
}

Status model_config_defaults(ModelConfig *c) {
    if (!c->kv_heads) c->kv_heads = c->heads;
    if (!c->head_dim && c->heads) {
        if (c->width % c->heads)
            return FAIL(TANE_EINVAL, "hidden size %lld is not a multiple of %lld heads", (long long)c->width,
                        (long long)c->heads);
        c->head_dim = c->width / c->heads;
    }
    return c->family->defaults(c);
}

Status model_config_check(const ModelConfig *c, const char *where) {
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"vocab_size", c->vocab_size, 16777216}, {"context length", c->context, 16777216},
                 {"hidden size", c->width, 65536},        {"number of layers", c->layers, 1024},
                 {"number of heads", c->heads, 1024},     {"number of KV heads", c->kv_heads, 1024},
                 {"head size", c->head_dim, 1024},        {"intermediate size", c->ffn, 1048576}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return FAIL(TANE_EINVAL, "%s: %s %lld is not in 1..%lld", where, sizes[i].name, (long long)sizes[i].value,
                        (long long)sizes[i].most);
    if (c->heads % c->kv_heads)
        return FAIL(TANE_EINVAL, "%s: %lld attention heads cannot share %lld KV heads evenly", where,
                    (long long)c->heads, (long long)c->kv_heads);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return FAIL(TANE_EINVAL, "%s: dropout %g is not in [0, 1)", where, c->dropout);
    if (!(c->norm_epsilon > 0))
        return FAIL(TANE_EINVAL, "%s: the norm's epsilon %g is not positive", where, c->norm_epsilon);
    return TANE_OK;
}

static const struct {
    const char *name;
    ActivationKind kind;
} activations[] = {{"gelu_new", ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
                   {"gelu", ACTIVATION_GELU},          {"relu", ACTIVATION_RELU},
                   {"silu", ACTIVATION_SILU},          {"swish", ACTIVATION_SILU}};
enum { ACTIVATIONS = sizeof activations / sizeof *activations };

Status activation_from_name(const char *name, const char *where, ActivationKind *kind) {
    for (int i = 0; i < ACTIVATIONS; i++)
        if (!strcmp(activations[i].name, name)) {
            *kind = activations[i].kind;
            return TANE_OK;
        }
    return FAIL(TANE_EUNSUPPORTED, "%s: activation function \"%s\" is not known", where, name);
}

const char *activation_to_name(ActivationKind kind) {
    for (int i = 0; i < ACTIVATIONS; i++)
        if (activations[i].kind == kind) return activations[i].name;
    return "?";
}

/* bos_token_id and the like: a number or null. Some files carry GPT-2's 50256 beside a smaller vocabulary: no such token,
 * then. */
static Status read_token_id(const json_t *value, const char *where, const char *key, int64_t vocab, int64_t *out) {
    *out = -1;
    if (!value || json_is_null(value)) return TANE_OK;
    if (!json_is_integer(value)) return FAIL(TANE_EFORMAT, "%s: \"%s\" must be a token id", where, key);
    int64_t id = json_integer_value(value);
    if (id >= 0 && id < vocab) *out = id;
    return TANE_OK;
}

static void add_eos(ModelConfig *c, int64_t id) {
    if (id < 0 || id == c->eos) return;
    for (int i = 0; i < c->n_more_eos; i++)
        if (c->more_eos[i] == id) return;
    if (c->eos < 0) c->eos = id;
    else if (c->n_more_eos < MODEL_EOS) c->more_eos[c->n_more_eos++] = id;
}

/* eos_token_id: one, or a list of which the first is what training writes. */
static Status read_eos(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *value = json_object_get(json, "eos_token_id");
    bool list = json_is_array(value);
    for (size_t i = 0; i < (list ? json_array_size(value) : 1); i++) {
        int64_t id;
        TRY_RETURN(read_token_id(list ? json_array_get(value, i) : value, where, "eos_token_id", c->vocab_size, &id));
        add_eos(c, id);
    }
    return TANE_OK;
}

/* What every file may hold and no forward depends on. */
static const char *const common_keys[] = {
    "architectures", "model_type", "vocab_size", "tie_word_embeddings", "initializer_range", "bos_token_id",
    "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id", "dtype", "torch_dtype",
    "use_cache", "transformers_version", "_name_or_path", "name_or_path", "auto_map", "_attn_implementation",
    "_attn_implementation_autoset", "task_specific_params", "id2label", "label2id", "output_attentions",
    "output_hidden_states", "return_dict", "problem_type", "finetuning_task", "is_decoder", "is_encoder_decoder",
    "chunk_size_feed_forward", "tokenizer_class", "prefix", "transformers.js_config", "unsloth_fixed",
    "unsloth_version", "bos_token", "eos_token", "gradient_checkpointing", "torchscript", "use_bfloat16",
    "keys_to_ignore_at_inference", "is_llama_config", "rope_interleaved", "license", "model_name", NULL};

static bool is_among(const char *key, const char *const *keys) {
    while (*keys && strcmp(*keys, key)) keys++;
    return *keys != NULL;
}

/* An option that nobody reads might change what the model computes. Nothing, false and null do not. */
static Status check_keys(const ModelConfig *c, const json_t *json, const char *where) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value) {
        if (json_is_null(value) || json_is_false(value)) continue;
        if (is_among(key, common_keys) || is_among(key, c->family->keys)) continue;
        return FAIL(TANE_EUNSUPPORTED,
                    "%s: tane does not know the option \"%s\" of model_type \"%s\"; if it does not change what the model "
                    "computes, remove it",
                    where, key, c->family->model_type);
    }
    bool interleaved = false;
    TRY_RETURN(json_opt_bool(json, where, "rope_interleaved", &interleaved));
    if (interleaved) return FAIL(TANE_EUNSUPPORTED, "%s: rope_interleaved true is not supported", where);
    return TANE_OK;
}

Status model_config_read_json(ModelConfig *config, const json_t *json, const char *where) {
    const char *type;
    TRY_RETURN(json_get_string(json, where, "model_type", &type));
    if (!model_family(type))
        return FAIL(TANE_EUNSUPPORTED, "%s: model_type \"%s\" is not one tane knows: %s", where, type,
                    model_family_names());
    if (json_object_get(json, "quantization_config"))
        return FAIL(TANE_EUNSUPPORTED, "%s: quantized Hugging Face weights are not supported; open the model's 16-bit "
                                       "version, or a GGUF file", where);
    TRY_RETURN(model_config_init(config, type));
    TRY_RETURN(json_get_int(json, where, "vocab_size", 1, 16777216, &config->vocab_size));
    TRY_RETURN(json_opt_bool(json, where, "tie_word_embeddings", &config->tied));
    TRY_RETURN(json_opt_double(json, where, "initializer_range", &config->init_std));
    TRY_RETURN(read_token_id(json_object_get(json, "bos_token_id"), where, "bos_token_id", config->vocab_size,
                             &config->bos));
    TRY_RETURN(read_eos(config, json, where));
    TRY_RETURN(read_token_id(json_object_get(json, "pad_token_id"), where, "pad_token_id", config->vocab_size,
                             &config->pad));
    TRY_RETURN(config->family->read(config, json, where));
    TRY_RETURN(check_keys(config, json, where));
    TRY_RETURN(model_config_defaults(config));
    return model_config_check(config, where);
}

/* Some models say only in generation_config.json which tokens end an answer. */
static Status read_generation(ModelConfig *config, const char *folder) {
    Status st = TANE_OK;
    char *path;
    json_t *json = NULL;
    TRY_RETURN(path_join(&path, folder, "generation_config.json"));
    if (!file_exists(path)) goto out;
    TRY(json_read_file(path, &json));
    TRY(read_eos(config, json, path));
out:
    json_decref(json);
    mem_free(path);
    return st;
}

Status model_config_read(ModelConfig *config, const char *folder) {
    Status st = TANE_OK;
    char *path = NULL;
    json_t *json = NULL;
    if (gguf_is_path(folder)) return gguf_config_read(config, folder);
    TRY(path_join(&path, folder, "config.json"));
    if (!file_exists(path)) {
        st = FAIL(TANE_ENOTFOUND,
                  dir_exists(folder) ? "%s has no config.json: it is not a model folder"
                                     : "%s: no such folder; a model is a folder with config.json and model.safetensors, "
                                       "or a .gguf file",
                  folder);
        goto out;
    }
    TRY(json_read_file(path, &json));
    TRY(model_config_read_json(config, json, path));
    TRY(read_generation(config, folder));
out:
    json_decref(json);
    mem_free(path);
    return st;
}

static json_t *token_id_json(int64_t id) { return id < 0 ? json_null() : json_integer(id); }

static json_t *eos_json(const ModelConfig *c) {
    if (!c->n_more_eos) return token_id_json(c->eos);
    json_t *list = json_pack("[I]", (json_int_t)c->eos);
    for (int i = 0; list && i < c->n_more_eos; i++)
        if (json_array_append_new(list, json_integer(c->more_eos[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static Status write_object(const char *folder, const char *name, const json_t *json) {
    char *path;
    TRY_RETURN(path_join(&path, folder, name));
    Status st = json_write_file(path, json);
    mem_free(path);
    return st;
}

Status model_config_write(const ModelConfig *config, const char *folder, DType dtype) {
    Status st = TANE_OK;
    const char *torch_dtype = dtype == DTYPE_F32 ? "float32" : dtype == DTYPE_BF16 ? "bfloat16" : "float16";
    json_t *json = json_pack("{s:[s], s:s, s:I, s:b, s:f, s:s, s:s, s:b, s:o, s:o, s:o}", "architectures",
                             config->family->architecture, "model_type", config->family->model_type, "vocab_size",
                             (json_int_t)config->vocab_size, "tie_word_embeddings", config->tied, "initializer_range",
                             config->init_std, "dtype", torch_dtype, "torch_dtype", torch_dtype, "use_cache", 1,
                             "bos_token_id", token_id_json(config->bos), "eos_token_id", eos_json(config),
                             "pad_token_id", token_id_json(config->pad));
    json_t *generation = json_pack("{s:o, s:o, s:o}", "bos_token_id", token_id_json(config->bos), "eos_token_id",
                                   eos_json(config), "pad_token_id", token_id_json(config->pad));
    if (!json || !generation) {
        st = FAIL(TANE_ENOMEM, "out of memory while writing config.json");
        goto out;
    }
    TRY(config->family->write(config, json));
    TRY(write_object(folder, "config.json", json));
    TRY(write_object(folder, "generation_config.json", generation));
out:
    json_decref(json);
    json_decref(generation);
    return st;
}
