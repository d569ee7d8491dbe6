/* Byte-pair encoding: ids of tiktoken and tokenizers (golden), the plain algorithm on vocabularies made at random,
 * words of a million characters, the cache, threads, broken vocabularies. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "support.h"
#include "text/bpe.h"
#include "text/scan.h"
#include "text/utf8.h"

static Bpe *make(const BpeSpec *spec) {
    Bpe *bpe;
    assert_ok(bpe_new(&bpe, spec, "test"));
    return bpe;
}

/* The ids of text as one word. */
static void word(const Bpe *bpe, const char *text, size_t n, TokenList *out) {
    BpeWork *work;
    out->n = 0;
    assert_ok(bpe_take(bpe, &work));
    assert_ok(bpe_word(bpe, work, text, n, out, NULL));
    bpe_give(bpe, work);
}

/* -------------------------------------------------------------------------------------------------------- golden
 * ids */

typedef struct Vocabulary {
    BpeToken *tokens;
    BpeMerge *merges;
    int32_t n_tokens;
    size_t n_merges;
    Arena arena;
} Vocabulary;

static size_t from_hex(const char *hex, char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return n;
}

static Vocabulary read_vocabulary(const json_t *json, bool reversed) {
    Vocabulary v = {0};
    const json_t *tokens = json_object_get(json, "tokens"), *merges = json_object_get(json, "merges");
    v.n_tokens = (int32_t)json_array_size(tokens);
    v.n_merges = json_array_size(merges);
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.tokens, (size_t)v.n_tokens));
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.merges, v.n_merges));
    for (int32_t i = 0; i < v.n_tokens; i++) {
        const char *hex = json_string_value(json_array_get(tokens, (size_t)i));
        char *bytes;
        assert_ok(ARENA_NEW_ARRAY(&v.arena, &bytes, strlen(hex) / 2 + 1));
        v.tokens[i] = (BpeToken){bytes, from_hex(hex, bytes)};
    }
    for (size_t i = 0; i < v.n_merges; i++) {
        const json_t *merge = json_array_get(merges, reversed ? v.n_merges - 1 - i : i);
        int32_t *of[] = {&v.merges[i].left, &v.merges[i].right, &v.merges[i].result};
        for (size_t k = 0; k < 3; k++) *of[k] = (int32_t)json_integer_value(json_array_get(merge, k));
    }
    return v;
}

/* The ends of the ids add up to the word, and each id's own bytes lie between two of them. */
static void check_ends(const Vocabulary *v, const BpeSpec *spec, const Bpe *bpe, const char *text, size_t n,
                       const TokenList *expected) {
    TokenList list = {0};
    BpeWork *work;
    uint32_t *ends, at = 0;
    assert_ok(MEM_NEW_ARRAY(&ends, n));
    assert_ok(bpe_take(bpe, &work));
    assert_ok(bpe_word(bpe, work, text, n, &list, ends));
    bpe_give(bpe, work);
    assert_int_equal(list.n, expected->n);
    assert_memory_equal(list.ids, expected->ids, n ? list.n * sizeof *list.ids : 0);
    for (size_t i = 0; i < list.n; at = ends[i++]) {
        const BpeToken *t = &v->tokens[list.ids[i]];
        assert_true(ends[i] > at && ends[i] <= n);
        if (list.ids[i] == spec->unk || spec->unk < 0) continue; /* what is unknown may be anything, or left out */
        if (ends[i] - at == 1 && t->n == 6) continue;            /* "<0xE3>" */
        assert_int_equal(ends[i] - at, t->n);
        assert_memory_equal(text + at, t->bytes, t->n);
    }
    token_list_free(&list);
    mem_free(ends);
}

