/* tane convert and tane show: types of tensors, what is kept bit for bit, tokenizers both ways, what is refused, and
 * that nothing half-written stays behind. That models compute the same afterwards is tests/test_gguf_model.c. */
#include "support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/json.h"
#include "format/safetensors.h"
#include "model/convert.h"
#include "model/gguf_config.h"
#include "model/gguf_tokenizer.h"
#include "ops/backend.h"

/* ---- what the calls tell ---- */

typedef struct Told {
    char notes[4096];
    uint64_t done, total;
    bool backwards;
} Told;

static void on_note(void *user, const char *text) {
    Told *t = user;
    size_t n = strlen(t->notes);
    snprintf(t->notes + n, sizeof t->notes - n, "%s\n", text);
}

static void on_progress(void *user, uint64_t done, uint64_t total) {
    Told *t = user;
    t->backwards |= done < t->done || done > total;
    t->done = done;
    t->total = total;
}

static Status converted(const char *in, const char *out, const char *type, bool force, Told *told) {
    *told = (Told){0};
    ConvertOptions options = {.type = type, .force = force, .user = told, .note = on_note, .progress = on_progress};
    return convert_model(in, out, &options);
}

static void convert(const char *in, const char *out, const char *type) {
    Told told;
    assert_ok(converted(in, out, type, false, &told));
    assert_false(told.backwards);
    assert_true(told.total > 0 && told.done == told.total);
}

/* ---- models ---- */

/* A folder with random weights: a llama of this width, and an output layer of its own unless tied. */
static const char *make_folder(const char *name, int64_t vocab, int64_t width, bool tied, DType type) {
    const char *folder = test_path("%s", name);
    ModelConfig c;
    Model *m;
    assert_ok(model_config_init(&c, "llama"));
    c.vocab_size = vocab;
    c.context = 64;
    c.width = width;
    c.layers = 2;
    c.heads = 4;
    c.kv_heads = 2;
    c.ffn = 2 * width;
    c.tied = tied;
    c.activation = ACTIVATION_SILU;
    assert_ok(model_new(&m, &c, DTYPE_F32, test_device()));
    ParamArray weights = model_weights(m);
    assert_ok(params_init(&m->params, 7, &weights, 1));
    assert_ok(dir_make(folder));
    assert_ok(model_save(m, &weights, type, folder));
    model_free(m);
    return folder;
}

static const char *golden_model(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "golden/models/%s", name);
    return test_data(path);
}

static GgufFile *open_gguf(const char *path) {
    GgufFile *file;
    assert_ok(gguf_open(&file, path));
    return file;
}

static const char *type_of(const GgufFile *file, const char *tensor) {
    const GgufTensor *t = gguf_find(file, tensor);
    assert_non_null(t);
    return t->type->name;
}

static void assert_type(const GgufFile *file, const char *tensor, const char *type) {
    if (strcmp(type_of(file, tensor), type)) fail_msg("%s is %s, expected %s", tensor, type_of(file, tensor), type);
}

static void tensors_get_their_types(void **state) {
    (void)state;
    static const struct {
        const char *type, *matrix, *output;
        int64_t file_type;
    } cases[] = {{"f32", "F32", "F32", 0},    {"f16", "F16", "F16", 1},    {"bf16", "BF16", "BF16", 32},
                 {"q8_0", "Q8_0", "Q8_0", 7}, {"q4_0", "Q4_0", "Q8_0", 2}, {"q4_k", "Q4_K", "Q8_0", 14}};
    const char *untied = make_folder("untied", 40, 256, false, DTYPE_F32),
               *tied = make_folder("tied", 40, 256, true, DTYPE_F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t number = -1;
        const char *path = test_path("%s.gguf", cases[i].type);
        convert(untied, path, cases[i].type);
        GgufFile *file = open_gguf(path);
        assert_type(file, "blk.0.attn_q.weight", cases[i].matrix);
        assert_type(file, "blk.1.ffn_down.weight", cases[i].matrix);
        assert_type(file, "token_embd.weight", cases[i].matrix);
        assert_type(file, "output.weight", cases[i].output);
        assert_type(file, "blk.1.attn_norm.weight", "F32");
        assert_type(file, "output_norm.weight", "F32");
        assert_ok(gguf_int(file, "general.file_type", true, 0, 100, &number));
        assert_int_equal(number, cases[i].file_type);
        gguf_close(&file);
        convert(tied, test_path("tied-%s.gguf", cases[i].type), cases[i].type);
        file = open_gguf(test_path("tied-%s.gguf", cases[i].type));
        assert_type(file, "token_embd.weight", cases[i].output);
        assert_null(gguf_find(file, "output.weight"));
        gguf_close(&file);
    }
}

