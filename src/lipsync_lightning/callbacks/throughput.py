"""What a run costs: its speed, how long it waits for data, how much it computes, how much memory it has needed."""

import resource
import sys
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_KIB, _GIB, _TERA = 1024, 1024**3, 1e12
_COMPUTED_IN = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


class CountingOperations(TorchDispatchMode):
    """Adds up in `flops`, by PyTorch's formulas, the multiplications and additions of what is computed inside.

    PyTorch's own FlopCounterMode decomposes some operations, such as the gradient of SiLU, and so changes their last
    bits: a resumed run, which counts anew, would not end like one that was never stopped. This changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "_overloadpacket", func))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class ThroughputLog(Callback):
    """Logs `vitals/...` every few batches. Lightning's ThroughputMonitor knows no waiting and counts no operations.

    - `windows_per_second`: of all ranks, waiting included; validation and checkpoints are not.
    - `data_wait_share`: of that time, the share between the end of a batch and the start of the next.
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
        self.waited = self.computed = 0.0
        self.windows = self.batches = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = perf_counter()
        if self.ended is not None:
            self.waited += self.started - self.ended
        if self.flops_per_batch is None:
            self.counter = CountingOperations()
            self.counter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or the time would be that of asking for the work, not of doing it
        self.ended = perf_counter()
        if self.counter is not None:
            self._stop_counting()
            return
        self.computed += self.ended - self.started
        self.windows += len(batch["id"]) * trainer.world_size
        self.batches += 1
        if self.batches == self.every_num_batches:
            self._log(trainer, pl_module)
            self.waited = self.computed = 0.0
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
        seconds = self.computed + self.waited
        pl_module.log("vitals/windows_per_second", self.windows / seconds)
        pl_module.log("vitals/data_wait_share", self.waited / seconds)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
        peak_memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident
        pl_module.log("vitals/peak_memory_gib", peak_memory / _GIB)
        if self.flops_per_batch:  # a closed-form fit multiplies nothing
            pl_module.log("vitals/tflops_per_step", self.flops_per_batch * trainer.accumulate_grad_batches / _TERA)
            if self.peak_flops is not None:
                pl_module.log("vitals/mfu", self.flops_per_batch * self.batches / seconds / self.peak_flops)
