"""Says what keeps a SyncNet from learning, as far as that can be told."""

import warnings
from collections import Counter
from math import nan, sqrt
from sys import maxsize
from typing import Any, cast

import numpy as np
from lightning import Callback, LightningModule, Trainer
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from lipsync_lightning.clip import ClipSpec, WindowBatch
from lipsync_lightning.errors import BadConfig, BadMedia, BrokenShard, ClipTooShort, LipSyncError
from lipsync_lightning.media.audio import decode_flac
from lipsync_lightning.media.clips import decode_planes
from lipsync_lightning.media.masks import keep_mask
from lipsync_lightning.shards.reader import ClipIndex

MAX_LAG = 15  # frames to either side, as the public code of the evaluation SyncNet tries them
_NUM_CLIPS, _NUM_SHARDS = 64, 16  # looked at: opening all shards of a large data set takes minutes
_MOST_FRAMES, _FEWEST_FRAMES = 250, 3 * MAX_LAG  # of a clip; two thirds of it still overlap at the largest lag
_NUM_FOREIGN = 16  # other clips' sounds that each clip's lips are compared with
_ENOUGH_CLIPS = 32  # for "the sound fits no lips" to mean anything; on 13 real clips in step it said so wrongly
_SILENT_POWER = 1e-5  # -50 dBFS; real and made-up speech here lies between -30 and -18
_TOLERATED_SHARE = 0.1  # of clips without a sound of their own
_TOLERATED_OFFSET = 2  # frames; a network-free estimate on real faces is no better
_AUC_SCATTER, _GOOD_AUC = 0.1, 0.75  # held out; that of a handful of clips scatters so much around 0.5
_BELOW_CHANCE, _ABOVE_CHANCE = 0.95, 1.25  # times chance; meaningless similarities may cost more than guessing
_PUBLISHED_PAIRS = 1024  # LatentSync (arXiv 2412.09262): 1024 was best, 128 stayed at chance with cross-entropy
_MEMORISES, _LEARNS_NOTHING = "memorises its training clips", "learns nothing"
_SHIFT = "shift the sound of the raw videos until it is in step and run `prepare` again"


