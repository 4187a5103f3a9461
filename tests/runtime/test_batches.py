"""Batches in pieces, and the sources that they are drawn from."""

from __future__ import annotations

import pytest
import torch

from optc.runtime.objective import Objective

pytestmark = pytest.mark.usefixtures("as_in_a_step")


def test_batches_in_pieces():
    loop = Objective({})
    whole = {
        "x": torch.arange(10.0),
        "y": [torch.arange(20).view(10, 2), "name"],
        "t": torch.ones(()),
    }
    parts = loop.data("split", [whole, torch.tensor(3.0)], {})
    assert [len(p["x"]) for p in parts.items] == [4, 3, 3]
    assert parts[1]["x"].tolist() == [4, 5, 6] and parts[1]["y"][1] == "name"
    examples = loop.data("each", [whole], {})
    assert len(examples) == 10 and examples[3]["y"][0].tolist() == [[6, 7]]
    attributes = {"stream": "2"}
    some = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert len(some["x"]) == 3 and torch.equal(some["y"][0][:, 0].float(), 2 * some["x"])
    again = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert torch.equal(some["x"], again["x"]), "a value, not a draw of its own"
    other = loop.data("subset", [whole, torch.tensor(0.3), torch.tensor(1.0)], attributes)
    loop.finish()
    later = loop.data("subset", [whole, torch.tensor(0.3)], attributes)
    assert not torch.equal(some["x"], later["x"]) or not torch.equal(some["x"], other["x"])
    with pytest.raises(ValueError, match="cannot be split into 11"):
        loop.data("split", [whole, torch.tensor(11.0)], {})
    with pytest.raises(ValueError, match=r"sizes \[2, 3\]"):
        loop.data("each", [(torch.ones(2), torch.ones(3))], {})
    assert loop.data("index", [{"index": torch.tensor([4])}], {}).tolist() == [4]


def test_sources_of_batches():
    loader = [torch.arange(4), torch.arange(4, 6)]
    rows = (torch.arange(100), torch.arange(100) * 2)
    loop = Objective({}, draw=loader, sources={"val": lambda size: size, "all": rows})
    drawn = [loop.data("draw", [], {}).tolist() for _ in range(3)]
    assert drawn == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3]]
    five = loop.data("draw", [torch.tensor(5.0)], {"sized": True})
    assert five.tolist() == [4, 5, 0, 1, 2]
    attributes = {"sized": True, "source": "val"}
    assert loop.data("draw", [torch.tensor(7.0)], attributes) == 7
    x, y = loop.data("draw", [torch.tensor(7.0)], {"sized": True, "source": "all"})
    assert len(set(x.tolist())) == 7 and torch.equal(2 * x, y)
    with pytest.raises(RuntimeError, match="sources={'test': loader}"):
        loop.data("draw", [], {"source": "test"})
    with pytest.raises(RuntimeError, match="draw=loader"):
        Objective({}).data("draw", [], {})
    with pytest.raises(RuntimeError, match="no batches"):
        Objective({}, draw=[]).data("draw", [], {})
