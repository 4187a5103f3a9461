"""Rules over the pieces of a batch: what one piece does not use, and batches of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc


def experts(a: Any, b: Any, shared: Any) -> Any:
    """A loss of which each example uses one expert."""
    return lambda rows: torch.stack([(a if r > 0 else b).sum() * shared.sum() for r in rows]).mean()


@pytest.mark.parametrize("data", ["each(batch)", "split(batch, 2)", "split(batch, 4)"])
def test_an_example_has_gradient_zero_by_what_only_others_use(data: str) -> None:
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    axis = "examples" if data.startswith("each") else "micro"
    opt = optc.loads(
        f"rule r(lr = 1.0):\n    batch = {data}\n    d = mean(grad(w), over = {axis})\n"
        "    step lr\n"
    )(params)
    opt.bind(objective=experts(*params)).step(batch=torch.tensor([1.0, 1.0, 1.0, -1.0]))
    assert [round(1 - float(p), 6) for p in params] == [0.75, 0.25, 1.0]


def test_what_no_example_uses_has_the_noise_of_a_private_rule() -> None:
    text = "rule r(lr = 1.0):\n    batch = each(batch)\n    combine dp_mean(10, 3)\n    step lr\n"
    for batch in ([1.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]):
        params = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
        opt = optc.loads(text, private=True)(params)
        opt.bind(objective=experts(*params)).step(batch=torch.tensor(batch))
        assert all(abs(1 - float(p)) > 0.1 for p in params)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_batch_may_be_a_list(kind: Any) -> None:
    x, y = torch.arange(12.0).view(4, 3), torch.ones(4, 3)
    p = torch.nn.Parameter(torch.zeros(3))
    opt = optc.loads(
        "rule r(lr = 1.0):\n    batch = split(batch, 2)\n    d = mean(grad(w), over = micro)\n"
        "    step lr\n"
    )([p])
    opt.bind(objective=lambda b: (p * (b[0] - b[1])).mean()).step(batch=kind((x, y)))
    torch.testing.assert_close(p.detach(), -(x - y).mean(0) / 3)


def test_names_are_those_of_the_module_within_its_wrappers() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.compile(torch.nn.Linear(2, 2)))
    plain = [name for name, _ in optc.parameters(inner)[0]["params"]]
    assert plain == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for wrapped in (torch.compile(inner), torch.nn.DataParallel(torch.compile(inner))):
        found = optc.parameters(wrapped)[0]
        assert [name for name, _ in found["params"]] == plain
        assert found["module_types"] == ["Linear"] * 4
