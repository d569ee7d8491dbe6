/* Training a byte-level BPE vocabulary on the lines of a text: seconds for reading (splitting and counting words) and
 * in all, beside the floors of the former.
 *
 *     bpe_train FILE VOCAB_SIZE THREADS [OUT]
 *
 * One line of JSON. OUT gets the tokens and the merges, one a line, for bench/bpe_train.py, which runs the peer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "text/bpe_train.h"
#include "text/scan.h"

typedef struct Lines {
    const char *at, *end;
    double read_at; /* when the last line was asked for */
} Lines;

static Status next_line(void *user, const char **text, size_t *n, bool *more) {
    Lines *lines = user;
    *more = lines->at < lines->end;
    if (!*more) lines->read_at = clock_seconds();
    const char *newline = *more ? memchr(lines->at, '\n', (size_t)(lines->end - lines->at)) : NULL;
    *text = lines->at;
    lines->at = newline ? newline + 1 : lines->end;
    *n = (size_t)(lines->at - *text);
    return TANE_OK;
}

/* The splitting alone, on one thread: words of the whole text. */
static Status split(const char *text, size_t n, double *seconds) {
    Scanner *scanner;
    TRY_RETURN(scanner_new(&scanner, "GPT-2", scan_gpt2, strlen(scan_gpt2), true));
    Status st = TANE_OK;
    double start = clock_seconds();
    for (size_t from = 0, count, ends[256]; st == TANE_OK && from < n; from = ends[count - 1]) {
        st = scanner_cut(scanner, text, n, from, ends, 256, &count);
        if (st != TANE_OK) break;
    }
    *seconds = clock_seconds() - start;
    scanner_free(scanner);
    return st;
}

static Status write_result(const char *path, const TokenizerSpec *spec) {
    FileWriter *out;
    Status st = TANE_OK;
    TRY_RETURN(fw_open(&out, path));
    for (int32_t i = 0; i < spec->n_tokens; i++) TRY(fw_printf(out, "%s\n", spec->tokens[i].text.data));
    for (size_t i = 0; i < spec->n_merges; i++)
        TRY(fw_printf(out, "%d %d\n", spec->merges[i].left, spec->merges[i].right));
    TRY(fw_close(&out, NULL, NULL));
out:
    fw_abort(&out);
    return st;
}

static Status measure(char **argv, const char *out) {
    Status st = TANE_OK;
    FileMap map;
    TokenizerSpec spec = {0};
    static const char *const special[] = {"<|endoftext|>"};
    TRY_RETURN(file_map(argv[1], &map));
    const char *text = (const char *)map.data;
    BpeTrainOptions options = {.vocab_size = atoll(argv[2]),
                               .min_frequency = 2,
                               .special = special,
                               .n_special = 1,
                               .threads = atoll(argv[3])};
    double splitting;
    TRY(split(text, map.size, &splitting)); /* brings the file into memory too */
    Lines lines = {.at = text, .end = text + map.size};
    double start = clock_seconds();
    TRY(bpe_train(&spec, &options, next_line, &lines));
    double end = clock_seconds();
    printf("{\"bytes\": %zu, \"threads\": %s, \"tokens\": %d, \"merges\": %zu, \"split_seconds\": %.4f, "
           "\"read_seconds\": %.4f, \"seconds\": %.4f}\n",
           map.size, argv[3], spec.n_tokens, spec.n_merges, splitting, lines.read_at - start, end - start);
    if (out) TRY(write_result(out, &spec));
out:
    tokenizer_spec_release(&spec);
    file_unmap(&map);
    return st;
}

int main(int argc, char **argv) {
    if (argc < 4) return fputs("bpe_train FILE VOCAB_SIZE THREADS [OUT]\n", stderr), 2;
    if (measure(argv, argc > 4 ? argv[4] : NULL) == TANE_OK) return 0;
    fprintf(stderr, "%s\n", err_message());
    return 1;
}
