"""A step in a loop counts its own turns: Adam in a loop is Adam."""

from __future__ import annotations

import pytest
import torch

import optc

LOOPS = {
    "unrolled": "repeat 3:",
    "a loop": "repeat 40:",
    "an option says how often": "repeat n:",
    "the call says how often": "repeat where(call <= 2, 3, 5):",
    "until": "repeat 6 until norm(w, over = model) < 1e-9:",
}
TURNS = {"unrolled": 3, "a loop": 40, "an option says how often": 4, "until": 6}


def value(w: torch.Tensor) -> torch.Tensor:
    return (w**2).sum() + torch.sin(w).sum()


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("name", LOOPS)
def test_adam_in_a_loop_is_adam(name: str, backend: str) -> None:
    head = f"rule r(n: count = 4):\n    {LOOPS[name]}\n"
    rule = optc.loads(head + "        precondition adam()\n        step 0.1\n")
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0]).double()) for _ in range(2))
    opt = rule([ours], backend=backend)
    opt.bind(objective=lambda: value(ours), model=None)
    plain = torch.optim.Adam([theirs], lr=0.1)
    for call in range(1, 4):
        opt.step()
        for _ in range(TURNS.get(name, 3 if call <= 2 else 5)):
            plain.zero_grad()
            value(theirs).backward()
            plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
