"""What a PyTorch user expects of an optimizer, promise by promise."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch

import optc
from optc.runtime import backends, native
from optc.runtime.optimizer import optimizer_class

from .compare import closure_of, compiled, made, objective, start, train
from .rules import ADAMW, AVERAGED, CLIPPED, MOMENTUM, RETRY, SAM, VETO


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_adamw_is_torchs(dtype: torch.dtype) -> None:
    params, opt = made(dtype=dtype, lr=3e-3)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    reference = torch.optim.AdamW(others, lr=3e-3)
    train(params, opt, 20)
    train(others, reference, 20)
    bound = 1e-12 if dtype == torch.float64 else 2e-6
    for p, q in zip(params, others, strict=True):
        assert (p - q).abs().max() <= bound * q.abs().max()


def test_it_is_an_optimizer() -> None:
    params, opt = made()
    assert isinstance(opt, torch.optim.Optimizer)
    assert type(opt).__name__ == "Adamw" and "Adamw" in repr(opt).title()
    assert opt.defaults["betas"] == (0.9, 0.999)
    groups = opt.param_groups
    train(params, opt, 1)
    assert opt.param_groups is groups


def test_groups_and_names() -> None:
    named = [(n, torch.nn.Parameter(v)) for n, v in start(torch.float32)]
    cls = optimizer_class(compiled(ADAMW))
    opt = cls([{"params": named[:2], "lr": 0.5}, {"params": named[2:]}], lr=0.25)
    assert [g["lr"] for g in opt.param_groups] == [0.5, 0.25]
    assert opt.param_groups[0]["param_names"] == ["body.weight", "head.weight"]
    before = [p.detach().clone() for _, p in named]
    objective([p for _, p in named]).backward()
    opt.step()
    moved = [(a - b).abs().max().item() for (_, a), b in zip(named, before, strict=True)]
    assert moved[0] > 0.45 and moved[2] < 0.3


def test_an_option_without_a_default_may_be_said_by_every_group() -> None:
    cls = optimizer_class(compiled("rule r(lr: nonnegative):\n    step lr\n"))
    a, b, c = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    opt = cls([{"params": a, "lr": 0.1}, {"params": b, "lr": 0.2}])
    for p in (a, b):
        p.grad = torch.ones(2)
    copy.deepcopy(opt).step()
    opt.step()
    assert [p.tolist() for p in (a, b)] == [pytest.approx([0.9, 0.9]), pytest.approx([0.8, 0.8])]
    for refused in (
        lambda: cls([a, b]),
        lambda: cls([{"params": a, "lr": 0.1}, {"params": b}]),
        lambda: opt.add_param_group({"params": c}),
        lambda: copy.deepcopy(opt).add_param_group({"params": c}),
    ):
        with pytest.raises(TypeError, match="r needs the option 'lr', from its call or"):
            refused()
    assert len(opt.param_groups) == 2
    opt.add_param_group({"params": c, "lr": 0.3})
    with pytest.raises(ValueError, match="Invalid lr"):
        cls([{"params": a, "lr": -0.1}])
    with pytest.raises(TypeError, match="no option 'rate'"):
        cls([{"params": a, "lr": 0.1}], rate=1.0)


def test_keys_of_torch_and_labels_stay_in_their_group() -> None:
    params = [torch.nn.Parameter(v) for _, v in start(torch.float32)]
    extra = {"initial_lr": 0.1, "foreach": True, "name": "body", "lr_scale": 0.5, "label": 1}
    opt = optimizer_class(compiled(ADAMW))([{"params": params, **extra}])
    assert extra.items() <= opt.param_groups[0].items()


def test_schedulers_see_and_set_lr() -> None:
    params, opt = made(MOMENTUM, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    builds = native_builds()
    for expected in (0.1, 0.05, 0.025):
        assert opt.param_groups[0]["lr"] == pytest.approx(expected)
        train(params, opt, 1)
        scheduler.step()
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, 1.0, total_steps=10)
    for _ in range(3):
        train(params, opt, 1)
        cycle.step()
    assert native_builds() - builds <= 1


def native_builds() -> int:
    from optc.runtime import native

    return native.builds


def test_lr_may_be_a_tensor() -> None:
    params, opt = made(MOMENTUM, lr=torch.tensor(0.1))
    others, plain = made(MOMENTUM, lr=0.1)
    train(params, opt, 3)
    train(others, plain, 3)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_step_hooks_and_profiler_names() -> None:
    params, opt = made()
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *a: seen.append("before"))
    opt.register_step_post_hook(lambda *a: seen.append("after"))
    with torch.profiler.profile() as profile:
        train(params, opt, 1)
    assert seen == ["before", "after"]
    assert any(e.key == "Optimizer.step#Adamw.step" for e in profile.key_averages())


def test_closure_returns_the_loss_and_keeps_grad() -> None:
    params, opt = made(SAM)
    loss = opt.step(closure_of(params, opt))
    assert float(loss) == pytest.approx(
        float(objective([torch.nn.Parameter(v) for _, v in start(torch.float32)]))
    )
    assert all(p.grad is not None for p in params)
    assert not torch.is_grad_enabled() or True


def test_absent_gradients_are_passed_over() -> None:
    params, opt = made()
    objective(params).backward()
    params[1].grad = None
    before = params[1].detach().clone()
    opt.step()
    assert torch.equal(params[1], before)
    assert float(opt.state[params[0]]["step"]) == 1 and float(opt.state[params[1]]["step"]) == 0
    train(params, opt, 1)
    assert float(opt.state[params[0]]["step"]) == 2 and float(opt.state[params[1]]["step"]) == 1


def test_late_parameters_have_their_own_clock() -> None:
    params, opt = made(dtype=torch.float64)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    reference = torch.optim.AdamW(others, lr=1e-3)
    for step in range(5):
        for ps, o in ((params, opt), (others, reference)):
            o.zero_grad()
            objective(ps).backward()
            if step < 2:
                ps[2].grad = None
            o.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_add_param_group() -> None:
    params, opt = made(MOMENTUM, torch.float64)
    train(params, opt, 2)
    extra = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt.add_param_group({"params": [extra], "lr": 1.0})
    extra.grad = torch.ones(3, dtype=torch.float64)
    opt.step()
    assert torch.equal(extra.detach(), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="Invalid lr"):
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": -1.0})
    assert len(opt.param_groups) == 2


def test_maximize() -> None:
    params, opt = made(MOMENTUM, torch.float64, maximize=True)
    others, down = made(MOMENTUM, torch.float64)
    first = [p.detach().clone() for p in params]
    train(params, opt, 1)
    train(others, down, 1)
    for a, b, c in zip(params, others, first, strict=True):
        torch.testing.assert_close(a - c, c - b)


def test_complex_parameters() -> None:
    z = torch.nn.Parameter(torch.tensor([1 + 2j, -3 + 0.5j]))
    opt = optimizer_class(compiled(ADAMW))([z], lr=0.1)
    other = torch.nn.Parameter(z.detach().clone())
    reference = torch.optim.AdamW([other], lr=0.1)
    for _ in range(3):
        for p, o in ((z, opt), (other, reference)):
            o.zero_grad()
            (p.abs() ** 2).sum().backward()
            o.step()
    torch.testing.assert_close(z, other, rtol=1e-5, atol=1e-6)


def test_a_stale_graph_raises() -> None:
    params, opt = made(MOMENTUM)
    objective(params).backward()
    stale = (params[0] * params[0]).sum()
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_gradscaler_skips_whole_steps() -> None:
    params, opt = made(ADAMW)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (False, True, False):
        opt.zero_grad()
        scaler.scale(objective(params)).backward()
        if bad:
            params[0].grad[0] = float("inf")
        before = [p.detach().clone() for p in params]
        scaler.step(opt)
        scaler.update()
        assert torch.equal(before[1], params[1]) == bad
    assert float(opt.state[params[0]]["step"]) == 2


def test_train_and_eval_swap_exactly() -> None:
    params, opt = made(AVERAGED)
    train(params, opt, 4)
    held = [p.detach().clone() for p in params]
    opt.eval()
    opt.eval()
    for p in params:
        torch.testing.assert_close(p.detach(), opt.state[p]["mean"])
    opt.train()
    opt.train()
    assert all(torch.equal(p, h) for p, h in zip(params, held, strict=True))


def test_non_contiguous_empty_and_scalar_parameters() -> None:
    base = torch.randn(4, 6, dtype=torch.float64)
    params = [
        torch.nn.Parameter(base.clone().t()),
        torch.nn.Parameter(torch.zeros(0, dtype=torch.float64)),
        torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64)),
    ]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    opt = optimizer_class(compiled(ADAMW))(params)
    train(params, opt, 5)
    train(others, torch.optim.AdamW(others), 5)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_veto_changes_nothing_but_always() -> None:
    params, opt = made(VETO, most=1e-9)
    before = [p.detach().clone() for p in params]
    train(params, opt, 3)
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert float(opt.state[params[0]]["step"]) == 0
    assert float(opt.metrics["skipped"]) == 3


def test_metrics_are_there_after_a_step() -> None:
    params, opt = made(CLIPPED, torch.float64)
    train(params, opt, 1)
    first = [torch.nn.Parameter(v) for _, v in start(torch.float64)]
    objective(first).backward()
    norm = torch.cat([p.grad.flatten() for p in first]).norm()
    torch.testing.assert_close(opt.metrics["norm"], norm)


def test_nothing_is_built_again() -> None:
    params, opt = made(ADAMW)
    train(params, opt, 1)
    builds = native_builds()
    for group in opt.param_groups:
        group.update(lr=0.5, betas=(0.5, 0.6), eps=1e-3, weight_decay=0.3)
    params[0].requires_grad_(False)
    params[0].grad = None
    train(params, opt, 2)
    params[0].requires_grad_(True)
    opt.load_state_dict(opt.state_dict())
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(4))]})
    train(params, opt, 2)
    assert native_builds() == builds


@pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
def test_tables_stay_where_a_rule_takes_another_way_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from optc.runtime import kernels

    made_tables = []
    table = kernels.Table
    monkeypatch.setattr(kernels, "Table", lambda *a, **k: made_tables.append(1) or table(*a, **k))
    rule = """rule r(lr = 0.1):
    state m = zeros(w)
    m <- 0.9 * m + grad(w)
    if call % 2 == 0:
        w <- w - lr * m / t
