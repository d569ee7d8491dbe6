/* The table of architectures and names. See gguf_names.h. */
#include "model/gguf_names.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "model/model.h"

/* "#" is a layer's number. What stands behind is .weight or .bias on both sides. */
#define COMMON_NAMES                                                                                                   \
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"},                        \
        {"model.layers.#.input_layernorm", "blk.#.attn_norm"},                                                         \
        {"model.layers.#.self_attn.o_proj", "blk.#.attn_output"}, {                                                    \
        "model.layers.#.mlp.down_proj", "blk.#.ffn_down"                                                               \
    }
#define APART_NAMES                                                                                                    \
    COMMON_NAMES, {"model.layers.#.self_attn.q_proj", "blk.#.attn_q"},                                                 \
        {"model.layers.#.self_attn.k_proj", "blk.#.attn_k"}, {"model.layers.#.self_attn.v_proj", "blk.#.attn_v"},      \
        {"model.layers.#.self_attn.q_norm", "blk.#.attn_q_norm"},                                                      \
        {"model.layers.#.self_attn.k_norm", "blk.#.attn_k_norm"}, {"model.layers.#.mlp.gate_proj", "blk.#.ffn_gate"},  \
    {                                                                                                                  \
        "model.layers.#.mlp.up_proj", "blk.#.ffn_up"                                                                   \
    }

static const char *const decoder_names[][2] = {
    APART_NAMES, {"model.layers.#.post_attention_layernorm", "blk.#.ffn_norm"}, {NULL, NULL}};

static const char *const gemma_names[][2] = {APART_NAMES,
                                             {"model.layers.#.post_attention_layernorm", "blk.#.post_attention_norm"},
                                             {"model.layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm"},
                                             {"model.layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm"},
                                             {NULL, NULL}};

static const char *const phi3_names[][2] = {
    COMMON_NAMES,
    {"model.layers.#.post_attention_layernorm", "blk.#.ffn_norm"},
    {"model.layers.#.self_attn.qkv_proj", "blk.#.attn_qkv"},
    {"model.layers.#.mlp.gate_up_proj", "blk.#.ffn_up"}, /* gate above up on both sides */
    {NULL, NULL}};

static const char *const gpt2_names[][2] = {{"transformer.wte", "token_embd"},
                                            {"transformer.wpe", "position_embd"},
                                            {"transformer.ln_f", "output_norm"},
                                            {"lm_head", "output"},
                                            {"transformer.h.#.ln_1", "blk.#.attn_norm"},
                                            {"transformer.h.#.attn.c_attn", "blk.#.attn_qkv"},
                                            {"transformer.h.#.attn.c_proj", "blk.#.attn_output"},
                                            {"transformer.h.#.ln_2", "blk.#.ffn_norm"},
                                            {"transformer.h.#.mlp.c_fc", "blk.#.ffn_up"},
                                            {"transformer.h.#.mlp.c_proj", "blk.#.ffn_down"},
                                            {NULL, NULL}};

/* Mistral is Llama's architecture there; gguf_config tells them apart. */
static const GgufArch archs[] = {{"llama", "llama", ACTIVATION_SILU, true, false, false, decoder_names},
                                 {"llama", "mistral", ACTIVATION_SILU, true, false, false, decoder_names},
                                 {"qwen2", "qwen2", ACTIVATION_SILU, false, false, false, decoder_names},
                                 {"qwen3", "qwen3", ACTIVATION_SILU, false, false, false, decoder_names},
                                 {"gemma2", "gemma2", ACTIVATION_GELU_TANH, false, true, true, gemma_names},
                                 {"gemma3", "gemma3_text", ACTIVATION_GELU_TANH, false, true, true, gemma_names},
                                 {"smollm3", "smollm3", ACTIVATION_SILU, true, false, false, decoder_names},
                                 {"phi3", "phi3", ACTIVATION_SILU, false, false, false, phi3_names},
                                 {"gpt2", "gpt2", ACTIVATION_GELU_TANH, false, false, false, gpt2_names}};
enum { ARCHS = sizeof archs / sizeof *archs };

const GgufArch *gguf_arch(const char *name, size_t n) {
    for (int i = 0; i < ARCHS; i++)
        if (strlen(archs[i].name) == n && !memcmp(archs[i].name, name, n)) return &archs[i];
    return NULL;
}

const GgufArch *gguf_arch_of(const ModelFamily *family) {
    for (int i = 0; i < ARCHS; i++)
        if (!strcmp(archs[i].model_type, family->model_type)) return &archs[i];
    return NULL;
}

const char *gguf_arch_names(void) { return "llama, qwen2, qwen3, gemma2, gemma3, smollm3, phi3, gpt2"; }

bool gguf_is_path(const char *path) {
    size_t n = strlen(path);
    return n > 5 && !strcasecmp(path + n - 5, ".gguf") && !dir_exists(path);
}

/* pattern against name[0..n): *layer gets its number, "" where the pattern has none. */
static bool matches(const char *pattern, const char *name, size_t n, char layer[8]) {
    const char *hash = strchr(pattern, '#');
    size_t head = hash ? (size_t)(hash - pattern) : strlen(pattern), digits = 0;
    layer[0] = 0;
    if (n < head || memcmp(pattern, name, head)) return false;
    if (!hash) return n == head;
    while (head + digits < n && digits < 6 && name[head + digits] >= '0' && name[head + digits] <= '9') {
        layer[digits] = name[head + digits];
        digits++;
    }
    layer[digits] = 0;
    const char *tail = hash + 1;
    size_t rest = n - head - digits;
    return digits > 0 && rest == strlen(tail) && !memcmp(name + head + digits, tail, rest);
}

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), k = strlen(ending);
    return n >= k && !strcmp(text + n - k, ending);
}

bool gguf_stored(const GgufArch *arch, const char *name, GgufStored *out) {
    char layer[8];
    const char *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".weight") && strcmp(dot, ".bias"))) return false;
    for (int i = 0; arch->names[i][0]; i++) {
        const char *to = arch->names[i][1], *hash = strchr(to, '#');
        if (!matches(arch->names[i][0], name, (size_t)(dot - name), layer)) continue;
        int head = hash ? (int)(hash - to) : (int)strlen(to);
        snprintf(out->name, sizeof out->name, "%.*s%s%s%s", head, to, layer, hash ? hash + 1 : "", dot);
        out->paired = arch->paired && (ends_with(to, "attn_q") || ends_with(to, "attn_k"));
        out->plus = arch->norms_plus_one && ends_with(to, "_norm") ? 1.0f : 0.0f;
        return true;
    }
    return false;
}
