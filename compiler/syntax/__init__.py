"""The syntax tree: one frozen dataclass a grammar rule, each with its span.

The `.opt` grammar and the YAML form both produce this tree, and it has no other source. Spans and
comments are no part of equality, so that a tree can be compared with the tree of the other form.
"""

from .expressions import *  # noqa: F403
from .items import *  # noqa: F403
from .statements import *  # noqa: F403
