/* Training rows: JSONL files read twice, once to check every line and count, once to tokenize the chosen rows.
 *
 * Prompt and completion are tokenized separately and joined, so the first trained token is exactly the completion's
 * first. A row's mask is therefore one number: where the trained tokens begin. EOS stands at the end and is trained,
 * unless the row was cut. Rows are tokenized in parallel, a slice a thread, and put together in file order: the result
 * does not depend on the number of threads, and the error reported is the one of the first bad row.
 */
#include "data/dataset.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/rng.h"
#include "data/jsonl.h"

enum { CHUNK_ROWS = 4096, CHUNK_BYTES = 4 << 20 };

/* Streams of the seed; the low half counts sources or epochs. */
#define STREAM_CHOOSE ((uint64_t)0x63686f73 << 32)
#define STREAM_REPEAT ((uint64_t)0x72657065 << 32)
#define STREAM_EPOCH ((uint64_t)0x65706f63 << 32)

typedef struct Row {
    const int32_t *tokens; /* (n) */
    int32_t n, trained;    /* tokens[trained..n) are targets; 1 <= trained < n */
    int64_t line;
} Row;

/* What one file gives to an epoch: `whole` times all of its rows, then `extra` of them, chosen by seed. */
typedef struct Source {
    const char *path;
    int64_t first_row, n, whole, extra;
    int64_t first_index; /* of the epoch */
} Source;

struct Dataset {
    Arena arena; /* tokens and paths */
    Row *rows;
    int64_t n_rows, cap_rows;
    Source *sources;
    size_t n_sources;
    uint64_t seed;
    int64_t epoch_rows, epoch_tokens, longest, dropped, cut, unknown;
    uint8_t *mask; /* (longest) zeros, (longest) ones: every row's mask is a window on it */
};

/* ---- one row ---- */

enum { PROMPT, COMPLETION, TEXT, N_FIELDS };

/* Parses a line and checks that it is a training row of one of the two kinds. */
static Status parse_row(const JsonlLine *line, JsonlField fields[N_FIELDS], JsonlScratch *scratch) {
    static const char *const keys[N_FIELDS] = {"prompt", "completion", "text"};
    for (int i = 0; i < N_FIELDS; i++) fields[i].key = keys[i];
    TRY_RETURN(jsonl_parse(line, fields, N_FIELDS, scratch));
    const bool pair = fields[PROMPT].kind != JSONL_ABSENT || fields[COMPLETION].kind != JSONL_ABSENT;
    const bool text = fields[TEXT].kind != JSONL_ABSENT;
    if (!pair && !text)
        return FAIL(TANE_EFORMAT, "%s:%lld: neither \"prompt\" nor \"text\" is there; each line needs "
                    "{\"prompt\": ..., \"completion\": ...} or {\"text\": ...}", line->path, (long long)line->number);
    if (pair && text)
        return FAIL(TANE_EFORMAT, "%s:%lld: both \"%s\" and \"text\" are there; keep one kind of row", line->path,
                    (long long)line->number, fields[PROMPT].kind != JSONL_ABSENT ? "prompt" : "completion");
    for (int i = pair ? PROMPT : TEXT; i < (pair ? TEXT : N_FIELDS); i++) {
        if (fields[i].kind == JSONL_STRING) continue;
        const char *needed = pair ? "{\"prompt\": ..., \"completion\": ...}" : "{\"text\": ...}";
        if (fields[i].kind == JSONL_ABSENT)
            return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is missing; each line needs %s", line->path,
                        (long long)line->number, keys[i], needed);
        return FAIL(TANE_EFORMAT, "%s:%lld: \"%s\" is %s, but must be text; each line needs %s", line->path,
                    (long long)line->number, keys[i], jsonl_kind_name(fields[i].kind), needed);
    }
    return TANE_OK;
}

/* A thread's share of a chunk. */
typedef struct Worker {
    JsonlScratch scratch;
    TokenList tokens;
    int64_t dropped, cut, unknown;
    ErrorCopy error;
} Worker;

static Status push_token(TokenList *list, int32_t id) {
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 256;
        TRY_RETURN(mem_grow((void **)&list->ids, list->n, cap, sizeof *list->ids));
        list->cap = cap;
    }
    list->ids[list->n++] = id;
    return TANE_OK;
}

