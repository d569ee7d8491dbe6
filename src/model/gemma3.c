/* Gemma 3 (Kamath et al. 2025), the language model alone: five layers of six see a window and turn by a base of their own;
 * norms on heads instead of softcaps. */
#include "model/gemma.h"

/* rope_parameters by kind of layer (transformers 5), or rope_theta, rope_scaling and rope_local_base_freq (before). */
static Status read_ropes(ModelConfig *c, const json_t *json, const char *where) {
    const json_t *p = json_object_get(json, "rope_parameters"), *full = json_object_get(p, "full_attention"),
                 *local = json_object_get(p, "sliding_attention");
    c->local_rope = (RopeConfig){.theta = 10000, .original_context = c->context};
    TRY_RETURN(json_opt_double(json, where, "rope_local_base_freq", &c->local_rope.theta));
    if (json_is_object(full)) TRY_RETURN(rope_read_parameters(&c->rope, full, where));
    return json_is_object(local) ? rope_read_parameters(&c->local_rope, local, where) : TANE_OK;
}

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    int64_t every = 6;
    Status st = TANE_OK;
    json_t *flat = json_copy((json_t *)json); /* without what decoder_read would take for one rope of all layers */
    if (!flat) return FAIL(TANE_ENOMEM, "out of memory while reading %s", where);
    if (json_object_get(json_object_get(json, "rope_parameters"), "full_attention"))
        (void)json_object_del(flat, "rope_parameters");
    c->tied = true;
    TRY(json_opt_bool(json, where, "tie_word_embeddings", &c->tied));
    TRY(json_opt_int(json, where, "sliding_window_pattern", 1, 1024, &every));
    TRY(json_opt_int(json, where, "_sliding_window_pattern", 1, 1024, &every));
    c->rope.theta = 1e6;
    c->head_norms = true;
    TRY(gemma_read(c, flat, where, every));
    TRY(read_ropes(c, json, where));
out:
    json_decref(flat);
    return st;
}

static const char *const keys[] = {GEMMA_KEYS, "rope_local_base_freq", "sliding_window_pattern",
                                   "_sliding_window_pattern", "cache_implementation", NULL};

const ModelFamily family_gemma3 = {.model_type = "gemma3_text",
                                   .architecture = "Gemma3ForCausalLM",
                                   .prefix = "model.",
                                   .keys = keys,
                                   .defaults = decoder_defaults,
                                   .read = read,
                                   .write = gemma_write,
                                   .declare = decoder_declare,
                                   .forward = decoder_forward};
