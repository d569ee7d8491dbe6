/* `tane convert`: a model from one form of files to another. */
#include <omp.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "device/cpuinfo.h"
#include "infer/open.h"
#include "model/convert.h"

typedef struct ConvertConfig {
    const char *type;
    bool force, tokenizer;
    int64_t threads;
} ConvertConfig;

#define ROW(field, type, fallback, choices, lo, hi, group, help)                                                       \
    { #field, OPTION_##type, offsetof(ConvertConfig, field), fallback, choices, lo, hi, group, help }

static const Option rows[] = {
    ROW(type, CHOICE, NULL, "f32|f16|bf16|q8_0|q4_0|q4_k", 0, 0, "Result",
        "type of matrices; default: as in IN (quantized weights become bf16 in a folder)"),
    ROW(tokenizer, BOOL, "true", NULL, 0, 0, "Result", "with the tokenizer and the chat template"),
    ROW(force, BOOL, "false", NULL, 0, 0, "Result", "replace OUT, if it is a file or the folder of a model"),
    ROW(threads, INT, "0", NULL, 0, 4096, "Machine", "threads to use; 0: all cores this process may use"),
};
#undef ROW
static const OptionTable table = {"tane convert", rows, sizeof rows / sizeof *rows};

/* ---- progress ---- */

typedef struct Progress {
    bool live, shown;
    double last;
} Progress;

static void on_progress(void *user, uint64_t done, uint64_t total) {
    Progress *p = user;
    double now = clock_seconds();
    if (!p->live || (now - p->last < 0.2 && done < total)) return;
    p->last = now;
    p->shown = true;
    fprintf(stderr, "\r%.1f of %.1f MiB, %.0f%%", (double)done / 0x1p20, (double)total / 0x1p20,
            total ? 100.0 * (double)done / (double)total : 100.0);
    fflush(stderr);
}

static void end_line(Progress *p) {
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}

static void on_note(void *user, const char *text) {
    end_line(user);
    fprintf(stderr, "note: %s\n", text);
}

/* ---- the command ---- */

static Status size_of(const char *path, uint64_t *bytes) {
    Status st = TANE_OK;
    DirList list = {0};
    char *file = NULL;
    uint64_t one;
    *bytes = 0;
    if (!dir_exists(path)) return file_size(path, bytes);
    TRY(dir_list(path, &list));
    for (size_t i = 0; i < list.n; i++) {
        TRY(path_join(&file, path, list.names[i]));
        TRY(file_size(file, &one));
        *bytes += one;
        mem_free(file);
        file = NULL;
    }
out:
    mem_free(file);
    dir_list_free(&list);
    return st;
}

static Status convert(const ConvertConfig *c, const char *in, const char *out) {
    Status st = TANE_OK;
    char *path = NULL;
    uint64_t bytes;
    Progress progress = {.live = cli_is_terminal(stderr)};
    ConvertOptions options = {.type = c->type,
                              .force = c->force,
                              .no_tokenizer = !c->tokenizer,
                              .user = &progress,
                              .note = on_note,
                              .progress = on_progress};
    double begin = clock_seconds();
    TRY(model_resolve_path(&path, in));
    TRY(convert_model(path, out, &options));
    TRY(size_of(out, &bytes));
    end_line(&progress);
    fprintf(stderr, "%s: %.1f MiB in %.1f s\n", out, (double)bytes / 0x1p20, clock_seconds() - begin);
out:
    end_line(&progress);
    mem_free(path);
    return st;
}

static Status run(const Command *self, int argc, char **argv) {
    ConvertConfig config;
    OptionSet set;
    StringList words;
    Str out = {0};
    Status st = TANE_OK;
    TRY_RETURN(option_init(&set, self->options, &config));
    TRY(option_parse_args(&set, argc, argv, &words));
    if (words.n != 2) TRY(cli_usage(self, words.n < 2 ? "which model, and where to?" : "one model at a time, please"));
    omp_set_num_threads(config.threads ? (int)config.threads : cpu_info()->cores);
    size_t n = strlen(words.items[1]);
    while (n > 1 && words.items[1][n - 1] == '/') n--;
    TRY(str_printf(&out, "%.*s", (int)n, words.items[1]));
    TRY(convert(&config, words.items[0], out.text));
out:
    str_free(&out);
    option_release(&set);
    return st;
}

const Command cmd_convert = {
    .name = "convert",
    .summary = "a model as a GGUF file, or as a Hugging Face folder",
    .usage = "tane convert IN OUT [options]",
    .examples = "  tane convert runs/story/best story.gguf --type q8_0      for llama.cpp and all that is built on it\n"
                "  tane convert SmolLM2-135M-Instruct.gguf smollm2          for transformers, and to train further\n"
                "  tane convert smollm2 smollm2-f32 --type f32              the same in another type\n",
    .options = &table,
    .details =
        "IN is a model folder, a .gguf file, a run's folder (its best checkpoint, else its last), or the name of a run "
        "in\n"
        "runs/. OUT is a GGUF file where its name ends in .gguf, else a folder. Nothing is at OUT before all of it is\n"
        "there. In GGUF, norms and biases stay F32, and the output layer is never below Q8_0.\n",
    .run = run,
};
