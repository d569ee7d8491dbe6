/* Results files: settings, items, what is there already. */
#include "eval/results.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/jsonl.h"

enum { RESULTS_VERSION = 1 };
static const char version_key[] = "tane_eval";

struct Results {
    char *path;
    FileWriter *writer; /* opened with the first item that is added */
    Str line;
};

/* ---- settings ---- */

Status results_file_stamp(const char *path, Str *out) {
    uint64_t size;
    int64_t modified;
    TRY_RETURN(file_size(path, &size));
    TRY_RETURN(file_modified(path, &modified));
    return str_printf(out, "%s: %" PRIu64 " bytes of %" PRId64 ".%09" PRId64, path, size, modified / 1000000000,
                      modified % 1000000000);
}

static Status write_settings(const Results *r, const json_t *settings) {
    Status st = TANE_OK;
    Str text = {0};
    json_t *line = json_object();
    if (!results_set(line, version_key, json_integer(RESULTS_VERSION)) ||
        json_object_update(line, (json_t *)(uintptr_t)settings))
        TRY(FAIL(TANE_ENOMEM, "%s: out of memory for the settings", r->path));
    TRY(json_write_str(&text, line));
    TRY(str_add(&text, "\n", 1));
    TRY(file_write_atomic(r->path, text.text, text.len));
out:
    json_decref(line);
    str_free(&text);
    return st;
}

static Status differs(const Results *r, const char *key, const json_t *there, const json_t *now) {
    Status st = TANE_OK;
    Str a = {0}, b = {0};
    if (there) TRY(json_write_str(&a, there));
    if (now) TRY(json_write_str(&b, now));
    st = FAIL(TANE_EINVAL,
              "%s was begun with other settings: \"%s\" was %.300s and is %.300s now; finish it with the same, or "
              "write to another file",
              r->path, key, there ? a.text : "not set", now ? b.text : "not set");
out:
    str_free(&a);
    str_free(&b);
    return st;
}

static Status compare_settings(const Results *r, json_t *there, json_t *now) {
    const char *key;
    json_t *value;
    int64_t version;
    if (!json_object_get(there, version_key))
        return FAIL(TANE_EINVAL,
                    "%s is no results file of `tane eval`: its first line has no \"%s\"; write to another file",
                    r->path, version_key);
    TRY_RETURN(json_get_int(there, r->path, version_key, 1, RESULTS_VERSION, &version));
    json_object_foreach(now, key, value) {
        const json_t *other = json_object_get(there, key);
        if (!other || !json_equal(other, value)) return differs(r, key, other, value);
    }
    json_object_foreach(there, key, value) {
        if (strcmp(key, version_key) != 0 && !json_object_get(now, key)) return differs(r, key, value, NULL);
    }
    return TANE_OK;
}

static Status read_settings(const Results *r, const json_t *settings) {
    Status st = TANE_OK;
    JsonlReader *reader = NULL;
    JsonlLine line;
    json_t *there = NULL;
    bool more;
    TRY(jsonl_open(&reader, r->path));
    TRY(jsonl_line(reader, &line, &more));
    TRY(json_read_text(r->path, line.text, line.n, &there));
    TRY(compare_settings(r, there, (json_t *)(uintptr_t)settings));
out:
    json_decref(there);
    jsonl_close(reader);
    return st;
}

/* ---- opening ---- */

/* Drops a last line without its end; *empty when nothing is left. */
static Status repair(const Results *r, bool *empty) {
    FileMap map;
    *empty = !file_exists(r->path);
    if (*empty) return TANE_OK;
    TRY_RETURN(file_map(r->path, &map));
    size_t n = map.size;
    while (n > 0 && map.data[n - 1] != '\n') n--;
    *empty = n == 0;
    Status st = n < map.size && n > 0 ? file_write_atomic(r->path, map.data, n) : TANE_OK;
    if (n == 0 && map.size > 0)
        st = FAIL(TANE_EINVAL, "%s is no results file of `tane eval`: it has no whole line; write to another file",
                  r->path);
    file_unmap(&map);
    return st;
}

Status results_open(Results **out, const char *path, const json_t *settings) {
    Status st = TANE_OK;
    Results *r;
    bool empty;
    *out = NULL;
    TRY_RETURN(MEM_NEW(&r));
    TRY(mem_strdup(&r->path, path));
    TRY(repair(r, &empty));
    TRY(empty ? write_settings(r, settings) : read_settings(r, settings));
    *out = r;
    return TANE_OK;
out:
    results_close(&r);
    return st;
}

const char *results_path(const Results *r) { return r->path; }

