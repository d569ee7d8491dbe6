/* Folders of prepared tokens: index.json and shards. See prepared.h.
 *
 * index.json is written anew (atomically) behind each shard, with how far the rows have come: after a crash there are
 * whole shards that the index names, at most one shard that it does not name, and nothing else.
 */
#include "data/prepared.h"

#include <string.h>

#include "base/hash.h"
#include "base/json.h"

#define INDEX_FORMAT "tane tokens"
enum { DEFAULT_SHARD_TOKENS = 1 << 25, SHARD_NAME = 32 };

static bool has_ending(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcmp(path + n - m, ending) == 0;
}

Status prepared_tokenizer_hash(const Tokenizer *tok, char hex[17]) {
    static const char probe[] = "The quick brown fox: 12,345.67 + (-8) = x?\n\n  def f(a_b):\treturn \"it's\"\n"
                                "\xe5\x90\xbe\xe8\xbc\xa9\xe3\x81\xaf\xe7\x8c\xab\xe3\x81\xa7\xe3\x81\x82\xe3\x82\x8b "
                                "na\xc3\xafve \xd0\x9c\xd0\xb8\xd1\x80 \xf0\x9f\x8c\xb1<s></s><unk>";
    TokenList ids = {0};
    uint64_t h = HASH_START;
    for (int32_t i = 0; i < tokenizer_vocab_size(tok); i++) {
        TokenPiece piece;
        TRY_RETURN(tokenizer_piece(tok, i, &piece));
        h = hash_bytes(h, piece.text, strlen(piece.text) + 1);
    }
    Status st = tokenizer_encode(tok, probe, sizeof probe - 1, &ids);
    if (st == TANE_OK) h = hash_bytes(h, ids.ids, ids.n * sizeof *ids.ids);
    token_list_free(&ids);
    int32_t special[] = {tokenizer_bos(tok), tokenizer_eos(tok)};
    snprintf(hex, 17, "%016llx", (unsigned long long)hash_bytes(h, special, sizeof special));
    return st;
}

/* ---- opening ---- */

static Status read_index(const char *folder, json_t **out) {
    char *path;
    TRY_RETURN(path_join(&path, folder, "index.json"));
    Status st = TANE_OK;
    *out = NULL;
    if (file_exists(path)) st = json_read_file(path, out);
    if (st == TANE_OK && *out) {
        const char *format = json_string_value(json_object_get(*out, "format"));
        if (!format || strcmp(format, INDEX_FORMAT) != 0) {
            json_decref(*out);
            *out = NULL;
        }
    }
    mem_free(path);
    return st;
}

Status prepared_is(const char *path, bool *yes) {
    json_t *index;
    bool pattern = strpbrk(path, "*?[") && !file_exists(path); /* train_*.bin: one by one */
    *yes = !pattern && (has_ending(path, ".bin") || has_ending(path, ".tok"));
    if (*yes || !dir_exists(path)) return TANE_OK;
    TRY_RETURN(read_index(path, &index));
    *yes = index != NULL;
    json_decref(index);
    return TANE_OK;
}

typedef struct Opened {
    TokenShard shard;
    const char *source, *sha256; /* in the index; sha256 is what it has to be */
    char *path, found[65];
    uint64_t hash;
    ErrorCopy error;
} Opened;

enum { BLOCK = 1 << 16 };
static int64_t block_end(const TokenShard *s, int64_t begin) {
    return begin + BLOCK < s->tokens ? begin + BLOCK : s->tokens;
}

/* Every id must be below the vocabulary's size. */
static Status check_ids(const Opened *o, int64_t vocab) {
    const TokenShard *s = &o->shard;
    int64_t bad = INT64_MAX;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (int64_t b = 0; b < s->tokens; b += BLOCK) {
        int64_t end = block_end(s, b), i = b;
        uint32_t most = 0;
        for (int64_t k = b; k < end; k++) {
            uint32_t id = (uint32_t)shard_token(s, k);
            most = id > most ? id : most;
        }
        if (most < vocab) continue;
        while ((uint32_t)shard_token(s, i) < vocab) i++;
        bad = i < bad ? i : bad;
    }
    if (bad == INT64_MAX) return TANE_OK;
    return FAIL(TANE_EFORMAT,
                "%s: token %lld is %u, but the tokenizer has only %lld: the file was made with another "
                "tokenizer",
                o->path, (long long)bad, (uint32_t)shard_token(s, bad), (long long)vocab);
}

