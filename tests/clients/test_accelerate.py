"""accelerate drives an optc optimizer as any other: accumulation, clipping, checkpoints, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import optc

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

ADAMW = (
    "rule r(lr = 0.01):\n    precondition adam()\n"
    "    regularize decoupled_decay(0.01)\n    step lr\n"
)
AVERAGED = """
rule averaged(lr = 0.1, decay: unit = 0.9):
    state mean = w
    w <- w - lr * grad(w)
    mean <- decay * mean + (1 - decay) * w
    eval mean
"""


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loader() -> Any:
    torch.manual_seed(1)
    x = torch.randn(32, 4)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=4)


def prepared(make: Any, **options: Any) -> Any:
    accelerator = accelerate.Accelerator(cpu=True, **options)
    net = network()
    opt = make(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 1 / (1 + k))
    return accelerator, *accelerator.prepare(net, opt, loader(), schedule)


def train(accelerator: Any, net: Any, opt: Any, batches: Any, schedule: Any) -> list[torch.Tensor]:
    for x, y in batches:
        with accelerator.accumulate(net):
            loss = (net(x) - y).square().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            schedule.step()
            opt.zero_grad()
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_it_trains_as_torchs_does(precision: str) -> None:
    ends = []
    for make in (
        lambda net: optc.loads(ADAMW)(net.parameters()),
        lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.01),
    ):
        parts = prepared(make, gradient_accumulation_steps=2, mixed_precision=precision)
        ends.append(train(*parts))
        accelerate.state.AcceleratorState._reset_state(True)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_save_and_resume(tmp_path: Path) -> None:
    first = prepared(lambda net: optc.loads(ADAMW)(net.parameters()))
    train(*first)
    first[0].save_state(str(tmp_path))
    expected = train(*first)
    accelerate.state.AcceleratorState._reset_state(True)
    second = prepared(lambda net: optc.loads(ADAMW)(net.parameters()))
    second[0].load_state(str(tmp_path))
    found = train(*second)
    assert all(map(torch.equal, found, expected))
    assert second[2].param_groups[0]["lr"] == first[2].param_groups[0]["lr"]


def test_train_and_eval_are_forwarded() -> None:
    accelerator, net, opt, batches, schedule = prepared(
        lambda net: optc.loads(AVERAGED)(net.parameters())
    )
    held = train(accelerator, net, opt, batches, schedule)
    inner = opt.optimizer
    opt.eval()
    swapped = [p.detach().clone() for p in net.parameters()]
    means = [inner.state[p]["mean"] for p in net.parameters()]
    assert all(map(torch.equal, swapped, means)) and not torch.equal(swapped[0], held[0])
    opt.train()
    assert all(map(torch.equal, held, net.parameters()))
