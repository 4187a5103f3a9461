"""transformers' Trainer on a tiny GPT-2 from a config: schedule, clipping, resuming, averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import optc

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

ADAM = "rule r(lr = 0.01):\n    precondition adam()\n    step lr\n"
AVERAGED = """
rule averaged(lr = 0.1, decay: unit = 0.5):
    state mean = w
    w <- w - lr * grad(w)
    mean <- decay * mean + (1 - decay) * w
    eval mean
"""


class Texts(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Counting, modulo the vocabulary."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(12) + i) % 32
        return {"input_ids": ids, "labels": ids}


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def trainer(folder: Path, make: Any, steps: int = 4, **options: Any) -> Any:
    net = model()
    opt = make(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda k: 1 / (1 + k))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        max_grad_norm=0.5,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        seed=3,
        **options,
    )
    return transformers.Trainer(net, arguments, train_dataset=Texts(), optimizers=(opt, schedule))


def weights(run: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in run.model.parameters()]


def test_it_trains_as_torchs_does(tmp_path: Path) -> None:
    ends = []
    for make in (
        lambda net: optc.loads(ADAM)(net.named_parameters()),
        lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
    ):
        run = trainer(tmp_path, make, gradient_accumulation_steps=2)
        run.train()
        ends.append(weights(run))
        logged = [x for x in run.state.log_history if "loss" in x]
        assert logged[-1]["loss"] < logged[0]["loss"] and logged[1]["learning_rate"] == 0.01 / 2
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-5)


def test_save_and_resume(tmp_path: Path) -> None:
    def make(net: Any) -> Any:
        return optc.loads(ADAM)(net.named_parameters())

    whole = trainer(tmp_path / "whole", make, steps=4)
    whole.train()
    saving = {"save_steps": 2}
    first = trainer(tmp_path / "parts", make, steps=4, **saving)
    first.args.save_strategy = transformers.trainer_utils.SaveStrategy.STEPS
    first.train()
    second = trainer(tmp_path / "parts", make, steps=4)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert all(map(torch.equal, weights(whole), weights(second)))
    assert second.optimizer.optimizer.param_groups[0]["steps"] == 4


def test_averages_are_evaluated_and_training_goes_on_from_where_it_was(tmp_path: Path) -> None:
    run = trainer(tmp_path, lambda net: optc.loads(AVERAGED)(net.named_parameters()))
    run.train()
    inner = run.optimizer.optimizer
    held, means = weights(run), [inner.state[p]["mean"] for p in run.model.parameters()]
    seen = []
    run.model.register_forward_pre_hook(lambda *_: seen.append(weights(run)))
    run.evaluate(Texts())
    assert seen and all(map(torch.equal, seen[0], means))
    assert not torch.equal(seen[0][0], held[0])
    run.optimizer.train()
    assert all(map(torch.equal, held, weights(run)))