static void check_model(const json_t *model, const json_t *texts, const json_t *vocabularies) {
    const json_t *source = json_object_get(vocabularies, json_string_value(json_object_get(model, "vocabulary")));
    Vocabulary v = read_vocabulary(source, json_is_true(json_object_get(model, "reversed")));
    const char *pattern = json_string_value(json_object_get(model, "pattern"));
    const json_t *unk = json_object_get(model, "unk"), *bytes = json_object_get(model, "byte_tokens");
    int32_t byte_token[256], first = bytes ? (int32_t)json_integer_value(bytes) : -1;
    for (int i = 0; i < 256; i++) byte_token[i] = first + i;
    BpeSpec spec = {.tokens = v.tokens, .n_tokens = v.n_tokens, .merges = v.merges, .n_merges = v.n_merges,
                    .chars = !pattern, .ignore_merges = json_is_true(json_object_get(model, "ignore_merges")),
                    .unk = unk ? (int32_t)json_integer_value(unk) : -1,
                    .fuse_unk = json_is_true(json_object_get(model, "fuse_unk")),
                    .byte_token = first >= 0 ? byte_token : NULL};
    if (json_is_true(json_object_get(model, "ranks"))) spec.merges = NULL, spec.n_merges = 0;
    Bpe *bpe = make(&spec);
    Scanner *scanner = NULL;
    BpeWork *work;
    if (pattern) assert_ok(scanner_new(&scanner, "test", pattern, strlen(pattern), true));
    assert_ok(bpe_take(bpe, &work));
    for (int round = 0; round < 2; round++) /* the second time from the cache */
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const json_t *text = json_array_get(texts, i), *ids = json_array_get(json_object_get(model, "ids"), i);
            TokenList list = {0};
            Str s = {0};
            for (const char *c = json_string_value(text), *end = c + json_string_length(text); c < end; c++)
                assert_ok(!pattern && *c == ' ' ? str_add(&s, "\u2581", 3) : str_add(&s, c, 1));
            if (pattern) assert_ok(bpe_text(bpe, work, scanner, s.text ? s.text : "", s.len, &list));
            else assert_ok(bpe_word(bpe, work, s.text ? s.text : "", s.len, &list, NULL));
            bool same = list.n == json_array_size(ids);
            for (size_t k = 0; same && k < list.n; k++)
                same = list.ids[k] == json_integer_value(json_array_get(ids, k));
            if (!same) fail_msg("%s: text %zu", json_string_value(json_object_get(model, "name")), i);
            if (!pattern) check_ends(&v, &spec, bpe, s.text ? s.text : "", s.len, &list);
            token_list_free(&list);
            str_free(&s);
        }
    bpe_give(bpe, work);
    bpe_free(bpe);
    scanner_free(scanner);
    arena_release(&v.arena);
}

static void test_ids_of_tiktoken_and_tokenizers(void **state) {
    (void)state;
    json_t *golden;
    assert_ok(json_read_file(test_data("golden/bpe.json"), &golden));
    const json_t *models = json_object_get(golden, "models");
    assert_int_equal(json_array_size(models), 9);
    for (size_t i = 0; i < json_array_size(models); i++)
        check_model(json_array_get(models, i), json_object_get(golden, "texts"),
                    json_object_get(golden, "vocabularies"));
    json_decref(golden);
}

/* ------------------------------------------------------------------------------- the algorithm as the papers have
 * it */

typedef struct Symbol {
    int32_t id;
    size_t begin, end;
} Symbol;

static int32_t find(const Vocabulary *v, const char *bytes, size_t n) {
    for (int32_t i = 0; i < v->n_tokens; i++)
        if (v->tokens[i].n == n && memcmp(v->tokens[i].bytes, bytes, n) == 0) return i;
    return -1;
}

/* Rank and result of two neighbours: tiktoken's way asks what their bytes together are. */
static int64_t plain_rank(const Vocabulary *v, const BpeSpec *spec, const char *text, Symbol a, Symbol b,
                          int32_t *result) {
    if (!spec->merges) return *result = find(v, text + a.begin, b.end - a.begin);
    for (size_t i = v->n_merges; i-- > 0;)
        if (v->merges[i].left == a.id && v->merges[i].right == b.id) {
            *result = v->merges[i].result;
            return (int64_t)i;
        }
    return -1;
}

