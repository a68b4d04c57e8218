import time
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lipsync_lightning.callbacks import vitals
from lipsync_lightning.callbacks.vitals import CountingOperations, Vitals, known_peak_flops, peak_memory_gib
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import SyncNetSamples

BATCH, IN, OUT = 4, 3, 5
PRODUCT = 2 * BATCH * IN * OUT  # a multiplication and an addition for each


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


class Learner(LightningModule):
    """A layer whose multiplications can be counted by hand, behind dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(IN, OUT)
        self.dropout = nn.Dropout(0.5)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.dropout(self.layer(batch["x"])).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Checkpointed(Learner):
    """The same, computed twice, with a product in front that needs a gradient as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(IN, IN)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        squares = checkpoint(lambda hidden: self.layer(hidden).square(), self.first(batch["x"]), use_reentrant=False)
        return squares.mean()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


class Activated(Learner):
    """The same behind SiLU, whose gradient PyTorch's own counter computes in another way."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.silu(self.layer(batch["x"])).square().mean()


class Failing(Learner):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        raise OSError("the device is gone")


def fitted(
    module: LightningModule, batches: Any, peak_tflops: float | None = None, callbacks: int = 1, **changes: Any
) -> Trainer:
    trainer = Trainer(
        max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Vitals(every_num_batches=4, peak_tflops=peak_tflops) for _ in range(callbacks)], **changes,
    )  # fmt: skip
    trainer.fit(module, batches)
    return trainer


def logged(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def vitals_of(compute: float, read: float) -> dict[str, float]:
    return logged(fitted(Slow(compute), slow_batches(read)))


def batches_of_vectors(count: int):
    torch.manual_seed(3)
    vectors: Any = [{"x": torch.randn(BATCH, IN), "id": ["a"] * BATCH} for _ in range(count)]
    return DataLoader(vectors, batch_size=None, shuffle=False)


def test_a_reader_as_slow_as_the_computer_is_waited_for_half_of_the_time():
    share = vitals_of(compute=0.05, read=0.05)["vitals/data_wait_share"]
    assert 0.3 < share < 0.7


def test_a_reader_that_is_always_ready_is_hardly_waited_for():
    vitals = vitals_of(compute=0.05, read=0.0)
    assert vitals["vitals/data_wait_share"] < 0.3
    assert 5 < vitals["vitals/windows_per_second"] < 40


class SlowToConvert(ClipDataModule):
    """Has its batches at once, and makes numbers of them slowly."""

    def train_dataloader(self) -> Any:
        return slow_batches(0.0)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        time.sleep(0.05)
        return batch


def test_work_on_a_batch_that_is_there_is_not_waiting(tiny_clip):
    samples = SyncNetSamples(clip=tiny_clip, windows_per_clip=1, min_gap_frames=1)
    data = SlowToConvert(
        shards="none",
        clip=tiny_clip,
        samples=samples,
        batch_size=2,
        num_workers=0,
        seed=1,
        shuffle_buffer=1,
        max_bad_clips=0,
    )
    assert logged(fitted(Slow(0.01), data))["vitals/data_wait_share"] < 0.2


def test_memory_is_at_least_what_is_held_now():
    held = torch.ones(50_000_000)
    assert peak_memory_gib() > held.nbytes / 2**30


def test_operations_are_those_of_forward_and_backward_by_hand():
    tera = logged(fitted(Learner(), batches_of_vectors(9)))["vitals/tflops_per_step"]
    assert tera * 1e12 == pytest.approx(2 * PRODUCT)  # forward, and the weight's gradient: the input needs none


def test_what_checkpointing_computes_twice_counts_twice():
    tera = logged(fitted(Checkpointed(), batches_of_vectors(9)))["vitals/tflops_per_step"]
    assert tera * 1e12 == pytest.approx(4 * PRODUCT + 2 * 2 * BATCH * IN * IN)


def test_a_step_of_several_batches_has_the_operations_of_all():
    tera = logged(fitted(Learner(), batches_of_vectors(17), accumulate_grad_batches=2))["vitals/tflops_per_step"]
    assert tera * 1e12 == pytest.approx(4 * PRODUCT)


def test_the_share_of_the_peak_follows_from_speed_and_operations():
    found = logged(fitted(Learner(), batches_of_vectors(9), peak_tflops=1e-6))
    batches_per_second = found["vitals/windows_per_second"] / BATCH
    assert found["vitals/mfu"] == pytest.approx(2 * PRODUCT * batches_per_second / 1e6, rel=1e-4)


def test_no_share_is_logged_where_the_peak_is_unknown():
    assert "vitals/mfu" not in logged(fitted(Learner(), batches_of_vectors(9)))


def test_a_gpu_s_peak_is_asked_for_at_the_precision_of_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(vitals, "get_available_flops", lambda device, dtype: asked.append((device, dtype)) or 1e15)
    for precision, device in (
        ("bf16-mixed", "cuda:1"),
        ("32-true", "cuda:0"),
        ("transformer-engine", "cuda:0"),
        ("32-true", "cpu"),
    ):
        trainer: Any = type(
            "T", (), {"precision": precision, "strategy": type("S", (), {"root_device": torch.device(device)})}
        )()
        known_peak_flops(trainer)
    assert asked == [(torch.device("cuda:1"), torch.bfloat16), (torch.device("cuda:0"), torch.float32)]


@pytest.mark.parametrize("learner", [Learner, Checkpointed, Activated])
def test_counting_changes_neither_weights_nor_random_numbers_to_the_bit(learner):
    ends = []
    for num_callbacks in (0, 1):
        batches = batches_of_vectors(9)
        torch.manual_seed(5)
        module = learner()
        fitted(module, batches, callbacks=num_callbacks)
        ends.append((module.layer.weight, torch.get_rng_state()))
    assert all(torch.equal(without, counted) for without, counted in zip(*ends, strict=True))


def test_the_first_batch_is_counted_and_not_timed():
    class FirstIsSlow(Learner):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            time.sleep(0.5 if batch_idx == 0 else 0.01)
            return super().training_step(batch, batch_idx)

    module = FirstIsSlow()
    assert (
        logged(fitted(module, batches_of_vectors(5), limit_train_batches=5, max_epochs=1))["vitals/windows_per_second"]
        > 4 * BATCH / 0.5
    )


def test_a_first_batch_that_fails_leaves_no_counter_behind():
    with pytest.raises(OSError, match="gone"):
        fitted(Failing(), batches_of_vectors(1))
    assert not _get_current_dispatch_mode_stack()


def test_as_many_operations_are_counted_as_by_pytorch_s_own_counter():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 36, 4), nn.LayerNorm(4))
    attention = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    totals = []
    for counter in (CountingOperations(), FlopCounterMode(display=False)):
        with counter:
            network(torch.randn(2, 3, 8, 8)).sum().backward()
            attention(torch.randn(2, 5, 16)).sum().backward()
        totals.append(counter.flops if isinstance(counter, CountingOperations) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0
