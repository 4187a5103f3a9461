"""What a standalone module says of its functions, and of where their lines come from."""

from __future__ import annotations

from torch import fx

from ..program import Compute
from .python import WIDTH, visible

FREE = frozenset(("cell", "tensor", "group", "model"))
HOST_DOCS = {
    "host": "Scalars of a step, in double: one row for each group of parameters.",
    "conditions": "What decides which variant of the step is run.",
    "belongs": "Whether a parameter belongs to a domain.",
}


def describe(phase: Compute, slots: dict[str, str]) -> str:
    reads = [
        p.source[5:] if p.source.startswith("slot:") else p.name
        for p in phase.inputs
        if p.how in FREE
    ]
    writes = sorted({o.slot for o in phase.outputs if o.slot})
    gives = [
        f"{o.combine or 'value'} over the {o.how}" if o.combine else slots.get(o.value, o.value)
        for o in phase.outputs
        if not o.slot
    ]
    where = f"Each tensor of {phase.space}" if phase.space else "The model"
    parts = [f"reads {', '.join(reads)}"] if reads else []
    parts += [f"writes {', '.join(writes)}"] if writes else []
    parts += [f"gives {', '.join(gives)}"] if gives else []
    return _filled(visible(f"{where}: {'; '.join(parts)}."))


def _filled(text: str) -> str:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > WIDTH - 12:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def origin(node: fx.Node) -> str:
    """The line of the spec that a value comes from."""
    made = node.meta.get("node")
    if made is None:
        return ""
    line = made.span.source.line(made.span.row).strip()
    return f"{file_name(made.span.source.path)}:{made.span.row}: {line}" if line else ""


def file_name(path: str) -> str:
    """The last part of a path: where a spec lies on a machine is nobody's business."""
    return path.replace("\\", "/").rpartition("/")[2]
