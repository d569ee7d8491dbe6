/* tiktoken's rank files: a line a token, its bytes in base64, a space, its rank, which is its id. Which expression cuts
 * the text and which special tokens there are stands elsewhere. */
#include <string.h>

#include "text/scan.h"
#include "text/normalize.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_kind.h"
#include "text/utf8.h"

enum { MAX_HOLES = 1 << 18, MAX_LINE = 1 << 20 };

typedef struct Line {
    const char *base64, *rank;
    size_t n_base64, n_rank;
} Line;

/* The line at `at`, without its newline; false: it is not made of a word, a space and a number. */
static bool cut_line(const char *text, size_t n, size_t at, Line *line, size_t *next) {
    const char *begin = text + at, *end = memchr(begin, '\n', n - at);
    *next = end ? (size_t)(end - text) + 1 : n;
    if (!end) end = text + n;
    if (end > begin && end[-1] == '\r') end--;
    const char *space = memchr(begin, ' ', (size_t)(end - begin));
    if (!space) return false;
    *line = (Line){begin, space + 1, (size_t)(space - begin), (size_t)(end - space - 1)};
    return line->n_base64 > 0 && line->n_rank > 0;
}

static bool read_rank(const Line *line, int64_t *rank) {
    *rank = 0;
    for (size_t i = 0; i < line->n_rank; i++) {
        char c = line->rank[i];
        if (c < '0' || c > '9' || *rank > INT32_MAX) return false;
        *rank = 10 * *rank + (c - '0');
    }
    return true;
}

bool tiktoken_recognise(const char *data, size_t n) {
    Line line;
    char bytes[512];
    size_t next, got;
    int64_t rank;
    size_t first = n < 512 ? n : 512;
    return n && cut_line(data, first, 0, &line, &next) && line.n_base64 <= 512 &&
           base64_decode(line.base64, line.n_base64, bytes, &got) && read_rank(&line, &rank);
}

typedef struct Ranks {
    TokenizerSpec *spec;
    const char *where;
    size_t lines, cap;
    SpecToken *tokens; /* (cap) by rank, mem_free */
    int32_t top;       /* the highest rank so far, -1: none */
    Str bytes, text;
} Ranks;

static Status reserve(Ranks *r, int64_t rank) {
    if ((size_t)rank < r->cap) return TANE_OK;
    size_t cap = 2 * (size_t)rank + 1024;
    TRY_RETURN(mem_grow((void **)&r->tokens, r->cap, cap, sizeof *r->tokens));
    r->cap = cap;
    return TANE_OK;
}

/* The token's bytes in GPT-2's alphabet. */
static Status spell(Ranks *r, size_t n, Bytes *out) {
    char *copy, four[4];
    r->text.len = 0;
    for (size_t i = 0; i < n; i++)
        TRY_RETURN(str_add(&r->text, four, utf8_encode(byte_to_code((uint8_t)r->bytes.text[i]), four)));
    TRY_RETURN(arena_new(&r->spec->arena, (void **)&copy, r->text.len + 1, 1));
    memcpy(copy, r->text.text, r->text.len);
    *out = (Bytes){copy, r->text.len};
    return TANE_OK;
}

static Status add_line(Ranks *r, const Line *line, size_t file_lines) {
    int64_t rank;
    size_t n;
    if (!read_rank(line, &rank) || rank > INT32_MAX - 1)
        return FAIL(TANE_EFORMAT, "%s:%zu: the rank is \"%.*s\"; it must be a whole number from 0", r->where, r->lines,
                    (int)(line->n_rank < 40 ? line->n_rank : 40), line->rank);
    if (rank >= (int64_t)file_lines + MAX_HOLES)
        return FAIL(TANE_EFORMAT, "%s:%zu: the rank is %lld, but the file has only about %zu lines", r->where, r->lines,
                    (long long)rank, file_lines);
    r->bytes.len = 0;
    TRY_RETURN(str_add(&r->bytes, line->base64, line->n_base64));
    if (!base64_decode(line->base64, line->n_base64, r->bytes.text, &n))
        return FAIL(TANE_EFORMAT, "%s:%zu: \"%.*s\" is not base64", r->where, r->lines,
                    (int)(line->n_base64 < 40 ? line->n_base64 : 40), line->base64);
    TRY_RETURN(reserve(r, rank));
    if (r->tokens[rank].text.data)
        return FAIL(TANE_EFORMAT, "%s:%zu: the rank %lld is there twice", r->where, r->lines, (long long)rank);
    if (rank > r->top) r->top = (int32_t)rank;
    return spell(r, n, &r->tokens[rank].text);
}

