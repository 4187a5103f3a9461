"""Rules `over workers`: the interpreter, one process, and one process a worker agree."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.compiler.check import check
from optc.compiler.interpret import Interpreter, Tensors, together
from optc.compiler.networks import rows_of, unfit
from optc.compiler.parse import parse
from optc.compiler.source import CompileError, Source
from optc.compiler.workers import SEEDS, mix
from optc.plugins.registry import library
from optc.runtime.random import draw

from .processes import run

GOSSIP = "rule gossip(lr = 0.1, W = {}) over workers:\n    w <- mix(w - lr * grad(w), W)\n"
TRACKING = """
rule tracking(lr = 0.1, W = star) over workers:
    state y = zeros(w), last = zeros(w)
    g = grad(w)
    y <- mix(y + g - last, W)
    last <- g
    w <- mix(w - lr * y, W)
    metric apart = norm(w - mean(w, over = workers), over = model)
"""
NOISY = """
rule noisy(lr = 0.1, W = ((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.25, 0.25, 0.5))) over workers:
    x = w - lr * grad(w) + 0.01 * normal(w)
    w <- mix(x + 0.1 * uniform(w), W, own = x)
"""
LOCAL = """
rule local(lr = 0.1, rounds = 2) over workers:
    w <- w - lr * grad(w)
    every 3:
        repeat rounds:
            w <- mix(w, ring(1 / 3))
"""
MEAN = """
rule averaged(lr = 0.1) over workers:
    g = mean(grad(w), over = workers)
    n = mean(norm(grad(w), over = model), over = workers)
    w <- w - lr * g / n
"""
VETOED = """
rule vetoed(lr = 0.1) over workers:
    g = grad(w)
    w <- mix(w - lr * g, ring(1 / 3))
    veto when norm(g, over = model) > 1
"""
RULES = {
    "ring": GOSSIP.format("ring(1 / 3)"),
    "star": TRACKING,
    "matrix": NOISY,
    "local": LOCAL,
    "mean": MEAN,
    "veto": VETOED,
}
STEPS = 7

PROBLEM = """
import torch
from torch import nn

def build(i):
    torch.manual_seed(i)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

def data(i):
    torch.manual_seed(100 + i)
    return torch.randn(8, 3).double(), torch.randn(8, 1).double()

def closure_of(model, i):
    x, y = data(i)
    def closure():
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss
    return closure
"""
SPACE: dict[str, Any] = {}
exec(PROBLEM, SPACE)
build, data, closure_of = SPACE["build"], SPACE["data"], SPACE["closure_of"]

PROCESS = """
import sys
import optc
import torch.distributed as dist

torch.set_num_threads(1)
rank, size, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=size)
found = {}
for name, text in RULES.items():
    model = build(rank)
    opt = optc.loads(text)(model.parameters(), workers=dist.group.WORLD)
    for _ in range(STEPS):
        opt.step(closure_of(model, rank))
    found[name] = [p.detach() for p in model.parameters()]
torch.save(found, out + str(rank))
dist.barrier()
dist.destroy_process_group()
"""


def simulated(text: str, n: int = 3, **options: Any) -> tuple[list[Any], Any]:
    models = [build(i) for i in range(n)]
    team = optc.simulate(optc.loads(text), [m.parameters() for m in models], **options)
    for _ in range(STEPS):
        team.step([closure_of(m, i) for i, m in enumerate(models)])
    return [[p.detach() for p in m.parameters()] for m in models], team


class Gradients:
    """A worker's oracles: its own loss at any point."""

    def __init__(self, i: int):
        self.model, self.i = build(i), i

    def gradient(self, objective: str, points: Any, batch: Any, wrt: str) -> list[Tensor]:
        with torch.no_grad():
            for p, x in zip(self.model.parameters(), points["w"], strict=True):
                p.copy_(x)
        with torch.enable_grad():
            closure_of(self.model, self.i)()
        return [p.grad.clone() for p in self.model.parameters() if p.grad is not None]


