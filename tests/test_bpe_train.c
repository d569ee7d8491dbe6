/* Training byte-level BPE: the same tokens and merges as Hugging Face's BpeTrainer, whatever the threads and pieces;
 * bad options and text; memory that fails. Golden file: tools/golden/bpe_train.py. With TANE_TEST_DATA=FOLDER also on
 * the real text there. */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "data/jsonl.h"
#include "text/bpe_learn.h"
#include "text/bpe_train.h"

/* ---- texts ---- */

typedef struct Texts {
    Str all;
    size_t *ends; /* (n) */
    size_t n, at;
} Texts;

static void texts_add(Texts *t, const char *text, size_t n) {
    if (n) assert_ok(str_add(&t->all, text, n));
    assert_ok(mem_grow((void **)&t->ends, t->n, t->n + 1, sizeof *t->ends));
    t->ends[t->n++] = t->all.len;
}

static void texts_free(Texts *t) {
    str_free(&t->all);
    mem_free(t->ends);
    *t = (Texts){0};
}

static Status next_text(void *user, const char **text, size_t *n, bool *more) {
    Texts *t = user;
    *more = t->at < t->n;
    if (!*more) return TANE_OK;
    size_t begin = t->at ? t->ends[t->at - 1] : 0;
    *text = t->all.text + begin;
    *n = t->ends[t->at++] - begin;
    return TANE_OK;
}

/* make_text() of the golden script. */
static uint32_t below(uint64_t *state, uint32_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static size_t letters_of(const char *alphabet, const char *letters[32]) {
    size_t n = 0;
    for (const char *p = alphabet; *p; p++)
        if (((unsigned char)*p & 0xC0) != 0x80) letters[n++] = p;
    letters[n] = alphabet + strlen(alphabet);
    return n;
}

static void make_text(Str *out, uint64_t seed, uint32_t longest, uint32_t n_words, uint32_t n_known) {
    static const char *const alphabets[] = {"ab",    "aaab",       "etaoinshrdlu", "0123456789",
                                            "çéßñø", "種田山頭火", "😀🎉x",          "-=+!?"};
    static const char *const gaps[] = {" ", " ", " ", " ", "  ", "\n", ", ", "'s ", "\t", " \n\n ", "", "   "};
    Str known = {0};
    size_t *ends;
    assert_ok(MEM_NEW_ARRAY(&ends, n_known + 1));
    for (uint32_t i = 0; i < n_known; i++) {
        const char *letters[32];
        uint32_t n = (uint32_t)letters_of(alphabets[below(&seed, 8)], letters), length = 1 + below(&seed, longest);
        for (uint32_t k = 0; k < length; k++) {
            uint32_t which = below(&seed, n);
            assert_ok(str_add(&known, letters[which], (size_t)(letters[which + 1] - letters[which])));
        }
        ends[i + 1] = known.len;
    }
    for (uint32_t i = 0; i < n_words; i++) {
        uint32_t which = below(&seed, 1 + below(&seed, n_known));
        assert_ok(str_add(out, known.text + ends[which], ends[which + 1] - ends[which]));
        assert_ok(str_printf(out, "%s", gaps[below(&seed, 12)]));
    }
    mem_free(ends);
    str_free(&known);
}

static void add_made(Texts *t, uint64_t seed, uint32_t longest, uint32_t n_words, uint32_t n_known) {
    Str text = {0};
    make_text(&text, seed, longest, n_words, n_known);
    texts_add(t, text.text, text.len);
    str_free(&text);
}

/* ---- results ---- */

static void add_hash(uint64_t *h, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) *h = (*h ^ (unsigned char)bytes[i]) * 0x100000001B3u;
}

static uint64_t hash_of(const TokenizerSpec *spec) {
    uint64_t h = 0xCBF29CE484222325u;
    for (int32_t i = 0; i < spec->n_tokens; i++) {
        add_hash(&h, spec->tokens[i].text.data, spec->tokens[i].text.n);
        add_hash(&h, "\n", 1);
    }
    for (size_t i = 0; i < spec->n_merges; i++) {
        char line[32];
        int n = snprintf(line, sizeof line, "%d %d\n", spec->merges[i].left, spec->merges[i].right);
        add_hash(&h, line, (size_t)n);
    }
    return h;
}