/* Rows that are no whole blocks fall back, and the user hears of it. */
static void short_rows_fall_back(void **state) {
    (void)state;
    Told told;
    const char *folder = make_folder("narrow", 40, 96, false, DTYPE_F32),
               *odd = make_folder("odd", 40, 24, false, DTYPE_F32);
    assert_ok(converted(folder, test_path("narrow.gguf"), "q4_k", false, &told));
    assert_non_null(
        strstr(told.notes, "16 tensors have rows that are no multiple of 256 numbers: they are stored as Q8_0"));
    GgufFile *file = open_gguf(test_path("narrow.gguf"));
    assert_type(file, "blk.0.attn_q.weight", "Q8_0");
    gguf_close(&file);
    assert_ok(converted(odd, test_path("odd.gguf"), "q4_0", false, &told));
    file = open_gguf(test_path("odd.gguf"));
    assert_type(file, "blk.0.attn_q.weight", "F16");
    gguf_close(&file);
}

/* Without --type: F32 stays F32, F16 and BF16 stay, and quantized weights become BF16 in a folder. */
static void the_usual_type_is_the_sources(void **state) {
    (void)state;
    static const DType types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const char *const names[] = {"F32", "F16", "BF16"};
    for (int i = 0; i < 3; i++) {
        char folder[16], *back;
        StFile *st;
        snprintf(folder, sizeof folder, "m%d", i);
        convert(make_folder(folder, 40, 64, true, types[i]), test_path("m%d.gguf", i), NULL);
        GgufFile *file = open_gguf(test_path("m%d.gguf", i));
        assert_type(file, "blk.0.attn_q.weight", names[i]);
        gguf_close(&file);
        back = (char *)(uintptr_t)test_path("back%d", i);
        convert(test_path("m%d.gguf", i), back, NULL);
        assert_ok(st_open(&st, back));
        assert_int_equal(st_get(st, 0)->dtype, types[i]);
        st_close(&st);
    }
    StFile *st;
    convert(test_path("m0"), test_path("q.gguf"), "q4_0");
    convert(test_path("q.gguf"), test_path("q"), NULL);
    assert_ok(st_open(&st, test_path("q")));
    assert_int_equal(st_get(st, 0)->dtype, DTYPE_BF16);
    st_close(&st);
}

/* Folder -> GGUF -> folder in one type: the tensors' bytes. */
static void sixteen_bits_come_back(void **state) {
    (void)state;
    StFile *a, *b;
    const char *from = make_folder("from", 40, 64, false, DTYPE_BF16);
    convert(from, test_path("x.gguf"), NULL);
    convert(test_path("x.gguf"), test_path("to"), NULL);
    assert_ok(st_open(&a, from));
    assert_ok(st_open(&b, test_path("to")));
    assert_int_equal(st_count(a), st_count(b));
    for (size_t i = 0; i < st_count(a); i++) {
        assert_string_equal(st_get(a, i)->name, st_get(b, i)->name);
        assert_int_equal(st_get(a, i)->bytes, st_get(b, i)->bytes);
        assert_memory_equal(st_get(a, i)->data, st_get(b, i)->data, st_get(a, i)->bytes);
    }
    st_close(&a);
    st_close(&b);
}

