"""Every primitive of the library keeps the contract."""

from __future__ import annotations

import pytest

from optc.cli.contract import contract
from optc.compiler.syntax import KINDS
from optc.plugins.registry import library

EVERY = [(kind, name) for kind in KINDS for name in library().names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda x: x)
def test_it_keeps_the_contract(kind: str, name: str) -> None:
    registry = library()
    declaration = registry.find(kind, name)
    assert declaration is not None
    assert contract(declaration, registry) == []