static const char *const eot[] = {"<|endoftext|>"};
static BpeTrainOptions plain(int64_t vocab_size, int64_t threads) {
    return (BpeTrainOptions){
        .vocab_size = vocab_size, .min_frequency = 2, .special = eot, .n_special = 1, .threads = threads};
}

static Status train(TokenizerSpec *spec, const BpeTrainOptions *options, Texts *texts) {
    texts->at = 0;
    return bpe_train(spec, options, next_text, texts);
}

static uint64_t hash_trained(const BpeTrainOptions *options, Texts *texts) {
    TokenizerSpec spec;
    assert_ok(train(&spec, options, texts));
    uint64_t hash = hash_of(&spec);
    tokenizer_spec_release(&spec);
    return hash;
}

/* ---- the same as Hugging Face ---- */

static json_t *golden(void) {
    json_t *root;
    assert_ok(json_read_file(test_data("golden/bpe_train.json"), &root));
    return root;
}

static void check_case(const json_t *c, Texts *texts, int64_t threads) {
    const char *special[16];
    const json_t *list = json_object_get(c, "special");
    BpeTrainOptions o = {.special = special, .n_special = json_array_size(list), .threads = threads};
    for (size_t i = 0; i < o.n_special; i++) special[i] = json_string_value(json_array_get(list, i));
    o.vocab_size = json_integer_value(json_object_get(c, "vocab_size"));
    o.min_frequency = json_integer_value(json_object_get(c, "min_frequency"));
    o.pattern = json_string_value(json_object_get(c, "pattern"));
    TokenizerSpec spec;
    assert_ok(train(&spec, &o, texts));
    char hash[32];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hash_of(&spec));
    assert_int_equal(spec.n_tokens, json_integer_value(json_object_get(c, "tokens")));
    assert_int_equal(spec.n_merges, json_integer_value(json_object_get(c, "merges")));
    assert_string_equal(hash, json_string_value(json_object_get(c, "hash")));
    tokenizer_spec_release(&spec);
}

static void a_small_vocabulary_is_hugging_faces(void **state) {
    (void)state;
    json_t *root = golden(), *small = json_object_get(root, "small"), *token, *merge;
    const char *text = json_string_value(json_object_get(small, "text"));
    Texts texts = {0};
    texts_add(&texts, text, strlen(text));
    TokenizerSpec spec;
    BpeTrainOptions o = plain(json_integer_value(json_object_get(small, "vocab_size")), 1);
    assert_ok(train(&spec, &o, &texts));
    size_t i;
    assert_int_equal(spec.n_tokens, json_array_size(json_object_get(small, "all_tokens")));
    json_array_foreach(json_object_get(small, "all_tokens"), i, token) {
        assert_int_equal(spec.tokens[i].text.n, json_string_length(token));
        assert_memory_equal(spec.tokens[i].text.data, json_string_value(token), json_string_length(token));
    }
    assert_int_equal(spec.n_merges, json_array_size(json_object_get(small, "all_merges")));
    json_array_foreach(json_object_get(small, "all_merges"), i, merge) {
        assert_int_equal(spec.merges[i].left, json_integer_value(json_array_get(merge, 0)));
        assert_int_equal(spec.merges[i].right, json_integer_value(json_array_get(merge, 1)));
    }
    tokenizer_spec_release(&spec);
    texts_free(&texts);
    json_decref(root);
}

static void made_texts_give_hugging_faces_hashes(void **state) {
    (void)state;
    json_t *root = golden(), *c;
    size_t i, checked = 0;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        const json_t *made = json_object_get(c, "made");
        if (!made) continue;
        uint32_t n[4];
        for (size_t k = 0; k < 4; k++) n[k] = (uint32_t)json_integer_value(json_array_get(made, k));
        Texts texts = {0};
        add_made(&texts, n[0], n[1], n[2], n[3]);
        check_case(c, &texts, (int64_t)(1 + checked++ % 3));
        texts_free(&texts);
    }
    assert_true(checked >= 40);
    json_decref(root);
}

/* A JSON line's question and answer, one behind the other. */
static void add_questions(Texts *texts, const char *path) {
    JsonlReader *reader;
    JsonlScratch scratch = {0};
    bool more;
    assert_ok(jsonl_open(&reader, path));
    for (;;) {
        JsonlLine line;
        JsonlField fields[2] = {{.key = "question"}, {.key = "answer"}};
        Str both = {0};
        assert_ok(jsonl_next(reader, &line, fields, 2, &scratch, &more));
        if (!more) break;
        for (int i = 0; i < 2; i++) {
            const char *text;
            size_t n;
            assert_ok(jsonl_text(&fields[i], &scratch, &text, &n));
            assert_ok(str_add(&both, text, n));
        }
        texts_add(texts, both.text, both.len);
        str_free(&both);
    }
    jsonl_scratch_free(&scratch);
    jsonl_close(reader);
}

