"""The update inside the backward pass is the plain step, with fewer gradients alive."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import optc
from optc.cli import main
from optc.runtime import native

EXAMPLES = Path(__file__).parents[2] / "examples"
RULES = {
    "adamw": "rule r(lr = 0.01):\n    regularize decoupled_decay(0.01)\n    precondition adam()\n"
    "    step lr\n",
    "drawn": "rule r(lr = 0.01):\n    w <- w - lr * (grad(w) + 0.1 * normal(w))\n",
    "stored": "rule r(lr = 0.01):\n    precondition adam()\n    step lr\nschedule r:\n"
    "    store exp_avg as bf16(stochastic)\n    store exp_avg_sq as int8(block = 16)\n",
    "routed": "rule r(lr = 0.01):\n    for params where ndim == 2:\n        smooth momentum(0.9)\n"
    "        step lr\n    for other params:\n        step lr * min(1, t / 3)\n",
    "tensorwise": "rule r(lr = 0.01):\n    n = norm(grad(w), over = tensor)\n"
    "    w <- w - lr * grad(w) / (n + 1)\n",
    "spread": "rule r(lr = 0.01):\n    state m = zeros(w)\n"
    "    if t == 1 or (call + place) % 3 == 0:\n"
    "        m <- 0.5 * m + grad(w)\n    w <- w - lr * (m + 0.1 * grad(w))\n",
    "scheduled": "rule r(lr = 0.01):\n    smooth momentum(0.9)\n    step lr\nschedule r:\n"
    "    run in_backward\n",
}
BACKENDS = ["eager", pytest.param("c", marks=pytest.mark.skipif(
    native.compiler() is None, reason="no C compiler"))]  # fmt: skip


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 16) for _ in range(6)]
    return torch.nn.Sequential(*[x for layer in layers for x in (layer, torch.nn.Tanh())])


def trained(net: torch.nn.Module, optimizer: Any, first: int = 0, last: int = 8) -> list[Tensor]:
    """A plain loop; one from the start has a scheduler of the learning rate."""
    scheduled = last - first == 8
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5) if scheduled else None
    for step in range(first, last):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_the_plain_step(name: str, backend: str) -> None:
    one, two = model(), model()
    cls = optc.loads(RULES[name])
    plain = trained(one, cls(one.parameters(), backend=backend, in_backward=False))
    inside = cls(
        two.parameters(), backend=backend, in_backward=None if name == "scheduled" else True
    )
    assert inside.in_backward
    assert all(map(torch.equal, plain, trained(two, inside)))
    assert {float(s["step"]) for s in inside.state.values()} == {8.0}
    assert inside.param_groups[0]["calls"] == inside.param_groups[0]["steps"] == 8


BUCKETS = "schedule r:\n    run in_backward(bucket_mb = 0.002)\n"
"""Of the model, two layers at once: 17 * 16 * 4 bytes each."""


@pytest.mark.parametrize("name", [n for n in RULES if "schedule" not in RULES[n]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_buckets_are_the_plain_step(name: str, backend: str) -> None:
    one, two = model(), model()
    plain = trained(one, optc.loads(RULES[name])(one.parameters(), backend=backend))
    inside = optc.loads(RULES[name] + BUCKETS)(two.parameters(), backend=backend)
    assert all(map(torch.equal, plain, trained(two, inside)))
    places = [b.layout.places for b in dict.fromkeys(inside._backward.buckets.values())]
    assert places == [[8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert {float(s["step"]) for s in inside.state.values()} == {8.0}


def test_a_bucket_with_a_tensor_without_gradient_is_run_at_the_end() -> None:
    one, two = model(), model()
    plain = optc.loads(RULES["adamw"])(one.parameters())
    inside = optc.loads(RULES["adamw"] + BUCKETS)(two.parameters())
    for step in range(3):
        for net, optimizer in ((one, plain), (two, inside)):
            net[0:3](torch.full((2, 16), 1.0 + step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def test_a_schedule_that_cuts_no_buckets_is_refused() -> None:
    with pytest.raises(optc.CompileError, match="write `run in_backward` or"):
        optc.loads(RULES["adamw"] + BUCKETS.replace("bucket_mb", "bucket"))
    with pytest.raises(optc.CompileError, match="`bucket_mb` is a number of megabytes"):
        optc.loads(RULES["adamw"] + BUCKETS.replace("0.002", "w"))


def alive(in_backward: bool, schedule: str = "") -> int:
    """How many gradients exist at once during a backward pass."""
    net, most = model(), 0
    optimizer = optc.loads(RULES["adamw"] + schedule)(net.parameters(), in_backward=in_backward)

    def look(p: Tensor) -> None:
        nonlocal most
        most = max(most, sum(q.grad is not None for q in net.parameters()))

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(look)
    net(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    return most


def test_gradients_do_not_all_exist() -> None:
    assert alive(False) == 12
    assert alive(True) <= 1
    assert 1 < alive(True, BUCKETS) <= 4


def test_what_needs_all_gradients_is_refused_with_its_line() -> None:
    cls = optc.loads("rule r(lr = 0.1):\n    clip global_norm(1.0)\n    step lr\n")
    needs = r":2:5: .*this needs all gradients of the model(.|\n)*met in .*global_norm.opt:6"
    with pytest.raises(ValueError, match=needs):
        cls(model().parameters(), in_backward=True)
    cls(model().parameters())
    guarded = optc.loads(RULES["adamw"], guard=True)
    with pytest.raises(ValueError, match="this needs all gradients of the model"):
        guarded(model().parameters(), in_backward=True)


def test_gradients_are_not_accumulated() -> None:
    net = model()
    optimizer = optc.loads(RULES["adamw"])(net.named_parameters(), in_backward=True)
    net(torch.ones(2, 16)).sum().backward()
    with pytest.raises(RuntimeError, match="a second gradient before optimizer.step()"):
        net(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    net.zero_grad()
    net(torch.ones(2, 16)).sum().backward()


def test_a_closure_runs_the_backward_pass() -> None:
    one, two = model(), model()
    plain = optc.loads(RULES["adamw"])(one.parameters())
    inside = optc.loads(RULES["adamw"])(two.parameters(), in_backward=True)
    for net, optimizer in ((one, plain), (two, inside)):

        def closure(net: Any = net, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = net(torch.ones(2, 16)).square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() > 0
    assert all(map(torch.equal, one.parameters(), two.parameters()))


def test_a_tensor_without_gradient_stays() -> None:
    net = model()
    optimizer = optc.loads(RULES["adamw"])(net.parameters(), in_backward=True)
    before = [p.detach().clone() for p in net.parameters()]
    net[0](torch.ones(2, 16)).sum().backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert changed == [True, True] + [False] * 10


def test_it_is_saved_loaded_and_copied() -> None:
    cls = optc.loads(RULES["stored"])
    part = model()
    optimizer = cls(part.parameters(), in_backward=True)
    trained(part, optimizer, 0, 4)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(part)
    second = cls(again.parameters(), in_backward=True)
    second.load_state_dict(torch.load(file, weights_only=True))
    pair = copy.deepcopy((part, optimizer))
    pickled = pickle.loads(pickle.dumps((part, optimizer)))
    ends = []
    for net, own in ((part, optimizer), pair, pickled, (again, second)):
        ends.append(trained(net, own, 4, 8))
    assert all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


def test_a_schedule_of_its_own_runs_a_rule_of_another_file() -> None:
    """The example: 2 bytes of state a parameter where there were 8, near AdamW's point."""
    cls = optc.load(EXAMPLES / "adamw.opt", schedule=EXAMPLES / "schedules" / "lean.opt")
    one, two = model(), model()
    optimizer = cls(one.parameters(), lr=0.01)
    trained(one, optimizer)
    plain = optc.load(EXAMPLES / "adamw.opt")(two.parameters(), lr=0.01)
    assert optimizer.in_backward and not plain.in_backward
    for a, b in zip(one.parameters(), trained(two, plain), strict=True):
        assert bool(((a - b).abs() < 0.02).all())
        kept = optimizer.state[a].values()
        assert sum(x.numel() * x.element_size() for x in kept) - 4 <= 2 * a.numel() + 8
    with pytest.raises(optc.CompileError, match="no schedule for the rule `sgd`"):
        optc.load(EXAMPLES / "sgd.opt", schedule=EXAMPLES / "schedules" / "lean.opt")


