/* Gemma 2 (Riviere et al. 2024): every second layer sees a window only. */
#include "model/gemma.h"

static Status read(ModelConfig *c, const json_t *json, const char *where) {
    c->tied = true;
    TRY_RETURN(json_opt_bool(json, where, "tie_word_embeddings", &c->tied));
    c->attention_softcap = 50;
    c->logit_softcap = 30;
    TRY_RETURN(gemma_read(c, json, where, 2));
    /* null is none */
    if (json_is_null(json_object_get(json, "attn_logit_softcapping"))) c->attention_softcap = 0;
    if (json_is_null(json_object_get(json, "final_logit_softcapping"))) c->logit_softcap = 0;
    return TANE_OK;
}

static const char *const keys[] = {GEMMA_KEYS, "cache_implementation", NULL};

const ModelFamily family_gemma2 = {.model_type = "gemma2",
                                   .architecture = "Gemma2ForCausalLM",
                                   .prefix = "model.",
                                   .keys = keys,
                                   .defaults = decoder_defaults,
                                   .read = read,
                                   .write = gemma_write,
                                   .declare = decoder_declare,
                                   .forward = decoder_forward};
