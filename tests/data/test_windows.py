from pathlib import Path
from typing import Any

import pytest

from lipsync_lightning.data.order import Visit
from lipsync_lightning.data.windows import ClipWindows, collate
from lipsync_lightning.errors import BrokenShard
from lipsync_lightning.shards.reader import ClipIndex
from tiny_shards import CLIP, Ids, find_shards, write_shards

NUM_WINDOWS = ((1, 2, 3, 1, 2), (1, 2, 3), (1, 2, 3, 1))
BAD = "d/1_1"


@pytest.fixture
def index(tmp_path: Path) -> ClipIndex:
    return ClipIndex(find_shards(write_shards(tmp_path, NUM_WINDOWS), "train", CLIP))


def windows_of(index: ClipIndex, undecodable: str = "", max_bad_clips: int = 0) -> ClipWindows:
    samples = Ids()
    samples.undecodable = undecodable
    return ClipWindows(index=index, samples=samples, seed=1, max_bad_clips=max_bad_clips)


def test_a_window_draws_the_same_whichever_windows_of_its_clip_are_read_with_it(index: ClipIndex):
    windows = windows_of(index)
    together = windows[Visit(epoch=3, clip=2, first=0, last=3)]
    apart = [windows[Visit(epoch=3, clip=2, first=number, last=number + 1)][0] for number in range(3)]
    assert together == apart
    assert len({window["seed"] for window in together}) == 3
    assert windows[Visit(epoch=4, clip=2, first=0, last=3)] != together


def test_a_clip_that_cannot_be_read_is_stood_in_for_and_named(index: ClipIndex):
    bad = index.keys.tolist().index(BAD)
    windows = windows_of(index, undecodable=BAD, max_bad_clips=1)
    with pytest.warns(UserWarning, match=rf"another clip stands in: {BAD} in .*000001\.tar: a clip of 3 bytes"):
        found = windows[Visit(epoch=0, clip=bad, first=0, last=2)]
    assert [window["number"] for window in found] == [0, 1]
    assert BAD not in {window["id"] for window in found}
    assert collate([found])["bad"] == [(BAD, "undecodable")]
    assert "bad" not in collate([windows[Visit(0, 1, 0, 2)]])


def test_what_stands_in_depends_on_nothing_but_the_window(index: ClipIndex, recwarn: pytest.WarningsRecorder):
    bad = index.keys.tolist().index(BAD)

    def stands_in(visit: Visit, windows: ClipWindows | None = None) -> list[dict[str, Any]]:
        found = (windows or windows_of(index, undecodable=BAD, max_bad_clips=1))[visit]
        return [{key: value for key, value in window.items() if key != "bad"} for window in found]

    other_worker = windows_of(index, undecodable=BAD, max_bad_clips=1)
    second, first = (stands_in(Visit(5, bad, number, number + 1), other_worker) for number in (1, 0))
    assert stands_in(Visit(5, bad, 0, 2)) == first + second
    assert len({stands_in(Visit(epoch, bad, 0, 1))[0]["id"] for epoch in range(9)}) > 3


def test_clips_of_a_shard_that_is_lost_later_are_bad_clips(index: ClipIndex, recwarn: pytest.WarningsRecorder):
    index.shards[1].path.unlink()
    windows = windows_of(index, max_bad_clips=3)
    batch = collate([windows[Visit(0, clip, 0, 1)] for clip in range(len(index))])
    assert batch["bad"] == [(f"d/1_{clip}", "missing") for clip in range(3)]
    assert len(recwarn) == 3, "one more is too many"
    with pytest.raises(BrokenShard, match=r"000001\.tar: mp4 cannot be read: .*more than data\.max_bad_clips allows"):
        windows_of(index)[Visit(0, 5, 0, 1)]
