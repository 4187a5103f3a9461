"""The functions of the language, a file a subject: `BUILTINS` has them all by name.

Everything that can be written in the language itself is not here but in plugins/function/.
"""

from . import (
    batches,
    constants,
    elementwise,
    linear_algebra,
    metadata,
    mixing,
    order,
    random,
    reductions,
    views,
)
from .declare import BUILTINS

# each subject is imported for what it declares
__all__ = [
    "BUILTINS",
    "batches",
    "constants",
    "elementwise",
    "linear_algebra",
    "metadata",
    "mixing",
    "order",
    "random",
    "reductions",
    "views",
]
