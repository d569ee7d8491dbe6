/* Splitting expressions: the first line is one, the rest is text that it cuts. Where a scanner written by hand knows it,
 * PCRE2 must agree on characters that both know. */
#include <assert.h>
#include <string.h>

#include "fuzz.h"
#include "text/scan.h"
#include "text/utf8.h"

enum { MAX_TEXT = 2000, MAX_WORDS = 64 };

/* Valid UTF-8 of characters that every version of Unicode has alike. */
static size_t clean(char *out, const uint8_t *data, size_t n) {
    size_t k = 0, len;
    uint32_t code;
    for (size_t at = 0; at < n && k + 4 < MAX_TEXT; at += len) {
        len = utf8_decode((const char *)data + at, n - at, &code);
        bool keep = len && (code < 0x370 || (code >= 0x3041 && code <= 0x3096) || (code >= 0x4E00 && code <= 0x9FA5));
        if (!len) len = 1;
        if (keep) memcpy(out + k, data + at, len), k += len;
        else out[k++] = '?';
    }
    return k;
}

void fuzz_regex(const uint8_t *data, size_t n) {
    Scanner *by_hand = NULL, *pcre2 = NULL;
    const uint8_t *newline = n ? memchr(data, '\n', n) : NULL;
    size_t pattern = newline ? (size_t)(newline - data) : n;
    char text[MAX_TEXT];
    size_t size = newline ? clean(text, newline + 1, n - pattern - 1) : 0;
    size_t a[MAX_WORDS], b[MAX_WORDS], na = 0, nb = 0;
    if (scanner_new(&by_hand, "fuzz", (const char *)data, pattern, true) == TANE_OK) {
        Status st = scanner_cut(by_hand, text, size, 0, a, MAX_WORDS, &na);
        for (size_t i = 0; st == TANE_OK && i < na; i++) assert(a[i] > (i ? a[i - 1] : 0) && a[i] <= size);
        if (st == TANE_OK && scanner_new(&pcre2, "fuzz", (const char *)data, pattern, false) == TANE_OK) {
            st = scanner_cut(pcre2, text, size, 0, b, MAX_WORDS, &nb);
            assert(st != TANE_OK || (na == nb && memcmp(a, b, na * sizeof *a) == 0));
        }
    }
    scanner_free(by_hand);
    scanner_free(pcre2);
}
