from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.order import Visit, WindowOrder
from lipsync_lightning.data.samples import Window
from lipsync_lightning.data.windows import ClipWindows, OnePass, ResumableBatchSampler, collate
from lipsync_lightning.errors import BadMedia, BrokenShard
from lipsync_lightning.shards.format import FinishedClip, find_shards, write_shard
from lipsync_lightning.shards.reader import ClipIndex, open_local

CLIPS_PER_SHARD = (5, 3, 4)
BAD = "d/1_1"


class Ids:
    """Samples that tell which clip and window they are, and what was drawn for them; `BAD` cannot be read while `bad` is set."""

    bad = False

    def num_windows(self, num_frames: int) -> int:
        return num_frames // 10

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator, wanted: range) -> list[Window]:
        if self.bad and sample["__key__"] == BAD:
            raise BadMedia("a clip of 3 bytes does not decode")
        draws = rng.integers(1 << 30, size=4)
        return [{"id": sample["__key__"], "number": number, "draw": int(draws[number])} for number in wanted]


@pytest.fixture
def index(tmp_path: Path, tiny_clip: ClipSpec) -> ClipIndex:
    for number, num_clips in enumerate(CLIPS_PER_SHARD):
        members = {"mp4": b"mp4", "flac": b"flac", "json": b"{}"}
        clips = [FinishedClip(f"d/{number}_{index}", 10 * (1 + index % 3), members) for index in range(num_clips)]
        write_shard(tmp_path / "train" / f"{number:06d}.tar", clips, clip=tiny_clip)
    return ClipIndex(find_shards(tmp_path, "train", tiny_clip))


