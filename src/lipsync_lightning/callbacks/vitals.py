"""What a run costs: how fast it goes, how long it waits for data, how much memory it has needed."""

import resource
import sys
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

_KIB = 1024
_GIB = 1024**3


class Vitals(Callback):
    """Logs `vitals/windows_per_second` (all ranks), `vitals/data_wait_share` and `vitals/peak_memory_gib`, once every few batches.

    The share is the part of the time between two batches' ends in which a rank had nothing to compute because the next batch was not
    there; validation and checkpoints count neither way. Memory is the GPU's, or without one the process's own.
    """

    def __init__(self, *, every_num_batches: int) -> None:
        self.every_num_batches = every_num_batches
        self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = perf_counter()
        if self.ended is not None:
            self.waited += self.started - self.ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or the time would be that of asking for the work, not of doing it
        self.ended = perf_counter()
        self.computed += self.ended - self.started
        self.windows += len(batch["id"]) * trainer.world_size
        self.batches += 1
        if self.batches == self.every_num_batches:
            whole = self.computed + self.waited
            pl_module.log("vitals/windows_per_second", self.windows / whole)
            pl_module.log("vitals/data_wait_share", self.waited / whole)
            pl_module.log("vitals/peak_memory_gib", peak_memory_gib())
            ended = self.ended
            self._reset()
            self.ended = ended

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.ended = None

    def _reset(self) -> None:
        self.started = perf_counter()
        self.ended: float | None = None
        self.waited = self.computed = 0.0
        self.windows = self.batches = 0


def peak_memory_gib() -> float:
    """Return the most memory used so far: allocated on the GPU, else resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _GIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else _KIB) / _GIB
