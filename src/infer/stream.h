/* An answer as text while it grows: what may be shown now, with stop strings found before they are shown.
 *
 * Held back are the bytes of an unfinished character and what may turn out to be the beginning of a stop string. The
 * last tokens of the prompt are decoded with the answer, since a piece's text depends on whether it is the first one.
 */
#ifndef INFER_STREAM_H
#define INFER_STREAM_H

#include "text/tokenizer.h"

typedef struct TextStream {
    const Tokenizer *tokenizer;
    const char *const *stops; /* (n_stops), borrowed */
    size_t n_stops;
    TokenList tokens;         /* the prompt's last and the answer's */
    size_t n_prompt;          /* of them, from the prompt */
    Str text;                 /* of all these */
    size_t begin, shown, end; /* bytes of text: where the answer begins, is shown to, and ends for now */
    bool stopped;             /* a stop string was met; text ends in front of it */
} TextStream;

/* prompt may be empty; only its last tokens are kept. stops without empty strings. */
Status text_stream_begin(TextStream *s, const Tokenizer *tokenizer, const int32_t *prompt, size_t n,
                         const char *const *stops, size_t n_stops);
void text_stream_free(TextStream *s);

/* answer (n): all its tokens so far. *piece (*piece_n, possibly 0) is what can be shown in addition, valid until the
 * next call; `last`: nothing is held back any more. */
Status text_stream_feed(TextStream *s, const int32_t *answer, size_t n, bool last, const char **piece, size_t *piece_n);

/* The answer so far, up to where it has been handed out. */
static inline const char *text_stream_answer(const TextStream *s, size_t *n) {
    *n = s->shown - s->begin;
    return s->text.text ? s->text.text + s->begin : "";
}

#endif