static Status push_field(const DatasetOptions *o, const JsonlField *field, Worker *w) {
    const char *text;
    size_t n;
    TRY_RETURN(jsonl_text(field, &w->scratch, &text, &n));
    return tokenizer_encode(o->tokenizer, text, n, &w->tokens);
}

static Status check_tokens(const DatasetOptions *o, const JsonlLine *line, const int32_t *ids, size_t n, Worker *w) {
    const int32_t vocab = tokenizer_vocab_size(o->tokenizer), unk = tokenizer_unk(o->tokenizer);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return FAIL(TANE_EFORMAT, "%s:%lld: the tokenizer gave the id %d, but its vocabulary has only %d entries; "
                        "its model file is damaged", line->path, (long long)line->number, ids[i], vocab);
        w->unknown += unk >= 0 && ids[i] == unk;
    }
    return TANE_OK;
}

/* Applies max_length to a row of *n tokens. *n becomes 0 for a dropped one. */
static Status limit_length(const DatasetOptions *o, const JsonlLine *line, size_t *n, Worker *w) {
    if (*n <= (size_t)o->max_length) return TANE_OK;
    switch (o->truncation) {
    case TRUNCATION_ERROR: break;
    case TRUNCATION_DROP:
        w->dropped++;
        *n = 0;
        return TANE_OK;
    case TRUNCATION_CUT:
        w->cut++;
        *n = (size_t)o->max_length;
        return TANE_OK;
    }
    return FAIL(TANE_EFORMAT, "%s:%lld: the row has %zu tokens, but max_length is %lld; raise max_length, shorten the "
                "row, or set truncation to drop (leave such rows out) or cut (their end is lost)", line->path,
                (long long)line->number, *n, (long long)o->max_length);
}

static Status nothing_to_learn(const DatasetOptions *o, const JsonlLine *line, size_t full, size_t prompt) {
    if (full > (size_t)o->max_length)
        return FAIL(TANE_EFORMAT, "%s:%lld: cut to max_length %lld, the row has no token left to learn: what stands "
                    "before the completion takes %zu; raise max_length or set truncation to drop", line->path,
                    (long long)line->number, (long long)o->max_length, prompt);
    return FAIL(TANE_EFORMAT, "%s:%lld: the row has no token to learn (%zu in all, and the first one of a row is never "
                "a target); fill it or remove the line", line->path, (long long)line->number, full);
}

/* Appends the row's tokens to the worker's list; row->n is 0 when it is dropped. */
static Status encode_row(const DatasetOptions *o, const JsonlLine *line, Worker *w, Row *row) {
    JsonlField fields[N_FIELDS];
    const size_t start = w->tokens.n;
    TRY_RETURN(parse_row(line, fields, &w->scratch));
    const bool pair = fields[PROMPT].kind == JSONL_STRING;
    if (o->add_bos && tokenizer_bos(o->tokenizer) >= 0) TRY_RETURN(push_token(&w->tokens, tokenizer_bos(o->tokenizer)));
    if (pair) TRY_RETURN(push_field(o, &fields[PROMPT], w));
    size_t before = w->tokens.n - start;
    TRY_RETURN(push_field(o, &fields[pair ? COMPLETION : TEXT], w));
    if (o->add_eos) TRY_RETURN(push_token(&w->tokens, tokenizer_eos(o->tokenizer)));
    const size_t full = w->tokens.n - start;
    /* Nothing predicts the first token of a row. */
    size_t trained = o->completion_only && pair && before > 0 ? before : 1, n = full;
    TRY_RETURN(limit_length(o, line, &n, w));
    w->tokens.n = start + n;
    *row = (Row){.n = (int32_t)n, .trained = (int32_t)trained, .line = line->number};
    if (n == 0 && full > 0) return TANE_OK;
    if (trained >= n) return nothing_to_learn(o, line, full, before);
    return check_tokens(o, line, w->tokens.ids + start, n, w);
}

/* ---- one file ---- */

typedef struct Loader {
    Dataset *set;
    const DatasetOptions *options;
    Worker *workers;
    int n_workers;
    JsonlLine *lines; /* (CHUNK_ROWS) */
    Row *rows;        /* (CHUNK_ROWS) */
    size_t n, bytes;  /* of the chunk being gathered */
} Loader;

