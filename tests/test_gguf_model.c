/* GGUF files as models: every family survives the way through GGUF bit for bit, tokenizers inside GGUF cut as they
 * should, and files that are damaged or unknown in any part are told what is wrong with them. */
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/safetensors.h"
#include "infer/open.h"
#include "model/convert.h"
#include "model/gguf_config.h"
#include "model/gguf_rope.h"
#include "model/gguf_tokenizer.h"
#include "ops/backend.h"

static const char *const FAMILIES[] = {"gpt2-tied",   "gpt2-untied", "llama-tied", "llama-untied", "llama-head-dim",
                                       "llama3-rope", "llama-yarn",  "mistral",    "qwen2",        "qwen3",
                                       "gemma2",      "gemma3",      "smollm3",    "phi3"};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

/* ---- whole models ---- */

enum { ROWS = 3, LENGTH = 11 };

static void place(Tensor *x, const void *values) {
    assert_ok(device_alloc(test_device(), &x->data, tensor_bytes(x)));
    assert_ok(device_upload(test_device(), x->data, values, tensor_bytes(x)));
}

/* Logits of all places, (ROWS, LENGTH, V), in fp32. (mem_free) */
static float *logits_of(const char *path, size_t *n) {
    Device *device = test_device();
    Model *model;
    Tape *tape;
    void *memory;
    float *out;
    int64_t shape[] = {ROWS, LENGTH};
    int32_t tokens[ROWS * LENGTH], positions[ROWS * LENGTH];
    assert_ok(model_open(&model, path, DTYPE_F32, device));
    for (int i = 0; i < ROWS * LENGTH; i++) {
        tokens[i] = (int32_t)((i * 37 + 11) % model->config.vocab_size);
        positions[i] = i % LENGTH;
    }
    assert_ok(tape_new(&tape, device, false));
    ModelInput in = {.tokens = tape_external(tape, "tokens", DTYPE_I32, 2, shape),
                     .positions = tape_external(tape, "positions", DTYPE_I32, 2, shape)};
    ModelOutput result;
    place(in.tokens, tokens);
    place(in.positions, positions);
    model_forward(model, tape, &in, &result);
    Tensor *logits = op_linear(tape, result.hidden, result.head, NULL);
    if (logits) logits->keep = true;
    assert_ok(tape_plan(tape));
    assert_ok(device_alloc(device, &memory, tape_bytes(tape)));
    assert_ok(tape_bind(tape, memory));
    assert_ok(tape_forward(tape, &(TapeRun){0}));
    *n = tensor_count(logits);
    assert_ok(MEM_NEW_ARRAY(&out, *n));
    assert_ok(device_download(device, out, logits->data, *n * sizeof *out));
    device_release(device, memory);
    device_release(device, in.tokens->data);
    device_release(device, in.positions->data);
    tape_free(tape);
    model_free(model);
    return out;
}

static void assert_same_logits(const char *name, const char *a, const char *b, double bound) {
    size_t n, m;
    float *x = logits_of(a, &n), *y = logits_of(b, &m);
    assert_int_equal(n, m);
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
    if (!(worst <= bound)) fail_msg("%s: logits differ by %g", name, worst);
    mem_free(x);
    mem_free(y);
}

static void convert(const char *in, const char *out, const char *type) {
    ConvertOptions options = {.type = type};
    assert_ok(convert_model(in, out, &options));
}

static const char *family_path(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "golden/models/%s", name);
    return test_data(path);
}

/* GGUF holds Gemma's norms with 1 added, which rounds fp32 numbers, but not those that come from bf16. */
static void families_survive(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *name = FAMILIES[i], *from = family_path(name);
        bool gemma = !strncmp(name, "gemma", 5);
        const char *gguf = test_path("%s.gguf", name), *back = test_path("%s", name);
        convert(from, gguf, "f32");
        assert_same_logits(name, from, gguf, gemma ? 2e-5 : 0);
        convert(gguf, back, NULL);
        assert_same_logits(name, gguf, back, 0);
        const char *half = test_path("%s-bf16", name), *half_gguf = test_path("%s-bf16.gguf", name);
        convert(from, half, "bf16");
        convert(half, half_gguf, NULL);
        assert_same_logits(name, half, half_gguf, 0);
    }
}

/* config.json of the folder and of the GGUF file, as tane writes it. */
static void configurations_survive(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) {
        const char *folders[2] = {test_path("%s-a", FAMILIES[i]), test_path("%s-b", FAMILIES[i])};
        const char *gguf = test_path("%s.gguf", FAMILIES[i]);
        ModelConfig config[2];
        char *text[2];
        convert(family_path(FAMILIES[i]), gguf, NULL);
        assert_ok(model_config_read(&config[0], family_path(FAMILIES[i])));
        assert_ok(model_config_read(&config[1], gguf));
        for (int k = 0; k < 2; k++) {
            Str path = {0};
            assert_ok(dir_make(folders[k]));
            assert_ok(model_config_write(&config[k], folders[k], DTYPE_F32));
            assert_ok(str_printf(&path, "%s/config.json", folders[k]));
            text[k] = test_read(path.text, NULL);
            str_free(&path);
        }
        assert_string_equal(text[0], text[1]);
    }
}

