/* One code point at a time, by the rules of RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef TEXT_UTF8_H
#define TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_MAX 0x10FFFF
#define UTF8_REPLACEMENT 0xFFFD

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

#endif