static size_t plain_begin(const Vocabulary *v, const BpeSpec *spec, const char *text, size_t n, Symbol *s) {
    size_t k = 0, len;
    bool unknown = false;
    for (size_t at = 0; at < n; at += len) {
        uint32_t code;
        len = spec->chars ? utf8_decode(text + at, n - at, &code) : 1;
        int32_t id = find(v, text + at, len);
        if (id < 0 && spec->byte_token) {
            for (size_t i = 0; i < len; i++)
                s[k++] = (Symbol){spec->byte_token[(unsigned char)text[at + i]], at + i, at + i + 1};
            unknown = false;
        } else if (id < 0 && spec->unk >= 0 && unknown && spec->fuse_unk) {
            s[k - 1].end = at + len;
        } else if (id >= 0 || spec->unk >= 0) {
            s[k++] = (Symbol){id >= 0 ? id : spec->unk, at, at + len};
            unknown = id < 0;
        }
    }
    return k;
}

static size_t plain(const Vocabulary *v, const BpeSpec *spec, const char *text, size_t n, Symbol *s) {
    if (spec->ignore_merges || !spec->merges) {
        int32_t id = find(v, text, n);
        if (id >= 0) {
            s[0] = (Symbol){id, 0, n};
            return 1;
        }
    }
    size_t k = plain_begin(v, spec, text, n, s);
    for (;;) {
        int64_t best = -1;
        size_t at = 0;
        int32_t result = 0, to;
        for (size_t i = 0; i + 1 < k; i++) {
            int64_t rank = plain_rank(v, spec, text, s[i], s[i + 1], &to);
            if (rank >= 0 && (best < 0 || rank < best)) best = rank, at = i, result = to;
        }
        if (best < 0) return k;
        s[at] = (Symbol){result, s[at].begin, s[at + 1].end};
        memmove(s + at + 1, s + at + 2, (k - at - 2) * sizeof *s);
        k--;
    }
}

/* Bytes or characters, then tokens made of two that are there, in an order that training would never give: parts may
 * come behind the whole, and characters form late. */
static Vocabulary random_vocabulary(Rng *rng, bool chars, bool all_bytes, size_t made, const char *const *alphabet,
                                    size_t n_alphabet) {
    Vocabulary v = {0};
    size_t cap = 256 + n_alphabet + made + 1;
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.tokens, cap));
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.merges, 2 * made + 1));
    for (int i = 0; i < 256 && !chars; i++) {
        char *byte;
        if (!all_bytes && rng_below(rng, 8) == 0) continue;
        assert_ok(ARENA_NEW_ARRAY(&v.arena, &byte, 1));
        *byte = (char)i;
        v.tokens[v.n_tokens++] = (BpeToken){byte, 1};
    }
    for (size_t i = 0; chars && i < n_alphabet; i++)
        if (rng_below(rng, 6)) v.tokens[v.n_tokens++] = (BpeToken){alphabet[i], strlen(alphabet[i])};
    for (size_t tries = 0; tries < 50 * made && (size_t)v.n_tokens + 1 < cap && v.n_merges < 2 * made; tries++) {
        /* Parts of what the texts are made of, so that they occur. */
        char text[64];
        size_t n = 0;
        for (size_t i = 1 + rng_below(rng, 4); i > 0; i--) {
            const char *c = alphabet[rng_below(rng, n_alphabet)];
            memcpy(text + n, c, strlen(c));
            n += strlen(c);
        }
        size_t begin = rng_below(rng, n), end = begin + 2 + rng_below(rng, 6), cut;
        if (end > n) continue;
        cut = begin + 1 + rng_below(rng, end - begin - 1);
        int32_t left = find(&v, text + begin, cut - begin), right = find(&v, text + cut, end - cut);
        int32_t whole = find(&v, text + begin, end - begin);
        if (left < 0 || right < 0) continue;
        if (whole < 0) {
            char *bytes;
            assert_ok(ARENA_NEW_ARRAY(&v.arena, &bytes, end - begin));
            memcpy(bytes, text + begin, end - begin);
            whole = v.n_tokens++;
            v.tokens[whole] = (BpeToken){bytes, end - begin};
        }
        v.merges[v.n_merges++] = (BpeMerge){left, right, whole};
    }
    return v;
}

