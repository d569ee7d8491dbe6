/* Between ops/attention.cu, which plans and dispatches, and the headers that it includes with the kernels:
 * attention_flash.cuh (tensor cores, training) and attention_cache.cuh (generation).
 */
#ifndef OPS_ATTENTION_CUDA_CUH
#define OPS_ATTENTION_CUDA_CUH

#include "ops/kernel.cuh"

extern "C" {
#include "ops/attention.h"
}

/* Forward over a KV cache, in attention_cache.cuh: any T, T = 1 when decoding. The node's inputs are at QKV, CACHE and
 * PAST; its AttentionArgs hold heads, scale, softcap and window. */
static bool attention_cache_supports(const Node *node);
static size_t attention_cache_scratch(const Node *node);
static Status attention_cache_forward(const Node *node, const TapeRun *run);

#endif
