/* The decoders of a tokenizer.json: the texts of tokens become the text they stand for. */
#ifndef TEXT_DECODER_H
#define TEXT_DECODER_H

#include "text/pieces.h"
#include "text/tokenizer_spec.h"

typedef struct Decoder Decoder;

/* The steps are borrowed. */
Status decoder_new(Decoder **out, const char *where, const TokenSteps *steps);
void decoder_free(Decoder *d); /* NULL is fine */
/* ByteLevel and nothing else: the bytes of the tokens, one after the other. */
bool decoder_is_bytes(const Decoder *d);
/* The tokens are the pieces of *tokens, whose text they fill; the result is appended to *out. */
Status decoder_run(const Decoder *d, Pieces *tokens, Pieces *spare, Str *out);

/* Appends bytes; what is not UTF-8 becomes U+FFFD. */
Status decoder_add_bytes(Str *out, const char *bytes, size_t n);

#endif
