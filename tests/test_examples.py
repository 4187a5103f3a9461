"""Every example compiles and trains; the classical ones are torch's, step for step."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import optc

ALL = sorted((Path(__file__).parents[1] / "examples").glob("*.opt"))
LOOP = re.compile(r"^ +(loss|target|oracle) |draw\(|criterion", re.MULTILINE)
OWN = [p for p in ALL if LOOP.search(p.read_text())]
"""Those with players, losses, oracles or batches of their own: tests/papers/ trains each."""
EXAMPLES = [p for p in ALL if p not in OWN]
NEEDED: dict[str, dict[str, float]] = {"flat_but_not_generalizing": {"lr": 0.01, "rho": 0.1}}
"""Options that have no default."""
ADAGRAD = "rule adagrad(lr: nonnegative = 0.01):\n    precondition adagrad()\n    step lr\n"
RMSPROP = "rule rmsprop(lr: nonnegative = 0.01):\n    precondition rmsprop()\n    step lr\n"


def example(name: str) -> Any:
    return optc.load(Path(__file__).parents[1] / "examples" / f"{name}.opt")


def steps(*lines: str) -> Any:
    """A rule of these steps and `step lr`."""
    body = "".join(f"    {line}\n" for line in (*lines, "step lr"))
    return optc.loads(f"rule steps(lr: nonnegative = 0.1):\n{body}")


def made(path: Path, named: Any, backend: str) -> Any:
    """The optimizer of an example; of a rule over workers, that of the only worker."""
    rule, needed = optc.load(path), NEEDED.get(path.stem, {})
    if not rule.program.workers:
        return rule(named, backend=backend, **needed)
    team = optc.simulate(rule, [named], backend=backend, **needed)
    return SimpleNamespace(zero_grad=team.zero_grad, step=lambda closure: team.step([closure])[0])


class Clipped(torch.optim.SGD):
    """Plain gradient descent behind one of torch's functions that clip gradients."""

    def __init__(self, params: Any, clip: Any, bound: float):
        self.params, self.clip, self.bound = list(params), clip, bound
        super().__init__(self.params, lr=0.5)

    def step(self, closure: Any = None) -> None:
        with torch.enable_grad():
            closure()
        self.clip(self.params, self.bound)
        super().step()


def model(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)).to(
        dtype
    )


def train(net: torch.nn.Module, opt: Any, steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype

    def residual(x: torch.Tensor) -> torch.Tensor:
        return (net(x) - x[:, :3].sin()).flatten()

    def fit(x: torch.Tensor) -> torch.Tensor:
        return (residual(x) ** 2).mean()

    whole = getattr(opt, "program", None) and opt.program.level == "objective"
    if whole:
        opt.bind(model=net, objective=fit, residual=residual)
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator, dtype=torch.float64).to(dtype)
        if whole:
            opt.step(batch=x)
            continue

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            opt.zero_grad()
            loss = fit(x)
            loss.backward()
            return loss

        opt.step(closure)
    return [p.detach() for p in net.parameters()]


def largest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(a, b, strict=True))


