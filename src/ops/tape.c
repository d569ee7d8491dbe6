/* The tape: recording, planning (kernels, gradients, lifetimes, offsets) and replay. See tape.h. */
#include "ops/tape.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "ops/node.h"

struct Tape {
    const OpKernel *const *kernels;
    bool with_grad, planned, timing, seeded;
    Arena arena;
    Node **nodes;
    int n_nodes, cap_nodes;
    Tensor **tensors; /* those the tape places */
    int n_tensors, cap_tensors;
    int threads; /* that the scratch was planned for */
    Node *loss;
    size_t bytes, scratch, unshared;
    ErrorCopy error; /* sticky: the first one */
    double forward_s[OP_COUNT], backward_s[OP_COUNT];
};

Status tape_new(Tape **out, const OpKernel *const *kernels, bool with_grad) {
    TRY_RETURN(MEM_NEW(out));
    (*out)->kernels = kernels;
    (*out)->with_grad = with_grad;
    return TANE_OK;
}

void tape_free(Tape *t) {
    if (!t) return;
    arena_release(&t->arena);
    mem_free(t->nodes);
    mem_free(t->tensors);
    mem_free(t);
}

/* ------------------------------------------------------------------------------------------------ recording */

bool tape_ok(const Tape *t) { return t->error.code == TANE_OK; }
bool tape_with_grad(const Tape *t) { return t->with_grad; }

void *tape_fail(Tape *t, const char *fmt, ...) {
    if (!tape_ok(t)) return NULL;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    FAIL(TANE_EINVAL, "%s", text);
    err_save(&t->error);
    return NULL;
}

/* Keeps the error that a base function has just recorded. */
static void *tape_fail_status(Tape *t) {
    if (tape_ok(t)) err_save(&t->error);
    return NULL;
}

static Tensor *new_tensor(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape, bool planned) {
    if (!tape_ok(t)) return NULL;
    Tensor *x;
    if (ARENA_NEW(&t->arena, &x) != TANE_OK) return tape_fail_status(t);
    x->name = name;
    x->dtype = dtype;
    x->rank = rank;
    for (int i = 0; i < rank; i++) x->shape[i] = shape[i];
    x->planned = planned;
    x->first = INT32_MAX;
    x->last = -1;
    if (!planned) return x;
    if (t->n_tensors == t->cap_tensors) {
        int cap = t->cap_tensors ? 2 * t->cap_tensors : 64;
        if (mem_grow((void **)&t->tensors, (size_t)t->cap_tensors, (size_t)cap, sizeof(Tensor *)) != TANE_OK)
            return tape_fail_status(t);
        t->cap_tensors = cap;
    }
    return t->tensors[t->n_tensors++] = x;
}

Tensor *tape_external(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape) {
    return new_tensor(t, name, dtype, rank, shape, false);
}

Tensor *tape_activation(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape) {
    return new_tensor(t, name, dtype, rank, shape, true);
}

Tensor *tape_param(Tape *t, const char *name, DType dtype, int rank, const int64_t *shape, bool trainable) {
    Tensor *w = tape_external(t, name, dtype, rank, shape);
    if (!w || !trainable || !t->with_grad) return w;
    w->needs_grad = true;
    w->grad = tape_external(t, name, DTYPE_F32, rank, shape);
    return w->grad ? w : NULL;
}

Node *tape_record(Tape *t, OpId op, const void *args, size_t args_size, Tensor *const *in, int n_in, Tensor *const *out,
                  int n_out) {
    if (!tape_ok(t)) return NULL;
    Node *node;
    void *copy = NULL;
    if (ARENA_NEW(&t->arena, &node) != TANE_OK) return tape_fail_status(t);
    if (args_size && arena_new(&t->arena, &copy, 1, args_size) != TANE_OK) return tape_fail_status(t);
    if (args_size) memcpy(copy, args, args_size);
    if (t->n_nodes == t->cap_nodes) {
        int cap = t->cap_nodes ? 2 * t->cap_nodes : 64;
        if (mem_grow((void **)&t->nodes, (size_t)t->cap_nodes, (size_t)cap, sizeof(Node *)) != TANE_OK)
            return tape_fail_status(t);
        t->cap_nodes = cap;
    }
    node->op = op;
    node->args = copy;
    node->tape = t;
    node->index = t->n_nodes;
    node->n_in = n_in;
    node->n_out = n_out;
    bool needs_grad = false;
    for (int k = 0; k < n_in; k++) {
        node->in[k] = in[k];
        if (!in[k]) continue;
        in[k]->consumers++;
        needs_grad |= in[k]->needs_grad;
    }
    for (int j = 0; j < n_out; j++) {
        node->out[j] = out[j];
        if (out[j]) out[j]->needs_grad = needs_grad && t->with_grad;
    }
    return t->nodes[t->n_nodes++] = node;
}

