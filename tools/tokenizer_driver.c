/* A tokenizer behind a pipe, for comparing tane with the reference libraries on much text
 * (tools/golden/tokenizer_json.py).
 *
 *     tokenizer_driver TOKENIZER                  requests on standard input
 *     tokenizer_driver TOKENIZER save FOLDER
 *     tokenizer_driver TOKENIZER rewrite FOLDER   with tokenizer.json written anew from what was understood
 *
 * A request is two 32-bit numbers, flags and a length in bytes, and the bytes: text to encode, or with DECODE ids. The
 * answer is a count and as many ids, followed by their ends if these were asked for; or a length and the text.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "text/tokenizer_spec.h"

enum { SPECIAL = 1, ADD = 2, ENDS = 4, LITERAL = 8, DECODE = 16 };

static Status put(const void *bytes, size_t n) {
    return fwrite(bytes, 1, n, stdout) == n ? TANE_OK : FAIL(TANE_EIO, "cannot write to standard output");
}

static Status put_counted(size_t count, const void *bytes, size_t n) {
    uint32_t head = (uint32_t)count;
    TRY_RETURN(put(&head, sizeof head));
    return put(bytes, n);
}

static Status decode(const Tokenizer *tok, uint32_t flags, const char *bytes, size_t n) {
    Str text = {0};
    Status st = tokenizer_decode_all(tok, (const int32_t *)(const void *)bytes, n / 4, flags & SPECIAL, &text);
    if (st == TANE_OK) st = put_counted(text.len, text.text ? text.text : "", text.len);
    str_free(&text);
    return st;
}

static Status encode(const Tokenizer *tok, uint32_t flags, const char *bytes, size_t n) {
    Status st = TANE_OK;
    uint8_t *literal = NULL;
    TokenList list = {0};
    EncodeInput input = {
        .text = bytes, .n = n, .parse_special = flags & SPECIAL, .add_special = flags & ADD, .want_ends = flags & ENDS};
    if (flags & LITERAL) {
        TRY(MEM_NEW_ARRAY(&literal, n));
        memset(literal, 1, n);
        input.literal = literal;
    }
    TRY(tokenizer_encode_input(tok, &input, &list));
    TRY(put_counted(list.n, list.ids, list.n * sizeof *list.ids));
    if (flags & ENDS) TRY(put(list.ends, list.n * sizeof *list.ends));
out:
    mem_free(literal);
    token_list_free(&list);
    return st;
}

static Status serve(const Tokenizer *tok) {
    uint32_t head[2];
    while (fread(head, sizeof *head, 2, stdin) == 2) {
        char *bytes;
        TRY_RETURN(MEM_NEW_ARRAY(&bytes, head[1]));
        Status st = fread(bytes, 1, head[1], stdin) == head[1] ? TANE_OK : FAIL(TANE_EIO, "a request is cut short");
        if (st == TANE_OK) st = (head[0] & DECODE ? decode : encode)(tok, head[0], bytes, head[1]);
        mem_free(bytes);
        TRY_RETURN(st);
        fflush(stdout);
    }
    return TANE_OK;
}

static Status rewrite(const Tokenizer *tok, const char *folder) {
    Str json = {0};
    char *path = NULL;
    Status st = TANE_OK;
    TRY(tokenizer_save(tok, folder));
    TRY(path_join(&path, folder, "tokenizer.json"));
    TRY(tokenizer_spec_json(tokenizer_spec(tok), &json));
    TRY(file_write_atomic(path, json.text, json.len));
out:
    mem_free(path);
    str_free(&json);
    return st;
}

int main(int argc, char **argv) {
    Tokenizer *tok = NULL;
    if (argc < 2) {
        fprintf(stderr, "usage: tokenizer_driver TOKENIZER [save|rewrite FOLDER]\n");
        return 2;
    }
    double start = clock_seconds();
    Status st = tokenizer_load(&tok, argv[1]);
    if (st == TANE_OK)
        fprintf(stderr, "%s: %d ids, opened in %.3f s\n", argv[1], tokenizer_vocab_size(tok), clock_seconds() - start);
    if (st == TANE_OK && argc <= 3) st = serve(tok);
    else if (st == TANE_OK) st = (strcmp(argv[2], "rewrite") == 0 ? rewrite : tokenizer_save)(tok, argv[3]);
    if (st != TANE_OK) fprintf(stderr, "%s\n", tane_error_message());
    tokenizer_free(tok);
    return st != TANE_OK;
}
