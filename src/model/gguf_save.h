/* Writing GGUF files that llama.cpp opens: keys, tokenizer, tensors in its types. */
#ifndef MODEL_GGUF_SAVE_H
#define MODEL_GGUF_SAVE_H

#include "format/gguf.h"
#include "model/gguf_names.h"
#include "model/model.h"
#include "text/tokenizer.h"

/* What the user should know: one sentence. */
typedef void (*SaveNote)(void *user, const char *text);

/* What a model's configuration is in GGUF's keys. What GGUF has no key for is TANE_EUNSUPPORTED; what llama.cpp will
 * not compute as tane does is a note. */
Status gguf_put_config(GgufWriter *w, const ModelConfig *config, const GgufArch *arch, SaveNote note, void *user);
/* tok NULL: the keys of a model without one. Token ids beyond the tokenizer's become unused ones. */
Status gguf_put_tokenizer(GgufWriter *w, const Tokenizer *tok, const ModelConfig *config, SaveNote note, void *user);

/* The type that a tensor gets where matrices get `type`: short ones, norms and positions stay F32, the output layer is
 * never below Q8_0, and rows that are not whole blocks fall back to Q8_0 or F16. */
const GgmlTypeInfo *gguf_tensor_type(const char *name, int rank, int64_t row, bool tied, const GgmlTypeInfo *type);
/* general.file_type and general.quantization_version. */
Status gguf_put_file_type(GgufWriter *w, const GgmlTypeInfo *type);

#endif
