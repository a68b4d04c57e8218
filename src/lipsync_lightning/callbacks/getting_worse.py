"""Says when a run gets no better, and ends it if it should."""

import warnings
from collections.abc import Mapping
from math import isnan
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lipsync_lightning.errors import BadConfig


class GettingWorse(Callback):
    """Warns, once for each time, when a figure has not been better than its best for `patience` validations.

    Lightning's EarlyStopping stops, and says nothing where it does not.
    """

    def __init__(self, *, watched: Mapping[str, str], patience: int, stops: bool) -> None:
        """Args:
        watched: `min` or `max` by the name of a figure; one that is not logged is passed over.
        stops: whether the run ends when one of them gets no better.
        Raises: BadConfig, for another word than `min` or `max`.
        """
        if not {*watched.values()} <= {"min", "max"}:
            raise BadConfig(f"callbacks.worse.watched={dict(watched)}: give min or max, whichever is better")
        self.watched, self.patience, self.stops = dict(watched), patience, stops
        self.best: dict[str, tuple[float, int]] = {}  # value and step
        self.waited = dict.fromkeys(self.watched, 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for name in self.watched.keys() & trainer.callback_metrics.keys():
            value, sign = float(trainer.callback_metrics[name]), 1 if self.watched[name] == "max" else -1
            if isnan(value):
                continue
            if name not in self.best or sign * value > sign * self.best[name][0]:
                self.best[name], self.waited[name] = (value, trainer.global_step), 0
                continue
            self.waited[name] += 1
            if self.waited[name] == self.patience:
                best, step = self.best[name]
                told = f"step {trainer.global_step}: {name} is {value:.4g} and has not been better than {best:.4g}, "
                told += f"of step {step}, for {self.patience} validations"
                warnings.warn(f"{told}{'; the run ends' if self.stops else ''}", stacklevel=2)
                trainer.should_stop |= self.stops

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = dict(state_dict["best"]), self.waited | dict(state_dict["waited"])
