"""Which windows of which clips make up every batch: a pure function of seed, epoch and position.

An epoch is one pass over the data: a row of all windows, another one each time. A step of all ranks takes the next
`world_size * batch_size` of them, so neither ranks nor workers change what has been read after so many windows.

With shares of data sets an epoch lasts until one set is used up, and has a part of each of the others, another one each
time. Their clips take turns, so that any stretch of the row has nearly these shares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    """The row of windows of each epoch. With shares shards are shuffled whatever `shuffle_buffer` is."""

    num_windows: np.ndarray  # (clips,), how many windows each clip gives in an epoch
    shard_of: np.ndarray  # (clips,), which shard each lies in, ascending
    seed: int
    shuffle_buffer: int  # clips of shards that are mixed together; 0 keeps clips as they are stored
    set_of: np.ndarray | None = None  # (clips,), which data set each is of; None if there is one
    shares: Sequence[float] | None = None  # of an epoch, by data set; None: all that there is

    @property
    def epoch_length(self) -> int:
        return int(self.num_windows.sum() if self.shares is None else self._windows_of_sets.sum())

    @property
    def _windows_of_sets(self) -> np.ndarray:
        shares = np.array(self.shares)
        there = np.bincount(self.set_of, self.num_windows, minlength=len(shares))  # pyright: ignore[reportArgumentType]
        wanted = (there / shares).min() * shares + 1e-6  # of the set that is used up: all, in spite of rounding
        return np.minimum(there, wanted).astype(np.int64)

    def clips_of(self, epoch: int) -> np.ndarray:
        """Return all clips in the order of an epoch: shards shuffled, clips mixed with those of the next few shards."""
        stored = np.arange(len(self.num_windows))
        buffer = self.shuffle_buffer or int(self.shares is not None)
        if not buffer:
            return stored
        rng = np.random.default_rng([self.seed, epoch])
        shards = np.split(stored, np.flatnonzero(np.diff(self.shard_of)) + 1)
        ordered, mixed = [], []
        for position, number in enumerate(rng.permutation(len(shards)), start=1):
            mixed += shards[number].tolist()
            if len(mixed) >= buffer or position == len(shards):
                ordered.append(rng.permutation(mixed))
                mixed = []
        return np.concatenate(ordered)

    def row(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clips of an epoch in their order, and how many of each one's windows it has."""
        clips = self.clips_of(epoch)
        numbers = self.num_windows[clips]
        if self.shares is None or self.set_of is None:
            return clips, numbers
        middles = np.ones(len(clips))  # of each clip's windows among those of its set, from 0 to 1
        for number, wanted in enumerate(self._windows_of_sets):
            own = np.flatnonzero(self.set_of[clips] == number)
            before = np.cumsum(numbers[own]) - numbers[own]
            numbers[own] = np.clip(wanted - before, 0, numbers[own])
            middles[own] = (before + numbers[own] / 2) / max(wanted, 1)
        turns = np.argsort(middles, kind="stable")
        turns = turns[numbers[turns] > 0]
        return clips[turns], numbers[turns]

    def pieces(self, epoch: int, taken: int, size: int) -> Iterator[list[Visit]]:
        """Yield what is left of the row of an epoch in pieces of `size` windows, the last one shorter."""
        clips, numbers = self.row(epoch)
        ends = np.cumsum(numbers)
        piece, room = [], size
        for place in range(int(np.searchsorted(ends, taken, side="right")), len(clips)):
            clip = int(clips[place])
            last = int(numbers[place])
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

    def pieces_of_sets(self, size: int) -> list[list[Visit]]:
        """Return all windows as they are stored, in pieces of one data set each, those of all sets taking turns."""
        turns: list[tuple[float, list[Visit]]] = []
        for number in (0,) if self.set_of is None else np.unique(self.set_of):
            own = self.num_windows if self.set_of is None else np.where(self.set_of == number, self.num_windows, 0)
            pieces = list(replace(self, num_windows=own, shuffle_buffer=0, shares=None).pieces(0, 0, size))
            turns += [((place + 0.5) / len(pieces), piece) for place, piece in enumerate(pieces)]
        return [piece for _, piece in sorted(turns, key=lambda turn: turn[0])]
