/* Rows to tokens, a slice of each chunk a thread. See tokenize.h. */
#include "data/tokenize.h"

#include <omp.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

/* Documents of plain text are tokenized in pieces: small ones where that makes no difference, so that all threads have
 * some; else large ones, because memory has an end, and a few tokens at the cuts may be others. */
enum { CHUNK_ROWS = 4096, PIECE = 64 << 10, LARGE_PIECE = 16 << 20 };

/* A thread's share of a chunk. */
typedef struct Worker {
    RowScratch *scratch;
    RowTokens tokens;
    size_t first, end; /* rows of the chunk */
    ErrorCopy error;
} Worker;

/* What the row's worker has behind a row. */
typedef struct RowEnd {
    size_t tokens;
    int64_t unknown;
} RowEnd;

typedef struct Tokenizing {
    const TokenizeOptions *options;
    const TokenizeSink *sink;
    TokenizeCounts *counts;
    RowFormat *format;
    RowReader *reader;
    ShardBuilder builder;
    Worker *workers;
    int n_workers;
    Row *rows;    /* (CHUNK_ROWS) */
    RowEnd *ends; /* (CHUNK_ROWS) */
    size_t n;
    bool inside; /* the last row goes on */
    double told;
} Tokenizing;

static void end(Tokenizing *t) {
    for (int i = 0; t->workers && i < t->n_workers; i++) {
        row_scratch_free(t->workers[i].scratch);
        row_tokens_free(&t->workers[i].tokens);
    }
    mem_free(t->workers);
    mem_free(t->rows);
    mem_free(t->ends);
    shard_builder_free(&t->builder);
    row_format_free(t->format);
    rows_close(t->reader);
}

static Status begin(Tokenizing *t, const char *path) {
    const TokenizeOptions *o = t->options;
    const char *keys[ROW_FORMAT_KEYS];
    RowsOptions rows = {.columns = keys,
                        .separator = o->text_separator,
                        .piece = tokenizer_cuts_at_lines(o->format.tokenizer) ? PIECE : LARGE_PIECE};
    t->n_workers = omp_get_max_threads();
    shard_builder_init(&t->builder, tokenizer_vocab_size(o->format.tokenizer));
    t->builder.open = o->in_document;
    t->inside = o->in_document;
    TRY_RETURN(MEM_NEW_ARRAY(&t->workers, (size_t)t->n_workers));
    TRY_RETURN(MEM_NEW_ARRAY(&t->rows, CHUNK_ROWS));
    TRY_RETURN(MEM_NEW_ARRAY(&t->ends, CHUNK_ROWS));
    for (int i = 0; i < t->n_workers; i++) TRY_RETURN(row_scratch_new(&t->workers[i].scratch));
    TRY_RETURN(row_format_new(&t->format, &o->format));
    rows.n_columns = row_format_keys(t->format, keys);
    return rows_open(&t->reader, path, &rows);
}

/* Slices of about the same number of bytes. */
static void share_out(Tokenizing *t) {
    size_t bytes = 0, before = 0, row = 0;
    for (size_t i = 0; i < t->n; i++) bytes += t->rows[i].line.n;
    for (int w = 0; w < t->n_workers; w++) {
        size_t until = bytes / (size_t)t->n_workers * (size_t)(w + 1);
        t->workers[w].first = row;
        while (row < t->n && (w + 1 == t->n_workers || before + t->rows[row].line.n / 2 < until))
            before += t->rows[row++].line.n;
        t->workers[w].end = row;
    }
}

static void encode_slice(Tokenizing *t, Worker *w) {
    w->tokens.list.n = 0;
    w->tokens.unknown = 0;
    w->error.code = TANE_OK;
    for (size_t i = w->first; i < w->end; i++) {
        bool first = i > 0 ? !t->rows[i - 1].goes_on : !t->inside;
        if (row_encode(t->format, &t->rows[i], first, w->scratch, &w->tokens) != TANE_OK) {
            err_save(&w->error);
            return;
        }
        t->ends[i] = (RowEnd){w->tokens.list.n, w->tokens.unknown};
    }
}

static Status close_shard(Tokenizing *t) {
    TokenShard shard;
    if (t->builder.tokens == 0) return TANE_OK;
    bool open = t->builder.open;
    if (!t->options->shard_tokens) { /* it stays in memory */
        TRY_RETURN(shard_builder_take(&t->builder, &shard));
        return t->sink->shard(t->sink->user, &shard, t->counts, open);
    }
    shard_builder_view(&t->builder, &shard);
    TRY_RETURN(t->sink->shard(t->sink->user, &shard, t->counts, open));
    shard_builder_clear(&t->builder);
    return TANE_OK;
}

static Status keep_slice(Tokenizing *t, const Worker *w) {
    TokenizeCounts *counts = t->counts;
    RowEnd at = {0};
    if (w->error.code != TANE_OK) return err_restore(&w->error);
    for (size_t i = w->first; i < w->end; at = t->ends[i++]) {
        const Row *row = &t->rows[i];
        size_t n = t->ends[i].tokens - at.tokens;
        TRY_RETURN(shard_builder_add(&t->builder, w->tokens.list.ids + at.tokens, w->tokens.mask + at.tokens, n,
                                     row->line.number, row->goes_on));
        counts->rows++;
        counts->documents += !row->goes_on;
        counts->tokens += (int64_t)n;
        counts->unknown += t->ends[i].unknown - at.unknown;
        counts->bytes += row->line.n;
        if (t->options->shard_tokens && (int64_t)t->builder.tokens >= t->options->shard_tokens)
            TRY_RETURN(close_shard(t));
    }
    return TANE_OK;
}

static Status encode_chunk(Tokenizing *t) {
    share_out(t);
#pragma omp parallel for schedule(static, 1) num_threads(t->n_workers)
    for (int i = 0; i < t->n_workers; i++) encode_slice(t, &t->workers[i]);
    for (int i = 0; i < t->n_workers; i++) TRY_RETURN(keep_slice(t, &t->workers[i]));
    t->inside = t->rows[t->n - 1].goes_on;
    return TANE_OK;
}

/* The rows of a chunk that are not to be passed over. */
static void pass_over(Tokenizing *t, int64_t *skip) {
    size_t n = (uint64_t)*skip < t->n ? (size_t)*skip : t->n;
    *skip -= (int64_t)n;
    t->counts->rows += (int64_t)n;
    t->n -= n;
    memmove(t->rows, t->rows + n, t->n * sizeof *t->rows);
}

static Status tell(Tokenizing *t) {
    double now = clock_seconds();
    if (!t->sink->progress || now - t->told < 0.1) return TANE_OK;
    t->told = now;
    if (t->sink->progress(t->sink->user, rows_progress(t->reader), t->counts)) return FAIL(TANE_ECANCELED, "stopped");
    return TANE_OK;
}

Status tokenize_file(const char *path, const TokenizeOptions *options, const TokenizeSink *sink,
                     TokenizeCounts *counts) {
    Status st = TANE_OK;
    Tokenizing t = {.options = options, .sink = sink, .counts = counts};
    int64_t skip = options->skip;
    TRY(begin(&t, path));
    while (true) {
        TRY(rows_chunk(t.reader, t.rows, CHUNK_ROWS, &t.n));
        if (t.n == 0) break;
        if (skip) pass_over(&t, &skip);
        if (t.n) TRY(encode_chunk(&t));
        TRY(tell(&t));
    }
    TRY(close_shard(&t));
out:
    end(&t);
    return st;
}
