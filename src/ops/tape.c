/* The tape: recording, planning (kernels, gradients, lifetimes, offsets) and replay. See tape.h. */
#include "ops/tape.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "ops/node.h"

/* One entry of the schedule. */
typedef enum StepKind { STEP_FORWARD, STEP_RECOMPUTE, STEP_BACKWARD } StepKind;
typedef struct Step {
    StepKind kind;
    Node *node;
} Step;

struct Tape {
    Device *device;
    bool with_grad, planned, timing, seeded, few_rows;
    TapeRecompute recompute;
    int block;   /* of the nodes recorded now */
    Step *steps; /* forward, then backward with what is recomputed in between */
    int n_steps, n_forward;
    TapeRun *run; /* on a GPU: the run's values in its memory */
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

Status tape_new(Tape **out, Device *device, bool with_grad) {
    TRY_RETURN(MEM_NEW(out));
    (*out)->device = device;
    (*out)->with_grad = with_grad;
    return TANE_OK;
}

void tape_free(Tape *t) {
    if (!t) return;
    device_release(t->device, t->run);
    arena_release(&t->arena);
    mem_free(t->steps);
    mem_free(t->nodes);
    mem_free(t->tensors);
    mem_free(t);
}

/* ------------------------------------------------------------------------------------------------ recording */

bool tape_ok(const Tape *t) { return t->error.code == TANE_OK; }
bool tape_with_grad(const Tape *t) { return t->with_grad; }
void tape_few_rows(Tape *t, bool few) { t->few_rows = few; }
void tape_recompute(Tape *t, TapeRecompute which) { t->recompute = which; }
void tape_block(Tape *t) { t->block++; }

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
    x->first = x->again = INT32_MAX;
    x->last = x->again_last = -1;
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
    node->device = t->device;
    node->block = t->block;
    node->few_rows = t->few_rows;
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

static Tensor *memory_of(Tensor *x) {
    while (x->shares) x = x->shares;
    return x;
}

static void touch(Tensor *x, int step) {
    if (!x) return;
    if (step >= x->again) {
        if (step > x->again_last) x->again_last = step;
        return;
    }
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
                if (t->device->host && x->grad->dtype != DTYPE_F32)
                    return FAIL(TANE_EUNSUPPORTED, "%s: %s gradients need a GPU; the CPU's kernels write fp32",
                                x->name ? x->name : "a parameter", dtype_name(x->grad->dtype));
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

static Node *producer_of(const Tape *t, const Tensor *x, int *out) {
    for (int p = 0; p < t->n_nodes; p++)
        for (*out = 0; *out < t->nodes[p]->n_out; ++*out)
            if (t->nodes[p]->out[*out] == x) return t->nodes[p];
    return NULL;
}

/* ---- what is computed a second time */

static bool is_cheap(OpId op) { return op == OP_norm || op == OP_activation || op == OP_glu || op == OP_dropout; }

/* Does backward, or a forward that runs again, read this output of node? `again` holds for later nodes already. */
static bool needed_again(const Tape *t, const Node *node, int j) {
    if (node->live && node->backward_reads_out >> j & 1) return true;
    for (int i = node->index + 1; i < t->n_nodes; i++)
        for (int k = 0; k < t->nodes[i]->n_in; k++) {
            const Node *reader = t->nodes[i];
            if (reader->in[k] != node->out[j]) continue;
            if (reader->live && reader->backward_reads_in >> k & 1) return true;
            if (reader->again == AGAIN_FORWARD) return true;
        }
    return false;
}

static bool crosses_block(const Tape *t, const Node *node) {
    for (int k = 0; k < node->n_in; k++) {
        int j;
        const Node *from = node->in[k] && node->in[k]->planned ? producer_of(t, node->in[k], &j) : NULL;
        if (from && from->block != node->block) return true;
    }
    return false;
}

/* From the end of each block, since a node is needed by those behind it. A block's first node, whose inputs come from
 * outside, keeps what its own recompute needs rather than these inputs: of residual and branch only their sum. */
static void choose_recompute(Tape *t) {
    if (t->recompute == RECOMPUTE_NONE || !t->with_grad) return;
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        Node *node = t->nodes[i];
        bool cheap = t->recompute == RECOMPUTE_CHEAP, needed = false;
        if (node->block == 0 || node->block == t->block || (cheap && !is_cheap(node->op))) continue;
        bool kept = node->remakes && (cheap || crosses_block(t, node));
        for (int j = 0; j < node->n_out; j++)
            if (node->out[j] && (!kept || node->remakes >> j & 1)) needed |= needed_again(t, node, j);
        needed |= !kept && node->live && node->n_saved > 0;
        if (needed) node->again = kept ? AGAIN_KEPT : AGAIN_FORWARD;
    }
}

static Status plan_steps(Tape *t) {
    TRY_RETURN(MEM_NEW_ARRAY(&t->steps, (size_t)t->n_nodes * 3));
    for (int i = 0; i < t->n_nodes; i++)
        if (!t->nodes[i]->taken) t->steps[t->n_steps++] = (Step){STEP_FORWARD, t->nodes[i]};
    t->n_forward = t->n_steps;
    for (int i = t->n_nodes - 1; i >= 0; i--) {
        Node *node = t->nodes[i];
        if (i == t->n_nodes - 1 || t->nodes[i + 1]->block != node->block) { /* a block's backward begins */
            int first = i;
            while (first > 0 && t->nodes[first - 1]->block == node->block) first--;
            for (int k = first; k <= i; k++)
                if (t->nodes[k]->again) t->steps[t->n_steps++] = (Step){STEP_RECOMPUTE, t->nodes[k]};
        }
        if (node->live) t->steps[t->n_steps++] = (Step){STEP_BACKWARD, node};
    }
    for (int s = t->n_forward; s < t->n_steps; s++) {
        Node *node = t->steps[s].node;
        if (t->steps[s].kind != STEP_RECOMPUTE) continue;
        for (int j = 0; j < node->n_out; j++)
            if (node->out[j] && (node->again == AGAIN_FORWARD || node->remakes >> j & 1)) node->out[j]->again = s;
        for (int k = 0; k < node->n_saved && node->again == AGAIN_FORWARD; k++) node->saved[k]->again = s;
    }
    return TANE_OK;
}

/* ---- neighbours that share work */

static const OpKernel *kernel_of(const Tape *t, const Node *node) { return t->device->kernels[node->op]; }

/* The one reader of x, and as which input; NULL when there are more, or the caller keeps x. */
static Node *only_reader(const Tape *t, const Tensor *x, int *k) {
    if (x->consumers != 1 || x->keep) return NULL;
    for (int i = 0; i < t->n_nodes; i++)
        for (*k = 0; *k < t->nodes[i]->n_in; ++*k)
            if (t->nodes[i]->in[*k] == x) return t->nodes[i];
    return NULL;
}

/* A bias's gradient is the column sums of a gradient that another node writes: who can adds them up on the way. */
static void share_sums(Tape *t) {
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        int bias = kernel_of(t, node)->bias - 1, k;
        if (bias < 0 || !node->live || !node->in[bias] || !node->grad_in[bias] || !node->out[0]->grad) continue;
        if (node->in[bias]->consumers != 1) continue; /* several add to it, in the order of their own backwards */
        Node *writer = node->out[0]->grad->keep ? NULL : only_reader(t, node->out[0], &k);
        if (!writer || !writer->live || writer->grad_in[k] != GRAD_SET) continue;
        if (!(kernel_of(t, writer)->sums_in >> k & 1)) continue;
        writer->sums[k] = node->in[bias]->grad;
        writer->sums_write[k] = node->grad_in[bias];
        node->grad_in[bias] = GRAD_NONE;
    }
}