/* Of files without a checksum. */
static uint64_t hash_ids(const TokenShard *s) {
    uint64_t hash = 0;
#pragma omp parallel for schedule(static) reduction(+ : hash)
    for (int64_t b = 0; b < s->tokens; b += BLOCK) {
        uint64_t h = HASH_START ^ (uint64_t)b;
        for (int64_t i = b; i < block_end(s, b); i++) h = hash_word(h, (uint32_t)shard_token(s, i));
        hash += h;
    }
    return hash;
}

static Status open_bare(Opened *o, const char *path, const Tokenizer *tokenizer) {
    ShardFormat format;
    TRY_RETURN(mem_strdup(&o->path, path));
    if (!file_exists(path))
        return FAIL(TANE_ENOTFOUND,
                    "%s: no such file. `tane data prepare TEXT --tokenizer MODEL --write nanogpt --holdout 0.1 "
                    "--out FOLDER` makes train.bin and val.bin from text",
                    path);
    if (has_ending(path, ".tok")) format = SHARD_TANE;
    else TRY_RETURN(shard_detect(path, &format));
    TRY_RETURN(shard_map(&o->shard, path, format));
    TRY_RETURN(check_ids(o, tokenizer_vocab_size(tokenizer)));
    o->source = path;
    o->hash = hash_ids(&o->shard);
    return TANE_OK;
}

static Status hand_on(Opened *o, Status (*take)(void *, TokenShard *, const char *, const char *), void *user) {
    char hash[24];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)o->hash);
    TokenShard shard = o->shard;
    o->shard = (TokenShard){0};
    return take(user, &shard, o->source, o->sha256 ? o->sha256 : hash);
}

static void check_shard(Opened *o, int64_t vocab) {
    Status st = shard_map(&o->shard, o->path, SHARD_TANE);
    if (st == TANE_OK) st = file_sha256(o->path, NULL, o->found);
    if (st == TANE_OK && strcmp(o->found, o->sha256) != 0)
        st = FAIL(TANE_EFORMAT,
                  "%s: damaged: its checksum is %.16s..., but index.json has %.16s...; prepare the data again "
                  "(remove the folder first)",
                  o->path, o->found, o->sha256);
    if (st == TANE_OK) st = check_ids(o, vocab);
    if (st != TANE_OK) err_save(&o->error);
}

static Status check_index(const char *folder, const json_t *index, const Tokenizer *tokenizer) {
    const char *hash, *name;
    char ours[17];
    int64_t version;
    bool complete;
    TRY_RETURN(json_get_int(index, folder, "version", 1, INT32_MAX, &version));
    if (version != PREPARED_VERSION)
        return FAIL(TANE_EUNSUPPORTED, "%s: prepared by another version of tane (format %lld, this one reads %d)",
                    folder, (long long)version, PREPARED_VERSION);
    TRY_RETURN(json_get_bool(index, folder, "complete", &complete));
    if (!complete)
        return FAIL(TANE_EINVAL,
                    "%s: its preparation was interrupted; run the same `tane data prepare` again: it goes on "
                    "where it stopped",
                    folder);
    TRY_RETURN(json_get_string(index, folder, "tokenizer_hash", &hash));
    TRY_RETURN(json_get_string(index, folder, "tokenizer", &name));
    TRY_RETURN(prepared_tokenizer_hash(tokenizer, ours));
    if (strcmp(hash, ours) != 0)
        return FAIL(TANE_EINVAL,
                    "%s: its tokens were made with another tokenizer (%s); use that one, or prepare the data "
                    "again",
                    folder, name);
    return TANE_OK;
}

static Status list_shards(const char *folder, const json_t *index, Opened **out, size_t *n) {
    const json_t *shards = json_object_get(index, "shards");
    *n = json_array_size(shards);
    if (*n == 0) return FAIL(TANE_EFORMAT, "%s/index.json names no shards; prepare the data again", folder);
    TRY_RETURN(MEM_NEW_ARRAY(out, *n));
    for (size_t i = 0; i < *n; i++) {
        const json_t *shard = json_array_get(shards, i);
        const char *name;
        if (!json_is_object(shard)) return FAIL(TANE_EFORMAT, "%s/index.json: shard %zu is no object", folder, i);
        TRY_RETURN(json_get_string(shard, folder, "file", &name));
        if (strchr(name, '/')) return FAIL(TANE_EFORMAT, "%s/index.json: \"%s\" is no name of a shard", folder, name);
        TRY_RETURN(json_get_string(shard, folder, "source", &(*out)[i].source));
        TRY_RETURN(json_get_string(shard, folder, "sha256", &(*out)[i].sha256));
        TRY_RETURN(path_join(&(*out)[i].path, folder, name));
    }
    return TANE_OK;
}

