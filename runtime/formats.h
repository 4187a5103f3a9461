/* Values in the types that they are kept in: bfloat16, float16, int8 codes.
   Loads are exact, stores round to nearest even and keep a NaN. */
OPTC_FN float optc_load_bf16(uint16_t h) { return optc_from_bitsf((uint32_t)h << 16); }

OPTC_FN uint16_t optc_store_bf16(float x)
{
    const uint32_t u = optc_bitsf(x), rounded = u + 0x7fff + (u >> 16 & 1);
    return (uint16_t)((x != x ? u | 0x00400000 : rounded) >> 16);
}

OPTC_FN float optc_bf16f(float x) { return optc_load_bf16(optc_store_bf16(x)); }
OPTC_FN double optc_bf16(double x) { return optc_bf16f((float)x); }

/* Up or down by chance, so that the mean is x; `chance` is 32 random bits. */
OPTC_FN uint16_t optc_stochastic_bf16(float x, uint32_t chance)
{
    const uint32_t u = optc_bitsf(x);
    return (uint16_t)((x != x ? u | 0x00400000 : u + (chance & 0xffff)) >> 16);
}

OPTC_FN float optc_dither_bf16(float x, float chance)
{
    return optc_load_bf16(optc_stochastic_bf16(x, (uint32_t)(int32_t)chance));
}

OPTC_FN float optc_load_f16(uint16_t h)
{
    const uint32_t size = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t moved = size + (112u << 23);
    /* A subnormal has no leading one: give it one, and take its value away again. */
    const float small = optc_from_bitsf(size + (113u << 23)) - optc_from_bitsf(113u << 23);
    const uint32_t large = size >= 0x0f800000 ? moved + (112u << 23) : moved;
    return optc_from_bitsf((size < 0x00800000 ? optc_bitsf(small) : large) | sign);
}

OPTC_FN uint16_t optc_store_f16(float x)
{
    const uint32_t u = optc_bitsf(x), size = u & 0x7fffffff, sign = u >> 16 & 0x8000;
    const uint32_t normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    /* 0.5 has the quantum of half's subnormals in its last place: the sum rounds for us. */
    const uint32_t small = optc_bitsf(optc_from_bitsf(size) + 0.5f) - 0x3f000000;
    const uint32_t large = size > 0x7f800000 ? 0x7e00 : size >= 0x47800000 ? 0x7c00 : normal;
    return (uint16_t)((size < (113u << 23) ? small : large) | sign);
}

OPTC_FN uint16_t optc_stochastic_f16(float x, uint32_t chance)
{
    const uint32_t own = optc_bitsf(x) >> 23 & 0xff, exponent = own < 113 ? 113 : own;
    const double quantum = optc_from_bits((uint64_t)(exponent - 137 + 1023) << 52);
    const double inverse = optc_from_bits((uint64_t)(137 - exponent + 1023) << 52);
    const double count = floor(fabs((double)x) * inverse + chance * 0x1p-32);
    return optc_store_f16((float)copysign(count * quantum, (double)x));
}

OPTC_FN float optc_dither_f16(float x, float chance)
{
    return optc_load_f16(optc_stochastic_f16(x, (uint32_t)(int32_t)chance << 16));
}

/* int8 codes of a block of cells; int8.py says what they mean. */
OPTC_FN float optc_decode(int8_t code, float size, int power)
{
    float part = fabsf((float)code) / 127;
    part = power > 1 ? part * part : part;
    part = power > 2 ? part * part : part;
    return size * copysignf(part, (float)code);
}

OPTC_FN void optc_encode(const float *x, int64_t n, int8_t *codes, float *size, int power)
{
    uint32_t bits = 0; /* sizes are in the order of their bits, NaN above all */
    for (int64_t i = 0; i < n; i++) {
        const uint32_t a = optc_bitsf(x[i]) & 0x7fffffff;
        bits = a > bits ? a : bits;
    }
    const float most = optc_from_bitsf(bits);
    const int fine = most > 0 && most < INFINITY;
    const float scale = fine ? most : 1;
    for (int64_t i = 0; i < n; i++) {
        float part = fabsf(x[i]) / scale;
        part = power > 1 ? sqrtf(part) : part;
        part = power > 2 ? sqrtf(part) : part;
        const float least = x[i] != 0 ? 1 : 0, near = rintf(part * 127);
        const float code = power > 1 && near < least ? least : near;
        codes[i] = (int8_t)(int32_t)copysignf(fine ? code : 0, x[i]);
    }
    *size = most < INFINITY ? most : NAN;
}
