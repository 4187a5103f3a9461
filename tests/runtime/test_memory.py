"""What a step holds: nothing of the size of the model stays behind, nothing twice."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import optc
from optc.runtime import computing

from .rules import RULES, SAM

SIZE = 1 << 16


def large(model: Any, opt: Any) -> list[torch.Tensor]:
    """Tensors of the size of the parameter that are neither it, its gradient nor its state."""
    gc.collect()
    known = {p.data_ptr() for p in model.parameters()}
    known |= {p.grad.data_ptr() for p in model.parameters() if p.grad is not None}
    known |= {v.data_ptr() for s in opt.state.values() for v in s.values()}
    found = {}
    for x in gc.get_objects():
        try:
            if isinstance(x, torch.Tensor) and x.untyped_storage().nbytes() >= 4 * SIZE:
                found[x.data_ptr()] = x
        except (ReferenceError, RuntimeError):
            continue
    return [x for at, x in found.items() if at and at not in known]


def stepped(text: str, backend: str, peek: Any = None) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Linear(SIZE, 1, bias=False)
    opt = optc.loads(text)(model.named_parameters(), backend=backend)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        if peek is not None:
            peek(model, opt)
        loss = model.weight.square().sum() / 2
        loss.backward()
        return loss

    for _ in range(2):
        opt.zero_grad()  # else the gradients before the step are kept for the case of an error
        opt.step(closure)
    return model, opt


@pytest.mark.parametrize("name", ["adamw", "clipped", "sam", "lazy", "veto", "remember"])
def test_nothing_stays_between_steps(name: str) -> None:
    model, opt = stepped(RULES[name], "c")
    assert not large(model, opt)


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_sam_holds_the_point_and_one_gradient(backend: str) -> None:
    most = [0]

    def peek(model: Any, opt: Any) -> None:
        most[0] = max(most[0], len(large(model, opt)))

    stepped(SAM, backend, peek)
    # before the second forward: the point is under the parameter, the held point and the first
    # gradient are beside it
    assert most[0] == 2


def test_frozen_parameters_have_no_state() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    opt = optc.loads("rule r(lr = 0.1):\n    precondition adam()\n    step lr\n")(
        model.named_parameters()
    )
    before = [p.detach().clone() for p in model[0].parameters()]
    for _ in range(2):
        opt.zero_grad()
        model(torch.randn(3, 4)).sum().backward()
        opt.step()
    assert all(not opt.state[p] for p in model[0].parameters() if p in opt.state)
    assert all(map(torch.equal, before, model[0].parameters()))
    saved = opt.state_dict()
    model[0].requires_grad_(True)
    opt.zero_grad()
    model(torch.randn(3, 4)).sum().backward()
    opt.step()
    assert float(opt.state[model[0].weight]["step"]) == 1, "it takes part from now on"
    assert float(opt.state[model[1].weight]["step"]) == 3
    opt.load_state_dict(saved)
    opt.step()


def test_what_matrices_are_made_of_goes_one_after_another(monkeypatch) -> None:
    params = [nn.Parameter(torch.randn(k, k)) for k in (3, 4, 5)]
    for p in params:
        p.grad = torch.randn_like(p)
    opt = optc.loads(
        "rule r(lr = 0.1):\n    m = matrix(2 * grad(w))\n"
        "    w <- w - lr * back(polar(m)) / (1 + w^2)\n"
    )(params)
    given: list[list[Any]] = []
    alive = []
    together = computing.together

    def watched(phase: Any, forward: Any, values: Any, count: int) -> Any:
        if phase.mode == "torch":
            alive.append([one() is not None for one in given])
            own = {id(p) for p in (*params, *(p.grad for p in params))}
            taken = [x for column in values if isinstance(column, list) for x in column]
            given.extend(weakref.ref(x) for x in taken if id(x) not in own)
        return together(phase, forward, values, count)

    monkeypatch.setattr(computing, "together", watched)
    opt.step()
    assert [len(a) for a in alive] == [0, 1, 2] and not any(map(any, alive))