static void close_all(Opened *list, size_t n) {
    for (size_t i = 0; list && i < n; i++) {
        shard_release(&list[i].shard);
        mem_free(list[i].path);
    }
    mem_free(list);
}

static Status open_folder(const char *folder, const Tokenizer *tokenizer,
                          Status (*take)(void *, TokenShard *, const char *, const char *), void *user) {
    Status st = TANE_OK;
    json_t *index = NULL;
    Opened *list = NULL;
    size_t n = 0;
    TRY(read_index(folder, &index));
    TRY(check_index(folder, index, tokenizer));
    TRY(list_shards(folder, index, &list, &n));
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < n; i++) check_shard(&list[i], tokenizer_vocab_size(tokenizer));
    for (size_t i = 0; i < n; i++)
        if (list[i].error.code != TANE_OK) TRY(err_restore(&list[i].error));
    for (size_t i = 0; i < n; i++) TRY(hand_on(&list[i], take, user));
out:
    close_all(list, n);
    json_decref(index);
    return st;
}

Status prepared_open(const char *path, const Tokenizer *tokenizer,
                     Status (*take)(void *, TokenShard *, const char *, const char *), void *user) {
    if (dir_exists(path)) return open_folder(path, tokenizer, take, user);
    Opened o = {0};
    Status st = open_bare(&o, path, tokenizer);
    if (st == TANE_OK) st = hand_on(&o, take, user);
    shard_release(&o.shard);
    mem_free(o.path);
    return st;
}

/* ---- preparing ---- */

typedef struct Preparing {
    const char *folder;
    const char *const *files;
    size_t n_files, file; /* the one at hand */
    const PrepareOptions *options;
    PrepareReport *report;
    json_t *index, *shards; /* shards is in the index */
    int64_t rows_before;    /* of the files before, in report->counts */
    TokenizeCounts before;
} Preparing;

/* The index is JSON, and JSON is UTF-8. */
static Status check_text(const char *what, const char *text) {
    Str json = {0};
    Status st = json_write_text(&json, text, strlen(text));
    str_free(&json);
    return st == TANE_EINVAL ? err_context("%s", what) : st;
}

static Status describe_files(const char *const *files, size_t n, json_t *list) {
    for (size_t i = 0; i < n; i++) {
        uint64_t size;
        int64_t modified;
        TRY_RETURN(check_text("name of a file of rows", files[i]));
        TRY_RETURN(file_size(files[i], &size));
        TRY_RETURN(file_modified(files[i], &modified));
        json_t *file = json_pack("{s:s, s:I, s:I}", "path", files[i], "size", (json_int_t)size, "modified",
                                 (json_int_t)modified);
        if (json_array_append_new(list, file)) return FAIL(TANE_ENOMEM, "out of memory for the list of files");
    }
    return TANE_OK;
}

static Status new_index(Preparing *p, const char *hash, json_t *files, json_t **out) {
    const PrepareOptions *o = p->options;
    *out = NULL;
    TRY_RETURN(check_text("tokenizer", o->tokenizer));
    TRY_RETURN(check_text("options of the rows", o->settings));
    *out = json_pack("{s:s, s:i, s:b, s:s, s:s, s:I, s:s, s:I, s:O, s:[]}", "format", INDEX_FORMAT, "version",
                     PREPARED_VERSION, "complete", 0, "tokenizer", o->tokenizer, "tokenizer_hash", hash, "vocab_size",
                     (json_int_t)tokenizer_vocab_size(o->tokenize.format.tokenizer), "settings", o->settings,
                     "shard_tokens", (json_int_t)o->tokenize.shard_tokens, "files", files, "shards");
    return *out ? TANE_OK : FAIL(TANE_ENOMEM, "out of memory for the index");
}

static Status differs(const char *folder, const char *what) {
    return FAIL(TANE_EINVAL,
                "%s holds tokens that were prepared with other %s; remove the folder, or choose another one", folder,
                what);
}