/* GGUF -> GGUF: keys and tensors as they were, but for the types that change. */
static void gguf_stays_gguf(void **state) {
    (void)state;
    Told told;
    convert(make_folder("m", 40, 256, false, DTYPE_F32), test_path("a.gguf"), "q8_0");
    convert(test_path("a.gguf"), test_path("b.gguf"), NULL);
    size_t n_a, n_b;
    char *a = test_read(test_path("a.gguf"), &n_a), *b = test_read(test_path("b.gguf"), &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, n_a);
    assert_ok(converted(test_path("a.gguf"), test_path("c.gguf"), "q4_0", false, &told));
    assert_non_null(strstr(told.notes, "a.gguf is already quantized (Q8_0): Q4_0 made of it is worse"));
    GgufFile *from = open_gguf(test_path("a.gguf")), *to = open_gguf(test_path("c.gguf"));
    assert_int_equal(gguf_tensor_count(from), gguf_tensor_count(to));
    assert_int_equal(gguf_key_count(from), gguf_key_count(to));
    assert_type(to, "blk.0.attn_q.weight", "Q4_0");
    const GgufTensor *x = gguf_find(from, "output.weight"), *y = gguf_find(to, "output.weight");
    assert_string_equal(y->type->name, "Q8_0");
    assert_memory_equal(x->data, y->data, x->bytes); /* not decoded and encoded again */
    gguf_close(&from);
    gguf_close(&to);
}

