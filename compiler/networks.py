"""The networks over which workers mix, as matrices of weights. Plain data, read without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

Weights = tuple[Any, ...]
"""`("ring", share)`, `("complete",)`, `("star",)` or `("matrix", rows)`: plain data."""

Rows = tuple[tuple[float, ...], ...]


def _ring(n: int, share: float) -> list[list[float]]:
    rows = [[0.0] * n for _ in range(n)]
    for i in range(n):
        rows[i][i] += 1 - 2 * share
        for j in (i - 1, i + 1):
            rows[i][j % n] += share
    return rows


def _complete(n: int) -> list[list[float]]:
    return [[1 / n] * n for _ in range(n)]


def _star(n: int) -> list[list[float]]:
    """Worker 0 is the centre; the weights are those of Metropolis: 1/n along each edge."""
    rows = [[0.0] * n for _ in range(n)]
    for i in range(1, n):
        rows[i][i], rows[0][i], rows[i][0] = 1 - 1 / n, 1 / n, 1 / n
    rows[0][0] = 1 / n
    return rows


NETWORKS: dict[str, Callable[..., Any]] = {"ring": _ring, "complete": _complete, "star": _star}


@lru_cache(maxsize=64)
def rows_of(weights: Weights, n: int) -> Rows:
    """The matrix among n workers."""
    kind, *rest = weights
    rows = rest[0] if kind == "matrix" else NETWORKS[kind](n, *rest)
    if len(rows) != n:
        raise ValueError(f"the mixing matrix is for {len(rows)} workers, and there are {n}")
    return tuple(tuple(float(x) for x in row) for row in rows)


def unfit(rows: Sequence[Sequence[float]]) -> str:
    """What keeps a matrix from being doubly stochastic, or ""."""
    n = len(rows)
    if any(len(row) != n for row in rows):
        return f"is not square: {n} rows of {', '.join(str(len(r)) for r in rows)}"
    for i in range(n):
        for what, total in (
            ("row", sum(rows[i])),
            ("column", sum(row[i] for row in rows)),
        ):
            if abs(total - 1) > 1e-6:
                return f"is not doubly stochastic: {what} {i} sums to {total:.6g}, not to 1"
    return ""