def test_a_standalone_module_runs_by_its_schedule(tmp_path: Path) -> None:
    text = RULES["stored"] + "    run in_backward\n"
    (tmp_path / "r.opt").write_text(text)
    assert main(["compile", str(tmp_path / "r.opt"), "-o", str(tmp_path / "alone.py")]) == 0
    spec = importlib.util.spec_from_file_location("alone", tmp_path / "alone.py")
    assert spec is not None and spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    one, two = model(), model()
    optimizer = alone.R(one.parameters())
    assert optimizer.in_backward
    found = trained(one, optimizer)
    assert all(map(torch.equal, found, trained(two, optc.loads(text)(two.parameters()))))


def test_two_optimizers_of_one_tensor_are_refused() -> None:
    """The first would use up the gradient, and the second one see none."""
    rule = optc.loads(RULES["scheduled"])
    net = torch.nn.Linear(2, 1)
    first = rule(net.parameters())
    net(torch.ones(2)).backward()
    first.step()
    second = rule(net.parameters())
    second.load_state_dict(first.state_dict())
    with pytest.raises(RuntimeError, match="two optimizers update a parameter within backward"):
        net(torch.ones(2)).backward()
    del first
    net(torch.ones(2)).backward()
    second.step()
    assert {float(s["step"]) for s in second.state.values()} == {2.0}