/* What GGUF or llama.cpp cannot say. */
static void losses_are_told(void **state) {
    (void)state;
    static const struct {
        const char *model, *words;
    } cases[] = {{"mistral", "llama.cpp knows no sliding window for \"llama\": with more than 4 tokens"},
                 {"qwen2", "llama.cpp knows no sliding window for \"qwen2\": with more than 5 tokens"},
                 {"gemma2", "llama.cpp takes 10 for query_pre_attn_scalar, but this model has 12"},
                 {"gemma3", "llama.cpp takes 16 for query_pre_attn_scalar, but this model has 20"},
                 {"smollm3", "llama.cpp takes every fourth layer of SmolLM 3 to be without positions"},
                 {"llama-tied", "llama-tied has no tokenizer: the result has none either"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Told told;
        assert_ok(converted(golden_model(cases[i].model), test_path("%s.gguf", cases[i].model), NULL, false, &told));
        if (!strstr(told.notes, cases[i].words))
            fail_msg("%s: expected \"%s\", found: %s", cases[i].model, cases[i].words, told.notes);
    }
}

/* ---- tokenizers ---- */

static Status load_json(const char *name, json_t **out) {
    char path[96];
    snprintf(path, sizeof path, "golden/tokenizer_json/%s.json", name);
    return json_read_file(test_data(path), out);
}

/* A model folder around a tokenizer of tests/golden/tokenizer_json. */
static const char *make_with_tokenizer(const char *name) {
    Tokenizer *tok;
    char path[96];
    const char *folder = test_path("%s", name);
    snprintf(path, sizeof path, "golden/tokenizer_json/%s.json", name);
    assert_ok(tokenizer_load(&tok, test_data(path)));
    make_folder(name, tokenizer_vocab_size(tok) + 3, 32, true, DTYPE_BF16); /* and 3 ids for nothing */
    tokenizer_free(tok);
    size_t n;
    const char *json = test_read(test_data(path), &n);
    assert_ok(dir_make(folder));
    test_write_bytes(test_path("%s/tokenizer.json", name), json, n);
    return folder;
}

static void encode(const Tokenizer *tok, const char *text, size_t n, bool special, TokenList *out) {
    /* What is put around a text shows on one that does not begin with it already. */
    EncodeInput in = {.text = text, .n = n, .parse_special = special, .add_special = n == 2};
    assert_ok(tokenizer_encode_input(tok, &in, out));
}

static void assert_same_ids(const char *name, const Tokenizer *a, const Tokenizer *b, const char *text, size_t n,
                            bool special) {
    TokenList x = {0}, y = {0};
    encode(a, text, n, special, &x);
    encode(b, text, n, special, &y);
    if (x.n != y.n || (x.n && memcmp(x.ids, y.ids, x.n * sizeof *x.ids)))
        fail_msg("%s: \"%.*s\" is cut otherwise (special tokens: %d)", name, (int)n, text, special);
    token_list_free(&x);
    token_list_free(&y);
}

static size_t unbase64(const char *in, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t word = 0;
    size_t n = 0;
    int bits = 0;
    for (; *in && *in != '='; in++) {
        word = word << 6 | (uint32_t)(strchr(digits, *in) - digits);
        bits += 6;
        if (bits >= 8) out[n++] = (char)(word >> (bits -= 8));
    }
    return n;
}

/* What GGUF has another way for: see tools/golden/convert_check.py. */
enum { RUNS_OF_SPACES = 1, SPACE_IN_FRONT = 2, SPECIAL_INSIDE = 4, MANNERS_OF_EOS = 8 };

/* tokenizer.json -> GGUF -> tokenizer.json: the same tokens for every text of the cases beside it. */
static void tokenizers_survive(void **state) {
    (void)state;
    static const struct {
        const char *name, *model, *pre;
        int other;
    } cases[] = {{"gpt2", "gpt2", "gpt-2", 0},
                 {"smollm", "gpt2", "smollm", 0},
                 {"llama3", "gpt2", "llama-bpe", 0},
                 {"qwen2", "gpt2", "qwen2", 0},
                 {"tekken", "gpt2", "tekken", 0},
                 {"deepseek", "gpt2", "deepseek-v3", 0},
                 {"llama2", "llama", "default", 0},
                 {"phi3", "llama", "default", MANNERS_OF_EOS},
                 {"mistral", "llama", "default", SPACE_IN_FRONT | SPECIAL_INSIDE},
                 {"gemma", "llama", "default", RUNS_OF_SPACES}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].name;
        Tokenizer *first, *inside, *back;
        json_t *rows, *row;
        size_t k, checked = 0;
        char file[64], *text;
        GgufText model, pre;
        convert(make_with_tokenizer(name), test_path("%s.gguf", name), NULL);
        convert(test_path("%s.gguf", name), test_path("%s-back", name), NULL);
        assert_ok(tokenizer_load(&first, test_path("%s", name)));
        assert_ok(model_tokenizer_load(&inside, test_path("%s.gguf", name)));
        assert_ok(tokenizer_load(&back, test_path("%s-back", name)));
        assert_int_equal(tokenizer_vocab_size(inside), tokenizer_vocab_size(first)); /* the 3 ids are no tokens */
        GgufFile *gguf = open_gguf(test_path("%s.gguf", name));
        assert_ok(gguf_text(gguf, "tokenizer.ggml.model", true, &model));
        assert_ok(gguf_text(gguf, "tokenizer.ggml.pre", true, &pre));
        assert_true(model.n == strlen(cases[i].model) && !memcmp(model.data, cases[i].model, model.n));
        if (pre.n != strlen(cases[i].pre) || memcmp(pre.data, cases[i].pre, pre.n))
            fail_msg("%s: tokenizer.ggml.pre is %.*s", name, (int)pre.n, pre.data);
        gguf_close(&gguf);
        snprintf(file, sizeof file, "%s.cases", name);
        assert_ok(load_json(file, &rows));
        json_array_foreach(rows, k, row) {
            const char *base64 = json_string_value(json_object_get(row, "text"));
            text = test_room(strlen(base64) + 1);
            size_t n = unbase64(base64, text);
            bool skip = (cases[i].other & SPACE_IN_FRONT && n && *text == ' ') ||
                        (cases[i].other & RUNS_OF_SPACES &&
                         (strstr(text, "  ") || strstr(text, "\xe2\x96\x81\xe2\x96\x81")));
            if (skip) continue;
            assert_same_ids(name, first, inside, text, n, false);
            bool special = !(cases[i].other & SPECIAL_INSIDE) &&
                           !(cases[i].other & MANNERS_OF_EOS && strstr(text, "</s>"));
            if (special) assert_same_ids(name, first, inside, text, n, true);
            assert_same_ids(name, inside, back, text, n, false);
            assert_same_ids(name, inside, back, text, n, true);
            checked++;
        }
        assert_true(checked > 40);
        assert_same_ids(name, first, inside, "hi", 2, false);
        assert_same_ids(name, inside, back, "hi", 2, false);
        json_decref(rows);
        tokenizer_free(first);
        tokenizer_free(inside);
        tokenizer_free(back);
    }
}

/* No half-told tokenizer: what GGUF has no name for is refused, unless it is left out. */
static void nameless_tokenizers_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"bert", "t5", "no_fallback"};
    for (int i = 0; i < 3; i++) {
        Told told;
        const char *folder = make_with_tokenizer(names[i]);
        ConvertOptions bare = {.no_tokenizer = true};
        assert_error(converted(folder, test_path("x.gguf"), NULL, false, &told), TANE_EUNSUPPORTED,
                     "llama.cpp has no name for the way this tokenizer");
        assert_false(file_exists(test_path("x.gguf")));
        assert_ok(convert_model(folder, test_path("%s.gguf", names[i]), &bare));
        GgufFile *file = open_gguf(test_path("%s.gguf", names[i]));
        assert_false(gguf_has_tokenizer(file));
        gguf_close(&file);
    }
}

