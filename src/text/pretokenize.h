/* The pre-tokenizers of a tokenizer.json: they cut a text into words, and some change it.
 *
 * What ends in ByteLevel works on bytes: its alphabet, which exists only to make bytes printable, is never written out;
 * the model is asked for raw bytes instead. Where the last cut is by an expression whose matches and gaps are words, it
 * is left to the model's hot loop (bpe_text).
 */
#ifndef TEXT_PRETOKENIZE_H
#define TEXT_PRETOKENIZE_H

#include "text/pieces.h"
#include "text/scan.h"
#include "text/tokenizer_spec.h"

typedef struct PreTokenizer PreTokenizer;

/* The steps are borrowed. */
Status pretokenizer_new(PreTokenizer **out, const char *where, const TokenSteps *steps);
void pretokenizer_free(PreTokenizer *p); /* NULL is fine */

bool pretokenizer_is_bytes(const PreTokenizer *p);    /* ends in ByteLevel */
bool pretokenizer_needs_start(const PreTokenizer *p); /* asks which piece begins the input: origins matter */
/* The last cut, if it can be left to bpe_text, else NULL. */
const Scanner *pretokenizer_scanner(const PreTokenizer *p);
/* Does everything but that last cut leave a text as it is and whole? */
bool pretokenizer_only_scans(const PreTokenizer *p);
/* Cuts the pieces of *text further, and may change them; `all`: with the last cut. at_start: text that has no origins
 * begins the input. */
Status pretokenizer_run(const PreTokenizer *p, bool all, bool at_start, Pieces *text, Pieces *spare);

#endif
