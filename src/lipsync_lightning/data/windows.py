"""Visits of clips become batches of windows."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from lipsync_lightning.data.order import Place, Visit, WindowOrder
from lipsync_lightning.data.samples import Samples, Window
from lipsync_lightning.errors import BadMedia, BrokenShard, ClipTooShort
from lipsync_lightning.shards.reader import ClipIndex


class ClipWindows(Dataset):
    """The windows of a visit. For each window of a clip that cannot be read, a certain one of another clip stands in.

    The first window of what is returned then brings `bad`: the bad clip's key and the reason. Of several data sets each
    window brings its own one's name as `set`, and what stands in is of the same one.
    """

    def __init__(
        self,
        *,
        index: ClipIndex,
        samples: Samples,
        seed: int,
        max_bad_clips: int,
        set_of: np.ndarray | None = None,
        set_names: Sequence[str] = (),
    ) -> None:
        """Args:
        max_bad_clips: after so many, in one worker, the next one is an error.
        set_of: (clips,), which of several data sets each clip is of.
        """
        self.index = index
        self.set_of = np.zeros(len(index), np.int64) if set_of is None else set_of
        self.set_names = set_names
        self.samples = samples
        lengths, which = np.unique(index.num_frames, return_inverse=True)
        per_length = np.array([samples.num_windows(int(length)) for length in lengths], np.int64)
        self.num_windows = per_length[which]  # by clip
        self.seed = seed
        self.max_bad_clips = max_bad_clips
        self.bad_clips: dict[int, str] = {}  # reason by number

    def __getitem__(self, visit: Visit) -> list[Window]:
        """Return the visit's windows. Raises: BrokenShard, if more clips than allowed cannot be read."""
        windows = self._read(visit)
        if windows is None:
            windows = [self._stand_in(visit.epoch, visit.clip, number) for number in range(visit.first, visit.last)]
            key = "/".join([*self._told_of_set(visit.clip).values(), str(self.index.keys[visit.clip])])
            windows[0]["bad"] = (key, self.bad_clips[visit.clip])
        return windows

    def _told_of_set(self, clip: int) -> dict[str, str]:
        """Return the name of a clip's data set as `set`, and nothing if there is one."""
        return {"set": self.set_names[int(self.set_of[clip])]} if self.set_names else {}

    def _stand_in(self, epoch: int, clip: int, number: int) -> Window:
        """Return a window instead of one: which, depends on nothing but that window, so any worker takes the same."""
        able = np.flatnonzero((self.num_windows > number) & (self.set_of == self.set_of[clip]))
        for other in np.random.default_rng([self.seed, epoch, clip, number]).permutation(able):
            windows = self._read(Visit(epoch, int(other), number, number + 1))
            if windows is not None:
                return windows[0]
        of_set = "".join(f" of {name}" for name in self._told_of_set(clip).values())
        raise BrokenShard(f"none of {len(self.index)} clips{of_set} can be read; run `prepare` again")

    def _read(self, visit: Visit) -> list[Window] | None:
        if visit.clip in self.bad_clips:
            return None
        key = str(self.index.keys[visit.clip])
        own = [self.seed, visit.epoch, crc32(key.encode(), int(self.set_of[visit.clip]))]  # sets may have equal keys
        try:
            sample = self.index.read(visit.clip)
            windows = self.samples(sample, np.random.default_rng(own), range(visit.first, visit.last))
        except (BadMedia, BrokenShard, ClipTooShort) as error:
            self.bad_clips[visit.clip] = getattr(error, "reason", "undecodable")
            location = self.index.shards[self.index.shard_of[visit.clip]].location
            message = str(error) if key in str(error) else f"{key} in {location}: {error}"
            if len(self.bad_clips) > self.max_bad_clips:
                raise BrokenShard(f"{message} (more than data.max_bad_clips allows)") from error
            warnings.warn(f"left out, another clip stands in: {message}", stacklevel=2)
            return None
        more = self._told_of_set(visit.clip)
        return [
            window | more | {"seed": window_seed([*own, number])} for number, window in enumerate(windows, visit.first)
        ]


class EpochBatches(Sampler[list[Visit]]):
    """What each batch of one rank holds, for ever: epoch after epoch, each as long as the others."""

    def __init__(
        self,
        *,
        order: WindowOrder,
        place: Place,
        whole: int,
        length: int,
        repeats: bool,
        batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Args:
        place: where the first epoch begins.
        whole: batches that a pass over the data has.
        length: batches of an epoch, that many or fewer; the windows after them are left out, others each time.
        repeats: the same epoch again and again, to overfit.
        """
        self.order, self.place, self.whole, self.length, self.repeats = order, place, whole, length, repeats
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[Visit]]:
        epoch, taken, done = self.place
        while True:
            pieces = self.order.pieces(epoch, taken, self.batch_size)
            yield from islice(pieces, self.rank, (self.length - done) * self.world_size, self.world_size)
            epoch, taken, done = epoch + (not self.repeats), 0, 0


class EpochLoader(DataLoader):
    """Gives one epoch each time it is iterated over, while its workers go on with the next."""

    batch_sampler: EpochBatches

    def __len__(self) -> int:
        """Return the batches of a whole pass, of which Lightning takes what its limit says."""
        return self.batch_sampler.whole

    def __iter__(self) -> Any:
        if not hasattr(self, "batches"):
            self.batches, self.given = super().__iter__(), self.batch_sampler.place.batches
        number, length = self.given, self.batch_sampler.length
        while number < length:
            number += 1
            self.given = number % length  # now: nobody asks for what comes after the last batch
            yield next(self.batches)


def collate(visits: Sequence[list[Window]]) -> dict[str, Any]:
    """Return the batch of the windows of several visits, with a list `bad` of keys and reasons if others stand in.

    What is `heard` stays a list too, for it may be longer in one window than in another.
    """
    windows = list(chain.from_iterable(visits))
    lists = {key: [window.pop(key) for window in windows if key in window] for key in ("bad", "heard")}
    return default_collate(windows) | {key: values for key, values in lists.items() if values}


def window_seed(entropy: list[int]) -> int:
    """Return a seed that fits an int64 for what is drawn of one window: of run, epoch, clip and number."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(2))  # 62 bits
