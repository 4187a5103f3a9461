"""Random numbers that depend on seed, stream, call and cell alone; random.h says the same in C."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_LONG = 0xFFFFFFFFFFFFFFFF


def key(seed: int, stream: int) -> int:
    """The 64-bit key of a stream: a stream is the hash of the path of a draw."""
    return _finish(seed + ((stream & _WORD) + 1) * 0x9E3779B97F4A7C15)


def _finish(k: int) -> int:
    k &= _LONG
    k = ((k ^ k >> 30) * 0xBF58476D1CE4E5B9) & _LONG
    k = ((k ^ k >> 27) * 0x94D049BB133111EB) & _LONG
    return k ^ k >> 31


def philox(
    seed: int, stream: int, call: int, n: int, offset: int = 0, *, draw: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (in int64) for each of the cells offset..offset + n - 1.

    Philox4x32-10 with the counter (cell low, cell high, call low, draw).
    """
    cell = torch.arange(offset, offset + n, dtype=torch.int64, device="cpu")
    return _words(key(seed, stream), cell & _WORD, cell >> 32 & _WORD, call & _WORD, draw & _WORD)


def _words(whole: int, a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    """The words of a counter, of plain integers too."""
    low, high = whole & _WORD, whole >> 32
    for _ in range(10):
        (p_high, p_low), (q_high, q_low) = _multiply(a, 0xD2511F53), _multiply(c, 0xCD9E8D57)
        a, b, c, d = q_high ^ b ^ low, q_low, p_high ^ d ^ high, p_low
        low, high = (low + 0x9E3779B9) & _WORD, (high + 0xBB67AE85) & _WORD
    return a, b, c, d


def uniform(seed: int, stream: int, call: int, n: int, offset: int = 0, *, draw: int = 0) -> Tensor:
    """Between 0 and 1, both excluded, in float64."""
    a, b, _, _ = philox(seed, stream, call, n, offset, draw=draw)
    return _open(a, b)


def number(seed: int, stream: int, call: int) -> float:
    """The first number of `uniform`, in a fiftieth of the time."""
    if torch.compiler.is_compiling():  # ten rounds of symbols would not come to an end
        return float(uniform(seed, stream, call, 1)[0])
    a, b, _, _ = _words(key(seed, stream), 0, 0, call & _WORD, 0)
    return ((a << 20 | b >> 12) + 0.5) * 2.0**-52


def normal(seed: int, stream: int, call: int, n: int, offset: int = 0, *, draw: int = 0) -> Tensor:
    """Standard normal, by Box and Muller, in float64."""
    a, b, c, d = philox(seed, stream, call, n, offset, draw=draw)
    return torch.sqrt(-2 * torch.log(_open(a, b))) * torch.cos(2 * torch.pi * _open(c, d))


def rademacher(
    seed: int, stream: int, call: int, n: int, offset: int = 0, *, draw: int = 0
) -> Tensor:
    """1 or -1, in float64."""
    a, *_ = philox(seed, stream, call, n, offset, draw=draw)
    return (a >> 31).double() * 2 - 1


def chance(which: int, seed: int, stream: int, call: int, n: int, offset: int = 0) -> Tensor:
    """One of the eight whole numbers from 0 to 65535 of a draw, for rounding by chance.

    A hash of seed, stream, call and cell, which costs a tenth of Philox; random.h says why.
    """
    whole = _finish(key(seed, stream) + (call & _LONG) * 0x9E3779B97F4A7C15)
    cell = torch.arange(offset, offset + n, dtype=torch.int64, device="cpu")
    high = (whole >> 32) + _multiply(cell >> 32 & _WORD, 0x9E3779B1)[1]
    first = _mix(cell & _WORD ^ (whole & _WORD)) + high
    word = _mix(first + which // 2 * 0x9E3779B9 & _WORD)
    return (word >> 16 * (which % 2) & 0xFFFF).double()


def _mix(x: Tensor) -> Tensor:
    x = _multiply(x ^ x >> 16, 0x7FEB352D)[1]
    x = _multiply(x ^ x >> 15, 0x846CA68B)[1]
    return x ^ x >> 16


def _multiply(word: Any, factor: int) -> tuple[Any, Any]:
    """High and low word of a product: in halves, since int64 has no room for 64 bits and a sign."""
    low, high = word * (factor & 0xFFFF), word * (factor >> 16)
    whole = low + ((high & 0xFFFF) << 16)
    return (high >> 16) + (whole >> 32), whole & _WORD


def _open(high: Tensor, low: Tensor) -> Tensor:
    """52 bits in the middle of their interval."""
    return ((high << 20 | low >> 12).double() + 0.5) * 2.0**-52


_DRAW = {"uniform": uniform, "normal": normal, "rademacher": rademacher}


def draw(
    how: str,
    seed: int,
    stream: int,
    call: int,
    n: int,
    offset: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """`n` numbers of a distribution for the cells offset..offset + n - 1."""
    if how.startswith("chance"):
        return chance(int(how[6:]), seed, stream, call, n, offset).to(dtype)
    return _DRAW[how](seed, stream, call, n, offset).to(dtype)
