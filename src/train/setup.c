/* From options to a trainer: data, model, tapes, the memory plan. */
#include "train/setup.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "device/cpuinfo.h"
#include "device/gemm.h"
#include "device/measure.h"

void trainer_message(const Trainer *t, tane_level level, const char *fmt, ...) {
    if (!t->cb->message) return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    t->cb->message(t->cb->user, level, text);
}

/* ----------------------------------------------------------------------------------------------------- data */

static Status load_tokenizer(Trainer *t) {
    const TrainOptions *o = t->o;
    TRY_RETURN(tokenizer_load(&t->tokenizer, o->tokenizer ? o->tokenizer : o->model));
    t->pad = tokenizer_pad(t->tokenizer);
    if (t->pad < 0) t->pad = tokenizer_eos(t->tokenizer);
    if (t->pad < 0) t->pad = 0; /* never looked at: padded positions have no labels, and come last */
    return TANE_OK;
}

/* A hash of all rows, so that going on with other data is noticed (FNV-1a, Fowler et al.). */
static void fingerprint(const Dataset *set, char out[17]) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < dataset_rows(set); i++) {
        DatasetRow row;
        dataset_row(set, i, &row);
        for (int64_t k = 0; k < row.n; k++) h = (h ^ (uint64_t)(row.tokens[k] * 2 + row.mask[k])) * 0x100000001b3u;
        h = (h ^ 0xffffffffu) * 0x100000001b3u;
    }
    snprintf(out, 17, "%016llx", (unsigned long long)h);
}

static Status load_data(Trainer *t) {
    Status st = TANE_OK;
    const TrainOptions *o = t->o;
    Arena arena = {0};
    DataSource *sources;
    size_t n;
    Truncation truncation = !strcmp(o->truncation, "drop")  ? TRUNCATION_DROP
                            : !strcmp(o->truncation, "cut") ? TRUNCATION_CUT
                                                            : TRUNCATION_ERROR;
    DatasetOptions options = {.tokenizer = t->tokenizer,
                              .max_length = o->max_length,
                              .completion_only = o->completion_only,
                              .truncation = truncation,
                              .add_bos = o->add_bos,
                              .add_eos = true};
    TRY(train_options_sources(t->set, &arena, &sources, &n));
    TRY(dataset_load(&t->train, sources, n, &options, (uint64_t)o->seed));
    fingerprint(t->train, t->fingerprint);
    if (dataset_dropped(t->train))
        trainer_message(t, TANE_WARNING, "%lld rows longer than max_length=%lld are left out (truncation=drop)",
                        (long long)dataset_dropped(t->train), (long long)o->max_length);
    if (dataset_unknown(t->train))
        trainer_message(t, TANE_WARNING,
                        "%lld tokens of the training data are unknown to the tokenizer; was it made for other data?",
                        (long long)dataset_unknown(t->train));
    if (o->eval_files.n) {
        DataSource *eval;
        TRY(ARENA_NEW_ARRAY(&arena, &eval, o->eval_files.n));
        for (size_t i = 0; i < o->eval_files.n; i++)
            eval[i] = (DataSource){.path = o->eval_files.items[i], .fraction = o->eval_fraction, .repeat = 1};
        TRY(dataset_load(&t->eval, eval, o->eval_files.n, &options, (uint64_t)o->seed));
    }
    if (o->eval_exact_match_files.n)
        TRY(questions_load(&t->questions, o->eval_exact_match_files.items, o->eval_exact_match_files.n, t->tokenizer,
                           o->eval_exact_match_limit, o->add_bos));
out:
    arena_release(&arena);
    return st;
}

Status trainer_exact_match(Trainer *t, double *share) {
    MatchReport report = {0};
    TRY_RETURN(exact_match(t->questions, t->model, &(ExactMatchOptions){0}, &report));
    *share = report.total ? (double)report.right / (double)report.total : 0;
    match_report_free(&report);
    return TANE_OK;
}

/* ---------------------------------------------------------------------------------------------------- model */

static DType compute_dtype(const TrainOptions *o) {
    if (o->bf16 || !strcmp(o->compute_dtype, "bf16")) return DTYPE_BF16;
    if (!strcmp(o->compute_dtype, "fp32")) return DTYPE_F32;
    return gemm_bf16_is_fast() ? DTYPE_BF16 : DTYPE_F32;
}

