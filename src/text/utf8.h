/* One code point at a time, by the rules of RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef TEXT_UTF8_H
#define TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_MAX 0x10FFFF
#define UTF8_REPLACEMENT 0xFFFD

/* Writes a code point that is valid, at most 4 bytes; returns how many. */
static inline size_t utf8_encode(uint32_t code, char *out) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(lead[n] | code);
    return n;
}

/* Bytes of the code point at text[0..n), 0 when they are not valid UTF-8 (or n is 0). */
static inline size_t utf8_decode(const char *text, size_t n, uint32_t *code) {
    const unsigned char *b = (const unsigned char *)text;
    if (n == 0) return 0;
    if (b[0] < 0x80) {
        *code = b[0];
        return 1;
    }
    size_t len = b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3 : 2;
    if (b[0] < 0xC2 || b[0] > 0xF4 || n < len) return 0;
    uint32_t c = b[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((b[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (b[i] & 0x3Fu);
    }
    if (len == 3 && (c < 0x800 || (c >= 0xD800 && c <= 0xDFFF))) return 0;
    if (len == 4 && (c < 0x10000 || c > UTF8_MAX)) return 0;
    *code = c;
    return len;
}

/* Where text[0..n) is not valid UTF-8: how many of its bytes one U+FFFD stands for. It is the longest beginning of a
 * character that is there, as Unicode recommends and Python does it, or a byte that begins none. */
static inline size_t utf8_bad_length(const char *text, size_t n) {
    const unsigned char *b = (const unsigned char *)text;
    if (n < 2 || b[0] < 0xC2 || b[0] > 0xF4) return 1;
    unsigned char lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : 0xBF;
    if (b[1] < lo || b[1] > hi) return 1;
    size_t whole = b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3 : 2, len = 2;
    while (len < n && len < whole && (b[len] & 0xC0) == 0x80) len++;
    return len;
}

/* How many bytes of text[0..n) are valid UTF-8, from the start. */
static inline size_t utf8_valid(const char *text, size_t n) {
    size_t at = 0;
    uint32_t code;
    for (;;) {
        uint64_t word;
        while (n - at >= 8) {
            __builtin_memcpy(&word, text + at, 8);
            if (word & 0x8080808080808080u) break;
            at += 8;
        }
        while (at < n && (unsigned char)text[at] < 0x80) at++;
        if (at == n) return n;
        size_t len = utf8_decode(text + at, n - at, &code);
        if (!len) return at;
        at += len;
    }
}

#endif
