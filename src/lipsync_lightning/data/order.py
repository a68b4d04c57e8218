"""Which windows of which clips make up every batch: a pure function of seed and position.

All training windows form one endless row, epoch after epoch. A step of all ranks takes the next
`world_size * batch_size` of them, so neither ranks nor workers change what has been read after so many windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
    """The endless row of windows."""

    num_windows: np.ndarray  # (clips,), how many windows each clip gives in an epoch
    shard_of: np.ndarray  # (clips,), which shard each lies in, ascending
    seed: int
    shuffle_buffer: int  # clips of shards that are mixed together; 0 keeps clips as they are stored

    @property
    def epoch_length(self) -> int:
        return int(self.num_windows.sum())

    def clips_of(self, epoch: int) -> np.ndarray:
        """Return all clips in the order of an epoch: shards shuffled, clips mixed with those of the next few shards."""
        stored = np.arange(len(self.num_windows))
        if not self.shuffle_buffer:
            return stored
        rng = np.random.default_rng([self.seed, epoch])
        shards = np.split(stored, np.flatnonzero(np.diff(self.shard_of)) + 1)
        ordered, mixed = [], []
        for position, number in enumerate(rng.permutation(len(shards)), start=1):
            mixed += shards[number].tolist()
            if len(mixed) >= self.shuffle_buffer or position == len(shards):
                ordered.append(rng.permutation(mixed))
                mixed = []
        return np.concatenate(ordered)

    def pieces(self, position: int, size: int) -> Iterator[list[Visit]]:
        """Yield the row from a position on in pieces of `size` windows, for ever."""
        epoch, skipped = divmod(position, self.epoch_length)
        piece, room = [], size
        while True:
            clips = self.clips_of(epoch)
            ends = np.cumsum(self.num_windows[clips])
            for rank in range(int(np.searchsorted(ends, skipped, side="right")), len(clips)):
                clip = int(clips[rank])
                last = int(self.num_windows[clip])
                first = max(0, skipped - int(ends[rank] - last))
                while first < last:
                    taken = min(room, last - first)
                    piece.append(Visit(epoch, clip, first, first + taken))
                    first, room = first + taken, room - taken
                    if not room:
                        yield piece
                        piece, room = [], size
            epoch, skipped = epoch + 1, 0

    def one_pass(self, size: int) -> list[list[Visit]]:
        """Return the first epoch in pieces of `size` windows, the last one shorter."""
        pieces = islice(self.pieces(0, size), -(-self.epoch_length // size))
        return [[visit for visit in piece if visit.epoch == 0] for piece in pieces]
