"""The functional step: pure, over pytrees, under torch.compile and torch.func."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch._dynamo.testing

import optc
from optc.runtime.functional import Step

from .compare import compiled
from .rules import ADAMW, MOMENTUM, NEWTON_SCHULZ, SAM, SCHEDULED

ROOT = Path(optc.__file__).parent


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What other tests compiled does not count to the versions that torch keeps of a function."""
    torch._dynamo.reset()


def loss(w: dict[str, torch.Tensor]) -> torch.Tensor:
    return (w["a"] ** 2).sum() + torch.sin(w["b"]).sum() + (w["a"].sum() * w["b"].sum()) * 0.1


def point() -> dict[str, torch.Tensor]:
    return {
        "a": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),
        "b": torch.linspace(0, 1, 4, dtype=torch.float64),
    }


@pytest.mark.parametrize("text", [ADAMW, MOMENTUM, SAM, SCHEDULED, NEWTON_SCHULZ])
def test_it_is_the_optimizers_step(text: str) -> None:
    from optc.runtime.optimizer import optimizer_class

    program = compiled(text)
    step = Step(program)
    w = point()
    state = step.init(w)
    params = {k: torch.nn.Parameter(v.clone()) for k, v in w.items()}
    opt = optimizer_class(program)(list(params.values()), backend="eager")
    before = {k: v.clone() for k, v in w.items()}

    def closure() -> torch.Tensor:
        opt.zero_grad()
        value = loss(params)
        value.backward()
        return value

    for _ in range(5):
        w, state, _ = step(w, state, loss=loss)
        opt.step(closure)
    for k in w:
        torch.testing.assert_close(w[k], params[k].detach(), rtol=1e-13, atol=1e-14)
        assert torch.equal(before[k], point()[k])


def test_a_gradient_is_enough_where_the_rule_asks_no_more() -> None:
    step = Step(compiled(ADAMW))
    w = point()
    gradient = torch.func.grad(loss)(w)
    a, _, _ = step(w, step.init(w), gradient=gradient)
    b, _, _ = step(w, step.init(w), loss=loss)
    torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="loss"):
        sharp = Step(compiled(SAM))
        sharp(w, sharp.init(w), gradient=gradient)


def test_one_tensor_is_a_pytree() -> None:
    step = Step(compiled(MOMENTUM))
    w, state, metrics = step(torch.ones(3), step.init(torch.ones(3)), loss=lambda w: (w**2).sum())
    torch.testing.assert_close(w, torch.full((3,), 0.8))
    assert metrics == {} and state["calls"] == 1


def test_options_may_change_at_every_step() -> None:
    step = Step(compiled(MOMENTUM))
    w = torch.ones(3)
    still, _, _ = step(w, step.init(w), loss=lambda w: (w**2).sum(), lr=0.0)
    assert torch.equal(still, w)
    with pytest.raises(TypeError, match="rho"):
        step.init(w, rho=1.0)


@pytest.mark.parametrize("text", [ADAMW, SAM])
def test_the_whole_step_compiles_to_one_graph(text: str) -> None:
    step = Step(compiled(text))

    def train(w: dict[str, torch.Tensor], state: dict, n: int) -> dict[str, torch.Tensor]:
        for _ in range(n):
            w, state, _ = step(w, state, loss=loss)
        return w

    w = point()
    expected = train(w, step.init(w), 1)
    whole = torch.compile(train, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(w, step.init(w), 1), expected, rtol=1e-10, atol=1e-12)


NOISY = "rule noisy(lr = 0.1):\n    w <- w - lr * grad(w) + lr * normal(w)\n"
SCHEDULES = """rule schedules(lr = 0.1):
    a = exp(-t / 20) * ln(t + 2) * sqrt(t) * 0.9^floor(t / 3) * sigmoid(t / 9)
    w <- w - lr * (a + cos(steps / 9) * sin(t / 7) + tanh(call / 5)) * grad(w)
"""
EVERY = """rule every_so(lr = 0.1):
    state m = zeros(w)
    g = grad(w)
    every 4:
        m <- g
    w <- w - lr * (g + m)
"""


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    ("text", "most"),
    [(ADAMW, 2), (MOMENTUM, 2), (NOISY, 2), (SCHEDULES, 2), ("sam_adamw", 2), (EVERY, 3)],
)
def test_clocks_and_options_that_move_compile_it_no_further(
    text: str, most: int, backend: str
) -> None:
    rule = ROOT / "examples/sam_adamw.opt" if text == "sam_adamw" else None
    step = optc.functional(rule) if rule else Step(compiled(text))
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    whole = torch.compile(step, fullgraph=True, backend=counter)
    w = v = point()
    state = also = step.init(w)
    for k in range(14):
        lr = 0.01 / (k + 1)
        w, state, _ = step(w, state, loss=loss, lr=lr)
        v, also, _ = whole(v, also, loss=loss, lr=lr)
        torch.testing.assert_close(v, w, rtol=1e-10, atol=1e-12)
    assert counter.frame_count <= most
    assert also["t"] == state["t"] == 14 and also["calls"] == also["steps"] == 14


def test_tensors_whose_clocks_differ_compile_it_no_further() -> None:
    step = Step(compiled(ADAMW))
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    whole = torch.compile(step, fullgraph=True, backend=counter)
    w = v = point()
    state = also = {**step.init(w), "t": [3, 7]}
    for _ in range(6):
        w, state, _ = step(w, state, loss=loss)
        v, also, _ = whole(v, also, loss=loss)
        torch.testing.assert_close(v, w, rtol=1e-10, atol=1e-12)
    assert counter.frame_count <= 2 and also["t"] == [9, 13]


