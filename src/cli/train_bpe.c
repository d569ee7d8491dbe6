/* Texts for bpe_train, read as they are asked for: a plain file is mapped and is one text (or one a line), of a JSONL
 * file each row is one. */
#include "cli/train_bpe.h"

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "data/jsonl.h"
#include "text/utf8.h"

typedef struct Feed {
    const TrainBpe *job;
    size_t file; /* the next one to open */
    FileMap map;
    const char *at, *end; /* of the mapped file, still to come */
    JsonlReader *reader;
    JsonlScratch scratch;
    Str row;
    uint64_t texts, bytes;
    bool failed; /* the error is one of reading, and names its place */
    bool live;
} Feed;

static bool is_jsonl(const char *path) {
    size_t n = strlen(path);
    return n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

static void skip_mark(const char **text, const char *end) {
    if (end - *text >= 3 && memcmp(*text, "\xEF\xBB\xBF", 3) == 0) *text += 3; /* byte order mark */
}

static uint64_t line_of(const char *text, const char *at) {
    uint64_t line = 1;
    for (; (text = memchr(text, '\n', (size_t)(at - text))); text++) line++;
    return line;
}

static Status open_text(Feed *f, const char *path) {
    TRY_RETURN(file_map(path, &f->map));
    const char *text = (const char *)f->map.data;
    f->end = text + f->map.size;
    const char *zero = f->map.size ? memchr(text, 0, f->map.size) : NULL;
    if (zero)
        return FAIL(TANE_EFORMAT, "%s:%llu: a NUL byte; this is not a text file", path,
                    (unsigned long long)line_of(text, zero));
    f->at = text;
    skip_mark(&f->at, f->end);
    if (f->at == f->end) return FAIL(TANE_EFORMAT, "%s: there is no text in this file", path);
    return TANE_OK;
}

static void next_of_file(Feed *f, const char **text, size_t *n) {
    const char *newline = f->job->lines ? memchr(f->at, '\n', (size_t)(f->end - f->at)) : NULL;
    *text = f->at;
    f->at = newline ? newline + 1 : f->end;
    *n = (size_t)(f->at - *text);
}

static Status add_field(Feed *f, const JsonlLine *line, const JsonlField *field) {
    const char *text;
    size_t n;
    if (field->kind != JSONL_STRING)
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: \"%s\" %s; each line needs {\"prompt\": ..., \"completion\": ...} or "
                    "{\"text\": ...}",
                    line->path, (long long)line->number, field->key,
                    field->kind == JSONL_ABSENT ? "is missing" : "is not text");
    TRY_RETURN(jsonl_text(field, &f->scratch, &text, &n));
    return str_add(&f->row, text, n);
}

static Status next_row(Feed *f, bool *more) {
    JsonlLine line;
    JsonlField fields[] = {{.key = "text"}, {.key = "prompt"}, {.key = "completion"}};
    f->row.len = 0;
    TRY_RETURN(jsonl_next(f->reader, &line, fields, 3, &f->scratch, more));
    if (!*more) return TANE_OK;
    if (fields[0].kind != JSONL_ABSENT && fields[0].kind != JSONL_NULL) return add_field(f, &line, &fields[0]);
    if (fields[1].kind == JSONL_ABSENT && fields[2].kind == JSONL_ABSENT)
        return FAIL(TANE_EFORMAT,
                    "%s:%lld: no text in it; each line needs {\"prompt\": ..., \"completion\": ...} or "
                    "{\"text\": ...}",
                    line.path, (long long)line.number);
    TRY_RETURN(add_field(f, &line, &fields[1]));
    return add_field(f, &line, &fields[2]);
}

static void close_file(Feed *f) {
    file_unmap(&f->map);
    jsonl_close(f->reader);
    f->map = (FileMap){0};
    f->at = f->end = NULL;
    f->reader = NULL;
}

