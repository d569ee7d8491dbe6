/* What the tests of row formats share: a tokenizer with the special tokens of many families, and rows shown as text. */
#ifndef TESTS_ROW_CASES_H
#define TESTS_ROW_CASES_H

#include "data/row_format.h"

/* tests/golden/tokenizer_json/smollm.json with more special tokens (a list of texts; "+" in front: the token takes the
 * white space behind it), <s> as BOS and `eos` as EOS (NULL: none). Written into the test's folder. */
Tokenizer *row_tokenizer(const json_t *specials, const char *eos);
/* tests/golden/row_format/NAME: json_decref. */
json_t *row_golden(const char *name);
/* "x.jsonl", line 7. */
Row row_of(const char *text);
/* Tokens as text, special ones by their names, with what is trained on in brackets. Valid until the next call. */
const char *row_shown(const Tokenizer *tok, const int32_t *ids, const uint8_t *mask, size_t n);
/* {"messages": ..., "tools": ...} of a golden case as a row's text: mem_free. */
char *row_case_text(const json_t *c);
/* What the message says where tools/golden/row_format.py has this kind of error. */
const char *row_error_words(const char *kind);

#endif
