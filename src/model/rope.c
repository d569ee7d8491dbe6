/* Reading, writing and computing rotary frequencies. Formulas and defaults are transformers' (modeling_rope_utils). */
#include "model/rope.h"

#include <math.h>
#include <string.h>

static const char *const type_names[] = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
enum { TYPES = sizeof type_names / sizeof *type_names };

/* ---- config.json ---- */

static Status read_type(RopeConfig *rope, const json_t *p, const char *where) {
    const char *name = NULL;
    TRY_RETURN(json_opt_string(p, where, "type", &name)); /* its name before transformers 4.45 */
    TRY_RETURN(json_opt_string(p, where, "rope_type", &name));
    if (!name) return TANE_OK;
    if (!strcmp(name, "su")) name = "longrope"; /* Phi-3's first files */
    for (int i = 0; i < TYPES; i++)
        if (!strcmp(type_names[i], name)) {
            rope->type = (RopeType)i;
            return TANE_OK;
        }
    return FAIL(TANE_EUNSUPPORTED,
                "%s: rope_type \"%s\" is not one of default, linear, dynamic, llama3, yarn, longrope", where, name);
}

static Status read_factors(const json_t *p, const char *where, const char *key, double *out, int64_t *n) {
    const json_t *list = json_object_get(p, key), *item;
    size_t i;
    if (!list) return TANE_OK;
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > ROPE_FACTORS)
        return FAIL(TANE_EFORMAT, "%s: \"%s\" must be a list of 1 to %d numbers", where, key, ROPE_FACTORS);
    json_array_foreach(list, i, item) {
        if (!json_is_number(item) || !(json_number_value(item) > 0))
            return FAIL(TANE_EFORMAT, "%s: \"%s\"[%zu] must be a positive number", where, key, i);
        out[i] = json_number_value(item);
    }
    *n = (int64_t)json_array_size(list);
    return TANE_OK;
}

static Status check_keys(const json_t *p, const char *where) {
    static const char *const known[] = {
        "type",           "rope_type",  "rope_theta",       "partial_rotary_factor", "factor",
        "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast",      "beta_slow",
        "mscale",         "mscale_all_dim", "truncate",     "original_max_position_embeddings",
        "short_factor",   "long_factor", "short_mscale",    "long_mscale"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)p, key, value) {
        size_t i = 0, n = sizeof known / sizeof *known;
        while (i < n && strcmp(known[i], key)) i++;
        if (i == n)
            return FAIL(TANE_EUNSUPPORTED, "%s: tane does not know \"%s\" among the rope parameters", where, key);
    }
    return TANE_OK;
}

/* Above 0, and finite. */
static Status check_positive(const char *where, const char *key, double value) {
    if (value > 0 && value <= 1e30) return TANE_OK;
    return FAIL(TANE_EFORMAT, "%s: %s %g must be above 0", where, key, value);
}

static Status check_type(const RopeConfig *r, const char *where) {
    bool scaled = r->type != ROPE_DEFAULT && r->type != ROPE_LONGROPE;
    bool from_original = r->type == ROPE_LLAMA3 || r->type == ROPE_YARN || r->type == ROPE_LONGROPE;
    TRY_RETURN(check_positive(where, "rope_theta", r->theta));
    if (!(r->partial >= 0 && r->partial <= 1))
        return FAIL(TANE_EFORMAT, "%s: partial_rotary_factor %g is not in (0, 1]", where, r->partial);
    if (scaled) TRY_RETURN(check_positive(where, "the rope's factor", r->factor));
    if (from_original && r->original_context < 1)
        return FAIL(TANE_EFORMAT, "%s: rope_type \"%s\" needs original_max_position_embeddings", where,
                    type_names[r->type]);
    if (r->type == ROPE_LLAMA3) {
        TRY_RETURN(check_positive(where, "low_freq_factor", r->low_freq_factor));
        if (!(r->high_freq_factor > r->low_freq_factor))
            return FAIL(TANE_EFORMAT, "%s: high_freq_factor %g must be above low_freq_factor %g", where,
                        r->high_freq_factor, r->low_freq_factor);
    }
    if (r->type == ROPE_LONGROPE && r->n_factors < 1)
        return FAIL(TANE_EFORMAT, "%s: rope_type \"longrope\" needs short_factor and long_factor", where);
    return TANE_OK;
}

