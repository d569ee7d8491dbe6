/* Sources to shards, and the rows of an epoch. See dataset.h. */
#include "data/dataset.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "data/prepared.h"
#include "data/tokenize.h"

/* Streams of the seed; the low half counts sources or epochs. */
#define STREAM_CHOOSE ((uint64_t)0x63686f73 << 32)
#define STREAM_REPEAT ((uint64_t)0x72657065 << 32)
#define STREAM_EPOCH  ((uint64_t)0x65706f63 << 32)

/* A shard and where it came from. Documents and tokens are counted over the whole set. */
typedef struct Part {
    TokenShard shard;
    const char *path;
    int64_t first_document, first_token;
} Part;

/* What one source gives to an epoch: `whole` times all of its rows, then `extra` of them, chosen by seed. */
typedef struct Source {
    const char *path;
    size_t first_part, n_parts;
    int64_t *chosen; /* (n) documents, rising; NULL: all, from first_document on */
    int64_t first_document, n, whole, extra;
    int64_t first_index; /* of the epoch */
    double weight;
} Source;

struct Dataset {
    Arena arena; /* paths */
    Part *parts;
    size_t n_parts, cap_parts;
    Source *sources;
    size_t n_sources;
    uint64_t seed;
    int64_t max_length; /* INT64_MAX: any */
    int64_t epoch_rows, epoch_tokens, longest, dropped, cut, unknown;
    bool prepared;
    uint64_t hash; /* of tokens and masks, or of the checksums of prepared shards */
};

/* ---- parts ---- */

static Status add_part(Dataset *set, TokenShard *shard, const char *path) {
    if (set->n_parts == set->cap_parts) {
        size_t cap = set->cap_parts ? 2 * set->cap_parts : 8;
        Status st = mem_grow((void **)&set->parts, set->n_parts, cap, sizeof *set->parts);
        if (st != TANE_OK) {
            shard_release(shard);
            return st;
        }
        set->cap_parts = cap;
    }
    Part *part = &set->parts[set->n_parts], *before = set->n_parts ? part - 1 : NULL;
    *part = (Part){*shard, path, before ? before->first_document + before->shard.documents : 0,
                   before ? before->first_token + before->shard.tokens : 0};
    set->n_parts++;
    return TANE_OK;
}

/* The part that holds this document, or this token. */
static const Part *part_of(const Part *parts, size_t n, int64_t at, bool token) {
    size_t lo = 0, hi = n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if ((token ? parts[mid].first_token : parts[mid].first_document) <= at) lo = mid;
        else hi = mid;
    }
    return &parts[lo];
}

static void document(const Dataset *set, int64_t d, DatasetRow *row) {
    const Part *part = part_of(set->parts, set->n_parts, d, false);
    const TokenShard *s = &part->shard;
    int64_t i = d - part->first_document, n = (int64_t)(s->bounds[i + 1] - s->bounds[i]);
    *row = (DatasetRow){s,          (int64_t)s->bounds[i], n < set->max_length ? n : set->max_length, n,
                        part->path, (int64_t)s->lines[i]};
}

/* ---- one source ---- */

typedef struct Loading {
    Dataset *set;
    const DatasetOptions *options;
    const char *path; /* of the file at hand, in the set's arena */
} Loading;

static Status keep_shard(void *user, TokenShard *shard, const TokenizeCounts *counts, bool in_document) {
    Loading *l = user;
    (void)counts;
    (void)in_document;
    uint64_t h = l->set->hash;
    for (int64_t i = 0; i < shard->tokens; i++) h = hash_word(h, (uint64_t)shard_token(shard, i));
    for (int64_t d = 1; d <= shard->documents; d++) h = hash_word(h, shard->bounds[d]);
    for (int64_t w = 0; shard->mask && w < (shard->tokens + 63) / 64; w++) h = hash_word(h, shard->mask[w]);
    l->set->hash = h;
    return add_part(l->set, shard, l->path);
}

static Status load_rows(Loading *l) {
    TokenizeOptions o = {.format = l->options->format, .text_separator = l->options->text_separator};
    TokenizeSink sink = {.shard = keep_shard, .user = l};
    TokenizeCounts counts = {0};
    TRY_RETURN(tokenize_file(l->path, &o, &sink, &counts));
    l->set->unknown += counts.unknown;
    return TANE_OK;
}

