"""A small network, its targets and points; where the parameters stand is `HELD`."""

from __future__ import annotations

import torch
from torch import nn

HELD = {"w": None}


def network(dropout=0.0, norm=False):
    norm_layer = nn.BatchNorm1d(8) if norm else nn.Identity()
    parts = [nn.Linear(4, 8), norm_layer, nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*parts).double()


def params(model):
    return {"w": list(model.parameters())}


def random_like(model, by=1.0):
    return [by * torch.randn_like(p) for p in model.parameters()]


def moved(model):
    return {"w": [p + d for p, d in zip(model.parameters(), random_like(model, 0.1), strict=True)]}
