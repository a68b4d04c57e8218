"""Which windows of which clips make up every batch: a pure function of seed, epoch and position.

An epoch is one pass over the data: a row of all windows, another one each time. A step of all ranks takes the next
`world_size * batch_size` of them, so neither ranks nor workers change what has been read after so many windows.
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


class Place(NamedTuple):
    """How far a training has come."""

    epoch: int = 0
    windows: int = 0  # of the epoch that all ranks have taken
    batches: int = 0  # of the epoch that each rank has behind it


@dataclass(frozen=True, kw_only=True)
class WindowOrder:
    """The row of windows of each epoch."""

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

    def pieces(self, epoch: int, taken: int, size: int) -> Iterator[list[Visit]]:
        """Yield what is left of the row of an epoch in pieces of `size` windows, the last one shorter."""
        clips = self.clips_of(epoch)
        ends = np.cumsum(self.num_windows[clips])
        piece, room = [], size
        for place in range(int(np.searchsorted(ends, taken, side="right")), len(clips)):
            clip = int(clips[place])
            last = int(self.num_windows[clip])
            first = max(0, taken - int(ends[place] - last))
            while first < last:
                more = min(room, last - first)
                piece.append(Visit(epoch, clip, first, first + more))
                first, room = first + more, room - more
                if not room:
                    yield piece
                    piece, room = [], size
        if piece:
            yield piece
