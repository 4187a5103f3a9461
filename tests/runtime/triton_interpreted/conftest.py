"""Triton's kernels on tensors of the CPU: test_triton.py runs this folder in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest

from optc.runtime import triton


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the variable there is nothing to run the kernels."""
    if not triton.interpreted():
        for item in items:
            if "triton_interpreted" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="TRITON_INTERPRET=1 is not set"))


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> list[triton.Launch]:
    """The launches of a test: what is compared to a kernel must have come from one.

    Blocks have 8 elements, so that small tensors have whole blocks and a rest.
    """
    monkeypatch.setattr(triton, "BLOCK", 8)
    made: list[triton.Launch] = []
    run = triton.Launch.run

    def counted(self: triton.Launch, **options: Any) -> None:
        made.append(self)
        run(self, **options)

    monkeypatch.setattr(triton.Launch, "run", counted)
    return made
