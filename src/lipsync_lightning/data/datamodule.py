"""The one datamodule of all modules; which windows it serves is its `samples` argument."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from math import ceil
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lipsync_lightning.clip import ClipSpec
from lipsync_lightning.data.order import Place, Visit, WindowOrder
from lipsync_lightning.data.samples import Samples
from lipsync_lightning.data.sets import DataSets, contents_of, on_all_ranks
from lipsync_lightning.data.windows import ClipWindows, EpochBatches, EpochLoader, collate
from lipsync_lightning.data.worker import prepare_worker
from lipsync_lightning.errors import BadConfig, ClipTooShort
from lipsync_lightning.media.frames import to_float
from lipsync_lightning.shards.format import Sidecar
from lipsync_lightning.shards.reader import ClipIndex, RemoteAccess


class ClipDataModule(LightningDataModule):
    """Streams windows from prepared data sets: `train` shards once an epoch, `heldout` shards once a validation.

    An epoch has as many whole optimizer steps as the windows suffice for; what is left is left out, others each time.
    So no step sees two windows of one place, and an epoch has as many batches as Lightning says.

    The order depends on the seed, the epoch and on how many of its windows all ranks have read, not on the number of
    ranks or workers. The state in a checkpoint is that, so a resumed run, on however many ranks, reads exactly what it
    had not read, and the names and contents of the shards, so it warns if they changed.

    Several sets are read as one, or each has its share of every epoch, see `WindowOrder`. Then batches bring the names
    of their windows' sets as `set`; those of held-out windows are of one set each.

    When an epoch ends, clips that could not be read are counted by reason in a warning, and as `data/bad_clips` in the
    trainer's loggers, if there were any.
    """

    def __init__(
        self,
        *,
        shards: str | Sequence[str] | Mapping[str, float],
        clip: ClipSpec,
        samples: Samples,
        batch_size: int,
        num_workers: int = 8,
        seed: int = 1,
        shuffle_buffer: int = 128,
        max_bad_clips: int = 100,
        max_bad_shards: int = 0,
        remote: RemoteAccess | None = None,
        heldout_samples: Samples | None = None,
    ) -> None:
        """Args:
        shards: folder that `prepare` made, or its URL, of any filesystem that fsspec knows; several; or their shares.
        batch_size: windows per batch and rank.
        shuffle_buffer: clips of shards that are mixed together; shards are shuffled as a whole.
        max_bad_clips: clips that one worker may find unreadable before training stops; until then others stand in.
        max_bad_shards: shards of a split that may be bad when work begins, and are left out.
        heldout_samples: windows to validate on; None for such as are trained on.
        Raises: BadConfig.
        """
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            told = f"data.batch_size={batch_size} data.num_workers={num_workers}"
            raise BadConfig(f"{told}: give 1 or more windows, and 0 or more workers")
        self.sets = DataSets(shards, clip=clip, max_bad_shards=max_bad_shards)
        self.clip = clip
        self.samples = samples
        self.heldout_samples = heldout_samples or samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.max_bad_clips = max_bad_clips
        self.remote = remote
        self.resumed = (0, 0)  # epoch, and how many of its windows all ranks had read when training began again
        self.train_shards: dict[str, str] = {}  # content by name, as they were at the last checkpoint, then as they are
        self.bad_clips: set[tuple[str, str]] = set()  # keys and reasons, of this pass, on this rank
        self._copies: dict[tuple[Any, torch.device], Any] = {}  # on devices

    def require_shards(self, split: str) -> None:
        """Raises: MissingShards, BrokenShard or ClipMismatch now, instead of when work has begun."""
        self.sets.require(split, self._members(split))

    def clip_index(self, split: str, max_shards: int) -> ClipIndex:
        """Return the clips of at most so many good shards, evenly spread. Raises: MissingShards, ClipMismatch."""
        shards = list(self.sets.survey(split, self._members(split))[0].values())
        return self._index(shards[:: ceil(len(shards) / max_shards) or 1], split)

    def train_dataloader(self) -> DataLoader:
        windows, order = self._training_windows
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        whole = self._whole_steps(order.epoch_length)
        batches = EpochBatches(
            order=order,
            place=self.begun,
            whole=whole,
            length=self._limited(whole),
            repeats=getattr(self.trainer, "overfit_batches", 0) > 0,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(EpochLoader, windows, batches)

    @cached_property
    def begun(self) -> Place:
        """Where training begins, or began again: at the next epoch if what is left of this one is less than a step.

        Raises: BadConfig, if an epoch is less than a step; as `require_shards`.
        """
        epoch, taken = self.resumed
        _, order = self._training_windows
        whole, left = (self._whole_steps(number) for number in (order.epoch_length, order.epoch_length - taken))
        if not whole:
            ranks, batches = self._ranks_and_batches
            told = f"a step takes {ranks} times data.batch_size={self.batch_size} windows"
            told += f" times trainer.accumulate_grad_batches={batches}"
            way_out = "give fewer, or raise data.samples.windows_per_clip"
            raise BadConfig(f"{told}, and {self.sets} has {order.epoch_length} in all; {way_out}")
        if taken and whole - left < self._limited(whole):
            return Place(epoch, taken, whole - left)
        return Place(epoch + bool(taken))

    @cached_property
    def _training_windows(self) -> tuple[ClipWindows, WindowOrder]:
        shards = self.sets.agreed("train", self._members("train"))
        self._warn_if_shards_changed(contents_of(shards))
        return self._windows(list(shards.values()), "train", self.shuffle_buffer, self.sets.shares)

    @property
    def _ranks_and_batches(self) -> tuple[int, int]:
        """How many processes and batches of each make up a step."""
        return (self.trainer.world_size, self.trainer.accumulate_grad_batches) if self.trainer else (1, 1)

    def _whole_steps(self, num_windows: int) -> int:
        """Return the batches of each rank in as many optimizer steps as so many windows suffice for."""
        ranks, batches = self._ranks_and_batches
        return num_windows // (self.batch_size * ranks * batches) * batches

    def _limited(self, num_batches: int) -> int:
        """Return what `trainer.limit_train_batches` leaves of an epoch's batches."""
        limit = self.trainer.limit_train_batches if self.trainer else 1.0
        return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)

    def val_dataloader(self) -> DataLoader | list:
        shards = self.sets.agreed("heldout", self._members("heldout"))
        if not shards:
            way_out = "hold some out by recipe.split.num_heldout= or recipe.heldout_end= of `prepare`"
            rank_zero_warn(f"nothing is validated: {self.sets} holds no heldout clips; {way_out}")
            return []
        # Every rank reads all of it: were it divided, ranks with fewer batches would leave the others waiting.
        windows, order = self._windows(list(shards.values()), "heldout", shuffle_buffer=0)
        return self._loader(DataLoader, windows, order.pieces_of_sets(self.batch_size))

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Return the batch on the device, but for the seeds, which are read on the host."""
        return {**super().transfer_batch_to_device(batch, device, dataloader_idx), "seed": batch["seed"]}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Return the batch with frames in [-1, 1], all numbers in float32, and with what all windows share.

        Audio tokens are made of what is heard. What it tells of bad clips is taken out and counted.
        """
        self.bad_clips.update(batch.pop("bad", ()))
        batch_size, device = len(batch["id"]), batch["first_frame"].device
        validating = self.trainer is not None and (self.trainer.validating or self.trainer.sanity_checking)
        samples: Any = self.heldout_samples if validating else self.samples
        if self.trainer is not None and self.trainer.training:
            if self.trainer.is_last_batch:
                self._tell_bad_clips()
            if samples.augment is not None:
                batch = samples.augment(batch, samples.pictures, samples.sounds)
        if "heard" in batch:
            batch["audio"] = self._placed(samples.audio_encoder, device).tokens_heard(batch.pop("heard"))
        for key, value in batch.items():
            if isinstance(value, torch.Tensor) and value.dtype in (torch.uint8, torch.float16):
                batch[key] = to_float(value) if value.dtype == torch.uint8 else value.float()
        return batch | {
            key: self._placed(value, device).expand(batch_size, *value.shape)
            for key, value in samples.same_for_all.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what was read in optimizer steps that are done; what was read for an unfinished one is read again."""
        trainer: Any = self.trainer
        loop = trainer.fit_loop
        epoch, done = max(loop.epoch_progress.current.ready - 1, 0), loop.epoch_loop.batch_progress.current.processed
        taken = 0
        if done >= trainer.num_training_batches:
            epoch += 1
        else:
            _, windows, batches = self.begun if epoch == self.begun.epoch else Place()
            done -= done % trainer.accumulate_grad_batches
            taken = windows + (done - batches) * trainer.world_size * self.batch_size
        return {"epoch": epoch, "windows": taken, "shards": dict(self.train_shards)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises: BadConfig, for the state of a version that counted otherwise."""
        if "epoch" not in state_dict:
            told = "this checkpoint is of an older version, which counted what it read otherwise"
            raise BadConfig(f"{told}; start a new run from its weights with init_from=")
        self.resumed = int(state_dict["epoch"]), int(state_dict["windows"])
        self.train_shards = dict(state_dict["shards"])

    def _placed(self, own: Any, device: torch.device) -> Any:
        """Return a copy on the device, made once; data workers that are yet to start need the original where it is."""
        if (own, device) not in self._copies:
            self._copies[own, device] = deepcopy(own).to(device=device)
        return self._copies[own, device]

    def _samples(self, split: str) -> Samples:
        return self.samples if split == "train" else self.heldout_samples

    def _members(self, split: str) -> list[str]:
        samples = self._samples(split)
        return [*samples.members, *samples.parts]

    def _index(self, shards: list[Sidecar], split: str) -> ClipIndex:
        samples = self._samples(split)
        return ClipIndex(shards, members=samples.members, parts=samples.parts, remote=self.remote)

    def _warn_if_shards_changed(self, contents: dict[str, str]) -> None:
        before, self.train_shards = self.train_shards, contents
        differing = sorted(dict(before.items() ^ self.train_shards.items()))
        if before and differing:
            told = f"The shards changed since the checkpoint ({len(differing)} of them, such as {differing[0]})"
            rank_zero_warn(f"{told}: some windows may be repeated or skipped")

    def _windows(
        self, shards: list[Sidecar], split: str, shuffle_buffer: int, shares: Sequence[float] | None = None
    ) -> tuple[ClipWindows, WindowOrder]:
        index = self._index(shards, split)
        set_of = self.sets.numbers(shards)[index.shard_of]
        windows = ClipWindows(
            index=index,
            samples=self._samples(split),
            seed=self.seed,
            max_bad_clips=self.max_bad_clips,
            set_of=set_of,
            set_names=self.sets.names if len(self.sets.names) > 1 else (),
        )
        num_windows = windows.num_windows
        num_short = int((num_windows == 0).sum())
        if num_short == len(num_windows):
            longest, wanted = index.num_frames.max(initial=0), f"{self.clip.num_frames} (the U-Net stages need two)"
            told = f"all {num_short} clips at {self.sets} are too short: the longest has {longest} frames"
            raise ClipTooShort(f"{told}, windows have {wanted}; prepare longer clips")
        if num_short:
            rank_zero_warn(f"left out, too short for a window: {num_short} of the clips at {self.sets}")
        return windows, WindowOrder(
            num_windows=num_windows,
            shard_of=index.shard_of,
            seed=self.seed,
            shuffle_buffer=shuffle_buffer,
            set_of=set_of,
            shares=shares,
        )

    def _loader(self, kind: type[DataLoader], windows: ClipWindows, batches: Iterable[list[Visit]]) -> DataLoader:
        return kind(
            windows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=prepare_worker,
        )

    def _tell_bad_clips(self) -> None:
        assert self.trainer is not None
        bad = set().union(*on_all_ranks(self.bad_clips))
        self.bad_clips = set()
        if not bad:
            return
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(r for _, r in bad).items()))
        number = self.trainer.current_epoch + 1
        rank_zero_warn(f"pass {number} over the data: others stood in for clips that cannot be read: {told}")
        for logger in self.trainer.loggers:
            logger.log_metrics({"data/bad_clips": float(len(bad))}, step=self.trainer.global_step)