static void loader_free(Loader *l) {
    for (int i = 0; l->workers && i < l->n_workers; i++) {
        jsonl_scratch_free(&l->workers[i].scratch);
        token_list_free(&l->workers[i].tokens);
    }
    mem_free(l->workers);
    mem_free(l->lines);
    mem_free(l->rows);
}

static Status loader_init(Loader *l, Dataset *set, const DatasetOptions *options) {
    *l = (Loader){.set = set, .options = options, .n_workers = omp_get_max_threads()};
    TRY_RETURN(MEM_NEW_ARRAY(&l->workers, (size_t)l->n_workers));
    TRY_RETURN(MEM_NEW_ARRAY(&l->lines, CHUNK_ROWS));
    return MEM_NEW_ARRAY(&l->rows, CHUNK_ROWS);
}

static size_t slice_begin(const Loader *l, int worker) { return l->n * (size_t)worker / (size_t)l->n_workers; }

static void encode_slice(Loader *l, int worker) {
    Worker *w = &l->workers[worker];
    w->tokens.n = 0;
    w->dropped = w->cut = w->unknown = 0;
    w->error.code = TANE_OK;
    for (size_t i = slice_begin(l, worker); i < slice_begin(l, worker + 1); i++) {
        if (encode_row(l->options, &l->lines[i], w, &l->rows[i]) == TANE_OK) continue;
        err_save(&w->error);
        return;
    }
}

/* Moves a worker's tokens into the arena and its rows behind those that are there. */
static Status keep_slice(Loader *l, int worker) {
    Dataset *set = l->set;
    Worker *w = &l->workers[worker];
    if (w->error.code != TANE_OK) return err_restore(&w->error);
    int32_t *tokens;
    TRY_RETURN(ARENA_NEW_ARRAY(&set->arena, &tokens, w->tokens.n));
    if (w->tokens.n) memcpy(tokens, w->tokens.ids, w->tokens.n * sizeof *tokens);
    for (size_t i = slice_begin(l, worker); i < slice_begin(l, worker + 1); i++) {
        Row row = l->rows[i];
        if (row.n == 0) continue;
        if (set->n_rows == set->cap_rows)
            return FAIL(TANE_EIO, "%s: the file changed while it was read; try again", l->lines[i].path);
        row.tokens = tokens;
        tokens += row.n;
        if (row.n > set->longest) set->longest = row.n;
        set->rows[set->n_rows++] = row;
    }
    set->dropped += w->dropped;
    set->cut += w->cut;
    set->unknown += w->unknown;
    return TANE_OK;
}

static Status encode_chunk(Loader *l) {
#pragma omp parallel for schedule(static, 1) num_threads(l->n_workers)
    for (int i = 0; i < l->n_workers; i++) encode_slice(l, i);
    for (int i = 0; i < l->n_workers; i++) TRY_RETURN(keep_slice(l, i));
    l->n = l->bytes = 0;
    return TANE_OK;
}

/* The first reading: every line is checked, also those that will not be chosen. */
static Status count_rows(JsonlReader *reader, Loader *l, int64_t *rows) {
    for (*rows = 0;; ++*rows) {
        JsonlLine line;
        JsonlField fields[N_FIELDS];
        bool more;
        TRY_RETURN(jsonl_line(reader, &line, &more));
        if (!more) return TANE_OK;
        TRY_RETURN(parse_row(&line, fields, &l->workers[0].scratch));
    }
}

/* The second reading: `keep` of the `rows` rows. */
static Status encode_rows(JsonlReader *reader, Loader *l, uint64_t stream, int64_t rows, int64_t keep) {
    for (int64_t i = 0;; i++) {
        JsonlLine line;
        bool more;
        TRY_RETURN(jsonl_line(reader, &line, &more));
        if (!more) break;
        if (keep < rows && rng_permute(l->set->seed, stream, (uint64_t)rows, (uint64_t)i) >= (uint64_t)keep) continue;
        line.path = l->set->sources[l->set->n_sources].path;
        l->lines[l->n++] = line;
        l->bytes += line.n;
        if (l->n == CHUNK_ROWS || l->bytes >= CHUNK_BYTES) TRY_RETURN(encode_chunk(l));
    }
    return l->n ? encode_chunk(l) : TANE_OK;
}

