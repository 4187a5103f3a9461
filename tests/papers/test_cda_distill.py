"""Images that match a teacher's batch statistics: one rule against plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import optc

RULE = """rule synthesis(lr = 0.1, r_bn = 0.05):
    loss main
    loss gaps: model[layers]
    input low: element, high: element
    loss = main
    estimate bn_matching_synthesis(gaps, r_bn)
    precondition adam((0.5, 0.9))
    step lr
    w <- max(low, min(high, w))
"""


def teacher() -> tuple[nn.Module, list[nn.BatchNorm2d]]:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(5)]
    parts = [nn.Conv2d(3, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 5, 3), norms[1], nn.ReLU()]
    net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).double()
    for norm in norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return net.eval().requires_grad_(False), norms


def statistics(net: nn.Module, norms: list[nn.BatchNorm2d], x: Tensor) -> Tensor:
    inputs: list[Tensor] = []
    hooks = [n.register_forward_pre_hook(lambda m, args: inputs.append(args[0])) for n in norms]
    net(x)
    for hook in hooks:
        hook.remove()
    return torch.stack(
        [
            (z.var((0, 2, 3), correction=0) - n.running_var).norm()
            + (z.mean((0, 2, 3)) - n.running_mean).norm()
            for z, n in zip(inputs, norms, strict=True)
        ]
    )


def start() -> nn.Parameter:
    make = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.randn(6, 3, 9, 9, generator=make, dtype=torch.float64))


def test_it_is_the_recipe_in_plain_torch() -> None:
    net, norms = teacher()
    labels = torch.arange(6) % 3
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    low, high = (-mean / std).double(), ((1 - mean) / std).double()
    assert round(low[0].item(), 4) == -2.1179 and round(high[0].item(), 4) == 2.2489
    ours, theirs = start(), start()
    opt = optc.loads(RULE)([ours])
    opt.bind(
        objective={"main": lambda: nn.functional.cross_entropy(net(ours), labels)},
        gaps=lambda: statistics(net, norms, ours),
    )
    wide = [b[:, None, None].expand(6, 3, 9, 9) for b in (low, high)]
    opt.supply(low=[wide[0]], high=[wide[1]])
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.9))
    for _ in range(8):
        opt.step()
        adam.zero_grad()
        gaps = statistics(net, norms, theirs)
        loss = nn.functional.cross_entropy(net(theirs), labels)
        (loss + 0.05 * (10 * gaps[0] + gaps[1])).backward()
        adam.step()
        with torch.no_grad():
            theirs.copy_(torch.clamp(theirs, *wide))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    assert (ours - start()).abs().max() > 0.3
