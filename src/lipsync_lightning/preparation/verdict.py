"""What a step of preparation hands on: an aligned clip, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from lipsync_lightning.clip import ClipSpec


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Why a source, or one clip of it, is not kept. Steps look at content and settings only, so the same ones say the same again."""

    step: str  # that says so: its name in the ledger
    reason: str  # what was expected and what came
    scores: Mapping[str, float] = field(default_factory=dict)  # measured until then, by their names in the ledger


@dataclass(frozen=True, kw_only=True)
class AlignedClip:
    """One person's face for some seconds, upright, with the sound of the whole source to cut from."""

    first_frame: int  # in the source, counted at the clip's frame rate
    person: int  # which face of the source, counted from 0 in the order in which they appear
    faces: np.ndarray  # (T, R, R, 3), uint8 RGB
    sound: np.ndarray  # (N,), float32 mono at the clip's sample rate, from the source's first frame to its end
    sound_shift: int = 0  # frames by which the sound is late: what is heard at frame t + sound_shift belongs to frame t
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        return len(self.faces)

    def scored(self, **scores: float) -> Self:
        """Return the clip with further scores."""
        return replace(self, scores={**self.scores, **scores})

    def waveform(self, clip: ClipSpec) -> np.ndarray:
        """Return the sound of exactly these frames, (N,) float32; shorter where the source has no more."""
        heard = self.first_frame + self.sound_shift
        start, stop = clip.num_samples(heard), clip.num_samples(heard + self.num_frames)
        return self.sound[max(0, start) : max(0, stop)]
