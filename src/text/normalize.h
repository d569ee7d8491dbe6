/* The normalizers of a tokenizer.json: each makes a new text of one, and carries along where its bytes came from. */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include "text/pieces.h"
#include "text/tokenizer_spec.h"

typedef struct Normalizer Normalizer;

/* NULL in *out when there are no steps. The steps are borrowed. */
Status normalizer_new(Normalizer **out, const char *where, const TokenSteps *steps);
void normalizer_free(Normalizer *n); /* NULL is fine */

/* Would the text stay as it is? Looks quickly: false also where it cannot tell. */
bool normalizer_keeps(const Normalizer *n, const char *text, size_t len);
/* *text in, *text out; `spare` is working memory of the same kind. */
Status normalizer_run(const Normalizer *n, Pieces *text, Pieces *spare);

/* GPT-2's alphabet: each byte as a character that can be seen. */
uint32_t byte_to_code(uint8_t byte);
int code_to_byte(uint32_t code); /* -1: not in the alphabet */

#endif
