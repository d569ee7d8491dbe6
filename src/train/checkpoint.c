/* Saving, checking, finding and loading checkpoints. See checkpoint.h for the layout and the order of a save. */
#include "train/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

Status checkpoint_path(char **out, const char *run_dir, int64_t step) {
    char name[32];
    snprintf(name, sizeof name, "step-%06" PRId64, step);
    return path_join(out, run_dir, name);
}

/* The step of "step-000500", or -1. */
static int64_t step_of(const char *name) {
    if (strncmp(name, "step-", 5) || !name[5] || strspn(name + 5, "0123456789") != strlen(name + 5)) return -1;
    return strtoll(name + 5, NULL, 10);
}

/* ------------------------------------------------------------------------------------------------- manifest */

/* Lists every file of the folder with size and checksum: read back from the disk's cache, as it will be compared. */
static Status write_manifest(const char *folder, int64_t step) {
    Status st = TANE_OK;
    DirList list = {0};
    char *path = NULL;
    json_t *files = json_object(), *root = json_pack("{s:I, s:o}", "step", (json_int_t)step, "files", files);
    if (!root) return FAIL(TANE_ENOMEM, "out of memory while writing MANIFEST.json");
    TRY(dir_list(folder, &list));
    for (size_t i = 0; i < list.n; i++) {
        uint64_t size;
        char hex[65];
        TRY(path_join(&path, folder, list.names[i]));
        TRY(file_sha256(path, &size, hex));
        if (json_object_set_new(files, list.names[i],
                                json_pack("{s:I, s:s}", "size", (json_int_t)size, "sha256", hex))) {
            st = FAIL(TANE_ENOMEM, "out of memory while writing MANIFEST.json");
            goto out;
        }
        mem_free(path);
        path = NULL;
    }
    TRY(path_join(&path, folder, "MANIFEST.json"));
    TRY(json_write_file(path, root));
out:
    mem_free(path);
    dir_list_free(&list);
    json_decref(root);
    return st;
}

static Status verify_file(const char *folder, const char *name, const json_t *entry, const char *manifest) {
    Status st = TANE_OK;
    char *path = NULL, hex[65];
    const char *expected;
    int64_t size;
    uint64_t found;
    TRY(json_get_int(entry, manifest, "size", 0, INT64_MAX, &size));
    TRY(json_get_string(entry, manifest, "sha256", &expected));
    if (strchr(name, '/') || !strcmp(name, "..")) {
        st = FAIL(TANE_EFORMAT, "%s: \"%s\" is not a file of this folder", manifest, name);
        goto out;
    }
    TRY(path_join(&path, folder, name));
    TRY(file_sha256(path, &found, hex));
    if (found != (uint64_t)size)
        st = FAIL(TANE_EFORMAT,
                  "%s has %" PRIu64 " bytes, but its manifest says %" PRId64
                  ": the checkpoint is damaged; go on from another one with resume_from_checkpoint",
                  path, found, size);
    else if (strcmp(hex, expected))
        st = FAIL(TANE_EFORMAT,
                  "%s: checksum mismatch: the file has changed since it was saved; go on from another checkpoint with "
                  "resume_from_checkpoint",
                  path);
out:
    mem_free(path);
    return st;
}

Status checkpoint_verify(const char *folder) {
    Status st = TANE_OK;
    char *path = NULL;
    json_t *root = NULL, *entry;
    const char *name;
    TRY(path_join(&path, folder, "MANIFEST.json"));
    TRY(json_read_file(path, &root));
    json_t *files = json_object_get(root, "files");
    if (!json_is_object(files) || !json_object_size(files)) {
        st = FAIL(TANE_EFORMAT, "%s: \"files\" is missing or empty", path);
        goto out;
    }
    json_object_foreach(files, name, entry) TRY(verify_file(folder, name, entry, path));
out:
    json_decref(root);
    mem_free(path);
    return st;
}

/* ----------------------------------------------------------------------------------------------------- save */

