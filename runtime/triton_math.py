"""Mathematics of emitted Triton phases: what `math.h` is for C.

The types of the operands choose the form. A float goes through double inside and is rounded once;
exp, ln, arctan, tanh, sigmoid, pow and normal numbers are math.h's polynomials, operation by
operation, so a kernel compiled without contraction gives C's bits. sin, cos and erf of floats are
those of double, rounded: 0.50x ulp. Doubles (rules in float64, and what is coarser than an element)
use the device's own exp, log, sin, cos and erf; tanh and pow are made of those, and arctan is the
same in both.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROUND = tl.constexpr(6755399441055744.0)
"""Adding this number (1.5 * 2^52) rounds to an integer, which then stands in the low bits."""
LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
INF = tl.constexpr(float("inf"))
"""A NaN would not do here: it differs from itself, and Triton would call it changed."""


@triton.jit
def optc_div(a, b):
    """Rounded correctly, as C's is."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def optc_ratio(a, b):
    return tl.where(b == 0, 0.0, optc_div(a, tl.where(b == 0, 1.0, b)))


@triton.jit
def optc_sign(a):
    return tl.where(a > 0, 1.0, tl.where(a < 0, -1.0, a))


@triton.jit
def optc_abs(a):
    return tl.abs(a)


@triton.jit
def optc_max(a, b):
    """A NaN wins, as in torch."""
    return tl.where((b > a) | (b != b), b, a)


@triton.jit
def optc_min(a, b):
    return tl.where((b < a) | (b != b), b, a)


@triton.jit
def optc_isfinite(a):
    return (a - a) == 0


@triton.jit
def optc_sqrt(a):
    if a.dtype == tl.float64:
        return tl.sqrt(a)
    else:
        return tl.sqrt_rn(a)


@triton.jit
def optc_floor(a):
    return tl.floor(a)


@triton.jit
def optc_ceil(a):
    return tl.ceil(a)


@triton.jit
def optc_round(a):
    """To the nearest integer, ties to even; a large number is one already."""
    x = a.to(tl.float64)
    near = (tl.abs(x) + ROUND) - ROUND
    found = tl.where(tl.abs(x) < 4503599627370496.0, tl.where(x < 0, -near, near), x)
    return found.to(a.dtype)


@triton.jit
def exponent(x):
    return (x.to(tl.int64, bitcast=True) >> 52) & 2047