void tape_set_loss(Tape *t, Node *node) {
    if (t->loss && t->with_grad) tape_fail(t, "a tape takes one loss; this model records a second one");
    t->loss = node;
}

Tensor *tape_seed(Tape *t, Tensor *y) {
    if (!tape_ok(t)) return NULL;
    if (!y->planned || !y->needs_grad)
        return tape_fail(t, "no gradient flows to %s", y->name ? y->name : "this tensor");
    if (!y->grad) y->grad = tape_activation(t, y->name, y->dtype, y->rank, y->shape);
    if (!y->grad) return NULL;
    y->grad->first = y->grad->last = 0; /* the caller may write it at any time of the forward */
    t->seeded = true;
    return y->grad;
}

Status node_save(Node *node, DType dtype, int rank, const int64_t *shape) {
    Tape *t = node->tape;
    Tensor *saved = tape_activation(t, op_name(node->op), dtype, rank, shape);
    if (!saved) return err_restore(&t->error);
    node->saved[node->n_saved++] = saved;
    return TANE_OK;
}

/* ------------------------------------------------------------------------------------------------- planning */

/* The schedule: forward of node i is step i, its backward step 2n - 1 - i. */
static int forward_step(const Node *node) { return node->index; }
static int backward_step(const Tape *t, const Node *node) { return 2 * t->n_nodes - 1 - node->index; }

static Tensor *memory_of(Tensor *x) {
    while (x->shares) x = x->shares;
    return x;
}

static void touch(Tensor *x, int step) {
    if (!x) return;
    if (step < x->first) x->first = step;
    if (step > x->last) x->last = step;
}

/* Makes gradient tensors from the loss upwards and says for each input whether backward sets or adds. */
static Status plan_gradients(Tape *t) {
    if (!t->with_grad) return TANE_OK;
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        Node *node = t->nodes[i];
        node->live = node == t->loss;
        for (int j = 0; j < node->n_out; j++) node->live |= node->out[j] && node->out[j]->grad;
        if (!node->live) continue;
        for (int k = 0; k < node->n_in; k++) {
            Tensor *x = node->in[k];
            if (!x || !x->needs_grad) continue;
            if (!x->planned) { /* a parameter: its first writer of this run depends on the micro-batch */
                bool first = true;
                for (int later = i + 1; later < t->n_nodes && first; later++)
                    for (int m = 0; m < t->nodes[later]->n_in; m++)
                        if (t->nodes[later]->live && t->nodes[later]->in[m] == x) first = false;
                for (int m = 0; m < k; m++)
                    if (node->in[m] == x) first = false;
                node->grad_in[k] = first ? GRAD_RUN : GRAD_ADD;
            } else if (x->grad) {
                node->grad_in[k] = GRAD_ADD;
            } else {
                x->grad = tape_activation(t, x->name, x->dtype, x->rank, x->shape);
                if (!x->grad) return err_restore(&t->error);
                node->grad_in[k] = GRAD_SET;
            }
        }
    }
    return TANE_OK;
}

static const Node *producer_of(const Tape *t, const Tensor *x, int *out) {
    for (int p = 0; p < t->n_nodes; p++)
        for (*out = 0; *out < t->nodes[p]->n_out; ++*out)
            if (t->nodes[p]->out[*out] == x) return t->nodes[p];
    return NULL;
}

/* Outputs that may lie in an input's memory: nobody else may read that input, then or in backward. */
static bool output_needed_backward(const Tape *t, const Tensor *x) {
    int j;
    const Node *producer = producer_of(t, x, &j);
    return producer && producer->live && producer->backward_reads_out >> j & 1;
}

