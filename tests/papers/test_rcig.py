"""Implicit gradients for data set distillation: the card's quadratic, and a set that is learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optc

TEXT = (Path(__file__).parents[2] / "examples" / "implicit_gradient_krr.opt").read_text("utf-8")
DTYPE = torch.float64


def parameters(**start: list[float]) -> dict[str, torch.nn.Parameter]:
    return {k: torch.nn.Parameter(torch.tensor(v, dtype=DTYPE)) for k, v in start.items()}


def test_the_implicit_part_of_a_quadratic() -> None:
    """inner |b - s|^2 / 2 + |b|^2 / 4 at its minimum, outer |b - (0, 1)|^2 / 2."""
    text = TEXT.replace("        precondition adam()\n", "")
    assert text != TEXT
    p = parameters(set_x=[1.0, 2.0], body=[2 / 3, 4 / 3])
    opt = optc.loads(text)(
        p.items(), lr=1.0, clip=False, inner_lr=0.01, inverse_steps=3000, inverse_lr=0.01
    )
    goal = torch.tensor([0.0, 1.0], dtype=DTYPE)

    def inner() -> torch.Tensor:
        return ((p["body"] - p["set_x"]) ** 2).sum() / 2 + (p["body"] ** 2).sum() / 4

    def outer() -> torch.Tensor:
        return ((p["body"] - goal) ** 2).sum() / 2 + 0 * p["set_x"].sum()

    opt.bind(objective={"inner": inner, "outer": outer})
    opt.step()
    assert p["body"].tolist() == pytest.approx([2 / 3, 4 / 3], abs=1e-12)
    assert p["set_x"].tolist() == pytest.approx([1 - 4 / 9, 2 - 2 / 9], abs=1e-4)


def test_the_implicit_part_is_cut_to_the_direct_one() -> None:
    text = TEXT.replace("        precondition adam()\n", "")
    p = parameters(set_x=[1.0, 2.0], body=[2 / 3, 4 / 3])
    opt = optc.loads(text)(p.items(), lr=1.0, inner_lr=0.01, inverse_steps=3000, inverse_lr=0.01)
    goal = torch.tensor([0.0, 1.0], dtype=DTYPE)
    opt.bind(
        objective={
            "inner": lambda: ((p["body"] - p["set_x"]) ** 2).sum() / 2 + (p["body"] ** 2).sum() / 4,
            "outer": lambda: ((p["body"] - goal) ** 2).sum() / 2 + 0.1 * p["set_x"][0],
        }
    )
    opt.step()
    implicit = torch.tensor([4 / 9, 2 / 9], dtype=DTYPE)
    expected = torch.tensor([0.1, 0.0], dtype=DTYPE) + 0.1 * implicit / implicit.norm()
    moved = torch.tensor([1.0, 2.0], dtype=DTYPE) - p["set_x"].detach()
    assert moved.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_small_set_is_learned() -> None:
    """Four learned points stand for sixty-four of a parity; the last layer is solved for."""
    torch.manual_seed(0)
    x = torch.randn(64, 2, dtype=DTYPE)
    y = (x.prod(1, keepdim=True)).sign()
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh()).to(DTYPE)
    points = torch.nn.Parameter(torch.randn(4, 2, dtype=DTYPE))
    labels = torch.nn.Parameter(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=DTYPE))
    lam = 0.01

    def alpha() -> torch.Tensor:
        f = net(points)
        return torch.linalg.solve(f @ f.T + lam * torch.eye(4, dtype=DTYPE), labels)

    def inner() -> torch.Tensor:
        return lam * (labels * alpha()).sum() / 2

    def outer() -> torch.Tensor:
        return ((net(x) @ net(points).T @ alpha() - y) ** 2).mean()

    named = [("set.x", points), ("set.y", labels)]
    named += [(f"body.{k}", v) for k, v in net.named_parameters()]
    opt = optc.loads(TEXT)(
        named, lr=0.02, inner_lr=0.01, inner_steps=2, inverse_steps=5, inverse_lr=0.01
    )
    opt.bind(objective={"inner": inner, "outer": outer})
    before = float(outer().detach())
    for _ in range(150):
        opt.step()
    assert float(outer().detach()) < 0.5 * before
