/* Input for the llm.c peer: its train_gpt2 reads gpt2_124M.bin and two files of tokens below the folder it runs in.
 *
 *   build/bench/llmc_input FOLDER
 *
 * Weights are random like a new model's, so that all contestants start from the same loss; tokens are random too.
 * Both files begin with 256 int32; then follow fp32 tensors in the order below, all layers of a kind together, or
 * uint16 tokens.
 */
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

enum { CONTEXT = 1024, VOCAB = 50257, PADDED = 50304, LAYERS = 12, HEADS = 12, WIDTH = 768, TOKENS = 1 << 17 };
enum { HEADER = 256, MODEL_MAGIC = 20240326, MODEL_VERSION = 3, TOKEN_MAGIC = 20240520, TOKEN_VERSION = 1 };

/* Values of one kind of tensor: normal, or all equal to mean where std is 0. */
typedef struct Part {
    int64_t count;
    float mean, std;
} Part;

static const Part parts[] = {
    {(int64_t)PADDED * WIDTH, 0, 0.02f},           /* wte */
    {(int64_t)CONTEXT * WIDTH, 0, 0.02f},          /* wpe */
    {LAYERS * WIDTH, 1, 0},                        /* ln1 weight, bias */
    {LAYERS * WIDTH, 0, 0},
    {LAYERS * 3 * WIDTH * WIDTH, 0, 0.02f},        /* qkv */
    {LAYERS * 3 * WIDTH, 0, 0},
    {LAYERS * WIDTH * WIDTH, 0, 0.004f},           /* attention's output */
    {LAYERS * WIDTH, 0, 0},
    {LAYERS * WIDTH, 1, 0},                        /* ln2 */
    {LAYERS * WIDTH, 0, 0},
    {LAYERS * 4 * WIDTH * WIDTH, 0, 0.02f},        /* fc */
    {LAYERS * 4 * WIDTH, 0, 0},
    {LAYERS * 4 * WIDTH * WIDTH, 0, 0.004f},       /* fc's projection */
    {LAYERS * WIDTH, 0, 0},
    {WIDTH, 1, 0},                                 /* last norm */
    {WIDTH, 0, 0},
};

static Status write_part(FileWriter *w, const Part *part, Rng *rng) {
    float block[4096];
    for (int64_t left = part->count; left > 0;) {
        int64_t n = left < 4096 ? left : 4096;
        for (int64_t i = 0; i < n; i++) block[i] = part->std > 0 ? part->std * rng_normal(rng) : part->mean;
        TRY_RETURN(fw_write(w, block, (size_t)n * sizeof *block));
        left -= n;
    }
    return TANE_OK;
}

static Status write_model(const char *folder) {
    Status st = TANE_OK;
    char *path = NULL;
    FileWriter *w = NULL;
    Rng rng = {.key = 42};
    const int32_t header[HEADER] = {MODEL_MAGIC, MODEL_VERSION, CONTEXT, VOCAB, LAYERS, HEADS, WIDTH, PADDED};
    TRY(path_join(&path, folder, "gpt2_124M.bin"));
    TRY(fw_open(&w, path));
    TRY(fw_write(w, header, sizeof header));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) TRY(write_part(w, &parts[i], &rng));
    TRY(fw_close(&w, NULL, NULL));
out:
    fw_abort(&w);
    mem_free(path);
    return st;
}

static Status write_tokens(const char *folder, const char *name) {
    Status st = TANE_OK;
    char *path = NULL;
    FileWriter *w = NULL;
    Rng rng = {.key = 43};
    const int32_t header[HEADER] = {TOKEN_MAGIC, TOKEN_VERSION, TOKENS};
    TRY(path_join(&path, folder, name));
    TRY(fw_open(&w, path));
    TRY(fw_write(w, header, sizeof header));
    for (int i = 0; i < TOKENS; i++) {
        uint16_t token = (uint16_t)rng_below(&rng, VOCAB);
        TRY(fw_write(w, &token, sizeof token));
    }
    TRY(fw_close(&w, NULL, NULL));
out:
    fw_abort(&w);
    mem_free(path);
    return st;
}

static Status write_all(const char *folder) {
    Status st = TANE_OK;
    char *tokens = NULL;
    TRY(path_join(&tokens, folder, "dev/data/tinyshakespeare"));
    TRY(dir_make(tokens));
    TRY(write_model(folder));
    TRY(write_tokens(tokens, "tiny_shakespeare_train.bin"));
    TRY(write_tokens(tokens, "tiny_shakespeare_val.bin"));
out:
    mem_free(tokens);
    return st;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: llmc_input FOLDER\n");
        return 2;
    }
    if (write_all(argv[1]) == TANE_OK) return 0;
    fprintf(stderr, "llmc_input: %s\n", err_message());
    return 1;
}
