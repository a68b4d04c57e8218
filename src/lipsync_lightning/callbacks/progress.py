"""A progress bar that waits for the device only when it redraws."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class LossProgressBar(TQDMProgressBar):
    """Lightning's bar with the training loss, read when the bar redraws: `prog_bar=True` would read it every step."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        loss = trainer.callback_metrics.get("train/loss")
        return shown if loss is None else {**shown, "train/loss": float(loss)}
