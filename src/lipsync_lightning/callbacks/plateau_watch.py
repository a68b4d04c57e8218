"""Says so when SyncNet learns nothing, with the likely causes and what was measured of each."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lipsync_lightning.clip import WindowBatch
from lipsync_lightning.data.datamodule import ClipDataModule
from lipsync_lightning.data.diagnosis import MAX_LAG, OffsetHistogram, SoundCheck, offset_histogram, sound_duplicates
from lipsync_lightning.errors import BadConfig, LipSyncError
from lipsync_lightning.modules.syncnet import SyncNetModule

_NUM_CLIPS = 64  # measured
_NUM_SHARDS = 16  # they come from: opening all shards of a large data set takes minutes
_SMOOTHING_STEPS = 10  # time constant of the exponential mean
_READ_EVERY = 20  # steps whose losses wait on the device, since reading one stops it
_TOLERATED_OFFSET = 2  # frames; a network-free estimate on real faces is no better
_TOLERATED_SHARE = 0.1  # of clips without a sound of their own
_ENOUGH_CLIPS = (
    32  # for "the sound does not fit the lips" to mean anything; on 13 real clips in step it said so wrongly
)
_PUBLISHED_BATCH = 1024  # LatentSync (arXiv 2412.09262): 1024 was best, 128 stayed at chance with cross-entropy
_PUBLISHED_RATE = 1e-5  # the same, AdamW
_ABOVE_CHANCE = 5  # margins by which a loss that learns nothing may lie above chance: similarities that mean nothing cost more than equal ones
_CHANCE_AUC = 0.6  # held out; a handful of clips scatter that far around 0.5
_GOOD_AUC = 0.75  # held out; a SyncNet of 0.98 came to 0.76 and 0.80 when the sound was shifted by 3 frames either way
_WORTH_TELLING = 2  # frames between lips and the sound that fits them best
_FEW = 3
_SHIFT_THE_SOUND = "shift the sound of the raw videos until its offset is 0 and run `prepare` again"
_STATE = (
    "smoothed",
    "steps_at_chance",
    "told",
    "told_of_offset",
    "data_measured",
    "heldout_at_chance_since",
    "match_elsewhere",
)


@runtime_checkable
class KnowsChance(Protocol):
    """An objective that knows what guessing costs."""

    def chance(self, num_pairs: int) -> float: ...


class Certainty(IntEnum):
    """How sure it is that something keeps SyncNet from learning."""

    FOUND = 0
    SUSPECTED = 1
    POSSIBLE = 2
    UNLIKELY = 3


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Something that may keep SyncNet from learning."""

    name: str
    certainty: Certainty
    measured: str
    way_out: str

    def __str__(self) -> str:
        told = f"{self.name} ({self.certainty.name.lower()}): {self.measured}"
        return told if self.certainty is Certainty.UNLIKELY else f"{told}; {self.way_out}"


