"""Rules of several players and domains: the numbers of GAN, WGAN, VAE-WGAN-GP and Fish."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import optc

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = ("eager", "auto")


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# GAN --------------------------------------------------------------------------------------------


def dirac(text: Any, saturating: bool, backend: str) -> float:
    """Real data at 0, fake at theta = 1, logit psi x: how far it ends from the equilibrium."""
    theta, psi = number(1.0), number(0.0)
    opt = text([("disc.psi", psi), ("gen.theta", theta)], backend=backend)
    logit = lambda x: psi * x  # noqa: E731
    opt.bind(
        objective={
            "d_loss": lambda b: (softplus(-logit(b)) + softplus(logit(theta))).sum(),
            "g_loss": lambda b: (
                -softplus(logit(theta)) if saturating else softplus(-logit(theta))
            ).sum(),
        },
        draw=[torch.zeros(1, dtype=torch.float64)],
    )
    for _ in range(100):
        opt.step()
    return float(torch.hypot(theta.detach(), psi.detach()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("saturating", "radius"), [(True, 1.0038), (False, 0.6803)])
def test_alternating_players_circle_or_converge(
    saturating: bool, radius: float, backend: str
) -> None:
    rule = optc.load(EXAMPLES / "gan_alternation.opt")

    def plain(named: Any, backend: str) -> Any:
        return rule(named, lr=0.1, momentum=0.0, backend=backend)

    assert dirac(plain, saturating, backend) == pytest.approx(radius, abs=1e-4)


SIMULTANEOUS = """
rule simultaneous(lr = 0.1):
    target disc = named("disc.*"), gen = other
    loss d_loss, g_loss
    batch = draw()
    a = grad[disc](d_loss)
    b = grad[gen](g_loss)
    for disc:
        w <- w - lr * a
    for gen:
        w <- w - lr * b
"""


@pytest.mark.parametrize(("saturating", "radius"), [(True, 1.1125), (False, 0.7389)])
def test_simultaneous_players_move_outwards(saturating: bool, radius: float) -> None:
    assert dirac(optc.loads(SIMULTANEOUS), saturating, "auto") == pytest.approx(radius, abs=1e-4)


# WGAN -------------------------------------------------------------------------------------------


def wgan(w: nn.Parameter, b: nn.Parameter, lr: float, batches: Any, backend: str) -> Any:
    """A linear critic w x; fake data are z + b."""
    rule = optc.load(EXAMPLES / "wgan_alternation.opt")
    opt = rule([("critic.w", w), ("gen.b", b)], lr=lr, long_first=0, long_steps=5, backend=backend)
    opt.bind(
        objective={
            "d_loss": lambda d: (w * (d[1] + b)).mean() - (w * d[0]).mean(),
            "g_loss": lambda d: -(w * (d[1] + b)).mean(),
        },
        draw=batches,
    )
    return opt


def test_the_critic_moves_as_on_the_card() -> None:
    """Real {2, 3}, fake {0, 1}: the numbers of RMSProp, from w = 0."""
    wanted = [5.0e-4, 8.544410e-4, 1.1445651e-3, 1.3964487e-3, 1.6223027e-3]
    rule = optc.load(EXAMPLES / "wgan_alternation.opt")
    for steps, value in enumerate(wanted, 1):
        w, b = number(0.0), number(0.0)
        opt = rule([("critic.w", w), ("gen.b", b)], long_first=0, long_steps=steps)
        opt.bind(
            objective={
                "d_loss": lambda d, w=w: (w * d[1]).mean() - (w * d[0]).mean(),
                "g_loss": lambda d, w=w, b=b: -(w * b).mean(),
            },
            draw=[(vector(2, 3), vector(0, 1))],
        )
        opt.step()
        assert w.item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_generator_finds_the_real_mean(backend: str) -> None:
    """Real data are normal around 2; the critic saturates at the clip."""
    generator = torch.Generator().manual_seed(0)

    def batches() -> Any:
        while True:
            x = torch.randn(64, generator=generator, dtype=torch.float64)
            yield 2 + x, torch.randn(64, generator=generator, dtype=torch.float64)

    w, b = number(0.005), number(0.0)
    opt = wgan(w, b, 1e-2, batches(), backend)
    largest = 0.0
    for _ in range(150):
        opt.step()
        largest = max(largest, abs(w.item()))
    assert largest <= 0.01 and b.item() == pytest.approx(2, abs=0.1)


# VAE-WGAN-GP ------------------------------------------------------------------------------------


def penalty(critic: Any, x: Tensor, fake: Tensor, u: Tensor, weight: float = 10.0) -> Tensor:
    between = (u[:, None] * x + (1 - u[:, None]) * fake).detach().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return weight * (((g**2).sum(1) + 1e-12).sqrt() - 1).square().mean()


def divergence(mu: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(-1).mean()


def test_the_losses_of_the_card() -> None:
    x, fake = vector(1, 0, 0, 1).view(2, 2), vector(0, 0, 2, 2).view(2, 2)
    u = vector(0.25, 0.5)
    linear = lambda p: 3 * p[:, 0] + 4 * p[:, 1]  # noqa: E731
    assert penalty(linear, x, fake, u).item() == pytest.approx(160, abs=1e-9)
    assert penalty(lambda p: (p**2).sum(1), x, fake, u).item() == pytest.approx(35.194487, abs=1e-6)
    assert (linear(fake).mean() - linear(x).mean()).item() == pytest.approx(3.5)
    kl = divergence(vector(0.5, -1)[None], vector(0, 0.25).clamp(min=0).log().nan_to_num(neginf=0))
    assert kl.item() == pytest.approx(0.943147, abs=1e-6)


class Players(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)
        self.critic = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        self.double()

    def parts(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, noise, _ = batch
        mu, log_var = self.encoder(x).chunk(2, -1)
        return mu, log_var, self.decoder(mu + (log_var / 2).exp() * noise)

    def critic_loss(self, batch: Any) -> Tensor:
        x, fake = batch[0], self.parts(batch)[2].detach()
        gap = self.critic(fake).mean() - self.critic(x).mean()
        return gap + penalty(self.critic, x, fake, batch[2])

    def encoder_loss(self, batch: Any) -> Tensor:
        mu, log_var, fake = self.parts(batch)
        return divergence(mu, log_var) + (batch[0] - fake).square().sum(-1).mean()

    def decoder_loss(self, batch: Any) -> Tensor:
        fake = self.parts(batch)[2]
        return (batch[0] - fake).square().sum(-1).mean() - self.critic(fake).mean()


def airfoils(n: int) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((8, 3), (8, 2), (8,))
    return [
        tuple(torch.rand(s, generator=generator, dtype=torch.float64) for s in sizes)
        for _ in range(n)
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_network_is_trained_by_its_own_loss(backend: str) -> None:
    """The same loop with torch's Adam for each of the three."""
    ours, theirs, batches = Players(), Players(), airfoils(9)
    rule = optc.load(EXAMPLES / "vae_wgan_gp.opt")
    opt = rule(list(ours.named_parameters()), lr=1e-2, critic_steps=2, backend=backend)
    names = ("critic_loss", "encoder_loss", "decoder_loss")
    opt.bind(model=ours, objective={n: getattr(ours, n) for n in names}, draw=iter(batches))
    for _ in range(3):
        opt.step()
    players = {
        n: torch.optim.Adam(getattr(theirs, n).parameters(), lr=1e-2, betas=(0.0, 0.9))
        for n in ("critic", "encoder", "decoder")
    }

    def gradient(name: str, batch: Any) -> None:
        parts = list(getattr(theirs, name).parameters())
        found = torch.autograd.grad(getattr(theirs, f"{name}_loss")(batch), parts)
        for p, g in zip(parts, found, strict=True):
            p.grad = g

    for step in range(3):
        for batch in batches[3 * step : 3 * step + 2]:
            gradient("critic", batch)
            players["critic"].step()
        gradient("encoder", batches[3 * step + 2])
        gradient("decoder", batches[3 * step + 2])
        players["encoder"].step()
        players["decoder"].step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