/* The four numbers of Llama 3.1's scaling come back from the factors of real models. */
static void llama3_numbers_are_found(void **state) {
    (void)state;
    static const RopeConfig real[] = {
        {.theta = 500000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192},
        {.theta = 500000, .factor = 32, .low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192},
        {.theta = 10000, .factor = 6, .low_freq_factor = 1, .high_freq_factor = 3, .original_context = 5000},
    };
    for (size_t i = 0; i < 3; i++) {
        float factors[64];
        bool used;
        RopeConfig found = {.theta = real[i].theta};
        GgufTensor t = {.name = "rope_freqs.weight",
                        .shape = {64},
                        .rank = 1,
                        .type = ggml_type_info(GGML_F32),
                        .data = factors,
                        .bytes = sizeof factors};
        for (int64_t k = 0; k < 64; k++) factors[k] = (float)gguf_rope_factor(&real[i], 128, k);
        assert_ok(gguf_rope_llama3("x.gguf", &t, 128, &found, &used));
        assert_true(used);
        assert_true(found.factor == real[i].factor && found.low_freq_factor == real[i].low_freq_factor);
        assert_true(found.high_freq_factor == real[i].high_freq_factor);
        assert_int_equal(found.original_context, real[i].original_context);
        for (int64_t k = 0; k < 64; k++) factors[k] = 1;
        assert_ok(gguf_rope_llama3("x.gguf", &t, 128, &found, &used));
        assert_false(used);
        for (int64_t k = 0; k < 64; k++) factors[k] = (float)(1 + k % 5);
        assert_error(gguf_rope_llama3("x.gguf", &t, 128, &found, &used), TANE_EUNSUPPORTED,
                     "x.gguf: the factors of tensor \"rope_freqs.weight\" are not those of Llama 3.1");
        factors[3] = NAN;
        assert_error(gguf_rope_llama3("x.gguf", &t, 128, &found, &used), TANE_EFORMAT, "has the factor nan");
        assert_error(gguf_rope_llama3("x.gguf", &t, 64, &found, &used), TANE_EFORMAT, "must be 32 numbers");
    }
}

/* ---- a small file, made key by key ---- */

/* What of it is otherwise: a key left out or with another value, or a tensor. */
typedef struct Change {
    const char *key, *text; /* text: the new value */
    double number;          /* the new value where there is no text, as a whole number */
    enum { NOTHING, WITHOUT, WHOLE, REAL, YES, TEXT, LIST, NO_TENSOR, SHAPE, MORE } what;
    int64_t rows, columns; /* SHAPE, MORE */
} Change;

enum { VOCAB = 12, WIDTH = 8, LAYERS = 2, FFN = 16 };

/* Byte-level: the bytes of "ab <>", merges to "ab" and "abab", a control and a user-defined token. */
static const char *const byte_texts[VOCAB] = {"a",    "b",          "\xc4\xa0", "<",      ">",       "ab",
                                              "abab", "<|im_end|>", "<think>",  "[PAD9]", "[PAD10]", "[PAD11]"};
static const int32_t byte_types[VOCAB] = {1, 1, 1, 1, 1, 1, 1, 3, 4, 5, 5, 5};
static const char *const byte_merges[] = {"a b", "ab ab"};

/* SentencePiece: U+2581 t, th, the, he: by score "th" comes before "he". */
static const char *const piece_texts[VOCAB] = {"<unk>",           "<s>", "</s>", "\xe2\x96\x81", "t", "h", "e", "th",
                                               "\xe2\x96\x81the", "the", "he",   "<0x0A>"};
static const int32_t piece_types[VOCAB] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6};
static const float piece_scores[VOCAB] = {0, 0, 0, -9, -10, -11, -12, -1, -5, -2, -3, 0};

static void put_texts(GgufWriter *w, const char *key, const char *const *list, size_t n) {
    GgufText texts[VOCAB];
    for (size_t i = 0; i < n; i++) texts[i] = (GgufText){list[i], strlen(list[i])};
    assert_ok(gguf_put_texts(w, key, texts, n));
}

/* True: the change took this key's place. */
static bool changed(GgufWriter *w, const Change *c, const char *key) {
    if (!c->key || strcmp(c->key, key)) return false;
    int32_t list[3] = {1, 2, 3};
    switch (c->what) {
    case WITHOUT: return true;
    case WHOLE: return gguf_put_u32(w, key, (uint32_t)c->number) == TANE_OK;
    case REAL: return gguf_put_f32(w, key, (float)c->number) == TANE_OK;
    case YES: return gguf_put_bool(w, key, c->number != 0) == TANE_OK;
    case TEXT: return gguf_put_text(w, key, c->text, strlen(c->text)) == TANE_OK;
    case LIST: return gguf_put_i32s(w, key, list, 3) == TANE_OK;
    default: return false;
    }
}