static Status keep_prepared(void *user, TokenShard *shard, const char *path, const char *hash) {
    Loading *l = user;
    char *copy;
    Status st = arena_strdup(&l->set->arena, &copy, path);
    if (st != TANE_OK) {
        shard_release(shard);
        return st;
    }
    for (const char *c = hash; *c; c++) l->set->hash = hash_word(l->set->hash, (uint64_t)*c);
    l->set->prepared = true;
    return add_part(l->set, shard, copy);
}

/* One file of rows or tokens, or a folder of prepared tokens. */
static Status load_file(Loading *l) {
    bool prepared;
    TRY_RETURN(prepared_is(l->path, &prepared));
    return prepared ? prepared_open(l->path, l->options->format.tokenizer, keep_prepared, l) : load_rows(l);
}

static Status load_files(Loading *l, const DataSource *in) {
    Arena arena = {0};
    char **files;
    size_t n;
    bool prepared;
    Status st = prepared_is(in->path, &prepared);
    if (st == TANE_OK && prepared) st = arena_strdup(&l->set->arena, (char **)&l->path, in->path);
    if (st == TANE_OK && prepared) return load_file(l);
    if (st == TANE_OK) st = rows_files(&in->path, 1, &arena, &files, &n);
    for (size_t i = 0; st == TANE_OK && i < n; i++) {
        st = arena_strdup(&l->set->arena, (char **)&l->path, files[i]);
        if (st == TANE_OK) st = load_file(l);
    }
    arena_release(&arena);
    return st;
}

static Status check_source(const DataSource *in) {
    if (!(in->fraction > 0 && in->fraction <= 1))
        return FAIL(TANE_EINVAL, "%s: fraction is %g; it must be above 0 and at most 1", in->path, in->fraction);
    if (!(in->repeat >= 1 && in->repeat <= 1e6))
        return FAIL(TANE_EINVAL, "%s: repeat is %g; it must be from 1 to 1000000", in->path, in->repeat);
    return TANE_OK;
}

/* ---- which rows ---- */

static bool has_target(const DatasetRow *row) {
    for (int64_t t = 1; t < row->n; t++)
        if (row_trained(row, t)) return true;
    return false;
}

/* Applies max_length to document d. *keep: it stays. */
static Status limit_length(Dataset *set, const DatasetOptions *o, int64_t d, bool *keep) {
    DatasetRow row;
    document(set, d, &row);
    *keep = true;
    if (row.full <= set->max_length) {
        if (set->max_length == INT64_MAX || has_target(&row)) return TANE_OK;
        *keep = false; /* the last token of a document that began in the shard before is no loss */
        if (row.begin == 0 && row.shard->continues) return TANE_OK;
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: the row has no token to learn (%lld in all, and the first one of a row is never "
                    "a target); prepare the data again without it",
                    row.source, (long long)row.line, (long long)row.n);
    }
    switch (o->truncation) {
    case TRUNCATION_ERROR: break;
    case TRUNCATION_DROP:
        set->dropped++;
        *keep = false;
        return TANE_OK;
    case TRUNCATION_CUT:
        set->cut++;
        if (has_target(&row)) return TANE_OK;
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: cut to max_length %lld, the row has no token left to learn: what stands before "
                    "the completion takes more; raise max_length or set truncation to drop",
                    row.source, (long long)row.line, (long long)set->max_length);
    }
    return FAIL(TANE_EFORMAT,
                "%s:%lld: the row has %lld tokens, but max_length is %lld; raise max_length, shorten the "
                "row, or set truncation to drop (leave such rows out) or cut (their end is lost)",
                row.source, (long long)row.line, (long long)row.full, (long long)set->max_length);
}

