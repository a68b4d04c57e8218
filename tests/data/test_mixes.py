"""Several data sets in one run: each has its share of every stretch, nothing comes twice, and sets are told apart."""

import re
import shutil
import warnings
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.order import Visit, WindowOrder
from lipsync_lightning.data.samples import SyncNetSamples, WholeFaces
from lipsync_lightning.data.sets import DataSets
from lipsync_lightning.data.windows import window_seed
from lipsync_lightning.errors import BadConfig, BrokenShard, ClipMismatch, MissingShards
from lipsync_lightning.losses.syncnet_objectives import ContrastiveObjective
from lipsync_lightning.modules.syncnet import SyncNetModule
from lipsync_lightning.shards.format import FinishedClip, write_shard
from tiny_shards import CLIP, break_clip, data_of, trainer_of, write_real_shards, write_shards

Window = tuple[int, int]  # clip and number


def mix(sizes: list[list[int]], shares: tuple[float, ...], seed: int = 1, shuffle_buffer: int = 5) -> WindowOrder:
    """Sets of clips with so many windows, three clips a shard."""
    set_of = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
    shard_of = np.cumsum(np.diff(set_of, prepend=0) + (np.arange(len(set_of)) % 3 == 0)) - 1
    settings: Any = {"seed": seed, "shuffle_buffer": shuffle_buffer, "set_of": set_of, "shares": shares}
    return WindowOrder(num_windows=np.concatenate([np.array(each) for each in sizes]), shard_of=shard_of, **settings)


def row_of(order: WindowOrder, epoch: int, taken: int = 0, size: int = 7) -> list[Window]:
    visits: list[Visit] = [visit for piece in order.pieces(epoch, taken, size) for visit in piece]
    return [(visit.clip, number) for visit in visits for number in range(visit.first, visit.last)]


MIXES = {
    "two of one window a clip": mix([[1] * 90, [1] * 40], (0.7, 0.3)),
    "a rare one": mix([[2] * 200, [2] * 30], (0.95, 0.05)),
    "thirds that are rounded": mix([[3] * 30, [1, 2, 0, 3] * 20, [2] * 60], (0.333, 0.333, 0.333)),
    "as they are stored": mix([[2] * 30, [2] * 60], (0.5, 0.5), shuffle_buffer=0),
}


@pytest.mark.parametrize("order", MIXES.values(), ids=MIXES)
def test_an_epoch_ends_with_the_set_that_is_used_up_and_holds_no_window_twice(order: WindowOrder):
    assert order.set_of is not None
    assert order.shares is not None
    there = np.bincount(order.set_of, order.num_windows)
    last = min(there / np.array(order.shares))
    parts = []
    for epoch in range(3):
        row = row_of(order, epoch)
        given = np.bincount([order.set_of[clip] for clip, _ in row])
        assert len(set(row)) == len(row) == order.epoch_length
        assert all(number < order.num_windows[clip] for clip, number in row)
        assert np.abs(given - last * np.array(order.shares)).max() < 1
        assert (given == there).any(), "the smallest is whole"
        parts.append(frozenset(row))
    assert len(set(parts)) == 3, "another part of the larger sets each time"


@pytest.mark.parametrize("order", MIXES.values(), ids=MIXES)
def test_any_stretch_of_the_row_has_nearly_the_shares(order: WindowOrder):
    assert order.set_of is not None
    assert order.shares is not None
    shares = np.array(order.shares) / sum(order.shares)
    taken = np.eye(len(shares))[[order.set_of[clip] for clip, _ in row_of(order, 0)]].cumsum(axis=0)
    ahead = taken - np.arange(1, len(taken) + 1)[:, None] * shares
    assert ahead.max() - ahead.min() < 4 * order.num_windows.max(), "of two clips of a set at most"


