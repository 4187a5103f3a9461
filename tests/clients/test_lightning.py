"""Lightning's Trainer: its closure lets rules that look twice just work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import optc

lightning = pytest.importorskip("lightning", reason="lightning is not installed")

SAM = "rule r(lr = 0.1):\n    perturb sam(rho = 0.05)\n    smooth momentum(0.9)\n    step lr\n"
ADAM = "rule r(lr = 0.01):\n    precondition adam()\n    step lr\n"


class Fit(lightning.LightningModule):
    """Regression with a schedule."""

    def __init__(self, make: Any):
        super().__init__()
        torch.manual_seed(0)
        first = nn.Linear(4, 8, bias=False)
        self.net = nn.Sequential(first, nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.make, self.asked = make, 0

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.asked += 1
        return (self.net(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        opt = self.make(self.net.named_parameters())
        return [opt], [torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)]


def loader() -> Any:
    torch.manual_seed(1)
    x = torch.randn(32, 4)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).sin()), batch_size=8)


def trainer(folder: Path, epochs: int, **options: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def weights(module: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_adam_with_clipping_and_a_schedule_is_torchs(tmp_path: Path) -> None:
    ends = []
    for make in (lambda p: optc.loads(ADAM)(p), lambda p: torch.optim.Adam(p, lr=0.01)):
        module = Fit(make)
        run = trainer(tmp_path, 2, gradient_clip_val=0.5, enable_checkpointing=False)
        run.fit(module, loader())
        ends.append(weights(module))
        assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0025)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_sam_through_the_closure(tmp_path: Path) -> None:
    module = Fit(lambda p: optc.loads(SAM)(p))
    before = weights(module)
    trainer(tmp_path, 2, enable_checkpointing=False).fit(module, loader())
    assert module.asked == 2 * 2 * 4, "two evaluations a step"
    assert int(module.net[1].num_batches_tracked) == 2 * 4, "statistics once a step"
    by_hand = Fit(lambda p: optc.loads(SAM)(p)).net
    opt = optc.loads(SAM)(by_hand.named_parameters())
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    for _ in range(2):
        for x, y in loader():

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                opt.zero_grad()
                loss = (by_hand(x) - y).square().mean()
                loss.backward()
                return loss

            opt.step(closure)
        schedule.step()
    torch.testing.assert_close(weights(module.net), weights(by_hand), rtol=1e-5, atol=1e-6)
    assert not torch.equal(before[0], weights(module)[0])


def test_save_and_resume(tmp_path: Path) -> None:
    whole = Fit(lambda p: optc.loads(SAM)(p))
    trainer(tmp_path, 3, enable_checkpointing=False).fit(whole, loader())
    first = Fit(lambda p: optc.loads(SAM)(p))
    run = trainer(tmp_path, 1)
    run.fit(first, loader())
    run.save_checkpoint(tmp_path / "saved.ckpt")
    second = Fit(lambda p: optc.loads(SAM)(p))
    trainer(tmp_path, 3).fit(second, loader(), ckpt_path=tmp_path / "saved.ckpt")
    assert all(map(torch.equal, weights(whole), weights(second)))