/* A node whose forward also does the one behind it. What runs again in backward does so alone, and must find the same
 * bits: such nodes are left apart. */
static void share_forward(Tape *t) {
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        int k;
        if (!kernel_of(t, node)->can_take || !node->out[0] || node->again) continue;
        Node *next = only_reader(t, node->out[0], &k);
        if (!next || next->again || next->block != node->block || !kernel_of(t, node)->can_take(node, next)) continue;
        node->takes = next;
        next->taken = true;
    }
}

/* ---- memory */

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
            if (node->taken) continue;
            if (node->live && node->backward_reads_in >> k & 1) continue;
            if ((x->again == INT32_MAX) != (node->out[j]->again == INT32_MAX)) continue; /* it must outlive this node */
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
    for (int s = 0; s < t->n_steps; s++) {
        const Node *node = t->steps[s].node;
        bool backward = t->steps[s].kind == STEP_BACKWARD,
             kept = t->steps[s].kind == STEP_RECOMPUTE && node->again == AGAIN_KEPT;
        bool forward = !backward && !kept;
        for (int k = 0; k < node->n_in; k++) {
            Tensor *x = node->in[k];
            if (forward || node->backward_reads_in >> k & 1) touch(x, s);
            if (backward && x && node->grad_in[k] != GRAD_NONE) touch(x->grad, s);
        }
        for (int j = 0; j < node->n_out; j++) {
            Tensor *y = node->out[j];
            if (forward || node->backward_reads_out >> j & 1 || (kept && node->remakes >> j & 1)) touch(y, s);
            if (backward && y) touch(y->grad, s);
        }
        for (int k = 0; k < node->n_saved; k++) touch(node->saved[k], s);
        for (int j = 0; forward && node->takes && j < node->takes->n_out; j++) touch(node->takes->out[j], s);
    }
    for (int i = 0; i < t->n_tensors; i++) {
        Tensor *x = t->tensors[i];
        if (x->keep) touch(x, t->n_steps);
    }
    for (int i = 0; i < t->n_tensors; i++) { /* those that share live as long as all of them together */
        Tensor *x = t->tensors[i], *owner = memory_of(x);
        if (!x->shares || x->last < 0) continue;
        touch(owner, x->first);
        touch(owner, x->last);
        if (x->again_last >= 0) touch(owner, x->again_last);
    }
}

