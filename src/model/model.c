/* Opening, saving and building models of any family. */
#include "model/model.h"

#include <math.h>

#include "base/file.h"

Status model_new(Model **out, const ModelConfig *config, DType dtype) {
    Status st = TANE_OK;
    Model *m;
    TRY_RETURN(MEM_NEW(out));
    m = *out;
    m->config = *config;
    m->dtype = dtype;
    TRY(model_config_defaults(&m->config));
    TRY(model_config_check(&m->config, "model"));
    TRY(config->family->declare(m));
    TRY(mem_new(&m->weights, m->params.elements, dtype_size(dtype)));
    if (m->config.rope_theta > 0) {
        int64_t d = m->config.head_dim, half = d / 2;
        TRY(MEM_NEW_ARRAY(&m->rope, (size_t)(m->config.context * d)));
        for (int64_t i = 0; i < half; i++) {
            /* In fp32, as the reference computes it: position * theta^(-2i/D). */
            float frequency = 1.0f / powf((float)m->config.rope_theta, (float)(2 * i) / (float)d);
            for (int64_t p = 0; p < m->config.context; p++) {
                m->rope[p * d + i] = cosf((float)p * frequency);
                m->rope[p * d + half + i] = sinf((float)p * frequency);
            }
        }
    }
out:
    if (st != TANE_OK) {
        model_free(m);
        *out = NULL;
    }
    return st;
}

void model_free(Model *m) {
    if (!m) return;
    params_release(&m->params);
    mem_free(m->weights);
    mem_free(m->rope);
    mem_free(m);
}

Status model_open(Model **out, const char *folder, DType dtype) {
    Status st = TANE_OK;
    ModelConfig config;
    float *flat = NULL;
    *out = NULL;
    TRY_RETURN(model_config_read(&config, folder));
    TRY(model_new(out, &config, dtype));
    const ModelFamily *family = config.family;
    ParamArray weights = {"", (*out)->weights};
    if (dtype != DTYPE_F32) {
        TRY(MEM_NEW_ARRAY(&flat, (*out)->params.elements));
        weights.flat = flat;
    }
    TRY(params_read(&(*out)->params, folder, family->prefix, family->ignored, &weights, 1));
    if (flat) params_convert(&(*out)->params, flat, (*out)->weights, dtype);
out:
    mem_free(flat);
    if (st != TANE_OK) {
        model_free(*out);
        *out = NULL;
    }
    return st;
}

void model_weights_f32(const Model *model, float *flat) {
    if (model->dtype == DTYPE_F32) {
        memcpy(flat, model->weights, model->params.elements * 4);
        return;
    }
    const uint16_t *h = model->weights;
    for (size_t i = 0; i < model->params.elements; i++) flat[i] = bf16_to_f32(h[i]);
}

Status model_save(const Model *model, float *flat, DType save, const char *folder) {
    char *path;
    ParamArray weights = {"", flat};
    TRY_RETURN(model_config_write(&model->config, folder, save));
    TRY_RETURN(path_join(&path, folder, "model.safetensors"));
    Status st = params_write(&model->params, &weights, 1, save, path, NULL, NULL);
    mem_free(path);
    return st;
}

Tensor *model_param(const Model *model, Tape *tape, const Param *p) {
    Tensor *w = tape_param(tape, p->parts[0].name, model->dtype, p->rank, p->shape, model->grads != NULL);
    if (!w) return NULL;
    w->data = (char *)model->weights + p->offset * dtype_size(model->dtype);
    if (w->grad) w->grad->data = model->grads + p->offset;
    return w;
}

void model_forward(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out) {
    *out = (ModelOutput){0};
    model->config.family->forward(model, tape, in, out);
}

double model_train_flops(const Model *model, int64_t length) {
    const ModelConfig *c = &model->config;
    double matrices = (double)c->vocab_size * (double)c->width; /* the output layer, tied or not */
    for (int i = 0; i < model->params.n; i++)
        if (model->params.items[i]->role == ROLE_MATRIX && model->params.items[i]->shape[0] != c->vocab_size)
            matrices += (double)param_count(model->params.items[i]);
    return 6.0 * matrices + 6.0 * (double)c->layers * (double)(c->heads * c->head_dim) * (double)length;
}
