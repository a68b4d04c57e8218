"""Visits of clips become batches of windows."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import Dataset, Sampler, default_collate

from lipsync_lightning.data.index import ClipIndex
from lipsync_lightning.data.order import Visit, WindowOrder
from lipsync_lightning.data.samples import Samples, Window
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipTooShort

_SEED_BITS = 62  # fits an int64


class ClipWindows(Dataset):
    """The windows of a visit. A clip that cannot be read is stood in for by the next one that can, with a warning."""

    def __init__(self, *, index: ClipIndex, samples: Samples, num_windows: np.ndarray, seed: int, max_bad_clips: int) -> None:
        """Args:
        num_windows: (clips,), of each clip of `index`.
        max_bad_clips: after so many, in one worker, the next one is an error.
        """
        self.index = index
        self.samples = samples
        self.num_windows = num_windows
        self.seed = seed
        self.max_bad_clips = max_bad_clips
        self.bad_clips: set[int] = set()

    def __getitem__(self, visit: Visit) -> list[Window]:
        """Return the visit's windows. Raises: BrokenShard, if more clips than allowed cannot be read."""
        for clip in range(visit.clip, visit.clip + len(self.index)):
            stand_in = clip % len(self.index)
            if self.num_windows[stand_in] < visit.last or stand_in in self.bad_clips:
                continue
            try:
                return self._windows(visit._replace(clip=stand_in))
            except (BadMedia, BrokenShard, ClipTooShort) as error:
                self._remember(stand_in, error)
        raise BrokenShard(f"none of {len(self.index)} clips can be read; run `prepare` again")

    def _windows(self, visit: Visit) -> list[Window]:
        clip = self.index.read(visit.clip)
        own = [self.seed, visit.epoch, crc32(clip["__key__"].encode())]
        windows = self.samples(clip, np.random.default_rng(own), range(visit.first, visit.last))
        return [window | {"seed": _seed([*own, number])} for number, window in enumerate(windows, start=visit.first)]

    def _remember(self, clip: int, error: Exception) -> None:
        self.bad_clips.add(clip)
        message = f"{self.index.keys[clip]} in {self.index.shards[self.index.shard_of[clip]].path}: {error}"
        if len(self.bad_clips) > self.max_bad_clips:
            raise BrokenShard(
                f"{message} (bad clip number {len(self.bad_clips)}, {self.max_bad_clips} allowed by data.max_bad_clips)"
            ) from error
        warnings.warn(f"left out, another clip stands in: {message}", stacklevel=2)


class EndlessBatches(Sampler[list[Visit]]):
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
    """Return the batch of the windows of several visits."""
    return default_collate(list(chain.from_iterable(visits)))


def _seed(entropy: list[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(64 - _SEED_BITS))
