/* Decoding again with each token is quadratic in the answer's length, but nothing beside what a token costs. */
#include "infer/stream.h"

#include <string.h>

enum { PROMPT_TOKENS = 8 }; /* more than any character has pieces */

static Status decode(TextStream *s) {
    s->text.len = 0;
    TRY_RETURN(str_add(&s->text, "", 0));
    return tokenizer_decode(s->tokenizer, s->tokens.ids, s->tokens.n, &s->text);
}

static Status keep_tokens(TokenList *list, const int32_t *ids, size_t n) {
    if (list->n + n > list->cap) {
        size_t cap = 2 * list->cap > list->n + n ? 2 * list->cap : list->n + n + 32;
        TRY_RETURN(mem_grow((void **)&list->ids, list->cap, cap, sizeof *list->ids));
        list->cap = cap;
    }
    if (n) memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return TANE_OK;
}

Status text_stream_begin(TextStream *s, const Tokenizer *tokenizer, const int32_t *prompt, size_t n,
                         const char *const *stops, size_t n_stops) {
    size_t kept = n < PROMPT_TOKENS ? n : PROMPT_TOKENS;
    *s = (TextStream){.tokenizer = tokenizer, .stops = stops, .n_stops = n_stops, .n_prompt = kept};
    Status st = keep_tokens(&s->tokens, prompt + (n - kept), kept);
    if (st == TANE_OK) st = decode(s);
    if (st != TANE_OK) {
        text_stream_free(s);
        return st;
    }
    s->begin = s->shown = s->end = s->text.len;
    return TANE_OK;
}

void text_stream_free(TextStream *s) {
    token_list_free(&s->tokens);
    str_free(&s->text);
    *s = (TextStream){0};
}

/* U+FFFD at the end may be the first bytes of a character whose others are still to come. */
static size_t without_unfinished(const char *text, size_t from, size_t n) {
    while (n >= from + 3 && memcmp(text + n - 3, "\xef\xbf\xbd", 3) == 0) n -= 3;
    return n;
}

static bool find_stop(TextStream *s, size_t from, size_t n) {
    size_t first = n;
    for (size_t i = 0; i < s->n_stops; i++) {
        size_t length = strlen(s->stops[i]);
        const char *at = memmem(s->text.text + from, n - from, s->stops[i], length);
        if (at && (size_t)(at - s->text.text) < first) first = (size_t)(at - s->text.text);
    }
    if (first == n) return false;
    s->end = first;
    return true;
}

/* Length of the longest end of text[from..n) that begins a stop string. */
static size_t begins_stop(const TextStream *s, size_t from, size_t n) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n_stops; i++) {
        size_t k = strlen(s->stops[i]) - 1;
        if (k > n - from) k = n - from;
        while (k > longest && memcmp(s->text.text + n - k, s->stops[i], k) != 0) k--;
        if (k > longest) longest = k;
    }
    return longest;
}

Status text_stream_feed(TextStream *s, const int32_t *answer, size_t n, bool last, const char **piece,
                        size_t *piece_n) {
    *piece = "";
    *piece_n = 0;
    if (s->stopped) return TANE_OK;
    size_t known = s->tokens.n - s->n_prompt;
    TRY_RETURN(keep_tokens(&s->tokens, answer + known, n - known));
    TRY_RETURN(decode(s));
    size_t from = s->shown, end = s->text.len;
    if (from > end) from = s->shown = end; /* a prompt that ended within a character */
    if (s->begin > from) s->begin = from;
    if (find_stop(s, from, end))
        s->stopped = true;
    else if (last)
        s->end = end;
    else {
        end = without_unfinished(s->text.text, from, end);
        s->end = end - begins_stop(s, from, end);
    }
    *piece = s->text.text + from;
    *piece_n = s->end - from;
    s->shown = s->end;
    return TANE_OK;
}