/* Another order of ids (and of merges, for half of them). */
static void shuffle(Vocabulary *v, Rng *rng, bool ranks) {
    BpeToken tokens[2000];
    uint64_t key = rng_next(rng);
    memcpy(tokens, v->tokens, (size_t)v->n_tokens * sizeof *tokens);
    for (int32_t i = 0; ranks && i < v->n_tokens; i++)
        v->tokens[rng_permute(key, 0, (uint64_t)v->n_tokens, (uint64_t)i)] = tokens[i];
    if (ranks) return;
    for (size_t i = v->n_merges; i > 1; i--) {
        size_t k = rng_below(rng, i);
        BpeMerge m = v->merges[i - 1];
        v->merges[i - 1] = v->merges[k];
        v->merges[k] = m;
    }
}

static const char *const letters[] = {"a", "b", "c", " ", "\u00e9", "\u00e8", "\u3042", "\u3044", "\u3046", "\u304b",
                                      "\u65e5", "\u672c", "\U0001f600", "\U0001f601", "\u2581", "'"};
enum { LETTERS = sizeof letters / sizeof *letters };

static void check_plain(const Vocabulary *v, const BpeSpec *spec, const Bpe *bpe, BpeWork *work, const char *text,
                        size_t n, const char *what) {
    Symbol s[400];
    TokenList list = {0};
    uint32_t ends[400];
    size_t k = n ? plain(v, spec, text, n, s) : 0;
    for (int round = 0; round < 2; round++) { /* without and with ends */
        list.n = 0;
        assert_ok(bpe_word(bpe, work, text, n, &list, round ? ends : NULL));
        bool same = list.n == k;
        for (size_t i = 0; same && i < k; i++)
            same = list.ids[i] == s[i].id && (round == 0 || ends[i] == s[i].end);
        if (same) continue;
        print_message("           plain:");
        for (size_t i = 0; i < k; i++) print_message(" %d", s[i].id);
        print_message("\n           tane: ");
        for (size_t i = 0; i < list.n; i++) print_message(" %d", list.ids[i]);
        fail_msg("%s, ends %d: %.*s", what, round, (int)n, text);
    }
    token_list_free(&list);
}

static void compare_with_plain(Rng *rng, bool chars, bool ranks, int round) {
    char what[160];
    bool shuffled = rng_below(rng, 2), all_bytes = ranks || rng_below(rng, 3);
    Vocabulary v = random_vocabulary(rng, chars, all_bytes, 20 + rng_below(rng, 150), letters, LETTERS);
    if (shuffled) shuffle(&v, rng, ranks);
    BpeSpec spec = {.tokens = v.tokens, .merges = v.merges, .n_merges = v.n_merges, .chars = chars, .unk = -1};
    int32_t byte_token[256];
    if (!ranks && rng_below(rng, 2)) { /* an unknown token and, for characters, tokens of bytes */
        spec.unk = v.n_tokens++;
        v.tokens[spec.unk] = (BpeToken){"<unk>", 5};
        spec.fuse_unk = rng_below(rng, 2);
    }
    for (int i = 0; i < 256; i++) byte_token[i] = i % v.n_tokens;
    if (chars && rng_below(rng, 3) == 0) spec.byte_token = byte_token;
    spec.n_tokens = v.n_tokens;
    spec.ignore_merges = rng_below(rng, 2);
    if (ranks) spec.merges = NULL, spec.n_merges = 0;
    snprintf(what, sizeof what, "round %d: chars %d ranks %d shuffled %d unk %d fuse %d ignore %d byte tokens %d",
             round, chars, ranks, shuffled, spec.unk, spec.fuse_unk, spec.ignore_merges, spec.byte_token != NULL);
    Bpe *bpe = make(&spec);
    BpeWork *work;
    assert_ok(bpe_take(bpe, &work));
    for (int i = 0; i < 60; i++) {
        char text[400];
        size_t n = 0, most = i % 8 ? 30 : 360;
        for (size_t pieces = rng_below(rng, most / 2); pieces > 0 && n + 4 < most; pieces--) {
            const char *c = letters[rng_below(rng, LETTERS)];
            memcpy(text + n, c, strlen(c));
            n += strlen(c);
            if (!chars && rng_below(rng, 20) == 0) text[n - 1] = (char)rng_below(rng, 256); /* broken, too */
        }
        check_plain(&v, &spec, bpe, work, text, n, what);
    }
    for (int32_t i = 0; i < v.n_tokens && i < 60; i++) /* tokens themselves, however they can be reached */
        if (!chars || v.tokens[i].bytes[0] != '<')
            check_plain(&v, &spec, bpe, work, v.tokens[i].bytes, v.tokens[i].n, what);
    bpe_give(bpe, work);
    bpe_free(bpe);
    arena_release(&v.arena);
}

