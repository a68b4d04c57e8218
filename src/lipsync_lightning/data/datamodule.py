"""The one datamodule of all modules; which windows it serves is its `samples` argument."""

from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.samples import Samples, to_float
from lipsync_lightning.data.stream import WindowStream
from lipsync_lightning.errors import MissingShards
from lipsync_lightning.preparation.shards import Shard, find_shards


class ClipDataModule(LightningDataModule):
    """Streams windows from a prepared data set: `train` shards for ever, `heldout` shards once a validation."""

    def __init__(
        self, *, shards: str, clip: ClipSpec, samples: Samples, batch_size: int, num_workers: int, seed: int, shuffle_buffer: int
    ) -> None:
        """Args:
        shards: folder that `prepare` made.
        batch_size: windows per batch and rank.
        """
        super().__init__()
        self.shards = shards
        self.clip = clip
        self.samples = samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.first_epoch = 0

    def require_shards(self, *splits: str) -> None:
        """Raises: MissingShards, BrokenShard or ClipMismatch now, instead of when work has begun, for any of `splits`."""
        for split in splits:
            if not self._split(split):
                raise MissingShards(f"{self.shards} holds no {split} clips; {self.shards}/ledger.jsonl says what became of each source")

    def train_dataloader(self) -> DataLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        stream = self._stream(
            self._split("train"),
            first_epoch=self.first_epoch,
            num_epochs=None,
            shuffle_buffer=self.shuffle_buffer,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(stream, drop_last=True)

    def val_dataloader(self) -> DataLoader | list:
        shards = self._split("heldout")
        if not shards:
            return []
        # Every rank reads all of it: were it divided, ranks with fewer batches would leave the others waiting.
        return self._loader(self._stream(shards, first_epoch=0, num_epochs=1, shuffle_buffer=0, rank=0, world_size=1), drop_last=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Return the batch with its frames as float in [-1, 1]."""
        pictures = {key: to_float(value) for key, value in batch.items() if isinstance(value, torch.Tensor) and value.dtype == torch.uint8}
        return batch | pictures

    def state_dict(self) -> dict[str, Any]:
        return {"global_step": self.trainer.global_step if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run goes on in an order it has not read yet, instead of repeating the first epochs."""
        self.first_epoch = int(state_dict["global_step"])

    def _split(self, split: str) -> list[Shard]:
        return find_shards(self.shards, split, self.clip)

    def _stream(self, shards: list[Shard], **order: Any) -> WindowStream:
        return WindowStream(shards=shards, samples=self.samples, seed=self.seed, **order)

    def _loader(self, stream: WindowStream, *, drop_last: bool) -> DataLoader:
        return DataLoader(
            stream,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_use_one_thread,
        )


def _use_one_thread(worker_id: int) -> None:
    torch.set_num_threads(1)
