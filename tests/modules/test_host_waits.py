"""How often a training step reads a value of the device, for which the host would wait."""

from typing import Any

import pytest
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.ema import TrainedWeightsEMA
from lipsync_lightning.callbacks.progress import LossProgressBar
from lipsync_lightning.callbacks.seed_steps import SeedSteps
from lipsync_lightning.callbacks.skip_nonfinite import SkipNonfinite
from lipsync_lightning.callbacks.stop_on_signal import StopOnSignal
from lipsync_lightning.callbacks.throughput import ThroughputLog
from lipsync_lightning.modules.hooks import FusedAdamW
from small_training import fit

READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")


class Reads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket.__name__ in READS
        return func(*args, **(kwargs or {}))


class CountReads(Callback):
    """Counts from the start of one batch to the start of the next."""

    def __init__(self) -> None:
        self.of_steps: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.on_train_end()
        self.reads = Reads()
        self.reads.__enter__()

    def on_train_end(self, *_: Any) -> None:
        if hasattr(self, "reads"):
            self.reads.__exit__(None, None, None)
            self.of_steps.append(self.reads.count)
            del self.reads


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_only_the_steps_that_are_logged_read_from_the_device(stage, make_stage1, make_stage2, clip_batch):
    make: Any = {"stage1": make_stage1, "stage2": make_stage2}[stage]
    module = make(optimizer=FusedAdamW, audio_dropout=0.5)
    counted = CountReads()
    vitals = ThroughputLog(every_num_batches=4, peak_tflops=None)
    average = TrainedWeightsEMA(decay=0.9, update_every_n_steps=1)
    bar = LossProgressBar(refresh_rate=4)
    callbacks = [counted, bar, SeedSteps(seed=1), StopOnSignal(), SkipNonfinite(most_in_a_row=3), vitals, average]
    batches: Any = DataLoader([clip_batch] * 8, batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer = fit(module, batches, *callbacks, enable_progress_bar=True, gradient_clip_val=1.0, log_every_n_steps=4)
    assert bar.get_metrics(trainer, module)["train/loss"] == float(trainer.callback_metrics["train/loss"])
    # The first asks once whether the autoencoder is fitted.
    assert [reads > 0 for reads in counted.of_steps[1:]] == [False, False, True, False, False, False, True]