static void test_random_vocabularies(void **state) {
    (void)state;
    Rng rng = {.key = 77};
    for (int round = 0; round < test_rounds(60); round++) {
        compare_with_plain(&rng, false, false, round);
        compare_with_plain(&rng, false, true, round);
        compare_with_plain(&rng, true, false, round);
    }
}

/* ---------------------------------------------------------------------------------------------------- long words,
 * cache */

/* "a", "aa", "aaaa", ... "a" x 2^12 over all single bytes; and the same of a character of three bytes. */
static Vocabulary doubling(bool chars) {
    Vocabulary v = {0};
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.tokens, 300));
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &v.merges, 40));
    const char *unit = chars ? "\u3042" : "a";
    size_t unit_n = strlen(unit);
    char *run, *bytes;
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &run, unit_n << 12));
    assert_ok(ARENA_NEW_ARRAY(&v.arena, &bytes, 256));
    for (size_t i = 0; i < (size_t)1 << 12; i++) memcpy(run + i * unit_n, unit, unit_n);
    for (int i = 0; i < 256 && !chars; i++) {
        bytes[i] = (char)i;
        v.tokens[v.n_tokens++] = (BpeToken){bytes + i, 1};
    }
    if (chars) v.tokens[v.n_tokens++] = (BpeToken){run, unit_n};
    int32_t last = chars ? 0 : 'a';
    for (size_t n = 2; n <= (size_t)1 << 12; n *= 2) {
        v.tokens[v.n_tokens] = (BpeToken){run, n * unit_n};
        v.merges[v.n_merges++] = (BpeMerge){last, last, v.n_tokens};
        last = v.n_tokens++;
    }
    return v;
}

static void test_a_million_equal_characters(void **state) {
    (void)state;
    enum { N = 1000000 };
    for (int kind = 0; kind < 3; kind++) { /* merges of bytes, ranks, characters */
        bool chars = kind == 2;
        Vocabulary v = doubling(chars);
        BpeSpec spec = {.tokens = v.tokens, .n_tokens = v.n_tokens, .merges = kind == 1 ? NULL : v.merges,
                        .n_merges = kind == 1 ? 0 : v.n_merges, .chars = chars, .unk = -1};
        Bpe *bpe = make(&spec);
        size_t unit = chars ? 3 : 1, n = N * unit;
        char *text;
        uint32_t *ends;
        TokenList list = {0};
        BpeWork *work;
        assert_ok(MEM_NEW_ARRAY(&text, n));
        assert_ok(MEM_NEW_ARRAY(&ends, n));
        for (size_t i = 0; i < N; i++) memcpy(text + i * unit, chars ? "\u3042" : "a", unit);
        assert_ok(bpe_take(bpe, &work));
        assert_ok(bpe_word(bpe, work, text, n, &list, NULL));
        /* 10^6 = 244 * 2^12 + 2^9 + 2^6 */
        assert_int_equal(list.n, 246);
        for (size_t i = 0; i < list.n; i++)
            assert_int_equal(v.tokens[list.ids[i]].n / unit, i < 244 ? 4096 : i == 244 ? 512 : 64);
        list.n = 0;
        assert_ok(bpe_word(bpe, work, text, n, &list, ends));
        assert_int_equal(list.n, 246);
        assert_int_equal(ends[245], n);
        assert_int_equal(ends[243], 244 * 4096 * unit);
        bpe_give(bpe, work);
        token_list_free(&list);
        mem_free(text);
        mem_free(ends);
        bpe_free(bpe);
        arena_release(&v.arena);
    }
}

