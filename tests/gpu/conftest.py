"""What has to hold on a GPU. Without one the tests that need none run on the CPU, so that they stay
right; `cuda` marks those that make no sense there.

On a machine without a package index, lark, pluggy and networkx are all that has to be brought:
`pip download lark pluggy networkx -d wheels`, and there `pip install --no-index -f wheels -e .`.
"""

from __future__ import annotations

import pytest
import torch

HERE = torch.cuda.is_available()


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if HERE else "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") and not HERE:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
