/* SentencePiece's precompiled map of characters, as Hugging Face's tokenizers applies it: to grapheme clusters of at
 * most 5 bytes, else to characters. A cluster is replaced whole by what its shortest beginning in the map maps to (so
 * does the reference, and models were trained with it). */
#ifndef TEXT_CHARSMAP_H
#define TEXT_CHARSMAP_H

#include "text/pieces.h"
#include "text/vocab.h"

typedef struct Charsmap Charsmap;

/* `bytes`: u32 size of a double-array trie, the trie, texts that end with NUL. Borrowed. */
Status charsmap_new(Charsmap **out, const char *where, Bytes bytes);
void charsmap_free(Charsmap *map); /* NULL is fine */
Status charsmap_run(const Charsmap *map, const Pieces *in, Pieces *out);

#endif