Status rope_read_parameters(RopeConfig *r, const json_t *p, const char *where) {
    bool truncate = !r->no_truncate;
    int64_t n_short = 0, n_long = 0;
    TRY_RETURN(check_keys(p, where));
    TRY_RETURN(read_type(r, p, where));
    TRY_RETURN(json_opt_double(p, where, "rope_theta", &r->theta));
    TRY_RETURN(json_opt_double(p, where, "partial_rotary_factor", &r->partial));
    TRY_RETURN(json_opt_double(p, where, "factor", &r->factor));
    TRY_RETURN(json_opt_double(p, where, "low_freq_factor", &r->low_freq_factor));
    TRY_RETURN(json_opt_double(p, where, "high_freq_factor", &r->high_freq_factor));
    TRY_RETURN(json_opt_double(p, where, "attention_factor", &r->attention_factor));
    TRY_RETURN(json_opt_double(p, where, "beta_fast", &r->beta_fast));
    TRY_RETURN(json_opt_double(p, where, "beta_slow", &r->beta_slow));
    TRY_RETURN(json_opt_double(p, where, "mscale", &r->mscale));
    TRY_RETURN(json_opt_double(p, where, "mscale_all_dim", &r->mscale_all_dim));
    TRY_RETURN(json_opt_bool(p, where, "truncate", &truncate));
    r->no_truncate = !truncate;
    TRY_RETURN(json_opt_int(p, where, "original_max_position_embeddings", 1, 16777216, &r->original_context));
    TRY_RETURN(read_factors(p, where, "short_factor", r->short_factor, &n_short));
    TRY_RETURN(read_factors(p, where, "long_factor", r->long_factor, &n_long));
    if (n_short != n_long)
        return FAIL(TANE_EFORMAT, "%s: short_factor has %lld numbers and long_factor %lld", where, (long long)n_short,
                    (long long)n_long);
    r->n_factors = n_short;
    return check_type(r, where);
}

/* Qwen, SmolLM and Mistral write original_max_position_embeddings only where it differs: then it is the context. */
Status rope_read(RopeConfig *r, const json_t *json, const char *where) {
    const json_t *p = json_object_get(json, "rope_parameters"), *scaling = json_object_get(json, "rope_scaling");
    TRY_RETURN(json_opt_double(json, where, "rope_theta", &r->theta));
    TRY_RETURN(json_opt_double(json, where, "partial_rotary_factor", &r->partial));
    TRY_RETURN(json_opt_int(json, where, "max_position_embeddings", 1, 16777216, &r->original_context));
    TRY_RETURN(json_opt_int(json, where, "original_max_position_embeddings", 1, 16777216, &r->original_context));
    if (json_is_object(scaling)) return rope_read_parameters(r, scaling, where);
    return json_is_object(p) ? rope_read_parameters(r, p, where) : check_type(r, where);
}

