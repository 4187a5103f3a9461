"""Derivatives of functions that a rule writes, against autograd through the interpreter.

The interpreter computes with torch, so autograd can follow it from the tensors to a metric.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optc.compiler import driver
from optc.compiler.interpret import Tensors
from optc.compiler.ir import postorder
from optc.compiler.ops import OPS
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import CompileError, Source

from .loops import Objective, largest_gap, machine, started, wavy

SAFE = "(0.6 + 0.4 * tanh(p))"
"""Cells between 0.2 and 1: every function is smooth there."""

ONE = {
    "neg": "-{x}",
    "abs": "abs({x} - 0.6)",
    "sqrt": "sqrt({x})",
    "exp": "exp({x})",
    "ln": "ln({x})",
    "sin": "sin({x})",
    "cos": "cos({x})",
    "arctan": "arctan(3 * {x})",
    "tanh": "tanh({x})",
    "sigmoid": "sigmoid({x})",
    "erf": "erf({x})",
    "add": "{x} + p",
    "sub": "p - {x}",
    "mul": "{x} * p",
    "div": "p / {x}",
    "ratio": "p // {x}",
    "pow": "{x}^{x} + {x}^3",
    "max": "max({x}, p)",
    "min": "min({x}, 0.5 * p)",
    "where": "where(p > 0, {x}^2, -{x})",
}
FLAT = {"sign", "floor", "ceil", "round", "mod", "copy", "bf16"}
"""Their derivative is zero, or not asked for."""
ROUNDED = {"bf16", "f16", "dither_bf16", "dither_f16"}
"""Theirs is that of what they round, which no difference quotient sees."""

REDUCED = {
    "over the model": "sum(p^2, over = model)^2",
    "over tensors": "sum(sum(p, over = tensor)^2 * p, over = model)",
    "over rows": "sum(norm(p, over = row), over = model)",
    "over columns": "sum(sum(p, over = column)^3, over = model)",
    "a norm": "norm(p - 0.3, over = model)",
    "norms of tensors": "sum(norm(p, over = tensor) * cos(p), over = model)",
    "a mean": "mean(sin(p), over = model) * sum(p, over = model)",
    "the largest": "max(abs(p), over = model) * sum(p, over = model)",
    "the largest of tensors": "sum(max(p, over = tensor) * p, over = model)",
    "a product of sums": "dot(p, sin(p), over = model) * dot(p, p, over = model)",
    "dots of tensors": "sum(dot(p, p, over = tensor)^2, over = model)",
    "the loss": "loss(p) * loss(2 * p) + dot(p, p, over = model)",
    "the loss at its own gradient": "loss(p - 0.1 * grad(p))",
    "the loss behind a norm": "loss(p + 0.1 * p / norm(p, over = model))",
    "the norm of the gradient": "norm(grad(p), over = model)",
}
S = "(M @ transpose(M) + 2 * eye(rows))"
"""Positive definite, of each tensor; M is the tensor as a matrix."""

MATRICES = {
    "a matrix and back": "sum(back(3 * matrix(p))^2 * p, over = model)",
    "its own transpose": "sum(trace(M @ transpose(M)) * sum(p, over = tensor), over = model)",
    "a square product": f"sum(trace({S} @ {S}), over = model)",
    "the transpose of a square": f"sum(trace(transpose({S}) @ (M @ transpose(M))), over = model)",
    "a vector": "sum(sum((M @ sum(M, over = rows))^2, over = rows), over = model)",
    "a square times a vector": f"sum(norm({S} @ sum(M, over = cols), over = rows), over = model)",
    "an inverse": f"sum(trace(inverse({S}) @ M @ transpose(M)), over = model)",
    "a solution": f"sum(sum(solve({S}, M)^2, over = (rows, cols)), over = model)",
    "a solved vector": f"sum(norm(solve({S}, sum(M, over = cols)), over = rows), over = model)",
    "eigenvalues": f"sum(sum(ln(eigh({S})[0]), over = rows), over = model)",
    "singular values": "sum(sum(svd(M)[1]^3, over = singular), over = model)",
    "a dot of flats": "sum(flip(flat(p)) * cumsum(flat(p)^2), over = all)",
    "a place of an axis": "flat(p)[3]^2 * sum(p, over = model)",
    "a place of a matrix": "sum(M[0, :] * M[0, :], over = cols) * p",
    "a product of cells": "product(1 + 0.1 * flat(p), over = all)",
    "a Gramian": "trace(G(p) @ G(p))",
}
"""Over p, M = matrix(p) and G(p), the Gramian of three multiples of p."""

THIRD = {"the norm of the gradient", "the loss at its own gradient"}
"""Their curvature asks for a third derivative of the loss, which no loop offers."""


class Traced:
    """Oracles that autograd can see through."""

    def __init__(self, **objectives: Objective):
        self.objectives = objectives

    def value(self, name: str, points: Any, data: Any) -> Tensor:
        return self.objectives[name](points, data)

    def gradient(self, name: str, points: Any, data: Any, wrt: str) -> list[Tensor]:
        value = self.objectives[name](points, data)
        if value.dim():
            rows = [torch.autograd.grad(v, points[wrt], create_graph=True) for v in value]
            return [torch.stack(column) for column in zip(*rows, strict=True)]
        return list(torch.autograd.grad(value, points[wrt], create_graph=True))

    def hvp(self, name: str, points: Any, data: Any, wrt: str, of: str, v: Any) -> list[Tensor]:
        first = self.gradient(name, points, data, of)
        total = sum((g * x.detach()).sum() for g, x in zip(first, v, strict=True))
        return list(torch.autograd.grad(total, points[wrt], create_graph=True))

    def jvp(self, name: str, points: Any, data: Any, wrt: str, v: Any) -> Tensor:
        rows = self.gradient(name, points, data, wrt)
        axes = rows[0].dim() - points[wrt][0].dim()
        shape = (*rows[0].shape[:axes], -1)
        return sum((g * x).reshape(shape).sum(-1) for g, x in zip(rows, v, strict=True))

    def vjp(self, name: str, points: Any, data: Any, wrt: str, u: Tensor) -> list[Tensor]:
        value = self.objectives[name](points, data)
        return list(torch.autograd.grad(value, points[wrt], u, create_graph=True))


def residuals(points: Any, data: Any = None) -> Tensor:
    """Four numbers of the cells."""
    flat = torch.cat([x.reshape(-1) for x in points["w"]])
    return torch.stack([flat.sum(), (flat**3).sum(), torch.sin(flat).sum(), flat[0] * flat[-1]])


def ran(body: str, tensors: Tensors) -> Any:
    text = "rule r():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    run = machine(text, Traced(loss=wavy, residual=residuals), tensors)
    run.step()
    return run


def leaves() -> Tensors:
    tensors = started()
    tensors.values = [x.requires_grad_() for x in tensors.values]
    return tensors


def check_gradient(form: str, within: float = 1e-12) -> None:
    """`grad(f, w)` is what autograd says of f(w)."""
    tensors = leaves()
    run = ran(f"f = p -> {form}\nmetric f = f(w)\nw <- grad(f, w)", tensors)
    wanted = torch.autograd.grad(run.metrics["f"], tensors.values, materialize_grads=True)
    size = max(1.0, max(float(g.abs().max()) for g in wanted))
    assert largest_gap([x.detach() for x in run.tensors()], list(wanted)) < within * size


def test_every_operation_is_tested_or_flat() -> None:
    logical = {name for name, op in OPS.items() if op.logical}
    assert set(ONE) | FLAT | ROUNDED | logical == set(OPS)


@pytest.mark.parametrize("op", ONE)
def test_each_operation(op: str) -> None:
    check_gradient(f"sum(({ONE[op].format(x=SAFE)}) * cos(p), over = model)")


@pytest.mark.parametrize("name", REDUCED)
def test_reductions_and_oracles(name: str) -> None:
    check_gradient(REDUCED[name])


@pytest.mark.parametrize("name", [n for n in REDUCED if n not in THIRD])
def test_curvature_along_a_vector(name: str) -> None:
    form = REDUCED[name]
    tensors = leaves()
    run = ran(f"f = p -> {form}\nv = cos(3 * w)\nmetric f = f(w)\nw <- hvp(f, w, v)", tensors)
    first = torch.autograd.grad(run.metrics["f"], tensors.values, create_graph=True)
    total = sum(
        (g * torch.cos(3 * x).detach()).sum() for g, x in zip(first, tensors.values, strict=True)
    )
    wanted = torch.autograd.grad(total, tensors.values, materialize_grads=True)
    assert largest_gap([x.detach() for x in run.tensors()], list(wanted)) < 1e-10


@pytest.mark.parametrize("name", [n for n in REDUCED if "largest" not in n])
def test_forward_and_reverse_agree(name: str) -> None:
    body = """f = p -> {form}