static void real_texts_give_hugging_faces_hashes(void **state) {
    (void)state;
    const char *folder = getenv("TANE_TEST_DATA");
    if (!folder) {
        print_message("TANE_TEST_DATA names no folder with text/ and gsm8k/\n");
        skip();
    }
    json_t *root = golden(), *c;
    size_t i, checked = 0;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        const char *name = json_string_value(json_object_get(c, "file"));
        if (!name) continue;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, name);
        Texts texts = {0};
        if (strstr(name, ".jsonl")) {
            add_questions(&texts, path);
        } else {
            FileMap map;
            assert_ok(file_map(path, &map));
            texts_add(&texts, (const char *)map.data, map.size);
            file_unmap(&map);
        }
        check_case(c, &texts, 2);
        checked++;
        texts_free(&texts);
    }
    assert_true(checked >= 20);
    json_decref(root);
}

/* ---- threads and pieces ---- */

static void threads_do_not_show(void **state) {
    (void)state;
    Texts texts = {0};
    for (uint64_t seed = 1; seed <= 40; seed++) add_made(&texts, seed, 10, 2000, 1000);
    texts_add(&texts, "", 0);
    BpeTrainOptions o = plain(3000, 1);
    uint64_t hash = hash_trained(&o, &texts);
    for (o.threads = 2; o.threads <= 9; o.threads += 3) assert_int_equal(hash, hash_trained(&o, &texts));
    o.threads = 0;
    assert_int_equal(hash, hash_trained(&o, &texts));
    texts_free(&texts);
}

/* A text of several parts, each of which a thread begins in the middle of something. With the last two expressions most
 * scans that began elsewhere never agree with one from the beginning. */
static void a_large_text_is_cut_nowhere(void **state) {
    (void)state;
    static const char *const patterns[] = {NULL, "[\\s\\S]{1,7}", "a+|[^a]+"};
    Texts texts = {0};
    Str text = {0};
    for (uint64_t seed = 1; text.len < (5 << 20); seed++) {
        make_text(&text, seed, 10, 20000, 3000);
        if (seed != 10) continue;
        for (int i = 0; i < 150000; i++) assert_ok(str_add(&text, "aaaaaaaaaa", 10)); /* a word longer than a part */
    }
    texts_add(&texts, text.text, text.len);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        BpeTrainOptions o = plain(1500, 1);
        o.pattern = patterns[i];
        uint64_t hash = hash_trained(&o, &texts);
        o.threads = 3;
        assert_int_equal(hash, hash_trained(&o, &texts));
    }
    str_free(&text);
    texts_free(&texts);
}

static void pieces_are_texts_of_their_own(void **state) {
    (void)state;
    Texts one = {0}, two = {0};
    texts_add(&one, "xyxyxyxy", 8);
    for (int i = 0; i < 4; i++) texts_add(&two, "xy", 2);
    BpeTrainOptions o = plain(400, 1);
    TokenizerSpec a, b;
    assert_ok(train(&a, &o, &one));
    assert_ok(train(&b, &o, &two));
    assert_int_equal(a.n_tokens, 257 + 2); /* xy, xyxy */
    assert_int_equal(b.n_tokens, 257 + 1); /* xy */
    tokenizer_spec_release(&a);
    tokenizer_spec_release(&b);
    texts_free(&one);
    texts_free(&two);
}

static void a_million_equal_characters(void **state) {
    (void)state;
    Texts texts = {0};
    Str text = {0};
    assert_ok(mem_grow((void **)&text.text, 0, 1000001, 1));
    memset(text.text, 'a', 1000000);
    texts_add(&texts, text.text, 1000000);
    TokenizerSpec spec;
    BpeTrainOptions o = plain(5000, 2);
    assert_ok(train(&spec, &o, &texts));
    /* aa, aaaa, ...; the last pair that is there twice, overlapping, is of three tokens of 2^18 letters. */
    assert_int_equal(spec.n_merges, 19);
    assert_int_equal(spec.tokens[spec.n_tokens - 1].text.n, 1 << 19);
    tokenizer_spec_release(&spec);
    mem_free(text.text);
    texts_free(&texts);
}

