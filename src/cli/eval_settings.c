/* What the results of `tane eval` depend on, so that a results file is only gone on with by the same job. */
#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "cli/eval_config.h"

/* Weights, configuration, tokenizer and template: not what else may lie in the folder. */
static bool is_part_of_model(const char *name) {
    static const char *const endings[] = {".safetensors", ".model", ".tiktoken", ".jinja"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t length = strlen(endings[i]);
        if (n > length && strcmp(name + n - length, endings[i]) == 0) return strncmp(name, "optimizer.", 10) != 0;
    }
    return !strcmp(name, "config.json") || !strcmp(name, "generation_config.json") || !strncmp(name, "tokenizer", 9);
}

/* How many files, how large, when changed last. */
static Status folder_stamp(const char *folder, Str *out) {
    Status st = TANE_OK;
    DirList list = {0};
    char *path = NULL;
    uint64_t bytes = 0, size;
    int64_t latest = 0, modified;
    int count = 0;
    TRY(dir_list(folder, &list));
    for (size_t i = 0; i < list.n; i++) {
        if (!is_part_of_model(list.names[i])) continue;
        mem_free(path);
        path = NULL;
        TRY(path_join(&path, folder, list.names[i]));
        TRY(file_size(path, &size));
        TRY(file_modified(path, &modified));
        bytes += size;
        if (modified > latest) latest = modified;
        count++;
    }
    TRY(str_printf(out, "%s: %d files, %" PRIu64 " bytes, of %" PRId64 ".%09" PRId64, folder, count, bytes,
                   latest / 1000000000, latest % 1000000000));
out:
    mem_free(path);
    dir_list_free(&list);
    return st;
}

static Status stamp(const char *path, Str *out) {
    return dir_exists(path) ? folder_stamp(path, out) : results_file_stamp(path, out);
}

static Status set_text(json_t *settings, const char *key, const char *text) {
    if (!text) return TANE_OK;
    json_t *value = json_string(text);
    if (value && !json_object_set_new(settings, key, value)) return TANE_OK;
    return FAIL(value ? TANE_ENOMEM : TANE_EINVAL, "%s: \"%s\" is not UTF-8 text", key, text);
}

static Status set_stamps(const Evaluation *e, json_t *settings, Str *text) {
    const EvalConfig *c = e->config;
    text->len = 0;
    TRY_RETURN(stamp(e->open.folder, text));
    TRY_RETURN(set_text(settings, "model", text->text));
    text->len = 0;
    for (size_t i = 0; i < e->n_files; i++) {
        if (i) TRY_RETURN(str_add(text, ", ", 2));
        TRY_RETURN(stamp(e->files[i], text));
    }
    TRY_RETURN(set_text(settings, "data", text->text));
    const char *const others[][2] = {{"tokenizer", c->tokenizer}, {"chat_template", c->rows.chat_template}};
    for (int i = 0; i < 2; i++) {
        if (!others[i][1]) continue;
        text->len = 0;
        TRY_RETURN(stamp(others[i][1], text));
        TRY_RETURN(set_text(settings, others[i][0], text->text));
    }
    return TANE_OK;
}

static Status set_options(const Evaluation *e, json_t *settings) {
    const EvalConfig *c = e->config;
    const DataOptions *d = &c->rows;
    const struct {
        const char *key, *text;
    } texts[] = {{"metric", metric_name(e->metric)},
                 {"compute_dtype", dtype_name(e->open.model->dtype)},
                 {"format", d->format},
                 {"columns", d->columns},
                 {"text_separator", d->text_separator},
                 {"system_prompt", d->system_prompt},
                 {"prompt_suffix", d->prompt_suffix},
                 {"prompt_separator", d->prompt_separator}};
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {{"limit", c->limit},
                   {"add_bos", d->add_bos},
                   {"chat_prompts", d->chat_prompts},
                   {"max_new_tokens", c->max_new_tokens},
                   {"context", c->context},
                   {"stride", c->stride}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        TRY_RETURN(set_text(settings, texts[i].key, texts[i].text));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_object_set_new(settings, numbers[i].key, json_integer(numbers[i].value)))
            return FAIL(TANE_ENOMEM, "out of memory for the settings");
    return TANE_OK;
}

Status eval_settings(const Evaluation *e, json_t **out) {
    Status st = TANE_OK;
    Str text = {0};
    json_t *settings = json_object();
    *out = NULL;
    if (!settings) TRY(FAIL(TANE_ENOMEM, "out of memory for the settings"));
    TRY(set_stamps(e, settings, &text));
    TRY(set_options(e, settings));
    *out = settings;
    settings = NULL;
out:
    json_decref(settings);
    str_free(&text);
    return st;
}