CASES: dict[str, tuple[Any, Any]] = {
    "sgd": (lambda p: example("sgd")(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd, momentum and decay": (
        lambda p: example("sgd")(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    ),
    "sgd, dampening": (
        lambda p: example("sgd")(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    ),
    "adam": (
        lambda p: example("adam")(p, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, weight_decay=0.1),
    ),
    "adamw": (lambda p: example("adamw")(p), lambda p: torch.optim.AdamW(p)),
    "adagrad": (lambda p: optc.loads(ADAGRAD)(p), lambda p: torch.optim.Adagrad(p)),
    "nesterov": (
        lambda p: steps("smooth nesterov(0.9)")(p, lr=0.05),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    ),
    "amsgrad": (
        lambda p: steps("precondition amsgrad()")(p, lr=1e-3),
        lambda p: torch.optim.Adam(p, amsgrad=True),
    ),
    "rmsprop, centered": (
        lambda p: steps("precondition rmsprop_centered()")(p, lr=1e-2),
        lambda p: torch.optim.RMSprop(p, centered=True),
    ),
    "clip by norm": (
        lambda p: steps("clip global_norm(0.1)")(p, lr=0.5),
        lambda p: Clipped(p, torch.nn.utils.clip_grad_norm_, 0.1),
    ),
    "clip by value": (
        lambda p: steps("clip value(0.01)")(p, lr=0.5),
        lambda p: Clipped(p, torch.nn.utils.clip_grad_value_, 0.01),
    ),
    "rmsprop": (lambda p: optc.loads(RMSPROP)(p), lambda p: torch.optim.RMSprop(p)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=["f64", "f32"]
)
def test_it_is_torchs(name: str, dtype: torch.dtype, bound: float) -> None:
    ours, theirs = CASES[name]
    a, b = model(dtype), model(dtype)
    assert largest(train(a, ours(a.parameters()), 25), train(b, theirs(b.parameters()), 25)) < bound


def test_muon_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.optim.Muon multiplies in bfloat16; kept in float64 it is the same algorithm."""
    text = (Path(__file__).parents[1] / "examples" / "muon_adamw.opt").read_text(encoding="utf-8")
    exact = optc.loads(text.replace("precision = bf16", "precision = exact"))
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    a, b = model(torch.float64), model(torch.float64)
    matrices = [[p for p in net.parameters() if p.ndim == 2] for net in (a, b)]
    named = [(n, p) for n, p in a.named_parameters() if p.ndim == 2]
    ours = exact(named, lr=0.02, weight_decay=0.1)
    theirs = torch.optim.Muon(matrices[1], lr=0.02, weight_decay=0.1)
    assert largest(train(a, ours, 10), train(b, theirs, 10)) < 1e-11


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("shape", [(32, 32), (24, 48), (96, 24)])
def test_muon_in_bfloat16_is_torchs(shape: tuple[int, int], count: int) -> None:
    """The steps in bfloat16, as torch takes them, alone and stacked: apart by rounding at most."""
    params = []
    for _ in range(2):
        make = torch.Generator().manual_seed(0)
        params.append(
            [torch.nn.Parameter(torch.randn(*shape, generator=make)) for _ in range(count)]
        )
    before = [p.detach().clone() for p in params[0]]
    for p, q in zip(*params, strict=True):
        p.grad = q.grad = torch.randn(*shape, generator=make)
    names = [(f"{i}.weight", p) for i, p in enumerate(params[0])]
    example("muon_adamw")(names, lr=0.02, weight_decay=0.0).step()
    torch.optim.Muon(params[1], lr=0.02, weight_decay=0.0).step()
    for p, q, start in zip(*params, before, strict=True):
        moved = (q - start).norm()
        assert 0.05 < moved and (p - q).norm() < 0.02 * moved


def test_rules_that_own_the_loop_have_a_test_of_their_own() -> None:
    papers = [p.read_text() for p in (Path(__file__).parent / "papers").glob("*.py")]
    assert [p.stem for p in OWN if not any(f"{p.stem}.opt" in text for text in papers)] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_it_trains(path: Path, backend: str) -> None:
    net = model(torch.float32)
    named = [(n, p) for n, p in net.named_parameters()]
    opt = made(path, named, backend)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    before = ((net(x) - x[:, :3].sin()) ** 2).mean().item()
    train(net, opt, 40)
    assert ((net(x) - x[:, :3].sin()) ** 2).mean().item() < before


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_eager_and_compiled_agree(path: Path) -> None:
    nets = [model(torch.float64) for _ in range(2)]
    ends = [
        train(net, made(path, list(net.named_parameters()), backend), 10)
        for net, backend in zip(nets, ("eager", "c"), strict=True)
    ]
    assert largest(*ends) < 1e-11


def test_parameters_are_routed_by_the_type_of_their_module() -> None:
    text = """
rule by_module(lr: nonnegative = 1.0):
    for params where module("Linear") and ndim == 2:
        step lr
    for other params:
        step 0
"""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    opt = optc.loads(text)(optc.parameters(net))
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(4, 2)).pow(2).sum().backward()
    opt.step()
    still = [torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True)]
    assert still == [False, True, True, True]
    assert opt.param_groups[0]["module_types"] == ["Linear", "Linear", "LayerNorm", "LayerNorm"]