static void put_model_keys(GgufWriter *w, const Change *c) {
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {{"llama.block_count", LAYERS},     {"llama.context_length", 64},
                   {"llama.embedding_length", WIDTH}, {"llama.feed_forward_length", FFN},
                   {"llama.attention.head_count", 2}, {"llama.attention.head_count_kv", 1}};
    if (!changed(w, c, "general.architecture")) assert_ok(gguf_put_text(w, "general.architecture", "llama", 5));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!changed(w, c, numbers[i].key)) assert_ok(gguf_put_u32(w, numbers[i].key, numbers[i].value));
    if (!changed(w, c, "llama.attention.layer_norm_rms_epsilon"))
        assert_ok(gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f));
}

static void put_byte_level(GgufWriter *w, const Change *c) {
    if (!changed(w, c, "tokenizer.ggml.model")) assert_ok(gguf_put_text(w, "tokenizer.ggml.model", "gpt2", 4));
    if (!changed(w, c, "tokenizer.ggml.pre")) assert_ok(gguf_put_text(w, "tokenizer.ggml.pre", "gpt-2", 5));
    if (!changed(w, c, "tokenizer.ggml.tokens")) put_texts(w, "tokenizer.ggml.tokens", byte_texts, VOCAB);
    if (!changed(w, c, "tokenizer.ggml.token_type"))
        assert_ok(gguf_put_i32s(w, "tokenizer.ggml.token_type", byte_types, VOCAB));
    if (!changed(w, c, "tokenizer.ggml.merges")) put_texts(w, "tokenizer.ggml.merges", byte_merges, 2);
    if (!changed(w, c, "tokenizer.ggml.eos_token_id")) assert_ok(gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 7));
}

static void put_pieces(GgufWriter *w, const Change *c) {
    assert_ok(gguf_put_text(w, "tokenizer.ggml.model", "llama", 5));
    put_texts(w, "tokenizer.ggml.tokens", piece_texts, VOCAB);
    if (!changed(w, c, "tokenizer.ggml.token_type"))
        assert_ok(gguf_put_i32s(w, "tokenizer.ggml.token_type", piece_types, VOCAB));
    if (!changed(w, c, "tokenizer.ggml.scores"))
        assert_ok(gguf_put_f32s(w, "tokenizer.ggml.scores", piece_scores, VOCAB));
}

typedef struct Shape {
    char name[64];
    int64_t rows, columns; /* columns 0: a vector */
} Shape;

static size_t list_shapes(Shape *list) {
    static const struct {
        const char *name;
        int64_t rows, columns;
    } layer[] = {{"attn_norm", WIDTH, 0},      {"attn_q", WIDTH, WIDTH},      {"attn_k", WIDTH / 2, WIDTH},
                 {"attn_v", WIDTH / 2, WIDTH}, {"attn_output", WIDTH, WIDTH}, {"ffn_norm", WIDTH, 0},
                 {"ffn_gate", FFN, WIDTH},     {"ffn_up", FFN, WIDTH},        {"ffn_down", WIDTH, FFN}};
    size_t n = 0;
    list[n++] = (Shape){"token_embd.weight", VOCAB, WIDTH};
    list[n++] = (Shape){"output_norm.weight", WIDTH, 0};
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
            list[n] = (Shape){.rows = layer[i].rows, .columns = layer[i].columns};
            snprintf(list[n++].name, sizeof list->name, "blk.%d.%s.weight", l, layer[i].name);
        }
    return n;
}

static void put_tensors(GgufWriter *w, const Change *c) {
    Shape list[32];
    size_t n = list_shapes(list), bytes = 0;
    if (c->what == MORE) {
        list[n] = (Shape){.rows = c->rows, .columns = c->columns};
        snprintf(list[n++].name, sizeof list->name, "%s", c->key);
    }
    for (size_t i = 0; i < n; i++) {
        bool it = c->key && !strcmp(c->key, list[i].name);
        if (c->what == NO_TENSOR && (it || !strcmp(c->key, "all"))) continue;
        if (it && c->what == SHAPE) list[i] = (Shape){.rows = c->rows, .columns = c->columns};
        const char *name = it ? c->key : list[i].name;
        assert_ok(gguf_add(w, name, GGML_F32, list[i].columns ? 2 : 1, (int64_t[]){list[i].rows, list[i].columns}));
        bytes += (size_t)(list[i].rows * (list[i].columns ? list[i].columns : 1)) * 4;
    }
    assert_ok(gguf_begin(w));
    float *values;
    assert_ok(MEM_NEW_ARRAY(&values, bytes / 4 + 1));
    for (size_t i = 0; i < bytes / 4; i++) values[i] = (float)((int)(i * 7 % 23) - 11) / 16;
    assert_ok(gguf_write(w, values, bytes));
    mem_free(values);
}

