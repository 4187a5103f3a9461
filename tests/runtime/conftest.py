"""What the tests of the runtime start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def as_in_a_step() -> Iterator[None]:
    """Where a loop is asked: gradients are off, and the numbers drawn are known."""
    torch.manual_seed(0)
    with torch.no_grad():
        yield
