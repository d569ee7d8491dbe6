/* Filling batches. See batch.h. */
#include "data/batch.h"

#include <assert.h>

Status batch_new(Batch *batch, int64_t rows, int64_t width, bool packed) {
    Status st = TANE_OK;
    *batch = (Batch){.rows = rows, .width = width};
    for (int i = 0; i < batch_arrays(packed); i++) TRY(MEM_NEW_ARRAY(&batch->array[i], (size_t)(rows * width)));
    TRY(MEM_NEW_ARRAY(&batch->units, (size_t)rows));
    return TANE_OK;
out:
    batch_free(batch);
    return st;
}

Status batch_view(Batch *batch, int64_t rows, int64_t width, bool packed, void *memory, size_t stride) {
    *batch = (Batch){.rows = rows, .width = width, .view = true};
    for (int i = 0; i < batch_arrays(packed); i++) batch->array[i] = (int32_t *)((char *)memory + (size_t)i * stride);
    return MEM_NEW_ARRAY(&batch->units, (size_t)rows);
}

void batch_free(Batch *batch) {
    for (int i = 0; i < BATCH_ARRAYS && !batch->view; i++) mem_free(batch->array[i]);
    mem_free(batch->units);
    *batch = (Batch){0};
}

/* Row r of the batch: this unit, or nothing but padding for -1. */
static void fill_row(Batch *b, const Layout *l, int64_t r, int64_t unit, int32_t pad_id) {
    int64_t at = r * b->width;
    UnitOut out = {.tokens = b->tokens + at,
                   .labels = b->labels + at,
                   .positions = b->positions ? b->positions + at : NULL,
                   .starts = b->starts ? b->starts + at : NULL};
    assert(b->width == layout_width(l));
    b->units[r] = unit;
    layout_fill(l, unit, pad_id, &out);
    b->real += out.real;
    b->targets += out.targets;
}

void batch_fill(Batch *b, const Layout *l, uint64_t seed, int64_t epoch, int64_t first, int32_t pad_id) {
    b->targets = b->real = 0;
    for (int64_t r = 0; r < b->rows; r++)
        fill_row(b, l, r, first + r < layout_units(l) ? layout_at(l, seed, epoch, first + r) : -1, pad_id);
}

void batch_fill_ordered(Batch *b, const Layout *l, int64_t first, int32_t pad_id) {
    b->targets = b->real = 0;
    for (int64_t r = 0; r < b->rows; r++)
        fill_row(b, l, r, first + r < layout_ordered(l) ? layout_in_order(l, first + r) : -1, pad_id);
}
