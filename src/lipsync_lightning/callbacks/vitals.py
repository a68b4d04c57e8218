"""What a run costs: how fast it goes, how long it waits for data, how much it computes, how much memory it has needed."""

import resource
import sys
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_KIB = 1024
_GIB = 1024**3
_TERA = 1e12
_COMPUTED_IN = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}


class CountingOperations(TorchDispatchMode):
    """Adds up, by PyTorch's formulas, the multiplications and additions of what is computed inside: `flops`.

    PyTorch's own FlopCounterMode takes some operations apart, such as the gradient of SiLU, and so changes the last bits of what it
    counts: a resumed run, which counts anew, would not end like one that was never stopped. This one changes nothing.
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


class Vitals(Callback):
    """Logs `vitals/windows_per_second` (all ranks), `vitals/data_wait_share`, `vitals/peak_memory_gib`, `vitals/tflops_per_step` and, where
    the device's peak is known, `vitals/mfu`, once every few batches.

    The share is the part of the time between two batches' ends in which a rank had nothing to compute because the next batch was not
    there; what is done to a batch that is (to the device, to floats) is computing. Validation and checkpoints count neither way. Memory is
    the GPU's, or without one the process's own.

    Operations are those of one rank, counted while the first batch is trained on, which therefore is not timed: multiplications and
    additions of matrix products, convolutions and attention, forward and backward, frozen networks among them, and what activation
    checkpointing computes twice counted twice. `vitals/mfu` is the share of the device's peak that this makes.
    """

    def __init__(self, *, every_num_batches: int, peak_tflops: float | None) -> None:
        """Args: peak_tflops: of one device, 10^12 operations a second at the run's precision; None for what Lightning knows of it."""
        self.every_num_batches = every_num_batches
        self.peak_tflops = peak_tflops
        self.counter: CountingOperations | None = None
        self._reset()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.flops_per_batch: int | None = None
        self.peak_flops = known_peak_flops(trainer) if self.peak_tflops is None else self.peak_tflops * _TERA
        self._reset()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.flops_per_batch is None:
            self.counter = CountingOperations().__enter__()
        self.started = arrival(trainer)
        if self.ended is not None:
            self.waited += max(0.0, self.started - self.ended)

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
            ended = self.ended
            self._reset()
            self.ended = ended

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ended = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.ended = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_counting()

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self.computed + self.waited
        pl_module.log("vitals/windows_per_second", self.windows / seconds)
        pl_module.log("vitals/data_wait_share", self.waited / seconds)
        pl_module.log("vitals/peak_memory_gib", peak_memory_gib())
        if self.flops_per_batch:  # a closed-form fit multiplies nothing
            pl_module.log("vitals/tflops_per_step", self.flops_per_batch * trainer.accumulate_grad_batches / _TERA)
            if self.peak_flops is not None:
                pl_module.log("vitals/mfu", self.flops_per_batch * self.batches / seconds / self.peak_flops)

    def _stop_counting(self) -> None:
        if self.counter is not None:
            self.counter.__exit__(None, None, None)
            self.flops_per_batch = self.counter.flops
            self.counter = None

    def _reset(self) -> None:
        self.started = perf_counter()
        self.ended: float | None = None
        self.waited = self.computed = 0.0
        self.windows = self.batches = 0


def arrival(trainer: Trainer) -> float:
    """Return when the batch that is about to be trained on was there; for batches that do not come from our datamodule, now."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    return getattr(data, "arrived_s", perf_counter())


def known_peak_flops(trainer: Trainer) -> float | None:
    """Return how many operations a second one device of a trainer could do at its precision, or None where Lightning does not know."""
    dtype = _COMPUTED_IN.get(str(trainer.precision).split("-")[0])
    device = trainer.strategy.root_device
    return None if dtype is None or device.type == "cpu" else get_available_flops(device, dtype)


def peak_memory_gib() -> float:
    """Return the most memory used so far: allocated on the GPU, else resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _GIB
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else _KIB) / _GIB
