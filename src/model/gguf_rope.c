/* From Llama 3.1's numbers to factors and back. See gguf_rope.h.
 *
 * With wavelength w = 2 pi / frequency and x = 1 / w the factor is 1 where original * x > high, `factor` where
 * original * x < low, and between them 1 / ((1 - s) / factor + s), s = (original * x - low) / (high - low). Only
 * original / low and original / high count, so one of the three is free: low is 1, as in all models that there are.
 */
#include "model/gguf_rope.h"

#include <math.h>
#include <string.h>

static double inverse_wavelength(const RopeConfig *r, int64_t width, int64_t i) {
    return pow(r->theta, -2.0 * (double)i / (double)width) / (2 * M_PI);
}

double gguf_rope_factor(const RopeConfig *r, int64_t width, int64_t i) {
    double turns = (double)r->original_context * inverse_wavelength(r, width, i);
    if (turns > r->high_freq_factor) return 1;
    if (turns < r->low_freq_factor) return r->factor;
    double s = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return 1 / ((1 - s) / r->factor + s);
}

/* Writers compute in fp32: its rounding, and that of a wavelength next to a bound. */
static bool fits(const RopeConfig *r, const float *factors, int64_t width) {
    for (int64_t i = 0; i < width / 2; i++) {
        double f = (double)factors[i];
        if (!(fabs(gguf_rope_factor(r, width, i) - f) <= 1e-4 * f)) return false;
    }
    return true;
}

/* The straight line s(x) through two pairs on the ramp. */
static bool solve(RopeConfig *r, const float *factors, int64_t width) {
    double x[2], s[2];
    int n = 0;
    for (int64_t i = 0; i < width / 2 && n < 2; i++) {
        double f = (double)factors[i];
        if (f <= 1.0001 || f >= 0.9999 * r->factor) continue;
        x[n] = inverse_wavelength(r, width, i);
        s[n++] = (1 / f - 1 / r->factor) / (1 - 1 / r->factor);
    }
    if (n < 2 || x[0] == x[1]) return false;
    double slope = (s[1] - s[0]) / (x[1] - x[0]), below = slope * x[0] - s[0];
    if (!(slope > 0 && below > 0 && slope / below >= 1 && slope / below < 0x1p40)) return false;
    r->low_freq_factor = 1;
    r->high_freq_factor = round((1 + 1 / below) * 1e3) / 1e3;
    r->original_context = llround(slope / below);
    return fits(r, factors, width);
}

/* The numbers that models have come first: two pairs on the ramp give them only up to rounding, and small heads have
 * fewer than two there. */
static bool search(RopeConfig *r, const float *factors, int64_t width) {
    r->low_freq_factor = 1;
    r->high_freq_factor = 4;
    for (r->original_context = 1 << 20; r->original_context; r->original_context /= 2)
        if (fits(r, factors, width)) return true;
    return solve(r, factors, width);
}

Status gguf_rope_llama3(const char *path, const GgufTensor *t, int64_t width, RopeConfig *r, bool *used) {
    enum { MAX = 512 };
    float factors[MAX];
    if (t->rank != 1 || t->type->type != GGML_F32 || t->shape[0] != width / 2 || width / 2 > MAX)
        return FAIL(TANE_EFORMAT, "%s: tensor \"%s\" must be %lld numbers in F32, one for each pair that turns", path,
                    t->name, (long long)width / 2);
    memcpy(factors, t->data, t->bytes);
    *used = false;
    r->factor = 1;
    for (int64_t i = 0; i < width / 2; i++) {
        if (!(factors[i] > 0 && factors[i] < 1e6f))
            return FAIL(TANE_EFORMAT, "%s: tensor \"%s\" has the factor %g; factors are positive", path, t->name,
                        (double)factors[i]);
        *used |= factors[i] != 1;
        if ((double)factors[i] > r->factor) r->factor = (double)factors[i];
    }
    if (!*used || search(r, factors, width)) return TANE_OK;
    return FAIL(TANE_EUNSUPPORTED,
                "%s: the factors of tensor \"%s\" are not those of Llama 3.1's scaling, the only ones "
                "that tane knows",
                path, t->name);
}
