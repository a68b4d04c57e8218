"""Drawn people side by side, as a video's frames."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache

import numpy as np

from lipsync_lightning.media.video import TimedFrame
from lipsync_lightning.synthetic.corpus import ClipPlan, TalkingClip, make_clip

SIDE = 128


@cache
def drawn(person: int, clip: int = 0, seconds: float = 0.8) -> TalkingClip:
    """One of the people of seed 1, who all look different."""
    return make_clip(ClipPlan(seed=1, person=person, clip=clip, seconds=seconds, leak=0.3, fps=25, size=SIDE))


def beside(*clips: TalkingClip) -> np.ndarray:
    """Frames (T, SIDE, SIDE * clips, 3)."""
    return np.concatenate([clip.frames for clip in clips], axis=2)


def timed(frames: Iterable[np.ndarray], fps: int = 25) -> Iterator[TimedFrame]:
    return (TimedFrame(frame, Fraction(index, fps), Fraction(1, fps)) for index, frame in enumerate(frames))
