"""An axis of a typed input has a name of its own, and the places of the one that it stands for."""

from __future__ import annotations

import pytest

from .compare import difference, interpreted, optimized

RENAMED = {
    "mean(x, over = (a, b))": "mean(x, over = (rows, cols))",
    "mean(x, over = b) * ones(a)": "mean(x, over = cols) * ones(rows)",
    "count(x, over = a) + 2 * size(b)": "rows + 2 * cols",
    "eye(a) @ x": "x",
    "x + ones(b)": "x + 1",
    "x + normal(x)": "x + normal(x)",
    "grad(y -> sum(mean(y^3, over = (a, b)), over = model), x)": "3 * x^2 / numel",
    "sum(x, over = a) / size(a)": "mean(x, over = rows)",
}


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("form", RENAMED)
@pytest.mark.parametrize("turned", [False, True])
def test_a_side_of_a_matrix_has_its_places_under_any_name(
    form: str, backend: str, turned: bool
) -> None:
    g = "transpose(matrix(grad(w)))" if turned else "matrix(grad(w))"
    own = RENAMED[form]
    if turned:
        own = own.replace("rows", "%").replace("cols", "rows").replace("%", "cols")
    rule = "rule r(lr = 0.1):\n    x = {}\n    y = {}\n    w <- w - lr * {} * grad(w)\n"
    function = (
        f"function f(x: tensor[a, b]):\n    y = {form}\n    return sum(y * x, over = (a, b))\n\n"
    )
    renamed = function + rule.format(g, "f(x)", "y")
    plain = rule.format(g, own, "sum(y * x, over = (rows, cols))")
    meaning = interpreted(plain, 2).tensors()
    assert difference(interpreted(renamed, 2).tensors(), meaning) < 1e-12
    values, _ = optimized(renamed, 2, backend)
    assert difference(values, meaning) < 1e-12
