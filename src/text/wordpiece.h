/* WordPiece (Schuster and Nakajima 2012): the longest token that a word begins with, then the longest continuation
 * ("##...") that the rest begins with, and so on; a word that cannot be had so is one unknown token. And WordLevel: a
 * word is a token or unknown.
 */
#ifndef TEXT_WORDPIECE_H
#define TEXT_WORDPIECE_H

#include "text/tokenizer_spec.h"

typedef struct WordPiece WordPiece;

/* The tokens are borrowed. */
Status wordpiece_new(WordPiece **out, const TokenizerSpec *spec);
void wordpiece_free(WordPiece *w); /* NULL is fine */
/* Appends the ids of a word, which is valid UTF-8. ends (n) or NULL: gets the byte behind each. */
Status wordpiece_word(const WordPiece *w, const char *word, size_t n, TokenList *out, uint32_t *ends);

#endif
