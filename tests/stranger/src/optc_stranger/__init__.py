"""A plugin: one primitive in the language, one in Python."""

from pathlib import Path

import torch

from optc import State, hookimpl, primitive


@primitive("precondition")
def blended_sign(g, average: State, *, beta: "unit" = 0.9):  # noqa: F821
    """The sign of the gradient blended with its running mean."""
    direction = torch.sign(torch.lerp(g, average, beta))
    return direction, torch.lerp(g, average, beta)


@hookimpl
def optc_libraries():
    return (Path(__file__).parent / "library",)


@hookimpl
def optc_primitives():
    return (blended_sign,)
