"""A value that is bound above a block counts in it at the block's tensors, whatever it meets."""

from __future__ import annotations

import pytest

from .compare import difference, interpreted, optimized

BODIES = {
    "the cells of a matrix, back": "w <- w - lr * back(matrix(g) * norm(w, over = tensor), g)",
    "a product of matrices": "w <- w - lr * back(matrix(g) @ transpose(matrix(w)) @ matrix(w), g)",
    "a solution": "w <- w - lr * back(solve(eye(rows) + matrix(w) @ transpose(matrix(w)), f), w)",
    "a write": """
        state m = zeros(w)
        m <- g
        w <- w - lr * m / norm(m, over = model)""",
    "a write of each row": """
        state r: tensor[rows] = 0
        r <- mean(matrix(g)^2, over = cols)
        w <- w - lr * w / sqrt(mean(r, over = rows))""",
    "a write of a place": """
        state C: element[window(2)] = 0
        C[(call - 1) % 2] <- g
        w <- w - lr * sum(C, over = window)""",
    "products with an axis": """
        state C: element[window(2)] = 0
        C[0] <- grad(w)
        w <- w - lr * sum(dot(C, g, over = tensor), over = window) * w""",
}


BOUND = "g = grad(w)\n{0}f = matrix(grad(w))\n"
RULE = "rule r(lr = 0.01):\n{0}    for params where ndim == 2:\n{1}    other:\n        w <- w + 1\n"


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_bound_above_a_block_is_the_same_in_it(body: str) -> None:
    narrow, deep = " " * 4, " " * 8
    lines = deep + body.strip() + "\n"
    above = RULE.format(narrow + BOUND.format(narrow), lines)
    inside = RULE.format("", deep + BOUND.format(deep) + lines)
    wanted, _ = optimized(inside, 3, "eager")
    found, _ = optimized(above, 3, "eager")
    assert difference(found, wanted) < 1e-14
    assert difference(interpreted(above, 3).tensors(), wanted) < 1e-12
