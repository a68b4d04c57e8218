"""Lightning's arguments mean of these data what its documentation says, and a resumed run reads what was not read."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from lipsync_lightning.callbacks.checkpoint import StepCheckpoint
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.modules.weights import newest_checkpoint
from tiny_shards import data_of, write_shards

NUM_CLIPS = 11
BATCHES = NUM_CLIPS // 2


class Notes(LightningModule):
    """Notes what it is trained on, by epoch, and when it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.read: dict[int, list[str]] = {}
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.read.setdefault(self.current_epoch, []).extend(batch["id"])
        return self.weight * batch["value"].float().sum()

    def on_validation_start(self) -> None:
        self.validated.append(self.global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "heldout shards", [[1] * 6])
    folder = write_shards(tmp_path / "shards", [[1] * 4, [1] * 4, [1] * 3])
    (tmp_path / "heldout shards" / "train").rename(folder / "heldout")
    return folder


def fitted(data: ClipDataModule, run: Path | None = None, **settings: Any) -> Notes:
    callbacks: Any = [StepCheckpoint(run_dir=str(run), every_num_steps=2, num_kept=99)] if run else []
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    module = Notes()
    trainer = Trainer(
        **{"accelerator": "cpu", "num_sanity_val_steps": 0, "max_epochs": -1, **settings, **quiet},
        callbacks=callbacks,
        enable_checkpointing=bool(run),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data, ckpt_path=newest_checkpoint(run) if run else None, weights_only=True)
    return module


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_is_a_pass_in_whole_steps_and_max_epochs_ends_the_run(shards: Path, num_workers: int):
    read = fitted(data_of(shards, num_workers=num_workers), max_epochs=3).read
    assert [len(set(keys)) for keys in read.values()] == [len(keys) for keys in read.values()] == [2 * BATCHES] * 3
    assert len({tuple(keys) for keys in read.values()}) == 3
    assert list(read) == [0, 1, 2]


def test_steps_accumulate_within_an_epoch_only(shards: Path):
    read = fitted(data_of(shards), max_epochs=2, accumulate_grad_batches=2).read
    assert [len(set(keys)) for keys in read.values()] == [8, 8]


@pytest.mark.parametrize(("limit", "batches"), [(2, 2), (0.5, 2), (99, BATCHES), (1.0, BATCHES)])
def test_a_limited_epoch_is_a_part_of_a_pass_and_the_next_one_another(shards: Path, limit: float, batches: int):
    read = fitted(data_of(shards), max_steps=3 * batches, limit_train_batches=limit).read
    assert [len(keys) for keys in read.values()] == [2 * batches] * 3
    assert len({tuple(keys) for keys in read.values()}) == 3


@pytest.mark.parametrize("part", [2, 0.4])
def test_overfitting_reads_the_same_batches_again_and_again(shards: Path, part: float):
    read = fitted(data_of(shards), max_epochs=3, overfit_batches=part).read
    assert [len(keys) for keys in read.values()] == [4] * 3
    assert len({tuple(keys) for keys in read.values()}) == 1


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6, 9]),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": 1}, [2, 4, 7, 9]),
        ({"check_val_every_n_epoch": 2}, [10]),
    ],
)
def test_validation_comes_when_lightning_says(shards: Path, settings: dict[str, Any], after: list[int]):
    assert fitted(data_of(shards), max_epochs=2, **settings).validated == after


@pytest.mark.parametrize("stop", range(1, 12))
@pytest.mark.parametrize("settings", [{"max_epochs": 3}, {"max_steps": 13}, {"max_steps": 7, "limit_train_batches": 3}])
def test_a_resumed_run_reads_the_rest_epoch_by_epoch(shards: Path, tmp_path: Path, stop: int, settings: dict[str, Any]):
    straight = fitted(data_of(shards), **settings).read
    steps = sum(len(keys) for keys in straight.values()) // 2
    if stop >= steps:
        pytest.skip("that run is shorter")
    limits = {key: value for key, value in settings.items() if key == "limit_train_batches"}
    first = fitted(data_of(shards), tmp_path, max_steps=stop, **limits).read
    second = fitted(data_of(shards), tmp_path, **settings).read
    together = {epoch: first.get(epoch, []) + second.get(epoch, []) for epoch in (first | second)}
    assert together == straight


def test_fewer_windows_than_a_step_are_refused(shards: Path):
    with pytest.raises(BadConfig, match=r"a step takes 1 times data\.batch_size=12 windows .* has 11 in all; give"):
        fitted(data_of(shards, batch_size=12), max_steps=1)


def test_fewer_windows_than_a_batch_are_refused_without_a_trainer_too(shards: Path):
    with pytest.raises(BadConfig, match=r"a step takes 1 times data\.batch_size=12 windows"):
        data_of(shards, batch_size=12).train_dataloader()


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"num_workers": -1}])
def test_sizes_that_mean_nothing_are_refused(shards: Path, wrong: dict[str, int]):
    with pytest.raises(BadConfig, match="give 1 or more windows, and 0 or more workers"):
        data_of(shards, **wrong)
