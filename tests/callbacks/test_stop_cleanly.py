import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.stop_cleanly import SIGNALS, StopCleanly


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class AtStep(Callback):
    def __init__(self, step: int, *signals: signal.Signals) -> None:
        self.step, self.signals = step, signals

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


class Fails(Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        raise OSError("the disk is gone")


def trained(folder: Path, *callbacks: Callback) -> Trainer:
    trainer = Trainer(
        max_steps=6, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader([torch.ones(1, 1)] * 6, batch_size=None))  # pyright: ignore[reportArgumentType]
    return trainer


def handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in SIGNALS}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_step_a_signal_falls_in_is_finished_and_no_other_begun(tmp_path: Path, number: signal.Signals):
    stop = StopCleanly()
    assert trained(tmp_path, stop, AtStep(2, number)).global_step == 3
    assert stop.stopped_by == number


def test_without_a_signal_a_run_goes_to_its_end(tmp_path: Path):
    stop = StopCleanly()
    assert trained(tmp_path, stop).global_step == 6
    assert stop.stopped_by is None


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path):
    stop, before = StopCleanly(), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):  # Lightning's answer to KeyboardInterrupt
            trained(tmp_path, stop, AtStep(2, signal.SIGINT, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.stopped_by is None


def test_a_second_sigterm_is_no_reason_to_hurry(tmp_path: Path):
    stop = StopCleanly()
    assert trained(tmp_path, stop, AtStep(1, signal.SIGTERM, signal.SIGTERM)).global_step == 2


def test_another_rank_that_was_asked_stops_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stop = StopCleanly()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(trainer.strategy, "reduce_boolean_decision", lambda decision, all: not decision and not all)
    stop.on_train_batch_end(trainer, Line(), None, None, 0)
    assert trainer.should_stop
    assert stop.stopped_by == signal.SIGTERM


@pytest.mark.parametrize("others", [[], [AtStep(2, signal.SIGTERM)]])
def test_signals_mean_after_a_run_what_they_meant_before(tmp_path: Path, others: list[Callback]):
    before = handlers()
    for _ in range(2):
        trained(tmp_path, StopCleanly(), *others)
        assert handlers() == before


def test_signals_mean_after_a_run_that_broke_what_they_meant_before(tmp_path: Path):
    before = handlers()
    with pytest.raises(OSError, match="the disk is gone"):
        trained(tmp_path, StopCleanly(), Fails())
    assert handlers() == before


def test_the_same_callback_can_stop_a_second_run(tmp_path: Path):
    stop = StopCleanly()
    trained(tmp_path, stop, AtStep(2, signal.SIGTERM))
    assert trained(tmp_path, stop).global_step == 6
    assert stop.stopped_by is None