static Status read_next(Feed *f, const char **text, size_t *n, bool *more) {
    for (;;) {
        *more = true;
        if (f->at < f->end) {
            next_of_file(f, text, n);
            return TANE_OK;
        }
        if (f->reader) {
            TRY_RETURN(next_row(f, more));
            *text = f->row.len ? f->row.text : "";
            *n = f->row.len;
            if (*more) return TANE_OK;
        }
        close_file(f);
        *more = f->file < f->job->n_files;
        if (!*more) return TANE_OK;
        const char *path = f->job->files[f->file++];
        TRY_RETURN(is_jsonl(path) ? jsonl_open(&f->reader, path) : open_text(f, path));
    }
}

static Status next_text(void *user, const char **text, size_t *n, bool *more) {
    Feed *f = user;
    Status st = read_next(f, text, n, more);
    f->failed = st != TANE_OK;
    if (st != TANE_OK || !*more) return st;
    f->texts++;
    f->bytes += *n;
    return TANE_OK;
}

/* The trainer checks texts on all threads, but does not know files and lines: where is the first that it refuses? */
static Status find_bad_byte(const TrainBpe *job) {
    for (size_t i = 0; i < job->n_files; i++) {
        if (is_jsonl(job->files[i])) continue; /* checked while reading */
        FileMap map;
        TRY_RETURN(file_map(job->files[i], &map));
        const char *text = (const char *)map.data, *p = text, *end = text + map.size;
        uint32_t code;
        for (size_t len; p < end && (len = utf8_decode(p, (size_t)(end - p), &code)); p += len) {
        }
        Status st = p == end ? TANE_OK
                             : FAIL(TANE_EFORMAT, "%s:%llu: byte 0x%02X is not UTF-8; convert the file to UTF-8",
                                    job->files[i], (unsigned long long)line_of(text, p), (unsigned char)*p);
        file_unmap(&map);
        TRY_RETURN(st);
    }
    return FAIL(TANE_EIO, "the text changed while it was read; try again");
}

static bool show_progress(void *user, double share) {
    const Feed *f = user;
    if (!f->live) return false;
    if (share > 0) fprintf(stderr, "\r\033[Klearning %.0f%%", 100 * share);
    else fprintf(stderr, "\r\033[Kreading %.0f MB", (double)f->bytes / 1e6);
    fflush(stderr);
    return false;
}

static void report(const TrainBpe *job, const Feed *f, int32_t tokens, size_t merges) {
    fprintf(stderr, "%s: %d tokens, %zu merges from %llu texts (%.1f MB)\n", job->out, tokens, merges,
            (unsigned long long)f->texts, (double)f->bytes / 1e6);
    if (tokens < job->options.vocab_size)
        fprintf(stderr,
                "fewer than the %lld asked for: no other pair occurs min_frequency=%lld times; give more text\n",
                (long long)job->options.vocab_size, (long long)job->options.min_frequency);
}

Status train_bpe(const TrainBpe *job) {
    Status st = TANE_OK;
    Feed feed = {.job = job, .live = cli_is_terminal(stderr)};
    TokenizerSpec spec = {0};
    Tokenizer *tok = NULL;
    BpeTrainOptions options = job->options;
    options.progress = show_progress;
    options.user = &feed;
    st = bpe_train(&spec, &options, next_text, &feed);
    if (feed.live) fputs("\r\033[K", stderr);
    if (st == TANE_EFORMAT && !feed.failed) st = find_bad_byte(job);
    if (st != TANE_OK) goto out;
    int32_t tokens = spec.n_tokens;
    size_t merges = spec.n_merges;
    TRY(tokenizer_from_spec(&tok, &spec, job->out));
    TRY(tokenizer_save(tok, job->out));
    report(job, &feed, tokens, merges);
out:
    close_file(&feed);
    jsonl_scratch_free(&feed.scratch);
    str_free(&feed.row);
    tokenizer_free(tok);
    return st;
}