/* At the same time at any moment? */
static bool lives_overlap(const Tensor *x, const Tensor *y) {
    int xs[2][2] = {{x->first, x->last}, {x->again, x->again_last}},
        ys[2][2] = {{y->first, y->last}, {y->again, y->again_last}};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            if (xs[i][1] >= 0 && ys[j][1] >= 0 && xs[i][0] <= ys[j][1] && ys[j][0] <= xs[i][1]) return true;
    return false;
}

/* As device memory comes; on the CPU more than the 64 bytes that kernels want. */
static size_t aligned(size_t n) { return (n + 255) & ~(size_t)255; }

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
            if (!lives_overlap(x, y)) continue;
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
    share_sums(t);
    for (int i = 0; i < t->n_nodes; i++) {
        Node *node = t->nodes[i];
        TRY_RETURN(t->device->kernels[node->op]->plan(node));
        if (node->scratch_bytes > t->scratch) t->scratch = node->scratch_bytes;
    }
    choose_recompute(t);
    share_forward(t);
    TRY_RETURN(plan_steps(t));
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
    int now = t->device->host ? omp_get_max_threads() : t->threads;
    if (now <= t->threads) return TANE_OK;
    return FAIL(TANE_EINTERNAL, "the tape was planned for %d threads and cannot run on %d", t->threads, now);
}

static Status run_step(Tape *t, const Step *s, const TapeRun *run) {
    const OpKernel *kernel = t->device->kernels[s->node->op];
    switch (s->kind) {
    case STEP_BACKWARD: return kernel->backward(s->node, run);
    case STEP_RECOMPUTE:
        return s->node->again == AGAIN_KEPT ? kernel->recompute(s->node, run) : kernel->forward(s->node, run);
    default: return kernel->forward(s->node, run);
    }
}

static Status replay(Tape *t, int from, int to, const TapeRun *run) {
    TRY_RETURN(check_threads(t));
    TapeRun here = *run;
    if (!t->device->host && !run->on_device) {
        if (!t->run) TRY_RETURN(device_alloc(t->device, (void **)&t->run, sizeof *t->run));
        TRY_RETURN(device_upload(t->device, t->run, run, sizeof *run));
        here.on_device = t->run;
    }
    for (int i = from; i < to; i++) {
        const Step *s = &t->steps[i];
        if (!t->timing) {
            TRY_RETURN(run_step(t, s, &here));
            continue;
        }
        double start = clock_seconds(), *sum = s->kind == STEP_FORWARD ? t->forward_s : t->backward_s;
        TRY_RETURN(run_step(t, s, &here));
        TRY_RETURN(device_sync(t->device));
        sum[s->node->op] += clock_seconds() - start;
    }
    return TANE_OK;
}

Status tape_forward(Tape *t, const TapeRun *run) { return replay(t, 0, t->n_forward, run); }

Status tape_backward(Tape *t, const TapeRun *run) {
    if (!t->with_grad) return FAIL(TANE_EINTERNAL, "tape_backward: the tape was recorded without gradients");
    return replay(t, t->n_forward, t->n_steps, run);
}

void tape_timing(Tape *t, bool on) { t->timing = on; }

void tape_times(const Tape *t, double forward[OP_COUNT], double backward[OP_COUNT]) {
    memcpy(forward, t->forward_s, sizeof t->forward_s);
    memcpy(backward, t->backward_s, sizeof t->backward_s);
}
