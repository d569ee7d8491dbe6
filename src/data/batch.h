/* Batches: units of a layout as the arrays that a micro-batch is made of. */
#ifndef DATA_BATCH_H
#define DATA_BATCH_H

#include "data/layout.h"

/* tokens, labels; packed: positions and starts too. */
enum { BATCH_ARRAYS = 4 };
static inline int batch_arrays(bool packed) { return packed ? BATCH_ARRAYS : 2; }

typedef struct Batch {
    int64_t rows, width;
    union {
        struct {
            int32_t *tokens; /* (rows, width), padded with pad_id on the right */
            int32_t *labels; /* (rows, width): labels[t] = tokens[t + 1] where that is trained on, else -100 */
            int32_t *positions, *starts; /* (rows, width), or NULL: rows of one document */
        };
        int32_t *array[BATCH_ARRAYS];
    };
    int64_t *units;  /* (rows): of the layout, -1 for an empty one */
    int64_t targets; /* labels that are not -100 */
    int64_t real;    /* tokens that are not padding */
    bool view;       /* the arrays belong to somebody else */
} Batch;
Status batch_new(Batch *batch, int64_t rows, int64_t width, bool packed);
/* The same over memory that the caller owns, `stride` bytes from array to array. */
Status batch_view(Batch *batch, int64_t rows, int64_t width, bool packed, void *memory, size_t stride);
void batch_free(Batch *batch);
/* Fills `rows` rows with positions first .. first + rows - 1 of the epoch; beyond the epoch's end rows stay empty. The
 * width is the layout's. */
void batch_fill(Batch *batch, const Layout *l, uint64_t seed, int64_t epoch, int64_t first, int32_t pad_id);
/* In order instead, for evaluation. */
void batch_fill_ordered(Batch *batch, const Layout *l, int64_t first, int32_t pad_id);

#endif
