import time

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from lipsync_lightning.callbacks.vitals import Vitals, peak_memory_gib


class Slow(LightningModule):
    """Computes for a set time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        time.sleep(self.seconds)
        return self.layer(batch["x"]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def slow_batches(seconds: float, count: int = 9):
    for _ in range(count):
        time.sleep(seconds)
        yield {"x": torch.ones(2, 1), "id": ["a", "b"]}


def vitals_of(compute: float, read: float) -> dict[str, float]:
    trainer = Trainer(
        max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Vitals(every_num_batches=4)],
    )  # fmt: skip
    trainer.fit(Slow(compute), slow_batches(read))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_reader_as_slow_as_the_computer_is_waited_for_half_of_the_time():
    share = vitals_of(compute=0.05, read=0.05)["vitals/data_wait_share"]
    assert 0.3 < share < 0.7


def test_a_reader_that_is_always_ready_is_hardly_waited_for():
    vitals = vitals_of(compute=0.05, read=0.0)
    assert vitals["vitals/data_wait_share"] < 0.3
    assert 5 < vitals["vitals/windows_per_second"] < 40


def test_memory_is_at_least_what_is_held_now():
    held = torch.ones(50_000_000)
    assert peak_memory_gib() > held.nbytes / 2**30
