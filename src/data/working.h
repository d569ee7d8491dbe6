/* Numbers and worked solutions as text, for arithmetic.c; the format is described in arithmetic.h. */
#ifndef DATA_WORKING_H
#define DATA_WORKING_H

#include "base/mem.h"

enum { NUMBER_TEXT = 32 };

/* value / 10^scale without needless zeros; returns the length. scale <= 18. */
int number_text(char out[NUMBER_TEXT], int64_t value, int scale);

/* Appends the steps of a op b, each ended by ';'. a and b are times 10^scale. For '/': digits behind the point that the
 * answer keeps, or -1 when it ends at the whole quotient. */
Status working_steps(char op, int64_t a, int64_t b, int scale, int places, Str *out);

#endif
