/* AdamW (Loshchilov & Hutter 2019) over flat arrays, with the gradient clipped to a norm and decay by segment:
 *
 *   g = grad * min(1, max_norm / (norm + 1e-6))
 *   w = w (1 - lr wd);  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   w = w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
 *
 * `master` is fp32; `weights`, when given, is the compute copy and gets master rounded. When the norm is not finite
 * nothing changes: a NaN never reaches the weights or the moments.
 */
#include "ops/node.h"
#include "ops/ops.h"
#include "ops/simd.h"

enum { MASTER, M, V, GRADS, NORM, HYPER, WEIGHTS };
enum { BLOCK = 2048 };

typedef struct AdamArgs {
    const AdamSegment *segments;
    int n;
} AdamArgs;

#ifdef OP_FRONT
void op_adamw(Tape *t, Tensor *master, Tensor *m, Tensor *v, Tensor *grads, Tensor *norm, Tensor *hyper,
              Tensor *weights, const AdamSegment *segments, int n_segments) {
    if (!tape_ok(t)) return;
    int64_t n = tensor_count(master);
    if (tensor_count(m) != n || tensor_count(v) != n || tensor_count(grads) != n ||
        (weights && tensor_count(weights) != n) || tensor_count(hyper) != ADAM_HYPER) {
        tape_fail(t, "adamw: the arrays must have one length, and hyper %d values", ADAM_HYPER);
        return;
    }
    for (int i = 0; i < n_segments; i++)
        if (segments[i].begin < 0 || segments[i].begin > segments[i].end || segments[i].end > n) {
            tape_fail(t, "adamw: segment %d is outside the arrays", i);
            return;
        }
    AdamArgs args = {segments, n_segments};
    Tensor *in[] = {master, m, v, grads, norm, hyper, weights};
    tape_record(t, OP_adamw, &args, sizeof args, in, 7, NULL, 0);
}
#endif

static Status plan(Node *node) {
    for (int k = MASTER; k <= GRADS; k++)
        if (node->in[k]->dtype != DTYPE_F32)
            return FAIL(TANE_EUNSUPPORTED, "adamw: master weights, moments and gradients must be fp32 on the CPU");
    return TANE_OK;
}

static void update(const Node *node, const float *hyper, float scale, float decay, float lr_scale, int64_t from,
                   int64_t n) {
    float *restrict w = (float *)node->in[MASTER]->data + from, *restrict m = (float *)node->in[M]->data + from;
    float *restrict v = (float *)node->in[V]->data + from;
    const float *restrict g = (const float *)node->in[GRADS]->data + from;
    float lr = hyper[ADAM_LR] * lr_scale, b1 = hyper[ADAM_BETA1], b2 = hyper[ADAM_BETA2], eps = hyper[ADAM_EPSILON];
    float step = lr / hyper[ADAM_CORRECTION1], root = 1.0f / sqrtf(hyper[ADAM_CORRECTION2]), keep = 1.0f - lr * decay;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * scale;
        m[i] = b1 * m[i] + (1.0f - b1) * gi;
        v[i] = b2 * v[i] + (1.0f - b2) * gi * gi;
        w[i] = w[i] * keep - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
    const Tensor *weights = node->in[WEIGHTS];
    if (weights) store_row(row_at_mut(weights->data, weights->dtype, from), w, weights->dtype, n);
}

static Status forward(const Node *node, const TapeRun *run) {
    (void)run;
    const AdamArgs *args = node->args;
    const float *hyper = node->in[HYPER]->data;
    float norm = *(const float *)node->in[NORM]->data, most = hyper[ADAM_MAX_NORM], scale = 1.0f;
    if (!isfinite(norm)) return TANE_OK;
    if (most > 0 && norm + 1e-6f > most) scale = most / (norm + 1e-6f);
    for (int s = 0; s < args->n; s++) {
        const AdamSegment *g = &args->segments[s];
#pragma omp parallel for schedule(static) if (g->end - g->begin > 4 * BLOCK)
        for (int64_t i = g->begin; i < g->end; i += BLOCK)
            update(node, hyper, scale, g->weight_decay, g->lr_scale, i, g->end - i < BLOCK ? g->end - i : BLOCK);
    }
    return TANE_OK;
}

OP_KERNEL_NODIFF(adamw, plan, forward)
