/* From options to a trainer: data, model, tapes, the memory plan. */
#include "train/setup.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "device/cpuinfo.h"
#include "eval/metric.h"
#include "infer/open.h"
#include "model/gguf_tokenizer.h"
#include "ops/backend.h"

static bool is(const char *option, const char *value) { return !strcmp(option, value); }

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
    TRY_RETURN(model_tokenizer_load(&t->tokenizer, o->tokenizer ? o->tokenizer : o->model));
    t->pad = tokenizer_pad(t->tokenizer);
    if (t->pad < 0) t->pad = tokenizer_eos(t->tokenizer);
    if (t->pad < 0) t->pad = 0; /* never looked at: padded positions have no labels, and come last */
    return TANE_OK;
}

static void tell_of_data(const Trainer *t) {
    const TrainOptions *o = t->o;
    const Dataset *set = t->train;
    if (dataset_dropped(set))
        trainer_message(t, TANE_WARNING, "%lld rows longer than max_length=%lld are left out (truncation=drop)",
                        (long long)dataset_dropped(set), (long long)o->max_length);
    if (dataset_cut(set))
        trainer_message(t, TANE_WARNING,
                        "%lld rows are cut at max_length=%lld: their ends are not learned (truncation=cut)",
                        (long long)dataset_cut(set), (long long)o->max_length);
    if (dataset_unknown(set))
        trainer_message(t, TANE_WARNING,
                        "%lld tokens of the training data are unknown to the tokenizer; was it made for other data?",
                        (long long)dataset_unknown(set));
    if (dataset_has_prepared(set) &&
        (option_is_set(t->set, "completion_only") || option_is_set(t->set, "format") ||
         option_is_set(t->set, "assistant_only_loss") || option_is_set(t->set, "conversation_loss")))
        trainer_message(t, TANE_WARNING,
                        "prepared tokens keep the loss mask and format that they were prepared with; "
                        "completion_only, assistant_only_loss and format are for rows");
}

/* Questions are asked as rows are trained on: through the same format, template and suffix. */
static Status load_questions(Trainer *t, const DatasetOptions *rows, Arena *arena) {
    const TrainOptions *o = t->o;
    QuestionOptions options = {.format = &rows->format, .limit = o->eval_exact_match_limit};
    Metric metric;
    char **files;
    size_t n;
    TRY_RETURN(rows_files(o->eval_exact_match_files.items, o->eval_exact_match_files.n, arena, &files, &n));
    TRY_RETURN(metric_of_file(&metric, files[0], rows->format.format, rows->format.columns, NULL));
    t->gsm8k = metric == METRIC_GSM8K;
    return questions_open(&t->questions, (const char *const *)files, n, &options);
}

static Status load_data(Trainer *t) {
    Status st = TANE_OK;
    const TrainOptions *o = t->o;
    Arena arena = {0};
    DataOptions data = train_options_data(o);
    DatasetOptions options;
    DataSource *sources;
    size_t n;
    ErrorCopy why = {0};
    TRY(open_template(&t->chat, o->chat_template, o->tokenizer ? o->tokenizer : o->model, t->tokenizer, &why));
    if (why.code != TANE_OK) trainer_message(t, TANE_WARNING, "the chat template cannot be read: %s", why.text);
    TRY(data_options_dataset(&data, t->tokenizer, t->chat, &arena, &options));
    TRY(train_options_sources(t->set, &arena, &sources, &n));
    TRY(dataset_load(&t->train, sources, n, &options, (uint64_t)o->seed));
    TRY(data_options_arrange(&data, t->train, &t->layout));
    dataset_fingerprint(t->train, t->fingerprint);
    tell_of_data(t);
    if (o->eval_files.n) {
        DataSource *eval;
        TRY(ARENA_NEW_ARRAY(&arena, &eval, o->eval_files.n));
        for (size_t i = 0; i < o->eval_files.n; i++)
            eval[i] = (DataSource){.path = o->eval_files.items[i], .fraction = o->eval_fraction, .repeat = 1};
        TRY(dataset_load(&t->eval, eval, o->eval_files.n, &options, (uint64_t)o->seed));
        TRY(data_options_arrange(&data, t->eval, &t->eval_layout));
    }
    if (o->eval_exact_match_files.n) TRY(load_questions(t, &options, &arena));
out:
    arena_release(&arena);
    return st;
}

