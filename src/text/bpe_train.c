/* Training a byte-level BPE tokenizer: options, special tokens and the 256 bytes, then the words (word_count.c), the
 * merges (bpe_learn.c), and what makes a tokenizer of them. */
#include "text/bpe_train.h"

#include <omp.h>
#include <string.h>

#include "text/bpe_learn.h"
#include "text/scan.h"
#include "text/utf8.h"
#include "text/word_count.h"

enum { BYTES = 256, MAX_VOCAB = 1 << 24, MAX_THREADS = 1024 };

/* ---- checks ---- */

static int find_special(const BpeTrainOptions *o, const char *text) {
    for (size_t i = 0; i < o->n_special; i++)
        if (strcmp(o->special[i], text) == 0) return (int)i;
    return -1;
}

static Status check_special(const BpeTrainOptions *o) {
    for (size_t i = 0; i < o->n_special; i++) {
        const char *text = o->special[i];
        size_t n = strlen(text), len;
        uint32_t code;
        if (n == 0) return FAIL(TANE_EINVAL, "special token %zu is empty; give it a text or leave it out", i);
        for (const char *p = text; n; p += len, n -= len)
            if (!(len = utf8_decode(p, n, &code))) return FAIL(TANE_EINVAL, "special token %zu is not UTF-8", i);
        if (find_special(o, text) != (int)i)
            return FAIL(TANE_EINVAL, "special token \"%s\" is named twice; name it once", text);
    }
    const char *const names[] = {o->bos, o->eos, o->pad};
    static const char *const roles[] = {"bos", "eos", "pad"};
    for (int i = 0; i < 3; i++)
        if (names[i] && find_special(o, names[i]) < 0)
            return FAIL(TANE_EINVAL, "%s token \"%s\" is not among the special tokens; add it to them", roles[i],
                        names[i]);
    return TANE_OK;
}

static Status check_options(const BpeTrainOptions *o) {
    TRY_RETURN(check_special(o));
    const long long size = o->vocab_size, fewest = BYTES + (long long)o->n_special;
    if (size < fewest)
        return FAIL(TANE_EINVAL, "vocab_size %lld is too small: the 256 bytes and %zu special token%s need %lld", size,
                    o->n_special, o->n_special == 1 ? "" : "s", fewest);
    if (size > MAX_VOCAB) return FAIL(TANE_EINVAL, "vocab_size %lld is too large; at most %d", size, MAX_VOCAB);
    if (o->min_frequency < 0)
        return FAIL(TANE_EINVAL, "min_frequency %lld is negative; use 2 or more, or 1 for all pairs",
                    (long long)o->min_frequency);
    return TANE_OK;
}

/* ---- the vocabulary before the first merge ---- */

/* The character that GPT-2's alphabet has for a byte: itself where it is visible, else the next one from U+0100 on. */
static void byte_alphabet(uint32_t code[BYTES]) {
    uint32_t next = 256;
    for (uint32_t b = 0; b < BYTES; b++) {
        bool visible = (b > ' ' && b < 0x7F) || (b > 0xA0 && b != 0xAD);
        code[b] = visible ? b : next++;
    }
}

static Status add_token(BpeVocab *v, const char *text, size_t n, int32_t *id) {
    char *copy;
    TRY_RETURN(arena_new(v->arena, (void **)&copy, n + 1, 1));
    memcpy(copy, text, n);
    v->tokens[v->n].text = (Bytes){copy, n};
    *id = vocab_add(&v->index, v->n);
    if (*id < 0) *id = v->n++;
    return TANE_OK;
}

/* The characters in the order of their code points, as Hugging Face has it. A special token may be one of them. */
static Status add_bytes(BpeVocab *v) {
    uint32_t code[BYTES], byte_of[2 * BYTES];
    byte_alphabet(code);
    memset(byte_of, 0xFF, sizeof byte_of);
    for (uint32_t b = 0; b < BYTES; b++) byte_of[code[b]] = b;
    for (uint32_t c = 0; c < 2 * BYTES; c++) {
        if (byte_of[c] >= BYTES) continue;
        char text[2] = {(char)c};
        if (c >= 0x80) {
            text[0] = (char)(0xC0 | c >> 6);
            text[1] = (char)(0x80 | (c & 0x3F));
        }
        TRY_RETURN(add_token(v, text, c < 0x80 ? 1 : 2, &v->byte[byte_of[c]]));
    }
    return TANE_OK;
}

/* Room for all tokens that these words can give. */
static Status begin_vocab(BpeVocab *v, Arena *arena, const BpeTrainOptions *o, const WordList *words) {
    uint64_t most = BYTES + o->n_special + (words->starts[words->n] - words->n);
    v->arena = arena;
    v->cap = (int32_t)(most < (uint64_t)o->vocab_size ? most : (uint64_t)o->vocab_size);
    TRY_RETURN(MEM_NEW_ARRAY(&v->tokens, (size_t)v->cap));
    TRY_RETURN(vocab_init(&v->index, v->tokens, sizeof *v->tokens, (size_t)v->cap));
    for (size_t i = 0; i < o->n_special; i++) {
        int32_t id;
        TRY_RETURN(add_token(v, o->special[i], strlen(o->special[i]), &id));
    }
    return add_bytes(v);
}