@triton.jit
def power_of_two(n):
    return ((n + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def somewhere(c):
    if len(c.shape) == 0:
        return c
    else:
        return tl.max(c.to(tl.int32), 0) > 0


@triton.jit
def optc_mod(a, b):
    """Long division in double, 25 bits of the quotient a turn, so that no digit is lost.

    A product of bits of the quotient and the divisor is taken in two parts, each of them exact.
    """
    y = tl.abs(b.to(tl.float64))
    r = tl.where(y == y, tl.abs(a.to(tl.float64)), y)
    while somewhere((r >= y) & (y > 0) & (r < INF)):
        shift = tl.maximum(exponent(r) - exponent(y) - 25, 0)
        half = shift >> 1
        step = y * power_of_two(half) * power_of_two(shift - half)
        q = tl.where((r >= y) & (y > 0) & (r < INF), tl.floor(r / step), 0.0)
        head = (step.to(tl.int64, bitcast=True) & -134217728).to(tl.float64, bitcast=True)
        product = q * step
        left = (r - product) - ((q * head - product) + q * (step - head))
        r = tl.where(q > 0, tl.where(left < 0, left + step, left), r)
    r = tl.where((y == 0) | (r == INF), float("nan"), r)
    m = tl.where(a < 0, -r, r)
    return tl.where((m != 0) & ((m < 0) != (b < 0)), m + b.to(tl.float64), m).to(a.dtype)


@triton.jit
def exp_core(given):
    x = tl.where(given > 700, 700.0, tl.where(given < -700, -700.0, given))
    n = x * LOG2E + ROUND
    r = x - (n - ROUND) * LN2
    y = r * 2.487631345479937e-05 + 0.00019916016440604505
    y = y * r + 0.0013888821408139453
    y = y * r + 0.0083332658283135
    y = y * r + 0.041666666892307004
    y = y * r + 0.16666666892396495
    y = y * r + 0.49999999999796313
    y = y * r + 0.9999999999796227
    y = y * r + 1.0
    bits = (n.to(tl.int64, bitcast=True) << 52) + 0x3FF0000000000000
    return y * bits.to(tl.float64, bitcast=True)


@triton.jit
def log_core(x):
    bits = x.to(tl.int64, bitcast=True)
    # The mantissa lies in [sqrt(1/2), sqrt(2)); int64 shifts keep the sign of the exponent.
    exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
    m = (bits - (exponent << 52)).to(tl.float64, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    y = z * 0.07308903576708663 + 0.07665805861027504
    y = y * z + 0.09091446216268435
    y = y * z + 0.11111105544689748
    y = y * z + 0.14285714313126918
    y = y * z + 0.19999999999949444
    y = y * z + 0.3333333333333335
    return exponent.to(tl.float64) * LN2 + (s * 2.0 + s * 2.0 * z * y)


@triton.jit
def log_any(x):
    y = tl.where(x < INF, log_core(x), x)
    return tl.where(x > 0, y, tl.where(x == 0, -INF, float("nan")))


@triton.jit
def quarters(quarter, f):
    """cos(pi / 2 * (quarter + f)) for |f| <= 0.56 and a whole number `quarter`."""
    z = f * f
    s = z * -3.544581921371765e-06 + 0.0001604216952819381
    s = s * z - 0.004681750904964987
    s = s * z + 0.07969262600402621
    s = s * z - 0.6459640974996065
    s = s * z + 1.570796326794867
    c = z * 4.639842731405489e-07 - 2.5198924094378535e-05
    c = c * z + 0.0009192595952316323
    c = c * z - 0.02086348068728289
    c = c * z + 0.25366950789699233
    c = c * z - 1.2337005501360887
    c = c * z + 1.0
    q = (quarter + ROUND).to(tl.int64, bitcast=True)
    y = tl.where((q & 1) != 0, f * -1.0 * s, c)
    return tl.where((q & 2) != 0, y * -1.0, y)


@triton.jit
def copysign(size, like):
    bits = size.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
    sign = (like.to(tl.int64, bitcast=True) >> 63) << 63
    return (bits | sign).to(tl.float64, bitcast=True)


@triton.jit
def optc_exp(x):
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        return exp_core(x.to(tl.float64)).to(tl.float32)


@triton.jit
def optc_log(x):
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        return log_any(x.to(tl.float64)).to(tl.float32)


@triton.jit
def optc_sigmoid(x):
    if x.dtype == tl.float64:
        return 1.0 / (tl.exp(x * -1.0) + 1.0)
    else:
        return (1.0 / (exp_core(x.to(tl.float64) * -1.0) + 1.0)).to(tl.float32)


@triton.jit
def optc_tanh(x):
    d = x.to(tl.float64)
    z = d * d
    if x.dtype == tl.float64:
        # (e - 1) / log(e) is smooth although e - 1 has lost digits (Kahan).
        e = tl.exp(tl.abs(d) * -2.0)
        fall = tl.where(e == 1, tl.abs(d) * -2.0, (e - 1.0) * (tl.abs(d) * -2.0) / tl.log(e))
        fall = tl.where(e == 0, -1.0, fall)
        return copysign(fall / (fall + 2.0), d)
    else:
        far = 1.0 - 2.0 / (exp_core(tl.abs(d) * 2.0) + 1.0)
        near = d * (
            1.0 - z * (0.3333333333333333 - z * (0.13333333333333333 - z * 0.05396825396825397))
        )
        return tl.where(tl.abs(d) < 0.0625, near, copysign(far, d)).to(tl.float32)


@triton.jit
def optc_atan(x):
    d = x.to(tl.float64)
    a = tl.abs(d)
    t = tl.where(a > 1, 1.0 / tl.where(a > 1, a, 1.0), a)
    z = t * t
    y = z * 1.2631178430477426e-05 - 0.00014617088163625013
    y = y * z + 0.0008033604181626027
    y = y * z - 0.0028047655531701315
    y = y * z + 0.007038646202989813
    y = y * z - 0.013674139288399478
    y = y * z + 0.021740213830758134
    y = y * z - 0.02970071773623423
    y = y * z + 0.03651081352721035
    y = y * z - 0.042125723963855326
    y = y * z + 0.04719723992321112
    y = y * z - 0.052527255573225747
    y = y * z + 0.05880342002401543
    y = y * z - 0.06666371187721098
    y = y * z + 0.0769227555520563
    y = y * z - 0.09090906605656898
    y = y * z + 0.11111110982087126
    y = y * z - 0.14285714281592693
    y = y * z + 0.19999999999929946
    y = y * z - 0.3333333333333286
    y = y * z + 1.0
    return copysign(tl.where(a > 1, 1.5707963267948966 - t * y, t * y), d).to(x.dtype)


@triton.jit
def optc_pow(x, y):
    """The rules of C99: pow(x, 0) and pow(1, y) are 1, a negative base needs a whole exponent.

    In float64 the relative error is that of y * ln(x): 1e-16 times its size.
    """
    a = tl.abs(x.to(tl.float64))
    d = y.to(tl.float64)
    if x.dtype == tl.float64:
        r = tl.exp(d * tl.log(a))
    else:
        r = exp_core(d * log_any(a))
    half = d * 0.5
    whole = optc_round(d) == d
    odd = whole & (optc_round(half) != half)
    value = tl.where((d == 0) | ((a == 1) & (d == d)), 1.0, r)
    value = tl.where((x < 0) & (a < INF) & (whole == 0) & (d == d), float("nan"), value)
    signed = copysign(tl.full((), 1.0, tl.float64), x.to(tl.float64)) < 0
    value = tl.where(signed & odd, value * -1.0, value)
    return tl.where(x == 1, 1.0, value).to(x.dtype)


@triton.jit
def optc_sin(x):
    return tl.sin(x.to(tl.float64)).to(x.dtype)


@triton.jit
def optc_cos(x):
    return tl.cos(x.to(tl.float64)).to(x.dtype)


@triton.jit
def optc_erf(x):
    return tl.erf(x.to(tl.float64)).to(x.dtype)