/* May in[k]'s gradient lie where in[first]'s lies already? Its producer must have used it up in backward before the
 * producer of in[first] adds to it, and must not add to it itself. */
static bool used_up_before(const Tape *t, const Node *node, int k, int first) {
    int j;
    const Node *own = producer_of(t, node->in[k], &j), *other = producer_of(t, node->in[first], &j);
    return own->index > other->index && !own->passes_grad;
}

static void share_memory(Tape *t) {
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        for (int j = 0; j < node->n_out; j++) {
            int k = node->inplace[j] - 1;
            if (k < 0 || !node->out[j] || !node->in[k]) continue;
            Tensor *x = node->in[k];
            if (!x->planned || x->consumers != 1 || x->keep || x->dtype != node->out[j]->dtype) continue;
            if (node->live && node->backward_reads_in >> k & 1) continue;
            if (!output_needed_backward(t, x)) node->out[j]->shares = x;
        }
    }
    /* Gradients, from the loss upwards. A kernel that changes out's gradient on the way may do so only where that
     * memory is its own; one that passes it on (residual sums) hands over the memory with the value. */
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        Node *node = t->nodes[i];
        int first = -1; /* input that took over the memory */
        for (int k = 0; k < node->n_in; k++) {
            int j = node->inplace_grad[k] - 1;
            if (j < 0 || node->grad_in[k] != GRAD_SET || !node->out[j] || !node->out[j]->grad) continue;
            if (node->in[k]->consumers != 1 || node->in[k]->grad->keep || node->out[j]->grad->keep) continue;
            if (!node->passes_grad && node->out[j]->grad->shares) continue;
            if (first >= 0 && !used_up_before(t, node, k, first)) continue;
            node->in[k]->grad->shares = node->out[j]->grad;
            first = k;
        }
    }
}

static void plan_lifetimes(Tape *t) {
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        int forward = forward_step(node), backward = backward_step(t, node);
        for (int k = 0; k < node->n_in; k++) {
            Tensor *x = node->in[k];
            touch(x, forward);
            if (!node->live) continue;
            if (node->backward_reads_in >> k & 1) touch(x, backward);
            if (node->grad_in[k] != GRAD_NONE) touch(x->grad, backward);
        }
        for (int j = 0; j < node->n_out; j++) {
            Tensor *y = node->out[j];
            touch(y, forward);
            if (!node->live || !y) continue;
            if (node->backward_reads_out >> j & 1) touch(y, backward);
            if (y->grad) touch(y->grad, backward);
        }
        for (int s = 0; s < node->n_saved; s++) {
            touch(node->saved[s], forward);
            if (node->live) touch(node->saved[s], backward);
        }
    }
    for (int i = 0; i < t->n_tensors; i++) {
        Tensor *x = t->tensors[i];
        if (x->keep) touch(x, 2 * t->n_nodes);
    }
    for (int i = 0; i < t->n_tensors; i++) { /* those that share live as long as all of them together */
        Tensor *x = t->tensors[i];
        if (!x->shares || x->last < 0) continue;
        touch(memory_of(x), x->first);
        touch(memory_of(x), x->last);
    }
}

static size_t aligned(size_t n) { return (n + 63) & ~(size_t)63; }

typedef struct Placed {
    size_t begin, end;
} Placed;

