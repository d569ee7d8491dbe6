/* Opening, saving and building models of any family. */
#include "model/model.h"

#include "base/file.h"

static const RopeConfig *rope_config(const ModelConfig *c, int which) { return which ? &c->local_rope : &c->rope; }

static Status make_rope(Model *m, int which) {
    Status st = TANE_OK;
    const ModelConfig *c = &m->config;
    const RopeConfig *rope = rope_config(c, which);
    size_t n = (size_t)(c->context * rope_width(rope, c->head_dim));
    float *table;
    TRY_RETURN(MEM_NEW_ARRAY(&table, n));
    TRY(rope_table(rope, c->head_dim, c->context, c->max_context ? c->max_context : c->context, table));
    TRY(device_alloc(m->device, (void **)&m->rope[which], n * sizeof *table));
    TRY(device_upload(m->device, m->rope[which], table, n * sizeof *table));
out:
    mem_free(table);
    return st;
}

Status model_declare(Model **out, const ModelConfig *config, DType dtype, Device *device) {
    Status st = TANE_OK;
    Model *m;
    TRY_RETURN(MEM_NEW(out));
    m = *out;
    m->config = *config;
    m->dtype = dtype;
    m->device = device;
    TRY(model_config_defaults(&m->config));
    TRY(model_config_check(&m->config, "model"));
    m->grad_dtype = DTYPE_F32;
    TRY(config->family->declare(m));
out:
    if (st != TANE_OK) {
        model_free(m);
        *out = NULL;
    }
    return st;
}

Status model_allocate(Model *m) {
    TRY_RETURN(device_alloc(m->device, &m->weights, m->params.elements * dtype_size(m->dtype)));
    for (int k = 0; k < MODEL_ROPES; k++)
        if (rope_config(&m->config, k)->theta > 0) TRY_RETURN(make_rope(m, k));
    return TANE_OK;
}

Status model_new(Model **out, const ModelConfig *config, DType dtype, Device *device) {
    TRY_RETURN(model_declare(out, config, dtype, device));
    Status st = model_allocate(*out);
    if (st != TANE_OK) {
        model_free(*out);
        *out = NULL;
    }
    return st;
}

void model_free(Model *m) {
    if (!m) return;
    params_release(&m->params);
    device_release(m->device, m->weights);
    for (int k = 0; k < MODEL_ROPES; k++) device_release(m->device, m->rope[k]);
    mem_free(m);
}

ParamArray model_weights(const Model *m) { return (ParamArray){"", m->weights, m->dtype, m->device}; }

Status model_open(Model **out, const char *folder, DType dtype, Device *device) {
    Status st = TANE_OK;
    ModelConfig config;
    *out = NULL;
    TRY_RETURN(model_config_read(&config, folder));
    TRY(model_new(out, &config, dtype, device));
    ParamArray weights = model_weights(*out);
    TRY(params_read(&(*out)->params, folder, config.family->prefix, config.family->ignored, &weights, 1));
out:
    if (st != TANE_OK) {
        model_free(*out);
        *out = NULL;
    }
    return st;
}

Status model_save(const Model *model, const ParamArray *weights, DType save, const char *folder) {
    char *path;
    TRY_RETURN(model_config_write(&model->config, folder, save));
    TRY_RETURN(path_join(&path, folder, "model.safetensors"));
    Status st = params_write(&model->params, weights, 1, save, path, NULL, NULL);
    mem_free(path);
    return st;
}

/* The parameter's place in a flat array, if that is there already. */
static void *place(void *flat, const Param *p, DType dtype) {
    return flat ? (char *)flat + p->offset * dtype_size(dtype) : NULL;
}

Tensor *model_param(const Model *model, Tape *tape, const Param *p) {
    Tensor *w = tape_param(tape, p->parts[0].name, model->dtype, p->rank, p->shape, model->trains);
    if (!w) return NULL;
    w->data = place(model->weights, p, model->dtype);
    if (!w->grad) return w;
    w->grad->dtype = model->grad_dtype;
    w->grad->data = place(model->grads, p, model->grad_dtype);
    return w;
}

Tensor *model_rope(const Model *model, Tape *tape, int which) {
    const ModelConfig *c = &model->config;
    const RopeConfig *rope = rope_config(c, which);
    if (rope->theta == 0) return NULL;
    int64_t shape[] = {c->context, rope_width(rope, c->head_dim)};
    Tensor *table = tape_external(tape, which ? "local rope" : "rope", DTYPE_F32, 2, shape);
    if (table) table->data = model->rope[which];
    return table;
}

void model_forward(const Model *model, Tape *tape, const ModelInput *in, ModelOutput *out) {
    *out = (ModelOutput){.softcap = (float)model->config.logit_softcap};
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
