/* Packing windows into rows, and a forward with losses. See windows.h. */
#include "eval/windows.h"

#include <stdlib.h>
#include <string.h>

#include "data/layout.h"
#include "ops/ops.h"

enum { TOKENS, LABELS, POSITIONS, STARTS, ARRAYS };

struct WindowTape {
    Tape *tape;
    void *memory;
    Tensor *losses;
};

/* ---- tapes ---- */

static size_t batch_tokens(const Windows *w) { return (size_t)(w->rows * w->width); }

static Status record(Windows *w, WindowTape *t, bool packed) {
    static const char *const names[ARRAYS] = {"tokens", "labels", "positions", "starts"};
    const int64_t shape[] = {w->rows, w->width};
    Tensor *in[ARRAYS] = {NULL};
    ModelOutput out;
    TRY_RETURN(tape_new(&t->tape, w->model->device, false));
    for (int i = 0; i < (packed ? ARRAYS : STARTS); i++) {
        in[i] = tape_external(t->tape, names[i], DTYPE_I32, 2, shape);
        if (in[i]) in[i]->data = w->device_arrays + (size_t)i * batch_tokens(w);
    }
    ModelInput input = {.tokens = in[TOKENS], .positions = in[POSITIONS], .starts = in[STARTS]};
    model_forward(w->model, t->tape, &input, &out);
    t->losses = op_cross_entropy(t->tape, out.hidden, out.head, in[LABELS], 0, out.softcap, NULL, NULL);
    TRY_RETURN(tape_plan(t->tape));
    TRY_RETURN(device_alloc(w->model->device, &t->memory, tape_bytes(t->tape)));
    return tape_bind(t->tape, t->memory);
}

static Status get_tape(Windows *w, bool packed, WindowTape **out) {
    if (!w->tape[packed]) {
        TRY_RETURN(MEM_NEW(&w->tape[packed]));
        TRY_RETURN(record(w, w->tape[packed], packed));
    }
    *out = w->tape[packed];
    return TANE_OK;
}

Status windows_new(Windows *w, const Model *model, int64_t rows, int64_t width) {
    Status st = TANE_OK;
    *w = (Windows){.model = model, .rows = rows, .width = width};
    TRY(MEM_NEW_ARRAY(&w->arrays, ARRAYS * batch_tokens(w)));
    TRY(MEM_NEW_ARRAY(&w->losses, batch_tokens(w)));
    TRY(device_alloc(model->device, (void **)&w->device_arrays, ARRAYS * batch_tokens(w) * sizeof *w->arrays));
out:
    if (st != TANE_OK) windows_free(w);
    return st;
}

void windows_free(Windows *w) {
    for (int i = 0; i < 2; i++) {
        if (!w->tape[i]) continue;
        tape_free(w->tape[i]->tape);
        device_release(w->model->device, w->tape[i]->memory);
        mem_free(w->tape[i]);
    }
    if (w->model) device_release(w->model->device, w->device_arrays);
    mem_free(w->arrays);
    mem_free(w->losses);
    *w = (Windows){0};
}

size_t windows_bytes(const Windows *w) {
    size_t bytes = (2 * ARRAYS + 1) * batch_tokens(w) * sizeof *w->arrays;
    for (int i = 0; i < 2; i++) bytes += w->tape[i] && w->tape[i]->tape ? tape_bytes(w->tape[i]->tape) : 0;
    return bytes;
}

/* ---- rows ---- */

/* Where a window lies: in which row, and where in it. */
typedef struct Place {
    Window *window;
    int64_t row, at;
} Place;

static int by_row(const void *x, const void *y) {
    const Place *a = x, *b = y;
    if (a->row != b->row) return a->row > b->row ? 1 : -1;
    return (a->at > b->at) - (a->at < b->at);
}

