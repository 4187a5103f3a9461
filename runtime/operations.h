/* The operations of emitted C phases, by the names that the printer writes. */
#define optc_max(a, b) optc_larger(a, b)
#define optc_min(a, b) optc_smaller(a, b)
#define optc_maxf(a, b) optc_largerf(a, b)
#define optc_minf(a, b) optc_smallerf(a, b)
#define optc_sqrt(a) sqrt(a)
#define optc_sqrtf(a) sqrtf(a)
#define optc_abs(a) fabs(a)
#define optc_absf(a) fabsf(a)
#define optc_floor(a) floor(a)
#define optc_floorf(a) floorf(a)
#define optc_ceil(a) ceil(a)
#define optc_ceilf(a) ceilf(a)
#define optc_round(a) rint(a)
#define optc_roundf(a) rintf(a)
#define optc_isfinite(a) ((a) - (a) == 0)
#define optc_isfinitef(a) ((a) - (a) == 0)
/* fmod is exact whatever the quotient; a remainder has the sign of the divisor, as in torch. */
static inline double optc_mod(double a, double b) {
    const double m = fmod(a, b);
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}
static inline float optc_modf(float a, float b) {
    const float m = fmodf(a, b);
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}
#if defined(__clang__)
#define OPTC_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
#define OPTC_VECTOR _Pragma("GCC ivdep")
#endif