class PlateauWatch(Callback):
    """Warns once, on rank zero, when SyncNet's training loss stays at what guessing costs, and once when it learns from an offset.

    Learning nothing is a training loss at chance, or held-out clips told apart no better than by guessing: a network that memorises its
    training clips has a falling loss. Until the first warning it keeps the losses of a few steps on the device. The second one comes after
    two validations in a row with a good `val/auc`, if `val/offset_frames` lies 2 frames or more away in both: then SyncNet learnt sync
    from other clips, an earlier run's or training clips unlike the held-out ones. Where all clips have one offset, SyncNet takes it for
    sync and `val/offset_frames` is 0; so training clips are measured once, without any network. To measure, 64 of them are decoded, which
    takes seconds, while other ranks wait at their next step.
    """

    def __init__(self, *, patience_steps: int, margin: float) -> None:
        """Args:
        patience_steps: optimizer steps that the training loss, or the held-out clips, may stay at chance.
        margin: how far below chance the smoothed loss lies, as a share of it, when SyncNet counts as learning.
        """
        self.patience_steps = patience_steps
        self.margin = margin
        self.smoothed: float | None = None  # loss as a multiple of chance
        self.steps_at_chance = 0
        self.told = False
        self.told_of_offset = False
        self.data_measured = False
        self.heldout_at_chance_since: int | None = None  # step of the first validation of those in a row that were
        self.match_elsewhere = False  # in the last validation
        self.unread: list[tuple[Tensor, float]] = []  # loss and what chance was
        self.last_step = 0
        self.num_pairs = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises: BadConfig, if the module is not one whose chance level is known."""
        if not isinstance(pl_module, SyncNetModule) or not isinstance(pl_module.objective, KnowsChance):
            objective = type(getattr(pl_module, "objective", None)).__name__
            raise BadConfig(
                f"PlateauWatch needs a SyncNetModule whose objective has `chance`, got {type(pl_module).__name__} with {objective}; "
                "take it out of the callbacks (~callbacks.plateau), or give the objective that method"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: WindowBatch, batch_idx: int
    ) -> None:
        if self.told or not trainer.is_global_zero or trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        num_pairs = len(batch["mel"]) * trainer.world_size
        chance = pl_module.objective.chance(num_pairs)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        self.unread.append((outputs["loss"] * trainer.accumulate_grad_batches, chance))  # Lightning has divided it
        if len(self.unread) >= min(_READ_EVERY, self.patience_steps):
            self._read()
        self.num_pairs = num_pairs
        if self.steps_at_chance >= self.patience_steps:
            assert self.smoothed is not None
            self._tell(
                trainer,
                f"Its loss has stayed at {self.smoothed * chance:.3f} for {self.steps_at_chance} steps, and guessing costs {chance:.3f}",
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        auc, offset = (
            float(trainer.callback_metrics.get(f"val/{name}", torch.nan)) for name in ("auc", "offset_frames")
        )
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._watch_heldout(trainer, auc)
        if self.told_of_offset or not auc >= _GOOD_AUC:
            return
        was_elsewhere, self.match_elsewhere = self.match_elsewhere, abs(offset) >= _WORTH_TELLING
        told = _told_elsewhere(offset) if was_elsewhere and self.match_elsewhere else self._common_offset(trainer)
        if told is not None:
            self.told_of_offset = True
            warnings.warn(
                f"step {trainer.global_step}: SyncNet learns (held-out AUC {auc:.2f}), but {told}", stacklevel=2
            )

    def _watch_heldout(self, trainer: Trainer, auc: float) -> None:
        if not abs(auc - 0.5) < _CHANCE_AUC - 0.5:
            self.heldout_at_chance_since = None
        elif self.heldout_at_chance_since is None:
            self.heldout_at_chance_since = trainer.global_step
        elif not self.told and trainer.global_step - self.heldout_at_chance_since >= self.patience_steps:
            since = self.heldout_at_chance_since
            self._tell(
                trainer, f"Its held-out AUC, {auc:.2f} now, has stayed near the 0.50 of guessing since step {since}"
            )

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {key: getattr(self, key) for key in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key in _STATE:
            setattr(self, key, state_dict.get(key, getattr(self, key)))
        self.unread = []

    def _read(self) -> None:
        losses = torch.stack([loss for loss, _ in self.unread]).tolist() if self.unread else []
        for loss, (_, chance) in zip(losses, self.unread, strict=True):
            if isfinite(loss):
                self._add(loss / chance if chance > 0 else 1.0)  # one pair: nothing to choose between, always right
        self.unread = []

    def _add(self, ratio: float) -> None:
        self.smoothed = ratio if self.smoothed is None else self.smoothed + (ratio - self.smoothed) / _SMOOTHING_STEPS
        self.steps_at_chance = self.steps_at_chance + 1 if self._at_chance(self.smoothed) else 0

    def _at_chance(self, ratio: float) -> bool:
        return 1 - self.margin <= ratio <= 1 + _ABOVE_CHANCE * self.margin

    def _common_offset(self, trainer: Trainer) -> str | None:
        if self.data_measured:
            return None
        self.data_measured = True
        cause = _offset(measure(getattr(trainer, "datamodule", None)))
        return f"what it takes for sync is none: {cause}" if cause.certainty is Certainty.FOUND else None

    def _tell(self, trainer: Trainer, seen: str) -> None:
        self.told = True
        rates = sorted({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})
        causes = likely_causes(measure(getattr(trainer, "datamodule", None)), self.num_pairs, rates)
        first = f"step {trainer.global_step}: SyncNet learns nothing. {seen}. The likeliest cause first:"
        listed = [f"{number}. {cause}" for number, cause in enumerate(causes, start=1)]
        warnings.warn("\n".join([first, *listed]), stacklevel=2)


Measured = tuple[SoundCheck, OffsetHistogram]


def measure(datamodule: Any) -> Measured | str:
    """Return what some of the training clips of a datamodule are like, or the reason why that is not known."""
    if not isinstance(datamodule, ClipDataModule):
        return "not measured, since the data do not come from a ClipDataModule"
    try:
        index = datamodule.clip_index("train", _NUM_SHARDS)
    except LipSyncError as error:
        return f"not measured: {error}"
    return sound_duplicates(index, _NUM_CLIPS), offset_histogram(index, datamodule.clip, _NUM_CLIPS)


def likely_causes(data: Measured | str, num_pairs: int, learning_rates: Sequence[float]) -> list[Cause]:
    """Return what may keep SyncNet from learning, the surest first; what is equally sure, in the order of experience.

    Args:
        data: from `measure`.
        num_pairs: of lips and sound that a step compares, on all ranks.
        learning_rates: of the optimizer's groups, now.
    """
    causes = [_offset(data), _batch(num_pairs), _rate(learning_rates), _sound(data)]
    return sorted(causes, key=lambda cause: cause.certainty)


def _offset(data: Measured | str) -> Cause:
    def cause(certainty: Certainty, measured: str, way_out: str = _SHIFT_THE_SOUND) -> Cause:
        return Cause(name="offset between lips and sound", certainty=certainty, measured=measured, way_out=way_out)

    if isinstance(data, str):
        return cause(Certainty.POSSIBLE, data)
    offsets = data[1]
    if offsets.num_clips == 0:
        return cause(
            Certainty.POSSIBLE, f"not measured, all {offsets.num_left_out} clips looked at are too short or unreadable"
        )
    told = (
        f"{_by_frames(offsets.common)} in {offsets.num_clips} clips together, median of single clips {offsets.median:+.0f} "
        f"(clips by offset: {_histogram(offsets)}); agreement {offsets.peak:.2f} above the median offset's"
    )
    if not offsets.fits:
        told = f"in {offsets.num_clips} clips the sound fits the lips at no offset within {MAX_LAG} frames"
        return cause(Certainty.POSSIBLE, told, "watch a raw video: either its sound is further off, or it is another's")
    if not offsets.is_clear:
        return cause(Certainty.SUSPECTED, f"differs from clip to clip: {told}")
    return cause(Certainty.FOUND if abs(offsets.common) > _TOLERATED_OFFSET else Certainty.UNLIKELY, told)


def _told_elsewhere(offset: float) -> str:
    return f"what belongs to the lips it hears elsewhere: in your held-out clips {_by_frames(round(offset))} (median); {_SHIFT_THE_SOUND}"


def _batch(num_pairs: int) -> Cause:
    certainty = (
        Certainty.FOUND if num_pairs < 2 else Certainty.POSSIBLE if num_pairs < _PUBLISHED_BATCH else Certainty.UNLIKELY
    )
    return Cause(
        name="batch too small",
        certainty=certainty,
        measured=f"{num_pairs} pairs are compared in a step (published: {_PUBLISHED_BATCH} learnt best, 128 stayed at chance)",
        way_out="raise data.batch_size or trainer.devices; accumulated gradients add no pairs to compare",
    )


def _rate(learning_rates: Sequence[float]) -> Cause:
    return Cause(
        name="learning rate",
        certainty=Certainty.POSSIBLE if any(learning_rates) else Certainty.FOUND,
        measured=f"it is {', '.join(f'{rate:.3g}' for rate in learning_rates)} now (published: {_PUBLISHED_RATE:g})",
        way_out="try module.optimizer.lr three times higher, and three times lower",
    )


def _sound(data: Measured | str) -> Cause:
    def cause(certainty: Certainty, measured: str) -> Cause:
        way_out = "listen to these clips, compare them with the raw videos and run `prepare` again"
        return Cause(name="wrong sound in the samples", certainty=certainty, measured=measured, way_out=way_out)

    if isinstance(data, str):
        return cause(Certainty.POSSIBLE, data)
    sound, offsets = data
    told = f"of {sound.num_clips} clips {sound.num_shared} hold the same sound as another id, {len(sound.silent)} are silent"
    examples = [" = ".join(group[:_FEW]) for group in sound.shared[:_FEW]] + sound.silent[:_FEW]
    told += f" ({'; '.join(examples)})" if examples else ""
    fit = f"in {offsets.fit:.0%} of comparisons the own sound fits the lips better than another clip's (50% is chance"
    if sound.num_shared + len(sound.silent) > _TOLERATED_SHARE * sound.num_clips:
        return cause(Certainty.FOUND, told)
    if offsets.fits:
        return cause(Certainty.UNLIKELY, f"{told}; {fit})")
    if offsets.num_clips < _ENOUGH_CLIPS:
        return cause(
            Certainty.POSSIBLE,
            f"{told}; whether it fits the lips, {offsets.num_clips} clips are too few to tell, {_ENOUGH_CLIPS} are needed",
        )
    told += (
        f", but {fit}; {offsets.num_clips} clips, offsets up to {MAX_LAG} frames; restless real faces can look so too)"
    )
    return cause(Certainty.SUSPECTED, told)


def _by_frames(offset: int) -> str:
    return (
        f"the sound comes {abs(offset)} frames {'early' if offset > 0 else 'late'}"
        if offset
        else "the sound is in step"
    )


def _histogram(offsets: OffsetHistogram) -> str:
    return ", ".join(f"{lag - MAX_LAG:+d}: {count}" for lag, count in enumerate(offsets.counts.tolist()) if count)
