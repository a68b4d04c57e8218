"""Ctrl-C, SIGTERM and SIGUSR1 end a run after the step it is in, on all ranks after the same one."""

import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopCleanly(Callback):
    """Lets the running step end, so that the last checkpoint holds a whole step. A second Ctrl-C interrupts at once.

    Takes the place of Lightning's own handlers, which under SLURM would requeue the job in the middle of a step. Lightning puts back all
    handlers from before `fit` when it ends; were it done here again, its own would stay installed, because `teardown` comes later.

    `stopped_by` is the signal that ended the run, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.stopped_by: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.asked = self.stopped_by = None
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            self.stopped_by = self.asked or signal.SIGTERM  # another rank was asked
            trainer.should_stop = True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        print(f"{self.asked.name}: stopping after this step", flush=True)