static Status new_model(Trainer *t, DType dtype) {
    const TrainOptions *o = t->o;
    ModelConfig c;
    TRY_RETURN(model_config_init(&c, o->architecture));
    bool llama = !strcmp(o->architecture, "llama");
    c.vocab_size = tokenizer_vocab_size(t->tokenizer);
    c.context = o->max_position_embeddings;
    c.width = o->hidden_size;
    c.layers = o->num_hidden_layers;
    c.heads = o->num_attention_heads;
    c.kv_heads = o->num_key_value_heads;
    c.ffn = o->intermediate_size;
    c.tied = o->tie_word_embeddings;
    c.rope_theta = llama ? o->rope_theta : 0;
    c.norm_epsilon = llama ? o->rms_norm_eps : o->layer_norm_epsilon;
    c.activation = llama ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    c.dropout = o->dropout;
    c.bos = tokenizer_bos(t->tokenizer);
    c.eos = tokenizer_eos(t->tokenizer);
    c.pad = tokenizer_pad(t->tokenizer);
    TRY_RETURN(model_new(&t->model, &c, dtype));
    return TANE_OK;
}

static Status load_model(Trainer *t) {
    const TrainOptions *o = t->o;
    DType dtype = compute_dtype(o);
    if (!o->model) return new_model(t, dtype);
    TRY_RETURN(model_open(&t->model, o->model, dtype));
    ModelConfig *c = &t->model->config;
    if (option_is_set(t->set, "dropout")) c->dropout = o->dropout;
    int32_t vocab = tokenizer_vocab_size(t->tokenizer);
    if (vocab > c->vocab_size)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has %d tokens, but the model in %s only %lld: they do not belong together", vocab,
                    o->model, (long long)c->vocab_size);
    return TANE_OK;
}

/* ----------------------------------------------------------------------------------------------------- plan */

static int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }

static void plan_steps(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    int64_t per_step = o->per_device_train_batch_size * o->gradient_accumulation_steps;
    p->rows = dataset_rows(t->train);
    p->tokens = dataset_tokens(t->train);
    p->steps_per_epoch = o->dataloader_drop_last ? p->rows / per_step : (p->rows + per_step - 1) / per_step;
    double steps = o->num_train_epochs * (double)p->steps_per_epoch;
    p->total_steps = o->max_steps > 0 ? o->max_steps : at_least_one((int64_t)steps + ((double)(int64_t)steps < steps));
}

static Status record_tapes(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    int64_t longest = dataset_longest(t->train) - 1;
    p->width = at_least_one(longest);
    if (p->width > t->model->config.context)
        return FAIL(TANE_EINVAL,
                    "the longest row has %lld tokens, but the model's context is %lld; set max_length=%lld (and "
                    "truncation=cut or drop)",
                    (long long)longest + 1, (long long)t->model->config.context, (long long)t->model->config.context);
    TRY_RETURN(batch_tape_new(&t->step_tape, t->model, t->kernels, o->per_device_train_batch_size, p->width,
                              o->label_smoothing_factor, true));
    if (t->eval) {
        int64_t width = at_least_one(dataset_longest(t->eval) - 1);
        if (width > t->model->config.context)
            return FAIL(TANE_EINVAL, "the longest evaluation row has %lld tokens, but the model's context is %lld",
                        (long long)width + 1, (long long)t->model->config.context);
        TRY_RETURN(batch_tape_new(&t->eval_tape, t->model, t->kernels, o->per_device_eval_batch_size, width, 0, false));
    }
    return TANE_OK;
}

/* Too little memory is an error now, with the options that help and what each would save, and never one half-way. */
static Status check_memory(const tane_plan *p, const TrainOptions *o) {
    if (!p->available || p->total <= p->available) return TANE_OK;
    const double gib = 1073741824.0;
    double moving = (double)(p->activations + p->scratch);
    return FAIL(TANE_ENOMEM,
                "this run needs %.2f GiB, but %.2f GiB are free: weights %.2f, gradients %.2f, optimizer %.2f, "
                "activations %.2f, scratch %.2f, data %.2f\n"
                "  per_device_train_batch_size=%lld with gradient_accumulation_steps=%lld would save about %.2f GiB; a "
                "smaller max_length or model saves more",
                (double)p->total / gib, (double)p->available / gib, (double)p->weights / gib,
                (double)p->gradients / gib, (double)p->optimizer / gib, (double)p->activations / gib,
                (double)p->scratch / gib, (double)p->data / gib,
                (long long)at_least_one(o->per_device_train_batch_size / 2),
                (long long)(o->gradient_accumulation_steps * (o->per_device_train_batch_size > 1 ? 2 : 1)),
                o->per_device_train_batch_size > 1 ? moving / 2 / gib : 0.0);
}

