/* Llama 3.1's rotary scaling as GGUF has it: not its four numbers, but the factor of each pair (rope_freqs.weight), by
 * which its frequency is divided. */
#ifndef MODEL_GGUF_ROPE_H
#define MODEL_GGUF_ROPE_H

#include "format/gguf.h"
#include "model/rope.h"

/* The factor of pair i of width / 2. */
double gguf_rope_factor(const RopeConfig *rope, int64_t width, int64_t i);
/* Finds the numbers again: fills in factor, low_freq_factor, high_freq_factor and original_context of a rope with
 * theta. *used is false where all factors are 1. Factors that are not Llama 3.1's are TANE_EUNSUPPORTED. */
Status gguf_rope_llama3(const char *path, const GgufTensor *factors, int64_t width, RopeConfig *rope, bool *used);

#endif
