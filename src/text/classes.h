/* What the pipeline of tokenizers asks of a character beyond text/unicode.h, each as the Rust library there defines it. */
#ifndef TEXT_CLASSES_H
#define TEXT_CLASSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool char_is_space(uint32_t code);       /* White_Space */
bool char_is_numeric(uint32_t code);     /* N */
bool char_is_word(uint32_t code);        /* \w: letters, marks, digits, connectors */
bool char_is_punctuation(uint32_t code); /* P, and what ASCII calls punctuation */
bool char_is_other(uint32_t code);       /* C: control, format, surrogate, private, unassigned */
bool char_is_mark(uint32_t code);        /* M */
bool char_is_nonspacing(uint32_t code);  /* Mn */
uint32_t char_lower(uint32_t code);      /* U+0130, which becomes two characters, is the caller's */

#endif
