/* Choosing the next token of each row: the most probable one, or a draw by the inverse of the cumulative distribution.
 *
 *   p = softmax(logits / temperature), cut to the top_k most probable tokens, then to the fewest of these that have the
 *   share top_p (at least one); equal logits rank by id. Without cuts the cumulative distribution runs over the
 *   vocabulary in the order of ids, with cuts in the order of ranks.
 *
 * The draw is a function of the row's (seed, stream, position) alone: no state, and nothing depends on who shares the
 * batch. Sums are in fp64. Rows run in parallel, each on one thread with a heap of its own. No gradient.
 */
#include <math.h>
#include <omp.h>

#include "base/rng.h"
#include "ops/node.h"
#include "ops/ops.h"

enum { LOGITS, ROWS };

#ifdef OP_FRONT
Tensor *op_sample(Tape *t, Tensor *logits, Tensor *rows) {
    if (!tape_ok(t)) return NULL;
    if (logits->rank != 2 || logits->dtype != DTYPE_F32 || rows->rank != 2 || rows->dtype != DTYPE_U8 ||
        rows->shape[0] != logits->shape[0] || rows->shape[1] != (int64_t)sizeof(SampleRow))
        return tape_fail(t, "sample: logits must be (B, V) fp32, rows (B, %zu) uint8", sizeof(SampleRow));
    int64_t shape[] = {logits->shape[0], sizeof(SampleChoice)};
    Tensor *choices = tape_activation(t, "choices", DTYPE_U8, 2, shape), *in[] = {logits, rows};
    if (!tape_record(t, OP_sample, NULL, 0, in, 2, &choices, 1)) return NULL;
    choices->keep = true;
    return choices;
}
#endif

/* A heap with the most probable token on top; what is popped lies behind it, in order from the end. */
typedef struct Rank {
    float logit;
    int32_t id;
} Rank;

static size_t heap_bytes(int64_t vocab) { return ((size_t)vocab * sizeof(Rank) + 63) & ~(size_t)63; }

static Status plan(Node *node) {
    node->scratch_bytes = heap_bytes(node->in[LOGITS]->shape[1]) * (size_t)omp_get_max_threads();
    return TANE_OK;
}

static bool before(Rank a, Rank b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static void sift_down(Rank *heap, int64_t at, int64_t n) {
    Rank moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], moved)) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static Rank pop(Rank *heap, int64_t n) {
    Rank top = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, 0, n - 1);
    return heap[n - 1] = top;
}

static double weight(float logit, float top, double temperature) { return exp((double)(logit - top) / temperature); }

/* [0, 1) with 53 bits. */
static double uniform(const SampleRow *how) {
    uint32_t word[4];
    philox4x32(how->seed, how->stream, how->position, word);
    return (double)(((uint64_t)word[0] << 32 | word[1]) >> 11) * 0x1p-53;
}

/* The token whose stretch of the cumulative weights holds u * total. */
static int32_t draw_all(const float *logits, int64_t n, float top, double temperature, double u) {
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += weight(logits[i], top, temperature);
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        double w = weight(logits[i], top, temperature);
        sum += w;
        if (sum > u * total) return (int32_t)i;
        if (w > 0) last = i; /* for a sum that rounding has left short of the total */
    }
    return (int32_t)last;
}

static int32_t draw_ranked(Rank *heap, const SampleRow *how, const float *logits, int64_t n, float top, double u) {
    int64_t k = how->top_k > 0 && how->top_k < n ? how->top_k : n, kept = 0;
    double temperature = how->temperature, total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) heap[i] = (Rank){logits[i], (int32_t)i};
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift_down(heap, i, n);
    if (k == n)
        for (int64_t i = 0; i < n; i++) total += weight(logits[i], top, temperature);
    else
        while (kept < k) total += weight(pop(heap, n - kept++).logit, top, temperature);
    /* The nucleus: the fewest, at least one, with the share top_p. */
    int64_t nucleus = 0;
    while (nucleus < k && (nucleus == 0 || sum < how->top_p * total)) {
        if (nucleus == kept) pop(heap, n - kept++);
        sum += weight(heap[n - 1 - nucleus++].logit, top, temperature);
    }
    double at = u * sum, seen = 0;
    for (int64_t i = 0; i < nucleus; i++) {
        seen += weight(heap[n - 1 - i].logit, top, temperature);
        if (seen > at) return heap[n - 1 - i].id;
    }
    return heap[n - 1].id;
}

static SampleChoice choose(Rank *heap, const SampleRow *how, const float *logits, int64_t width) {
    int64_t n = how->vocab > 0 && how->vocab < width ? how->vocab : width, best = 0;
    bool nan = false;
    for (int64_t i = 0; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
        nan |= logits[i] != logits[i];
    }
    float top = logits[best];
    if (nan || isinf(top)) return (SampleChoice){-1, NAN};
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += (double)expf(logits[i] - top);
    int64_t token = best;
    if (how->temperature > 0) {
        bool all = how->top_p >= 1 && (how->top_k <= 0 || how->top_k >= n);
        double u = uniform(how);
        token = all ? draw_all(logits, n, top, how->temperature, u) : draw_ranked(heap, how, logits, n, top, u);
    }
    return (SampleChoice){(int32_t)token, (float)((double)(logits[token] - top) - log(total))};
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const Tensor *logits = node->in[LOGITS];
    const SampleRow *how = node->in[ROWS]->data;
    SampleChoice *choice = node->out[0]->data;
    int64_t rows = logits->shape[0], width = logits->shape[1];
#pragma omp parallel for schedule(static) if (rows * width > 4096)
    for (int64_t b = 0; b < rows; b++) {
        Rank *heap = (Rank *)((char *)node->scratch + heap_bytes(width) * (size_t)omp_get_thread_num());
        choice[b] = choose(heap, &how[b], (const float *)logits->data + b * width, width);
    }
    return TANE_OK;
}

OP_KERNEL_NODIFF(sample, plan, forward)
