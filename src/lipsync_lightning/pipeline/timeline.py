"""Which frame of a video is shown when: each as it was, or more than there are, to last as long as the sound."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, cycle, pairwise
from math import ceil
from typing import Protocol

import numpy as np

from lipsync_lightning.errors import BadConfig
from lipsync_lightning.media.video import TimedFrame

LENGTHS = ("video", "audio", "shortest")
EXTENSIONS = ("pingpong", "loop", "freeze")


class Source(Protocol):
    """A video that can be read again, and backwards."""

    def forwards(self) -> Iterator[TimedFrame]: ...

    def backwards(self) -> Iterator[TimedFrame]: ...


@dataclass(frozen=True)
class Timeline:
    """The frames of the result, in order."""

    legs: list[list[int]]  # frames of the source: all forwards, all backwards, or the last one again and again
    times_s: list[Fraction]  # when each frame of the result begins, and when the last one ends

    def scenes(self, first_frames: Sequence[int]) -> list[range]:
        """Return the frames that belong together: they lie in one shot of the source, without a jump.

        Args: first_frames: of each shot.
        """
        shown = np.concatenate(self.legs)
        shot = np.searchsorted(np.asarray(first_frames), shown, side="right")
        jumps = (np.diff(shot) != 0) | (np.abs(np.diff(shown)) > 1)
        edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(shown)]
        return [range(first, stop) for first, stop in pairwise(edges)]

    def images(self, source: Source) -> Iterator[np.ndarray]:
        """Yield each frame's picture, (H, W, 3) uint8."""
        image, last = np.empty(0), -1
        for leg in self.legs:
            if leg[0] == leg[-1] == last:
                yield from [image] * len(leg)
                continue
            frames = source.backwards() if leg[0] > leg[-1] else source.forwards()
            for last, frame in zip(leg, frames, strict=False):  # noqa: B007
                image = frame.image
                yield image


def timeline(durations_s: Sequence[Fraction], sound_s: Fraction, length: str, extend: str) -> Timeline:
    """Return how the frames of a video, shown for so long each, are shown with a sound of `sound_s` seconds.

    Args:
        length: "video" shows all of it; "audio" lasts as long as the sound; "shortest" ends with whichever ends first.
        extend: where "audio" needs more frames: "pingpong" goes back and forth, "loop" begins again, "freeze" repeats
            the last frame at the video's usual pace.
    Raises: BadConfig, for another name, or for a sound of no length that decides.
    """
    if length not in LENGTHS or extend not in EXTENSIONS:
        raise BadConfig(f"length={length} extend={extend}: give one of {LENGTHS}, and one of {EXTENSIONS}")
    num, video_s = len(durations_s), sum(durations_s, Fraction(0))
    wanted_s = {"video": video_s, "audio": sound_s, "shortest": min(sound_s, video_s)}[length]
    if wanted_s <= 0:
        raise BadConfig(f"length={length}: the sound has no length; give length=video, or another sound")
    there, legs, durations = list(range(num)), [], list[Fraction]()
    legs_to_come = cycle([there, there[::-1]] if extend == "pingpong" else [there])
    while sum(durations, Fraction(0)) < wanted_s:
        leg = next(legs_to_come)
        if legs and (extend == "freeze" or num == 1):
            usual_s = sorted(durations_s)[num // 2]
            leg = [num - 1] * ceil((wanted_s - video_s) / usual_s)
            durations += [usual_s] * len(leg)
        else:
            durations += [durations_s[frame] for frame in leg]
        legs.append(leg)
    times_s = list(accumulate(durations, initial=Fraction(0)))
    num_shown = next(index for index, time_s in enumerate(times_s) if time_s >= wanted_s)
    legs[-1] = legs[-1][: len(legs[-1]) - (len(durations) - num_shown)]
    return Timeline(legs, [*times_s[:num_shown], wanted_s])