v = cos(3 * w)
metric along = jvp(f, w, v)
metric back = dot(grad(f, w), v, over = model)
w <- w + 1"""
    run = ran(body.format(form=REDUCED[name]), leaves())
    assert abs(float((run.metrics["along"] - run.metrics["back"]).detach())) < 1e-10


def test_a_wide_value_goes_back_and_its_derivative_comes_wide() -> None:
    """Of tensors that are tall too."""
    form = "sum(back(c * sum(p^2, over = model)) * p^3, over = model)"
    tall = leaves()
    assert any(x.dim() == 2 and x.shape[0] > x.shape[1] for x in tall.values)
    one, other = (
        [x.detach() for x in ran(f"c = {c}\nw <- grad(p -> {form}, w)", leaves()).tensors()]
        for c in ("wide(w)^2", "matrix(w)^2")
    )
    assert largest_gap(one, other) < 1e-12


@pytest.mark.parametrize("f", ["loss", "p -> loss(p) + sum(p^4, over = model)"])
@pytest.mark.parametrize("how", ["grad(f{})", "hvp(f{}, v)", "vjp(f{}, 2)", "jvp(f{}, v) * v"])
def test_without_a_point_it_is_where_the_target_stands(how: str, f: str) -> None:
    """On that line, after what was written above; the point that the step began at is another."""
    body = f"v = cos(3 * w)\nf = {f}\nbegun = w\nw <- w + v\nw <- w - {how}"
    none, same, other = (ran(body.format(at), leaves()).tensors() for at in ("", ", w", ", begun"))
    assert all(map(torch.equal, none, same))
    assert not any(map(torch.equal, none, other))


def of_matrices(name: str) -> str:
    form = (
        MATRICES[name].replace("M", "matrix(p)").replace("dot(J(p), J(p)', over = model)", "G(p)")
    )
    return f"sum({form}, over = model)" if name == "a place of a matrix" else form


@pytest.mark.parametrize("name", MATRICES)
def test_views_and_matrices(name: str) -> None:
    form = of_matrices(name)
    body = f"""q = grid(probes, 1, 2, 3)