static Status pack(const Windows *w, Place *places, size_t n) {
    Status st = TANE_OK;
    int32_t *lengths = NULL;
    int64_t *row_of = NULL, *used = NULL, rows;
    TRY(MEM_NEW_ARRAY(&lengths, n));
    TRY(MEM_NEW_ARRAY(&row_of, n));
    TRY(MEM_NEW_ARRAY(&used, n));
    for (size_t i = 0; i < n; i++) lengths[i] = (int32_t)places[i].window->n;
    TRY(layout_best_fit(w->width, (int64_t)n, lengths, row_of, &rows));
    for (size_t i = 0; i < n; i++) {
        Place *p = &places[i];
        p->row = row_of[i];
        p->at = used[p->row];
        used[p->row] += p->window->n;
    }
    qsort(places, n, sizeof *places, by_row);
out:
    mem_free(lengths);
    mem_free(row_of);
    mem_free(used);
    return st;
}

/* ---- batches ---- */

/* What is no window is one long document of token 0, which nothing is asked about. */
static void clear_batch(Windows *w) {
    const size_t n = batch_tokens(w);
    int32_t *array[ARRAYS];
    for (int i = 0; i < ARRAYS; i++) array[i] = w->arrays + (size_t)i * n;
    memset(array[TOKENS], 0, n * sizeof **array);
    for (size_t i = 0; i < n; i++) array[LABELS][i] = -100;
    for (size_t i = 0; i < n; i++) array[POSITIONS][i] = 0;
    for (size_t i = 0; i < n; i++) array[STARTS][i] = (int32_t)((int64_t)i % w->width);
}

static void put_window(Windows *w, const int32_t *tokens, const Place *p, int64_t first_row) {
    const size_t n = batch_tokens(w), at = (size_t)((p->row - first_row) * w->width + p->at);
    const int32_t *from = tokens + p->window->first;
    for (int64_t i = 0; i < p->window->n; i++) {
        const size_t to = at + (size_t)i;
        w->arrays[TOKENS * n + to] = from[i];
        if (i >= p->window->n - p->window->scored) w->arrays[LABELS * n + to] = from[i + 1];
        w->arrays[POSITIONS * n + to] = (int32_t)i;
        w->arrays[STARTS * n + to] = (int32_t)p->at;
    }
}

static void take_losses(const Windows *w, Place *p, int64_t first_row) {
    const float *loss = w->losses + (p->row - first_row) * w->width + p->at;
    p->window->loss = 0;
    for (int64_t i = p->window->n - p->window->scored; i < p->window->n; i++) p->window->loss += (double)loss[i];
}

/* The windows of one batch's rows. */
static Status run_batch(Windows *w, const int32_t *tokens, Place *places, size_t n, int64_t first_row) {
    Device *d = w->model->device;
    WindowTape *t;
    bool packed = false;
    clear_batch(w);
    for (size_t i = 0; i < n; i++) {
        put_window(w, tokens, &places[i], first_row);
        packed = packed || places[i].at > 0;
    }
    TRY_RETURN(get_tape(w, packed, &t));
    TRY_RETURN(device_upload(d, w->device_arrays, w->arrays, ARRAYS * batch_tokens(w) * sizeof *w->arrays));
    TRY_RETURN(tape_forward(t->tape, &(TapeRun){0}));
    TRY_RETURN(device_download(d, w->losses, t->losses->data, batch_tokens(w) * sizeof *w->losses));
    for (size_t i = 0; i < n; i++) take_losses(w, &places[i], first_row);
    return TANE_OK;
}

Status windows_score(Windows *w, const int32_t *tokens, Window *list, size_t n) {
    Status st = TANE_OK;
    Place *places;
    TRY_RETURN(MEM_NEW_ARRAY(&places, n));
    for (size_t i = 0; i < n; i++) places[i] = (Place){.window = &list[i]};
    TRY(pack(w, places, n));
    for (size_t from = 0, to; from < n; from = to) {
        const int64_t first_row = places[from].row / w->rows * w->rows;
        for (to = from; to < n && places[to].row < first_row + w->rows;) to++;
        TRY(run_batch(w, tokens, places + from, to - from, first_row));
    }
out:
    mem_free(places);
    return st;
}