/* ---- counts ---- */

typedef struct Learned {
    Arena arena;
    BpeVocab vocab;
    SpecMerge *merges;
    size_t n;
} Learned;

/* A vocabulary of 26 letters, and up to `most` merges. */
static void learn(Learned *l, char *bytes, uint64_t *starts, int64_t *counts, size_t n, int32_t most) {
    static char letters[26];
    WordList words = {bytes, starts, counts, n};
    BpeLearnOptions o = {.min_frequency = 2, .threads = 1};
    *l = (Learned){0};
    l->vocab.arena = &l->arena;
    l->vocab.cap = 26 + most;
    assert_ok(MEM_NEW_ARRAY(&l->vocab.tokens, (size_t)l->vocab.cap));
    assert_ok(vocab_init(&l->vocab.index, l->vocab.tokens, sizeof *l->vocab.tokens, (size_t)l->vocab.cap));
    for (; l->vocab.n < 26; l->vocab.n++) {
        letters[l->vocab.n] = (char)('a' + l->vocab.n);
        l->vocab.tokens[l->vocab.n].text = (Bytes){&letters[l->vocab.n], 1};
        l->vocab.byte['a' + l->vocab.n] = l->vocab.n;
        vocab_add(&l->vocab.index, l->vocab.n);
    }
    assert_ok(bpe_learn(&l->vocab, &words, &o, &l->merges, &l->n));
}

static void learned_free(Learned *l) {
    mem_free(l->merges);
    mem_free(l->vocab.tokens);
    vocab_free(&l->vocab.index);
    arena_release(&l->arena);
}

/* "u32 overflow of pair counts": cut to 32 bits the first word would occur once, and two halves not at all. */
static void counts_beyond_32_bits(void **state) {
    (void)state;
    char bytes[] = "abcdefxef";
    uint64_t starts[] = {0, 2, 4, 6, 9};
    int64_t counts[] = {((int64_t)1 << 32) + 1, 0xFFFFFFFF, (int64_t)1 << 31, (int64_t)1 << 31};
    Learned l;
    learn(&l, bytes, starts, counts, 4, 3);
    assert_int_equal(l.n, 3);
    assert_int_equal(l.merges[0].left, 'a' - 'a'); /* 2^32 + 1 */
    assert_int_equal(l.merges[1].left, 'e' - 'a'); /* 2^31 + 2^31 */
    assert_int_equal(l.merges[2].left, 'c' - 'a'); /* 2^32 - 1 */
    learned_free(&l);
}

static void equal_counts_go_by_ids(void **state) {
    (void)state;
    char bytes[] = "zzbcbbab";
    uint64_t starts[] = {0, 2, 4, 6, 8};
    int64_t counts[] = {5, 5, 5, 5};
    Learned l;
    learn(&l, bytes, starts, counts, 4, 9);
    assert_int_equal(l.n, 4);
    static const int expected[4][2] = {{0, 1}, {1, 1}, {1, 2}, {25, 25}};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(l.merges[i].left, expected[i][0]);
        assert_int_equal(l.merges[i].right, expected[i][1]);
    }
    learned_free(&l);
}

/* ---- the tokenizer ---- */

