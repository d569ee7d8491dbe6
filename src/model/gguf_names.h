/* GGUF's architectures: which family of config.json each is, what it calls the tensors that Hugging Face's files have
 * under other names, and how it stores them. */
#ifndef MODEL_GGUF_NAMES_H
#define MODEL_GGUF_NAMES_H

#include "model/config.h"

typedef struct GgufArch {
    const char *name;              /* general.architecture, and the beginning of its keys */
    const char *model_type;        /* of config.json */
    ActivationKind activation;     /* which GGUF does not say */
    bool paired;                   /* rows of q and k: each head's halves are interleaved (0, D/2, 1, D/2 + 1, ...) */
    bool norms_plus_one;           /* norms are stored with 1 added */
    bool windows;                  /* llama.cpp gives some layers a window: others it lets see everything */
    const char *const (*names)[2]; /* Hugging Face's and GGUF's, NULL behind the last */
} GgufArch;

const GgufArch *gguf_arch(const char *name, size_t n);   /* NULL: not one of ours */
const GgufArch *gguf_arch_of(const ModelFamily *family); /* how a family is written; NULL: not at all */
const char *gguf_arch_names(void);                       /* for messages */

/* Is this the path of a GGUF file, by its name? (A folder is none.) */
bool gguf_is_path(const char *path);

enum { GGUF_NAME = 128 };

/* How GGUF has a tensor of Hugging Face's. */
typedef struct GgufStored {
    char name[GGUF_NAME];
    bool paired;
    float plus; /* added to every value */
} GgufStored;
/* False: no such tensor. */
bool gguf_stored(const GgufArch *arch, const char *name, GgufStored *out);

#endif
