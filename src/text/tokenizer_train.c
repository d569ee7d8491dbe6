/* Training a SentencePiece tokenizer: checks, the way text is handed over, and the two files that come out.
 *
 * Normalisation is the identity and no space is added or taken away, so that decoding gives the text back. The same
 * text and options give the same bytes, whatever `threads` says.
 */
#include <sched.h>
#include <string.h>

#include "base/file.h"
#include "text/spm.h"
#include "text/spm_proto.h"
#include "text/tokenizer_kind.h"

enum {
    CHUNK = 4192, /* SentencePiece's max_sentence_length; it would leave a longer sentence out without a word */
    SPECIAL = 4,  /* <unk> <s> </s> <pad> */
    BYTES = 256,
    MAX_VOCAB = 1 << 24
};

/* The block character U+2585 stands for "unknown" inside SentencePiece, which leaves out every sentence that has it. */
static const char reserved[] = "\xE2\x96\x85";

/* ---- the text ---- */

typedef struct Feed {
    const char *const *sentences;
    size_t n, at, offset; /* next: sentences[at] + offset */
} Feed;

/* Where to cut a text that is longer than a chunk: behind a newline, before a space, else between two characters. */
static size_t cut(const char *text) {
    for (size_t i = CHUNK; i > CHUNK / 2; i--)
        if (text[i - 1] == '\n') return i;
    for (size_t i = CHUNK; i > CHUNK / 2; i--)
        if (text[i] == ' ') return i;
    size_t n = CHUNK;
    while (n > CHUNK - 4 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    return n;
}

static bool next_chunk(void *ctx, const char **out, size_t *n) {
    Feed *feed = ctx;
    while (feed->at < feed->n) {
        const char *text = feed->sentences[feed->at] + feed->offset;
        size_t left = strnlen(text, CHUNK + 1), len = left > CHUNK ? cut(text) : left;
        const char *hole = len ? memmem(text, len, reserved, 3) : NULL;
        if (hole) len = (size_t)(hole - text);
        feed->offset += len + (hole ? 3 : 0);
        if (left == 0) {
            feed->at++;
            feed->offset = 0;
        } else if (len) {
            *out = text;
            *n = len;
            return true;
        }
    }
    return false;
}

typedef struct Survey {
    size_t bytes, chunks;
    bool tab, usable; /* a tab; a character that can become a piece */
} Survey;

static Survey survey(const char *const *sentences, size_t n) {
    Survey s = {0};
    Feed feed = {sentences, n, 0, 0};
    const char *text;
    for (size_t len; next_chunk(&feed, &text, &len); s.bytes += len, s.chunks++) {
        bool tab = memchr(text, '\t', len) != NULL;
        s.tab |= tab;
        for (size_t i = 0; i < len && !s.usable; i++) s.usable = text[i] != '\t';
    }
    return s;
}

/* ---- checks ---- */

static Status check_options(const TokenizerTrainOptions *o) {
    const char *type = o->model_type;
    if (strcmp(type, "unigram") != 0 && strcmp(type, "bpe") != 0 && strcmp(type, "char") != 0)
        return FAIL(TANE_EINVAL, "model_type \"%s\" is unknown; use unigram, bpe or char", type);
    int64_t fewest = SPECIAL + 1 + (o->byte_fallback ? BYTES : 0);
    if (o->vocab_size < fewest)
        return FAIL(TANE_EINVAL, "vocab_size %lld is too small: <unk>, <s>, </s>, <pad>%s and one character need %lld",
                    (long long)o->vocab_size, o->byte_fallback ? ", 256 byte pieces" : "", (long long)fewest);
    if (o->vocab_size > MAX_VOCAB)
        return FAIL(TANE_EINVAL, "vocab_size %lld is too large; at most %d", (long long)o->vocab_size, MAX_VOCAB);
    if (!(o->character_coverage >= 0.98 && o->character_coverage <= 1.0))
        return FAIL(TANE_EINVAL, "character_coverage %g is out of range; use 0.98 to 1.0", o->character_coverage);
    return TANE_OK;
}

/* The library's worker threads cannot report that memory ran out, so ask for what they will need before they start. */
static Status probe_memory(const Survey *text) {
    size_t need = 80 * (text->bytes + text->chunks); /* measured: 67 bytes a byte with unigram, the most */
    void *probe = mem_alloc(need);
    if (!probe)
        return FAIL(TANE_ENOMEM, "training a tokenizer on %.1f MiB of text needs %.1f MiB of memory; use less text",
                    (double)text->bytes / 1048576.0, (double)need / 1048576.0);
    mem_free(probe);
    return TANE_OK;
}

/* ---- training ---- */

/* SentencePiece starts a fixed number of threads; `threads` says on how many CPUs they may run (0: on all). */
static Status train_on_cpus(const SpmTrainSpec *spec, Feed *feed, Str *model) {
    cpu_set_t all, few;
    CPU_ZERO(&few);
    bool limit = spec->options->threads > 0 && sched_getaffinity(0, sizeof all, &all) == 0 &&
                 CPU_COUNT(&all) > spec->options->threads;
    for (int cpu = 0, left = limit ? (int)spec->options->threads : 0; left > 0 && cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_SET(cpu, &few);
        left--;
    }
    limit = limit && sched_setaffinity(0, sizeof few, &few) == 0;
    Status st = spm_train(spec, next_chunk, feed, model);
    if (limit) sched_setaffinity(0, sizeof all, &all);
    return st;
}

/* One line a piece: the piece, a tab, its score. What would break the line is written as \t, \n, \r. */
static Status write_vocab(const Tokenizer *tok, Str *out) {
    for (int32_t id = 0; id < tok->n_pieces; id++) {
        for (const char *p = tok->pieces[id].text; *p; p++) {
            const char *escape = *p == '\t' ? "\\t" : *p == '\n' ? "\\n" : *p == '\r' ? "\\r" : NULL;
            TRY_RETURN(escape ? str_add(out, escape, 2) : str_add(out, p, 1));
        }
        TRY_RETURN(str_printf(out, "\t%g\n", (double)tok->pieces[id].score));
    }
    return TANE_OK;
}

static Status write_files(const char *prefix, const Str *model) {
    Status st = TANE_OK;
    Str vocab = {0}, path = {0};
    Tokenizer tok = {0};
    TokenizerConfig none = {.add_bos = -1, .add_eos = -1};
    TRY(str_printf(&path, "%s.model", prefix));
    /* Read it back first: what tane cannot load it does not write. */
    TRY(spm_model_load(&tok, path.text, model->text, model->len, &none));
    TRY(write_vocab(&tok, &vocab));
    path.len = 0;
    TRY(str_printf(&path, "%s.vocab", prefix));
    TRY(file_write_atomic(path.text, vocab.text, vocab.len));
    path.len = 0;
    TRY(str_printf(&path, "%s.model", prefix));
    TRY(file_write_atomic(path.text, model->text, model->len));
out:
    if (tok.kind) tok.kind->release(&tok);
    arena_release(&tok.arena);
    str_free(&path);
    str_free(&vocab);
    return st;
}

/* A char vocabulary is as large as the characters make it; vocab_size is only its limit. */
static Status check_char_size(const Str *model, int64_t limit) {
    SpmProto proto;
    Status st = spm_proto_parse(&proto, "trained model", model->text, model->len);
    if (st == TANE_OK && (int64_t)proto.n_pieces > limit)
        st = FAIL(TANE_EINVAL,
                  "vocab_size %lld is too small for this data: its characters and the special pieces need %zu; "
                  "use vocab_size=%zu or more, or a lower character_coverage",
                  (long long)limit, proto.n_pieces, proto.n_pieces);
    spm_proto_free(&proto);
    return st;
}

Status tokenizer_train(const char *const *sentences, size_t n, const TokenizerTrainOptions *options,
                       const char *prefix) {
    Status st = TANE_OK;
    Str model = {0};
    bool by_char = strcmp(options->model_type, "char") == 0;
    TRY_RETURN(check_options(options));
    Survey text = survey(sentences, n);
    if (!text.usable) return FAIL(TANE_EINVAL, "no text to train a tokenizer on: %zu sentences, all empty", n);
    TRY_RETURN(probe_memory(&text));
    SpmTrainSpec spec = {
        .options = options,
        /* All characters at first: SentencePiece would drop those that do not fit without a word. */
        .vocab_size = by_char ? MAX_VOCAB : options->vocab_size,
        .longest = CHUNK,
        .large = text.bytes + text.chunks > INT32_MAX,
        .tab = text.tab && !options->byte_fallback,
    };
    Feed feed = {sentences, n, 0, 0};
    TRY(train_on_cpus(&spec, &feed, &model));
    if (by_char) TRY(check_char_size(&model, options->vocab_size));
    TRY(write_files(prefix, &model));
out:
    str_free(&model);
    return st;
}