static void the_spec_is_complete(void **state) {
    (void)state;
    static const char *const special[] = {"<s>", "</s>", "<pad>"};
    BpeTrainOptions o = {.vocab_size = 300,
                         .min_frequency = 1,
                         .special = special,
                         .n_special = 3,
                         .eos = "</s>",
                         .pad = "<pad>",
                         .threads = 1};
    Texts texts = {0};
    texts_add(&texts, "a word and a word", 17);
    TokenizerSpec spec;
    assert_ok(train(&spec, &o, &texts));
    assert_int_equal(spec.model, TOKEN_BPE);
    assert_int_equal(spec.bos, 0);
    assert_int_equal(spec.eos, 1);
    assert_int_equal(spec.pad, 2);
    assert_int_equal(spec.unk, -1);
    assert_int_equal(spec.n_added, 3);
    assert_true(spec.added[1].special && !spec.added[1].normalized);
    assert_int_equal(spec.added[1].id, 1);
    assert_string_equal(spec.added[1].content.data, "</s>");
    assert_int_equal(spec.pre_tokenizers.n, 1);
    assert_int_equal(spec.pre_tokenizers.items[0].kind, PRE_BYTE_LEVEL);
    assert_true(spec.pre_tokenizers.items[0].use_regex && !spec.pre_tokenizers.items[0].add_prefix_space);
    assert_int_equal(spec.decoders.n, 1);
    assert_int_equal(spec.decoders.items[0].kind, DECODE_BYTE_LEVEL);
    assert_int_equal(spec.n_post, 0);
    tokenizer_spec_release(&spec);
    o.pattern = "\\w+";
    assert_ok(train(&spec, &o, &texts));
    assert_int_equal(spec.pre_tokenizers.n, 2);
    assert_int_equal(spec.pre_tokenizers.items[0].kind, PRE_SPLIT);
    assert_int_equal(spec.pre_tokenizers.items[0].behavior, SPLIT_ISOLATED);
    assert_string_equal(spec.pre_tokenizers.items[0].pattern.data, "\\w+");
    assert_true(spec.pre_tokenizers.items[0].regex && !spec.pre_tokenizers.items[1].use_regex);
    tokenizer_spec_release(&spec);
    texts_free(&texts);
}

static void assert_round_trip(const Tokenizer *tok, const char *text, size_t n) {
    TokenList list = {0};
    Str back = {0};
    assert_ok(tokenizer_encode(tok, text, n, &list));
    assert_ok(tokenizer_decode(tok, list.ids, list.n, &back));
    assert_int_equal(back.len, n);
    assert_memory_equal(back.text, text, n);
    token_list_free(&list);
    str_free(&back);
}

static void a_trained_tokenizer_works_and_loads_again(void **state) {
    (void)state;
    Texts texts = {0};
    add_made(&texts, 7, 8, 4000, 500);
    BpeTrainOptions o = plain(1000, 2);
    TokenizerSpec spec;
    Tokenizer *tok, *again;
    TokenList a = {0}, b = {0};
    assert_ok(train(&spec, &o, &texts));
    assert_ok(tokenizer_from_spec(&tok, &spec, "trained"));
    assert_round_trip(tok, texts.all.text, texts.all.len);
    assert_round_trip(tok, "never seen: Ünïcödé ☃", strlen("never seen: Ünïcödé ☃"));
    assert_ok(tokenizer_save(tok, test_path("t")));
    assert_ok(tokenizer_load(&again, test_path("t")));
    assert_int_equal(tokenizer_vocab_size(again), 1000);
    assert_int_equal(tokenizer_eos(again), 0);
    assert_ok(tokenizer_encode(tok, texts.all.text, texts.all.len, &a));
    assert_ok(tokenizer_encode(again, texts.all.text, texts.all.len, &b));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.ids, b.ids, a.n * sizeof *a.ids);
    assert_true(a.n < texts.all.len / 2);
    token_list_free(&a);
    token_list_free(&b);
    tokenizer_free(tok);
    tokenizer_free(again);
    texts_free(&texts);
}

/* ---- what makes no sense ---- */

static void options_that_make_no_sense(void **state) {
    (void)state;
    Texts texts = {0};
    TokenizerSpec spec;
    texts_add(&texts, "some text", 9);
    BpeTrainOptions o = plain(256, 1);
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "the 256 bytes and 1 special token need 257");
    o.vocab_size = INT64_MIN;
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "too small");
    o.vocab_size = INT64_MAX;
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "too large");
    o = plain(300, 1);
    o.min_frequency = -1;
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "min_frequency -1");
    o = plain(300, 1);
    o.eos = "</s>";
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "eos token \"</s>\" is not among the special tokens");
    o = plain(300, 1);
    o.pattern = "(";
    assert_error_contains(train(&spec, &o, &texts), "(");
    static const char *const twice[] = {"<s>", "<s>"}, *const empty[] = {""}, *const broken[] = {"\xFF"};
    o = (BpeTrainOptions){.vocab_size = 300, .special = twice, .n_special = 2};
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "\"<s>\" is named twice");
    o = (BpeTrainOptions){.vocab_size = 300, .special = empty, .n_special = 1};
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "special token 0 is empty");
    o.special = broken;
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "special token 0 is not UTF-8");
    texts_free(&texts);
}

