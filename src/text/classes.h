/* What the pipeline of tokenizers asks of a character beyond text/unicode.h, as Hugging Face's tokenizers answers it:
 * each of the libraries that it is built on has the Unicode of its own year (classes.def). */
#ifndef TEXT_CLASSES_H
#define TEXT_CLASSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool char_is_space(uint32_t code);       /* White_Space */
bool char_is_numeric(uint32_t code);     /* N */
bool char_is_word(uint32_t code);        /* \w: letters, marks, digits, connectors */
bool char_is_punctuation(uint32_t code); /* P, and what ASCII calls punctuation */
bool char_is_other(uint32_t code);       /* control, format, private use */
bool char_is_mark(uint32_t code);        /* M */
bool char_is_nonspacing(uint32_t code);  /* Mn */
int char_combining_class(uint32_t code);
bool char_decomposes(uint32_t code); /* false: never, whatever a newer Unicode says */
uint32_t char_lower(uint32_t code);  /* U+0130, which becomes two characters, is the caller's */

#endif