/* Offsets, largest tensor first, each at the lowest place free during its whole life. */
static Status plan_offsets(Tape *t) {
    Status st = TANE_OK;
    Tensor **order = NULL;
    Placed *busy = NULL;
    int n = 0;
    TRY(MEM_NEW_ARRAY(&order, (size_t)t->n_tensors));
    TRY(MEM_NEW_ARRAY(&busy, (size_t)t->n_tensors));
    for (int i = 0; i < t->n_tensors; i++) {
        Tensor *x = t->tensors[i];
        t->unshared += aligned(tensor_bytes(x));
        if (x->shares || x->last < 0) continue;
        int at = n++;
        for (; at > 0 && tensor_bytes(order[at - 1]) < tensor_bytes(x); at--) order[at] = order[at - 1];
        order[at] = x;
    }
    for (int i = 0; i < n; i++) {
        Tensor *x = order[i];
        size_t size = aligned(tensor_bytes(x)), offset = 0;
        int n_busy = 0;
        for (int k = 0; k < i; k++) { /* what lives at the same time, by address */
            Tensor *y = order[k];
            if (y->last < x->first || x->last < y->first) continue;
            Placed p = {y->offset, y->offset + aligned(tensor_bytes(y))};
            int at = n_busy++;
            for (; at > 0 && busy[at - 1].begin > p.begin; at--) busy[at] = busy[at - 1];
            busy[at] = p;
        }
        for (int k = 0; k < n_busy; k++) {
            if (busy[k].begin >= offset + size) break;
            if (busy[k].end > offset) offset = busy[k].end;
        }
        x->offset = offset;
        if (offset + size > t->bytes) t->bytes = offset + size;
    }
out:
    mem_free(order);
    mem_free(busy);
    return st;
}

Status tape_plan(Tape *t) {
    if (!tape_ok(t)) return err_restore(&t->error);
    if (t->planned) return FAIL(TANE_EINTERNAL, "tape_plan: the tape is already planned");
    if (t->with_grad && !t->loss && !t->seeded)
        return FAIL(TANE_EINTERNAL, "tape_plan: a tape with gradients has no loss");
    t->threads = omp_get_max_threads();
    TRY_RETURN(plan_gradients(t));
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        TRY_RETURN(t->kernels[node->op]->plan(node));
        if (node->scratch_bytes > t->scratch) t->scratch = node->scratch_bytes;
    }
    share_memory(t);
    plan_lifetimes(t);
    TRY_RETURN(plan_offsets(t));
    t->planned = true;
    return TANE_OK;
}

size_t tape_bytes(const Tape *t) { return t->bytes + aligned(t->scratch); }

Status tape_bind(Tape *t, void *memory) {
    if (!t->planned) return FAIL(TANE_EINTERNAL, "tape_bind: the tape is not planned");
    char *base = memory;
    for (int i = 0; i < t->n_tensors; i++) t->tensors[i]->data = base + memory_of(t->tensors[i])->offset;
    for (int i = 0; i < t->n_nodes; i++) t->nodes[i]->scratch = base + t->bytes;
    return TANE_OK;
}

void tape_report(const Tape *t, TapeReport *report) {
    *report = (TapeReport){t->bytes, t->scratch, t->unshared, t->n_nodes, t->n_tensors};
}

/* --------------------------------------------------------------------------------------------------- replay */

/* Each thread has its own scratch: more of them than were planned for would write past the end. */
static Status check_threads(const Tape *t) {
    int now = omp_get_max_threads();
    if (now <= t->threads) return TANE_OK;
    return FAIL(TANE_EINTERNAL, "the tape was planned for %d threads and cannot run on %d", t->threads, now);
}

Status tape_forward(Tape *t, const TapeRun *run) {
    TRY_RETURN(check_threads(t));
    for (int i = 0; i < t->n_nodes; i++) {
        const Node *node = t->nodes[i];
        double start = t->timing ? clock_seconds() : 0;
        TRY_RETURN(t->kernels[node->op]->forward(node, run));
        if (t->timing) t->forward_s[node->op] += clock_seconds() - start;
    }
    return TANE_OK;
}

Status tape_backward(Tape *t, const TapeRun *run) {
    if (!t->with_grad) return FAIL(TANE_EINTERNAL, "tape_backward: the tape was recorded without gradients");
    TRY_RETURN(check_threads(t));
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        const Node *node = t->nodes[i];
        if (!node->live) continue;
        double start = t->timing ? clock_seconds() : 0;
        TRY_RETURN(t->kernels[node->op]->backward(node, run));
        if (t->timing) t->backward_s[node->op] += clock_seconds() - start;
    }
    return TANE_OK;
}

void tape_timing(Tape *t, bool on) { t->timing = on; }

void tape_times(const Tape *t, double forward[OP_COUNT], double backward[OP_COUNT]) {
    memcpy(forward, t->forward_s, sizeof t->forward_s);
    memcpy(backward, t->backward_s, sizeof t->backward_s);
}