@pytest.mark.parametrize("order", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize(("taken", "size"), [(0, 1), (13, 4), (50, 9)])
def test_from_any_place_and_in_pieces_of_any_size_the_row_is_the_same(order: WindowOrder, taken: int, size: int):
    assert row_of(order, 2, taken, size) == row_of(order, 2)[taken:]


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    """Two sets of which some keys are equal, with 6 + 3 and 18 + 9 windows to train on."""
    for name, size in (("rare", 3), ("common", 9)):
        folder = write_shards(tmp_path / name, [[1] * size, [2] * size])
        (write_shards(tmp_path / "its heldout", [[1] * (size - 1)]) / "train").rename(folder / "heldout")
    return str(tmp_path / "rare"), str(tmp_path / "common")


def windows_of(batches: Any) -> list[tuple[str, str, int]]:
    return [
        window for batch in batches for window in zip(batch["set"], batch["id"], batch["number"].tolist(), strict=True)
    ]


def test_a_list_is_one_pass_over_all_sets_mixed_with_each_other_in_whatever_order_they_are_named(sets: tuple[str, str]):
    data, other = (data_of(list(each), shuffle_buffer=99) for each in (sets, sets[::-1]))
    windows = windows_of(data.train_dataloader())
    assert Counter(name for name, _, _ in windows) == {"rare": 9, "common": 27}
    assert len(set(windows)) == 36
    assert sum(before[0] != after[0] for before, after in pairwise(windows)) > 5, "they alternate"
    assert windows_of(other.train_dataloader()) == windows


def test_shares_hold_in_every_batch_of_a_mix_and_equal_keys_of_two_sets_draw_otherwise(sets: tuple[str, str]):
    rare, common = sets
    loader = data_of({rare: 0.25, common: 0.75}, batch_size=4).train_dataloader()
    assert len(loader) == 9
    batches = list(loader)
    assert all(abs(batch["set"].count("rare") - 1) <= 1 for batch in batches)
    assert Counter(name for name, _, _ in windows_of(batches)) == {"rare": 9, "common": 27}
    seeds: dict[str, set[int]] = {"rare": set(), "common": set()}
    for batch in batches:
        for name, seed in zip(batch["set"], batch["seed"].tolist(), strict=True):
            seeds[name].add(seed)
    assert {len(each) for each in seeds.values()} == {9, 27}
    assert not seeds["rare"] & seeds["common"]


def test_one_set_in_whichever_form_is_read_as_it_always_was(sets: tuple[str, str]):
    rare, _ = sets
    plain, listed, shared = (list(data_of(each).train_dataloader()) for each in (rare, [rare + "/"], {rare: 1.0}))
    for other in (listed, shared):
        assert [(batch["id"], batch["seed"].tolist()) for batch in other] == [
            (batch["id"], batch["seed"].tolist()) for batch in plain
        ]
    assert "set" not in plain[0]
    assert plain[0]["seed"][0] == window_seed([1, 0, crc32(plain[0]["id"][0].encode()), int(plain[0]["number"][0])])


def read(shards: Any, ranks: int, workers: int, steps: int, state: dict[str, Any] | None) -> tuple[list, dict]:
    """Return the windows that all ranks read in so many steps of an epoch, and the state after them."""
    of_ranks, state_after = [], {}
    for rank in range(ranks):
        data = data_of(shards, num_workers=workers)
        trainer = data.trainer = trainer_of(rank=rank, ranks=ranks)
        if state is not None:
            data.load_state_dict(state)
        loader = data.train_dataloader()
        trainer.num_training_batches = len(loader)
        of_ranks.append(list(islice(loader, steps)))
        trainer.fit_loop.epoch_progress.current.ready = data.begun.epoch + 1
        trainer.fit_loop.epoch_loop.batch_progress.current.processed = data.begun.batches + steps
        state_after = data.state_dict()
    return windows_of(batch for of_step in zip(*of_ranks, strict=True) for batch in of_step), state_after


@pytest.mark.parametrize("shares", [(), (0.4, 0.6)])
def test_a_mix_goes_on_with_other_numbers_of_ranks_and_workers_where_it_stopped(
    sets: tuple[str, str], shares: tuple[float, ...]
):
    shards: Any = dict(zip(sets, shares, strict=True)) if shares else list(sets)
    alone, _ = read(shards, ranks=1, workers=0, steps=10, state=None)
    first, state = read(shards, ranks=2, workers=0, steps=2, state=None)
    second, state = read(shards, ranks=1, workers=1, steps=1, state=state)
    third, _ = read(shards, ranks=3, workers=0, steps=1, state=state)
    assert [*first, *second, *third] == alone[:16]
    assert {"rare/train/000000.tar", "common/train/000000.tar"} < set(state["shards"])


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.7, 0.2), r"positive numbers that sum to 1, these sum to 0\.9$"),
        ((1.5, -0.5), "positive numbers that sum to 1$"),
        (("half", 0.5), "positive numbers that sum to 1$"),
    ],
)
def test_wrong_shares_are_refused(shares: tuple[Any, Any], told: str):
    with pytest.raises(BadConfig, match=told):
        data_of(dict(zip(("a", "b"), shares, strict=True)))