static Status check_room(const CheckpointSave *s) {
    uint64_t have, each = 3 * dtype_size(s->optimizer->type),
                   need = (uint64_t)s->optimizer->model->params.elements * each + ((uint64_t)4 << 20);
    TRY_RETURN(dir_free_bytes(s->run_dir, &have));
    if (have >= need) return TANE_OK;
    return FAIL(TANE_ENOSPC,
                "%s: saving step %" PRId64
                " takes %.1f MiB, but the disk has %.1f MiB left; free some space (what is saved is intact)",
                s->run_dir, s->step, (double)need / 1048576, (double)have / 1048576);
}

static Status write_files(const CheckpointSave *s, const char *folder) {
    Status st = TANE_OK;
    char *path = NULL;
    const Optimizer *o = s->optimizer;
    ParamArray weights[2], moments[2];
    optimizer_weights(o, weights);
    optimizer_moments(o, moments);
    TRY(model_save(o->model, &weights[0], weights[0].dtype, folder));
    if (s->tokenizer) TRY(tokenizer_save(s->tokenizer, folder));
    if (s->chat_template) {
        TRY(path_join(&path, folder, "chat_template.jinja"));
        TRY(file_write_atomic(path, s->chat_template, strlen(s->chat_template)));
        mem_free(path);
        path = NULL;
    }
    TRY(path_join(&path, folder, "optimizer.safetensors"));
    TRY(params_write(&o->model->params, moments, 2, o->type, path, NULL, NULL));
    mem_free(path);
    path = NULL;
    TRY(path_join(&path, folder, "state.json"));
    TRY(json_write_file(path, s->state));
    TRY(write_manifest(folder, s->step));
    TRY(dir_fsync(folder));
out:
    mem_free(path);
    return st;
}

static Status point(const char *run_dir, const char *link, const char *target) {
    char *path;
    TRY_RETURN(path_join(&path, run_dir, link));
    Status st = file_symlink(path_base(target), path);
    mem_free(path);
    return st;
}

/* Does RUN/best lead to this name? */
static Status is_best(const char *run_dir, const char *name, bool *yes) {
    Status st = TANE_OK;
    char *best = NULL, *folder = NULL;
    *yes = false;
    TRY(path_join(&best, run_dir, "best"));
    TRY(path_join(&folder, run_dir, name));
    char *a = realpath(best, NULL), *b = realpath(folder, NULL);
    *yes = a && b && !strcmp(a, b);
    free(a);
    free(b);
out:
    mem_free(best);
    mem_free(folder);
    return st;
}

/* Removes the oldest beyond `keep`; the best and the newest stay. A folder is renamed first, so that a crash in the
 * middle of the removal never leaves half a checkpoint under a whole one's name. */
static Status prune(const CheckpointSave *s, CheckpointRemoved removed, void *user) {
    Status st = TANE_OK;
    DirList list = {0};
    char *from = NULL, *to = NULL;
    int64_t others = 0;
    if (s->keep <= 0) return TANE_OK;
    TRY(dir_list(s->run_dir, &list));
    for (size_t i = list.n; i-- > 0;) { /* newest first: names sort by step up to a million, steps decide beyond */
        int64_t step = step_of(list.names[i]);
        bool best;
        if (step < 0 || step == s->step) continue;
        TRY(is_best(s->run_dir, list.names[i], &best));
        if (best || ++others <= s->keep) continue;
        char name[64];
        snprintf(name, sizeof name, "step-%06" PRId64 ".old.tmp", step);
        TRY(path_join(&from, s->run_dir, list.names[i]));
        TRY(path_join(&to, s->run_dir, name));
        TRY(file_rename(from, to));
        TRY(dir_remove(to));
        if (removed) removed(user, step);
        mem_free(from);
        mem_free(to);
        from = to = NULL;
    }
out:
    mem_free(from);
    mem_free(to);
    dir_list_free(&list);
    return st;
}

