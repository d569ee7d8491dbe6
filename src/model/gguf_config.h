/* GGUF's keys as the config.json that the same model has at Hugging Face, so that there is one way to read a model's
 * configuration. Keys that change what a model computes and that tane does not understand are errors naming them. */
#ifndef MODEL_GGUF_CONFIG_H
#define MODEL_GGUF_CONFIG_H

#include "base/json.h"
#include "format/gguf.h"
#include "model/gguf_names.h"

/* *out (json_decref): for model_config_read_json. */
Status gguf_config_json(const GgufFile *file, json_t **out);
/* The same from a path, read into a configuration. */
Status gguf_config_read(ModelConfig *config, const char *path);

/* general.architecture; TANE_EUNSUPPORTED where it is not one of ours. */
Status gguf_config_arch(const GgufFile *file, const GgufArch **out);
Status gguf_config_head_dim(const GgufFile *file, const GgufArch *arch, int64_t *out);
/* Rows of the token embedding. */
Status gguf_config_vocab(const GgufFile *file, int64_t *out);

/* What cos and sin of a yarn rope are multiplied by where no key says otherwise. */
double gguf_yarn_amplitude(double factor);
/* The scale of attention that llama.cpp gives Gemma's sizes. */
double gguf_gemma_scalar(int64_t layers, int64_t width, int64_t heads, int64_t head_dim);

#endif