def meaning(text: str, n: int = 3) -> list[list[Tensor]]:
    """The interpreter's workers after some steps."""
    graph = check(parse(Source("workers.opt", text)), library())
    runs = []
    for i in range(n):
        names, values = zip(*build(i).named_parameters(), strict=True)
        numbers = lambda how, stream, call, count, i=i: draw(how, SEEDS * i, stream, call, count)  # noqa: E731
        tensors = Tensors(list(names), [v.detach() for v in values])
        runs.append(Interpreter(graph, tensors, [{}], Gradients(i), numbers))  # type: ignore[arg-type]
    for _ in range(STEPS):
        together(runs)
    return [run.tensors() for run in runs]


def gap(a: list[list[Tensor]], b: list[list[Tensor]]) -> float:
    pairs = zip(a, b, strict=True)
    cells = [(x - y).detach() for u, v in pairs for x, y in zip(u, v, strict=True)]
    return max(float(x.abs().max()) for x in cells)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_one_process_means_what_the_interpreter_means(name: str, backend: str) -> None:
    found, _ = simulated(RULES[name], backend=backend)
    assert gap(found, meaning(RULES[name])) < 1e-12
    assert gap(found, [[p.detach() for p in build(i).parameters()] for i in range(3)]) > 1e-3


def test_one_process_each_gives_the_numbers_of_one(tmp_path: Path) -> None:
    script = PROBLEM + f"RULES, STEPS = {RULES!r}, {STEPS}\n" + textwrap.dedent(PROCESS)
    run(script, 3, tmp_path / "store", tmp_path / "out", count=3)
    found = [torch.load(tmp_path / f"out{i}") for i in range(3)]
    for name, text in RULES.items():
        expected, _ = simulated(text)
        assert gap([f[name] for f in found], expected) < 1e-12, name


def test_each_worker_has_its_own_veto() -> None:
    """One that changes nothing still brings what it has to the others."""
    _, team = simulated(VETOED)
    assert sorted(w.param_groups[0]["steps"] for w in team) == [0, 0, STEPS]


def test_gossip_is_the_matrix_of_the_paper() -> None:
    """D-PSGD by hand: X <- W (X - lr G)."""
    found, _ = simulated(RULES["ring"])
    models = [build(i) for i in range(3)]
    W = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    for _ in range(STEPS):
        for i, m in enumerate(models):
            closure_of(m, i)()
        with torch.no_grad():
            for ps in zip(*(m.parameters() for m in models), strict=True):
                x = torch.stack([p - 0.1 * p.grad for p in ps])
                for p, y in zip(ps, torch.einsum("ij,j...->i...", W, x), strict=True):
                    p.copy_(y)
    assert gap(found, [list(m.parameters()) for m in models]) < 1e-12


def test_the_mean_of_the_gradients_is_that_of_all_data() -> None:
    """From one start, workers that average gradients are one worker with the mean loss."""
    rule = "rule r(lr = 0.1) over workers:\n    w <- w - lr * mean(grad(w), over = workers)\n"
    models = [build(0) for _ in range(3)]
    team = optc.simulate(optc.loads(rule), [m.parameters() for m in models])
    whole = build(0)
    plain = torch.optim.SGD(whole.parameters(), lr=0.1)
    for _ in range(STEPS):
        team.step([closure_of(m, i) for i, m in enumerate(models)])
        plain.zero_grad()
        sum(((whole(x) - y).square().mean() for x, y in map(data, range(3))), 0.0).div(3).backward()  # type: ignore[attr-defined]
        plain.step()
    assert gap([list(m.parameters()) for m in models], [list(whole.parameters())] * 3) < 1e-12


def test_what_a_worker_has_no_gradient_for_is_absent_at_its_neighbours() -> None:
    rule = optc.loads(GOSSIP.format("complete"))
    params = [torch.ones(2, requires_grad=True) for _ in range(2)]
    free = [torch.ones(3, requires_grad=True) for _ in range(2)]
    team = optc.simulate(rule, [[p, q] for p, q in zip(params, free, strict=True)], lr=1.0)
    for p in params:
        p.grad = torch.ones(2)
    free[0].grad = torch.ones(3)
    team.step()
    assert all(torch.equal(p.detach(), torch.zeros(2)) for p in params)
    assert all(torch.equal(q.detach(), torch.ones(3)) for q in free)


