/* The ops: coarse, differentiable, recorded on a tape. Shapes in comments; N = rows = B*T.
 *
 * Every function records a node and returns its output, or NULL once the tape has failed (see ops/tape.h). Activations
 * have the compute dtype (fp32 or bf16) of their inputs; parameters' gradients are fp32; norms, softmax and losses
 * accumulate in fp32. Optional tensors may be NULL.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "ops/tape.h"

/* The best table for this CPU; and a given one ("base", "avx2", "avx512"; NULL if the CPU lacks it), for tests. */
const OpKernel *const *ops_cpu(void);
const OpKernel *const *ops_cpu_isa(const char *isa);

/* tokens (B, T) int32; positions (B, T) int32; wte (V, C); wpe (P, C) optional -> (B, T, C) = wte[token] +
 * wpe[position]. Ids out of range are TANE_EINVAL at run time. */
Tensor *op_embedding(Tape *t, Tensor *tokens, Tensor *positions, Tensor *wte, Tensor *wpe);

typedef enum NormKind { NORM_LAYER, NORM_RMS } NormKind;
/* sum = x + delta (delta optional: sum = x); y = norm(sum) * weight + bias.  x, delta (..., C); weight, bias (C).
 * *sum_out (may be NULL when delta is NULL) gets the residual stream.
 * LayerNorm: Ba et al. 2016; RMSNorm: Zhang & Sennrich 2019. */
Tensor *op_norm(Tape *t, Tensor *x, Tensor *delta, Tensor *weight, Tensor *bias, NormKind kind, float epsilon,
                Tensor **sum_out);

/* x (..., K), w (M, K), bias (M) optional -> (..., M) = x w^T + bias. */
Tensor *op_linear(Tape *t, Tensor *x, Tensor *w, Tensor *bias);

/* Rotary embedding, half-split form (Su et al. 2021; Llama's layout), of the query and key parts of
 * qkv (B, T, (H + 2 KV) D); cos_sin (P, D) fp32 holds cos in [0, D/2) and sin in [D/2, D) of each position. */
Tensor *op_rope(Tape *t, Tensor *qkv, Tensor *positions, Tensor *cos_sin, int heads, int kv_heads, int head_dim);

/* Causal attention, softmax(q k^T / sqrt(D)) v, grouped queries: qkv (B, T, (H + 2 KV) D) -> (B, T, H D).
 * With a cache (B, P, 2 KV D; no gradient): keys and values of the new tokens are written at past[b] + t, and queries
 * see 0 .. past[b] + t. past (B) int32 is read at run time. dropout is on the attention weights. */
Tensor *op_attention(Tape *t, Tensor *qkv, int heads, int kv_heads, int head_dim, float dropout, Tensor *cache,
                     Tensor *past);

typedef enum ActivationKind { ACTIVATION_GELU_TANH, ACTIVATION_GELU, ACTIVATION_RELU, ACTIVATION_SILU } ActivationKind;
/* x (...) -> f(x). GELU: Hendrycks & Gimpel 2016, exact or with the tanh approximation ("gelu_new"). */
Tensor *op_activation(Tape *t, Tensor *x, ActivationKind kind);

/* Gated linear unit (Shazeer 2020): x (..., 2F) = gate | up -> (..., F) = f(gate) * up. */
Tensor *op_glu(Tape *t, Tensor *x, ActivationKind kind);

/* Inverted dropout; counter-based, so backward recomputes the mask. p == 0 records nothing and returns x. */
Tensor *op_dropout(Tape *t, Tensor *x, float p);

/* The loss: logits = x w^T (never whole in memory), label-smoothed cross-entropy.
 * x (B, T, C); w (V, C); labels (B, T) int32, -100 = not trained on.
 * Returns losses (B, T) fp32, 0 where not trained on; *hits_out (optional) gets (B, T) int32: 1 where arg max == label.
 * The objective is grad_scale * sum(losses); with grads on, x's and w's gradients are computed along with the forward.
 */
Tensor *op_cross_entropy(Tape *t, Tensor *x, Tensor *w, Tensor *labels, float smoothing, Tensor **hits_out);

/* x (B, T, C), w (V, C), at (B) int32, read at run time -> (B, V) fp32 = x[b, at[b]] w^T: for generation. */
Tensor *op_logits(Tape *t, Tensor *x, Tensor *w, Tensor *at);

/* ---- the update, on a tape of its own: see train/optimizer.h */

/* grads (n) fp32 -> (1) fp32, the Euclidean norm; not finite when any element is not. */
Tensor *op_grad_norm(Tape *t, Tensor *grads);

/* Places in the hyper tensor (ADAM_HYPER) fp32, filled before each run. Corrections are 1 - beta^step. */
enum { ADAM_LR, ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, ADAM_MAX_NORM, ADAM_CORRECTION1, ADAM_CORRECTION2, ADAM_HYPER };

/* Elements [begin, end) that share weight decay and learning-rate scale. */
typedef struct AdamSegment {
    int64_t begin, end;
    float weight_decay, lr_scale;
} AdamSegment;

/* One AdamW step over flat arrays (n): master, m, v, grads fp32; weights (optional) gets master rounded to its type.
 * Does nothing when norm is not finite. `segments` must outlive the tape. */
void op_adamw(Tape *t, Tensor *master, Tensor *m, Tensor *v, Tensor *grads, Tensor *norm, Tensor *hyper,
              Tensor *weights, const AdamSegment *segments, int n_segments);

#endif