/* More words than the tables hold, short and long, many times: what comes out of the cache is what went in. */
static void test_cache_forgets_but_never_errs(void **state) {
    (void)state;
    Rng rng = {.key = 3};
    Vocabulary v = random_vocabulary(&rng, false, true, 150, letters, LETTERS);
    BpeSpec spec = {.tokens = v.tokens, .n_tokens = v.n_tokens, .merges = v.merges, .n_merges = v.n_merges, .unk = -1};
    Bpe *bpe = make(&spec);
    BpeWork *work;
    TokenList list = {0};
    uint32_t ends[64];
    assert_ok(bpe_take(bpe, &work));
    for (int round = 0; round < test_rounds(250000); round++) {
        char text[64];
        uint64_t which = rng_below(&rng, 2) ? rng_below(&rng, 1000) : rng_below(&rng, 300000);
        size_t n = 0;
        for (uint64_t x = which * 7919 + 13; x; x /= LETTERS) {
            const char *c = letters[x % LETTERS];
            memcpy(text + n, c, strlen(c));
            n += strlen(c);
        }
        for (size_t once = n; which % 5 == 0 && n + once < 64; n += once) memcpy(text + n, text, once);
        list.n = 0;
        assert_ok(bpe_word(bpe, work, text, n, &list, NULL));
        if (round % 16) continue;
        size_t k = list.n;
        assert_ok(bpe_word(bpe, work, text, n, &list, ends)); /* not through the cache */
        assert_int_equal(list.n, 2 * k);
        assert_memory_equal(list.ids, list.ids + k, k * sizeof *list.ids);
    }
    bpe_give(bpe, work);
    token_list_free(&list);
    bpe_free(bpe);
    arena_release(&v.arena);
}

static size_t count_ids(const Bpe *bpe, const char *text) {
    TokenList list = {0};
    word(bpe, text, strlen(text), &list);
    size_t n = list.n;
    token_list_free(&list);
    return n;
}

/* Tokens that no merge makes: they stand for the words that they spell, never for a part of a longer one, whichever of
 * the two comes first. Short and long (by what the cache calls so), cut everywhere and only at the end. */
static void test_tokens_that_are_only_words(void **state) {
    (void)state;
    static const char *const texts[] = {"xyz", "xyz!", "pqrpqrpqrpqrpqrpqr", "pqrpqrpqrpqrpqrpqr!", "pqrpqrpqr",
                                        "pqrpqrpqr!!!!!!!!", "xyzxyz", "!!!!!!!!!!!!!xyz"};
    static const size_t counts[] = {1, 4, 1, 13, 1, 14, 6, 16};
    BpeToken tokens[262];
    char bytes[256];
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        tokens[i] = (BpeToken){bytes + i, 1};
    }
    tokens[256] = (BpeToken){"xyz", 3}; /* neither xy nor yz is there */
    tokens[257] = (BpeToken){"pqrpqrpqrpqrpqrpqr", 18};
    tokens[258] = (BpeToken){"pq", 2}; /* pq r pq r ... */
    tokens[259] = (BpeToken){"qr", 2};
    tokens[260] = (BpeToken){"rp", 2};
    tokens[261] = (BpeToken){"pqrpqrpqr", 9};
    BpeSpec spec = {.tokens = tokens, .n_tokens = 262, .unk = -1};
    for (int order = 0; order < 8; order++) {
        Bpe *bpe = make(&spec);
        for (int k = 0; k < 16; k++) assert_int_equal(count_ids(bpe, texts[(k ^ order) & 7]), counts[(k ^ order) & 7]);
        bpe_free(bpe);
    }
}

/* A text at once is its words one by one; with a scanner by hand and with PCRE2's. */
static void test_text_is_its_words(void **state) {
    (void)state;
    Rng rng = {.key = 12};
    Vocabulary v = random_vocabulary(&rng, false, true, 150, letters, LETTERS);
    BpeSpec spec = {.tokens = v.tokens, .n_tokens = v.n_tokens, .merges = v.merges, .n_merges = v.n_merges, .unk = -1};
    Bpe *bpe = make(&spec);
    BpeWork *work;
    static const char *const patterns[] = {scan_gpt2, "[a-c]+| ?\\p{L}+"};
    Str text = {0};
    for (int i = 0; i < 30000; i++) {
        const char *c = letters[rng_below(&rng, LETTERS)];
        assert_ok(str_add(&text, c, strlen(c)));
    }
    assert_ok(bpe_take(bpe, &work));
    for (int p = 0; p < 2; p++) {
        TokenList all = {0}, one = {0};
        Scanner *s;
        size_t begin, end = 0;
        assert_ok(scanner_new(&s, "test", patterns[p], strlen(patterns[p]), true));
        assert_ok(bpe_text(bpe, work, s, text.text, text.len, &all));
        for (size_t at = 0; at < text.len; at = end) {
            assert_ok(scanner_next(s, text.text, text.len, at, &begin, &end));
            assert_ok(bpe_word(bpe, work, text.text + at, begin - at, &one, NULL));
            assert_ok(bpe_word(bpe, work, text.text + begin, end - begin, &one, NULL));
        }
        assert_int_equal(all.n, one.n);
        assert_memory_equal(all.ids, one.ids, all.n * sizeof *all.ids);
        token_list_free(&all);
        token_list_free(&one);
        scanner_free(s);
    }
    bpe_give(bpe, work);
    str_free(&text);
    bpe_free(bpe);
    arena_release(&v.arena);
}

