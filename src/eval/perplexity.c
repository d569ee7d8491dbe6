/* Documents to windows, and what they add up to. See perplexity.h.
 *
 * A document's tokens come piece by piece and are kept only as far as a window still needs them, so a file of any size
 * takes little memory. Windows are numbered as they come; those that a results file has are not computed again.
 */
#include "eval/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "data/row_columns.h"
#include "data/rows.h"
#include "eval/windows.h"

enum {
    BATCH_TOKENS = 4096, /* computed at once */
    GPU_BATCH_TOKENS = 16384,
    POOL_BATCHES = 4, /* windows wait for so many batches to be filled from */
    PIECE = 1 << 20   /* bytes of a document read at a time */
};

/* What a window counts for. */
typedef struct Item {
    int64_t id, line, tokens, bytes;
    PerplexityPart *file;
} Item;

typedef struct Saved {
    int64_t id;
    double loss;
} Saved;

/* The tokens of a document that are still needed: index `first` of the document and on. */
typedef struct Document {
    int32_t *ids;
    int64_t *ends; /* the byte of the document behind each token's text */
    size_t n, cap;
    int64_t first, begin, scored; /* begin: of the next window; scored: the last token that is */
    int64_t bytes, line;
    bool inside;
} Document;

typedef struct Measuring {
    const PerplexityOptions *o;
    const Model *model;
    PerplexityReport *out;
    PerplexityPart *file;
    RowColumns columns;
    JsonlScratch json;
    TokenList piece, pool; /* pool: of the windows that wait */
    Document doc;
    Window *windows; /* those that wait */
    Item *items;
    size_t n_waiting, cap_waiting;
    int64_t waiting_tokens, batch_tokens, longest;
    Windows tapes;
    Saved *saved; /* by id */
    size_t n_saved, cap_saved, next_saved;
    double share, told;
} Measuring;

double perplexity_loss(const PerplexityPart *p) { return p->tokens ? p->loss_sum / (double)p->tokens : NAN; }
double perplexity_of(const PerplexityPart *p) { return exp(perplexity_loss(p)); }
double perplexity_bits_per_byte(const PerplexityPart *p) {
    return p->bytes ? p->loss_sum / log(2) / (double)p->bytes : NAN;
}

/* ---- computing ---- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Batches as wide as a window; when everything there is waits already, no larger than it needs. */
static Status make_tapes(Measuring *m, bool all) {
    int64_t width = all ? m->longest : m->out->context;
    int64_t rows = m->o->rows ? m->o->rows : m->batch_tokens / width > 1 ? m->batch_tokens / width : 1;
    if (all) rows = smaller(rows, smaller((int64_t)m->n_waiting, 2 * (m->waiting_tokens / width + 1)));
    return windows_new(&m->tapes, m->model, rows, width);
}

static Status save(Measuring *m, const Item *item, double loss) {
    if (!m->o->results) return TANE_OK;
    json_t *line = json_object();
    bool whole = results_set(line, "id", json_integer(item->id)) &&
                 results_set(line, "file", json_string(item->file->path)) &&
                 results_set(line, "line", json_integer(item->line)) &&
                 results_set(line, "tokens", json_integer(item->tokens)) &&
                 results_set(line, "bytes", json_integer(item->bytes)) && results_set(line, "loss", json_real(loss));
    return results_add(m->o->results, line, whole);
}

static Status tell(Measuring *m, bool last) {
    double now = clock_seconds();
    if (!m->o->progress || (!last && now - m->told < 0.1)) return TANE_OK;
    m->told = now;
    int64_t tokens = 0;
    for (size_t i = 0; i < m->out->n_files; i++) tokens += m->out->files[i].tokens;
    return m->o->progress(m->o->user, last ? 1 : m->share, tokens)
               ? FAIL(TANE_ECANCELED, "stopped after %.0f%% of the text", 100 * m->share)
               : TANE_OK;
}

