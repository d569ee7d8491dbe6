/* Prepared tokens as files for llm.c and nanoGPT. See prepared.h. */
#include <string.h>

#include "base/mem.h"
#include "data/prepared.h"

enum { LLMC_SHARD_TOKENS = 100000000 };

/* All shards behind each other. */
typedef struct Tokens {
    TokenShard *shards;
    size_t n, cap;
    int64_t total;
} Tokens;

static Status take(void *user, TokenShard *shard, const char *source, const char *hash) {
    Tokens *t = user;
    (void)source;
    (void)hash;
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        Status st = mem_grow((void **)&t->shards, t->n, cap, sizeof *t->shards);
        if (st != TANE_OK) {
            shard_release(shard);
            return st;
        }
        t->cap = cap;
    }
    t->shards[t->n++] = *shard;
    t->total += shard->tokens;
    return TANE_OK;
}

/* What a failed write left; its error stays. */
static void discard(const char *path) {
    ErrorCopy reason;
    err_save(&reason);
    (void)file_unlink(path);
    (void)err_restore(&reason);
}

/* Tokens [from, to) to one file. */
static Status write_range(const Tokens *t, int64_t from, int64_t to, ShardFormat format, const char *path) {
    Status st = TANE_OK;
    FileWriter *w = NULL;
    Str tmp = {0};
    bool wide = t->shards[0].wide;
    TRY(str_printf(&tmp, "%s.tmp", path));
    TRY(shard_bare_begin(&w, tmp.text, format, to - from, wide));
    int64_t first = 0;
    for (size_t i = 0; i < t->n; first += t->shards[i++].tokens) {
        int64_t a = from > first ? from - first : 0,
                b = to - first < t->shards[i].tokens ? to - first : t->shards[i].tokens;
        if (a < b) TRY(shard_bare_add(w, &t->shards[i], a, b - a, wide));
    }
    TRY(fw_close(&w, NULL, NULL));
    TRY(file_rename(tmp.text, path));
out:
    fw_abort(&w);
    if (st != TANE_OK && tmp.text) discard(tmp.text);
    str_free(&tmp);
    return st;
}

static Status write_named(const Tokens *t, int64_t from, int64_t to, ShardFormat format, const char *folder,
                          const char *name, ExportReport *report) {
    char *path;
    TRY_RETURN(path_join(&path, folder, name));
    Status st = write_range(t, from, to, format, path);
    mem_free(path);
    report->files++;
    return st;
}

/* A file of an earlier export that this one, of `train` files and perhaps a val file, does not write anew. */
static bool is_left_over(const char *name, bool llmc, int64_t train, bool val) {
    long long k;
    int n = 0;
    if (!val && strcmp(name, llmc ? "val_000000.bin" : "val.bin") == 0) return true;
    return llmc && sscanf(name, "train_%lld.bin%n", &k, &n) == 1 && n > 0 && !name[n] && k > train;
}

/* Whoever trains on train_*.bin would take such files for a part of this export. */
static Status check_left_over(const char *folder, bool llmc, int64_t train, bool val) {
    Status st = TANE_OK;
    DirList list;
    TRY_RETURN(dir_list(folder, &list));
    for (size_t i = 0; st == TANE_OK && i < list.n; i++)
        if (is_left_over(list.names[i], llmc, train, val))
            st = FAIL(TANE_EINVAL,
                      "%s/%s is of an earlier export and would not be written anew; remove it, or choose "
                      "another folder",
                      folder, list.names[i]);
    dir_list_free(&list);
    return st;
}

static Status write_all(const Tokens *t, const char *folder, const ExportOptions *o, ExportReport *report) {
    int64_t size = o->shard_tokens ? o->shard_tokens : LLMC_SHARD_TOKENS;
    bool llmc = o->format == SHARD_LLMC;
    report->val = (int64_t)(o->holdout * (double)t->total + 0.5);
    report->train = t->total - report->val;
    if (report->train == 0)
        return FAIL(TANE_EINVAL, "all %lld tokens would be held out; a smaller holdout leaves some to train on",
                    (long long)t->total);
    TRY_RETURN(check_left_over(folder, llmc, (report->train - 1) / size + 1, report->val > 0));
    if (report->val)
        TRY_RETURN(
            write_named(t, report->train, t->total, o->format, folder, llmc ? "val_000000.bin" : "val.bin", report));
    if (!llmc) return write_named(t, 0, report->train, o->format, folder, "train.bin", report);
    for (int64_t at = 0; at < report->train; at += size) {
        char name[32];
        snprintf(name, sizeof name, "train_%06lld.bin", (long long)(at / size + 1));
        TRY_RETURN(
            write_named(t, at, report->train - at < size ? report->train : at + size, o->format, folder, name, report));
    }
    return TANE_OK;
}

Status prepared_export(const char *folder, const Tokenizer *tokenizer, const char *out, const ExportOptions *options,
                       ExportReport *report) {
    Status st = TANE_OK;
    Tokens t = {0};
    *report = (ExportReport){0};
    TRY(prepared_open(folder, tokenizer, take, &t));
    TRY(dir_make(out));
    TRY(write_all(&t, out, options, report));
out:
    for (size_t i = 0; i < t.n; i++) shard_release(&t.shards[i]);
    mem_free(t.shards);
    return st;
}
