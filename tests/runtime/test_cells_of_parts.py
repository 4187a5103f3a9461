"""Cells of parts and of the whole: flat values, points, places where no tensor is."""

from __future__ import annotations

import pytest
import torch

import optc
from optc.runtime.native import compiler

from .test_crossings import NOISY, parameters, run

BACKENDS = ["eager", *(["c"] if compiler() else [])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_do_not_ask_how_a_tensor_lies(backend: str) -> None:
    found = []
    for turned in (False, True):
        params = parameters()
        if turned:
            params[0] = torch.nn.Parameter(params[0].detach().t().contiguous().t())
        found.append(run(optc.loads(NOISY)(params, backend=backend), 3))
    assert not found[1][0].is_contiguous()
    assert all(map(torch.allclose, *found))


@pytest.mark.parametrize("within", ["a part", "the whole"])
def test_all_cells_are_those_of_the_part_and_a_complex_one_is_two(within: str) -> None:
    newton = "H = eye(all) + flat(grad(w)) * prime(flat(grad(w)))\n"
    newton += "{0}metric n = size(all)\n{0}w <- w - lr * back(solve(H, flat(grad(w))))\n"
    if within == "a part":
        text = "    for params where ndim == 1:\n        " + newton.format(8 * " ")
        text += "    for other params:\n        step lr\n"
    else:
        text = "    " + newton.format(4 * " ")
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.complex128))
    q = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    params = [q, p] if within == "a part" else [p]
    opt = optc.loads("rule r(lr = 0.1):\n" + text)(params)
    p.grad, q.grad = torch.full_like(p, 1 + 2j), torch.ones_like(q)
    opt.step()
    assert float(opt.metrics["n"]) == 6
    assert torch.allclose(p, 1 - 0.1 * (1 + 2j) / (1 + 15) * torch.ones_like(p))


def test_each_part_has_a_point_of_evaluation_of_its_own() -> None:
    text = """rule r(lr = 0.1):
    for params where ndim == 2:
        state x = w
        step lr
        x <- 0.5 * x + 0.5 * w
        eval x
    for other params:
        step lr
        eval 3 * w
"""
    p, q = (torch.nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((2, 2), (3,)))
    opt = optc.loads(text)([p, q])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    for at_eval, held in ((0.95, 0.9), (0.875, 0.8)):
        opt.step()
        opt.eval()
        assert torch.allclose(p, torch.full_like(p, at_eval))
        assert torch.allclose(q, torch.full_like(q, 3 * held))
        opt.train()
        assert torch.allclose(p, torch.full_like(p, held))
        assert torch.allclose(q, torch.full_like(q, held))


def test_flat_values_of_a_part_without_tensors() -> None:
    text = """rule r(lr = 0.1):
    for params where ndim == 5:
        state start = flat(w)
        w <- w - lr * back(solve(eye(all), flat(grad(w)) + 0 * start))
    for other params:
        step lr
"""
    rule, p = optc.loads(text), torch.nn.Parameter(torch.ones(3))
    opt = rule([p])
    for _ in range(2):
        p.grad = torch.ones_like(p)
        opt.step()
        opt.load_state_dict(opt.state_dict())
    assert torch.allclose(p, torch.full((3,), 0.8))


@pytest.mark.parametrize("way", ["group", "frozen"])
def test_a_flat_state_of_other_tensors_is_refused(way: str) -> None:
    """As many cells of others would be taken for those that it began with."""
    text = "rule r(lr = 0.1):\n    state m = 0 * flat(w)\n    m <- m + flat(grad(w))\n"
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    opt = optc.loads(text + "    w <- w - lr * back(m)\n")(params[:2])
    params[1].requires_grad_(False)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    if way == "group":
        opt.add_param_group({"params": params[2:]})
    else:
        params[0].requires_grad_(False)
        params[1].requires_grad_(True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="`m` has a place for each cell of other tensors"):
            opt.step()


def test_the_quantile_of_no_cells_is_no_number() -> None:
    text = "rule r(lr = 0.1):\n    q = quantile(abs(grad(w)), 0.5, over = model)\n"
    p = torch.nn.Parameter(torch.ones(0, 3))
    opt = optc.loads(text + "    w <- w - lr * min(grad(w), q)\n    metric q = q\n")([p])
    p.grad = torch.zeros_like(p)
    opt.step()
    assert torch.isnan(opt.metrics["q"])


def test_a_complex_point_that_begins_within_a_pair_of_a_flat_one() -> None:
    text = "rule r(lr = 0.1):\n    f = flat(w)\n    w <- w - lr * grad(back(f + 0.5))\n"
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    q = torch.nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex128))
    opt = optc.loads(text)([p, q])
    opt.bind(objective=lambda: (p**2).sum() / 2 + (q.real**2 + q.imag**2).sum() / 2)
    opt.step()
    assert torch.allclose(p, torch.full_like(p, 1 - 0.15))
    assert torch.allclose(q, torch.tensor([1 - 0.15 + 2j - 0.25j], dtype=torch.complex128))
