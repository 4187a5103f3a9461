"""Three ways to call a rule give the same numbers on a real model; errors say what to pass.

`step(closure)`, `bind(..)` with `step(batch=..)` or `step(objective=..)`, and a functional step
that torch.compile takes whole.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import optc

SAM = """
rule sam_adam(lr = 0.01, rho = 0.05):
    perturb sam(rho)
    precondition adam()
    step lr
"""
CURVED = """
rule curved(lr = 0.1):
    h = hvp(loss, w, grad(w))
    w <- w - lr * (grad(w) - 0.05 * h)
"""
PLAIN = """
rule plain(lr = 0.1):
    smooth momentum(0.9)
    step lr
"""
EXAMPLES = """
rule examples(lr = 0.1):
    J = grad(w, on = each(batch))
    w <- w - lr * mean(J / (1 + norm(J, over = model)), over = examples)
"""
PAIR = """
rule pair(lr = 0.1):
    loss main, other
    a = grad[w](main)
    b = grad[w](other)
    w <- w - lr * (a - dot(a, b, over = model) // dot(b, b, over = model) * b)
"""


class Classifier(nn.Module):
    """Patches of an image, attention between them, a head."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        mixed, _ = self.mix(tokens, tokens, tokens, need_weights=False)
        return self.head(self.drop(tokens + mixed).mean(1))


def model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return Classifier(dropout).double()


def data(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def close(a: nn.Module, b: Any) -> None:
    theirs = list(b.parameters()) if isinstance(b, nn.Module) else list(b)
    torch.testing.assert_close([*a.parameters()], theirs, rtol=1e-9, atol=1e-11)


def by_closure(text: str, steps: int = 2, curvature: str = "") -> nn.Module:
    net, (x, y) = model(), data()
    opt = optc.loads(text)(net.named_parameters())
    if curvature:
        opt.bind(model=net, curvature=curvature)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)
    return net


def by_objective(text: str, steps: int = 2, each: bool = False) -> nn.Module:
    net, batch = model(), data()
    opt = optc.loads(text)(net.named_parameters())

    def fit(b: Any) -> torch.Tensor:
        return cross_entropy(net(b[0]), b[1])

    if not each:
        opt.bind(model=net, objective=fit)
    for _ in range(steps):
        if each:
            opt.step(objective=fit, batch=batch)
        else:
            opt.step(batch=batch)
    return net


def by_function(text: str, steps: int = 2) -> list[torch.Tensor]:
    net, (x, y) = model(), data()
    from optc.runtime.functional import Step

    rule = Step(optc.loads(text).program)
    w = {k: p.detach().clone() for k, p in net.named_parameters()}

    def loss(w: dict[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(functional_call(net, w, (x,)), y)

    def train(w: dict[str, torch.Tensor], state: Any) -> dict[str, torch.Tensor]:
        for _ in range(steps):
            w, state, _ = rule(w, state, loss=loss)
        return w

    torch.compiler.reset()
    whole = torch.compile(train, fullgraph=True, backend="aot_eager")
    # fused attention has no second derivative
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return list(whole(w, rule.init(w)).values())


@pytest.mark.parametrize("text", [PLAIN, SAM])
def test_all_three_give_the_same_numbers(text: str) -> None:
    first = by_closure(text)
    close(first, by_objective(text))
    close(first, by_objective(text, each=True))
    close(first, by_function(text))


def test_hessian_vector_products_in_one_graph_and_by_an_objective() -> None:
    close(by_objective(CURVED), by_function(CURVED))


def test_a_closure_cannot_give_curvature_and_the_error_says_what_can() -> None:
    with pytest.raises(RuntimeError, match=r"Hessian-vector products of `loss`.*bind\(model=model"):
        by_closure(CURVED)
    net = by_closure(CURVED, curvature="finite")
    theirs = list(by_objective(CURVED).parameters())
    torch.testing.assert_close([*net.parameters()], theirs, rtol=1e-6, atol=1e-8)


def test_per_example_losses() -> None:
    net, (x, y) = model(), data()
    with torch.no_grad():
        total = [torch.zeros_like(p) for p in net.parameters()]
    for a, b in zip(x, y, strict=True):
        net.zero_grad()
        cross_entropy(net(a[None]), b[None]).backward()
        grads = [p.grad for p in net.parameters()]
        n = torch.stack([g.norm() for g in grads]).norm()
        total = [t + g / (1 + n) / len(x) for t, g in zip(total, grads, strict=True)]
    expected = [p.detach() - 0.1 * t for p, t in zip(net.parameters(), total, strict=True)]
    close(by_objective(EXAMPLES, steps=1), expected)


@pytest.mark.parametrize("form", ["functions", "dict"])
def test_several_losses(form: str) -> None:
    net, batch = model(), data()
    opt = optc.loads(PAIR)(net.named_parameters())

    def main(b: Any) -> torch.Tensor:
        return cross_entropy(net(b[0]), b[1])

    def other(b: Any) -> torch.Tensor:
        return net(b[0]).square().mean()

    with pytest.raises(RuntimeError, match="`main`.*objective={'main'"):
        opt.bind(model=net).step(batch=batch)
    both: Any = {"main": main, "other": other}
    opt.bind(model=net, objective=both if form == "functions" else None)
    twin = model()
    x, y = batch
    a = torch.autograd.grad(cross_entropy(twin(x), y), [*twin.parameters()])
    b = torch.autograd.grad(twin(x).square().mean(), [*twin.parameters()])
    along = sum((p * q).sum() for p, q in zip(a, b, strict=True))
    size = sum((q * q).sum() for q in b)
    expected = [
        w.detach() - 0.1 * (p - along / size * q)
        for w, p, q in zip(twin.parameters(), a, b, strict=True)
    ]
    if form == "functions":
        opt.step(batch=batch)
    else:
        opt.step(objective=lambda b: {k: f(b) for k, f in both.items()}, batch=batch)
    close(net, expected)


NEEDS = {
    "perturb sam()\nstep lr": r"gradient of `loss` at another point.*optimizer.step\(closure\)",
    "metric f = loss(w)\nstep lr": r"value of `loss`.*returns the loss: optimizer.step\(closure\)",
    "w <- w - lr * hvp(loss, w, w)": r"curvature of `loss`.*bind\(model=model, objective=",
    "w <- w - lr * mean(grad(w, on = each(batch)), over = examples)": r"`each`.*batch=batch",
    "w <- w - lr * grad(w, on = draw())": r"`draw`.*bind\(",
    "oracle score(x): element\nw <- w - lr * score(w)": r"`score`.*bind\(",
    "input level: model\nw <- w - lr * level * grad(w)": r"optimizer.supply\(level=...\)",
}


@pytest.mark.parametrize("body", NEEDS)
def test_a_plain_step_that_is_not_enough_says_what_to_pass(body: str) -> None:
    net, (x, y) = model(), data()
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    opt = optc.loads(f"rule r(lr = 0.1):\n{lines}")(net.named_parameters())
    before = [p.detach().clone() for p in net.parameters()]
    cross_entropy(net(x), y).backward()
    with pytest.raises(RuntimeError, match=NEEDS[body]):
        opt.step()
    assert all(map(torch.equal, before, net.parameters()))
