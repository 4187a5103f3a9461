"""The meaning of a rule: its graph run node by node in float64.

Slow, plain, and independent of phases, kernels and printers: everything compiled is tested against
it.
"""

from .interpreter import Interpreter, together
from .oracles import Points
from .state import Draw, Tensors

__all__ = ["Draw", "Interpreter", "Points", "Tensors", "together"]
