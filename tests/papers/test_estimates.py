"""Random estimates and their moments, against the numbers of the papers' cards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import optc

EXACT = torch.float64


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=EXACT)


def asked(lines: str, **given: Any) -> dict[str, Any]:
    """The metrics of one step of a rule that leaves its only cell as it is."""
    w = nn.Parameter(tensor([0.0]))
    w.grad = torch.zeros_like(w)
    opt = optc.loads("rule r():\n" + lines + "    w <- w * 1\n")([w])
    opt.supply(**given)
    opt.step()
    return dict(opt.metrics)


# Gaps between training and test loss --------------------------------------------------------------

SPREAD = tensor([1.0, 2.0, 0.5]).sqrt()


def regression(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(seed)
    x = SPREAD * torch.randn(n, 3, generator=make, dtype=EXACT)
    noise = 0.5 * torch.randn(n, generator=make, dtype=EXACT)
    return x, x @ tensor([1.0, -1.0, 0.5]) + noise


def monitored(monitor: str, x: Tensor, y: Tensor) -> float:
    w = nn.Parameter(torch.zeros(3, dtype=EXACT))
    opt = optc.loads(f"rule r():\n    metric found = {monitor}\n    step 0\n")([w])
    opt.bind(objective=lambda b: ((b[0] @ w - b[1]) ** 2 / 2).mean())
    opt.step(batch=(x, y))
    return float(opt.metrics["found"])


def test_the_gap_of_the_cards_regression_grows_as_predicted() -> None:
    """tr C is 16.875 in the limit of many examples; the prediction is for N = 10."""
    x, y = regression(8000)
    found = monitored("gap_change(J = grad(w, on = each(batch)), lr = 0.01, n = 10)", x, y)
    assert found == pytest.approx(0.016875, rel=0.03)


def test_small_batches_lower_the_test_loss_as_predicted() -> None:
    """-lr^2 S (S - 1) / (4 N) <g, grad tr C>, the derivative of tr C by autograd."""
    x, y = regression(10)
    w = torch.zeros(3, dtype=EXACT, requires_grad=True)
    J = (x @ w - y)[:, None] * x
    g = J.mean(0)
    (slope,) = torch.autograd.grad(((J - g) ** 2).sum() / 9, w)
    for batches in (2, 5):
        wanted = -(0.02**2) * batches * (batches - 1) / 40 * float(g.detach() @ slope)
        found = monitored(f"sgd_decorrelation(lr = 0.02, batches = {batches})", x, y)
        assert found == pytest.approx(wanted, rel=1e-6) and found != 0


def test_the_cards_regression_decorrelates_as_predicted() -> None:
    """With as many examples as the limit needs, scaled back to the card's N = 10."""
    x, y = regression(20000)
    found = monitored("sgd_decorrelation(lr = 0.02, batches = 2)", x, y) * 20000 / 10
    assert found == pytest.approx(-1.07e-3, rel=0.05)


# Gradients without backpropagation ----------------------------------------------------------------


def test_moments_of_the_forward_gradient() -> None:
    """E |g|^2 = (n + 2) |grad|^2 = 70, and the squared error (n + 1) |grad|^2 = 56."""
    slope = tensor([1.0, 2.0, 3.0])
    w = nn.Parameter(torch.zeros(3, dtype=EXACT))
    opt = optc.loads("rule r():\n    estimate forward_gradient()\n    step 1\n")([w])
    opt.bind(objective=lambda: slope @ w)
    drawn = []
    for _ in range(4000):
        before = w.detach().clone()
        opt.step()
        drawn.append(before - w.detach())
    g = torch.stack(drawn)
    assert g.mean(0).tolist() == pytest.approx(slope.tolist(), abs=0.3)
    assert float((g**2).sum(1).mean()) == pytest.approx(70, rel=0.1)
    assert float(((g - slope) ** 2).sum(1).mean()) == pytest.approx(56, rel=0.1)