static Status flush(Measuring *m, bool all) {
    if (m->n_waiting == 0) return TANE_OK;
    if (!m->tapes.model) TRY_RETURN(make_tapes(m, all));
    TRY_RETURN(windows_score(&m->tapes, m->pool.ids, m->windows, m->n_waiting));
    for (size_t i = 0; i < m->n_waiting; i++) {
        const Item *item = &m->items[i];
        double loss = m->windows[i].loss;
        if (!isfinite(loss))
            return FAIL(TANE_ENUMERIC,
                        "%s:%lld: the loss of this text is not a finite number; the weights are damaged, or "
                        "too large for %s (try --compute-dtype fp32)",
                        item->file->path, (long long)item->line, dtype_name(m->model->dtype));
        item->file->loss_sum += loss;
        TRY_RETURN(save(m, item, loss));
    }
    m->n_waiting = 0;
    m->waiting_tokens = m->longest = 0;
    m->pool.n = 0;
    return tell(m, false);
}

/* ---- windows ---- */

static Status enqueue(Measuring *m, const Window *window, const Item *item) {
    if (m->n_waiting == m->cap_waiting) {
        size_t cap = m->cap_waiting ? 2 * m->cap_waiting : 64;
        TRY_RETURN(mem_grow((void **)&m->windows, m->cap_waiting, cap, sizeof *m->windows));
        TRY_RETURN(mem_grow((void **)&m->items, m->cap_waiting, cap, sizeof *m->items));
        m->cap_waiting = cap;
    }
    m->windows[m->n_waiting] = *window;
    m->items[m->n_waiting++] = *item;
    m->waiting_tokens += window->n;
    if (window->n > m->longest) m->longest = window->n;
    return m->waiting_tokens < POOL_BATCHES * m->batch_tokens ? TANE_OK : flush(m, false);
}

/* The window of inputs begin .. end - 1, whose last target is `end`. */
static Status add_window(Measuring *m, int64_t end) {
    Document *d = &m->doc;
    const int64_t from = d->begin - d->first, last = end - d->first, scored = d->scored - d->first;
    Item item = {.id = m->out->windows++,
                 .line = d->line,
                 .tokens = last - scored,
                 .bytes = d->ends[last] - d->ends[scored],
                 .file = m->file};
    const int32_t unk = tokenizer_unk(m->o->tokenizer);
    for (int64_t i = scored + 1; i <= last && unk >= 0; i++) m->file->unknown += d->ids[i] == unk;
    m->file->tokens += item.tokens;
    m->file->bytes += item.bytes;
    d->scored = end;
    d->begin += m->out->stride;
    if (m->next_saved < m->n_saved && m->saved[m->next_saved].id == item.id) {
        m->file->loss_sum += m->saved[m->next_saved++].loss;
        m->out->resumed++;
        return TANE_OK;
    }
    Window window = {.first = m->pool.n, .n = last - from, .scored = item.tokens};
    for (int64_t i = from; i <= last; i++) TRY_RETURN(token_list_add(&m->pool, d->ids[i]));
    return enqueue(m, &window, &item);
}

/* The windows that are complete; one token more is awaited, because the document's last one also stands for what is
 * behind it. */
static Status add_windows(Measuring *m, bool ended) {
    Document *d = &m->doc;
    int64_t last = d->first + (int64_t)d->n - 1;
    if (ended && d->n) d->ends[d->n - 1] = d->bytes;
    while (ended ? d->scored < last : d->begin + m->out->context < last)
        TRY_RETURN(add_window(m, smaller(d->begin + m->out->context, last)));
    size_t passed = (size_t)(d->begin - d->first);
    if (ended || passed < (1 << 16) || passed >= d->n) return TANE_OK;
    d->n -= passed;
    d->first = d->begin;
    memmove(d->ids, d->ids + passed, d->n * sizeof *d->ids);
    memmove(d->ends, d->ends + passed, d->n * sizeof *d->ends);
    return TANE_OK;
}

/* ---- documents ---- */

static Status add_token(Document *d, int32_t id, int64_t end) {
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4096;
        TRY_RETURN(mem_grow((void **)&d->ids, d->cap, cap, sizeof *d->ids));
        TRY_RETURN(mem_grow((void **)&d->ends, d->cap, cap, sizeof *d->ends));
        d->cap = cap;
    }
    d->ids[d->n] = id;
    d->ends[d->n++] = end;
    return TANE_OK;
}

