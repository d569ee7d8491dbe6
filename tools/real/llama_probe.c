/* What llama.cpp says about a GGUF file, for comparison with tane: logits of given tokens, and tokens of given texts.
 * Not part of tane: tools/real/llama_cpp.sh builds it against llama.cpp's library.
 *
 *     llama_probe logits MODEL FILE
 *
 * The first line of FILE are ids of the vocabulary, the sample, and each further line the ids of a prompt. Prints a line
 * for each place of each prompt: the most probable next token, its logit, log(sum(exp(logits))), the sample's logits.
 *
 *     llama_probe tokens MODEL 0|1 < TEXTS
 *
 * Texts end with a NUL byte; prints a line of ids for each. 1: special tokens spelled out in the text count. Nothing is
 * added in front or behind.
 *
 * Everything in fp32 that llama.cpp lets us choose: KV cache, no flash attention. Its products still round activations
 * to the weights' own type (8-bit blocks for quantized ones), which no option changes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

static void die(const char *why, const char *what) {
    fprintf(stderr, "llama_probe: %s %s\n", why, what);
    exit(1);
}

static void only_errors(enum ggml_log_level level, const char *text, void *user) {
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

/* The whole of a stream; *n bytes and a NUL. */
static char *slurp(FILE *f, size_t *n) {
    size_t cap = 1 << 16;
    char *text = malloc(cap);
    for (*n = 0; text;) {
        size_t got = fread(text + *n, 1, cap - *n - 1, f);
        *n += got;
        if (got == 0) break;
        if (cap - *n < 2) text = realloc(text, cap *= 2);
    }
    if (!text) die("out of memory", "");
    text[*n] = 0;
    return text;
}

/* The numbers of a line; *p moves behind it. NULL at the end of the text. */
static int32_t *line_of_ids(char **p, int32_t *n) {
    char *end = strchr(*p, '\n');
    if (!end) return NULL;
    int32_t *ids = malloc(sizeof *ids * (size_t)(end - *p + 1));
    if (!ids) die("out of memory", "");
    *end = 0;
    *n = 0;
    for (char *stop; *p < end; *p = stop) {
        ids[*n] = (int32_t)strtol(*p, &stop, 10);
        if (stop == *p) break;
        ++*n;
    }
    *p = end + 1;
    return ids;
}

static void print_position(const float *logits, int32_t vocab, const int32_t *sample, int32_t n_sample) {
    int32_t best = 0;
    double sum = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    for (int32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - (double)logits[best]);
    printf("%d %.9g %.9g", best, (double)logits[best], (double)logits[best] + log(sum));
    for (int32_t i = 0; i < n_sample; i++) printf(" %.9g", (double)logits[sample[i]]);
    putchar('\n');
}

static void logits_of(struct llama_model *model, const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) die("cannot open", path);
    size_t n;
    char *text = slurp(f, &n), *p = text;
    fclose(f);
    int32_t n_sample, n_ids, vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int32_t *sample = line_of_ids(&p, &n_sample);
    if (!sample) die("no line of sample ids in", path);
    for (int32_t *ids; (ids = line_of_ids(&p, &n_ids)); free(ids)) {
        struct llama_context_params params = llama_context_default_params();
        params.n_ctx = params.n_batch = params.n_ubatch = (uint32_t)n_ids;
        params.n_threads = params.n_threads_batch = 2;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        params.type_k = params.type_v = GGML_TYPE_F32;
        struct llama_context *context = llama_init_from_model(model, params);
        if (!context) die("no context for", path);
        struct llama_batch batch = llama_batch_init(n_ids, 0, 1);
        batch.n_tokens = n_ids;
        for (int32_t i = 0; i < n_ids; i++) {
            batch.token[i] = ids[i];
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch) != 0) die("llama_decode failed on", path);
        for (int32_t i = 0; i < n_ids; i++) print_position(llama_get_logits_ith(context, i), vocab, sample, n_sample);
        llama_batch_free(batch);
        llama_free(context);
    }
    free(sample);
    free(text);
}

static void tokens_of(struct llama_model *model, bool special) {
    size_t n;
    char *text = slurp(stdin, &n);
    for (char *p = text; p < text + n; p += strlen(p) + 1) {
        int32_t most = (int32_t)strlen(p) + 16;
        llama_token *ids = malloc(sizeof *ids * (size_t)most);
        if (!ids) die("out of memory", "");
        int32_t count = llama_tokenize(llama_model_get_vocab(model), p, (int32_t)strlen(p), ids, most, false, special);
        if (count < 0) die("llama_tokenize failed on", p);
        for (int32_t i = 0; i < count; i++) printf(i ? " %d" : "%d", ids[i]);
        putchar('\n');
        free(ids);
    }
    free(text);
}

int main(int argc, char **argv) {
    if (argc != 4 || (strcmp(argv[1], "logits") != 0 && strcmp(argv[1], "tokens") != 0))
        die("usage: llama_probe logits MODEL FILE | tokens MODEL 0|1", "");
    llama_log_set(only_errors, NULL);
    llama_backend_init();
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = strcmp(argv[1], "tokens") == 0;
    params.use_extra_bufts = false;
    struct llama_model *model = llama_model_load_from_file(argv[2], params);
    if (!model) die("llama.cpp cannot open", argv[2]);
    if (params.vocab_only) tokens_of(model, argv[3][0] == '1');
    else logits_of(model, argv[3]);
    llama_model_free(model);
    llama_backend_free();
    return fflush(stdout) == 0 ? 0 : 1;
}