static Status check_source(const DataSource *in) {
    if (!(in->fraction > 0 && in->fraction <= 1))
        return FAIL(TANE_EINVAL, "%s: fraction is %g; it must be more than 0 and at most 1", in->path, in->fraction);
    if (!(in->repeat >= 1 && in->repeat <= 1e6))
        return FAIL(TANE_EINVAL, "%s: repeat is %g; it must be from 1 to 1000000", in->path, in->repeat);
    return TANE_OK;
}

static Status load_source(Loader *l, const DataSource *in) {
    Status st = TANE_OK;
    Dataset *set = l->set;
    JsonlReader *reader = NULL;
    Source *source = &set->sources[set->n_sources];
    char *path;
    int64_t rows, keep;
    TRY(check_source(in));
    TRY(arena_strdup(&set->arena, &path, in->path));
    *source = (Source){.path = path, .first_row = set->n_rows};
    TRY(jsonl_open(&reader, path));
    TRY(count_rows(reader, l, &rows));
    keep = llround(in->fraction * (double)rows);
    if (keep < 1) keep = 1;
    TRY(mem_grow((void **)&set->rows, (size_t)set->n_rows, (size_t)(set->n_rows + keep), sizeof *set->rows));
    set->cap_rows = set->n_rows + keep;
    jsonl_rewind(reader);
    TRY(encode_rows(reader, l, STREAM_CHOOSE + set->n_sources, rows, keep));
    source->n = set->n_rows - source->first_row;
    if (source->n == 0)
        TRY(FAIL(TANE_EFORMAT, "%s: each of the %lld rows is longer than max_length %lld and was dropped; raise "
                 "max_length", path, (long long)keep, (long long)l->options->max_length));
    source->whole = (int64_t)in->repeat;
    source->extra = llround((in->repeat - (double)source->whole) * (double)source->n);
    set->n_sources++;
out:
    jsonl_close(reader);
    return st;
}

/* ---- the set ---- */

static Status check_options(size_t n, const DatasetOptions *o) {
    if (n == 0) return FAIL(TANE_EINVAL, "no data: name at least one JSONL file");
    if (o->max_length < 2)
        return FAIL(TANE_EINVAL, "max_length is %lld; it must be at least 2", (long long)o->max_length);
    if (o->add_eos && tokenizer_eos(o->tokenizer) < 0)
        return FAIL(TANE_EINVAL, "the tokenizer has no end-of-text token, so the model could not learn where to stop; "
                    "use one that has it (`tane tokenizer train` makes one), or set add_eos to false");
    return TANE_OK;
}

static const Row *source_row(const Dataset *set, size_t s, int64_t local) {
    const Source *source = &set->sources[s];
    int64_t all = source->whole * source->n, row = local % source->n;
    if (local >= all)
        row = (int64_t)rng_permute(set->seed, STREAM_REPEAT + s, (uint64_t)source->n, (uint64_t)(local - all));
    return &set->rows[source->first_row + row];
}

static void count_epoch(Dataset *set) {
    for (size_t s = 0; s < set->n_sources; s++) {
        Source *source = &set->sources[s];
        source->first_index = set->epoch_rows;
        set->epoch_rows += source->whole * source->n + source->extra;
        int64_t once = 0;
        for (int64_t i = 0; i < source->n; i++) once += set->rows[source->first_row + i].n;
        set->epoch_tokens += once * source->whole;
        for (int64_t i = 0; i < source->extra; i++)
            set->epoch_tokens += source_row(set, s, source->whole * source->n + i)->n;
    }
}

Status dataset_load(Dataset **out, const DataSource *sources, size_t n, const DatasetOptions *options, uint64_t seed) {
    Status st = TANE_OK;
    Dataset *set = NULL;
    Loader loader = {0};
    *out = NULL;
    TRY(check_options(n, options));
    TRY(MEM_NEW(&set));
    set->seed = seed;
    TRY(MEM_NEW_ARRAY(&set->sources, n));
    TRY(loader_init(&loader, set, options));
    for (size_t i = 0; i < n; i++) TRY(load_source(&loader, &sources[i]));
    TRY(MEM_NEW_ARRAY(&set->mask, (size_t)(2 * set->longest)));
    memset(set->mask + set->longest, 1, (size_t)set->longest);
    count_epoch(set);
    *out = set;
    set = NULL;
out:
    loader_free(&loader);
    dataset_free(set);
    return st;
}

