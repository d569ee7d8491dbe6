/* Models from one form of files to another: Hugging Face folders and GGUF, either way, and either to itself in another
 * type. Tensor by tensor, so that memory holds a few pieces and never the model. */
#ifndef MODEL_CONVERT_H
#define MODEL_CONVERT_H

#include "model/gguf_save.h"

typedef struct ConvertOptions {
    const char *type;  /* "f32", "f16", "bf16", and for GGUF "q8_0", "q4_0", "q4_k"; NULL: as the source has it */
    bool force;        /* replace what is there: a file, or a folder that holds a model */
    bool no_tokenizer; /* leave it and the chat template out */
    void *user;
    SaveNote note;                                               /* what is worth knowing; may be NULL */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* bytes written; may be NULL */
} ConvertOptions;

/* in: a model folder or .gguf file; out: a .gguf file by its name, else a folder. Nothing is at `out` before all of it
 * is there. */
Status convert_model(const char *in, const char *out, const ConvertOptions *options);

#endif
