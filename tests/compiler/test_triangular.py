"""What is solved with a matrix that is written as triangular goes by substitution."""

from __future__ import annotations

import pytest
import torch

import optc
from optc.compiler import matrices
from optc.compiler.program import Compute
from optc.runtime.functional import Step

RULE = """rule r(lr = 1.0):
    m = matrix(grad(w))
    a = m @ transpose(m) + eye(rows)
    v = sum(m, over = cols)
    w <- -lr * back({})
"""
SOLVED = {
    "solve(upper(a), m)": lambda a, m: torch.linalg.solve(a.triu(), m),
    "solve(transpose(upper(a)), m)": lambda a, m: torch.linalg.solve(a.triu().mT, m),
    "m * solve(upper(a), v)": lambda a, m: m * torch.linalg.solve(a.triu(), m.sum(1))[:, None],
    "m * solve(transpose(upper(a)), v)": lambda a, m: (
        m * torch.linalg.solve(a.triu().mT, m.sum(1))[:, None]
    ),
}


@pytest.mark.parametrize("shapes", [[(3, 4)], [(3, 4)] * 3], ids=["one", "a stack"])
@pytest.mark.parametrize("solved", SOLVED)
def test_it_is_the_solution(solved: str, shapes: list[tuple[int, int]]) -> None:
    make = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=make, dtype=p.dtype)
    opt = optc.loads(RULE.format(solved))(params)
    phases = [p for p in opt.program.plan(()).phases if isinstance(p, Compute)]
    called = {n.target for p in phases if p.mode == "torch" for n in p.module.graph.nodes}
    assert matrices.solve_triangular in called and matrices.solve not in called
    opt.step()
    for p in params:
        m = p.grad
        wanted = SOLVED[solved](m @ m.mT + torch.eye(3, dtype=p.dtype), m)
        torch.testing.assert_close(-p.detach(), wanted, rtol=1e-12, atol=1e-12)


def test_it_may_be_differentiated_and_mapped() -> None:
    step = Step(optc.loads(RULE.format("solve(upper(a), m)")).program)
    w = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    state = step.init(w)

    def after(s: torch.Tensor) -> torch.Tensor:
        return (step(w, state, gradient=s * w)[0] ** 2).sum()

    points = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    one = torch.func.grad(after)
    wanted = torch.stack([one(s) for s in points])
    torch.testing.assert_close(torch.func.vmap(one)(points), wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        torch.func.vmap(lambda x: matrices.solve_triangular(0 * x, x, False, True))(
            w.expand(3, 2, 2)
        )
