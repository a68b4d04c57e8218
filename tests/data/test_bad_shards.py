"""Bad shards and clips in whole data sets: left out or stood in for, counted, and never silently another stream."""

import shutil
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lipsync_lightning.data import sets
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.shards.format import FinishedClip, sidecar_path, write_shard
from lipsync_lightning.shards.reader import RemoteAccess
from tiny_shards import CLIP, Ids, break_clip, data_of, shard_path, trainer_of, write_shards

EPOCH = 12


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", [[1] * 4] * 3)


def keys_of_a_pass(data: ClipDataModule, num_clips: int) -> list[str]:
    return [key for batch in islice(data.train_dataloader(), num_clips // 2) for key in batch["id"]]


def truncate(shards: Path, number: int) -> None:
    shard_path(shards, number).write_bytes(shard_path(shards, number).read_bytes()[:-512])


def test_a_bad_shard_stops_before_work_begins_or_is_left_out_with_one_warning(shards: Path):
    truncate(shards, 1)
    with pytest.raises(BrokenShard, match=r"000001.*\(1 bad shards, data\.max_bad_shards allows 0\)"):
        data_of(shards).require_shards("train")
    data = data_of(shards, max_bad_shards=1)
    data.require_shards("train")
    with pytest.warns(UserWarning, match=r"left out, truncated: train/000001\.tar: ") as told:
        keys = keys_of_a_pass(data, 8)
    assert len(told) == 1
    assert sorted(keys) == [f"d/{number}_{clip}" for number in (0, 2) for clip in range(4)]
    for number in (0, 2):
        truncate(shards, number)
    with pytest.raises(BrokenShard, match=r"000000\.tar has"):
        data_of(shards, max_bad_shards=9).require_shards("train")
    with pytest.raises(MissingShards, match="holds no heldout clips; the ledger there tells why"):
        data_of(shards).require_shards("heldout")


Found = tuple[dict[str, str], dict[str, BrokenShard]]
UNREACHABLE = {"train/000002.tar": BrokenShard("flaky there", "unreachable")}


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (lambda there, bad: (there, UNREACHABLE), r"unreachable: train/000002\.tar: flaky there"),
        (lambda there, bad: ({name: there[name] for name in list(there)[:2]}, bad), r"not the same: train/000002\.tar"),
        (lambda there, bad: (there | {"train/000002.tar": "0" * 16}, bad), r"not the same: train/000002\.tar"),
    ],
)
def test_what_one_rank_lacks_or_has_otherwise_none_reads(
    shards: Path, monkeypatch: pytest.MonkeyPatch, theirs: Callable[..., Found], told: str
):
    monkeypatch.setattr(sets, "on_all_ranks", lambda mine: [mine, theirs(*mine)])
    with pytest.warns(UserWarning, match=rf"left out, {told}"):
        keys = keys_of_a_pass(data_of(shards, max_bad_shards=1), 8)
    assert {key[:3] for key in keys} == {"d/0", "d/1"}
    with pytest.raises(BrokenShard, match=r"\(1 bad shards, data\.max_bad_shards allows 0\)"):
        data_of(shards).train_dataloader()


class OneWeight(LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight * batch["value"].float().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_clips_are_reported_after_each_pass_and_logged_and_never_reach_the_module(
    shards: Path, tmp_path: Path, num_workers: int
):
    break_clip(shards, 1, 2)
    break_clip(shards, 2, 0)
    samples = Ids()
    samples.undecodable = "d/2_3"
    module, data = OneWeight(), data_of(shards, samples, max_bad_clips=3, num_workers=num_workers)
    trainer = Trainer(
        max_steps=EPOCH,  # in batches of two
        max_epochs=-1,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data)
    assert [str(warning.message) for warning in caught if "over the data" in str(warning.message)] == [
        f"pass {number} over the data: others stood in for clips that cannot be read: 2 corrupt, 1 undecodable"
        for number in (1, 2)
    ]
    seen = [key for batch in module.seen for key in batch["id"]]
    assert len(seen) == 2 * EPOCH
    assert not {"d/1_2", "d/2_0", "d/2_3"} & set(seen)
    assert all("bad" not in batch for batch in module.seen)
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert [float(row[header.index("data/bad_clips")]) for row in rows] == [3, 3]


def state_after(data: ClipDataModule, batches: int) -> dict[str, Any]:
    data.trainer = trainer = trainer_of()
    trainer.num_training_batches = len(data.train_dataloader())
    trainer.fit_loop.epoch_loop.batch_progress.current.processed = batches
    return data.state_dict()


def resumed(data: ClipDataModule, state: dict[str, Any]) -> ClipDataModule:
    data.load_state_dict(state)
    return data


def test_a_run_that_goes_on_with_the_same_shards_elsewhere_says_nothing(
    shards: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    state = state_after(data_of(shards), 2)
    shutil.copytree(shards, tmp_path / "elsewhere")
    whole = keys_of_a_pass(data_of(shards), EPOCH)
    assert keys_of_a_pass(resumed(data_of(tmp_path / "elsewhere"), state), EPOCH - 4) == whole[4:]
    assert len(recwarn) == 0


def test_a_run_that_goes_on_with_other_shards_says_so(shards: Path):
    state = state_after(data_of(shards), 2)
    shutil.copy(shard_path(shards, 2), shard_path(shards, 7))
    shutil.copy(sidecar_path(shard_path(shards, 2)), sidecar_path(shard_path(shards, 7)))
    write_shard(shard_path(shards, 1), [FinishedClip("d/x", 10, {"mp4": b"", "flac": b"", "json": b""})], clip=CLIP)
    shard_path(shards, 2).unlink()
    sidecar_path(shard_path(shards, 2)).unlink()
    # One is gone, one is new, one has another content.
    with pytest.warns(UserWarning, match=r"changed since the checkpoint \(3 of them, such as train/000001\.tar\)"):
        resumed(data_of(shards), state).train_dataloader()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_url_gives_the_batches_of_the_folder(shards: Path, tmp_path: Path, num_workers: int):
    access = RemoteAccess(cache_dir=str(tmp_path / "cache"))
    there = data_of(f"file://{shards}", remote=access, num_workers=num_workers)
    there.require_shards("train")
    assert keys_of_a_pass(there, EPOCH) == keys_of_a_pass(data_of(shards), EPOCH)
    assert there.val_dataloader() == []
    assert len(there.clip_index("train", max_shards=2)) == 2 * 4