"""
    p = torch.nn.Parameter(torch.ones(8))
    opt = optc.loads(rule)([p], backend="c")
    counts = []
    for _ in range(6):
        p.grad = torch.ones_like(p)
        opt.step()
        counts.append(len(made_tables))
    assert counts[1] == counts[-1]


@pytest.mark.parametrize(("lr", "evaluations"), [(0.05, 2), (50.0, 3)])
def test_a_gradient_behind_a_condition_is_asked_only_then(lr: float, evaluations: int) -> None:
    params, opt = made(RETRY, torch.float64, lr=lr)
    plain, count = closure_of(params, opt), [0]

    def closure() -> torch.Tensor:
        count[0] += 1
        return plain()

    opt.step(closure)
    assert count[0] == evaluations


def test_a_state_is_written_late_and_evaluated_at_early() -> None:
    """Writes wait for the last evaluation; a point that is also a state's new version cannot."""
    rule = """rule r(lr = 0.1):
    state x = w
    x <- 0.5 * x + 0.5 * (w - lr * grad(w))
    w <- w - lr * grad(x)
"""
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    opt = optc.loads(rule)([p])
    opt.bind(objective=lambda: (p**2).sum())
    opt.step()
    assert torch.allclose(p.detach(), torch.full_like(p, 0.82), atol=1e-15)
    opt.step()  # x = 0.45 + 0.41 * 0.8 = 0.778
    assert torch.allclose(p.detach(), torch.full_like(p, 0.82 - 0.2 * 0.778), atol=1e-15)