static json_t *factors_json(const double *factors, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; list && i < n; i++)
        if (json_array_append_new(list, json_real(factors[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *rope_parameters(const RopeConfig *r) {
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"partial_rotary_factor", r->partial},
                   {"factor", r->factor},
                   {"low_freq_factor", r->low_freq_factor},
                   {"high_freq_factor", r->high_freq_factor},
                   {"attention_factor", r->attention_factor},
                   {"beta_fast", r->beta_fast},
                   {"beta_slow", r->beta_slow},
                   {"mscale", r->mscale},
                   {"mscale_all_dim", r->mscale_all_dim}};
    json_t *p = json_pack("{s:s, s:f}", "rope_type", type_names[r->type], "rope_theta", r->theta);
    int bad = !p;
    for (size_t i = 0; !bad && i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value != 0) bad = json_object_set_new(p, numbers[i].key, json_real(numbers[i].value));
    if (!bad && r->type >= ROPE_LLAMA3)
        bad = json_object_set_new(p, "original_max_position_embeddings", json_integer(r->original_context));
    if (!bad && r->no_truncate) bad = json_object_set_new(p, "truncate", json_false());
    if (!bad && r->n_factors)
        bad = json_object_set_new(p, "short_factor", factors_json(r->short_factor, r->n_factors)) ||
              json_object_set_new(p, "long_factor", factors_json(r->long_factor, r->n_factors));
    if (!bad) return p;
    json_decref(p);
    return NULL;
}

/* ---- frequencies ---- */

int64_t rope_width(const RopeConfig *r, int64_t head_dim) {
    return r->partial > 0 ? (int64_t)((double)head_dim * r->partial) / 2 * 2 : head_dim;
}

static float llama3_frequency(const RopeConfig *r, float f) {
    float original = (float)r->original_context, length = 6.2831853071795864f / f;
    float low = (float)r->low_freq_factor, high = (float)r->high_freq_factor, factor = (float)r->factor;
    if (length < original / high) return f;
    if (length > original / low) return f / factor;
    float smooth = (original / length - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

/* The pair that turns `turns` times within the original context (Peng et al. 2023, section 3.2). */
static double yarn_pair(const RopeConfig *r, double turns, int64_t width) {
    return (double)width * log((double)r->original_context / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static float yarn_frequency(const RopeConfig *r, float f, int64_t i, int64_t width) {
    double low = yarn_pair(r, r->beta_fast > 0 ? r->beta_fast : 32, width);
    double high = yarn_pair(r, r->beta_slow > 0 ? r->beta_slow : 1, width);
    if (!r->no_truncate) low = floor(low), high = ceil(high);
    if (low < 0) low = 0;
    if (high > (double)width - 1) high = (double)width - 1;
    if (low == high) high += 0.001;
    float ramp = ((float)i - (float)low) / (float)(high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f / (float)r->factor * ramp + f * (1 - ramp);
}

static double yarn_scale(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

double rope_amplitude(const RopeConfig *r, int64_t max_context) {
    if (r->type != ROPE_YARN && r->type != ROPE_LONGROPE) return 1;
    if (r->attention_factor > 0) return r->attention_factor;
    if (r->type == ROPE_YARN)
        return r->mscale > 0 && r->mscale_all_dim > 0
                   ? yarn_scale(r->factor, r->mscale) / yarn_scale(r->factor, r->mscale_all_dim)
                   : yarn_scale(r->factor, 1);
    double factor = r->factor > 0 ? r->factor : (double)max_context / (double)r->original_context;
    return factor <= 1 ? 1 : sqrt(1 + log(factor) / log((double)r->original_context));
}

Status rope_table(const RopeConfig *r, int64_t head_dim, int64_t context, int64_t max_context, float *table) {
    int64_t width = rope_width(r, head_dim), half = width / 2;
    float scale = (float)rope_amplitude(r, max_context);
    if (r->type == ROPE_LONGROPE && r->n_factors != half)
        return FAIL(TANE_EFORMAT, "the rope has %lld factors, but %lld pairs of a head turn", (long long)r->n_factors,
                    (long long)half);
    /* fp32 and its rounding as in the reference: frequency, then position * frequency. */
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < half; i++) {
        float power = powf((float)r->theta, (float)(2 * i) / (float)width), f = 1.0f / power;
        if (r->type == ROPE_LINEAR) f /= (float)r->factor;
        if (r->type == ROPE_LLAMA3) f = llama3_frequency(r, f);
        if (r->type == ROPE_YARN) f = yarn_frequency(r, f, i, width);
        if (r->type == ROPE_LONGROPE) f = 1.0f / ((float)r->short_factor[i] * power);
        for (int64_t p = 0; p < context; p++) {
            table[p * width + i] = scale * cosf((float)p * f);
            table[p * width + half + i] = scale * sinf((float)p * f);
        }
    }
    return TANE_OK;
}