/* Is the index that is there of the same preparation? */
static Status compare(const Preparing *p, const json_t *there, const json_t *now) {
    static const struct {
        const char *key, *what;
    } parts[] = {{"version", "versions of tane"},
                 {"tokenizer_hash", "tokenizers"},
                 {"settings", "settings"},
                 {"shard_tokens", "sizes of shards"},
                 {"files", "files (or they have changed since)"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!json_equal(json_object_get(there, parts[i].key), json_object_get(now, parts[i].key)))
            return differs(p->folder, parts[i].what);
    return TANE_OK;
}

static json_t *counts_json(const TokenizeCounts *c) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "rows", (json_int_t)c->rows, "documents", (json_int_t)c->documents,
                     "tokens", (json_int_t)c->tokens, "unknown", (json_int_t)c->unknown, "bytes", (json_int_t)c->bytes);
}

static Status read_counts(const char *folder, const json_t *json, TokenizeCounts *c) {
    int64_t bytes;
    if (!json_is_object(json)) return FAIL(TANE_EFORMAT, "%s/index.json has no \"counts\"", folder);
    TRY_RETURN(json_get_int(json, folder, "rows", 0, INT64_MAX, &c->rows));
    TRY_RETURN(json_get_int(json, folder, "documents", 0, INT64_MAX, &c->documents));
    TRY_RETURN(json_get_int(json, folder, "tokens", 0, INT64_MAX, &c->tokens));
    TRY_RETURN(json_get_int(json, folder, "unknown", 0, INT64_MAX, &c->unknown));
    TRY_RETURN(json_get_int(json, folder, "bytes", 0, INT64_MAX, &bytes));
    c->bytes = (uint64_t)bytes;
    return TANE_OK;
}

static TokenizeCounts sum(const TokenizeCounts *a, const TokenizeCounts *b) {
    return (TokenizeCounts){a->rows + b->rows, a->documents + b->documents, a->tokens + b->tokens,
                            a->unknown + b->unknown, a->bytes + b->bytes};
}

/* The index as it is now: `file` is being read, `rows` of its rows are in shards. */
static Status write_index(Preparing *p, bool complete, size_t file, int64_t rows, bool in_document,
                          const TokenizeCounts *counts) {
    char *path;
    bool failed = json_object_set_new(p->index, "complete", json_boolean(complete)) ||
                  json_object_set_new(p->index, "progress",
                                      json_pack("{s:I, s:I, s:b}", "file", (json_int_t)file, "rows", (json_int_t)rows,
                                                "in_document", in_document)) ||
                  json_object_set_new(p->index, "counts", counts_json(counts));
    if (failed) return FAIL(TANE_ENOMEM, "out of memory for the index");
    TRY_RETURN(path_join(&path, p->folder, "index.json"));
    Status st = json_write_file(path, p->index);
    mem_free(path);
    return st;
}

static Status save_shard(void *user, TokenShard *shard, const TokenizeCounts *counts, bool in_document) {
    Status st = TANE_OK;
    Preparing *p = user;
    char name[SHARD_NAME], sha[65], *path = NULL;
    snprintf(name, sizeof name, "%06zu.tok", json_array_size(p->shards));
    TRY(path_join(&path, p->folder, name));
    TRY(shard_write(shard, path, sha));
    json_t *entry = json_pack("{s:s, s:s, s:I, s:I, s:s}", "file", name, "source", p->files[p->file], "tokens",
                              (json_int_t)shard->tokens, "documents", (json_int_t)shard->documents, "sha256", sha);
    if (json_array_append_new(p->shards, entry)) TRY(FAIL(TANE_ENOMEM, "out of memory for the index"));
    TokenizeCounts all = sum(&p->before, counts);
    TRY(write_index(p, false, p->file, counts->rows, in_document, &all));
out:
    mem_free(path);
    shard_release(shard);
    return st;
}

static bool tell(void *user, double done, const TokenizeCounts *counts) {
    Preparing *p = user;
    const PrepareOptions *o = p->options;
    TokenizeCounts all = sum(&p->before, counts);
    return o->progress && o->progress(o->user, p->files[p->file], p->file, p->n_files, done, &all);
}

/* From row `skip` of file `from` on. */
static Status prepare_files(Preparing *p, size_t from, int64_t skip, bool in_document) {
    TokenizeSink sink = {.shard = save_shard, .progress = tell, .user = p};
    for (p->file = from; p->file < p->n_files; p->file++) {
        TokenizeOptions o = p->options->tokenize;
        TokenizeCounts counts = {0};
        o.skip = p->file == from ? skip : 0;
        o.in_document = p->file == from && in_document;
        TRY_RETURN(tokenize_file(p->files[p->file], &o, &sink, &counts));
        p->before = sum(&p->before, &counts);
    }
    return write_index(p, true, p->n_files, 0, false, &p->before);
}

