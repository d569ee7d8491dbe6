/* The appender of metrics.jsonl and its cut at the step a run goes on from. */
#include "track/metrics.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_FILE = 1 << 30 };

struct Metrics {
    FileWriter *file;
};

/* ---- going on ---- */

static Status step_of(const char *where, const char *line, size_t n, int64_t *step) {
    json_t *object = NULL;
    Status st = json_read_text(where, line, n, &object);
    if (st == TANE_OK) st = json_get_int(object, where, "step", 0, INT64_MAX, step);
    json_decref(object);
    return st;
}

/* Lines up to `last`, in their order. The last line may have been cut by whatever ended the run; no other may. */
static Status keep_lines(const char *path, const char *text, size_t n, int64_t last, Str *kept) {
    Status st = TANE_OK;
    Str where = {0};
    size_t number = 0;
    for (const char *line = text, *end = text + n; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        if (!newline) break;
        int64_t step = -1;
        where.len = 0;
        TRY(str_printf(&where, "%s:%zu", path, ++number));
        Status parsed = step_of(where.text, line, (size_t)(newline - line), &step);
        if (parsed == TANE_ENOMEM) TRY(parsed);
        if (parsed != TANE_OK && newline + 1 < end)
            TRY(FAIL(TANE_EFORMAT, "%s: not a line of metrics; remove it, or move the file away", where.text));
        if (parsed == TANE_OK && step <= last) TRY(str_add(kept, line, (size_t)(newline + 1 - line)));
        line = newline + 1;
    }
    err_clear();
out:
    str_free(&where);
    return st;
}

static Status cut_behind(const char *path, int64_t last) {
    Status st = TANE_OK;
    char *text = NULL;
    size_t n = 0;
    Str kept = {0};
    if (!file_exists(path)) return TANE_OK;
    TRY(file_read(path, MAX_FILE, &text, &n));
    TRY(keep_lines(path, text, n, last, &kept));
    if (kept.len != n) TRY(file_write_atomic(path, kept.len ? kept.text : "", kept.len));
out:
    str_free(&kept);
    mem_free(text);
    return st;
}

/* ---- writing ---- */

Status metrics_open(Metrics **out, const char *path, int64_t from_step) {
    Status st = TANE_OK;
    Metrics *m = NULL;
    *out = NULL;
    TRY(MEM_NEW(&m));
    if (from_step >= 0) TRY(cut_behind(path, from_step));
    TRY(from_step >= 0 ? fw_append(&m->file, path) : fw_open(&m->file, path));
    *out = m;
    return TANE_OK;
out:
    mem_free(m);
    return st;
}

static bool is_plain(const char *name) {
    return *name && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == strlen(name);
}

Status metrics_write(Metrics *m, int64_t step, const Metric *values, size_t n) {
    Str line = {0};
    Status st = TANE_OK;
    TRY(str_printf(&line, "{\"step\": %lld", (long long)step));
    for (size_t i = 0; i < n; i++) {
        if (!is_plain(values[i].name)) TRY(FAIL(TANE_EINTERNAL, "\"%s\" is no name for a metric", values[i].name));
        if (isfinite(values[i].value)) TRY(str_printf(&line, ", \"%s\": %.12g", values[i].name, values[i].value));
        else TRY(str_printf(&line, ", \"%s\": null", values[i].name));
    }
    TRY(str_printf(&line, "}\n"));
    TRY(fw_write(m->file, line.text, line.len));
    TRY(fw_flush(m->file));
out:
    str_free(&line);
    return st;
}

Status metrics_close(Metrics **metrics) {
    Metrics *m = *metrics;
    *metrics = NULL;
    if (!m) return TANE_OK;
    Status st = fw_close(&m->file, NULL, NULL);
    mem_free(m);
    return st;
}
