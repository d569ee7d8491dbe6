/* Encoding and decoding on one thread: tane's side of bench/encode.py, and the floors of it.
 *
 *     tokenize --tokenizer FILE --text FILE [--pattern NAME] [--document BYTES] [--rounds N] [--ids FILE]
 *
 * The text is cut into documents (16384 bytes, at the end of a line) that are encoded one by one. A round prints a line
 * of JSON with MB per CPU second of: copying the bytes; the splitting scanner alone, where --pattern names one (gpt2,
 * cl100k, o200k); encoding; and decoding. The first round fills the cache of words, the others find it as the one before
 * left it. --ids: all ids, 4 bytes each, for comparing.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "text/scan.h"
#include "text/tokenizer.h"

typedef struct Bench {
    const char *tokenizer, *path, *pattern, *ids;
    size_t document;
    int rounds;
    Tokenizer *tok;
    Scanner *scanner;
    char *text;
    size_t n;
    TokenList list;
    Str back;
    size_t words;
} Bench;

/* Of this process: what others do on the machine counts less. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void usage(const char *problem) {
    fprintf(stderr,
            "tokenize: %s\noptions: --tokenizer FILE --text FILE [--pattern gpt2|cl100k|o200k] [--document BYTES] "
            "[--rounds N] [--ids FILE]\n",
            problem);
    exit(2);
}

static void read_options(Bench *b, int argc, char **argv) {
    enum { TOKENIZER, TEXT, PATTERN, DOCUMENT, ROUNDS, IDS };
    static const struct option table[] = {
        {"tokenizer", 1, NULL, TOKENIZER}, {"text", 1, NULL, TEXT},     {"pattern", 1, NULL, PATTERN},
        {"document", 1, NULL, DOCUMENT},   {"rounds", 1, NULL, ROUNDS}, {"ids", 1, NULL, IDS}, {0}};
    *b = (Bench){.document = 16384, .rounds = 5};
    for (int which; (which = getopt_long(argc, argv, "", table, NULL)) != -1;) switch (which) {
        case TOKENIZER: b->tokenizer = optarg; break;
        case TEXT: b->path = optarg; break;
        case PATTERN: b->pattern = optarg; break;
        case DOCUMENT: b->document = strtoul(optarg, NULL, 10); break;
        case ROUNDS: b->rounds = atoi(optarg); break;
        case IDS: b->ids = optarg; break;
        default: usage("unknown option");
        }
    if (!b->tokenizer || !b->path) usage("--tokenizer and --text are needed");
    if (b->document == 0 || b->rounds < 1) usage("--document and --rounds must be 1 or more");
}

/* The end of the document at `from`: behind the first end of a line from there on that makes it long enough. */
static size_t document_end(const Bench *b, size_t from) {
    if (b->n - from <= b->document) return b->n;
    const char *newline = memchr(b->text + from + b->document - 1, '\n', b->n - from - b->document + 1);
    return newline ? (size_t)(newline - b->text) + 1 : b->n;
}

static Status open_scanner(Bench *b) {
    const char *text = strcmp(b->pattern, "gpt2") == 0     ? scan_gpt2
                       : strcmp(b->pattern, "cl100k") == 0 ? scan_cl100k
                       : strcmp(b->pattern, "o200k") == 0  ? scan_o200k
                                                           : NULL;
    if (!text) usage("--pattern is gpt2, cl100k or o200k");
    return scanner_new(&b->scanner, b->pattern, text, strlen(text), true);
}

static Status scan_all(Bench *b) {
    size_t ends[256], count;
    b->words = 0;
    for (size_t from = 0, end; from < b->n; from = end) {
        end = document_end(b, from);
        for (size_t at = from; at < end; at = from + ends[count - 1], b->words += count)
            TRY_RETURN(scanner_cut(b->scanner, b->text + from, end - from, at - from, ends, 256, &count));
    }
    return TANE_OK;
}

static Status encode_all(Bench *b) {
    b->list.n = 0;
    for (size_t from = 0, end; from < b->n; from = end) {
        end = document_end(b, from);
        TRY_RETURN(tokenizer_encode(b->tok, b->text + from, end - from, &b->list));
    }
    return TANE_OK;
}

static Status decode_all(Bench *b) {
    b->back.len = 0;
    for (size_t at = 0; at < b->list.n; at += 4096)
        TRY_RETURN(tokenizer_decode(b->tok, b->list.ids + at, b->list.n - at < 4096 ? b->list.n - at : 4096, &b->back));
    return TANE_OK;
}

static Status run_round(Bench *b, int round) {
    double t[5] = {cpu_seconds()};
    b->back.len = 0;
    TRY_RETURN(str_add(&b->back, b->text, b->n));
    t[1] = cpu_seconds();
    if (b->scanner) TRY_RETURN(scan_all(b));
    t[2] = cpu_seconds();
    TRY_RETURN(encode_all(b));
    t[3] = cpu_seconds();
    TRY_RETURN(decode_all(b));
    t[4] = cpu_seconds();
    double mb = (double)b->n * 1e-6;
    printf("{\"round\": %d, \"bytes\": %zu, \"words\": %zu, \"ids\": %zu, \"copy\": %.1f, \"scan\": %.1f, "
           "\"encode\": %.2f, \"decode\": %.1f}\n",
           round, b->n, b->words, b->list.n, mb / (t[1] - t[0]), b->scanner ? mb / (t[2] - t[1]) : 0,
           mb / (t[3] - t[2]), mb / (t[4] - t[3]));
    fflush(stdout);
    return TANE_OK;
}

int main(int argc, char **argv) {
    Status st = TANE_OK;
    Bench b;
    read_options(&b, argc, argv);
    double start = cpu_seconds();
    TRY(tokenizer_load(&b.tok, b.tokenizer));
    fprintf(stderr, "tokenize: loaded in %.3f s\n", cpu_seconds() - start);
    TRY(file_read(b.path, (size_t)4 << 30, &b.text, &b.n));
    if (b.pattern) TRY(open_scanner(&b));
    for (int round = 0; round < b.rounds; round++) TRY(run_round(&b, round));
    if (b.ids) TRY(file_write_atomic(b.ids, b.list.ids, b.list.n * sizeof *b.list.ids));
out:
    if (st != TANE_OK) fprintf(stderr, "tokenize: %s\n", err_message());
    str_free(&b.back);
    token_list_free(&b.list);
    scanner_free(b.scanner);
    tokenizer_free(b.tok);
    mem_free(b.text);
    return st != TANE_OK;
}
