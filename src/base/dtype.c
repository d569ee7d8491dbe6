/* IEEE half precision by arithmetic, for machines without F16C. */
#include "base/dtype.h"

float f16_to_f32(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    float f;
    if (exponent == 0) { /* zero and subnormals: fraction * 2^-24 */
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&f, &bits, 4);
    return f;
}

uint16_t f32_to_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00;  /* NaN */
    if (magnitude >= 0x477ff000u) return sign | 0x7c00; /* rounds to 65536 or more */
    if (magnitude < 0x38800000u) {                      /* subnormal: adding 0.5 rounds to a multiple of 2^-24 */
        float a, half = 0.5f;
        memcpy(&a, &magnitude, 4);
        a += half;
        uint32_t r;
        memcpy(&r, &a, 4);
        return (uint16_t)(sign | (r & 0xffff));
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1) - (112u << 23);
    return (uint16_t)(sign | rounded >> 13);
}