static Status read_lines(Ranks *r, const char *text, size_t n) {
    for (size_t at = 0, next; at < n; at = next) {
        Line line;
        r->lines++;
        bool whole = cut_line(text, n, at, &line, &next);
        size_t length = next - at;
        if (!whole && length <= 2 && (text[at] == '\n' || text[at] == '\r')) continue; /* an empty line */
        if (!whole)
            return FAIL(TANE_EFORMAT, "%s:%zu: a line must be a token in base64, a space and its rank", r->where,
                        r->lines);
        TRY_RETURN(add_line(r, &line, n / 4 + 1));
    }
    if (r->top < 0)
        return FAIL(TANE_EFORMAT, "%s: no tokens; each line must be a token in base64, a space and its rank", r->where);
    return TANE_OK;
}

static Status check_distinct(const Ranks *r) {
    Vocab vocab;
    Status st = vocab_init(&vocab, r->tokens, sizeof *r->tokens, (size_t)r->top + 1);
    for (int32_t id = 0; st == TANE_OK && id <= r->top; id++) {
        int32_t twin = r->tokens[id].text.data ? vocab_add(&vocab, id) : -1;
        if (twin >= 0) st = FAIL(TANE_EFORMAT, "%s: the ranks %d and %d have the same bytes", r->where, twin, id);
    }
    vocab_free(&vocab);
    return st;
}

/* Split by the expression, then ByteLevel. */
static Status set_steps(TokenizerSpec *spec, const char *pattern) {
    char *copy;
    TRY_RETURN(arena_strdup(&spec->arena, &copy, pattern ? pattern : scan_cl100k_json));
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->pre_tokenizers.items, 2));
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->decoders.items, 1));
    TokenStep *split = spec->pre_tokenizers.items;
    split->kind = PRE_SPLIT;
    split->pattern = (Bytes){copy, strlen(copy)};
    split->regex = true;
    split->behavior = SPLIT_ISOLATED;
    split[1].kind = PRE_BYTE_LEVEL;
    spec->pre_tokenizers.n = 2;
    spec->decoders.items->kind = DECODE_BYTE_LEVEL;
    spec->decoders.n = 1;
    return TANE_OK;
}

static Status add_special(TokenizerSpec *spec, const AddedToken *special, size_t n) {
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->added, n));
    for (; spec->n_added < n; spec->n_added++) {
        AddedToken token = special[spec->n_added];
        char *copy;
        TRY_RETURN(arena_new(&spec->arena, (void **)&copy, token.content.n + 1, 1));
        memcpy(copy, token.content.data, token.content.n);
        token.content.data = copy;
        spec->added[spec->n_added] = token;
    }
    return TANE_OK;
}

Status tokenizer_spec_read_tiktoken(TokenizerSpec *spec, const char *where, const char *text, size_t n,
                                    const char *pattern, const AddedToken *special, size_t n_special) {
    Status st = TANE_OK;
    Ranks r = {.spec = spec, .where = where, .top = -1};
    *spec = (TokenizerSpec){.bos = -1, .eos = -1, .pad = -1, .unk = -1};
    TRY(read_lines(&r, text, n));
    TRY(check_distinct(&r));
    spec->model = TOKEN_BPE;
    spec->ignore_merges = true; /* a word that is a token is that token, in tiktoken too */
    spec->n_tokens = r.top + 1;
    TRY(ARENA_NEW_ARRAY(&spec->arena, &spec->tokens, spec->n_tokens));
    memcpy(spec->tokens, r.tokens, (size_t)spec->n_tokens * sizeof *spec->tokens);
    TRY(set_steps(spec, pattern));
    TRY(add_special(spec, special, pattern ? n_special : 0));
out:
    mem_free(r.tokens);
    str_free(&r.bytes);
    str_free(&r.text);
    if (st != TANE_OK) tokenizer_spec_release(spec);
    return st;
}
