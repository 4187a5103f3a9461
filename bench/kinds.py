"""What a rule is measured against, and what it is set to, so that it does what its peers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SCHEDULES = Path(__file__).parents[1] / "examples" / "schedules"


@dataclass(frozen=True)
class Kind:
    """`options` are set where a rule has them; a `real` kind is measured on a model alone."""

    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = ""
    dtype: torch.dtype = torch.float32
    closures: bool = False
    real: bool = False
    elementwise: bool = True


KINDS: dict[str, Kind] = {
    "adamw": Kind(),
    "sgd": Kind({"momentum": 0.9}),
    "muon_adamw": Kind(elementwise=False),
    "sam_adamw": Kind(closures=True),
    "clipped_adamw": Kind(),
    "psgd": Kind(closures=True, real=True, elementwise=False),
    "cautious_adamw": Kind(schedule="bf16.opt", dtype=torch.bfloat16),
}


def schedule_of(rule: str, kind: str) -> str:
    """The file that says how an example of this kind runs."""
    name = KINDS[kind].schedule if rule == kind else ""
    return str(SCHEDULES / name) if name else ""
