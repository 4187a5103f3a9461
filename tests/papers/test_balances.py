"""Losses, constraints and classes held in balance: gradients and claims, in real loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

import optc

BACKENDS = ("eager", "auto")


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient(text: str, w: Tensor, backend: str, **bound: Any) -> Tensor:
    """The gradient of a function of the language, as one step of size 1 from w."""
    p = nn.Parameter(w.clone())
    opt = optc.loads(text)([p], backend=backend)
    inputs = bound.pop("inputs", {})
    opt.bind(objective={k: lambda _, f=f: f(p) for k, f in bound.items()})
    opt.supply(**inputs)
    opt.step()
    return w - p.detach()


CONFUSED = """
rule r():
    loss z: model[examples, dims]
    input labels: model[examples]
    w <- w - grad(p -> energy_confusion(z(p), labels), w)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_energy_confusion_pulls_classes_together(backend: str) -> None:
    z = tensor([1, 0], [0, 1], [0.6, 0.8], [-1, 0])
    found = gradient(
        CONFUSED, z, backend, z=lambda p: 1.0 * p, inputs={"labels": tensor(0, 0, 1, 1)}
    )
    wanted = tensor([1.2, -0.4], [0.2, 0.6], [0.1, 0.3], [-1.5, -0.5])
    torch.testing.assert_close(found, wanted)


DISTILLED = """
rule r():
    loss z: model[examples, classes]
    input labels: model[examples], previous: model[examples, classes]
    w <- w - grad(p -> progressive_self_distillation(z(p), labels, previous, alpha = 0.4), w)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_self_distillation_has_the_gradient_softmax_minus_target(backend: str) -> None:
    inputs = {"labels": tensor(1), "previous": tensor([0.2, 0.5, 0.3])}
    found = gradient(DISTILLED, tensor([1, 2, 0]), backend, z=lambda p: 1.0 * p, inputs=inputs)
    torch.testing.assert_close(found, tensor([0.1647, -0.1348, -0.0300]), rtol=0, atol=5e-5)


GUIDED = """
rule r():
    loss z: model[subnets, examples, classes]
    input labels: model[examples]
    held = z(w)
    f = p -> progressive_guidance(z(p), held, labels, temperature = 2)
    w <- w - grad(f, w)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_sub_network_learns_from_the_one_before(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 2, 4])
    found = gradient(GUIDED, z, backend, z=lambda p: 1.0 * p, inputs={"labels": labels.double()})
    p = z.clone().requires_grad_()
    total = cross_entropy(p[0], labels)
    for k in (1, 2):
        teacher, own = (p[k - 1].detach() / 2).log_softmax(-1), (p[k] / 2).log_softmax(-1)
        divergence = (teacher.exp() * (teacher - own)).sum(-1).mean()
        total = total + 0.5 * 4 * divergence + 0.5 * cross_entropy(p[k], labels)
    total.backward()
    torch.testing.assert_close(found, p.grad)


UNIFORM = """
rule r(lr = 0.01):
    regularize weight_distribution_reg(kurt_rate = 1, skew_rate = 1)
    precondition adam()
    step lr
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_take_the_moments_of_a_uniform_distribution(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(40, 50, generator=generator, dtype=torch.float64))
    opt = optc.loads(UNIFORM)([w], backend=backend)
    opt.bind(objective=lambda: 0 * w.sum())
    for _ in range(500):
        opt.step()
    u = (w.detach() - w.detach().mean()) / w.detach().std()
    assert (u**4).mean().item() == pytest.approx(1.8, abs=1e-5)
    assert (u**3).mean().item() == pytest.approx(0, abs=1e-6)


CONSTRAINED = """
rule r(lr = 0.05):
    loss parts: model[losses]
    input bounds: model[losses]
    regularize dual_ascent(slack = parts(w) - bounds, lr_dual = 0.05)
    step lr
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_dual_ascent_ends_on_the_constraint(backend: str) -> None:
    """(th - 3)^2 with th^2 <= 1: th = 1, and the multiplier is 2."""
    th = nn.Parameter(tensor(3.0))
    opt = optc.loads(CONSTRAINED)([th], backend=backend)
    opt.bind(objective=lambda: torch.cat([(th - 3) ** 2, th**2]))
    opt.supply(bounds=tensor(0, 1))
    for _ in range(1500):
        opt.step()
    assert th.item() == pytest.approx(1, abs=1e-6)


def imbalanced() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    many = torch.randn(950, 20, generator=generator) + 0.5
    few = torch.randn(50, 20, generator=generator)
    few[:, 0] -= 1.5
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 32, bias=False), nn.ReLU(), nn.Linear(32, 2))
    labels = torch.cat([torch.zeros(950), torch.ones(50)]).long()
    return net, torch.cat([many, few]), labels