# Fish -------------------------------------------------------------------------------------------

DOMAINS = [
    (torch.diag(vector(1, 3)), vector(1, 0)),
    (torch.diag(vector(2, 1)), vector(0, 2)),
]


def fish(order: Any, steps: int = 1, backend: str = "auto", **options: Any) -> Tensor:
    w = nn.Parameter(vector(1, 1))
    rule = optc.load(EXAMPLES / "fish.opt")
    opt = rule([w], lr=0.1, domains=len(order), backend=backend, **options)
    opt.bind(
        objective=lambda d: 0.5 * w @ d[0] @ w - d[1] @ w,
        draw=[DOMAINS[i] for i in order],
    )
    for _ in range(steps):
        opt.step()
    return w.detach()


@pytest.mark.parametrize("backend", BACKENDS)
def test_fish_on_the_card(backend: str) -> None:
    """Half of the way to where one step in each domain leads."""
    torch.testing.assert_close(fish([0, 1], meta_lr=1.0, backend=backend), vector(0.9, 0.915))


def test_fish_follows_inner_products() -> None:
    """Over both orders: -a (g1 + g2) + a^2 / 2 grad <g1, g2>, exactly."""
    ends = [fish(order, meta_lr=2.0) for order in permutations(range(2))]
    torch.testing.assert_close((ends[0] + ends[1]) / 2 - 1, vector(-0.19, -0.20))


def test_fish_in_one_domain_is_descent_with_momentum_kept() -> None:
    w = nn.Parameter(vector(1, 1))
    opt = torch.optim.SGD([w], lr=0.1, momentum=0.5)
    for _ in range(4):
        opt.zero_grad()
        (0.5 * w @ DOMAINS[0][0] @ w - DOMAINS[0][1] @ w).backward()
        opt.step()
    torch.testing.assert_close(fish([0], steps=4, meta_lr=1.0, momentum=0.5), w.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_fish_keeps_its_momentum_within_and_between_steps(backend: str) -> None:
    w, opt = nn.Parameter(vector(1, 1)), None
    for _ in range(3):
        start = w.detach().clone()
        opt = opt or torch.optim.SGD([w], lr=0.1, momentum=0.5)
        for a, b in DOMAINS:
            opt.zero_grad()
            (0.5 * w @ a @ w - b @ w).backward()
            opt.step()
        with torch.no_grad():
            w.copy_(start + 0.25 * (w - start))
    found = fish([0, 1], steps=3, meta_lr=0.5, momentum=0.5, backend=backend)
    torch.testing.assert_close(found, w.detach())
