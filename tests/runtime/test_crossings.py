"""Where features meet: saved snapshots, evaluation, groups that join, moved memory, draws."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import optc
from optc.runtime.native import compiler

from .compare import objective, start
from .test_versions import BACK

BACKENDS = ["eager", *(["c"] if compiler() else [])]
MOMENTUM = """rule r(lr = 0.1):
    state m = {0}
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
"""
NOISY = """rule r(lr = 0.1):
    state z = normal(w)
    w <- w - lr * grad(w) + 0.1 * normal(w) + 0.1 * z
"""


def run(opt: Any, steps: int) -> list[torch.Tensor]:
    values = [p for group in opt.param_groups for p in group["params"]]
    for _ in range(steps):

        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = objective(values)
            loss.backward()
            return loss

        opt.step(closure)
    return values


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(v) for _, v in start()]


def test_what_is_gone_back_to_is_saved() -> None:
    rule = optc.loads(BACK.format(2))
    whole = run(rule(parameters()), 9)
    first, second = rule(parameters()), rule(parameters())
    halfway = run(first, 5)
    run(second, 7)
    with torch.no_grad():
        for p, q in zip(second.param_groups[0]["params"], halfway, strict=True):
            p.copy_(q)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(map(torch.equal, run(second, 4), whole))
    second.load_state_dict(rule(parameters()).state_dict())
    assert not second._snapshots


@pytest.mark.parametrize("way", ["group", "frozen"])
def test_a_snapshot_of_other_tensors_is_not_gone_back_to(way: str) -> None:
    """It would be put into whatever tensors have their places now."""
    rule = "rule r(lr = 0.1):\n    snapshot when call == 1\n    restore 1 when call == 3\n"
    params = parameters()
    opt = optc.loads(rule + "    w <- w - lr * grad(w)\n")(params[:2])
    run(opt, 2)
    if way == "group":
        opt.add_param_group({"params": params[2:]})
    else:
        params[0].requires_grad_(False)
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match="cannot go back: its snapshot was taken of other"):
        run(opt, 1)
    assert all(map(torch.equal, before, params))


def test_a_step_from_the_point_of_evaluation_is_refused() -> None:
    text = "rule r(lr = 0.1):\n    state x = w\n    w <- w - lr * grad(w)\n"
    opt = optc.loads(text + "    x <- 0.9 * x + 0.1 * w\n    eval x\n")(parameters())
    run(opt, 2)
    opt.eval()
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\) first"):
        run(opt, 1)
    opt.train()
    run(opt, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_that_joins_has_state_of_its_own(backend: str) -> None:
    text = """rule r(lr = 0.1):
    state s: group = 2
    s <- s + norm(grad(w), over = group)
    w <- w - lr * grad(w) / s
    metric s = s
"""
    params = parameters()
    opt = optc.loads(text)(params[:2], backend=backend)
    run(opt, 2)
    before = float(opt.metrics["s"])
    opt.add_param_group({"params": params[2:]})
    run(opt, 1)
    grown = [
        float(sum((p.grad**2).sum() for p in part)) ** 0.5 for part in (params[:2], params[2:])
    ]
    expected = [before + grown[0], 2 + grown[1]]
    assert [float(x) for x in opt.metrics["s"]] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("begins", ["zeros(w)", "grad(w)"])
def test_a_complex_parameter_in_other_memory(begins: str, backend: str) -> None:
    """As `module.to()` and weights that are assigned to `p.data` leave it."""
    moved, plain = (torch.nn.Parameter(torch.ones(3, 2, dtype=torch.complex128)) for _ in range(2))
    rule = optc.loads(MOMENTUM.format(begins))
    for p, moves in ((moved, True), (plain, False)):
        opt = rule([p], backend=backend)
        for _ in range(4):
            p.grad = torch.full_like(p, 1 + 2j)
            opt.step()
            if moves:
                p.data = p.data.clone()
    assert torch.equal(moved, plain) and not torch.equal(plain, torch.ones_like(plain))


def test_first_values_drawn_within_backward_are_those_of_the_whole_step() -> None:
    rule = optc.loads(NOISY)
    expected = run(rule(parameters()), 3)
    params = parameters()
    opt = rule(params, in_backward=True)
    for _ in range(3):
        objective(params).backward()
        opt.step()
    assert all(map(torch.allclose, params, expected))


@pytest.mark.parametrize("turns", [2, 40])
def test_a_subset_of_the_users_gets_what_the_text_says(turns: int) -> None:
    text = f"""rule r(lr = 0.1):
    repeat {turns}:
        w <- w - lr * grad(loss, w, on = subset(batch, 0.5))
"""
    asked = []

    def subset(batch: torch.Tensor, share: Any) -> torch.Tensor:
        asked.append(float(share))
        return batch[:2]

    p = torch.nn.Parameter(torch.ones(3))
    opt = optc.loads(text)([p])
    opt.bind(objective=lambda b: (p * b.mean()).sum(), oracles={"subset": subset})
    opt.step(batch=torch.arange(4.0))
    assert asked == [0.5] * turns


def test_within_backward_what_needs_no_gradient_is_written_without_one() -> None:
    text = """rule r(lr = 0.1):
    state h = zeros(w), age = zeros(w)
    age <- age + 1
    every 2:
        h <- grad(w)
    w <- 0.99 * w - lr * h / age / t