/* A llama of two layers; `more` is put in front of the rest when the file lacks it. */
static const char *write_file(const char *name, const Change *c, bool pieces) {
    const char *path = test_path("%s", name);
    GgufWriter *w;
    assert_ok(gguf_writer_open(&w, path));
    put_model_keys(w, c);
    if (pieces) put_pieces(w, c);
    else put_byte_level(w, c);
    /* Keys that the file has not by itself. */
    static const char *const own[] = {"general.",
                                      "llama.block",
                                      "llama.context",
                                      "llama.embedding",
                                      "llama.feed",
                                      "llama.attention.head",
                                      "llama.attention.layer_norm_rms",
                                      "tokenizer.ggml.model",
                                      "tokenizer.ggml.pre",
                                      "tokenizer.ggml.tokens",
                                      "tokenizer.ggml.token_type",
                                      "tokenizer.ggml.merges",
                                      "tokenizer.ggml.eos_token_id",
                                      "tokenizer.ggml.scores"};
    bool extra = c->key && c->what >= WHOLE && c->what <= LIST;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (extra && !strncmp(c->key, own[i], strlen(own[i])) && strcmp(c->key, "general.type")) extra = false;
    if (extra) assert_true(changed(w, c, c->key));
    put_tensors(w, c);
    assert_ok(gguf_writer_close(&w));
    return path;
}

static void the_small_file_is_a_model(void **state) {
    (void)state;
    for (int pieces = 0; pieces < 2; pieces++) {
        OpenModel open;
        const char *path = write_file("small.gguf", &(Change){0}, pieces);
        assert_ok(open_model(&open, path, "fp32", "cpu", NULL));
        assert_int_equal(open.model->config.vocab_size, VOCAB);
        assert_int_equal(open.model->config.layers, LAYERS);
        assert_true(open.model->config.tied);
        assert_true(open.model->config.norm_epsilon == 1e-5);
        assert_int_equal(open.model->config.eos, pieces ? -1 : 7);
        assert_int_equal(tokenizer_vocab_size(open.tokenizer), pieces ? VOCAB : 9); /* without the padding behind it */
        assert_null(open.chat);
        open_model_close(&open);
    }
}