def windows_of(
    index: ClipIndex, samples: Ids | None = None, max_bad_clips: int = 0, max_bad_shards: int = 0
) -> ClipWindows:
    allowed = {"max_bad_clips": max_bad_clips, "max_bad_shards": max_bad_shards}
    return ClipWindows(index=index, samples=samples or Ids(), num_windows=index.num_frames // 10, seed=1, **allowed)


def order_of(index: ClipIndex) -> WindowOrder:
    return WindowOrder(num_windows=index.num_frames // 10, shard_of=index.shard_of, seed=1, shuffle_buffer=4)


def read(
    index: ClipIndex,
    num_batches: int,
    *,
    position: int = 0,
    batch_size: int = 4,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Any:
    batches = ResumableBatchSampler(
        order=order_of(index), position=position, batch_size=batch_size, rank=rank, world_size=ranks
    )
    loader = DataLoader(windows_of(index), batch_sampler=batches, collate_fn=collate, num_workers=workers)
    return list(islice(loader, num_batches))


def rows(batches: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    return [
        row
        for batch in batches
        for row in zip(*(list(map(_plain, batch[key])) for key in ("id", "number", "draw", "seed")), strict=True)
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else int(value)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_changes_nothing(index: ClipIndex, workers: int):
    assert rows(read(index, 9, workers=workers)) == rows(read(index, 9))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_out_the_row_without_gap_or_overlap(index: ClipIndex, ranks: int):
    of_ranks = [read(index, 12 // ranks, rank=rank, ranks=ranks) for rank in range(ranks)]
    together = [batch for step in zip(*of_ranks, strict=True) for batch in step]
    assert rows(together) == rows(read(index, 12))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_on_another_number_of_ranks_an_epoch_is_finished_without_a_window_twice_or_lost(
    index: ClipIndex, before: int, after: int
):
    """The epoch has 22 windows: 12 are read by the first ranks, the rest and the beginning of the next epoch by the others."""
    first = [read(index, 12 // (2 * before), batch_size=2, rank=rank, ranks=before) for rank in range(before)]
    then = [
        read(index, 12 // (2 * after), position=12, batch_size=2, rank=rank, ranks=after, workers=1)
        for rank in range(after)
    ]
    seen = [row[:2] for batches in (*first, *then) for row in rows(batches)]
    whole = {
        (str(index.keys[clip]), number)
        for clip in range(len(index))
        for number in range(int(index.num_frames[clip]) // 10)
    }
    assert len(whole) == 22
    assert set(seen) == whole
    assert sorted(Counter(seen).values()) == [1] * 20 + [2] * 2  # the last two windows belong to the next epoch


def test_a_window_draws_the_same_whichever_windows_of_its_clip_are_read_with_it(index: ClipIndex):
    windows = windows_of(index)
    together = windows[Visit(epoch=3, clip=2, first=0, last=3)]
    apart = [windows[Visit(epoch=3, clip=2, first=number, last=number + 1)][0] for number in range(3)]
    assert together == apart
    assert len({window["seed"] for window in together}) == 3
    assert windows[Visit(epoch=4, clip=2, first=0, last=3)] != together


def test_one_pass_holds_every_window_once_and_the_last_batch_is_shorter(index: ClipIndex):
    order = order_of(index)
    loader = DataLoader(windows_of(index), batch_sampler=OnePass(order=order, batch_size=5), collate_fn=collate)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    assert [len(batch["id"]) for batch in batches] == [5, 5, 5, 5, 2]
    assert len({row[:2] for row in rows(batches)}) == 22


@pytest.fixture
def unreadable() -> Ids:
    samples = Ids()
    samples.bad = True
    return samples


@pytest.fixture
def bad(index: ClipIndex) -> int:
    return index.keys.tolist().index(BAD)


def test_a_clip_that_cannot_be_read_is_stood_in_for_and_named(index: ClipIndex, unreadable: Ids, bad: int):
    windows = windows_of(index, unreadable, max_bad_clips=1)
    with pytest.warns(UserWarning, match=rf"another clip stands in: {BAD} in .*000001\.tar: a clip of 3 bytes"):
        found = windows[Visit(epoch=0, clip=bad, first=0, last=2)]
    assert [window["number"] for window in found] == [0, 1]
    assert BAD not in {window["id"] for window in found}
    assert collate([found])["bad"] == [("train/000001.tar", "undecodable", BAD, 2, False)]


def test_what_stands_in_depends_on_nothing_but_the_window(
    index: ClipIndex, unreadable: Ids, bad: int, recwarn: pytest.WarningsRecorder
):
    together = windows_of(index, unreadable, max_bad_clips=1)[Visit(5, bad, 0, 2)]
    other_worker = windows_of(index, unreadable, max_bad_clips=1)
    first = other_worker[Visit(5, bad, 1, 2)], other_worker[Visit(5, bad, 0, 1)]
    assert [{**window, "bad": None} for window in together] == [
        {**first[1][0], "bad": None},
        {**first[0][0], "bad": None},
    ]
    assert len({windows_of(index, unreadable, 1)[Visit(epoch, bad, 0, 1)][0]["id"] for epoch in range(9)}) > 3


def test_a_batch_without_bad_clips_says_nothing_of_them(index: ClipIndex):
    assert "bad" not in collate([windows_of(index)[Visit(0, 1, 0, 2)]])


def test_more_bad_clips_than_allowed_are_an_error_that_says_so(index: ClipIndex, unreadable: Ids, bad: int):
    with pytest.raises(BrokenShard, match=rf"{BAD} in .* \(bad clip number 1, 0 allowed by data\.max_bad_clips\)"):
        windows_of(index, unreadable)[Visit(epoch=0, clip=bad, first=0, last=1)]


def test_a_shard_that_is_lost_later_is_one_bad_shard_not_many_bad_clips(
    index: ClipIndex, recwarn: pytest.WarningsRecorder
):
    index.shards[1].path.unlink()
    windows = windows_of(index, max_bad_shards=1)
    batch = collate([windows[Visit(0, clip, 0, 1)] for clip in range(len(index))])
    assert [bad.key for bad in batch["bad"]] == ["d/1_0", "d/1_1", "d/1_2"]
    assert {(bad.reason, bad.of_bad_shard) for bad in batch["bad"]} == {("missing", True)}
    assert len(recwarn) == 1
    with pytest.raises(
        BrokenShard, match=r"000001\.tar cannot be opened: .* \(bad shard number 1, 0 allowed by data\.max_bad_shards\)"
    ):
        windows_of(index)[Visit(0, 5, 0, 1)]


def test_a_shard_that_proved_bad_is_not_opened_again(index: ClipIndex, recwarn: pytest.WarningsRecorder):
    asked: list[str] = []
    index.shards[1].path.unlink()
    index.opened = lambda shard: asked.append(shard.name) or open_local(shard)
    windows = windows_of(index, max_bad_shards=1)
    for clip in (5, 6, 7, 5):
        windows[Visit(0, clip, 0, 1)]
    assert asked.count("train/000001.tar") == 1


def test_shards_left_out_before_count_against_what_is_allowed(index: ClipIndex):
    index.shards[1].path.unlink()
    windows = ClipWindows(
        index=index,
        samples=Ids(),
        num_windows=index.num_frames // 10,
        seed=1,
        max_bad_clips=9,
        max_bad_shards=2,
        num_bad_shards=2,
    )
    with pytest.raises(BrokenShard, match=r"bad shard number 3, 2 allowed"):
        windows[Visit(0, 5, 0, 1)]


def test_where_nothing_can_be_read_it_ends(index: ClipIndex, recwarn: pytest.WarningsRecorder):
    for shard in index.shards:
        shard.path.unlink()
    with pytest.raises(BrokenShard, match="none of 12 clips can be read"):
        windows_of(index, max_bad_shards=9)[Visit(0, 0, 0, 1)]
