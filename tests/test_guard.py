"""The guard against non-finite gradients, for any rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc
from optc.compiler import driver
from optc.compiler.passes.guard import guard, unsummed
from optc.compiler.source import Source
from optc.plugins.registry import library

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["adamw", "clipped_adamw", "muon_adamw", "sgd"])
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_a_bad_step_changes_nothing(name: str, bad: float, backend: str) -> None:
    torch.manual_seed(0)
    named = [
        ("a.weight", torch.nn.Parameter(torch.randn(4, 3))),
        ("b", torch.nn.Parameter(torch.randn(5))),
    ]
    opt = optc.load(EXAMPLES / f"{name}.opt", guard=True)(named, backend=backend)
    params = [p for _, p in named]
    for step in range(4):
        for p in params:
            p.grad = torch.randn_like(p)
        if step == 2:
            params[1].grad[3] = bad
        before = [p.detach().clone() for p in params]
        kept = {k: v.clone() for k, v in opt.state[params[0]].items()}
        opt.step()
        still = all(map(torch.equal, before, params))
        assert still == (step == 2)
        if step == 2:
            assert all(torch.equal(v, opt.state[params[0]][k]) for k, v in kept.items())
    assert float(opt.state[params[0]]["step"]) == 3


def test_its_price_is_known() -> None:
    def graph(name: str):  # type: ignore[no-untyped-def]
        path = EXAMPLES / f"{name}.opt"
        return driver.graph(Source(name, path.read_text(encoding="utf-8")), library())

    assert not unsummed(graph("clipped_adamw")) and unsummed(graph("adamw"))
    assert len(guard(graph("adamw")).outcomes) == 1


ASKING = {
    "curvature": "w <- w - lr * hvp(loss, w, w)",
    "single examples": "J = grad(w, on = each(batch))\nw <- w - lr * mean(J, over = examples)",
    "losses alone": "z = normal(w, probes(3))\nw <- w - lr * sum(loss(w + z) * z, over = probes)",
    "a loop": "var x = w\nrepeat 40:\n    x <- x - lr * grad(x)\nw <- x",
    "two points": "perturb sam()\nsmooth momentum(0.9)\nstep lr",
}


@pytest.mark.parametrize("name", ASKING)
def test_every_answer_of_the_loop_is_guarded(name: str) -> None:
    torch.manual_seed(0)
    lines = "".join(f"    {line}\n" for line in ASKING[name].splitlines())
    model = torch.nn.Linear(3, 1).double()
    scale = [1.0]

    def fit(x: torch.Tensor) -> torch.Tensor:
        return scale[0] * model(x).square().mean()

    opt = optc.loads(f"rule r(lr = 0.01):\n{lines}", guard=True)(model.named_parameters())
    opt.bind(model=model, objective=fit)
    x = torch.randn(5, 3, dtype=torch.float64)
    for bad in (False, True, False):
        scale[0] = float("nan") if bad else 1.0
        before = [p.detach().clone() for p in model.parameters()]
        opt.step(batch=x)
        still = all(map(torch.equal, before, model.parameters()))
        assert still == bad
    assert opt.param_groups[0]["steps"] == 2