/* Whoever opens the model meets all of these, in this order: keys, tensors, tokenizer. */
static const struct Bad {
    Change change;
    const char *words;
} bad[] = {
    {{"all", .what = NO_TENSOR}, "has no tensors: this is only a vocabulary or a header"},
    {{"token_embd.weight", .what = NO_TENSOR}, "has no tensor \"token_embd.weight\": the file is incomplete"},
    {{"general.architecture", .what = WITHOUT}, "the key \"general.architecture\" is missing"},
    {{"general.architecture", "mamba", .what = TEXT}, "general.architecture is \"mamba\"; tane knows llama, qwen2"},
    {{"general.architecture", .number = 3, .what = WHOLE}, "\"general.architecture\" is of type u32"},
    {{"general.type", "adapter", .what = TEXT},
     "general.type is \"adapter\": this file belongs to a model, but is none"},
    {{"llama.block_count", .what = WITHOUT}, "the key \"llama.block_count\" is missing"},
    {{"llama.block_count", .number = 0, .what = WHOLE},
     "\"llama.block_count\" is 0; it must be a whole number from 1 to 1024"},
    {{"llama.block_count", .number = 4294967295, .what = WHOLE}, "\"llama.block_count\" is 4294967295"},
    {{"llama.block_count", .number = 3, .what = WHOLE},
     "has no tensor \"blk.2.attn_norm.weight\" (model.layers.2.input_layernorm"},
    {{"llama.block_count", .number = 1, .what = WHOLE},
     "tensor \"blk.1.attn_norm.weight\" is no parameter of this model"},
    {{"llama.context_length", .number = 0, .what = WHOLE}, "\"llama.context_length\" is 0"},
    {{"llama.context_length", .number = 4e9, .what = WHOLE}, "\"llama.context_length\" is 4000000000"},
    {{"llama.context_length", "long", .what = TEXT},
     "\"llama.context_length\" is of type text; it must be a whole number"},
    {{"llama.embedding_length", .number = 0, .what = WHOLE}, "\"llama.embedding_length\" is 0"},
    {{"llama.embedding_length", .number = 9, .what = WHOLE}, "\"llama.embedding_length\" is 9, no multiple of 2 heads"},
    {{"llama.embedding_length", .number = 16, .what = WHOLE},
     "tensor \"token_embd.weight\" is [12, 8], but the model's configuration makes it [12, 16]"},
    {{"llama.feed_forward_length", .number = 0, .what = WHOLE}, "\"llama.feed_forward_length\" is 0"},
    {{"llama.feed_forward_length", .number = 3e9, .what = WHOLE}, "\"llama.feed_forward_length\" is 3000000000"},
    {{"llama.feed_forward_length", .what = LIST},
     "\"llama.feed_forward_length\" has 3 values; it must have one for each of the 2 layers"},
    {{"llama.attention.head_count", .number = 0, .what = WHOLE}, "\"llama.attention.head_count\" is 0"},
    {{"llama.attention.head_count_kv", .number = 5000, .what = WHOLE}, "\"llama.attention.head_count_kv\" is 5000"},
    {{"llama.attention.head_count_kv", .number = 0, .what = WHOLE}, "\"llama.attention.head_count_kv\" is 0"},
    {{"llama.attention.key_length", .number = 0, .what = WHOLE}, "\"llama.attention.key_length\" is 0"},
    {{"llama.attention.key_length", .number = 8, .what = WHOLE},
     "tensor \"blk.0.attn_q.weight\" is [8, 8], but the model's configuration makes it [16, 8]"},
    {{"llama.attention.value_length", .number = 2, .what = WHOLE},
     "\"llama.attention.value_length\" is 2, but heads have the size 4"},
    {{"llama.attention.layer_norm_rms_epsilon", .what = WITHOUT},
     "\"llama.attention.layer_norm_rms_epsilon\" is missing"},
    {{"llama.attention.layer_norm_rms_epsilon", .number = 0, .what = REAL},
     "\"llama.attention.layer_norm_rms_epsilon\" is 0; it must be positive"},
    {{"llama.attention.layer_norm_rms_epsilon", .number = NAN, .what = REAL}, "is not a finite number"},
    {{"llama.attention.causal", .number = 0, .what = YES}, "\"llama.attention.causal\" is false: this is an encoder"},
    {{"llama.attention.scale", .number = 0.5, .what = REAL},
     "tane does not know the key \"llama.attention.scale\", which may change"},
    {{"llama.expert_count", .number = 8, .what = WHOLE}, "tane does not know the key \"llama.expert_count\""},
    {{"llama.rope.dimension_count", .number = 3, .what = WHOLE},
     "\"llama.rope.dimension_count\" is 3; it must be even"},
    {{"llama.rope.dimension_count", .number = 64, .what = WHOLE},
     "\"llama.rope.dimension_count\" is 64; it must be a whole number from 2 to 4"},
    {{"llama.rope.freq_base", .number = -1, .what = REAL}, "rope_theta -1 must be above 0"},
    {{"llama.rope.scaling.type", "su", .what = TEXT},
     "\"llama.rope.scaling.type\" is \"su\"; tane knows none, linear, yarn"},
    {{"llama.rope.scaling.type", "longrope", .what = TEXT}, "longrope needs the tensor \"rope_factors_short.weight\""},
    {{"llama.rope.scale_linear", .number = 0, .what = REAL}, "the rope's factor 0 must be above 0"},
    {{"rope_freqs.weight", .what = MORE, .rows = 3}, "\"rope_freqs.weight\" must be 2 numbers"},
    {{"blk.0.attn_q.weight", .what = NO_TENSOR},
     "has no tensor \"blk.0.attn_q.weight\" (model.layers.0.self_attn.q_proj.weight)"},
    {{"output_norm.weight", .what = NO_TENSOR}, "has no tensor \"output_norm.weight\""},
    {{"blk.1.ffn_down.weight", .what = SHAPE, .rows = 16, .columns = 8}, "tensor \"blk.1.ffn_down.weight\" is [16, 8]"},
    {{"output_norm.weight", .what = SHAPE, .rows = 4}, "tensor \"output_norm.weight\" is [4]"},
    {{"blk.0.attn_norm.weight", .what = SHAPE, .rows = 1, .columns = 8}, "tensor \"blk.0.attn_norm.weight\" is [1, 8]"},
    {{"output.weight", .what = MORE, .rows = 11, .columns = 8}, "tensor \"output.weight\" is [11, 8]"},
    {{"blk.0.ffn_gate_exps.weight", .what = MORE, .rows = 2, .columns = 8},
     "tensor \"blk.0.ffn_gate_exps.weight\" is no parameter"},
    {{"blk.0.attn_q.bias", .what = MORE, .rows = 8}, "has no tensor \"blk.0.attn_k.bias\""},
    {{"tokenizer.ggml.eos_token_id", .number = 12, .what = WHOLE}, "\"tokenizer.ggml.eos_token_id\" is 12, but"},
    {{"tokenizer.ggml.bos_token_id", .number = 99, .what = WHOLE}, "\"tokenizer.ggml.bos_token_id\" is 99, but"},
    {{"tokenizer.ggml.model", .what = WITHOUT}, "\"tokenizer.ggml.model\" is missing"},
    {{"tokenizer.ggml.model", "rwkv", .what = TEXT}, "tokenizer.ggml.model is \"rwkv\"; tane knows gpt2"},
    {{"tokenizer.ggml.pre", .what = WITHOUT}, "no tokenizer.ggml.pre says how the tokenizer cuts text into words"},
    {{"tokenizer.ggml.pre", "bloom", .what = TEXT},
     "tokenizer.ggml.pre is \"bloom\", a way to cut text into words that tane does not know"},
    {{"tokenizer.ggml.tokens", .what = WITHOUT}, "\"tokenizer.ggml.tokens\" is missing"},
    {{"tokenizer.ggml.tokens", .what = LIST}, "tokenizer.ggml.tokens has 3 tokens, but the embedding has 12 rows"},
    {{"tokenizer.ggml.token_type", .what = LIST}, "\"tokenizer.ggml.token_type\" has 3 elements; 12 are needed"},
    {{"tokenizer.ggml.merges", .what = WITHOUT}, "\"tokenizer.ggml.merges\" is missing"},
    {{"tokenizer.ggml.merges", .what = LIST}, "\"tokenizer.ggml.merges\" is an array of type i32"},
    {{"tokenizer.ggml.normalizer.lowercase", .number = 1, .what = YES},
     "tane does not know the key \"tokenizer.ggml.normalizer.lowercase\""},
    {{"tokenizer.chat_template", "\xff", .what = TEXT}, "tokenizer.chat_template is not UTF-8 text"},
};