static Status fill_plan(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    const Params *params = &t->model->params;
    TapeReport step, eval = {0};
    tape_report(t->step_tape.tape, &step);
    if (t->eval) tape_report(t->eval_tape.tape, &eval);
    size_t tapes = tape_bytes(t->step_tape.tape), eval_tape = t->eval ? tape_bytes(t->eval_tape.tape) : 0;
    if (eval_tape > tapes) tapes = eval_tape;
    p->output_dir = o->output_dir;
    p->model_type = t->model->config.family->model_type;
    p->compute_dtype = dtype_name(t->model->dtype);
    p->backend = gemm_backend(t->model->dtype);
    p->threads = omp_get_max_threads();
    p->parameters = params_count(params);
    p->vocab_size = t->model->config.vocab_size;
    p->weights = params->elements * dtype_size(t->model->dtype);
    p->gradients = params->elements * sizeof(float);
    p->optimizer = optimizer_bytes(params, t->model->dtype) - p->gradients;
    p->activations = step.planned;
    p->scratch = tapes - step.planned;
    p->data = (size_t)dataset_tokens(t->train) * 4 + (t->eval ? (size_t)dataset_tokens(t->eval) * 4 : 0) +
              (size_t)(o->gradient_accumulation_steps * o->per_device_train_batch_size * p->width) * 8;
    /* What is taken by now beside these arrays: the program, its libraries, the tokenizer. */
    size_t taken = p->weights + p->gradients + p->optimizer + p->data, resident = cpu_memory_resident();
    p->process = resident > taken ? resident - taken : 0;
    p->total = taken + p->process + p->activations + p->scratch;
    p->available = cpu_memory_available();
    if (p->available) p->available += resident;
    return check_memory(p, o);
}

Status trainer_prepare(Trainer *t, OptionSet *set, const char *recipe_path, const tane_run_callbacks *callbacks) {
    Status st = TANE_OK;
    *t = (Trainer){.set = set, .o = set->config, .cb = callbacks, .kernels = ops_cpu()};
    TRY(train_options_name_run(set, recipe_path));
    TRY(train_options_check(set));
    const CpuInfo *cpu = cpu_info();
    omp_set_num_threads(t->o->threads ? (int)t->o->threads : cpu->cores);
    TRY(load_tokenizer(t));
    TRY(load_data(t));
    TRY(load_model(t));
    plan_steps(t);
    if (!t->plan.steps_per_epoch) {
        st = FAIL(TANE_EINVAL,
                  "the data has %lld rows, fewer than one batch; a smaller per_device_train_batch_size or "
                  "dataloader_drop_last=false helps",
                  (long long)t->plan.rows);
        goto out;
    }
    TRY(optimizer_new(&t->optimizer, t->model,
                      &(OptimizerOptions){t->o->weight_decay, t->o->adam_beta1, t->o->adam_beta2, t->o->adam_epsilon,
                                          t->o->max_grad_norm},
                      t->kernels));
    if (t->o->model) { /* the master weights keep what the file has, not what is left of it in bf16 */
        ParamArray master = {"", t->optimizer->master};
        const ModelFamily *family = t->model->config.family;
        TRY(params_read(&t->model->params, t->o->model, family->prefix, family->ignored, &master, 1));
    }
    TRY(record_tapes(t));
    TRY(fill_plan(t));
out:
    if (st != TANE_OK) trainer_release(t);
    return st;
}

Status trainer_allocate(Trainer *t) {
    Status st = TANE_OK;
    const TrainOptions *o = t->o;
    size_t bytes = tape_bytes(t->step_tape.tape), eval = t->eval ? tape_bytes(t->eval_tape.tape) : 0;
    TRY(mem_new(&t->memory, bytes > eval ? bytes : eval, 1));
    TRY(tape_bind(t->step_tape.tape, t->memory));
    if (t->eval) TRY(tape_bind(t->eval_tape.tape, t->memory));
    TRY(MEM_NEW_ARRAY(&t->batches, (size_t)o->gradient_accumulation_steps));
    for (int64_t i = 0; i < o->gradient_accumulation_steps; i++)
        TRY(batch_new(&t->batches[i], o->per_device_train_batch_size, t->step_tape.width));
    if (t->eval) TRY(batch_new(&t->eval_batch, o->per_device_eval_batch_size, t->eval_tape.width));
    /* Half a second, for who wants to know how near the limit the run is. */
    if (t->cb->progress) TRY(measure_gemm(t->model->dtype, &t->plan.limit_flops));
out:
    return st;
}

void trainer_release(Trainer *t) {
    if (t->batches)
        for (int64_t i = 0; i < t->o->gradient_accumulation_steps; i++) batch_free(&t->batches[i]);
    mem_free(t->batches);
    batch_free(&t->eval_batch);
    batch_tape_free(&t->step_tape);
    batch_tape_free(&t->eval_tape);
    mem_free(t->memory);
    optimizer_free(t->optimizer);
    model_free(t->model);
    dataset_free(t->train);
    dataset_free(t->eval);
    questions_free(t->questions);
    tokenizer_free(t->tokenizer);
    t->batches = NULL;
    t->memory = NULL;
    t->optimizer = NULL;
    t->model = NULL;
    t->train = t->eval = NULL;
    t->questions = NULL;
    t->tokenizer = NULL;
}