/* ---- reading ---- */

Status results_twice(const char *where, int64_t id) {
    return FAIL(TANE_EFORMAT, "%s: the id %" PRId64 " is there twice; delete one of the two lines", where, id);
}

static Status take_line(const JsonlLine *line, int64_t n_ids, ResultTake take, void *user) {
    Status st = TANE_OK;
    json_t *object = NULL;
    int64_t id;
    char where[4096];
    snprintf(where, sizeof where, "%s:%lld", line->path, (long long)line->number);
    TRY(json_read_text(where, line->text, line->n, &object));
    TRY(json_get_int(object, where, "id", 0, n_ids - 1, &id));
    TRY(take(user, id, object, where));
out:
    json_decref(object);
    return st;
}

Status results_read(const Results *r, int64_t n_ids, ResultTake take, void *user) {
    Status st = TANE_OK;
    JsonlReader *reader = NULL;
    JsonlLine line;
    bool more, settings = true;
    TRY(jsonl_open(&reader, r->path));
    for (;; settings = false) {
        TRY(jsonl_line(reader, &line, &more));
        if (!more) break;
        if (!settings) TRY(take_line(&line, n_ids, take, user));
    }
out:
    jsonl_close(reader);
    return st;
}

/* ---- writing ---- */

static Status add_line(Results *r, const json_t *line, bool whole) {
    if (!whole) return FAIL(TANE_ENOMEM, "%s: out of memory for a result", r->path);
    if (!r->writer) TRY_RETURN(fw_append(&r->writer, r->path));
    r->line.len = 0;
    TRY_RETURN(json_write_str(&r->line, line));
    TRY_RETURN(str_add(&r->line, "\n", 1));
    TRY_RETURN(fw_write(r->writer, r->line.text, r->line.len));
    return fw_flush(r->writer);
}

Status results_add(Results *r, json_t *line, bool whole) {
    Status st = add_line(r, line, whole);
    json_decref(line);
    return st;
}

typedef struct Place {
    int64_t id;
    const char *text; /* (n) */
    size_t n;
} Place;

static int by_id(const void *x, const void *y) {
    const Place *a = x, *b = y;
    return (a->id > b->id) - (a->id < b->id);
}

/* The lines behind the settings, in the mapped file. */
static Status find_lines(JsonlReader *reader, Place **places, size_t *n, Place *settings) {
    size_t cap = 0;
    JsonlLine line;
    JsonlScratch scratch = {0};
    Status st = TANE_OK;
    bool more;
    TRY(jsonl_line(reader, &line, &more));
    *settings = (Place){.text = line.text, .n = line.n};
    for (;;) {
        JsonlField id = {.key = "id"};
        TRY(jsonl_next(reader, &line, &id, 1, &scratch, &more));
        if (!more) break;
        if (*n == cap) {
            size_t larger = cap ? 2 * cap : 256;
            TRY(mem_grow((void **)places, cap, larger, sizeof **places));
            cap = larger;
        }
        (*places)[(*n)++] = (Place){id.kind == JSONL_NUMBER ? strtoll(id.text, NULL, 10) : -1, line.text, line.n};
    }
out:
    jsonl_scratch_free(&scratch);
    return st;
}

static Status add_place(Str *out, const Place *place) {
    TRY_RETURN(str_add(out, place->text, place->n));
    return str_add(out, "\n", 1);
}

Status results_sort(Results *r) {
    Status st = TANE_OK;
    JsonlReader *reader = NULL;
    Place *places = NULL, settings;
    size_t n = 0;
    Str text = {0};
    bool sorted = true;
    if (r->writer) TRY(fw_close(&r->writer, NULL, NULL));
    TRY(jsonl_open(&reader, r->path));
    TRY(find_lines(reader, &places, &n, &settings));
    for (size_t i = 1; i < n; i++) sorted = sorted && places[i - 1].id <= places[i].id;
    if (sorted) goto out;
    qsort(places, n, sizeof *places, by_id);
    TRY(add_place(&text, &settings));
    for (size_t i = 0; i < n; i++) TRY(add_place(&text, &places[i]));
    TRY(file_write_atomic(r->path, text.text, text.len));
out:
    jsonl_close(reader);
    mem_free(places);
    str_free(&text);
    return st;
}

Status results_close(Results **results) {
    Results *r = *results;
    if (!r) return TANE_OK;
    Status st = r->writer ? fw_close(&r->writer, NULL, NULL) : TANE_OK;
    mem_free(r->path);
    str_free(&r->line);
    mem_free(r);
    *results = NULL;
    return st;
}