/* Chooses `want` of the source's n documents by seed and leaves out those that are too long. */
static Status choose(Dataset *set, const DatasetOptions *o, size_t s, int64_t want) {
    Source *source = &set->sources[s];
    int64_t all = source->n, n = 0;
    bool whole = want == all;
    TRY_RETURN(MEM_NEW_ARRAY(&source->chosen, (size_t)all));
    for (int64_t i = 0; i < all; i++) {
        bool keep;
        if (want < all && rng_permute(set->seed, STREAM_CHOOSE + s, (uint64_t)all, (uint64_t)i) >= (uint64_t)want)
            continue;
        TRY_RETURN(limit_length(set, o, source->first_document + i, &keep));
        if (keep) source->chosen[n++] = source->first_document + i;
    }
    if (n == 0)
        return FAIL(TANE_EFORMAT,
                    "%s: each of the %lld rows is longer than max_length %lld and was dropped; raise "
                    "max_length",
                    source->path, (long long)want, (long long)set->max_length);
    source->n = n;
    if (whole && n == all) {
        mem_free(source->chosen);
        source->chosen = NULL;
    }
    return TANE_OK;
}

static Status load_source(Dataset *set, const DatasetOptions *o, const DataSource *in) {
    size_t s = set->n_sources;
    Source *source = &set->sources[s];
    Loading l = {set, o, NULL};
    char *path;
    TRY_RETURN(check_source(in));
    TRY_RETURN(arena_strdup(&set->arena, &path, in->path));
    *source = (Source){.path = path, .first_part = set->n_parts, .weight = in->fraction * in->repeat};
    set->n_sources++;
    TRY_RETURN(load_files(&l, in));
    source->n_parts = set->n_parts - source->first_part;
    source->first_document = set->parts[source->first_part].first_document;
    const Part *last = &set->parts[set->n_parts - 1];
    source->n = last->first_document + last->shard.documents - source->first_document;
    int64_t want = llround(in->fraction * (double)source->n);
    TRY_RETURN(choose(set, o, s, want < 1 ? 1 : want));
    source->whole = (int64_t)in->repeat;
    source->extra = llround((in->repeat - (double)source->whole) * (double)source->n);
    return TANE_OK;
}

/* ---- the set ---- */

static Status check_options(size_t n, const DatasetOptions *o) {
    if (n == 0) return FAIL(TANE_EINVAL, "no data: name at least one file");
    if (o->max_length != 0 && o->max_length < 2)
        return FAIL(TANE_EINVAL, "max_length is %lld; it must be at least 2", (long long)o->max_length);
    return TANE_OK;
}

static int64_t source_document(const Dataset *set, size_t s, int64_t local) {
    const Source *source = &set->sources[s];
    int64_t all = source->whole * source->n, row = local % source->n;
    if (local >= all)
        row = (int64_t)rng_permute(set->seed, STREAM_REPEAT + s, (uint64_t)source->n, (uint64_t)(local - all));
    return source->chosen ? source->chosen[row] : source->first_document + row;
}

static void count_epoch(Dataset *set) {
    DatasetRow row;
    for (size_t s = 0; s < set->n_sources; s++) {
        Source *source = &set->sources[s];
        source->first_index = set->epoch_rows;
        set->epoch_rows += source->whole * source->n + source->extra;
        int64_t once = 0;
        for (int64_t i = 0; i < source->n; i++) {
            document(set, source_document(set, s, i), &row);
            once += row.n;
            if (row.n > set->longest) set->longest = row.n;
        }
        set->epoch_tokens += once * source->whole;
        for (int64_t i = 0; i < source->extra; i++) {
            document(set, source_document(set, s, source->whole * source->n + i), &row);
            set->epoch_tokens += row.n;
        }
    }
}

Status dataset_load(Dataset **out, const DataSource *sources, size_t n, const DatasetOptions *options, uint64_t seed) {
    Status st = TANE_OK;
    Dataset *set = NULL;
    *out = NULL;
    TRY(check_options(n, options));
    TRY(MEM_NEW(&set));
    set->seed = seed;
    set->hash = HASH_START;
    set->max_length = options->max_length ? options->max_length : INT64_MAX;
    TRY(MEM_NEW_ARRAY(&set->sources, n));
    for (size_t i = 0; i < n; i++) TRY(load_source(set, options, &sources[i]));
    count_epoch(set);
    *out = set;
    set = NULL;
out:
    dataset_free(set);
    return st;
}

