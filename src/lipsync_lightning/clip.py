"""Facts about a clip that data, model and pipeline must agree on, and what a training batch holds."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil
from typing import Any, NotRequired, Self, TypedDict

from torch import Tensor

from lipsync_lightning.errors import ClipMismatch


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What one clip is. Stored in every shard's sidecar, checkpoint and export, and compared when they meet.

    Not told otherwise, it is that of the first released models.
    """

    num_frames: int = 16  # video frames in a clip
    fps: int = 25  # video frames per second
    resolution: int = 256  # height and width of an aligned face, in pixels
    sample_rate_hz: int = 16000  # of the mono sound
    mel_hz: int = 80  # log-mel columns per second
    num_mels: int = 80  # log-mel bins

    @property
    def mel_columns(self) -> int:
        """Mel columns heard during one clip, one that has begun included: 52 for 16 frames at 25 fps, 80 per second."""
        return ceil(self.num_frames * self.mel_hz / self.fps)

    def mel_start(self, first_frame: int) -> int:
        """The mel column at which a clip starting at `first_frame` begins."""
        return int(self.mel_hz * first_frame / self.fps)

    def num_samples(self, num_frames: int) -> int:
        """Sound samples heard during `num_frames` video frames."""
        return round(num_frames * self.sample_rate_hz / self.fps)

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: object) -> Self:
        """Return the spec stored in `source`. Raises: ClipMismatch, naming it, if keys are missing or unknown."""
        names = sorted(field.name for field in fields(cls))
        if sorted(values) != names:
            raise ClipMismatch(f"{source}: a clip needs the keys {names}, found {sorted(values)}; make it again")
        return cls(**{name: int(values[name]) for name in names})

    def require_equal(self, other: "ClipSpec", mine: object, others: object, *, names: Iterable[str] = ()) -> None:
        """Raises: ClipMismatch, naming every value in which two sources differ, of all or of those `names`d."""
        differing = [name for name in names or self.as_dict() if getattr(self, name) != getattr(other, name)]
        if differing:
            listing = ", ".join(f"{name} {getattr(self, name)} against {getattr(other, name)}" for name in differing)
            made = f"{mine} and {others} were made for different clips: {listing}"
            raise ClipMismatch(f"{made}; give the clip= of the other, or make that anew")

    def require_same_recording(self, other: "ClipSpec", mine: object, others: object) -> None:
        """Raises: ClipMismatch, if clips stored for one are no use to the other; windows are cut, mels made later."""
        self.require_equal(other, mine, others, names=("fps", "resolution", "sample_rate_hz"))


class WindowBatch(TypedDict):
    """One batch for SyncNet, which has `lips`, `frames` or `latents`."""

    frames: Tensor  # (B, T, 3, H, W), float in [-1, 1]: the target window
    lips: NotRequired[Tensor]  # (B, T, 3, H / 2, W): their lower halves
    latents: NotRequired[Tensor]  # (B, T, 2, C, h, w): means and deviations of their latents
    made_by: NotRequired[list[str]]  # fingerprint of the autoencoder
    mel: Tensor  # (B, 1, M, L): log-mel heard during the target window
    id: list[str]  # shard id of the clip each row comes from
    first_frame: Tensor  # (B,), int64: where in that clip the target window starts
    seed: Tensor  # (B,), int64: of what is drawn for this window, another one each epoch
    set: NotRequired[list[str]]  # name of the data set each row comes from, where there are several
    mel_around: NotRequired[Tensor]  # (B, 2K+1, 1, M, L): `mel` K frames earlier to K later; NaN beyond the clip


class ClipBatch(WindowBatch):
    """One batch for the U-Net stages."""

    reference: Tensor  # (B, T, 3, H, W), float in [-1, 1]: a window of the same clip that does not overlap the target
    keep_mask: Tensor  # (B, 1, H, W), 1 = keep, 0 = to be generated
    audio: Tensor  # (B, T, A, D): audio tokens of each target frame


class LatentBatch(TypedDict):
    """One batch for stage 1 on latents that were encoded ahead of time: means and standard deviations, side by side."""

    latents: Tensor  # (B, T, 2, C, h, w): of the target window
    masked_latents: Tensor  # (B, T, 2, C, h, w): of the target window without what is to be generated
    reference_latents: Tensor  # (B, T, 2, C, h, w): of a window of the same clip that does not overlap the target
    keep_mask: Tensor  # (B, 1, H, W), 1 = keep, 0 = to be generated
    audio: Tensor  # (B, T, A, D): audio tokens of each target frame
    id: list[str]  # shard id of the clip each row comes from
    set: NotRequired[list[str]]  # name of the data set each row comes from, where there are several
    made_by: list[str]  # fingerprint of the autoencoder
    first_frame: Tensor  # (B,), int64: where in that clip the target window starts
    seed: Tensor  # (B,), int64: of what is drawn for this window, another one each epoch


def lower_half(frames: Tensor) -> Tensor:
    """Return the lower half of (..., H, W) faces: what SyncNet and LPIPS look at in LatentSync."""
    return frames[..., frames.shape[-2] // 2 :, :]
