"""The stream of windows out of webdataset shards: different every epoch, the same for the same seed, each sample read by one consumer."""

import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.filters import shuffle
from webdataset.tariterators import tarfile_samples

from lipsync_lightning.data.samples import Samples, Window
from lipsync_lightning.errors import BadMedia, BrokenShard, MissingShards
from lipsync_lightning.preparation.shards import Shard


def share_of(consumer: int, num_consumers: int, num_shards: int) -> list[tuple[int, int, int]]:
    """Return what one consumer (a worker of a rank) reads: (shard, part, parts), meaning samples with index % parts == part.

    Where there are fewer shards than consumers, several consumers share a shard; webdataset's own splitters would raise.
    """
    if num_shards >= num_consumers:
        return [(shard, 0, 1) for shard in range(consumer, num_shards, num_consumers)]
    shard = consumer % num_shards
    sharers = (num_consumers - 1 - shard) // num_shards + 1
    return [(shard, consumer // num_shards, sharers)]


class WindowStream(IterableDataset):
    """Windows of shuffled clips of shuffled shards, for ever or for one pass."""

    def __init__(
        self,
        *,
        shards: Sequence[Shard],
        samples: Samples,
        seed: int,
        first_epoch: int,
        num_epochs: int | None,
        shuffle_buffer: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Args:
        first_epoch: which order to begin with; another number is another order.
        num_epochs: None streams for ever.
        shuffle_buffer: clips held undecoded to draw from; 0 keeps the order of the shards.
        """
        self.shards = list(shards)
        self.samples = samples
        self.seed = seed
        self.epochs = range(first_epoch, first_epoch + num_epochs) if num_epochs is not None else count(first_epoch)
        self.shuffle_buffer = shuffle_buffer
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Window]:
        worker = get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        consumer, num_consumers = self.rank * num_workers + worker_id, self.world_size * num_workers
        if isinstance(self.epochs, count):
            self._require_clips_for_ever(consumer, num_consumers)
        for epoch in self.epochs:
            yield from self._one_epoch(epoch, consumer, num_consumers)

    def _require_clips_for_ever(self, consumer: int, num_consumers: int) -> None:
        """Raises: MissingShards, if this consumer would never be given a clip and so look for one for ever."""
        _, part, _ = share_of(consumer, num_consumers, len(self.shards))[0]
        if part >= max(shard.num_samples for shard in self.shards):
            raise MissingShards(
                f"{sum(shard.num_samples for shard in self.shards)} clips in {len(self.shards)} shards at {self.shards[0].path.parent} "
                f"are too few for {num_consumers} data workers; lower data.num_workers or prepare more"
            )

    def _one_epoch(self, epoch: int, consumer: int, num_consumers: int) -> Iterator[Window]:
        shards = list(self.shards)
        if self.shuffle_buffer:
            random.Random(f"{self.seed}/{epoch}").shuffle(shards)
        shares = share_of(consumer, num_consumers, len(shards))
        clips: Iterable[dict[str, Any]] = (clip for index, part, parts in shares for clip in _part_of(shards[index], part, parts))
        if self.shuffle_buffer:
            clips = shuffle(self.shuffle_buffer, rng=random.Random(f"{self.seed}/{epoch}/{consumer}"))(clips)
        for clip in clips:
            rng = np.random.default_rng([self.seed, epoch, crc32(clip["__key__"].encode())])
            try:
                yield from self.samples(clip, rng)
            except BadMedia as error:  # which only knows the bytes it was given
                raise BrokenShard(f"{clip['__key__']} in {clip['__url__']}: {error}") from error


def _part_of(shard: Shard, part: int, parts: int) -> Iterator[dict[str, Any]]:
    try:
        archive = tarfile_samples([{"url": str(shard.path)}])
        yield from (clip for index, clip in enumerate(archive) if index % parts == part)
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        # webdataset appends its own objects to the arguments; the first one is the reason
        raise BrokenShard(f"{shard.path} cannot be read: {error.args[0]}; delete it and run `prepare` again") from error
