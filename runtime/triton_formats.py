"""Values of emitted Triton phases rounded to the type they are kept in: to nearest or by chance."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_math import copysign


@triton.jit
def upper_half(x):
    """The bits of a float rounded to bfloat16, to nearest even; a NaN stays one."""
    u = x.to(tl.int32, bitcast=True)
    rounded = u + 0x7FFF + ((u >> 16) & 1)
    return tl.where(x != x, u | 0x00400000, rounded) >> 16


@triton.jit
def optc_bf16(x):
    """Rounded to bfloat16, and back."""
    bits = upper_half(x.to(tl.float32)) << 16
    return bits.to(tl.float32, bitcast=True).to(x.dtype)


@triton.jit
def optc_as(x, kind: tl.constexpr):
    """A value in the type of its column: truth values are 0 and 1, 16 bits come from float32."""
    if kind == tl.uint8:
        return (x != 0).to(tl.uint8)
    elif kind == tl.bfloat16:
        return upper_half(x.to(tl.float32)).to(tl.int16).to(tl.bfloat16, bitcast=True)
    elif kind == tl.float16:
        return x.to(tl.float32).to(tl.float16)
    else:
        return x.to(kind)


@triton.jit
def optc_f16(x):
    return x.to(tl.float32).to(tl.float16).to(x.dtype)


@triton.jit
def optc_dither_bf16(x, chance):
    f = x.to(tl.float32)
    u = f.to(tl.int32, bitcast=True)
    kept = tl.where(f != f, u | 0x00400000, u + chance.to(tl.int32)) & -65536
    return kept.to(tl.float32, bitcast=True).to(x.dtype)


@triton.jit
def optc_dither_f16(x, chance):
    f = x.to(tl.float32)
    own = ((f.to(tl.int32, bitcast=True) >> 23) & 0xFF).to(tl.int64)
    exponent = tl.where(own < 113, 113, own)
    quantum = ((exponent + 886) << 52).to(tl.float64, bitcast=True)
    inverse = ((1160 - exponent) << 52).to(tl.float64, bitcast=True)
    wide = f.to(tl.float64)
    count = tl.floor(tl.abs(wide) * inverse + chance.to(tl.float64) * 0.0000152587890625)
    return copysign(count * quantum, wide).to(tl.float32).to(tl.float16).to(x.dtype)
