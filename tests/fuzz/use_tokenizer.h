/* For fuzz targets: a tokenizer that opened is used for all that it is there for. */
#ifndef TESTS_FUZZ_USE_TOKENIZER_H
#define TESTS_FUZZ_USE_TOKENIZER_H

#include "text/tokenizer.h"

void fuzz_use_tokenizer(const Tokenizer *tok);

#endif
