"""Arithmetic on Python floats that never raises: what torch would give in float64.

Constants are folded with it, and the scalars that the host knows (bias corrections, schedules) are
computed with it once a step in double. Where torch.compile traces a pure step, clocks and options
are symbols: what it cannot trace (`math.isfinite`) or would fix at one number (`math.pow`,
`math.exp`, `math.log`) is said in what it can.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable

inf, nan = math.inf, math.nan
LN2 = math.log(2)


def is_compiling() -> bool:
    """Whether torch.compile traces this; torch is not loaded for it."""
    return "torch" in sys.modules and bool(sys.modules["torch"].compiler.is_compiling())


def div(a: float, b: float) -> float:
    if b == 0:
        return nan if a == 0 or a != a else math.copysign(inf, a) * math.copysign(1.0, b)
    return a / b


def ratio(a: float, b: float) -> float:
    """a / b, and 0 where the divisor is 0."""
    return 0.0 if b == 0 else a / b


def mod(a: float, b: float) -> float:
    return nan if b == 0 or abs(a) == inf else a % b


def pow(a: float, b: float) -> float:
    try:
        return a**b if a > 0 else math.pow(a, b)
    except OverflowError:
        return -inf if a < 0 and b % 2 == 1 else inf
    except ValueError:  # 0 to a negative power, or a root of a negative number
        return inf if a == 0 else nan


def sign(a: float) -> float:
    return nan if a != a else float((a > 0) - (a < 0))


def sqrt(a: float) -> float:
    return math.sqrt(a) if a >= 0 else nan


def exp(a: float) -> float:
    if a > 709.782712893384:
        return inf
    return math.e**a if is_compiling() else math.exp(a)


def ln(a: float) -> float:
    if a > 0:
        return math.log2(a) * LN2 if is_compiling() else math.log(a)
    return -inf if a == 0 else nan


def sin(a: float) -> float:
    return nan if abs(a) == inf else math.sin(a)


def cos(a: float) -> float:
    return nan if abs(a) == inf else math.cos(a)


def sigmoid(a: float) -> float:
    return div(1.0, 1.0 + exp(-a))


def floor(a: float) -> float:
    return float(math.floor(a)) if abs(a) < inf else a


def ceil(a: float) -> float:
    return float(math.ceil(a)) if abs(a) < inf else a


def round_even(a: float) -> float:
    return float(round(a)) if abs(a) < inf else a


def bf16(a: float) -> float:
    """Rounded to float32, then to bfloat16, to even."""
    if a != a:
        return a
    try:
        (bits,) = struct.unpack("<I", struct.pack("<f", a))
    except OverflowError:
        return math.copysign(math.inf, a)
    bits = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def maximum(a: float, b: float) -> float:
    """The larger one; NaN in either stays."""
    return a if a != a or (b == b and a >= b) else b


def minimum(a: float, b: float) -> float:
    return a if a != a or (b == b and a <= b) else b


def where(c: float, a: float, b: float) -> float:
    return a if c else b


def f16(a: float) -> float:
    """The nearest float16, ties to even."""
    try:
        return float(struct.unpack("<e", struct.pack("<e", a))[0])
    except OverflowError:
        return math.copysign(math.inf, a)


HOST: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": div,
    "ratio": ratio,
    "mod": mod,
    "pow": pow,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": sign,
    "sqrt": sqrt,
    "exp": exp,
    "ln": ln,
    "sin": sin,
    "cos": cos,
    "arctan": math.atan,
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "erf": math.erf,
    "floor": floor,
    "ceil": ceil,
    "round": round_even,
    "bf16": bf16,
    "max": maximum,
    "min": minimum,
    "where": where,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "not": lambda a: not a,
    "isfinite": lambda a: abs(a) < inf,
    "f16": f16,
    # by chance only where a draw says so, and a draw is no number of the host
    "dither_bf16": lambda a, u: bf16(a),
    "dither_f16": lambda a, u: f16(a),
    "copy": float,
}
"""One function a row of ops.OPS."""


def both(a: float, b: float) -> bool:
    return bool(a) and bool(b)


def either(a: float, b: float) -> bool:
    return bool(a) or bool(b)


def same(a: float) -> float:
    return a
