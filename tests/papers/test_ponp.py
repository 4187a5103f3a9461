"""A decoder is fitted to readings while the encoder stays."""

from __future__ import annotations

from pathlib import Path

import torch

import optc

RULE = Path(__file__).parents[2] / "examples" / "test_time_decoder_refine.opt"


def test_only_the_decoder_and_the_heads_move() -> None:
    torch.manual_seed(0)
    parts = {k: torch.nn.Linear(3, 3) for k in ("encoder", "decoder", "head")}
    net = torch.nn.ModuleDict(parts)
    c, y = torch.randn(5, 3), torch.randn(5, 3)
    sensor = torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5], [1.0, 0, 0]])

    def loss() -> torch.Tensor:
        field = net["head"](torch.tanh(net["decoder"](net["encoder"](c))))
        return ((field @ sensor.T - y) ** 2).mean()

    before = {k: v.clone() for k, v in net.state_dict().items()}
    first = float(loss().detach())
    opt = optc.load(RULE)(net.named_parameters(), lr=0.03)
    for _ in range(150):
        opt.zero_grad()
        loss().backward()
        opt.step()
    assert float(loss().detach()) < first / 2
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder")
