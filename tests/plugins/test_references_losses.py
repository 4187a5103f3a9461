"""Rules for several losses in a bound loop: torchjd, and the papers written out in torch."""

from __future__ import annotations

from itertools import combinations, permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

import optc

SIZES = ((4, 3), (5,))
BACKENDS = ("eager", "auto")


@pytest.fixture(autouse=True)
def _in_float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def problem(m: int, seed: int) -> tuple[list[torch.nn.Parameter], Any]:
    """Two parameters, and m losses of them that pull to different points, unequally hard."""
    generator = torch.Generator().manual_seed(seed)
    w = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SIZES]
    goals = torch.randn(m, 17, generator=generator)
    weights = torch.arange(1.0, m + 1) ** 1.5 / 10
    return w, lambda x: ((x - goals) ** 2).sum(1) * weights


def joined(w: list[Any]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in w])


def trained(
    step: str, m: int, seed: int, backend: str = "auto", steps: int = 3, lr: float = 0.01
) -> Tensor:
    """Where some steps of a `combine` step lead."""
    w, losses = problem(m, seed)
    text = f"rule r(lr = {lr}):\n    loss parts: model[losses]\n    {step}\n    step lr\n"
    opt = optc.loads(text)(w, backend=backend)
    opt.bind(objective=lambda: losses(joined(w)))
    for _ in range(steps):
        opt.step()
    return joined([p.detach() for p in w])


def descended(combine: Any, m: int, seed: int, steps: int = 3, lr: float = 0.01) -> Tensor:
    """The same with a function of the Jacobian."""
    w, losses = problem(m, seed)
    x = joined([p.detach() for p in w])
    for _ in range(steps):
        x = x - lr * combine(torch.func.jacrev(losses)(x))
    return x


def direction(step: str, m: int, seed: int) -> tuple[Tensor, Tensor]:
    """One direction, and the Jacobian that it is of."""
    w, losses = problem(m, seed)
    x = joined([p.detach() for p in w])
    return x - trained(step, m, seed, steps=1, lr=1), torch.func.jacrev(losses)(x)


def least_above(G: Tensor, u: Tensor) -> Tensor:
    """The v >= u of least v^T G v: every set of places at the bound is tried."""
    m = len(u)
    best = None
    for k in range(m + 1):
        for free in combinations(range(m), k):
            v, at = u.clone(), list(free)
            rest = [j for j in range(m) if j not in free]
            if at:
                v[at] = torch.linalg.solve(G[at][:, at], -G[at][:, rest] @ u[rest])
            value = v @ G @ v
            if bool((v >= u - 1e-12).all()) and (best is None or value < best[0]):
                best = value, v
    assert best is not None
    return best[1]


