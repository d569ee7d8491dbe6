/* ggml's types: how fast one thread decodes and encodes each, beside a copy of the same memory and, where its library
 * is named, ggml's reference functions; and the error of Q4_K beside theirs.
 *
 *     build/bench/ggml [libggml-base.so]
 *
 * Decoding counts the bytes of blocks read and numbers written, encoding the numbers read and blocks written; they take
 * turns with the peer, pass by pass, and the best pass of each stands (noise only makes a pass slower).
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/ggml.h"

enum { NUMBERS = 1 << 24, PASSES = 7 }; /* 64 MiB of fp32: larger than the caches of most machines */

typedef void Decode(const void *blocks, float *out, int64_t n);
typedef void Encode(const float *x, void *blocks, int64_t n);

static const struct {
    GgmlType type;
    const char *decode, *encode; /* ggml's */
} rows[] = {
    {GGML_F32, NULL, NULL},
    {GGML_F16, "ggml_fp16_to_fp32_row", "ggml_fp32_to_fp16_row"},
    {GGML_BF16, "ggml_bf16_to_fp32_row", "ggml_fp32_to_bf16_row_ref"},
    {GGML_Q8_0, "dequantize_row_q8_0", "quantize_row_q8_0_ref"},
    {GGML_Q4_0, "dequantize_row_q4_0", "quantize_row_q4_0_ref"},
    {GGML_Q4_1, "dequantize_row_q4_1", NULL},
    {GGML_Q5_0, "dequantize_row_q5_0", NULL},
    {GGML_Q5_1, "dequantize_row_q5_1", NULL},
    {GGML_Q4_K, "dequantize_row_q4_K", "quantize_row_q4_K_ref"},
    {GGML_Q5_K, "dequantize_row_q5_K", NULL},
    {GGML_Q6_K, "dequantize_row_q6_K", NULL},
};

static float *x, *y;
static uint8_t *blocks, *theirs;

/* Seconds of the best pass: ours, and the peer's (0 without one). */
static void time_decode(GgmlType type, Decode *peer, double best[2]) {
    for (int pass = 0; pass < PASSES; pass++) {
        double start = clock_seconds();
        ggml_decode(type, blocks, NUMBERS, y);
        double middle = clock_seconds();
        if (peer) peer(blocks, y, NUMBERS);
        double end = clock_seconds();
        if (!pass || middle - start < best[0]) best[0] = middle - start;
        if (!pass || end - middle < best[1]) best[1] = peer ? end - middle : 0;
    }
}

static void time_encode(GgmlType type, Encode *peer, double best[2]) {
    for (int pass = 0; pass < (type == GGML_Q4_K ? 2 : PASSES); pass++) {
        double start = clock_seconds();
        ggml_encode(type, x, NUMBERS, blocks);
        double middle = clock_seconds();
        if (peer) peer(x, theirs, NUMBERS);
        double end = clock_seconds();
        if (!pass || middle - start < best[0]) best[0] = middle - start;
        if (!pass || end - middle < best[1]) best[1] = peer ? end - middle : 0;
    }
}

/* GB/s of copying: as many bytes read as written. */
static double copy_rate(void) {
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        double start = clock_seconds();
        memcpy(y, x, (size_t)NUMBERS * 4);
        double rate = 8.0 * NUMBERS / (clock_seconds() - start) / 1e9;
        if (rate > best) best = rate;
    }
    return best;
}

static void print_rates(double bytes, const double seconds[2], double copy) {
    double rate = bytes / seconds[0] / 1e9;
    printf(" %8.1f %6.2f", rate, rate / copy);
    if (seconds[1] > 0) printf(" %7.2fx", seconds[1] / seconds[0]);
    else printf(" %8s", "");
}

static double rms_error(GgmlType type, const uint8_t *from) {
    double sum = 0;
    ggml_decode(type, from, NUMBERS, y);
    for (int i = 0; i < NUMBERS; i++) sum += (double)(x[i] - y[i]) * (double)(x[i] - y[i]);
    return sqrt(sum / NUMBERS);
}

static void *symbol(void *library, const char *name) { return library && name ? dlsym(library, name) : NULL; }

static void run(void *library) {
    double copy = copy_rate();
    printf("%d numbers, one thread; copy %.1f GB/s; ratio: the peer's time over tane's\n", NUMBERS, copy);
    printf("%-6s %8s %6s %8s %8s %6s %8s %12s\n", "", "decode", "/copy", "ratio", "encode", "/copy", "ratio",
           "rms error");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const GgmlTypeInfo *info = ggml_type_info(rows[i].type);
        double bytes = 4.0 * NUMBERS + (double)ggml_row_bytes(info, NUMBERS), decode[2] = {0}, encode[2] = {0};
        void *peer_decode = symbol(library, rows[i].decode), *peer_encode = symbol(library, rows[i].encode);
        Decode *decode_row;
        Encode *encode_row;
        memcpy(&decode_row, &peer_decode, sizeof decode_row); /* a function from a void * */
        memcpy(&encode_row, &peer_encode, sizeof encode_row);
        if (info->writes) time_encode(info->type, encode_row, encode);
        else memset(blocks, 0x35, ggml_row_bytes(info, NUMBERS));
        time_decode(info->type, decode_row, decode);
        printf("%-6s", info->name);
        print_rates(bytes, decode, copy);
        if (info->writes) {
            print_rates(bytes, encode, copy);
            printf(" %12.6f", rms_error(info->type, blocks));
            if (encode_row) printf(" (theirs %.6f)", rms_error(info->type, theirs));
        }
        printf("\n");
    }
}

int main(int argc, char **argv) {
    Status st = TANE_OK;
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    Rng rng = {.key = 1, .stream = 0};
    if (argc > 1 && !library) {
        fprintf(stderr, "ggml: %s\n", dlerror());
        return 1;
    }
    TRY(MEM_NEW_ARRAY(&x, NUMBERS));
    TRY(MEM_NEW_ARRAY(&y, NUMBERS));
    TRY(MEM_NEW_ARRAY(&blocks, (size_t)NUMBERS * 4));
    TRY(MEM_NEW_ARRAY(&theirs, (size_t)NUMBERS * 4));
    for (int i = 0; i < NUMBERS; i++) x[i] = rng_normal(&rng);
    run(library);
out:
    if (st != TANE_OK) fprintf(stderr, "ggml: %s\n", err_message());
    mem_free(x);
    mem_free(y);
    mem_free(blocks);
    mem_free(theirs);
    return st != TANE_OK;
}
