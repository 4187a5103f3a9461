"""A step that is one kernel is run again; one that is another goes the long way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.runtime import execute
from optc.runtime.native import compiler

from .rules import ADAMW, CLIPPED

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
SHAPES = ((3, 4), (5,), ())


class Long:
    """Counts the steps that go the long way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count, step = 0, execute.step

        def counted(*args: Any) -> str:
            self.count += 1
            return step(*args)

        monkeypatch.setattr(execute, "step", counted)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> Long:
    return Long(monkeypatch)


def made(text: str = ADAMW, **options: Any) -> tuple[list[Any], Any]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    return params, optc.loads(text)(params, **options)


def step(params: list[Any], opt: Any, turn: int = 1) -> None:
    for p in params:
        p.grad = torch.sin(p.detach() * turn)
    opt.step()


def test_the_first_step_alone_goes_the_long_way(long: Long) -> None:
    """Other scalars, a tensor that moved or a gradient of other strides are no other step."""
    (params, opt), (others, plain) = made(), made(backend="eager")
    for turn in range(8):
        for own, one in ((params, opt), (others, plain)):
            one.param_groups[0]["lr"] = 0.1 / (turn + 1)
            if turn == 4:
                own[0].data = own[0].data.clone()
            for p in own:
                grad = torch.sin(p.detach() * (turn + 1))
                p.grad = grad.t().contiguous().t() if turn == 5 and grad.dim() == 2 else grad
            before = long.count
            one.step()
            assert one is plain or long.count - before == (turn == 0)
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
        assert float(opt.state[p]["step"]) == 8
    assert opt.param_groups[0]["steps"] == opt.param_groups[0]["calls"] == 8


def test_the_kernel_passes_over_tensors_without_a_gradient(long: Long) -> None:
    """One that never has a gradient costs nothing; clocks that part are looked at once."""
    gone = {4: {0, 2}, 5: {2}, 8: {0, 1, 2}}
    (params, opt), (others, plain) = made(), made(backend="eager")
    for turn in range(12):
        for own, one in ((params, opt), (others, plain)):
            for k, p in enumerate(own):
                p.grad = torch.sin(p.detach() * (turn + 1))
                if k in gone.get(turn, {2}):
                    p.grad = None
            before = long.count
            one.step()
            long_way = turn in (0, 1, 5)  # once clocks have parted, and parted anew
            assert one is plain or long.count - before == long_way, turn
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
        assert float(opt.state[p].get("step", 0)) == float(plain.state[q].get("step", 0))


@pytest.mark.parametrize("way", ["frozen", "group", "maximize", "loaded", "closure"])
def test_another_step_goes_the_long_way(way: str, long: Long) -> None:
    (params, opt), (others, plain) = made(), made(backend="eager")
    for own, one in ((params, opt), (others, plain)):
        for turn in range(6):
            for p in own:
                p.grad = torch.sin(p.detach() * (turn + 1))
            before = long.count
            if turn == 3:
                _otherwise(way, own, one)
            else:
                one.step()
            assert one is plain or long.count - before == (turn in (0, 3)) or turn > 3
    for p, q in zip(opt.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-7)
        assert float(opt.state[p]["step"]) == float(plain.state[q]["step"])


def _otherwise(way: str, params: list[Any], opt: Any) -> None:
    if way == "frozen":
        params[1].requires_grad_(False)
        params[1].grad = None
    elif way == "group":
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5})
        params.append(opt.param_groups[1]["params"][0])
        params[-1].grad = torch.ones(2)
    elif way == "maximize":
        opt.param_groups[0]["maximize"] = True
    elif way == "loaded":
        opt.load_state_dict(opt.state_dict())
    closure = None
    if way == "closure":
        grads = [p.grad for p in params]

        def closure() -> torch.Tensor:
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            return torch.zeros(())

    opt.step(closure)


def test_a_rule_of_several_kernels_goes_the_long_way(long: Long) -> None:
    params, opt = made(CLIPPED)
    for turn in range(3):
        step(params, opt, turn + 1)
    assert long.count == 3


def test_a_wrong_gradient_is_refused_and_nothing_is_written() -> None:
    params, opt = made()
    step(params, opt)
    step(params, opt)
    kept = [p.detach().clone() for p in params]
    params[1].grad = torch.sparse_coo_tensor([[0]], [1.0], (5,))
    with pytest.raises(ValueError, match="sparse"):
        opt.step()
    assert all(map(torch.equal, kept, params)) and opt.param_groups[0]["steps"] == 2