typedef struct Shared {
    const Bpe *bpe;
    const Scanner *scanner;
    const Str *text;
    const TokenList *expected;
    bool same;
} Shared;

static void *encode_often(void *arg) {
    Shared *s = arg;
    s->same = true;
    for (int i = 0; i < 20; i++) {
        BpeWork *work;
        TokenList list = {0};
        s->same &= bpe_take(s->bpe, &work) == TANE_OK;
        s->same &= bpe_text(s->bpe, work, s->scanner, s->text->text, s->text->len, &list) == TANE_OK;
        s->same &= list.n == s->expected->n && memcmp(list.ids, s->expected->ids, list.n * sizeof *list.ids) == 0;
        bpe_give(s->bpe, work);
        token_list_free(&list);
    }
    return NULL;
}

static void test_threads_share_a_vocabulary(void **state) {
    (void)state;
    Rng rng = {.key = 21};
    Vocabulary v = random_vocabulary(&rng, false, true, 150, letters, LETTERS);
    BpeSpec spec = {.tokens = v.tokens, .n_tokens = v.n_tokens, .merges = v.merges, .n_merges = v.n_merges, .unk = -1};
    Bpe *bpe = make(&spec);
    Scanner *scanner;
    Str text = {0};
    TokenList expected = {0};
    BpeWork *work;
    pthread_t threads[4];
    Shared shared[4];
    for (int i = 0; i < 20000; i++) {
        const char *c = letters[rng_below(&rng, LETTERS)];
        assert_ok(str_add(&text, c, strlen(c)));
    }
    assert_ok(scanner_new(&scanner, "test", scan_o200k, strlen(scan_o200k), true));
    assert_ok(bpe_take(bpe, &work));
    assert_ok(bpe_text(bpe, work, scanner, text.text, text.len, &expected));
    bpe_give(bpe, work);
    for (int i = 0; i < 4; i++) {
        shared[i] = (Shared){bpe, scanner, &text, &expected, false};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &shared[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(shared[i].same);
    }
    token_list_free(&expected);
    str_free(&text);
    scanner_free(scanner);
    bpe_free(bpe);
    arena_release(&v.arena);
}

/* ---------------------------------------------------------------------------------------------------------- bad
 * input */

static void test_bad_vocabularies(void **state) {
    (void)state;
    BpeToken tokens[] = {{"a", 1}, {"b", 1}, {"ab", 2}, {NULL, 0}};
    BpeMerge good = {0, 1, 2};
    static const struct {
        BpeMerge merge;
        int32_t unk, n_tokens;
        const char *message;
    } bad[] = {{{0, 1, 4}, -1, 4, "f.json: merge 0 has the id 4, which is no token"},
               {{-1, 1, 2}, -1, 4, "merge 0 has the id -1"},
               {{0, INT32_MAX, 2}, -1, 4, "merge 0 has the id 2147483647"},
               {{0, 3, 2}, -1, 4, "merge 0 has the id 3"}, /* an id that stands for nothing */
               {{1, 0, 2}, -1, 4, "merge 0 makes \"ab\" of \"b\" and \"a\""},
               {{0, 1, 0}, -1, 4, "merge 0 makes \"a\" of \"a\" and \"b\""},
               {{0, 1, 2}, 4, 4, "the unknown token has the id 4, but there are only 4 tokens"}};
    Bpe *bpe;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        BpeSpec spec = {.tokens = tokens, .n_tokens = bad[i].n_tokens, .merges = &bad[i].merge, .n_merges = 1,
                        .unk = bad[i].unk};
        assert_error(bpe_new(&bpe, &spec, "f.json"), TANE_EFORMAT, bad[i].message);
    }
    BpeSpec spec = {.tokens = tokens, .n_tokens = 4, .unk = -1};
    assert_error(bpe_new(&bpe, &spec, "f.tiktoken"), TANE_EFORMAT,
                 "f.tiktoken: no token for the single byte 0x00; ranks need all 256");
    spec = (BpeSpec){.tokens = tokens, .n_tokens = 1 << 21, .unk = -1};
    assert_error(bpe_new(&bpe, &spec, "f.json"), TANE_EUNSUPPORTED, "2097152 tokens and 0 merges; tane takes at most");
    int32_t byte_token[256] = {[7] = 4};
    spec = (BpeSpec){.tokens = tokens, .n_tokens = 4, .merges = &good, .n_merges = 1, .chars = true, .unk = -1,
                     .byte_token = byte_token};
    assert_error(bpe_new(&bpe, &spec, "f.json"), TANE_EFORMAT,
                 "the byte 0x07 has the id 4, but there are only 4 tokens");
    /* Without tokens there is nothing to say. */
    spec = (BpeSpec){.tokens = tokens, .n_tokens = 0, .merges = &good, .unk = -1};
    TokenList list = {0};
    assert_ok(bpe_new(&bpe, &spec, "f.json"));
    word(bpe, "ab", 2, &list);
    assert_int_equal(list.n, 0);
    token_list_free(&list);
    bpe_free(bpe);
}