static void text_that_is_none(void **state) {
    (void)state;
    Texts texts = {0};
    TokenizerSpec spec;
    BpeTrainOptions o = plain(300, 2);
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "no text to train a tokenizer on: 0 texts");
    texts_add(&texts, "", 0);
    assert_error(train(&spec, &o, &texts), TANE_EINVAL, "1 texts, all empty");
    texts_add(&texts, "good", 4);
    texts_add(&texts, "caf\xE9 x", 6);
    texts_add(&texts, "\x80", 1);
    assert_error(train(&spec, &o, &texts), TANE_EFORMAT, "text 3 is not UTF-8: byte 0xE9 at offset 3");
    texts_free(&texts);
    Str large = {0};
    for (int i = 0; i < 300000; i++) assert_ok(str_add(&large, "ten bytes ", 10));
    memcpy(large.text + 2500000, "\xE7\xA8", 2);
    texts_add(&texts, large.text, large.len);
    assert_error(train(&spec, &o, &texts), TANE_EFORMAT, "text 1 is not UTF-8: byte 0xE7 at offset 2500000");
    str_free(&large);
    texts_free(&texts);
}

static void few_words_give_few_tokens(void **state) {
    (void)state;
    Texts texts = {0};
    TokenizerSpec spec;
    texts_add(&texts, "one two one", 11);
    BpeTrainOptions o = plain(32000, 1);
    assert_ok(train(&spec, &o, &texts));
    assert_int_equal(spec.n_tokens, 257 + 2); /* ne and one, of "one" and " one" */
    tokenizer_spec_release(&spec);
    texts_free(&texts);
}

static bool stop_at(void *user, double share) {
    double *last = user;
    bool stop = *last >= 0 && share >= *last;
    *last = stop ? share : *last;
    return stop;
}

static void training_can_be_stopped(void **state) {
    (void)state;
    Texts texts = {0};
    TokenizerSpec spec;
    add_made(&texts, 4, 12, 60000, 8000);
    double at = 0.3;
    BpeTrainOptions o = plain(5000, 1);
    o.progress = stop_at;
    o.user = &at;
    assert_error(train(&spec, &o, &texts), TANE_ECANCELED, "stopped with");
    assert_true(at >= 0.3 && at < 0.5);
    assert_null(spec.tokens);
    texts_free(&texts);
}

typedef struct Failing {
    Texts *texts;
    const char *pattern;
} Failing;

static Status train_and_release(void *ctx) {
    const Failing *f = ctx;
    TokenizerSpec spec;
    BpeTrainOptions o = plain(400, 1);
    o.pattern = f->pattern;
    TRY_RETURN(train(&spec, &o, f->texts));
    tokenizer_spec_release(&spec);
    return TANE_OK;
}

/* The text itself is static: nothing of tane's may live while the allocator is changed. */
static void allocations_fail(void **state) {
    (void)state;
    static char text[6000];
    static size_t ends[2] = {3000, 6000};
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)("abcd ef"[i % 7] + (i % 11 == 0 ? 1 : 0));
    memset(text + 100, 'x', 64); /* a long word */
    Texts texts = {.all = {text, sizeof text, 0}, .ends = ends, .n = 2};
    assert_true(test_fail_allocations(train_and_release, &(Failing){&texts, NULL}) > 20);
    assert_true(test_fail_allocations(train_and_release, &(Failing){&texts, "\\w{1,5}"}) > 20);
}

/* ---- the command ---- */

static Status command(int argc, const char *const *argv) {
    for (const Command *const *c = cmd_tokenizer.sub; *c; c++)
        if (strcmp((*c)->name, "train") == 0) return (*c)->run(*c, argc, (char **)argv);
    fail_msg("no subcommand train");
    return TANE_EINTERNAL;
}
#define TRAIN(...)                                                                                                     \
    command(sizeof((const char *[]){"--model-type", "byte_bpe", __VA_ARGS__}) / sizeof(char *),                        \
            (const char *[]){"--model-type", "byte_bpe", __VA_ARGS__})

