"""When a run's state is written, and how."""

import errno
import json
import os
import warnings
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lipsync_lightning.errors import BadConfig, NoSpace
from lipsync_lightning.files import whole_file, write_atomically
from lipsync_lightning.modules.weights import BEST, CHECKPOINTS, best_checkpoints

VERSION = "lipsync_lightning"  # in a checkpoint: the version that wrote it


def own_version() -> list[int]:
    return [int(part) for part in version("lipsync-lightning").split(".")[:3]]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once on the disk. Lightning's copies it in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises: NoSpace, having left former checkpoints as they are."""
        try:
            with whole_file(Path(path)) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (RuntimeError, OSError) as error:  # torch tells of its own archive, not of the disk
            causes = (error, error.__context__)
            if not any(isinstance(each, OSError) and each.errno == errno.ENOSPC for each in causes):
                raise
            way_out = "make room and go on with ckpt_path=last"
            raise NoSpace(f"{Path(path).parent} has no room for {Path(path).name}; {way_out}") from error


class StepCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/step_<step>.ckpt` every N steps and when the run ends, however it ends; keeps the newest.

    With `monitor` the best of all validations are kept beside them, as `best_<step>.ckpt`.
    """

    def __init__(
        self,
        *,
        run_dir: str,
        every_num_steps: int,
        num_kept: int,
        monitor: str | None = None,
        mode: str = "max",
        num_best: int = 1,
    ) -> None:
        """Args: monitor: name of a figure of validation. mode: `min` or `max`, what is better. Raises: BadConfig."""
        if mode not in ("min", "max"):
            raise BadConfig(f"callbacks.checkpoint.mode={mode}: give min or max, whichever is better")
        if every_num_steps != int(every_num_steps) or every_num_steps < 1 or num_kept < 1:
            told = f"checkpoint_every={every_num_steps} callbacks.checkpoint.num_kept={num_kept}"
            raise BadConfig(f"{told}: give whole numbers, 1 or more")
        self.watched, self.is_lower_better, self.num_best = monitor, mode == "min", num_best
        super().__init__(
            dirpath=Path(run_dir) / CHECKPOINTS,
            filename="step_{step:08d}",
            auto_insert_metric_name=False,
            every_n_train_steps=every_num_steps,
            save_on_train_epoch_end=True,  # else the last step of an epoch waits for a validation that may not come
            save_on_exception=True,
            monitor="step",
            mode="max",
            save_top_k=num_kept,
            enable_version_counter=False,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on from an earlier checkpoint leaves the later ones, or they would count as its newest."""
        super().on_train_start(trainer, pl_module)
        name = self.format_checkpoint_name({"step": torch.tensor(trainer.global_step)})
        later = [path for path in Path(str(self.dirpath)).glob("step_*.ckpt") if path.name > Path(name).name]
        if trainer.is_global_zero and later:
            for path in later:
                path.replace(path.with_suffix(".ckpt.later"))
            aside = f"{len(later)} later checkpoints are set aside as *.ckpt.later"
            warnings.warn(f"the run goes on from step {trainer.global_step}; {aside}", stacklevel=2)
        trainer.strategy.barrier("later checkpoints are set aside")
        self._count()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.watched is None or trainer.sanity_checking or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self.watched not in trainer.callback_metrics:
            there = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise BadConfig(f"callbacks.checkpoint.monitor={self.watched} is not logged; there are {there}")
        folder = Path(str(self.dirpath))
        values = best_checkpoints(folder.parent)
        name = f"best_{trainer.global_step:08d}.ckpt"
        values[name] = float(trainer.callback_metrics[self.watched])
        if isnan(values[name]):
            return
        ranked = sorted(values.items(), key=lambda item: item[1], reverse=not self.is_lower_better)
        kept = dict(ranked[: self.num_best])
        if name not in kept:
            return
        trainer.save_checkpoint(folder / name)
        if trainer.is_global_zero:
            write_atomically(folder / BEST, json.dumps(kept).encode())
            for former in values.keys() - kept.keys():
                (folder / former).unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1:  # the other ranks may not know of it, and saving would wait for them
            super().on_exception(trainer, pl_module, exception)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What is kept is what lies in the run's folder, wherever that was when it was written."""

    def _count(self) -> None:
        paths = sorted(Path(str(self.dirpath)).glob("step_*.ckpt"))
        self.best_k_models = {str(path): torch.tensor(float(path.stem.removeprefix("step_"))) for path in paths}
        if paths:
            self.best_model_path, self.kth_best_model_path = str(paths[-1]), str(paths[0])
            self.best_model_score, self.kth_value = (self.best_k_models[str(paths[end])] for end in (-1, 0))

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Lightning keeps the checkpoint a run resumed from for ever; here it is one of the newest or it goes."""
        return previous != current

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[VERSION] = own_version()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let Lightning count its batches from where the data go on, as if the last step before had just ended.

        Its own counts are of batches, which are others with another number of ranks, and after a run that ended within
        an epoch they would skip the rest of it.
        """
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not hasattr(data, "begun"):
            return  # data of another kind
        epoch, _, batches = data.begun
        fit_loop = checkpoint["loops"]["fit_loop"]
        step, total = checkpoint["global_step"], fit_loop["epoch_loop.batch_progress"]["total"]["processed"]
        if pl_module.automatic_optimization:
            total = step * trainer.accumulate_grad_batches

        def counts(number: int, completed: int) -> dict[str, int]:
            return {"ready": number, "started": number, "processed": number, "completed": completed}

        epochs = counts(epoch, epoch) | ({"ready": epoch + 1, "started": epoch + 1} if batches else {})
        fit_loop["epoch_progress"] = {"total": epochs, "current": dict(epochs)}
        fit_loop["epoch_loop.batch_progress"] = {
            "total": counts(total, total - 1),
            "current": counts(batches, batches - 1),
            "is_last_batch": False,
        }
        logged = step if pl_module.automatic_optimization else total
        restarts = batches > 0 or trainer.max_steps != -1  # then Lightning adds one
        fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = logged - restarts
