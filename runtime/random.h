/* Random numbers: Philox4x32-10 (Salmon and others 2011). A number depends on the seed, the stream
   (hash of the path of the draw), the call and the cell alone, never on threads or chunks.
   random.py says the same in torch, bit for bit in the words. */
typedef struct { uint32_t a, b, c, d; } optc_words;

OPTC_FN uint64_t optc_key(uint64_t seed, uint32_t stream)
{
    uint64_t k = seed + ((uint64_t)stream + 1) * 0x9e3779b97f4a7c15u;
    k = (k ^ k >> 30) * 0xbf58476d1ce4e5b9u;
    k = (k ^ k >> 27) * 0x94d049bb133111ebu;
    return k ^ k >> 31;
}

OPTC_FN optc_words optc_philox(uint64_t key, uint64_t cell, uint64_t call, uint32_t draw)
{
    optc_words w = {(uint32_t)cell, (uint32_t)(cell >> 32), (uint32_t)call, draw};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p = (uint64_t)0xd2511f53u * w.a, q = (uint64_t)0xcd9e8d57u * w.c;
        const uint32_t b = w.b, d = w.d;
        w.a = (uint32_t)(q >> 32) ^ b ^ k0;
        w.b = (uint32_t)q;
        w.c = (uint32_t)(p >> 32) ^ d ^ k1;
        w.d = (uint32_t)p;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return w;
}

/* Bits for rounding by chance: a hash of the same four, a tenth of Philox's work. Ten rounds would
   cost more than the bytes of the cells that are rounded; that no test finds a pattern in sixteen
   bits of each is more than a mean needs. */
OPTC_FN uint32_t optc_mix(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

OPTC_FN uint64_t optc_call_key(uint64_t key, uint64_t call)
{
    uint64_t k = key + call * 0x9e3779b97f4a7c15u;
    k = (k ^ k >> 30) * 0xbf58476d1ce4e5b9u;
    k = (k ^ k >> 27) * 0x94d049bb133111ebu;
    return k ^ k >> 31;
}

OPTC_FN optc_words optc_mixed(uint64_t key, uint64_t cell)
{
    const uint32_t high = (uint32_t)(key >> 32) + (uint32_t)(cell >> 32) * 0x9e3779b1u;
    const uint32_t first = optc_mix((uint32_t)cell ^ (uint32_t)key) + high;
    optc_words w = {
        optc_mix(first), optc_mix(first + 0x9e3779b9u), optc_mix(first + 0x3c6ef372u),
        optc_mix(first + 0xdaa66d2bu),
    };
    return w;
}

/* 52 bits in the middle of their interval: never 0, never 1. */
OPTC_FN double optc_open(uint32_t high, uint32_t low)
{
    const uint64_t bits = (uint64_t)high << 20 | low >> 12;
    return optc_from_bits(bits | 0x3ff0000000000000u) - (1 - 0x1p-53);
}

OPTC_FN double optc_uniform(optc_words w) { return optc_open(w.a, w.b); }
OPTC_FN float optc_uniformf(optc_words w)
{
    const float u = (float)optc_open(w.a, w.b);
    return u < 1 ? u : 0x1.fffffep-1f;
}
OPTC_FN double optc_rademacher(optc_words w) { return w.a >> 31 ? 1 : -1; }
OPTC_FN float optc_rademacherf(optc_words w) { return w.a >> 31 ? 1 : -1; }
/* 0 to 65535, for a rounding up or down by chance: eight of them are one draw. */
#define OPTC_CHANCE(k, word, by)                                                                  \
    OPTC_FN double optc_chance##k(optc_words w) { return (int32_t)(w.word >> by & 0xffff); }      \
    OPTC_FN float optc_chance##k##f(optc_words w) { return (float)(int32_t)(w.word >> by & 0xffff); }
OPTC_CHANCE(0, a, 0)
OPTC_CHANCE(1, a, 16)
OPTC_CHANCE(2, b, 0)
OPTC_CHANCE(3, b, 16)
OPTC_CHANCE(4, c, 0)
OPTC_CHANCE(5, c, 16)
OPTC_CHANCE(6, d, 0)
OPTC_CHANCE(7, d, 16)
OPTC_FN double optc_normal(optc_words w)
{
    const double angle = 0x1.921fb54442d18p+2 * optc_open(w.c, w.d);
    return sqrt(-2 * log(optc_open(w.a, w.b))) * cos(angle);
}
OPTC_FN float optc_normalf(optc_words w)
{
    const double turn = 4 * optc_open(w.c, w.d), quarter = (turn + OPTC_ROUND) - OPTC_ROUND;
    const double size = sqrt(-2 * optc_log_core(optc_open(w.a, w.b)));
    return (float)(size * optc_quarters(quarter, turn - quarter));
}
