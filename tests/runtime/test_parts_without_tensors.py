"""A `for` part in which no tensor is does nothing, whatever axes its points and vectors have."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import optc

PARTS = {
    "points": "w <- w - lr * mean(grad(w + normal(w, probes(3))), over = probes)",
    "examples": "w <- w - lr * mean(grad(w, on = each(batch)), over = examples)",
    "vectors": "z = normal(w, probes(3))\nw <- w - lr * mean(z * jvp(loss, w, z), over = probes)",
    "curvature": "z = normal(w, probes(3))\nw <- w - mean(z * hvp(loss, w, z), over = probes)",
    "both": (
        "J = grad(w + normal(w, probes(3)), on = each(batch))\n"
        "w <- w - mean(mean(J, over = probes), over = examples)"
    ),
    "the best": ("z = normal(w, probes(3))\nw <- w + z[argmin(loss(w + z), over = probes)]"),
    "a state": "state C: element[window(4)] = 0\nw <- w - sum(grad(w + C), over = window)\nC <- 1",
}
OF_LOSSES = {
    "losses": "w <- w - lr * mean(grad(l, w), over = losses)",
    "weighed": "w <- w - vjp(l, w, ones(losses))",
    "vectors": (
        "z = normal(w, probes(3))\ny = sum(jvp(l, w, z), over = losses)\n"
        "w <- w - sum(y * z, over = probes)"
    ),
    "a system": (
        "J = grad(l, w)\nG = dot(J, J', over = model) + eye(losses)\n"
        "w <- w - sum(solve(G, ones(losses)) * J, over = losses)"
    ),
}


def stepped(text: str, several: bool, model: bool) -> tuple[Any, torch.nn.Module]:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).double()

    def loss(batch: torch.Tensor) -> torch.Tensor:
        out = net(batch)
        return torch.stack([out.exp().mean(), (out**2).mean()]) if several else (out**2).mean()

    opt = optc.loads(text)(net.named_parameters(), seed=1)
    opt.bind(objective=loss, model=net if model else None)
    for k in range(2):
        opt.step(batch=torch.arange(12.0).reshape(4, 3).double() / 9 + k)
    return opt, net


@pytest.mark.parametrize("model", [True, False], ids=["by vmap", "one by one"])
@pytest.mark.parametrize("name", [*PARTS, *(f"several: {k}" for k in OF_LOSSES)])
def test_it_does_nothing(name: str, model: bool) -> None:
    several = name.startswith("several: ")
    part = (OF_LOSSES if several else PARTS)[name.removeprefix("several: ")]
    rest = "mean(grad(l, w), over = losses)" if several else "grad(w)"
    head = "rule r(lr = 0.1):\n" + "    loss l: model[losses]\n" * several
    inside = "".join(f"        {line}\n" for line in part.split("\n"))
    routed = f"{head}    for params where ndim == 3:\n{inside}    for other params:\n"
    _, net = stepped(f"{routed}        w <- w - lr * {rest}\n", several, model)
    _, plain = stepped(f"{head}    w <- w - lr * {rest}\n", several, model)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


def test_a_loss_along_it_is_the_loss_where_the_others_stand() -> None:
    text = """rule r(lr = 0.1):
    state found: model[probes(3)] = 0, along: model[probes(3)] = 1
    for params where ndim == 3:
        found <- loss(w + normal(w, probes(3)))
        along <- jvp(loss, w, normal(w, probes(3)))
    metric apart = sum(abs(found - loss(w)) + abs(along), over = probes)
    metric size = sum(found, over = probes) / loss(w)
    w <- w - lr * grad(w)
"""
    opt, _ = stepped(text, False, True)
    assert float(opt.metrics["apart"]) == 0
    assert float(opt.metrics["size"]) == pytest.approx(3)


def test_the_axes_of_a_loss_and_of_vectors_keep_apart() -> None:
    """The derivative of each loss along each vector: as from the gradients."""
    text = """rule r(lr = 0.1):
    loss l: model[losses]
    z = normal(w, probes(3))
    y = jvp(l, w, z)
    J = grad(l, w)
    metric along = sum(y * grid(losses, 1, 2, 2), over = losses)
    metric of_gradients = sum(dot(J, z, over = model) * grid(losses, 1, 2, 2), over = losses)
    w <- w - lr * mean(J, over = losses)
"""
    opt, _ = stepped(text, True, True)
    assert opt.metrics["along"].shape == (3,)
    torch.testing.assert_close(opt.metrics["along"], opt.metrics["of_gradients"])


def pair() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))


def warned(parts: dict[str, str], steps: int = 2) -> list[str]:
    """What the optimizer of a rule with these parts warns of in some steps."""
    net = pair()
    body = "".join(f"    for {part}:\n        {step}\n" for part, step in parts.items())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opt = optc.loads("rule r(lr = 0.1):\n" + body)(optc.parameters(net))
        for _ in range(steps):
            opt.zero_grad()
            net(torch.ones(4, 3)).sum().backward()
            opt.step()
        opt.load_state_dict(opt.state_dict())
        opt.step()
    return [str(w.message) for w in caught]


OTHER = {"other params": "step 2 * lr"}


def test_a_pattern_that_matches_no_parameter_is_warned_of_once() -> None:
    (said,) = warned({'params where named("bais", "*.bia")': "step lr", **OTHER})
    assert said.startswith('<string>:2:22: named("bais", "*.bia") matches no parameter, so nothing')
    assert said.endswith("names that there are: 1.bias, 0.bias, 1.weight, ..")


def test_all_such_patterns_are_told_at_once() -> None:
    parts = {
        'params where ndim == 2 and module("Conv2d")': "step lr",
        'params where named("head*") or named("tail*")': "step lr",
        **OTHER,
    }
    (said,) = warned(parts)
    lines = said.split("\n")
    assert [line.partition(" matches")[0] for line in lines] == [
        '<string>:2:36: module("Conv2d")',
        '<string>:4:22: named("head*")',
        '<string>:4:40: named("tail*")',
    ]
    assert lines[0].endswith("modules that there are: Linear")


@pytest.mark.parametrize(
    "condition",
    [
        "ndim == 4",
        'ndim == 2 and not named("*embed*", "*head*")',
        'ndim == 4 and named("*.weight")',
        'named("*.bias") or named("*.scale")',
        'dtype("bfloat16")',
    ],
)
def test_a_part_that_is_empty_by_what_the_rule_says_is_not_warned_of(condition: str) -> None:
    assert warned({f"params where {condition}": "step lr", **OTHER}) == []


def test_a_part_whose_tensors_an_earlier_one_took_is_not_warned_of() -> None:
    parts = {'params where named("*")': "step lr", 'params where named("0.*")': "step lr"}
    assert warned({**parts, **OTHER}) == []
