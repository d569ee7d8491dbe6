/* Unicode's normal forms, run by run: what no normalization joins across is handled on its own, so that time is linear
 * and each character knows where it came from. */
#ifndef TEXT_COMPOSE_H
#define TEXT_COMPOSE_H

#include "text/pieces.h"

typedef enum ComposeForm { COMPOSE_NFC, COMPOSE_NFD, COMPOSE_NFKC, COMPOSE_NFKD } ComposeForm;

/* Appends to *out. */
Status compose(ComposeForm form, const Pieces *in, Pieces *out);
/* True: the text is NFC. False: perhaps. */
bool is_nfc_quickly(const char *text, size_t n);

#endif