def test_a_team_is_saved_and_resumed() -> None:
    models = [build(i) for i in range(3)]
    rule = optc.loads(TRACKING)
    team = optc.simulate(rule, [m.parameters() for m in models])
    for step in range(STEPS):
        if step == 3:
            saved = team.state_dict()
            team = optc.simulate(rule, [m.parameters() for m in models])
            team.load_state_dict(saved)
        team.step([closure_of(m, i) for i, m in enumerate(models)])
    expected, _ = simulated(TRACKING)
    assert gap([list(m.parameters()) for m in models], expected) == 0


# What is wrong is said -------------------------------------------------------------------------


def test_a_rule_over_workers_alone_says_what_to_pass() -> None:
    opt = optc.loads(TRACKING)([torch.zeros(1, requires_grad=True)])
    with pytest.raises(
        RuntimeError, match=r"Tracking\(params, workers=torch.distributed.*simulate"
    ):
        opt.step()


def test_a_rule_for_one_takes_no_workers() -> None:
    rule = optc.loads("rule r(lr = 0.1):\n    step lr\n")
    with pytest.raises(TypeError, match="r is not `over workers`"):
        optc.simulate(rule, [[torch.zeros(1, requires_grad=True)]])


def test_a_pure_step_has_no_workers(tmp_path: Path) -> None:
    (tmp_path / "r.opt").write_text(TRACKING)
    with pytest.raises(TypeError, match=r"optc\.simulate"):
        optc.functional(tmp_path / "r.opt")


def test_a_number_of_workers_is_no_group() -> None:
    with pytest.raises(TypeError, match=r"optc\.simulate"):
        optc.loads(TRACKING)([torch.zeros(1, requires_grad=True)], workers=3)


def test_a_matrix_is_for_its_number_of_workers() -> None:
    with pytest.raises(ValueError, match="is for 3 workers, and there are 2"):
        simulated(NOISY, n=2)


def test_closures_are_as_many_as_workers() -> None:
    _, team = simulated(TRACKING)
    with pytest.raises(ValueError, match="2 closures or batches for 3 workers"):
        team.step([lambda: None] * 2)


def test_an_error_of_one_worker_ends_the_step_of_all() -> None:
    models = [build(i) for i in range(3)]
    team = optc.simulate(optc.loads(TRACKING), [m.parameters() for m in models])
    with pytest.raises(ZeroDivisionError):
        team.step([closure_of(models[0], 0), lambda: 1 / 0, closure_of(models[2], 2)])
    team.step([closure_of(m, i) for i, m in enumerate(models)])  # and the next one runs


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("((0.5, 0.5), (0.9, 0.1))", "column 0 sums to 1.4"),
        ("((0.5, 0.4), (0.5, 0.6))", "row 0 sums to 0.9"),
        ("((0.5, 0.5), (1.0,))", "is not square"),
        ("0.5", "these are no mixing weights"),
        ("ring(0.7)", "a constant in"),
    ],
)
def test_weights_are_doubly_stochastic(weights: str, said: str) -> None:
    with pytest.raises(CompileError, match=said) as error:
        optc.loads(GOSSIP.format(weights))
    assert "W" in str(error.value) or "ring" in str(error.value)


def test_workers_do_not_mix_in_a_loop_that_each_leaves_by_itself() -> None:
    rule = """
rule r(lr = 0.1) over workers:
    repeat 3 until norm(w, over = model) < 1:
        w <- mix(w, complete)
"""
    with pytest.raises(CompileError, match="E317"):
        optc.loads(rule)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("weights", [("ring", 1 / 3), ("complete",), ("star",)])
def test_networks_are_symmetric_and_doubly_stochastic(weights: Any, n: int) -> None:
    rows = torch.tensor(rows_of(weights, n), dtype=torch.float64)
    assert not unfit(rows.tolist()) and torch.equal(rows, rows.T) and bool((rows >= 0).all())


def test_one_worker_mixes_with_itself() -> None:
    class Alone:
        rank, size = 0, 1

        def exchange(self, *_: Any) -> list[Tensor]:
            return []

    x = torch.randn(3, dtype=torch.float64)
    assert torch.allclose(mix(Alone(), x, ("ring", 1 / 3), [x]), x, rtol=0, atol=1e-15)
