/* tokenizer.json inside: what reading it is divided into. */
#ifndef TEXT_TOKENIZER_JSON_H
#define TEXT_TOKENIZER_JSON_H

#include "base/json.h"
#include "text/tokenizer_spec.h"

/* The reader stands before "model"'s value. */
Status json_model_read(TokenizerSpec *spec, JsonReader *r);

/* normalizer, pre_tokenizer, decoder, post_processor from their trees (null: nothing); `path` is their name. */
Status json_normalizers_read(TokenizerSpec *spec, const char *where, const json_t *value);
Status json_pre_tokenizers_read(TokenizerSpec *spec, const char *where, const json_t *value);
Status json_decoders_read(TokenizerSpec *spec, const char *where, const json_t *value);
Status json_post_read(TokenizerSpec *spec, const char *where, const json_t *value);

/* base64, for charsmaps and ranks: decodes text[0..n) to *out (at least n / 4 * 3 bytes); false: it is none. */
bool base64_decode(const char *text, size_t n, char *out, size_t *out_n);
Status base64_encode(Str *out, const char *bytes, size_t n);

#endif