void dataset_free(Dataset *set) {
    if (!set) return;
    for (size_t i = 0; i < set->n_parts; i++) shard_release(&set->parts[i].shard);
    for (size_t i = 0; i < set->n_sources; i++) mem_free(set->sources[i].chosen);
    mem_free(set->parts);
    mem_free(set->sources);
    arena_release(&set->arena);
    mem_free(set);
}

int64_t dataset_rows(const Dataset *set) { return set->epoch_rows; }
int64_t dataset_longest(const Dataset *set) { return set->longest; }
int64_t dataset_tokens(const Dataset *set) { return set->epoch_tokens; }
int64_t dataset_dropped(const Dataset *set) { return set->dropped; }
int64_t dataset_cut(const Dataset *set) { return set->cut; }
int64_t dataset_unknown(const Dataset *set) { return set->unknown; }
bool dataset_has_prepared(const Dataset *set) { return set->prepared; }

void dataset_fingerprint(const Dataset *set, char out[17]) {
    uint64_t h = hash_word(set->hash, (uint64_t)set->max_length);
    for (size_t s = 0; s < set->n_sources; s++) {
        const Source *source = &set->sources[s];
        h = hash_word(hash_word(hash_word(h, (uint64_t)source->n), (uint64_t)source->whole), (uint64_t)source->extra);
        for (int64_t i = 0; source->chosen && i < source->n; i++) h = hash_word(h, (uint64_t)source->chosen[i]);
    }
    snprintf(out, 17, "%016llx", (unsigned long long)h);
}

void dataset_row(const Dataset *set, int64_t index, DatasetRow *out) {
    assert(index >= 0 && index < set->epoch_rows);
    size_t s = set->n_sources - 1;
    while (set->sources[s].first_index > index) s--;
    document(set, source_document(set, s, index - set->sources[s].first_index), out);
}

int64_t dataset_at(const Dataset *set, uint64_t seed, int64_t epoch, int64_t position) {
    assert(position >= 0 && position < set->epoch_rows);
    return (int64_t)rng_permute(seed, STREAM_EPOCH + (uint64_t)epoch, (uint64_t)set->epoch_rows, (uint64_t)position);
}

/* ---- streams ---- */

size_t dataset_streams(const Dataset *set) { return set->n_sources; }

static int64_t stream_begin(const Dataset *set, size_t stream) {
    return set->parts[set->sources[stream].first_part].first_token;
}

int64_t dataset_stream_tokens(const Dataset *set, size_t stream) {
    const Source *s = &set->sources[stream];
    const Part *last = &set->parts[s->first_part + s->n_parts - 1];
    return last->first_token + last->shard.tokens - stream_begin(set, stream);
}

double dataset_stream_weight(const Dataset *set, size_t stream) { return set->sources[stream].weight; }

void dataset_stream_copy(const Dataset *set, size_t stream, int64_t at, int64_t n, int32_t *tokens, uint8_t *trained) {
    assert(at >= 0 && at + n <= dataset_stream_tokens(set, stream));
    at += stream_begin(set, stream);
    const Part *part = part_of(set->parts, set->n_parts, at, true);
    while (n > 0) {
        const TokenShard *s = &part->shard;
        int64_t from = at - part->first_token, m = s->tokens - from < n ? s->tokens - from : n;
        shard_copy(s, from, m, tokens);
        if (!s->mask) memset(trained, 1, (size_t)m);
        for (int64_t i = 0; s->mask && i < m; i++) trained[i] = shard_trained(s, 0, from + i);
        at += m, n -= m, tokens += m, trained += m, part++;
    }
}

int64_t dataset_stream_row(const Dataset *set, size_t stream, int64_t at, DatasetRow *row) {
    at += stream_begin(set, stream);
    const Part *part = part_of(set->parts, set->n_parts, at, true);
    const uint64_t *bounds = part->shard.bounds;
    int64_t from = at - part->first_token, lo = 0, hi = part->shard.documents;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if ((int64_t)bounds[mid] <= from) lo = mid;
        else hi = mid;
    }
    document(set, part->first_document + lo, row);
    return from - row->begin;
}
