"""Layers that are written in the language, against torch's own transforms; derivatives too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import optc

NAMES = ("x", "w1", "b1", "w2", "b2")
MIXER = """rule mixed():
    input x: model[examples, height, width, blocks, channels]
    input w1: model[parts, blocks, channels, hidden], b1: model[parts, blocks, hidden]
    input w2: model[parts, blocks, hidden, channels], b2: model[parts, blocks, channels]
    f = p -> fourier_mixer(p, w1, b1, w2, b2; modes = MODES)
    step 0
    metric y = f(x)
    metric dx = grad(p -> sum(f(p)^2, over = (examples, height, width, blocks, channels)), x)
"""


def transformed(given: dict[str, Tensor], modes: int) -> Tensor:
    """The same layer with torch's complex numbers and transforms."""
    x = given["x"]
    w1, b1, w2, b2 = (torch.complex(*given[n]) for n in NAMES[1:])
    z = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    h = torch.einsum("...kc,kch->...kh", z[:, :modes, :modes], w1) + b1
    gelu = torch.nn.functional.gelu
    h = torch.complex(gelu(h.real), gelu(h.imag))
    o = torch.zeros_like(z)
    o[:, :modes, :modes] = torch.einsum("...kh,khc->...kc", h, w2) + b2
    return x + torch.fft.irfft2(o, s=x.shape[1:3], dim=(1, 2), norm="ortho")


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize(
    ("height", "width", "modes"), [(6, 8, 3), (5, 7, 2), (6, 8, 5), (4, 4, 32), (3, 6, 1)]
)
def test_the_fourier_mixer_is_that_of_complex_transforms(
    height: int, width: int, modes: int, backend: str
) -> None:
    make = torch.Generator().manual_seed(0)
    shapes = ((2, height, width, 2, 3), (2, 2, 3, 4), (2, 2, 4), (2, 2, 4, 3), (2, 2, 3))
    given = {
        name: torch.randn(*shape, generator=make, dtype=torch.float64)
        for name, shape in zip(NAMES, shapes, strict=True)
    }
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(MIXER.replace("MODES", str(modes)))([w], backend=backend)
    opt.supply(**given)
    opt.step()
    given["x"].requires_grad_()
    y = transformed(given, modes)
    (dx,) = torch.autograd.grad((y**2).sum(), given["x"])
    assert (opt.metrics["y"] - y).abs().max() < 1e-12
    assert (opt.metrics["dx"] - dx).abs().max() < 1e-10
