/* AdamW (Loshchilov & Hutter 2019) over flat arrays, with decay by segment; control (op_grad_norm) says whether at all,
 * and has the clipping, the loss scale and the bias corrections:
 *
 *   g = grad * scale                                       scale = min(1, max_norm / norm) / loss scale
 *   w = w (1 - lr wd);  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   w = w - lr step m / (sqrt(v) root + eps)               step = 1 / (1 - b1^t), root = 1 / sqrt(1 - b2^t)
 *
 * With fp32 master weights, `weights`, when given, is the compute copy and gets master rounded. Without them weights, m
 * and v are bf16, and what is computed in fp32 is rounded stochastically (Gupta et al. 2015): an update smaller than
 * half a unit in the last place would otherwise never happen.
 */
#include "ops/node.h"
#include "ops/simd.h"
#include "ops/update.h"

enum { BLOCK = 2048 };

#ifdef OP_FRONT
void op_adamw(Tape *t, Tensor *master, Tensor *m, Tensor *v, Tensor *grads, Tensor *control, Tensor *hyper,
              Tensor *weights, const AdamSegment *segments, int n_segments) {
    if (!tape_ok(t)) return;
    const Tensor *w = master ? master : weights;
    int64_t n = w ? tensor_count(w) : -1;
    if (!w || tensor_count(m) != n || tensor_count(v) != n || tensor_count(grads) != n ||
        (weights && tensor_count(weights) != n) || tensor_count(control) != UPDATE_CONTROL ||
        tensor_count(hyper) != UPDATE_HYPER) {
        tape_fail(t, "adamw: the arrays must have one length, control %d values and hyper %d", UPDATE_CONTROL,
                  UPDATE_HYPER);
        return;
    }
    DType type = master ? DTYPE_F32 : DTYPE_BF16;
    const Tensor *states[] = {w, m, v, grads};
    for (int i = 0; i < 4; i++)
        if (states[i]->dtype != type) {
            tape_fail(
                t, "adamw: weights, moments and gradients must be fp32 with master weights and bf16 without; %s is %s",
                states[i]->name, dtype_name(states[i]->dtype));
            return;
        }
    for (int i = 0; i < n_segments; i++)
        if (segments[i].begin < 0 || segments[i].begin > segments[i].end || segments[i].end > n) {
            tape_fail(t, "adamw: segment %d is outside the arrays", i);
            return;
        }
    AdamArgs args = {segments, n_segments};
    Tensor *in[] = {master, m, v, grads, control, hyper, weights};
    tape_record(t, OP_adamw, &args, sizeof args, in, ADAMW_INPUTS, NULL, 0);
}
#endif

static Status plan(Node *node) {
    const Tensor *weights = node->in[WEIGHTS];
    if (weights && weights->dtype != DTYPE_F32 && weights->dtype != DTYPE_BF16)
        return FAIL(TANE_EUNSUPPORTED, "adamw: the CPU computes with fp32 or bf16 weights, not with %s",
                    dtype_name(weights->dtype));
    return TANE_OK;
}

static void update(const Node *node, const AdamStep *step, int64_t from, int64_t n) {
    float *restrict w = (float *)node->in[MASTER]->data + from, *restrict m = (float *)node->in[M]->data + from;
    float *restrict v = (float *)node->in[V]->data + from;
    const float *restrict g = (const float *)node->in[GRADS]->data + from;
    AdamStep s = *step;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) adam_element(&s, &w[i], &m[i], &v[i], g[i]);
    const Tensor *weights = node->in[WEIGHTS];
    if (weights) store_row(row_at_mut(weights->data, weights->dtype, from), w, weights->dtype, n);
}

static void store_stochastic(const Node *node, int array, const TapeRun *run, const float *x, int64_t from, int64_t n) {
    Half *to = (Half *)node->in[array]->data + from;
    uint32_t word[4];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = from + i;
        if (i == 0 || at % 8 == 0) update_noise(word, run->seed, run->position, array, at / 8);
        to[i] = round_stochastic(x[i], noise_of(word, at));
    }
}

static void update_bf16(const Node *node, const AdamStep *step, const TapeRun *run, int64_t from, int64_t n) {
    float w[BLOCK], m[BLOCK], v[BLOCK], g[BLOCK];
    load_row(w, (Half *)node->in[WEIGHTS]->data + from, DTYPE_BF16, n);
    load_row(m, (Half *)node->in[M]->data + from, DTYPE_BF16, n);
    load_row(v, (Half *)node->in[V]->data + from, DTYPE_BF16, n);
    load_row(g, (Half *)node->in[GRADS]->data + from, DTYPE_BF16, n);
    AdamStep s = *step;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) adam_element(&s, &w[i], &m[i], &v[i], g[i]);
    store_stochastic(node, WEIGHTS, run, w, from, n);
    store_stochastic(node, M, run, m, from, n);
    store_stochastic(node, V, run, v, from, n);
}

static Status forward(const Node *node, const TapeRun *run) {
    const AdamArgs *args = node->args;
    const float *hyper = node->in[HYPER]->data, *control = node->in[CONTROL]->data;
    if (control[CONTROL_APPLY] == 0.0f) return TANE_OK;
    for (int s = 0; s < args->n; s++) {
        const AdamSegment *g = &args->segments[s];
        AdamStep step = adam_step(hyper, control, g->weight_decay, g->lr_scale);
#pragma omp parallel for schedule(static) if (g->end - g->begin > 4 * BLOCK)
        for (int64_t i = g->begin; i < g->end; i += BLOCK) {
            int64_t n = g->end - i < BLOCK ? g->end - i : BLOCK;
            if (node->in[MASTER]) update(node, &step, i, n);
            else update_bf16(node, &step, run, i, n);
        }
    }
    return TANE_OK;
}

OP_KERNEL_NODIFF(adamw, plan, forward)
