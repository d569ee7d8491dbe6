/* base64 (RFC 4648), with its padding. */
#include <string.h>

#include "text/tokenizer_json.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(const char *text, size_t n, char *out, size_t *out_n) {
    *out_n = 0;
    if (n == 0 || n % 4) return false;
    size_t pad = text[n - 1] != '=' ? 0 : text[n - 2] != '=' ? 1 : 2;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t word = 0;
        for (size_t k = 0; k < 4; k++) {
            int value = i + k >= n - pad ? 0 : value_of(text[i + k]);
            if (value < 0) return false;
            word = word << 6 | (uint32_t)value;
        }
        size_t bytes = i + 4 == n ? 3 - pad : 3;
        for (size_t k = 0; k < bytes; k++) out[(*out_n)++] = (char)(word >> (16 - 8 * k) & 0xFF);
    }
    return true;
}

Status base64_encode(Str *out, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i < 3 ? n - i : 3;
        uint32_t word = 0;
        for (size_t k = 0; k < 3; k++) word = word << 8 | (k < left ? (uint8_t)bytes[i + k] : 0u);
        char four[4];
        for (size_t k = 0; k < 4; k++) four[k] = k <= left ? digits[word >> (18 - 6 * k) & 63] : '=';
        TRY_RETURN(str_add(out, four, 4));
    }
    return TANE_OK;
}