"""
    rule = optc.loads(text)
    found = []
    for within in (False, True):
        params = parameters()
        opt = rule(params, in_backward=within)
        for turn in range(6):
            opt.zero_grad()
            objective(params[: 2 + turn % 2]).backward()
            opt.step()
        ages = [opt.state[p]["age"].flatten()[0] for p in params]
        found.append([p.detach() for p in params] + ages)
    assert all(map(torch.allclose, *found))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scaler_takes_back_a_step_that_reports_and_always_writes(backend: str) -> None:
    text = """rule r(lr = 0.1):
    state m = zeros(w), c: model = 0
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
    always c <- c + 1
    metric c = c
    metric n = norm(m, over = model)
"""
    p, scaler = torch.nn.Parameter(torch.ones(3)), torch.amp.GradScaler("cpu", init_scale=4.0)
    opt = optc.loads(text)([p], backend=backend)
    opt.bind(objective=lambda factor: (p * factor).sum(), scaler=scaler)
    for factor in (1.0, float("inf"), 1.0):
        opt.step(batch=factor)
        scaler.update()
    assert float(opt.metrics["c"]) == 3 and opt.param_groups[0]["steps"] == 2
    assert torch.allclose(opt.state[p]["m"], torch.full((3,), 1.9))
    assert torch.allclose(p, torch.full((3,), 1 - 0.1 - 0.19))


def test_a_tensor_that_a_kernel_leaves_out_is_rounded_by_the_draws_of_its_place() -> None:
    text = """rule r(lr = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    w <- w - lr * m
schedule r:
    store m as bf16(stochastic)
"""
    found = []
    for backend in BACKENDS:
        plain = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        holed = [torch.ones(4, n, 2, dtype=torch.float64)[..., 0] for n in (3, 2)]
        params = [plain, *map(torch.nn.Parameter, holed)]
        found.append(run(optc.loads(text)(params, backend=backend), 3))
    for one in found:
        assert all(map(torch.allclose, one, found[0]))


def test_what_began_in_a_step_that_raised_begins_again() -> None:
    text = """rule r(lr = 0.1):
    state first = grad(w)
    g = grad(w + 0.1 * grad(w))
    w <- w - lr * (g + first)
"""
    p, asked = torch.nn.Parameter(torch.ones(3)), [0]
    opt = optc.loads(text)([p])

    def closure() -> torch.Tensor:
        p.grad = torch.full_like(p, 5.0 if asked[0] < 2 else 1.0)
        asked[0] += 1
        if asked[0] == 2:
            raise KeyboardInterrupt
        return p.sum()

    with pytest.raises(KeyboardInterrupt):
        opt.step(closure)
    assert "first" not in opt.state[p]
    opt.step(closure)
    assert torch.equal(opt.state[p]["first"], torch.ones(3))
    assert torch.allclose(p, torch.full((3,), 0.8))


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_a_copy_of_a_bound_optimizer_leaves_the_loop_behind(copied: str) -> None:
    params = parameters()
    opt = optc.loads("rule r(lr = 0.1):\n    w <- w - lr * hvp(loss, w, w)\n")(params)
    opt.bind(objective=lambda: objective(params))
    opt.step()
    twin = copy.deepcopy(opt) if copied == "deepcopy" else pickle.loads(pickle.dumps(opt))
    with pytest.raises(RuntimeError, match=r"optimizer\.bind"):
        twin.step()


def test_a_checkpoint_in_which_a_part_has_not_begun_is_loaded() -> None:
    text = """rule r(lr = 0.1):
    for params where ndim == 2:
        smooth momentum(0.9) as m
        step lr
    for other params:
        precondition adam() as a
        step lr
schedule r:
    store m.momentum_buffer as bf16(kahan)
"""
    params = [torch.nn.Parameter(torch.ones(s)) for s in ((2, 2), (3,))]
    params[1].requires_grad_(False)
    opt = optc.loads(text)(params)
    params[0].grad = torch.ones_like(params[0])
    opt.step()
    fresh = optc.loads(text)(params)
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    for key, value in opt.state[params[0]].items():
        assert torch.equal(value, fresh.state[params[0]][key])


@pytest.mark.parametrize(
    "what", ["loss(w + 0.1 * z)", "jvp(loss, w, z)", "dot(grad(w + z), z, over = model)"]
)
def test_points_and_vectors_of_a_part_have_an_axis(what: str) -> None:
    """The tensors of the other part stand still at each of its places."""
    text = f"""rule r(lr = 0.1):
    for params where ndim == 2:
        z = ones(w, probes(3))
        metric j = mean({what}, over = probes)
        step lr
    for other params:
        step lr
"""
    p = torch.nn.Parameter(torch.arange(1.0, 5.0).view(2, 2).double())
    q = torch.nn.Parameter(torch.tensor([5.0, 6.0], dtype=torch.float64))
    expected = {"l": 30 * float(((p.detach() + 0.1) ** 2).sum()), "j": 60.0 * 10, "d": 60.0 * 14}[
        what[0]
    ]
    opt = optc.loads(text)([p, q])
    opt.bind(objective=lambda: (p**2).sum() * q.prod())
    opt.step()
    assert float(opt.metrics["j"]) == pytest.approx(expected, rel=1e-12)


def test_metrics_of_tensors_are_those_of_all_buckets() -> None:
    text = "rule r(lr = 0.1):\n    n = norm(grad(w), over = tensor)\n    metric n = n\n"
    text += "    metric g = grad(w)\n    metric rate = lr\n    step lr\n"
    found = []
    for within in (False, True):
        params = parameters()
        opt = optc.loads(text)([{"params": params[:1]}, {"params": params[1:]}], in_backward=within)
        objective(params).backward()
        opt.step()
        found.append(opt.metrics)
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        assert len(found[0][name]) == len(found[1][name])
        assert all(map(torch.allclose, *(map(torch.as_tensor, m[name]) for m in found)))
