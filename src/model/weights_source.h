/* What a format of weights fills in. weights.c holds what all have in common; each format is one table of functions:
 * safetensors (weights_st.c) and GGUF (weights_gguf.c). */
#ifndef MODEL_WEIGHTS_SOURCE_H
#define MODEL_WEIGHTS_SOURCE_H

#include "model/weights.h"

typedef struct WeightSource {
    Status (*open)(Weights *w);
    void (*close)(Weights *w);
    Status (*find)(const Weights *w, const char *name, Weight *out, bool *found); /* see weights_find */
    Status (*missing)(const Weights *w, const char *name);                        /* see weights_missing */
    size_t (*count)(const Weights *w);
    /* Name of tensor i. *needed: it has to be a parameter. */
    const char *(*name)(const Weights *w, size_t i, bool *needed);
} WeightSource;

struct Weights {
    const WeightSource *source;
    void *file; /* the source's own */
    const char *prefix;
    char *path;
    bool *used; /* by the tensor's index */
};

extern const WeightSource weights_safetensors, weights_gguf;

#endif
