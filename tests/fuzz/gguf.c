/* GGUF: what opens lies inside its file, every key can be asked for as every kind, and every tensor is decoded. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"
#include "fuzz.h"

static void ask_array(const GgufFile *file, const char *key, GgufKind element, size_t n) {
    enum { FEW = 4096 };
    static GgufText texts[FEW];
    static int64_t ints[FEW];
    static double doubles[FEW];
    for (size_t i = 0; i < n; i += 1 + n / 256) {
        if (element == GGUF_STRING) {
            GgufText text = gguf_array_text(file, key, i);
            fuzz_touch(text.data, text.n);
        } else {
            (void)gguf_array_number(file, key, i);
        }
    }
    if (n > FEW) return;
    Status as_texts = gguf_array_texts(file, key, texts, n), as_doubles = gguf_array_doubles(file, key, doubles, n);
    (void)gguf_array_ints(file, key, ints, n);
    assert((as_texts == TANE_OK) == (element == GGUF_STRING));
    assert((as_doubles == TANE_OK) == (element != GGUF_STRING && element != GGUF_BOOL));
    for (size_t i = 0; as_texts == TANE_OK && i < n; i++) {
        GgufText text = gguf_array_text(file, key, i);
        assert(text.data == texts[i].data && text.n == texts[i].n);
    }
}

static void ask_key(const GgufFile *file, const char *key, GgufKind kind) {
    int64_t whole;
    double real;
    bool yes;
    GgufText text;
    GgufKind element;
    size_t n;
    assert(gguf_has(file, key) && strlen(gguf_kind_name(kind)) > 0);
    (void)gguf_int(file, key, true, -100, 100, &whole);
    Status st = gguf_double(file, key, true, &real);
    assert((st != TANE_OK) == (kind == GGUF_STRING || kind == GGUF_ARRAY || kind == GGUF_BOOL));
    st = gguf_bool(file, key, true, &yes);
    assert((st == TANE_OK) == (kind == GGUF_BOOL));
    st = gguf_text(file, key, true, &text);
    assert((st == TANE_OK) == (kind == GGUF_STRING));
    if (st == TANE_OK) fuzz_touch(text.data, text.n);
    st = gguf_array(file, key, true, &element, &n);
    assert((st == TANE_OK) == (kind == GGUF_ARRAY));
    if (st == TANE_OK) ask_array(file, key, element, n);
}

static void decode_tensor(const GgufTensor *t) {
    float out[256];
    fuzz_touch(t->data, t->bytes);
    for (size_t at = 0; at < t->bytes; at += t->type->bytes)
        ggml_decode(t->type->type, (const uint8_t *)t->data + at, t->type->block, out);
}

void fuzz_gguf(const uint8_t *data, size_t n) {
    GgufFile *file;
    size_t sum = 0;
    if (gguf_open(&file, fuzz_file(data, n)) != TANE_OK) {
        assert(!file);
        return;
    }
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        GgufKind kind;
        const char *key = gguf_key(file, i, &kind);
        ask_key(file, key, kind);
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const GgufTensor *t = gguf_tensor(file, i);
        assert(gguf_find(file, t->name) == t && t->rank >= 1 && t->rank <= GGUF_MAX_RANK);
        decode_tensor(t);
        sum += t->bytes;
    }
    assert(sum <= n);
    gguf_close(&file);
    assert(!file);
}