@pytest.mark.parametrize(("local", "card"), [(True, 0.53), (False, 30.0)])
def test_a_local_estimate_has_a_small_error(local: bool, card: float) -> None:
    """E_p = (theta_p theta_p+1 - 1/2)^2: squared errors of single samples over |grad|^2."""
    theta = torch.linspace(0.2, 1.5, 32, dtype=EXACT)
    terms = lambda x: (x[:-1] * x[1:] - 0.5) ** 2  # noqa: E731
    (exact,) = torch.autograd.grad(terms(theta.requires_grad_()).sum(), theta)
    near = torch.eye(32, dtype=EXACT)
    touches = near[:, :-1] + near[:, 1:] if local else torch.ones(32, 31, dtype=EXACT)
    text = """rule r():
    loss residual: model[residuals]
    input touches: model[all, residuals]
    w <- w - local_spsa(residual, w, touches; eps = 0.01)
"""
    w = nn.Parameter(theta.detach().clone())
    opt = optc.loads(text)([w])
    opt.bind(objective={"residual": lambda: terms(w)})
    opt.supply(touches=touches)
    errors = []
    for _ in range(600):
        w.data.copy_(theta.detach())
        opt.step()
        errors.append(float(((theta.detach() - w.detach() - exact) ** 2).sum()))
    assert np.mean(errors) / float(exact @ exact) == pytest.approx(card, rel=0.12)


# Samplers -----------------------------------------------------------------------------------------


def test_a_reverse_step_of_glauber_draws_the_law_of_the_tokens() -> None:
    """With the exact classifier, for tokens of probabilities (0.2, 0.3, 0.5)."""
    real = 1 / (1 + tensor([0.2, 0.3, 0.5]) * 0.6 / (0.4 / 3))
    assert real.tolist() == pytest.approx([0.52632, 0.42553, 0.30769], abs=5e-6)
    text = """rule r():
    input start: model[positions], real: model[classes], noise: model[classes]
    x = glauber_denoise_step(start, 1, real, noise, 0.6)
    metric token = sum(where(cumsum(ones(x)) == 2, x, 0), over = positions)
    metric others = sum(where(cumsum(ones(x)) == 2, 0, x), over = positions)
    w <- w * 1
"""
    w = nn.Parameter(tensor([0.0]))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(start=tensor([1, 1, 1]), real=real, noise=torch.full((3,), 0.4 / 3, dtype=EXACT))
    counts = np.zeros(3)
    for _ in range(2000):
        opt.step()
        counts[round(float(opt.metrics["token"]))] += 1
        assert float(opt.metrics["others"]) == 2
    assert (counts / 2000).tolist() == pytest.approx([0.2, 0.3, 0.5], abs=0.04)


GUIDED = """rule r(gamma = 1.0):
    input abar: model, next: model
    u = sqrt(1 - abar) * w / (1 + abar)
    d = sqrt(1 - abar) * w
    combine cfg_combine(u, gamma)
    clean = (w - sqrt(1 - abar) * d) / sqrt(abar)
    w <- sqrt(next) * clean + sqrt(1 - next) * d
"""


@pytest.mark.parametrize(("gamma", "card"), [(1, 1.0), (2, 0.5), (3, 0.25), (5, 0.0625)])
def test_deterministic_guidance_ends_with_the_cards_variance(gamma: float, card: float) -> None:
    """N(0, 1) against N(0, 2): every step multiplies the sample, and 2^(1 - gamma) is left."""
    w = nn.Parameter(tensor([1.0]))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(GUIDED)([w], gamma=float(gamma))
    n, until = 3000, 8.0
    times = until * torch.linspace(1, 0, n + 1, dtype=EXACT) ** 2
    for at, next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        opt.supply(abar=float(np.exp(-2 * at)), next=float(np.exp(-2 * next)))
        opt.step()
    assert w.item() ** 2 == pytest.approx(card, rel=0.01)


# Transport, and a layer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "nonzero", "cost", "value"),
    [
        (2, [2, 2, 2], 0.16649624, 0.24982957),
        (3, [2, 3, 3], 0.16961371, 0.23928865),
        (6, [2, 3, 3], 0.16961371, 0.23928865),
    ],
)
def test_sparse_transport_by_its_semidual(
    k: int, nonzero: list[int], cost: float, value: float
) -> None:
    C = torch.tensor(np.random.default_rng(0).random((6, 3)))
    a, b = torch.full((6,), 1 / 6, dtype=EXACT), torch.full((3,), 1 / 3, dtype=EXACT)
    text = f"""rule r(lr = 0.1):
    input C: model[sources, sinks], a: model[sources], b: model[sinks]
    state alpha: model[sources] = 0 * a
    T = topk_simplex_projection(alpha - C, b; k = {k}, gamma = 1)
    alpha <- alpha + lr * sparse_ot_semidual(alpha, C, a, b; k = {k}, gamma = 1)
    metric off = max(abs(sum(T, over = sinks) - a), over = sources)
    metric cost = sum(C * T, over = (sources, sinks))
    metric squares = sum(T^2, over = (sources, sinks))
    metric nonzero = sum(where(T > 1e-9, 1, 0), over = (sources, sinks))
    metric least = min(sum(where(T > 1e-9, 1, 0), over = sources), over = sinks)
    w <- w * 1
"""
    w = nn.Parameter(tensor([0.0]))
    w.grad = torch.zeros_like(w)
    opt = optc.loads(text)([w])
    opt.supply(C=C, a=a, b=b)
    for _ in range(2000):
        opt.step()
    found = {name: float(v) for name, v in opt.metrics.items()}
    assert found["off"] < 1e-8
    assert found["cost"] == pytest.approx(cost, abs=1e-8)
    assert found["cost"] + found["squares"] / 2 == pytest.approx(value, abs=1e-8)
    assert (found["nonzero"], found["least"]) == (sum(nonzero), min(nonzero))


