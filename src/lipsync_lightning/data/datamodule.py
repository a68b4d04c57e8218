"""The one datamodule of all modules; which windows it serves is its `samples` argument."""

import warnings
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.index import ClipIndex
from lipsync_lightning.data.order import WindowOrder
from lipsync_lightning.data.samples import Samples, to_float
from lipsync_lightning.data.windows import ClipWindows, EndlessBatches, OnePass, collate
from lipsync_lightning.data.worker import prepare_worker
from lipsync_lightning.errors import ClipTooShort, MissingShards
from lipsync_lightning.preparation.shards import Shard, find_shards


class ClipDataModule(LightningDataModule):
    """Streams windows from a prepared data set: `train` shards for ever, `heldout` shards once a validation.

    The order depends on the seed and on how many windows all ranks have read, not on the number of ranks or workers. Its state in a
    checkpoint is that number, so that a resumed run, on however many ranks, reads exactly what it had not read.
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
        heldout_samples: Samples | None = None,
    ) -> None:
        """Args:
        shards: folder that `prepare` made.
        batch_size: windows per batch and rank.
        shuffle_buffer: clips of shards that are mixed together; shards are shuffled as a whole.
        max_bad_clips: clips that may prove unreadable in one worker before training stops; until then others stand in.
        heldout_samples: windows to validate on; None for such as are trained on.
        """
        super().__init__()
        self.shards = shards
        self.clip = clip
        self.samples = samples
        self.heldout_samples = heldout_samples or samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.max_bad_clips = max_bad_clips
        self.resumed = {"windows_read": 0, "global_step": 0}  # by all ranks together, when training began or was resumed

    def require_shards(self, *splits: str) -> None:
        """Raises: MissingShards, BrokenShard or ClipMismatch now, instead of when work has begun, for any of `splits`."""
        for split in splits:
            if not self._split(split):
                raise MissingShards(f"{self.shards} holds no {split} clips; {self.shards}/ledger.jsonl says what became of each source")

    def train_dataloader(self) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        windows, order = self._windows(self._split("train"), self.samples, self.shuffle_buffer)
        batches = EndlessBatches(
            order=order, position=self.resumed["windows_read"], batch_size=self.batch_size, rank=rank, world_size=world_size
        )
        return self._loader(windows, batches)

    def val_dataloader(self) -> DataLoader | list:
        shards = self._split("heldout")
        if not shards:
            return []
        # Every rank reads all of it: were it divided, ranks with fewer batches would leave the others waiting.
        windows, order = self._windows(shards, self.heldout_samples, shuffle_buffer=0)
        return self._loader(windows, OnePass(order=order, batch_size=self.batch_size))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Return the batch with its frames as float in [-1, 1]."""
        pictures = {key: to_float(value) for key, value in batch.items() if isinstance(value, torch.Tensor) and value.dtype == torch.uint8}
        return batch | pictures

    def state_dict(self) -> dict[str, Any]:
        """Return how much has been read in optimizer steps that are done: what was read for an unfinished one is read again."""
        if self.trainer is None:
            return dict(self.resumed)
        steps = self.trainer.global_step - self.resumed["global_step"]
        windows = steps * self.trainer.accumulate_grad_batches * self.trainer.world_size * self.batch_size
        return {"windows_read": self.resumed["windows_read"] + windows, "global_step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = {key: int(state_dict[key]) for key in self.resumed}

    def _split(self, split: str) -> list[Shard]:
        return find_shards(self.shards, split, self.clip)

    def _windows(self, shards: list[Shard], samples: Samples, shuffle_buffer: int) -> tuple[ClipWindows, WindowOrder]:
        index = ClipIndex(shards)
        lengths, which = np.unique(index.num_frames, return_inverse=True)
        num_windows = np.array([samples.num_windows(int(length)) for length in lengths])[which]
        num_short = int((num_windows == 0).sum())
        if num_short == len(index):
            raise ClipTooShort(
                f"all {num_short} clips at {self.shards} are too short: the longest has {lengths.max()} frames, windows have "
                f"{self.clip.num_frames} (the U-Net stages need two of them); prepare with longer min_seconds"
            )
        if num_short:
            warnings.warn(f"{num_short} of {len(index)} clips at {self.shards} are too short for a window and are left out", stacklevel=2)
        windows = ClipWindows(index=index, samples=samples, num_windows=num_windows, seed=self.seed, max_bad_clips=self.max_bad_clips)
        return windows, WindowOrder(num_windows=num_windows, shard_of=index.shard_of, seed=self.seed, shuffle_buffer=shuffle_buffer)

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