class SyncNetWatch(Callback):
    """Warns at validations, on rank zero and once of each, when a SyncNet

    - memorises: for `patience_steps` the training loss has been below chance and the held-out AUC still at chance;
    - learns nothing: as long, both have stayed at chance;
    - learns an offset: its AUC is good, but `val/offset_frames` is 2 or more in two validations in a row, or all
      training clips are out of step by the same number of frames, which SyncNet takes for sync.

    The first two come with what is wrong with 64 training clips.
    """

    def __init__(self, *, patience_steps: int) -> None:
        self.patience_steps = patience_steps
        self.told: list[str] = []
        self.verdict: str | None = None
        self.since = 0  # step of the first validation in a row with this verdict
        self.was_off = self.looked_at_clips = False
        self.num_pairs = 0
        # Since the last validation; tensors on the device, since reading them would wait for it.
        self.loss_sum: Tensor | float = 0.0
        self.num_losses: Tensor | int = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises: BadConfig, if the module is no SyncNetModule whose chance level is known."""
        if not hasattr(getattr(pl_module, "objective", None), "chance"):
            told = f"SyncNetWatch needs a SyncNetModule whose objective has `chance`, got {type(pl_module).__name__}"
            raise BadConfig(f"{told}; leave it out by ~callbacks.syncnet_watch")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: WindowBatch, batch_idx: int
    ) -> None:
        self.num_pairs = len(batch["mel"]) * trainer.world_size
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided it
        self.loss_sum = self.loss_sum + loss.nan_to_num(0.0, 0.0, 0.0)  # skipped steps count as nothing
        self.num_losses = self.num_losses + loss.isfinite()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        auc, offset = (float(trainer.callback_metrics.get(f"val/{key}", nan)) for key in ("auc", "offset_frames"))
        if self.num_losses:
            loss = float(self.loss_sum / self.num_losses)
            self._warn_if_it_does_not_generalise(
                trainer, loss, cast(Any, pl_module).objective.chance(self.num_pairs), auc
            )
        self.loss_sum, self.num_losses = 0.0, 0
        if auc >= _GOOD_AUC:
            self._warn_of_offset(trainer, auc, offset)

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("told", "verdict", "since", "was_off", "looked_at_clips")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)

    def _warn_if_it_does_not_generalise(self, trainer: Trainer, loss: float, chance: float, auc: float) -> None:
        verdict = None
        if abs(auc - 0.5) < _AUC_SCATTER and loss <= _ABOVE_CHANCE * chance:
            verdict = _MEMORISES if loss < _BELOW_CHANCE * chance else _LEARNS_NOTHING
        if verdict != self.verdict:
            self.verdict, self.since = verdict, trainer.global_step
        if verdict is None or verdict in self.told or trainer.global_step - self.since < self.patience_steps:
            return
        reasons, _ = faults_of_training_clips(trainer)
        if verdict == _MEMORISES:
            told = "it needs more people and more clips; a larger batch does not help"
            reasons.append(told + _amount_of_training_data(trainer))
        elif self.num_pairs < _PUBLISHED_PAIRS:
            few = f"{self.num_pairs} pairs are compared in a step (published: {_PUBLISHED_PAIRS} learnt best)"
            reasons.append(f"{few}: raise data.batch_size or trainer.devices; accumulated gradients add no pairs")
        seen = f"training loss {loss:.2f} (guessing: {chance:.2f}), held-out AUC {auc:.2f} (guessing: 0.50)"
        self._warn_once(trainer, verdict, "\n- ".join([f"SyncNet {verdict}: {seen}", *reasons]))

    def _warn_of_offset(self, trainer: Trainer, auc: float, offset: float) -> None:
        learns, is_off, found = f"SyncNet learns (held-out AUC {auc:.2f}), but", abs(offset) >= _TOLERATED_OFFSET, None
        if is_off and self.was_off:
            found = f"in the held-out clips {_offset_sentence(round(offset))} (median)"
        elif not self.looked_at_clips:
            self.looked_at_clips = True
            _, common = faults_of_training_clips(trainer)
            if common is not None and abs(common) > _TOLERATED_OFFSET:
                found = f"it has learned a constant audio offset: in the training clips {_offset_sentence(common)}"
        if found is not None:
            self._warn_once(trainer, "offset", f"{learns} {found}; {_SHIFT}")
        self.was_off = is_off

    def _warn_once(self, trainer: Trainer, what: str, message: str) -> None:
        if what not in self.told:
            self.told = [*self.told, what]
            warnings.warn(f"step {trainer.global_step}: {message}", stacklevel=2)


def faults_of_training_clips(trainer: Trainer) -> tuple[list[str], int | None]:
    """Return what `faults_of` returns for a trainer's clips, or the reason why they were not looked at."""
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return faults_of(data.clip_index("train", _NUM_SHARDS), data.clip) if data else ([], None)
    except LipSyncError as error:
        return [f"the clips could not be looked at: {error}"], None


def _amount_of_training_data(trainer: Trainer) -> str:
    data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    try:
        index: ClipIndex | None = data and data.clip_index("train", maxsize)
    except LipSyncError:
        return ""
    if index is None:
        return ""
    sets = [shard.location.rsplit("/", 2)[0] for shard in index.shards]  # whose keys may be equal
    clips = zip(index.shard_of.tolist(), index.keys.tolist(), strict=True)
    num_videos = len({(sets[shard], key.rpartition("/")[0]) for shard, key in clips})
    return f": it has {num_videos} videos, {index.num_frames.sum() / data.clip.fps / 60:.1f} minutes of sound"


