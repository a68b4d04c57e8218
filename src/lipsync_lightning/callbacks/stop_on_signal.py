"""Ctrl-C, SIGTERM and SIGUSR1 end a run after the step it is in, on all ranks after the same one."""

import signal
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(Callback):
    """Lets the running step end, so that the last checkpoint holds a whole step. A second Ctrl-C interrupts at once.

    Replaces Lightning's own handlers, which under SLURM would requeue the job in the middle of a step. When `fit` ends,
    Lightning restores the handlers from before.

    `stopped_by` is the signal that ended the run, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stopped_by: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.received = self.stopped_by = None
        # Ranks ask each other on the host: over NCCL every step would wait for the GPU.
        self.ranks = distributed.new_group(backend="gloo") if distributed.is_initialized() else None
        for number in SIGNALS:
            signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        heard = torch.tensor(self.received is not None, dtype=torch.int32)
        if self.ranks is not None:
            distributed.all_reduce(heard, distributed.ReduceOp.MAX, group=self.ranks)
        if heard.numpy():
            self.stopped_by = self.received or signal.SIGTERM  # another rank received it
            trainer.should_stop = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        print(f"{self.received.name}: stopping after this step", flush=True)
