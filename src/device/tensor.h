/* Tensor: dtype, shape, buffer. Always contiguous, row-major; the last dimension runs fastest. */
#ifndef DEVICE_TENSOR_H
#define DEVICE_TENSOR_H

#include <stdbool.h>

#include "base/dtype.h"

enum { TENSOR_RANK = 4 };

typedef struct Tensor Tensor;
struct Tensor {
    const char *name; /* for messages and reports */
    DType dtype;
    int rank;
    int64_t shape[TENSOR_RANK];
    void *data;   /* set by its owner, or by tape_bind */
    Tensor *grad; /* same shape; NULL when no gradient flows here */

    bool planned;      /* its memory is placed by the tape (else its owner sets data) */
    bool needs_grad;   /* a parameter lies upstream, or it is one */
    bool keep;         /* read after the run: stays until the end */
    int first, last;   /* first and last step of the schedule that touches it */
    int again;         /* the step that makes it a second time, INT32_MAX: none; from there on it lives */
    int again_last;    /* until here, and between `last` and `again` its memory is free */
    size_t offset;     /* in the tape's memory */
    Tensor *shares;    /* lies in the memory of this one */
    int consumers;     /* recorded nodes that read it */
};

static inline int64_t tensor_count(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}
static inline size_t tensor_bytes(const Tensor *t) { return (size_t)tensor_count(t) * dtype_size(t->dtype); }
/* Last dimension, and the number of rows in front of it. */
static inline int64_t tensor_width(const Tensor *t) { return t->rank ? t->shape[t->rank - 1] : 1; }
static inline int64_t tensor_rows(const Tensor *t) {
    int64_t w = tensor_width(t);
    return w ? tensor_count(t) / w : 0;
}

#endif
