"""Closures and bound objectives of two ranks: gradients are those of one with the whole batch."""

from __future__ import annotations

from pathlib import Path

from .processes import run

RANKS = """
    import sys, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel as DDP
    from optc.runtime.closure import Closure
    from optc.runtime.loop import Question
    from optc.runtime.objective import Objective

    rank, store = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    X, HELD = torch.randn(8, 4, dtype=torch.float64), {"w": None}
    x = X[4 * rank : 4 * rank + 4]

    def build():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    whole = build()
    loss = lambda model: (lambda batch: model(batch).square().mean())

    def closure_of(model, batch):
        def closure():
            model.zero_grad()
            found = model(batch).square().mean()
            found.backward()
            return found
        return closure

    def ask(loop, point=HELD, batch=None):
        return loop.evaluate(Question("loss", point, batch, True, ("w",)))[1]["w"]

    there = {"w": [p + 0.1 for p in whole.parameters()]}
    local = Closure({"w": list(whole.parameters())}, closure_of(whole, x))
    mine = ask(local)
    full = Closure({"w": list(whole.parameters())}, closure_of(whole, X))
    g0, g1 = ask(full), ask(full, there)
    check = torch.testing.assert_close
    for views in (False, True):
        with torch.enable_grad():
            model = DDP(build(), gradient_as_bucket_view=views)
        params = {"w": list(model.parameters())}
        loop = Closure(params, closure_of(model, x))
        first = ask(loop); second = ask(loop, there)
        check(first, g0); check(second, g1)
        loop.finish()
        check([p.grad for p in params["w"]], g0)
        loop = Closure(params, closure_of(model, x), sync="perturbed")
        first = ask(loop); second = ask(loop, there)
        check(first, mine); check(second, g1)
        loop.finish()
        ask(loop)
        try:
            loop.finish()
        except RuntimeError as e:
            assert "perturbed" in str(e)
        else:
            raise AssertionError("a gradient that no rank exchanged")
        bound = Objective(params, model, loss(model))
        plain = Objective({"w": list(whole.parameters())}, whole, loss(whole))
        check(ask(bound, HELD, x), g0); check(ask(bound, there, x), g1)
        v = [torch.ones_like(p) for p in params["w"]]
        for name in ("hvp", "jvp", "vjp"):
            more = {"hvp": ("w", "w", v), "jvp": ("w", v), "vjp": ("w", torch.tensor(2.0))}[name]
            expected = getattr(plain, name)("loss", HELD, X, *more)
            check(getattr(bound, name)("loss", HELD, x, *more), expected)
        bound.finish()
        check(ask(Closure(params, closure_of(model, x))), g0)  # DDP itself goes on

    with torch.enable_grad():
        model = build()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    params = {"w": list(model.parameters())}
    whole_of = lambda tensors: [t.full_tensor() for t in tensors]
    before = [p.detach().to_local().clone() for p in params["w"]]
    shards = {"w": [p + 0.1 for p in before]}
    loop = Closure(params, closure_of(model, x))
    first = ask(loop); second = ask(loop, shards)
    check(whole_of(first), g0); check(whole_of(second), g1)
    loop.finish()
    check(whole_of([p.grad for p in params["w"]]), g0)
    bound = Objective(params, model, loss(model))
    check(whole_of(ask(bound, shards, x)), g1)
    check([p.detach().to_local() for p in params["w"]], before, rtol=0, atol=0)
    try:
        bound.hvp("loss", HELD, x, "w", "w", shards["w"])
    except RuntimeError as e:
        assert "no other derivatives" in str(e)
    dist.destroy_process_group()
"""


def test_two_ranks(tmp_path: Path) -> None:
    run(RANKS, tmp_path / "store")