typedef struct Body {
    const Vocabulary *v;
    const char *text;
    size_t n;
} Body;

static Status build_and_encode(void *ctx) {
    Status st = TANE_OK;
    const Body *body = ctx;
    BpeSpec spec = {.tokens = body->v->tokens, .n_tokens = body->v->n_tokens, .unk = -1};
    Bpe *bpe = NULL;
    BpeWork *work = NULL;
    Scanner *scanner = NULL;
    TokenList list = {0};
    TRY(bpe_new(&bpe, &spec, "test"));
    TRY(scanner_new(&scanner, "test", scan_gpt2, strlen(scan_gpt2), true));
    TRY(bpe_take(bpe, &work));
    TRY(bpe_text(bpe, work, scanner, body->text, body->n, &list));
out:
    token_list_free(&list);
    if (work) bpe_give(bpe, work);
    scanner_free(scanner);
    bpe_free(bpe);
    return st;
}

static void test_allocations_that_fail(void **state) {
    (void)state;
    Rng rng = {.key = 6};
    static Vocabulary v; /* lives as long as the process: no memory of tane's may be live while allocations fail */
    v = random_vocabulary(&rng, false, true, 100, letters, LETTERS);
    BpeToken *tokens = malloc((size_t)v.n_tokens * sizeof *tokens);
    for (int32_t i = 0; i < v.n_tokens; i++) {
        char *copy = malloc(v.tokens[i].n);
        memcpy(copy, v.tokens[i].bytes, v.tokens[i].n);
        tokens[i] = (BpeToken){copy, v.tokens[i].n};
    }
    arena_release(&v.arena);
    v.tokens = tokens;
    static char text[2000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "ab c'"[i % 97 % 5];
    memset(text + 500, 'a', 700); /* a long word */
    Body body = {&v, text, sizeof text};
    assert_true(test_fail_allocations(build_and_encode, &body) > 20);
    for (int32_t i = 0; i < v.n_tokens; i++) free((void *)tokens[i].bytes);
    free(tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_ids_of_tiktoken_and_tokenizers),
        TEST(test_random_vocabularies),
        TEST(test_a_million_equal_characters),
        TEST(test_cache_forgets_but_never_errs),
        TEST(test_tokens_that_are_only_words),
        TEST(test_text_is_its_words),
        TEST(test_threads_share_a_vocabulary),
        TEST(test_bad_vocabularies),
        TEST(test_allocations_that_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
