/* The ops: coarse, differentiable, recorded on a tape. Shapes in comments; N = rows = B*T.
 *
 * Every function records a node and returns its output, or NULL once the tape has failed (see ops/tape.h). Activations
 * have the compute dtype (fp32 or bf16) of their inputs; parameters' gradients are fp32; norms, softmax and losses
 * accumulate in fp32. Optional tensors may be NULL.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "ops/tape.h"

/* tokens (B, T) int32; positions (B, T) int32; wte (V, C); wpe (P, C) optional -> (B, T, C) = scale wte[token] +
 * wpe[position]. Ids out of range are TANE_EINVAL at run time. */
Tensor *op_embedding(Tape *t, Tensor *tokens, Tensor *positions, Tensor *wte, Tensor *wpe, float scale);

typedef enum NormKind {
    NORM_LAYER,
    NORM_RMS,
    NORM_RMS_ONE /* RMSNorm whose weight is 1 + `weight`, as Gemma stores it */
} NormKind;
/* sum = x + dropout(delta) (delta optional: sum = x); y = norm(sum) * weight + bias.  x, delta (..., C); weight, bias
 * (C). dropout: the share of delta's elements that training drops, as op_dropout does; 0 without delta.
 * *sum_out (may be NULL when delta is NULL) gets the residual stream.
 * LayerNorm: Ba et al. 2016; RMSNorm: Zhang & Sennrich 2019. */
Tensor *op_norm(Tape *t, Tensor *x, Tensor *delta, Tensor *weight, Tensor *bias, NormKind kind, float epsilon,
                float dropout, Tensor **sum_out);

/* x (..., K), w (M, K), bias (M) optional -> (..., M) = x w^T + bias. */
Tensor *op_linear(Tape *t, Tensor *x, Tensor *w, Tensor *bias);

/* RMSNorm over each head of queries and keys, values handed on (Qwen 3, Gemma 3): qkv (B, T, (H + 2 KV) D), weights (D).
 * kind: NORM_RMS or NORM_RMS_ONE. */
Tensor *op_head_norm(Tape *t, Tensor *qkv, Tensor *q_weight, Tensor *k_weight, NormKind kind, float epsilon, int heads,
                     int kv_heads, int head_dim);

/* Rotary embedding, half-split form (Su et al. 2021; Llama's layout), of the query and key parts of
 * qkv (B, T, (H + 2 KV) D); cos_sin (P, R) fp32, R even and at most D, holds cos in [0, R/2) and sin in [R/2, R) of each
 * position. A head's first R elements are rotated, the others handed on. */
Tensor *op_rope(Tape *t, Tensor *qkv, Tensor *positions, Tensor *cos_sin, int heads, int kv_heads, int head_dim);

typedef struct AttentionShape {
    int heads, kv_heads, head_dim;
    float scale;    /* of the scores; 0: 1 / sqrt(head_dim) */
    float dropout;  /* on the attention weights */
    float softcap;  /* scores become softcap tanh(scores / softcap), after the scale (Gemma 2); 0: they do not */
    int64_t window; /* a query sees at most so many keys, its own included; 0: all up to its own */
} AttentionShape;

/* Causal attention, softmax(scale q k^T) v, grouped queries: qkv (B, T, (H + 2 KV) D) -> (B, T, H D).
 * starts (B, T) int32, optional: the first position of its row that query t sees, 0 <= starts[t] <= t, never falling
 * along a row; where packed documents begin. Read at run time.
 * With a cache (B, P, 2 KV D; no gradient, no starts): keys and values of the new tokens are written at past[b] + t, and
 * queries see 0 .. past[b] + t. past (B) int32 is read at run time. */
Tensor *op_attention(Tape *t, Tensor *qkv, const AttentionShape *shape, Tensor *starts, Tensor *cache, Tensor *past);

typedef enum ActivationKind { ACTIVATION_GELU_TANH, ACTIVATION_GELU, ACTIVATION_RELU, ACTIVATION_SILU } ActivationKind;
/* x (...) -> f(x). GELU: Hendrycks & Gimpel 2016, exact or with the tanh approximation ("gelu_new"). */
Tensor *op_activation(Tape *t, Tensor *x, ActivationKind kind);

/* Gated linear unit (Shazeer 2020): x (..., 2F) = gate | up -> (..., F) = f(gate) * up. */
Tensor *op_glu(Tape *t, Tensor *x, ActivationKind kind);

/* Inverted dropout; counter-based, so backward recomputes the mask. p == 0 records nothing and returns x. */
Tensor *op_dropout(Tape *t, Tensor *x, float p);