static void bad_files_are_told_what_is_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        OpenModel open;
        char name[32], expected[256];
        snprintf(name, sizeof name, "bad-%zu.gguf", i);
        const char *path = write_file(name, &bad[i].change, false);
        Status st = open_model(&open, path, "fp32", "cpu", NULL);
        snprintf(expected, sizeof expected, "%s: ", name);
        if (st == TANE_OK || st == TANE_EINTERNAL || st == TANE_ENOMEM || !strstr(err_message(), bad[i].words) ||
            !strstr(err_message(), expected))
            fail_msg("%s (%s): expected \"%s\", found status %d: %s", name, bad[i].change.key, bad[i].words, (int)st,
                     err_message());
    }
}

/* What does not change the model may stand there. */
static void inert_keys_are_no_error(void **state) {
    (void)state;
    static const Change fine[] = {
        {"llama.expert_count", .number = 0, .what = WHOLE},
        {"llama.vocab_size", .number = 99, .what = WHOLE},
        {"llama.tensor_data_layout", "Meta AI original pth", .what = TEXT},
        {"quantize.imatrix.chunks_count", .number = 5, .what = WHOLE},
        {"mradermacher.quantized_by", "somebody", .what = TEXT},
        {"tokenizer.ggml.fim_pre_token_id", .number = 3, .what = WHOLE},
        {"tokenizer.ggml.bos_token_id", .number = 4294967295, .what = WHOLE},
        {"llama.attention.sliding_window", .number = 0, .what = WHOLE},
        {"tokenizer.ggml.unknown_token_id", .number = 0, .what = WHOLE},
        {"blk.0.attn_rot_embd", .what = MORE, .rows = 2},
    };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        OpenModel open;
        assert_ok(open_model(&open, write_file("fine.gguf", &fine[i], false), "fp32", "cpu", NULL));
        assert_string_equal(open.model->config.family->model_type, "llama");
        open_model_close(&open);
    }
}

static void a_window_makes_it_mistral(void **state) {
    (void)state;
    ModelConfig c;
    Change window = {"llama.attention.sliding_window", .number = 32, .what = WHOLE};
    assert_ok(model_config_read(&c, write_file("window.gguf", &window, false)));
    assert_string_equal(c.family->model_type, "mistral");
    assert_int_equal(c.window, 32);
    assert_true(c.layer[0] & LAYER_WINDOW && c.layer[1] & LAYER_WINDOW);
}

/* Files that the reference writer made (gguf-py 0.19), one for each shape of model. */
static void files_of_the_reference_writer(void **state) {
    (void)state;
    DirList list;
    const char *folder = test_data("corpus/gguf_model");
    assert_ok(dir_list(folder, &list));
    assert_int_equal(list.n, 8);
    for (size_t i = 0; i < list.n; i++) {
        OpenModel open;
        char *path;
        assert_ok(path_join(&path, folder, list.names[i]));
        assert_ok(open_model(&open, path, "fp32", "cpu", NULL));
        assert_true(tokenizer_vocab_size(open.tokenizer) >= 9);
        open_model_close(&open);
        mem_free(path);
    }
    dir_list_free(&list);
}

/* ---- tokenizers ---- */

static void assert_ids(const Tokenizer *tok, const char *text, bool special, const char *expected) {
    TokenList list = {0};
    Str found = {0};
    EncodeInput in = {.text = text, .n = strlen(text), .parse_special = special, .add_special = special};
    assert_ok(tokenizer_encode_input(tok, &in, &list));
    assert_ok(str_add(&found, "", 0));
    for (size_t i = 0; i < list.n; i++) assert_ok(str_printf(&found, i ? " %d" : "%d", list.ids[i]));
    if (strcmp(found.text, expected)) fail_msg("\"%s\" became %s, expected %s", text, found.text, expected);
    str_free(&found);
    token_list_free(&list);
}

