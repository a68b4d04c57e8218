import os
import signal
from typing import Any

import pytest
from lightning import Callback, Trainer

from lipsync_lightning.callbacks.stop_on_signal import SIGNALS, StopOnSignal
from small_training import Line, factors, fit


class AtStep(Callback):
    def __init__(self, step: int, *signals: signal.Signals) -> None:
        self.step, self.signals = step, signals

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


def steps_of(*callbacks: Callback) -> int:
    return fit(Line(), factors(*[1.0] * 6), *callbacks).global_step


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_step_a_signal_falls_in_is_finished_and_no_other_begun(number: signal.Signals):
    stop, before = StopOnSignal(), handlers()
    assert steps_of(stop, AtStep(2, number)) == 3
    assert stop.stopped_by == number
    assert handlers() == before
    assert steps_of(stop) == 6, "the same callback can serve a second run"
    assert stop.stopped_by is None


def test_a_second_ctrl_c_interrupts_at_once():
    stop, before = StopOnSignal(), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):  # Lightning's answer to KeyboardInterrupt
            steps_of(stop, AtStep(2, signal.SIGINT, signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.stopped_by is None


def test_another_rank_that_was_asked_stops_this_one(monkeypatch: pytest.MonkeyPatch):
    stop, trainer = StopOnSignal(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    stop.ranks = "all"  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr("torch.distributed.all_reduce", lambda heard, *_, group: heard.fill_(1))
    stop.on_train_batch_end(trainer, Line(), None, None, 0)
    assert trainer.should_stop
    assert stop.stopped_by == signal.SIGTERM
