"""An axis of a typed input has a name of its own, and the places of the one that it stands for."""

from __future__ import annotations

import pytest
import torch

import optc

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


SQUARE = {
    "S": "m",
    "inverse(S)": "inv(m)",
    "transpose(inverse(S))": "inv(m).mT",
    "S @ inverse(S @ transpose(S) + eye(n))": "m @ inv(m @ m.mT + one)",
    "S * solve(transpose(S), S)": "m * (inv(m.mT) @ m)",
    "as_square(transpose(matrix(w)))": "m",
    "S * sum(eigh(S + transpose(S))[0], over = n)": "m * 2 * m.trace()",
    "S * sum(cholesky(eye(n) + 0 * S) + sqrtm(eye(n) + 0 * S), over = (n, n'))": "6 * m",
}


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("form", SQUARE)
def test_a_square_tensor_has_an_inverse_and_eigenvalues(form: str, backend: str) -> None:
    """Its two sides have one name; `back` knows them under it. Other tensors go another way."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s).double()) for s in ((3, 3), (2, 4), (5,))]
    m = params[0].detach().clone()
    rule = (
        "rule r():\n    for params where ndim == 2 and rows == cols:\n"
        "        S = as_square(matrix(w))\n"
        f"        w <- back({form})\n    other:\n        w <- 0 * w\n"
    )
    opt = optc.loads(rule)(params, backend=backend)
    opt.step()
    names = {"m": m, "inv": torch.linalg.inv, "one": torch.eye(3).double()}
    wanted = eval(SQUARE[form], names)
    torch.testing.assert_close(params[0].detach(), wanted)
    assert not any(p.any() for p in params[1:])
