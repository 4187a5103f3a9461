"""Trains standalone modules; run as a script, in an interpreter that has torch and no optc."""

from __future__ import annotations

import importlib
import importlib.abc
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

SHAPES = {"body.weight": (5, 3), "head.weight": (2, 5), "bias": (5,), "scale": (), "none": (0,)}


def made(cls: Any) -> tuple[Any, list[torch.nn.Parameter]]:
    """An optimizer over tensors of many kinds."""
    g = torch.Generator().manual_seed(1)
    named = [(n, torch.nn.Parameter(torch.randn(s, generator=g))) for n, s in SHAPES.items()]
    named.append(("half", torch.nn.Parameter(torch.randn(40, generator=g).bfloat16())))
    named.append(("turned", torch.nn.Parameter(torch.randn(4, 6, generator=g).t())))
    return cls(named), [p for _, p in named]


def train(opt: Any, params: list[Any], steps: int) -> None:
    """Steps with the closure that every user writes."""

    def closure() -> Any:
        opt.zero_grad()
        loss = torch.zeros(())
        for k, p in enumerate(params):
            loss = loss + 0.5 * (k + 1) * (p.float() ** 2).sum() + torch.sin(p.float()).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        opt.step(closure)


def restore(opt: Any, params: list[Any], saved: dict[str, Any]) -> None:
    """Go on from what was saved."""
    with torch.no_grad():
        for p, q in zip(params, saved["params"], strict=True):
            p.copy_(q)
    opt.load_state_dict(saved["state"])


class NoOptc(importlib.abc.MetaPathFinder):
    """As if optc were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "optc" or name.startswith("optc."):
            raise ImportError(f"{name}: there is no optc here")


def trained(cls: Any, given: dict[str, Any]) -> dict[str, Any]:
    """20 steps; 10 from a saved state; 10 of a pickled copy."""
    opt, params = made(cls)
    train(opt, params, 10)
    copy = pickle.loads(pickle.dumps(opt))
    train(opt, params, 10)
    other, others = made(cls)
    restore(other, others, given)
    train(other, others, 10)
    copied = [p for g in copy.param_groups for p in g["params"]]
    train(copy, copied, 10)
    return {
        "params": [p.detach() for p in params],
        "resumed": [p.detach() for p in others],
        "copied": [p.detach() for p in copied],
        "state": opt.state_dict(),
        "pickle": pickle.dumps(opt),
    }


def main(folder: Path) -> None:
    sys.meta_path.insert(0, NoOptc())
    sys.path.insert(0, str(folder))
    given = torch.load(folder / "given.pt", weights_only=True)
    out: dict[str, Any] = {}
    for name, cls in torch.load(folder / "names.pt").items():
        out[name] = trained(getattr(importlib.import_module(name), cls), given[name])
    w = {"a": torch.ones(3), "b": torch.zeros(2)}
    step = importlib.import_module("adamw").functional()
    out["functional"], _, _ = step(w, step.init(w), loss=bowl)
    assert not any(m == "optc" or m.startswith("optc.") for m in sys.modules)
    torch.save(out, folder / "out.pt")


def bowl(w: Any) -> Any:
    return ((w["a"] - 2) ** 2).sum() + w["b"].sum()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