/* The kinds of vocabularies that SentencePiece trains, as its own model files and as tokenizer.json. */
static void sentencepiece_models_survive(void **state) {
    (void)state;
    static const struct {
        const char *name, *file, *as, *model, *words;
    } cases[] = {{"bytes", "bytes.model", "tokenizer.model", "llama", ""},
                 {"bytes-json", "bytes.tokenizer.json", "tokenizer.json", "llama", ""},
                 {"bpe", "bpe.model", "tokenizer.model", "llama", "this tokenizer has no byte tokens"},
                 {"unigram", "unigram.tokenizer.json", "tokenizer.json", "t5", ""},
                 {"refused", "unigram.model", "tokenizer.model", NULL, "finds pieces (not BPE)"},
                 {"rules", "rules.model", "tokenizer.model", NULL, "finds pieces (not BPE)"},
                 {"rules-json", "rules.tokenizer.json", "tokenizer.json", NULL, "normalizes text"},
                 {"rules-bpe", "rules_bpe.model", "tokenizer.model", NULL, "normalizes text"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const char *const texts[] = {"12+(-34)=-22", "99-1 = 98", "hello\n", "  7", "\xe7\xa8\xae</s>"};
        Tokenizer *first, *inside, *back;
        Told told;
        char path[64];
        size_t n;
        GgufText model;
        snprintf(path, sizeof path, "golden/tokenizer/%s", cases[i].file);
        assert_ok(tokenizer_load(&first, test_data(path)));
        make_folder(cases[i].name, tokenizer_vocab_size(first), 32, true, DTYPE_BF16);
        const char *bytes = test_read(test_data(path), &n), *gguf = test_path("%s.gguf", cases[i].name);
        test_write_bytes(test_path("%s/%s", cases[i].name, cases[i].as), bytes, n);
        Status st = converted(test_path("%s", cases[i].name), gguf, NULL, false, &told);
        if (!cases[i].model) {
            assert_error(st, TANE_EUNSUPPORTED, cases[i].words);
            tokenizer_free(first);
            continue;
        }
        assert_ok(st);
        assert_non_null(strstr(told.notes, cases[i].words));
        GgufFile *file = open_gguf(gguf);
        assert_ok(gguf_text(file, "tokenizer.ggml.model", true, &model));
        assert_true(model.n == strlen(cases[i].model) && !memcmp(model.data, cases[i].model, model.n));
        gguf_close(&file);
        convert(gguf, test_path("%s-back", cases[i].name), NULL);
        assert_ok(model_tokenizer_load(&inside, gguf));
        assert_ok(tokenizer_load(&back, test_path("%s-back", cases[i].name)));
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            assert_same_ids(cases[i].name, first, inside, texts[k], strlen(texts[k]), false);
            assert_same_ids(cases[i].name, inside, back, texts[k], strlen(texts[k]), false);
        }
        tokenizer_free(first);
        tokenizer_free(inside);
        tokenizer_free(back);
    }
}

static void templates_and_side_files_go_along(void **state) {
    (void)state;
    static const char source[] = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    make_with_tokenizer("llama3");
    test_write(test_path("llama3/chat_template.jinja"), source);
    test_write(test_path("llama3/generation_config.json"), "{\"temperature\": 0.6, \"eos_token_id\": [5, 6]}");
    convert(test_path("llama3"), test_path("x.gguf"), NULL);
    GgufFile *file = open_gguf(test_path("x.gguf"));
    GgufText text;
    int64_t eos = 0, eot = 0;
    assert_ok(gguf_text(file, "tokenizer.chat_template", true, &text));
    assert_true(text.n == strlen(source) && !memcmp(text.data, source, text.n));
    assert_ok(gguf_int(file, "tokenizer.ggml.eos_token_id", true, 0, 1 << 20, &eos));
    assert_ok(gguf_int(file, "tokenizer.ggml.eot_token_id", true, 0, 1 << 20, &eot));
    assert_true(eos == 5 && eot == 6);
    gguf_close(&file);
    convert(test_path("x.gguf"), test_path("back"), NULL);
    assert_string_equal(test_read(test_path("back/chat_template.jinja"), NULL), source);
    /* From folder to folder everything beside the weights stays as it is. */
    convert(test_path("llama3"), test_path("f32"), "f32");
    assert_string_equal(test_read(test_path("f32/chat_template.jinja"), NULL), source);
    assert_non_null(strstr(test_read(test_path("f32/generation_config.json"), NULL), "0.6"));
    size_t a, b;
    char *x = test_read(test_path("llama3/tokenizer.json"), &a), *y = test_read(test_path("f32/tokenizer.json"), &b);
    assert_int_equal(a, b);
    assert_memory_equal(x, y, a);
}

