"""The one datamodule of all modules; which windows it serves is its `samples` argument."""

import warnings
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.bad_data import BadData, on_all_ranks, what_changed
from lipsync_lightning.data.order import WindowOrder
from lipsync_lightning.data.samples import Samples, to_float
from lipsync_lightning.data.windows import ClipWindows, OnePass, ResumableBatchSampler, collate
from lipsync_lightning.data.worker import prepare_worker
from lipsync_lightning.errors import BadConfig, BrokenShard, ClipTooShort, MissingShards
from lipsync_lightning.shards.format import Shard
from lipsync_lightning.shards.reader import ClipIndex
from lipsync_lightning.shards.remote import RemoteAccess, RemoteStore, is_url
from lipsync_lightning.shards.store import LocalStore, ShardStore, Survey, common_faults, survey

_SHORT_HASH = 16  # hexadecimal digits that tell shards apart


class ClipDataModule(LightningDataModule):
    """Streams windows from a prepared data set: `train` shards for ever, `heldout` shards once a validation.

    The order depends on the seed and on how many windows all ranks have read, not on the number of ranks or workers. Its state in a
    checkpoint is that number, so that a resumed run, on however many ranks, reads exactly what it had not read, and the names and contents
    of the shards, so that it says so if they are no longer the same ones.

    What proves bad is reported each time all windows have been read once, and at the end: a warning for each shard and reason, and the
    figures `data/bad_clips` and `data/bad_shards` in the trainer's loggers, if there were any.
    """

    def __init__(
        self,
        *,
        shards: str,
        clip: ClipSpec,
        samples: Samples,
        batch_size: int,
        num_workers: int,
        seed: int,
        shuffle_buffer: int,
        max_bad_clips: int,
        max_bad_shards: int = 0,
        remote: RemoteAccess | None = None,
        heldout_samples: Samples | None = None,
    ) -> None:
        """Args:
        shards: folder that `prepare` made, or its URL, of any filesystem that fsspec knows.
        batch_size: windows per batch and rank.
        shuffle_buffer: clips of shards that are mixed together; shards are shuffled as a whole.
        max_bad_clips: clips that may prove unreadable in one worker before training stops; until then others stand in.
        max_bad_shards: shards of a split that may be bad; they are left out when work begins, and stood in for when they prove bad later.
        remote: how shards behind a URL are read; not needed for a folder.
        heldout_samples: windows to validate on; None for such as are trained on.
        Raises: BadConfig, if `shards` is a URL and `remote` is missing.
        """
        super().__init__()
        self.shards = shards
        self.store = store_at(shards, remote)
        self.clip = clip
        self.samples = samples
        self.heldout_samples = heldout_samples or samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.max_bad_clips = max_bad_clips
        self.max_bad_shards = max_bad_shards
        self.resumed = {
            "windows_read": 0,
            "global_step": 0,
        }  # by all ranks together, when training began or was resumed
        self.train_shards: dict[str, str] = {}  # content by name, as they were at the last checkpoint, then as they are
        self.bad_data = BadData()
        self.num_left_out = 0
        self.arrived_s = 0.0  # when the newest batch was there, by perf_counter
        self._surveys: dict[str, Survey] = {}

    def require_shards(self, *splits: str) -> None:
        """Raises: MissingShards, BrokenShard or ClipMismatch now, instead of when work has begun, for any of `splits`."""
        for split in splits:
            self._surveys[split] = self._survey(split)
            self._require_few_bad(self._surveys[split])
            if not self._surveys[split].good:
                raise MissingShards(
                    f"{self.shards} holds no {split} clips; the ledger there says what became of each source"
                )

    def clip_index(self, split: str, max_shards: int) -> ClipIndex:
        """Return the clips of at most so many good shards of a split, evenly spread. Raises: MissingShards, ClipMismatch."""
        shards = list(self._survey(split).good.values())
        return self._index_of(shards[:: ceil(len(shards) / max_shards) or 1], split)

    def train_dataloader(self) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        index, num_bad = self._index("train")
        self._tell_changed_shards({shard.name: shard.sha256[:_SHORT_HASH] for shard in index.shards})
        windows, order = self._windows(index, num_bad, self.samples, self.shuffle_buffer)
        self.num_left_out = num_bad
        self.windows_taken, self.epoch_length = self.resumed["windows_read"], order.epoch_length
        batches = ResumableBatchSampler(
            order=order,
            position=self.resumed["windows_read"],
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(windows, batches)

    def val_dataloader(self) -> DataLoader | list:
        index, num_bad = self._index("heldout")
        if not len(index):
            return []
        # Every rank reads all of it: were it divided, ranks with fewer batches would leave the others waiting.
        windows, order = self._windows(index, num_bad, self.heldout_samples, shuffle_buffer=0)
        return self._loader(windows, OnePass(order=order, batch_size=self.batch_size))

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        self.arrived_s = perf_counter()
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Return the batch on its device with frames in [-1, 1] and all numbers in float32, and with what all windows share.

        What it tells of bad clips is taken out and counted.
        """
        self.bad_data.add(batch.get("bad", ()))
        if self.trainer is not None and self.trainer.training:
            self._count_windows(len(batch["id"]) * self.trainer.world_size)
        device = batch["first_frame"].device
        shared = {
            key: value.to(device).expand(len(batch["id"]), *value.shape)
            for key, value in self._samples_in_use().same_for_all.items()
        }
        return {key: _as_floats(value) for key, value in batch.items() if key != "bad"} | shared

    def teardown(self, stage: str) -> None:
        rank = self.trainer.global_rank if self.trainer else 0
        for line in self.bad_data.lines():  # of this rank alone: others may have stopped elsewhere
            warnings.warn(f"bad data at the end, on rank {rank}: {line}", stacklevel=2)
        self.bad_data = BadData()

    def state_dict(self) -> dict[str, Any]:
        """Return how much has been read in optimizer steps that are done: what was read for an unfinished one is read again."""
        read = dict(self.resumed)
        if self.trainer is not None:
            steps = self.trainer.global_step - self.resumed["global_step"]
            windows = steps * self.trainer.accumulate_grad_batches * self.trainer.world_size * self.batch_size
            read = {"windows_read": self.resumed["windows_read"] + windows, "global_step": self.trainer.global_step}
        return {**read, "shards": dict(self.train_shards)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = {key: int(state_dict[key]) for key in self.resumed}
        self.train_shards = dict(state_dict.get("shards", {}))  # older checkpoints do not tell

    def _samples_in_use(self) -> Samples:
        validating = self.trainer is not None and (self.trainer.validating or self.trainer.sanity_checking)
        return self.heldout_samples if validating else self.samples

    def _samples_of(self, split: str) -> Samples:
        return self.samples if split == "train" else self.heldout_samples

    def _survey(self, split: str) -> Survey:
        return survey(self.store, split, self.clip, [*self._samples_of(split).members, *self._samples_of(split).parts])

    def _index(self, split: str) -> tuple[ClipIndex, int]:
        """Return the clips of all good shards, the same on all ranks, and the number of the others. Raises: MissingShards, BrokenShard."""
        found = self._surveys.pop(split, None) or self._survey(split)
        if (
            len(set(on_all_ranks(found.digest))) > 1
        ):  # else no rank has anything to tell, and tables of many shards are large
            found.bad = common_faults(on_all_ranks((found.contents, found.bad)))  # what one rank cannot read none reads
            found.good = {name: shard for name, shard in found.good.items() if name not in found.bad}
        self._require_few_bad(found)
        for name, fault in sorted(found.bad.items()):
            rank_zero_warn(f"left out, {fault.reason}: {name}: {fault}")
        return self._index_of(list(found.good.values()), split), len(found.bad)

    def _index_of(self, shards: list[Shard], split: str) -> ClipIndex:
        samples = self._samples_of(split)
        return ClipIndex(shards, members=samples.members, parts=samples.parts, opened=self.store.opened)

    def _require_few_bad(self, found: Survey) -> None:
        if len(found.bad) > self.max_bad_shards:
            first = found.bad[min(found.bad)]
            raise BrokenShard(
                f"{first} ({len(found.bad)} bad shards, {self.max_bad_shards} allowed by data.max_bad_shards)"
            ) from first
        if found.bad and not found.good:
            raise MissingShards(f"all shards at {self.shards} are bad: {found.bad[min(found.bad)]}")

    def _tell_changed_shards(self, now: dict[str, str]) -> None:
        changed = what_changed(self.train_shards, now) if self.train_shards else None
        if changed:
            rank_zero_warn(
                f"the shards at {self.shards} are not those this run has read until now ({changed}): from here on the order is another, "
                "and of this pass over the data some windows are read twice or not at all"
            )
        self.train_shards = now

    def _count_windows(self, num_windows: int) -> None:
        """Report what was bad when the last batch of a pass is taken."""
        number = self.windows_taken // self.epoch_length + 1
        self.windows_taken += num_windows
        if self.windows_taken // self.epoch_length >= number:
            self._report(number, self.bad_data.merged())
            self.bad_data = BadData()

    @rank_zero_only
    def _report(self, number: int, found: BadData) -> None:
        assert self.trainer is not None
        for line in found.lines():
            warnings.warn(f"bad data in pass {number}: {line}", stacklevel=2)
        if found.num_clips or self.num_left_out:
            for logger in self.trainer.loggers:
                figures = {
                    "data/bad_clips": float(found.num_clips),
                    "data/bad_shards": float(self.num_left_out + len(found.shards)),
                }
                logger.log_metrics(figures, step=self.trainer.global_step)

    def _windows(
        self, index: ClipIndex, num_bad: int, samples: Samples, shuffle_buffer: int
    ) -> tuple[ClipWindows, WindowOrder]:
        if not len(index):
            raise MissingShards(f"{self.shards} holds no train clips; the ledger there says what became of each source")
        lengths, which = np.unique(index.num_frames, return_inverse=True)
        num_windows = np.array([samples.num_windows(int(length)) for length in lengths])[which]
        num_short = int((num_windows == 0).sum())
        if num_short == len(index):
            raise ClipTooShort(
                f"all {num_short} clips at {self.shards} are too short: the longest has {lengths.max()} frames, windows have "
                f"{self.clip.num_frames} (the U-Net stages need two of them); prepare with longer min_seconds"
            )
        if num_short:
            rank_zero_warn(
                f"{num_short} of {len(index)} clips at {self.shards} are too short for a window and are left out"
            )
        windows = ClipWindows(
            index=index,
            samples=samples,
            num_windows=num_windows,
            seed=self.seed,
            max_bad_clips=self.max_bad_clips,
            max_bad_shards=self.max_bad_shards,
            num_bad_shards=num_bad,
        )
        return windows, WindowOrder(
            num_windows=num_windows, shard_of=index.shard_of, seed=self.seed, shuffle_buffer=shuffle_buffer
        )

    def _loader(self, windows: ClipWindows, batches: Sampler) -> DataLoader:
        return DataLoader(
            windows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=prepare_worker,
        )


def store_at(shards: str, remote: RemoteAccess | None) -> ShardStore:
    """Return the shards in a folder or behind a URL. Raises: BadConfig, if it is a URL and `remote` is missing."""
    if not is_url(shards):
        return LocalStore(shards)
    if remote is None:
        raise BadConfig(f"data.shards={shards} is a URL; say in data.remote how it is read, as conf/data/*.yaml do")
    return RemoteStore(shards, remote)


def _as_floats(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return to_float(value) if value.dtype == torch.uint8 else value.float() if value.dtype == torch.float16 else value