def test_the_signature_names_the_options() -> None:
    names = list(inspect.signature(type(made()[1])).parameters)
    assert names[:5] == ["params", "lr", "betas", "eps", "weight_decay"]
    late = compiled("rule a(lr = 0.1, n: count):\n    step lr / n\n")
    assert [*inspect.signature(optimizer_class(late)).parameters][:3] == ["params", "lr", "n"]


def test_on_meta_nothing_is_computed_and_nothing_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "_told", False)
    p = torch.nn.Parameter(torch.empty(3, 2, device="meta"))
    p.grad = torch.empty_like(p)
    opt = optimizer_class(compiled(ADAMW))([p])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
    assert opt.state[p]["adam.exp_avg"].device.type == "meta"
    with pytest.raises(RuntimeError, match="on the meta device, which hold no numbers"):
        optimizer_class(compiled(ADAMW))([p], backend="triton").step()


@pytest.mark.parametrize("backend", ["eager", *(["c"] if native.compiler() else [])])
def test_a_phase_without_gradients_follows_parameters_to_other_memory(backend: str) -> None:
    rule = optimizer_class(
        compiled(
            "rule r(lr: nonnegative = 0.1):\n"
            "    n = norm(w, over = model)\n"
            "    w <- w - lr * grad(w) / (1 + n + norm(w, over = tensor))\n"
        )
    )

    def run(moved: bool) -> list[torch.Tensor]:
        params = [torch.nn.Parameter(v) for _, v in start()]
        opt = rule(params, backend=backend)
        for step in range(4):
            for p in params:
                if moved and step == 2:
                    old, p.data = p.data, p.data.clone()
                    old.fill_(1e3)
                p.grad = torch.cos(p.detach() + step)
            opt.step()
        return [p.detach() for p in params]

    assert all(map(torch.equal, run(False), run(True)))