/* The loss: logits = x w^T (never whole in memory), with softcap > 0 softcap tanh(logits / softcap); label-smoothed
 * cross-entropy.
 * x (B, T, C); w (V, C); labels (B, T) int32, -100 = not trained on.
 * Returns losses (B, T) fp32, 0 where not trained on; *hits_out (optional) gets (B, T) int32: 1 where arg max == label.
 * The objective is grad_scale * sum(losses), times loss_scale[0] (fp32, optional: loss scaling of fp16 training); with
 * grads on, x's and w's gradients are computed along with the forward. */
Tensor *op_cross_entropy(Tape *t, Tensor *x, Tensor *w, Tensor *labels, float smoothing, float softcap,
                         Tensor *loss_scale, Tensor **hits_out);

/* x (B, T, C), w (V, C), at (B) int32, read at run time -> (B, V) fp32 = x[b, at[b]] w^T, softcap as in the loss: for
 * generation. */
Tensor *op_logits(Tape *t, Tensor *x, Tensor *w, Tensor *at, float softcap);

/* How a row's next token is chosen; see op_sample. */
typedef struct SampleRow {
    uint64_t seed, stream, position; /* the draw is a function of these alone */
    float temperature;               /* 0: the most probable token */
    float top_p;                     /* in (0, 1]; 1: off */
    int32_t top_k;                   /* 0: off */
    int32_t vocab;                   /* only tokens below this are chosen */
} SampleRow;

/* What was chosen: token -1 when the logits hold NaN, +Inf or nothing but -Inf. */
typedef struct SampleChoice {
    int32_t token;
    float logprob; /* log softmax(logits)[token]: of the model itself, without temperature and cuts */
} SampleChoice;

/* logits (B, V) fp32, rows (B, sizeof(SampleRow)) uint8 -> (B, sizeof(SampleChoice)) uint8.
 * p = softmax(logits / temperature), cut to the top_k most probable tokens, then to the fewest of these that have the
 * share top_p (Holtzman et al. 2020, "nucleus sampling"); equal logits rank by id; drawn by the inverse of the
 * cumulative distribution. */
Tensor *op_sample(Tape *t, Tensor *logits, Tensor *rows);

/* losses (...) fp32 -> (2) fp32: their sum, and the index of the first that is not finite, or -1. Summed in a fixed
 * order. */
Tensor *op_loss_sum(Tape *t, Tensor *losses);

/* ---- the update, on a tape of its own: see train/optimizer.h */

/* Places in the hyper tensor (UPDATE_HYPER) fp32, filled before each run. */
enum {
    HYPER_LR,
    HYPER_BETA1,
    HYPER_BETA2,
    HYPER_EPSILON,
    HYPER_MAX_NORM,     /* 0: no clipping */
    HYPER_HALT,         /* 1: the first update that is not finite stops all later ones too */
    HYPER_SCALE_GROWTH, /* updates in a row after which the loss scale doubles; 0: no loss scaling */
    UPDATE_HYPER
};

/* The update's own state (UPDATE_STATE) fp32, kept from step to step and saved with a checkpoint. */
enum {
    STATE_UPDATES,    /* applied so far: t of the bias corrections */
    STATE_LOSS_SCALE, /* 1 without loss scaling */
    STATE_GOOD,       /* updates applied since the scale last changed */
    STATE_HALTED,
    UPDATE_STATE
};

/* What op_grad_norm tells op_adamw and the host (UPDATE_CONTROL) fp32. */
enum {
    CONTROL_NORM,  /* of the gradient, unscaled, before clipping */
    CONTROL_APPLY, /* 1: the update is applied; 0: the norm is not finite, or the run has halted */
    CONTROL_SCALE, /* what gradients are multiplied by: clipping and unscaling */
    CONTROL_STEP,  /* 1 / (1 - beta1^t) */
    CONTROL_ROOT,  /* 1 / sqrt(1 - beta2^t) */
    UPDATE_CONTROL
};

/* grads (n) fp32 or bf16, hyper, state -> control (UPDATE_CONTROL). The Euclidean norm, summed in a fixed order; moves
 * state on: counts the update, or halves the loss scale. */
Tensor *op_grad_norm(Tape *t, Tensor *grads, Tensor *hyper, Tensor *state);

/* Elements [begin, end) that share weight decay and learning-rate scale. */
typedef struct AdamSegment {
    int64_t begin, end;
    float weight_decay, lr_scale;
} AdamSegment;

/* One AdamW step over flat arrays (n). Either master fp32 with m, v, grads fp32, and weights (optional) gets master
 * rounded to its type; or master NULL, weights, m, v and grads bf16: the new values are rounded to bf16 stochastically,
 * so that small updates are not lost on average. Does nothing when control says so. `segments` must outlive the tape. */
void op_adamw(Tape *t, Tensor *master, Tensor *m, Tensor *v, Tensor *grads, Tensor *control, Tensor *hyper,
              Tensor *weights, const AdamSegment *segments, int n_segments);

#endif
