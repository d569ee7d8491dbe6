/* Rotary positions: how fast each pair of a head's elements turns, in the ways that config.json knows.
 *
 * Pair i of R/2 turns by position * f[i]. default: f[i] = theta^(-2i/R) (Su et al. 2021). linear: f / factor (Chen et al.
 * 2023). llama3: slow pairs as linear, fast ones as default, a ramp between (Llama 3.1). yarn: the same by another ramp,
 * and larger scores (Peng et al. 2023). longrope: f[i] / short_factor[i] (Ding et al. 2024). dynamic: default up to the
 * model's context, which tane never exceeds.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include "base/json.h"

typedef enum RopeType { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE } RopeType;

enum { ROPE_FACTORS = 128 };

typedef struct RopeConfig {
    RopeType type;
    double theta;                             /* 0: no rotary positions */
    double partial;                           /* share of a head that turns; 0 counts as 1 */
    double factor;                            /* linear, dynamic, llama3, yarn; longrope: 0 follows from the contexts */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double attention_factor;                  /* yarn, longrope: of cos and sin; 0: the type's own */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn */
    bool no_truncate;                                    /* yarn */
    int64_t original_context;                            /* llama3, yarn, longrope */
    int64_t n_factors;                                   /* longrope: R / 2 */
    double short_factor[ROPE_FACTORS], long_factor[ROPE_FACTORS];
} RopeConfig;

/* From config.json's rope_parameters (transformers 5) or rope_theta and rope_scaling (before), whichever is there; what is
 * missing stays as it is. TANE_EUNSUPPORTED names a type tane lacks. */
Status rope_read(RopeConfig *rope, const json_t *json, const char *where);
/* From one object as it stands under rope_parameters. */
Status rope_read_parameters(RopeConfig *rope, const json_t *parameters, const char *where);
/* A new object like it. NULL when out of memory. */
json_t *rope_parameters(const RopeConfig *rope);

/* What cos and sin are multiplied by, so that scores grow with the context (yarn, longrope; else 1). max_context as in
 * rope_table. */
double rope_amplitude(const RopeConfig *rope, int64_t max_context);
/* Elements of a head that turn: even. */
int64_t rope_width(const RopeConfig *rope, int64_t head_dim);
/* table (context, R): cos in the first half, sin in the second, as op_rope wants them. max_context: the model's
 * max_position_embeddings, from which longrope and yarn derive what config.json leaves out. */
Status rope_table(const RopeConfig *rope, int64_t head_dim, int64_t context, int64_t max_context, float *table);

#endif