def upgrad(J: Tensor) -> Tensor:
    G = J @ J.T
    A = G / torch.trace(G) + 1e-4 * torch.eye(len(J))
    return sum(least_above(A, e) for e in torch.eye(len(J)) / len(J)) @ J


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [2, 3, 6])
def test_upgrad_is_the_mean_of_exact_projections(m: int, backend: str) -> None:
    for seed in range(3):
        found = trained("combine upgrad()", m, seed, backend)
        torch.testing.assert_close(found, descended(upgrad, m, seed), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("m", [2, 5, 12])
def test_upgrad_is_that_of_torchjd(m: int) -> None:
    pytest.importorskip("quadprog", reason="torchjd projects with quadprog")
    pytest.importorskip("qpsolvers", reason="torchjd projects with qpsolvers")
    torchjd = pytest.importorskip("torchjd.aggregation", reason="the reference is torchjd")
    found = trained("combine upgrad()", m, 0)
    torch.testing.assert_close(found, descended(torchjd.UPGrad(), m, 0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("m", [2, 3, 6])
def test_mgda_and_imtl_g_are_those_of_torchjd(m: int) -> None:
    torchjd = pytest.importorskip("torchjd.aggregation", reason="the reference is torchjd")
    exact = torchjd.MGDA(epsilon=1e-10, max_iters=20000)
    found = trained("combine mgda()", m, 0, steps=1)
    torch.testing.assert_close(found, descended(exact, m, 0, steps=1), rtol=1e-4, atol=1e-6)
    found = trained("combine imtl_g()", m, 0)
    torch.testing.assert_close(found, descended(torchjd.IMTLG(), m, 0), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("m", [2, 3, 7])
def test_mgda_is_the_shortest(m: int) -> None:
    """No gradient has an inner product with it below its own square."""
    for seed in range(3):
        d, J = direction("combine mgda()", m, seed)
        assert float((J @ d).min()) >= float(d @ d) - 1e-9


def projected(J: Tensor, orders: Any) -> Tensor:
    total = torch.zeros(J.shape[1])
    for g, order in zip(J, orders, strict=True):
        for j in order:
            if g @ J[j] < 0:
                g = g - (g @ J[j]) / (J[j] @ J[j]) * J[j]
        total = total + g
    return total


def test_pcgrad_is_the_paper_in_one_of_its_orders() -> None:
    """Each gradient meets the two others in one of two orders: eight results, ours among them."""
    for seed in range(4):
        found, J = direction("combine pcgrad()", 3, seed)
        others = [list(permutations([j for j in range(3) if j != i])) for i in range(3)]
        every = [projected(J, orders) for orders in product(*others)]
        assert min(float((found - x).abs().max()) for x in every) < 1e-10


@pytest.mark.parametrize("backend", BACKENDS)
def test_pcgrad_of_two_losses(backend: str) -> None:
    found = trained("combine pcgrad()", 2, 1, backend)
    wanted = descended(lambda J: projected(J, [[1], [0]]), 2, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_cagrad_is_the_dual_of_its_authors(m: int) -> None:
    """min over the simplex of <g_w, g_0> + c |g_0| |g_w|, by a general solver."""
    optimize = pytest.importorskip("scipy.optimize", reason="the reference is scipy's SLSQP")
    for seed in range(3):
        found, J = direction("combine cagrad()", m, seed)
        G, far = (J @ J.T).numpy(), 0.5 * float(J.mean(0).norm())

        def dual(x: Any, G: Any = G, far: float = far) -> float:
            return x @ G.mean(1) + far * (x @ G @ x + 1e-16) ** 0.5

        simplex = {"type": "eq", "fun": lambda x: x.sum() - 1}
        done = optimize.minimize(
            dual, [1 / m] * m, bounds=[(0, 1)] * m, constraints=simplex, tol=1e-14
        )
        along = torch.tensor(done.x) @ J
        wanted = J.mean(0) + far * along / along.norm()
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        assert float((J @ found).min()) >= float((J @ wanted).min()) - 1e-9
        assert float((found - J.mean(0)).norm()) <= far * (1 + 1e-9)


@pytest.mark.parametrize("m", [2, 5])
def test_nash_mtl_solves_its_bargain(m: int) -> None:
    d, J = direction("combine nash_mtl()", m, 0)
    a = torch.linalg.lstsq(J.T, d).solution
    gains = a * (J @ d)
    assert float(a.min()) > 0 and float(gains.max() / gains.min()) < 1 + 1e-6


def test_graddrop_keeps_one_sign_of_each_cell() -> None:
    d, J = direction("combine graddrop()", 4, 0)
    up, down = J.clamp(min=0).sum(0), J.clamp(max=0).sum(0)
    off = torch.minimum((d - up).abs(), (d - down).abs())
    assert float(off.max()) < 1e-10 and 0 < int(((d - up).abs() < 1e-10).sum()) < len(d)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradnorm_written_out(backend: str) -> None:
    """One layer is shared; losses and norms of its gradients drive the weights."""
    m, lr, alpha, lr_w = 3, 0.01, 1.5, 0.025
    step = "combine gradnorm(values = parts(w), shared = where(ndim == 2, 1, 0))"
    found = trained(step, m, 2, backend, steps=6, lr=lr)
    w, losses = problem(m, 2)
    x, weights, first = joined([p.detach() for p in w]), torch.ones(m), None
    for _ in range(6):
        J, L = torch.func.jacrev(losses)(x), losses(x)
        first = L if first is None else first
        own = J[:, :12].norm(dim=1)
        ratio = L / first
        target = (weights * own).mean() * (ratio / ratio.mean()) ** alpha
        x = x - lr * weights @ J
        weights = weights - lr_w * torch.sign(weights * own - target) * own
        weights = m * weights.clamp(min=1e-6) / weights.clamp(min=1e-6).sum()
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bloop_reaches_the_best_of_the_main_minimisers(backend: str) -> None:
    """Of all minimisers x + y = 1 of the main loss the auxiliary one prefers (0.8, 0.2)."""
    rule = """rule r(lr = 0.05):
    loss main, aux
    loss = main
    combine bloop(grad(aux), ema = 1.0)
    step lr
"""
    w = torch.nn.Parameter(torch.tensor([2.0, 2.0]))
    opt = optc.loads(rule)([w], backend=backend)
    opt.bind(
        objective={
            "main": lambda: (w.sum() - 1) ** 2 / 2,
            "aux": lambda: (w[0] ** 2 + 4 * w[1] ** 2) / 2,
        }
    )
    for _ in range(2000):
        opt.step()
    # off (0.8, 0.2) by the main gradient that holds against the rest of the auxiliary one
    torch.testing.assert_close(w.detach(), torch.tensor([0.79874, 0.19968]), rtol=0, atol=1e-4)


def test_gramian_reweight_of_examples_is_upgrad_of_their_losses() -> None:
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    w = torch.nn.Parameter(torch.zeros(4))
    text = (
        "rule r(lr = 1.0):\n    batch = each(batch)\n    combine gramian_reweight()\n    step lr\n"
    )
    opt = optc.loads(text)([w])
    opt.bind(objective=lambda b: ((b[0] @ w - b[1]) ** 2).mean())
    opt.step(batch=(x, y))
    torch.testing.assert_close(w.detach(), -upgrad(-2 * y[:, None] * x), rtol=1e-9, atol=1e-11)


def fitted(steps: str, backend: str, turns: int = 3) -> tuple[Tensor, Any, Tensor, Tensor]:
    """A linear fit of six examples, by a rule over single examples."""
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    w = torch.nn.Parameter(torch.zeros(4))
    opt = optc.loads(f"rule r(lr = 0.1):\n    batch = each(batch)\n{steps}")([w], backend=backend)
    opt.bind(objective=lambda b: ((b[0] @ w - b[1]) ** 2).mean())
    for _ in range(turns):
        opt.step(batch=(x, y))
    return w.detach(), opt, x, y


@pytest.mark.parametrize("backend", BACKENDS)
def test_winsorized_gradients_of_examples(backend: str) -> None:
    steps = "    combine winsorized_gradient(percent = 20)\n    step lr\n"
    found, _, x, y = fitted(steps, backend)
    w = torch.zeros(4)
    for _ in range(3):
        J = 2 * (x @ w - y)[:, None] * x
        low, high = (J.quantile(q, dim=0, interpolation="nearest") for q in (0.2, 0.8))
        w = w - 0.1 * torch.minimum(torch.maximum(J, low), high).mean(0)
    torch.testing.assert_close(found, w)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_and_coherence_of_examples(backend: str) -> None:
    steps = """    metric coherence = m_coherence(grad(w))
    metric longest = max(grand_score(grad(w)), over = examples)
    w <- w - lr * mean(grad(w), over = examples)
"""
    _, opt, x, y = fitted(steps, backend, turns=1)
    J = -2 * y[:, None] * x
    coherence = J.sum(0).square().sum() / J.square().sum()
    assert float(opt.metrics["coherence"]) == pytest.approx(float(coherence))
    assert float(opt.metrics["longest"]) == pytest.approx(float(J.norm(dim=1).max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_domain_penalties_follow_the_last_epoch(backend: str) -> None:
    step = "combine domain_penalty_weights(values = parts(w), interval = 3)"
    found = trained(step, 3, 1, backend, steps=7)
    w, losses = problem(3, 1)
    x, weights, seen = joined([p.detach() for p in w]), torch.ones(3), []
    for k in range(7):
        if k and k % 3 == 0:
            weights, seen = torch.stack(seen).mean(0).softmax(0), []
        seen.append(losses(x))
        x = x - 0.01 * weights @ torch.func.jacrev(losses)(x)
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_guidance_of_samples(backend: str) -> None:
    """Rows are samples; the two predictions are functions of the samples."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(3, 4, generator=generator)
    text = """
rule r(lr = 0.1):
    loss conditional, unconditional
    loss = conditional
    combine adaptive_projected_guidance(grad(unconditional), radius = 2.5)
    step lr
"""
    w = torch.nn.Parameter(start.clone())
    opt = optc.loads(text)([w], backend=backend)
    opt.bind(
        objective={
            "conditional": lambda: ((w - 1) ** 2).sum() / 2,
            "unconditional": lambda: (w**4).sum() / 4,
        }
    )
    x, buf = start.clone(), torch.zeros(3, 4)
    for _ in range(4):
        opt.step()
        c = x - 1
        buf = c - x**3 - 0.5 * buf
        d = buf * (2.5 / buf.norm(dim=1, keepdim=True)).clamp(max=1)
        unit = c / c.norm(dim=1, keepdim=True)
        x = x - 0.1 * (c + 6.5 * (d - (d * unit).sum(1, keepdim=True) * unit))
    torch.testing.assert_close(w.detach(), x)
