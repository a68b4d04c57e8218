"""Bad shards and clips in whole data sets: left out or stood in for, counted, reported, and never silently another stream."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data import datamodule
from lipsync_lightning.data.bad_data import BadClip, BadData, what_changed
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.samples import Window
from lipsync_lightning.errors import BadConfig, BrokenShard, MissingShards
from lipsync_lightning.shards.faults import Reason, ShardFault
from lipsync_lightning.shards.format import FinishedClip, checked_shard, read_sidecar, sidecar_path, write_shard
from lipsync_lightning.shards.reader import MEMBERS
from lipsync_lightning.shards.remote import RemoteAccess
from lipsync_lightning.shards.store import Found, Survey, common_faults

CLIP = ClipSpec(num_frames=4, fps=25, resolution=32, sample_rate_hz=16000, mel_hz=80, num_mels=80)
CLIPS_PER_SHARD = 4
NUM_SHARDS = 3
EPOCH = NUM_SHARDS * CLIPS_PER_SHARD


class Ids:
    """One window of each clip, that tells which it is."""

    members = MEMBERS
    parts = ()
    same_for_all: Mapping[str, torch.Tensor] = {}

    def num_windows(self, num_frames: int) -> int:
        return 1

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        return [{"id": sample["__key__"], "value": 1.0, "first_frame": 0} for _ in wanted]


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


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(NUM_SHARDS):
        members = {"mp4": bytes([number]) * 100, "flac": b"flac", "json": b"{}"}
        clips = [FinishedClip(f"d/{number}_{clip}", 10, members) for clip in range(CLIPS_PER_SHARD)]
        write_shard(path_of(tmp_path / "shards", number), clips, clip=CLIP)
    return tmp_path / "shards"


def path_of(shards: Path, number: int) -> Path:
    return shards / "train" / f"{number:06d}.tar"


def data_of(
    shards: Path | str, *, max_bad_shards: int = 0, max_bad_clips: int = 0, num_workers: int = 0, **more: Any
) -> ClipDataModule:
    settings: dict[str, Any] = {"clip": CLIP, "samples": Ids(), "batch_size": 2, "seed": 1, "shuffle_buffer": 8}
    return ClipDataModule(
        shards=str(shards),
        max_bad_shards=max_bad_shards,
        max_bad_clips=max_bad_clips,
        num_workers=num_workers,
        **settings,
        **more,
    )


def keys_of_a_pass(data: ClipDataModule, num_clips: int) -> list[str]:
    return [key for batch in islice(data.train_dataloader(), num_clips // 2) for key in batch["id"]]


def truncate(shards: Path, number: int) -> None:
    path_of(shards, number).write_bytes(path_of(shards, number).read_bytes()[:-512])


def lose(shards: Path, number: int) -> None:
    path_of(shards, number).unlink()


def lose_sidecar(shards: Path, number: int) -> None:
    sidecar_path(path_of(shards, number)).unlink()


def make_it_of_format_1(shards: Path, number: int) -> None:
    sidecar_path(path_of(shards, number)).write_text(json.dumps({"num_samples": 4, "sha256": ""}))


def copy_another(shards: Path, number: int) -> None:
    for suffix in (".tar", ".json"):
        shutil.copy(path_of(shards, 0).with_suffix(suffix), path_of(shards, number).with_suffix(suffix))


def break_clip(shards: Path, number: int, clip: int) -> None:
    path = path_of(shards, number)
    content = bytearray(path.read_bytes())
    sidecar = read_sidecar(path)
    content[sidecar.places[clip, sidecar.suffixes.index("mp4"), 0]] ^= 1
    path.write_bytes(content)


FAULTS = {
    "truncated": truncate,
    "missing": lose,
    "without sidecar": lose_sidecar,
    "sidecar not ours": make_it_of_format_1,
    "there twice": copy_another,
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_shard_stops_before_work_begins_or_is_left_out_with_one_warning(shards: Path, reason: str):
    FAULTS[reason](shards, 1)
    with pytest.raises(BrokenShard, match=r"000001\.\w+ .*\(1 bad shards, 0 allowed by data\.max_bad_shards\)"):
        data_of(shards).require_shards("train")
    data = data_of(shards, max_bad_shards=1)
    data.require_shards("train")
    with pytest.warns(UserWarning, match=rf"left out, {reason}: train/000001\.tar: ") as told:
        keys = keys_of_a_pass(data, 8)
    assert len(told) == 1
    assert sorted(keys) == [f"d/{number}_{clip}" for number in (0, 2) for clip in range(4)]


def beside(theirs: Callable[[Found], Found]) -> Callable[[Any], list[Any]]:
    """Return what takes the place of `on_all_ranks` where another rank has found something else, which is told by what this one has."""
    return lambda mine: [mine, "another digest"] if isinstance(mine, str) else [mine, theirs(mine)]


def test_what_one_rank_cannot_read_none_reads(shards: Path, monkeypatch: pytest.MonkeyPatch):
    elsewhere = {"train/000002.tar": ShardFault("flaky there", Reason.UNREACHABLE)}
    monkeypatch.setattr(datamodule, "on_all_ranks", beside(lambda mine: (mine[0], elsewhere)))
    with pytest.warns(UserWarning, match=r"left out, unreachable: train/000002\.tar: flaky there"):
        keys = keys_of_a_pass(data_of(shards, max_bad_shards=1), 8)
    assert {key[:3] for key in keys} == {"d/0", "d/1"}
    with pytest.raises(BrokenShard, match=r"flaky there \(1 bad shards, 0 allowed"):
        data_of(shards).train_dataloader()


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ({"train/000002.tar": None}, r"1 of 2 processes do not have it"),
        ({"train/000002.tar": "0" * 64}, r"processes have different contents"),
    ],
)
def test_a_shard_that_is_gone_or_another_one_on_one_rank_is_read_by_none(
    shards: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, str | None], told: str
):
    def theirs(mine: Found) -> Found:
        return {name: content for name, content in {**mine[0], **there}.items() if content is not None}, mine[1]

    monkeypatch.setattr(datamodule, "on_all_ranks", beside(theirs))
    with pytest.warns(
        UserWarning, match=rf"left out, missing: train/000002\.tar: .*{told}; copy the same shards to all nodes"
    ):
        keys = keys_of_a_pass(data_of(shards, max_bad_shards=1), 8)
    assert {key[:3] for key in keys} == {"d/0", "d/1"}
    with pytest.raises(BrokenShard, match=rf"{told}.*\(1 bad shards, 0 allowed"):
        data_of(shards).train_dataloader()


def test_ranks_that_found_the_same_exchange_nothing_but_a_digest(shards: Path, monkeypatch: pytest.MonkeyPatch):
    truncate(shards, 1)
    told: list[Any] = []
    monkeypatch.setattr(datamodule, "on_all_ranks", lambda mine: told.append(mine) or [mine, mine])
    with pytest.warns(UserWarning, match=r"left out, truncated: train/000001\.tar"):
        keys = keys_of_a_pass(data_of(shards, max_bad_shards=1), 8)
    assert {key[:3] for key in keys} == {"d/0", "d/2"}
    assert [len(digest) for digest in told] == [64]


def test_a_digest_tells_names_contents_and_reasons_apart_and_neither_order_nor_wording(shards: Path):
    one, other = (checked_shard(path_of(shards, number), CLIP) for number in (0, 1))
    missing, unreachable = ShardFault("gone here", Reason.MISSING), ShardFault("flaky", Reason.UNREACHABLE)
    first = Survey({"a": one, "b": other}, {"c": missing, "d": missing}).digest
    assert first == Survey({"b": other, "a": one}, {"d": ShardFault("gone there", Reason.MISSING), "c": missing}).digest
    others = [
        Survey({"a": one, "x": other}, {"c": missing, "d": missing}),
        Survey({"a": one, "b": one}, {"c": missing, "d": missing}),
        Survey({"a": one, "b": other}, {"c": missing, "d": unreachable}),
        Survey({"a": one, "b": other}, {"c": missing, "x": missing}),
        Survey({"a": one}, {"c": missing, "d": missing}),
    ]
    assert len({first, *(survey.digest for survey in others)}) == 1 + len(others)


def test_a_shard_that_one_rank_alone_has_is_read_by_none():
    fault = ShardFault("flaky", Reason.UNREACHABLE)
    faults = common_faults([({"a": "1", "b": "2"}, {}), ({"a": "1"}, {"c": fault}), ({"a": "1", "c": "3"}, {})])
    assert {name: fault.reason for name, fault in faults.items()} == {"b": Reason.MISSING, "c": Reason.UNREACHABLE}


def test_one_bad_shard_more_than_allowed_stops(shards: Path):
    truncate(shards, 0)
    lose(shards, 2)
    with pytest.raises(BrokenShard, match=r"000000\.tar has .* bytes.*\(2 bad shards, 1 allowed"):
        data_of(shards, max_bad_shards=1).train_dataloader()


def test_a_data_set_of_bad_shards_only_is_refused(shards: Path):
    for number in range(NUM_SHARDS):
        truncate(shards, number)
    with pytest.raises(MissingShards, match=r"all shards at .* are bad"):
        data_of(shards, max_bad_shards=9).require_shards("train")


def test_a_gap_in_the_numbers_is_no_fault(shards: Path):
    lose(shards, 1)
    lose_sidecar(shards, 1)
    data = data_of(shards)
    data.require_shards("train")
    assert len(set(keys_of_a_pass(data, 8))) == 8


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_clips_are_reported_after_each_pass_and_logged_and_never_reach_the_module(
    shards: Path, tmp_path: Path, num_workers: int
):
    break_clip(shards, 1, clip=2)
    break_clip(shards, 2, clip=0)
    break_clip(shards, 2, clip=3)
    module, data = OneWeight(), data_of(shards, max_bad_clips=3, num_workers=num_workers)
    trainer = trainer_of_two_passes(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data)
    told = [str(warning.message) for warning in caught if "bad data" in str(warning.message)]
    assert told == [
        f"bad data in pass {number}: train/00000{shard}.tar, corrupt: {clips} clips, others stood in for their {clips} windows"
        for number in (1, 2)
        for shard, clips in ((1, 1), (2, 2))
    ]
    seen = [key for batch in module.seen for key in batch["id"]]
    assert len(seen) == 2 * EPOCH
    assert not {"d/1_2", "d/2_0", "d/2_3"} & set(seen)
    assert all("bad" not in batch for batch in module.seen)
    assert figures_in(tmp_path) == [(3, 0), (3, 0)]


def test_a_shard_that_is_lost_while_it_is_trained_on_counts_as_a_bad_shard(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    data = data_of(shards, max_bad_shards=1)
    begin = data.train_dataloader

    def begin_and_lose() -> Any:
        loader = begin()
        (shards / "train" / "000001.tar").unlink()
        return loader

    monkeypatch.setattr(data, "train_dataloader", begin_and_lose)
    trainer_of_two_passes(tmp_path).fit(OneWeight(), data)
    assert [num_shards for _, num_shards in figures_in(tmp_path)] == [1, 1]


def trainer_of_two_passes(folder: Path) -> Trainer:
    return Trainer(
        max_steps=EPOCH,  # in batches of two
        max_epochs=-1,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def figures_in(folder: Path) -> list[tuple[float, float]]:
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    figures = [dict(zip(header, row, strict=True)) for row in rows]
    return [(float(row["data/bad_clips"]), float(row["data/bad_shards"])) for row in figures]


def test_what_was_bad_in_an_unfinished_pass_is_told_at_the_end(shards: Path):
    data = data_of(shards)
    data.on_after_batch_transfer(
        {
            "id": ["d/0"],
            "first_frame": torch.zeros(1),
            "bad": [BadClip("train/000001.tar", "corrupt", "d/1", 3, False)],
        },
        0,
    )
    with pytest.warns(
        UserWarning,
        match=r"at the end, on rank 0: train/000001\.tar, corrupt: 1 clips, others stood in for their 3 windows",
    ):
        data.teardown("fit")


def test_clips_are_counted_once_and_windows_each_time():
    bad = BadData()
    bad.add(
        [
            BadClip("a", "corrupt", "one", 2, False),
            BadClip("a", "corrupt", "one", 1, False),
            BadClip("a", "truncated", "two", 1, False),
        ]
    )
    assert bad.num_clips == 2
    assert bad.merged().lines() == [
        "a, corrupt: 1 clips, others stood in for their 3 windows",
        "a, truncated: 1 clips, others stood in for their 1 windows",
    ]


def state_after(data: ClipDataModule, steps: int) -> dict[str, Any]:
    data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        global_rank=0, world_size=1, global_step=0, accumulate_grad_batches=1
    )
    data.train_dataloader()
    data.trainer.global_step = steps  # pyright: ignore[reportOptionalMemberAccess]
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


def test_a_run_that_goes_on_with_other_shards_says_which(shards: Path):
    state = state_after(data_of(shards), 2)
    shutil.copy(path_of(shards, 2), path_of(shards, 7))
    shutil.copy(sidecar_path(path_of(shards, 2)), sidecar_path(path_of(shards, 7)))
    write_shard(path_of(shards, 1), [FinishedClip("d/x", 10, {"mp4": b"", "flac": b"", "json": b""})], clip=CLIP)
    lose(shards, 2)
    lose_sidecar(shards, 2)
    expected = (
        r"no longer there: train/000002\.tar; new: train/000007\.tar; with other content: train/000001\.tar\).*another"
    )
    with pytest.warns(UserWarning, match=expected):
        resumed(data_of(shards), state).train_dataloader()


def test_a_shard_that_is_left_out_when_a_run_goes_on_is_a_change(shards: Path):
    state = state_after(data_of(shards), 2)
    truncate(shards, 2)
    with pytest.warns(UserWarning, match=r"no longer there: train/000002\.tar"):
        resumed(data_of(shards, max_bad_shards=1), state).train_dataloader()


def test_checkpoints_that_do_not_tell_the_shards_still_load(shards: Path, recwarn: pytest.WarningsRecorder):
    data = resumed(data_of(shards), {"windows_read": 4, "global_step": 2})
    assert keys_of_a_pass(data, 8) == keys_of_a_pass(data_of(shards), EPOCH)[4:]
    assert len(recwarn) == 0


def test_a_long_list_of_changes_is_cut():
    before = {f"train/{number}.tar": "" for number in range(5)}
    assert what_changed(before, {}) == "no longer there: train/0.tar, train/1.tar, train/2.tar and 2 more"
    assert what_changed(before, dict(before)) is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_url_gives_the_batches_of_the_folder(shards: Path, tmp_path: Path, num_workers: int):
    access = RemoteAccess(retries=0, cache_dir=str(tmp_path / "cache"), cache_gb=1.0)
    there = data_of(f"file://{shards}", remote=access, num_workers=num_workers)
    there.require_shards("train")
    assert keys_of_a_pass(there, EPOCH) == keys_of_a_pass(data_of(shards), EPOCH)
    assert there.val_dataloader() == []
    assert len(there.clip_index("train", max_shards=2)) == 2 * CLIPS_PER_SHARD


def test_a_url_needs_to_be_told_how_it_is_read():
    with pytest.raises(BadConfig, match=r"data\.shards=s3://bucket/mine is a URL; say in data\.remote"):
        data_of("s3://bucket/mine")
