"""A matrix that torch cannot decompose or solve with: the step says which, and leaves no trace."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import optc
from optc.compiler.emit.standalone import standalone
from optc.runtime.native import compiler
from optc.runtime.optimizer import optimizer_class

from .compare import compiled

BACKENDS = ["eager", *(["c"] if compiler() else [])]
TEXT = """rule r(lr = 0.1):
    state m = zeros(w), L: tensor[rows, rows'] = 0, n: model = 0
    g = grad(w)
    m <- 0.9 * m + g
    L <- 0.5 * L + matrix(g) @ transpose(matrix(g))
    always n <- n + norm(g, over = model)
    {body}
    w <- w - lr * back(x) - m
"""
CASES = {
    "eigh": ("values, q = eigh(L)\n    x = q @ matrix(g)", "inf"),
    "svd": ("u, s, v = svd(matrix(g))\n    x = matrix(g) * max(s, over = singular)", "nan"),
    "polar": ("x = polar(matrix(g))", "nan"),
    "sqrtm": ("x = sqrtm(L) @ matrix(g)", "nan"),
    "lstsq": (
        "y = lstsq(L, norm(matrix(g), over = cols))\n    x = matrix(g) * norm(y, over = rows')",
        "nan",
    ),
    "solve": ("x = solve(L, matrix(g))", "0"),
    "solve by substitution": ("x = solve(transpose(upper(L)), matrix(g))", "0"),
    "inverse": ("x = inverse(L) @ matrix(g)", "0"),
    "cholesky": ("x = cholesky(L) @ matrix(g)", "0"),
}


def everything(opt: Any) -> dict[str, Any]:
    """A copy of the parameters, the state and the groups."""
    params = [p for g in opt.param_groups for p in g["params"]]
    found = {f"{i}": p.detach().clone() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        found |= {f"{i}.{k}": v.clone() for k, v in opt.state[p].items() if torch.is_tensor(v)}
    first = opt.param_groups[0]
    return found | {k: torch.tensor(first[k]) for k in ("calls", "steps")}


def failing(opt: Any, wrong: float) -> str:
    """What the third step says, which gives the third tensor gradients that are wrong."""
    params = [p for g in opt.param_groups for p in g["params"]]
    for p in params:
        p.grad = torch.eye(3, dtype=p.dtype)[: len(p)]
    opt.step()
    opt.step()
    p = params[2]
    p.grad = torch.full_like(p, wrong)
    if "L" in opt.state[p]:  # it is left out where nothing reads it
        opt.state[p]["L"].zero_()
    before = everything(opt)
    with pytest.raises(torch.linalg.LinAlgError) as told:
        opt.step()
    after = everything(opt)
    assert before.keys() == after.keys()
    assert [k for k in before if not torch.equal(before[k], after[k])] == []
    p.grad = torch.eye(3, dtype=p.dtype)
    opt.step()
    assert opt.param_groups[0]["steps"] == 3
    return str(told.value)


def tensors() -> list[Any]:
    shapes = ((2, 3), (3, 3), (3, 3), (3, 3))
    return [torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in shapes]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", CASES)
def test_the_error_names_the_tensor_and_the_line_and_nothing_is_written(
    operation: str, backend: str
) -> None:
    body, wrong = CASES[operation]
    cls = optimizer_class(compiled(TEXT.format(body=body)))
    named = [(f"layer.{i}", p) for i, p in enumerate(tensors())]
    said = failing(cls(named, backend=backend), float(wrong))
    head, line, *reason = said.splitlines()
    assert head == f"r: `{operation.partition(' ')[0]}` failed for `layer.2`"
    assert line.startswith("  rule.opt:7:") and line.endswith(body.splitlines()[0])
    assert ("not finite" in said) is (wrong != "0")
    assert ("singular" in said or "positive-definite" in said) is (wrong == "0")
    assert "Batch element" not in said and len(reason) < 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_ready_long_before_is_not_written_either(backend: str) -> None:
    body = (
        "size = norm(m, over = model)\n    x = solve(L / norm(m / size, over = model), matrix(m))"
    )
    text = TEXT.replace("back(x) - m", "back(x)").format(body=body)
    said = failing(optimizer_class(compiled(text))(tensors(), backend=backend), 0.0)
    assert "`solve` failed for parameter 2\n" in said


def test_without_names_the_tensor_has_its_number() -> None:
    cls = optimizer_class(compiled(TEXT.format(body="x = polar(matrix(g))")))
    assert "`polar` failed for parameter 2\n" in failing(cls(tensors()), float("nan"))


def test_a_matrix_of_the_model_and_a_library_that_solves_with_it() -> None:
    text = """function weights(G: model[losses, losses']):
    return solve(G, ones(losses))

rule r(lr = 0.1):
    state m = zeros(w)
    losses tasks: model[losses]
    J = grad(w)
    m <- 0.9 * m + w
    w <- w - lr * sum(weights(dot(J, J', over = model)) * J, over = losses) - m
"""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = optc.loads(text)([p]).bind(objective=lambda b: torch.stack([p.sum(), (p * b).sum()]))
    opt.step(batch=torch.arange(3.0))
    before = everything(opt)
    with pytest.raises(torch.linalg.LinAlgError) as told:
        opt.step(batch=torch.ones(3))
    head, *lines = str(told.value).splitlines()
    assert head == "r: `solve` failed"
    assert "<string>:2:12: return solve(G, ones(losses))" in lines[0] + lines[1]
    assert all(torch.equal(v, everything(opt)[k]) for k, v in before.items())


def test_a_module_of_its_own_shows_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(standalone(compiled(TEXT.format(body=CASES["solve"][0]))))
    made: dict[str, Any] = runpy.run_path(str(tmp_path / "own.py"))
    said = failing(made["R"](tensors()), 0.0)
    assert said.startswith("r: `solve` failed for parameter 2\n")
    assert "matrices.solve(" in said and "singular" in said


def test_what_fails_in_a_loop_is_told_too() -> None:
    body = """var x = matrix(g)
    repeat n_times:
        x <- inverse(L) @ x"""
    text = TEXT.replace("lr = 0.1", "lr = 0.1, n_times = 3").format(body=body)
    said = failing(optimizer_class(compiled(text))(tensors()), 0.0)
    assert said.startswith("r: `inverse` failed for parameter 2\n  rule.opt:9:14: x <- inverse(L)")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guard_spares_the_matrix_that_a_state_begins_with(backend: str) -> None:
    text = (
        "rule r(lr = 0.1):\n    m = matrix(grad(w))\n"
        "    values, V = eigh(m @ transpose(m) + eye(rows))\n    d = back(V @ transpose(V) @ m)\n"
        "    w <- w - lr * d\n    state least = w\n    least <- min(least, w)\n"
        "    metric low = sum(least, over = model)\n"
    )
    p = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
    opt = optc.loads(text, guard=True)([p], backend=backend)
    for factor in (float("nan"), 1.0):
        p.grad = torch.full_like(p, factor)
        opt.step()
        assert ("least" in opt.state[p]) == (factor == 1.0)
    assert torch.equal(opt.state[p]["least"], p) and bool((p < 1).all())


def test_a_guard_leaves_the_point_of_evaluation_in_its_slot() -> None:
    text = (
        "rule r(lr = 0.1):\n    g = grad(w)\n    m = matrix(g)\n"
        "    d = back(solve(m @ transpose(m) + eye(rows), m))\n"
        "    state average = w\n    w <- w - lr * (d + g)\n"
        "    average <- 0.5 * average + 0.5 * w\n    eval average\n"
    )
    p = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    opt = optc.loads(text, guard=True)([p])
    p.grad = torch.full_like(p, 0.5)
    opt.step()
    held, average = p.detach().clone(), opt.state[p]["average"].clone()
    opt.eval()
    assert torch.equal(p, average) and not torch.equal(p, held)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guard_spares_the_matrix_that_gives_a_point(backend: str) -> None:
    text = (
        "rule r(lr = 0.1):\n    values, V = eigh(dense_hessian(loss, w))\n"
        "    a = w - lr * grad(w) / (1 + max(values, over = all))\n    w <- w - lr * grad(a)\n"
    )
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    opt = optc.loads(text, guard=True)([p], backend=backend)
    factor = [1.0]
    opt.bind(objective=lambda: factor[0] * ((p**4).sum() + p.prod()))
    opt.step()
    before, factor[0] = p.detach().clone(), float("nan")
    opt.step()
    assert torch.equal(p, before)
    factor[0] = 1.0
    opt.step()
    assert not torch.equal(p, before)