/* Nobody has removed a shard. (What is in them is checked when they are used.) */
static Status check_present(const char *folder, const json_t *index) {
    Opened *list = NULL;
    size_t n = 0;
    Status st = list_shards(folder, index, &list, &n);
    for (size_t i = 0; st == TANE_OK && i < n; i++)
        if (!file_exists(list[i].path))
            st = FAIL(TANE_ENOTFOUND,
                      "%s is missing, but index.json names it; remove the folder and prepare the data "
                      "again",
                      list[i].path);
    close_all(list, n);
    return st;
}

/* What is there: nothing, a whole preparation, or the beginning of one. */
static Status go_on(Preparing *p, const json_t *there) {
    int64_t file, rows;
    bool complete, in_document;
    const json_t *progress = json_object_get(there, "progress");
    TRY_RETURN(compare(p, there, p->index));
    TRY_RETURN(json_get_bool(there, p->folder, "complete", &complete));
    TRY_RETURN(read_counts(p->folder, json_object_get(there, "counts"), &p->before));
    if (json_array_extend(p->shards, json_object_get(there, "shards")))
        return FAIL(TANE_EFORMAT, "%s/index.json has no list \"shards\"", p->folder);
    TRY_RETURN(check_present(p->folder, there));
    if (complete) {
        p->report->reused = true;
        return TANE_OK;
    }
    if (!json_is_object(progress)) return FAIL(TANE_EFORMAT, "%s/index.json has no \"progress\"", p->folder);
    TRY_RETURN(json_get_int(progress, p->folder, "file", 0, (int64_t)p->n_files - 1, &file));
    TRY_RETURN(json_get_int(progress, p->folder, "rows", 0, INT64_MAX, &rows));
    TRY_RETURN(json_get_bool(progress, p->folder, "in_document", &in_document));
    p->report->resumed = true;
    /* Rows that are passed over are counted again. */
    p->before.rows -= rows;
    return prepare_files(p, (size_t)file, rows, in_document);
}

/* An index.json of something else is not written over. */
static Status no_other_index(const char *folder) {
    char *path;
    TRY_RETURN(path_join(&path, folder, "index.json"));
    Status st = TANE_OK;
    if (file_exists(path))
        st = FAIL(TANE_EINVAL, "%s is not of prepared tokens; choose a folder of its own for the tokens", path);
    mem_free(path);
    return st;
}

static Status run(Preparing *p) {
    Status st = TANE_OK;
    char hash[17];
    json_t *files = json_array(), *there = NULL;
    TRY(describe_files(p->files, p->n_files, files));
    TRY(prepared_tokenizer_hash(p->options->tokenize.format.tokenizer, hash));
    TRY(new_index(p, hash, files, &p->index));
    p->shards = json_object_get(p->index, "shards");
    TRY(read_index(p->folder, &there));
    if (!there) TRY(no_other_index(p->folder));
    st = there ? go_on(p, there) : prepare_files(p, 0, 0, false);
out:
    json_decref(files);
    json_decref(there);
    return st;
}

static Status only_ours(const char *folder) {
    DirList list;
    Status st = TANE_OK;
    TRY_RETURN(dir_list(folder, &list));
    for (size_t i = 0; st == TANE_OK && i < list.n; i++)
        if (!has_ending(list.names[i], ".tok") && strncmp(list.names[i], "index.json", 10) != 0 &&
            list.names[i][0] != '.')
            st = FAIL(TANE_EINVAL, "%s holds other files (%s); choose a folder of its own for the tokens", folder,
                      list.names[i]);
    dir_list_free(&list);
    return st;
}

Status prepare(const char *folder, const char *const *files, size_t n, const PrepareOptions *options,
               PrepareReport *report) {
    Status st = TANE_OK;
    PrepareOptions o = *options;
    Preparing p = {.folder = folder, .files = files, .n_files = n, .options = &o, .report = report};
    int lock = -1;
    *report = (PrepareReport){.files = n};
    if (o.tokenize.shard_tokens == 0) o.tokenize.shard_tokens = DEFAULT_SHARD_TOKENS;
    TRY(dir_make(folder));
    TRY(dir_lock(folder, &lock));
    TRY(only_ours(folder));
    TRY(run(&p));
    report->counts = p.before;
    report->shards = json_array_size(p.shards);
out:
    dir_unlock(&lock);
    json_decref(p.index);
    return st;
}
