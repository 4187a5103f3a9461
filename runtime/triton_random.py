"""Random numbers of emitted Triton phases: random.py and random.h say the same."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_math import ROUND, log_core, quarters


@triton.jit
def optc_key(seed, stream: tl.constexpr):
    """The 64-bit key of a stream, as random.py makes it."""
    k = seed + (tl.full((), stream, tl.uint64) + 1) * 0x9E3779B97F4A7C15
    k = (k ^ (k >> 30)) * 0xBF58476D1CE4E5B9
    k = (k ^ (k >> 27)) * 0x94D049BB133111EB
    return k ^ (k >> 31)


@triton.jit
def words(key, cell, call):
    """Philox4x32-10 with the counter (cell low, cell high, call low, 0)."""
    low = cell.to(tl.uint32)
    high = (cell >> 32).to(tl.uint32)
    return tl.philox(key, low, high, low * 0 + call.to(tl.uint32), low * 0)


@triton.jit
def mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def chance_word(key, cell, call, which: tl.constexpr):
    """A word for rounding by chance, as random.h makes it."""
    k = key + call.to(tl.uint64) * 0x9E3779B97F4A7C15
    k = (k ^ (k >> 30)) * 0xBF58476D1CE4E5B9
    k = (k ^ (k >> 27)) * 0x94D049BB133111EB
    k = k ^ (k >> 31)
    far = (cell >> 32).to(tl.uint32) * 0x9E3779B1
    first = mix(cell.to(tl.uint32) ^ k.to(tl.uint32)) + ((k >> 32).to(tl.uint32) + far)
    return mix(first + which * 0x9E3779B9 % 4294967296)


@triton.jit
def open_interval(high, low):
    """52 bits in the middle of their interval: never 0, never 1."""
    bits = (high.to(tl.uint64) << 20) | (low >> 12).to(tl.uint64)
    return (bits.to(tl.float64) + 0.5) * 2.220446049250313e-16


@triton.jit
def optc_uniform(key, cell, call, kind: tl.constexpr):
    a, b, c, d = words(key, cell, call)
    u = open_interval(a, b)
    if kind == tl.float64:
        return u
    else:
        return tl.where(u.to(tl.float32) < 1, u.to(tl.float32), 0.9999999403953552)


@triton.jit
def optc_rademacher(key, cell, call, kind: tl.constexpr):
    a, b, c, d = words(key, cell, call)
    return ((a >> 31).to(kind)) * 2.0 - 1.0


@triton.jit
def low_half(word, kind: tl.constexpr):
    return (word & 0xFFFF).to(tl.int32).to(kind)


@triton.jit
def optc_chance0(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 0), kind)


@triton.jit
def optc_chance1(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 0) >> 16, kind)


@triton.jit
def optc_chance2(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 1), kind)


@triton.jit
def optc_chance3(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 1) >> 16, kind)


@triton.jit
def optc_chance4(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 2), kind)


@triton.jit
def optc_chance5(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 2) >> 16, kind)


@triton.jit
def optc_chance6(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 3), kind)


@triton.jit
def optc_chance7(key, cell, call, kind: tl.constexpr):
    return low_half(chance_word(key, cell, call, 3) >> 16, kind)


@triton.jit
def optc_normal(key, cell, call, kind: tl.constexpr):
    a, b, c, d = words(key, cell, call)
    if kind == tl.float64:
        return tl.sqrt(tl.log(open_interval(a, b)) * -2.0) * tl.cos(
            open_interval(c, d) * 6.283185307179586
        )
    else:
        turn = open_interval(c, d) * 4.0
        quarter = (turn + ROUND) - ROUND
        size = tl.sqrt(log_core(open_interval(a, b)) * -2.0)
        return (size * quarters(quarter, turn - quarter)).to(tl.float32)
