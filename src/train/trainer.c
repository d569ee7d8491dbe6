/* The loop: steps, evaluation, saving, early stopping, going on from a checkpoint. */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "track/metrics.h"
#include "track/runs.h"
#include "train/checkpoint.h"
#include "train/schedule.h"
#include "train/setup.h"
#include "train/watch.h"

/* What changes while a run goes on. Everything a resumed run needs is in state.json. */
typedef struct Loop {
    Trainer t;
    int lock;        /* on the run's folder */
    FileWriter *log; /* log.txt */
    Metrics *metrics;
    Runs *runs;
    int64_t run_id;
    int64_t submitted, step;       /* steps queued, and those whose result has come */
    int64_t tokens_seen;           /* without padding */
    double loss_sum, loss_targets; /* since the last logged line */
    double best;                   /* NaN: none yet */
    int64_t best_step, without_better, skipped_in_a_row;
    double last_loss, last_eval, last_match;
    bool target_reached, stop_early;
    /* of this process only */
    double start, log_time, seconds_per_step;
    double loading; /* seconds spent on batches since the last logged line */
    Watch watch;
    int64_t log_tokens, process_tokens;
    char folder[512];
} Loop;

enum { MOST_SKIPPED = 100 };

/* A line of log.txt: what a person would have seen. Losing one is no reason to stop. */
static void log_text(Loop *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void log_text(Loop *l, const char *fmt, ...) {
    char text[1024], now[21];
    va_list args;
    if (!l->log) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    clock_utc(now, sizeof now);
    if (fw_printf(l->log, "%s  %s\n", now, text) != TANE_OK || fw_flush(l->log) != TANE_OK) fw_abort(&l->log);
}

static void tell(Loop *l, tane_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void tell(Loop *l, tane_level level, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    log_text(l, "%s%s", level == TANE_WARNING ? "warning: " : "", text);
    trainer_message(&l->t, level, "%s", text);
}

/* ---------------------------------------------------------------------------------------------------- state */

static json_t *state_json(const Loop *l, const OptimizerState *update) {
    const TrainOptions *o = l->t.o;
    return json_pack(
        "{s:s, s:I, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:o, s:I, s:I, s:o, s:{s:I, s:s}, s:{s:I, s:I, s:I, s:b, s:s, "
        "s:I}}",
        "tane", TANE_VERSION, "step", (json_int_t)l->step, "loss_scale", update->loss_scale, "good_updates",
        update->good, "updates", (json_int_t)update->updates, "total_steps", (json_int_t)l->t.plan.total_steps,
        "tokens_seen", (json_int_t)l->tokens_seen, "loss_sum", l->loss_sum, "loss_targets", l->loss_targets, "best",
        isnan(l->best) ? json_null() : json_real(l->best), "best_step", (json_int_t)l->best_step, "without_better",
        (json_int_t)l->without_better, "last_loss", isnan(l->last_loss) ? json_null() : json_real(l->last_loss), "data",
        "rows", (json_int_t)l->t.plan.rows, "fingerprint", l->t.fingerprint, "order", "seed", (json_int_t)o->seed,
        "per_device_train_batch_size", (json_int_t)o->per_device_train_batch_size, "gradient_accumulation_steps",
        (json_int_t)o->gradient_accumulation_steps, "dataloader_drop_last", o->dataloader_drop_last, "layout",
        layout_name(layout_kind(l->t.layout)), "max_length", (json_int_t)layout_width(l->t.layout));
}

/* The order of rows must be the one that the checkpoint was made in. */
static Status check_order(const json_t *order, const char *where, const char *key, int64_t now) {
    int64_t then;
    TRY_RETURN(json_get_int(order, where, key, INT64_MIN, INT64_MAX, &then));
    if (then == now) return TANE_OK;
    return FAIL(TANE_EINVAL,
                "%s was saved with %s=%" PRId64 ", now it is %" PRId64
                ": the order of the rows would change; set it back, or start a new run with model=",
                where, key, then, now);
}

static Status read_state(Loop *l, const json_t *state, const char *where) {
    const TrainOptions *o = l->t.o;
    const json_t *data = json_object_get(state, "data"), *order = json_object_get(state, "order");
    const char *fingerprint, *layout = "padding", *layout_now = layout_name(layout_kind(l->t.layout));
    bool drop;
    int64_t updates;
    OptimizerState update = {.loss_scale = 1};
    if (!json_is_object(data) || !json_is_object(order))
        return FAIL(TANE_EFORMAT, "%s/state.json has no \"data\" or no \"order\"", where);
    TRY_RETURN(json_get_string(data, where, "fingerprint", &fingerprint));
    TRY_RETURN(json_opt_string(order, where, "layout", &layout));
    if (strcmp(layout, layout_now))
        return FAIL(TANE_EINVAL,
                    "%s was saved with layout=%s, now it is %s: the order of the rows would change; set it back, "
                    "or start a new run with model=%s",
                    where, layout, layout_now, where);
    if (json_object_get(order, "max_length") && layout_kind(l->t.layout) != LAYOUT_PADDING)
        TRY_RETURN(check_order(order, where, "max_length", layout_width(l->t.layout)));
    if (strcmp(fingerprint, l->t.fingerprint))
        return FAIL(TANE_EINVAL,
                    "%s was trained on other data (fingerprint %s, now %s): the files or the tokenizer have changed; "
                    "start a new run with model=%s",
                    where, fingerprint, l->t.fingerprint, where);
    TRY_RETURN(check_order(order, where, "seed", o->seed));
    TRY_RETURN(check_order(order, where, "per_device_train_batch_size", o->per_device_train_batch_size));
    TRY_RETURN(check_order(order, where, "gradient_accumulation_steps", o->gradient_accumulation_steps));
    TRY_RETURN(json_get_bool(order, where, "dataloader_drop_last", &drop));
    if (drop != o->dataloader_drop_last)
        return FAIL(TANE_EINVAL, "%s was saved with dataloader_drop_last=%s; set it back", where,
                    drop ? "true" : "false");
    TRY_RETURN(json_get_int(state, where, "step", 0, INT64_MAX, &l->step));
    TRY_RETURN(json_get_int(state, where, "updates", 0, INT64_MAX, &updates));
    TRY_RETURN(json_opt_double(state, where, "loss_scale", &update.loss_scale));
    TRY_RETURN(json_opt_double(state, where, "good_updates", &update.good));
    TRY_RETURN(json_get_int(state, where, "tokens_seen", 0, INT64_MAX, &l->tokens_seen));
    TRY_RETURN(json_get_double(state, where, "loss_sum", &l->loss_sum));
    TRY_RETURN(json_get_double(state, where, "loss_targets", &l->loss_targets));
    TRY_RETURN(json_opt_double(state, where, "best", &l->best));
    TRY_RETURN(json_opt_double(state, where, "last_loss", &l->last_loss));
    TRY_RETURN(json_get_int(state, where, "best_step", -1, INT64_MAX, &l->best_step));
    TRY_RETURN(json_get_int(state, where, "without_better", 0, INT64_MAX, &l->without_better));
    update.updates = (double)updates;
    return optimizer_write_state(l->t.optimizer, &update);
}

/* ---------------------------------------------------------------------------------------------------- start */

static Status no_old_run(const char *output_dir) {
    char *last = NULL;
    TRY_RETURN(checkpoint_last(output_dir, &last));
    if (!last) return TANE_OK;
    Status st = FAIL(
        TANE_EINVAL,
        "%s already holds a run (%s): add --resume to go on with it, or choose another run_name or output_dir",
        output_dir, path_base(last));
    mem_free(last);
    return st;
}

static Status write_recipe(const Loop *l) {
    Status st = TANE_OK;
    char *path = NULL;
    Str yaml = {0};
    TRY(option_write_yaml(l->t.set, &yaml));
    TRY(path_join(&path, l->t.o->output_dir, "recipe.yaml"));
    TRY(file_write_atomic(path, yaml.text, yaml.len));
out:
    mem_free(path);
    str_free(&yaml);
    return st;
}

static Status start_tracking(Loop *l, bool resumed) {
    Status st = TANE_OK;
    const TrainOptions *o = l->t.o;
    char *path = NULL;
    Str yaml = {0};
    TRY(path_join(&path, o->output_dir, "log.txt"));
    TRY(fw_append(&l->log, path));
    log_text(l, "tane %s, %s, step %" PRId64 " of %" PRId64, TANE_VERSION, o->run_name, l->step, l->t.plan.total_steps);
    mem_free(path);
    path = NULL;
    TRY(path_join(&path, o->output_dir, "metrics.jsonl"));
    TRY(metrics_open(&l->metrics, path, resumed ? l->step : -1));
    TRY(option_write_yaml(l->t.set, &yaml));
    TRY(runs_open(&l->runs, o->db, true));
    Status found = resumed ? run_resume(l->runs, o->output_dir, l->step, &l->run_id) : TANE_ENOTFOUND;
    if (found != TANE_OK && found != TANE_ENOTFOUND) TRY(found);
    if (found != TANE_OK) /* new, or the database is */
        TRY(run_start(l->runs, &(RunStart){o->run_name, yaml.text, o->output_dir, o->model}, &l->run_id));
out:
    mem_free(path);
    str_free(&yaml);
    return st;
}

/* Fresh weights, those of `model`, or a checkpoint's with everything else it holds. */
static Status start(Loop *l) {
    Status st = TANE_OK;
    const TrainOptions *o = l->t.o;
    char *from = NULL;
    json_t *state = NULL;
    TRY(dir_make(o->output_dir));
    TRY(dir_lock(o->output_dir, &l->lock)); /* two runs in one folder would write over each other */
    if (o->resume_from_checkpoint) {
        TRY(mem_strdup(&from, o->resume_from_checkpoint));
    } else if (o->resume) {
        TRY(checkpoint_last(o->output_dir, &from));
        if (!from)
            tell(l, TANE_WARNING, "%s holds no checkpoint to resume from: starting at the beginning", o->output_dir);
    } else {
        TRY(no_old_run(o->output_dir));
    }
    if (from) {
        TRY(checkpoint_load(from, l->t.optimizer, &state));
        TRY(read_state(l, state, from));
    } else if (!o->model) {
        ParamArray weights[2];
        int n = optimizer_weights(l->t.optimizer, weights);
        TRY(params_init(&l->t.model->params, (uint64_t)o->seed, weights, n));
    }
    l->t.plan.first_step = l->submitted = l->step;
    TRY(write_recipe(l));
    TRY(start_tracking(l, from != NULL));
out:
    json_decref(state);
    mem_free(from);
    return st;
}

/* ----------------------------------------------------------------------------------------------------- step */

/* Says where a value that is no number came from: a row, or a step's first and last one. */
static void find_place(const Loop *l, const StepResult *r, char *place, size_t size) {
    const Layout *layout = l->t.layout;
    const Batch *first = &r->batches[0], *last = &r->batches[r->input.used - 1];
    DatasetRow a, b;
    int64_t bad = r->bad_row >= 0 ? r->batches[r->bad_batch].units[r->bad_row] : -1;
    if (bad >= 0) {
        layout_document(layout, bad, 0, &a);
        layout_document(layout, bad, layout_documents(layout, bad) - 1, &b);
        if (layout_documents(layout, bad) == 1) snprintf(place, size, " at the row from %s:%" PRId64, a.source, a.line);
        else
            snprintf(place, size, " in the row of the batch that holds %s:%" PRId64 " to %s:%" PRId64, a.source, a.line,
                     b.source, b.line);
        return;
    }
    int64_t end = last->rows - 1;
    while (end > 0 && last->units[end] < 0) end--;
    layout_document(layout, first->units[0], 0, &a);
    layout_document(layout, last->units[end], 0, &b);
    snprintf(place, size, " in a batch that begins with %s:%" PRId64 " and ends with %s:%" PRId64, a.source, a.line,
             b.source, b.line);
}

/* A step that was not applied. With fp16 the loss scale was too high: it has been halved, and that is all. */
static Status not_finite(Loop *l, const StepResult *r) {
    const TrainOptions *o = l->t.o;
    const char *what = r->bad_row >= 0 ? "loss" : "gradient";
    char place[512];
    if (l->t.model->dtype == DTYPE_F16 && r->bad_row < 0 && ++l->skipped_in_a_row < MOST_SKIPPED) return TANE_OK;
    find_place(l, r, place, sizeof place);
    if (!strcmp(o->on_nan, "skip") && ++l->skipped_in_a_row < MOST_SKIPPED) {
        tell(l, TANE_WARNING, "step %" PRId64 ": the %s is not finite%s: skipped, nothing was changed", l->step, what,
             place);
        return TANE_OK;
    }
    return FAIL(
        TANE_ENUMERIC,
        "step %" PRId64
        ": the %s is not finite%s%s; the step was not applied, what is saved is intact. A smaller learning_rate, more "
        "warmup_steps or compute_dtype=fp32 may help; on_nan=skip goes on without such steps",
        l->step, what, place, l->skipped_in_a_row >= MOST_SKIPPED ? " (100 steps in a row)" : "");
}

/* Fills the next step's batches and queues it. */
static Status submit_step(Loop *l) {
    const TrainOptions *o = l->t.o;
    Trainer *t = &l->t;
    int64_t accumulation = o->gradient_accumulation_steps, rows = o->per_device_train_batch_size;
    StepInput input = {.step = l->submitted,
                       .seed = (uint64_t)o->seed,
                       .learning_rate = schedule_lr(o, l->submitted, t->plan.total_steps)};
    int64_t epoch = l->submitted / t->plan.steps_per_epoch,
            first = l->submitted % t->plan.steps_per_epoch * accumulation * rows;
    Batch *batches;
    double before = clock_seconds();
    stepper_batches(t->stepper, &batches);
    for (int64_t i = 0; i < accumulation && first + i * rows < t->plan.rows; i++, input.used++)
        batch_fill(&batches[i], t->layout, (uint64_t)o->seed, epoch, first + i * rows, t->pad);
    l->loading += clock_seconds() - before;
    TRY_RETURN(stepper_submit(t->stepper, &input));
    l->submitted++;
    return TANE_OK;
}

/* Of this machine's measured matrix products; NaN when nobody asked for progress. */
static double limit_share(const Loop *l, double tokens_per_second) {
    const tane_plan *plan = &l->t.plan;
    return plan->limit_flops > 0 ? tokens_per_second * model_train_flops(l->t.model, plan->width) / plan->limit_flops
                                 : NAN;
}

static void report_progress(Loop *l, tane_progress *p, double step_seconds, int64_t step_tokens) {
    const tane_plan *plan = &l->t.plan;
    /* A slow average, so that the estimate does not jump. */
    double weight = l->seconds_per_step == 0 ? 1.0 : 0.05;
    l->seconds_per_step += weight * (step_seconds - l->seconds_per_step);
    p->step = l->step;
    p->total_steps = plan->total_steps;
    p->epoch = (double)l->step / (double)plan->steps_per_epoch;
    p->tokens_per_second = step_seconds > 0 ? (double)step_tokens / step_seconds : 0;
    p->seconds_left = l->seconds_per_step * (double)(plan->total_steps - l->step);
    p->limit_share = limit_share(l, p->tokens_per_second);
    p->best = l->best;
    if (l->t.cb->progress) l->t.cb->progress(l->t.cb->user, p);
}

/* The result of the oldest step in flight. */
static Status take_step(Loop *l, tane_progress *progress) {
    StepResult r;
    TRY_RETURN(stepper_take(l->t.stepper, &r));
    l->step = r.input.step + 1;
    progress->loss = r.loss / (double)r.targets;
    progress->learning_rate = r.input.learning_rate;
    progress->grad_norm = r.norm;
    if (r.applied) {
        l->skipped_in_a_row = 0;
        l->tokens_seen += r.real;
        l->process_tokens += r.real;
        l->loss_sum += r.loss;
        l->loss_targets += (double)r.targets;
    } else {
        TRY_RETURN(not_finite(l, &r));
    }
    report_progress(l, progress, r.seconds, r.applied ? r.real : 0);
    char text[512];
    if (watch_step(&l->watch, progress->loss, progress->seconds_left, text, sizeof text))
        tell(l, TANE_WARNING, "%s", text);
    return TANE_OK;
}

/* A line of metrics: the loss of all tokens since the last one. */
static Status log_line(Loop *l, const tane_progress *p) {
    double now = clock_seconds(), seconds = now - l->log_time;
    int64_t tokens = l->process_tokens - l->log_tokens;
    l->last_loss = l->loss_targets > 0 ? l->loss_sum / l->loss_targets : NAN;
    l->loss_sum = l->loss_targets = 0;
    l->log_time = now;
    l->log_tokens = l->process_tokens;
    const Metric values[] = {{"epoch", p->epoch},
                             {"loss", l->last_loss},
                             {"learning_rate", p->learning_rate},
                             {"grad_norm", p->grad_norm},
                             {"tokens_per_second", seconds > 0 ? (double)tokens / seconds : 0},
                             {"tokens_seen", (double)l->tokens_seen},
                             {"loader_share", seconds > 0 ? l->loading / seconds : 0}};
    l->loading = 0;
    log_text(l, "step %" PRId64 ": loss %.4f, learning rate %.3g, gradient norm %.3g", l->step, l->last_loss,
             p->learning_rate, p->grad_norm);
    return metrics_write(l->metrics, l->step, values, sizeof values / sizeof *values);
}

/* ----------------------------------------------------------------------------------------------- evaluation */

static Status eval_loss(Loop *l, double *out) {
    Trainer *t = &l->t;
    double loss = 0;
    int64_t targets = 0;
    for (int64_t first = 0; first < layout_ordered(t->eval_layout); first += t->o->per_device_eval_batch_size) {
        double sum;
        TapeRun run = {0};
        batch_fill_ordered(&t->eval_batch, t->eval_layout, first, t->pad);
        TRY_RETURN(batch_tape_run(&t->eval_tape, &t->eval_batch, &run, &sum));
        loss += sum;
        targets += t->eval_batch.targets;
    }
    *out = loss / (double)targets;
    return TANE_OK;
}

/* Is `value` better than the best so far by more than the threshold? */
static bool is_better(const Loop *l, double value) {
    const TrainOptions *o = l->t.o;
    if (isnan(value)) return false;
    if (isnan(l->best)) return true;
    return train_options_greater_is_better(o) ? value > l->best + o->early_stopping_threshold
                                              : value < l->best - o->early_stopping_threshold;
}

static Status evaluate(Loop *l, bool *best) {
    const TrainOptions *o = l->t.o;
    tane_evaluation e = {.step = l->step, .loss = NAN, .exact_match = NAN};
    if (l->t.eval) TRY_RETURN(eval_loss(l, &e.loss));
    if (o->eval_exact_match_files.n) TRY_RETURN(trainer_exact_match(&l->t, &e.exact_match));
    double value = !strcmp(o->metric_for_best_model, "eval_loss")    ? e.loss
                   : !strcmp(o->metric_for_best_model, "train_loss") ? l->last_loss
                                                                     : e.exact_match;
    e.is_best = is_better(l, value);
    if (e.is_best) {
        l->best = value;
        l->best_step = l->step;
        l->without_better = 0;
    } else {
        l->without_better++;
    }
    *best = e.is_best;
    l->last_eval = e.loss;
    l->last_match = e.exact_match;
    l->stop_early = o->early_stopping_patience && l->without_better >= o->early_stopping_patience;
    l->target_reached = o->target_exact_match > 0 && e.exact_match >= o->target_exact_match;
    Metric values[2];
    size_t n = 0;
    if (!isnan(e.loss)) values[n++] = (Metric){"eval_loss", e.loss};
    if (!isnan(e.exact_match)) values[n++] = (Metric){"eval_exact_match", e.exact_match};
    TRY_RETURN(metrics_write(l->metrics, l->step, values, n));
    for (size_t i = 0; i < n; i++) TRY_RETURN(run_score(l->runs, l->run_id, l->step, values[i].name, values[i].value));
    const char *best_text = e.is_best ? ", the best so far" : "";
    if (!isnan(e.loss)) log_text(l, "evaluation at step %" PRId64 ": loss %.4f%s", l->step, e.loss, best_text);
    if (!isnan(e.exact_match))
        log_text(l, "evaluation at step %" PRId64 ": exact match %.4f%s", l->step, e.exact_match, best_text);
    if (l->t.cb->evaluation) l->t.cb->evaluation(l->t.cb->user, &e);
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------------ save */

static void on_removed(void *user, int64_t step) {
    Loop *l = user;
    if (run_checkpoint_removed(l->runs, l->run_id, step) != TANE_OK) tell(l, TANE_WARNING, "%s", err_message());
}

static Status save(Loop *l, bool best) {
    Status st = TANE_OK;
    const TrainOptions *o = l->t.o;
    OptimizerState update;
    char *path = NULL;
    TRY_RETURN(optimizer_read_state(l->t.optimizer, &update));
    json_t *state = state_json(l, &update);
    if (!state) return FAIL(TANE_ENOMEM, "out of memory while saving step %" PRId64, l->step);
    TRY(checkpoint_path(&path, o->output_dir, l->step));
    TRY(checkpoint_save(&(CheckpointSave){.run_dir = o->output_dir,
                                          .step = l->step,
                                          .optimizer = l->t.optimizer,
                                          .tokenizer = l->t.tokenizer,
                                          .chat_template = o->chat_template ? chat_template_source(l->t.chat) : NULL,
                                          .state = state,
                                          .best = best,
                                          .keep = o->save_total_limit},
                        on_removed, l));
    snprintf(l->folder, sizeof l->folder, "%s", path);
    TRY(run_checkpoint(l->runs, l->run_id, &(RunCheckpoint){l->step, path, best, true, l->last_eval}));
    log_text(l, "saved %s%s", path, best ? ", the best so far" : "");
    if (l->t.cb->saved) l->t.cb->saved(l->t.cb->user, path, l->step, best);
out:
    json_decref(state);
    mem_free(path);
    return st;
}

/* ------------------------------------------------------------------------------------------------------ loop */

/* After the last step submitted, which is the last one taken too wherever this matters. */
static bool due(const char *strategy, int64_t every, const Loop *l) {
    if (!strcmp(strategy, "steps")) return l->submitted % every == 0;
    return !strcmp(strategy, "epoch") && l->submitted % l->t.plan.steps_per_epoch == 0;
}

/* After step l->submitted: does anything happen that needs its result, or the weights as they are then? */
static bool must_settle(const Loop *l) {
    const TrainOptions *o = l->t.o;
    int64_t eval_every = o->eval_steps ? o->eval_steps : o->logging_steps;
    return l->submitted == l->t.plan.total_steps || l->submitted % o->logging_steps == 0 ||
           due(o->eval_strategy, eval_every, l) || due(o->save_strategy, o->save_steps, l) ||
           (l->t.cb->stop && l->t.cb->stop(l->t.cb->user));
}

static Status loop(Loop *l) {
    const TrainOptions *o = l->t.o;
    int64_t total = l->t.plan.total_steps, eval_every = o->eval_steps ? o->eval_steps : o->logging_steps;
    tane_progress progress = {.best = l->best};
    while (l->step < total && !l->stop_early && !l->target_reached) {
        TRY_RETURN(submit_step(l));
        bool settle = must_settle(l);
        while (stepper_in_flight(l->t.stepper) >= (settle ? 1 : stepper_depth(l->t.stepper)))
            TRY_RETURN(take_step(l, &progress));
        if (!settle) continue;
        bool last = l->step == total, best = false, evaluated = false;
        if (l->step % o->logging_steps == 0 || last) TRY_RETURN(log_line(l, &progress));
        if (strcmp(o->eval_strategy, "no") && (last || due(o->eval_strategy, eval_every, l))) {
            TRY_RETURN(evaluate(l, &best));
            evaluated = true;
        }
        bool stop = l->t.cb->stop && l->t.cb->stop(l->t.cb->user);
        bool end = last || stop || l->stop_early || l->target_reached;
        if (end || (evaluated && best && strcmp(o->save_strategy, "no")) || due(o->save_strategy, o->save_steps, l))
            TRY_RETURN(save(l, best));
        if (stop && !last)
            return FAIL(TANE_ECANCELED,
                        "stopped at step %" PRId64 " of %" PRId64 "; it is saved in %s. Add --resume to go on", l->step,
                        total, l->folder);
    }
    return TANE_OK;
}

static void start_watch(Loop *l) {
    enum { USUAL_PATIENCE = 300 };
    const TrainOptions *o = l->t.o;
    int64_t warmup = schedule_warmup(o, l->t.plan.total_steps);
    l->watch = (Watch){.fresh = !o->model && l->step == 0,
                       .may_be_slow = l->t.device->host && strcmp(o->device, "cpu") != 0,
                       .patience = 2 * warmup > USUAL_PATIENCE ? 2 * warmup : USUAL_PATIENCE,
                       .learning_rate = o->learning_rate};
}

static void fill_result(const Loop *l, tane_run_result *r) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    *r = (tane_run_result){.step = l->step,
                           .train_loss = l->last_loss,
                           .eval_loss = l->last_eval,
                           .exact_match = l->last_match,
                           .seconds = clock_seconds() - l->start,
                           .peak_memory = (size_t)usage.ru_maxrss * 1024};
    r->tokens_per_second = r->seconds > 0 ? (double)l->process_tokens / r->seconds : 0;
    r->limit_share = limit_share(l, r->tokens_per_second);
    memcpy(r->folder, l->folder, sizeof r->folder);
}

Status train_run(OptionSet *set, const char *recipe_path, const tane_run_callbacks *callbacks,
                 tane_run_result *result) {
    static const tane_run_callbacks silent;
    Status st = TANE_OK;
    Loop l = {.lock = -1, .best = NAN, .best_step = -1, .last_loss = NAN, .last_eval = NAN, .last_match = NAN};
    *result = (tane_run_result){0};
    TRY_RETURN(trainer_prepare(&l.t, set, recipe_path, callbacks ? callbacks : &silent));
    TRY(trainer_allocate(&l.t));
    TRY(start(&l));
    if (l.t.cb->plan) l.t.cb->plan(l.t.cb->user, &l.t.plan);
    l.start = l.log_time = clock_seconds();
    start_watch(&l);
    if (l.step >= l.t.plan.total_steps)
        tell(&l, TANE_INFO, "step %" PRId64 " of %" PRId64 ": this run is complete", l.step, l.t.plan.total_steps);
    TRY(loop(&l));
    if (!isnan(l.last_loss)) TRY(run_score(l.runs, l.run_id, l.step, "train_loss", l.last_loss));
    fill_result(&l, result);
out:;
    ErrorCopy error = {0};
    if (st != TANE_OK) err_save(&error);
    if (l.run_id)
        (void)run_finish(l.runs, l.run_id, st == TANE_OK ? "done" : st == TANE_ECANCELED ? "stopped" : "failed");
    if (l.metrics && metrics_close(&l.metrics) != TANE_OK && st == TANE_OK) {
        st = err_code();
        err_save(&error);
    }
    if (st != TANE_OK) log_text(&l, "%s", error.text);
    if (l.log) (void)fw_close(&l.log, NULL, NULL);
    runs_close(l.runs);
    dir_unlock(&l.lock);
    trainer_release(&l.t);
    return st == TANE_OK ? TANE_OK : err_restore(&error);
}

Status train_plan(OptionSet *set, const char *recipe_path, tane_plan *plan) {
    static const tane_run_callbacks silent;
    Trainer t;
    TRY_RETURN(trainer_prepare(&t, set, recipe_path, &silent));
    *plan = t.plan;
    trainer_release(&t);
    return TANE_OK;
}
