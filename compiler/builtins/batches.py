"""Batches of data: drawn, split, one for each example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import Node
from ..meanings import AxisName, Function
from ..scope import Context, Scope, as_node, constant
from ..source import Span
from ..types import DATA, DEVICE, Axis, union
from .declare import builtin


def _known(ctx: Context, name: str, value: Node, span: Span) -> None:
    """Data is taken by the host, before the device computes anything of the step."""
    if value.type.kind == "array" and value.known == DEVICE:
        wrong = f"the host must know how much `{name}` takes, and this comes of the step itself"
        ctx.error("E314", wrong, span, "a constant, an option, or what clocks and inputs say")


def _data(name: str, parameters: str, axis: str = "") -> None:
    @builtin(name, parameters)
    def build(ctx: Context, scope: Scope, span: Span, **given: Any) -> Node:
        nodes: list[Node] = []
        texts: dict[str, Any] = {}
        for key, value in given.items():
            if isinstance(value, AxisName | str | Function):
                texts[key] = value.axis.name if isinstance(value, AxisName) else str(value)
            else:
                nodes.append(as_node(ctx, value, span))
                _known(ctx, name, nodes[-1], span)
        size = constant(nodes[1]) if name == "split" and len(nodes) > 1 else None
        axes = nodes[0].type.axes if nodes and nodes[0].type.kind == "data" else ()
        if axis:
            axes = union(axes, (Axis(axis, size),))
        if name in ("draw", "subset"):
            ctx.streams += 1
            texts["stream"] = str(ctx.streams)
            texts["sized"] = "size" in given
            nodes += ctx.loops
        return ctx.graph.add(
            name, *nodes, type=replace(DATA, axes=axes), known=1, span=span, **texts
        )


_data("draw", "source? size?")
_data("split", "batch k", "micro")
_data("each", "batch", "examples")
_data("subset", "batch fraction")
