"""A training of one number, for the tests of callbacks."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.modules.hooks import FusedAdamW


class Line(LightningModule):
    """A line that learns; `seen` holds its weight at the start of each step."""

    def __init__(self, *, fused: bool = False) -> None:
        super().__init__()
        self.optimizer_class = FusedAdamW if fused else torch.optim.AdamW
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen.append(float(self.layer.weight.detach()))
        return (self.layer(torch.ones(1, 1)) * batch["factor"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer_class(self.parameters(), lr=0.1)


def fit(
    module: LightningModule,
    batches: Any,
    *callbacks: Callback,
    val: DataLoader | None = None,
    ckpt_path: Path | None = None,
    **changes: Any,
) -> Trainer:
    """Train quietly on the CPU, one epoch if not told otherwise, and return the trainer."""
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **changes}
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **settings)
    trainer.fit(module, batches, val, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def factors(*values: float) -> DataLoader:
    """One batch for each factor of the loss, with an id."""
    batches: Any = [{"factor": torch.tensor(value), "id": [f"clip {n}"]} for n, value in enumerate(values)]
    return DataLoader(batches, batch_size=None, shuffle=False)


class FailAt(Callback):
    """Fails at the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise OSError("the disk is gone")
