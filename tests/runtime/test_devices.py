"""Steps on a device that is not there: fake tensors say where numbers of two devices meet.

They hold no numbers, so reading one from a tensor, for which a GPU has to be waited, raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import optc
from optc.runtime import kernels, optimizer, triton, withheld
from optc.runtime.optimizer import optimizer_class

from .compare import compiled
from .rules import RULES

SHAPES = ((5, 3), (7,), (2, 5))
STEPPING = (
    *("adamw", "momentum", "clipped", "routed", "scheduled", "noisy", "newton_schulz"),
    *("guarded_by_an_option", "slices", "called"),
)
"""Rules that ask for gradients alone, and decide nothing by a number on the device."""
REACHES = """
rule reaches(lr = 0.1):
    g = grad(w)
    state n = 1, s: tensor = 0, m: group = 0
    n <- 0.9 * n + 0.1 * sum(g^2, over = model)
    s <- 0.9 * s + 0.1 * sum(g^2, over = tensor)
    m <- 0.9 * m + 0.1 * max(abs(g), over = group)
    w <- w - lr * g / (1 + n + s + m)
"""


class NoWaiting(TorchDispatchMode):
    """Raises where a copy to the device or back waits for all that the device has to do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket
        if name is torch.ops.aten.copy_:
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            assert args[0].device == args[1].device or not blocking, "a copy waits"
        if name is torch.ops.aten._to_copy:
            there = kwargs.get("device") or args[0].device
            assert there == args[0].device or kwargs.get("non_blocking"), "a copy waits"
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def step(text: str, backend: str, made: Any = None, turns: int = 2) -> Any:
    params = [torch.nn.Parameter(torch.empty(s, device="meta")) for s in SHAPES]
    named = [(f"body.{k}", p) for k, p in enumerate(params)]
    groups = [{"params": named[:2]}, {"params": named[2:]}]
    opt = (made or optimizer_class(compiled(text)))(groups, backend=backend)
    for turn in range(turns):
        for p in params:
            p.grad = torch.empty_like(p)
        with NoWaiting() if turn else contextlib.nullcontext():
            opt.step()
    return opt


@pytest.mark.parametrize("name", STEPPING)
def test_torch_operations_stay_on_the_device(name: str) -> None:
    opt = step(RULES[name], "eager")
    assert all(v.device.type == "meta" for v in opt.metrics.values())


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_a_veto_is_not_waited_for(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the step that may be taken back nor, but for its flag, before the next one."""
    launches(monkeypatch)
    for module in (withheld, optimizer):
        monkeypatch.setattr(module, "waited_for", lambda device: True)
    asked: list[bool] = []
    monkeypatch.setattr(withheld.Withheld, "read", lambda self, replayed: asked.append(replayed))
    step("", backend, optc.loads(RULES["adamw"], guard=True), turns=4)
    assert asked == [False] * 3


class Table:
    """A table of tensors that have no memory."""

    def __init__(self, columns: Any, dtypes: Any, *, device: torch.device, **_: Any):
        assert all(t.device == device for column in columns for t in column)
        self.rows, self.whole = len(columns[0]), True
        self.eager: list[int] = []
        self.absent: list[int] = []

    def refresh(self, columns: Any = None) -> None:
        pass

    def release(self) -> None:
        pass


class Launch:
    """What a kernel is given has to lie on the device."""

    ran = 0

    def __init__(self, table: Any, *, host: Any, reductions: Any, **values: Any):
        assert host.device.type == "cpu"
        for name in ("tensor_values", "group_values", "model_values"):
            assert values[name].device.type == "meta"

    def run(self, **_: Any) -> None:
        Launch.ran += 1


def launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton's kernels be launches that run nothing."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(kernels, "Table", Table)
    monkeypatch.setattr(
        triton.Triton,
        "launch",
        lambda self, phase, signature, program, table, **values: Launch(table, **values),
    )
    monkeypatch.setattr(triton, "interpreted", lambda: True)


@pytest.mark.parametrize("name", [*STEPPING, "reaches"])
def test_what_kernels_read_and_leave_stays_on_the_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches(monkeypatch)
    before = Launch.ran
    opt = step(RULES.get(name, REACHES), "triton")
    assert name == "newton_schulz" or Launch.ran > before
    slots = [
        (key, value)
        for state in opt.state.values()
        for key, value in state.items()
        if key != "step"
    ]
    assert all(value.device.type == "meta" for _, value in slots)