Status trainer_exact_match(Trainer *t, double *share) {
    MatchReport report = {0};
    StopTokens stop = stop_tokens(&(OpenModel){.model = t->model, .tokenizer = t->tokenizer, .chat = t->chat});
    ExactMatchOptions options = {.gsm8k = t->gsm8k, .stop = stop.ids, .n_stop = stop.n};
    TRY_RETURN(exact_match(t->questions, t->model, &options, &report));
    *share = report.total ? (double)report.right / (double)report.total : 0;
    match_report_free(&report);
    return TANE_OK;
}

/* ---------------------------------------------------------------------------------------------------- model */

/* "auto" is bf16 where that is fast. tf32 is fp32 with another kind of product. */
static Status compute_dtype(Trainer *t, DType *dtype) {
    const TrainOptions *o = t->o;
    const char *name = o->bf16 ? "bf16" : o->fp16 ? "fp16" : o->compute_dtype;
    t->device->matmul = is(name, "tf32")        ? MATMUL_TF32
                        : is(name, "fp8")       ? MATMUL_FP8_TENSOR
                        : is(name, "fp8_block") ? MATMUL_FP8_BLOCK
                                                : MATMUL_EXACT;
    if (is(name, "auto")) *dtype = t->device->bf16_is_fast ? DTYPE_BF16 : DTYPE_F32;
    else if (is(name, "fp32") || is(name, "tf32")) *dtype = DTYPE_F32;
    else *dtype = is(name, "fp16") ? DTYPE_F16 : DTYPE_BF16;
    if (t->device->host && (t->device->matmul != MATMUL_EXACT || *dtype == DTYPE_F16))
        return FAIL(TANE_EUNSUPPORTED, "compute_dtype=%s needs a GPU, and this run is on the CPU; use bf16 or fp32",
                    name);
    return TANE_OK;
}

/* The CPU's kernels add up gradients in fp32 only. */
static Status check_states(const Trainer *t, DType dtype) {
    if (!is(t->o->optimizer_states, "bf16")) return TANE_OK;
    if (t->device->host)
        return FAIL(TANE_EUNSUPPORTED, "optimizer_states=bf16 needs a GPU, and this run is on the CPU; use fp32");
    if (dtype != DTYPE_BF16)
        return FAIL(TANE_EINVAL, "optimizer_states=bf16 needs compute_dtype=bf16, not %s", dtype_name(dtype));
    return TANE_OK;
}

static Status new_model(Trainer *t, DType dtype) {
    const TrainOptions *o = t->o;
    ModelConfig c;
    TRY_RETURN(model_config_init(&c, o->architecture));
    bool llama = is(o->architecture, "llama");
    int64_t multiple = o->pad_vocab_to_multiple_of;
    c.vocab_size = (tokenizer_vocab_size(t->tokenizer) + multiple - 1) / multiple * multiple;
    c.context = o->max_position_embeddings;
    c.width = o->hidden_size;
    c.layers = o->num_hidden_layers;
    c.heads = o->num_attention_heads;
    c.kv_heads = o->num_key_value_heads;
    c.ffn = o->intermediate_size;
    c.tied = o->tie_word_embeddings;
    c.rope.theta = llama ? o->rope_theta : 0;
    c.norm_epsilon = llama ? o->rms_norm_eps : o->layer_norm_epsilon;
    c.activation = llama ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    c.dropout = o->dropout;
    c.bos = tokenizer_bos(t->tokenizer);
    c.eos = tokenizer_eos(t->tokenizer);
    c.pad = tokenizer_pad(t->tokenizer);
    return model_declare(&t->model, &c, dtype, t->device);
}

static Status load_model(Trainer *t) {
    const TrainOptions *o = t->o;
    DType dtype;
    TRY_RETURN(compute_dtype(t, &dtype));
    TRY_RETURN(check_states(t, dtype));
    if (!o->model) return new_model(t, dtype);
    ModelConfig config, *c = &config;
    TRY_RETURN(model_config_read(c, o->model));
    if (option_is_set(t->set, "dropout")) c->dropout = o->dropout;
    int32_t vocab = tokenizer_vocab_size(t->tokenizer);
    if (vocab > c->vocab_size)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has %d tokens, but the model in %s only %lld: they do not belong together", vocab,
                    o->model, (long long)c->vocab_size);
    return model_declare(&t->model, c, dtype, t->device);
}

