"""Which evaluations are needed only when a condition of the device holds.

`where(c, a, b)` reads one side. An oracle that is read through one side alone is asked
only then: the condition is looked at on the way, which costs nothing on a CPU.
"""

from __future__ import annotations

from ..ir import Node, inputs_of
from ..types import DEVICE

Literal = tuple[Node, bool] | None
"""A condition and the truth value under which a node is needed; None where it always is."""

ALWAYS: Literal = None


def needs(order: list[Node], roots: list[Node]) -> dict[Node, Literal]:
    """For each node when it is needed; `order` has inputs before users."""
    found: dict[Node, Literal] = dict.fromkeys(roots, ALWAYS)
    for user in reversed(order):
        mine = found.get(user, ALWAYS)
        for source in inputs_of(user):
            literal = mine or _side(user, source)
            if source in found and found[source] != literal:
                literal = ALWAYS
            found[source] = literal
    return found


def _side(user: Node, source: Node) -> Literal:
    """The side of a selection over the whole step that a node is, and no other."""
    if user.op != "where" or user.inputs[1] is user.inputs[2] or source is user.inputs[0]:
        return ALWAYS
    condition = user.inputs[0]
    whole = condition.type.reach == "model" and not condition.type.axes
    if not whole or condition.known != DEVICE:
        return ALWAYS
    return (condition, source is user.inputs[1])