static void byte_level_tokens(void **state) {
    (void)state;
    Tokenizer *tok;
    assert_ok(model_tokenizer_load(&tok, write_file("bytes.gguf", &(Change){0}, false)));
    assert_ids(tok, "abab ab", false, "6 2 5");
    assert_ids(tok, "ababab", false, "6 5");
    assert_ids(tok, "a<|im_end|>", true, "0 7");
    assert_ids(tok, "a<think>b", false, "0 8 1"); /* user-defined: always whole */
    assert_int_equal(tokenizer_eos(tok), 7);
    assert_int_equal(tokenizer_bos(tok), -1);
    assert_int_equal(tokenizer_find(tok, "<think>", 7), 8);
    assert_int_equal(tokenizer_find(tok, "[PAD9]", 6), -1);
    tokenizer_free(tok);
}

/* "the": th (score -1) comes before he (-3); then the (-2) before U+2581 the (-5). */
static void pieces_merge_by_score(void **state) {
    (void)state;
    Tokenizer *tok;
    Str text = {0};
    assert_ok(model_tokenizer_load(&tok, write_file("pieces.gguf", &(Change){0}, true)));
    assert_ids(tok, "the", false, "8"); /* with a space in front */
    assert_ids(tok, "he the", false, "3 10 8");
    assert_ids(tok, "the", true, "1 8");      /* and BOS, which is the format's default */
    assert_ids(tok, "th\n", false, "3 7 11"); /* a byte */
    assert_ids(tok, "t!</s>", true, "1 3 4 0 2");
    assert_ok(tokenizer_decode(tok, (int32_t[]){1, 10, 8, 11, 2}, 5, &text));
    assert_string_equal(text.text, "he the\n");
    assert_int_equal(tokenizer_unk(tok), 0);
    str_free(&text);
    tokenizer_free(tok);
    /* Any piece may be the unknown one. */
    Change other = {"tokenizer.ggml.unknown_token_id", .number = 6, .what = WHOLE};
    assert_ok(model_tokenizer_load(&tok, write_file("other.gguf", &other, true)));
    assert_ids(tok, "t!", false, "3 4 6");
    tokenizer_free(tok);
    Change bare = {"tokenizer.ggml.add_space_prefix", .number = 0, .what = YES};
    assert_ok(model_tokenizer_load(&tok, write_file("bare.gguf", &bare, true)));
    assert_ids(tok, "the", false, "9");
    tokenizer_free(tok);
}

