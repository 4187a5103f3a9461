"""Under a GradScaler gradients stay scaled in `.grad`, and are unscaled where they are read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.compiler.emit.traffic import by_leaf
from optc.runtime.native import compiler
from optc.runtime.scaler import unscale

ADAMW = """rule r(lr: nonnegative = 0.01, decay: nonnegative = 0.1):
    clip global_norm(0.5)
    regularize decoupled_decay(decay)
    precondition adam()
    step lr
"""
LION = "rule r(lr: nonnegative = 0.01):\n    precondition lion()\n    step lr\n"
BEGINS = """rule r(lr: nonnegative = 0.01):
    state m = grad(w)
    m <- 0.9 * m + 0.1 * grad(w)
    step lr
"""
COUNTS = """rule r(lr: nonnegative = 0.01):
    state skipped: model = 0, wrote: model = 0
    n = norm(grad(w), over = model)
    step lr
    always skipped <- skipped + where(isfinite(n), 0, 1)
    wrote <- wrote + 1
    metric skipped = skipped
    metric wrote = wrote
"""
MATRIX = "rule r(lr: nonnegative = 0.01):\n    precondition orthogonalize()\n    step lr\n"
RULES = {"adamw, clipped": ADAMW, "lion": LION, "a state's first value": BEGINS, "muon": MATRIX}
BACKENDS = ["eager", *(["c"] if compiler() else [])]


class Problem:
    def __init__(self, text: str, dtype: torch.dtype, backend: str = "auto"):
        generator = torch.Generator().manual_seed(0)
        shapes = ((3, 4), (5, 2))
        self.params = [
            torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes
        ]
        self.opt: Any = optc.loads(text)(self.params, backend=backend)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    def backward(self, step: int, scale: bool = True, spoil: bool = False) -> None:
        self.opt.zero_grad()
        loss = sum((p**2 * (1 + 0.1 * step)).sum() + torch.sin(p).sum() for p in self.params)
        if spoil:
            loss = loss * float("inf")
        (self.scaler.scale(loss) if scale else loss).backward()


def state(opt: Any) -> Any:
    return copy.deepcopy(opt.state_dict())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("text", RULES.values(), ids=RULES)
def test_it_is_unscaling_and_then_the_step(text: str, dtype: torch.dtype, backend: str) -> None:
    """To the bit: the scale is a power of two, and multiplied by where torch multiplies."""
    ours, plain = Problem(text, dtype, backend), Problem(text, dtype, backend)
    for step in range(6):
        for problem in (ours, plain):
            problem.backward(step, spoil=step == 2)
        plain.scaler.unscale_(plain.opt)
        scaled = [p.grad.clone() for p in ours.params]
        for problem in (ours, plain):
            problem.scaler.step(problem.opt)
            problem.scaler.update()
        assert ours.scaler.get_scale() == plain.scaler.get_scale()
        for a, b in zip(ours.params, plain.params, strict=True):
            assert torch.equal(a, b)
        for p, g in zip(ours.params, scaled, strict=True):
            assert torch.equal(p.grad.nan_to_num(), g.nan_to_num())  # stays as torch leaves it
    assert not hasattr(ours.opt, "grad_scale") and not hasattr(ours.opt, "found_inf")


@pytest.mark.parametrize("first", [True, False])
def test_an_infinity_vetoes_the_whole_step(first: bool) -> None:
    problem = Problem(BEGINS, torch.float64)
    if not first:
        problem.backward(0)
        problem.scaler.step(problem.opt)
        problem.scaler.update()
    before, kept = state(problem.opt), [p.detach().clone() for p in problem.params]
    problem.backward(1, spoil=True)
    problem.scaler.step(problem.opt)
    problem.scaler.update()
    assert all(map(torch.equal, kept, problem.params))
    after = state(problem.opt)
    assert after["param_groups"][0]["steps"] == before["param_groups"][0]["steps"]
    assert after["param_groups"][0]["calls"] == before["param_groups"][0]["calls"] + 1
    assert after["state"].keys() == before["state"].keys()
    for i, entries in before["state"].items():
        assert all(torch.equal(entries[k], after["state"][i][k]) for k in entries)
    problem.backward(2)
    problem.scaler.step(problem.opt)
    assert all(torch.isfinite(p).all() for p in problem.params)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_always_written_is_so_in_a_step_that_is_skipped(backend: str) -> None:
    problem = Problem(COUNTS, torch.float64, backend=backend)
    for step in range(4):
        problem.backward(step, spoil=step in (0, 2))
        problem.scaler.step(problem.opt)
        problem.scaler.update()
        found = problem.opt.state[problem.params[0]]
        assert [float(found.get(k, 0)) for k in ("skipped", "wrote")] == [
            (1, 1, 2, 2)[step],
            (0, 1, 1, 2)[step],
        ]


@pytest.mark.parametrize("text", [ADAMW, LION], ids=["adamw, clipped", "lion"])
def test_no_pass_over_the_gradients_is_added(text: str) -> None:
    program = optc.loads(text).program
    plain, scaled = program.plan(()), program.scaled()[0](())
    assert by_leaf(program, scaled) == by_leaf(program, plain)
    assert len(scaled.phases) == len(plain.phases)


def test_without_a_scaler_nothing_is_made_for_one() -> None:
    problem = Problem(ADAMW, torch.float32)
    problem.backward(0, scale=False)
    problem.opt.step()
    assert [scaled for scaled, _ in problem.opt._plans] == [False]


def test_gradients_in_half_precision_are_not_rounded_again() -> None:
    """unscale_ would lose what is small: 2^-20 / 1024 is below the least float16."""
    p = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    opt: Any = optc.loads("rule r(lr = 0.1):\n    step lr\n")([p], lr=2.0**20)
    p.grad = torch.full_like(p, 2.0**-20)
    opt.grad_scale, opt.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    opt.step()
    assert torch.equal(p.detach(), torch.full_like(p, -(2.0**-10)))


def test_a_closure_under_the_scalers_step_is_refused() -> None:
    problem = Problem(ADAMW, torch.float32)
    problem.backward(0)
    with pytest.raises(RuntimeError, match="no closure"):
        problem.scaler.step(problem.opt, lambda: None)


def test_a_bound_scaler_still_takes_closures() -> None:
    problem = Problem(ADAMW, torch.float32)
    problem.opt.bind(scaler=problem.scaler)

    def closure() -> torch.Tensor:
        problem.backward(0)
        return problem.params[0].sum()

    problem.opt.step(closure)
    problem.scaler.update()
    plain = Problem(ADAMW, torch.float32)
    plain.backward(0, scale=False)
    plain.opt.step()
    for a, b in zip(problem.params, plain.params, strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_is_bound_without_its_scaler_is_not_called_in_a_skipped_step() -> None:
    problem = Problem(COUNTS, torch.float64)
    problem.opt.bind(model=torch.nn.ParameterList(problem.params), objective=lambda batch: None)
    problem.backward(0, spoil=True)
    problem.scaler.step(problem.opt)
    assert problem.opt.param_groups[0]["calls"] == 0 and not problem.opt.state


def test_complex_gradients_are_unscaled_in_place() -> None:
    """Those of autograd may be conjugate views."""
    p = torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64))
    g = torch.tensor([4 + 8j, 8 - 4j], dtype=torch.complex64)
    found = torch.zeros(())
    for given in (g.clone(), g.conj().resolve_conj().conj()):
        unscale([given], torch.tensor(4.0), found)
        assert torch.equal(given.resolve_conj(), g / 4) and float(found) == 0
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    opt = optc.loads("rule r(lr = 0.1):\n    perturb sam(0.0)\n    step lr\n")([p])
    opt.bind(objective=lambda: (p * p.conj()).real.sum(), scaler=scaler)
    opt.step()
    torch.testing.assert_close(p.detach(), 0.8 * torch.tensor([1 + 2j, 3 - 1j]))


def test_a_rule_that_takes_no_gradient_leaves_the_scaler_its_scale() -> None:
    text = "rule r(lr = 0.1):\n    z = normal(w)\n    w <- w - lr * z * jvp(loss, w, z)\n"
    p, scaler = torch.nn.Parameter(torch.ones(3)), torch.amp.GradScaler("cpu", init_scale=4.0)
    opt = optc.loads(text)([p])
    opt.bind(objective=lambda: (p**2).sum(), scaler=scaler)
    opt.step()
    scaler.update()
    assert scaler.get_scale() == 4


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (ADAMW.replace("    clip global_norm(0.5)\n", ""), {"in_backward": True}),
        ("rule r(lr = 0.01):\n    step lr\nschedule r:\n    run in_backward\n", {}),
    ],
)
def test_a_scaler_and_a_step_within_backward_are_refused(text: str, options: Any) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    opt = optc.loads(text)([p], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(p.sum()).backward()
    with pytest.raises(RuntimeError, match="still scaled.*in_backward=False"):
        scaler.step(opt)
    torch.amp.GradScaler("cpu", enabled=False).step(opt)


def test_a_scaler_that_is_bound_alone_leaves_statistics_protected() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    x, scaler = torch.randn(32, 4), torch.amp.GradScaler("cpu")
    opt = optc.load("examples/sam_adamw.opt")(model.parameters()).bind(scaler=scaler)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = model(x).pow(2).mean()
        scaler.scale(loss).backward()
        return loss

    opt.step(closure)
    scaler.update()
    assert int(model[1].num_batches_tracked) == 1