/* ----------------------------------------------------------------------------------------------------- plan */

static int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }

static void plan_steps(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    int64_t per_step = o->per_device_train_batch_size * o->gradient_accumulation_steps;
    p->rows = layout_units(t->layout);
    p->tokens = layout_tokens(t->layout);
    p->steps_per_epoch = o->dataloader_drop_last ? p->rows / per_step : (p->rows + per_step - 1) / per_step;
    double steps = o->num_train_epochs * (double)p->steps_per_epoch;
    p->total_steps = o->max_steps > 0 ? o->max_steps : at_least_one((int64_t)steps + ((double)(int64_t)steps < steps));
}

static Status check_width(const Trainer *t, int64_t width, const char *what) {
    int64_t context = t->model->config.context;
    if (width <= context) return TANE_OK;
    if (layout_kind(t->layout) != LAYOUT_PADDING)
        return FAIL(TANE_EINVAL, "max_length is %lld, but the model's context is %lld; set max_length=%lld",
                    (long long)width, (long long)context, (long long)context);
    return FAIL(TANE_EINVAL,
                "the longest %s row has %lld tokens, but the model's context is %lld; set max_length=%lld (and "
                "truncation=cut or drop)",
                what, (long long)width + 1, (long long)context, (long long)context);
}

static Status record_tapes(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    bool packed = layout_kind(t->layout) == LAYOUT_PACKING;
    float *loss_scale = t->optimizer && t->model->dtype == DTYPE_F16 ? t->optimizer->state + STATE_LOSS_SCALE : NULL;
    TapeRecompute recompute = !o->gradient_checkpointing                     ? RECOMPUTE_NONE
                              : is(o->gradient_checkpointing_policy, "full") ? RECOMPUTE_BLOCK
                                                                             : RECOMPUTE_CHEAP;
    p->width = layout_width(t->layout);
    TRY_RETURN(check_width(t, p->width, "training"));
    TRY_RETURN(batch_tape_new(&t->step_tape, t->model,
                              &(BatchTapeOptions){.rows = o->per_device_train_batch_size,
                                                  .width = p->width,
                                                  .packed = packed,
                                                  .label_smoothing = o->label_smoothing_factor,
                                                  .with_grad = true,
                                                  .recompute = recompute,
                                                  .loss_scale = loss_scale}));
    if (t->eval) {
        int64_t width = layout_width(t->eval_layout);
        TRY_RETURN(check_width(t, width, "evaluation"));
        TRY_RETURN(batch_tape_new(
            &t->eval_tape, t->model,
            &(BatchTapeOptions){.rows = o->per_device_eval_batch_size, .width = width, .packed = packed}));
    }
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------ does it fit? */

/* Memory of the training tape with other settings: what a suggestion would save. 0: cannot be told. */
static size_t tape_bytes_with(const Trainer *t, int64_t rows, TapeRecompute recompute) {
    BatchTape other;
    ErrorCopy error;
    err_save(&error);
    size_t bytes = 0;
    BatchTapeOptions options = {.rows = rows,
                                .width = t->plan.width,
                                .packed = layout_kind(t->layout) == LAYOUT_PACKING,
                                .with_grad = true,
                                .recompute = recompute};
    if (batch_tape_new(&other, t->model, &options) == TANE_OK) {
        bytes = tape_bytes(other.tape);
        batch_tape_free(&other);
    }
    (void)err_restore(&error);
    return bytes;
}

typedef struct Advice {
    Str text;
    size_t now; /* bytes of the tape as it is */
} Advice;

static const double GIB = 1073741824.0;

static Status advise(Advice *a, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static Status advise(Advice *a, size_t bytes, const char *fmt, ...) {
    char text[256];
    va_list args;
    if (!bytes || bytes >= a->now) return TANE_OK;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return str_printf(&a->text, "\n  %s saves %.2f GiB", text, (double)(a->now - bytes) / GIB);
}

/* What would help, each with the memory that it would save, measured by planning it. */
static Status suggestions(const Trainer *t, Advice *a) {
    const TrainOptions *o = t->o;
    const Params *params = &t->model->params;
    int64_t rows = o->per_device_train_batch_size;
    bool all = o->gradient_checkpointing && is(o->gradient_checkpointing_policy, "full");
    if (!o->gradient_checkpointing)
        TRY_RETURN(advise(a, tape_bytes_with(t, rows, RECOMPUTE_CHEAP),
                          "gradient_checkpointing=true (recomputes norms and activations)"));
    if (!all)
        TRY_RETURN(advise(a, tape_bytes_with(t, rows, RECOMPUTE_BLOCK),
                          "gradient_checkpointing=true gradient_checkpointing_policy=full (slower by about a third)"));
    for (int64_t fewer = rows / 2; fewer >= 1 && fewer * 8 >= rows; fewer /= 2)
        TRY_RETURN(advise(a, tape_bytes_with(t, fewer, RECOMPUTE_NONE),
                          "per_device_train_batch_size=%lld gradient_accumulation_steps=%lld", (long long)fewer,
                          (long long)(o->gradient_accumulation_steps * (rows / fewer))));
    bool bf16 = is(o->optimizer_states, "bf16");
    size_t saved = optimizer_state_bytes(params, t->model->dtype, false) -
                   optimizer_state_bytes(params, DTYPE_BF16, true) + optimizer_grad_bytes(params, false) -
                   optimizer_grad_bytes(params, true);
    if (!bf16 && t->model->dtype == DTYPE_BF16)
        TRY_RETURN(str_printf(&a->text, "\n  optimizer_states=bf16 saves %.2f GiB", (double)saved / GIB));
    return TANE_OK;
}

/* Too little memory is an error now, with the options that help and what each would save, and never one half-way. */
static Status check_memory(const Trainer *t) {
    const tane_plan *p = &t->plan;
    if (!p->available || p->total <= p->available) return TANE_OK;
    Advice a = {.now = tape_bytes(t->step_tape.tape)};
    Status st = suggestions(t, &a);
    if (st == TANE_OK)
        st = FAIL(TANE_ENOMEM,
                  "this run needs %.2f GiB of %s's memory, %.2f more than the %.2f GiB that are free: weights %.2f, "
                  "gradients %.2f, optimizer %.2f, activations %.2f, scratch %.2f, data %.2f, libraries and workspaces "
                  "%.2f%s\n  a smaller max_length or model saves more",
                  (double)p->total / GIB, t->device->name, (double)(p->total - p->available) / GIB,
                  (double)p->available / GIB, (double)p->weights / GIB, (double)p->gradients / GIB,
                  (double)p->optimizer / GIB, (double)p->activations / GIB, (double)p->scratch / GIB,
                  (double)p->data / GIB, (double)p->process / GIB, a.text.text ? a.text.text : "");
    str_free(&a.text);
    return st;
}

/* What the run takes of the device's memory. On the CPU that is where data and program lie too. */
static Status fill_plan(Trainer *t) {
    const TrainOptions *o = t->o;
    tane_plan *p = &t->plan;
    const Params *params = &t->model->params;
    TapeReport step;
    bool bf16 = is(o->optimizer_states, "bf16");
    tape_report(t->step_tape.tape, &step);
    size_t tapes = tape_bytes(t->step_tape.tape), eval_tape = t->eval ? tape_bytes(t->eval_tape.tape) : 0;
    if (eval_tape > tapes) tapes = eval_tape;
    p->output_dir = o->output_dir;
    p->device = t->device->name;
    p->device_model = t->device->description;
    p->model_type = t->model->config.family->model_type;
    p->compute_dtype = dtype_name(t->model->dtype);
    p->backend = t->device->products;
    p->threads = omp_get_max_threads();
    p->parameters = params_count(params);
    p->vocab_size = t->model->config.vocab_size;
    p->weights = params->elements * dtype_size(t->model->dtype);
    p->gradients = optimizer_grad_bytes(params, bf16);
    p->optimizer = optimizer_state_bytes(params, t->model->dtype, bf16);
    p->activations = step.planned;
    p->scratch = tapes - step.planned;
    p->data = stepper_bytes(&t->step_tape, o->gradient_accumulation_steps);
    size_t taken = p->weights + p->gradients + p->optimizer, free, total;
    TRY_RETURN(device_memory(t->device, &free, &total));
    if (t->device->host) {
        /* What is taken by now: the program, its libraries, the tokenizer, the data. */
        size_t resident = cpu_memory_resident();
        p->process = resident;
        p->available = free ? free + resident : 0;
    } else {
        p->process = t->device->reserved;
        p->available = free + t->device->taken;
    }
    p->total = taken + p->process + p->data + p->activations + p->scratch;
    return check_memory(t);
}

static OptimizerOptions optimizer_options(const Trainer *t) {
    const TrainOptions *o = t->o;
    return (OptimizerOptions){.weight_decay = o->weight_decay,
                              .beta1 = o->adam_beta1,
                              .beta2 = o->adam_beta2,
                              .epsilon = o->adam_epsilon,
                              .max_grad_norm = o->max_grad_norm,
                              .bf16_states = is(o->optimizer_states, "bf16"),
                              .loss_scale = t->model->dtype == DTYPE_F16 ? 65536 : 0, /* as torch.amp's GradScaler */
                              .growth_interval = 2000,
                              .halt_on_nan = is(o->on_nan, "stop")};
}

Status trainer_prepare(Trainer *t, OptionSet *set, const char *recipe_path, const tane_run_callbacks *callbacks) {
    Status st = TANE_OK;
    *t = (Trainer){.set = set, .o = set->config, .cb = callbacks};
    const TrainOptions *o = t->o;
    TRY(train_options_name_run(set, recipe_path));
    TRY(train_options_check(set));
    omp_set_num_threads(o->threads ? (int)o->threads : cpu_info()->cores);
    TRY(backend_open(&t->device, o->device));
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
    /* Planned without memory, so that what does not fit is known before anything is taken. */
    OptimizerOptions options = optimizer_options(t);
    optimizer_declare(t->model, &options);
    t->device->rehearsing = true;
    TRY(record_tapes(t));
    TRY(fill_plan(t));
out:
    if (t->device) t->device->rehearsing = false;
    if (st != TANE_OK) trainer_release(t);
    return st;
}

Status trainer_allocate(Trainer *t) {
    Status st = TANE_OK;
    const TrainOptions *o = t->o;
    OptimizerOptions options = optimizer_options(t);
    ParamArray weights[2];
    batch_tape_free(&t->step_tape);
    batch_tape_free(&t->eval_tape);
    TRY(model_allocate(t->model));
    TRY(optimizer_new(&t->optimizer, t->model, &options));
    if (o->model) { /* the master weights get what the file has, not what is left of it in bf16 */
        const ModelFamily *family = t->model->config.family;
        int n = optimizer_weights(t->optimizer, weights);
        TRY(params_read(&t->model->params, o->model, family->prefix, family->ignored, weights, n));
    }
    TRY(record_tapes(t));
    size_t bytes = tape_bytes(t->step_tape.tape), eval = t->eval ? tape_bytes(t->eval_tape.tape) : 0;
    TRY(device_alloc(t->device, &t->memory, bytes > eval ? bytes : eval));
    TRY(tape_bind(t->step_tape.tape, t->memory));
    if (t->eval) TRY(tape_bind(t->eval_tape.tape, t->memory));
    TRY(stepper_new(&t->stepper, &t->step_tape, t->optimizer, o->gradient_accumulation_steps));
    if (t->eval)
        TRY(batch_new(&t->eval_batch, o->per_device_eval_batch_size, t->eval_tape.width,
                      t->eval_tape.n_in == BATCH_ARRAYS));
    /* Half a second, for who wants to know how near the limit the run is. */
    if (t->cb->progress) TRY(device_measure(t->device, t->model->dtype, &t->plan.limit_flops, NULL));
out:
    return st;
}

void trainer_release(Trainer *t) {
    stepper_free(t->stepper);
    batch_free(&t->eval_batch);
    batch_tape_free(&t->step_tape);
    batch_tape_free(&t->eval_tape);
    if (t->device) device_release(t->device, t->memory);
    optimizer_free(t->optimizer);
    model_free(t->model);
    layout_free(t->layout);
    layout_free(t->eval_layout);
    dataset_free(t->train);
    dataset_free(t->eval);
    chat_template_free(t->chat);
    questions_free(t->questions);
    tokenizer_free(t->tokenizer);
    device_close(t->device);
    t->stepper = NULL;
    t->memory = NULL;
    t->optimizer = NULL;
    t->model = NULL;
    t->train = t->eval = NULL;
    t->layout = t->eval_layout = NULL;
    t->chat = NULL;
    t->questions = NULL;
    t->tokenizer = NULL;
    t->device = NULL;
}