@pytest.mark.parametrize("normalised", [True, False])
def test_the_minority_falls_from_the_start_only_if_classes_are_normalised(normalised: bool) -> None:
    net, x, y = imbalanced()
    step = "per_class_normalized_gradient()" if normalised else ""
    text = "rule r(lr = 0.05):\n    loss classes: model[losses]\n"
    if normalised:
        text += f"    normalize {step}\n    metric rise = per_class_loss(classes(w))\n    step lr\n"
    else:
        text += "    g = sum(grad(w), over = losses)\n    w <- w - lr * g\n"
    opt = optc.loads(text)(list(net.parameters()))

    def losses() -> Tensor:
        each = cross_entropy(net(x), y, reduction="none")
        return torch.stack([each[y == k].sum() / len(y) for k in (0, 1)])

    opt.bind(model=net, objective=losses)
    minority = []
    for _ in range(60):
        minority.append(20 * losses()[1].item())
        opt.step()
    if normalised:
        assert max(minority) == minority[0] and minority[-1] < 0.4 * minority[0]
    else:
        assert max(minority) > minority[0] + 0.5


@pytest.mark.parametrize(("lr", "turns"), [(100, 2), (10, 2), (1, 16), (0.1, 157)])
def test_the_normalised_step_solves_the_hard_set_as_published(lr: float, turns: int) -> None:
    """y a = (0.5, -1) once and (0.5, 1) 999 times: iterations until all are classified."""
    a = tensor(0.5, 1).repeat(1000, 1)
    a[0, 1] = -1
    w = nn.Parameter(tensor(0.0, 0.0))
    text = """
rule r(lr = 1.0):
    loss main, margins: model[examples]
    loss = main
    normalize logistic_normalised_gd(margins(w))
    step lr
"""
    opt = optc.loads(text)([w], lr=float(lr))
    opt.bind(objective={"main": lambda: softplus(-(a @ w)).mean(), "margins": lambda: a @ w})
    taken = 0
    while float((a @ w.detach()).min()) <= 0:
        opt.step()
        taken += 1
    assert taken == turns


ALIGNED = """
rule r():
    loss features: model[domains, examples, dims], logits: model[domains, examples, classes]
    input labels: model[domains, examples]
    z0 = features(w)
    l0 = logits(w)
    f = p -> hgp_alignment(features(p), logits(p), labels, z0, l0, alpha = 1, beta = 0.5)
    w <- w - grad(f, w)
"""


def alignment(head: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The penalty by torch, derivatives by the head taken through its graph."""

    def products(loss: Tensor) -> tuple[Tensor, Tensor]:
        (g,) = torch.autograd.grad(loss, head, create_graph=True)
        (h,) = torch.autograd.grad((g * g).sum() / 2, head, create_graph=True)
        return g, h

    losses = [cross_entropy(a @ head.T, b) for a, b in zip(x, y, strict=True)]
    middle, held = (v.detach() for v in products(sum(losses) / len(losses)))
    parts = [products(loss) for loss in losses]
    gaps = [((h - held) ** 2).sum() + 0.5 * ((g - middle) ** 2).sum() for g, h in parts]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hessian_alignment_reaches_the_head_and_the_features(backend: str) -> None:
    """Against third derivatives by autograd."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, y = normal(2, 6, 3), torch.randint(0, 4, (2, 6), generator=generator)
    body, head = nn.Parameter(normal(3, 3)), nn.Parameter(normal(4, 3))
    start = [body.detach().clone(), head.detach().clone()]
    with torch.enable_grad():
        alignment(head, (x @ body).tanh(), y).backward()
    wanted = [body.grad, head.grad]
    opt = optc.loads(ALIGNED)([body, head], backend=backend)

    def features() -> Tensor:
        # what does not touch a tensor has no gradient there, and neither has a sum with it
        return (x @ body).tanh() + 0 * head.sum()

    opt.bind(objective={"features": features, "logits": lambda: features() @ head.T})
    opt.supply(labels=y.double())
    opt.step()
    for p, before, g in zip((body, head), start, wanted, strict=True):
        torch.testing.assert_close(before - p.detach(), g, rtol=1e-9, atol=1e-12)


APART = """
rule r():
    loss A: model[parts, rank, inputs], B: model[parts, outputs, rank]
    input W: model[outputs, inputs]
    w <- w - grad(p -> group_orthogonal_lora(W, A(p), B(p), lam = 1), w)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_low_rank_parts_are_pushed_apart(backend: str) -> None:
    a, b = tensor([[1, -1]], [[1, 2]]), tensor([[1], [0.5]], [[-1], [2]])
    p, q = nn.Parameter(a.clone()), nn.Parameter(b.clone())
    opt = optc.loads(APART)([p, q], backend=backend)
    opt.bind(objective={"A": lambda: p + 0 * q.sum(), "B": lambda: q + 0 * p.sum()})
    opt.supply(W=tensor([1, 2], [0.5, 1]))
    opt.step()
    torch.testing.assert_close(a - p.detach(), tensor([[-6.75, -13.5]], [[0, 13.5]]))
    torch.testing.assert_close(b - q.detach(), tensor([[4.5], [4.5]], [[-9], [9]]))
