"""Uses of an optimizer that are refused: options, parameters, gradients and objectives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import optc
from optc.runtime.optimizer import optimizer_class

from .compare import compiled, interpreted, made, objective, start
from .rules import ADAMW, SAM

MODEL = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("betas", (0.9, 1.0)), ("eps", -1e-8)])
def test_bad_options_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Invalid {name}"):
        made(**{name: value})


@pytest.mark.parametrize("value", [0, -3, 2.5, float("inf")])
def test_a_period_that_is_no_number_of_steps_is_refused(value: float) -> None:
    """Whatever the bound of the option; in the call, and in a group that comes later."""
    cls = optc.loads("rule r(lr = 0.1, often = 4):\n    every often:\n        step lr\n")
    message = "Invalid often: it must be an integer of at least 1, and it is"
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    with pytest.raises(ValueError, match=message):
        cls(params, often=value)
    opt = cls(params[:1])
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": params[1:], "often": value})
    assert len(opt.param_groups) == 1


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="momentum"):
        made(momentum=0.9)


@pytest.mark.parametrize("wrong", [{"lrr": 1.0}, {"beta": (0.9, 0.9)}, {"weight_deacy": 0.0}])
def test_a_misspelt_option_of_a_group_is_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    meant = {"lrr": "lr", "beta": "betas", "weight_deacy": "weight_decay"}[key]
    params = [torch.nn.Parameter(v) for _, v in start(torch.float32)]
    cls = optimizer_class(compiled(ADAMW))
    with pytest.raises(ValueError, match=f"no option '{key}'; did you mean '{meant}'"):
        cls([{"params": params, **wrong}])
    opt = cls([{"params": params[:1]}])
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        opt.add_param_group({"params": params[1:], **wrong})
    assert len(opt.param_groups) == 1


def test_sparse_gradients_are_refused() -> None:
    table = torch.nn.Embedding(5, 2, sparse=True)
    opt = optimizer_class(compiled(ADAMW))(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises((ValueError, RuntimeError), match="sparse"):
        opt.step()


def test_a_parameter_given_twice_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="twice|once|same"):
        opt = optimizer_class(compiled(ADAMW))([p, p])
        p.grad = torch.ones(2)
        opt.step()


TWO = "rule a(lr = 0.1):\n    loss b, c\n    w <- w - lr * max(grad(b, w), grad(c, w))\n"


def test_one_grad_does_not_stand_for_two_losses() -> None:
    params, opt = made(TWO)
    objective(params).backward()
    with pytest.raises(RuntimeError, match=r"the gradients of `b` and `c` apart.*bind"):
        opt.step()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda batch, more: 0, "`loss` is called with the batch: .*missing 1"),
        (lambda: 0, "`loss` is called with the batch: .*takes 0"),
        (lambda batch: batch, r"`loss` is one number by the rule, .* shape \[3\]: take its mean"),
        (lambda batch: batch.sum() + None, "unsupported operand"),
    ],
)
def test_an_objective_of_another_form_is_refused(given: Any, says: str) -> None:
    params, opt = made(SAM)
    opt.bind(objective=given)
    with pytest.raises((RuntimeError, TypeError), match=says):
        opt.step(batch=params[0].sum() * torch.ones(3))


def test_names_that_the_rule_does_not_know_are_refused() -> None:
    _, opt = made()
    with pytest.raises(TypeError, match=r"bind\(\) of adamw has no 'objectiv'.*`objective`"):
        opt.bind(objectiv=print)
    with pytest.raises(TypeError, match=r"supply\(\) of adamw has no 'epoc'.*`epoch`"):
        opt.supply(epoc=1)
    opt.supply(steps_per_epoch=1)


@pytest.mark.parametrize(
    ("what", "given"), [("named", "parameters"), ("module", "named_parameters")]
)
def test_parameters_without_what_the_rule_routes_by_are_refused(what: str, given: str) -> None:
    text = f'rule a(lr = 0.1):\n    for params where {what}("Linear"):\n        step lr\n'
    cls, model = optc.loads(text), torch.nn.Linear(2, 2)
    model(torch.ones(2)).sum().backward()
    with pytest.raises(ValueError, match=r"came without: give optc\.parameters\(model\)"):
        cls(getattr(model, given)()).step()
    cls(optc.parameters(model)).step()


def test_a_module_in_place_of_its_parameters_is_refused() -> None:
    with pytest.raises(TypeError, match=r"give optc.parameters\(model\)"):
        optimizer_class(compiled(ADAMW))(torch.nn.Linear(2, 2))


def test_a_text_in_place_of_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="optc.loads"):
        optc.load(ADAMW)


def test_a_text_in_place_of_a_number_is_shown_as_a_text() -> None:
    """As YAML reads 1e-3."""
    with pytest.raises(ValueError, match="it must be .*, and it is '1e-3'"):
        made(lr="1e-3")


def test_an_objective_that_calls_backward_is_told_so() -> None:
    params, opt = made(SAM)

    def wrong(batch: Any) -> torch.Tensor:
        loss = objective(params)
        loss.backward()
        return loss

    opt.bind(objective=wrong)
    with pytest.raises(RuntimeError, match="the objective `loss` calls backward"):
        opt.step()


@pytest.mark.parametrize("around", ["the step", "the closure", "the objective"])
def test_inference_mode_is_named_where_a_gradient_is_asked_for(around: str) -> None:
    """The step was not: `.grad` and the parameters are as before, and the next one counts."""
    params, opt = made("rule r(lr = 0.1):\n    w <- w - lr * grad(w + lr)\n")
    before = [p.detach().clone() for p in params]

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = objective(params)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"inference_mode\(\)"):
        if around == "the closure":
            opt.step(torch.inference_mode()(closure))
        with torch.inference_mode():
            if around == "the objective":
                opt.bind(objective=lambda: objective(params)).step()
            opt.step(closure)
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(params, before, strict=True))
    opt.step(closure)
    assert opt.param_groups[0]["steps"] == 1


def test_a_closure_without_backward_is_warned_of() -> None:
    params, opt = made(SAM)
    with pytest.warns(UserWarning, match="the closure left no gradient"):
        opt.step(lambda: objective(params))


ONLY = "the loss `{}` uses none of the parameters that this step is of, or only frozen ones"
WITHOUT_A_GRADIENT = {
    "w <- w - lr * grad(w)": "loss",
    "w <- w - lr * grad[w](main) - lr * grad[w](other)": "main",
    "w <- w - lr * hvp(loss, w, w)": "loss",
    "w <- w - lr * jvp(loss, w, w) * w": "loss",
    "w <- w - lr * vjp(l, w, ones(losses))": "l",
    "w <- w - lr * mean(grad(l, w), over = losses)": "l",
    "w <- w - lr * mean(grad(w, on = each(batch)), over = examples)": "loss",
    "w <- w - lr * mean(grad(w + normal(w, probes(3))), over = probes)": "loss",
}


@pytest.mark.parametrize("line", WITHOUT_A_GRADIENT)
def test_a_loss_of_frozen_tensors_is_named(line: str) -> None:
    declared = {"main": "loss main, other", "l": "loss l: model[losses]"}
    name = WITHOUT_A_GRADIENT[line]
    text = f"rule r(lr = 0.1):\n    {declared.get(name, 'loss loss')}\n    {line}\n"
    frozen, used = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    frozen.requires_grad_(False)

    def objective(batch: Any) -> Any:
        if name == "main":
            return {"main": (frozen**2).sum(), "other": used.sum()}
        return (frozen**2).sum() * torch.ones(2) if name == "l" else (frozen * batch).sum()

    opt = optc.loads(text)([frozen, used]).bind(objective=objective)
    with pytest.raises(RuntimeError, match=ONLY.format(name)) as told:
        opt.step(batch=torch.ones(4, 3))
    assert "compute it of the model whose parameters the optimizer holds" in str(told.value)
    assert used.tolist() == [1, 1, 1] and opt.param_groups[0]["calls"] == 0


def test_a_loss_of_other_tensors_does_not_say_how_many_losses_there_are() -> None:
    text = """rule r(lr = 0.1):
    loss l: model[losses]
    J = grad(w)
    G = dot(J, J', over = model) + 1e-6 * eye(losses)
    w <- w - lr * sum(solve(G, ones(losses)) * J, over = losses)
"""
    mine, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = optc.loads(text)([mine]).bind(objective=lambda: torch.stack([other.sum(), 2 * other[0]]))
    with pytest.raises(RuntimeError, match=ONLY.format("l")):
        opt.step()


def test_curvature_by_frozen_tensors_alone_does_nothing() -> None:
    text = "rule r(lr = 0.1):\n    w <- w - lr * hvp(loss, w, w) - jvp(loss, w, w) * w\n"
    p = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    optc.loads(text)([p]).bind(objective=lambda: (p**2).sum()).step()
    assert p.tolist() == [1, 1, 1]


TOGETHER = """rule r(lr = 0.1):
    state n: model = 0
    m = {}
    n <- n + 1
    w <- w - lr * sum(m, over = {})
"""
SIDES = {
    "sum(matrix(w), over = model)": ("(rows, cols)", r"\(4, 3\) and \(3, 5\)"),
    "norm(wide(w), over = model)": ("(short, long)", r"\(3, 4\) and \(3, 5\)"),
    "max(mean(matrix(w), over = rows), over = model)": ("cols", r"\(3,\) and \(5,\)"),
    "dot(matrix(w), prime(matrix(w)), over = group)": (
        "(rows, cols, rows', cols')",
        r"\(4, 3, 4, 3\) and \(3, 5, 3, 5\)",
    ),
}


@pytest.mark.parametrize("form", SIDES)
def test_sides_of_tensors_of_different_shapes_are_not_taken_together(form: str) -> None:
    axes, shapes = SIDES[form]
    text = TOGETHER.format(form, axes)
    params = [torch.nn.Parameter(torch.ones(s)) for s in ((4, 3), (3, 5))]
    opt = optc.loads(text)(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=rf"(?s)^<string>:3:9: m = .*of its own shape, {shapes}"):
        opt.step()
    assert all(p.eq(1).all() for p in params) and opt.param_groups[0]["calls"] == 0
    with pytest.raises(RuntimeError, match=r"(?s)^rule.opt:3:9: m = .*of its own shape"):
        interpreted(text, 1)


def test_sides_of_tensors_of_one_shape_are_summed_place_by_place() -> None:
    params = [torch.nn.Parameter(torch.full((2, 2), float(k))) for k in (1, 2)]
    text = "m = sum(matrix(w), over = model)\n    w <- w - lr * back(m + 0 * matrix(w))\n"
    opt = optc.loads(f"rule r(lr = 1):\n    {text}")(params)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    assert [p.tolist() for p in params] == [[[-2, -2]] * 2, [[-1, -1]] * 2]


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (lambda batch: (MODEL(batch[0]) - batch[1]).square().mean(), TypeError),
        (lambda batch: MODEL(batch.inputs).mean(), AttributeError),
    ],
)
def test_an_objective_that_wants_the_batch_says_that_none_is_given(
    objective: Any, kind: type[Exception]
) -> None:
    opt = optc.loads("rule r(lr = 0.1):\n    w <- w - lr * grad(w - lr * grad(w))\n")(
        MODEL.parameters()
    )
    opt.bind(model=MODEL, objective=objective)
    with pytest.raises(kind) as raised:
        opt.step()
    assert any("optimizer.step(batch=...)" in note for note in raised.value.__notes__)
    with pytest.raises(kind) as raised:
        opt.step(batch=3)
    assert not hasattr(raised.value, "__notes__")