static void bad_pieces(void **state) {
    (void)state;
    static const struct Bad cases[] = {
        {{"tokenizer.ggml.scores", .what = LIST}, "\"tokenizer.ggml.scores\" has 3 elements; 12 are needed"},
        {{"tokenizer.ggml.remove_extra_whitespaces", .number = 1, .what = YES}, "remove_extra_whitespaces is true"},
        {{"tokenizer.ggml.unknown_token_id", .number = 12, .what = WHOLE}, "\"tokenizer.ggml.unknown_token_id\" is 12"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *tok;
        assert_error_contains(model_tokenizer_load(&tok, write_file("bad.gguf", &cases[i].change, true)),
                              cases[i].words);
    }
}

/* Arrays that a change cannot make. */
static void bad_token_arrays(void **state) {
    (void)state;
    static const struct {
        int at;
        const char *token, *merge;
        int32_t type;
        const char *words;
    } cases[] = {
        {1, "a", NULL, 1, "tokenizer.ggml.tokens has \"a\" twice, as token 0 and 1"},
        {1, "\xff", NULL, 1, "the text of token 1 in tokenizer.ggml.tokens is not UTF-8"},
        {1, "b", NULL, 9, "tokenizer.ggml.token_type of token 1 is 9"},
        {1, "b", "ab x", 1, "has \"ab x\" as number 1, of which the second token is not in"},
        {1, "b", "x b", 1, "of which the first token is not in"},
        {1, "b", "b a", 1, "of which the result is not in"},
        {1, "b", "ab", 1, "has \"ab\" as number 1; a merge is two tokens with a space between them"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *texts[VOCAB], *merges[2] = {byte_merges[0], cases[i].merge ? cases[i].merge : byte_merges[1]};
        int32_t types[VOCAB];
        const char *path = test_path("array-%zu.gguf", i);
        GgufWriter *w;
        Tokenizer *tok;
        memcpy(texts, byte_texts, sizeof texts);
        memcpy(types, byte_types, sizeof types);
        texts[cases[i].at] = cases[i].token;
        types[cases[i].at] = cases[i].type;
        assert_ok(gguf_writer_open(&w, path));
        put_model_keys(w, &(Change){0});
        assert_ok(gguf_put_text(w, "tokenizer.ggml.model", "gpt2", 4));
        assert_ok(gguf_put_text(w, "tokenizer.ggml.pre", "gpt-2", 5));
        put_texts(w, "tokenizer.ggml.tokens", texts, VOCAB);
        assert_ok(gguf_put_i32s(w, "tokenizer.ggml.token_type", types, VOCAB));
        put_texts(w, "tokenizer.ggml.merges", merges, 2);
        put_tensors(w, &(Change){0});
        assert_ok(gguf_writer_close(&w));
        assert_error(model_tokenizer_load(&tok, path), TANE_EFORMAT, cases[i].words);
    }
}

/* Every name finds itself by what it does, or the first of those that do the same. */
static void splitting_expressions_have_names(void **state) {
    (void)state;
    static const struct {
        const char *name, *written;
    } cases[] = {{"gpt-2", "gpt-2"},
                 {"phi-2", "gpt-2"},
                 {"smollm", "smollm"},
                 {"starcoder", "smollm"},
                 {"llama-bpe", "llama-bpe"},
                 {"llama3", "llama-bpe"},
                 {"smaug-bpe", "smaug-bpe"},
                 {"qwen2", "qwen2"},
                 {"qwen35", "qwen35"},
                 {"gpt-4o", "gpt-4o"},
                 {"llama4", "gpt-4o"},
                 {"tekken", "tekken"},
                 {"deepseek-v3", "deepseek-v3"},
                 {"command-r", "command-r"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GgufFile *file;
        TokenizerSpec spec;
        Change pre = {"tokenizer.ggml.pre", cases[i].name, .what = TEXT};
        assert_ok(gguf_open(&file, write_file("pre.gguf", &pre, false)));
        assert_ok(gguf_tokenizer_spec(file, &spec));
        assert_string_equal(gguf_pre_of(&spec)->name, cases[i].written);
        tokenizer_spec_release(&spec);
        gguf_close(&file);
    }
}

/* ---- chat ---- */

static void turns_end_answers(void **state) {
    (void)state;
    static const char source[] = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}";
    OpenModel open;
    Change end = {"tokenizer.ggml.eos_token_id", .number = 3, .what = WHOLE};
    assert_ok(open_model(&open, write_file("base.gguf", &end, false), "fp32", "cpu", NULL));
    StopTokens stop = stop_tokens(&open);
    assert_int_equal(stop.n, 1);
    assert_int_equal(stop.ids[0], 3);
    open_model_close(&open);
    /* The same with a template, and with a token of its own for turns. */
    Change template = {"tokenizer.chat_template", source, .what = TEXT};
    assert_ok(open_model(&open, write_file("chat.gguf", &template, false), "fp32", "cpu", NULL));
    assert_non_null(open.chat);
    assert_string_equal(chat_template_source(open.chat), source);
    stop = stop_tokens(&open);
    assert_int_equal(stop.n, 1);
    assert_int_equal(stop.ids[0], 7);
    open_model_close(&open);
    Change turn = {"tokenizer.ggml.eot_token_id", .number = 4, .what = WHOLE};
    assert_ok(open_model(&open, write_file("turn.gguf", &turn, false), "fp32", "cpu", NULL));
    stop = stop_tokens(&open);
    assert_int_equal(stop.n, 2);
    assert_int_equal(stop.ids[0], 7);
    assert_int_equal(stop.ids[1], 4);
    open_model_close(&open);
}

/* A template that tane cannot read is told to who wants to chat, and to nobody else. */
static void an_unreadable_template_leaves_a_model(void **state) {
    (void)state;
    OpenModel open;
    Change broken = {"tokenizer.chat_template", "{% for m in %}", .what = TEXT};
    assert_ok(open_model(&open, write_file("broken.gguf", &broken, false), "fp32", "cpu", NULL));
    assert_null(open.chat);
    assert_true(open.chat_error.code != TANE_OK);
    assert_non_null(strstr(open.chat_error.text, "broken.gguf"));
    open_model_close(&open);
}

/* ---- memory ---- */

static Status read_once(void *ctx) {
    ModelConfig config;
    TRY_RETURN(model_config_read(&config, ctx));
    Tokenizer *tok;
    TRY_RETURN(model_tokenizer_load(&tok, ctx));
    tokenizer_free(tok);
    return TANE_OK;
}

static void allocations_fail(void **state) {
    (void)state;
    for (int pieces = 0; pieces < 2; pieces++)
        assert_true(
            test_fail_allocations(read_once, (void *)(uintptr_t)write_file("small.gguf", &(Change){0}, pieces)) > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(families_survive),
        TEST(configurations_survive),
        TEST(llama3_numbers_are_found),
        TEST(the_small_file_is_a_model),
        TEST(bad_files_are_told_what_is_wrong),
        TEST(inert_keys_are_no_error),
        TEST(a_window_makes_it_mistral),
        TEST(files_of_the_reference_writer),
        TEST(byte_level_tokens),
        TEST(pieces_merge_by_score),
        TEST(bad_pieces),
        TEST(bad_token_arrays),
        TEST(splitting_expressions_have_names),
        TEST(turns_end_answers),
        TEST(an_unreadable_template_leaves_a_model),
        TEST(allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
