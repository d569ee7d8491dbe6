/* How documents become the rows of a batch: one a row and padding behind it; packed, several to a row; or windows of
 * fixed length on the stream of all tokens.
 *
 * A unit is one row of a batch. Which unit stands where is a function of seed, epoch and position alone: any position
 * is reached in O(1), and any number of ranks sees the same order.
 */
#ifndef DATA_LAYOUT_H
#define DATA_LAYOUT_H

#include "data/dataset.h"

typedef enum LayoutKind {
    LAYOUT_PADDING, /* an epoch: each row once, in an order by seed */
    /* Rows packed as full as they can be (see layout_best_fit). Attention stays inside each document and positions
     * begin anew. An epoch: each unit once; what stands together never changes. */
    LAYOUT_PACKING,
    /* Places drawn at random, as nanoGPT does, with attention over everything in the window. An epoch: as many windows
     * as the tokens would fill. In order: windows behind each other, each token a target once. */
    LAYOUT_WINDOWS
} LayoutKind;

typedef struct Layout Layout;
/* length: positions of a packed unit or a window; 0 with padding: the longest row's. The set is borrowed. */
Status layout_new(Layout **out, const Dataset *set, LayoutKind kind, int64_t length);
void layout_free(Layout *l); /* NULL is fine */

LayoutKind layout_kind(const Layout *l);
const char *layout_name(LayoutKind kind); /* "packing" */
int64_t layout_width(const Layout *l);    /* positions of a unit */
int64_t layout_units(const Layout *l);    /* of an epoch */
int64_t layout_ordered(const Layout *l);  /* units of the set gone through in order, for evaluation */
int64_t layout_tokens(const Layout *l);   /* positions of an epoch that are no padding */

/* One unit of a batch, each (width). positions and starts (the first position that each may look back to: see
 * op_attention) may be NULL, together. */
typedef struct UnitOut {
    int32_t *tokens, *labels, *positions, *starts;
    int64_t real, targets; /* added to */
} UnitOut;
/* The unit at `position` of epoch `epoch`, and unit `position` in order. Both < the number of them. */
int64_t layout_at(const Layout *l, uint64_t seed, int64_t epoch, int64_t position);
int64_t layout_in_order(const Layout *l, int64_t position);
/* labels[t] = the token behind tokens[t] where that is trained on, else -100. unit -1: nothing but padding. */
void layout_fill(const Layout *l, int64_t unit, int32_t pad_id, UnitOut *out);
/* Documents of a unit, in their order, and the token of the first one at which a window begins. */
int64_t layout_documents(const Layout *l, int64_t unit);
void layout_document(const Layout *l, int64_t unit, int64_t i, DatasetRow *row);
int64_t layout_offset(const Layout *l, int64_t unit);

/* unit_of[i] (n) is the unit of `width` positions that lengths[i] (<= width) of them go into. A unit is filled at a
 * time: with the longest row left, then with the one or the two rows that fill it exactly, while there are none with
 * the longest that fits. So nothing is lost until short rows run out: best-fit decreasing, which never looks for two,
 * leaves gaps of half the shortest row. */
Status layout_best_fit(int64_t width, int64_t n, const int32_t *lengths, int64_t *unit_of, int64_t *units);

#endif
