"""Which windows of which clips make up every batch: a pure function of seed and position.

All training windows form one endless row, epoch after epoch. A step of all ranks takes the next `world_size * batch_size` of them, so that
neither the number of ranks nor that of workers changes what has been read after so many windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Visit(NamedTuple):
    """Some of the windows that a clip gives in an epoch: numbers `first` to `last - 1`."""

    epoch: int
    clip: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class WindowOrder:
    """The endless row of windows.

    Args:
        num_windows: (clips,), how many windows each clip gives in an epoch.
        shard_of: (clips,), which shard each lies in, ascending.
        seed: of the order.
        shuffle_buffer: clips of shards that are mixed together; 0 keeps clips as they are stored.
    """

    num_windows: np.ndarray
    shard_of: np.ndarray
    seed: int
    shuffle_buffer: int

    @property
    def epoch_length(self) -> int:
        return int(self.num_windows.sum())

    def clips_of(self, epoch: int) -> np.ndarray:
        """Return all clips, in the order of an epoch: shards shuffled, and clips among the shards that are read at the same time."""
        stored = np.arange(len(self.num_windows))
        if not self.shuffle_buffer:
            return stored
        rng = np.random.default_rng([self.seed, epoch])
        of_shards = np.split(stored, np.flatnonzero(np.diff(self.shard_of)) + 1)
        shards = [of_shards[number] for number in rng.permutation(len(of_shards))]
        ordered, mixed, size = [], [], 0
        for shard in shards:
            mixed.append(shard)
            size += len(shard)
            if size >= self.shuffle_buffer:
                ordered.append(rng.permutation(np.concatenate(mixed)))
                mixed, size = [], 0
        if mixed:
            ordered.append(rng.permutation(np.concatenate(mixed)))
        return np.concatenate(ordered)

    def visits(self, position: int) -> Iterator[Visit]:
        """Yield the visits from a position of the row on, for ever."""
        epoch, skipped = divmod(position, self.epoch_length)
        while True:
            clips = self.clips_of(epoch)
            ends = np.cumsum(self.num_windows[clips])
            for rank in range(int(np.searchsorted(ends, skipped, side="right")), len(clips)):
                clip = int(clips[rank])
                last = int(self.num_windows[clip])
                first = max(0, skipped - int(ends[rank] - last))
                if first < last:
                    yield Visit(epoch, clip, first, last)
            epoch, skipped = epoch + 1, 0

    def pieces(self, position: int, size: int) -> Iterator[list[Visit]]:
        """Yield the row from a position on in pieces of `size` windows, for ever."""
        piece: list[Visit] = []
        room = size
        for visit in self.visits(position):
            while visit.first < visit.last:
                taken = visit._replace(last=min(visit.last, visit.first + room))
                piece.append(taken)
                room -= taken.last - taken.first
                visit = visit._replace(first=taken.last)
                if room == 0:
                    yield piece
                    piece, room = [], size
