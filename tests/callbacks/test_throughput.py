import time
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.data import DataLoader

from lipsync_lightning.callbacks.throughput import ThroughputLog
from small_training import Line, fit

BATCH, IN, OUT = 4, 3, 5
PRODUCT = 2 * BATCH * IN * OUT  # a multiplication and an addition for each


class Learner(LightningModule):
    """A layer whose multiplications can be counted by hand, and SiLU, whose gradient PyTorch's own counter changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(IN, OUT)
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.dropout(nn.functional.silu(self.layer(batch["x"]))).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Failing(Learner):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        raise OSError("the device is gone")


class Slow(Line):
    """Computes for a while."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


def slow_batches(seconds: float):
    for _ in range(9):
        time.sleep(seconds)
        yield {"factor": torch.ones(()), "id": ["a", "b"]}


def vectors(count: int) -> DataLoader:
    torch.manual_seed(3)
    batches: Any = [{"x": torch.randn(BATCH, IN), "id": ["a"] * BATCH} for _ in range(count)]
    return DataLoader(batches, batch_size=None, shuffle=False)


def logged(module: LightningModule, batches: Any, peak_tflops: float | None = None, **changes: Any) -> dict[str, float]:
    callback = ThroughputLog(every_num_batches=4, peak_tflops=peak_tflops)
    trainer = fit(module, batches, callback, max_steps=8, **changes)
    return {name.removeprefix("vitals/"): float(value) for name, value in trainer.callback_metrics.items()}


def test_the_share_of_waiting_tells_a_slow_reader_from_one_that_is_always_ready():
    assert 0.3 < logged(Slow(), slow_batches(0.05))["data_wait_share"] < 0.7
    ready = logged(Slow(), slow_batches(0.0))
    assert ready["data_wait_share"] < 0.3
    assert 5 < ready["windows_per_second"] < 40


@pytest.mark.parametrize("accumulate", [1, 2])
def test_operations_of_a_step_and_their_share_of_the_peak_are_those_by_hand(accumulate: int):
    found = logged(Learner(), vectors(8 * accumulate + 1), peak_tflops=1e-6, accumulate_grad_batches=accumulate)
    # Of a batch: forward, and the weight's gradient; the input needs none.
    assert found["tflops_per_step"] * 1e12 == pytest.approx(accumulate * 2 * PRODUCT)
    assert found["mfu"] == pytest.approx(2 * PRODUCT * found["windows_per_second"] / BATCH / 1e6, rel=1e-4)
    assert "mfu" not in logged(Learner(), vectors(9))


def test_counting_changes_neither_weights_nor_random_numbers_to_the_bit():
    ends = []
    for callbacks in ([], [ThroughputLog(every_num_batches=4, peak_tflops=None)]):
        batches = vectors(9)
        torch.manual_seed(7)
        module = Learner()
        fit(module, batches, *callbacks)
        ends.append([module.layer.weight.detach().clone(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_run_that_breaks_in_its_first_batch_stops_counting():
    before = len(_get_current_dispatch_mode_stack())
    with pytest.raises(OSError, match="the device is gone"):
        logged(Failing(), vectors(2))
    assert len(_get_current_dispatch_mode_stack()) == before


def test_a_reader_that_breaks_before_the_first_batch_begins_is_told_as_it_is():
    def broken():
        yield {"x": torch.zeros(BATCH, IN), "id": ["a"] * BATCH}
        raise OSError("no shard")

    with pytest.raises(OSError, match="no shard"):
        logged(Learner(), broken())


def test_validation_and_checkpoints_are_no_waiting():
    callback = ThroughputLog(every_num_batches=2, peak_tflops=None)
    trainer: Any = type("T", (), {"precision": "32-true", "world_size": 1})()
    trainer.strategy = type("S", (), {"root_device": torch.device("cpu")})()
    callback.on_train_start(trainer, Learner())
    batch = {"id": ["a"]}
    for pause in (callback.on_validation_start, lambda *_: callback.on_save_checkpoint(trainer, Learner(), {})):
        callback.on_train_batch_start(trainer, Learner(), batch, 0)
        callback.on_train_batch_end(trainer, Learner(), None, batch, 0)
        pause(trainer, Learner())
        time.sleep(0.05)
    callback.on_train_batch_start(trainer, Learner(), batch, 0)
    assert callback.waited < 0.02


def test_what_is_compiled_in_the_batch_that_is_counted_is_compiled_in_the_next():
    compiled = []

    class Block(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, self.weight, self.bias)

    class Compiled(Learner):
        def setup(self, stage: str) -> None:
            self.layer = Block(IN, OUT)
            self.layer.compile(backend=lambda graph, _: compiled.append(1) or graph.forward)

    found = logged(Compiled(), vectors(9))
    assert compiled
    assert found["tflops_per_step"] * 1e12 == pytest.approx(2 * PRODUCT)
