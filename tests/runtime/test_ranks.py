"""Whole optimizers on two processes: DDP with SAM and its m-sharpness, FSDP2's parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import run

COMMON = r"""
    import sys, torch, torch.distributed as dist
    from torch import nn
    import optc

    rank, store = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    torch.manual_seed(0)
    X = torch.randn(8, 4, dtype=torch.float64)
    mine = X[4 * rank : 4 * rank + 4]
    ADAM = "    precondition adam()\n    step lr\n"
    SAM = "rule r(lr = 0.1):\n    perturb sam(rho = 0.05)\n" + ADAM
    CLIPPED = "rule r(lr = 0.1):\n    clip global_norm(max = 0.05)\n" + ADAM

    def build():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    calls = [0]

    def closure(opt, model, batch):
        def run():
            calls[0] += 1
            opt.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            return loss
        return run

    def alone(text, steps=3):
        model = build()
        opt = optc.loads(text)(model.named_parameters())
        for _ in range(steps):
            opt.step(closure(opt, model, X))
        return [p.detach() for p in model.parameters()]

    def equal_on_ranks(tensors):
        for t in tensors:
            both = [torch.empty_like(t) for _ in range(2)]
            dist.all_gather(both, t.contiguous())
            assert torch.equal(both[0], both[1])
"""

DDP = """
    from torch.nn.parallel import DistributedDataParallel

    def wrapped():
        return DistributedDataParallel(build())

    # gradients of single examples are not averaged with those of another rank
    model = wrapped()
    CUT = "rule r(lr = 0.1):\\n    J = grad(w, on = each(batch))\\n    n = norm(J, over = model)\\n"
    opt = optc.loads(CUT + "    w <- w - lr * mean(J / (1 + n), over = examples)\\n")(
        model.named_parameters()
    )
    opt.bind(model=model, objective=lambda b: model(b).square().mean())
    try:
        opt.step(batch=mine)
    except RuntimeError as e:
        assert "each example" in str(e)
    else:
        raise AssertionError("examples of two ranks were mixed")

    # a loss that the rule reads is that of all ranks, or they would go apart
    SEARCH = "rule r(lr = 0.5):\\n    g = grad(w)\\n    var a = 8 * lr\\n"
    SEARCH += "    repeat 6 until loss(w - a * g) < loss(w) - 0.5 * a * dot(g, g, over = model):\\n"
    SEARCH += "        a <- a / 2\\n    w <- w - a * loss(w) * g\\n"
    for way in ("closure", "bound"):
        model = wrapped()
        opt = optc.loads(SEARCH)(model.named_parameters())
        if way == "bound":
            opt.bind(model=model, objective=lambda b, m=model: m(b).square().mean())
        for _ in range(3):
            if way == "bound":
                opt.step(batch=mine)
            else:
                opt.step(closure(opt, model, mine))
        equal_on_ranks([p.detach() for p in model.parameters()])
        torch.testing.assert_close([p.detach() for p in model.parameters()], alone(SEARCH))

    # SAM by all gradients: the step of one process on the whole batch
    model = wrapped()
    opt = optc.loads(SAM)(model.named_parameters())
    for _ in range(3):
        opt.step(closure(opt, model, mine))
    found = [p.detach() for p in model.parameters()]
    torch.testing.assert_close(found, alone(SAM), rtol=1e-9, atol=1e-11)
    equal_on_ranks(found)

    # m-sharpness: each rank climbs by its own part, without an exchange
    model = wrapped()
    opt = optc.loads(SAM)(model.named_parameters())
    opt.bind(model=model, sync="perturbed")
    synced = []

    def exchange(state, bucket):
        synced.append(1)
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True)
        return work.get_future().then(lambda f: f.value()[0])

    model.register_comm_hook(None, exchange)
    calls[0] = 0
    opt.step(closure(opt, model, mine))
    assert len(synced) == 1 and calls[0] == 2
    counts = [torch.zeros(1) for _ in range(2)]
    dist.all_gather(counts, torch.tensor([float(calls[0])]))
    assert counts[0] == counts[1], "the same number of evaluations on each rank"
    found = [p.detach() for p in model.parameters()]
    equal_on_ranks(found)
    # by hand: the mean over parts of the gradient where that part climbed
    twin = build()
    params = list(twin.parameters())
    old = [p.detach().clone() for p in params]
    total = [torch.zeros_like(p) for p in params]
    for part in (X[:4], X[4:]):
        g = torch.autograd.grad(twin(part).square().mean(), params)
        n = torch.stack([x.norm() for x in g]).norm()
        with torch.no_grad():
            for p, x in zip(params, g):
                p += 0.05 * x / (n + 1e-12)
        g = torch.autograd.grad(twin(part).square().mean(), params)
        with torch.no_grad():
            for p, o, x, t in zip(params, old, g, total):
                p.copy_(o)
                t += x / 2
    ref = torch.optim.Adam(params, lr=0.1)
    for p, t in zip(params, total):
        p.grad = t
    ref.step()
    torch.testing.assert_close(found, [p.detach() for p in params], rtol=1e-6, atol=1e-9)
    dist.destroy_process_group()
"""

FSDP = r"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    NOISY = "rule r(lr = 0.1):\n    w <- w - lr * (grad(w) + 0.1 * normal(w))\n"
    TRUST = "rule r(lr = 0.1):\n    s = norm(w, over = tensor) + max(w^2, over = model)\n"
    TRUST += "    w <- w - lr * s * grad(w) * sqrt(rows)\n"
    for text in (SAM, CLIPPED, NOISY, TRUST):
        model = build()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        opt = optc.loads(text)(model.named_parameters())
        for _ in range(3):
            opt.step(closure(opt, model, mine))
        found = [p.detach().full_tensor() for p in model.parameters()]
        torch.testing.assert_close(found, alone(text), rtol=1e-9, atol=1e-11)
        p = next(model.parameters())
        for name, state in opt.state[p].items():
            assert name == "step" or state.shape == p.to_local().shape

    whole = "rule r(lr = 0.1):\n    for params where ndim == 2:\n"
    whole += "        x = matrix(grad(w))\n        w <- w - lr * back(x @ transpose(x) @ x)\n"
    opt = optc.loads(whole)(model.named_parameters())
    try:
        opt.step(closure(opt, model, mine))
    except RuntimeError as e:
        assert "sharded" in str(e)
    else:
        raise AssertionError("a product of a part")
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("script", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_processes(script: str, tmp_path: Path) -> None:
    run(COMMON + script, tmp_path / "store")
