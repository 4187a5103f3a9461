"""Gaussians that a network places along the rays of pixels."""

from __future__ import annotations

import pytest
import torch

import optc

RULE = """
rule tried():
    input distance: model[pixels, channels], scale: model[pixels, axes]
    input quaternion: model[pixels, quarters], opacity: model[pixels]
    input origin: model[pixels, axes], direction: model[pixels, axes]
    p, s, q, o = pixel_gaussian_head(distance, scale, quaternion, opacity, origin, direction)
    w <- w * 1
    metric position = p
    metric scales = s
    metric turn = q
    metric opacity = o
"""


def test_a_pixel_becomes_a_gaussian() -> None:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(RULE)([w])
    given = {
        "distance": [[0.3, -0.1, 0.4]],
        "scale": [[0.0, 99.0, -1.0]],
        "quaternion": [[3.0, 0.0, 4.0, 0.0]],
        "opacity": [0.0],
        "origin": [[0.0, 0.0, -2.7]],
        "direction": [[0.6, 0.0, 0.8]],
    }
    opt.supply(**{k: torch.tensor(v, dtype=torch.float64) for k, v in given.items()})
    opt.step()
    expected = {
        "position": [1.511562, 0, -0.684584],
        "scales": [0.1002588, 0.3011942, 0.0368832],
        "turn": [0.6, 0, 0.8, 0],
        "opacity": [0.1192029],
    }
    for name, values in expected.items():
        found = opt.metrics[name].reshape(-1).tolist()
        assert found == pytest.approx(values, abs=1e-6)