Status checkpoint_save(const CheckpointSave *s, CheckpointRemoved removed, void *user) {
    Status st = TANE_OK;
    char *final = NULL, *tmp = NULL, *old = NULL;
    Str name = {0};
    TRY(dir_make(s->run_dir));
    TRY(check_room(s));
    TRY(checkpoint_path(&final, s->run_dir, s->step));
    TRY(str_printf(&name, "%s.tmp", path_base(final)));
    TRY(path_join(&tmp, s->run_dir, name.text));
    TRY(dir_remove(tmp));
    TRY(dir_make(tmp));
    TRY(write_files(s, tmp));
    if (dir_exists(final)) { /* the same step once more, after going on from an earlier one */
        TRY(str_printf(&name, ".old.tmp"));
        TRY(path_join(&old, s->run_dir, name.text));
        TRY(dir_remove(old));
        TRY(file_rename(final, old));
    }
    TRY(file_rename(tmp, final));
    TRY(dir_fsync(s->run_dir));
    TRY(checkpoint_verify(final));
    TRY(point(s->run_dir, "last", final));
    if (s->best) TRY(point(s->run_dir, "best", final));
    TRY(dir_fsync(s->run_dir));
    if (old) TRY(dir_remove(old));
    TRY(prune(s, removed, user));
out:
    if (st != TANE_OK) err_context("saving step %" PRId64, s->step);
    mem_free(final);
    mem_free(tmp);
    mem_free(old);
    str_free(&name);
    return st;
}

/* ----------------------------------------------------------------------------------------------------- load */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

Status checkpoint_last(const char *run_dir, char **out) {
    Status st = TANE_OK;
    DirList list = {0};
    char *path = NULL;
    int64_t newest = -1;
    *out = NULL;
    if (!dir_exists(run_dir)) return TANE_OK;
    TRY(dir_list(run_dir, &list));
    for (size_t i = 0; i < list.n; i++) {
        if (step_of(list.names[i]) > newest) newest = step_of(list.names[i]);
        if (strncmp(list.names[i], "step-", 5) || !ends_with(list.names[i], ".tmp")) continue;
        /* A save that replaces its own step renames the old folder away first. Killed right there, the old one comes
         * back. */
        TRY(path_join(&path, run_dir, list.names[i]));
        char *whole = NULL;
        int64_t step = strtoll(list.names[i] + 5, NULL, 10);
        TRY(checkpoint_path(&whole, run_dir, step));
        bool bring_back = ends_with(list.names[i], ".tmp.old.tmp") && !dir_exists(whole) &&
                          checkpoint_verify(path) == TANE_OK;
        st = bring_back ? file_rename(path, whole) : dir_remove(path);
        if (bring_back && step > newest) newest = step;
        mem_free(whole);
        mem_free(path);
        path = NULL;
        if (st != TANE_OK) goto out;
    }
    if (newest >= 0) TRY(checkpoint_path(out, run_dir, newest));
out:
    mem_free(path);
    dir_list_free(&list);
    return st;
}

Status checkpoint_load(const char *folder, Optimizer *o, json_t **state) {
    Status st = TANE_OK;
    char *path = NULL;
    ParamArray weights[2], moments[2];
    int n = optimizer_weights(o, weights);
    optimizer_moments(o, moments);
    const ModelFamily *family = o->model->config.family;
    *state = NULL;
    TRY(checkpoint_verify(folder));
    TRY(params_read(&o->model->params, folder, family->prefix, family->ignored, weights, n));
    TRY(path_join(&path, folder, "optimizer.safetensors"));
    TRY(params_read(&o->model->params, path, NULL, NULL, moments, 2));
    mem_free(path);
    path = NULL;
    TRY(path_join(&path, folder, "state.json"));
    TRY(json_read_file(path, state));
out:
    if (st != TANE_OK) {
        err_context("going on from %s", folder);
        json_decref(*state);
        *state = NULL;
    }
    mem_free(path);
    return st;
}
