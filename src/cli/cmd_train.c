/* `tane train`: a recipe and its overrides to a run, with live progress. */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "tane_internal.h"
#include "train/options.h"

/* What the callbacks need between calls. */
typedef struct Display {
    bool live;     /* stderr is a terminal: one line, rewritten */
    bool on_line;  /* that line is there now */
    double shown;  /* when it was last written */
    int64_t every; /* without a terminal: plain lines every so many steps */
} Display;

static volatile sig_atomic_t interrupted;

static void on_signal(int signal) {
    (void)signal;
    interrupted = 1;
}

static void clear_line(Display *d) {
    if (d->on_line) fputs("\r\033[K", stderr);
    d->on_line = false;
}

static const char *duration(double seconds, char out[32]) {
    long s = (long)(seconds + 0.5);
    if (s < 60) snprintf(out, 32, "%lds", s);
    else if (s < 3600) snprintf(out, 32, "%ldm %02lds", s / 60, s % 60);
    else snprintf(out, 32, "%ldh %02ldm", s / 3600, s / 60 % 60);
    return out;
}

static const char *amount(double n, char out[32]) {
    if (n >= 1e9) snprintf(out, 32, "%.2fG", n / 1e9);
    else if (n >= 1e6) snprintf(out, 32, "%.2fM", n / 1e6);
    else if (n >= 1e4) snprintf(out, 32, "%.0fk", n / 1e3);
    else snprintf(out, 32, "%.0f", n);
    return out;
}

/* Bytes in the unit of the largest of them. */
static void show_memory(const tane_plan *p) {
    bool large = p->total >= (size_t)10 << 30;
    double unit = large ? 1073741824.0 : 1048576.0;
    const struct {
        const char *name;
        size_t bytes;
    } parts[] = {{"weights", p->weights},
                 {"gradients", p->gradients},
                 {"optimizer", p->optimizer},
                 {"activations", p->activations},
                 {"scratch", p->scratch},
                 {"data", p->data},
                 {strcmp(p->device, "cpu") ? "libraries" : "program", p->process}};
    fprintf(stderr, "memory %.*f %s on %s:", large ? 2 : 0, (double)p->total / unit, large ? "GiB" : "MiB", p->device);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        fprintf(stderr, "%s %s %.*f", i ? "," : "", parts[i].name, large ? 2 : 0, (double)parts[i].bytes / unit);
    if (p->available) fprintf(stderr, "; %.*f free", large ? 2 : 0, (double)p->available / unit);
    fputc('\n', stderr);
}

static void show_plan(const tane_plan *p) {
    char params[32], tokens[32];
    fprintf(stderr, "%s, %s parameters, %s by %s, %d threads\non %s, %s\n", p->model_type,
            amount((double)p->parameters, params), p->compute_dtype, p->backend, p->threads, p->device,
            p->device_model);
    fprintf(stderr, "%" PRId64 " rows, %s tokens; %" PRId64 " steps an epoch, %" PRId64 " in all%s\n", p->rows,
            amount((double)p->tokens, tokens), p->steps_per_epoch, p->total_steps,
            p->first_step ? ", going on from a checkpoint" : "");
    show_memory(p);
}

static void on_plan(void *user, const tane_plan *p) {
    (void)user;
    show_plan(p);
    fprintf(stderr, "%s\n", p->output_dir);
}

static void on_progress(void *user, const tane_progress *p) {
    Display *d = user;
    char left[32], rate[32];
    double now = clock_seconds();
    bool last = p->step == p->total_steps;
    if (d->live ? now - d->shown < 0.2 && !last : p->step % d->every != 0 && !last) return;
    d->shown = now;
    clear_line(d);
    fprintf(stderr,
            "step %" PRId64 "/%" PRId64
            "  epoch %.2f  loss %.4f  lr %.2e  norm %.2f  %s tokens/s  %.0f%% of limit  %s left",
            p->step, p->total_steps, p->epoch, p->loss, p->learning_rate, p->grad_norm,
            amount(p->tokens_per_second, rate), 100 * p->limit_share, duration(p->seconds_left, left));
    if (d->live && !last) {
        fflush(stderr);
        d->on_line = true;
    } else {
        fputc('\n', stderr);
    }
}