static void the_command_writes_a_folder(void **state) {
    (void)state;
    const char *jsonl = test_write(test_path("d.jsonl"),
                                   "\xEF\xBB\xBF{\"prompt\":\"1,\",\"completion\":\"\\u00e9t\\u00e9\"}\r\n\n"
                                   "{\"text\":\"3\\n4\"}");
    const char *text = test_write(test_path("d.txt"), "\xEF\xBB\xBFthe the the\nthen\n");
    const char *folder = test_path("out");
    Tokenizer *tok;
    assert_ok(TRAIN("--input", text, jsonl, "--vocab-size", "300", "--min-frequency", "1", "--out", folder,
                    "--special-tokens", "<s>,</s>", "--eos-token", "</s>"));
    assert_ok(tokenizer_load(&tok, folder));
    assert_true(tokenizer_vocab_size(tok) > 262 && tokenizer_vocab_size(tok) < 300);
    assert_int_equal(tokenizer_bos(tok), 0);
    assert_int_equal(tokenizer_eos(tok), 1);
    assert_true(tokenizer_find(tok, "the", 3) >= 258);
    assert_true(tokenizer_find(tok, "\xC3\x83\xC2\xA9t\xC3\x83\xC2\xA9", 9) >= 258); /* été, each byte a character */
    tokenizer_free(tok);
    assert_ok(TRAIN("--input", text, "--vocab-size", "300", "--pattern", "cl100k", "--lines", "--out", folder));
    assert_non_null(strstr(test_read(test_path("out/tokenizer.json"), NULL), "\"Split\""));
}

/* Of three newlines GPT-2's expression makes a word of two and one of one, unless each ends a text. */
static void lines_are_texts_if_asked(void **state) {
    (void)state;
    const char *text = test_write(test_path("d.txt"), "a\n\n\nb\n\n\nc"), *folder = test_path("out");
    for (int lines = 0; lines < 2; lines++) {
        Tokenizer *tok;
        assert_ok(TRAIN("--input", text, "--vocab-size", "300", lines ? "--lines" : "--no-lines", "--out", folder));
        assert_ok(tokenizer_load(&tok, folder));
        assert_int_equal(tokenizer_vocab_size(tok), lines ? 257 : 258);
        tokenizer_free(tok);
    }
}

static void the_command_names_the_bad_place(void **state) {
    (void)state;
    const char *path = test_path("bad.jsonl"), *out = test_path("out");
    test_write(path, "{\"text\":\"a\"}\n{\"prompt\":\"a\"}\n");
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.jsonl:2: \"completion\" is missing");
    test_write(path, "{\"txt\":\"a\"}\n");
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.jsonl:1: no text in it");
    test_write(path, "{\"text\":7}\n");
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.jsonl:1: \"text\" is not text");
    path = test_write(test_path("bad.txt"), "good\ncaf\xE9\n");
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.txt:2: byte 0xE9 is not UTF-8");
    path = test_write_bytes(test_path("bad.txt"), "a\n\0b", 4);
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.txt:2: a NUL byte");
    path = test_write(test_path("bad.txt"), "");
    assert_error(TRAIN("--input", path, "--out", out), TANE_EFORMAT, "bad.txt: there is no text");
    assert_error(TRAIN("--input", test_path("none.txt"), "--out", out), TANE_ENOTFOUND, "none.txt");
    assert_error(TRAIN("--input", path), TANE_EINVAL, "--out FOLDER");
    assert_error(TRAIN("--input", path, "--out", out, "--byte-fallback"), TANE_EINVAL, "byte_fallback is an option of");
    assert_error(TRAIN("--input", path, "--out", out, "--model-type", "bpe", "--min-frequency", "3"), TANE_EINVAL,
                 "min_frequency is an option of --model-type byte_bpe");
    path = test_write(test_path("good.txt"), "text");
    assert_error(TRAIN("--input", path, "--out", out, "--vocab-size", "200"), TANE_EINVAL, "vocab_size 200");
    assert_false(dir_exists(out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_small_vocabulary_is_hugging_faces),
        TEST(made_texts_give_hugging_faces_hashes),
        TEST(real_texts_give_hugging_faces_hashes),
        TEST(threads_do_not_show),
        TEST(a_large_text_is_cut_nowhere),
        TEST(pieces_are_texts_of_their_own),
        TEST(a_million_equal_characters),
        TEST(counts_beyond_32_bits),
        TEST(equal_counts_go_by_ids),
        TEST(the_spec_is_complete),
        TEST(a_trained_tokenizer_works_and_loads_again),
        TEST(options_that_make_no_sense),
        TEST(text_that_is_none),
        TEST(few_words_give_few_tokens),
        TEST(training_can_be_stopped),
        TEST(allocations_fail),
        TEST(the_command_writes_a_folder),
        TEST(lines_are_texts_if_asked),
        TEST(the_command_names_the_bad_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