def test_no_set_a_set_twice_and_a_set_of_other_clips_are_refused(sets: tuple[str, str], tmp_path: Path):
    for nothing in ([], {}):
        with pytest.raises(BadConfig, match=r"data\.shards is empty; give a folder"):
            data_of(nothing)
    with pytest.raises(BadConfig, match="has a folder twice"):
        data_of([sets[0], f"{sets[0]}/"])
    other = ClipSpec(**(CLIP.as_dict() | {"resolution": 64}))
    write_shard(tmp_path / "large" / "train" / "000000.tar", [FinishedClip("a", 9, {"mp4": b"m"})], clip=other)
    with pytest.raises(ClipMismatch, match="large/train"):
        data_of([*sets, str(tmp_path / "large")]).require_shards("train")
    shutil.copytree(sets[0], tmp_path / "copy")
    with pytest.raises(BrokenShard, match=r"rare/train/000000\.tar has the same content as copy/train/000000\.tar"):
        data_of([*sets, str(tmp_path / "copy")]).require_shards("train")


def test_a_set_that_is_only_validated_on_may_stand_in_a_list_but_has_no_share(sets: tuple[str, str]):
    rare, common = sets
    shutil.rmtree(Path(rare) / "train")
    data_of([rare, common]).require_shards("train")
    with pytest.raises(MissingShards, match="rare holds no train clips"):
        data_of({rare: 0.5, common: 0.5}).require_shards("train")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/mine", "s3://b/theirs/"], ["mine", "theirs"]),
        (["b/shards", "a/shards", "c"], ["a/shards", "b/shards", "c"]),
        (["shards", "a/shards"], ["a/shards", "shards"]),
    ],
)
def test_sets_are_named_by_as_little_of_their_paths_as_tells_them_apart(folders: list[str], names: list[str]):
    assert DataSets(folders, clip=CLIP, max_bad_shards=0).names == names


def test_what_stands_in_for_a_clip_is_of_the_same_set(sets: tuple[str, str]):
    break_clip(Path(sets[0]), 1, 2)
    plain, broken = (data_of(list(sets), batch_size=1, max_bad_clips=9) for _ in range(2))
    with pytest.warns(UserWarning, match="another clip stands in"):
        batches = list(broken.train_dataloader())
    assert Counter(batch["set"][0] for batch in batches) == {"rare": 9, "common": 27}
    assert {bad for batch in batches for bad in batch.get("bad", [])} == {("rare/d/1_2", "corrupt")}
    assert len(plain.val_dataloader()) == 2 + 8


def real_sets(folder: Path) -> list[str]:
    for name, lengths in {"a/easy": [20, 14], "hard": [18, 15, 16]}.items():
        write_real_shards(folder / name, "train", [lengths])
        write_real_shards(folder / name, "heldout", [[length + 3 for length in lengths]])
    write_real_shards(folder / "trained on only", "train", [[13]])
    return [str(folder / name) for name in ("a/easy", "hard", "trained on only")]


def trained(module: Any, data: ClipDataModule) -> Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", max_steps=1, val_check_interval=1, enable_checkpointing=False, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, data)
    return trainer


def test_validation_tells_the_sets_apart(tmp_path: Path, make_syncnet: Any, training_arguments: dict[str, Any]):
    given: Any = {"clip": CLIP, "windows_per_clip": 2, "min_gap_frames": 4, "sees": WholeFaces()}
    data = data_of(real_sets(tmp_path), SyncNetSamples(**given))
    objective = ContrastiveObjective(initial_temperature=0.07)
    module = SyncNetModule(autoencoder=None, syncnet=make_syncnet(), objective=objective, **training_arguments)
    told = trained(module, data).callback_metrics
    for figure in ("loss", "auc", "accuracy"):
        names = {name for name in told if name.startswith(f"val/{figure}/")}
        assert names == {f"val/{figure}/easy", f"val/{figure}/hard"}
    easy, hard = (float(told[f"val/loss/{name}"]) for name in ("easy", "hard"))
    assert float(told["val/loss"]) == pytest.approx((4 * easy + 6 * hard) / 10)
    assert module.last_similarities is not None
    assert len(module.last_similarities[0]) == 10
    assert easy != hard


def test_a_run_without_held_out_clips_says_once_how_to_get_some_and_goes_on(tmp_path: Path):
    data = data_of(write_shards(tmp_path / "all trained on", [[1] * 8]))
    told = "nothing is validated: .*all trained on holds no heldout clips; hold some out by recipe.split.num_heldout="
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = Line()
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        Trainer(accelerator="cpu", max_epochs=2, enable_checkpointing=False, **quiet).fit(module, data)
    assert len([each for each in caught if re.match(told, str(each.message))]) == 1
    assert module.steps == 8


class Line(LightningModule):
    """Counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.steps = nn.Parameter(torch.zeros(())), 0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.steps += 1
        return self.weight * batch["value"].float().sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        raise AssertionError("there is nothing to validate on")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
