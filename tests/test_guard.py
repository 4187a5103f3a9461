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


DECOMPOSED = {
    "shampoo": "    precondition shampoo()\n    step lr\n",
    "told whatever the outcome": """    state bad: model = 0
    g = grad(w)
    always bad <- bad + where(isfinite(sum(g, over = model)), 0, 1)
    precondition shampoo()
    step lr / (1 + bad)
    metric size = sum(g, over = model)
""",
    "a point": "    perturb sam()\n    precondition gpm_orthogonal()\n    step lr\n",
}


@pytest.mark.parametrize("spoilt", [0, 2])
@pytest.mark.parametrize("name", DECOMPOSED)
def test_no_matrix_of_a_vetoed_step_is_refused(name: str, spoilt: int) -> None:
    rule = optc.loads("rule r(lr: nonnegative = 0.1):\n" + DECOMPOSED[name], guard=True)

    def run(skip: bool) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        opt = rule([("p", p)])
        for step in range(4):
            g = torch.randn(4, 3, dtype=torch.float64)
            g[1, 2] = float("nan") if step == spoilt else g[1, 2]

            def closure(g: torch.Tensor = g) -> torch.Tensor:
                p.grad = g.clone()
                return torch.tensor(1.0)

            if step != spoilt or not skip:
                opt.step(closure)
                assert step != spoilt or "size" not in opt.metrics or opt.metrics["size"].isnan()
        return p, opt

    p, opt = run(skip=False)
    assert opt.param_groups[0]["steps"] == 3
    if "always" not in DECOMPOSED[name]:
        assert torch.equal(p, run(skip=True)[0])
    else:
        assert float(opt.state[p]["bad"]) == 1 and bool(p.isfinite().all())
