"""Rules that no backend can mean are refused in their own words, where they stand."""

from __future__ import annotations

import pytest

from optc.compiler import driver
from optc.compiler.primitive import NoLibrary
from optc.compiler.source import CompileError, Source

from .rich import graph

REFUSED = {
    "an end of each group": (
        "repeat 8 until norm(w, over = group) < 1:\n    w <- w / 2",
        "odd.opt:2:20: error[E304]: a loop ends for all groups at once, and this is a condition of",
    ),
    "a derivative through a loop of any length": (
        """
        f = p -> sum(cg(v -> v + p, p, turns), over = model)
        w <- w - lr * grad(f, w)""",
        "a derivative does not go through a loop that stays one: its count is an option or large",
    ),
    "a bundle that is called": (
        "w <- w - lr * euclidean(w)",
        "help: call a member of it: `euclidean.gradient(..)`",
    ),
    "a batch where a number is needed": (
        "repeat batch:\n    step lr",
        "a count must be a value, and it is a batch",
    ),
    "a batch that decides": ("veto when batch\nstep lr", "must be a value, and it is a batch"),
    "data of a size that only the device knows": (
        "w <- w - lr * grad(w, on = draw(val, norm(w, over = model)))",
        "the host must know how much `draw` takes",
    ),
    "the largest cells of a number": (
        "w <- w - lr * top(lr, over = tensor, k = 1)",
        "`top` takes the largest cells of tensors, and this is a number",
    ),
    "an axis that nothing has": (
        "w <- w - lr * size(probes) * grad(w)",
        "nothing says how many places the axis `probes` has",
    ),
    "a state over an axis that nothing has": (
        "state s: model[foo] = 0\nw <- w - lr * sum(s, over = foo)",
        "nothing says how many places the axis `foo` has",
    ),
    "an axis of a size that only the device knows": (
        "w <- w - mean(normal(w, probes(norm(w, over = model))), over = probes)",
        "the host must know how many places an axis has",
    ),
    "an axis of a size of each tensor": (
        "w <- w - mean(normal(w, probes(ndim)), over = probes)",
        "the host must know how many places an axis has",
    ),
    "a state of a size that only the device knows": (
        "state s: model[window(norm(w, over = model))] = 0\nw <- w - s[0]",
        "the host must know how many places an axis has",
    ),
    "a point that gains an axis in a block": (
        "for params where ndim == 2:\n    w <- w - lr * normal(w, probes(2))\nother:\n    step lr",
        "a value of type element[probes(2)] does not fit the slot of type element",
    ),
    "an axis of a rate": (
        "w <- normal(w, probes(lr))[0]",
        "`lr` counts something here: it must be",
    ),
    "a loop of a rate": ("repeat lr:\n    w <- w / 2", "`lr` counts something here: it must be"),
    "a restore of a rate": ("restore lr when call > 3\nstep lr", "`lr` counts something here"),
    "a restore of each tensor's own": (
        "restore ndim when call > 3\nstep lr",
        "`restore` goes back one number of snapshots, and this is tensor",
    ),
    "a state that cells leave one by one": (
        "state s: model = 1\nrepeat 3 until w > 1:\n    s <- s / 2\nw <- w - lr * s",
        "a condition of type element cannot stop the writing of `s`, a slot of type model",
    ),
    "a state of all in a block": (
        "state s = w\nfor params where ndim == 1:\n    s <- w\n    step lr\nother:\n    step lr",
        "declare the slot in the block that writes it",
    ),
    "the number of singular values": (
        "u, s, v = svd(matrix(w))\nw <- w - lr * sum(s, over = singular) / size(singular)",
        "each matrix has its own: `sum(0 * s + 1, over = singular)`",
    ),
    "a metric of a turn": (
        "repeat turns:\n    metric n = norm(w, over = model)\n    w <- w - lr * w",
        "a metric is of the whole step, and this is of one turn of a loop",
    ),
    "a monitor of a turn": (
        "repeat turns:\n    monitor gradient_norm() as size\n    step lr",
        "odd.opt:3:9: error[E318]: a metric is of the whole step",
    ),
    "a veto of a turn": (
        "repeat turns:\n    veto when norm(w, over = model) > 1\n    w <- w - lr * w",
        "`veto` is of the whole step, and this is of one turn of a loop",
    ),
    "what evaluation holds of a turn": (
        "repeat turns:\n    w <- w - lr * w\n    eval w / 2",
        "`eval` is of the whole step, and this is of one turn of a loop",
    ),
    "an axis without end": ("w <- normal(w, probes(inf))[0]", "an axis has 1 to 1048576 places"),
    "a loop without end": ("repeat inf:\n    w <- w - lr", "a loop turns 0 to 1000000 times"),
    "a loop of each tensor's own length": (
        "repeat ndim:\n    w <- w - lr",
        "the host must know how often a loop turns at most, the same for all tensors",
    ),
    "a period of no steps": ("every 0:\n    w <- w - lr", "a period is a whole number of steps"),
    "a period of two and a half": ("every 2.5:\n    w <- w - lr", "a period is a whole number"),
    "a period of a rate": (
        "every lr:\n    w <- w / 2\nstep lr",
        "odd.opt:2:11: error[E309]: `lr` counts something here: it must be an integer",
    ),
    "a write behind an axis": (
        "state s: element[window(2)] = 0\ns[2] <- w\nstep lr",
        "odd.opt:3:7: error[E303]: the places of `window` are 0 to 1, and this is 2",
    ),
    "a place before an axis": (
        "state s: element[window(2)] = 0\nw <- s[-1]",
        "the places of `window` are 0 to 1, and this is -1",
    ),
    "the shape at no number": ("w <- w * shape(lr)", "`shape` takes the number of a dimension"),
    "a quantile beyond all": (
        "w <- w - quantile(w, 1.5, over = model)",
        "a quantile is of a share from 0 to 1, not 1.5",
    ),
    "less than none": ("w <- top(w, over = model, k = -1)", "how many cells, 1 at least, not -1"),
    "back by no snapshot": (
        "restore 0 when call > 2\nstep lr",
        "`restore` goes back a whole number of snapshots",
    ),
    "the matrix of a number": ("w <- back(matrix(lr))", "a matrix is made of the cells of tensors"),
    "a number flattened": ("w <- back(flat(lr))", "`flat` takes the cells of tensors"),
    "back from a number": ("w <- back(lr)", "`back` takes a matrix of each tensor"),
    "an axis drawn for twice": (
        """
        J = grad(w + normal(w, probes(2)))
        w <- w - lr * mean(normal(J, probes(2)), over = probes)""",
        "the value has the axis `probes(2)` already",
    ),
    "the Hessian of the mean of a loss with an axis": (
        """
        loss residual: model[residuals]
        w <- w - lr * hvp(p -> mean(residual(p), over = residuals), w, grad(w))""",
        "a loss with an axis has no second derivative here",
    ),
    **{
        f"{operation} of {axes}": (
            f"x = {operation}({m}{more})\nstep lr",
            f"E311]: `{operation}` takes a square matrix, and the last two axes of tensor[{axes}]",
        )
        for operation, more in (
            ("eigh", ""),
            ("solve", ", matrix(grad(w))"),
            ("inverse", ""),
            ("cholesky", ""),
            ("sqrtm", ""),
        )
        for m, axes in (("transpose(matrix(w))", "cols, rows"), ("wide(w)", "short, long"))
    },
    "the eigenvalues of three by four": (
        "z = normal(w, probes(3))\nx = eigh(dot(z, normal(w, samples(4)), over = model))\nstep lr",
        "and the last two axes of model[probes(3), samples(4)] differ",
    ),
    "a matrix whose axes are not the last": (
        """
        z = normal(w, probes(2))
        K = loss(w, on = each(batch)) * dot(z, z', over = model)
        w <- w - lr * sum(inverse(where(eye(probes) > 0, 1, K)), over = (probes, probes'))[0]""",
        "these are `probes(2)'` and `examples`",
    ),
    "a matrix of a tensor whose axes are not the last": (
        "z = normal(norm(w, over = tensor), probes(2))\n"
        "w <- w - lr * sum(back(polar(matrix(w) * z)), over = probes)",
        "these are `cols` and `probes(2)`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    body, message = REFUSED[name]
    with pytest.raises(CompileError) as found:
        graph(body)
    assert message in str(found.value)


SHRUNK = """function shrunk(x; turns: count):
    var a = x
    repeat {}:
        a <- 0.9 * a + sin(a)
    return sum(a^2, over = model)

rule r(lr = 0.1):
    w <- w - lr * grad(p -> shrunk(p, turns = 3), w)
"""


def test_a_derivative_through_a_loop_names_both_lines_and_what_has_one() -> None:
    with pytest.raises(CompileError) as found:
        driver.graph(Source("odd.opt", SHRUNK.format("40")), NoLibrary())
    (wrong,) = found.value.diagnostics
    assert (wrong.code, wrong.span.row) == ("E307", 3) and "line 8 asks for it" in wrong.message
    assert "`repeat 8:` is written out, up to 32 turns" in wrong.help
    driver.graph(Source("odd.opt", SHRUNK.format("32")), NoLibrary())


def test_axes_that_may_have_one_size_make_a_square() -> None:
    """What one option or the loop says of both is known to the run alone."""
    graph(
        """
        z = normal(w, probes(turns))
        y = normal(w, samples(turns))
        K = dot(z, y, over = model)
        values, vectors = eigh(K)
        other = inverse(dot(normal(w, a(3)), normal(w, b(3)), over = model))
        step lr * sum(values, over = probes) * sum(other, over = (a, b))"""
    )


def test_what_is_suggested_for_an_end_of_each_group_is_understood() -> None:
    graph("repeat 8 until all(norm(w, over = group) < 1, over = model):\n    w <- w / 2")
    graph("repeat 50:\n    w <- where(norm(w, over = group) < 1, w, w / 2)")
