"""How each value of a step is computed: its class.

leaf, host, data, ask, call, loop, route, draw, comm: it is there, or the host or the loop gives it.
c: by a kernel, cell by cell. s: a scalar of any phase. k: made anew wherever it is needed. t: by
torch, tensor by tensor. m: by torch, over the model. r: a reduction that ends a pass over cells.
"""

from __future__ import annotations

from collections.abc import Set

from ..ir import Node
from ..ops import OPS
from ..types import COARSE, FINE, HOST

FLOATING = ("c", "s")
"""Classes that belong to no phase: computed where their results are needed."""

FIXED = {
    "evaluate": "none",
    **dict.fromkeys(("value", "gradient", "hvp", "jvp", "vjp"), "ask"),
    **dict.fromkeys(("oracle", "extern"), "call"),
    **dict.fromkeys(("batch", "draw", "split", "each", "subset"), "data"),
    **dict.fromkeys(("restrict", "merge"), "route"),
    "mix": "comm",
    "loop": "loop",
    "out": "out",
    "random": "draw",
}
"""Operations that are always of one class."""


def routed_read(node: Node) -> bool:
    """Whether a node is the part of a slot that a `for` block routes."""
    return node.op == "restrict" and node.inputs[0].op == "read"


def cell_by_cell(n: Node) -> bool:
    """Whether a value is one number for each cell, as kernels compute them."""
    return n.type.reach == "element" and not n.type.axes


def classify(n: Node, bound: Set[Node], cls: dict[Node, str]) -> str:
    """The class of a node; `bound` are there already, `cls` has the classes of its inputs."""
    if n in bound or n.op in ("read", "parameter") or routed_read(n):
        return "leaf"
    scalar = n.type.reach not in FINE and not n.type.axes
    if n.known <= HOST and n.type.kind == "array" and scalar:
        return "host"
    if n.op == "random" and cell_by_cell(n) and not n.inputs:
        return "c"  # drawn again wherever it is needed
    if n.op == "input" and n.type.reach != "group":
        return "leaf"
    constant = n.op == "expand" and n.type.axes and cls[n.inputs[0]] == "host"
    made = {cls[i] for i in n.inputs} if n.op in OPS and n.type.axes else set()
    if n.op in ("eye", "iota", "size") or constant or "k" in made <= {"k", "host"}:
        return "k"
    return FIXED.get(n.op) or _computed(n, cls)


def _computed(n: Node, cls: dict[Node, str]) -> str:
    """What computes a value that the device computes."""
    reach, inputs = n.type.reach, n.inputs
    coarse = reach in COARSE
    finer = any(i.type.reach not in COARSE for i in inputs)
    if n.op in ("reduce", "contract", "flat") and coarse and finer:
        return "r"
    plain = not n.type.axes and not any(i.type.axes for i in inputs)
    if n.op == "reduce" and n["over"] == "tensor" and plain and inputs[0].type.reach == "element":
        return "r"
    if plain and (n.op in OPS or n.op == "expand"):
        if reach == "element":
            fine = [i for i in inputs if i.type.reach in FINE]
            return "c" if all(map(cell_by_cell, fine)) else "t"
        if coarse or reach == "tensor":
            classes = {cls[i] for i in inputs}
            tensors = "t" in classes and reach == "tensor"
            return "t" if tensors else "m" if "m" in classes else "s"
    return "m" if coarse else "t"