def test_the_gradient_network_is_its_integral() -> None:
    """The closed form against 2000 intervals, and its Jacobian, symmetric and not negative."""
    make = np.random.default_rng(0)
    W, b, x = make.standard_normal((4, 3)), make.standard_normal(4), make.standard_normal(3)

    def at(x: np.ndarray) -> np.ndarray:
        lines = (
            "    input x: model[dims], W: model[hidden, dims], b: model[hidden], e: model[dims]\n"
        )
        lines += "    metric found = sum(e * icgn_layer(x, W, b), over = dims)\n"
        unit = torch.eye(3, dtype=EXACT)
        given = {"x": torch.tensor(x), "W": torch.tensor(W), "b": torch.tensor(b)}
        return np.array([float(asked(lines, e=e, **given)["found"]) for e in unit])

    def pull(t: float) -> np.ndarray:
        s = 1 / (1 + np.exp(-(W @ (t * x) + b)))
        J = (s * (1 - s))[:, None] * W
        return J.T @ (J @ x)

    values = np.array([pull(t) for t in np.linspace(0, 1, 2001)])
    integral = (values[1:] + values[:-1]).sum(0) / 4000
    assert at(x) == pytest.approx(integral, abs=1e-8)
    J = np.stack([(at(x + 1e-4 * e) - at(x - 1e-4 * e)) / 2e-4 for e in np.eye(3)])
    assert J == pytest.approx(J.T, abs=1e-7)
    assert np.linalg.eigvalsh(J).min() > -1e-7


# Noise and norms ----------------------------------------------------------------------------------


def test_cells_of_noise_alone_are_held_back_by_their_ratio() -> None:
    """Five cells start at 3 with little noise, fifteen at 0 with much; half squares after steps."""
    text = """rule r():
    precondition gsnr_scale(g = grad[w](loss, w, on = split(batch, 8)))
    step 0.1
"""
    strong, still = [], []
    deviation = torch.cat([torch.full((5,), 0.5), torch.full((15,), 6.0)]).to(EXACT)
    for seed in range(50):
        make = np.random.default_rng(seed)
        w = nn.Parameter(torch.cat([torch.full((5,), 3.0), torch.zeros(15)]).to(EXACT))
        opt = optc.loads(text)([w])
        opt.bind(objective=lambda b, w=w: (w**2).sum() / 2 + (b @ w).mean())
        found = []
        for _ in range(20):
            opt.step(batch=deviation * torch.tensor(make.standard_normal((8, 20))))
            found.append(w.detach() ** 2 / 2)
        strong.append([float(found[k - 1][:5].sum()) for k in (10, 20)])
        still.append([float(found[k - 1][5:].sum()) for k in (10, 20)])
    assert np.mean(strong, 0).tolist() == pytest.approx([2.753, 0.365], abs=6e-4)
    assert np.mean(still, 0).tolist() == pytest.approx([0.170, 0.957], abs=6e-4)


def test_the_error_of_linearity_of_a_parabola() -> None:
    """1/2 k x^2 at random points within eps: k^2 / 4 * 1/30 * 16 eps^4 / 15 = 0.005."""
    make = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 400_000, generator=make, dtype=EXACT) - 0.5
    alpha = torch.rand(400_000, generator=make, dtype=EXACT)
    c = (1 - alpha) * a + alpha * b
    inputs = ", ".join(f"{name}: model[examples]" for name in ("a", "b", "c", "alpha"))
    lines = f"    input {inputs}\n    metric found = elle(a, b, c, alpha)\n"
    at = {k: 1.5 * v**2 for k, v in (("a", a), ("b", b), ("c", c))}
    assert float(asked(lines, alpha=alpha, **at)["found"]) == pytest.approx(0.005, rel=0.02)