/* ---- refusals ---- */

static void nothing_is_overwritten_unasked(void **state) {
    (void)state;
    Told told;
    const char *from = make_folder("from", 40, 32, true, DTYPE_F32), *gguf = test_path("x.gguf");
    test_write(gguf, "precious");
    assert_error(converted(from, gguf, NULL, false, &told), TANE_EINVAL,
                 "x.gguf is already there; --force replaces it");
    assert_string_equal(test_read(gguf, NULL), "precious");
    assert_ok(converted(from, gguf, NULL, true, &told));
    GgufFile *file = open_gguf(gguf);
    gguf_close(&file);
    /* A model's folder may be replaced, any other never. */
    assert_ok(dir_make(test_path("empty")));
    assert_ok(converted(gguf, test_path("empty"), NULL, false, &told));
    assert_error(converted(gguf, test_path("empty"), NULL, false, &told), TANE_EINVAL, "empty is already there");
    test_write(test_path("empty/old.txt"), "old");
    assert_ok(converted(gguf, test_path("empty"), "f16", true, &told));
    assert_false(file_exists(test_path("empty/old.txt")));
    assert_false(dir_exists(test_path("empty.old")));
    assert_ok(dir_make(test_path("home")));
    test_write(test_path("home/letter"), "dear");
    assert_error(converted(gguf, test_path("home"), NULL, true, &told), TANE_EINVAL,
                 "is a folder with other things in it");
    assert_string_equal(test_read(test_path("home/letter"), NULL), "dear");
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    Told told;
    const char *from = make_folder("from", 40, 32, true, DTYPE_F32);
    assert_error(converted(test_path("nowhere"), test_path("x.gguf"), NULL, false, &told), TANE_ENOTFOUND, "nowhere");
    assert_error(converted(from, test_path("q"), "q8_0", false, &told), TANE_EINVAL,
                 "a Hugging Face folder takes f32, f16 or bf16");
    assert_false(dir_exists(test_path("q")));
    assert_error(converted(from, test_path("x.gguf"), "q6_k", false, &told), TANE_EINVAL,
                 "is not one that tane writes: F32");
    assert_error(converted(from, test_path("no/such/folder/x.gguf"), NULL, false, &told), TANE_ENOTFOUND,
                 "no/such/folder");
    /* A missing tensor is noticed before anything is written. (Llama's first files name no rope_theta.) */
    test_write(test_path("from/config.json"),
               "{\"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 32, \"intermediate_size\": 64, "
               "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
               "\"max_position_embeddings\": 64, \"tie_word_embeddings\": true}");
    assert_error(converted(from, test_path("x.gguf"), NULL, false, &told), TANE_ENOTFOUND, "model.layers.2.");
    assert_false(file_exists(test_path("x.gguf.tmp")));
}

/* ---- disk calls and allocations that fail ---- */

typedef struct Job {
    char from[256], to[256];
} Job;

static Status do_job(void *ctx) {
    const Job *job = ctx;
    ConvertOptions options = {.force = true};
    return convert_model(job->from, job->to, &options);
}

static void before_job(void *ctx) {
    const Job *job = ctx;
    assert_ok(dir_remove(job->to));
    (void)file_unlink(job->to);
}

/* All of it or nothing, and nothing beside it. */
static void after_job(void *ctx) {
    const Job *job = ctx;
    Str tmp = {0};
    assert_ok(str_printf(&tmp, "%s.tmp", job->to));
    test_fault_remove();
    assert_false(file_exists(tmp.text) || dir_exists(tmp.text));
    if (file_exists(job->to) || dir_exists(job->to)) {
        ModelConfig c;
        assert_ok(model_config_read(&c, job->to));
    }
    str_free(&tmp);
}

