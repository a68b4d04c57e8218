"""Visits of clips become batches of windows."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import Dataset, Sampler, default_collate

from lipsync_lightning.data.bad_data import BadClip
from lipsync_lightning.data.order import Visit, WindowOrder
from lipsync_lightning.data.samples import Samples, Window
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipTooShort
from lipsync_lightning.shards.faults import ClipFault, Reason, ShardFault
from lipsync_lightning.shards.reader import ClipIndex

_SEED_BITS = 62  # fits an int64


class ClipWindows(Dataset):
    """The windows of a visit. For each window of a clip that cannot be read one of another clip stands in, always the same.

    The first window of what is returned then brings `bad`: one `BadClip`. `collate` makes it the batch's.
    """

    def __init__(
        self,
        *,
        index: ClipIndex,
        samples: Samples,
        num_windows: np.ndarray,
        seed: int,
        max_bad_clips: int,
        max_bad_shards: int,
        num_bad_shards: int = 0,
    ) -> None:
        """Args:
        num_windows: (clips,), of each clip of `index`.
        max_bad_clips: after so many, in one worker, the next one is an error; clips of bad shards do not count.
        max_bad_shards: the same of shards, those among them that are not in `index` because they were known to be bad.
        num_bad_shards: how many these are.
        """
        self.index = index
        self.samples = samples
        self.num_windows = num_windows
        self.seed = seed
        self.max_bad_clips = max_bad_clips
        self.max_bad_shards = max_bad_shards
        self.num_bad_shards = num_bad_shards
        self.bad_clips: dict[int, str] = {}  # reason by number
        self.bad_shards: dict[int, str] = {}

    def __getitem__(self, visit: Visit) -> list[Window]:
        """Return the visit's windows. Raises: BrokenShard, if more clips or shards than allowed cannot be read."""
        windows = self._read(visit)
        if windows is not None:
            return windows
        windows = [self._stand_in(visit.epoch, visit.clip, number) for number in range(visit.first, visit.last)]
        shard = int(self.index.shard_of[visit.clip])
        reason = self.bad_shards.get(shard) or self.bad_clips[visit.clip]
        bad = BadClip(
            self.index.shards[shard].name,
            str(reason),
            str(self.index.keys[visit.clip]),
            len(windows),
            shard in self.bad_shards,
        )
        return [windows[0] | {"bad": bad}, *windows[1:]]

    def _stand_in(self, epoch: int, clip: int, number: int) -> Window:
        """Return a window to be seen instead of one: which, depends on nothing but that window, so that any worker takes the same."""
        able = np.flatnonzero(self.num_windows > number)
        for other in np.random.default_rng([self.seed, epoch, clip, number]).permutation(able):
            windows = self._read(Visit(epoch, int(other), number, number + 1))
            if windows is not None:
                return windows[0]
        raise BrokenShard(f"none of {len(self.index)} clips can be read; run `prepare` again")

    def _read(self, visit: Visit) -> list[Window] | None:
        shard = int(self.index.shard_of[visit.clip])
        if visit.clip in self.bad_clips or shard in self.bad_shards:
            return None
        try:
            return self._windows(visit)
        except ShardFault as fault:
            self.bad_shards[shard] = fault.reason
            count = self.num_bad_shards + len(self.bad_shards)
            _count_or_stop(fault, str(fault), "shard", count, self.max_bad_shards)
        except (BadMedia, ClipFault, ClipTooShort) as error:
            self.bad_clips[visit.clip] = _reason(error)
            where = (
                ""
                if isinstance(error, ClipFault)
                else f"{self.index.keys[visit.clip]} in {self.index.shards[shard].location}: "
            )
            _count_or_stop(error, f"{where}{error}", "clip", len(self.bad_clips), self.max_bad_clips)
        return None

    def _windows(self, visit: Visit) -> list[Window]:
        clip = self.index.read(visit.clip)
        own = [self.seed, visit.epoch, crc32(clip["__key__"].encode())]
        windows = self.samples(clip, np.random.default_rng(own), range(visit.first, visit.last))
        return [window | {"seed": _seed([*own, number])} for number, window in enumerate(windows, start=visit.first)]


class ResumableBatchSampler(Sampler[list[Visit]]):
    """What each batch of one rank holds, from a position of the row of all windows on."""

    def __init__(self, *, order: WindowOrder, position: int, batch_size: int, rank: int, world_size: int) -> None:
        self.order = order
        self.position = position
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[Visit]]:
        for number, piece in enumerate(self.order.pieces(self.position, self.batch_size)):
            if number % self.world_size == self.rank:
                yield piece


class OnePass(Sampler[list[Visit]]):
    """Batches that hold every window once, the last one shorter."""

    def __init__(self, *, order: WindowOrder, batch_size: int) -> None:
        self.order = order
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.order.epoch_length // self.batch_size)

    def __iter__(self) -> Iterator[list[Visit]]:
        left = self.order.epoch_length
        for piece in self.order.pieces(0, self.batch_size):
            inside = [visit for visit in piece if visit.epoch == 0]
            if inside:
                yield inside
            left -= self.batch_size
            if left <= 0:
                return


def collate(visits: Sequence[list[Window]]) -> dict[str, Any]:
    """Return the batch of the windows of several visits, with a list `bad` of `BadClip` if others stand in for any."""
    windows = list(chain.from_iterable(visits))
    bad = [window["bad"] for window in windows if "bad" in window]
    batch = default_collate([{key: value for key, value in window.items() if key != "bad"} for window in windows])
    return batch | {"bad": bad} if bad else batch


def _count_or_stop(error: Exception, message: str, what: str, count: int, allowed: int) -> None:
    if count > allowed:
        raise BrokenShard(
            f"{message} (bad {what} number {count}, {allowed} allowed by data.max_bad_{what}s)"
        ) from error
    warnings.warn(f"left out, another clip stands in: {message}", stacklevel=2)


def _reason(error: Exception) -> str:
    if isinstance(error, ClipFault):
        return error.reason
    return Reason.TOO_SHORT if isinstance(error, ClipTooShort) else Reason.UNDECODABLE


def _seed(entropy: list[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(64 - _SEED_BITS))