void dataset_free(Dataset *set) {
    if (!set) return;
    arena_release(&set->arena);
    mem_free(set->rows);
    mem_free(set->sources);
    mem_free(set->mask);
    mem_free(set);
}

int64_t dataset_rows(const Dataset *set) { return set->epoch_rows; }
int64_t dataset_longest(const Dataset *set) { return set->longest; }
int64_t dataset_tokens(const Dataset *set) { return set->epoch_tokens; }
int64_t dataset_dropped(const Dataset *set) { return set->dropped; }
int64_t dataset_cut(const Dataset *set) { return set->cut; }
int64_t dataset_unknown(const Dataset *set) { return set->unknown; }

void dataset_row(const Dataset *set, int64_t index, DatasetRow *out) {
    assert(index >= 0 && index < set->epoch_rows);
    size_t s = set->n_sources - 1;
    while (set->sources[s].first_index > index) s--;
    const Row *row = source_row(set, s, index - set->sources[s].first_index);
    *out = (DatasetRow){row->tokens, set->mask + set->longest - row->trained, row->n, set->sources[s].path, row->line};
}

int64_t dataset_at(const Dataset *set, uint64_t seed, int64_t epoch, int64_t position) {
    assert(position >= 0 && position < set->epoch_rows);
    return (int64_t)rng_permute(seed, STREAM_EPOCH + (uint64_t)epoch, (uint64_t)set->epoch_rows, (uint64_t)position);
}

/* ---- batches ---- */

Status batch_new(Batch *batch, int64_t rows, int64_t width) {
    Status st = TANE_OK;
    *batch = (Batch){.rows = rows, .width = width};
    TRY(MEM_NEW_ARRAY(&batch->tokens, (size_t)(rows * width)));
    TRY(MEM_NEW_ARRAY(&batch->labels, (size_t)(rows * width)));
    TRY(MEM_NEW_ARRAY(&batch->indices, (size_t)rows));
    return TANE_OK;
out:
    batch_free(batch);
    return st;
}

Status batch_view(Batch *batch, int64_t rows, int64_t width, int32_t *tokens, int32_t *labels) {
    *batch = (Batch){.rows = rows, .width = width, .tokens = tokens, .labels = labels, .view = true};
    return MEM_NEW_ARRAY(&batch->indices, (size_t)rows);
}

void batch_free(Batch *batch) {
    if (!batch->view) mem_free(batch->tokens);
    if (!batch->view) mem_free(batch->labels);
    mem_free(batch->indices);
    *batch = (Batch){0};
}

/* Row r of the batch: dataset row `index`, or nothing but padding for -1. */
static void fill_row(Batch *batch, const Dataset *set, int64_t r, int64_t index, int32_t pad_id) {
    int32_t *tokens = batch->tokens + r * batch->width, *labels = batch->labels + r * batch->width;
    DatasetRow row = {0};
    if (index >= 0) dataset_row(set, index, &row);
    assert(row.n <= batch->width + 1);
    batch->indices[r] = index;
    for (int64_t t = 0; t < batch->width; t++) {
        bool trained = t + 1 < row.n && row.mask[t + 1];
        tokens[t] = t < row.n ? row.tokens[t] : pad_id;
        labels[t] = trained ? row.tokens[t + 1] : -100;
        batch->real += t < row.n;
        batch->targets += trained;
    }
}

void batch_fill(Batch *batch, const Dataset *set, uint64_t seed, int64_t epoch, int64_t first, int32_t pad_id) {
    batch->targets = batch->real = 0;
    for (int64_t r = 0; r < batch->rows; r++) {
        bool there = first + r < set->epoch_rows;
        fill_row(batch, set, r, there ? dataset_at(set, seed, epoch, first + r) : -1, pad_id);
    }
}

void batch_fill_ordered(Batch *batch, const Dataset *set, int64_t first, int32_t pad_id) {
    batch->targets = batch->real = 0;
    for (int64_t r = 0; r < batch->rows; r++)
        fill_row(batch, set, r, first + r < set->epoch_rows ? first + r : -1, pad_id);
}
