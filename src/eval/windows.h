/* Windows of text through a model: packed into rows, many at a time, each one's sum of losses. */
#ifndef EVAL_WINDOWS_H
#define EVAL_WINDOWS_H

#include "model/model.h"

/* Tokens first .. first + n of a list: n inputs, and the targets that follow them; the last `scored` of these count. */
typedef struct Window {
    size_t first;
    int64_t n, scored;
    double loss; /* the result: sum over the scored targets */
} Window;

typedef struct WindowTape WindowTape;

typedef struct Windows {
    const Model *model;
    int64_t rows, width; /* of a batch */
    WindowTape *tape[2]; /* rows of one window each; rows of several */
    int32_t *arrays;     /* (4, rows, width) tokens, labels, positions, starts; and the device's copy: */
    int32_t *device_arrays;
    float *losses; /* (rows, width) */
} Windows;

/* width: of the longest window. */
Status windows_new(Windows *w, const Model *model, int64_t rows, int64_t width);
void windows_free(Windows *w); /* zeroed is fine */
size_t windows_bytes(const Windows *w);
/* Fills in list[i].loss. */
Status windows_score(Windows *w, const int32_t *tokens, Window *list, size_t n);

#endif
