"""When a run's state is written."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lipsync_lightning.modules.weights import CHECKPOINTS


class StepCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/step_<step>.ckpt` every N steps and when the run ends, for whatever reason, and keeps the newest."""

    def __init__(self, *, run_dir: str, every_num_steps: int, num_kept: int) -> None:
        super().__init__(
            dirpath=Path(run_dir) / CHECKPOINTS,
            filename="step_{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_num_steps,
            save_on_train_epoch_end=False,
            save_on_exception=True,
            monitor="step",
            mode="max",
            save_top_k=num_kept,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