static void on_evaluation(void *user, const tane_evaluation *e) {
    clear_line(user);
    fprintf(stderr, "evaluation at step %" PRId64 ":", e->step);
    if (!isnan(e->loss)) fprintf(stderr, "  loss %.4f", e->loss);
    if (!isnan(e->exact_match)) fprintf(stderr, "  exact match %.2f%%", 100 * e->exact_match);
    fputs(e->is_best ? "  (best so far)\n" : "\n", stderr);
}

static void on_saved(void *user, const char *folder, int64_t step, bool best) {
    (void)step;
    clear_line(user);
    fprintf(stderr, "saved %s%s\n", folder, best ? " (best)" : "");
}

static void on_message(void *user, tane_level level, const char *text) {
    clear_line(user);
    fprintf(stderr, "%s%s\n", level == TANE_WARNING ? "warning: " : "", text);
}

static bool on_stop(void *user) {
    (void)user;
    return interrupted;
}

static Status train(tane_run *run, const TrainOptions *o, bool plan_only, bool json) {
    if (plan_only) {
        tane_plan plan;
        TRY_RETURN(tane_run_plan(run, &plan));
        show_plan(&plan);
        return TANE_OK;
    }
    Display display = {.live = cli_is_terminal(stderr), .every = o->logging_steps};
    tane_run_callbacks callbacks = {&display, on_plan, on_progress, on_evaluation, on_saved, on_message, on_stop};
    tane_run_result r;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND}; /* a second Ctrl-C ends it at once */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    Status st = tane_run_train(run, &callbacks, &r);
    clear_line(&display);
    if (st != TANE_OK) return st;
    char time[32], rate[32];
    fprintf(stderr,
            "done: %" PRId64 " steps in %s, %s tokens/s (%.0f%% of this machine's limit), peak memory %.0f MiB\n",
            r.step, duration(r.seconds, time), amount(r.tokens_per_second, rate), 100 * r.limit_share,
            (double)r.peak_memory / 1048576.0);
    if (json)
        printf("{\"folder\": \"%s\", \"step\": %" PRId64
               ", \"seconds\": %.3f, \"tokens_per_second\": %.1f, \"train_loss\": %.6g, "
               "\"limit_share\": %.4f, \"peak_memory\": %zu}\n",
               r.folder, r.step, r.seconds, r.tokens_per_second, isnan(r.train_loss) ? 0 : r.train_loss, r.limit_share,
               r.peak_memory);
    else printf("%s\n", r.folder);
    return TANE_OK;
}

/* --plan and --json are not options of a run: they do not belong in a recipe. */
static bool take_flag(int *argc, char **argv, const char *flag) {
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], flag)) continue;
        memmove(argv + i, argv + i + 1, (size_t)(*argc - i - 1) * sizeof *argv);
        --*argc;
        return true;
    }
    return false;
}

static Status run(const Command *self, int argc, char **argv) {
    tane_run *job = NULL;
    StringList words;
    bool plan = take_flag(&argc, argv, "--plan"), json = take_flag(&argc, argv, "--json");
    Status st = TANE_OK;
    const char *recipe = argc > 0 && argv[0][0] != '-' && !strchr(argv[0], '=') ? argv[0] : NULL;
    TRY(tane_run_open(&job, recipe));
    OptionSet *set = tane_run_options(job);
    const TrainOptions *config = set->config;
    TRY(option_parse_args(set, argc - (recipe != NULL), argv + (recipe != NULL), &words));
    if (words.n) {
        st = cli_usage(self, "\"%s\": a recipe comes first, then key=value words and --flags", words.items[0]);
        goto out;
    }
    if (!config->train_files.n) {
        st = cli_usage(self, "no recipe and no train_files: nothing to train on");
        goto out;
    }
    TRY(train(job, config, plan, json));
out:
    tane_run_close(job);
    return st;
}

const Command cmd_train = {
    .name = "train",
    .summary = "train a model, from scratch or from a model folder",
    .usage = "tane train RECIPE.yaml [key=value ...]",
    .examples = "  tane train recipes/math/quickstart.yaml\n"
                "  tane train recipes/math/quickstart.yaml learning_rate=1e-3 num_train_epochs=5 run_name=faster\n"
                "  tane train recipes/math/quickstart.yaml --resume\n"
                "  tane train recipes/math/seed.yaml --plan        (memory and steps; trains nothing)\n"
                "  tane train --train-files my.jsonl --model runs/quickstart/best --learning-rate 1e-4\n",
    .options = &train_options,
    .details = "Ctrl-C saves and ends; --resume goes on exactly where it was. --json prints the result as JSON.\n",
    .run = run,
};