G = p -> dot(q * p, q' * p, over = model)
f = p -> {form}
v = cos(3 * w)
metric f = f(w)
metric along = jvp(f, w, v)
metric back = dot(grad(f, w), v, over = model)
w <- grad(f, w)"""
    forward = not any(x in name for x in ("inverse", "values", "product of cells"))
    if not forward:
        body = "\n".join(line for line in body.splitlines() if "along" not in line)
    tensors = leaves()
    run = ran(body, tensors)
    wanted = torch.autograd.grad(run.metrics["f"], tensors.values, materialize_grads=True)
    size = max(1.0, max(float(g.abs().max()) for g in wanted))
    assert largest_gap([x.detach() for x in run.tensors()], list(wanted)) < 1e-10 * size
    if forward:
        gap = abs(float((run.metrics["along"] - run.metrics["back"]).detach()))
        assert gap < 1e-10 * size


def test_a_vector_with_an_axis_is_mapped() -> None:
    """Products with curvature and both directions of a Jacobian, one for each probe."""
    body = """f = p -> sum(p^4, over = model) + dot(p, sin(p), over = model)^2
v = cos(grid(probes, 1, 2, 3) * w)
h = hvp(f, w, v)
metric all = sum(jvp(f, w, v)^2, over = probes)
metric one = jvp(f, w, v[0])^2 + jvp(f, w, v[1])^2 + jvp(f, w, v[2])^2
metric gap = norm(h[1] - hvp(f, w, v[1]), over = model) + norm(h[0] - hvp(f, w, v[0]), over = model)
w <- w + 1"""
    run = ran(body, leaves())
    assert abs(float((run.metrics["all"] - run.metrics["one"]).detach())) < 1e-10
    assert float(run.metrics["gap"].detach()) < 1e-10


def test_an_objective_with_an_axis_goes_both_ways() -> None:
    body = """u = residual(0.5 * w)
F = p -> residual(p^2)
metric forward = sum(jvp(F, w, cos(w)) * u, over = residuals)
metric back = dot(vjp(F, w, u), cos(w), over = model)
w <- vjp(F, w, u)"""
    tensors = leaves()
    run = ran("loss residual: model[residuals]\n" + body, tensors)
    assert abs(float((run.metrics["forward"] - run.metrics["back"]).detach())) < 1e-10
    squares = {"w": [x**2 for x in tensors.values]}
    weight = residuals({"w": [0.5 * x for x in tensors.values]}).detach()
    wanted = torch.autograd.grad((residuals(squares) * weight).sum(), tensors.values)
    assert largest_gap([x.detach() for x in run.tensors()], list(wanted)) < 1e-12


def test_a_jacobian_of_a_written_function_has_its_axes() -> None:
    body = """f = p -> grid(points, 1, 2, 3) * sum(p^3, over = model)
J = jacobian(f, w)
metric gap = norm(J - grid(points, 1, 2, 3) * 3 * w^2, over = model)[0]
w <- J[2]"""
    tensors = leaves()
    run = ran(body, tensors)
    assert float(run.metrics["gap"].detach()) < 1e-10
    wanted = [6 * x.detach() ** 2 for x in tensors.values]
    assert largest_gap([x.detach() for x in run.tensors()], wanted) < 1e-10


def test_a_point_may_be_given_by_the_name_of_its_target() -> None:
    body = """f = p -> sum(p^4, over = model)
v = cos(w)
metric gap = norm(hvp(f, v, w = 2 * w) - hvp(f, 2 * w, v), over = model)
metric along = jvp(f, v, w = 2 * w) - jvp(f, 2 * w, v)
metric rise = norm(grad(f, w = 2 * w) - grad(f, 2 * w), over = model)
w <- hvp(f, v, w = 2 * w)"""
    run = ran(body, leaves())
    assert all(float(run.metrics[n].detach()) == 0 for n in ("gap", "along", "rise"))
    wanted = [48 * x.detach() ** 2 * x.detach().cos() for x in leaves().values]
    assert largest_gap([x.detach() for x in run.tensors()], wanted) < 1e-10


@pytest.mark.parametrize("form", ["jvp(loss, w, w{})", "jvp(loss, w{})", "vjp(loss, w, 1{})"])
def test_a_derivative_along_a_vector_is_of_the_data_that_it_is_given(form: str) -> None:
    text = "rule r(lr = 0.1):\n    w <- w - lr * sum({}, over = model) * w\n"
    for given, ops in (("", {"batch"}), (", on = draw(val)", {"draw"})):
        made = driver.graph(Source("r.opt", text.format(form.format(given))), NoLibrary())
        reached = [n for n in postorder(made.roots()) if n.op == "evaluate"]
        assert {n.inputs[1].op for n in reached} == ops


def test_a_norm_of_nothing_has_no_slope() -> None:
    """As in torch: the length of zero has many subgradients, and zero is one of them."""
    body = "f = p -> norm(p - w, over = model) + sum(norm(p - w, over = row)^2, over = model)"
    run = ran(f"{body}\nw <- grad(f, w)", leaves())
    assert all(bool((x == 0).all()) for x in run.tensors())


def test_a_rolled_axis_rolls_back() -> None:
    check_gradient("dot(roll(flat(p), over = all), sin(flat(p)), over = all)")


@pytest.mark.parametrize("n", [2, 200])
def test_the_first_places_of_an_axis(n: int) -> None:
    form = f"first(flat(p)^2, lead({n}), over = all)"
    check_gradient(f"dot({form}, sin({form}), over = lead)")


def test_a_captured_name_is_a_constant() -> None:
    tensors = leaves()
    run = ran("c = 3 * w\nw <- grad(p -> dot(p, c, over = model), w)", tensors)
    assert (
        largest_gap([x.detach() for x in run.tensors()], [3 * x.detach() for x in tensors.values])
        == 0
    )


def test_what_has_no_derivative_is_an_error() -> None:
    with pytest.raises(CompileError, match="E306"):
        ran("w <- grad(p -> p, w)", leaves())
    with pytest.raises(CompileError, match="E307"):
        ran("w <- grad(p -> sum(top(p, by = abs, fraction = 0.5, over = model), over = model), w)",
            leaves())  # fmt: skip


def test_inside_a_block_only_its_cells_vary() -> None:
    text = """
rule r():
    base = loss
    for params where ndim == 2:
        loss = p -> base(p) + 2 * dot(p, p, over = model)
        w <- grad(w)
    for other params:
        w <- grad(w)
"""
    tensors = leaves()
    run = machine(text, Traced(loss=wavy), tensors)
    wanted = torch.autograd.grad(wavy({"w": tensors.values}), tensors.values)
    run.step()
    expected = [
        g + 4 * x.detach() if x.dim() == 2 else g
        for g, x in zip(wanted, tensors.values, strict=True)
    ]
    assert largest_gap([x.detach() for x in run.tensors()], expected) < 1e-12
