"""`run captured`: a step records itself, and is replayed while its gradients stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import optc
from optc.runtime import capture, optimizer, withheld

from ..rules import ADAMW, CLIPPED, RULES
from .parameters import parameters, same_optimizer
from .recorded import Recorded

EVERY_SECOND = """
rule every_second(lr: nonnegative = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    if call % 2 == 0:
        w <- w - lr * m / t
"""
CAPTURED = "\nschedule {}:\n    run captured\n"


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorded]]:
    """The graphs that are recorded, on a device that is told to record them."""
    made: list[Recorded] = []

    def record(run: Callable[[], Any]) -> Recorded:
        made.append(Recorded(monkeypatch))
        with made[-1]:
            run()
        return made[-1]

    monkeypatch.setattr(capture, "record", record)
    for module in (capture, withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    yield made


def trained(rule: Any, spoilt: set[int], moving: set[int], count: int = 9) -> Any:
    params = parameters((torch.float32, torch.bfloat16))
    opt = rule(params, backend="triton")
    for p in params:
        p.grad = torch.zeros_like(p)
    for step in range(count):
        if step in moving:
            kept = [p.grad for p in params]  # another one is not put where it lies
            params[0].grad = torch.zeros_like(params[0])
            del kept[1:]
        for p in params:
            p.grad.copy_(torch.sin(p.detach().float() * (step + 1)))
        if step in spoilt:
            params[0].grad.fill_(float("nan"))
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        opt.step()
    return opt


@pytest.mark.parametrize(
    ("text", "guard", "count"),
    [(ADAMW, False, 1), (CLIPPED, True, 1), (EVERY_SECOND, False, 2), (EVERY_SECOND, True, 2)],
)
def test_it_is_the_plain_run(text: str, guard: bool, count: int, graphs: list[Recorded]) -> None:
    name = text.split("rule ")[1].split("(")[0]
    spoilt = {4, 8} if guard else set()
    plain = trained(optc.loads(text, guard=guard), spoilt, set())
    assert not graphs
    same_optimizer(
        plain, trained(optc.loads(text + CAPTURED.format(name), guard=guard), spoilt, set())
    )
    assert len(graphs) == count


def test_it_records_again_where_a_gradient_moved(graphs: list[Recorded]) -> None:
    plain = trained(optc.loads(ADAMW), set(), {5})
    rule = optc.loads(ADAMW + CAPTURED.format("adamw"))
    same_optimizer(plain, trained(rule, set(), {5}))
    assert len(graphs) == 2


def test_a_frozen_tensor_makes_another_layout(graphs: list[Recorded]) -> None:
    rule = optc.loads(ADAMW + CAPTURED.format("adamw"))
    opt = trained(rule, set(), set(), 4)
    first = opt.param_groups[0]["params"][0]
    first.requires_grad_(False)
    before = first.detach().clone()
    for _ in range(4):
        opt.step()
    assert torch.equal(first, before) and len(graphs) == 2


def test_what_no_graph_can_hold_runs_plainly(graphs: list[Recorded]) -> None:
    """A veto on a number of the host; that is told once."""
    text = RULES["veto"]
    name = text.split("rule ")[1].split("(")[0]
    rule = optc.loads(text + CAPTURED.format(name))
    with pytest.warns(UserWarning, match="is not captured: .* reads a scalar of the host") as told:
        opt = trained(rule, set(), set())
    assert len(told) == 1 and not graphs
    same_optimizer(opt, trained(optc.loads(text), set(), set()))
