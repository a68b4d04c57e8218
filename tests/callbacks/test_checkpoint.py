from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.checkpoint import StepCheckpoint
from lipsync_lightning.modules.weights import newest_checkpoint


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FailAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise OSError("the disk is gone")


def train(
    run_dir: Path, steps: int, *more: Callback, every: int = 3, kept: int = 2, ckpt_path: Path | None = None
) -> list[str]:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepCheckpoint(run_dir=str(run_dir), every_num_steps=every, num_kept=kept), *more],
    )
    trainer.fit(Line(), DataLoader(torch.ones(100, 1)), ckpt_path=ckpt_path, weights_only=True)
    return saved(run_dir)


def saved(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_the_newest_are_kept_and_the_others_deleted(tmp_path):
    assert train(tmp_path, steps=12) == ["step_00000009.ckpt", "step_00000012.ckpt"]


def test_the_last_step_is_written_even_between_two_dates(tmp_path):
    assert train(tmp_path, steps=8) == ["step_00000006.ckpt", "step_00000008.ckpt"]


def test_a_run_shorter_than_one_interval_leaves_a_checkpoint(tmp_path):
    assert train(tmp_path, steps=2) == ["step_00000002.ckpt"]


def test_a_run_that_fails_leaves_the_step_it_reached(tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        train(tmp_path, 12, FailAt(5))
    assert "step_00000005.ckpt" in saved(tmp_path)


def test_the_checkpoint_knows_its_step_and_a_resumed_run_goes_on_from_it(tmp_path):
    train(tmp_path, steps=4)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert torch.load(newest, weights_only=True)["global_step"] == 4
    assert train(tmp_path, steps=7, ckpt_path=newest)[-1] == "step_00000007.ckpt"


def test_a_run_that_was_resumed_often_keeps_no_more_than_one_that_was_not(tmp_path):
    train(tmp_path, 4)
    for steps in (8, 12):
        left = train(tmp_path, steps, ckpt_path=newest_checkpoint(tmp_path))
    assert len(left) == 2
    assert newest_checkpoint(tmp_path).name == "step_00000012.ckpt"