static Status begin_document(Measuring *m, int64_t line) {
    Document *d = &m->doc;
    *d = (Document){.ids = d->ids, .ends = d->ends, .cap = d->cap, .line = line, .inside = true};
    const int32_t bos = tokenizer_bos(m->o->tokenizer);
    return m->o->add_bos && bos >= 0 ? add_token(d, bos, 0) : TANE_OK;
}

static Status add_text(Measuring *m, const char *text, size_t n, bool goes_on) {
    Document *d = &m->doc;
    m->piece.n = 0;
    TRY_RETURN(
        tokenizer_encode_input(m->o->tokenizer, &(EncodeInput){.text = text, .n = n, .want_ends = true}, &m->piece));
    for (size_t i = 0; i < m->piece.n; i++)
        TRY_RETURN(add_token(d, m->piece.ids[i], d->bytes + (int64_t)m->piece.ends[i]));
    d->bytes += (int64_t)n;
    TRY_RETURN(add_windows(m, !goes_on));
    if (goes_on) return TANE_OK;
    d->inside = false;
    m->file->documents++;
    return TANE_OK;
}

/* A row's text, until the next one. */
static Status row_text(Measuring *m, const Row *row, const char **text, size_t *n) {
    JsonlField fields[N_KEYS];
    RowKind kind;
    *text = row->line.text;
    *n = row->line.n;
    if (row->plain) return TANE_OK;
    TRY_RETURN(row_columns_read(&m->columns, &row->line, fields, &m->json, &kind));
    if (kind != ROW_TEXT)
        return jsonl_fail(&row->line,
                          "the row is of the format %s, but perplexity is about texts: {\"text\": ...}; ask for "
                          "another metric, or name the text's column (--columns text=NAME)",
                          row_kind_name(kind));
    if (fields[KEY_TEXT].kind != JSONL_STRING)
        return row_columns_wrong(&m->columns, &row->line, kind, &fields[KEY_TEXT], "text");
    return jsonl_text(&fields[KEY_TEXT], &m->json, text, n);
}

static Status take_row(Measuring *m, const Row *row) {
    const char *text;
    size_t n;
    TRY_RETURN(row_text(m, row, &text, &n));
    if (!m->doc.inside) TRY_RETURN(begin_document(m, row->line.number));
    return add_text(m, text, n, row->goes_on);
}

static Status read_file(Measuring *m, size_t index) {
    enum { CHUNK = 64 };
    Status st = TANE_OK;
    RowReader *reader = NULL;
    Row *rows = NULL;
    const char *names[N_KEYS];
    const RowsOptions how = {.columns = names,
                             .n_columns = row_columns_names(&m->columns, names),
                             .separator = m->o->separator,
                             .piece = tokenizer_cuts_at_lines(m->o->tokenizer) ? PIECE : 0};
    m->file = &m->out->files[index];
    TRY(MEM_NEW_ARRAY(&rows, CHUNK));
    TRY(rows_open(&reader, m->file->path, &how));
    for (size_t n = 1; n > 0;) {
        TRY(rows_chunk(reader, rows, CHUNK, &n));
        m->share = ((double)index + rows_progress(reader)) / (double)m->out->n_files;
        for (size_t i = 0; i < n; i++) {
            if (m->o->limit && m->file->documents == m->o->limit) goto out;
            TRY(take_row(m, &rows[i]));
        }
    }
out:
    rows_close(reader);
    mem_free(rows);
    if (st == TANE_OK && m->file->tokens == 0)
        st = FAIL(TANE_EFORMAT,
                  "%s: no token to score: a document's first one has nothing in front of it that could predict "
                  "it (with --add-bos it has)",
                  m->file->path);
    return st;
}

/* ---- the results file ---- */

static Status take_saved(void *user, int64_t id, const json_t *line, const char *where) {
    Measuring *m = user;
    Saved saved = {.id = id};
    TRY_RETURN(json_get_double(line, where, "loss", &saved.loss));
    if (m->n_saved == m->cap_saved) {
        size_t cap = m->cap_saved ? 2 * m->cap_saved : 256;
        TRY_RETURN(mem_grow((void **)&m->saved, m->cap_saved, cap, sizeof *m->saved));
        m->cap_saved = cap;
    }
    m->saved[m->n_saved++] = saved;
    return TANE_OK;
}

