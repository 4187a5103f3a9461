/* Mathematics of emitted phases: plain C that vectorises under IEEE flags, so without branches.

   The float functions go through double inside: their polynomials are good to 1e-12 and better,
   so what remains is the rounding to float, 0.50x ulp. Infinities, NaN, zeros with their signs
   and subnormals come out right; a lane's result does not depend on its neighbours, so the bits
   are the same at every offset. The double functions are libm's: rules in float64 are rare, and
   polynomials as good as those cost nearly as much.

   Coefficients are Chebyshev fits, constant term last. */
#define OPTC_FN static inline __attribute__((always_inline, unused))

OPTC_FN uint32_t optc_bitsf(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
OPTC_FN uint64_t optc_bits(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
OPTC_FN float optc_from_bitsf(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
OPTC_FN double optc_from_bits(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }

/* Adding this number rounds to an integer, which then stands in the low bits. */
#define OPTC_ROUND 0x1.8p52
#define OPTC_LN2 0x1.62e42fefa39efp-1
#define OPTC_LOG2E 0x1.71547652b82fep+0

/* Relative error 1e-12, as far as a float can notice: beyond +-700 it is inf or 0 either way. */
OPTC_FN double optc_exp_core(double x)
{
    x = x > 700 ? 700 : x < -700 ? -700 : x;
    const double n = x * OPTC_LOG2E + OPTC_ROUND;
    const double r = x - (n - OPTC_ROUND) * OPTC_LN2;
    double y = 2.487631345479937e-05;
    y = y * r + 0.00019916016440604505;
    y = y * r + 0.0013888821408139453;
    y = y * r + 0.0083332658283135;
    y = y * r + 0.041666666892307004;
    y = y * r + 0.16666666892396495;
    y = y * r + 0.49999999999796313;
    y = y * r + 0.9999999999796227;
    y = y * r + 1.0;
    return y * optc_from_bits((optc_bits(n) << 52) + 0x3ff0000000000000u);
}

/* Natural logarithm of a normal double, relative error 1e-15: atanh of (m - 1) / (m + 1). */
OPTC_FN double optc_log_core(double x)
{
    /* The mantissa lies in [sqrt(1/2), sqrt(2)); the offset keeps the shift unsigned. */
    const uint64_t offset = optc_bits(x) - 0x3fe6a09e667f3bcdu + (UINT64_C(2048) << 52);
    const double exponent = optc_from_bits((offset >> 52) | 0x4330000000000000u) - 0x1p52 - 2048;
    const uint64_t whole = (offset >> 52) << 52;
    const double m = optc_from_bits(optc_bits(x) - whole + (UINT64_C(2048) << 52));
    const double s = (m - 1) / (m + 1), z = s * s;
    double y = 0.07308903576708663;
    y = y * z + 0.07665805861027504;
    y = y * z + 0.09091446216268435;
    y = y * z + 0.11111105544689748;
    y = y * z + 0.14285714313126918;
    y = y * z + 0.19999999999949444;
    y = y * z + 0.3333333333333335;
    y = exponent * OPTC_LN2 + (2 * s + 2 * s * z * y);
    return y;
}

/* The same for any double that was a float. */
OPTC_FN double optc_log_any(double x)
{
    const double y = x < INFINITY ? optc_log_core(x) : x;
    return x > 0 ? y : x == 0 ? -INFINITY : NAN;
}

/* cos(pi / 2 * (quarter + f)) for |f| <= 0.56 and a whole number `quarter`. */
OPTC_FN double optc_quarters(double quarter, double f)
{
    const double z = f * f;
    double s = -3.544581921371765e-06, c = 4.639842731405489e-07;
    s = s * z + 0.0001604216952819381;
    s = s * z - 0.004681750904964987;
    s = s * z + 0.07969262600402621;
    s = s * z - 0.6459640974996065;
    s = s * z + 1.570796326794867;
    c = c * z - 2.5198924094378535e-05;
    c = c * z + 0.0009192595952316323;
    c = c * z - 0.02086348068728289;
    c = c * z + 0.25366950789699233;
    c = c * z - 1.2337005501360887;
    c = c * z + 1.0;
    const uint64_t q = optc_bits(quarter + OPTC_ROUND);
    const double y = q & 1 ? -f * s : c;
    return optc_from_bits(optc_bits(y) ^ (q & 2) << 62);
}

OPTC_FN float optc_expf(float x) { return (float)optc_exp_core(x); }
OPTC_FN float optc_exp2f(float x) { return (float)optc_exp_core(x * OPTC_LN2); }
OPTC_FN float optc_logf(float x) { return (float)optc_log_any(x); }
OPTC_FN float optc_log2f(float x) { return (float)(optc_log_any(x) * OPTC_LOG2E); }
OPTC_FN float optc_sigmoidf(float x) { return (float)(1 / (1 + optc_exp_core(-(double)x))); }

OPTC_FN float optc_log1pf(float x)
{
    const double d = x, near = d * (1 - d * (0.5 - d * (1.0 / 3 - d * 0.25)));
    return (float)(fabs(d) < 0x1p-10 ? near : optc_log_any(1 + d));
}

OPTC_FN float optc_expm1f(float x)
{
    const double d = x;
    const double tail = 1.0 / 6 + d * (1.0 / 24 + d * (1.0 / 120 + d * (1.0 / 720 + d / 5040)));
    return (float)(fabs(d) < 0x1p-4 ? d * (1 + d * (0.5 + d * tail)) : optc_exp_core(d) - 1);
}

OPTC_FN float optc_tanhf(float x)
{
    const double d = x, z = d * d, e = optc_exp_core(2 * fabs(d));
    const double far = 1 - 2 / (e + 1);
    const double near = d * (1 - z * (1.0 / 3 - z * (2.0 / 15 - z * (17.0 / 315))));
    return (float)(fabs(d) < 0x1p-4 ? near : copysign(far, d));
}

/* Of the smaller of |x| and 1 / |x|; relative error 3e-16. */
OPTC_FN float optc_atanf(float x)
{
    const double a = fabs((double)x), t = a > 1 ? 1 / a : a, z = t * t;
    double y = 1.2631178430477426e-05;
    y = y * z - 0.00014617088163625013;
    y = y * z + 0.0008033604181626027;
    y = y * z - 0.0028047655531701315;
    y = y * z + 0.007038646202989813;
    y = y * z - 0.013674139288399478;
    y = y * z + 0.021740213830758134;
    y = y * z - 0.02970071773623423;
    y = y * z + 0.03651081352721035;
    y = y * z - 0.042125723963855326;
    y = y * z + 0.04719723992321112;
    y = y * z - 0.052527255573225747;
    y = y * z + 0.05880342002401543;
    y = y * z - 0.06666371187721098;
    y = y * z + 0.0769227555520563;
    y = y * z - 0.09090906605656898;
    y = y * z + 0.11111110982087126;
    y = y * z - 0.14285714281592693;
    y = y * z + 0.19999999999929946;
    y = y * z - 0.3333333333333286;
    y = y * z + 1.0;
    return (float)copysign(a > 1 ? 0x1.921fb54442d18p+0 - t * y : t * y, (double)x);
}

OPTC_FN float optc_erff(float x)
{
    const double a = fabs((double)x) > 4 ? 4 : fabs((double)x), z = a * a;
    double p = 9.428596956834164e-09, q = -2.7766471169227195e-05;
    p = p * z - 1.5188281247335167e-07;
    p = p * z + 1.631035651387174e-06;
    p = p * z - 1.4913300906316395e-05;
    p = p * z + 0.00012054681918310599;
    p = p * z - 0.0008548304871782741;
    p = p * z + 0.005223977154105304;
    p = p * z - 0.026866170586496874;
    p = p * z + 0.11283791670580423;
    p = p * z - 0.376126389031744;
    p = p * z + 1.1283791670955121;
    /* exp(x^2) erfc(x) is smooth in u. */
    const double u = (a - 2) / (a + 2);
    q = q * u + 2.3028502240811244e-05;
    q = q * u + 0.00017449921306890158;
    q = q * u + 4.4120468468315367e-05;
    q = q * u - 0.0009819944475506156;
    q = q * u - 0.0008471763170265717;
    q = q * u + 0.006997462594849881;
    q = q * u + 0.003732893283816045;
    q = q * u - 0.07897858103205876;
    q = q * u + 0.24165819423388266;
    q = q * u - 0.427185847413874;
    q = q * u + 0.25539567631051935;
    return (float)copysign(a < 1 ? a * p : 1 - optc_exp_core(-z) * q, (double)x);
}

/* The rules of C99: pow(x, 0) and pow(1, y) are 1, a negative base needs a whole exponent. */
OPTC_FN float optc_powf(float x, float y)
{
    const double a = fabs((double)x), d = y, half = d * 0.5;
    const double r = optc_exp_core(d * optc_log_any(a));
    const int whole = rint(d) == d, odd = whole & (rint(half) != half);
    double value = (y == 0) | ((a == 1) & (y == y)) ? 1 : r;
    value = (x < 0) & (a < INFINITY) & !whole & (y == y) ? NAN : value;
    value = optc_bitsf(x) >> 31 && odd ? -value : value;
    return (float)(x == 1 ? 1 : value);
}

/* 2 / pi * 2^(e - 23) modulo 4, for floats of exponent e from -12 on, in two parts: the first has
   29 bits, so that its product with the 24 bits of a float is exact, and the angle right up to
   the largest float. Rows by the exponent bits as they are: a checked index would not vectorise. */
static const double optc_turns[256] __attribute__((unused)) = {
    [115] =
    0x1.45f306ep-36, 0x1.45f306ep-35, 0x1.45f306ep-34, 0x1.45f306ep-33, 0x1.45f306ep-32,
    0x1.45f306ep-31, 0x1.45f306ep-30, 0x1.45f306ep-29, 0x1.45f306ep-28, 0x1.45f306ep-27,
    0x1.45f306ep-26, 0x1.45f306ep-25, 0x1.45f306ep-24, 0x1.45f306ep-23, 0x1.45f306ep-22,
    0x1.45f306ep-21, 0x1.45f306ep-20, 0x1.45f306ep-19, 0x1.45f306ep-18, 0x1.45f306ep-17,
    0x1.45f306ep-16, 0x1.45f306ep-15, 0x1.45f306ep-14, 0x1.45f306ep-13, 0x1.45f306ep-12,
    0x1.45f306ep-11, 0x1.45f306ep-10, 0x1.45f306ep-9, 0x1.45f306ep-8, 0x1.45f306ep-7,
    0x1.45f306ep-6, 0x1.45f306ep-5, 0x1.45f306ep-4, 0x1.45f306ep-3, 0x1.45f306ep-2,
    0x1.45f306ep-1, 0x1.45f306ep0, -0x1.7419f24p0, 0x1.17cc1b7p0, -0x1.d067c92p0, 0x1.7cc1b72p-2,
    0x1.7cc1b72p-1, 0x1.7cc1b72p0, -0x1.067c91bp0, 0x1.f306dcap0, -0x1.9f246c7p-4,
    -0x1.9f246c7p-3, -0x1.9f246c7p-2, -0x1.9f246c7p-1, -0x1.9f246c7p0, 0x1.836e4e4p-1,
    0x1.836e4e4p0, -0x1.f246c6fp-1, -0x1.f246c6fp0, 0x1.b727221p-4, 0x1.b727221p-3,
    0x1.b727221p-2, 0x1.b727221p-1, 0x1.b727221p0, -0x1.236377dp-1, -0x1.236377dp0, 0x1.b939105p0,
    -0x1.1b1bbebp-1, -0x1.1b1bbebp0, 0x1.c9c882ap0, -0x1.b1bbeadp-2, -0x1.b1bbeadp-1,
    -0x1.b1bbeadp0, 0x1.391054ap-1, 0x1.391054ap0, -0x1.8ddf56bp0, 0x1.c882a54p-1, 0x1.c882a54p0,
    -0x1.bbead6p-2, -0x1.bbead6p-1, -0x1.bbead6p0, 0x1.1054a7fp-1, 0x1.1054a7fp0, -0x1.df56b02p0,
    0x1.054a7f1p-2, 0x1.054a7f1p-1, 0x1.054a7f1p0, -0x1.f56b01fp0, 0x1.529fc27p-4, 0x1.529fc27p-3,
    0x1.529fc27p-2, 0x1.529fc27p-1, 0x1.529fc27p0, -0x1.5ac07b1p0, 0x1.4a7f09dp0, -0x1.6b01ec5p0,
    0x1.29fc275p0, -0x1.ac07b15p0, 0x1.4fe13acp-1, 0x1.4fe13acp0, -0x1.603d8a8p0, 0x1.3f84ebp0,
    -0x1.80f62a1p0, 0x1.fc2757dp-1, 0x1.fc2757dp0, -0x1.ec5417p-6, -0x1.ec5417p-5, -0x1.ec5417p-4,
    -0x1.ec5417p-3, -0x1.ec5417p-2, -0x1.ec5417p-1, -0x1.ec5417p0, 0x1.3abe8fbp-3, 0x1.3abe8fbp-2,
    0x1.3abe8fbp-1, 0x1.3abe8fbp0, -0x1.8a82e0bp0, 0x1.d5f47d5p-1, 0x1.d5f47d5p0, -0x1.505c159p-2,
    -0x1.505c159p-1, -0x1.505c159p0, 0x1.5f47d4dp0, -0x1.4170566p0, 0x1.7d1f535p0, -0x1.05c1596p0,
    0x1.f47d4d3p0, -0x1.7056591p-4, -0x1.7056591p-3, -0x1.7056591p-2, -0x1.7056591p-1,
    -0x1.7056591p0, 0x1.1f534dep0, -0x1.c159644p0, 0x1.f534ddcp-2, 0x1.f534ddcp-1, 0x1.f534ddcp0,
    -0x1.596447ep-4, -0x1.596447ep-3, -0x1.596447ep-2, -0x1.596447ep-1, -0x1.596447ep0,
    0x1.4d37703p0, -0x1.65911f9p0, 0x1.34ddc0ep0,
};
static const double optc_turns_rest[256] __attribute__((unused)) = {
    [115] =
    -0x1.b1bbead603d8bp-67, -0x1.b1bbead603d8bp-66, -0x1.b1bbead603d8bp-65,
    -0x1.b1bbead603d8bp-64, -0x1.b1bbead603d8bp-63, -0x1.b1bbead603d8bp-62,
    -0x1.b1bbead603d8bp-61, -0x1.b1bbead603d8bp-60, -0x1.b1bbead603d8bp-59,
    -0x1.b1bbead603d8bp-58, -0x1.b1bbead603d8bp-57, -0x1.b1bbead603d8bp-56,
    -0x1.b1bbead603d8bp-55, -0x1.b1bbead603d8bp-54, -0x1.b1bbead603d8bp-53,
    -0x1.b1bbead603d8bp-52, -0x1.b1bbead603d8bp-51, -0x1.b1bbead603d8bp-50,
    -0x1.b1bbead603d8bp-49, -0x1.b1bbead603d8bp-48, -0x1.b1bbead603d8bp-47,
    -0x1.b1bbead603d8bp-46, -0x1.b1bbead603d8bp-45, -0x1.b1bbead603d8bp-44,
    -0x1.b1bbead603d8bp-43, -0x1.b1bbead603d8bp-42, -0x1.b1bbead603d8bp-41,
    -0x1.b1bbead603d8bp-40, -0x1.b1bbead603d8bp-39, -0x1.b1bbead603d8bp-38,
    -0x1.b1bbead603d8bp-37, -0x1.b1bbead603d8bp-36, -0x1.b1bbead603d8bp-35,
    -0x1.b1bbead603d8bp-34, -0x1.b1bbead603d8bp-33, -0x1.b1bbead603d8bp-32,
    -0x1.b1bbead603d8bp-31, -0x1.b1bbead603d8bp-30, 0x1.391054a7f09d6p-31, 0x1.391054a7f09d6p-30,
    0x1.c882a53f84ebp-32, 0x1.c882a53f84ebp-31, 0x1.c882a53f84ebp-30, -0x1.bbead603d8a83p-32,
    -0x1.bbead603d8a83p-31, 0x1.054a7f09d5f48p-36, 0x1.054a7f09d5f48p-35, 0x1.054a7f09d5f48p-34,
    0x1.054a7f09d5f48p-33, 0x1.054a7f09d5f48p-32, 0x1.054a7f09d5f48p-31, 0x1.054a7f09d5f48p-30,
    0x1.529fc2757d1f5p-35, 0x1.529fc2757d1f5p-34, -0x1.5ac07b1505c16p-34, -0x1.5ac07b1505c16p-33,
    -0x1.5ac07b1505c16p-32, -0x1.5ac07b1505c16p-31, -0x1.5ac07b1505c16p-30,
    -0x1.6b01ec5417056p-31, -0x1.6b01ec5417056p-30, 0x1.29fc2757d1f53p-30, 0x1.4fe13abe8fa9ap-32,
    0x1.4fe13abe8fa9ap-31, 0x1.4fe13abe8fa9ap-30, -0x1.80f62a0b82b2dp-32, -0x1.80f62a0b82b2dp-31,
    -0x1.80f62a0b82b2dp-30, 0x1.fc2757d1f534ep-31, 0x1.fc2757d1f534ep-30, -0x1.ec54170565912p-36,
    -0x1.ec54170565912p-35, -0x1.ec54170565912p-34, -0x1.ec54170565912p-33,
    -0x1.ec54170565912p-32, -0x1.ec54170565912p-31, 0x1.3abe8fa9a6eep-34, 0x1.3abe8fa9a6eep-33,
    0x1.3abe8fa9a6eep-32, -0x1.8a82e0acb223fp-32, -0x1.8a82e0acb223fp-31, -0x1.8a82e0acb223fp-30,
    0x1.d5f47d4d37703p-31, 0x1.5f47d4d377037p-34, 0x1.5f47d4d377037p-33, 0x1.5f47d4d377037p-32,
    0x1.5f47d4d377037p-31, 0x1.5f47d4d377037p-30, -0x1.4170565911f92p-30, 0x1.7d1f534ddc0dbp-30,
    -0x1.05c1596447e49p-30, 0x1.f47d4d377036ep-30, -0x1.70565911f924fp-34, -0x1.70565911f924fp-33,
    -0x1.70565911f924fp-32, -0x1.70565911f924fp-31, -0x1.70565911f924fp-30, 0x1.1f534ddc0db63p-30,
    0x1.f534ddc0db629p-33, 0x1.f534ddc0db629p-32, -0x1.596447e493ad5p-36, -0x1.596447e493ad5p-35,
    -0x1.596447e493ad5p-34, -0x1.596447e493ad5p-33, -0x1.596447e493ad5p-32,
    -0x1.596447e493ad5p-31, -0x1.596447e493ad5p-30, -0x1.96447e493ad4dp-33,
    -0x1.96447e493ad4dp-32, -0x1.96447e493ad4dp-31, -0x1.96447e493ad4dp-30, 0x1.a6ee06db14acdp-31,
    -0x1.6447e493ad4cep-32, -0x1.6447e493ad4cep-31, -0x1.911f924eb5336p-32,
    -0x1.911f924eb5336p-31, -0x1.911f924eb5336p-30, 0x1.bb81b6c52b328p-31, 0x1.bb81b6c52b328p-30,
    -0x1.11f924eb53362p-31, -0x1.11f924eb53362p-30, 0x1.dc0db6295993cp-30, -0x1.f924eb53361dep-36,
    -0x1.f924eb53361dep-35, -0x1.f924eb53361dep-34, -0x1.f924eb53361dep-33,
    -0x1.f924eb53361dep-32, -0x1.f924eb53361dep-31, -0x1.f924eb53361dep-30, 0x1.b6c52b3278872p-35,
    0x1.b6c52b3278872p-34, 0x1.b6c52b3278872p-33, -0x1.24eb53361de38p-34, -0x1.24eb53361de38p-33,
    -0x1.24eb53361de38p-32, -0x1.24eb53361de38p-31, -0x1.24eb53361de38p-30, 0x1.b6295993c439p-30,
    -0x1.275a99b0ef1bfp-31, -0x1.275a99b0ef1bfp-30,
};

/* cos(x + shift * pi / 2). */
OPTC_FN float optc_wave(float x, double shift)
{
    const double d = x, size = fabs(d);
    const uint64_t bits = optc_bits(size), row = ((bits >> 52) - (1023 - 127)) & 0xff;
    const double m = optc_from_bits((bits & 0x000fffffffffffffu) | ((uint64_t)(1023 + 23) << 52));
    const double first = m * optc_turns[row];
    const double quarter = (first + OPTC_ROUND) - OPTC_ROUND;
    const double f = (first - quarter) + m * optc_turns_rest[row];
    const double sign = x < 0 ? -1 : 1;
    const double y = optc_quarters(sign * quarter + shift, sign * f);
    const double near = shift != 0 ? d * (1 - d * d * (1.0 / 6)) : 1 - d * d * 0.5;
    return (float)(size < 0x1p-12 ? near : size < INFINITY ? y : NAN);
}
OPTC_FN float optc_cosf(float x) { return optc_wave(x, 0); }
OPTC_FN float optc_sinf(float x) { return optc_wave(x, -1); }

OPTC_FN double optc_exp(double x) { return exp(x); }
OPTC_FN double optc_exp2(double x) { return exp2(x); }
OPTC_FN double optc_log(double x) { return log(x); }
OPTC_FN double optc_log2(double x) { return log2(x); }
OPTC_FN double optc_log1p(double x) { return log1p(x); }
OPTC_FN double optc_expm1(double x) { return expm1(x); }
OPTC_FN double optc_tanh(double x) { return tanh(x); }
OPTC_FN double optc_atan(double x) { return atan(x); }
OPTC_FN double optc_pow(double x, double y) { return pow(x, y); }
OPTC_FN double optc_sin(double x) { return sin(x); }
OPTC_FN double optc_cos(double x) { return cos(x); }
OPTC_FN double optc_erf(double x) { return erf(x); }
OPTC_FN double optc_sigmoid(double x) { return 1 / (1 + exp(-x)); }