def test_an_option_is_no_tensor_to_differentiate_by() -> None:
    step = Step(compiled(MOMENTUM))
    w = torch.ones(3)
    state = step.init(w)

    def after(lr: torch.Tensor) -> torch.Tensor:
        return step(w, state, loss=lambda x: (x**2).sum(), lr=lr)[0].sum()

    lr = torch.tensor(0.01)
    assert torch.equal(after(lr), after(0.01))  # type: ignore[arg-type]
    for derive in (
        lambda: after(lr.clone().requires_grad_()),
        lambda: torch.func.grad(after)(lr),
        lambda: torch.func.jvp(after, (lr,), (torch.ones(()),)),
        lambda: step.init(w, lr=lr.clone().requires_grad_()),
    ):
        with pytest.raises(ValueError, match=r"option 'lr'.*pass lr.detach\(\)"):
            derive()


def test_it_is_differentiable_through() -> None:
    step = Step(compiled(MOMENTUM))

    def after(w: torch.Tensor) -> torch.Tensor:
        moved, _, _ = step(w, step.init(w), loss=lambda x: (x**3).sum())
        return moved.sum()

    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(torch.func.grad(after)(w), 1 - 0.1 * 6 * w)


def test_it_draws_and_flips_coins_as_the_optimizer_does() -> None:
    text = """rule r(lr = 0.1):
    state z = normal(w), n: model = normal()
    if coin(0.5):
        w <- w - lr * grad(w) + 0.1 * normal(w) + z + n
    else:
        w <- w + z
"""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    rule = optc.loads(text)
    opt, step = rule([p], seed=5), Step(rule.program)
    w = p.detach().clone()
    state = step.init(w)
    for _ in range(4):
        p.grad = torch.ones_like(p)
        opt.step()
        w, state, _ = step(w, state, gradient=torch.ones_like(w), seed=5)
        assert torch.allclose(p, w, rtol=1e-12)


@pytest.mark.parametrize(
    "body",
    [
        "g = grad(w)\n    w <- w - lr * loss(w) * g / (1 + dot(g, g, over = model))",
        "z = normal(w, probes(3))\n    w <- w - lr * mean(z * loss(w + z), over = probes)",
        "z = normal(w, probes(3))\n    w <- w - lr * mean(z * hvp(loss, w, z), over = probes)",
        "z = normal(w, probes(3))\n    w <- w - lr * mean(z * jvp(loss, w, z), over = probes)",
    ],
)
def test_it_is_differentiable_through_values_and_products(body: str) -> None:
    step = Step(compiled(f"rule r(lr = 0.1):\n    {body}\n"))

    def after(w: torch.Tensor) -> torch.Tensor:
        state = step.init(w)
        for _ in range(2):
            w, state, _ = step(w, state, loss=lambda x: (x**4).sum() + x.prod())
        return (w**2).sum()

    w = torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(after, w)


def test_it_may_be_compiled_before_it_ever_ran() -> None:
    step = Step(compiled("rule first(lr = 0.1):\n    w <- w - lr * grad(w - lr * grad(w))\n"))
    w = torch.ones(3, dtype=torch.float64)
    whole = torch.compile(step, fullgraph=True, backend="eager")
    w, _, _ = whole(w, step.init(w), loss=lambda x: (x**2).sum())
    torch.testing.assert_close(w, torch.full_like(w, 1 - 0.2 * 0.8))


def test_what_the_host_chooses_for_each_tensor_is_compiled_too() -> None:
    text = """rule r(lr = 0.1, cut: positive = 2.0):
    m = matrix(grad(w))
    x = where(rows > cols, m @ transpose(m) @ m, m - mean(m, over = cols))
    y = where(t > cut, transpose(m) @ m, 2 * transpose(m) @ m)
    w <- w - lr * back(x @ y)
"""
    step = Step(optc.loads(text).program)
    whole = torch.compile(step, fullgraph=True, backend="eager")
    make = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=make, dtype=torch.float64) for s in ((3, 2), (2, 3))]
    ends = []
    for call in (step, whole):
        w, state = start, step.init(start)
        for cut in (2.0, 2.0, 2.0, 9.0):
            w, state, _ = call(w, state, gradient=[0.3 * x for x in w], cut=cut)
        ends.append(w)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_coins_fall_within_torch_compile() -> None:
    text = "rule r(lr = 0.1):\n    if coin(0.5):\n        w <- w - lr * grad(w)\n"
    step = Step(optc.loads(text).program)
    ends = []
    for call in (step, torch.compile(step, backend="eager")):
        w = torch.ones(2, dtype=torch.float64)
        state = step.init(w)
        for _ in range(4):
            w, state, _ = call(w, state, gradient=torch.ones_like(w), seed=5)
        ends.append(w)
    assert torch.equal(*ends) and 0.5 < float(ends[0][0]) < 1


@pytest.mark.parametrize("whole", [False, True])
def test_patterns_match_the_paths_of_a_pytree(whole: bool) -> None:
    step = Step(
        optc.loads(
            'rule r(lr = 0.1):\n    for params where named("head.*", "body.0"):\n'
            "        w <- w - 2 * lr * grad(w)\n"
            "    for other params:\n        w <- w - lr * grad(w)\n"
        ).program
    )
    w = {"head": {"weight": torch.ones(2)}, "body": [torch.ones(1), torch.ones(1)]}
    call = torch.compile(step, fullgraph=True, backend="eager") if whole else step
    after, _, _ = call(
        w,
        step.init(w),
        gradient={"head": {"weight": torch.ones(2)}, "body": [torch.ones(1), torch.ones(1)]},
    )
    found = [round(float(x[0]), 6) for x in (after["head"]["weight"], *after["body"])]
    assert found == [0.8, 0.8, 0.9]