static int by_id(const void *x, const void *y) {
    const Saved *a = x, *b = y;
    return (a->id > b->id) - (a->id < b->id);
}

static Status read_saved(Measuring *m) {
    if (!m->o->results) return TANE_OK;
    TRY_RETURN(results_read(m->o->results, INT64_MAX, take_saved, m));
    if (m->n_saved) qsort(m->saved, m->n_saved, sizeof *m->saved, by_id);
    for (size_t i = 1; i < m->n_saved; i++)
        if (m->saved[i].id == m->saved[i - 1].id) return results_twice(results_path(m->o->results), m->saved[i].id);
    return TANE_OK;
}

/* ---- all of it ---- */

static Status settle_options(Measuring *m) {
    const PerplexityOptions *o = m->o;
    const int64_t most = m->model->config.context, vocab = m->model->config.vocab_size;
    const int64_t context = o->context ? o->context : smaller(most, PERPLEXITY_CONTEXT);
    if (context > most)
        return FAIL(TANE_EINVAL, "windows of %lld tokens do not fit the model, whose context is %lld",
                    (long long)context, (long long)most);
    if (o->stride > context)
        return FAIL(TANE_EINVAL,
                    "a stride of %lld would leave out text between windows of %lld tokens; choose one of at most "
                    "%lld",
                    (long long)o->stride, (long long)context, (long long)context);
    if (tokenizer_vocab_size(o->tokenizer) > vocab)
        return FAIL(TANE_EINVAL,
                    "the tokenizer has %d pieces, but the model's vocabulary only %lld: they do not belong "
                    "together",
                    tokenizer_vocab_size(o->tokenizer), (long long)vocab);
    m->out->context = context;
    m->out->stride = o->stride ? o->stride : context;
    m->batch_tokens = m->model->device->host ? BATCH_TOKENS : GPU_BATCH_TOKENS;
    if (o->rows) m->batch_tokens = o->rows * context;
    return row_columns_init(&m->columns, o->format, o->columns);
}

static void add_up(PerplexityReport *r) {
    for (size_t i = 0; i < r->n_files; i++) {
        const PerplexityPart *file = &r->files[i];
        r->all.documents += file->documents;
        r->all.tokens += file->tokens;
        r->all.bytes += file->bytes;
        r->all.unknown += file->unknown;
        r->all.loss_sum += file->loss_sum;
    }
}

static void release(Measuring *m) {
    row_columns_free(&m->columns);
    jsonl_scratch_free(&m->json);
    token_list_free(&m->piece);
    token_list_free(&m->pool);
    windows_free(&m->tapes);
    void *const all[] = {m->doc.ids, m->doc.ends, m->windows, m->items, m->saved};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

Status perplexity(const char *const *paths, size_t n, const Model *model, const PerplexityOptions *options,
                  PerplexityReport *out) {
    Status st = TANE_OK;
    double start = clock_seconds();
    Measuring m = {.o = options, .model = model, .out = out, .told = start};
    *out = (PerplexityReport){.n_files = n};
    TRY(settle_options(&m));
    TRY(read_saved(&m));
    TRY(MEM_NEW_ARRAY(&out->files, n));
    for (size_t i = 0; i < n; i++) out->files[i].path = paths[i];
    for (size_t i = 0; i < n; i++) TRY(read_file(&m, i));
    TRY(flush(&m, true));
    if (m.next_saved < m.n_saved)
        TRY(FAIL(TANE_EINVAL, "%s has a window %lld, but the text has only %lld; write to another file",
                 results_path(options->results), (long long)m.saved[m.next_saved].id, (long long)out->windows));
    if (options->results) TRY(results_sort(options->results));
    TRY(tell(&m, true));
    add_up(out);
    out->memory = windows_bytes(&m.tapes);
    out->seconds = clock_seconds() - start;
out:
    release(&m);
    if (st != TANE_OK) perplexity_report_free(out);
    return st;
}

void perplexity_report_free(PerplexityReport *r) {
    mem_free(r->files);
    *r = (PerplexityReport){0};
}