/* ---- the text ---- */

static Status count_words(const BpeTrainOptions *o, int threads, BpeTrainNext next, void *user, WordList *words) {
    Status st = TANE_OK;
    Scanner *scanner = NULL;
    WordCounter *counter = NULL;
    const char *pattern = o->pattern ? o->pattern : scan_gpt2, *text;
    size_t n, texts = 0, bytes = 0;
    TRY(scanner_new(&scanner, "pattern", pattern, strlen(pattern), true));
    TRY(word_counter_new(&counter, scanner, threads));
    for (bool more;; texts++) {
        TRY(next(user, &text, &n, &more));
        if (!more) break;
        TRY(word_counter_add(counter, text, n));
        size_t before = bytes;
        bytes += n;
        if (o->progress && bytes / WORD_COUNT_BUFFER != before / WORD_COUNT_BUFFER && o->progress(o->user, 0)) {
            st = FAIL(TANE_ECANCELED, "stopped while reading text");
            goto out;
        }
    }
    TRY(word_counter_finish(counter, words));
    if (words->n == 0) st = FAIL(TANE_EINVAL, "no text to train a tokenizer on: %zu texts, all empty", texts);
out:
    word_counter_free(counter);
    scanner_free(scanner);
    return st;
}

/* ---- the tokenizer ---- */

static Status copy_bytes(Arena *arena, Bytes *out, const char *text) {
    char *copy;
    TRY_RETURN(arena_strdup(arena, &copy, text));
    *out = (Bytes){copy, strlen(copy)};
    return TANE_OK;
}

static Status add_special(TokenizerSpec *spec, const BpeTrainOptions *o) {
    const int first = o->n_special ? 0 : -1;
    spec->bos = o->bos ? find_special(o, o->bos) : first;
    spec->eos = o->eos ? find_special(o, o->eos) : first;
    spec->pad = o->pad ? find_special(o, o->pad) : -1;
    spec->unk = -1;
    spec->n_added = o->n_special;
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->added, o->n_special));
    for (size_t i = 0; i < o->n_special; i++) {
        spec->added[i] = (AddedToken){.id = (int32_t)i, .special = true};
        TRY_RETURN(copy_bytes(&spec->arena, &spec->added[i].content, o->special[i]));
    }
    return TANE_OK;
}

/* ByteLevel cuts by GPT-2's expression on its own; any other stands in front of it as a Split. */
static Status add_steps(TokenizerSpec *spec, const char *pattern) {
    TokenStep *step;
    spec->pre_tokenizers.n = pattern ? 2 : 1;
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->pre_tokenizers.items, spec->pre_tokenizers.n));
    step = spec->pre_tokenizers.items;
    if (pattern) {
        *step = (TokenStep){.kind = PRE_SPLIT, .regex = true, .behavior = SPLIT_ISOLATED};
        TRY_RETURN(copy_bytes(&spec->arena, &step->pattern, pattern));
        step++;
    }
    *step = (TokenStep){.kind = PRE_BYTE_LEVEL, .use_regex = !pattern};
    spec->decoders.n = 1;
    TRY_RETURN(ARENA_NEW(&spec->arena, &spec->decoders.items));
    spec->decoders.items[0].kind = DECODE_BYTE_LEVEL;
    return TANE_OK;
}

static Status finish_spec(TokenizerSpec *spec, const BpeTrainOptions *o, const BpeVocab *v, const SpecMerge *merges,
                          size_t n_merges) {
    spec->model = TOKEN_BPE;
    spec->n_tokens = v->n;
    spec->n_merges = n_merges;
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->tokens, (size_t)v->n));
    TRY_RETURN(ARENA_NEW_ARRAY(&spec->arena, &spec->merges, n_merges));
    memcpy(spec->tokens, v->tokens, (size_t)v->n * sizeof *v->tokens);
    if (n_merges) memcpy(spec->merges, merges, n_merges * sizeof *merges);
    TRY_RETURN(add_special(spec, o));
    return add_steps(spec, o->pattern);
}

Status bpe_train(TokenizerSpec *spec, const BpeTrainOptions *options, BpeTrainNext next, void *user) {
    Status st = TANE_OK;
    WordList words = {0};
    BpeVocab vocab = {0};
    SpecMerge *merges = NULL;
    size_t n_merges = 0;
    int threads = options->threads > 0 ? (int)(options->threads < MAX_THREADS ? options->threads : MAX_THREADS)
                                       : omp_get_max_threads();
    BpeLearnOptions learn = {options->min_frequency, threads, options->progress, options->user};
    *spec = (TokenizerSpec){0};
    TRY_RETURN(check_options(options));
    TRY(count_words(options, threads, next, user, &words));
    TRY(begin_vocab(&vocab, &spec->arena, options, &words));
    TRY(bpe_learn(&vocab, &words, &learn, &merges, &n_merges));
    TRY(finish_spec(spec, options, &vocab, merges, n_merges));
out:
    if (st != TANE_OK) {
        arena_release(&spec->arena);
        *spec = (TokenizerSpec){0};
    }
    mem_free(merges);
    mem_free(vocab.tokens);
    vocab_free(&vocab.index);
    word_list_free(&words);
    return st;
}
