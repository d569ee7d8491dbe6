/* Added tokens: texts that are cut out before anything else looks at the text, as Hugging Face's tokenizers does it:
 * the leftmost match, of several there the longest, in one pass.
 */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include "text/tokenizer_spec.h"

typedef struct AddedSet AddedSet;

enum { ADDED_MAX_BYTES = 1024 }; /* of a token: so far a match may have to look ahead and step back */

/* patterns (n) is what to look for, tokens[i].content unless it is normalized; one with data NULL is left out. Two
 * equal patterns are an error. The tokens are borrowed. */
Status added_new(AddedSet **out, const char *where, const AddedToken *tokens, const Bytes *patterns, size_t n);
void added_free(AddedSet *set); /* NULL is fine */

typedef struct AddedScan {
    const AddedSet *set; /* NULL: finds nothing */
    const char *text;
    size_t n;
    bool parse_special;     /* as in EncodeInput; what is not parsed is stepped over whole */
    const uint8_t *literal; /* (n) or NULL */
    size_t at, done;        /* from where to look; the end of the last match, spaces that it took included */
} AddedScan;

/* The next match: text[*begin..scan->done), before which text[old done..*begin) is free of tokens (*begin may be
 * smaller than the old done, where a token took the spaces that this one begins with). NULL: none. */
const AddedToken *added_next(AddedScan *scan, size_t *begin);

#endif