def faults_of(index: ClipIndex, clip: ClipSpec) -> tuple[list[str], int | None]:
    """Return what is wrong with up to 64 clips, evenly spread over an index, as far as pixels and sound tell.

    Returns: a sentence for each fault, and the frames by which the sound of all clips comes early, or None where no
        offset stands out: they must agree twice as well there as with other clips' sounds. None means nothing: on 30
        seconds of two real people in step none stood out.
    """
    sounds: dict[int, np.ndarray] = {}  # by number of the clip
    lips: list[np.ndarray] = []  # motion of the mouth by frame, (T,)
    loudness: list[np.ndarray] = []  # (T,)
    for number in np.linspace(0, len(index) - 1, min(_NUM_CLIPS, len(index))).round().astype(int).tolist():
        try:
            members = index.read(number)
            sound = decode_flac(members["flac"])
            with_sound = int(len(sound) * clip.fps / clip.sample_rate_hz)
            num_frames = min(int(index.num_frames[number]), with_sound, _MOST_FRAMES)
            (lower_halves,) = decode_planes(members["mp4"], [0], num_frames, top=0.5)
        except (BadMedia, BrokenShard, ClipTooShort):
            continue
        sounds[number] = sound
        if num_frames >= _FEWEST_FRAMES:
            lips.append(_mouth_motion(lower_halves))
            edges = [clip.num_samples(frame) for frame in range(num_frames + 1)]
            energy = np.add.reduceat(np.square(sound[: edges[-1]], dtype=np.float64), edges[:-1])
            loudness.append(np.sqrt(energy / np.diff(edges)))
    faults = []
    silent = [number for number, sound in sounds.items() if np.square(sound).mean() < _SILENT_POWER]
    counts = Counter(sound.tobytes() for sound in sounds.values())
    shared = [number for number, sound in sounds.items() if number not in silent and counts[sound.tobytes()] > 1]
    if len(shared) + len(silent) > _TOLERATED_SHARE * len(sounds):
        found = f"of {len(sounds)} clips {len(shared)} hold the same sound as another and {len(silent)} are silent"
        such_as = index.keys[(shared or silent)[0]]
        faults.append(f"{found}, such as {such_as}: compare it with the raw video, `prepare` again")
    num_clips = len(lips)
    if num_clips < 4:
        return faults, None
    num_sounds = 1 + min(_NUM_FOREIGN, num_clips - 1)  # the own one, then foreign ones
    curves = np.empty((num_sounds, num_clips, 2 * MAX_LAG + 1))
    for step, row in np.ndindex(num_sounds, num_clips):
        curves[step, row] = _agreement(lips[row], loudness[(row + step) % num_clips], clip.fps)
    means, peaks = curves.mean(axis=1), curves.max(axis=2)
    if means[0].max() > 2 * means[1:].max():
        common = int(means[0].argmax()) - MAX_LAG
        if abs(common) > _TOLERATED_OFFSET:
            faults.append(f"{_offset_sentence(common)} in {num_clips} clips together: {_SHIFT}")
        return faults, common
    # By chance a clip's rank among others is uniform in [0, 1], whose variance is 1/12: three standard deviations.
    own_fits = float((peaks[:1] > peaks[1:]).mean())
    if num_clips >= _ENOUGH_CLIPS and own_fits < 0.5 + 3 * sqrt(1 / (12 * num_clips)):
        found = f"in {num_clips} clips the sound fits the lips hardly better than another clip's ({own_fits:.0%}"
        faults.append(f"{found} of comparisons): it may be another's; restless real faces can look so too")
    return faults, None


def _mouth_motion(lower_halves: np.ndarray) -> np.ndarray:
    """Return how much the masked region of lower halves (T, 3, H / 2, W) of faces changes around each frame, (T,)."""
    side = lower_halves.shape[3]
    hidden = keep_mask(side).numpy()[side // 2 :] < 0.5
    grey = lower_halves[:, :, hidden].mean(axis=1, dtype=np.float32)
    change = np.abs(grey[2:] - grey[:-2]).mean(axis=1, dtype=np.float64)
    return np.concatenate([change[:1], change, change[-1:]])


def _agreement(lips: np.ndarray, loudness: np.ndarray, fps: int) -> np.ndarray:
    """Return how lips correlate with loudness and its change, each without what is slower than a second, by lag."""

    def standardised(series: np.ndarray) -> np.ndarray:
        quick = series - uniform_filter1d(series, fps, mode="nearest")
        return (quick - quick.mean()) / max(float(quick.std()), 1e-9)

    sound = np.resize(loudness, len(lips))  # one of another length is repeated or cut
    both = (standardised(sound) + standardised(np.abs(np.gradient(sound)))) / 2
    overlap = len(lips) - np.abs(np.arange(-MAX_LAG, MAX_LAG + 1))
    first = len(lips) - 1 - MAX_LAG
    return np.correlate(standardised(lips), both, "full")[first : first + len(overlap)] / overlap


def _offset_sentence(offset: int) -> str:
    return f"the sound comes {abs(offset)} frames {'early' if offset > 0 else 'late'}"
