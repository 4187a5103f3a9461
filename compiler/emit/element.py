"""What the printers of element-wise phases share: one walk over a phase's graph.

What is coarser than an element is computed once a chunk in double (the head), elements in the
working type (the body). A printer says how its language writes a number, a value and an operation;
the operations themselves are the rows of `ops.OPS`. Only numbers and names made here are printed:
no text of a spec reaches a compiler.
"""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from ..cells import arrange, either, fold_cells, number, spread
from ..ops import OPS, Op
from ..program import Compute
from ..torch_ops import FUNCTIONS

DRAWS = ("normal", "uniform", "rademacher", *(f"chance{k}" for k in range(8)))
FINISH = {"sum": "sum", "max": "max", "min": "min", "any": "max", "all": "min"}
"""The operation that a reduction of truth values is, on 0 and 1."""

_OP_OF = {either: "where", **{function: name for name, function in FUNCTIONS.items()}}


class Printer:
    """Prints one phase; the methods that raise are what a language has to say."""

    def __init__(self, phase: Compute):
        assert isinstance(phase.module, fx.GraphModule)
        self.phase, self.graph = phase, phase.module.graph
        self.head: list[str] = []
        self.body: list[str] = []
        self.names: dict[fx.Node, tuple[str, bool]] = {}
        self.cast: dict[str, str] = {}

    # The language -------------------------------------------------------------------------

    def number(self, value: Any, coarse: bool) -> str:
        """A constant in double (coarse) or in the working type."""
        raise NotImplementedError

    def assign(self, name: str, text: str, coarse: bool, logical: bool) -> str:
        """The line that gives a value its name."""
        raise NotImplementedError

    def truth(self, value: bool) -> str:
        """A truth value written out."""
        raise NotImplementedError

    def narrowed(self, name: str, coarse_name: str) -> str:
        """The line that casts a value of the head for the body."""
        raise NotImplementedError

    def cell(self, place: int) -> str:
        """An element of a column."""
        raise NotImplementedError

    def value(self, how: str, place: int) -> str:
        """A value of the tensor, the group, the model or the host's row."""
        raise NotImplementedError

    def draw(self, how: str, stream: int) -> str:
        """A random number of the element."""
        raise NotImplementedError

    def apply(self, op: Op, operands: list[str], coarse: bool) -> str:
        """One operation."""
        raise NotImplementedError

    # The walk -----------------------------------------------------------------------------

    def walk(self) -> tuple[list[tuple[int, str]], list[tuple[str, str]]]:
        """Print head and body; returns (column, value) of the stores, (how, value) of the sums."""
        at = {"cell": 0, "tensor": 0, "group": 0, "model": 0}
        result: fx.Node | None = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, at)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                result = node
        assert result is not None
        return self._results(result.args[0])

    def operand(self, value: Any, coarse: bool) -> str:
        """A value as text: a number, a value of the head (cast once where the body reads it), a
        value of the body.
        """
        if not isinstance(value, fx.Node):
            return self.number(value, coarse)
        name, is_coarse = self.names[value]
        if coarse or not is_coarse:
            return name
        if name not in self.cast:
            self.cast[name] = f"{name}_e"
            self.head.append(self.narrowed(f"{name}_e", name))
        return self.cast[name]

    def define(self, node: fx.Node, text: str, coarse: bool, logical: bool = False) -> None:
        """The name is made of the node's letters: no other character of a spec is printed.

        Its number is counted within the phase, so that the turns of a loop that is unrolled are one
        text, which is built once.
        """
        letters = re.sub(r"\W", "_", node.name, flags=re.ASCII)
        name = f"v{re.sub(r'(_[0-9]+)+$', '', letters)}_{len(self.names)}"
        (self.head if coarse else self.body).append(self.assign(name, text, coarse, logical))
        self.names[node] = (name, coarse)

    def _placeholder(self, node: fx.Node, at: dict[str, int]) -> None:
        port = self.phase.inputs[node.meta["port"]]
        if port.how == "like":
            self.names[node] = ("like", False)
        elif port.how == "draw":
            how, stream = port.source.split(":")
            assert how in DRAWS
            self.define(node, self.draw(how, int(stream)), False)
        elif port.how == "host":
            self.define(node, self.value("host", int(port.source)), True)
        else:
            how = "model" if port.how == "size" else port.how
            place = at[how]
            at[how] += 1
            fine = how == "cell"
            self.define(node, self.cell(place) if fine else self.value(how, place), not fine)

    def _call(self, node: fx.Node) -> None:
        first = node.args[0]
        if node.target is fold_cells:  # the sum itself is taken in `_results`
            self.names[node] = self.names[first] if isinstance(first, fx.Node) else ("", False)
            return
        if node.target is number:
            assert isinstance(first, fx.Node)
            self.names[node] = self.names[first]
            return
        if node.target is arrange:  # a value without axes: its place among dimensions is nothing
            assert node.args[1] == () and isinstance(first, fx.Node)
            self.names[node] = self.names[first]
            return
        if node.target is spread:
            if isinstance(first, fx.Node) and not self.names[first][1]:
                self.names[node] = self.names[first]
            else:
                self.define(node, self.operand(first, False), False)
            return
        if getattr(node.target, "__name__", "") == "tensor":
            self.define(node, self.truth(bool(first)), True, True)
            return
        op = OPS[_OP_OF[node.target]]  # type: ignore[index]
        args = node.args[: op.arity]
        coarse = all(not isinstance(x, fx.Node) or self.names[x][1] for x in args)
        operands = [self.operand(x, coarse) for x in args]
        if op.name == "pow" and node.args[1] == 2:
            op, operands = OPS["mul"], [operands[0], operands[0]]
        self.define(node, self.apply(op, operands, coarse), coarse, op.logical)

    def _results(self, values: Any) -> tuple[list[tuple[int, str]], list[tuple[str, str]]]:
        stores, sums = [], []
        _, places = self.phase.columns()
        for output, value, place in zip(self.phase.outputs, values, places, strict=True):
            if not output.combine:
                stores.append((place, self.operand(value, False)))
                continue
            folded = isinstance(value, fx.Node) and value.target is fold_cells
            source = value.args[0] if folded else value
            sums.append((FINISH[output.combine], self.operand(source, False)))
        return stores, sums
