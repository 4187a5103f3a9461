"""Nothing waits for the device, and a CUDA graph can hold a step."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optc.compiler.emit.standalone import standalone
from optc.runtime.optimizer import optimizer_class

from ..compare import compiled, optimized
from ..rules import ADAMW, CLIPPED, RULES
from .parameters import parameters, same_bits, same_optimizer
from .recorded import Recorded


class NoReading(TorchDispatchMode):
    """Raises where a number is read from a tensor, which on a GPU waits for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step reads a number"
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_back_and_tables_stay(
    monkeypatch: pytest.MonkeyPatch, launched: Any
) -> None:
    params = parameters((torch.float32,))
    opt = optimizer_class(compiled(CLIPPED))(params, backend="triton")
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    tables = [launch.addr.there for launch in launched]
    known = [launch.addr.known for launch in launched]
    places = [[x.data_ptr() for x in launch.cut] for launch in launched]
    launched.clear()
    with NoReading():
        opt.step()
    assert [launch.addr.there for launch in launched] == tables
    assert all(a.addr.known is b for a, b in zip(launched, known, strict=True))
    assert [[x.data_ptr() for x in launch.cut] for launch in launched] == places


def test_a_standalone_module_brings_its_kernels(tmp_path: Path, launched: Any) -> None:
    (tmp_path / "alone.py").write_text(standalone(compiled(CLIPPED)))
    spec = importlib.util.spec_from_file_location("alone", tmp_path / "alone.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    results = []
    for make in (module.Clipped, optimizer_class(compiled(CLIPPED))):
        params = parameters((torch.float32, torch.bfloat16))
        opt = make(params, backend="triton")
        for _ in range(2):
            for p in params:
                p.grad = torch.sin(p.detach())
            opt.step()
        results.append(params)
    same_bits(*results)
    assert len(launched) == 8, "the module has a runtime of its own"


NOISE = """
rule noise(lr: nonnegative = 0.1):
    w <- w - lr / t * (grad(w) + normal(w))
"""


@pytest.mark.parametrize("text", [ADAMW, NOISE], ids=["adamw", "noise"])
def test_replays_are_steps(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for replayed in (False, True):
        params = parameters((torch.float32, torch.bfloat16))
        opt = optimizer_class(compiled(text))(params, backend="triton", seed=3)
        for p in params:
            p.grad = torch.zeros_like(p)
        recorded = Recorded(monkeypatch)
        for step in range(5):
            for p in params:
                p.grad.copy_(torch.sin(p.detach().float() * (step + 1)))
            if replayed and step == 2:
                with recorded:
                    opt.step()
                assert recorded.calls
            opt.param_groups[0]["lr"] = 0.1 / (step + 1)
            if replayed and step >= 2:
                opt.advance()
                recorded.replay()
            else:
                opt.step()
        made.append(opt)
    same_optimizer(*made)


def test_a_graph_refuses_what_it_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters((torch.float32,))
    opt = optimizer_class(compiled(ADAMW))(params, backend="triton")
    with pytest.raises(RuntimeError, match="no step was captured"):
        opt.advance()
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    held = params[0].grad
    params[0].grad = torch.ones_like(held)
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="a tensor has moved"):
        opt.step()
    params[0].grad = None
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="another set of tensors"):
        opt.step()
    values, veto = optimized(RULES["veto"], 1, "triton")
    with Recorded(monkeypatch), pytest.raises(RuntimeError, match="which the host decides"):
        veto.step()
    assert values
