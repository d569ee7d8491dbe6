/* Unigram (Kudo 2018): of all ways to put a text together from tokens the one with the highest sum of
 * log-probabilities, found by Viterbi's algorithm over a trie in one pass.
 *
 * As in Hugging Face's tokenizers: sums in double, the earlier of equals, a character without a token of its own may
 * stand alone at 10 below the lowest score, and a run of such is one unknown token (or its bytes).
 */
#ifndef TEXT_UNIGRAM_H
#define TEXT_UNIGRAM_H

#include "text/tokenizer_spec.h"

typedef struct Unigram Unigram;

/* The tokens are borrowed. byte_token (256) is copied; NULL: no byte fallback. unk -1: a character without a token is
 * an error when it comes. */
Status unigram_new(Unigram **out, const SpecToken *tokens, int32_t n, int32_t unk, const int32_t *byte_token);
void unigram_free(Unigram *u); /* NULL is fine */

/* Working memory of one thread. Zero-initialise. */
typedef struct UnigramWork {
    struct UnigramNode *nodes; /* (cap) */
    size_t cap;
} UnigramWork;
void unigram_work_free(UnigramWork *work);

/* Appends the ids of text[0..n), which is valid UTF-8. ends (n) or NULL: gets the byte behind each. */
Status unigram_word(const Unigram *u, UnigramWork *work, const char *text, size_t n, TokenList *out, uint32_t *ends);

#endif
