"""What the steps of preparation hand on: an aligned clip, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from lipsync_lightning.clip import ClipSpec


class Rejected(Exception):
    """A source or clip that is not kept. Steps look at content and settings only, so it is rejected again next time."""

    def __init__(self, step: str, reason: str, scores: Mapping[str, float] | None = None) -> None:
        """Args: step, scores: by their names in the ledger; reason: what was expected and what came."""
        super().__init__(reason)
        self.step, self.reason, self.scores = step, reason, dict(scores or {})


@dataclass(frozen=True, kw_only=True)
class AlignedClip:
    """One person's face for some seconds, upright, with the sound of the whole source to cut from."""

    clip: ClipSpec
    first_frame: int  # in the source, counted at the clip's frame rate
    person: int  # which face of the source, counted from 0 in the order in which they appear
    faces: np.ndarray  # (T, R, R, 3), uint8 RGB
    sound: np.ndarray  # (N,), float32 mono at the clip's sample rate, from the source's first frame to its end
    sound_shift: int = 0  # frames by which the sound is late: what is heard at t + sound_shift belongs to frame t
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        return len(self.faces)

    @property
    def waveform(self) -> np.ndarray:
        """The sound of exactly these frames, (N,) float32; shorter where the source has no more."""
        first = self.first_frame + self.sound_shift
        start, stop = self.clip.num_samples(first), self.clip.num_samples(first + self.num_frames)
        return self.sound[max(0, start) : max(0, stop)]

    def with_all_its_sound(self) -> Self:
        """Return the clip without the frames whose sound lies outside the source."""
        total = int(len(self.sound) * self.clip.fps / self.clip.sample_rate_hz)
        begin = max(0, -(self.first_frame + self.sound_shift))
        end = min(self.num_frames, total - self.first_frame - self.sound_shift)
        return replace(self, first_frame=self.first_frame + begin, faces=self.faces[begin : max(begin, end)])

    def require_frames(self, fewest: int, step: str, what: str) -> Self:
        """Return the clip. Raises: Rejected, if it has fewer frames."""
        if self.num_frames < fewest:
            where = f"frames {self.first_frame}-{self.first_frame + self.num_frames - 1}"
            raise Rejected(step, f"{where}: {what} for {self.num_frames} frames, at least {fewest} needed")
        return self