static void every_disk_call_may_fail(void **state) {
    (void)state;
    Job out, in;
    snprintf(out.from, sizeof out.from, "%s", make_folder("m", 40, 32, true, DTYPE_F32));
    snprintf(out.to, sizeof out.to, "%s", test_path("m.gguf"));
    assert_true(test_fail_disk_calls(do_job, ENOSPC, before_job, after_job, &out) > 3);
    snprintf(in.from, sizeof in.from, "%s", out.to);
    snprintf(in.to, sizeof in.to, "%s", test_path("back"));
    assert_ok(do_job(&out));
    assert_true(test_fail_disk_calls(do_job, EIO, before_job, after_job, &in) > 5);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    Job out, in;
    make_with_tokenizer("llama2");
    snprintf(out.from, sizeof out.from, "%s", make_folder("m", 40, 32, true, DTYPE_F32));
    snprintf(out.to, sizeof out.to, "%s", test_path("m.gguf"));
    assert_true(test_fail_allocations(do_job, &out) > 20);
    snprintf(in.from, sizeof in.from, "%s", out.to);
    snprintf(in.to, sizeof in.to, "%s", test_path("back"));
    assert_true(test_fail_allocations(do_job, &in) > 20);
}

/* ---- the commands ---- */

static void expect(const char *args, int code, const char *out, const char *err) {
    Str command = {0};
    const char *program = getenv("TANE");
    if (!program || !*program) {
        print_message("TANE does not name the program to test\n");
        skip();
    }
    assert_ok(str_printf(&command, "cd '%s' && '%s' %s >stdout 2>stderr", test_dir(), program, args));
    int status = system(command.text);
    str_free(&command);
    char *o = test_read(test_path("stdout"), NULL), *e = test_read(test_path("stderr"), NULL);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code || !strstr(o, out) || !strstr(e, err))
        fail_msg("tane %s: status %d\n--- stdout, expected \"%s\"\n%s\n--- stderr, expected \"%s\"\n%s", args, status,
                 out, o, err, e);
}

static void the_commands(void **state) {
    (void)state;
    make_with_tokenizer("llama3");
    test_write(test_path("llama3/chat_template.jinja"), "{{ messages[0].content }}");
    expect("convert", 2, "", "which model, and where to?");
    expect("convert llama3", 2, "", "which model, and where to?");
    expect("convert llama3 x.gguf --type q3_k", 2, "", "q3_k");
    expect("convert llama3 x.gguf --type q8_0", 0, "", "x.gguf: ");
    expect("convert llama3 x.gguf", 1, "", "--force replaces it");
    expect("convert x.gguf y/ --type f16", 0, "", "y: ");
    expect("show", 2, "", "which model?");
    expect("show nothing", 1, "", "neither a model folder nor a .gguf file nor a run");
    expect("show missing/x.gguf", 1, "", "missing/x.gguf: no such file");
    expect("show llama3", 0, "architecture  llama (LlamaForCausalLM)", "");
    expect("show llama3", 0, "byte-level BPE", "");
    expect("show llama3 --template", 0, "{{ messages[0].content }}", "");
    expect("show x.gguf --tensors", 0, "blk.0.attn_q.weight", "");
    expect("show x.gguf", 0, "Q8_0", "");
    expect("show y", 0, "tokenizer_config.json", "");
    expect("show y/model.safetensors", 0, "F16", "");
    expect("show x.gguf --json", 0, "\"model_type\":\"llama\"", "");
    expect("show x.gguf --json --tensors", 0, "\"list\":[{\"name\":\"token_embd.weight\"", "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(tensors_get_their_types),
        TEST(short_rows_fall_back),
        TEST(the_usual_type_is_the_sources),
        TEST(sixteen_bits_come_back),
        TEST(gguf_stays_gguf),
        TEST(losses_are_told),
        TEST(tokenizers_survive),
        TEST(nameless_tokenizers_are_refused),
        TEST(sentencepiece_models_survive),
        TEST(templates_and_side_files_go_along),
        TEST(nothing_is_overwritten_unasked),
        TEST(what_cannot_be_is_refused),
        TEST(every_disk_call_may_fail),
        TEST(every_allocation_may_fail),
        TEST(the_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
