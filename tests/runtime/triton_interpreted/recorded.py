"""A step as a CUDA graph would hold it: its launches, to be replayed."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optc.runtime import capture, running, triton


class Again(TorchDispatchMode):
    """Keeps torch's operations, to run them once more into the memory of their first results."""

    def __init__(self, calls: list[Any]):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = func(*args, **kwargs)

        def again() -> None:
            new = func(*args, **kwargs)
            if isinstance(first, Tensor) and first.data_ptr() != new.data_ptr():
                first.copy_(new)

        self.calls.append(again)
        return first


class Recorded:
    """The launches of a step, kept instead of run; torch's own operations run, and are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[Any] = []
        self.patch = monkeypatch
        self.operations = Again(self.calls)

    def __enter__(self) -> Recorded:
        from triton.runtime.interpreter import GridExecutor

        def record(executor: Any, *args: Any, **options: Any) -> None:
            self.calls.append(lambda: run(executor, *args, **options))

        run = GridExecutor.__call__
        self.context = self.patch.context()
        patch = self.context.__enter__()
        patch.setattr(GridExecutor, "__call__", record)
        for module in (triton, running, capture):
            patch.setattr(module, "capturing", lambda device: True)
        self.operations.__enter__()
        return self

    def __exit__(self, *why: Any) -> None:
        self.operations.__exit__(*why)
        self.context.__exit__(*why)

    def replay(self) -> None:
        for call in self.calls:
            call()
