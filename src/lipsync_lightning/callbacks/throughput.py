"""What a run costs: its speed, how long it waits for data, how much it computes, how much memory it has needed."""

import resource
import sys
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops

from lipsync_lightning.metering import CountingOperations

_KIB, _GIB, _TERA = 1024, 1024**3, 1e12
_COMPUTED_IN = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


class ThroughputLog(Callback):
    """Logs `vitals/...` every few batches. Lightning's ThroughputMonitor knows no waiting and counts no operations.

    - `windows_per_second`: of all ranks, waiting included, without validation and checkpoints.
    - `data_wait_share`: of that time, the share in which the device had nothing to do until the next batch was there.
    - `peak_memory_gib`: of the GPU, or without one of the process.
    - `tflops_per_step`: of one rank, counted in the first batch, which is not timed: matrix products, convolutions and
      attention, forward and backward, frozen networks included; what checkpointing computes twice counts twice.
    - `mfu`: the share of the device's peak that this makes, where the peak is known.
    """

    def __init__(self, *, every_num_batches: int, peak_tflops: float | None) -> None:
        """Args: peak_tflops: 10^12 operations a second of one device at the run's precision; None: ask Lightning."""
        self.every_num_batches = every_num_batches
        self.peak_tflops = peak_tflops
        self.counter: CountingOperations | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dtype = _COMPUTED_IN.get(str(trainer.precision).split("-")[0])
        known = get_available_flops(trainer.strategy.root_device, dtype) if dtype else None
        self.peak_flops = known if self.peak_tflops is None else self.peak_tflops * _TERA
        self.flops_per_batch: int | None = None  # until the first batch has been counted
        self.ended: float | None = None  # when the batch before did, if nothing but waiting for data followed
        self.computing: torch.cuda.Event | None = None  # what marks the end of the batch before on a GPU
        self.seconds = self.waited = 0.0
        self.windows = self.batches = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = perf_counter()
        if self.ended is not None:
            self.seconds += self.started - self.ended
            if self.computing is None or self.computing.query():  # it has done all it was given
                self.waited += self.started - self.ended
        if self.flops_per_batch is None:
            self.counter = CountingOperations()
            self.counter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due = self.batches + 1 == self.every_num_batches
        if torch.cuda.is_available():
            self.computing = torch.cuda.Event()
            self.computing.record()
            if is_due or self.counter is not None:
                self.computing.synchronize()  # or the time would be that of asking for the work, not of doing it
        self.ended = perf_counter()
        if self.counter is not None:
            self._stop_counting()
            return
        self.seconds += self.ended - self.started
        self.windows += len(batch["id"]) * trainer.world_size
        self.batches += 1
        if is_due:
            self._log(trainer, pl_module)
            self.seconds = self.waited = 0.0
            self.windows = self.batches = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.ended = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops_per_batch, self.counter = self.counter.flops, None

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("vitals/windows_per_second", self.windows / self.seconds)
        pl_module.log("vitals/data_wait_share", self.waited / self.seconds)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
        peak_memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident
        pl_module.log("vitals/peak_memory_gib", peak_memory / _GIB)
        if self.flops_per_batch:  # a closed-form fit multiplies nothing
            pl_module.log("vitals/tflops_per_step", self.flops_per_batch * trainer.accumulate_grad_batches / _TERA)
            if self.peak_flops is not None:
                pl_module.log("vitals/mfu", self.flops_per_batch * self.batches / self.seconds / self.peak_flops)
