"""Writes that the device withholds, because the step is taken back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.runtime import optimizer, withheld

from ..rules import ADAMW, CLIPPED
from .parameters import parameters, same_optimizer
from .recorded import Recorded


def guarded_steps(text: str, spoilt: set[int], recorded: Recorded | None = None) -> Any:
    params = parameters((torch.float32, torch.bfloat16))
    opt = optc.loads(text, guard=True)(params, backend="triton")
    for p in params:
        p.grad = torch.zeros_like(p)
    for step in range(6):
        for p in params:
            p.grad.copy_(torch.sin(p.detach().float() * (step + 1)))
        if step in spoilt:
            params[0].grad.fill_(float("nan"))
        if recorded is not None and step == 2:
            with recorded:
                opt.step()
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        if recorded is not None and step >= 2:
            opt.advance()
            recorded.replay()
        else:
            opt.step()
    return opt


@pytest.mark.parametrize("spoilt", [{0}, {1, 3}, {5}, set()], ids=str)
@pytest.mark.parametrize("text", [ADAMW, CLIPPED], ids=["adamw", "clipped"])
def test_kernels_withhold_what_a_veto_takes_back(
    text: str, spoilt: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = guarded_steps(text, spoilt)
    for module in (withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    device = guarded_steps(text, spoilt)
    assert device._withheld is not None
    same_optimizer(host, device)
    assert device.param_groups[0]["steps"] == 6 - len(spoilt)


@pytest.mark.parametrize("spoilt", [{0, 3}, {2, 5}, set()], ids=str)
def test_replays_withhold_what_a_veto_takes_back(
    spoilt: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = guarded_steps(ADAMW, spoilt)
    for module in (withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    recorded = Recorded(monkeypatch)
    same_optimizer(host, guarded_steps(ADAMW, spoilt, recorded))
    assert recorded.calls
