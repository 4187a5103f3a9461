"""What the project set out to reach, and what a report says of it. Ratios of the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .kinds import KINDS

Report = dict[str, Any]
BEYOND_THE_CACHE = "large"


@dataclass(frozen=True)
class Finding:
    """The worst of what a goal was measured on; `value` is None where nothing was."""

    goal: str
    bound: str
    value: float | None
    met: bool | None
    where: str = ""


def findings(rules: list[Report]) -> list[Finding]:
    """Every goal in turn."""
    return [_finding(goal, bound, list(find(rules))) for goal, bound, find in GOALS]


Found = Iterator[tuple[float, str]]


def _finding(goal: str, bound: str, found: list[tuple[float, str]]) -> Finding:
    if not found:
        return Finding(goal, bound, None, None)
    how, limit = bound.split()
    if how == "<=":
        value, where = max(found)
        return Finding(goal, bound, value, value <= float(limit), where)
    value, where = min(found)
    return Finding(goal, bound, value, value >= float(limit), where)


def _sets(rules: list[Report], *kinds: str) -> Iterator[tuple[Report, str, Report]]:
    for rule in rules:
        if rule["against"] in kinds:
            for name, found in rule.get("sets", {}).items():
                yield rule, name, found


def _against_fused(*sets: str) -> Callable[[list[Report]], Found]:
    def find(rules: list[Report]) -> Found:
        for _, name, found in _sets(rules, "adamw"):
            if name in sets and "torch fused" in found["ratios"]:
                size = f"{found['elements'] / 1e6:.3g} M in {found['tensors']:,} tensors"
                yield found["ratios"]["torch fused"]["median"], size

    return find


def _unfused(rules: list[Report]) -> Found:
    kinds = [k for k, kind in KINDS.items() if kind.elementwise and k not in ("adamw", "sam_adamw")]
    for rule, name, found in _sets(rules, *kinds):
        for peer, ratio in found["ratios"].items():
            # A step that torch.compile fused is fused, whoever wrote it.
            if peer not in ("torch fused", "torch.compile", "HeavyBall"):
                yield ratio["median"], f"{rule['rule']}, {name}, {peer}"


def _bandwidth(rules: list[Report]) -> Found:
    kinds = [k for k, kind in KINDS.items() if kind.elementwise]
    for rule, name, found in _sets(rules, *kinds):
        if name == BEYOND_THE_CACHE and found["of_roof"]:
            yield found["of_roof"]["median"], f"{rule['rule']}, {found['elements'] / 1e6:.3g} M"


def _muon(rules: list[Report]) -> Found:
    for _, name, found in _sets(rules, "muon_adamw"):
        if name == "gpt2":
            for peer, ratio in found["ratios"].items():
                yield ratio["median"], peer


def _sam(rules: list[Report]) -> Found:
    for rule in rules:
        if rule["against"] == "sam_adamw" and "model" in rule:
            yield rule["model"]["overhead"]["optc"]["median"], rule["model"]["model"]


def _sam_own(rules: list[Report]) -> Found:
    for rule in rules:
        if rule["against"] == "sam_adamw" and rule.get("model", {}).get("own"):
            yield rule["model"]["own"]["median"], rule["model"]["model"]


GOALS: tuple[tuple[str, str, Callable[[list[Report]], Found]], ...] = (
    ("AdamW over torch's fused one, few large tensors", "<= 1", _against_fused("large")),
    ("AdamW over torch's fused one, GPT-2's 148 tensors", "<= 0.7", _against_fused("gpt2")),
    ("AdamW over torch's fused one, 1,000 small tensors", "<= 0.2", _against_fused("small")),
    ("Other element-wise rules over any unfused peer", "<= 0.5", _unfused),
    ("Bandwidth over that of a kernel with the same streams", ">= 0.9", _bandwidth),
    ("Muon over the fastest peer, GPT-2's shapes", "<= 1", _muon),
    ("SAM and AdamW beyond two plain gradients of a model, over these", "<= 0.03", _sam),
    ("SAM and AdamW beyond the two gradients in the step, over these", "<= 0.03", _sam_own),
)
"""What is divided by what, the bound, where a report has it; the worst case counts."""
