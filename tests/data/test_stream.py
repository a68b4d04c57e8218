from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.samples import Window
from lipsync_lightning.data.stream import WindowStream, share_of
from lipsync_lightning.errors import BrokenShard, MissingShards
from lipsync_lightning.preparation.shards import FinishedClip, Shard, find_shards, write_shard

CLIPS_PER_SHARD = (5, 3, 4)


class Ids:
    """Samples that tell which clip they are of, and what was drawn for it."""

    def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> list[Window]:
        return [{"id": sample["__key__"], "draw": int(rng.integers(1 << 30))}]


@pytest.fixture
def shards(tmp_path: Path, tiny_clip: ClipSpec) -> list[Shard]:
    for number, num_clips in enumerate(CLIPS_PER_SHARD):
        clips = [FinishedClip(f"d/{number}_{index}", b"mp4", b"flac", {}) for index in range(num_clips)]
        write_shard(tmp_path / "train" / f"{number:06d}.tar", clips, clip=tiny_clip, plan="", ledger=[])
    return find_shards(tmp_path, "train", tiny_clip)


def stream_of(shards: list[Shard], **changes: Any) -> WindowStream:
    settings = {"seed": 1, "first_epoch": 0, "num_epochs": 1, "shuffle_buffer": 4, "rank": 0, "world_size": 1}
    return WindowStream(shards=shards, samples=Ids(), **(settings | changes))


def ids(windows: Any) -> list[str]:
    return [window["id"] for window in windows]


ALL_IDS = sorted(f"d/{number}_{index}" for number, num_clips in enumerate(CLIPS_PER_SHARD) for index in range(num_clips))


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("num_consumers", [1, 2, 3, 5, 8, 16, 33])
def test_every_sample_has_exactly_one_reader(num_shards: int, num_consumers: int):
    reads = Counter(
        (shard, sample)
        for consumer in range(num_consumers)
        for shard, part, parts in share_of(consumer, num_consumers, num_shards)
        for sample in range(40)
        if sample % parts == part
    )
    assert reads == Counter((shard, sample) for shard in range(num_shards) for sample in range(40))


def test_an_epoch_reads_every_clip_once(shards: list[Shard]):
    assert sorted(ids(stream_of(shards))) == ALL_IDS
    assert ids(stream_of(shards, shuffle_buffer=0)) == ALL_IDS


def test_the_same_seed_repeats_and_another_seed_or_epoch_does_not(shards: list[Shard]):
    first = list(stream_of(shards))
    assert list(stream_of(shards)) == first
    for change in ({"seed": 2}, {"first_epoch": 1}):
        other = list(stream_of(shards, **change))
        assert ids(other) != ids(first)
        assert {window["id"]: window["draw"] for window in other} != {window["id"]: window["draw"] for window in first}


def test_an_endless_stream_goes_through_one_epoch_after_another(shards: list[Shard]):
    windows = list(islice(stream_of(shards, num_epochs=None), 3 * len(ALL_IDS)))
    epochs = [windows[start : start + len(ALL_IDS)] for start in range(0, len(windows), len(ALL_IDS))]
    assert all(sorted(ids(epoch)) == ALL_IDS for epoch in epochs)
    assert len({tuple(ids(epoch)) for epoch in epochs}) == 3
    assert epochs[2] == list(stream_of(shards, first_epoch=2))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ranks_and_workers_share_the_clips_without_overlap(shards: list[Shard], num_workers: int):
    per_rank = [ids(DataLoader(stream_of(shards, rank=rank, world_size=2), batch_size=None, num_workers=num_workers)) for rank in range(2)]
    assert sorted(per_rank[0] + per_rank[1]) == ALL_IDS
    assert all(per_rank)


def test_what_is_drawn_for_a_clip_does_not_depend_on_who_reads_it(shards: list[Shard]):
    alone = {window["id"]: window["draw"] for window in stream_of(shards)}
    shared = {window["id"]: window["draw"] for rank in range(5) for window in stream_of(shards, rank=rank, world_size=5)}
    assert shared == alone


def test_more_consumers_than_clips_are_refused_instead_of_looking_for_ever(shards: list[Shard]):
    assert next(iter(stream_of(shards, num_epochs=None, rank=14, world_size=15)))["id"].endswith("_4")
    with pytest.raises(MissingShards, match=r"12 clips in 3 shards at .* are too few for 16 data workers; lower data.num_workers"):
        next(iter(stream_of(shards, num_epochs=None, rank=15, world_size=16)))
    assert ids(stream_of(shards, rank=15, world_size=16)) == []


def test_a_shard_of_the_right_size_but_wrong_content_is_named(shards: list[Shard]):
    path = shards[1].path
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(BrokenShard, match=r"000001.tar cannot be read: .*; delete it and run `prepare` again") as caught:
        list(stream_of(shards))
    assert "(" not in str(caught.value).replace("()", "")


def test_a_shard_that_went_missing_is_named(shards: list[Shard]):
    shards[2].path.unlink()
    with pytest.raises(BrokenShard, match=r"000002\.tar cannot be read"):
        list(stream_of(shards))
